# The report, its tables, and the real language model.

if scale.real_lm:

    use rule estimate_figure as estimate_real_lm with:
        input:
            f"{SCALE}/evaluations/model~{scale.real_lm.model}/manifest.json",
        output:
            estimates=f"{SCALE}/analyses/real_lm.parquet",
        log:
            f"{SCALE}/logs/analyses/real_lm.log",
        benchmark:
            f"{SCALE}/benchmarks/analyses/real_lm.tsv"
        resources:
            **needs("estimate_real_lm"),
        params:
            request=json.dumps(
                figures.REAL_LM.estimation(scale, {}, configuration.root_seed)
            ),
            study=lambda wildcards, input: ["--manifest", input[0]],
            partial="",

    use rule plot_figure as tabulate_real_lm with:
        input:
            rules.estimate_real_lm.output.estimates,
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
        resources:
            **needs("tabulate_real_lm"),
        params:
            request=json.dumps(figures.REAL_LM.drawing("real_lm", scale, {})),
            caption=figures.REAL_LM.caption(scale, {}),

    rule real_lm:
        """a published language model on real problems"""
        input:
            rules.tabulate_real_lm.output,
            [
                figure_files(figure)
                for figure, study in studies.items()
                if study.model == scale.real_lm.model
            ],


def verdicts():
    """The claims, where config.yaml switches on every figure that they are about; else those judged so far."""
    if {claim.figure for claim in claims_table.claims.values()} <= set(
        configuration.experiments
    ):
        return [f"{REPORTS}/claims.json", f"{REPORTS}/figures/claims.png"]
    return []


def also_shown():
    """What the report shows where it exists, beside what it needs: as a parameter, so that it never starts a job,
    and the report is written anew when one of these appears or changes."""
    needed = {f"figures/{name}.png" for name in configuration.experiments}
    names = {f"figures/{name}.png" for name in experiments} - needed
    names |= {
        "claims.json",
        "figures/claims.png",
        f"claims{SO_FAR}.json",
        f"figures/claims{SO_FAR}.png",
        "deviations.json",
        "tables/real_lm.csv",
    }
    names -= {Path(path).relative_to(REPORTS).as_posix() for path in verdicts()}
    # Written with the figure of the same name.
    names -= {"deviations.json"} if "deviations" in configuration.experiments else set()
    return [seen for name in sorted(names) for seen in content_of(f"{REPORTS}/{name}")]


use rule estimate_figure as estimate_cost with:
    input:
        [figure_files(name) for name in configuration.experiments],
    output:
        estimates=f"{SCALE}/analyses/cost.parquet",
    log:
        f"{SCALE}/logs/analyses/cost.log",
    benchmark:
        f"{SCALE}/benchmarks/analyses/cost.tsv"
    resources:
        **needs("estimate_cost"),
    params:
        request=lambda wildcards: as_argument(
            figures.COST.estimation(
                scale,
                {
                    name: run
                    for figure in configuration.experiments
                    for name, run in runs_of[figure].items()
                },
                configuration.root_seed,
            )
        ),
        partial="",


use rule plot_figure as plot_cost with:
    input:
        rules.estimate_cost.output.estimates,
    output:
        pdf=f"{REPORTS}/figures/cost.pdf",
        png=report(
            f"{REPORTS}/figures/cost.png",
            caption="../report/cost.rst",
            category="Cost",
            labels={"figure": "cost", "shows": "how cost grows"},
        ),
        csv=f"{REPORTS}/figures/cost.csv",
    log:
        f"{SCALE}/logs/figures/cost.log",
    benchmark:
        f"{SCALE}/benchmarks/figures/cost.tsv"
    resources:
        **needs("plot_cost"),
    params:
        request=json.dumps(figures.COST.drawing("cost", scale, {})),
        caption=figures.COST.caption(scale, {}),


rule cost:
    """how cost grows with steps, rollouts, length, cells and seeds"""
    input:
        rules.plot_cost.output,


rule write_report:
    """Write the report: what config.yaml switches on is made first, and what is missing is shown as not run."""
    input:
        [figure_files(name) for name in configuration.experiments],
        verdicts(),
        rules.plot_cost.output,
        ingested=f"{RESULTS}/mlflow/ingested_{configuration.scale}.json",
        tables=[*TABLES, CLAIMS_FILE, f"{WORKFLOW}/deviations.yaml"],
        templates=[
            f"{WORKFLOW}/report/{name}"
            for name in ("report.html", "parts.html", "style.css", "schedule.html")
        ],
        published=f"{WORKFLOW}/published_curves.json",
    output:
        f"{REPORTS}/report.html",
    log:
        f"{SCALE}/logs/write_report.log",
    benchmark:
        f"{SCALE}/benchmarks/write_report.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("write_report"),
    params:
        choices=CHOICES,
        experiments=configuration.experiments,
        also_shown=also_shown(),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/write_report.py"
        " --configuration {params.choices:q}"
        " --experiments {params.experiments:q}"
        " --results {SCALE:q}"
        " --ingested {input.ingested:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"


rule export_provenance:
    """Describe the folder of the report as a Workflow Run Crate, with a copy of the workflow."""
    input:
        report=f"{REPORTS}/report.html",
        tables=TABLES,
    output:
        f"{REPORTS}/ro-crate-metadata.json",
        directory(f"{REPORTS}/workflow"),
    log:
        f"{SCALE}/logs/export_provenance.log",
    benchmark:
        f"{SCALE}/benchmarks/export_provenance.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("export_provenance"),
    params:
        choices=CHOICES,
        datasets=json.dumps({name: dataset_file(name) for name in scale.datasets}),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/export_provenance.py"
        " --configuration {params.choices:q}"
        " --datasets {params.datasets:q}"
        " --results {SCALE:q}"
        " --report {input.report:q}"
        " > {log:q} 2>&1"


rule provenance:
    """the report's folder as an RO-Crate"""
    input:
        rules.export_provenance.output,


rule report:
    """the HTML report of what config.yaml asks for"""
    input:
        rules.write_report.output,
        rules.export_provenance.output,
