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


def subject_columns(wildcards):
    """What the estimates are about, in the columns that all analyses share."""
    study = studies[wildcards.inference_figure]
    run = studied_run(study)
    if run:
        return json.dumps(
            {"cell": run.cell}
            | {
                axis: getattr(run, axis)
                for axis in ("model", "algorithm", "sampler", "n")
            }
        )
    model = study.model or scale.roles[study.role].model
    return json.dumps(
        {"cell": f"model~{model}", "model": model}
        | dict.fromkeys(("algorithm", "sampler", "n"))
    )


def study_of_figure(wildcards):
    return experiments[wildcards.inference_figure].study


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


rule estimate_study:
    input:
        lambda wildcards: f"{SCALE}/inference/{study_of_figure(wildcards)}/manifest.json",
    output:
        estimates=f"{SCALE}/analyses/{{inference_figure}}.parquet",
        problems=f"{SCALE}/analyses/{{inference_figure}}_problems.parquet",
    log:
        f"{SCALE}/logs/analyses/{{inference_figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/analyses/{{inference_figure}}.tsv"
    wildcard_constraints:
        inference_figure="|".join(studies) or "none",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("estimate_study"),
    params:
        subject=subject_columns,
        study=lambda wildcards: studies[wildcards.inference_figure].model_dump_json(),
        root_seed=configuration.root_seed,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/estimate_study.py"
        " --manifest {input:q}"
        " --study {params.study:q}"
        " --subject {params.subject:q}"
        " --root-seed {params.root_seed}"
        " --problems {output.problems:q}"
        " --output {output.estimates:q}"
        " > {log:q} 2>&1"


def decoders_of_study(wildcards):
    name = wildcards.inference_figure
    return json.dumps(experiments[name].drawing(name, scale, runs_of[name])["decoders"])


rule plot_study:
    input:
        f"{SCALE}/analyses/{{inference_figure}}.parquet",
    output:
        pdf=f"{REPORTS}/figures/{{inference_figure}}.pdf",
        png=report(
            f"{REPORTS}/figures/{{inference_figure}}.png",
            caption="../report/inference.rst",
            category="Figures",
            labels=lambda wildcards: {
                "figure": wildcards.inference_figure,
                "shows": experiments[wildcards.inference_figure].title,
            },
        ),
        csv=f"{REPORTS}/figures/{{inference_figure}}.csv",
    log:
        f"{SCALE}/logs/figures/{{inference_figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/figures/{{inference_figure}}.tsv"
    wildcard_constraints:
        inference_figure="|".join(studies) or "none",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("plot_study"),
    params:
        title=lambda wildcards: experiments[wildcards.inference_figure].title,
        subject=lambda wildcards: experiments[wildcards.inference_figure].subject(
            scale, runs_of[wildcards.inference_figure]
        ),
        study=lambda wildcards: studies[wildcards.inference_figure].model_dump_json(),
        caption=lambda wildcards: experiments[wildcards.inference_figure].caption(
            scale, runs_of[wildcards.inference_figure]
        ),
        decoders=decoders_of_study,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/plot_study.py"
        " --estimates {input:q}"
        " --study {params.study:q}"
        " --decoders {params.decoders:q}"
        " --title {params.title:q}"
        " --subject {params.subject:q}"
        " --pdf {output.pdf:q}"
        " --png {output.png:q}"
        " --csv {output.csv:q}"
        " > {log:q} 2>&1"
