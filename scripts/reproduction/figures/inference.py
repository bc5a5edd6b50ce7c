"""Figures 1, 2 and 9: entropy by position, Majority@k by fork, Majority@N, from the responses of a study.

Scores by problem have the columns ``model``, ``decoder``, ``problem`` and

- entropy: ``position`` (from 0), ``entropy`` (nats at temperature 1, mean over the problem's responses that reach
  the position) and ``responses`` (how many do)
- forking: ``branch`` (tokens kept), ``k``, ``maj_at_k`` (mean over the problem's cut responses), ``samples``
- majority: ``k``, ``maj_at_k``, ``samples``

Majority@k is exact over all subsets of k responses (``ead.metrics.majority_at_k`` has the tie rule).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter

from ead import metrics, seeds, statistics
from reproduction.config import AnyStudy, EntropyStudy, ForkingStudy, MajorityStudy, PretrainedModel, Scale
from reproduction.config.runs import RunConfiguration
from reproduction.evaluation.samples import read_samples
from reproduction.fields import Name
from reproduction.figures.analyses import CONFIDENCE
from reproduction.figures.figure import Cell, Figure
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, percent, pyplot, set_style
from reproduction.files import write_parquet
from reproduction.models.pretrained import load_models

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture


class InferenceFigure(Figure):
    """Estimates from one study of the scale; a scale without that study lacks the figure."""

    own_rules: ClassVar[bool] = True
    one_seed: ClassVar[bool] = True
    caption_template: ClassVar[str] = "inference.rst"

    analysis: Literal["inference"] = Field(description="the kind of figure")
    study: Name = Field(description="key of the scale's inference section")

    def cells(self, scale: Scale) -> Iterator[Cell]:
        """Yield the training whose last checkpoint the study looks at, where it looks at one."""
        study = scale.study(self.study)
        if study is not None and study.sampler is not None:
            yield Cell(study.role, study.algorithm, study.sampler, None)

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`; ``subject`` is what the estimates are about, in the columns that all analyses share."""
        study, run = scale.study(self.study), next(iter(runs.values()), None)
        axes = ("model", "algorithm", "sampler", "n")
        if run:
            subject = {"cell": run.cell} | {axis: getattr(run, axis) for axis in axes}
        else:
            model = study.model or scale.roles[study.role].model
            subject = {"cell": f"model~{model}"} | dict.fromkeys(axes) | {"model": model}
        return {
            "analysis": self.analysis,
            "study": study.model_dump(mode="json"),
            "subject": subject,
            "root_seed": root_seed,
        }

    @staticmethod
    def estimate(
        *, manifest: Path, problems: Path, study: dict, subject: dict, root_seed: int, **_
    ) -> pd.DataFrame:
        """See :class:`Figure`; ``manifest`` is the study's, and the scores by problem go to the file ``problems``."""
        definition = TypeAdapter(AnyStudy).validate_python(study)
        estimates, scores = estimate_study(definition, manifest, subject, root_seed=root_seed)
        write_parquet(scores, problems)
        return estimates

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the study, whom it is about, and each decoder's label and the style of the sampler that it is.

        Without the study there is nothing to draw.
        """
        study = scale.study(self.study)
        words = super().drawing(name, scale, runs)
        if study is None:
            return words
        return words | {
            "study": study.model_dump(mode="json"),
            "subject": self.subject(scale, runs),
            "decoders": {
                key: {"label": scale.decoders[key].label, "style": scale.style_of(key).model_dump()}
                for key in study.decoders
            },
        }

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        study = TypeAdapter(AnyStudy).validate_python(request["study"])
        words = {"title": request["title"], "subject": request["subject"]}
        return draw(study, estimates, request["decoders"], **words)

    def subject(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> str:
        """Return in words which model answered which problems; the scale defines the study."""
        study = scale.study(self.study)
        model = study.model or scale.roles[study.role].model
        definition, run = scale.models[model], next(iter(runs.values()), None)
        words = f"model {model}"
        if isinstance(definition, PretrainedModel):
            words = getattr(load_models()[definition.source], "original", None) or definition.source
        if run:
            algorithm, sampler = scale.algorithms[run.algorithm].label, scale.samplers[run.sampler].label
            words += f" after {algorithm} with {sampler}, step {run.training.steps}"
        elif not isinstance(definition, PretrainedModel):
            words += ", before reinforcement learning"
        return f"{words}; {study.dataset}"

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """Return the numbers of the study with the words of every caption; ``definition`` is None without a study."""
        study = scale.study(self.study)
        return super().caption(scale, runs) | {
            "definition": study and study.model_dump(),
            "subject": study and self.subject(scale, runs),
            "published": scale.published_curves,  # the scale with the paper's models
        }


# --- estimates ---------------------------------------------------------------------------------------------

MIN_PROBLEMS = 10  # a position that fewer problems' responses reach gets no estimate


def estimate_study(
    study: EntropyStudy | ForkingStudy | MajorityStudy,
    manifest: Path,
    subject: Mapping[str, object],
    *,
    root_seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a study's estimates and the scores by problem that they rest on.

    Args:
        manifest: of the study; its files are checked against it.
        subject: the columns ``cell``, ``model``, ``algorithm``, ``sampler`` and ``n`` of what was looked at.

    The estimates have one row per metric, decoder and ``step``, with ``value``, ``low`` and ``high`` (95 percent
    over problems), ``problems``, ``samples`` and ``seeds``. ``step`` is

    - entropy: the output position of ``entropy`` (nats; ``samples`` counts the responses that reach it). Null for
      ``entropy_change``: the mean over the later half of a response's tokens less that over the earlier half, its
      template left out.
    - forking: the position b of ``majority_at_{k}``, of ``majority_at_{k}_change`` (from the first position, paired
      by problem) and of ``ended_share`` (responses that had ended by b). Null for
      ``majority_at_{k}_early_minus_late``: the mean over the earlier half of the positions less that over the later
      half, a middle one left out.
    - majority: N of ``majority_at_n`` and of ``majority_at_n_minus_{baseline}``, the decoder's difference to a
      baseline, paired by problem. Null for ``majority_minus_{baseline}``, the mean of the differences over all N.
    """
    samples = read_samples(manifest)
    estimate = {
        EntropyStudy: _estimate_entropy,
        ForkingStudy: _estimate_forking,
        MajorityStudy: _estimate_majority,
    }[type(study)]
    table = _Table(dict(subject), root_seed)
    scores = estimate(study, samples, table)
    scores.insert(0, "model", subject["model"])
    return table.frame(), scores


