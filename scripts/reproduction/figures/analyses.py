"""From records to estimates with intervals: the numbers that figures show and claims test.

A table of estimates has one row per cell, decoder, metric and step:

- ``cell``, ``model``, ``algorithm``, ``sampler``, ``n``: what was trained; the cell's seeds are averaged
- ``decoder``: null for quantities of the training itself
- ``metric``, ``step``: for training quantities, the last step of the window that is averaged
- ``value``, ``low``, ``high``: the estimate and its interval (``ead.statistics.bootstrap``); no interval where
  one seed logged one number per step
- ``problems``, ``samples``, ``seeds``: the data behind it
- ``status``: ``finished``; ``diverged`` where a run of the cell ended early; with neither step nor value, ``not run``
  where the cell has no results, and ``not recorded`` where its engine does not know the metric for its sampler. A table
  of last checkpoints has ``diverged`` without them, too: no run of the cell left a checkpoint
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ead import metrics, seeds, statistics
from reproduction.config import Scale
from reproduction.config.runs import RunConfiguration, axes_of
from reproduction.evaluation.samples import correct_counts
from reproduction.files import load_json
from reproduction.training import contract

CONFIDENCE = 0.95
METRICS = {
    "pass_at_1": lambda n, c: metrics.pass_at_k(n, c, 1),
    "pass_at_k": lambda n, c: metrics.pass_at_k(n, c, n),
    "worst_at_k": lambda n, c: metrics.worst_at_k(n, c, n),
    # With replacement, as the training framework reports them (D05).
    "resampled_best_at_k": lambda n, c: _resampled(metrics.resampled_best_at_k, n, c),
    "resampled_worst_at_k": lambda n, c: _resampled(metrics.resampled_worst_at_k, n, c),
}
"""Name -> score of problems from their numbers of responses ``n`` and correct responses ``c``; k is n."""
TRAINING_METRICS = {
    name: "groups" if name in contract.BY_PROMPT else "metrics"
    for name in (
        *contract.BY_PROMPT,
        *("gradient_norm", "loss", "approximate_kl", "policy_ratio_max"),
        *("importance_ratio_mean", "importance_ratio_max", "importance_weight_mean"),
        *("importance_share_capped", "importance_effective_sample_share", "importance_behaviour_kl"),
    )
}
"""Name -> the run's table that holds it: by step and prompt (``groups``), or by step alone (``metrics``)."""
METRIC_LABELS = {
    "pass_at_1": "Pass@1 (%)",
    "pass_at_k": "Pass@{k} (%)",
    "worst_at_k": "Worst@{k} (%)",
    "resampled_best_at_k": "best@{k}, resampled (%)",
    "resampled_worst_at_k": "worst@{k}, resampled (%)",
    "reward_mean": "training reward (%)",
    "truncated_share": "truncated responses (%)",
    "response_length_mean": "response length (tokens)",
    "entropy": "entropy at τ = 1 (nats)",
    "entropy_at_sampling_temperature": "entropy at the sampling τ (nats)",
    "gradient_norm": "gradient norm",
    "loss": "loss",
    "approximate_kl": "approximate KL (nats)",
    "policy_ratio_max": "largest policy ratio",
    "importance_ratio_mean": "mean importance ratio",
    "importance_ratio_max": "largest importance ratio",
    "importance_weight_mean": "mean importance weight",
    "importance_share_capped": "capped weights (%)",
    "importance_effective_sample_share": "effective sample share (%)",
    "importance_behaviour_kl": "KL, policy to sampler (nats)",
}
"""Name -> what an axis says."""
KEYS = ["cell", "model", "algorithm", "sampler", "n", "decoder", "metric", "step"]
COLUMNS = [*KEYS, "value", "low", "high", "problems", "samples", "seeds", "status"]
_ESTIMATES_AT_ONCE = 2048  # their replicates take 4,000 x 8 bytes each, several times over


