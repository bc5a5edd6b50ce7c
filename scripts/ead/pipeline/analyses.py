"""From evaluation samples to estimates with intervals: the numbers that figures show and claims test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ead import metrics, seeds, statistics
from ead.pipeline.runs import RunConfiguration
from ead.pipeline.samples import read_samples

CONFIDENCE = 0.95
METRICS = {
    "pass_at_1": lambda n, c: metrics.pass_at_k(n, c, 1),
    "pass_at_k": lambda n, c: metrics.pass_at_k(n, c, n),
    "worst_at_k": lambda n, c: metrics.worst_at_k(n, c, n),
}
"""Name -> score of problems from their numbers of responses ``n`` and correct responses ``c``; k is n."""


def correct_counts(manifests: Sequence[Path]) -> pd.DataFrame:
    """Return responses and correct responses per (subject's seed, step, decoder, problem) of one cell.

    ``manifests`` are the evaluations of the cell's seeds, in order; column ``seed`` is their index.
    """
    parts = []
    for index, manifest in enumerate(manifests):
        samples = read_samples(manifest)
        counts = samples.groupby(["step", "decoder", "problem"], sort=True)["correct"].agg(["size", "sum"])
        parts.append(counts.reset_index().assign(seed=index))
    return pd.concat(parts, ignore_index=True)


def training_curves(
    cells: Mapping[str, Sequence[tuple[RunConfiguration, Path]]],
    base_models: Mapping[str, Path],
    metric_names: Sequence[str],
    *,
    root_seed: int,
) -> pd.DataFrame:
    """Estimate every metric at every checkpoint of every cell, step 0 being the cell's base model.

    Args:
        cells: cell name -> its runs (one per seed) and their evaluation manifests.
        base_models: model name -> evaluation manifest of the model before training.
        metric_names: keys of ``METRICS``.

    Returns:
        One row per cell, decoder, metric and step: ``value``, ``low``, ``high`` (95 percent, by
        ``ead.statistics.bootstrap``), ``problems``, ``samples``, ``seeds``, and the cell's axes.
    """
    rows = []
    for cell, members in cells.items():
        run = members[0][0]
        base = correct_counts([base_models[run.model]] * len(members))
        counts = pd.concat([base, correct_counts([manifest for _, manifest in members])])
        # The base model has no training seed: its one evaluation stands for all.
        for (decoder, step), part in counts.groupby(["decoder", "step"], sort=True):
            trained = step > 0
            totals, right = (_matrix(part, column)[: None if trained else 1] for column in ("size", "sum"))
            for metric in metric_names:
                scores = METRICS[metric](totals, right)
                estimate = statistics.bootstrap(
                    scores,
                    generator=seeds.generator(root_seed, "bootstrap", cell, decoder, metric, int(step)),
                    confidence=CONFIDENCE,
                )
                rows.append(
                    {
                        "cell": cell,
                        "model": run.model,
                        "algorithm": run.algorithm,
                        "sampler": run.sampler,
                        "n": run.n,
                        "decoder": decoder,
                        "metric": metric,
                        "step": int(step),
                        "value": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "problems": estimate.problems,
                        "samples": int(totals.min()),
                        "seeds": estimate.seeds,
                    }
                )
    return pd.DataFrame(rows)


def _matrix(part: pd.DataFrame, column: str) -> np.ndarray:
    """Return ``column`` as [seeds, problems]; every seed must have the same problems."""
    table = part.pivot(index="seed", columns="problem", values=column)
    if table.isna().any(axis=None):
        raise ValueError("the seeds of a cell were evaluated on different problems; evaluate them again")
    return table.to_numpy(dtype=int)


def summary(manifest: Path, *, root_seed: int, k: int) -> pd.DataFrame:
    """Return one row per decoder of one evaluation: Pass@1, Pass@k, Worst@k with intervals, and health counts."""
    samples = read_samples(manifest)
    rows = []
    for decoder, part in samples.groupby("decoder", sort=False):
        counts = part.groupby("problem", sort=True)["correct"].agg(["size", "sum"])
        n, c = counts["size"].to_numpy(), counts["sum"].to_numpy()
        row = {"decoder": decoder, "problems": len(counts), "samples": int(n.min())}
        for name, scores in (
            ("Pass@1", metrics.pass_at_k(n, c, 1)),
            (f"Pass@{k}", metrics.pass_at_k(n, c, k)),
            (f"Worst@{k}", metrics.worst_at_k(n, c, k)),
        ):
            estimate = statistics.bootstrap(
                np.atleast_2d(scores),
                generator=seeds.generator(root_seed, "bootstrap", "summary", decoder, name),
            )
            row |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
        row |= {
            "tokens per response": part["tokens"].mean(),
            "truncated share": float((~part["finished"]).mean()),
            "no answer": int((part["status"] == "no_answer").sum()),
            "timeouts": int((part["status"] == "timeout").sum()),
            "errors": int((part["status"] == "error").sum()),
        }
        rows.append(row)
    return pd.DataFrame(rows)