class _Table:
    """Rows of estimates; every one has a random stream of its own."""

    def __init__(self, subject: dict, root_seed: int) -> None:
        self._subject, self._root_seed, self._rows = subject, root_seed, []

    def add(self, metric: str, decoder: str, step: int | None, scores: np.ndarray, samples: int) -> None:
        """Estimate the mean of ``scores`` [problems]."""
        names = (
            "bootstrap",
            str(self._subject["cell"]),
            decoder,
            metric,
            "all" if step is None else int(step),
        )
        estimate = statistics.bootstrap(
            np.atleast_2d(scores),
            generator=seeds.generator(self._root_seed, *names),
            confidence=CONFIDENCE,
        )
        self._rows.append(
            self._subject
            | {
                "decoder": decoder,
                "metric": metric,
                "step": step,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "problems": estimate.problems,
                "samples": samples,
                "seeds": estimate.seeds,
            }
        )

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._rows).astype({"step": "Int64", "n": "Int64"})


def _estimate_entropy(study: EntropyStudy, samples: pd.DataFrame, table: _Table) -> pd.DataFrame:
    tokens = samples[["decoder", "problem", "entropies"]].copy()
    tokens["position"] = [np.arange(len(entropies)) for entropies in tokens["entropies"]]
    tokens = tokens.explode(["entropies", "position"], ignore_index=True)
    tokens = tokens.astype({"entropies": np.float64, "position": np.int64})
    scores = (
        tokens.groupby(["decoder", "problem", "position"], sort=True)["entropies"]
        .agg(entropy="mean", responses="size")
        .reset_index()
    )
    for decoder in study.decoders:
        part = scores[scores["decoder"] == decoder]
        least = min(MIN_PROBLEMS, part["problem"].nunique())
        for position, there in part.groupby("position"):
            if len(there) >= least:
                reached = int(there["responses"].sum())
                table.add("entropy", decoder, position, there["entropy"].to_numpy(), reached)
        drawn = samples[samples["decoder"] == decoder]
        halves = [_later_less_earlier(row[study.template_tokens :]) for row in drawn["entropies"]]
        change = pd.Series(halves).groupby(drawn["problem"].to_numpy()).mean().dropna()
        table.add("entropy_change", decoder, None, change.to_numpy(), study.samples)
    return scores


def _later_less_earlier(entropies: np.ndarray) -> float:
    """The mean of the second half less the mean of the first, a middle token left out; NaN below two tokens."""
    half = len(entropies) // 2
    return float(entropies[-half:].mean() - entropies[:half].mean()) if half else float("nan")


