# Before GPUs are paid for: `snakemake rehearse --config scale=gpu1` takes every distinct training
# configuration of a scale through two steps, kill, resume, evaluation and figure on CPUs, with stand-ins for the models
# (docs/rehearsal.md). In an environment of its own (envs/verl-cpu).

from reproduction.models.pretrained import tokenizer_files
from reproduction.rehearsal import load_stand_ins, reports
from reproduction.rehearsal.sources import Wanted

if scale.engine == "verl":
    stand_ins = load_stand_ins()

    def rehearsed_source(name):
        """A training set, or the one that stands for it where local copies are used and it has none."""
        source = scale.datasets[name].source
        local = real_datasets[source].local is not None
        if configuration.paths.real_data and not local:
            return stand_ins.datasets.get(source, source)
        return source

    rehearsed_sources = sorted(
        {rehearsed_source(run.training.dataset) for run in runs.values()}
        | {
            scale.datasets[scale.evaluation_of(run.model).dataset].source
            for run in runs.values()
        }
    )

    # Its table is no output: whatever has not passed is tried again.
    rule rehearse:
        """every training configuration of a GPU scale, small, on CPUs"""
        input:
            [f"{RESULTS}/data/{source}.parquet" for source in rehearsed_sources],
        log:
            f"{SCALE}/logs/rehearse.log",
        conda:
            "../../envs/verl-cpu.yaml"
        threads: 4
        resources:
            **needs("rehearse"),
        params:
            configuration=configuration.model_dump_json(),
            datasets=lambda wildcards, input: json.dumps(
                dict(zip(rehearsed_sources, input))
            ),
            tokenizers=(
                ["--tokenizers", configuration.paths.tokenizers]
                if configuration.paths.tokenizers
                else []
            ),
            select=["--select", request.select] if request.select else [],
            table=f"{SCALE}/rehearsal/table.json",
            python=environment_python("verl-cpu", configuration.interpreters.verl_cpu),
        shell:
            "{params.python:q} {SCRIPTS:q}/rehearse.py"
            " --configuration {params.configuration:q}"
            " --datasets {params.datasets:q}"
            " {params.tokenizers:q}"
            " {params.select:q}"
            " --threads {threads}"
            " --folder {RESULTS:q}/rehearsals"
            " --table {params.table:q}"
            " 2> {log:q}"

    # On the machines that will train: `snakemake preflight --config targets=fig04`, with --profile slurm or without.
    # Wrong `targets` end this target alone: those of `budget` may be files, too.
    preflight_runs, preflight_problem = {}, None
    try:
        preflight_runs = reports.chosen(
            plan.runs_behind(request.targets), scale.rollouts
        )
    except ConfigurationError as error:
        preflight_problem = str(error)

    def preflight_reports(wildcards):
        if preflight_problem:
            raise WorkflowError(preflight_problem)
        return expand(
            f"{SCALE}/preflight/{{model}}.json", model=["sources", *preflight_runs]
        )

    def preflight_run(wildcards):
        return preflight_runs[wildcards.checked_model]

    def preflight_disk(run):
        """What a training has on the disk until it is evaluated, or its preflight."""
        training = estimates.train(run)
        return max(
            training.scratch_bytes + training.expected_bytes,
            estimates.preflight(run).scratch_bytes,
        )

    preflight_data = sorted(
        {
            scale.datasets[name].source
            for run in preflight_runs.values()
            for name in (
                run.training.dataset,
                scale.evaluation_of(run.model).dataset,
            )
        }
    )

    def wanted():
        """What the runs need of a hub: models, data sets, and the tokenizers that those are measured with."""
        for name in preflight_runs:
            entry = pretrained_models[scale.models[name].source]
            yield Wanted(
                name=name, kind="model", prepared=model_manifest(name), hub=entry
            )
        for name in preflight_data:
            entry, prepared = real_datasets[name], f"{RESULTS}/data/{name}.parquet"
            local = configuration.paths.real_data and entry.local
            hub = None if local else entry.hub
            yield Wanted(name=name, kind="dataset", prepared=prepared, hub=hub)
        tokenizers = {real_datasets[name].tokenizer for name in preflight_data}
        for name in sorted(filter(None, tokenizers)):
            hub = tokenizer_files(name, pretrained_models)
            yield Wanted(
                name=f"{name} (tokenizer)",
                kind="model",
                prepared=f"{RESULTS}/tokenizers/{name}/tokenizer.json",
                hub=None if configuration.paths.tokenizers else hub,
            )

    # Local, as the imports are, and before them; what it found is printed at once where something cannot be had.
    rule preflight_sources:
        output:
            f"{SCALE}/preflight/sources.json",
        priority: 1
        localrule: True
        conda:
            "../../envs/cpu.yaml"
        params:
            wanted=f"[{','.join(one.model_dump_json() for one in wanted())}]",
        shell:
            "{PYTHON:q} {SCRIPTS:q}/preflight.py sources"
            " --wanted {params.wanted:q}"
            " --output {output:q}"

    rule preflight_model:
        input:
            sources=f"{SCALE}/preflight/sources.json",
            model=lambda wildcards: model_manifest(wildcards.checked_model),
            dataset=lambda wildcards: dataset_file(
                preflight_run(wildcards).training.dataset
            ),
            validation=lambda wildcards: dataset_file(
                scale.evaluation_of(wildcards.checked_model).dataset
            ),
        output:
            f"{SCALE}/preflight/{{checked_model}}.json",
        log:
            f"{SCALE}/logs/preflight/{{checked_model}}.log",
        benchmark:
            f"{SCALE}/benchmarks/preflight/{{checked_model}}.tsv"
        wildcard_constraints:
            checked_model="|".join(preflight_runs) or "none",
        conda:
            MODEL_ENVIRONMENT
        threads: 1
        resources:
            **needs(
                "preflight_model",
                lambda wildcards: estimates.preflight(preflight_run(wildcards)),
            ),
        params:
            run=lambda wildcards: preflight_run(wildcards).to_json(),
            request=lambda wildcards: evaluation_request(
                scale.evaluation_of(wildcards.checked_model)
            ),
            scratch=lambda wildcards: preflight_disk(preflight_run(wildcards)),
            # As parameters: on other machines the check is another one.
            gpus=lambda wildcards: estimates.preflight(preflight_run(wildcards)).gpus,
            nodes=lambda wildcards: estimates.preflight(preflight_run(wildcards)).nodes,
            timeout_s=lambda wildcards: 60
            * estimates.preflight(preflight_run(wildcards)).minutes,
            folder=f"{SCALE}/preflight/state/{{checked_model}}",
            machine=scale.verl.model_dump_json(),
        shell:
            "{MODEL_PYTHON:q} {SCRIPTS:q}/preflight.py model"
            " --run {params.run:q}"
            " --machine {params.machine:q}"
            " --request {params.request:q}"
            " --model {input.model:q}"
            " --dataset {input.dataset:q}"
            " --validation {input.validation:q}"
            " --scale {configuration.scale}"
            " --scratch-bytes {params.scratch:q}"
            " --timeout-s {params.timeout_s:q}"
            " --gpus {params.gpus:q}"
            " --nodes {params.nodes:q}"
            " --folder {params.folder:q}"
            " --output {output:q}"
            " > {log:q} 2>&1"

    rule preflight:
        """one run of each model at full size, on the machines that will train"""
        input:
            preflight_reports,
        retries: 0  # it removes the reports that did not pass, so a second attempt would lack them
        localrule: True
        conda:
            "../../envs/cpu.yaml"
        shell:
            "{PYTHON:q} {SCRIPTS:q}/preflight.py table {input:q}"
