"""What a task is: problems, how their answers are graded, and, where problems are generated, how they are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from ead.verifier import Verdict
from reproduction.fields import Count, Share, Strict


@dataclass(frozen=True)
class Problem:
    """One row of a data set, as sampling and grading need it."""

    id: str
    messages: list[dict[str, str]]
    style: str
    answer: str
    details: dict[str, Any]
    ability: str = "math"


@dataclass(frozen=True)
class Task:
    """One kind of problem, by the ``style`` of its rows (``reproduction.data.schema``).

    ``grade(problem, response, finished)`` returns the verdict on a response, and ``finished`` is false where the token
    limit cut it; None leaves the task to ``ead.verifier``, whose worker processes compare mathematical answers.
    """

    style: str
    grade: Callable[[Problem, str, bool], Verdict] | None


class GeneratedData(Strict):
    """A generated data set, as a scale defines it; train and test never share a problem.

    A subclass adds its ``kind``, the task's name, and what its problems are made by.
    """

    split: Literal["train", "test"] = Field(description="which part of all problems")
    test_share: Share = Field(0.2, description="share of all problems that are held out")
    limit: Count | None = Field(None, description="keep this many problems; null keeps all")

    def problems(self, root_seed: int, limit: int | None) -> list["Question"]:
        """Return the split's problems in a seeded random order, at most ``limit`` of them.

        Raises ValueError if there are fewer than ``limit``.
        """
        raise NotImplementedError

    def existing(self, root_seed: int, wanted: int) -> int:
        """Return how many problems the split has; where far fewer are ``wanted``, roughly how many, at once."""
        return len(self.problems(root_seed, None))

    def rows(self, problems: list["Question"], name: str) -> list[dict[str, Any]]:
        """Return ``problems`` in the schema of ``reproduction.data``; ``name`` is the data set's."""
        raise NotImplementedError

    def facts(self, problems: list["Question"]) -> dict[str, Any]:
        """Return what the data card says of ``problems`` besides their number."""
        return {}


class Question(Protocol):
    """A generated problem."""

    @property
    def prompt(self) -> str:
        """The words of the user's message, separated by spaces."""
        ...

    @property
    def id(self) -> str:
        """Its unique name."""
        ...


def row(
    question: Question,
    *,
    dataset: str,
    style: str,
    answer: str,
    index: int,
    split: str,
    details: Mapping[str, Any],
    ability: str = "math",
) -> dict[str, Any]:
    """Return a generated problem in the schema of ``reproduction.data``; ``details`` is what ``read`` needs of it."""
    return {
        "data_source": dataset,
        "prompt": [{"role": "user", "content": question.prompt}],
        "ability": ability,
        "reward_model": {"style": style, "ground_truth": answer},
        "extra_info": {
            "id": question.id,
            "index": index,
            "split": split,
            "details": json.dumps(details),
        },
    }


class Teacher(Protocol):
    """How often a demonstration succeeds (``reproduction.config.WarmStartModel``)."""

    skill: float
    surrender: float
    max_attempts: int


@dataclass(frozen=True)
class GeneratedTask(Task):
    """A task whose problems are generated, and from whose demonstrations a small model can learn.

    ``demonstrate(question, teacher, rng)`` returns one response in words of ``vocabulary``, separated by spaces and
    without the end-of-sequence token; ``read`` returns the generated problem that a row holds.
    """

    data: type[GeneratedData]
    vocabulary: tuple[str, ...]
    read: Callable[[Problem], Question]
    demonstrate: Callable[[Question, Teacher, np.random.Generator], str]