def halves(forks: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the earlier and the later half of the positions of forks, a middle one left out.

    Half of the forks and not of the way: they lie ever further apart.
    """
    ordered = sorted(set(forks))
    half = len(ordered) // 2
    return ordered[:half], ordered[len(ordered) - half :]


def _estimate_forking(study: ForkingStudy, samples: pd.DataFrame, table: _Table) -> pd.DataFrame:
    branches = samples[samples["parent"].notna()].rename(columns={"step": "branch"})
    by_response = _majority(branches, ["decoder", "branch", "problem", "parent"], study.sizes)
    keys = ["decoder", "problem", "branch", "k"]
    scores = by_response.groupby(keys, sort=True)["maj_at_k"].mean().reset_index()
    for decoder in study.decoders:
        part = scores[scores["decoder"] == decoder]
        for size in study.sizes:
            # [positions, problems]
            of_size = part[part["k"] == size].pivot(index="branch", columns="problem", values="maj_at_k")
            metric, values = f"majority_at_{size}", of_size.to_numpy()
            for position, row in zip(of_size.index, values, strict=True):
                table.add(metric, decoder, position, row, study.branches)
                if position != of_size.index[0]:
                    table.add(f"{metric}_change", decoder, position, row - values[0], study.branches)
            early, late = (values[of_size.index.isin(half)] for half in halves(of_size.index))
            difference = early.mean(0) - late.mean(0)
            table.add(f"{metric}_early_minus_late", decoder, None, difference, study.branches)
        drawn = branches[branches["decoder"] == decoder]
        for position, there in drawn.groupby("branch"):
            ended = 1 - there["forked"].astype(float).groupby(there["problem"], sort=True).mean()
            table.add("ended_share", decoder, position, ended.to_numpy(), study.samples)
    return scores.assign(samples=study.branches)


def _estimate_majority(study: MajorityStudy, samples: pd.DataFrame, table: _Table) -> pd.DataFrame:
    scores = _majority(samples, ["decoder", "problem"], study.sizes)
    # [sizes, problems]
    values = {
        decoder: part.pivot(index="k", columns="problem", values="maj_at_k").loc[study.sizes].to_numpy()
        for decoder, part in scores.groupby("decoder")
    }
    for decoder in study.decoders:
        for size, row in zip(study.sizes, values[decoder], strict=True):
            table.add("majority_at_n", decoder, size, row, study.samples)
    for decoder in study.treatments:
        for baseline in study.baselines:
            differences = values[decoder] - values[baseline]
            for size, row in zip(study.sizes, differences, strict=True):
                table.add(f"majority_at_n_minus_{baseline}", decoder, size, row, study.samples)
            table.add(f"majority_minus_{baseline}", decoder, None, differences.mean(0), study.samples)
    return scores.assign(samples=study.samples)


def _majority(samples: pd.DataFrame, keys: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """Return ``keys``, ``k`` and ``maj_at_k``: the exact Majority@k of every group of responses."""
    # A file's null comes back as NaN, which would vote.
    samples = samples.assign(vote=samples["vote"].astype(object).where(samples["vote"].notna(), None))
    rows = [
        (*key, size, value)
        for key, group in samples.groupby(list(keys), sort=True)
        for size, value in zip(
            sizes,
            metrics.majority_at_k(list(group["vote"]), group["correct"].to_numpy(), sizes),
            strict=True,
        )
    ]
    return pd.DataFrame(rows, columns=[*keys, "k", "maj_at_k"])


# --- the picture -------------------------------------------------------------------------------------------

NEUTRAL = COLORS["grey"]


def draw(
    study: EntropyStudy | ForkingStudy | MajorityStudy,
    estimates: pd.DataFrame,
    decoders: Mapping[str, Mapping],
    *,
    title: str,
    subject: str,
) -> "Picture":
    """Draw a study from its estimates (:func:`estimate_study`).

    Args:
        decoders: decoder -> ``label`` and ``style``.
        subject: the model and the problems, in words; stands below the title.
    """
    set_style()
    panels = {EntropyStudy: _draw_entropy, ForkingStudy: _draw_forking, MajorityStudy: _draw_majority}[
        type(study)
    ]
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


def _curve(panel: "Axes", curve: pd.DataFrame, decoder: Mapping, marked: bool = True, **options) -> None:
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


def _percent(panel: "Axes", label: str) -> None:
    percent(panel)
    panel.set_ylabel(label)


def _draw_entropy(study: EntropyStudy, estimates: pd.DataFrame, decoders: Mapping[str, Mapping]) -> "Picture":
    """Entropy by position above, the responses that still go on there below."""
    figure, (upper, lower) = pyplot().subplots(
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


def _draw_forking(study: ForkingStudy, estimates: pd.DataFrame, decoders: Mapping[str, Mapping]) -> "Picture":
    """Majority@k by fork, and its change from the first fork on the same problems."""
    figure = pyplot().figure(figsize=(PRINT_WIDTH, 3.5), layout="constrained")
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


def _draw_majority(
    study: MajorityStudy, estimates: pd.DataFrame, decoders: Mapping[str, Mapping]
) -> "Picture":
    """Majority@N by decoder, and the other decoders' differences to each baseline on the same problems."""
    figure = pyplot().figure(figsize=(PRINT_WIDTH, 3.0), layout="constrained")
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


FIGURE = InferenceFigure
