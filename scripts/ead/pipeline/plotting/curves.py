"""Curves of estimates by training step."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ead.pipeline.config import NamedSampler
from ead.pipeline.plotting.style import COLORS, LINES, PRINT_WIDTH, set_style

METRIC_LABELS = {
    "pass_at_1": "Pass@1 (%)",
    "pass_at_k": "Pass@{k} (%)",
    "worst_at_k": "Worst@{k} (%)",
}


def training_curves(
    estimates: pd.DataFrame,
    metric_names: Sequence[str],
    decoder_labels: Mapping[str, str],
    samplers: Mapping[str, NamedSampler],
    title: str,
) -> Figure:
    """Draw estimates by training step with their intervals: a row per metric, a column per decoder (and model)."""
    set_style()
    columns = list(estimates[["model", "decoder"]].drop_duplicates().itertuples(index=False, name=None))
    models = estimates["model"].nunique()
    figure, axes = plt.subplots(
        len(metric_names),
        len(columns),
        figsize=(PRINT_WIDTH, 0.9 + 2.05 * len(metric_names)),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, (model, decoder) in enumerate(columns):
        for row, metric in enumerate(metric_names):
            panel = axes[row, column]
            chosen = (
                (estimates["model"] == model)
                & (estimates["decoder"] == decoder)
                & (estimates["metric"] == metric)
            )
            for sampler, curve in _in_order(estimates[chosen], samplers):
                _draw_curve(panel, curve, sampler)
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
            if column == 0:
                panel.set_ylabel(METRIC_LABELS[metric].format(k=int(estimates["samples"].min())))
            if row == 0:
                prefix = f"{model}; " if models > 1 else ""
                panel.set_title(f"{prefix}evaluated at {decoder_labels[decoder]}")
            if row == len(metric_names) - 1:
                panel.set_xlabel("training step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        title="training sampler",
    )
    figure.suptitle(f"{title}\n{_sample_sizes(estimates)}", fontsize=8.5, x=0.01, ha="left")
    return figure


def _in_order(
    frame: pd.DataFrame, samplers: Mapping[str, NamedSampler]
) -> Iterator[tuple[NamedSampler, pd.DataFrame]]:
    """Yield the samplers that ``frame`` holds with their rows, in the order of workflow/samplers.yaml."""
    for name, sampler in samplers.items():
        rows = frame[frame["sampler"] == name]
        if len(rows):
            yield sampler, rows.sort_values("step")


def _draw_curve(panel, curve: pd.DataFrame, sampler: NamedSampler) -> None:
    color = COLORS[sampler.style.color]
    panel.fill_between(curve["step"], curve["low"], curve["high"], color=color, alpha=0.13, linewidth=0)
    (line,) = panel.plot(
        curve["step"],
        curve["value"],
        label=sampler.label,
        color=color,
        marker=sampler.style.marker,
        markersize=3.6,
        linewidth=1.4,
    )
    if LINES[sampler.style.line]:
        line.set_dashes(LINES[sampler.style.line])


def _sample_sizes(estimates: pd.DataFrame) -> str:
    """The line every figure carries: how much data, and what the band means."""
    trained = estimates[estimates["step"] > 0]
    seeds = int(trained["seeds"].min())
    over = "problems" if seeds == 1 else "seeds and problems"
    return (
        f"{seeds} training seed{'s' if seeds > 1 else ''}, {int(estimates['problems'].min())} problems x "
        f"{int(estimates['samples'].min())} samples; bands: 95% bootstrap intervals over {over}"
    )
