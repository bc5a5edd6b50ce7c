# Training: one job per run. The trainer keeps its state outside the declared outputs, because Snakemake
# deletes the outputs of a job that failed; the manifest is written last.


def run_parameters(wildcards):
    return run_of(wildcards).to_json()


def state_folder(wildcards):
    return f"{SCALE}/state/{run_of(wildcards).hash}"


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
        " {TRACKING}"
        " --progress {params.progress:q}"
        " --threads {threads}"
        " --gpus {resources.gpus_per_node}"
        " --nodes {resources.nodes}"
        " > {log:q} 2>&1"


def reported_runs():
    """The runs of the experiments that config.yaml switches on, each once."""
    return list(
        dict.fromkeys(
            run for name in configuration.experiments for run in runs_of[name]
        )
    )


def tracked_figures():
    """The figures that show runs: MLflow holds each with them."""
    return [name for name in configuration.experiments if runs_of[name]]


rule ingest_runs:
    """Add to MLflow, once and by one writer, what the streams of the trainings missed; then the figures."""
    input:
        manifests=[f"{SCALE}/runs/{run}/manifest.json" for run in reported_runs()],
        figures=[f"{REPORTS}/figures/{name}.png" for name in tracked_figures()],
    output:
        f"{RESULTS}/mlflow/ingested_{configuration.scale}.json",
    log:
        f"{SCALE}/logs/ingest_runs.log",
    benchmark:
        f"{SCALE}/benchmarks/ingest_runs.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        runs=[f"{SCALE}/runs/{run}" for run in reported_runs()],
        figures=[
            f"{run_table.tracking_experiment(configuration.scale, experiments[name])}={REPORTS}/figures/{name}.png"
            for name in tracked_figures()
        ],
        store=(
            [
                "--uri",
                configuration.tracking.uri,
                "--locks",
                f"{RESULTS}/mlflow/.locks",
            ]
            if configuration.tracking.uri
            else ["--local", f"{RESULTS}/mlflow"]
        ),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/ingest_runs.py"
        " --run {params.runs:q}"
        " {params.store:q}"
        " --state {SCALE:q}/state"
        " --figure {params.figures:q}"
        " --report {output:q}"
        " > {log:q} 2>&1"
