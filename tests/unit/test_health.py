"""Signs of an unhealthy training: each rule at its threshold, chance against a stretch, and no false alarm."""

import numpy as np
import pandas as pd
import pytest

from reproduction.training.health import Sign, signs

STEPS = 20


def healthy(**columns) -> pd.DataFrame:
    """Metrics of a run that learns; ``columns`` gives step -> value for what differs."""
    noise = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "step": range(1, STEPS + 1),
            "loss": noise.normal(0, 0.1, STEPS),
            "gradient_norm": noise.uniform(0.5, 1.5, STEPS),
            "equal_reward_groups": noise.uniform(0.2, 0.9, STEPS),
            "reward_mean": np.linspace(0.3, 0.5, STEPS),
            "response_length_mean": noise.uniform(20, 40, STEPS),
            "entropy": np.linspace(0.3, 0.1, STEPS),
        }
    )
    for column, changes in columns.items():
        for step, value in changes.items():
            frame.loc[step - 1, column] = value
    return frame


def from_step(step: int, value: float, until: int = STEPS) -> dict[int, float]:
    return dict.fromkeys(range(step, until + 1), value)


def test_a_run_that_learns_has_no_signs():
    assert signs(healthy()) == []


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"loss": {20: float("nan")}}, Sign("not_finite", 20, 1)),
        ({"gradient_norm": {20: float("inf")}}, Sign("not_finite", 20, 1)),
        ({"gradient_norm": {5: 200.0}}, Sign("exploding_gradient", 5, 1)),
        ({"equal_reward_groups": from_step(4, 1.0, 6)}, Sign("no_signal", 4, 3)),
        ({"reward_mean": from_step(10, 0.05)}, Sign("reward_collapse", 10, 11)),
        ({"response_length_mean": from_step(18, 1.0)}, Sign("empty_responses", 18, 3)),
        ({"entropy": from_step(8, 0.009)}, Sign("entropy_collapse", 8, 13)),
        ({"entropy": from_step(8, 1.6)}, Sign("entropy_explosion", 8, 13)),
    ],
    ids=lambda value: value.name if isinstance(value, Sign) else "",
)
def test_every_rule_finds_its_sign_and_when_it_began(changes, sign):
    found = signs(healthy(**changes))
    # An infinite norm is also an exploding one.
    assert sign in found and {s.name for s in found} <= {sign.name, "exploding_gradient"}


@pytest.mark.parametrize(
    "changes",
    [
        {"equal_reward_groups": {4: 1.0, 5: 1.0, 8: 1.0, 9: 1.0}},
        {"reward_mean": {10: 0.0, 11: 0.0}},
        {"reward_mean": from_step(1, 0.0, 10)},  # nothing was lost: the run has not begun to learn
        {"response_length_mean": {4: 1.0}},
        {"entropy": {8: 1.6, 9: 1.6}},
        {"gradient_norm": {5: 50.0}},
        {"gradient_norm": from_step(1, 0.0)},
    ],
)
def test_what_may_be_chance_is_no_sign(changes):
    assert signs(healthy(**changes)) == []


def test_a_step_that_ended_the_run_may_lack_everything_else():
    frame = healthy()
    last = pd.DataFrame([{"step": STEPS + 1, "loss": np.nan, "gradient_norm": np.nan}])
    assert signs(pd.concat([frame, last])) == [Sign("not_finite", STEPS + 1, 1)]


def test_signs_come_in_the_order_in_which_they_began():
    frame = healthy(reward_mean=from_step(12, 0.0), entropy=from_step(9, 3.0))
    assert [sign.name for sign in signs(frame)] == ["entropy_explosion", "reward_collapse"]


def test_a_metric_that_was_never_recorded_is_an_error():
    with pytest.raises(KeyError, match="entropy"):
        signs(healthy().drop(columns="entropy"))
