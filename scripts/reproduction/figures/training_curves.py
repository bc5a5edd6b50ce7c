"""Curves of estimates by training step."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from reproduction.config import ROLE_LABELS, WORKFLOW, ConfigurationError, Scale, suggest
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration
from reproduction.fields import Name
from reproduction.figures import analyses
from reproduction.figures.analyses import METRIC_LABELS, METRICS, TRAINING_METRICS
from reproduction.figures.figure import OfRuns
from reproduction.figures.style import (
    COLORS,
    LINES,
    PRINT_WIDTH,
    head,
    nothing_ran,
    percent,
    pyplot,
    seeds_in_words,
    set_style,
)
from reproduction.files import load_json
from reproduction.training import contract

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture
    from matplotlib.lines import Line2D


class TrainingCurves(OfRuns):
    """Estimates by training step, and the runs they need."""

    analysis: Literal["training_curves"] = Field(description="the kind of figure")
    metrics: list[Name] = Field(min_length=1, description="rows of the figure")
    tabulated: list[Name] = Field([], description="metrics of the figure's CSV that it does not draw")
    decoders: list[Name] | None = Field(
        None, description="evaluation decoders, a row each; null is the scale's first"
    )
    curves: Literal["sampler", "n"] = Field("sampler", description="what tells the curves of a panel apart")

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from super().mistakes(where, scale, samplers)
        known = [*METRICS, *TRAINING_METRICS]
        yield from unknown(f"{where}.metrics", "metric", self.metrics, known)
        yield from unknown(f"{where}.tabulated", "metric", self.tabulated, known)
        yield from unknown(f"{where}.decoders", "decoder", self.decoders or [], scale.decoders)
        if self.curves == "sampler":
            shown, instead = ("role", "algorithm", "sampler"), "write an entry for each, or `curves: n`"
            yield from self.indistinct(where, scale, "rollouts", shown, instead)

    def reads_evaluations(self) -> bool:
        """See :class:`Figure`."""
        return any(metric in METRICS for metric in [*self.metrics, *self.tabulated])

    def decoders_read(self, scale: Scale) -> list[str]:
        """See :class:`Figure`."""
        return self._decoders(scale) if self.reads_evaluations() else []

    def records(self) -> list[str]:
        """See :class:`Figure`."""
        tables = {TRAINING_METRICS[metric] for metric in self.metrics if metric in TRAINING_METRICS}
        return ["manifest.json", *(f"{table}.parquet" for table in sorted(tables))]

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        asked = [*self.metrics, *self.tabulated]
        for metric in contract.lacking(scale.engine, asked):
            recorded = [name for name in TRAINING_METRICS if not contract.lacking(scale.engine, [name])]
            raise ConfigurationError(
                f"experiments.yaml: {self.title!r}: the engine {scale.engine} does not record {metric!r}; "
                f"allowed at this scale: {', '.join([*METRICS, *recorded])}"
            )
        return {
            "analysis": self.analysis,
            "names": list(runs),
            "metric_names": asked,
            "decoders": self._decoders(scale),
            "windows": {run.model: run.training.window for run in runs.values()},
            "root_seed": root_seed,
        }

    estimate = staticmethod(analyses.training_curves)

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {
            **super().drawing(name, scale, runs),
            **self.words_of_runs(scale, runs),
            "metrics": self.metrics,
            "decoders": {key: scale.decoders[key].label for key in self._decoders(scale)},
            "curves": self.curves,
            "windows": {run.model: run.training.window for run in runs.values()},
            "published": published_curves(name, self.models(scale)) if scale.published_curves else [],
        }

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        return plot(estimates, request)

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """See :class:`Figure`."""
        labels = [scale.decoders[key].label for key in self._decoders(scale)]
        return super().caption(scale, runs) | analyses.caption(self.metrics, labels, scale, runs)

    def _decoders(self, scale: Scale) -> list[str]:
        evaluations = [scale.evaluation_of(model) for model in sorted(self.models(scale))]
        evaluations = evaluations or [scale.evaluation]
        chosen = self.decoders or evaluations[0].decoders[:1]
        for decoder in chosen:
            for asked in evaluations:
                if decoder not in asked.decoders:
                    raise ConfigurationError(
                        f"experiments.yaml: {self.title!r}: no checkpoint is evaluated with the decoder "
                        f"{decoder!r} at this scale{suggest(decoder, asked.decoders)}"
                    )
        return chosen


def published_curves(figure: str, models: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the paper's own curves of a figure, for the models (model -> role) shown; values are shares or nats."""
    table = load_json(WORKFLOW / "published_curves.json")
    of_role = {role: model for model, role in models.items()}
    return [
        {**curve, "model": of_role[curve["role"]], "label": ROLE_LABELS[curve["role"]]}
        for curve in table["curves"]
        if curve["figure"] == figure and curve["role"] in of_role
    ]


