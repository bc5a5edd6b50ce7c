# Targets that answer for a part of the work: single runs by their names, what it would cost, what older code made.


def selected_evaluations(wildcards):
    try:
        return [
            f"{SCALE}/evaluations/{run}/manifest.json"
            for run in selected(runs, request.select)
        ]
    except ConfigurationError as error:
        raise WorkflowError(str(error)) from None


rule runs:
    """some trainings and their evaluations: --config select=sampler~ead_tis/n~8"""
    input:
        selected_evaluations,
    localrule: True


rule budget:
    """what it would cost, in hours and storage: --config targets=fig10"""
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


rule stale:
    """finished runs that older code made; none is run again"""
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        runs=f"{SCALE}/runs",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/list_stale_runs.py --runs {params.runs:q}"


# What `snakemake --list-target-rules` says of a figure.
for each in workflow.rules:
    if each.name in experiments:
        each.docstring = experiments[each.name].title
    elif each.name in plan.figures_in_parts:
        each.docstring = " and ".join(plan.figures_in_parts[each.name])
    elif each.name.endswith(SO_FAR) and not each.docstring:
        each.docstring = "what has run of it; starts nothing"
