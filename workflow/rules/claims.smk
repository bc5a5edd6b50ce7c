# Claims: a verdict on every claim of workflow/claims.yaml, and the figure of their intervals.

CLAIMS_FILE = f"{WORKFLOW}/claims.yaml"
claims_table = plan.claims


def evidence_of_claims(wildcards):
    """Everything that the verdicts need and that this scale has; the script itself judges what is there."""
    lacking = {
        problems_file(name)
        for name, experiment in experiments.items()
        if isinstance(experiment, InferenceFigure) and name not in studies
    }
    needed = required(claims_table, ResultsFolder(Path(SCALE)), configuration, scale)
    return [f"{SCALE}/{path}" for path in needed if path not in lacking]


rule judge_claims:
    input:
        evidence_of_claims,
        declared=CLAIMS_FILE,
        tables=TABLES,
    output:
        json=f"{REPORTS}/claims.json",
        csv=f"{REPORTS}/claims.csv",
    log:
        f"{SCALE}/logs/judge_claims.log",
    benchmark:
        f"{SCALE}/benchmarks/judge_claims.tsv"
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("judge_claims"),
    params:
        judged=CHOICES,
    shell:
        "{PYTHON:q} {SCRIPTS:q}/judge_claims.py"
        " --claims {input.declared:q}"
        " --configuration {params.judged:q}"
        " --results {SCALE:q}"
        " --json {output.json:q}"
        " --csv {output.csv:q}"
        " > {log:q} 2>&1"


use rule plot_figure as plot_claims with:
    input:
        f"{REPORTS}/claims.json",
    output:
        pdf=f"{REPORTS}/figures/claims.pdf",
        png=report(
            f"{REPORTS}/figures/claims.png",
            caption="../report/claims.rst",
            category="Claims",
            labels={"figure": "claims", "shows": "every verdict with its interval"},
        ),
        csv=f"{REPORTS}/figures/claims.csv",
    log:
        f"{SCALE}/logs/figures/claims.log",
    benchmark:
        f"{SCALE}/benchmarks/figures/claims.tsv"
    resources:
        **needs("plot_claims"),
    params:
        request=json.dumps({"analysis": "claims"}),
        caption=None,
        scale=scale.description,
        alpha=claims_table.alpha,
        confidence=f"{claims_table.confidence:.0%}",
        families=", ".join(
            f"{len(claims_table.family(name))} ({reading.label})"
            for name, reading in claims_table.readings.items()
        ),


rule claims:
    """a verdict on each claim of the paper"""
    input:
        rules.judge_claims.output,
        rules.plot_claims.output,


# Under a name of its own, so that it is never taken for the verdicts that `claims` makes.
rule claims_so_far:
    """the verdicts that can be judged now; starts no run"""
    log:
        f"{SCALE}/logs/claims_so_far.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **needs("claims_so_far"),
    params:
        judged=CHOICES,
        verdicts=f"{REPORTS}/claims{SO_FAR}",
        figure=f"{REPORTS}/figures/claims{SO_FAR}",
        request=json.dumps({"analysis": "claims"}),
    shell:
        "({PYTHON:q} {SCRIPTS:q}/judge_claims.py"
        " --claims {CLAIMS_FILE:q}"
        " --configuration {params.judged:q}"
        " --results {SCALE:q}"
        " --json {params.verdicts:q}.json"
        " --csv {params.verdicts:q}.csv"
        " && {PYTHON:q} {SCRIPTS:q}/plot_figure.py"
        " --estimates {params.verdicts:q}.json"
        " --request {params.request:q}"
        " --files {params.figure:q}.pdf {params.figure:q}.png {params.figure:q}.csv"
        ") > {log:q} 2>&1"


rule power:
    """training seeds that each claim needs for its margin; starts no run"""
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        judged=CHOICES,
        table=f"{REPORTS}/power.csv",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/estimate_power.py"
        " --claims {CLAIMS_FILE:q}"
        " --configuration {params.judged:q}"
        " --results {SCALE:q}"
        " --csv {params.table:q}"
