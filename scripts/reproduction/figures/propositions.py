"""Propositions B.1 and C.1, by enumeration over distributions drawn at random; the claims ask the same functions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, PositiveFloat

from ead import seeds
from reproduction.config import Scale
from reproduction.config.runs import RunConfiguration
from reproduction.fields import Count
from reproduction.figures.figure import Figure
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, head, pyplot, set_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

TOLERANCE = 1e-9  # what rounding may undo of an inequality between nats
CURVES = [("sky", "dashed"), ("green", "dashdot"), ("orange", "solid"), ("vermilion", "solid")]
PROPOSITIONS = {
    "variance_inflation": "Proposition B.1: variance inflation",
    "entropy": "Proposition C.1: entropy (nats)",
}


class Propositions(Figure):
    """Propositions B.1 and C.1 by enumeration over distributions drawn at random."""

    analysis: Literal["propositions"] = Field(description="the kind of figure")
    temperatures: list[PositiveFloat] = Field(min_length=3, description="sampling temperatures, the x axis")
    vocabularies: list[Annotated[int, Field(ge=2, le=10**6)]] = Field(
        min_length=1, description="sizes of the distributions, a curve each"
    )
    distributions: Count = Field(description="drawn per size")
    spread: PositiveFloat = Field(description="logits are uniform in [-spread, 0]")

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        keys = ("temperatures", "vocabularies", "distributions", "spread")
        values = {key: getattr(self, key) for key in keys}
        return {"analysis": self.analysis, **values, "root_seed": root_seed}

    @staticmethod
    def estimate(*, runs=None, evaluations=None, partial=False, **request: Any) -> pd.DataFrame:
        """See :class:`Figure`."""
        return enumerate_propositions(**request)

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        return plot(estimates, request)

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """See :class:`Figure`."""
        words = (
            f"The quantities are computed exactly for {self.distributions:,} random distributions per vocabulary size, "
            f"with logits uniform in [-{self.spread:g}, 0]. Lines are means, and bands reach from the least to the "
            "greatest value."
        )
        return super().caption(scale, runs) | {"words": words}


def enumerate_propositions(
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
    from scipy.special import logsumexp

    scaled = logits / temperatures.reshape(-1, *[1] * logits.ndim)
    return scaled - logsumexp(scaled, axis=-1, keepdims=True)


def log_variance_inflation(logprobs: np.ndarray, one: int) -> np.ndarray:
    """Return the logarithm of equation 2, ``E[pi_1(y)^2 / pi_tau(y)^2]``, by temperature; ``one`` is the index of 1.

    In logarithms, since at low temperatures the factor exceeds any float.
    """
    from scipy.special import logsumexp

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


def plot(table: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
    """Draw variance inflation and entropy by temperature, with the range over distributions."""
    from matplotlib.ticker import FixedLocator, NullLocator

    set_style()
    figure, axes = pyplot().subplots(1, 2, figsize=(PRINT_WIDTH, 2.8), layout="constrained")
    for axis, (metric, label) in zip(axes, PROPOSITIONS.items(), strict=True):
        rows = table[table["metric"] == metric]
        for (color, line), (size, curve) in zip(CURVES, rows.groupby("vocabulary"), strict=False):
            axis.fill_between(
                curve["temperature"],
                curve["low"],
                curve["high"],
                color=COLORS[color],
                alpha=0.15,
                linewidth=0,
            )
            (drawn,) = axis.plot(
                curve["temperature"], curve["value"], color=COLORS[color], label=f"{size:,} tokens"
            )
            if LINES[line]:
                drawn.set_dashes(LINES[line])
        axis.axvline(1, color="grey", linewidth=0.6, zorder=0)
        axis.set_xscale("log")
        ticks = [t for t in (0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3) if t <= rows["temperature"].max()]
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("temperature τ")
        sizes = rows.drop_duplicates("vocabulary")
        violated, drawn_at_random = int(sizes["violations"].sum()), int(sizes["distributions"].sum())
        axis.set_title(f"{label}\nviolated by {violated:,} of {drawn_at_random:,} distributions")
    axes[0].legend(frameon=False, title="vocabulary", loc="upper center")
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4, 5, 7, 10]))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].yaxis.set_major_formatter("{x:g}")
    head(
        figure, request["title"], "lines: means over random distributions; bands: the least and the greatest"
    )
    return figure


FIGURE = Propositions
