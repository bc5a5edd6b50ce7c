"""How cost grows: by step, by response tokens, by number of runs."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reproduction.costs.growth import EVALUATION, OUTSIDE, STEPS, Costs
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, head, set_style
from reproduction.figures.training_curves import RAMP

PARTS = {
    "sampling": ("blue", "sampling"),
    "update": ("vermilion", "update"),
    "grading": ("green", "grading"),
    "logprobs": ("purple", "log-probabilities"),
    "reference": ("sky", "reference model"),
}
"""Part of a step -> its colour and name."""
LAYERS = {STEPS: ("blue", None), OUTSIDE: ("sky", "///"), EVALUATION: ("orange", "...")}
"""Part of a run -> colour and hatching of its layer, from below."""


def growth(costs: Costs, models: Mapping[str, str], scale: str) -> Figure:
    """Draw the table of costs; ``models`` are the labels of models, ``scale`` describes the scale."""
    set_style()
    title = "How cost grows with steps, rollouts n, response length, cells and seeds"
    table = costs.table
    shown = [model for model in models if (table["model"] == model).any()]
    if not shown:
        figure = plt.figure(figsize=(PRINT_WIDTH, 1.0), layout="constrained")
        figure.add_subplot().set_axis_off()
        figure.axes[0].text(0.5, 0.5, "no run so far", ha="center", va="center", style="italic", color="grey")
        head(figure, title)
        return figure
    unit = "CPU s" if costs.cpu else "s on the wall"
    figure = plt.figure(figsize=(PRINT_WIDTH, 7.4), layout="constrained")
    grid = figure.add_gridspec(3, len(shown), height_ratios=[1, 1.15, 1.15])
    ramp = dict(zip(sorted(table["n"].dropna().unique()), RAMP, strict=False))
    first: list[Axes | None] = [None, None]
    for column, model in enumerate(shown):
        of_model = table[table["model"] == model]
        for row, draw in enumerate((_draw_steps, _draw_tokens)):
            axis = figure.add_subplot(grid[row, column], sharex=first[row], sharey=first[row])
            first[row] = first[row] or axis
            draw(axis, of_model[of_model["panel"] == ("steps", "tokens")[row]], ramp)
            axis.tick_params(labelleft=column == 0)
            if row == 0:
                axis.set_title(models[model].replace(", ", ",\n"), fontsize=7.5)
    first[0].set_xlim(left=0)  # the panels of a row share their axes
    first[0].set_ylim(bottom=0)
    first[0].set_ylabel(f"{unit}, training so far")
    first[1].set_ylabel(f"{unit} per step")
    parts = [part for part in PARTS if (table["part"] == part).any()]
    figure.axes[0].legend(
        handles=[
            Line2D(
                [], [], color=color, marker=marker, markersize=4, dashes=LINES[line] or (None, None), label=f"n = {n}"
            )
            for n, (color, marker, line) in ramp.items()
        ],
        loc="upper left",
        frameon=False,
        handlelength=2.6,
    )  # fmt: skip
    figure.axes[1].legend(
        handles=[Line2D([], [], color=COLORS[PARTS[part][0]], label=PARTS[part][1]) for part in parts],
        loc="center left",
        bbox_to_anchor=(0, 0.4),
        frameon=False,
    )
    _draw_runs(figure.add_subplot(grid[2, :]), table[table["panel"] == "runs"], costs)
    head(figure, title, f"{scale}; {costs.trained} trainings", *_notes(costs))
    return figure


def _draw_steps(axis: Axes, points: pd.DataFrame, ramp) -> None:
    for n, curve in points.groupby("n"):
        color, marker, line = ramp[n]
        axis.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.15, linewidth=0)
        every = max(1, len(curve) // 4)
        (drawn,) = axis.plot(
            curve["x"], curve["value"], color=color, marker=marker, markersize=3.4, markevery=(every - 1, every)
        )  # fmt: skip
        if LINES[line]:
            drawn.set_dashes(LINES[line])
    axis.set_xlabel("training step")
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_tokens(axis: Axes, points: pd.DataFrame, ramp) -> None:
    for (part, n), curve in points.groupby(["part", "n"]):
        color = COLORS[PARTS[part][0]]
        reach = [curve["value"] - curve["low"], curve["high"] - curve["value"]]
        axis.errorbar(
            curve["x"], curve["value"], yerr=reach, color=color, marker=ramp[n][1], markersize=3.4, elinewidth=0.7,
            linewidth=1,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("response tokens of the step")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens / 1000:g}k"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _draw_runs(axis: Axes, points: pd.DataFrame, costs: Costs) -> None:
    layers = points.pivot(index="x", columns="part", values="value")
    hours = layers.iloc[-1].sum() > 2 * 3600
    layers /= 3600 if hours else 60
    below = 0 * layers[STEPS]
    for part, (color, hatch) in LAYERS.items():
        if not layers[part].any():
            continue
        above = below + layers[part]
        axis.fill_between(
            layers.index, below, above, facecolor=COLORS[color], alpha=0.55, hatch=hatch, edgecolor="white",
            linewidth=0, label=part,
        )  # fmt: skip
        axis.plot(layers.index, above, color=COLORS[color], linewidth=1)
        below = above
    axis.set_xlim(0, max(costs.trained, 1))
    axis.set_ylim(bottom=0)
    unit = "hours" if hours else "minutes"
    axis.set_ylabel(f"{'CPU ' if costs.cpu else ''}{unit}, all so far")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="upper left", frameon=False)
    if len(costs.runs_of_seed) > 1:
        axis.set_xlabel("runs: the cells of one seed after those of another")
        above, first = axis.get_xaxis_transform(), 0
        for seed, runs in costs.runs_of_seed.items():
            if first:
                axis.axvline(first, color="#595959", linewidth=0.8, linestyle="dashed")
            axis.text(first + runs / 2, 1.01, f"seed {seed}", transform=above, ha="center", fontsize=7.5)
            first += runs
    else:
        axis.set_xlabel(
            f"cells, one seed each: another seed is {costs.cells} runs more and costs as much again"
        )


def _notes(costs: Costs) -> list[str]:
    notes = []
    if costs.untimed_evaluations:
        notes.append(
            f"times not recorded, and so not drawn: {costs.untimed_evaluations} of {costs.evaluated} evaluations"
        )
    if costs.untimed_starts:
        notes.append(
            f"not recorded: what {costs.untimed_starts} of {costs.trained} trainings took outside their steps"
        )
    return notes
