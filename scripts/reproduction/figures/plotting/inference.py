"""Figures 1, 2 and 9: entropy by position, Majority@k by fork, Majority@N."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reproduction.config import EntropyStudy, ForkingStudy, MajorityStudy
from reproduction.figures.plotting.style import COLORS, LINES, PRINT_WIDTH, set_style

NEUTRAL = COLORS["grey"]


def draw(
    study: EntropyStudy | ForkingStudy | MajorityStudy,
    estimates: pd.DataFrame,
    decoders: Mapping[str, Mapping],
    *,
    title: str,
    subject: str,
) -> Figure:
    """Draw a study from its estimates (``reproduction.figures.inference_estimates.estimate_study``).

    Args:
        decoders: decoder -> ``label`` and ``style``.
        subject: the model and the problems, in words; stands below the title.
    """
    set_style()
    panels = {EntropyStudy: _entropy, ForkingStudy: _forking, MajorityStudy: _majority}[type(study)]
    figure = panels(study, estimates, decoders)
    problems = int(estimates["problems"].max())
    figure.suptitle(
        f"{title}\n{subject}\n{problems} problems, {_responses(study)}; bands: 95% bootstrap intervals over problems",
        fontsize=8.5,
        x=0.01,
        ha="left",
    )
    return figure


def _responses(study: EntropyStudy | ForkingStudy | MajorityStudy) -> str:
    drawn = "1 response each" if study.samples == 1 else f"{study.samples} responses each"
    return f"{drawn}, {study.branches} continuations per fork" if isinstance(study, ForkingStudy) else drawn


def _rows(estimates: pd.DataFrame, metric: str, decoder: str) -> pd.DataFrame:
    chosen = (estimates["metric"] == metric) & (estimates["decoder"] == decoder)
    return estimates[chosen].sort_values("step")


def _curve(panel: Axes, curve: pd.DataFrame, decoder: Mapping, marked: bool = True, **options) -> None:
    style = decoder["style"]
    color, steps = COLORS[style["color"]], curve["step"].astype(int)
    panel.fill_between(steps, curve["low"], curve["high"], color=color, alpha=0.15, linewidth=0)
    (line,) = panel.plot(
        steps,
        curve["value"],
        color=color,
        marker=style["marker"] if marked else None,
        markersize=3.6,
        linewidth=1.4,
        **({"label": decoder["label"]} | options),
    )
    if LINES[style["line"]] and marked:
        line.set_dashes(LINES[style["line"]])


def _percent(panel: Axes, label: str) -> None:
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
    panel.set_ylabel(label)


def _entropy(study: EntropyStudy, estimates: pd.DataFrame, decoders: Mapping[str, Mapping]) -> Figure:
    """Entropy by position above, the responses that still go on there below."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(PRINT_WIDTH, 3.3), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    for name in study.decoders:
        curve = _rows(estimates, "entropy", name)
        _curve(upper, curve, decoders[name], marked=False, label=f"drawn at {decoders[name]['label']}")
        total = int(curve["samples"].max())
        color = COLORS[decoders[name]["style"]["color"]]
        lower.plot(curve["step"].astype(int), curve["samples"] / total, color=color, linewidth=1.4)
        change = _rows(estimates, "entropy_change", name).iloc[0]
        numbers = f"{change['value']:+.3f} nats [{change['low']:+.3f}, {change['high']:+.3f}]"
        upper.annotate(
            "later half of a response less its earlier half:\n" + numbers.replace("-", "−"),
            xy=(0.99, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7.5,
        )
    if study.template_tokens:
        end = study.template_tokens - 0.5
        for panel in (upper, lower):
            panel.axvline(end, color=NEUTRAL, linewidth=0.8, linestyle=":")
        place = {"xy": (end, 0.1), "xycoords": ("data", "axes fraction")}
        lower.annotate(" template ends", **place, fontsize=7, color=NEUTRAL)
    upper.set_ylim(bottom=0)
    upper.set_ylabel("entropy at τ = 1 (nats)")
    _percent(lower, "responses\nreaching it (%)")
    lower.set_ylim(0, 1.05)
    lower.set_xlabel("output position (tokens)")
    return figure


def _forking(study: ForkingStudy, estimates: pd.DataFrame, decoders: Mapping[str, Mapping]) -> Figure:
    """Majority@k by fork, and its change from the first fork on the same problems."""
    figure = plt.figure(figsize=(PRINT_WIDTH, 3.5), layout="constrained")
    panels = figure.subplot_mosaic([["left", "right"], ["lower", "right"]], height_ratios=(3, 1))
    left, right, lower = panels["left"], panels["right"], panels["lower"]
    left.sharex(right)
    lower.sharex(right)
    left.tick_params(labelbottom=False)
    for name in study.decoders:
        for size in study.sizes:
            label = f"Majority@{size}, drawn at {decoders[name]['label']}"
            _curve(left, _rows(estimates, f"majority_at_{size}", name), decoders[name], label=label)
            _curve(right, _rows(estimates, f"majority_at_{size}_change", name), decoders[name], label=label)
        ended = _rows(estimates, "ended_share", name)
        _curve(lower, ended, decoders[name])
    sizes = ", ".join(map(str, study.sizes))
    _percent(left, f"Majority@{sizes} (%)")
    _percent(right, f"change from b = {study.positions[0]} (points)")
    right.axhline(0, color=NEUTRAL, linewidth=0.8)
    _percent(lower, "ended\nbefore b (%)")
    lower.set_ylim(0, 1.05)
    lower.set_xlabel("position of the fork, b (tokens kept)")
    right.set_xlabel("position of the fork, b (tokens kept)")
    left.set_title("continuations from b")
    right.set_title("paired by problem")
    return figure


def _majority(study: MajorityStudy, estimates: pd.DataFrame, decoders: Mapping[str, Mapping]) -> Figure:
    """Majority@N by decoder, and the other decoders' differences to each baseline on the same problems."""
    figure = plt.figure(figsize=(PRINT_WIDTH, 3.0), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(study.baselines))
    for panel in others[1:]:
        panel.sharey(others[0])
    for name in study.decoders:
        _curve(left, _rows(estimates, "majority_at_n", name), decoders[name])
    _percent(left, "Majority@N (%)")
    left.set_title("by decoder")
    for baseline, panel in zip(study.baselines, others, strict=True):
        for name in study.treatments:
            _curve(panel, _rows(estimates, f"majority_at_n_minus_{baseline}", name), decoders[name])
        panel.axhline(0, color=NEUTRAL, linewidth=0.8)
        _percent(panel, "paired difference (points)" if panel is others[0] else "")
        panel.set_title(f"less {decoders[baseline]['label']}")
    for panel in (left, *others):
        panel.set_xticks(study.sizes)
        panel.set_xlabel("N, responses that vote")
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(study.decoders),
        frameon=False,
        title="decoder",
    )
    return figure
