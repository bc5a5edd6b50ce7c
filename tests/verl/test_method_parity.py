"""The method layer against the installed verl: same inputs, same numbers, same gradients.

Where the two differ on purpose, a test says so and shows the difference.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("verl")

from verl.trainer.ppo import core_algos, metric_utils, rollout_corr_helper
from verl.workers.config import FSDPActorConfig, PolicyLossConfig

from ead.importance import LOG_RATIO_LIMIT, truncated_weights, weight_statistics
from ead.metrics import pass_at_k, resampled_best_at_k, resampled_worst_at_k
from ead.objective import aggregate, group_advantages, kl_penalty, policy_loss

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]
LIMIT = 30  # of a response, for Dr. GRPO
SEEDS = range(5)


def _batch(seed, rows=24, columns=17, spread=0.3):
    """Random log-probs, old log-probs, advantages and a ragged mask, float32 as in training."""
    generator = torch.Generator().manual_seed(seed)
    old = -4 * torch.rand(rows, columns, generator=generator)
    logprobs = old + spread * torch.randn(rows, columns, generator=generator)
    advantages = torch.randn(rows, 1, generator=generator).expand(rows, columns).contiguous()
    lengths = torch.randint(1, columns + 1, (rows, 1), generator=generator)
    return logprobs, old, advantages, (torch.arange(columns) < lengths).float()


def _weights(seed, shape):
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1000))


def _actor(clip_ratio_c=3.0, **policy_loss_options):
    return FSDPActorConfig(
        strategy="fsdp",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=4,
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        clip_ratio_c=clip_ratio_c,
        policy_loss=PolicyLossConfig(**policy_loss_options),
    )


def _with_gradient(loss_of, logprobs):
    leaf = logprobs.clone().requires_grad_()
    loss, statistics = loss_of(leaf)
    loss.backward()
    return loss.detach(), statistics, leaf.grad


def _losses(verls, config, logprobs, old, advantages, mask, mode, weights, *, theirs=None, **options):
    """Return our loss and verl's, each with statistics and gradient; ``theirs`` are advantages in verl's form."""
    expected = _with_gradient(
        lambda leaf: verls(
            old,
            leaf,
            advantages if theirs is None else theirs,
            mask,
            mode,
            config,
            rollout_is_weights=weights,
        ),
        logprobs,
    )
    ours = _with_gradient(
        lambda leaf: policy_loss(
            leaf,
            old,
            advantages,
            mask,
            clip_low=0.2,
            clip_high=0.28,
            aggregation=mode,
            weights=weights,
            **options,
        ),
        logprobs,
    )
    return ours, expected


def _assert_same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], **TOLERANCE)
    torch.testing.assert_close(ours[2], theirs[2], **TOLERANCE)
    assert theirs[2].abs().max() > 0


# Advantages


@pytest.mark.parametrize("seed", SEEDS)
def test_advantages(seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(9), rng.integers(2, 9, 9)))
    rewards = torch.from_numpy((rng.random(len(groups)) < rng.random(9)[groups]).astype(np.float32))
    mask = torch.ones(len(groups), 3)
    placed = torch.zeros(len(groups), 3)
    placed[:, -1] = rewards
    ours = group_advantages(rewards, groups)
    for theirs in (
        core_algos.compute_grpo_outcome_advantage,
        core_algos.compute_grpo_vectorized_outcome_advantage,
    ):
        expected, _ = theirs(placed.clone(), mask, groups.astype(object))
        torch.testing.assert_close(ours.unsqueeze(-1).expand(-1, 3), expected, rtol=1e-5, atol=1e-6)


def test_advantages_differ_for_a_group_of_one():
    """verl passes the raw reward on as the advantage; ours refuses, since there is no baseline."""
    reward = torch.tensor([[1.0]])
    advantage, _ = core_algos.compute_grpo_outcome_advantage(reward, torch.ones(1, 1), np.array(["a"]))
    assert advantage.item() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="one response"):
        group_advantages(reward[:, 0], ["a"])


def test_advantages_differ_for_equal_rewards_that_are_no_binary_fractions():
    """verl's float32 mean may miss equal rewards by a bit, which its tiny std turns into an advantage."""
    rewards = torch.full((7, 1), 0.7)
    theirs, _ = core_algos.compute_grpo_outcome_advantage(rewards.clone(), torch.ones(7, 1), np.zeros(7, int))
    assert theirs.abs().max() > 1e-3
    assert (group_advantages(rewards[:, 0], np.zeros(7, int)) == 0).all()


