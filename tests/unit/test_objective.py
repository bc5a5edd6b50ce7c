"""Advantages and policy losses: values and gradients by hand, micro-batches, invariances, bad input."""

import math
import statistics as python_statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ead.objective import aggregate, group_advantages, kl_penalty, policy_loss

MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"]


def _batch(seed, rows=6, columns=5, spread=0.4):
    """Random log-probs, old log-probs, advantages [B, T], mask with ragged lengths (the last row empty)."""
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    logprobs = old + spread * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    advantages = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, columns + 1, (rows, 1), generator=generator)
    lengths[-1] = 0
    return logprobs, old, advantages, torch.arange(columns) < lengths


# Advantages


def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 1.0, 0.0])
    groups = ["a", "a", "a", "a", "b", "b", "b", "c", "c"]
    advantages = group_advantages(rewards, groups)
    std = python_statistics.stdev([1, 0, 0, 0]) + 1e-6
    expected = [0.75 / std, *[-0.25 / std] * 3, 0, 0, 0, 0.5 / (0.5**0.5 + 1e-6), -0.5 / (0.5**0.5 + 1e-6)]
    assert advantages.tolist() == pytest.approx(expected, rel=1e-6)
    assert advantages[4:7].tolist() == [0, 0, 0]  # exactly, although 0.3 is no binary fraction


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40))
def test_advantages_are_centred_scaled_and_independent_of_order(pairs):
    pairs = pairs + pairs  # every group has two responses or more
    groups = np.array([group for group, _ in pairs])
    rewards = torch.tensor([float(reward) for _, reward in pairs], dtype=torch.float64)
    advantages = group_advantages(rewards, groups)
    for group in set(groups.tolist()):
        inside = advantages[torch.from_numpy(groups == group)]
        varied = rewards[torch.from_numpy(groups == group)].unique().numel() > 1
        assert inside.sum().item() == pytest.approx(0, abs=1e-9)
        assert inside.std().item() == pytest.approx(1.0 if varied else 0.0, abs=1e-5)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    shuffled = group_advantages(rewards[order], torch.from_numpy(groups)[order])
    torch.testing.assert_close(shuffled, advantages[order])


def test_advantages_bad_input():
    with pytest.raises(ValueError, match="group b has one response"):
        group_advantages(torch.tensor([1.0, 0.0, 1.0]), ["a", "a", "b"])
    with pytest.raises(ValueError, match="one value per response"):
        group_advantages(torch.tensor([1.0, 0.0]), ["a", "a", "a"])
    assert group_advantages(torch.tensor([1, 0]), [7, 7]).dtype == torch.float32


# The clipped loss

# ratio, advantage -> loss and its derivative by the log-probability, with clip 0.2 / 0.28 and dual clip 3
BY_HAND = [
    (1.0, 1.0, -1.0, -1.0),
    (1.2, 1.0, -1.2, -1.2),
    (1.5, 1.0, -1.28, 0.0),  # upper clip
    (0.5, 1.0, -0.5, -0.5),  # a fallen token of positive advantage may rise
    (1.5, -1.0, 1.5, 1.5),  # a risen token of negative advantage may fall
    (0.5, -1.0, 0.8, 0.0),  # lower clip
    (0.9, -2.0, 1.8, 1.8),
    (4.0, -2.0, 6.0, 0.0),  # dual clip
]


@pytest.mark.parametrize(("ratio", "advantage", "expected", "slope"), BY_HAND)
def test_clipped_loss_by_hand(ratio, advantage, expected, slope):
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([[advantage]], dtype=torch.float64)
    loss, _ = policy_loss(
        logprobs, old, advantages, torch.ones(1, 1), clip_low=0.2, clip_high=0.28, dual_clip=3.0
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected) and logprobs.grad.item() == pytest.approx(slope)


def test_statistics_by_hand():
    ratios, advantages = (
        torch.tensor([row], dtype=torch.float64) for row in list(zip(*BY_HAND, strict=True))[:2]
    )
    old = torch.zeros_like(ratios)
    _, statistics = policy_loss(
        ratios.log(), old, advantages, torch.ones_like(old), clip_low=0.2, clip_high=0.28, dual_clip=3.0
    )
    assert statistics == pytest.approx(
        {
            "tokens": 8,
            "clip_low_share": 1 / 8,
            "clip_high_share": 1 / 8,
            "dual_clip_share": 1 / 8,
            "covariance_share": 0,
            "approximate_kl": -ratios.log().mean().item(),
            "ratio_mean": ratios.mean().item(),
            "ratio_min": 0.5,
            "ratio_max": 4.0,
        }
    )
    assert all(type(value) is float for value in statistics.values())


