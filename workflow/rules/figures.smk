# Figures: each as PDF, PNG and the CSV of what is drawn, and as a target by its name (`snakemake fig04`). A name with
# `_so_far` draws what has run and starts nothing.


def caption_of(wildcards):
    return experiment_of(wildcards).caption(scale, runs_of_figure(wildcards))


rule plot_figure:
    input:
        f"{SCALE}/analyses/{{figure}}.parquet",
    output:
        pdf=f"{REPORTS}/figures/{{figure}}.pdf",
        png=report(
            f"{REPORTS}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels=lambda wildcards: {
                "figure": wildcards.figure,
                "shows": experiment_of(wildcards).title,
            },
        ),
        csv=f"{REPORTS}/figures/{{figure}}.csv",
    log:
        f"{SCALE}/logs/figures/{{figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/figures/{{figure}}.tsv"
    wildcard_constraints:
        figure=f"({'|'.join(estimated)})({SO_FAR})?",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("plot_figure"),
    params:
        request=lambda wildcards: as_argument(
            experiment_of(wildcards).drawing(
                wildcards.figure.removesuffix(SO_FAR),
                scale,
                runs_of_figure(wildcards),
            )
        ),
        caption=caption_of,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/plot_figure.py"
        " --estimates {input:q}"
        " --request {params.request:q}"
        " --files {output:q}"
        " > {log:q} 2>&1"


use rule plot_figure as tabulate_hyperparameters with:
    output:
        csv=f"{REPORTS}/tables/{{figure}}.csv",
        html=report(
            f"{REPORTS}/tables/{{figure}}.html",
            caption="../report/hyperparameters.rst",
            category="Figures",
            labels=lambda wildcards: {
                "figure": wildcards.figure,
                "shows": experiment_of(wildcards).title,
            },
        ),
    log:
        f"{SCALE}/logs/tables/{{figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/tables/{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(
            name
            for name, experiment in estimated.items()
            if experiment.folder == "tables"
        ),
    resources:
        **needs("tabulate_hyperparameters"),


for figure in (
    *estimated,
    *studies,
    *(f"{name}{SO_FAR}" for name in estimated if runs_of[name]),
):

    rule:
        name:
            figure
        input:
            figure_files(figure),


# A figure of the paper that is several entries: `snakemake fig07` makes fig07a and fig07b.
for figure, parts in plan.figures_in_parts.items():
    for suffix in ("", SO_FAR):

        rule:
            name:
                f"{figure}{suffix}"
            input:
                [figure_files(f"{part}{suffix}") for part in parts],