def training_curves(
    names: Sequence[str],
    metric_names: Sequence[str],
    decoders: Collection[str],
    windows: Mapping[str, int],
    *,
    runs: Path,
    evaluations: Path,
    root_seed: int,
    partial: bool = False,
) -> pd.DataFrame:
    """Estimate every metric along the training of every cell; see the module for the table.

    Evaluation metrics are estimated at every checkpoint, step 0 being the cell's base model; quantities of the
    training over windows of steps.

    Args:
        names: run names; those that differ only in their seed are one cell.
        metric_names: keys of ``METRICS`` and ``TRAINING_METRICS``.
        decoders: evaluation decoders; of no consequence for quantities of the training.
        windows: model -> steps per window.
        runs, evaluations: their folders.
        partial: take what has results, instead of failing where a run or a base model has none.

    Raises:
        FileNotFoundError: a run or its base model has no results and ``partial`` is false.
        ValueError: an unknown metric, or the seeds of a cell were evaluated on different problems.
    """
    for name in metric_names:
        if name not in METRICS and name not in TRAINING_METRICS:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join([*METRICS, *TRAINING_METRICS])}")
    evaluated = [name for name in metric_names if name in METRICS]
    logged = [name for name in metric_names if name in TRAINING_METRICS]
    estimates = _Estimates(root_seed)
    for cell in _cells(names, runs, evaluations if evaluated else None, partial):
        if not cell.members:
            estimates.without_value(cell, evaluated, decoders, cell.status)
            estimates.without_value(cell, logged, [None], cell.status)
            continue
        if evaluated:
            base = evaluations / f"model~{cell.model}" / "manifest.json"
            if base.exists() or not partial:
                # The base model has no training seed: its one evaluation stands for all.
                start = correct_counts(base, decoders).assign(step=0)
                estimates.add_evaluations(cell, [start], evaluated)
            counts = [correct_counts(evaluations / name / "manifest.json", decoders) for name in cell.members]
            estimates.add_evaluations(cell, counts, evaluated)
        if logged:
            _add_training(estimates, cell, logged, windows[cell.model], runs)
    return estimates.table()


def decoder_matrix(
    names: Sequence[str],
    metric_names: Sequence[str],
    decoders: Collection[str],
    *,
    runs: Path,
    evaluations: Path,
    root_seed: int,
    partial: bool = False,
) -> pd.DataFrame:
    """Estimate metrics at the last checkpoint of every cell, and of its base model, by evaluation decoder.

    Arguments and result as for :func:`training_curves`; rows of a base model have no sampler. The last
    checkpoint of a run that diverged is the last it left.
    """
    estimates = _Estimates(root_seed)
    models = {}
    for cell in _cells(names, runs, evaluations, partial):
        if not cell.members:
            estimates.without_value(cell, metric_names, decoders, cell.status)
            continue
        models.setdefault(cell.model, cell)
        counts = [
            part
            for name in cell.members
            if len(part := correct_counts(evaluations / name / "manifest.json", decoders, last_step=True))
        ]
        if not counts:
            estimates.without_value(cell, metric_names, decoders, cell.status)
            continue
        # Checkpoints of different steps are one column here: what the training ended with.
        last = max(part["step"].max() for part in counts)
        estimates.add_evaluations(cell, [part.assign(step=last) for part in counts], metric_names)
    for model, cell in models.items():
        manifest = evaluations / f"model~{model}" / "manifest.json"
        if manifest.exists() or not partial:
            base = _Cell(f"model~{model}", {"model": model}, cell.members[:1], "finished")
            start = correct_counts(manifest, decoders).assign(step=0)
            estimates.add_evaluations(base, [start], metric_names)
    return estimates.table()


