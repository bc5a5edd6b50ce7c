"""From scores to a decision: comparisons with a boundary, and how many of them a claim needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ead import statistics
from ead.statistics import one_sided_p_value, partial_conjunction

FEW_UNITS = 40  # so many steps are cheap to resample, and the tests on them make many comparisons
Side = tuple[float, int]  # boundary, and 1 for "above it" or -1 for "below it"


@dataclass
class Comparison:
    """One comparison of a claim: an estimate that should lie on one side of a boundary.

    Attributes:
        label: who is compared with whom.
        scores: ``[seeds, units]``; their mean is the effect. None for a recorded fact.
        supports: the sides that must all be established.
        refutes: any of these established is evidence against. At most one of them can be true.
        ratio: the scores are logarithms of ratios; numbers are reported as shares of the control.
        fact: for what was recorded or computed and is no estimate: whether it holds; ``value`` is its number.
        subjects: the runs that it rests on, each with the evaluation decoder or None.
        seeds_by_side: training seeds of each cell that is compared; only those that all have are, paired.
    """

    label: str
    unit: str
    sample_unit: str
    scores: np.ndarray | None = None
    supports: Sequence[Side] = ()
    refutes: Sequence[Side] = ()
    margin: float | None = None
    samples: int | None = None
    ratio: bool = False
    fact: bool | None = None
    value: float | None = None
    subjects: Sequence = ()
    seeds_by_side: Sequence[int] = ()
    gates: list[dict] = field(default_factory=list)
    signs: list[dict] = field(default_factory=list)  # of unhealthy trainings, which count all the same
    between_seeds: float | None = None  # variance of the scores' mean between seeds, where one is assumed
    p: float = 1.0
    p_against: float = 1.0
    low: float | None = None
    high: float | None = None
    minimum_detectable_effect: float | None = None
    constant: bool = False  # no variation: an interval of no width is no evidence

    @property
    def sides(self) -> list[Side]:
        return [*self.supports, *self.refutes]


@dataclass
class Group:
    """Parts of which at least ``least`` must hold; None is all of them."""

    parts: list["Comparison | Group"]
    least: int | None = None

    @property
    def needed(self) -> int:
        return len(self.parts) if self.least is None else self.least


def few_seeds(seeds: int | None, needed: int | None) -> str | None:
    """Return "1 seed, 3 needed" where a verdict on trainings has too few seeds to count; else None.

    Training seeds differ by several points, which an interval over problems does not hold. ``needed`` is None for
    what is no claim about trainings, ``seeds`` for what has not run.
    """
    if seeds is None or needed is None or seeds >= needed:
        return None
    return f"{seeds} seed{'s' * (seeds != 1)}, {needed} needed"


def leaves(part: Comparison | Group) -> Iterator[Comparison]:
    if isinstance(part, Comparison):
        yield part
    else:
        for child in part.parts:
            yield from leaves(child)


def estimate(
    comparisons: Sequence[Comparison],
    generator: np.random.Generator,
    *,
    confidence: float,
    power: float,
    replicates: int,
) -> None:
    """Fill in the estimates and p-values of ``comparisons``; those of one shape share their resamples.

    Where the units are few there are five times as many ``replicates``: a p-value cannot be smaller than 2 over
    their number, and Bonferroni's correction multiplies it. A comparison whose gates were exceeded, or whose scores
    do not vary, keeps its p-values of 1.
    """
    for comparison in comparisons:
        if comparison.fact is not None and not comparison.gates:
            comparison.p, comparison.p_against = (0.0, 1.0) if comparison.fact else (1.0, 0.0)
    for shape in dict.fromkeys(c.scores.shape for c in comparisons if c.scores is not None):
        part = [c for c in comparisons if c.scores is not None and c.scores.shape == shape]
        tasks = [(c, boundary) for c in part for boundary in dict.fromkeys(b for b, _ in c.sides)]
        result = statistics.bootstrap(
            np.stack([c.scores - boundary for c, boundary in tasks]),
            generator=generator,
            confidence=confidence,
            replicates=replicates * (5 if shape[1] <= FEW_UNITS else 1),
        )
        detectable = statistics.minimum_detectable_effect(result, power)
        for index, (comparison, boundary) in enumerate(tasks):
            one = statistics.Estimate(
                *(
                    getattr(result, name)[index]
                    for name in ("value", "low", "high", "standard_error", "p_value")
                ),
                *(result.null, result.confidence, result.seeds, result.problems),
            )
            comparison.value = float(comparison.scores.mean())
            comparison.low, comparison.high = float(one.low + boundary), float(one.high + boundary)
            comparison.minimum_detectable_effect = float(detectable[index])
            comparison.constant = bool(np.ptp(comparison.scores) == 0)
            if comparison.gates or comparison.constant:
                continue
            for side in (1, -1):
                p_value = one_sided_p_value(one, side)
                if (boundary, side) in comparison.supports:
                    # All sides must hold: the largest p-value counts.
                    first = comparison.supports[0] == (boundary, side)
                    comparison.p = p_value if first else max(comparison.p, p_value)
                if (boundary, side) in comparison.refutes:
                    comparison.p_against = min(comparison.p_against, p_value)


def combine(part: Comparison | Group) -> tuple[float, float]:
    """Return the p-values of "this holds" and of "this does not hold".

    Of m parts of which ``k`` must hold, the first is the partial conjunction of k, the second that of the
    ``m - k + 1`` that would have to fail.
    """
    if isinstance(part, Comparison):
        return part.p, part.p_against
    supports, refutes = zip(*(combine(child) for child in part.parts), strict=True)
    failures = len(part.parts) - part.needed + 1
    return partial_conjunction(supports, part.needed), partial_conjunction(refutes, failures)


def decisive(part: Comparison | Group, *, against: bool) -> Comparison:
    """Return the comparison whose p-value is the one that :func:`combine` rests on."""
    if isinstance(part, Comparison):
        return part
    rank = len(part.parts) - part.needed if against else part.needed - 1
    # Of equal p-values, the one with less (or more) evidence for the opposite.
    ordered = sorted(
        part.parts, key=lambda child: (combine(child)[int(against)], -combine(child)[int(not against)])
    )
    return decisive(ordered[rank], against=against)
