"""A task is one file: its problems, its grading, and, where problems are generated, what teaches them."""

import pandas as pd
import pytest
from pydantic import TypeAdapter

from ead import seeds
from reproduction.config import load_scale
from reproduction.tasks import GENERATED, TASKS, AnyGeneratedData
from reproduction.tasks.grading import Grader, problems_of, task_of
from reproduction.training import warmstart

TEACHER = load_scale("mini").models["tiny"]


def some_rows(task, part="test", count=5):
    """Rows of a small data set of the task, with every default that its configuration has."""
    required = {"kind": task.style, "split": part, "limit": count}
    numbers = {"numbers": 3} if task.style == "countdown" else {}
    definition = TypeAdapter(AnyGeneratedData).validate_python(required | numbers)
    problems = definition.problems(0, count)
    return definition, problems, definition.rows(problems, "some")


@pytest.mark.parametrize("style", GENERATED)
def test_a_generated_task_is_whole(style):
    task = GENERATED[style]
    definition, problems, rows = some_rows(task)
    read = problems_of(pd.DataFrame(rows))
    assert {task_of(problem).style for problem in read} == {style}
    assert [task.read(problem) for problem in read] == problems
    assert [problem.messages[-1]["content"] for problem in read] == [problem.prompt for problem in problems]
    assert definition.existing(0, 10**9) >= len(problems)
    rng = seeds.generator(0, "demonstrations")
    taught = [task.demonstrate(problem, TEACHER, rng) for problem in problems for _ in range(40)]
    asked = {word for problem in problems for word in problem.prompt.split()}
    assert asked | {word for response in taught for word in response.split()} <= set(task.vocabulary)
    with Grader(timeout_s=5.0, workers=1) as grader:
        verdicts = grader.grade([p for p in read for _ in range(40)], taught, [True] * len(taught))
        cut = grader.grade(read[:1], taught[:1], [False])
    # The base model learns the form, and only sometimes the answer.
    assert 0.2 < sum(verdict.correct for verdict in verdicts) / len(verdicts) < 0.95
    assert (cut[0].correct, cut[0].status) == (False, "no_answer")


@pytest.mark.parametrize("style", GENERATED)
def test_train_and_test_share_no_problem(style):
    parts = [some_rows(GENERATED[style], part, None)[2] for part in ("train", "test")]
    train, test = ({row["extra_info"]["id"] for row in rows} for rows in parts)
    assert train and test and not train & test


@pytest.mark.parametrize("style", GENERATED)
def test_each_word_has_one_token(style):
    """A repeated word once left ids that the model's embedding had no row for."""
    ids = warmstart.token_ids(GENERATED[style].vocabulary)
    assert sorted(ids.values()) == list(range(len(ids)))
    with pytest.raises(ValueError, match="the task's vocabulary holds 'yes' more than once"):
        warmstart.token_ids(["yes", "no", "yes"])


def test_each_style_is_of_one_task():
    assert all(task.style == style for style, task in TASKS.items())
    assert {"countdown", "rule", "multiple_choice"} <= TASKS.keys()
