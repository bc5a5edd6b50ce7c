"""PPO's clipped loss on the group's standardised rewards: GRPO, and DAPO with its higher upper bound."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat

from reproduction.algorithms.algorithm import Algorithm

# verl always clips the loss of tokens with negative advantage at this multiple of the advantage; log-ratios are
# clamped to 20, and no ratio reaches this.
NO_DUAL_CLIP = 1.0e9


class Clip(Algorithm):
    """PPO's clipped loss: GRPO, DAPO."""

    loss: Literal["clip"] = Field(description="PPO's clipped loss")
    dual_clip: PositiveFloat | None = Field(
        None, description="bounds the loss at this times the advantage where that is negative; null does not"
    )

    def bounded(self, dual_clip: float) -> "Clip":
        """See :class:`Algorithm`."""
        return self.model_copy(update={"dual_clip": dual_clip})

    def loss_options(self, generator) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return {"kind": "clip", "dual_clip": self.dual_clip, "generator": generator}

    def verl(self) -> dict[str, Any]:
        """See :class:`Algorithm`."""
        return self._verl("vanilla", clip_ratio_c=self.dual_clip or NO_DUAL_CLIP)


ALGORITHM = Clip
