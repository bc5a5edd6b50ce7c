"""The losses of DAPO, GSPO and Dr. GRPO against the code of the installed TRL: same inputs, same loss and gradient.

``GRPOTrainer._compute_loss`` is TRL's own; only the model is left out, whose log-probabilities are the test's.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from ead.objective import group_advantages, policy_loss

ROWS, COLUMNS, LIMIT = 24, 17, 30
LOW, HIGH = 0.2, 0.28
TOLERANCE = {"rtol": 1e-6, "atol": 1e-7}

# What TRL is told, and what ours is
ALGORITHMS = {
    "grpo": (
        {"loss_type": "grpo", "importance_sampling_level": "token"},
        {"kind": "clip", "aggregation": "seq-mean-token-mean"},
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"kind": "gspo", "aggregation": "seq-mean-token-mean"},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "importance_sampling_level": "token"},
        {"kind": "clip", "aggregation": "seq-mean-token-sum-norm", "max_tokens": LIMIT},
    ),
}


def trls_loss(logprobs, batch, options):
    """TRL's loss of ``batch`` under a policy with ``logprobs``, on a trainer that holds what the loss reads."""
    trainer = SimpleNamespace(
        **options,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        max_completion_length=LIMIT,
        beta=0.0,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda value: value, reduce=lambda value, reduction: value),
        args=SimpleNamespace(delta=None),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
    )
    return GRPOTrainer._compute_loss(trainer, None, batch)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_and_its_gradient_are_trls(algorithm, seed):
    generator = torch.Generator().manual_seed(seed)
    old = -4 * torch.rand(ROWS, COLUMNS, generator=generator)
    logprobs = old + 0.9 * torch.randn(ROWS, COLUMNS, generator=generator)
    lengths = torch.randint(1, COLUMNS + 1, (ROWS, 1), generator=generator)
    mask = (torch.arange(COLUMNS) < lengths).long()
    rewards = (torch.rand(ROWS, generator=generator) < 0.4).float()
    groups = torch.arange(ROWS) // 4
    advantages = group_advantages(rewards, groups, standardise=algorithm != "dr_grpo")
    batch = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
        "completion_ids": torch.zeros(ROWS, COLUMNS, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
    }
    theirs_are_told, ours_is_told = ALGORITHMS[algorithm]
    theirs, ours = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()
    expected = trls_loss(theirs, batch, theirs_are_told)
    loss, statistics = policy_loss(ours, old, advantages, mask, clip_low=LOW, clip_high=HIGH, **ours_is_told)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    torch.testing.assert_close(ours.grad, theirs.grad, **TOLERANCE)
    assert ours.grad.abs().max() > 0
    assert 0 < statistics["clip_low_share"] + statistics["clip_high_share"] < 1
