"""Figure 3, and Propositions B.1 and C.1: what needs no training."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from reproduction.figures.plotting.style import COLORS, LINES, PRINT_WIDTH, head, set_style

CURVES = [
    ("blue", "dotted"),
    ("sky", "dashed"),
    ("green", "dashdot"),
    ("orange", "solid"),
    ("vermilion", "solid"),
]
PROPOSITIONS = {
    "variance_inflation": "Proposition B.1: variance inflation",
    "entropy": "Proposition C.1: entropy (nats)",
}


def schedules(table: pd.DataFrame, request: Mapping[str, Any]) -> Figure:
    """Draw temperature by response position, a panel per reading of the schedule."""
    set_style()
    panels = list(dict.fromkeys(table["panel"]))
    figure, axes = plt.subplots(
        -(-len(panels) // 2),
        2,
        figsize=(PRINT_WIDTH, 0.6 + 2.0 * -(-len(panels) // 2)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    named: list[list[str]] = []
    for axis, panel in zip(axes.flat, panels, strict=False):
        rows = table[table["panel"] == panel]
        names = list(dict.fromkeys(rows["curve"]))
        for (color, line), curve in zip(CURVES, names, strict=False):
            points = rows[rows["curve"] == curve]
            (drawn,) = axis.plot(
                points["position"], points["temperature"], color=COLORS[color], linewidth=1.4, label=curve
            )
            if LINES[line]:
                drawn.set_dashes(LINES[line])
        axis.axhline(1, color="grey", linewidth=0.6, zorder=0)
        axis.set_title(panel)
        axis.set_xlabel("response position (tokens)")
        if names not in named:  # panels of the same curves share one legend
            axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.07), handlelength=2.2)
            named.append(names)
    for axis in axes[:, 0]:
        axis.set_ylabel("temperature τ")
    head(figure, request["title"])
    return figure


def propositions(table: pd.DataFrame, request: Mapping[str, Any]) -> Figure:
    """Draw variance inflation and entropy by temperature, with the range over distributions."""
    set_style()
    figure, axes = plt.subplots(1, 2, figsize=(PRINT_WIDTH, 2.8), layout="constrained")
    for axis, (metric, label) in zip(axes, PROPOSITIONS.items(), strict=True):
        rows = table[table["metric"] == metric]
        for (color, line), (size, curve) in zip(CURVES[1:], rows.groupby("vocabulary"), strict=False):
            axis.fill_between(
                curve["temperature"],
                curve["low"],
                curve["high"],
                color=COLORS[color],
                alpha=0.15,
                linewidth=0,
            )
            (drawn,) = axis.plot(
                curve["temperature"], curve["value"], color=COLORS[color], label=f"{size:,} tokens"
            )
            if LINES[line]:
                drawn.set_dashes(LINES[line])
        axis.axvline(1, color="grey", linewidth=0.6, zorder=0)
        axis.set_xscale("log")
        ticks = [t for t in (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3) if t <= rows["temperature"].max()]
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("temperature τ")
        sizes = rows.drop_duplicates("vocabulary")
        violated, drawn_at_random = int(sizes["violations"].sum()), int(sizes["distributions"].sum())
        axis.set_title(f"{label}\nviolated by {violated:,} of {drawn_at_random:,} distributions")
    axes[0].legend(frameon=False, title="vocabulary", loc="upper center")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4, 5, 7, 10]))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].yaxis.set_major_formatter("{x:g}")
    head(
        figure, request["title"], "lines: means over random distributions; bands: the least and the greatest"
    )
    return figure
