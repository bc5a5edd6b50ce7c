"""Truncated importance weights: exact values, unbiasedness on enumerable policies, statistics, bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ead.importance import (
    LOG_RATIO_LIMIT,
    check_behaviour_logprobs,
    truncated_weights,
    weight_statistics,
    weight_statistics_by_position,
)
from ead.schedule import Annealed

MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
OLD = torch.log(torch.tensor([[0.5, 0.2, 0.9], [0.3, 0.9, 0.9]], dtype=torch.float64))
BEHAVIOUR = torch.log(torch.tensor([[0.25, 0.4, 0.1], [0.1, 0.1, 0.1]], dtype=torch.float64))


def test_token_weights_are_capped_ratios():
    weights = truncated_weights(OLD, BEHAVIOUR, MASK, cap=1.5)
    torch.testing.assert_close(weights, torch.tensor([[1.5, 0.5, 0], [1.5, 0, 0]], dtype=torch.float64))
    raw = truncated_weights(OLD, BEHAVIOUR, MASK, cap=None)
    torch.testing.assert_close(raw, torch.tensor([[2.0, 0.5, 0], [3.0, 0, 0]], dtype=torch.float64))


def test_sequence_weights_are_the_capped_product_on_every_token():
    weights = truncated_weights(OLD, BEHAVIOUR, MASK, cap=2.0, level="sequence")
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1.0, 0], [2.0, 0, 0]], dtype=torch.float64))


@given(
    seed=st.integers(0, 2**32),
    cap=st.one_of(st.none(), st.floats(1, 100)),
    level=st.sampled_from(["token", "sequence"]),
)
def test_weights_are_one_when_the_policies_agree(seed, cap, level):
    generator = torch.Generator().manual_seed(seed)
    logprobs = -10 * torch.rand(4, 6, generator=generator)
    mask = torch.rand(4, 6, generator=generator) < 0.7
    mask[0, 0] = True
    assert torch.equal(truncated_weights(logprobs, logprobs, mask, cap, level), mask.float())
    statistics = weight_statistics(logprobs, logprobs, mask, cap, level)
    assert statistics == {
        "ratio_mean": 1,
        "ratio_max": 1,
        "weight_mean": 1,
        "share_capped": 0,
        "effective_sample_share": 1,
        "behaviour_kl": 0,
    }


@given(seed=st.integers(0, 2**32), cap=st.floats(0.1, 10), level=st.sampled_from(["token", "sequence"]))
def test_bounds_and_no_gradient(seed, cap, level):
    generator = torch.Generator().manual_seed(seed)
    old = (-200 * torch.rand(3, 5, generator=generator)).requires_grad_()
    behaviour = (-200 * torch.rand(3, 5, generator=generator)).requires_grad_()
    mask = torch.rand(3, 5, generator=generator) < 0.5
    weights = truncated_weights(old, behaviour, mask, cap, level)
    assert not weights.requires_grad
    assert ((weights >= 0) & (weights <= torch.tensor(cap))).all()
    assert (weights[~mask] == 0).all() and (weights[mask] > 0).all()
    untruncated = truncated_weights(old, behaviour, mask, None, level)
    assert torch.isfinite(untruncated).all() and untruncated.max() <= math.exp(LOG_RATIO_LIMIT) * 1.001


def test_what_stands_outside_the_mask_never_matters():
    old, behaviour = OLD.clone(), BEHAVIOUR.clone()
    old[0, 2], behaviour[1, 1], behaviour[1, 2] = torch.nan, -torch.inf, torch.nan
    for level in ("token", "sequence"):
        expected = truncated_weights(OLD, BEHAVIOUR, MASK, 2.0, level)
        assert torch.equal(truncated_weights(old, behaviour, MASK, 2.0, level), expected)
        expected = weight_statistics(OLD, BEHAVIOUR, MASK, 2.0, level)
        assert weight_statistics(old, behaviour, MASK, 2.0, level) == expected


def test_half_precision_is_raised_to_single():
    weights = truncated_weights(OLD.bfloat16(), BEHAVIOUR.bfloat16(), MASK, None)
    assert weights.dtype == torch.float32


def _enumerated(policy: np.ndarray, taus: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """All responses of a first-order policy: per-token log-probs at 1 and at ``taus``, and probabilities."""
    vocabulary, length = policy.shape[-1], len(taus)
    responses = list(itertools.product(range(vocabulary), repeat=length))
    old, behaviour = np.empty((2, len(responses), length))
    for row, response in enumerate(responses):
        for t, token in enumerate(response):
            logits = policy[response[t - 1] if t else 0]
            for table, tau in ((old, 1.0), (behaviour, taus[t])):
                table[row, t] = logits[token] / tau - np.log(np.exp(logits / tau).sum())
    return torch.from_numpy(old), torch.from_numpy(behaviour), np.exp(behaviour.sum(axis=1))


@given(seed=st.integers(0, 2**32), tau_max=st.floats(1, 2), tau_min=st.floats(0.5, 1))
def test_untruncated_weights_make_estimates_unbiased(seed, tau_max, tau_min):
    """E_EAD[w f] = E_old[f] for every f of the response, with sequence weights, by summing all responses.

    Token weights correct each token given its prefix; a prefix sampled hot stays sampled hot. So they leave
    f's of the first token unbiased, and are exact for each conditional distribution.
    """
    rng = np.random.default_rng(seed)
    schedule = Annealed(tau_max=tau_max, tau_min=tau_min, d0=3, alpha=0, d_max=3, start=1)
    policy = rng.uniform(-2, 2, size=(3, 3))  # no ratio comes near the clamp at exp(20)
    old, behaviour, sampled = _enumerated(policy, schedule.temperature(np.arange(4)))
    mask = torch.ones_like(old)
    value = rng.normal(size=len(sampled))
    assert sampled.sum() == pytest.approx(1, abs=1e-12)

    weights = truncated_weights(old, behaviour, mask, None, "sequence")[:, 0].numpy()
    target = np.exp(old.sum(dim=1).numpy())
    assert sampled @ (weights * value) == pytest.approx(target @ value, abs=1e-9)
    assert sampled @ weights == pytest.approx(1, abs=1e-12)

    tokens = truncated_weights(old, behaviour, mask, None, "token").numpy()
    assert sampled @ tokens == pytest.approx(np.ones(4), abs=1e-12)  # E[ratio | prefix] = 1 at every position


def test_truncation_only_lowers_and_its_bias_vanishes_with_the_cap():
    rng = np.random.default_rng(0)
    old, behaviour, sampled = _enumerated(rng.normal(size=(3, 3)), np.array([2.0, 2.0, 0.5]))
    mask = torch.ones_like(old)
    means = [
        sampled @ truncated_weights(old, behaviour, mask, cap, "sequence")[:, 0].numpy()
        for cap in (0.5, 1, 2, 4, 1e3)
    ]
    assert means == sorted(means) and means[0] < 0.51 and means[-1] == pytest.approx(1, abs=1e-12)


def test_statistics_by_hand():
    statistics = weight_statistics(OLD, BEHAVIOUR, MASK, cap=2.5)
    assert statistics["ratio_mean"] == pytest.approx((2 + 0.5 + 3) / 3)
    assert statistics["ratio_max"] == pytest.approx(3)  # before the cap
    assert statistics["weight_mean"] == pytest.approx((2 + 0.5 + 2.5) / 3)
    assert statistics["share_capped"] == pytest.approx(1 / 3)
    assert statistics["effective_sample_share"] == pytest.approx(5**2 / (3 * (4 + 0.25 + 6.25)))
    assert statistics["behaviour_kl"] == pytest.approx(-(math.log(2) + math.log(0.5) + math.log(3)) / 3)

    sequences = weight_statistics(OLD, BEHAVIOUR, MASK, cap=2.5, level="sequence")
    assert sequences["ratio_mean"] == pytest.approx((1 + 3) / 2)  # each response counts once
    assert sequences["weight_mean"] == pytest.approx((1 + 2.5) / 2)
    assert sequences["share_capped"] == 0.5


def test_statistics_by_position():
    by_position = weight_statistics_by_position(OLD, BEHAVIOUR, MASK, cap=2.5)
    assert by_position["count"].tolist() == [2, 1, 0]
    assert by_position["ratio_max"][:2].tolist() == pytest.approx([3, 0.5])
    assert by_position["weight_mean"][:2].tolist() == pytest.approx([2.25, 0.5])
    assert by_position["share_capped"][:2].tolist() == [0.5, 0]
    assert all(values[2].isnan() for name, values in by_position.items() if name != "count")
    # The first column alone is the token statistic of that column.
    first = weight_statistics(OLD[:, :1], BEHAVIOUR[:, :1], MASK[:, :1], cap=2.5)
    assert {name: values[0].item() for name, values in by_position.items() if name != "count"} == first


def test_a_raw_ratio_beyond_the_clamp_is_reported_as_it_is():
    old = torch.tensor([[0.0]])
    statistics = weight_statistics(old, old - 50, torch.ones_like(old), cap=2.0)
    assert statistics["ratio_max"] == pytest.approx(math.exp(50))
    assert statistics["weight_mean"] == 2.0 and statistics["share_capped"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cap": 0}, "cap must be greater than 0 or None, found 0"),
        ({"cap": math.nan}, "cap must be greater than 0"),
        ({"level": "turn"}, "level must be one of token, sequence, found 'turn'"),
        ({"mask": MASK[:, :2]}, "must share one shape"),
        (
            {"behaviour_logprobs": torch.full_like(BEHAVIOUR, -torch.inf)},
            "row 0, position 0 give no finite ratio",
        ),
        ({"old_logprobs": torch.full_like(OLD, torch.nan)}, "no finite ratio: old nan"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"old_logprobs": OLD, "behaviour_logprobs": BEHAVIOUR, "mask": MASK, "cap": 2.0} | change
    for function in (truncated_weights, weight_statistics):
        with pytest.raises(ValueError, match=message):
            function(**arguments)


def test_statistics_need_a_token():
    with pytest.raises(ValueError, match="mask selects no token"):
        weight_statistics(OLD, BEHAVIOUR, torch.zeros_like(MASK), 2.0)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_check_of_behaviour_logprobs_sees_raw_ones(noise):
    """ratio_mean cannot: raw log-probabilities are pi_old, and every ratio is 1."""
    random = torch.Generator().manual_seed(0)
    positions = torch.arange(40)
    temperatures = torch.where(positions < 10, 1.0, torch.linspace(1.2, 0.3, 40))
    logits = 2 * torch.randn(16, 40, 50, generator=random)
    processed = torch.log_softmax(logits / temperatures[:, None], dim=-1)
    tokens = torch.distributions.Categorical(logits=processed).sample()[..., None]
    raw = torch.log_softmax(logits, dim=-1).gather(-1, tokens).squeeze(-1)
    processed = processed.gather(-1, tokens).squeeze(-1)
    old = raw + noise * torch.randn(raw.shape, generator=random)  # another engine's arithmetic
    mask = torch.ones(16, 40)
    assert weight_statistics(old, raw, mask, cap=None)["ratio_mean"] == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="they are raw, or the schedule does not reach the sampler"):
        check_behaviour_logprobs(old, raw, mask, temperatures)
    assert check_behaviour_logprobs(old, processed, mask, temperatures) > 0.1
    assert math.isnan(check_behaviour_logprobs(old, raw, mask, torch.ones(40)))
    with pytest.raises(ValueError, match="one temperature per position of a response is needed"):
        check_behaviour_logprobs(old, processed, mask, torch.ones(39))