@given(seed=st.integers(0, 2**32), mode=st.sampled_from(MODES))
def test_on_policy_gradient_is_the_policy_gradient(seed, mode):
    """At logprobs == old_logprobs nothing clips: the gradient is that of -A log pi, however aggregated."""
    logprobs, _, advantages, mask = _batch(seed)
    leaf = logprobs.clone().requires_grad_()
    loss, _ = policy_loss(
        leaf, logprobs, advantages, mask, clip_low=0.2, clip_high=0.28, aggregation=mode, dual_clip=3.0
    )
    loss.backward()
    other = logprobs.clone().requires_grad_()
    aggregate(-advantages * other, mask, mode).backward()
    torch.testing.assert_close(leaf.grad, other.grad)


@given(
    seed=st.integers(0, 2**32),
    mode=st.sampled_from(MODES),
    sizes=st.sampled_from([(6,), (1, 5), (2, 2, 2), (1, 1, 1, 1, 1, 1), (3, 3)]),
    dual_clip=st.sampled_from([None, 3.0]),
)
def test_micro_batches_sum_to_the_mini_batch(seed, mode, sizes, dual_clip):
    logprobs, old, advantages, mask = _batch(seed)
    mask[-1, 0] = True  # a micro-batch may not be empty
    weights = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    options = {"clip_low": 0.2, "clip_high": 0.28, "aggregation": mode, "dual_clip": dual_clip}

    whole = logprobs.clone().requires_grad_()
    loss, statistics = policy_loss(whole, old, advantages, mask, weights=weights, **options)
    loss.backward()

    pieces, total, shares = logprobs.clone().requires_grad_(), 0.0, 0.0
    totals = {"total_tokens": int(mask.sum()), "total_sequences": int(mask.any(dim=-1).sum())}
    for start, stop in zip(np.cumsum((0, *sizes[:-1])), np.cumsum(sizes), strict=True):
        part = slice(start, stop)
        micro, micro_statistics = policy_loss(
            pieces[part], old[part], advantages[part], mask[part], weights=weights[part], **options, **totals
        )
        micro.backward()
        total += micro.item()
        shares += micro_statistics["tokens"] * micro_statistics["clip_high_share"]
    assert total == pytest.approx(loss.item(), abs=1e-12)
    torch.testing.assert_close(pieces.grad, whole.grad, rtol=0, atol=1e-12)
    assert shares / totals["total_tokens"] == pytest.approx(statistics["clip_high_share"], abs=1e-12)


@pytest.mark.parametrize("kind", ["clip", "clip_cov", "kl_cov", "gspo"])
def test_what_stands_outside_the_mask_never_matters(kind):
    logprobs, old, advantages, mask = _batch(3)
    results = []
    for filler in (0.0, torch.nan, torch.inf):
        leaf = logprobs.masked_fill(~mask, filler).requires_grad_()
        loss, statistics = policy_loss(
            leaf,
            old.masked_fill(~mask, filler),
            advantages.masked_fill(~mask, filler),
            mask,
            kind=kind,
            clip_low=0.2,
            clip_high=0.2,
            weights=torch.full_like(old, 0.5).masked_fill(~mask, filler),
            covariance_share=0.2,
            covariance_bounds=(0.0, 9.0),
            generator=torch.Generator().manual_seed(0),
        )
        loss.backward()
        results.append((loss.item(), statistics, leaf.grad))
    for loss, statistics, gradient in results[1:]:
        assert loss == results[0][0] and statistics == results[0][1]
        assert torch.equal(gradient, results[0][2])
    assert (results[0][2][~mask] == 0).all()


def test_one_advantage_per_response_is_spread_over_its_tokens():
    logprobs, old, advantages, mask = _batch(4)
    options = {"clip_low": 0.2, "clip_high": 0.2}
    spread = advantages[:, :1].expand_as(old)
    assert policy_loss(logprobs, old, advantages[:, 0], mask, **options) == policy_loss(
        logprobs, old, spread, mask, **options
    )


def test_weights_multiply_the_clipped_token_losses_and_carry_no_gradient():
    """D04: after the clip, token by token; so a constant weight scales loss and gradient."""
    logprobs, old, advantages, mask = _batch(5)
    options = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    weights = torch.full_like(old, 0.5).requires_grad_()
    plain, weighted = (logprobs.clone().requires_grad_() for _ in range(2))
    loss, _ = policy_loss(plain, old, advantages, mask, **options)
    loss.backward()
    halved, _ = policy_loss(weighted, old, advantages, mask, weights=weights, **options)
    halved.backward()
    assert halved.item() == pytest.approx(loss.item() / 2)
    torch.testing.assert_close(weighted.grad, plain.grad / 2)
    assert weights.grad is None


