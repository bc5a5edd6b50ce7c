"""What MLflow shows beside a training's own records: its evaluations, its data sets, and the claims about it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from reproduction.claims import load_claims
from reproduction.config import read_yaml
from reproduction.config.runs import tracking_experiment
from reproduction.data.schema import card_facts
from reproduction.evaluation.samples import correct_counts
from reproduction.figures import load_experiments
from reproduction.figures.analyses import METRICS
from reproduction.files import load_json
from reproduction.layout import data_card
from reproduction.report import anchor
from reproduction.tracking import DataSet


def evaluation_metrics(manifest: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the metrics of every checkpoint of one evaluation, by step, as the figures name and estimate them.

    ``decoder tau1.0/Pass@16`` is a share of problems; MLflow shows what stands before the slash as a section.
    """
    steps: dict[int, dict[str, float]] = {}
    for (step, decoder), part in correct_counts(manifest).groupby(["step", "decoder"]):
        n, c = part["responses"].to_numpy(), part["correct"].to_numpy()
        k = int(n.min())
        shown = {"Pass@1": "pass_at_1", f"Pass@{k}": "pass_at_k", f"Worst@{k}": "worst_at_k"}
        values = {
            f"decoder {decoder}/{name}": float(METRICS[metric](n, c).mean()) for name, metric in shown.items()
        }
        steps.setdefault(int(step), {}).update(values)
    return sorted(steps.items())


def datasets_of(run: Path, evaluation: Path, files: Mapping[str, Path]) -> list[DataSet]:
    """Return what a run was trained and evaluated on.

    Args:
        run: folder of the finished run.
        evaluation: manifest of its evaluation.
        files: data set -> its Parquet file, which has a card beside it.
    """
    training = read_yaml(run / "config.yaml")["training"]["dataset"]
    request = load_json(evaluation)["request"]
    found = []
    for context, name in (("training", training), ("evaluation", request["dataset"])):
        facts = card_facts(load_json(data_card(files[name])))
        found.append(DataSet(name, context, facts["source"], facts["rows"], facts["sha256"]))
    return found


def experiment_notes(scale: str, figures: Iterable[str], report: str) -> dict[str, str]:
    """Return MLflow experiment -> its description, in Markdown: its figures, and where each claim's verdict stands.

    Args:
        figures: entries of workflow/experiments.yaml that show runs.
        report: address of the report.
    """
    experiments, claims = load_experiments(), load_claims().claims
    notes: dict[str, list[str]] = {}
    for name in figures:
        figure = experiments[name]
        lines = notes.setdefault(tracking_experiment(scale, figure), [])
        lines.append(f"\n**{name}** {figure.title} (section {figure.section})")
        for identifier, claim in claims.items():
            if claim.figure == name:
                page = f"{report}#{anchor(f'{identifier}-{claim.readings[0]}')}"
                lines.append(f"- {identifier}: {claim.claim.rstrip('.')}. Verdict: `{page}`")
    return {experiment: "\n".join(lines).strip() for experiment, lines in notes.items()}
