"""Clip-Cov as the release calls it: with the advantages in the place of the response mask (D19)."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from reproduction.algorithms.algorithm import MiniBatch
from reproduction.algorithms.clip_cov import BOUNDS, SHARE, ClipCov
from reproduction.algorithms.micro_batch_mean import RELEASED_RESPONSES

_EPSILON = 1e-8  # of the release's masked mean


class ClipCovReleased(ClipCov):
    """EntropyMech's Clip-Cov with the release's error: advantages as the mask.

    A micro-batch's means, of the loss among them, weigh each token by its advantage and divide by their sum, which is
    about zero and may be negative. Tokens of positive advantage alone are clipped or dropped.
    """

    trains_in_verl: ClassVar[bool] = False  # its trainer passes the mask
    micro_batch_responses: ClassVar[int | None] = RELEASED_RESPONSES

    loss: Literal["clip_cov_released"] = Field(description="Clip-Cov with the advantages as the mask")
    aggregation: Literal["token-mean"] = Field("token-mean", description="weighted by advantages")

    def policy_loss(self, logprobs, old_logprobs, advantages, mask, *, weights, generator, whole: MiniBatch):
        """See :class:`Algorithm`; the loss is the micro-batch's share of the mean over micro-batches (D20)."""
        import torch

        from ead import objective

        advantages = advantages.unsqueeze(-1) * mask  # what stands outside a response has no advantage
        total = advantages.sum() + _EPSILON

        def mean(values):
            return (values * advantages).sum() / total

        # Statistics, but for what is chosen: of the loss with the mask of the response.
        _, statistics = objective.policy_loss(
            logprobs.detach(),
            old_logprobs,
            advantages,
            mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
        ratio = (logprobs - old_logprobs).clamp(-20, 20).exp()
        plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        current = logprobs.detach()
        covariance = (advantages - mean(advantages)) * (current - mean(current))
        low, high = BOUNDS
        eligible = (advantages > 0) & (clipped <= plain) & (covariance > low) & (covariance < high)
        places = eligible.nonzero()
        order = torch.randperm(len(places), generator=generator)
        dropped = places[order[: max(1, int(SHARE * advantages.sum()))]]
        kept = torch.ones_like(ratio)
        kept[dropped[:, 0], dropped[:, 1]] = 0.0
        losses = torch.maximum(plain, clipped) * kept
        if weights is not None:
            losses = losses * weights
        statistics["covariance_share"] = len(dropped) / statistics["tokens"]
        return mean(losses) / whole.micro_batches, statistics

    def verl(self) -> dict[str, Any]:
        """Raise NotImplementedError: verl's trainer passes the mask."""
        raise NotImplementedError(f"verl has no counterpart of the loss {self.loss!r} (D19)")


ALGORITHM = ClipCovReleased
