"""Intervals: coverage by simulation, agreement with textbook intervals, pairing, Holm, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ead import statistics
from ead.statistics import _resampled_means, bootstrap, holm, minimum_detectable_effect, paired_difference


def _rng(seed=0):
    return np.random.default_rng(seed)


def _layout(rng, seeds, problems, seed_sd, problem_sd=0.1, noise_sd=0.2, data_sets=600):
    """Data sets [data_sets, seeds, problems] of true mean 0: seed, problem and seed-by-problem effects."""
    return (
        rng.normal(0, seed_sd, (data_sets, seeds, 1))
        + rng.normal(0, problem_sd, (data_sets, 1, problems))
        + rng.normal(0, noise_sd, (data_sets, seeds, problems))
    )


@pytest.mark.parametrize(
    ("seeds", "problems", "seed_sd", "problem_sd", "least"),
    [
        (1, 30, 0.0, 0.1, 0.93),
        (1, 500, 0.0, 0.1, 0.93),
        (3, 60, 0.0, 0.1, 0.93),
        (3, 500, 0.01, 0.1, 0.93),
        (5, 60, 0.05, 0.1, 0.92),
        (5, 500, 0.05, 0.1, 0.92),
        (4, 1, 0.05, 0.0, 0.93),
    ],
)
def test_the_interval_covers_the_truth(seeds, problems, seed_sd, problem_sd, least):
    data = _layout(_rng(seeds * problems), seeds, problems, seed_sd, problem_sd)
    estimate = bootstrap(data, generator=_rng(1), replicates=1000)
    covered = ((estimate.low <= 0) & (estimate.high >= 0)).mean()
    assert least <= covered <= 0.99
    false_alarms = (estimate.p_value <= 0.05).mean()
    assert false_alarms == pytest.approx(1 - covered, abs=0.01)


def test_the_standard_error_is_that_of_the_layout_or_a_little_wide():
    """Seed-by-problem noise is counted twice, and nothing else is off; with one seed nothing is."""
    data = _layout(_rng(2), seeds=4, problems=80, seed_sd=0.05, data_sets=3000)
    estimate = bootstrap(data, generator=_rng(3), replicates=100)
    noise = 0.2**2 / 320
    true_variance = 0.05**2 / 4 + 0.1**2 / 80 + noise
    assert estimate.value.var() == pytest.approx(true_variance, rel=0.08)
    assert np.mean(np.square(estimate.standard_error)) == pytest.approx(true_variance + noise, rel=0.06)


def test_resampling_seed_by_seed_would_miss_the_truth():
    """Why the problems are resampled for all seeds at once, and the seeds not at all."""
    rng, seeds, problems = _rng(20), 3, 200
    data = _layout(rng, seeds, problems, seed_sd=0.1, data_sets=300)
    nested = np.stack(
        [
            np.einsum(
                "s,sp,nsp->n",
                rng.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds,
                rng.multinomial(problems, np.full(problems, 1 / problems), size=seeds) / problems,
                data,
            )
            for _ in range(300)
        ]
    )
    low, high = np.quantile(nested, [0.025, 0.975], axis=0)
    estimate = bootstrap(data, generator=_rng(21), replicates=1000)
    assert ((low <= 0) & (high >= 0)).mean() < 0.85
    assert ((estimate.low <= 0) & (estimate.high >= 0)).mean() > 0.9


def test_one_seed_is_the_bootstrap_over_problems():
    scores = _rng(4).random((1, 400)) < 0.3
    estimate = bootstrap(scores, generator=_rng(5), replicates=20_000)
    mean, error = scores.mean(), scores.std(ddof=1) / 20
    assert estimate.value == pytest.approx(mean) and estimate.standard_error == pytest.approx(error)
    assert (estimate.low, estimate.high) == pytest.approx(
        (mean - 1.96 * error, mean + 1.96 * error), abs=2e-3
    )
    assert (estimate.seeds, estimate.problems) == (1, 400)
    assert type(estimate.low) is float


def test_resampled_means_have_the_unbiased_variance():
    """Of few problems too, where drawing all P of them would give (P - 1) / P of it."""
    scores = np.array([[0.0, 0.2, 0.9, 1.0]])
    means = _resampled_means(scores - scores.mean(), 40_000, _rng(23))
    assert means.mean() == pytest.approx(0, abs=0.005)
    assert means.var() == pytest.approx(scores.var(ddof=1) / 4, rel=0.03)


def test_one_number_per_run_is_students_interval():
    lengths = np.array([[310.0], [280.0], [335.0]])
    estimate = bootstrap(lengths, generator=_rng(6), replicates=20_000)
    expected = stats.ttest_1samp(lengths[:, 0], 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), rel=0.02)


def test_pairing_removes_what_both_share():
    rng = _rng(7)
    hard = rng.random((1, 300))
    control = hard + 0.01 * rng.normal(size=(3, 300))
    treatment = control + 0.02 + 0.01 * rng.normal(size=(3, 300))
    difference = paired_difference(treatment, control, generator=_rng(8))
    alone = bootstrap(treatment, generator=_rng(8))
    assert difference.low < 0.02 < difference.high
    assert difference.high - difference.low < (alone.high - alone.low) / 10
    assert difference.p_value < 0.01
    against_margin = paired_difference(treatment, control, generator=_rng(8), null=0.02)
    assert against_margin.p_value > 0.05 and against_margin.low == difference.low


@given(seed=st.integers(0, 2**32), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_shift_scale_and_sign(seed, shift, scale):
    """The interval moves with the data; the p-value of 'mean = shift' does not change."""
    scores = _rng(seed).normal(size=(2, 20))
    plain = bootstrap(scores, generator=_rng(seed), replicates=200)
    moved = bootstrap(shift + scale * scores, generator=_rng(seed), replicates=200, null=shift)
    assert moved.low == pytest.approx(shift + scale * plain.low, abs=1e-9)
    assert moved.high == pytest.approx(shift + scale * plain.high, abs=1e-9)
    assert moved.p_value == pytest.approx(plain.p_value, abs=0.011)
    assert plain.low <= plain.value <= plain.high


def test_the_generator_decides_the_result_and_curves_share_resamples():
    curve = _rng(9).random((5, 2, 30))
    first, again = (bootstrap(curve, generator=_rng(10)) for _ in range(2))
    for name in ("value", "low", "high", "standard_error", "p_value"):
        assert getattr(first, name).shape == (5,)
        assert np.array_equal(getattr(first, name), getattr(again, name))
    single = bootstrap(curve[3], generator=_rng(10))
    assert (single.value, single.low, single.high) == pytest.approx(
        (first.value[3], first.low[3], first.high[3])
    )
    doubled = bootstrap(np.stack([curve[0], curve[0]]), generator=_rng(10))
    assert doubled.low[0] == doubled.low[1]


def test_resampling_in_chunks_changes_nothing(monkeypatch):
    scores = _rng(11).random((4, 1, 50))
    whole = bootstrap(scores, generator=_rng(12))
    monkeypatch.setattr("ead.statistics._WEIGHTS_PER_CHUNK", 1000)
    # Up to the order in which a matrix product adds, which depends on its shape.
    assert bootstrap(scores, generator=_rng(12)).low == pytest.approx(whole.low, rel=1e-12)


def test_scores_that_do_not_vary_have_no_width_and_no_significance():
    estimate = bootstrap(np.zeros((3, 20)), generator=_rng(22))
    assert (estimate.low, estimate.high, estimate.p_value) == (0, 0, 1)


def test_more_confidence_is_wider():
    scores = _rng(13).random((3, 40))
    widths = [
        estimate.high - estimate.low
        for estimate in (bootstrap(scores, generator=_rng(14), confidence=c) for c in (0.5, 0.9, 0.99))
    ]
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_minimum_detectable_effect_is_detected_with_the_stated_power():
    rng = _rng(15)
    pilot = bootstrap(rng.normal(0, 1, (1, 400)), generator=_rng(16))
    effect = minimum_detectable_effect(pilot, power=0.8)
    assert effect == pytest.approx((1.96 + 0.84) / 20, rel=0.1)
    data = rng.normal(effect, 1, (800, 1, 400))
    detected = (bootstrap(data, generator=_rng(17), replicates=1000).low > 0).mean()
    assert detected == pytest.approx(0.8, abs=0.08)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values)).all() and (adjusted <= 1).all()
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] * (len(p_values) - rank) > alpha:
                break
            rejected.add(index)
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(np.ones(5), generator=_rng()), "scores must have shape"),
        (lambda: bootstrap(np.ones((1, 1)), generator=_rng()), "two seeds or two problems"),
        (lambda: bootstrap([[1.0, np.nan]], generator=_rng()), r"found nan at index \(0, 1\)"),
        (lambda: bootstrap(np.ones((2, 2)), generator=_rng(), confidence=95), "0 < confidence < 1"),
        (lambda: bootstrap(np.ones((2, 2)), generator=_rng(), replicates=10), "replicates >= 100"),
        (lambda: bootstrap(np.ones((2, 2)), generator=_rng(), null=np.nan), "null must be finite"),
        (
            lambda: paired_difference(np.ones((2, 5)), np.ones((1, 5)), generator=_rng()),
            "the same seeds and problems",
        ),
        (lambda: holm([0.5, 1.5]), "p-values must be"),
        (lambda: minimum_detectable_effect(bootstrap(np.eye(2), generator=_rng()), 1.0), "power must be"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- several samplers against one --------------------------------------------------------------------------


def blocks(rng, samplers=8, seeds=3, problems=60, effects=0.0, of_seeds=0.03):
    """Scores of samplers that share problems and seeds' prompts, with noise of their own in each."""
    easy = rng.normal(0.5, 0.2, problems)
    prompts, own = rng.normal(0, 0.05, seeds), rng.normal(0, of_seeds, (samplers, seeds))
    noise = rng.normal(0, 0.1, (samplers, seeds, problems))
    return easy + (prompts + own)[..., None] + noise + np.broadcast_to(effects, samplers)[:, None, None]


