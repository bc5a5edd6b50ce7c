"""Temperature by response position, from the schedules alone (Figure 3)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, PositiveFloat, model_validator

from ead import schedule
from reproduction.config import WORKFLOW, ConfigurationError, Scale, read_yaml, suggest
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration
from reproduction.fields import Name, Strict
from reproduction.figures.figure import Figure
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, head, pyplot, set_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

CURVES = [
    ("blue", "dotted"),
    ("sky", "dashed"),
    ("green", "dashdot"),
    ("orange", "solid"),
    ("vermilion", "solid"),
]


class SchedulePanel(Strict):
    """One panel of Figure 3: a sampler of workflow/samplers.yaml, with several values in place of its own."""

    sampler: Name = Field(description="key of workflow/samplers.yaml")
    title: str = Field(description="heading of the panel")
    d: list[PositiveFloat] | None = Field(
        None, description="decay rates in tokens, one curve for each; give these or `steps`"
    )
    steps: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="shares of the training, one curve for each, in the scale's own units"
    )

    @model_validator(mode="after")
    def _one_axis(self) -> "SchedulePanel":
        if (self.d is None) == (self.steps is None):
            raise ValueError("give either d or steps")
        return self


class Schedules(Figure):
    """Temperature by position, from the schedules alone (Figure 3)."""

    analysis: Literal["schedules"] = Field(description="the kind of figure")
    positions: Annotated[int, Field(gt=0, le=10**6)] = Field(
        description="response tokens shown, in the paper's length"
    )
    panels: list[SchedulePanel] = Field(min_length=1, description="from left to right")

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        for number, panel in enumerate(self.panels):
            place = f"{where}.panels.{number}.sampler"
            yield from unknown(place, "sampler", [panel.sampler], samplers)
            annealed = [
                key
                for key, value in samplers.items()
                if issubclass(schedule.KINDS[value.schedule["kind"]], schedule.StepAware)
            ]
            if panel.sampler in samplers and panel.sampler not in annealed:
                yield (
                    f"{place}: the temperature of {panel.sampler!r} has no decay rate; allowed: "
                    f"{', '.join(annealed)}"
                )

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {"analysis": self.analysis, "panels": _schedule_panels(self, scale)}

    @staticmethod
    def estimate(*, panels: Sequence[Mapping[str, Any]], **_) -> pd.DataFrame:
        """See :class:`Figure`."""
        return schedule_curves(panels)

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        return plot(estimates, request)


def _schedule_panels(figure: Schedules, scale: Scale) -> list[dict[str, Any]]:
    samplers = read_yaml(WORKFLOW / "samplers.yaml")
    panels = []
    for panel in figure.panels:
        if panel.sampler not in samplers:
            raise ConfigurationError(
                f"experiments.yaml: unknown sampler {panel.sampler!r}{suggest(panel.sampler, samplers)}"
            )
        if panel.d is not None:
            written = samplers[panel.sampler]["schedule"]
            curves = [
                {"label": f"d = {d:g}", "schedule": {**written, "d0": d, "alpha": 0, "d_max": d}, "step": 0}
                for d in panel.d
            ]
            panels.append({"title": panel.title, "positions": figure.positions, "curves": curves})
        else:
            own = scale.samplers[panel.sampler].schedule
            steps = dict.fromkeys(round(share * scale.training.steps) for share in panel.steps)
            curves = [{"label": f"step {step:,}", "schedule": own, "step": step} for step in steps]
            length = scale.training.max_new_tokens
            panels.append({"title": panel.title, "positions": length, "curves": curves})
    return panels


def schedule_curves(panels: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return ``temperature`` by response ``position`` for every ``curve`` of every ``panel``.

    Args:
        panels: ``title``, ``positions`` (how many response tokens) and ``curves``, each with ``label``,
            ``schedule`` (as ``ead.schedule.from_config`` takes it) and ``step``.
    """
    parts = []
    for panel in panels:
        positions = np.arange(panel["positions"])
        for curve in panel["curves"]:
            tau = schedule.from_config(curve["schedule"]).temperature(positions, curve["step"])
            names = {"panel": panel["title"], "curve": curve["label"]}
            parts.append(pd.DataFrame({**names, "position": positions, "temperature": tau}))
    return pd.concat(parts, ignore_index=True)


def plot(table: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
    """Draw temperature by response position, a panel per reading of the schedule."""
    set_style()
    panels = list(dict.fromkeys(table["panel"]))
    figure, axes = pyplot().subplots(
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


FIGURE = Schedules
