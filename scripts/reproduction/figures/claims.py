"""A forest plot of the verdicts: effect, interval, boundary and margin of each, grouped by unit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from reproduction.figures.style import COLORS, PRINT_WIDTH, pyplot, save, set_style
from reproduction.files import load_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour, mark and word say the same, so that none is needed alone.
VERDICT_MARKS = {
    "reproduced": ("green", "o"),
    "not reproduced": ("vermilion", "X"),
    "inconclusive": ("grey", "D"),
    "not run": ("black", "|"),
}
ROW_HEIGHT = 0.19  # inches
_COLUMNS = [
    *("id", "title", "claim", "models", "reading", "reading_label"),
    *("figure", "verdict", "verdict_in_full", "unit", "panel"),
    *("effect", "low", "high", "boundary", "margin", "minimum_detectable_effect"),
    *(
        "problems",
        "samples",
        "seeds",
        "seeds_needed",
        "sample_unit",
        "p",
        "p_adjusted",
        "p_against",
        "p_against_adjusted",
    ),
]


class Verdicts:
    """The figure of all claims; no entry of workflow/experiments.yaml, since every scale has it."""

    @staticmethod
    def write(estimates: Path, request: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """See :class:`reproduction.figures.figure.Figure`; ``estimates`` is claims.json."""
        judged = load_json(estimates)
        drawn = rows(judged)
        save(forest(judged, drawn), drawn, **files)


def rows(judged: dict[str, Any]) -> pd.DataFrame:
    """Return the verdicts as the figure draws them: one row each, with the ``panel`` that it stands in.

    Shares are in percentage points (or percent of the control), everything else in its own unit.
    """
    table = pd.DataFrame(judged["verdicts"]).reindex(columns=_COLUMNS)
    table["panel"] = [_panel(unit, low) for unit, low in zip(table["unit"], table["low"], strict=True)]
    shares = table["unit"].fillna("").str.startswith("share")
    numbers = ["effect", "low", "high", "boundary", "margin", "minimum_detectable_effect"]
    table[numbers] = table[numbers].astype(float)
    table.loc[shares, numbers] *= 100
    return table


def _panel(unit: str | None, low: float) -> str:
    if pd.isna(low):
        return "no interval"
    if unit.startswith("share of the control"):
        return "percent of the control"
    return "percentage points" if unit.startswith("share") else unit


def forest(judged: dict[str, Any], drawn: pd.DataFrame) -> "Figure":
    """Draw ``drawn`` (see :func:`rows`): a panel per unit, and last the verdicts that have no interval."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    set_style()
    panels = list(dict.fromkeys(drawn["panel"]))
    panels.sort(key=lambda name: name == "no interval")  # stable: in the order of the claims otherwise
    sizes = [int((drawn["panel"] == name).sum()) for name in panels]
    figure, axes = pyplot().subplots(
        len(panels),
        figsize=(PRINT_WIDTH, 1.25 + sum(ROW_HEIGHT * size + 0.42 for size in sizes)),
        height_ratios=[size + 0.4 for size in sizes],
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[:, 0], panels, strict=True):
        _draw_panel(axis, name, drawn[drawn["panel"] == name])
    handles = [
        Line2D([], [], color=COLORS[color], marker=marker, linestyle="", markersize=5, label=verdict)
        for verdict, (color, marker) in VERDICT_MARKS.items()
    ]
    if drawn["boundary"].notna().any():
        handles.append(
            Line2D([], [], color="black", marker="|", linestyle="", markersize=8, label="boundary")
        )
    if drawn["margin"].notna().any():
        handles.append(Patch(color="#0072B2", alpha=0.15, linewidth=0, label="margin"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    seeds = planned_seeds(judged["seeds"], judged.get("seeds_by_experiment"))
    figure.suptitle(
        f"The paper's claims at the scale {judged['scale']}: {judged['description']}\n"
        f"{seeds}\n"
        f"{judged['confidence']:.0%} intervals of the decisive comparisons; "
        f"verdicts at {judged['alpha']:g} after Holm's correction within a reading",
        fontsize=8.5,
        x=0.01,
        ha="left",
    )
    return figure


def planned_seeds(seeds: Sequence[int], by_experiment: Mapping[str, Sequence[int]] | None) -> str:
    """Return the seeds of a configuration in words: "seed 0; seeds 0, 1, 2 of fig04"."""

    def words(numbers: Sequence[int]) -> str:
        return f"seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"

    return "; ".join(
        [words(seeds), *(f"{words(own)} of {name}" for name, own in (by_experiment or {}).items())]
    )


def _draw_panel(axis, name: str, part: pd.DataFrame) -> None:
    interval = name != "no interval"
    for position, row in enumerate(part.itertuples()):
        color, marker = VERDICT_MARKS[row.verdict]
        if interval:
            reach = row.boundary or row.margin  # NaN, and so not drawn, where it was not kept
            axis.fill_betweenx(
                [position - 0.38, position + 0.38],
                min(0, reach),
                max(0, reach),
                color="#0072B2",
                alpha=0.15,
                lw=0,
            )
            axis.plot([row.boundary] * 2, [position - 0.38, position + 0.38], color="black", linewidth=0.8)
            axis.plot([row.low, row.high], [position] * 2, color=COLORS[color], linewidth=1.5)
        axis.plot(
            row.effect if interval else 0, position, marker, color=COLORS[color], markersize=5, linestyle=""
        )
        axis.annotate(
            row.verdict_in_full,
            (1, position),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=COLORS[color],
        )
    axis.set_yticks(
        range(len(part)),
        [
            f"{row.id}  {row.title}, {row.reading_label}" if first else f"{row.id}, {row.reading_label}"
            for row, first in zip(part.itertuples(), ~part["id"].duplicated(), strict=True)
        ],
        fontsize=6.5,
    )
    axis.set_ylim(len(part) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    if interval:
        axis.axvline(0, color="#888888", linewidth=0.8, zorder=0)
        axis.set_xlabel(f"difference, {name}")
    else:
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        axis.set_title("no interval: not run, a proposition, or not kept", loc="left", fontsize=7.5)
