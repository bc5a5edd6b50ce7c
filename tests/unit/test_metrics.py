"""Pass@k, Worst@k, Majority@k against enumeration; the framework's resampling; entropies."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ead.metrics import (
    average_entropy,
    majority_at_k,
    pass_at_k,
    resampled_best_at_k,
    resampled_worst_at_k,
    token_entropy,
    worst_at_k,
)

verdicts = st.lists(st.booleans(), min_size=1, max_size=9)


# Pass@k and Worst@k


@given(correct=verdicts, data=st.data())
def test_pass_and_worst_against_enumeration(correct, data):
    n, c = len(correct), sum(correct)
    k = data.draw(st.integers(1, n))
    subsets = list(itertools.combinations(correct, k))
    assert pass_at_k(n, c, k) == float(Fraction(sum(map(any, subsets)), len(subsets)))
    assert worst_at_k(n, c, k) == float(Fraction(sum(map(all, subsets)), len(subsets)))


@given(n=st.integers(1, 3000), data=st.data())
def test_pass_and_worst_bounds_duality_and_monotony(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    passed, worst = pass_at_k(n, c, k), worst_at_k(n, c, k)
    assert 0 <= worst <= c / n + 1e-15 and c / n - 1e-15 <= passed <= 1
    assert worst == pytest.approx(1 - pass_at_k(n, n - c, k), abs=1e-14)  # all right = not one wrong
    if k < n:
        assert pass_at_k(n, c, k + 1) >= passed and worst_at_k(n, c, k + 1) <= worst
    if c < n:
        assert pass_at_k(n, c + 1, k) >= passed and worst_at_k(n, c + 1, k) >= worst


def test_pass_at_k_is_unbiased():
    """Averaged over Binomial(n, p) it is 1 - (1 - p)^k, the paper's definition."""
    n, k, p = 16, 5, 0.13
    counts = np.arange(n + 1)
    probabilities = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in counts]
    assert pass_at_k(n, counts, k) @ probabilities == pytest.approx(1 - (1 - p) ** k, abs=1e-14)
    assert worst_at_k(n, counts, k) @ probabilities == pytest.approx(p**k, abs=1e-14)


def test_pass_at_k_is_right_to_the_last_bit_for_large_n():
    assert pass_at_k(1_000_000, 1, 16) == 16 / 1_000_000  # 1 - (1 - p) would lose eleven digits here
    assert pass_at_k(100_000, 3, 100) == float(1 - Fraction(math.comb(99_997, 100), math.comb(100_000, 100)))
    assert pass_at_k(4096, 0, 4096) == 0 and worst_at_k(4096, 4096, 4096) == 1


def test_arrays_broadcast():
    correct = np.array([[0, 1, 4], [2, 3, 4]])
    result = pass_at_k(4, correct[..., None], np.array([1, 2, 4]))
    assert result.shape == (2, 3, 3) and result.dtype == np.float64
    for index in np.ndindex(result.shape):
        assert result[index] == pass_at_k(4, int(correct[index[:2]]), [1, 2, 4][index[2]])
    assert type(pass_at_k(4, 2, 2)) is float


@pytest.mark.parametrize("arguments", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_impossible_counts_are_named(arguments):
    n, c, k = arguments
    for function in (pass_at_k, worst_at_k):
        with pytest.raises(ValueError, match=f"found n = {n}, c = {c}, k = {k}"):
            function(n, c, k)
    with pytest.raises(ValueError, match="must be integers"):
        pass_at_k(4, 0.5, 1)


# Majority@k


def _majority_by_enumeration(answers, correct, k):
    outcomes = []
    for subset in itertools.combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in subset if answers[i] is not None)
        leaders = [answer for answer in votes if votes[answer] == max(votes.values())]
        credits = [
            np.mean([correct[i] for i in range(len(answers)) if answers[i] == answer]) for answer in leaders
        ]
        outcomes.append(np.mean(credits) if credits else 0.0)
    return np.mean(outcomes)


@given(
    samples=st.lists(
        st.tuples(st.one_of(st.none(), st.sampled_from("abcde")), st.booleans()), min_size=1, max_size=9
    )
)
def test_majority_against_enumeration(samples):
    answers, correct = zip(*samples, strict=True)
    sizes = range(1, len(answers) + 1)
    expected = [_majority_by_enumeration(answers, correct, k) for k in sizes]
    assert majority_at_k(answers, correct, list(sizes)) == pytest.approx(expected, abs=1e-12)
    assert majority_at_k(answers, correct, 1) == pytest.approx(expected[0], abs=1e-12)


def test_majority_by_hand():
    answers, correct = ["4", "4", "5", None], [True, True, False, False]
    assert majority_at_k(answers, correct, 1) == pytest.approx(0.5)
    # pairs: 44 right; 45 twice, a tie, half each; 4- twice right; 5- wrong
    assert majority_at_k(answers, correct, 2) == pytest.approx((1 + 2 * 0.5 + 2 + 0) / 6)
    assert majority_at_k(answers, correct, 4) == pytest.approx(1)
    assert majority_at_k([None, None], [False, False], 2) == 0
    assert majority_at_k(["7"] * 3, [True, True, False], 2) == pytest.approx(2 / 3)  # a grader disagreeing


def test_majority_ties_are_those_of_the_first_leading_answer_in_a_shuffled_draw():
    rng = np.random.default_rng(0)
    answers = ["a", "a", "a", "b", "b", "b", "c", "c", None, "d"]
    correct = [answer == "b" for answer in answers]
    wins = 0
    for _ in range(20_000):
        votes = Counter(
            answers[i] for i in rng.choice(len(answers), 5, replace=False) if answers[i] is not None
        )
        wins += votes.most_common(1)[0][0] == "b"  # the first of equals, in the order of the draw
    assert majority_at_k(answers, correct, 5) == pytest.approx(wins / 20_000, abs=0.01)


