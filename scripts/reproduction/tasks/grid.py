"""Paths on a small grid with walls: early tokens choose a route, later ones execute it, move by move.

A problem gives walls, a start, a goal and the most moves that a path may have. A cell is named by the letter of its row
and the number of its column, from ``a0`` at the top left. A response names a cell to go by, walks, and boxes the moves
of its last attempt::

    Grid 5 start a0 goal c2 moves 6 walls b1 b3 ?
    Let us try : by c0 : down b0 , down c0 , right c1 , right c2 yes \\boxed{ down down right right }

Many routes lead to most goals, so the first choice spreads responses without harm; a slip in a late move spoils one.
In a structure like this a low temperature late in a response may pay; that was not measured on this task.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ead import seeds
from ead.verifier import Verdict, last_boxed
from reproduction.fields import Count
from reproduction.tasks import problem as tasks

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
LARGEST = 8
MOST_MOVES = 40
TEMPLATE = ("Let", "us", "try", ":")
WORDS = ("Grid", "start", "goal", "moves", "walls", "by", ",", ".", "yes", "no", "?", "\\boxed{", "}")
PATIENCE = 2000  # draws in a row without a new problem

Cell = tuple[int, int]


def name_of(cell: Cell) -> str:
    return f"{'abcdefgh'[cell[0]]}{cell[1]}"


CELLS = map(name_of, itertools.product(range(LARGEST), repeat=2))
VOCABULARY = (*map(str, range(MOST_MOVES + 1)), *CELLS, *TEMPLATE, *WORDS, *MOVES)


@dataclass(frozen=True)
class Question:
    """``walls`` are sorted; a path of ``most_moves`` or fewer leads from ``start`` to ``goal``."""

    size: int
    walls: tuple[Cell, ...]
    start: Cell
    goal: Cell
    most_moves: int

    @property
    def prompt(self) -> str:
        return (
            f"Grid {self.size} start {name_of(self.start)} goal {name_of(self.goal)} moves {self.most_moves} "
            f"walls {' '.join(map(name_of, self.walls))} ?"
        )

    @property
    def id(self) -> str:
        walls = "".join(map(name_of, self.walls))
        return f"{self.size}-{name_of(self.start)}-{name_of(self.goal)}-{self.most_moves}-{walls}"

    @cached_property
    def from_start(self) -> dict[Cell, int]:
        return distances(self.size, self.walls, self.start)

    @cached_property
    def to_goal(self) -> dict[Cell, int]:
        return distances(self.size, self.walls, self.goal)

    def free(self, cell: Cell) -> dict[str, Cell]:
        """Return move -> the cell that it leads to, for the moves that stay on the grid and off the walls."""
        return {move: to for move, to in _moves_from(self.size)[cell].items() if to not in self.walls}

    def solved_by(self, moves: list[str]) -> bool:
        """Whether ``moves`` are a path from start to goal that is not too long."""
        cell = self.start
        for move in moves:
            if move not in (free := self.free(cell)):
                return False
            cell = free[move]
        return cell == self.goal and len(moves) <= self.most_moves


def distances(size: int, walls: tuple[Cell, ...], start: Cell) -> dict[Cell, int]:
    """Return the moves from ``start`` to each cell that can be reached."""
    found, waiting, moves = {start: 0}, deque([start]), _moves_from(size)
    while waiting:
        cell = waiting.popleft()
        for to in moves[cell].values():
            if to not in found and to not in walls:
                found[to] = found[cell] + 1
                waiting.append(to)
    return found


@cache
def _moves_from(size: int) -> dict[Cell, dict[str, Cell]]:
    """Return for each cell of a grid without walls: move -> the cell that it leads to."""
    cells = list(itertools.product(range(size), repeat=2))
    reached = {
        (r, c): {move: (r + down, c + right) for move, (down, right) in MOVES.items()} for r, c in cells
    }
    return {
        cell: {move: to for move, to in moves.items() if to in reached} for cell, moves in reached.items()
    }


def demonstrate(problem: Question, teacher: tasks.Teacher, rng: np.random.Generator) -> str:
    """Return one response of a noisy teacher, without the end-of-sequence token.

    Each attempt picks a cell to go by, from which the goal can still be reached in time, and walks there and on to the
    goal. No move slips with probability ``skill``; a move that slips goes anywhere else that is free. After a miss the
    teacher gives up with probability ``surrender``, or after ``max_attempts``, and boxes that path all the same.
    """
    to, on = problem.from_start, problem.to_goal
    routes = sorted(cell for cell in to.keys() & on.keys() if to[cell] + on[cell] <= problem.most_moves)
    words = [*TEMPLATE]
    for attempt in itertools.count(1):
        by = routes[rng.integers(len(routes))]
        moves, steps = _walk(problem, by, teacher.skill, rng)
        hit = problem.solved_by(moves)
        words += ["by", name_of(by), ":", " , ".join(steps), "yes" if hit else "no"]
        if hit or attempt == teacher.max_attempts or rng.random() < teacher.surrender:
            return " ".join([*words, "\\boxed{", *moves, "}"])
        words += [".", "try", ":"]
    raise AssertionError("unreachable")


def _walk(problem: Question, by: Cell, skill: float, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return the moves of one attempt, and the same with the cell that each leads to."""
    slip = 1 - skill ** (1 / problem.most_moves)
    to_by = distances(problem.size, problem.walls, by)
    cell, passed, moves, steps = problem.start, problem.start == by, [], []
    while len(moves) < problem.most_moves and not (passed and cell == problem.goal):
        left, free = problem.to_goal if passed else to_by, problem.free(cell)
        good = [move for move in free if left[free[move]] < left[cell]]
        bad = [move for move in free if move not in good]
        pool = bad if bad and rng.random() < slip else good
        move = pool[rng.integers(len(pool))]
        cell = free[move]
        passed = passed or cell == by
        moves.append(move)
        steps.append(f"{move} {name_of(cell)}")
    return moves, steps


