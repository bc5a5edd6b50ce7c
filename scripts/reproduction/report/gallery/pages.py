"""The gallery's pages: verdicts side by side, figures, the ranking of rivals, and the README's summary."""

import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from reproduction.claims import VERDICTS, Claims, verdict_in_full
from reproduction.claims.words import models_in_words, rule_in_words
from reproduction.config import load_scale
from reproduction.figures import load_experiments
from reproduction.figures.analyses import METRIC_LABELS
from reproduction.figures.claims import planned_seeds
from reproduction.figures.rivals import COSTS
from reproduction.figures.tuning import SCORES
from reproduction.report import READINGS, amount, number, percent, side_by_side, unit_label

RULE = "../../docs/claims.md"  # from the gallery
# No plan has these, so they are beside every run; their tables are kept.
ASKED_BY_NAME = ("rivals_tuning", "rivals")


def ruled(table: pd.DataFrame, declared: Claims, run: dict) -> list[dict]:
    """Return the verdicts of claims.csv under today's rule on training seeds, with today's words.

    A claim about trainings of fewer seeds than it needs is inconclusive; every other verdict stays. ``was`` holds the
    verdict of the run.
    """
    scale, experiments = load_scale(run["scale"], run["configuration"]["overrides"]), load_experiments()
    rows = []
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        claim, needed = declared.claims[row["id"]], declared.seeds_needed(row["id"])
        # A claim that was not run has no number of its own.
        seeds = int(row["seeds"] or len(run["seeds"])) if needed else None
        in_full = verdict_in_full(row["verdict"], seeds, needed)
        rows.append(
            # A table from before these columns does not say which comparison decides, nor which training was flagged.
            {"comparison": None, "comparisons": None, "flagged": None}
            | row
            | {
                "was": row["verdict"],
                "verdict": "inconclusive" if in_full.startswith("inconclusive") else row["verdict"],
                "verdict_in_full": in_full,
                "seeds": seeds,
                "seeds_needed": needed,
                "title": claim.title,
                "claim": claim.claim,
                "figure": claim.figure,
                "reading_label": declared.readings[row["reading"]].label,
                "models": models_in_words(claim, scale, experiments, run["parameters"]),
            }
        )
    return rows


