# Evaluation, apart from training: every checkpoint of a run with the decoders that a figure, a claim or a deviation of it
# reads. What is read later is drawn then, beside the samples that are there.


def evaluation_request(evaluation, scale=scale):
    """What to sample, as a job's parameter. A sample file that the request still describes is kept."""
    definition = scale.datasets[evaluation.dataset]
    return EvaluationRequest(
        dataset=evaluation.dataset,
        limit=definition.limit,
        samples=evaluation.samples,
        max_new_tokens=evaluation.max_new_tokens,
        decoders={name: scale.decoders[name] for name in evaluation.decoders},
        final_decoders={
            name: scale.decoders[name] for name in evaluation.final_decoders
        },
        verifier_timeout_s=evaluation.verifier_timeout_s,
        root_seed=configuration.root_seed,
    ).model_dump_json()


def evaluation_of_model(wildcards):
    if scale.real_lm and wildcards.model == scale.real_lm.model:
        return scale.real_lm
    return scale.evaluation_of(wildcards.model)


def evaluation_of_run(wildcards):
    return plan.evaluation_of(run_of(wildcards))


rule evaluate_run:
    input:
        run=f"{SCALE}/runs/{{run}}/manifest.json",
        dataset=lambda wildcards: dataset_file(evaluation_of_run(wildcards).dataset),
    output:
        manifest=f"{SCALE}/evaluations/{{run}}/manifest.json",
    log:
        f"{SCALE}/logs/evaluate/{{run}}.log",
    benchmark:
        f"{SCALE}/benchmarks/evaluate/{{run}}.tsv"
    conda:
        MODEL_ENVIRONMENT
    threads: 1
    resources:
        **needs(
            "evaluate_run", lambda wildcards: estimates.evaluate_run(run_of(wildcards))
        ),
    params:
        request=lambda wildcards: evaluation_request(evaluation_of_run(wildcards)),
        progress=f"{SCALE}/progress/evaluate/{{run}}.json",
        delete=lambda wildcards: (
            ["--delete-intermediate", state_folder(wildcards)]
            if scale.keep_checkpoints == "last"
            else []
        ),
    shell:
        "{MODEL_PYTHON:q} {SCRIPTS:q}/evaluate.py"
        " --subject {wildcards.run:q}"
        " --request {params.request:q}"
        " --run {input.run:q}"
        " --dataset {input.dataset:q}"
        " --output {output.manifest:q}"
        " --progress {params.progress:q}"
        " {params.delete:q}"
        " {SAMPLE_MACHINE}"
        " --threads {threads}"
        " > {log:q} 2>&1"


rule evaluate_model:
    """Evaluate a model before training; it is step 0 of all its runs."""
    input:
        model=lambda wildcards: model_manifest(wildcards.model),
        dataset=lambda wildcards: dataset_file(evaluation_of_model(wildcards).dataset),
    output:
        manifest=f"{SCALE}/evaluations/model~{{model}}/manifest.json",
    log:
        f"{SCALE}/logs/evaluate/model~{{model}}.log",
    benchmark:
        f"{SCALE}/benchmarks/evaluate/model~{{model}}.tsv"
    conda:
        MODEL_ENVIRONMENT
    threads: lambda wildcards: 2 if isinstance(scale.models[wildcards.model], PretrainedModel) else 1
    resources:
        **needs(
            "evaluate_model",
            lambda wildcards: estimates.evaluate_model(wildcards.model),
        ),
    params:
        request=lambda wildcards: evaluation_request(evaluation_of_model(wildcards)),
        progress=f"{SCALE}/progress/evaluate/model~{{model}}.json",
    shell:
        "{MODEL_PYTHON:q} {SCRIPTS:q}/evaluate.py"
        " --subject model~{wildcards.model:q}"
        " --request {params.request:q}"
        " --model {input.model:q}"
        " --dataset {input.dataset:q}"
        " --output {output.manifest:q}"
        " --progress {params.progress:q}"
        " {SAMPLE_MACHINE}"
        " --threads {threads}"
        " > {log:q} 2>&1"
