"""The paper's own curves, to stand beside those of a scale."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from reproduction.config.methods import NamedSampler
from reproduction.figures.analyses import METRIC_LABELS
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, percent, pyplot, set_style

K = 16  # of the paper's Pass@k and Worst@k


def png(curves: Sequence[Mapping[str, Any]], samplers: Mapping[str, NamedSampler]) -> bytes:
    """Return a picture of ``curves`` (see ``figures.published_curves``): a row per metric, a column per model.

    Models differ by algorithm too, and each curve has the colour of its sampler.
    """
    set_style()
    rows = list(dict.fromkeys(curve["metric"] for curve in curves))
    columns = list(dict.fromkeys((curve["label"], curve["algorithm"]) for curve in curves))
    size = (PRINT_WIDTH, 0.5 + 1.5 * len(rows))
    figure, axes = pyplot().subplots(
        len(rows), len(columns), figsize=size, squeeze=False, layout="constrained"
    )
    handles = {}
    for curve in curves:
        column = columns.index((curve["label"], curve["algorithm"]))
        axis = axes[rows.index(curve["metric"]), column]
        sampler = samplers[curve["sampler"]]
        style = {"color": COLORS[sampler.style.color], "dashes": LINES[sampler.style.line]}
        (handles[sampler.label],) = axis.plot(curve["steps"], curve["values"], **style)
    for row, metric in enumerate(rows):
        axes[row, 0].set_ylabel(METRIC_LABELS[metric].format(k=K))
        if metric.endswith("_at_k"):
            for axis in axes[row]:
                percent(axis)
    for column, (label, algorithm) in enumerate(columns):
        axes[0, column].set_title(label if algorithm == "dapo" else f"{label}, {algorithm}")
        axes[-1, column].set_xlabel("training step")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    pyplot().close(figure)
    return data.getvalue()
