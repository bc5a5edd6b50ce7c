"""Pass@k, Worst@k, Majority@k, the training framework's resampled metrics, and average entropy.

A prompt has ``n`` sampled responses of which ``c`` are correct. The exact metrics are the average over all
subsets of ``k`` of the ``n`` responses, and so unbiased for ``k`` fresh responses. The *resampled* metrics
draw ``k`` of the ``n`` with replacement, as verl's validation does (D05), and are biased.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import comb
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # its import takes seconds, and only token_entropy needs it
    import torch

_LEAST_PROBABILITY = 1e-200  # below it, products of probabilities might underflow


def pass_at_k(n: np.ndarray | int, c: np.ndarray | int, k: np.ndarray | int) -> np.ndarray | float:
    """Return the probability that at least one of ``k`` responses out of ``n``, ``c`` correct, is correct.

    ``1 - C(n - c, k) / C(n, k)``, evaluated in integers and rounded once, so it is right to the last bit for
    any ``n``. Arguments broadcast; a float for scalars, else a float64 array.

    Raises:
        ValueError: not integers, or not ``0 <= c <= n`` and ``1 <= k <= n``.
    """
    return _over_subsets(n, c, k, lambda n, c, k: comb(n, k) - comb(n - c, k))


def worst_at_k(n: np.ndarray | int, c: np.ndarray | int, k: np.ndarray | int) -> np.ndarray | float:
    """Return the probability that all of ``k`` responses out of ``n``, ``c`` correct, are correct.

    ``C(c, k) / C(n, k)``; otherwise as :func:`pass_at_k`.
    """
    return _over_subsets(n, c, k, lambda n, c, k: comb(c, k))


def _over_subsets(n, c, k, favourable) -> np.ndarray | float:
    arrays = np.broadcast_arrays(n, c, k)
    if not all(np.issubdtype(array.dtype, np.integer) for array in arrays):
        raise ValueError(f"n, c and k must be integers, found {', '.join(str(a.dtype) for a in arrays)}")
    # Each different (n, c, k) once. They are found as single numbers: to sort triples is ten times slower.
    levels, places = zip(*(np.unique(a, return_inverse=True) for a in arrays), strict=True)
    shape = [max(len(values), 1) for values in levels]
    numbers = np.ravel_multi_index([place.ravel() for place in places], shape)
    cases, index = np.unique(numbers, return_inverse=True)
    found = zip(levels, np.unravel_index(cases, shape), strict=True)
    results = np.empty(len(cases))
    for case, (n_case, c_case, k_case) in enumerate(zip(*(v[i].tolist() for v, i in found), strict=True)):
        if not 0 <= c_case <= n_case or not 1 <= k_case <= n_case:
            raise ValueError(
                f"expected 0 <= c <= n and 1 <= k <= n, found n = {n_case}, c = {c_case}, k = {k_case}"
            )
        results[case] = favourable(n_case, c_case, k_case) / comb(n_case, k_case)
    shaped = results[index.ravel()].reshape(arrays[0].shape)
    return shaped if shaped.ndim else float(shaped)


def majority_at_k(
    answers: Sequence[Hashable | None], correct: Sequence[bool] | np.ndarray, k: int | Sequence[int]
) -> float | np.ndarray:
    """Return the exact expected correctness of the majority answer of ``k`` of one prompt's ``n`` responses.

    The expectation is over all subsets of ``k`` responses. Responses without an answer (``None``) do not
    vote; a subset in which nobody votes is wrong. Ties are broken uniformly at random among the leading
    answers, which is what taking the first leading answer of a shuffled subset does. The response returned
    is any of those that gave the winning answer: should a grader disagree with itself about one answer, that
    answer counts by the share of its responses graded correct.

    The sum over subsets is evaluated as a polynomial product in ``O(n k^2 log k)`` steps, not by enumeration.

    Args:
        answers: ``n`` answers, equal if and only if they are the same vote.
        correct: ``n`` verdicts.
        k: one size or several, each within ``[1, n]``; several cost about as much as the largest.

    Returns:
        A float for one ``k``, else a float64 array, one entry per ``k``.

    Raises:
        ValueError: lengths differ, a verdict is not a finite number, or a ``k`` is out of range.
    """
    correct = np.asarray(correct, dtype=np.float64)
    sizes = np.atleast_1d(np.asarray(k))
    n = len(answers)
    if correct.shape != (n,):
        raise ValueError(f"answers and correct must have the same length, found {n} and {correct.shape}")
    _check_finite(correct, "verdict")
    if not np.issubdtype(sizes.dtype, np.integer) or sizes.min() < 1 or sizes.max() > n:
        raise ValueError(f"k must be integers within [1, {n}], found {k!r}")

    tally: dict[Hashable, list[float]] = {}
    for answer, verdict in zip(answers, correct, strict=True):
        if answer is not None:
            tally.setdefault(answer, []).append(verdict)
    labels = sorted(((len(verdicts), float(np.mean(verdicts))) for verdicts in tally.values()), reverse=True)
    result = _majority(labels, n, sizes)
    return float(result[0]) if np.ndim(k) == 0 else result


def _majority(labels: list[tuple[int, float]], n: int, sizes: np.ndarray) -> np.ndarray:
    """Evaluate :func:`majority_at_k` for answers given as (votes, correctness), most votes first."""
    # Taking each response with probability r makes the answers' counts independent binomials; given that
    # their sum is k, they are distributed as in a random subset of k. Any r does; this one keeps the numbers
    # in range, unless the sizes lie too far apart for one r.
    smallest, largest = int(sizes.min()), int(sizes.max())
    pmf = _BinomialTable(n, rate=min((smallest + largest) / (2 * n), 1 - 1 / (2 * n)))
    total = pmf.row(n, largest + 1)
    if total[sizes].min() < _LEAST_PROBABILITY and smallest < largest:
        upper = sizes > (smallest + largest) // 2
        result = np.empty(len(sizes))
        result[upper], result[~upper] = (
            _majority(labels, n, sizes[upper]),
            _majority(labels, n, sizes[~upper]),
        )
        return result

    rows = [pmf.row(count, largest + 1) for count, _ in labels]
    expected = np.zeros(largest + 1)
    first, second = (labels[0][0] if labels else 0), (labels[1][0] if len(labels) > 1 else 0)
    if first > second:
        # With more votes than any other answer has at all, the first has won: all such cases are one product.
        alone = np.where(np.arange(largest + 1) > second, rows[0], 0)
        expected += labels[0][1] * _convolve(pmf.row(n - first, largest + 1), alone)
    for top in range(1, min(largest, second) + 1):
        # states[0][j, s]: probability that the answers seen so far took s responses, j of them `top` each and
        # none more; states[1]: the same, weighted with the sum of the leaders' correctness.
        rivals = [label for label in labels if label[0] >= top]  # the first of them, as labels are sorted
        others = n - sum(count for count, _ in rivals)  # abstainers and answers that cannot reach `top`
        states = np.zeros((2, min(len(rivals), largest // top) + 1, largest + 1))
        states[0, 0] = pmf.row(others, largest + 1)
        for (_, correctness), row in zip(rivals, rows, strict=False):
            trailing = _convolve(states, row[:top])
            leading = states[:, :-1, : largest + 1 - top] * row[top]
            leading[1] += correctness * leading[0]
            trailing[:, 1:, top:] += leading
            states = trailing
        leaders = np.arange(1, states.shape[1])
        expected += (states[1, 1:] / leaders[:, None]).sum(axis=0)
    return expected[sizes] / total[sizes]


class _BinomialTable:
    """Binomial probabilities for up to ``n`` trials at one rate, from a table of log factorials."""

    def __init__(self, n: int, rate: float) -> None:
        self._log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
        self._log_odds = np.log(rate), np.log1p(-rate)

    def row(self, trials: int, length: int) -> np.ndarray:
        """Return the probabilities of 0, ..., ``length - 1`` successes in ``trials``."""
        probabilities = np.zeros(length)
        hits = np.arange(min(trials, length - 1) + 1)
        factorial = self._log_factorial
        log_ways = factorial[trials] - factorial[hits] - factorial[trials - hits]
        log_hit, log_miss = self._log_odds
        probabilities[: len(hits)] = np.exp(log_ways + hits * log_hit + (trials - hits) * log_miss)
        return probabilities


def _convolve(states: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Multiply polynomials along the last axis of ``states`` by ``row``, dropping what exceeds its length."""
    length = states.shape[-1]
    # As a product with the matrix that has row[j - i] at (i, j): a view of the row, written once after its zeros.
    padded = np.zeros(2 * length - 1)
    padded[length - 1 :][: len(row)] = row[:length]
    step = padded.strides[0]
    shifts = np.lib.stride_tricks.as_strided(padded[length - 1 :], (length, length), (-step, step))
    return states @ shifts


