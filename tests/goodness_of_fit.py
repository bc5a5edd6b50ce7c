"""Do sampled tokens follow the distributions they are said to follow? Used by the tests of every sampler."""

import numpy as np
from scipy.special import softmax
from scipy.stats import chisquare

BINS = 16


def position_p_values(logits, tokens, temperatures, *, seed: int = 0) -> np.ndarray:
    """Chi-square p-value per position of "``tokens`` are draws from ``softmax(logits / temperatures)``".

    Every row has its own context and so its own distribution at each position. A draw is therefore mapped to
    the interval that its token occupies on [0, 1], the most probable token first, and a uniform point is
    taken in it: exactly uniform if the distribution is right, whatever it is, and drawn towards 0 or 1 if the
    temperature is wrong. The points of a position are counted in equal bins.

    Args:
        logits: of an independent forward pass at temperature 1, shape (rows, positions, vocabulary).
        tokens: the sampled tokens, shape (rows, positions).
        temperatures: the temperatures claimed, shape (positions,).

    Returns:
        p-values, shape (positions,).
    """
    logits, tokens = np.asarray(logits, dtype=np.float64), np.asarray(tokens)
    probabilities = softmax(logits / np.asarray(temperatures)[:, None], axis=-1)
    drawn = np.take_along_axis(probabilities, tokens[..., None], axis=-1)
    more_probable = np.where(probabilities > drawn, probabilities, 0).sum(axis=-1)
    points = more_probable + np.random.default_rng(seed).random(tokens.shape) * drawn[..., 0]
    return np.array([chisquare(np.histogram(column, BINS, range=(0, 1))[0]).pvalue for column in points.T])


def assert_sampled_from(logits, tokens, temperatures, *, false_alarm: float = 1e-4) -> None:
    """Fail if any position's draws contradict the temperatures: a right sampler does at ``false_alarm``."""
    p_values = position_p_values(logits, tokens, temperatures)
    worst = int(p_values.argmin())
    assert p_values[worst] * len(p_values) > false_alarm, (
        f"position {worst}, temperature {temperatures[worst]:.3f}: p = {p_values[worst]:.2e}"
    )
