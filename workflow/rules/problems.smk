# Synthetic problems of the small scales.

synthetic_datasets = {
    name: definition
    for name, definition in scale.datasets.items()
    if isinstance(definition, GeneratedData)
}


rule generate_problems:
    output:
        data=f"{SCALE}/data/{{synthetic_dataset}}.parquet",
        card=f"{SCALE}/data/{{synthetic_dataset}}.card.json",
    log:
        f"{SCALE}/logs/generate_problems/{{synthetic_dataset}}.log",
    benchmark:
        f"{SCALE}/benchmarks/generate_problems/{{synthetic_dataset}}.tsv"
    wildcard_constraints:
        synthetic_dataset="|".join(synthetic_datasets) or "none",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("generate_problems"),
    params:
        root_seed=configuration.root_seed,
        definition=lambda wildcards: definition_json(
            scale.datasets, wildcards.synthetic_dataset
        ),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/generate_problems.py"
        " --name {wildcards.synthetic_dataset:q}"
        " --definition {params.definition:q}"
        " --root-seed {params.root_seed}"
        " --output {output.data:q}"
        " --card {output.card:q}"
        " > {log:q} 2>&1"