def test_a_wild_token_overflows_nothing():
    old = torch.tensor([[-1000.0, -1.0]])
    leaf = torch.tensor([[0.0, -1000.0]]).requires_grad_()
    loss, statistics = policy_loss(leaf, old, -torch.ones(1), torch.ones(1, 2), clip_low=0.2, clip_high=0.28)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(leaf.grad).all()
    assert all(math.isfinite(value) for value in statistics.values())


# Clip-Cov and KL-Cov


def _covariance(logprobs, advantages, mask):
    centred = advantages - advantages[mask].mean()
    return centred * (logprobs - logprobs[mask].mean())


def test_clip_cov_drops_a_random_few_of_the_eligible_tokens():
    logprobs, old, advantages, mask = _batch(6, rows=40, columns=20, spread=0.2)
    options = {"clip_low": 0.2, "clip_high": 0.2, "covariance_bounds": (0.5, 2.0), "covariance_share": 0.02}
    covariance = _covariance(logprobs, advantages, mask)
    ratio = (logprobs - old).exp()
    clipped = torch.where(advantages > 0, ratio > 1.2, ratio < 0.8)
    eligible = mask & ~clipped & (covariance > 0.5) & (covariance < 2.0)
    count = int(0.02 * mask.sum())
    assert 0 < count < eligible.sum()

    plain = logprobs.clone().requires_grad_()
    policy_loss(plain, old, advantages, mask, clip_low=0.2, clip_high=0.2)[0].backward()
    dropped = []
    for seed in range(4):
        leaf = logprobs.clone().requires_grad_()
        loss, statistics = policy_loss(
            leaf,
            old,
            advantages,
            mask,
            kind="clip_cov",
            generator=torch.Generator().manual_seed(seed),
            **options,
        )
        loss.backward()
        gone = (leaf.grad == 0) & (plain.grad != 0)
        assert gone.sum() == count and (gone & ~eligible).sum() == 0
        assert torch.equal(leaf.grad[~gone], plain.grad[~gone])
        assert statistics["covariance_share"] == pytest.approx(count / mask.sum().item())
        dropped.append(gone)
    assert any(not torch.equal(dropped[0], other) for other in dropped[1:])


def test_clip_cov_with_nothing_eligible_is_the_clipped_loss():
    logprobs, old, advantages, mask = _batch(7)
    options = {"clip_low": 0.2, "clip_high": 0.2}
    loss, _ = policy_loss(
        logprobs,
        old,
        advantages,
        mask,
        kind="clip_cov",
        covariance_bounds=(1e6, 1e7),
        generator=torch.Generator(),
        **options,
    )
    assert loss == policy_loss(logprobs, old, advantages, mask, **options)[0]


def test_kl_cov_penalises_the_tokens_of_largest_covariance():
    logprobs, old, advantages, mask = _batch(8, rows=40, columns=20)
    leaf = logprobs.clone().requires_grad_()
    loss, statistics = policy_loss(
        leaf,
        old,
        advantages,
        mask,
        kind="kl_cov",
        clip_low=0.2,
        clip_high=0.2,
        covariance_share=0.05,
        covariance_penalty=0.7,
    )
    loss.backward()
    count = int(0.05 * mask.sum())
    covariance = _covariance(logprobs, advantages, mask).masked_fill(~mask, -torch.inf)
    chosen = covariance >= covariance.flatten().sort(descending=True).values[count - 1]
    log_ratio = logprobs - old
    slopes = -advantages * log_ratio.exp() + torch.where(chosen, 0.7 * log_ratio.sign(), 0.0)
    values = -advantages * log_ratio.exp() + torch.where(chosen, 0.7 * log_ratio.abs(), 0.0)
    assert loss.item() == pytest.approx(values[mask].mean().item())
    torch.testing.assert_close(leaf.grad, torch.where(mask, slopes, 0.0) / mask.sum())
    assert statistics["covariance_share"] == pytest.approx(count / mask.sum().item())
    assert statistics["clip_low_share"] == statistics["clip_high_share"] == 0


