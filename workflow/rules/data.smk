# Real data sets: prepared into the one schema, and compared with each other. docs/data.md describes them.

from reproduction.data import DatasetError
from reproduction.data.prepare import check_local_copy
from reproduction.data.sources import find_local_copy

real_datasets = plan.datasets
try:
    # Only the process that plans the workflow looks at the rows; its jobs would find the same.
    if configuration.paths.real_data and workflow.is_main_process:
        for definition in scale.datasets.values():
            if isinstance(definition, RealData):
                check_local_copy(
                    definition.source,
                    real_datasets[definition.source],
                    configuration.paths.real_data,
                )
except DatasetError as error:
    raise WorkflowError(str(error)) from None


def fetched_files(wildcards):
    """What was fetched from the hub; nothing for a local copy, and an error before any job where it is not there."""
    entry = real_datasets[wildcards.real_dataset]
    if not configuration.paths.real_data or not entry.local:
        return f"{RESULTS}/downloads/{wildcards.real_dataset}.json"
    try:
        find_local_copy(entry.local, configuration.paths.real_data)
    except DatasetError as error:
        raise WorkflowError(str(error)) from None
    return []


def counting_tokenizer(wildcards):
    """The tokenizer that a data set's limit of length is counted with; most have no limit and need none."""
    name = real_datasets[wildcards.real_dataset].tokenizer
    if name is None:
        return []
    folder = configuration.paths.tokenizers
    if folder is None:
        return f"{RESULTS}/tokenizers/{name}/tokenizer.json"
    file = f"{folder}/{name}/tokenizer.json"
    if not Path(file).is_file():
        raise WorkflowError(
            f"{file}: no such file; {wildcards.real_dataset} needs it. Copy the tokenizer.json of {name} there, or "
            "set paths.tokenizers to null for the hub"
        )
    return file


def dataset_entry(wildcards):
    """The data set's entry as a job's parameter: a change of it prepares this data set again, and no other."""
    return real_datasets[wildcards.real_dataset].model_dump_json()


def hub_entry(wildcards):
    return real_datasets[wildcards.real_dataset].hub.model_dump_json()


# Both local: on a cluster they run where there is a connection, and what follows needs none.
rule fetch_dataset:
    output:
        f"{RESULTS}/downloads/{{real_dataset}}.json",
    log:
        f"{RESULTS}/logs/fetch_dataset/{{real_dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fetch_dataset/{{real_dataset}}.tsv"
    wildcard_constraints:
        real_dataset="|".join(
            name for name, entry in real_datasets.items() if entry.hub
        )
        or "none",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("fetch_dataset"),
    params:
        entry=hub_entry,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/fetch_dataset.py"
        " --dataset {wildcards.real_dataset:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule import_tokenizer:
    output:
        f"{RESULTS}/tokenizers/{{counting_model}}/tokenizer.json",
    log:
        f"{RESULTS}/logs/import_tokenizer/{{counting_model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/import_tokenizer/{{counting_model}}.tsv"
    wildcard_constraints:
        counting_model="|".join(
            {entry.tokenizer for entry in real_datasets.values() if entry.tokenizer}
        )
        or "none",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("import_tokenizer"),
    params:
        entry=lambda wildcards: plan.models[wildcards.counting_model].model_dump_json(),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/import_tokenizer.py"
        " --model {wildcards.counting_model:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule prepare_dataset:
    input:
        fetched=fetched_files,
        tokenizer=counting_tokenizer,
    output:
        data=f"{RESULTS}/data/{{real_dataset}}.parquet",
        card=f"{RESULTS}/data/{{real_dataset}}.card.json",
    log:
        f"{RESULTS}/logs/prepare_dataset/{{real_dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare_dataset/{{real_dataset}}.tsv"
    wildcard_constraints:
        real_dataset="|".join(real_datasets),
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("prepare_dataset"),
    params:
        entry=dataset_entry,
        source=(
            ["--real-data", configuration.paths.real_data]
            if configuration.paths.real_data
            else []
        ),
        tokenizer=lambda wildcards, input: (
            ["--tokenizer", input.tokenizer] if input.tokenizer else []
        ),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/prepare_dataset.py"
        " --dataset {wildcards.real_dataset:q}"
        " {params.source:q}"
        " {params.tokenizer:q}"
        " --output {output.data:q}"
        " --card {output.card:q}"
        " > {log:q} 2>&1"


rule check_contamination:
    input:
        training=f"{RESULTS}/data/{{training_dataset}}.parquet",
        evaluation=f"{RESULTS}/data/{{evaluation_dataset}}.parquet",
    output:
        f"{RESULTS}/data/contamination/{{training_dataset}}~{{evaluation_dataset}}.json",
    log:
        f"{RESULTS}/logs/check_contamination/{{training_dataset}}~{{evaluation_dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_contamination/{{training_dataset}}~{{evaluation_dataset}}.tsv"
    wildcard_constraints:
        training_dataset="[^/~]+",
        evaluation_dataset="[^/~]+",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("check_contamination"),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/check_contamination.py"
        " --training {input.training:q}"
        " --evaluation {input.evaluation:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"
