"""An algorithm is one file: what it is configured by, what both engines do with it, and what a mistake says."""

import inspect
import math

import pytest
import torch

from ead import objective, seeds
from reproduction.algorithms import ALGORITHMS, NAMED, VERL_CONSTANTS, MiniBatch, without_label
from reproduction.algorithms.clip_cov import ClipCov
from reproduction.config import Configuration, ConfigurationError, load_algorithms, load_scale
from reproduction.config.runs import RunConfiguration, canonical, expand, named
from reproduction.figures import load_experiments


@pytest.mark.parametrize("loss", ALGORITHMS)
def test_micro_batches_sum_to_the_mini_batch(loss):
    """What the in-process engine relies on when it splits a mini-batch, for the loss and for the penalty."""
    algorithm = ALGORITHMS[loss](loss=loss)
    random = seeds.torch_generator(0, "algorithms", loss)
    logprobs = -torch.rand(6, 8, generator=random)
    old = logprobs + 0.1 * torch.randn(6, 8, generator=random)
    mask = torch.arange(8) < torch.tensor([8, 3, 5, 8, 1, 6])[:, None]
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0])
    advantages = algorithm.advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 1]).numpy())
    whole = MiniBatch(int(mask.sum()), 6, 8)

    def loss_of(rows):
        drawn = seeds.torch_generator(0, "drawn")
        found, statistics = algorithm.policy_loss(
            logprobs[rows],
            old[rows],
            advantages[rows],
            mask[rows],
            weights=None,
            generator=drawn,
            whole=whole,
        )
        assert {"tokens", "clip_low_share", "approximate_kl", "ratio_max"} <= statistics.keys()
        return found + algorithm.aggregate(logprobs[rows], mask[rows], whole)

    whole_loss = loss_of(slice(0, 6))
    if loss in ("clip_cov", "kl_cov"):  # they choose tokens within a call
        assert torch.isfinite(whole_loss)
    elif not algorithm.trains_in_verl:  # the release's: what a micro-batch is decides
        assert not torch.allclose(loss_of(slice(0, 2)) + loss_of(slice(2, 6)), whole_loss, atol=1e-3)
    else:
        assert torch.allclose(loss_of(slice(0, 2)) + loss_of(slice(2, 6)), whole_loss, atol=1e-6)


@pytest.mark.parametrize("loss", ALGORITHMS)
def test_verl_is_told_a_loss_and_how_it_is_aggregated(loss):
    algorithm = ALGORITHMS[loss](loss=loss)
    if not algorithm.trains_in_verl:
        with pytest.raises(NotImplementedError, match=r"D(19|20)"):
            algorithm.verl()
        return
    told = algorithm.verl()["actor_rollout_ref"]["actor"]
    assert {"policy_loss", "loss_agg_mode", "use_kl_loss"} <= told.keys() and told["policy_loss"]["loss_mode"]


def test_an_entry_has_a_label_that_a_run_does_not_depend_on():
    for entry in load_scale("mini").algorithms.values():
        assert isinstance(entry, NAMED[entry.loss]) and entry.label
        assert "label" not in without_label(entry).model_dump()
    assert {entry["loss"] for entry in load_algorithms().values()} <= ALGORITHMS.keys()


def test_a_run_keeps_the_form_that_its_hash_was_made_of():
    """Runs from before each algorithm had its file go on from their states."""
    runs = expand(Configuration(scale="mini"), load_scale("mini"), load_experiments()["fig04"])
    mini_run = next(run for run in runs.values() if run.model == "tiny")
    written = mini_run.algorithm_definition.model_dump(mode="json")
    assert written == {
        **{"loss": "clip", "clip_low": 0.2, "clip_high": 0.28, "dual_clip": None},
        **{"aggregation": "token-mean", "kl_coefficient": 0.0},
    }
    assert (
        canonical(RunConfiguration.from_json(mini_run.to_json()).model_dump(mode="json"))
        == mini_run.to_json()
    )


def test_the_shares_of_entropymech_are_those_of_the_method():
    """The in-process engine and verl are told by one file; `ead.objective`, called alone, does the same."""
    parameters = inspect.signature(objective.policy_loss).parameters
    default = {
        name: parameters[name].default
        for name in ("covariance_share", "covariance_bounds", "covariance_penalty")
    }
    asked = ClipCov(loss="clip_cov").loss_options(None)
    assert asked["covariance_share"] == default["covariance_share"] == VERL_CONSTANTS["kl_cov_ratio"]
    assert asked["covariance_bounds"] == default["covariance_bounds"]
    assert (VERL_CONSTANTS["clip_cov_lb"], VERL_CONSTANTS["clip_cov_ub"]) == default["covariance_bounds"]
    assert VERL_CONSTANTS["ppo_kl_coef"] == default["covariance_penalty"]


def test_a_bound_that_a_loss_has_no_use_for_is_refused_before_the_first_job():
    """It used to end the training at its first step."""
    with pytest.raises(ConfigurationError, match=r"algorithms.entropy_mech.dual_clip"):
        load_scale("mini", {"algorithms": {"entropy_mech": {"dual_clip": 3.0}}})


