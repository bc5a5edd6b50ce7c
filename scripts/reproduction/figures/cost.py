"""How cost grows with steps, rollouts, response length, cells and seeds: from the times that runs recorded.

The estimates have one row per point of a curve: ``panel``, ``model``, ``n``, ``part``, ``x``, ``value``, ``low``,
``high``, ``runs`` (how many are behind it). The panels:

- ``steps``: seconds of a training up to step ``x``; mean, least and greatest over the runs of a model and ``n``
- ``tokens``: seconds of one part of a step that drew ``x`` response tokens; median, and the 5th and 95th percentile, of
  the steps in one fifth of all steps of a model and ``n``, by their number of tokens; ``length`` is the mean response
- ``runs``: seconds of the first ``x`` runs, in the order of the experiments and seed by seed, by part; ``x`` = 0 holds
  what all share, the evaluations of the base models

Seconds are CPU seconds. Where an engine records none (verl, whose work is on GPUs) all are seconds on the wall.

What one must know to read them are attributes of the table (``attrs``):

- ``cpu``: whether seconds are CPU seconds, and not seconds on the wall
- ``cells``: of the runs that have results; ``trained`` and ``evaluated`` are how many runs those are
- ``runs_of_seed``: pairs of a seed and how many of the trained runs have it, in order
- ``untimed_starts``, ``untimed_evaluations``: how many of them were made by code that did not record that part
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from reproduction.config import Scale
from reproduction.config.runs import RunConfiguration, axes_of
from reproduction.figures.figure import Figure, model_label
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, head, pyplot, set_style
from reproduction.figures.training_curves import RAMP
from reproduction.files import load_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COLUMNS = ["panel", "model", "n", "part", "x", "length", "value", "low", "high", "runs"]
BINS = 5
STEPS, OUTSIDE, EVALUATION = "training, steps", "training, outside its steps", "evaluation"
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


class CostFigure(Figure):
    """No entry of workflow/experiments.yaml, since every scale has it: it shows all runs of the others."""

    caption_template: ClassVar[str] = "cost.rst"

    analysis: Literal["cost"] = "cost"

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`; ``prompts`` is run -> prompts of a training step, in the order of the experiments."""
        return {
            "analysis": self.analysis,
            "prompts": {name: run.training.prompts for name, run in runs.items()},
        }

    @staticmethod
    def estimate(*, runs: Path, evaluations: Path, prompts: Mapping[str, int], **_) -> pd.DataFrame:
        """See :class:`Figure` and the module; runs without results are left out.

        Raises ValueError where an evaluation's times are not those of its files.
        """
        present = [name for name in prompts if (runs / name / "manifest.json").exists()]
        # Stable: else in the order of the experiments.
        present.sort(key=lambda name: int(axes_of(name)["seed"]))
        cpu = not any(
            "sampling_cpu_seconds" not in pd.read_parquet(runs / name / "timings.parquet") for name in present
        )
        trained = {name: _read_training(name, runs, prompts[name], cpu) for name in present}
        models = dict.fromkeys(training.model for training in trained.values())
        evaluated = {
            name: _evaluation_seconds(evaluations / name, cpu)
            for name in [*present, *(f"model~{model}" for model in models)]
            if (evaluations / name / "manifest.json").exists()
        }
        rows = [*_by_step(trained), *_by_tokens(trained), *(_by_runs(trained, evaluated) if trained else [])]
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64"})
        seeds = Counter(int(axes_of(name)["seed"]) for name in present)
        table.attrs = {
            "cpu": cpu,
            "cells": len({name.rpartition("/")[0] for name in present}),
            "runs_of_seed": [list(pair) for pair in seeds.items()],
            "trained": len(trained),
            "evaluated": len(evaluated),
            "untimed_starts": sum(training.outside is None for training in trained.values()) if cpu else 0,
            "untimed_evaluations": sum(seconds is None for seconds in evaluated.values()),
        }
        return table

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`."""
        models = {role.model: model_label(role.model, name) for name, role in scale.roles.items()}
        return super().drawing(name, scale, runs) | {"models": models, "scale": scale.description}

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        return draw(estimates, request["models"], title=request["title"], scale=request["scale"])

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """Return what the caption says of the scale."""
        return {
            "scale": scale.description,
            "files": "CPU seconds in timings.parquet of each training and evaluation, and in its manifest"
            if scale.engine == "inprocess"
            else "seconds on the wall in timings.parquet of each training and evaluation",
        }


COST = CostFigure(title="How cost grows with steps, rollouts n, response length, cells and seeds", section="")

# --- estimates ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Training:
    model: str
    n: int
    prompts: int  # of a step
    steps: pd.DataFrame  # step, response tokens, their mean length, a column of seconds per part
    parts: list[str]
    outside: float | None


def _read_training(name: str, runs: Path, prompts: int, cpu: bool) -> _Training:
    folder, axes = runs / name, axes_of(name)
    timings = pd.read_parquet(folder / "timings.parquet").set_index("step")
    ending = "_cpu_seconds" if cpu else "_seconds"
    chosen = [name for name in timings if name.endswith(ending) and (cpu or "_cpu_" not in name)]
    steps = timings[chosen].rename(columns=lambda name: name.removesuffix(ending))
    lengths = pd.read_parquet(folder / "metrics.parquet", columns=["step", "response_length_mean"])
    # A run that diverged logged its last step without times.
    steps = steps.join(lengths.set_index("step").rename(columns={"response_length_mean": "length"}))
    outside = load_json(folder / "manifest.json").get("cpu_seconds_outside_steps")
    parts = [name for name in steps if name != "length"]
    return _Training(axes["model"], int(axes["n"]), prompts, steps, parts, outside if cpu else None)


def _evaluation_seconds(folder: Path, cpu: bool) -> float | None:
    """Return the seconds of an evaluation's files; None where one of them was drawn without recording it."""
    files = load_json(folder / "manifest.json")["files"]
    path = folder / "timings.parquet"
    if not files:
        return 0.0
    if not path.exists():
        return None
    keys = ["step", "decoder", "dataset"]
    seconds = pd.read_parquet(path).set_index(keys)["cpu_seconds" if cpu else "seconds"]
    wanted = [tuple(file[key] for key in keys) for file in files]
    return float(seconds[wanted].sum()) if set(wanted) <= set(seconds.index) else None


def _groups(trained: Mapping[str, _Training]) -> dict[tuple[str, int], list[_Training]]:
    groups: dict[tuple[str, int], list[_Training]] = {}
    for training in trained.values():
        groups.setdefault((training.model, training.n), []).append(training)
    return groups


def _by_step(trained):
    for (model, n), members in _groups(trained).items():
        sums = pd.concat([m.steps[m.parts].sum(axis=1).cumsum() for m in members], axis=1)
        keys = {"panel": "steps", "model": model, "n": n, "part": "all"}
        for step, values in sums.iterrows():
            found = values.dropna()
            yield {
                **keys,
                "x": step,
                "value": found.mean(),
                "low": found.min(),
                "high": found.max(),
                "runs": len(found),
            }


def _by_tokens(trained):
    for (model, n), members in _groups(trained).items():
        steps = pd.concat([m.steps for m in members], ignore_index=True)
        steps["tokens"] = [tokens for m in members for tokens in m.steps["length"] * m.prompts * m.n]
        # As many steps in each: the fifths of the order by tokens.
        fifth = np.argsort(np.argsort(steps["tokens"].to_numpy(), kind="stable")) * BINS // len(steps)
        for part in members[0].parts:
            for _, bin_ in steps.groupby(fifth):
                low, value, high = bin_[part].quantile([0.05, 0.5, 0.95])
                yield {
                    **{"panel": "tokens", "model": model, "n": n, "part": part, "runs": len(members)},
                    **{"x": bin_["tokens"].median(), "length": bin_["length"].median()},
                    **{"value": value, "low": low, "high": high},
                }


def _by_runs(trained, evaluations):
    shared = sum(seconds or 0.0 for name, seconds in evaluations.items() if name not in trained)
    totals = {STEPS: 0.0, OUTSIDE: 0.0, EVALUATION: shared}
    for count, (name, training) in enumerate([(None, None), *trained.items()]):
        if training is not None:
            totals[STEPS] += float(training.steps[training.parts].sum(axis=None))
            totals[OUTSIDE] += training.outside or 0.0
            totals[EVALUATION] += evaluations.get(name) or 0.0
        for part, value in totals.items():
            yield {"panel": "runs", "part": part, "x": count, "value": value, "runs": count}


# --- the picture -------------------------------------------------------------------------------------------


def draw(table: pd.DataFrame, models: Mapping[str, str], *, title: str, scale: str) -> "Picture":
    """Draw the estimates; ``models`` are the labels of models, ``scale`` describes the scale."""
    from matplotlib.lines import Line2D

    set_style()
    plt, costs = pyplot(), table.attrs
    shown = [model for model in models if (table["model"] == model).any()]
    if not shown:
        figure = plt.figure(figsize=(PRINT_WIDTH, 1.0), layout="constrained")
        figure.add_subplot().set_axis_off()
        figure.axes[0].text(0.5, 0.5, "no run so far", ha="center", va="center", style="italic", color="grey")
        head(figure, title)
        return figure
    unit = "CPU s" if costs["cpu"] else "s on the wall"
    figure = plt.figure(figsize=(PRINT_WIDTH, 7.4), layout="constrained")
    grid = figure.add_gridspec(3, len(shown), height_ratios=[1, 1.15, 1.15])
    ramp = dict(zip(sorted(table["n"].dropna().unique()), RAMP, strict=False))
    first: list[Axes | None] = [None, None]
    for column, model in enumerate(shown):
        of_model = table[table["model"] == model]
        for row, draw_panel in enumerate((_draw_steps, _draw_tokens)):
            axis = figure.add_subplot(grid[row, column], sharex=first[row], sharey=first[row])
            first[row] = first[row] or axis
            draw_panel(axis, of_model[of_model["panel"] == ("steps", "tokens")[row]], ramp)
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
    head(figure, title, f"{scale}; {costs['trained']} trainings", *_notes(costs))
    return figure


def _draw_steps(axis: "Axes", points: pd.DataFrame, ramp) -> None:
    from matplotlib.ticker import MaxNLocator

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


def _draw_tokens(axis: "Axes", points: pd.DataFrame, ramp) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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


def _draw_runs(axis: "Axes", points: pd.DataFrame, costs: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

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
    axis.set_xlim(0, max(costs["trained"], 1))
    axis.set_ylim(bottom=0)
    unit = "hours" if hours else "minutes"
    axis.set_ylabel(f"{'CPU ' if costs['cpu'] else ''}{unit}, all so far")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="upper left", frameon=False)
    if len(costs["runs_of_seed"]) > 1:
        axis.set_xlabel("runs: the cells of one seed after those of another")
        above, first = axis.get_xaxis_transform(), 0
        for seed, runs in costs["runs_of_seed"]:
            if first:
                axis.axvline(first, color="#595959", linewidth=0.8, linestyle="dashed")
            axis.text(first + runs / 2, 1.01, f"seed {seed}", transform=above, ha="center", fontsize=7.5)
            first += runs
    else:
        axis.set_xlabel(
            f"cells, one seed each: another seed is {costs['cells']} runs more and costs as much again"
        )


def _notes(costs: Mapping[str, Any]) -> list[str]:
    notes = []
    if costs["untimed_evaluations"]:
        notes.append(
            f"times not recorded, and so not drawn: {costs['untimed_evaluations']} of {costs['evaluated']} evaluations"
        )
    if costs["untimed_starts"]:
        notes.append(
            f"not recorded: what {costs['untimed_starts']} of {costs['trained']} trainings took outside their steps"
        )
    return notes
