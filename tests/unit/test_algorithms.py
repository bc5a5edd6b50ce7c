"""An algorithm is one file: what it is configured by, what both engines do with it, and what a mistake says."""

import inspect

import pytest
import torch

from ead import objective, seeds
from reproduction.algorithms import ALGORITHMS, NAMED, VERL_CONSTANTS, MiniBatch, without_label
from reproduction.algorithms.clip_cov import ClipCov
from reproduction.config import Configuration, ConfigurationError, load_algorithms, load_scale
from reproduction.config.runs import RunConfiguration, canonical, expand
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
    else:
        assert torch.allclose(loss_of(slice(0, 2)) + loss_of(slice(2, 6)), whole_loss, atol=1e-6)


@pytest.mark.parametrize("loss", ALGORITHMS)
def test_verl_is_told_a_loss_and_how_it_is_aggregated(loss):
    told = ALGORITHMS[loss](loss=loss).verl()["actor_rollout_ref"]["actor"]
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