def test_a_recipes_bound_is_for_the_algorithm_that_has_one():
    assert ALGORITHMS["clip"](loss="clip").bounded(10.0).dual_clip == 10.0
    assert ALGORITHMS["kl_cov"](loss="kl_cov").bounded(10.0).dual_clip is None


def planted(advantages, moved=0.3):
    """Three rows of 4, 2 and 1 tokens whose log-probabilities have moved up, down and up, with one advantage each."""
    mask = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    old = -moved * torch.rand(3, 4, generator=seeds.torch_generator(0, "planted")) * mask
    new = (old + moved * torch.tensor([[1.0], [-1.0], [1.0]]) * mask).requires_grad_()
    return new, old, torch.tensor(advantages), mask


def test_the_releases_mean_is_of_micro_batches_and_not_of_tokens():
    """D20, by hand: two micro-batches of 6 and 1 tokens weigh the same."""
    new, old, advantages, mask = planted([1.0, -1.0, 0.5])
    algorithm = ALGORITHMS["micro_batch_mean"](loss="micro_batch_mean", clip_high=0.28)
    whole = MiniBatch(7, 3, 4, micro_batches=2)

    def loss(algorithm, rows, **more):
        given = (new[rows], old[rows], advantages[rows], mask[rows])
        return algorithm.policy_loss(*given, weights=None, generator=None, whole=whole, **more)[0]

    halves = [loss(algorithm, slice(0, 2)), loss(algorithm, slice(2, 3))]
    up, down = min(1.28, math.exp(0.3)), max(0.8, math.exp(-0.3))
    assert halves[0].item() == pytest.approx((-4 * up + 2 * down) / 6 / 2, rel=1e-6)
    assert halves[1].item() == pytest.approx(-0.5 * up / 2, rel=1e-6)
    plain = ALGORITHMS["clip"](loss="clip", clip_high=0.28)
    assert loss(plain, slice(0, 3)).item() == pytest.approx((-4 * up + 2 * down - 0.5 * up) / 7, rel=1e-6)


def test_the_releases_mask_weighs_tokens_by_their_advantage():
    """D19, by hand: the mean of A^2 r over the sum of A, whose sign is that of the sum."""
    algorithm = ALGORITHMS["clip_cov_released"](loss="clip_cov_released", clip_low=1.0, clip_high=1.0)

    def loss(advantages):
        new, old, advantages, mask = planted(advantages, moved=0.01)
        options = {
            "weights": None,
            "generator": seeds.torch_generator(0, "drawn"),
            "whole": MiniBatch(7, 3, 4, 2),
        }
        found, statistics = algorithm.policy_loss(new, old, advantages, mask, **options)
        found.backward()
        assert statistics["covariance_share"] == 0  # no covariance above 1 in these rows
        return found.item(), new.grad

    up, down = math.exp(0.01), math.exp(-0.01)
    for advantages in ([1.0, -1.0, 0.5], [0.2, -1.0, 0.5]):
        one, two, three = advantages
        total = 4 * one + 2 * two + three
        found, gradient = loss(advantages)
        squares = 4 * one**2 * up + 2 * two**2 * down + three**2 * up
        assert found == pytest.approx(-squares / total / 2, rel=1e-5)
        # Where the sum is negative, tokens of every response are made less likely.
        assert torch.all(gradient[0] * total < 0) and torch.all(gradient[1, :2] * total < 0)
    found, gradient = loss([0.0, 0.0, 0.0])  # a micro-batch without a signal
    assert found == 0 and torch.equal(gradient, torch.zeros(3, 4))


def test_the_releases_mask_drops_tokens_of_positive_advantage_alone():
    algorithm = ALGORITHMS["clip_cov_released"](loss="clip_cov_released", clip_low=1.0, clip_high=1.0)
    random = seeds.torch_generator(0, "wide")
    logprobs = (-3 * torch.rand(4, 50, generator=random)).requires_grad_()
    advantages, mask = torch.tensor([2.0, -1.5, 1.5, -1.0]), torch.ones(4, 50, dtype=torch.bool)
    options = {"weights": None, "generator": random, "whole": MiniBatch(200, 4, 50)}
    loss, statistics = algorithm.policy_loss(logprobs, logprobs.detach(), advantages, mask, **options)
    loss.backward()
    gone = (logprobs.grad == 0).nonzero()
    assert len(gone) == 1 and advantages[gone[0, 0]] > 0 and statistics["covariance_share"] == 1 / 200


def test_a_scale_with_verl_has_no_run_of_a_loss_that_verl_lacks():
    experiments = load_experiments()
    in_process, verl = (
        expand(Configuration(scale=name), load_scale(name), experiments["deviations"])
        for name in ("cpu", "paper")
    )
    own = {"dapo_micro_batch_mean", "entropy_mech_released"}
    assert {run.algorithm for run in in_process.values()} == {"dapo", "entropy_mech", *own}
    assert {run.algorithm for run in verl.values()} == {"dapo", "entropy_mech"}
    with pytest.raises(ConfigurationError, match="verl has no counterpart"):
        named(
            Configuration(scale="paper"),
            load_scale("paper"),
            "model~qwen2.5-math-1.5b/algorithm~dapo_micro_batch_mean",
        )
