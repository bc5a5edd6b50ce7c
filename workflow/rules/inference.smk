# Inference: the responses of one model, or of a run's last checkpoint, and what they say about decoding.


def studied_run(study):
    """The run whose last checkpoint a study looks at; None where it looks at a model as it comes."""
    for figure, other in studies.items():
        if other == study and runs_of[figure]:
            return next(iter(runs_of[figure].values()))
    return None


def study_subject(wildcards):
    """Manifest of the run or of the model."""
    study = scale.study(wildcards.study)
    run = studied_run(study)
    if run:
        return f"{SCALE}/runs/{run.name}/manifest.json"
    return model_manifest(study.model or scale.roles[study.role].model)


def study_request(wildcards):
    """What to draw, as a job's parameter; response files that it still describes are kept."""
    study = scale.study(wildcards.study)
    return InferenceRequest(
        study=study,
        decoders={name: scale.decoders[name] for name in study.decoders},
        root_seed=configuration.root_seed,
    ).model_dump_json()


def study_of_figure(wildcards):
    return f"{SCALE}/inference/{experiment_of(wildcards).study}/manifest.json"


def study_threads(wildcards):
    model = scale.study(wildcards.study).model
    return 2 if model and isinstance(scale.models[model], PretrainedModel) else 1


rule draw_study:
    input:
        subject=study_subject,
        dataset=lambda wildcards: dataset_file(scale.study(wildcards.study).dataset),
    output:
        f"{SCALE}/inference/{{study}}/manifest.json",
    log:
        f"{SCALE}/logs/inference/{{study}}.log",
    benchmark:
        f"{SCALE}/benchmarks/inference/{{study}}.tsv"
    wildcard_constraints:
        study="|".join(experiments[figure].study for figure in studies) or "none",
    conda:
        MODEL_ENVIRONMENT
    threads: study_threads
    resources:
        **needs("draw_study", lambda wildcards: estimates.draw_study(wildcards.study)),
    params:
        request=study_request,
        progress=f"{SCALE}/progress/inference/{{study}}.json",
    shell:
        "{MODEL_PYTHON:q} {SCRIPTS:q}/draw_study.py"
        " --study {wildcards.study:q}"
        " --request {params.request:q}"
        " --subject {input.subject:q}"
        " --dataset {input.dataset:q}"
        " --output {output:q}"
        " --progress {params.progress:q}"
        " {SAMPLE_MACHINE}"
        " --threads {threads}"
        " > {log:q} 2>&1"


use rule estimate_figure as estimate_study with:
    input:
        study_of_figure,
    output:
        estimates=f"{SCALE}/analyses/{{figure}}.parquet",
        problems=f"{SCALE}/analyses/{{figure}}_problems.parquet",
    wildcard_constraints:
        figure="|".join(studies) or "none",
    resources:
        **needs("estimate_study"),
    params:
        study=lambda wildcards, input, output: [
            *("--manifest", input[0]),
            *("--problems", output.problems),
        ],


use rule plot_figure as plot_study with:
    output:
        pdf=f"{REPORTS}/figures/{{figure}}.pdf",
        png=report(
            f"{REPORTS}/figures/{{figure}}.png",
            caption="../report/inference.rst",
            category="Figures",
            labels=lambda wildcards: {
                "figure": wildcards.figure,
                "shows": experiment_of(wildcards).title,
            },
        ),
        csv=f"{REPORTS}/figures/{{figure}}.csv",
    wildcard_constraints:
        figure="|".join(studies) or "none",
    resources:
        **needs("plot_study"),
