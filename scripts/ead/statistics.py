"""Intervals for a benchmark mean and for paired differences, over problems and over training seeds.

Scores are laid out ``[..., seeds, problems]``: one number per training seed and problem, for instance its
exact Pass@16; every seed is scored on the same problems. Leading axes (checkpoints, samplers) are separate
estimates that share their resamples, so a curve is resampled as a whole.

Two things vary: which problems the benchmark holds and which seeds were trained. A replicate of the mean is
``mean + (problem part + seed part) * sqrt(df / chi2_df)``, and an interval holds the replicates' percentiles:

- problem part: problems are resampled with replacement, for all seeds at once, since the seeds share them;
  resampling them seed by seed would count one hard problem as several. Drawing ``P - 1`` of the ``P`` makes
  the variance exactly the unbiased ``s^2 / P`` (Rao and Wu 1988).
- seed part: normal, with the variance of the seeds' means over ``S``; two to five seeds are too few to
  resample.
- the last factor gives the replicates Student's tails, because both variances are estimates; ``df`` is
  Satterthwaite's, ``S - 1`` where seeds dominate and ``P - 1`` where problems do.

Seed-by-problem noise enters both parts, which makes the interval somewhat too wide; ``docs/method.md`` has the
measured coverage.

scipy is loaded by the functions that use it: every plan of the workflow loads this module.
"""

from dataclasses import dataclass

import numpy as np

_WEIGHTS_PER_CHUNK = 2**22  # resampling weights held at a time, 100 MB with their working copies


