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


def local_copy_exists(wildcards):
    """No input; an error before any job where this data set comes from a local copy that is not there."""
    entry = real_datasets[wildcards.real_dataset]
    if configuration.paths.real_data and entry.local:
        try:
            find_local_copy(entry.local, configuration.paths.real_data)
        except DatasetError as error:
            raise WorkflowError(str(error)) from None
    return []


def dataset_entry(wildcards):
    """The data set's entry as a job's parameter: a change of it prepares this data set again, and no other."""
    return real_datasets[wildcards.real_dataset].model_dump_json()


rule prepare_dataset:
    input:
        local_copy_exists,
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
    shell:
        "{PYTHON:q} {SCRIPTS:q}/prepare_dataset.py"
        " --dataset {wildcards.real_dataset:q}"
        " {params.source:q}"
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
