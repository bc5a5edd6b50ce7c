# The verl engine, small and real: two steps, an interruption, the third step, an evaluation with vLLM. In an
# environment of its own (envs/verl-cpu): `make verl-smoke` builds both and runs this.

from reproduction.config import WORKFLOW, load_scale, merge, read_yaml

if scale.engine == "inprocess":
    try:
        smoke_scale = load_scale(
            configuration.scale,
            merge(configuration.overrides, read_yaml(WORKFLOW / "verl_smoke.yaml")),
        )
    except ConfigurationError as error:
        raise WorkflowError(f"verl_smoke.yaml: {error}") from None
    smoke_run = run_table.resolve(
        configuration,
        smoke_scale,
        role=next(iter(smoke_scale.roles)),
        algorithm="dapo",
        sampler="ead_tis",
        rollouts=None,
        seed=configuration.seeds[0],
    )

    rule verl_smoke:
        """the real verl, Ray and vLLM on this CPU: `make verl-smoke`"""
        input:
            model=model_manifest(smoke_run.model),
            dataset=dataset_file(smoke_scale.training.dataset),
            evaluation=dataset_file(smoke_scale.evaluation.dataset),
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
            run=smoke_run.to_json(),
            machine=smoke_scale.verl.model_dump_json(),
            request=evaluation_request(smoke_scale.evaluation, smoke_scale),
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
