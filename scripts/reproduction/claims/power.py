"""How many training seeds a claim needs: enough to establish an effect of its margin's size with the declared power.

The true difference is taken to lie one margin from the boundary, on the claimed side. An estimate from S seeds has the
variance ``a + b / S``: ``a`` of the problems, which more seeds do not lower, and ``b`` of the seeds, as
``ead.statistics`` estimates both. Two or more recorded seeds give ``a`` and ``b``. One gives ``a`` alone, and what has
not run gives neither; ``b`` is then the assumption in workflow/claims.yaml, for the quantities that it has.

The power is that of Student's test with Satterthwaite's degrees of freedom. Comparisons are joined as
:func:`reproduction.claims.decision.combine` joins their p-values, and the chance to miss one is shared among those
that must all be found, which is at least enough.
"""

from math import inf, log1p, nan
from typing import Any

import numpy as np
import pandas as pd

from reproduction.claims import model
from reproduction.claims.decision import Comparison, Group, leaves
from reproduction.claims.evidence import Evidence, MissingEvidence

MOST_SEEDS = 500
COLUMNS = ("seeds_alone", "seeds_corrected", "spread")


def seeds_for_margin(tree: Group, claims: model.Claims, reading: str) -> dict[str, Any]:
    """Return the number of seeds that a claim needs at its margin, and what the number rests on.

    ``seeds_alone`` is for the claim by itself, ``seeds_corrected`` for the correction over all claims of ``reading``,
    whatever the others give; null where it is not known, and where no number up to :data:`MOST_SEEDS` is enough.
    ``spread`` says where the variance between seeds comes from: recorded, assumed or unknown.
    """
    spreads = {_spread(leaf)[2] for leaf in leaves(tree) if leaf.fact is None}
    known = max(spreads, key=("recorded", "assumed", "unknown").index)
    found = {
        "seeds_alone": _needed(tree, claims.alpha, 1 - claims.power),
        "seeds_corrected": _needed(tree, claims.alpha / len(claims.family(reading)), 1 - claims.power),
    }
    return {name: int(value) if np.isfinite(value) else None for name, value in found.items()} | {
        "spread": known
    }


def _needed(part: Comparison | Group, alpha: float, miss: float) -> float:
    """Return the seeds with which ``part`` is established at ``alpha`` but for a chance of ``miss``; nan if unknown."""
    if isinstance(part, Comparison):
        return 0 if part.fact is not None else _seeds_of(part, alpha, miss / len(part.supports))
    least, among = part.needed, len(part.parts)
    needed = [_needed(child, alpha / (among - least + 1), miss / least) for child in part.parts]
    return nan if np.isnan(needed).any() else sorted(needed)[least - 1]


def _seeds_of(comparison: Comparison, alpha: float, miss: float) -> float:
    fixed, by_seed, source = _spread(comparison)
    if source == "unknown" or not fixed + by_seed:
        return nan
    distance = log1p(comparison.margin) if comparison.ratio else comparison.margin
    units = comparison.scores.shape[1]
    from scipy import special  # only here: every plan loads this module

    for seeds in range(2, MOST_SEEDS + 1):
        variance = fixed + by_seed / seeds
        freedom = variance**2 / (fixed**2 / (units - 1) + (by_seed / seeds) ** 2 / (seeds - 1))
        critical = special.stdtrit(freedom, 1 - alpha / 2)
        if special.nctdtr(freedom, distance / variance**0.5, critical) <= miss:
            return seeds
    return inf


def _spread(comparison: Comparison) -> tuple[float, float, str]:
    """Return the variances ``a`` and ``b`` of a comparison's estimate, and where ``b`` comes from."""
    scores = comparison.scores
    seeds, units = scores.shape
    of_units = scores.mean(axis=0).var(ddof=1) / units
    if seeds == 1:
        assumed = comparison.between_seeds
        return of_units, assumed or nan, "unknown" if assumed is None else "assumed"
    means = scores.mean(axis=1)
    rest = scores - means[:, None] - scores.mean(axis=0) + scores.mean()
    noise = (rest**2).sum() / ((seeds - 1) * (units - 1)) / units
    return max(0.0, of_units - noise / seeds), means.var(ddof=1) + noise, "recorded"


class Planned(Evidence):
    """What the runs of a scale would give as far as a plan knows it: how many comparisons there are, and of what.

    Its scores have one seed and do not vary, so that the assumed variance between seeds is all that counts.
    """

    def scores(self, runs, quantity, decoder) -> pd.DataFrame:
        problems = pd.Index([0, 1], name="problem")
        return pd.DataFrame(np.zeros((1, len(problems))), columns=problems)

    def samples(self, runs, decoder) -> int:
        return self.scale.evaluation.samples

    def training(self, runs, metric, steps, least=2) -> pd.DataFrame:
        raise MissingEvidence("a training's own record, of which no variance between seeds is assumed")

    def scores_by_step(self, runs, metric, decoder) -> dict[int, pd.DataFrame]:
        raise MissingEvidence("scores by checkpoint, of which no variance between seeds is assumed")