@pytest.mark.parametrize("seeds_", [1, 3])
def test_intervals_against_a_control_hold_together(seeds_):
    """Family-wise, in 400 simulated tables; with one seed where seeds do not differ."""
    rng, effects = np.random.default_rng(0), np.linspace(0, 0.2, 8)
    held = 0
    for _ in range(400):
        of_seeds = 0.03 if seeds_ > 1 else 0.0
        found = statistics.against_control(blocks(rng, seeds=seeds_, effects=effects, of_seeds=of_seeds), 0)
        held += bool(((found.low <= effects[1:]) & (effects[1:] <= found.high)).all())
    assert held / 400 >= 0.93


def test_few_seeds_are_pooled_over_samplers_and_not_over_prompts():
    rng = np.random.default_rng(1)
    scores = blocks(rng)
    found = statistics.against_control(scores, 3)
    shifted = statistics.against_control(scores + np.array([0.0, 5.0, -3.0])[None, :, None], 3)
    for name in ("value", "low", "high", "p_value"):  # what a seed does to all samplers alike is no noise
        np.testing.assert_allclose(getattr(found, name), getattr(shifted, name), atol=1e-9)
    alone = statistics.paired_difference(scores[0], scores[3], generator=np.random.default_rng(0))
    assert found.value[0] == pytest.approx(alone.value)
    assert len(found.value) == 7 and found.seeds == 3 and found.problems == 60


