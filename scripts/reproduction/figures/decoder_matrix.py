"""A heat map of estimates: training sampler by evaluation decoder."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from reproduction.config import Scale
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration
from reproduction.fields import Name
from reproduction.figures import analyses
from reproduction.figures.analyses import METRIC_LABELS, METRICS
from reproduction.figures.figure import OfRuns
from reproduction.figures.style import PRINT_WIDTH, head, nothing_ran, pyplot, seeds_in_words, set_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


class DecoderMatrix(OfRuns):
    """The last checkpoints: training sampler by evaluation decoder, the scale's final ones included (D06)."""

    analysis: Literal["decoder_matrix"] = Field(description="the kind of figure")
    metrics: list[Name] = Field(min_length=1, description="rows of the figure")

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from super().mistakes(where, scale, samplers)
        yield from unknown(f"{where}.metrics", "metric", self.metrics, METRICS)
        for key in ("algorithm", "rollouts"):
            yield from self.indistinct(where, scale, key, ("role", "sampler"), "write an entry for each")

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {
            "analysis": self.analysis,
            "names": list(runs),
            "metric_names": self.metrics,
            "decoders": self.decoders_read(scale),
            "root_seed": root_seed,
        }

    estimate = staticmethod(analyses.decoder_matrix)

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {
            **super().drawing(name, scale, runs),
            **self.words_of_runs(scale, runs),
            "metrics": self.metrics,
            "decoders": {key: scale.decoders[key].label for key in self.decoders_read(scale)},
        }

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        return plot(estimates, request)

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """See :class:`Figure`."""
        labels = [scale.decoders[key].label for key in self.decoders_read(scale)]
        return super().caption(scale, runs) | analyses.caption(self.metrics, labels, scale, runs)

    def decoders_read(self, scale: Scale) -> list[str]:
        """See :class:`Figure`."""
        evaluations = [scale.evaluation_of(model) for model in sorted(self.models(scale))]
        evaluations = evaluations or [scale.evaluation]
        return list(
            dict.fromkeys(key for asked in evaluations for key in (*asked.decoders, *asked.final_decoders))
        )


# --- the picture -------------------------------------------------------------------------------------------


def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
    """Draw the last checkpoints by training sampler (rows) and evaluation decoder (columns).

    Args:
        estimates: the table of ``analyses.decoder_matrix``; its intervals are in the CSV.
        request: ``DecoderMatrix.drawing``.
    """
    set_style()
    models = [model for model in request["models"] if (estimates["model"] == model).any()]
    if not models or estimates["value"].isna().all():
        return nothing_ran(request)
    samplers = {None: "base model", **{key: value["label"] for key, value in request["samplers"].items()}}
    figure, axes = pyplot().subplots(
        len(request["metrics"]),
        len(models),
        figsize=(PRINT_WIDTH, 1.15 + (0.45 + 0.2 * len(samplers)) * len(request["metrics"])),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes_row, metric in zip(axes, request["metrics"], strict=True):
        rows = estimates[estimates["metric"] == metric]
        low, high = rows["value"].min(), rows["value"].max()
        for axis, model in zip(axes_row, models, strict=True):
            _draw(axis, rows[rows["model"] == model], samplers, request["decoders"], (low, high))
            samples = rows["samples"].dropna()
            name = METRIC_LABELS[metric].format(k=int(samples.min()) if len(samples) else "k")
            axis.set_title(f"{name}\n{request['models'][model]}")
    for axis in axes[-1]:
        axis.set_xlabel("evaluation decoder")
    for axis in axes[:, 0]:
        axis.set_ylabel("training sampler")
    ran = estimates[estimates["status"] != "not run"]
    width = float((ran["high"] - ran["low"]).median()) / 2
    trained = ran[ran["sampler"].notna()]
    head(
        figure,
        request["title"],
        f"{seeds_in_words(trained['seeds'])}; {int(ran['problems'].min())} problems × "
        f"{int(ran['samples'].min())} samples; half-width of a 95% interval: {100 * width:.1f} points at the median",
        f"not run at this scale: {', '.join(request['absent'])}" if request["absent"] else "",
    )
    return figure


def _draw(axis, rows: pd.DataFrame, samplers: Mapping, decoders: Mapping[str, str], limits) -> None:
    values = np.full((len(samplers), len(decoders)), np.nan)
    lacking = np.full(values.shape, "not run", dtype=object)
    for i, sampler in enumerate(samplers):
        of_sampler = rows["sampler"].isna() if sampler is None else rows["sampler"] == sampler
        for j, decoder in enumerate(decoders):
            found = rows[of_sampler & (rows["decoder"] == decoder)]
            if len(found):
                values[i, j], lacking[i, j] = found[["value", "status"]].iloc[0]
    axis.grid(False)
    axis.imshow(values, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
    middle = (limits[0] + limits[1]) / 2
    for (i, j), value in np.ndenumerate(values):
        text, color = (lacking[i, j], "grey") if np.isnan(value) else (f"{100 * value:.1f}", "white")
        if value > middle:
            color = "black"
        axis.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
    short = [label.partition(", ")[0].partition(" (")[0] for label in decoders.values()]
    axis.set_xticks(range(len(decoders)), [textwrap.fill(label, 8) for label in short])
    axis.tick_params(axis="x", labelsize=7)
    axis.set_yticks(range(len(samplers)), list(samplers.values()))
    axis.axhline(0.5, color="white", linewidth=2)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


FIGURE = DecoderMatrix
