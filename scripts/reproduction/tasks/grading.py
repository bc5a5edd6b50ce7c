"""Grade responses to rows of a data set: each row says by its ``style`` which task it is of."""

import json
from collections.abc import Sequence

import pandas as pd

from ead.verifier import Verdict, Verifier
from reproduction import tasks
from reproduction.tasks import multiple_choice
from reproduction.tasks.problem import Problem, Task


def styles() -> list[str]:
    """Return what the files of data sets may say; multiple choice is told by its ability."""
    return [style for style in tasks.TASKS if style != multiple_choice.ABILITY]


def task_of(problem: Problem) -> Task:
    return tasks.TASKS[
        multiple_choice.ABILITY if problem.ability == multiple_choice.ABILITY else problem.style
    ]


def problems_of(frame: pd.DataFrame) -> list[Problem]:
    """Return the problems of a data set read by ``reproduction.data.read_dataset``.

    Raises ValueError for a row whose style no grader knows.
    """
    problems = [
        Problem(
            id=row.extra_info["id"],
            messages=row.prompt,
            style=row.reward_model["style"],
            answer=row.reward_model["ground_truth"],
            details=json.loads(row.extra_info["details"]),
            ability=row.ability,
        )
        for row in frame.itertuples()
    ]
    known = styles()
    for problem in problems:
        if problem.style not in known:
            raise ValueError(
                f"problem {problem.id!r}: no grader for style {problem.style!r}; known: {', '.join(known)}"
            )
    return problems


class Grader:
    """Grades responses; a context manager, because the verifier keeps worker processes.

    Each task has its own way (``reproduction.tasks``). A real problem is graded by the answer that a response shows, as
    in the paper's recipe; a generated one may want a finished response. Workers start with the first response that
    needs them.
    """

    def __init__(self, *, timeout_s: float, workers: int, method: str = "math_verify"):
        self._verifier = Verifier(timeout_s=timeout_s, workers=workers, method=method)

    def __enter__(self) -> "Grader":
        self._verifier.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._verifier.__exit__(*exception)

    def grade(
        self, problems: Sequence[Problem], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[Verdict]:
        """Return one verdict per response, in order; ``problems[i]`` is what ``responses[i]`` answers."""
        verdicts: list[Verdict | None] = [None] * len(responses)
        for_verifier = []
        for index, (problem, response, ended) in enumerate(zip(problems, responses, finished, strict=True)):
            task = task_of(problem)
            if task.grade is None:
                for_verifier.append(index)
            else:
                verdicts[index] = task.grade(problem, response, ended)
        if for_verifier:
            graded = self._verifier.grade(
                [responses[i] for i in for_verifier], [problems[i].answer for i in for_verifier]
            )
            for index, verdict in zip(for_verifier, graded, strict=True):
                verdicts[index] = verdict
        return verdicts
