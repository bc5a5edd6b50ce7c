"""Chain Countdown: synthetic problems with several solution paths and a verifiable boxed answer.

A problem gives three or four numbers between 1 and 9 and a target. A solution is a chain that uses every
number exactly once, left to right: ``6 + 7 = 13 , 13 + 3 = 16``. A response tries one or more chains aloud
and boxes the expression of the last one::

    Numbers 3 6 7 target 16 ?
    Let us try : 6 - 3 = 3 , 3 + 7 = 10 no . try : 6 + 7 = 13 , 13 + 3 = 16 yes \\boxed{ ( 6 + 7 ) + 3 }

Early tokens choose the attempt and later ones execute it, which is the structure that annealed decoding is
about. The reward asks two things: the boxed value equals the target (the verifier's verdict, as for real
problems) and the expression uses exactly the given numbers (this task's constraint), so that boxing the bare
target earns nothing.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ead import seeds
from ead.verifier import Verdict, evaluate_arithmetic, last_boxed
from reproduction.tasks import problem as tasks
from reproduction.tasks.problem import Problem

NUMBERS = range(1, 10)
INTERMEDIATES = range(0, 100)
TARGETS = range(5, 61)
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}

TEMPLATE = ("Let", "us", "try", ":")
WORDS = (
    *TEMPLATE,
    "Numbers",
    "target",
    "?",
    *OPERATIONS,
    "=",
    ",",
    ".",
    "yes",
    "no",
    "(",
    ")",
    "\\boxed{",
    "}",
)
VOCABULARY = (*map(str, INTERMEDIATES), *WORDS)
# Problems by how many numbers they give; a test counts them.
EXISTING = {3: 1439, 4: 13712}


@dataclass(frozen=True)
class Question:
    """``numbers`` are sorted; ``target`` is reachable by at least one chain."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        return f"Numbers {' '.join(map(str, self.numbers))} target {self.target} ?"

    @property
    def id(self) -> str:
        return f"{'-'.join(map(str, self.numbers))}={self.target}"


@dataclass(frozen=True)
class Chain:
    """``operands[0] operators[0] operands[1] operators[1] …``, evaluated left to right."""

    operands: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def results(self) -> tuple[int, ...]:
        values, value = [], self.operands[0]
        for operator, operand in zip(self.operators, self.operands[1:], strict=True):
            value = OPERATIONS[operator](value, operand)
            values.append(value)
        return tuple(values)

    @property
    def steps(self) -> str:
        """The chain of thought: ``6 + 7 = 13 , 13 + 3 = 16``."""
        left, parts = self.operands[0], []
        for operator, operand, result in zip(self.operators, self.operands[1:], self.results, strict=True):
            parts.append(f"{left} {operator} {operand} = {result}")
            left = result
        return " , ".join(parts)

    @property
    def expression(self) -> str:
        """The same chain as one expression: ``( 6 + 7 ) + 3``."""
        text = str(self.operands[0])
        for index, (operator, operand) in enumerate(zip(self.operators, self.operands[1:], strict=True)):
            text = f"( {text} ) {operator} {operand}" if index else f"{text} {operator} {operand}"
        return text


def chains(numbers: Sequence[int]) -> Iterator[Chain]:
    """Every distinct chain over ``numbers`` whose intermediate results stay in ``INTERMEDIATES``."""
    for operands in sorted(set(itertools.permutations(numbers))):
        for operators in itertools.product(OPERATIONS, repeat=len(numbers) - 1):
            chain = Chain(operands, operators)
            if all(result in INTERMEDIATES for result in chain.results):
                yield chain


@cache
def solutions(count: int) -> dict[Question, tuple[Chain, ...]]:
    """Every problem with ``count`` numbers and the chains that solve it."""
    found: dict[Question, list[Chain]] = {}
    for numbers in itertools.combinations_with_replacement(NUMBERS, count):
        for chain in chains(numbers):
            if chain.results[-1] in TARGETS:
                found.setdefault(Question(numbers, chain.results[-1]), []).append(chain)
    return {problem: tuple(solving) for problem, solving in found.items()}


def split(problem: Question, root_seed: int, test_share: float) -> str:
    """Assign a problem to ``train`` or ``test`` by a hash of its sorted numbers and target."""
    draw = seeds.derive(root_seed, "countdown", "split", *problem.numbers, problem.target) / 2**63
    return "test" if draw < test_share else "train"


def generate_problems(
    count: int, part: str, *, root_seed: int, test_share: float, limit: int | None
) -> list[Question]:
    """Return the problems of one split in a seeded random order, at most ``limit`` of them.

    Raises ValueError if the split has fewer than ``limit`` problems.
    """
    problems = [p for p in solutions(count) if split(p, root_seed, test_share) == part]
    seeds.generator(root_seed, "countdown", "order", count, part).shuffle(problems)
    if limit is not None and len(problems) < limit:
        raise ValueError(
            f"only {len(problems)} {part} problems with {count} numbers exist, {limit} are asked for"
        )
    return problems[:limit]


