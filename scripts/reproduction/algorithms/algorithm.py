"""What an algorithm is: its configuration, its advantages and loss, and what verl is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from reproduction.fields import Strict

if TYPE_CHECKING:  # a plan reads configurations only, and torch takes a second
    import numpy as np
    import torch


@dataclass(frozen=True)
class MiniBatch:
    """What a micro-batch is part of: the mini-batch's response tokens and responses, the limit of a response, and its
    number of micro-batches."""

    tokens: int
    sequences: int
    max_new_tokens: int
    micro_batches: int = 1


class Algorithm(Strict):
    """A policy-gradient loss. A subclass names itself by ``loss``, a literal, and adds what it is configured by."""

    # Keys of verl's ``actor.policy_loss`` that hold constants of this algorithm.
    verl_constants: ClassVar[Mapping[str, float]] = {}
    # Share of tokens -> verl's metric of the loss that is this share; 0 where the loss has no such thing, None where
    # verl reports nothing.
    verl_shares: ClassVar[Mapping[str, str | float | None]] = {
        "clip_share": "actor/pg_clipfrac",
        "dual_clip_share": "actor/pg_clipfrac_lower",
        "covariance_share": 0.0,
    }
    # Whether verl can be told it; a scale with verl has no runs of another.
    trains_in_verl: ClassVar[bool] = True
    # Responses of a micro-batch, of different prompts where there are, for a loss that depends on it. None: as fit.
    micro_batch_responses: ClassVar[int | None] = None

    clip_low: PositiveFloat = Field(0.2, description="probability ratios below 1 minus this are clipped")
    clip_high: PositiveFloat = Field(0.2, description="probability ratios above 1 plus this are clipped")
    aggregation: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"] = Field(
        "token-mean", description="from the losses of tokens to one number"
    )
    kl_coefficient: Annotated[float, Field(ge=0)] = Field(0.0, description="penalty to the reference policy")

    def bounded(self, dual_clip: float) -> "Algorithm":
        """Return this with a recipe's bound on the loss of negative advantages; an algorithm without one stays."""
        return self

    def advantages(self, rewards: "torch.Tensor", groups: "np.ndarray") -> "torch.Tensor":
        """Return one advantage per response: the group's standardised rewards (D11, D13)."""
        from ead import objective

        return objective.group_advantages(rewards, groups)

    def policy_loss(
        self,
        logprobs: "torch.Tensor",
        old_logprobs: "torch.Tensor",
        advantages: "torch.Tensor",
        mask: "torch.Tensor",
        *,
        weights: "torch.Tensor | None",
        generator: "torch.Generator",
        whole: MiniBatch,
    ) -> "tuple[torch.Tensor, dict[str, float]]":
        """Return the loss of a micro-batch, and the statistics that ``ead.objective.policy_loss`` describes.

        The losses of a mini-batch's micro-batches sum to the mini-batch's.

        Args:
            logprobs, old_logprobs, mask: ``[batch, response]``, under the policy being trained and before the update.
            advantages: ``[batch]``.
            weights: of truncated importance sampling, ``[batch, response]``; None trains without.
            generator: for an algorithm that chooses at random.
            whole: the mini-batch.
        """
        from ead import objective

        return objective.policy_loss(
            logprobs,
            old_logprobs,
            advantages,
            mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            aggregation=self.aggregation,
            weights=weights,
            total_tokens=whole.tokens,
            total_sequences=whole.sequences,
            max_tokens=whole.max_new_tokens,
            **self.loss_options(generator),
        )

    def loss_options(self, generator: "torch.Generator") -> dict[str, Any]:
        """Return what ``ead.objective.policy_loss`` is given besides: its ``kind``, and what that wants."""
        raise NotImplementedError

    def aggregate(self, values: "torch.Tensor", mask: "torch.Tensor", whole: MiniBatch) -> "torch.Tensor":
        """Return the part of the mini-batch's number that a micro-batch's token values ``[batch, response]`` are."""
        from ead import objective

        return objective.aggregate(
            values,
            mask,
            self.aggregation,
            total_tokens=whole.tokens,
            total_sequences=whole.sequences,
            max_tokens=whole.max_new_tokens,
        )

    def verl(self) -> dict[str, Any]:
        """Return the keys of verl's configuration that state this algorithm, laid over those of every run."""
        raise NotImplementedError

    def _verl(self, mode: str, **actor: Any) -> dict[str, Any]:
        """Return the keys of an algorithm that clips, under verl's name ``mode`` of its loss."""
        return {
            "actor_rollout_ref": {
                "actor": {
                    "clip_ratio": self.clip_low,
                    "clip_ratio_low": self.clip_low,
                    "clip_ratio_high": self.clip_high,
                    "loss_agg_mode": self.aggregation,
                    "policy_loss": {"loss_mode": mode},
                    "use_kl_loss": self.kl_coefficient > 0,
                    "kl_loss_coef": self.kl_coefficient,
                    **actor,
                }
            }
        }