def window_ends(steps: np.ndarray, window: int) -> np.ndarray:
    """Return, for every step, the last step of its window; windows are counted from step 1."""
    return -(-steps // window) * window


class _Cell:
    """Runs that differ only in their seed, those of them that have results, and how they ended."""

    def __init__(self, name: str, axes: Mapping[str, str], members: list[str], status: str) -> None:
        self.name, self.members, self.status = name, members, status
        self.model = axes["model"]
        n = axes.get("n")
        self.keys = {
            "cell": name,
            "model": self.model,
            "algorithm": axes.get("algorithm"),
            "sampler": axes.get("sampler"),
            "n": int(n) if n else None,
        }


def _cells(names: Sequence[str], runs: Path, evaluations: Path | None, partial: bool) -> Iterable[_Cell]:
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(name.rpartition("/")[0], []).append(name)
    for cell, seeds_of_cell in members.items():
        present, statuses = [], []
        for name in seeds_of_cell:
            needed = [runs / name / "manifest.json"]
            needed += [evaluations / name / "manifest.json"] if evaluations else []
            missing = [path for path in needed if not path.exists()]
            if missing and not partial:
                raise FileNotFoundError(f"{missing[0]}: the run has no results yet")
            if not missing:
                present.append(name)
                statuses.append(load_json(needed[0])["status"])
        diverged = "diverged" in statuses
        status = ("diverged" if diverged else "finished") if present else "not run"
        yield _Cell(cell, axes_of(cell), present, status)


class _Estimates:
    """Collects scores ``[seeds, problems]`` and estimates those of one shape together.

    They share their resamples, so that curves are resampled as wholes, and an estimate does not depend on
    which others are made with it: a cell has the same interval in every figure.
    """

    def __init__(self, root_seed: int) -> None:
        self._root_seed = root_seed
        self._scores: dict[tuple[int, int], list[tuple[dict[str, Any], np.ndarray]]] = {}
        self._counts: dict[tuple[int, int], list[tuple[dict[str, Any], np.ndarray, np.ndarray]]] = {}
        self._metrics: list[str] = []
        self._rows: list[dict[str, Any]] = []

    def without_value(
        self, cell: _Cell, metric_names: Iterable[str], decoders: Iterable[str | None], status: str
    ) -> None:
        self._rows += [
            {**cell.keys, "decoder": decoder, "metric": metric, "status": status}
            for decoder in decoders
            for metric in metric_names
        ]

    def add_evaluations(
        self, cell: _Cell, counts: Sequence[pd.DataFrame], metric_names: Sequence[str]
    ) -> None:
        """Add every (decoder, step) of one cell from the counts of its seeds."""
        table = pd.concat(counts, keys=range(len(counts)), names=["seed"]).reset_index("seed")
        for (decoder, step), part in table.groupby(["decoder", "step"], sort=True):
            # A seed that diverged has no later checkpoints; the others go on without it.
            parts = [rows for _, rows in part.groupby("seed", sort=True)]
            problems = parts[0]["problem"].to_numpy()
            if any(not np.array_equal(rows["problem"], problems) for rows in parts[1:]):
                raise ValueError(
                    f"{cell.name}: the seeds of a cell were evaluated on different problems; evaluate them again"
                )
            responses, correct = (
                np.stack([rows[column].to_numpy(dtype=int) for rows in parts])
                for column in ("responses", "correct")
            )
            row = {**cell.keys, "decoder": decoder, "step": int(step), "status": cell.status}
            row["samples"] = int(responses.min())
            self._counts.setdefault(responses.shape, []).append((row, responses, correct))
        self._metrics = list(dict.fromkeys([*self._metrics, *metric_names]))

    def add(self, row: dict[str, Any], scores: np.ndarray) -> None:
        """Add one estimate of the mean of ``scores`` ``[seeds, problems]``."""
        if scores.size == 1:
            # One number: it is its own estimate, and has no interval.
            size = {"problems": scores.shape[1], "seeds": 1}
            self._rows.append({**row, "value": float(scores[0, 0]), **size})
        else:
            self._scores.setdefault(scores.shape, []).append((row, scores))

    def table(self) -> pd.DataFrame:
        for (seed_count, problems), entries in self._counts.items():
            responses, correct = (np.stack([entry[i] for entry in entries]) for i in (1, 2))
            for metric in self._metrics:
                scores = METRICS[metric](responses, correct)
                rows = [{**entry[0], "metric": metric} for entry in entries]
                self._scores.setdefault((seed_count, problems), []).extend(zip(rows, scores, strict=True))
        for entries in self._scores.values():
            for first in range(0, len(entries), _ESTIMATES_AT_ONCE):
                chunk = entries[first : first + _ESTIMATES_AT_ONCE]
                estimate = statistics.bootstrap(
                    np.stack([scores for _, scores in chunk]),
                    generator=seeds.generator(self._root_seed, "bootstrap"),
                    confidence=CONFIDENCE,
                )
                size = {"problems": estimate.problems, "seeds": estimate.seeds}
                numbers = zip(estimate.value, estimate.low, estimate.high, strict=True)
                self._rows += [
                    {**row, "value": value, "low": low, "high": high, **size}
                    for (row, _), (value, low, high) in zip(chunk, numbers, strict=True)
                ]
        table = pd.DataFrame(self._rows, columns=COLUMNS)
        whole = {column: "Int64" for column in ("n", "step", "problems", "samples", "seeds")}
        decimal = {column: "float64" for column in ("value", "low", "high")}
        return table.astype(whole | decimal).sort_values(KEYS, kind="stable", ignore_index=True)


def _add_training(
    estimates: _Estimates, cell: _Cell, metric_names: Sequence[str], window: int, runs: Path
) -> None:
    for source in ("groups", "metrics"):
        chosen = [name for name in metric_names if TRAINING_METRICS[name] == source]
        if not chosen:
            continue
        # [window's end][metric] -> per seed, the values by prompt (or step) within the window
        windows: dict[int, dict[str, list[np.ndarray]]] = {}
        for name in cell.members:
            table = pd.read_parquet(runs / name / f"{source}.parquet", columns=["step", *chosen])
            for end, part in table.groupby(window_ends(table["step"].to_numpy(), window)):
                for metric in chosen:
                    # An engine may not know a metric for this sampler. A run that diverged may have logged its last
                    # step as not finite: there its curve ends.
                    values = part[metric].to_numpy(dtype=float)
                    values = values[np.isfinite(values)]
                    if len(values):
                        windows.setdefault(int(end), {}).setdefault(metric, []).append(values)
        for end, by_metric in windows.items():
            for metric, parts in by_metric.items():
                if source == "metrics":
                    parts = [part.mean(keepdims=True) for part in parts]
                # A window that a run's end cut short holds fewer prompts; seeds are compared on as many.
                prompts = min(map(len, parts))
                row = {**cell.keys, "decoder": None, "metric": metric, "step": end, "status": cell.status}
                estimates.add(
                    {**row, "samples": cell.keys["n"]}, np.stack([part[:prompts] for part in parts])
                )
        recorded = {metric for by_metric in windows.values() for metric in by_metric}
        unknown = [metric for metric in chosen if metric not in recorded]
        # A run that ended at its first step has recorded nothing either.
        estimates.without_value(
            cell, unknown, [None], "diverged" if cell.status == "diverged" else "not recorded"
        )


def _resampled(metric, responses: np.ndarray, correct: np.ndarray) -> np.ndarray:
    scores = np.empty(correct.shape)
    for n in np.unique(responses):
        chosen = responses == n
        by_count = metric(np.arange(n) < np.arange(n + 1)[:, None], int(n))
        scores[chosen] = by_count[correct[chosen]]
    return scores


def caption(
    metric_names: Sequence[str], decoders: Sequence[str], scale: Scale, runs: Mapping[str, RunConfiguration]
) -> dict[str, str]:
    """Return what a caption says of a figure of runs; ``decoders`` by their labels."""
    samples = {scale.evaluation_of(run.model).samples for run in runs.values()}
    windows = sorted({run.training.window for run in runs.values()})
    return {
        "evaluated": "yes" if any(metric in METRICS for metric in metric_names) else "",
        "k": " or ".join(map(str, sorted(samples))),
        "window": " or ".join(map(str, windows)),
        "logged": "yes" if any(metric not in METRICS for metric in metric_names) else "",
        "decoders": "; ".join(decoders),
        "published": "yes" if scale.published_curves else "",
    }
