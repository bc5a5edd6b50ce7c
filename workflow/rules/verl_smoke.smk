# The verl engine, small and real: two steps, an interruption, the third step, an evaluation with vLLM. In an
# environment of its own (envs/verl-cpu): `make verl-smoke` builds both and runs this.

from functools import cache

from reproduction.config import WORKFLOW, load_scale, merge, read_yaml

if scale.engine == "inprocess":

    @cache
    def smoke():
        """The scale of the smoke test and its run; overrides that do not go with it end this target alone."""
        changes = read_yaml(WORKFLOW / "verl_smoke.yaml")
        try:
            if not scale.roles:
                raise ConfigurationError(
                    "roles: all are null; the test trains the model of one"
                )
            smoke_scale = load_scale(
                configuration.scale, merge(configuration.overrides, changes)
            )
            smoke_run = run_table.resolve(
                configuration,
                smoke_scale,
                role=next(iter(smoke_scale.roles)),
                algorithm="dapo",
                sampler="ead_tis",
                rollouts=None,
                seed=configuration.seeds[0],
            )
        except ConfigurationError as error:
            raise WorkflowError(f"verl_smoke.yaml: {error}") from None
        return smoke_scale, smoke_run

    def smoke_request(wildcards):
        smoke_scale, _ = smoke()
        return evaluation_request(smoke_scale.evaluation, smoke_scale)

    rule verl_smoke:
        """the real verl, Ray and vLLM on this CPU: `make verl-smoke`"""
        input:
            model=lambda wildcards: model_manifest(smoke()[1].model),
            dataset=lambda wildcards: dataset_file(smoke()[0].training.dataset),
            evaluation=lambda wildcards: dataset_file(smoke()[0].evaluation.dataset),
        output:
            f"{SCALE}/verl_smoke/report.json",
        log:
            f"{SCALE}/logs/verl_smoke.log",
        benchmark:
            f"{SCALE}/benchmarks/verl_smoke.tsv"
        conda:
            "../../envs/verl-cpu.yaml"
        threads: 2
        resources:
            **needs("verl_smoke"),
        params:
            run=lambda wildcards: smoke()[1].to_json(),
            machine=lambda wildcards: smoke()[0].verl.model_dump_json(),
            request=smoke_request,
            python=environment_python("verl-cpu", configuration.interpreters.verl_cpu),
        shell:
            "{params.python:q} {SCRIPTS:q}/verl_smoke.py"
            " --run {params.run:q}"
            " --machine {params.machine:q}"
            " --request {params.request:q}"
            " --model {input.model:q}"
            " --dataset {input.dataset:q}"
            " --evaluation-dataset {input.evaluation:q}"
            " --scale {configuration.scale}"
            " --output {output:q}"
            " > {log:q} 2>&1"
