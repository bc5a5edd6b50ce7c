"""GSPO (Zheng et al. 2025, arXiv 2507.18071): the ratio of a whole response, length-normalised, is clipped."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat

from reproduction.algorithms.algorithm import Algorithm


class GSPO(Algorithm):
    """GSPO: one probability ratio per response, the geometric mean of its tokens' (section 4)."""

    loss: Literal["gspo"] = Field(description="GSPO")
    # The ratio of a response is far closer to 1 than a token's: section 5.1 gives these.
    clip_low: PositiveFloat = Field(3.0e-4, description="ratios of responses below 1 minus this are clipped")
    clip_high: PositiveFloat = Field(4.0e-4, description="ratios of responses above 1 plus this are clipped")
    aggregation: Literal["seq-mean-token-mean"] = Field(
        "seq-mean-token-mean", description="each response counts once, whatever its length"
    )

    def loss_options(self, generator) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return {"kind": "gspo"}

    def verl(self) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return self._verl("gspo")


ALGORITHM = GSPO
