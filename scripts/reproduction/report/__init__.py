"""The HTML report: one file, offline, written from recorded artefacts only.

:func:`collect` reads what is there: claims.json, deviations.json, figures, tables, manifests of runs and evaluations,
data cards, what was ingested into MLflow. What is absent is shown as not run, never left out silently.
:func:`render` fills the templates in workflow/report/.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from docutils.core import publish_parts
from markupsafe import Markup

from ead import metrics
from reproduction import figures, layout
from reproduction.claims import VERDICTS, words
from reproduction.config import ROLE_LABELS, WORKFLOW, Configuration, Scale
from reproduction.config.runs import RunConfiguration, expand_all
from reproduction.data.schema import card_facts
from reproduction.evaluation.samples import correct_counts
from reproduction.figures import COST, DeviationsFigure, Figure, published
from reproduction.figures.analyses import CONFIDENCE
from reproduction.figures.claims import planned_seeds
from reproduction.files import load_json
from reproduction.training import health

MLFLOW_ADDRESS = "http://127.0.0.1:5000"  # where `make mlflow` serves
# Readings that tables show side by side, none above another, and their headings; others share a last column.
READINGS = {
    "printed": "formula as printed",
    "released": "sampler as released",
    "released_evaluation": "greedy re-evaluation",
}

# Headings of the paper, in its order; figures stand under the section that shows them.
SECTIONS = {
    "3": "3 Exploration and position",
    "4": "4 A method for sequential exploration",
    "5.1": "5.1 Experimental setup",
    "5.2": "5.2 EAD improves training",
    "5.3": "5.3 Other algorithms",
    "5.4": "5.4 Inference-time scaling",
    "5.5": "5.5 Ablation study",
    "5.6": "5.6 Stress test",
    "A": "A Hyperparameters",
    "B.1, C.1": "B.1, C.1 Propositions",
    "B.2": "B.2 Truncated importance sampling",
    "D": "D Response length",
    "discrepancy D06": "D06 Evaluation decoders",
}


def render(template: str, **values: Any) -> str:
    """Fill ``workflow/report/{template}``; everything is escaped, a name that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WORKFLOW / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "amount": amount,
        "unit_label": unit_label,
        "anchor": anchor,
        "signs_in_words": words.signs_in_words,
        "side_by_side": side_by_side,
        "figure_label": figure_label,
        "first_capital": lambda text: text[:1].upper() + text[1:],
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    return environment.get_template(template).render(**values)


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, thousands separated, a real minus sign; a dash for null."""
    if value is None or pd.isna(value):
        return "–"
    if value in (float("inf"), float("-inf")):
        return "never" if value > 0 else "−∞"
    text = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.{digits}g}"
    return text.replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percentage without its sign; a dash for null."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:z.{digits}f}".replace("-", "−")


def amount(value: float | None, unit: str | None) -> str:
    """A number in its unit; shares, and percentage points, are recorded as fractions of 1 and shown in percent."""
    if unit and (unit == "percentage points" or unit.startswith("share")):
        return percent(value)
    return number(value)


def unit_label(unit: str | None) -> str:
    """The unit that ``amount`` shows: ``share of problems`` becomes ``% of problems``."""
    return "%" + unit.removeprefix("share") if unit and unit.startswith("share") else unit or ""


def figure_label(name: str) -> str:
    """The paper's name of a figure or table, ``Figure 7a`` for ``fig07a``; other names as they are."""
    found = re.fullmatch(r"(fig|table)0?(\d+[a-z]?)", name)
    return f"{'Figure' if found[1] == 'fig' else 'Table'} {found[2]}" if found else name


def anchor(text: str) -> str:
    """``text`` as an identifier within the page."""
    return "".join(c if c.isalnum() else "-" for c in text)


def collect(
    configuration: Configuration,
    scale: Scale,
    experiments: Mapping[str, Figure],
    *,
    results: Path,
    reports: Path,
    ingested: Path,
) -> dict[str, Any]:
    """Return what the template ``report.html`` shows.

    Args:
        results: the scale's results; ``reports`` the scale's reports, where the page will be.
        ingested: what ``ingest_runs.py`` reported, for the links to MLflow.
    """
    # Those of `claims`, or of `claims_so_far` where that was all that was asked for.
    judged = "claims" if (reports / "claims.json").exists() else "claims_so_far"
    claims = _json(reports / f"{judged}.json")
    deviations = _json(reports / "deviations.json")
    runs_of = expand_all(configuration, scale, {**figures.load_experiments(), **experiments})
    runs = {name: run for experiment in experiments for name, run in runs_of[experiment].items()}
    rows = [_run(run, scale, results, _json(ingested)) for run in runs.values()]
    drawn = [
        _figure(name, experiment, runs_of[name], scale, reports) for name, experiment in experiments.items()
    ]
    return {
        "configuration": configuration,
        "planned_seeds": planned_seeds(configuration.seeds, configuration.seeds_by_experiment),
        "scale": scale,
        "confidence": CONFIDENCE,
        "verdicts": VERDICTS,
        "readings": READINGS,
        "claims": claims,
        "rule": words.rule_in_words(claims) if claims else None,
        "judged": _judged(claims),
        "claims_figure": _image(reports / "figures" / f"{judged}.png"),
        "claims_files": f"figures/{judged}",
        "sections": _by_section(drawn),
        "shown": [figure["name"] for figure in drawn if figure["name"] != "deviations"],
        "cost": _cost(scale, reports),
        "deviations": deviations,
        "deviations_figure": _image(reports / "figures" / "deviations.png"),
        "schedule_page": (WORKFLOW / "report" / "schedule.html").read_text(encoding="utf-8"),
        "tables": _tables(reports / "tables"),
        "cards": _cards(scale, results),
        "models": _models(scale, results),
        "runs": rows,
        "health": _health(rows),
        "code": Counter(row["code"] for row in rows if row["code"]),
        "choices": json.dumps(configuration.choices | {"experiments": configuration.experiments}),
        "mlflow": MLFLOW_ADDRESS,
        "results": str(results),
    }