# GSPO and Dr. GRPO


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gspo_is_the_paper_s_loss_of_whole_responses(seed):
    """Zheng et al. 2025, equations 5 to 7, written out response by response."""
    logprobs, old, advantages, mask = _batch(seed, spread=0.02)
    mask[-1, 0] = True
    advantages = advantages[:, :1].expand_as(old)
    low, high = 3e-3, 4e-3
    theirs = logprobs.clone().requires_grad_()
    terms = []
    for row, kept in enumerate(mask):
        ratio = (theirs[row, kept] - old[row, kept]).mean().exp()
        advantage = advantages[row, 0]
        terms.append(torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage))
    expected = -torch.stack(terms).mean()
    expected.backward()
    ours = logprobs.clone().requires_grad_()
    loss, statistics = policy_loss(
        ours,
        old,
        advantages,
        mask,
        kind="gspo",
        clip_low=low,
        clip_high=high,
        aggregation="seq-mean-token-mean",
    )
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    assert 0 < statistics["clip_low_share"] + statistics["clip_high_share"] < 1


def test_gspo_spares_a_response_that_one_wild_token_would_clip():
    old = torch.zeros(1, 4)
    logprobs = torch.tensor([[0.5, -0.5, 0.3, -0.3]])
    options = {"clip_low": 0.1, "clip_high": 0.1}
    arguments = (logprobs, old, torch.ones(1), torch.ones(1, 4))
    assert policy_loss(*arguments, kind="gspo", **options)[1]["clip_high_share"] == 0
    assert policy_loss(*arguments, kind="clip", **options)[1]["clip_high_share"] == 0.5


def test_advantages_without_standard_deviation():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3])
    advantages = group_advantages(rewards, [0, 0, 0, 0, 1, 1, 1], standardise=False)
    assert advantages.tolist() == [0.75, -0.25, -0.25, -0.25, 0, 0, 0]


def test_dr_grpo_gives_every_token_the_same_weight_whatever_its_response_and_batch():
    """Liu et al. 2025: neither a response's length nor the other responses' lengths scale a token's gradient."""
    leaf = torch.zeros(2, 6, requires_grad=True)
    mask = torch.tensor([[1] * 6, [1] * 2 + [0] * 4])
    arguments = {"clip_low": 0.2, "clip_high": 0.2, "aggregation": "seq-mean-token-sum-norm"}
    loss, _ = policy_loss(leaf, torch.zeros(2, 6), torch.ones(2), mask, max_tokens=10, **arguments)
    loss.backward()
    assert loss.item() == pytest.approx(-8 / (2 * 10))
    assert leaf.grad[mask.bool()].tolist() == pytest.approx([-1 / 20] * 8)


# Aggregation and the KL penalty


def test_aggregations_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    assert aggregate(values, mask, "token-mean").item() == pytest.approx(16 / 4)
    assert aggregate(values, mask, "seq-mean-token-sum").item() == pytest.approx((6 + 10) / 2)
    assert aggregate(values, mask, "seq-mean-token-mean").item() == pytest.approx((2 + 10) / 2)
    assert aggregate(values, mask, "token-mean", total_tokens=8).item() == pytest.approx(2)
    assert aggregate(values, mask, "seq-mean-token-sum", total_sequences=4).item() == pytest.approx(4)
    assert aggregate(values, torch.zeros_like(mask), "token-mean", total_tokens=8).item() == 0
    normed = "seq-mean-token-sum-norm"
    assert aggregate(values, mask, normed, max_tokens=4).item() == pytest.approx((6 + 10) / 2 / 4)
    with pytest.raises(ValueError, match="wants max_tokens, the limit of a response, found None"):
        aggregate(values, mask, normed)
    with pytest.raises(ValueError, match="mask selects no token"):
        aggregate(values, torch.zeros_like(mask), "token-mean")
    with pytest.raises(ValueError, match="aggregation: found 'mean'"):
        aggregate(values, mask, "mean")


