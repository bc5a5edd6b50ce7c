"""Paths on a grid with walls: problems, split, demonstrations and reward."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ead import seeds
from reproduction.tasks import grid
from reproduction.tasks.grid import MOVES, GridData, Question

EXAMPLE = Question(5, ((1, 1), (1, 3)), (0, 0), (2, 2), 6)


def data(part="train", **options):
    return GridData(**{"kind": "grid", "split": part, "drawn": 400, **options})


PROBLEMS = [
    problem
    for options in ({}, {"size": 4, "walls": 3}, {"size": 8, "walls": 14, "slack": 4, "least_distance": 5})
    for problem in data(**options).problems(0, 40)
]


def is_path(problem, moves):
    """The reward again, by another way: a walk over an array whose border and walls are closed."""
    open_cells = np.zeros((problem.size + 2, problem.size + 2), dtype=bool)
    open_cells[1:-1, 1:-1] = True
    for row, column in problem.walls:
        open_cells[row + 1, column + 1] = False
    place = np.array(problem.start) + 1
    for move in moves:
        place = place + {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}[move]
        if not open_cells[tuple(place)]:
            return False
    return len(moves) <= problem.most_moves and tuple(place - 1) == problem.goal


def teacher(skill, surrender=0.5):
    return SimpleNamespace(skill=skill, surrender=surrender, max_attempts=3)


def boxed(response):
    return response.rpartition("\\boxed{ ")[2].removesuffix(" }").split()


def test_the_example_of_the_page():
    assert EXAMPLE.prompt == "Grid 5 start a0 goal c2 moves 6 walls b1 b3 ?"
    assert grid.grade(EXAMPLE, "Let us try : \\boxed{ down down right right }").correct


def test_every_problem_is_new_and_has_a_shortest_path_of_the_stated_length():
    for options in ({}, {"size": 4, "walls": 3}, {"slack": 2, "least_distance": 5}):
        wanted = data(**options)
        problems = list(wanted.every(0))
        assert len({(p.walls, p.start, p.goal) for p in problems}) == len(problems) == wanted.drawn
        for problem in problems:
            shortest = problem.to_goal[problem.start]
            assert shortest == problem.from_start[problem.goal] == problem.most_moves - wanted.slack
            assert shortest >= wanted.least_distance and len(set(problem.walls)) == wanted.walls


def test_train_and_test_share_no_arrangement_of_walls_and_cover_all():
    both = list(data(size=4, walls=3).every(7))  # so small that arrangements repeat
    parts = {part: data(part, size=4, walls=3).problems(7, None) for part in ("train", "test")}
    assert sorted(p.id for part in parts.values() for p in part) == sorted(p.id for p in both)
    walls = {part: {p.walls for p in problems} for part, problems in parts.items()}
    assert not walls["train"] & walls["test"] and len(walls["train"]) < len(parts["train"])
    assert 0.1 < len(parts["test"]) / len(both) < 0.3


def test_problems_depend_on_the_root_seed_only_and_fewer_are_the_first_of_more():
    assert data().problems(7, 30) == data().problems(7, 60)[:30]
    assert data().problems(7, 30) != data().problems(8, 30)


def test_asking_for_more_problems_than_are_drawn_is_an_error():
    with pytest.raises(ValueError, match=r"only \d+ test problems of 400 on this grid, 399 are asked for"):
        data("test").problems(7, 399)


def test_a_grid_with_few_problems_ends():
    few = data(size=4, walls=1, least_distance=6)
    assert 0 < len(list(few.every(0))) < few.drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4, "walls": 9}, r"walls \(9\) must be at most half of the 16 cells"),
        ({"size": 4, "walls": 3, "least_distance": 7}, r"least_distance \(7\) must be at most 6"),
        ({"size": 9}, "size"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        data(**options)


@given(st.sampled_from(PROBLEMS), st.integers(0, 2**32))
def test_without_slips_every_demonstration_is_correct(problem, seed):
    response = grid.demonstrate(problem, teacher(1.0), seeds.generator(seed, "test"))
    assert response.count("yes") == 1 and " no " not in response
    assert grid.grade(problem, response).correct and is_path(problem, boxed(response))


@given(st.sampled_from(PROBLEMS), st.integers(0, 2**32))
def test_a_demonstration_says_itself_whether_it_is_right(problem, seed):
    response = grid.demonstrate(problem, teacher(0.2), seeds.generator(seed, "test"))
    verdict = grid.grade(problem, response)
    assert verdict.correct == ("yes" in response.split()) == is_path(problem, boxed(response))
    assert set(response.split()) <= set(grid.VOCABULARY)


@given(st.sampled_from(PROBLEMS), st.lists(st.sampled_from(sorted(MOVES)), max_size=14))
def test_a_path_is_correct_where_it_is_one_and_wrong_otherwise(problem, moves):
    verdict = grid.grade(problem, f"by a0 : \\boxed{{ {' '.join(moves)} }}")
    assert verdict.correct == is_path(problem, moves) and verdict.status == "ok"


@given(st.sampled_from(PROBLEMS), st.integers(0, 2**32), st.data())
def test_a_solution_with_one_change_is_judged_by_the_grid(problem, seed, drawn):
    """Near misses, which random moves seldom are: a move dropped, added or exchanged."""
    moves = boxed(grid.demonstrate(problem, teacher(1.0), seeds.generator(seed, "test")))
    place = drawn.draw(st.integers(0, len(moves) - 1))
    new = drawn.draw(st.sampled_from([[], [drawn.draw(st.sampled_from(sorted(MOVES)))] * 2]))
    changed = [*moves[:place], *new[: drawn.draw(st.integers(1, 2))], *moves[place + 1 :]]
    assert grid.grade(problem, f"\\boxed{{ {' '.join(changed)} }}").correct == is_path(problem, changed)


@pytest.mark.parametrize(
    ("response", "correct", "status"),
    [
        (r"\boxed{ down down right right }", True, "ok"),
        (r"\boxed{ right right down down }", True, "ok"),
        (r"\boxed{ up } then \boxed{ down down right right }", True, "ok"),  # the last box counts
        (r"\boxed{ down right down right }", False, "ok"),  # through a wall
        (r"\boxed{ left down down right right right }", False, "ok"),  # off the grid
        (r"\boxed{ down down right }", False, "ok"),
        (r"\boxed{ down down right right up down up down }", False, "ok"),  # more than six moves
        (r"\boxed{ b0 c0 c1 c2 }", False, "ok"),
        (r"\boxed{ }", False, "ok"),
        ("down down right right", False, "no_answer"),
    ],
)
def test_reward(response, correct, status):
    verdict = grid.grade(EXAMPLE, response)
    assert (verdict.correct, verdict.status) == (correct, status)


def test_an_attempt_succeeds_at_the_stated_rate():
    """Where no move may be lost, the first slip is a miss."""
    rng, once = seeds.generator(0, "rate"), teacher(0.6, surrender=1.0)
    problems = data().problems(0, 100)
    responses = [(p, grid.demonstrate(p, once, rng)) for p in problems for _ in range(20)]
    solved = sum(grid.grade(p, response).correct for p, response in responses) / len(responses)
    assert solved == pytest.approx(0.6, abs=0.04)