def test_a_large_difference_is_found_and_equal_scores_are_not():
    rng = np.random.default_rng(2)
    scores = blocks(rng, effects=[0, 0, 0.3, 0, 0, 0, 0, 0])
    found = statistics.against_control(scores, 0)
    assert found.p_value[1] < 1e-4 and found.low[1] > 0
    same = statistics.against_control(np.broadcast_to(scores[:1], scores.shape), 0)
    assert same.p_value.tolist() == [1.0] * 7 and np.abs([same.low, same.high]).max() < 1e-12


@pytest.mark.parametrize(
    "scores", [np.zeros((2, 3)), np.zeros((1, 3, 4)), np.zeros((2, 0, 5)), np.full((2, 2, 2), np.nan)]
)
def test_a_table_that_compares_nothing_is_refused(scores):
    with pytest.raises(ValueError, match="two samplers, one seed and two problems"):
        statistics.against_control(scores, 0)


@pytest.mark.parametrize("control", [-1, 3, 7, 1.0])
def test_a_control_that_is_no_sampler_is_refused(control):
    with pytest.raises(ValueError, match="control must be the index of a sampler, 0 to 2, found"):
        statistics.against_control(np.zeros((3, 2, 5)), control)


@pytest.mark.parametrize("confidence", [95, 0, 1, np.nan])
def test_a_confidence_that_is_no_probability_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must be within"):
        statistics.against_control(np.zeros((3, 2, 5)), 0, confidence=confidence)
