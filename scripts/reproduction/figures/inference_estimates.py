"""From the responses of a study (``evaluation.studies``) to scores by problem, and to estimates with intervals.

Scores by problem have the columns ``model``, ``decoder``, ``problem`` and

- entropy: ``position`` (from 0), ``entropy`` (nats at temperature 1, mean over the problem's responses that reach
  the position) and ``responses`` (how many do)
- forking: ``branch`` (tokens kept), ``k``, ``maj_at_k`` (mean over the problem's cut responses), ``samples``
- majority: ``k``, ``maj_at_k``, ``samples``

Majority@k is exact over all subsets of k responses (``ead.metrics.majority_at_k`` has the tie rule).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ead import metrics, seeds, statistics
from reproduction.config import EntropyStudy, ForkingStudy, MajorityStudy
from reproduction.evaluation.samples import read_samples

CONFIDENCE = 0.95
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
            half = len(values) // 2
            difference = values[:half].mean(0) - values[-half:].mean(0)
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