# Policy losses, with gradients


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_clipped_loss(seed, mode, weighted):
    logprobs, old, advantages, mask = _batch(seed, spread=0.9)
    weights = _weights(seed, old.shape) if weighted else None
    ours, theirs = _losses(
        core_algos.compute_policy_loss_vanilla,
        _actor(),
        logprobs,
        old,
        advantages,
        mask,
        mode,
        weights,
        dual_clip=3.0,
    )
    _assert_same(ours, theirs)
    statistics, expected = ours[1], theirs[1]
    clipped = statistics["clip_low_share"] + statistics["clip_high_share"]
    assert clipped == pytest.approx(expected["actor/pg_clipfrac"], abs=1e-6) and clipped > 0
    assert statistics["dual_clip_share"] == pytest.approx(expected["actor/pg_clipfrac_lower"], abs=1e-6)
    assert statistics["dual_clip_share"] > 0
    assert statistics["approximate_kl"] == pytest.approx(expected["actor/ppo_kl"], abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_clip_cov(seed, mode, weighted):
    """With the same random stream (verl draws from torch's global one), the same tokens are dropped."""
    logprobs, old, advantages, mask = _batch(seed)
    weights = _weights(seed, old.shape) if weighted else None
    config = _actor(clip_cov_ratio=0.05, clip_cov_lb=0.3, clip_cov_ub=3.0)
    torch.manual_seed(seed)
    ours, theirs = _losses(
        core_algos.compute_policy_loss_clip_cov,
        config,
        logprobs,
        old,
        advantages,
        mask,
        mode,
        weights,
        kind="clip_cov",
        covariance_share=0.05,
        covariance_bounds=(0.3, 3.0),
        generator=torch.Generator().manual_seed(seed),
    )
    _assert_same(ours, theirs)
    # verl's "clip fraction" is the share of dropped tokens here
    assert ours[1]["covariance_share"] == pytest.approx(theirs[1]["actor/pg_clipfrac"], abs=1e-6)
    assert ours[1]["covariance_share"] > 0
    assert ours[1]["approximate_kl"] == pytest.approx(theirs[1]["actor/ppo_kl"], abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_kl_cov(seed, mode, weighted):
    logprobs, old, advantages, mask = _batch(seed)
    weights = _weights(seed, old.shape) if weighted else None
    config = _actor(kl_cov_ratio=0.05, ppo_kl_coef=0.7)
    ours, theirs = _losses(
        core_algos.compute_policy_loss_kl_cov,
        config,
        logprobs,
        old,
        advantages,
        mask,
        mode,
        weights,
        kind="kl_cov",
        covariance_share=0.05,
        covariance_penalty=0.7,
    )
    _assert_same(ours, theirs)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_gspo(seed, mode, weighted):
    logprobs, old, advantages, mask = _batch(seed, spread=0.9)
    weights = _weights(seed, old.shape) if weighted else None
    ours, theirs = _losses(
        core_algos.compute_policy_loss_gspo,
        _actor(),
        logprobs,
        old,
        advantages,
        mask,
        mode,
        weights,
        kind="gspo",
    )
    _assert_same(ours, theirs)
    statistics, expected = ours[1], theirs[1]
    clipped = statistics["clip_low_share"] + statistics["clip_high_share"]
    assert clipped == pytest.approx(expected["actor/pg_clipfrac"], abs=1e-6) and clipped > 0
    assert statistics["approximate_kl"] == pytest.approx(expected["actor/ppo_kl"], abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_dr_grpo(seed, weighted):
    """From rewards to the gradient, as verl does with the keys that reproduction.algorithms.dr_grpo gives it."""
    logprobs, old, _, mask = _batch(seed, spread=0.9)
    weights = _weights(seed, old.shape) if weighted else None
    groups = np.repeat(np.arange(6), 4)
    rewards = (torch.rand(24, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
    placed = torch.zeros_like(mask)
    placed[:, 0] = rewards
    advantages = group_advantages(rewards, groups, standardise=False)
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        placed, mask, groups.astype(object), norm_adv_by_std_in_grpo=False
    )
    torch.testing.assert_close(advantages.unsqueeze(-1) * mask, expected, **TOLERANCE)
    mode, config = "seq-mean-token-sum-norm", _actor(clip_ratio_c=1e9)
    config.global_batch_info["loss_scale_factor"] = LIMIT
    ours, theirs = _losses(
        core_algos.compute_policy_loss_vanilla,
        config,
        logprobs,
        old,
        advantages,
        mask,
        mode,
        weights,
        theirs=expected,
        max_tokens=LIMIT,
    )
    _assert_same(ours, theirs)


def test_verls_constant_of_dr_grpo_is_the_batchs_width_unless_it_is_told():
    """Hence the key loss_scale_factor: a micro-batch is as wide as its longest response."""
    values, _, _, mask = _batch(0)
    told = core_algos.agg_loss(values, mask, "seq-mean-token-sum-norm", loss_scale_factor=LIMIT)
    untold = core_algos.agg_loss(values, mask, "seq-mean-token-sum-norm")
    assert untold * mask.shape[1] == pytest.approx(told * LIMIT)


def test_a_wild_token_differs_in_the_covariance_losses():
    """verl clamps log-ratios to +-20 in the clipped loss only; ours does in all three, and stays finite."""
    logprobs, old, advantages, mask = _batch(0)
    logprobs[0, 0], old[0, 0], advantages[0] = 0.0, -200.0, 1.0
    theirs, _ = core_algos.compute_policy_loss_kl_cov(old, logprobs, advantages, mask, "token-mean", _actor())
    ours, _ = policy_loss(logprobs, old, advantages, mask, kind="kl_cov", clip_low=0.2, clip_high=0.28)
    assert not torch.isfinite(theirs) and torch.isfinite(ours)


@pytest.mark.parametrize("mode", MODES)
def test_defaults_of_the_covariance_losses(mode):
    """Our defaults are those of Cui et al. and verl (2e-4; 1 and 5), but for the KL coefficient.

    Cui et al., and verl's function where the option is None, use 1; verl's configuration sets 0.1.
    """
    logprobs, old, advantages, mask = _batch(7, rows=400, columns=40)
    assert _actor().policy_loss.ppo_kl_coef == 0.1
    config = _actor(ppo_kl_coef=None)
    for kind in ("clip_cov", "kl_cov"):
        torch.manual_seed(7)
        theirs, _ = core_algos.get_policy_loss_fn(kind)(old, logprobs, advantages, mask, mode, config)
        ours, _ = policy_loss(
            logprobs,
            old,
            advantages,
            mask,
            kind=kind,
            clip_low=0.2,
            clip_high=0.28,
            aggregation=mode,
            generator=torch.Generator().manual_seed(7),
        )
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


# Aggregation and KL penalty


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_aggregation(seed, mode):
    values, _, _, mask = _batch(seed)
    mask[3] = 0  # a response without a token
    torch.testing.assert_close(
        aggregate(values, mask, mode), core_algos.agg_loss(values, mask, mode), **TOLERANCE
    )
    theirs = core_algos.agg_loss(values, mask, mode, batch_num_tokens=900, global_batch_size=60)
    ours = aggregate(values, mask, mode, total_tokens=900, total_sequences=60)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl"), ("k3", "k3")]
)
@pytest.mark.parametrize("spread", [0.3, 30.0])
def test_kl_penalty(ours, theirs, spread):
    logprobs, reference, _, _ = _batch(0, spread=spread)
    results = []
    for function, kind in ((kl_penalty, ours), (core_algos.kl_penalty, theirs)):
        leaf = logprobs.clone().requires_grad_()
        penalty = function(leaf, reference, kind)
        penalty.sum().backward()
        results.append((penalty.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0], **TOLERANCE)
    torch.testing.assert_close(results[0][1], results[1][1], **TOLERANCE)


# Truncated importance sampling


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("cap", [1.5, 2.0, 5.0])
@pytest.mark.parametrize("spread", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_importance_weights(seed, spread, cap, level):
    old, behaviour, _, mask = _batch(seed, spread=spread)
    theirs, metrics = rollout_corr_helper.compute_rollout_correction_weights(
        old - behaviour, mask, rollout_is=level, rollout_is_threshold=cap
    )
    ours = truncated_weights(old, behaviour, mask, cap, level)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    statistics = weight_statistics(old, behaviour, mask, cap, level)
    if level == "token":  # by response, verl weighs responses by their length, ours once each
        assert statistics["weight_mean"] == pytest.approx(metrics["rollout_is_mean"], abs=1e-5)
        assert statistics["effective_sample_share"] == pytest.approx(
            metrics["rollout_is_eff_sample_size"], rel=1e-5
        )
    share = metrics["rollout_is_ratio_fraction_high"]
    assert statistics["share_capped"] == pytest.approx(share, abs=1e-6)


def test_weight_statistics_differ_in_the_largest_ratio():
    """At token level verl's maximum is taken after the cap; ours is of the raw ratio, which is what explodes."""
    old = torch.tensor([[0.0, -1.0]])
    behaviour = torch.tensor([[-9.0, -1.0]])
    mask = torch.ones(1, 2)
    _, metrics = rollout_corr_helper.compute_rollout_correction_weights(
        old - behaviour, mask, rollout_is="token", rollout_is_threshold=2.0
    )
    assert metrics["rollout_is_max"] == 2.0
    assert weight_statistics(old, behaviour, mask, 2.0)["ratio_max"] == pytest.approx(np.exp(9))


def test_both_clamp_log_ratios_alike():
    assert LOG_RATIO_LIMIT == rollout_corr_helper.SAFETY_BOUND


# Validation


@pytest.mark.parametrize("seed", SEEDS)
def test_validation_resampling(seed):
    """Given verl's own stream (seed 42 anew for every prompt, 1000 draws), the same best@k and worst@k."""
    rng = np.random.default_rng(seed)
    correct = (rng.random((6, 16)) < rng.random((6, 1))).astype(float)
    uids = np.repeat([f"prompt {row}" for row in range(6)], 16).tolist()
    report = metric_utils.process_validation_metrics(["math"] * 96, uids, {"acc": correct.ravel().tolist()})[
        "math"
    ]["acc"]
    for k in (2, 4, 8, 16):
        for name, function in (("best", resampled_best_at_k), ("worst", resampled_worst_at_k)):
            ours = function(correct, k, draws=1000, generator=np.random.RandomState(42)).mean()
            assert ours == pytest.approx(report[f"{name}@{k}/mean"], abs=1e-6)
            # Its 1000 draws scatter around the expectation that ours returns by default.
            assert function(correct, k).mean() == pytest.approx(ours, abs=0.03)


def test_validation_best_at_k_is_not_pass_at_k():
    """D05, in verl itself: 1 correct of 16 is reported as about 0.64, where Pass@16 is 1."""
    correct = np.eye(1, 16)[0]
    ((best, _), (worst, _)) = metric_utils.bootstrap_metric(correct.tolist(), 16, [np.max, np.min])
    assert best == pytest.approx(resampled_best_at_k(correct, 16), abs=0.04)
    assert worst == resampled_worst_at_k(correct, 16, draws=1000, generator=np.random.RandomState(42)) == 0
    assert pass_at_k(16, 1, 16) == 1
