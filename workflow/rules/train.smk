# Training: one job per run. The trainer keeps its state outside the declared outputs, because Snakemake
# deletes the outputs of a job that failed; the manifest is written last.


def run_parameters(wildcards):
    return run_of(wildcards).to_json()


def state_folder(wildcards):
    return str(
        layout.state_folder(Path(RESULTS), configuration.scale, run_of(wildcards))
    )


def validation_file(wildcards):
    """verl wants a validation set, whether or not it validates; the in-process engine has none."""
    if scale.engine != "verl":
        return []
    return dataset_file(scale.evaluation_of(run_of(wildcards).model).dataset)


rule train:
    input:
        model=lambda wildcards: model_manifest(run_of(wildcards).model),
        dataset=lambda wildcards: dataset_file(run_of(wildcards).training.dataset),
        validation=validation_file,
    output:
        manifest=f"{SCALE}/runs/{{run}}/manifest.json",
        configuration=f"{SCALE}/runs/{{run}}/config.yaml",
        metrics=f"{SCALE}/runs/{{run}}/metrics.parquet",
        groups=f"{SCALE}/runs/{{run}}/groups.parquet",
        timings=f"{SCALE}/runs/{{run}}/timings.parquet",
        checkpoints=directory(f"{SCALE}/runs/{{run}}/checkpoints"),
    log:
        f"{SCALE}/logs/train/{{run}}.log",
    benchmark:
        f"{SCALE}/benchmarks/train/{{run}}.tsv"
    conda:
        MODEL_ENVIRONMENT
    threads: 1
    resources:
        **needs("train", lambda wildcards: estimates.train(run_of(wildcards))),
    params:
        run=run_parameters,
        state=state_folder,
        validation=lambda wildcards, input: (
            ["--validation", input.validation] if input.validation else []
        ),
        progress=f"{SCALE}/progress/{{run}}.json",
    shell:
        "{MODEL_PYTHON:q} {SCRIPTS:q}/train.py"
        " --run {params.run:q}"
        " --model {input.model:q}"
        " --dataset {input.dataset:q}"
        " {params.validation:q}"
        " {TRAIN_MACHINE}"
        " --output {output.manifest:q}"
        " --state {params.state:q}"
        " --scale {configuration.scale}"
        " --overrides {OVERRIDES:q}"
        " {TRACKING}"
        " --progress {params.progress:q}"
        " --threads {threads}"
        " --gpus {resources.gpus_per_node}"
        " --nodes {resources.nodes}"
        " > {log:q} 2>&1"
