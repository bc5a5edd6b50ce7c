"""What is gained and what is given up: two metrics at the end of training against each other, a mark per sampler."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from pydantic import Field

from reproduction.config import Scale
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration
from reproduction.fields import Name
from reproduction.figures import analyses
from reproduction.figures.analyses import METRIC_LABELS, METRICS
from reproduction.figures.figure import OfRuns
from reproduction.figures.style import COLORS, PRINT_WIDTH, head, nothing_ran, pyplot, set_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


class TradeOff(OfRuns):
    """Two scores of the last checkpoints against each other, at one evaluation decoder."""

    analysis: Literal["trade_off"] = Field(description="the kind of figure")
    across: Name = Field(description="metric of the horizontal axis, such as `pass_at_k`")
    up: Name = Field(description="metric of the vertical axis, such as `worst_at_k`")

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from super().mistakes(where, scale, samplers)
        yield from unknown(f"{where}.across", "metric", [self.across], METRICS)
        yield from unknown(f"{where}.up", "metric", [self.up], METRICS)
        for key in ("algorithm", "rollouts"):
            yield from self.indistinct(where, scale, key, ("role", "sampler"), "write an entry for each")

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {
            "analysis": self.analysis,
            "names": list(runs),
            "metric_names": [self.across, self.up],
            "decoders": scale.evaluation.decoders[:1],
            "root_seed": root_seed,
        }

    estimate = staticmethod(analyses.decoder_matrix)

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`."""
        axes = {"across": self.across, "up": self.up}
        return {**super().drawing(name, scale, runs), **self.words_of_runs(scale, runs), **axes}

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """Draw a panel per model; bars are the intervals of both scores, and the cross is the base model."""
        set_style()
        models = [model for model in request["models"] if (estimates["model"] == model).any()]
        if not models or estimates["value"].isna().all():
            return nothing_ran(request)
        size = (PRINT_WIDTH, 2.9)
        figure, axes = pyplot().subplots(1, len(models), figsize=size, squeeze=False, layout="constrained")
        scores = estimates.assign(sampler=estimates["sampler"].fillna("")).pivot(
            index=["model", "sampler"], columns="metric", values=["value", "low", "high"]
        )
        styles = {
            "": {"label": "base model", "style": {"color": "black", "marker": "x"}},
            **request["samplers"],
        }
        for axis, model in zip(axes[0], models, strict=True):
            for sampler, words in styles.items():
                if (model, sampler) in scores.index:
                    _mark(axis, scores.loc[model, sampler], request, words)
            axis.set_title(request["models"][model])
            samples = estimates.loc[estimates["model"] == model, "samples"].dropna()
            k = int(samples.min()) if len(samples) else "k"
            axis.set_xlabel(METRIC_LABELS[request["across"]].format(k=k))
            axis.set_ylabel(METRIC_LABELS[request["up"]].format(k=k))
        # A sampler may be drawn in one panel alone.
        drawn = {
            label: handle
            for axis in axes[0]
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        labels = [words["label"] for words in styles.values() if words["label"] in drawn]
        named = [drawn[label] for label in labels], labels
        figure.legend(*named, loc="outside lower center", ncols=4, frameon=False, title="training sampler")
        absent = f"not run at this scale: {', '.join(request['absent'])}" if request["absent"] else ""
        lost = estimates[(estimates["status"] == "diverged") & estimates["value"].isna()]
        told = []
        for sampler, of_sampler in lost.groupby("sampler", sort=False):
            where = [model for model in models if (of_sampler["model"] == model).any()]
            more = "" if where == models else f" ({', '.join(where)})"
            told.append(request["samplers"][sampler]["label"] + more)
        lost = f"diverged before the first checkpoint: {', '.join(told)}" if told else ""
        head(figure, request["title"], "last checkpoints; bars: 95% bootstrap intervals", lost, absent)
        return figure

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """See :class:`Figure`."""
        decoder = scale.decoders[scale.evaluation.decoders[0]].label
        return super().caption(scale, runs) | {
            "words": f"Each mark is the last checkpoint of a training, evaluated at {decoder}; the cross is the model "
            "before training. Marks to the upper right are better at both scores."
        }


def _mark(axis, scores: pd.Series, request: Mapping[str, Any], words: Mapping[str, Any]) -> None:
    x, y = (
        {kind: 100 * scores[kind, request[name]] for kind in ("value", "low", "high")}
        for name in ("across", "up")
    )
    if pd.isna(x["value"]) or pd.isna(y["value"]):
        return
    axis.errorbar(
        x["value"],
        y["value"],
        xerr=[[x["value"] - x["low"]], [x["high"] - x["value"]]],
        yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]],
        color=COLORS[words["style"]["color"]],
        marker=words["style"]["marker"],
        linestyle="none",
        elinewidth=0.8,
        label=words["label"],
    )


FIGURE = TradeOff
