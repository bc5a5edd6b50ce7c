"""The synthetic task: problems, split, demonstrations and reward."""

from collections import Counter

import pytest

from ead import seeds, verifier
from reproduction.tasks import countdown
from reproduction.tasks.countdown import Chain, Demonstrator, Question


def test_a_chain_prints_its_steps_and_its_expression():
    chain = Chain((6, 7, 3), ("+", "-"))
    assert chain.results == (13, 10)
    assert chain.steps == "6 + 7 = 13 , 13 - 3 = 10"
    assert chain.expression == "( 6 + 7 ) - 3"


def test_every_problem_is_solvable_and_its_solutions_solve_it():
    solutions = countdown.solutions(3)
    assert len(solutions) == 1439
    for problem, chains in solutions.items():
        for chain in chains:
            assert chain.results[-1] == problem.target
            assert Counter(chain.operands) == Counter(problem.numbers)
            assert verifier.evaluate_arithmetic(chain.expression) == problem.target


def test_train_and_test_share_no_problem_and_cover_all():
    parts = {
        part: countdown.generate_problems(3, part, root_seed=7, test_share=0.2, limit=None)
        for part in ("train", "test")
    }
    assert not set(parts["train"]) & set(parts["test"])
    assert len(parts["train"]) + len(parts["test"]) == 1439
    assert 0.15 < len(parts["test"]) / 1439 < 0.25


def test_the_split_depends_on_the_root_seed_only():
    first = countdown.generate_problems(3, "test", root_seed=7, test_share=0.2, limit=50)
    assert first == countdown.generate_problems(3, "test", root_seed=7, test_share=0.2, limit=50)
    assert first != countdown.generate_problems(3, "test", root_seed=8, test_share=0.2, limit=50)


def test_asking_for_more_problems_than_exist_is_an_error():
    with pytest.raises(ValueError, match=r"only \d+ test problems with 3 numbers exist, 9999 are asked for"):
        countdown.generate_problems(3, "test", root_seed=7, test_share=0.2, limit=9999)


def test_demonstrations_use_the_vocabulary_and_solve_at_the_stated_rate():
    problem = Question((3, 6, 7), 16)
    rng = seeds.generator(0, "test")
    demonstrator = Demonstrator(skill=0.5, surrender=1.0)
    responses = [demonstrator.respond(problem, rng) for _ in range(600)]
    assert all(set(response.split()) <= set(countdown.VOCABULARY) for response in responses)
    solved = sum(countdown.grade(response, problem.numbers, 16).correct for response in responses) / 600
    # One attempt: half are solutions on purpose, and a random chain hits by chance now and then.
    assert 0.45 < solved < 0.75


@pytest.mark.parametrize(
    ("response", "correct", "status"),
    [
        (r"\boxed{ ( 6 + 7 ) + 3 }", True, "ok"),
        (r"\boxed{ 16 }", False, "ok"),  # the bare target earns nothing
        (r"\boxed{ ( 6 + 7 ) + 7 }", False, "ok"),
        (r"\boxed{ 6 + 7 + 3 + 0 }", False, "ok"),
        (r"\boxed{ ( 6 + 7 ) - 3 }", False, "ok"),
        (r"\boxed{ 6 + 7 = 16 }", False, "ok"),
        (r"( 6 + 7 ) + 3", False, "no_answer"),
        (r"\boxed{ 1 } then \boxed{ 3 + 6 + 7 }", True, "ok"),  # the last box counts
    ],
)
def test_reward(response, correct, status):
    verdict = countdown.grade(response, (3, 6, 7), 16)
    assert (verdict.correct, verdict.status) == (correct, status)


def test_the_right_value_with_the_wrong_numbers_does_not_vote_with_the_answer():
    right = countdown.grade(r"\boxed{ ( 6 + 7 ) + 3 }", (3, 6, 7), 16)
    wrong = countdown.grade(r"\boxed{ 16 }", (3, 6, 7), 16)
    other = countdown.grade(r"\boxed{ 3 + ( 6 + 7 ) }", (3, 6, 7), 16)
    assert right.canonical == other.canonical != wrong.canonical


def test_the_fast_verdict_is_math_verifys():
    rng = seeds.generator(0, "expressions")
    problems = list(countdown.solutions(3))
    responses, golds, fast = [], [], []
    for index in rng.integers(len(problems), size=150):
        numbers = problems[index].numbers
        chain = list(countdown.chains(numbers))[int(rng.integers(10))]
        target = chain.results[-1] + int(rng.integers(2))
        responses.append(f"\\boxed{{ {chain.expression} }}")
        golds.append(str(target))
        fast.append(countdown.grade(responses[-1], numbers, target).correct)
    import math_verify

    slow = [
        math_verify.verify(
            math_verify.parse(f"${gold}$", parsing_timeout=None),
            math_verify.parse(response, parsing_timeout=None),
            timeout_seconds=None,
        )
        for response, gold in zip(responses, golds, strict=True)
    ]
    assert fast == slow
    assert 20 < sum(fast) < 130
