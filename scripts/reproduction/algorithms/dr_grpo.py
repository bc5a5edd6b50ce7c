"""Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): GRPO without its two normalisations, by length and by std."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from reproduction.algorithms.algorithm import Algorithm
from reproduction.algorithms.clip import NO_DUAL_CLIP

if TYPE_CHECKING:
    import numpy as np
    import torch


class DrGRPO(Algorithm):
    """Dr. GRPO: advantages are rewards minus their group's mean, and a constant divides the sum over tokens."""

    loss: Literal["dr_grpo"] = Field(description="Dr. GRPO")
    aggregation: Literal["seq-mean-token-sum-norm"] = Field(
        "seq-mean-token-sum-norm",
        description="the sum over a response's tokens, over the limit of a response",
    )

    def advantages(self, rewards: "torch.Tensor", groups: "np.ndarray") -> "torch.Tensor":
        """See :class:`Algorithm`; not standardised (section 3.2)."""
        from ead import objective

        return objective.group_advantages(rewards, groups, standardise=False)

    def loss_options(self, generator) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return {"kind": "clip"}

    def verl(self) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        # Without a factor verl divides by the width of each micro-batch.
        actor = self._verl(
            "vanilla", clip_ratio_c=NO_DUAL_CLIP, loss_scale_factor="${data.max_response_length}"
        )
        return {**actor, "algorithm": {"norm_adv_by_std_in_grpo": False}}


ALGORITHM = DrGRPO
