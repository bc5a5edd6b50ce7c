"""Curves of estimates by training step."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reproduction.figures.analyses import METRICS
from reproduction.figures.plotting.style import COLORS, LINES, PRINT_WIDTH, head, set_style

METRIC_LABELS = {
    "pass_at_1": "Pass@1 (%)",
    "pass_at_k": "Pass@{k} (%)",
    "worst_at_k": "Worst@{k} (%)",
    "resampled_best_at_k": "best@{k}, resampled (%)",
    "resampled_worst_at_k": "worst@{k}, resampled (%)",
    "reward_mean": "training reward (%)",
    "truncated_share": "truncated responses (%)",
    "response_length_mean": "response length (tokens)",
    "entropy": "entropy at τ = 1 (nats)",
    "entropy_at_sampling_temperature": "entropy at the sampling τ (nats)",
    "gradient_norm": "gradient norm",
    "loss": "loss",
    "approximate_kl": "approximate KL (nats)",
    "policy_ratio_max": "largest policy ratio",
    "importance_ratio_mean": "mean importance ratio",
    "importance_ratio_max": "largest importance ratio",
    "importance_weight_mean": "mean importance weight",
    "importance_share_capped": "capped weights (%)",
    "importance_effective_sample_share": "effective sample share (%)",
    "importance_behaviour_kl": "KL, policy to sampler (nats)",
}
SHARES = {"reward_mean", "truncated_share", "importance_share_capped", "importance_effective_sample_share"}
LOGARITHMIC = {"policy_ratio_max", "importance_ratio_max"}
# Rollouts per prompt: a ramp of greys, since colours belong to samplers.
RAMP = [
    ("#A6A6A6", "v", "dotted"),
    ("#666666", "s", "dashed"),
    ("#000000", "o", "solid"),
    ("#666666", "D", "solid"),
]
DIRECT_LABELS = 4  # up to so many curves of a single panel are named at their ends, without a legend
MARKED = 12  # curves of more points carry a mark at every few


@dataclass(frozen=True)
class Panel:
    """What one panel shows; ``sampler`` only where curves differ in the number of rollouts."""

    metric: str
    decoder: str | None
    model: str
    algorithm: str
    sampler: str | None


def training_curves(estimates: pd.DataFrame, request: Mapping[str, Any]) -> Figure:
    """Draw estimates by training step with their intervals.

    Args:
        estimates: the table of ``reproduction.figures.analyses.training_curves``.
        request: ``reproduction.figures.drawing_request`` of the figure.

    A row of panels per metric and decoder, a column per model and algorithm; one column alone is wrapped.
    """
    set_style()
    rows, columns = _layout(estimates, request)
    if not columns or (estimates["status"] == "not run").all():
        return nothing_ran(request)
    panels = [[Panel(*row[:2], *column, row[2]) for column in columns] for row in rows]
    if len(columns) == 1 and len(rows) > 1:
        flat = [row[0] for row in panels]
        panels = [flat[i : i + 2] for i in range(0, len(flat), 2)]
    figure, axes = plt.subplots(
        len(panels),
        max(map(len, panels)),
        figsize=(PRINT_WIDTH, _height(len(panels))),
        sharex="col" if len(columns) > 1 else False,
        squeeze=False,
        layout="constrained",
    )
    curves = _curve_names(estimates, request)
    direct = len(curves) <= DIRECT_LABELS and len(panels) == len(panels[0]) == 1
    wrapped = len(columns) == 1
    for row, axes_row in zip(panels, axes, strict=True):
        for axis in axes_row[len(row) :]:
            axis.set_axis_off()
        for panel, axis in zip(row, axes_row, strict=False):
            _draw_panel(axis, panel, estimates, request, curves, direct)
            if wrapped or axis in axes[0] or panel.sampler is not None:
                axis.set_title(_panel_title(panel, request))
            if wrapped or axis is axes_row[0]:
                axis.set_ylabel(_metric_label(panel, estimates, request))
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    handles = _handles(estimates, request, curves, direct)
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 4 if len(handles) > 5 else 5),
            frameon=False,
            title="training sampler" if request["curves"] == "sampler" else "rollouts per prompt",
        )
    head(figure, request["title"], *_notes(estimates, request))
    return figure


def _layout(estimates: pd.DataFrame, request: Mapping[str, Any]):
    columns = [
        (model, algorithm)
        for model in request["models"]
        for algorithm in request["algorithms"]
        if ((estimates["model"] == model) & (estimates["algorithm"] == algorithm)).any()
    ]
    samplers = list(request["samplers"]) if request["curves"] == "n" else [None]
    rows = [
        (metric, decoder, sampler)
        for metric in request["metrics"]
        for decoder in (request["decoders"] if metric in METRICS else [None])
        for sampler in samplers
    ]
    return rows, columns


def _height(rows: int) -> float:
    return 1.05 + {1: 2.3, 2: 2.05, 3: 1.8}.get(rows, 1.6) * rows


def _curve_names(estimates: pd.DataFrame, request: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
    """Return curve -> label, colour, marker and dashes, in the order of legends."""
    if request["curves"] == "sampler":
        return {
            name: {
                "label": sampler["label"],
                "color": COLORS[sampler["style"]["color"]],
                "marker": sampler["style"]["marker"],
                "dashes": LINES[sampler["style"]["line"]],
            }
            for name, sampler in request["samplers"].items()
        }
    numbers = sorted(estimates["n"].dropna().unique())
    return {
        int(n): {"label": f"n = {n}", "color": color, "marker": marker, "dashes": LINES[line]}
        for n, (color, marker, line) in zip(numbers, RAMP, strict=False)
    }


def _draw_panel(axis: Axes, panel: Panel, estimates, request, curves, direct: bool) -> None:
    chosen = estimates["metric"] == panel.metric
    for key in ("model", "algorithm", "decoder", "sampler"):
        value = getattr(panel, key)
        if value is not None:
            chosen &= estimates[key] == value
    here, key = estimates[chosen], request["curves"]
    ends, missing = [], []
    for name, style in curves.items():
        curve = here[here[key] == name].sort_values("step")
        if not len(curve):
            continue
        if (curve["status"] == "not run").all():
            missing.append((name, style["label"]))
            continue
        _draw_curve(axis, curve, style)
        ends.append((float(curve["value"].iloc[-1]), float(curve["step"].iloc[-1]), style))
    for published in request["published"]:
        _draw_published(axis, published, panel, curves)
    if panel.metric in LOGARITHMIC:
        axis.set_yscale("log")
    elif panel.metric in SHARES or METRIC_LABELS[panel.metric].endswith("(%)"):
        axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}"))
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -0.02), min(high, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    # Where a curve is missing everywhere, the legend says so.
    missing = [label for name, label in missing if name in _names_that_ran(estimates, key)]
    if missing:
        names = [label.replace(" ", "\N{NO-BREAK SPACE}") for label in missing]
        text = "\n".join(textwrap.wrap(f"not run: {', '.join(names)}", 32))
        background = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        place = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "bbox": background, "zorder": 6}
        axis.text(0.98, 0.03, text, fontsize=7, style="italic", color="grey", **place)
    if direct and ends:
        _label_ends(axis, ends)
        for line in axis.get_lines():
            line.set_clip_on(False)


def _names_that_ran(estimates: pd.DataFrame, key: str) -> set:
    return set(estimates.loc[estimates["status"] != "not run", key].dropna())


def _draw_curve(axis: Axes, curve: pd.DataFrame, style: Mapping[str, Any]) -> None:
    steps = curve["step"].to_numpy(dtype=float)
    axis.fill_between(steps, curve["low"], curve["high"], color=style["color"], alpha=0.12, linewidth=0)
    (line,) = axis.plot(
        steps,
        curve["value"],
        color=style["color"],
        marker=style["marker"],
        markersize=3.2,
        markevery=max(1, len(steps) // MARKED),
        linewidth=1.3,
    )
    if style["dashes"]:
        line.set_dashes(style["dashes"])
    if (curve["status"] == "diverged").any():
        axis.plot(steps[-1], curve["value"].iloc[-1], marker="x", markersize=8, color="black", zorder=5)


def _draw_published(axis: Axes, published: Mapping[str, Any], panel: Panel, curves) -> None:
    same = all(published[key] == getattr(panel, key) for key in ("metric", "model", "algorithm"))
    if same and published["sampler"] in curves:
        color = curves[published["sampler"]]["color"]
        axis.plot(published["steps"], published["values"], color=color, linewidth=0.8, alpha=0.7, zorder=1)


def _label_ends(axis: Axes, ends: Sequence[tuple[float, float, Mapping[str, Any]]]) -> None:
    """Name curves at their right ends, as far apart as their names are high."""
    low, high = axis.get_ylim()
    least = 0.085 * (high - low)
    ordered = sorted(ends, key=lambda end: end[0])
    heights = np.array([end[0] for end in ordered])
    for _ in range(100):
        gaps = np.diff(heights)
        if not (gaps < least - 1e-12).any():
            break
        for i in np.flatnonzero(gaps < least):
            shift = (least - (heights[i + 1] - heights[i])) / 2
            heights[i] -= shift
            heights[i + 1] += shift
    right = max(end[1] for end in ends)
    axis.set_xlim(right=right)
    for (value, step, style), height in zip(ordered, heights, strict=True):
        axis.annotate(
            style["label"],
            (step, value),
            xytext=(1.03, (height - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            color=style["color"],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style["color"],
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 3,
            },
        )
    axis.set_ylim(low, high)


def _panel_title(panel: Panel, request: Mapping[str, Any]) -> str:
    parts = []
    if len(request["models"]) > 1 or len(request["algorithms"]) == 1:
        parts.append(request["models"][panel.model])
    if len(request["algorithms"]) > 1:
        parts.append(request["algorithms"][panel.algorithm])
    if panel.sampler is not None:
        parts.append(request["samplers"][panel.sampler]["label"])
    return "; ".join(parts)


def _metric_label(panel: Panel, estimates: pd.DataFrame, request: Mapping[str, Any]) -> str:
    samples = estimates.loc[estimates["metric"] == panel.metric, "samples"].dropna()
    label = METRIC_LABELS[panel.metric].format(k=int(samples.min()) if len(samples) else "k")
    if panel.decoder is not None and len(request["decoders"]) > 1:
        label += f"\ndecoded at {request['decoders'][panel.decoder]}"
    return label


def _handles(estimates: pd.DataFrame, request, curves, direct: bool) -> list[Line2D]:
    handles = []
    ran = _names_that_ran(estimates, request["curves"])
    for name, style in curves.items():
        if not direct or name not in ran:
            handle = Line2D([], [], color=style["color"], marker=style["marker"], markersize=4)
            handle.set_label(style["label"] + ("" if name in ran else " (not run)"))
            if style["dashes"]:
                handle.set_dashes(style["dashes"])
            handles.append(handle)
    if (estimates["status"] == "diverged").any():
        cross = {"marker": "x", "markersize": 7, "color": "black", "linestyle": "none"}
        handles.append(Line2D([], [], **cross, label="run diverged"))
    if request["published"]:
        handles.append(Line2D([], [], color="grey", linewidth=0.8, label="thin: as published"))
    return handles


def _notes(estimates: pd.DataFrame, request: Mapping[str, Any]) -> list[str]:
    """The lines every figure carries: how much data, and what the bands mean."""
    ran = estimates[(estimates["status"] != "not run") & estimates["metric"].isin(request["metrics"])]
    notes = []
    evaluated, logged = ran[ran["decoder"].notna()], ran[ran["decoder"].isna()]
    trained = ran[ran["step"] > 0]
    seeds = int(trained["seeds"].min()) if len(trained) else 0
    also = " and seeds" if seeds > 1 else ""
    start = f"{seeds} training seed{'s' if seeds != 1 else ''}; "
    if len(evaluated):
        sizes = f"{int(evaluated['problems'].min())} problems × {int(evaluated['samples'].min())} samples"
        decoder = next(iter(request["decoders"].values()))
        at = f" at {decoder}" if len(request["decoders"]) == 1 else ""
        notes.append(f"{start}{sizes}{at}; bands: 95% bootstrap intervals over problems{also}")
    if len(logged):
        windows = sorted(set(request["windows"].values()))
        steps = " or ".join(map(str, windows))
        over = "a point per step" if windows == [1] else f"means over {steps} steps"
        banded = logged[logged["low"].notna()]
        if len(banded):
            over += f"; bands: 95% bootstrap intervals over the prompts{also}"
        bare = [m for m in request["metrics"] if m in set(logged["metric"]) - set(banded["metric"])]
        if bare:
            names = ", ".join(METRIC_LABELS[metric].partition(" (")[0] for metric in bare)
            over += f"; {names}: one seed, no interval"
        notes.append(f"{'' if len(evaluated) else start}{over}")
    if request["absent"]:
        notes.append(f"not run at this scale: {', '.join(request['absent'])}")
    return [line for note in notes for line in textwrap.wrap(note, 114)]


def nothing_ran(request: Mapping[str, Any]) -> Figure:
    """Return a figure that says that none of its cells has run, and which models the scale lacks."""
    figure = plt.figure(figsize=(PRINT_WIDTH, 1.0), layout="constrained")
    axis = figure.add_subplot()
    axis.set_axis_off()
    text = f"not run at this scale: {', '.join(request['absent'])}" if request["absent"] else "not run"
    axis.text(0.5, 0.5, text, ha="center", va="center", style="italic", color="grey")
    head(figure, request["title"])
    return figure
