# The report, its tables, and the real language model.

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


def optional_files():
    """What the report also shows where it exists; it is written anew when one of these appears or changes."""
    names = ["deviations.json", "figures/deviations.png", "tables/real_lm.csv"]
    names += [f"figures/{name}.png" for name in experiments]
    wanted = {f"{REPORTS}/{name}" for name in names}
    return sorted(path for path in wanted if Path(path).exists())


rule write_report:
    """The report shows what is there: what config.yaml switches on is made first, the rest is shown as not run."""
    input:
        [figure_files(name) for name in configuration.experiments],
        optional_files(),
        ingested=f"{RESULTS}/mlflow/ingested_{configuration.scale}.json",
        templates=[
            f"{workflow.basedir}/workflow/report/{name}"
            for name in ("report.html", "parts.html", "style.css")
        ],
    output:
        f"{REPORTS}/report.html",
    log:
        f"{SCALE}/logs/write_report.log",
    benchmark:
        f"{SCALE}/benchmarks/write_report.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        choices=CHOICES,
        experiments=configuration.experiments,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/write_report.py"
        " --configuration {params.choices:q}"
        " --results {SCALE:q}"
        " --ingested {input.ingested:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule report:
    input:
        rules.write_report.output,