def _check_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        where = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
        raise ValueError(
            f"{name} {where[0] if len(where) == 1 else where} is {values[where]}: not a finite number"
        )


def resampled_best_at_k(
    correct: np.ndarray,
    k: int,
    *,
    draws: int | None = None,
    generator: np.random.Generator | np.random.RandomState | None = None,
) -> np.ndarray | float:
    """Return the expected best of ``k`` responses drawn *with replacement* from each prompt's ``n`` (D05).

    This is what the training framework reports as ``best@k/mean``. It underestimates Pass@k: with 1 of 16
    correct and ``k = 16`` it is 0.644, where the exact Pass@16 is 1.

    Args:
        correct: 0/1 verdicts or scores, shape ``[..., n]``.
        k: size of each draw, >= 1; may exceed ``n``.
        draws: ``None`` for the exact expectation; else the mean over this many resamples, shared by all
            prompts as in the framework (which takes 1000).
        generator: source of the resamples; required with ``draws``. ``numpy.random.RandomState(42)`` and 1000
            draws give verl's number to the last digit.

    Returns:
        Shape ``[...]``, a float for a single prompt.

    Raises:
        ValueError: there is no response, a score is not finite, ``k < 1``, or only one of ``draws`` and ``generator``
            is given.
    """
    return _resampled(correct, k, draws, generator, np.max)


