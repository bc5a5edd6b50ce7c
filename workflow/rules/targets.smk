# Targets that answer for a part of the work: single runs by their names, what it would cost, what older code made.


def selected_evaluations(wildcards):
    try:
        return [
            f"{SCALE}/evaluations/{run}/manifest.json"
            for run in selected(runs, request.select)
        ]
    except ConfigurationError as error:
        raise WorkflowError(str(error)) from None


# Train and evaluate some runs: `snakemake runs --config select=sampler~ead_tis/n~8`.
rule runs:
    input:
        selected_evaluations,
    localrule: True


# Before anything runs: `snakemake budget --config targets=fig10 gpus=16`.
rule budget:
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        configuration=configuration.model_dump_json(),
        targets=request.targets,
        units=["--gpus", request.gpus] if request.gpus else [],
    shell:
        "{PYTHON:q} {SCRIPTS:q}/estimate_budget.py"
        " --configuration {params.configuration:q}"
        " --targets {params.targets:q}"
        " {params.units:q}"


# Finished runs that other code made than the present one; nothing is run again for that.
rule stale:
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        runs=f"{SCALE}/runs",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/list_stale_runs.py --runs {params.runs:q}"
