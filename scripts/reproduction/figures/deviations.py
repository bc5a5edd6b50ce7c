"""A forest of paired differences: what each reading that the paper leaves open changes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from reproduction.config import Scale
from reproduction.figures.figure import OfRuns
from reproduction.figures.style import COLORS, PRINT_WIDTH, pyplot, save, seeds_in_words, set_style
from reproduction.files import load_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

BLOCKS = {"training": "between two trainings", "evaluation": "for one checkpoint"}
"""Kind of measure -> what its rows change; each block has its own axis, their differences differ tenfold."""


class DeviationsFigure(OfRuns):
    """The runs that workflow/deviations.yaml compares, and the forest of their differences."""

    own_rules: ClassVar[bool] = True

    analysis: Literal["deviations"] = Field(description="the kind of figure")

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from super().mistakes(where, scale, samplers)
        shown = ("role", "algorithm", "sampler")
        yield from self.indistinct(where, scale, "rollouts", shown, "keep one")

    @classmethod
    def write(cls, estimates: Path, request: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """See :class:`Figure`; ``estimates`` is deviations.json."""
        drawn = differences(load_json(estimates)["rows"])
        save(forest(drawn, request["title"]), drawn, **files)


def differences(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the paired differences of deviations.json, one row each, in its order; those not run have no value."""
    measures = [
        {"id": row["id"], **measure}
        for row in rows
        for measure in row["measures"]
        if measure["kind"] in BLOCKS
    ]
    frame = pd.DataFrame(measures).drop(columns=["evidence", "reason"])
    return frame.astype({name: float for name in ("value", "low", "high")})


def forest(frame: pd.DataFrame, title: str) -> "Picture":
    """Draw differences in percentage points with their 95 percent intervals: a row per pair, a column per metric."""
    set_style()
    blocks = {kind: frame[frame["kind"] == kind] for kind in BLOCKS}
    labels = {
        kind: list(dict.fromkeys(zip(part["id"], part["label"], strict=True)))
        for kind, part in blocks.items()
    }
    columns = list(dict.fromkeys(frame.loc[frame["status"] == "measured", "quantity"])) or ["Pass@k"]
    heights = [len(rows) + 1.2 for rows in labels.values()]
    figure, axes = pyplot().subplots(
        len(BLOCKS),
        len(columns),
        figsize=(PRINT_WIDTH, 1.05 + 0.185 * sum(heights)),
        sharex="row",
        sharey="row",
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for line, (kind, part) in enumerate(blocks.items()):
        for panel, quantity in zip(axes[line], columns, strict=True):
            _draw(panel, part[part["quantity"] == quantity], labels[kind])
            panel.set_title(quantity if line == 0 else "", loc="left")
        axes[line, 0].set_yticks(range(len(labels[kind])), [f"{id}  {label}" for id, label in labels[kind]])
        axes[line, 0].set_ylim(len(labels[kind]) - 0.4, -0.6)
        unrun = set(part.loc[part["status"] == "not run", "label"])
        for row, (_, label) in enumerate(labels[kind]):
            if label in unrun:
                axes[line, 0].text(
                    0.5, row, "not run", transform=axes[line, 0].get_yaxis_transform(), ha="center", va="center",
                    fontsize=7, color="#595959",
                )  # fmt: skip
        axes[line, len(columns) // 2].set_xlabel(f"difference in percentage points, {BLOCKS[kind]}")
        reach = 100 * part[["low", "high"]].abs().max(axis=None)
        limit = 1.08 * max(reach, 1.0) if reach == reach else 1.0  # never so narrow that rounding shows
        axes[line, 0].set_xlim(-limit, limit)
    figure.suptitle(f"{title}\n{_sizes(frame)}", fontsize=8.5, x=0.01, ha="left")
    return figure


def _draw(panel, part: pd.DataFrame, rows: list[tuple[str, str]]) -> None:
    panel.axvline(0, color="#7f7f7f", linewidth=0.8)
    panel.tick_params(axis="y", length=0)
    for values in part[part["status"] == "measured"].itertuples():
        row = rows.index((values.id, values.label))
        clear = values.low > 0 or values.high < 0
        color = COLORS["blue"] if clear else COLORS["grey"]
        panel.plot([100 * values.low, 100 * values.high], [row, row], color=color, linewidth=1.4)
        # Filled where the interval excludes zero, so that colour is not needed to see it.
        panel.plot(
            100 * values.value,
            row,
            marker="o",
            markersize=4,
            color=color,
            markerfacecolor=color if clear else "white",
        )


def _sizes(frame: pd.DataFrame) -> str:
    measured = frame[frame["status"] == "measured"]
    if measured.empty:
        return "nothing has run"
    problems, samples = (int(measured[name].min()) for name in ("problems", "samples"))
    return (
        f"{seeds_in_words(measured['seeds'])}, {problems} problems x {samples} samples at the final "
        "checkpoint; 95% intervals,\npaired by problem; a mark is filled where its interval excludes zero"
    )


FIGURE = DeviationsFigure