# --- the picture -------------------------------------------------------------------------------------------

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


def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
    """Draw estimates by training step with their intervals.

    Args:
        estimates: the table of ``analyses.training_curves``.
        request: ``TrainingCurves.drawing``.

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
    figure, axes = pyplot().subplots(
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


def _draw_panel(axis: "Axes", panel: Panel, estimates, request, curves, direct: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    chosen = estimates["metric"] == panel.metric
    for key in ("model", "algorithm", "decoder", "sampler"):
        value = getattr(panel, key)
        if value is not None:
            chosen &= estimates[key] == value
    here, key = estimates[chosen], request["curves"]
    # Where a curve is missing everywhere because it has not run, the legend says so.
    ran = _names_that_ran(estimates, key)
    ends, missing = [], defaultdict(list)
    for name, style in curves.items():
        curve = here[here[key] == name].sort_values("step")
        if not len(curve):
            continue
        if curve["value"].isna().all():
            if name in ran:
                missing[curve["status"].iloc[0]].append(style["label"].replace(" ", "\N{NO-BREAK SPACE}"))
            continue
        _draw_curve(axis, curve, style)
        ends.append((float(curve["value"].iloc[-1]), float(curve["step"].iloc[-1]), style))
    for published in request["published"]:
        _draw_published(axis, published, panel, curves)
    if panel.metric in LOGARITHMIC:
        axis.set_yscale("log")
    elif panel.metric in SHARES or METRIC_LABELS[panel.metric].endswith("(%)"):
        percent(axis)
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -0.02), min(high, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    said = [f"{status}: {', '.join(names)}" for status, names in missing.items()]
    if lines := [line for each in said for line in textwrap.wrap(each, 32)]:
        text = "\n".join(lines)
        if axis.get_yscale() == "linear":  # room below the curves
            low, high = axis.get_ylim()
            axis.set_ylim(low - 0.1 * len(lines) * (high - low), high)
        background = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        place = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "bbox": background, "zorder": 6}
        axis.text(0.98, 0.03, text, fontsize=7, style="italic", color="grey", **place)
    if direct and ends:
        _label_ends(axis, ends)
        for line in axis.get_lines():
            line.set_clip_on(False)


def _names_that_ran(estimates: pd.DataFrame, key: str) -> set:
    return set(estimates.loc[estimates["status"] != "not run", key].dropna())


def _draw_curve(axis: "Axes", curve: pd.DataFrame, style: Mapping[str, Any]) -> None:
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


def _draw_published(axis: "Axes", published: Mapping[str, Any], panel: Panel, curves) -> None:
    same = all(published[key] == getattr(panel, key) for key in ("metric", "model", "algorithm"))
    if same and published["sampler"] in curves:
        color = curves[published["sampler"]]["color"]
        axis.plot(published["steps"], published["values"], color=color, linewidth=0.8, alpha=0.7, zorder=1)


def _label_ends(axis: "Axes", ends: Sequence[tuple[float, float, Mapping[str, Any]]]) -> None:
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


def _handles(estimates: pd.DataFrame, request, curves, direct: bool) -> "list[Line2D]":
    from matplotlib.lines import Line2D

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
    ran = estimates[estimates["value"].notna() & estimates["metric"].isin(request["metrics"])]
    notes = []
    evaluated, logged = ran[ran["decoder"].notna()], ran[ran["decoder"].isna()]
    trained = ran[ran["step"] > 0]
    also = " and seeds" if (trained["seeds"] > 1).any() else ""
    start = f"{seeds_in_words(trained['seeds'])}; "
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


FIGURE = TrainingCurves
