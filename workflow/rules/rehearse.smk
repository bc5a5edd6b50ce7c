# Before GPUs are paid for: `snakemake rehearse --config scale=gpu1 tokenizers=FOLDER` takes every distinct training
# configuration of a scale through two steps, kill, resume, evaluation and figure on CPUs, with stand-ins for the models
# (docs/rehearsal.md). In an environment of its own (envs/verl-cpu).

from reproduction.rehearsal import load_stand_ins

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
        input:
            [f"{RESULTS}/data/{source}.parquet" for source in rehearsed_sources],
        log:
            f"{SCALE}/logs/rehearse.log",
        conda:
            "../../envs/verl-cpu.yaml"
        threads: 2
        resources:
            **needs("rehearse"),
        params:
            configuration=configuration.model_dump_json(),
            datasets=lambda wildcards, input: json.dumps(
                dict(zip(rehearsed_sources, input))
            ),
            tokenizers=(
                ["--tokenizers", request.tokenizers] if request.tokenizers else []
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
            " --folder {RESULTS:q}/rehearsals"
            " --table {params.table:q}"
            " 2> {log:q}"
