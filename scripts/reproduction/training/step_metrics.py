"""The metrics of a step's responses, for both engines: rows come prompt by prompt, as many to each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ead import importance
from reproduction.config.runs import RunConfiguration


@dataclass(frozen=True)
class Responses:
    """What was drawn in a step.

    Attributes:
        rewards: by row, 0 or 1; lengths: tokens by row; finished: false where the limit cut a row.
        statuses: of the verdicts, by row.
        entropies: ``entropy`` and ``entropy_at_sampling_temperature`` (nats), by prompt; NaN where unknown.
    """

    run: RunConfiguration
    rewards: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray
    statuses: Sequence[str]
    entropies: Mapping[str, np.ndarray]

    def metrics(self) -> dict[str, float]:
        """Return one number each for the step."""
        solved = self._by_prompt(self.rewards)
        statuses = Counter(self.statuses)
        return {
            # In the rewards' own precision.
            "reward_mean": float(self.rewards.mean()),
            "solved_by_any": float((solved > 0).mean()),
            "solved_by_all": float((solved == 1).mean()),
            "equal_reward_groups": float(((solved == 0) | (solved == 1)).mean()),
            **{
                f"verdicts_{status}": statuses[status] / len(self.statuses)
                for status in ("no_answer", "timeout", "error")
            },
            "response_length_mean": float(self.lengths.mean()),
            "response_length_max": float(self.lengths.max()),
            "truncated_share": float((~self.finished).mean()),
            **{name: float(np.mean(values)) for name, values in self.entropies.items()},
        }

    def groups(self) -> dict[str, Any]:
        """Return one entry per prompt: what a mean over the step leaves no interval for."""
        return {
            "reward_mean": self._by_prompt(self.rewards).tolist(),
            "response_length_mean": self._by_prompt(self.lengths).tolist(),
            "truncated_share": self._by_prompt(~self.finished).tolist(),
            **{name: values.tolist() for name, values in self.entropies.items()},
        }

    def _by_prompt(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float64).reshape(-1, self.run.n).mean(-1)


def importance_metrics(
    run: RunConfiguration, policy: torch.Tensor, behaviour: torch.Tensor, mask: torch.Tensor
) -> dict[str, float]:
    """Return the statistics of the run's importance weights; without TIS, those of the ratios themselves.

    Args:
        policy, behaviour: log-probabilities of the tokens drawn ``[rows, tokens]``, of the policy and of the sampler.
    """
    correction = run.sampler_definition.importance
    cap, level = (correction.cap, correction.level) if correction else (None, "token")
    found = importance.weight_statistics(policy, behaviour, mask, cap, level)
    return {f"importance_{name}": value for name, value in found.items()}
