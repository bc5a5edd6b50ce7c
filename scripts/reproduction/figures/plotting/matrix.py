"""A heat map of estimates: training sampler by evaluation decoder."""

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reproduction.figures.plotting.curves import METRIC_LABELS, nothing_ran
from reproduction.figures.plotting.style import PRINT_WIDTH, head, set_style


def decoder_matrix(estimates: pd.DataFrame, request: Mapping[str, Any]) -> Figure:
    """Draw the last checkpoints by training sampler (rows) and evaluation decoder (columns).

    Args:
        estimates: the table of ``reproduction.figures.analyses.decoder_matrix``; its intervals are in the CSV.
        request: ``reproduction.figures.drawing_request`` of the figure.
    """
    set_style()
    models = [model for model in request["models"] if (estimates["model"] == model).any()]
    if not models or (estimates["status"] == "not run").all():
        return nothing_ran(request)
    samplers = {None: "base model", **{key: value["label"] for key, value in request["samplers"].items()}}
    figure, axes = plt.subplots(
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
    seeds = int(trained["seeds"].min())
    head(
        figure,
        request["title"],
        f"{seeds} training seed{'s' if seeds > 1 else ''}; {int(ran['problems'].min())} problems × "
        f"{int(ran['samples'].min())} samples; half-width of a 95% interval: {100 * width:.1f} points at the median",
        f"not run at this scale: {', '.join(request['absent'])}" if request["absent"] else "",
    )
    return figure


def _draw(axis, rows: pd.DataFrame, samplers: Mapping, decoders: Mapping[str, str], limits) -> None:
    values = np.full((len(samplers), len(decoders)), np.nan)
    for i, sampler in enumerate(samplers):
        of_sampler = rows["sampler"].isna() if sampler is None else rows["sampler"] == sampler
        for j, decoder in enumerate(decoders):
            found = rows.loc[of_sampler & (rows["decoder"] == decoder), "value"]
            if len(found):
                values[i, j] = found.iloc[0]
    axis.grid(False)
    axis.imshow(values, cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto")
    middle = (limits[0] + limits[1]) / 2
    for (i, j), value in np.ndenumerate(values):
        text, color = ("not run", "grey") if np.isnan(value) else (f"{100 * value:.1f}", "white")
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