@given(seed=st.integers(0, 2**32))
def test_kl_estimators_are_unbiased_as_stated(seed):
    """Summed over a vocabulary, k1 and k3 give KL(policy || reference) exactly; k3 is never negative."""
    logits = torch.rand(2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    policy, reference = torch.log_softmax(logits, dim=-1)  # close enough that k3 is not clamped
    exact = (policy.exp() * (policy - reference)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((policy.exp() * kl_penalty(policy, reference, kind)).sum(), exact)
    assert (kl_penalty(policy, reference, "k3") >= 0).all()
    torch.testing.assert_close(kl_penalty(policy, reference, "k2"), (policy - reference).square() / 2)


def test_kl_penalty_gradient_and_limits():
    policy = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.5, -1.0], dtype=torch.float64, requires_grad=True)
    kl_penalty(policy, reference).sum().backward()
    torch.testing.assert_close(policy.grad, 1 - (reference - policy).exp().detach())
    assert reference.grad is None
    assert kl_penalty(torch.tensor([-1e3]), torch.tensor([0.0])).item() == 10
    with pytest.raises(ValueError, match="KL penalty: found 'k4'"):
        kl_penalty(policy, reference, "k4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ppo"}, "loss kind: found 'ppo', allowed: clip, clip_cov, kl_cov, gspo"),
        ({"aggregation": "sum"}, "aggregation: found 'sum'"),
        ({"clip_low": -0.1}, "clip_low must be within"),
        ({"clip_low": 1.1}, "clip_low must be within"),
        ({"clip_high": math.nan}, "clip_high must be at least 0"),
        ({"dual_clip": 1.0}, "dual_clip must be greater than 1"),
        ({"dual_clip": 3.0, "kind": "kl_cov"}, "dual_clip applies to the loss kind clip only"),
        ({"kind": "clip_cov"}, "pass a torch.Generator as generator"),
        ({"kind": "kl_cov", "covariance_share": 0}, "covariance_share must be within"),
        ({"kind": "kl_cov", "covariance_bounds": (2, 1)}, "covariance_bounds must increase"),
        ({"mask": torch.zeros(6, 5)}, "mask selects no token"),
        ({"mask": torch.ones(6, 4)}, "mask must have the shape of logprobs"),
        ({"weights": torch.ones(6)}, "weights must have the shape of logprobs"),
    ],
)
def test_bad_input_is_named(change, message):
    logprobs, old, advantages, mask = _batch(0)
    arguments = {
        "old_logprobs": old,
        "advantages": advantages,
        "mask": mask,
        "clip_low": 0.2,
        "clip_high": 0.2,
    }
    with pytest.raises(ValueError, match=message):
        policy_loss(logprobs, **(arguments | change))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_not_finite_is_an_error_that_names_its_row(bad):
    with pytest.raises(ValueError, match="reward 2 is (nan|inf|-inf)"):
        group_advantages(torch.tensor([1.0, 0.0, bad, 1.0]), [0, 0, 1, 1])


@pytest.mark.parametrize("name", ["advantages", "weights"])
def test_what_multiplies_the_loss_must_be_finite_within_the_mask(name):
    mask = torch.tensor([[1, 1], [1, 0]])
    given = {"advantages": torch.ones(2, 2), "weights": torch.ones(2, 2)}
    given[name][1, 1] = float("nan")  # outside the mask it does not matter
    logprobs = torch.zeros(2, 2)
    policy_loss(logprobs, logprobs, mask=mask, clip_low=0.2, clip_high=0.2, **given)
    given[name][1, 0] = float("inf")
    with pytest.raises(ValueError, match=f"{name} at row 1, position 0: found inf"):
        policy_loss(logprobs, logprobs, mask=mask, clip_low=0.2, clip_high=0.2, **given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_k3_is_never_negative_and_accurate_near_zero(dtype):
    difference = torch.cat([10.0 ** torch.arange(-8, 1.3, 0.1, dtype=torch.float64), torch.zeros(1)]).to(
        dtype
    )
    difference = torch.cat([difference, -difference])
    policy = torch.full_like(difference, 0.0)
    penalty = kl_penalty(policy, difference)
    assert (penalty >= 0).all()
    exact = torch.expm1(difference.double()) - difference.double()
    moderate = (difference.abs() > 1e-3) & (difference.abs() < 1)
    assert torch.allclose(penalty[moderate].double(), exact[moderate], rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["clip", "kl_cov"])
def test_half_precision_does_not_overflow(dtype, kind):
    """exp(20) is 4.9e8, and float16 ends at 65504."""
    logprobs = torch.tensor([[-0.1, -1.0, -2.0]], dtype=dtype, requires_grad=True)
    old = torch.tensor([[-19.0, -1.0, -2.0]], dtype=dtype)
    loss, statistics = policy_loss(
        logprobs,
        old,
        -torch.ones(1, 3, dtype=dtype),
        torch.ones(1, 3),
        clip_low=0.2,
        clip_high=0.2,
        kind=kind,
    )
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss) and loss > 1e7
    assert statistics["ratio_max"] > 1e8
    long = torch.ones(1, 5000, dtype=dtype)
    assert aggregate(long, long, "seq-mean-token-sum") == 5000  # bfloat16 stops counting at 256