def resampled_worst_at_k(
    correct: np.ndarray,
    k: int,
    *,
    draws: int | None = None,
    generator: np.random.Generator | np.random.RandomState | None = None,
) -> np.ndarray | float:
    """Return the expected worst of ``k`` drawn with replacement; see :func:`resampled_best_at_k`."""
    return _resampled(correct, k, draws, generator, np.min)


def _resampled(correct, k, draws, generator, reduce) -> np.ndarray | float:
    scores = np.asarray(correct, dtype=np.float64)
    n = scores.shape[-1] if scores.ndim else 0
    _check_finite(scores, "score")
    if n == 0 or k < 1:
        raise ValueError(f"expected at least one response per prompt and k >= 1, found n = {n} and k = {k}")
    if (draws is None) != (generator is None):
        raise ValueError("draws and generator belong together: pass both, or neither for the expectation")
    if draws is not None:
        chosen = generator.choice(n, size=(draws, k), replace=True)
        result = reduce(scores[..., chosen], axis=-1).mean(axis=-1)
    else:
        # The best of k is at most the i-th smallest score with probability (i / n)^k; the worst mirrors it.
        ordered = np.sort(scores, axis=-1)
        probabilities = np.diff((np.arange(n + 1) / n) ** k)
        result = ordered @ (probabilities if reduce is np.max else probabilities[::-1])
    return result if result.ndim else float(result)


def token_entropy(logits: torch.Tensor, temperature: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Return the entropy in nats of ``softmax(logits / temperature)``, without gradient.

    The paper's Figure 6 compares entropies taken at different temperatures (D10): log both the one at 1 and
    the one at the sampling temperature.

    Args:
        logits: shape ``[..., vocabulary]``; ``-inf`` marks impossible tokens.
        temperature: > 0, broadcast against ``[...]``.

    Returns:
        Shape ``[...]``, at least float32.
    """
    import torch

    with torch.no_grad():
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        temperature = torch.as_tensor(temperature, dtype=logits.dtype, device=logits.device)
        if not (temperature > 0).all():
            raise ValueError(f"temperature must be greater than 0, found {temperature.min().item()}")
        logprobs = torch.log_softmax(logits / temperature.unsqueeze(-1), dim=-1)
        return torch.special.entr(logprobs.exp()).sum(dim=-1)


def average_entropy(entropies: np.ndarray, mask: np.ndarray, groups: Sequence | np.ndarray) -> float:
    """Return the paper's average entropy (section 2), in the unit of ``entropies``: the mean over prompts of
    :func:`entropy_by_prompt`, so that every prompt weighs the same.
    """
    return float(np.mean(entropy_by_prompt(entropies, mask, groups)))


def entropy_by_prompt(entropies: np.ndarray, mask: np.ndarray, groups: Sequence | np.ndarray) -> np.ndarray:
    """Return, per prompt, the sum of its responses' token entropies over their number of tokens.

    Long responses weigh more within a prompt. Prompts come in the sorted order of their labels.

    Args:
        entropies: shape ``[batch, response]``, at whichever temperature (see :func:`token_entropy`).
        mask: same shape, true (or 1) at response tokens; entropies outside it never matter.
        groups: the prompt each response belongs to, ``batch`` labels.

    Raises:
        ValueError: shapes differ, a prompt has no token, or an entropy within the mask is not finite.
    """
    entropies, mask = np.asarray(entropies, dtype=np.float64), np.asarray(mask, dtype=bool)
    labels, index = np.unique(np.asarray(groups), return_inverse=True)
    if entropies.ndim != 2 or entropies.shape != mask.shape or index.shape != mask.shape[:1]:
        raise ValueError(
            "entropies and mask must share one shape [batch, response], groups hold one label per response; "
            f"found {entropies.shape}, {mask.shape} and {index.shape}"
        )
    _check_finite(np.where(mask, entropies, 0.0), "entropy")
    sums = np.bincount(index, weights=np.where(mask, entropies, 0.0).sum(axis=1))
    tokens = np.bincount(index, weights=mask.sum(axis=1))
    if (tokens == 0).any():
        raise ValueError(f"prompt {labels[tokens == 0][0]} has no response token")
    return sums / tokens
