# MLflow: one writer adds what the streams of the trainings missed or do not know.


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


def tracked_datasets():
    """What the runs were trained and evaluated on."""
    used = {runs[name].training.dataset for name in reported_runs()}
    used |= {scale.evaluation_of(runs[name].model).dataset for name in reported_runs()}
    return sorted(used)


rule ingest_runs:
    """Add to MLflow what the streams of the trainings missed, and the figures; one writer does this."""
    input:
        manifests=[f"{SCALE}/runs/{run}/manifest.json" for run in reported_runs()],
        evaluations=[
            f"{SCALE}/evaluations/{run}/manifest.json" for run in reported_runs()
        ],
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
        runs=lambda wildcards: arguments(
            [f"{SCALE}/runs/{run}" for run in reported_runs()]
        ),
        figures=[
            f"{run_table.tracking_experiment(configuration.scale, experiments[name])}={REPORTS}/figures/{name}.png"
            for name in tracked_figures()
        ],
        datasets=[f"{name}={dataset_file(name)}" for name in tracked_datasets()],
        shown=tracked_figures(),
        store=["--local", f"{RESULTS}/mlflow"]
        + (["--uri", configuration.tracking.uri] if configuration.tracking.uri else []),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/ingest_runs.py"
        " --run {params.runs:q}"
        " {params.store:q}"
        " --state {SCALE:q}/state"
        " --evaluations {SCALE:q}/evaluations"
        " --dataset {params.datasets:q}"
        " --scale {configuration.scale}"
        " --shown {params.shown:q}"
        " --page {REPORTS:q}/report.html"
        " --figure {params.figures:q}"
        " --report {output:q}"
        " > {log:q} 2>&1"
