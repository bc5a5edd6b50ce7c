"""Signs of an unhealthy training, found in its own metrics by stated rules.

A sign marks a run, it does not stop it: an unstable training is a result (Figure 13). The one thing that ends a run
is a loss or a gradient that is not finite, because no policy is left to train; its status is then ``diverged``.

A sign holds in a step where ...

- ``not_finite``: the loss or the gradient norm is NaN or infinite (the run ends here)
- ``exploding_gradient``: the gradient norm before clipping is over 100 times the median of the run
- ``no_signal``: the rewards within every prompt's group are equal, so that no advantage is left
- ``reward_collapse``: the mean reward is below a fifth of the best that three steps in a row had before
- ``empty_responses``: the mean response is at most one token long, which is its end token
- ``entropy_collapse``: the policy's entropy at temperature 1 is below 0.01 nats per token
- ``entropy_explosion``: that entropy is over five times its mean over the first three steps

The first two are signs in any step. The others may happen by chance, so they must hold in three steps in a row.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

PATIENCE = 3  # steps in a row
EXPLODING_GRADIENT = 100.0  # times the median
REWARD_COLLAPSE = 0.2  # of the best
ENTROPY_COLLAPSE = 0.01  # nats per token
ENTROPY_EXPLOSION = 5.0  # times the first steps' mean


@dataclass(frozen=True)
class Sign:
    """``name`` was first seen at ``first_step`` and held in ``steps`` steps of the run."""

    name: str
    first_step: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def signs(metrics: pd.DataFrame) -> list[Sign]:
    """Return the signs in ``metrics``, earliest first.

    Args:
        metrics: one row per step, in order, with the columns that every engine records; a step that was not finite
            may lack all but its loss and gradient norm.

    Raises:
        KeyError: a column is missing.
    """
    entropy = metrics["entropy"].to_numpy(float)
    holds = {
        "not_finite": ~np.isfinite(metrics[["loss", "gradient_norm"]].to_numpy(float)).all(axis=1),
        "exploding_gradient": _exploding(metrics["gradient_norm"].to_numpy(float)),
        "no_signal": _in_a_row(metrics["equal_reward_groups"].to_numpy(float) == 1),
        "reward_collapse": _in_a_row(_reward_lost(metrics["reward_mean"].to_numpy(float))),
        "empty_responses": _in_a_row(metrics["response_length_mean"].to_numpy(float) <= 1),
        "entropy_collapse": _in_a_row(entropy < ENTROPY_COLLAPSE),
        "entropy_explosion": _in_a_row(entropy > ENTROPY_EXPLOSION * entropy[:PATIENCE].mean()),
    }
    found = [
        Sign(name, int(metrics["step"].iloc[np.flatnonzero(steps)[0]]), int(steps.sum()))
        for name, steps in holds.items()
        if steps.any()
    ]
    return sorted(found, key=lambda sign: sign.first_step)


def _in_a_row(holds: np.ndarray) -> np.ndarray:
    """Keep what belongs to a stretch of at least ``PATIENCE`` steps."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]])))
    kept = np.zeros_like(holds)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        kept[start:end] = end - start >= PATIENCE
    return kept


def _exploding(norms: np.ndarray) -> np.ndarray:
    usual = norms[np.isfinite(norms) & (norms > 0)]
    return norms > EXPLODING_GRADIENT * np.median(usual) if usual.size else np.zeros(len(norms), bool)


def _reward_lost(rewards: np.ndarray) -> np.ndarray:
    """Compare each step with the best mean over ``PATIENCE`` steps that end before it."""
    means = pd.Series(rewards).rolling(PATIENCE).mean().shift(1)
    best = means.cummax().fillna(0.0).to_numpy()
    return rewards < REWARD_COLLAPSE * best