def page(
    run: dict,
    rows: list[dict],
    declared: Claims,
    pictures: list[tuple[str, str]],
    tables: Mapping[str, list[str]] = MappingProxyType({}),
) -> str:
    """Return README.md: where this comes from, the verdicts side by side, the figures."""
    lines = [
        "# Gallery",
        "",
        f"One full run at the scale `{run['scale']}` ({run['description']}), commit `{run['commit']}` "
        f"({run['state']}), {run['cores']} CPU cores, {run['machine']}, Python {run['python']}. `make gallery` writes "
        "this folder from the reports of such a run.",
        "",
        f"Configuration: `{json.dumps(run['configuration'])}`",
        "",
        "## Verdicts",
        "",
        *textwrap.wrap(f"{rule_in_words(run)} [How a claim is judged]({RULE}) explains the rule.", 118),
        "",
        "A verdict concerns the models that were trained, not the paper's: each stands in the role of one of them.",
        "Where the paper leaves a choice open, a claim has a verdict for each reading. None stands above another:",
        "",
    ]
    used = [name for name in declared.readings if any(row["reading"] == name for row in rows)]
    for name in used:
        reading = declared.readings[name]
        lines.append(f"- {READINGS.get(name, reading.label)}: {reading.about}")
    changed = [row for row in rows if row["verdict"] != row["was"]]
    if changed:
        counts = Counter(row["was"] for row in changed)
        was = ", ".join(f"{counts[name]} from {name}" for name in VERDICTS if counts[name])
        lines += [
            "",
            f"A claim about trainings needs {declared.seeds} training seeds or more. That rule came after this run, "
            f"which had {len(run['seeds'])}. It turns {len(changed)} of {len(rows)} verdicts to inconclusive ({was}) "
            "and leaves the others as they were. Effects and intervals are those of the run. They do not hold how much "
            "trainings of other seeds differ. [claims.csv](claims.csv) keeps the verdicts of the run.",
        ]
    else:
        lines += ["", "The table is also a file: [claims.csv](claims.csv)."]
    lines += ["", "An effect is held against 0, or against the boundary that is named behind it."]
    if any(row["effect"] is None and row["verdict"] != "not run" for row in rows):
        lines += ["", "A verdict without an effect: the run's numbers for that reading were not kept."]
    lines += [
        "",
        f"| id | claim | {' | '.join(READINGS.values())} | another reading |",
        f"| --- | --- |{' --- |' * (len(READINGS) + 1)}",
    ]
    notes = list(dict.fromkeys(row["flagged"] for row in rows if row["flagged"]))
    for name in dict.fromkeys(row["id"] for row in rows):
        of_claim = [row for row in rows if row["id"] == name]
        models = f" *{of_claim[0]['models']}*" if of_claim[0]["models"] else ""
        cells = [name, of_claim[0]["claim"] + models]
        cells += ["<br>".join(_cell(row, notes) for row in part) or "–" for part in side_by_side(of_claim)]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    if notes:
        lines += ["", *(f"<sup>{number}</sup> {note}  " for number, note in enumerate(notes, 1))]
    lines += ["", "## Figures", ""]
    of_run = {"claims", "cost", *run["configuration"]["experiments"]}
    for name, title in pictures:
        lines += [f"### {name}: {title}", ""]
        if name in ASKED_BY_NAME:
            which = "the run" if name in run.get("asked_by_name", ()) else "an earlier run"
            lines += [f"Asked for by its name, beside {which}; its table is [{name}.csv]({name}.csv).", ""]
        elif name not in of_run:
            lines += [
                "Not of this run: it did not ask for this figure, and the picture is of an earlier one.",
                "",
            ]
        lines += [f"![{title}]({name}.png)", "", *tables.get(name, ())]
    return "\n".join(lines)


def _cell(row: dict, notes: list[str]) -> str:
    """Return a verdict with its effect and interval, as one cell of the table shows it.

    Of several comparisons it names the one that decides; ``notes`` has the footnote of a flagged training.
    """
    label = "" if row["reading"] in READINGS else f"{row['reading_label']}: "
    if row["effect"] is None:
        return f"{label}**{row['verdict_in_full']}**"
    units = "" if row["problems"] is None else f", {number(row['problems'])} {row['sample_unit']}"
    note = f"<sup>{notes.index(row['flagged']) + 1}</sup>" if row["flagged"] else ""
    boundary = f" against {amount(row['boundary'], row['unit'])}" if row["boundary"] else ""
    several = row["comparisons"] and row["comparisons"] > 1
    decides = f", of {row['comparison']} ({number(row['comparisons'])} comparisons)" if several else ""
    effect = f"{_effect(row)}{note} {unit_label(row['unit'])}{boundary}"
    return f"{label}**{row['verdict_in_full']}**: {effect}{units}{decides}"


def _effect(row: dict) -> str:
    """Return an effect with its interval, where it has one, without the unit."""
    unit = row["unit"]
    interval = "" if row["low"] is None else f" [{amount(row['low'], unit)}, {amount(row['high'], unit)}]"
    return f"{amount(row['effect'], unit)}{interval}"