def test_majority_of_many_samples():
    n, rng = 64, np.random.default_rng(0)
    answers = rng.integers(0, 4, n).tolist()
    correct = np.array(answers) == answers[0]
    sizes = [1, 2, n // 2, n - 1, n]
    result = majority_at_k(answers, correct, sizes)
    assert result[:2] == pytest.approx([correct.mean()] * 2, abs=1e-9)  # of two, a tie or agreement
    winner = Counter(answers).most_common(1)[0][0]
    assert result[-1] == pytest.approx(float(winner == answers[0]), abs=1e-9)
    assert [majority_at_k(answers, correct, k) for k in sizes] == pytest.approx(result.tolist(), abs=1e-9)


def test_majority_for_sizes_far_apart_is_evaluated_in_parts(monkeypatch):
    answers = np.random.default_rng(1).integers(0, 4, 40).tolist()
    correct, sizes = np.array(answers) == 2, [40, 1, 17, 39, 2]
    whole = majority_at_k(answers, correct, sizes)
    monkeypatch.setattr("ead.metrics._LEAST_PROBABILITY", 0.01)
    assert majority_at_k(answers, correct, sizes) == pytest.approx(whole, abs=1e-12)


def test_majority_of_thousands_is_exact_too():
    answers = np.arange(2000)  # one vote each: always a tie of k
    assert majority_at_k(answers.tolist(), answers < 600, [1, 7, 30]) == pytest.approx([0.3] * 3, abs=1e-10)


def test_majority_bad_input():
    with pytest.raises(ValueError, match=r"k must be integers within \[1, 2\], found 3"):
        majority_at_k(["a", "b"], [True, False], 3)
    with pytest.raises(ValueError, match="k must be integers"):
        majority_at_k(["a", "b"], [True, False], [1, 0])
    with pytest.raises(ValueError, match="same length"):
        majority_at_k(["a", "b"], [True], 1)


# The framework's resampling


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=4),
    k=st.integers(1, 5),
)
def test_resampled_expectations_against_enumeration(scores, k):
    draws = list(itertools.product(scores, repeat=k))
    assert resampled_best_at_k(scores, k) == pytest.approx(np.mean([max(draw) for draw in draws]), abs=1e-12)
    assert resampled_worst_at_k(scores, k) == pytest.approx(np.mean([min(draw) for draw in draws]), abs=1e-12)


def test_resampling_is_biased_as_d05_says():
    one_of_16 = np.eye(1, 16)[0]
    assert resampled_best_at_k(one_of_16, 16) == pytest.approx(0.644, abs=5e-4)
    assert pass_at_k(16, 1, 16) == 1
    assert resampled_worst_at_k(1 - one_of_16, 16) == pytest.approx(1 - 0.644, abs=5e-4)
    assert worst_at_k(16, 15, 16) == 0


def test_resampling_converges_to_the_expectation():
    correct = np.random.default_rng(0).random((3, 2, 16)) < 0.2
    for function in (resampled_best_at_k, resampled_worst_at_k):
        expectation = function(correct, 8)
        drawn = function(correct, 8, draws=20_000, generator=np.random.default_rng(1))
        assert expectation.shape == drawn.shape == (3, 2)
        assert drawn == pytest.approx(expectation, abs=0.015)
    with pytest.raises(ValueError, match="draws and generator belong together"):
        resampled_best_at_k(correct, 8, draws=10)
    with pytest.raises(ValueError, match="found n = 16 and k = 0"):
        resampled_best_at_k(correct, 0)


# Entropies


def test_token_entropy():
    logits = torch.tensor([[0.0, 0.0, -torch.inf, 0.0], [1000.0, 0.0, 0.0, 0.0]])
    assert token_entropy(logits).tolist() == pytest.approx([math.log(3), 0.0])
    assert token_entropy(logits.bfloat16()).dtype == torch.float32
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    temperature = torch.tensor([[0.5], [2.0]])
    expected = torch.distributions.Categorical(logits=logits / temperature.unsqueeze(-1)).entropy()
    torch.testing.assert_close(token_entropy(logits, temperature), expected)
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        token_entropy(logits, 0.0)


def test_average_entropy_by_hand():
    entropies = np.array([[1.0, 2.0, np.nan], [3.0, 3.0, 3.0], [0.5, np.inf, 9.0]])
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    # prompt a: (1 + 2 + 3 + 3 + 3) / 5 tokens; prompt b: 0.5 / 1
    assert average_entropy(entropies, mask, ["a", "a", "b"]) == pytest.approx((12 / 5 + 0.5) / 2)
    assert average_entropy(entropies, mask, ["a", "b", "a"]) == pytest.approx((3.5 / 3 + 3) / 2)
    with pytest.raises(ValueError, match="prompt b has no response token"):
        average_entropy(entropies, mask * [[1], [1], [0]], ["a", "a", "b"])
    with pytest.raises(ValueError, match="one label per response"):
        average_entropy(entropies, mask, ["a", "b"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_errors_that_name_their_place(bad):
    with pytest.raises(ValueError, match="verdict 1 is"):
        majority_at_k(["a", "b"], [1.0, bad], 1)
    with pytest.raises(ValueError, match=r"score \(0, 1\) is"):
        resampled_best_at_k(np.array([[1.0, bad]]), 2)
    mask = np.array([[1, 1], [1, 0]])
    average_entropy(np.array([[1.0, 1.0], [1.0, bad]]), mask, [0, 1])
    with pytest.raises(ValueError, match=r"entropy \(1, 0\) is"):
        average_entropy(np.array([[1.0, 1.0], [bad, 1.0]]), mask, [0, 1])