@dataclass(frozen=True)
class Estimate:
    """A mean, or a mean difference, with its interval; floats, or arrays over the leading axes.

    Attributes:
        value: the estimate.
        low, high: the interval that covers the true value with probability ``confidence``.
        standard_error: of ``value``, over problems and, from two seeds on, over seeds.
        p_value: two-sided, for the hypothesis that the true value is ``null``, by inverting the interval: it
            falls below ``1 - confidence`` where the interval begins to exclude ``null``.
        null, confidence, seeds, problems: what was asked for and the size of the data. With one seed the
            estimate is conditional on that seed.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    standard_error: float | np.ndarray
    p_value: float | np.ndarray
    null: float
    confidence: float
    seeds: int
    problems: int


def bootstrap(
    scores: np.ndarray,
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    replicates: int = 4000,
    null: float = 0.0,
) -> Estimate:
    """Estimate the mean over seeds and problems of ``scores``, shape ``[..., seeds, problems]``.

    With one seed this is the bootstrap over problems; with one problem (a per-run number such as the response
    length) it is Student's interval over seeds. Scores that do not vary at all give an interval of no width.
    Resampling weights are held in parts: memory grows with replicates x estimates, not with x problems.

    Raises:
        ValueError: fewer than two axes, neither two seeds nor two problems, a score that is not finite, or an
            option out of range.
    """
    from scipy import special  # scipy.stats holds the same quantiles, behind seconds of import

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim < 2 or scores.shape[-2] * scores.shape[-1] < 2:
        raise ValueError(
            "scores must have shape [..., seeds, problems] with two seeds or two problems at least, "
            f"found {scores.shape}"
        )
    if not np.isfinite(scores).all():
        where = tuple(np.argwhere(~np.isfinite(scores))[0].tolist())
        raise ValueError(f"scores must be finite, found {scores[where]} at index {where}")
    if not 0 < confidence < 1 or replicates < 100:
        raise ValueError(
            f"expected 0 < confidence < 1 and replicates >= 100, found {confidence!r} and {replicates!r}"
        )
    if not np.isfinite(null):
        raise ValueError(f"null must be finite, found {null!r}")

    leading, (seeds, problems) = scores.shape[:-2], scores.shape[-2:]
    scores = scores.reshape(-1, seeds, problems)
    value = scores.mean(axis=(1, 2))
    by_problem, by_seed = scores.mean(axis=1), scores.mean(axis=2)
    problem_variance, seed_variance = _variance_of_mean(by_problem), _variance_of_mean(by_seed)
    variance = problem_variance + seed_variance
    spread = special.ndtri(_probabilities(replicates, generator)) * np.sqrt(seed_variance)
    if problems > 1:
        spread += _resampled_means(by_problem - value[:, None], replicates, generator)
    denominator = problem_variance**2 / max(problems - 1, 1) + seed_variance**2 / max(seeds - 1, 1)
    freedom = np.divide(variance**2, denominator, out=np.ones_like(variance), where=denominator > 0)
    # Estimates often share their degrees of freedom: with one seed all have P - 1.
    shared, index = np.unique(np.round(freedom, 6), return_inverse=True)
    chi_square = 2 * special.gammaincinv(shared / 2, _probabilities(replicates, generator))
    spread *= np.sqrt(shared / chi_square)[:, index]

    low, high = np.quantile(value + spread, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    below = (value + spread <= null).sum(axis=0)
    above = (value + spread >= null).sum(axis=0)
    p_value = np.minimum(1.0, 2 * (np.minimum(below, above) + 1) / (replicates + 1))
    arrays = (value, low, high, np.sqrt(variance), p_value)
    shaped = [array.reshape(leading) if leading else float(array[0]) for array in arrays]
    return Estimate(*shaped, null=null, confidence=confidence, seeds=seeds, problems=problems)


def paired_difference(
    treatment: np.ndarray,
    control: np.ndarray,
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    replicates: int = 4000,
    null: float = 0.0,
) -> Estimate:
    """Estimate the mean of ``treatment - control``, paired by problem and by position on the seed axis.

    Both have shape ``[..., seeds, problems]``, with the same seeds and problems in the same order; leading
    axes broadcast. Pairing removes what makes a problem hard for both. ``null`` is the margin the difference
    is tested against. Otherwise as :func:`bootstrap`.

    Raises:
        ValueError: the numbers of seeds or problems differ; and as :func:`bootstrap`.
    """
    treatment, control = np.asarray(treatment, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if treatment.shape[-2:] != control.shape[-2:]:
        raise ValueError(
            "treatment and control must have the same seeds and problems, "
            f"found shapes {treatment.shape} and {control.shape}"
        )
    return bootstrap(
        treatment - control, generator=generator, confidence=confidence, replicates=replicates, null=null
    )


def against_control(scores: np.ndarray, control: int, *, confidence: float = 0.95) -> Estimate:
    """Compare every other sampler with one, all at once: simultaneous intervals and Holm's p-values.

    Two to five seeds say little of how one sampler's seeds differ, so the seed part is pooled: samplers and seeds are a
    randomised block design, whose residual has ``(samplers - 1) (seeds - 1)`` degrees of freedom (samplers share
    their seeds' prompts; that they vary alike is assumed). The problem part is that of :func:`paired_difference`. Both
    together get Student's quantiles with Satterthwaite's degrees of freedom, and Bonferroni's correction.

    Args:
        scores: shape ``[samplers, seeds, problems]``, the same seeds and problems for all.
        control: index of the sampler that the others are compared with.

    Returns:
        Arrays over the other samplers, in their order: ``low`` and ``high`` cover all differences together with
        probability ``confidence``; ``p_value`` is adjusted. With one seed it is conditional on that seed.

    Raises:
        ValueError: not three axes, fewer than two samplers, one seed or two problems, a score that is not finite, or
            ``control`` or ``confidence`` out of range.
    """
    from scipy import special

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 3 or (np.array(scores.shape) < (2, 1, 2)).any() or not np.isfinite(scores).all():
        raise ValueError(
            "scores must be finite, of shape [samplers, seeds, problems], with two samplers, one seed and two "
            f"problems at least, found {scores.shape}"
        )
    samplers, seeds, problems = scores.shape
    if not isinstance(control, (int, np.integer)) or not 0 <= control < samplers:
        raise ValueError(f"control must be the index of a sampler, 0 to {samplers - 1}, found {control!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be within (0, 1), found {confidence!r}")
    others = [index for index in range(samplers) if index != control]
    differences = (scores[others] - scores[control]).mean(axis=1)
    value = differences.mean(axis=1)
    problem_variance = _variance_of_mean(differences)
    means = scores.mean(axis=2)
    residuals = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    residual_freedom = (samplers - 1) * (seeds - 1)
    seed_variance = 2 * (residuals**2).sum() / residual_freedom / seeds if residual_freedom else 0.0
    variance = problem_variance + seed_variance
    denominator = problem_variance**2 / (problems - 1) + seed_variance**2 / max(residual_freedom, 1)
    freedom = np.divide(variance**2, denominator, out=np.ones_like(variance), where=denominator > 0)
    error = np.sqrt(variance)
    half = special.stdtrit(freedom, 1 - (1 - confidence) / (2 * len(others))) * error
    ratio = np.divide(value, error, out=np.where(value == 0, 0.0, np.inf), where=error > 0)
    p_value = holm(2 * special.stdtr(freedom, -np.abs(ratio)))
    return Estimate(value, value - half, value + half, error, p_value, 0.0, confidence, seeds, problems)


def minimum_detectable_effect(estimate: Estimate, power: float = 0.8) -> float | np.ndarray:
    """Return the true difference from ``null`` that such data would establish with probability ``power``.

    Half the interval's width (what a difference must exceed) plus ``z_power`` standard errors.

    Raises:
        ValueError: ``power`` is not within (0, 1).
    """
    if not 0 < power < 1:
        raise ValueError(f"power must be within (0, 1), found {power!r}")
    from scipy import special

    return (estimate.high - estimate.low) / 2 + special.ndtri(power) * estimate.standard_error


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values: rejecting those <= alpha keeps the family-wise error at alpha.

    Raises:
        ValueError: not one-dimensional, or a value outside [0, 1].
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values must be a one-dimensional array within [0, 1], found {p_values!r}")
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def one_sided_p_value(estimate: Estimate, side: int) -> float | np.ndarray:
    """Return the p-value of "the true value lies above ``estimate.null``" (``side`` 1), or below it (-1).

    It is the two-sided p-value where the estimate lies on that side and 1 elsewhere, so that it falls below
    ``1 - confidence`` exactly where the interval lies wholly on that side: a verdict and the picture of the
    interval cannot disagree. As a one-sided test it is twice as strict as it need be.

    Raises:
        ValueError: ``side`` is neither 1 nor -1.
    """
    if side not in (1, -1):
        raise ValueError(f"side must be 1 or -1, found {side!r}")
    value, p_value = np.asarray(estimate.value), np.asarray(estimate.p_value)
    result = np.where(side * (value - estimate.null) > 0, p_value, 1.0)
    return result if result.ndim else float(result)


def partial_conjunction(p_values: np.ndarray, least: int) -> float:
    """Return a p-value for "at least ``least`` of these hypotheses are true", from the p-value of each.

    ``(m - least + 1)`` times the ``least``-th smallest of the ``m`` (Benjamini and Heller 2008), valid under any
    dependence. With ``least = m`` it is the intersection-union test, the largest p-value; with ``least = 1``
    Bonferroni's.

    Raises:
        ValueError: not one-dimensional, a value outside [0, 1], or not ``1 <= least <= m``.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values must be a one-dimensional array within [0, 1], found {p_values!r}")
    if not 1 <= least <= len(p_values):
        raise ValueError(f"least must be within [1, {len(p_values)}], found {least!r}")
    return float(min(1.0, (len(p_values) - least + 1) * np.sort(p_values)[least - 1]))


def _variance_of_mean(values: np.ndarray) -> np.ndarray:
    """Return the estimated variance of the mean along the last axis; 0 where there is a single value."""
    count = values.shape[-1]
    return values.var(axis=-1, ddof=1) / count if count > 1 else np.zeros(values.shape[:-1])


def _probabilities(count: int, generator: np.random.Generator) -> np.ndarray:
    """Return evenly spaced probabilities in random order, a column: draws without Monte-Carlo noise."""
    return (generator.permutation(count)[:, None] + 0.5) / count


def _resampled_means(deviations: np.ndarray, replicates: int, generator: np.random.Generator) -> np.ndarray:
    """Average ``deviations`` ``[estimates, problems]`` over resampled problems: ``[replicates, estimates]``.

    The resamples are rows of a weight matrix, so that all estimates are one matrix product.
    """
    problems = deviations.shape[1]
    means = np.empty((replicates, len(deviations)))
    chunk = max(1, _WEIGHTS_PER_CHUNK // problems)
    for start in range(0, replicates, chunk):
        rows = min(chunk, replicates - start)
        drawn = generator.integers(problems, size=(rows, problems - 1)) + problems * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * problems).reshape(rows, problems)
        means[start : start + rows] = (counts / (problems - 1)) @ deviations.T
    return means