def grade(problem: Question, response: str) -> Verdict:
    """Grade one finished response: the boxed moves are a path from start to goal that is not too long."""
    boxed = last_boxed(response)
    if boxed is None:
        return Verdict(correct=False, status="no_answer", extracted=None, canonical=None)
    moves = boxed.split()
    return Verdict(correct=problem.solved_by(moves), status="ok", extracted=boxed, canonical=" ".join(moves))


# --- the task ----------------------------------------------------------------------------------------------


class GridData(tasks.GeneratedData):
    """Paths on a grid with walls (``reproduction.tasks.grid``); train and test never share an arrangement of walls."""

    kind: Literal["grid"] = Field(description="generated problems")
    size: int = Field(5, ge=4, le=LARGEST, description="rows and columns")
    walls: int = Field(6, ge=1, le=16, description="cells that no path may enter")
    least_distance: int = Field(
        3, ge=1, description="moves of the shortest path from start to goal, at least"
    )
    slack: int = Field(
        0, ge=0, le=8, multiple_of=2, description="moves that a path may have more than the shortest"
    )
    drawn: Count = Field(5_000, description="problems of both parts together")

    @model_validator(mode="after")
    def _consistent(self) -> "GridData":
        if 2 * self.walls > self.size**2:
            raise ValueError(f"walls ({self.walls}) must be at most half of the {self.size**2} cells")
        if self.least_distance > 2 * (self.size - 1):
            raise ValueError(
                f"least_distance ({self.least_distance}) must be at most {2 * (self.size - 1)}, from corner to corner"
            )
        return self

    def part_of(self, problem: Question, root_seed: int) -> str:
        """Assign an arrangement of walls to ``train`` or ``test`` by its hash."""
        walls = itertools.chain.from_iterable(problem.walls)
        draw = seeds.derive(root_seed, "grid", "split", problem.size, *walls) / 2**63
        return "test" if draw < self.test_share else "train"

    def every(self, root_seed: int) -> Iterator[Question]:
        """Yield distinct problems in the order of their named stream, ``drawn`` at most."""
        shape = (self.size, self.walls, self.least_distance, self.slack)
        rng = seeds.generator(root_seed, "grid", "problems", *shape)
        seen: set[Question] = set()
        tried = 0  # in vain, since the last new problem
        while len(seen) < self.drawn and tried < PATIENCE:
            tried += 1
            picked = rng.choice(self.size**2, self.walls + 2, replace=False).tolist()
            start, goal, *walls = (divmod(cell, self.size) for cell in picked)
            walls = tuple(sorted(walls))
            shortest = distances(self.size, walls, start).get(goal)
            if shortest is None or shortest < self.least_distance or shortest + self.slack > MOST_MOVES:
                continue
            problem = Question(self.size, walls, start, goal, shortest + self.slack)
            if problem not in seen:
                seen.add(problem)
                tried = 0
                yield problem

    def problems(self, root_seed: int, limit: int | None) -> list[Question]:
        """See :class:`GeneratedData`."""
        of_part = (p for p in self.every(root_seed) if self.part_of(p, root_seed) == self.split)
        found = list(itertools.islice(of_part, limit))
        if limit is not None and len(found) < limit:
            raise ValueError(
                f"only {len(found)} {self.split} problems of {self.drawn} on this grid, {limit} are asked for"
            )
        return found

    def existing(self, root_seed: int, wanted: int) -> int:
        """See :class:`GeneratedData`; to draw thousands takes seconds."""
        expected = round(self.drawn * (self.test_share if self.split == "test" else 1 - self.test_share))
        return expected if wanted < expected // 2 else super().existing(root_seed, wanted)

    def rows(self, problems: list[Question], name: str) -> list[dict[str, Any]]:
        """See :class:`GeneratedData`."""
        return [
            tasks.row(
                problem,
                dataset=name,
                style="grid",
                ability="path",
                answer=str(problem.most_moves),
                index=index,
                split=self.split,
                details={
                    "size": problem.size,
                    "walls": problem.walls,
                    "start": problem.start,
                    "goal": problem.goal,
                },
            )
            for index, problem in enumerate(problems)
        ]

    def facts(self, problems: list[Question]) -> dict[str, Any]:
        """See :class:`GeneratedData`."""
        shortest = sum(problem.most_moves - self.slack for problem in problems) / len(problems)
        return {"moves_of_the_shortest_path": round(shortest, 2)}


def _read(row: tasks.Problem) -> Question:
    details = row.details
    walls = tuple(tuple(cell) for cell in details["walls"])
    return Question(details["size"], walls, tuple(details["start"]), tuple(details["goal"]), int(row.answer))


def _grade(row: tasks.Problem, response: str, finished: bool) -> Verdict:
    if not finished:
        return Verdict(correct=False, status="no_answer", extracted=None, canonical=None)
    return grade(_read(row), response)


TASK = tasks.GeneratedTask(
    style="grid", grade=_grade, data=GridData, vocabulary=VOCABULARY, read=_read, demonstrate=demonstrate
)
