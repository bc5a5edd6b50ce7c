"""EntropyMech's Clip-Cov (Cui et al. 2025): a few tokens whose log-probability and advantage covary are dropped."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from reproduction.algorithms.algorithm import Algorithm
from reproduction.algorithms.clip import NO_DUAL_CLIP

# Of the shipped recipe; verl's own defaults differ.
SHARE, BOUNDS = 0.0002, (1.0, 5.0)


class ClipCov(Algorithm):
    """EntropyMech's Clip-Cov."""

    verl_constants: ClassVar[Mapping[str, float]] = {
        "clip_cov_ratio": SHARE,
        "clip_cov_lb": BOUNDS[0],
        "clip_cov_ub": BOUNDS[1],
    }

    # What verl calls the share of clipped tokens is that of the dropped ones.
    verl_shares: ClassVar[Mapping[str, str | float | None]] = {
        "clip_share": None,
        "dual_clip_share": 0.0,
        "covariance_share": "actor/pg_clipfrac",
    }

    loss: Literal["clip_cov"] = Field(description="Clip-Cov")
    dual_clip: None = Field(None, description="only for the loss `clip`")

    def loss_options(self, generator) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return {
            "kind": "clip_cov",
            "covariance_share": SHARE,
            "covariance_bounds": BOUNDS,
            "generator": generator,
        }

    def verl(self) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return self._verl("clip_cov", clip_ratio_c=NO_DUAL_CLIP)


ALGORITHM = ClipCov
