"""The clipped loss as the mean of micro-batches' token means, which is what the release's trainer takes (D20)."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from reproduction.algorithms.algorithm import MiniBatch
from reproduction.algorithms.clip import Clip

RELEASED_RESPONSES = 4  # Table 1


class MicroBatchMean(Clip):
    """PPO's clipped loss, averaged over the tokens of each micro-batch of 4 responses and then over micro-batches."""

    trains_in_verl: ClassVar[bool] = False  # verl 0.9.1 normalises by the mini-batch's tokens
    micro_batch_responses: ClassVar[int | None] = RELEASED_RESPONSES

    loss: Literal["micro_batch_mean"] = Field(description="PPO's clipped loss, mean of micro-batches' means")
    aggregation: Literal["token-mean"] = Field("token-mean", description="within a micro-batch")

    def policy_loss(self, logprobs, old_logprobs, advantages, mask, *, whole: MiniBatch, **options):
        """See :class:`Algorithm`."""
        share = _share(mask, whole)
        return super().policy_loss(logprobs, old_logprobs, advantages, mask, whole=share, **options)

    def aggregate(self, values, mask, whole: MiniBatch):
        """See :class:`Algorithm`."""
        return super().aggregate(values, mask, _share(mask, whole))

    def verl(self) -> dict[str, Any]:
        """Raise NotImplementedError: verl has no such aggregation."""
        raise NotImplementedError(f"verl has no counterpart of the loss {self.loss!r} (D20)")


def _share(mask, whole: MiniBatch) -> MiniBatch:
    """Return ``whole`` with the tokens that make a token mean of a micro-batch its share of the mean of means."""
    return replace(whole, tokens=max(1, int(mask.sum())) * whole.micro_batches)


ALGORITHM = MicroBatchMean
