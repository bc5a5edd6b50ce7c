"""Grade responses to rows of a data set: each row says by its ``style`` how."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ead.verifier import Verdict, Verifier
from ead.verifier.choices import read_choice
from reproduction.tasks import countdown

STYLES = ("countdown", "rule")
MULTIPLE_CHOICE = "multiple_choice"


@dataclass(frozen=True)
class Problem:
    """One row of a data set, as sampling and grading need it."""

    id: str
    messages: list[dict[str, str]]
    style: str
    answer: str
    details: dict[str, Any]
    ability: str = "math"


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
    for problem in problems:
        if problem.style not in STYLES:
            raise ValueError(
                f"problem {problem.id!r}: no grader for style {problem.style!r}; known: {', '.join(STYLES)}"
            )
    return problems


class Grader:
    """Grades responses; a context manager, because the verifier keeps worker processes.

    A synthetic problem wants a finished response; a real one is graded by the answer it shows, as in the
    paper's recipe; multiple choice by the letter (``ead.verifier.choices``). Workers start with the
    first response that needs them.
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
        slow = []
        for index, (problem, response, ended) in enumerate(zip(problems, responses, finished, strict=True)):
            if problem.ability == MULTIPLE_CHOICE:
                verdicts[index] = _grade_choice(response, problem.answer)
            elif problem.style != "countdown":
                slow.append(index)
            elif ended:
                verdicts[index] = countdown.grade(response, problem.details["numbers"], int(problem.answer))
            else:
                verdicts[index] = Verdict(correct=False, status="no_answer", extracted=None, canonical=None)
        if slow:
            graded = self._verifier.grade([responses[i] for i in slow], [problems[i].answer for i in slow])
            for index, verdict in zip(slow, graded, strict=True):
                verdicts[index] = verdict
        return verdicts


def _grade_choice(response: str, answer: str) -> Verdict:
    letter = read_choice(response)
    status = "no_answer" if letter is None else "ok"
    return Verdict(correct=letter == answer, status=status, extracted=letter, canonical=letter)