def ranking(table: pd.DataFrame, labels: Mapping[str, str], control: str) -> list[str]:
    """Return the ranking of ``rivals.csv`` as lines of Markdown: scores, and differences to the control in points.

    ``labels`` has the samplers' names in words, and ``control`` is compared with. Intervals and p-values are corrected
    as the figure's are.
    """
    finished = table[table["status"] == "finished"]
    waiting = [labels.get(sampler, sampler) for sampler in table.loc[table["status"] == "not run", "sampler"]]
    not_run = [f"Not run: {', '.join(waiting)}.", ""] if waiting else []
    if finished.empty:
        return not_run
    cells = finished.set_index(["sampler", "cost", "metric"])
    order = cells.xs((COSTS[0], SCORES[0]), level=("cost", "metric")).sort_values("rank")
    heads, k = ["sampler"], int(order["samples"].min())
    for metric in SCORES:
        heads += [METRIC_LABELS[metric].format(k=k), *(f"difference at equal {cost}" for cost in COSTS)]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for sampler in order.index:
        shown = [labels.get(sampler, sampler)]
        for metric in SCORES:
            rows = [cells.loc[(sampler, cost, metric)] for cost in COSTS]
            shown.append(percent(rows[0]["value"]))
            shown += ["control"] * len(COSTS) if sampler == control else map(_difference, rows)
        lines.append(f"| {' | '.join(shown)} |")
    return [*lines, "", *not_run]


def _difference(row: pd.Series) -> str:
    if pd.isna(row["difference"]):
        return "–"
    interval = f"[{percent(row['difference_low'])}, {percent(row['difference_high'])}]"
    return f"{percent(row['difference'])} {interval}, p = {number(row['p_holm'], 2)}"


def summary(run: dict, rows: list[dict]) -> str:
    """Return the verdicts for the project's README: the main claim in a sentence, and a row of counts per reading.

    The main claim is C03 with C04.
    """
    readings = {
        heading: [row for row in rows if row["reading"] == reading] for reading, heading in READINGS.items()
    }
    found = {heading: _main_verdict(of_reading) for heading, of_reading in readings.items()}
    if len(set(found.values())) == 1:
        main = f"In every reading, {found[READINGS['printed']]}."
    else:
        main = " ".join(f"With the {heading}, {words}." for heading, words in found.items())
    said = (
        "The main claim is that EAD reaches a higher Pass@16 than every fixed temperature, without TIS (C03) and with "
        f"it (C04). This run is at the `{run['scale']}` scale ({run['description']}; {_seeds(run)}). {main}"
    )
    main_rows = [
        row
        for row in readings[READINGS["printed"]]
        if row["id"] in ("C03", "C04") and row["effect"] is not None
    ]
    measured = list(map(_effect, main_rows))
    if len(measured) == 2:
        said += (
            " With the formula as printed, the mean Pass@16 over a run's checkpoints with EAD minus that at the fixed "
            f"temperature that decides was {measured[0]} percentage points, and {measured[1]} with TIS."
        )
        said += "".join(
            f" {note}" for note in dict.fromkeys(row["flagged"] for row in main_rows if row["flagged"])
        )
    if any(row["verdict"] != row["was"] for row in rows):
        said += " The rule on seeds came after the run; [the gallery](reports/gallery/README.md) says what it changed."
    lines = [
        textwrap.fill(said, 118, break_on_hyphens=False),
        "",
        f"| number of claims | {' | '.join(VERDICTS)} |",
        f"| --- |{' --- |' * len(VERDICTS)}",
    ]
    for heading, part in zip([*READINGS.values(), "another reading"], side_by_side(rows), strict=True):
        counts = Counter(row["verdict"] for row in part)
        if part or heading in READINGS.values():
            lines.append(
                f"| {len(part)} claims, {heading} | {' | '.join(str(counts[name]) for name in VERDICTS)} |"
            )
    return "\n".join(lines)


def _seeds(run: dict) -> str:
    """Return "3 training seeds", or the seeds by experiment where they differ."""
    if run.get("seeds_by_experiment"):
        return planned_seeds(run["seeds"], run["seeds_by_experiment"])
    return f"{len(run['seeds'])} training seed{'s' * (len(run['seeds']) != 1)}"


def _main_verdict(rows: list[dict]) -> str:
    alone, with_tis = (row["verdict_in_full"] for row in rows if row["id"] in ("C03", "C04"))
    return f"C03 and C04 are {alone}" if alone == with_tis else f"C03 is {alone} and C04 is {with_tis}"
