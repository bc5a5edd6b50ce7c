# Deviations: where paper, figures and released code disagree, and what each choice changes in numbers.

compared = runs_of["deviations"]
# One model: its evaluation and training sets are those of every pair.
compared_model = next((run.model for run in compared.values()), None)


def real_lm_records():
    """The published language model's evaluation where it has run: as a parameter, so that it never starts a job."""
    if not scale.real_lm:
        return []
    return content_of(f"{SCALE}/evaluations/model~{scale.real_lm.model}/manifest.json")


rule tabulate_deviations:
    input:
        [f"{SCALE}/evaluations/{run}/manifest.json" for run in compared],
        [
            f"{SCALE}/runs/{run}/{table}.parquet"
            for run in compared
            for table in ("groups", "metrics")
        ],
        table=f"{WORKFLOW}/deviations.yaml",
        tables=TABLES,
        dataset=dataset_file(scale.evaluation_of(compared_model).dataset),
        training_card=data_card(scale.training.dataset),
    output:
        json=f"{REPORTS}/deviations.json",
        csv=f"{REPORTS}/deviations.csv",
        html=f"{REPORTS}/deviations.html",
    log:
        f"{SCALE}/logs/tabulate_deviations.log",
    benchmark:
        f"{SCALE}/benchmarks/tabulate_deviations.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("tabulate_deviations"),
    params:
        choices=CHOICES,
        real_lm_records=real_lm_records(),
        real_lm=(
            ["--real-lm-dataset", dataset_file(scale.real_lm.dataset)]
            if scale.real_lm
            else []
        ),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/tabulate_deviations.py"
        " --configuration {params.choices:q}"
        " --experiment deviations"
        " --results {SCALE:q}"
        " --dataset {input.dataset:q}"
        " --training-card {input.training_card:q}"
        " {params.real_lm:q}"
        " --json {output.json:q}"
        " --csv {output.csv:q}"
        " --html {output.html:q}"
        " > {log:q} 2>&1"


use rule plot_figure as plot_deviations with:
    input:
        rules.tabulate_deviations.output.json,
    output:
        pdf=f"{REPORTS}/figures/deviations.pdf",
        png=report(
            f"{REPORTS}/figures/deviations.png",
            caption="../report/deviations.rst",
            category="Deviations",
            labels={"figure": "deviations", "shows": experiments["deviations"].title},
        ),
        csv=f"{REPORTS}/figures/deviations.csv",
    log:
        f"{SCALE}/logs/figures/deviations.log",
    benchmark:
        f"{SCALE}/benchmarks/figures/deviations.tsv"
    resources:
        **needs("plot_deviations"),
    params:
        request=lambda wildcards: as_argument(
            experiments["deviations"].drawing("deviations", scale, compared)
        ),
        caption=None,
        title=experiments["deviations"].title,
        scale=scale.description,
        decoder=scale.decoders[scale.evaluation.decoders[0]].label,


rule deviations:
    """what each place where paper and release disagree changes in numbers"""
    input:
        rules.tabulate_deviations.output,
        rules.plot_deviations.output,
