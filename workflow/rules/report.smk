# Tables for the report, and the real language model.

if scale.real_lm:

    rule tabulate_real_lm:
        input:
            f"{SCALE}/evaluations/model~{scale.real_lm.model}/manifest.json",
        output:
            csv=f"{REPORTS}/tables/real_lm.csv",
            html=report(
                f"{REPORTS}/tables/real_lm.html",
                caption="../report/real_lm.rst",
                category="Real language model",
                labels={"table": f"{scale.real_lm.model} on {scale.real_lm.dataset}"},
            ),
        log:
            f"{SCALE}/logs/tables/real_lm.log",
        benchmark:
            f"{SCALE}/benchmarks/tables/real_lm.tsv"
        conda:
            "../../envs/cpu.yaml"
        resources:
            **needs("tabulate_real_lm"),
        params:
            root_seed=configuration.root_seed,
            model=scale.real_lm.model,
            dataset=scale.real_lm.dataset,
            samples=scale.real_lm.samples,
            max_new_tokens=scale.real_lm.max_new_tokens,
            decoder_labels=DECODER_LABELS,
        shell:
            "{PYTHON:q} {SCRIPTS:q}/tabulate_evaluation.py"
            " --evaluation {input:q}"
            " --decoder-labels {params.decoder_labels:q}"
            " --samples {params.samples}"
            " --root-seed {params.root_seed}"
            " --csv {output.csv:q}"
            " --html {output.html:q}"
            " > {log:q} 2>&1"

    rule real_lm:
        input:
            rules.tabulate_real_lm.output,
            [
                figure_files(figure)
                for figure, study in studies.items()
                if study.model == scale.real_lm.model
            ],
