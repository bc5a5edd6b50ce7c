"""EntropyMech's KL-Cov (Cui et al. 2025): the tokens whose log-probability and advantage covary most are penalised."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from reproduction.algorithms.algorithm import Algorithm
from reproduction.algorithms.clip import NO_DUAL_CLIP

# Of the shipped recipe.
SHARE, PENALTY = 0.0002, 1.0


class KLCov(Algorithm):
    """EntropyMech's KL-Cov; its clip range is not used."""

    verl_constants: ClassVar[Mapping[str, float]] = {"kl_cov_ratio": SHARE, "ppo_kl_coef": PENALTY}

    verl_shares: ClassVar[Mapping[str, str | float | None]] = {
        "clip_share": 0.0,
        "dual_clip_share": 0.0,
        "covariance_share": None,
    }

    loss: Literal["kl_cov"] = Field(description="KL-Cov")
    dual_clip: None = Field(None, description="only for the loss `clip`")

    def loss_options(self, generator) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return {"kind": "kl_cov", "covariance_share": SHARE, "covariance_penalty": PENALTY}

    def verl(self) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return self._verl("kl_cov", clip_ratio_c=NO_DUAL_CLIP)


ALGORITHM = KLCov
