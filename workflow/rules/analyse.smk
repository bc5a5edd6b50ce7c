# Analyses: every number that a figure shows is computed here, from recorded samples.


def records_of(wildcards):
    """What a figure's numbers come from: its runs, their evaluations, and their base models' as step 0.

    A figure so far takes what is there.
    """
    experiment, table = experiment_of(wildcards), runs_of_figure(wildcards)
    if not table:
        return []
    subjects = list(table)
    if experiment.reads_evaluations():
        subjects += dict.fromkeys(f"model~{run.model}" for run in table.values())
        paths = [f"{SCALE}/evaluations/{subject}/manifest.json" for subject in subjects]
    else:
        paths = []
    paths += [
        f"{SCALE}/runs/{name}/{record}"
        for name in table
        for record in experiment.records()
    ]
    if wildcards.figure.endswith(SO_FAR):
        return [path for path in paths if os.path.exists(path)]
    return paths


def experiment_of(wildcards):
    return experiments[wildcards.figure.removesuffix(SO_FAR)]


def runs_of_figure(wildcards):
    return runs_of[wildcards.figure.removesuffix(SO_FAR)]


rule estimate_figure:
    input:
        records_of,
    output:
        estimates=f"{SCALE}/analyses/{{figure}}.parquet",
    log:
        f"{SCALE}/logs/analyses/{{figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/analyses/{{figure}}.tsv"
    wildcard_constraints:
        figure=f"({'|'.join(estimated)})({SO_FAR})?",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("estimate_figure"),
    params:
        request=lambda wildcards: as_argument(
            experiment_of(wildcards).estimation(
                scale,
                runs_of_figure(wildcards),
                configuration.root_seed,
            )
        ),
        study=[],
        partial=lambda wildcards: (
            "--partial" if wildcards.figure.endswith(SO_FAR) else ""
        ),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/estimate_figure.py"
        " --request {params.request:q}"
        " --runs {SCALE:q}/runs"
        " --evaluations {SCALE:q}/evaluations"
        " {params.partial}"
        " {params.study:q}"
        " --output {output.estimates:q}"
        " > {log:q} 2>&1"
