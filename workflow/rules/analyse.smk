# Analyses: every number that a figure shows is computed here, from recorded samples.


def evaluations_of(wildcards):
    """The evaluations that a figure of training curves needs: its runs, and their base models as step 0."""
    table = runs_of[wildcards.figure]
    models = dict.fromkeys(f"model~{run.model}" for run in table.values())
    return [
        f"{SCALE}/evaluations/{subject}/manifest.json" for subject in (*models, *table)
    ]


def runs_json(wildcards):
    return (
        "["
        + ",".join(run.to_json() for run in runs_of[wildcards.figure].values())
        + "]"
    )


rule estimate_curves:
    input:
        evaluations_of,
    output:
        f"{SCALE}/analyses/{{figure}}.parquet",
    log:
        f"{SCALE}/logs/analyses/{{figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/analyses/{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(figures_of_training),
    conda:
        "../../envs/cpu.yaml"
    params:
        root_seed=configuration.root_seed,
        runs=runs_json,
        metrics=lambda wildcards: " ".join(experiments[wildcards.figure].metrics),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/estimate_curves.py"
        " --runs {params.runs:q}"
        " --evaluations {SCALE:q}/evaluations"
        " --metrics {params.metrics}"
        " --root-seed {params.root_seed}"
        " --output {output:q}"
        " > {log:q} 2>&1"