def dataset_rows(problems: Sequence[Question], dataset: str, part: str) -> list[dict]:
    """Return the problems in the schema of ``reproduction.data``."""
    return [
        tasks.row(
            problem,
            dataset=dataset,
            style="countdown",
            answer=str(problem.target),
            index=index,
            split=part,
            details={"numbers": problem.numbers},
        )
        for index, problem in enumerate(problems)
    ]


@dataclass(frozen=True)
class Demonstrator:
    """A noisy teacher for the supervised warm start.

    Each attempt solves the problem with probability ``skill`` and is a random chain otherwise. After a miss
    the teacher gives up with probability ``surrender``, or after ``max_attempts``, and boxes its last chain
    although it is wrong: the base model learns the form, and only sometimes the answer.
    """

    skill: float = 0.5
    surrender: float = 0.5
    max_attempts: int = 4

    def respond(self, problem: Question, rng: np.random.Generator) -> str:
        """Return one response to ``problem``, without the end-of-sequence token."""
        solving, every = _chains_of(problem)
        words = [*TEMPLATE]
        for attempt in itertools.count(1):
            pool = solving if rng.random() < self.skill else every
            chain = pool[rng.integers(len(pool))]
            hit = chain.results[-1] == problem.target
            words += [chain.steps, "yes" if hit else "no"]
            if hit or attempt == self.max_attempts or rng.random() < self.surrender:
                return " ".join([*words, "\\boxed{", chain.expression, "}"])
            words += [".", "try", ":"]
        raise AssertionError("unreachable")


@cache
def _chains_of(problem: Question) -> tuple[tuple[Chain, ...], tuple[Chain, ...]]:
    every = tuple(chains(problem.numbers))
    return tuple(c for c in every if c.results[-1] == problem.target), every


def grade(response: str, numbers: Sequence[int], target: int) -> Verdict:
    """Grade one finished response: the boxed value is the target and uses exactly ``numbers``.

    The value's verdict is math-verify's: inside the grammar of ``evaluate_arithmetic`` the two agree (a test
    compares them), and outside it the constraint cannot hold, so no slower check is needed.
    """
    boxed = last_boxed(response)
    if boxed is None:
        return Verdict(correct=False, status="no_answer", extracted=None, canonical=None)
    value = evaluate_arithmetic(boxed)
    used = Counter(int(number) for number in re.findall(r"\d+", boxed))
    correct = value == target and used == Counter(numbers)
    # In a majority vote the right value with the wrong numbers is an answer of its own.
    vote = " ".join(boxed.split()) if value is None else str(value)
    if value == target and not correct:
        vote += " from other numbers"
    return Verdict(correct=correct, status="ok", extracted=boxed.strip(), canonical=vote)


# --- the task ----------------------------------------------------------------------------------------------


class CountdownData(tasks.GeneratedData):
    """Problems of chain Countdown (``reproduction.tasks.countdown``); train and test never share one."""

    kind: Literal["countdown"] = Field(description="generated problems")
    numbers: Literal[3, 4] = Field(description="how many numbers a problem gives")

    def problems(self, root_seed: int, limit: int | None) -> list[Question]:
        """See :class:`GeneratedData`."""
        return generate_problems(
            self.numbers, self.split, root_seed=root_seed, test_share=self.test_share, limit=limit
        )

    def existing(self, root_seed: int, wanted: int) -> int:
        """See :class:`GeneratedData`; to list problems of four numbers takes a second."""
        share = self.test_share if self.split == "test" else 1 - self.test_share
        expected = round(EXISTING[self.numbers] * share)
        return expected if wanted < expected // 2 else super().existing(root_seed, wanted)

    def rows(self, problems: list[Question], name: str) -> list[dict[str, Any]]:
        """See :class:`GeneratedData`."""
        return dataset_rows(problems, name, self.split)

    def facts(self, problems: list[Question]) -> dict[str, Any]:
        """See :class:`GeneratedData`."""
        solving = solutions(self.numbers)
        mean = sum(len(solving[problem]) for problem in problems) / len(problems)
        return {"solutions_per_problem": round(mean, 2)}


def _read(row: Problem) -> Question:
    return Question(tuple(row.details["numbers"]), int(row.answer))


def _demonstrate(problem: Question, teacher: tasks.Teacher, rng: np.random.Generator) -> str:
    return Demonstrator(teacher.skill, teacher.surrender, teacher.max_attempts).respond(problem, rng)


def _grade(row: Problem, response: str, finished: bool) -> Verdict:
    if not finished:
        return Verdict(correct=False, status="no_answer", extracted=None, canonical=None)
    problem = _read(row)
    return grade(response, problem.numbers, problem.target)


TASK = tasks.GeneratedTask(
    style="countdown",
    grade=_grade,
    data=CountdownData,
    vocabulary=VOCABULARY,
    read=_read,
    demonstrate=_demonstrate,
)