# --- parts -------------------------------------------------------------------------------------------------


def _judged(claims: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The claims in their order, each with its verdicts by reading and what it is tested on."""
    judged: dict[str, dict[str, Any]] = {}
    for row in claims["verdicts"] if claims else []:
        claim = judged.setdefault(
            row["id"],
            {
                "id": row["id"],
                "text": row["claim"],
                "figure": row["figure"],
                "models": row["models"],
                "rows": [],
            },
        )
        claim["rows"].append({**row, "change": words.what_would_change(row, claims)})
    return list(judged.values())


def side_by_side(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return a claim's verdicts as the cells of a table: a reading of :data:`READINGS` each, then the others."""
    named = [[row for row in rows if row["reading"] == reading] for reading in READINGS]
    return [*named, [row for row in rows if row["reading"] not in READINGS]]


def _figure(name, experiment, runs, scale, reports) -> dict[str, Any]:
    image = _image(reports / "figures" / f"{name}.png")
    papers = (
        [] if scale.published_curves else figures.published_curves(name, {role: role for role in ROLE_LABELS})
    )
    table = reports / "figures" / f"{name}.csv"
    return {
        "name": name,
        "title": experiment.title,
        "section": experiment.section,
        "image": image,
        "published": _data_address(published.png(papers, scale.samplers)) if papers and image else None,
        "alt": f"{experiment.title}. The numbers drawn are in figures/{name}.csv.",
        "sizes": _sizes(table) if image else None,
        "caption": _caption(experiment, scale, runs),
        "files": [
            f"figures/{name}.{suffix}"
            for suffix in ("pdf", "png", "csv")
            if (reports / "figures" / f"{name}.{suffix}").exists()
        ],
        "runs": list(runs),
    }


def _caption(experiment: Figure, scale: Scale, runs: Mapping[str, RunConfiguration]) -> Markup:
    """The caption of Snakemake's report, from the same .rst, as HTML: estimator, intervals, sizes, scale."""
    if isinstance(experiment, DeviationsFigure):
        return Markup("")
    if experiment.folder == "tables":
        return Markup("The table is below, under Tables.")
    return _caption_from(experiment.caption_template, {"caption": experiment.caption(scale, runs)})


def _caption_from(template: str, parameters: Mapping[str, Any]) -> Markup:
    text = (WORKFLOW / "report" / template).read_text(encoding="utf-8")
    filled = jinja2.Template(text).render(snakemake={"params": parameters})
    settings = {"file_insertion_enabled": False, "raw_enabled": False, "halt_level": 2, "report_level": 2}
    return Markup(publish_parts(filled, writer="html5", settings_overrides=settings)["fragment"])


def _cost(scale: Scale, reports: Path) -> dict[str, Any]:
    return {
        "image": _image(reports / "figures" / "cost.png"),
        "caption": _caption(COST, scale, {}),
    }


def _by_section(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = list(SECTIONS)
    known = sorted(
        (figure for figure in drawn if figure["section"] in SECTIONS),
        key=lambda figure: (order.index(figure["section"]), figure["name"]),
    )
    # The deviations have a part of the page of their own, and their figure stands there.
    other = [f for f in drawn if f["section"] not in SECTIONS and f["name"] != "deviations"]
    groups: dict[str, list] = {}
    for figure in known:
        groups.setdefault(SECTIONS[figure["section"]], []).append(figure)
    if other:
        groups["Other figures"] = other
    return [{"title": title, "figures": members} for title, members in groups.items()]


def _image(path: Path) -> str | None:
    """The picture as a data address; None where it has not been made."""
    if not path.exists():
        return None
    return _data_address(path.read_bytes())


def _data_address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _sizes(table: Path) -> dict[str, str]:
    """The data behind a figure, as ranges over its rows."""
    frame = pd.read_csv(table)
    sizes = {}
    for column in ("problems", "samples", "seeds"):
        if column in frame and frame[column].notna().any():
            low, high = int(frame[column].min()), int(frame[column].max())
            sizes[column] = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return sizes


def _run(run: RunConfiguration, scale: Scale, results: Path, ingested: dict | None) -> dict[str, Any]:
    manifest = _json(results / "runs" / run.name / "manifest.json")
    path = results / "evaluations" / run.name / "manifest.json"
    evaluation = _json(path)
    row = {
        "name": run.name,
        "label": f"{scale.samplers[run.sampler].label}",
        "run": run,
        "status": manifest["status"] if manifest else "not run",
        "hash": manifest["configuration_hash"] if manifest else None,
        # A run made with other numbers than the configuration's is shown, and said to be another.
        "current": manifest is None or manifest["configuration_hash"] == run.hash,
        "steps": manifest["steps"] if manifest else None,
        "signs": [],
        "code": manifest["code"]["commit"] if manifest else None,
        "page": None,
        "training": None,
        "evaluation": _evaluation_health(evaluation),
        "pass_at_1": None,
        "pass_at_k": None,
        "k": None,
    }
    known = ((ingested or {}).get("runs") or {}).get(run.name, {})
    if known.get("run_id"):
        row["page"] = f"{MLFLOW_ADDRESS}/#/experiments/{known['experiment_id']}/runs/{known['run_id']}"
    if evaluation and evaluation["files"]:  # none of a run that diverged before its first checkpoint
        decoder = scale.evaluation_of(run.model).decoders[0]
        counts = correct_counts(path, [decoder], last_step=True)
        n, c = counts["responses"].to_numpy(), counts["correct"].to_numpy()
        row |= {
            "pass_at_1": float(metrics.pass_at_k(n, c, 1).mean()),
            "pass_at_k": float(metrics.pass_at_k(n, c, n).mean()),
            "k": int(n.min()),
        }
    if manifest:
        frame = pd.read_parquet(results / "runs" / run.name / "metrics.parquet")
        row["signs"] = health.signs(frame)
        row["training"] = {
            "timeouts": float(frame["verdicts_timeout"].mean()),
            "errors": float(frame["verdicts_error"].mean()),
            "truncated": float(frame["truncated_share"].mean()),
            "zero_reward": float((frame["reward_mean"] == 0).mean()),
        }
    return row


def _evaluation_health(evaluation: dict | None) -> dict[str, int] | None:
    if evaluation is None:
        return None
    files = evaluation["files"]
    return {
        "responses": sum(file["responses"] for file in files),
        "truncated": sum(file["truncated"] for file in files),
        **{
            name: sum(file["statuses"].get(status, 0) for file in files)
            for name, status in (("timeouts", "timeout"), ("errors", "error"), ("no_answer", "no_answer"))
        },
    }


def _health(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all runs of the table: how many finished, and what their evaluations lost."""
    evaluated = [row["evaluation"] for row in rows if row["evaluation"]]
    trained = [row["training"] for row in rows if row["training"]]
    return {
        "status": Counter(row["status"] for row in rows),
        "signs": Counter(sign.name for row in rows for sign in row["signs"]),
        "evaluated": len(evaluated),
        "evaluation": {
            key: sum(counts[key] for counts in evaluated)
            for key in ("responses", "truncated", "timeouts", "errors", "no_answer")
        },
        "training": {
            key: max((values[key] for values in trained), default=None)
            for key in ("timeouts", "errors", "truncated", "zero_reward")
        },
    }


def _tables(folder: Path) -> list[dict[str, Any]]:
    """Tables as the rules wrote them: the CSV's columns and rows, numbers rounded for a reader."""
    tables = []
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else []:
        frame = pd.read_csv(path)
        tables.append(
            {
                "name": path.stem,
                "file": f"tables/{path.name}",
                "columns": list(frame.columns),
                "rows": [
                    [number(v) if isinstance(v, (int, float)) else v for v in row]
                    for row in frame.astype(object).to_numpy().tolist()
                ],
            }
        )
    return tables


def _cards(scale: Scale, results: Path) -> list[dict[str, Any]]:
    """Data sets with what a table shows of their cards."""
    cards = {}
    for name in scale.datasets:
        file = layout.dataset_file(results.parent, results.name, scale, name)
        card = _json(layout.data_card(file))
        # Two names may stand for parts of one source.
        cards[file.stem] = {"name": file.stem, "card": card, **(card_facts(card) if card else {})}
    return list(cards.values())


def _models(scale: Scale, results: Path) -> list[dict[str, Any]]:
    """Models with what a table shows of their manifests; trained and imported ones have two forms."""
    stands_for = {role.model: name for name, role in scale.roles.items()}
    models = []
    for name, definition in scale.models.items():
        imported = definition.kind == "pretrained"
        manifest = _json(layout.model_manifest(results.parent, results.name, scale, name))
        shown = {"name": name, "role": stands_for.get(name), "manifest": manifest}
        if manifest:
            source = source_in_words(manifest["source"])
            checksum = None if imported else manifest["sha256"]
            shown |= {"parameters": manifest.get("parameters"), "source": source, "sha256": checksum}
        models.append(shown)
    return models


def source_in_words(source: str | Mapping[str, Any]) -> str:
    """Return where a model comes from, as its manifest says it: a mapping for an import."""
    return source if isinstance(source, str) else ", ".join(map(str, source.values()))


def _json(path: Path) -> Any:
    return load_json(path) if path.exists() else None
