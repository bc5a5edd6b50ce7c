# Figures: each as PDF, PNG and the CSV of what is drawn, and as a target by its name (`snakemake fig04`).

DECODER_LABELS = json.dumps(
    {name: decoder.label for name, decoder in scale.decoders.items()}
)


def samplers_json(wildcards):
    """The samplers that a figure shows, with their labels and styles."""
    names = dict.fromkeys(run.sampler for run in runs_of[wildcards.figure].values())
    return json.dumps(
        {name: scale.samplers[name].model_dump(mode="json") for name in names}
    )


rule plot_training_curves:
    input:
        f"{SCALE}/analyses/{{figure}}.parquet",
    output:
        pdf=f"{REPORTS}/figures/{{figure}}.pdf",
        png=report(
            f"{REPORTS}/figures/{{figure}}.png",
            caption="../report/training_curves.rst",
            category="Figures",
            labels=lambda wildcards: {
                "figure": wildcards.figure,
                "shows": experiments[wildcards.figure].title,
            },
        ),
        csv=f"{REPORTS}/figures/{{figure}}.csv",
    log:
        f"{SCALE}/logs/figures/{{figure}}.log",
    benchmark:
        f"{SCALE}/benchmarks/figures/{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(figures_of_training),
    conda:
        "../../envs/cpu.yaml"
    params:
        metrics=lambda wildcards: " ".join(experiments[wildcards.figure].metrics),
        title=lambda wildcards: experiments[wildcards.figure].title,
        scale=scale.description,
        decoder_labels=DECODER_LABELS,
        samplers=samplers_json,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/plot_training_curves.py"
        " --estimates {input:q}"
        " --metrics {params.metrics}"
        " --decoder-labels {params.decoder_labels:q}"
        " --samplers {params.samplers:q}"
        " --title {params.title:q}"
        " --pdf {output.pdf:q}"
        " --png {output.png:q}"
        " --csv {output.csv:q}"
        " > {log:q} 2>&1"


for figure in (*figures_of_training, *studies):

    rule:
        name:
            figure
        input:
            figure_files(figure),
