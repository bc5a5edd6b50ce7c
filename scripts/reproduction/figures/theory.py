"""What the formulas say by themselves: the schedules of Figure 3, Propositions B.1 and C.1 by enumeration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from ead import schedule, seeds

TOLERANCE = 1e-9  # what rounding may undo of an inequality between nats


def schedule_curves(panels: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return ``temperature`` by response ``position`` for every ``curve`` of every ``panel``.

    Args:
        panels: ``title``, ``positions`` (how many response tokens) and ``curves``, each with ``label``,
            ``schedule`` (as ``ead.schedule.from_config`` takes it) and ``step``.
    """
    parts = []
    for panel in panels:
        positions = np.arange(panel["positions"])
        for curve in panel["curves"]:
            tau = schedule.from_config(curve["schedule"]).temperature(positions, curve["step"])
            names = {"panel": panel["title"], "curve": curve["label"]}
            parts.append(pd.DataFrame({**names, "position": positions, "temperature": tau}))
    return pd.concat(parts, ignore_index=True)


def propositions(
    temperatures: Sequence[float],
    vocabularies: Sequence[int],
    distributions: int,
    spread: float,
    *,
    root_seed: int,
) -> pd.DataFrame:
    """Evaluate both propositions exactly on random next-token distributions.

    ``variance_inflation`` is ``E_{y ~ pi_tau}[pi_1(y)^2 / pi_tau(y)^2]`` (Proposition B.1: least at tau = 1,
    where it is 1); ``entropy`` is that of ``pi_tau`` in nats (Proposition C.1: it does not decrease with tau).

    Args:
        temperatures: in increasing order, 1 among them.
        vocabularies: sizes of the distributions.
        distributions: drawn per size, with logits uniform in ``[-spread, 0]``.

    Returns:
        One row per size, metric and temperature: ``value`` is the mean over distributions, ``low`` and ``high``
        are the least and the greatest, and ``violations`` counts the distributions of that size for which the
        proposition fails anywhere on the grid.

    Raises:
        ValueError: the temperatures do not increase or lack 1.
    """
    taus = np.asarray(temperatures, dtype=np.float64)
    if 1.0 not in taus or (np.diff(taus) <= 0).any():
        raise ValueError(f"temperatures must increase and hold 1, found {temperatures}")
    one = int(np.flatnonzero(taus == 1.0)[0])
    rows = []
    for size in vocabularies:
        logits = seeds.generator(root_seed, "propositions", size).uniform(-spread, 0, (distributions, size))
        logprobs = tempered_logprobs(logits, taus)
        inflation, entropy = log_variance_inflation(logprobs, one), entropies(logprobs)
        failed = {
            "variance_inflation": violates_b1(inflation, one, TOLERANCE),
            "entropy": violates_c1(entropy, TOLERANCE),
        }
        for metric, values in (("variance_inflation", np.exp(inflation)), ("entropy", entropy)):
            for tau, at_tau in zip(taus, values, strict=True):
                rows.append(
                    {
                        "vocabulary": size,
                        "metric": metric,
                        "temperature": tau,
                        "value": at_tau.mean(),
                        "low": at_tau.min(),
                        "high": at_tau.max(),
                        "distributions": distributions,
                        "violations": int(failed[metric].sum()),
                    }
                )
    return pd.DataFrame(rows)


def tempered_logprobs(logits: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Return log-probabilities ``[temperatures, ..., tokens]`` of softmax distributions ``[..., tokens]``."""
    scaled = logits / temperatures.reshape(-1, *[1] * logits.ndim)
    return scaled - logsumexp(scaled, axis=-1, keepdims=True)


def log_variance_inflation(logprobs: np.ndarray, one: int) -> np.ndarray:
    """Return the logarithm of equation 2, ``E[pi_1(y)^2 / pi_tau(y)^2]``, by temperature; ``one`` is the index of 1.

    In logarithms, since at low temperatures the factor exceeds any float.
    """
    return logsumexp(2 * logprobs[one] - logprobs, axis=-1)


def entropies(logprobs: np.ndarray) -> np.ndarray:
    """Return entropies in nats, by temperature."""
    return -(np.exp(logprobs) * logprobs).sum(axis=-1)


def violates_b1(log_inflation: np.ndarray, one: int, tolerance: float) -> np.ndarray:
    """Return where Proposition B.1 fails: the inflation does not fall to temperature 1 and rise from there."""
    steps = np.diff(log_inflation, axis=0)
    return (steps[:one] > tolerance).any(axis=0) | (steps[one:] < -tolerance).any(axis=0)


def violates_c1(entropy: np.ndarray, tolerance: float) -> np.ndarray:
    """Return where Proposition C.1 fails: the entropy falls somewhere as the temperature rises."""
    return (np.diff(entropy, axis=0) < -tolerance).any(axis=0)
