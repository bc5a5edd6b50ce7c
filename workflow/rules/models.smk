# Models: pretrained ones are imported (the same at every scale); base models of a scale are trained, or taken from
# those that the project publishes.

pretrained_models = plan.models
imported_models = [
    name
    for name, definition in scale.models.items()
    if isinstance(definition, PretrainedModel)
]


def pretrained_source(wildcards):
    return scale.models[wildcards.imported_model].source


def pretrained_entry(wildcards):
    """The model's entry as a job's parameter: a change of it imports the model again."""
    return pretrained_models[pretrained_source(wildcards)].model_dump_json()


# Local: on a cluster it runs where there is a connection.
rule import_model:
    output:
        f"{RESULTS}/models/{{imported_model}}/manifest.json",
    log:
        f"{RESULTS}/logs/import_model/{{imported_model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/import_model/{{imported_model}}.tsv"
    wildcard_constraints:
        imported_model="|".join(imported_models) or "none",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs(
            "import_model",
            lambda wildcards: estimates.import_model(wildcards.imported_model),
        ),
    params:
        source=pretrained_source,
        entry=pretrained_entry,
        downloads=f"{RESULTS}/downloads",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/import_model.py"
        " --source {params.source:q}"
        " --output {output:q}"
        " --downloads {params.downloads:q}"
        " > {log:q} 2>&1"


# Not a parameter of the job, whose parameter is what lies there.
PUBLISHED = (
    shlex.join(["--published", str(published.folder_of(configuration.scale))])
    if configuration.base_models == "published"
    else ""
)


def published_sha256(wildcards):
    """Of the published base model that a job may take; "" where there is none, or all are to be trained."""
    manifest = published.manifest_of(configuration.scale, wildcards.base_model)
    return sha256_of_file(manifest) if PUBLISHED and manifest.exists() else ""


rule train_base_model:
    input:
        lambda wildcards: dataset_file(scale.models[wildcards.base_model].dataset),
    output:
        f"{SCALE}/models/{{base_model}}/manifest.json",
    log:
        f"{SCALE}/logs/train_base_model/{{base_model}}.log",
    benchmark:
        f"{SCALE}/benchmarks/train_base_model/{{base_model}}.tsv"
    wildcard_constraints:
        base_model="|".join(
            name
            for name, model in scale.models.items()
            if isinstance(model, WarmStartModel)
        )
        or "none",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        **needs("train_base_model"),
    params:
        root_seed=configuration.root_seed,
        definition=lambda wildcards: definition_json(scale.models, wildcards.base_model),
        published_sha256=published_sha256,
        progress=f"{SCALE}/progress/train_base_model/{{base_model}}.json",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/train_base_model.py"
        " --name {wildcards.base_model:q}"
        " --definition {params.definition:q}"
        " --root-seed {params.root_seed}"
        " --dataset {input:q}"
        " --output {output:q}"
        " {PUBLISHED}"
        " --progress {params.progress:q}"
        " --threads {threads}"
        " > {log:q} 2>&1"
