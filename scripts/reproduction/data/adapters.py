r"""How each public source names its columns, and what its answers look like.

An ``Adapter`` turns one row of one file layout into a ``Problem``. It raises ``BadRow`` for a row that is
broken and ``Skip`` for a sound row that has no place in the data set (a proof has no checkable answer).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ead.verifier.text import MAX_ANSWER_CHARACTERS
from reproduction.data.prompts import PROMPTS


class BadRow(ValueError):
    """A broken row; ``reason`` is the short name it is counted under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Skip(Exception):
    """A sound row that the data set leaves out; ``reason`` is the short name it is counted under."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Problem:
    """A problem as its source states it: no prompt template, the answer without delimiters."""

    text: str
    answer: str
    choices: tuple[str, ...] = ()
    published_answer: str | None = None  # where ``answer`` is written in another notation
    id: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The problem, followed by its lettered choices if it has any."""
        lettered = [f"{_letter(place)}) {choice}" for place, choice in enumerate(self.choices)]
        return "\n".join([self.text, "", *lettered]) if lettered else self.text


@dataclass(frozen=True)
class Adapter:
    """One file layout. Columns are dotted paths into a row: ``prompt.0.content``."""

    problem: str
    answer: str
    take: Callable[[Any], str]
    id: str | None = None
    choices: str | None = None
    details: tuple[str, ...] = ()
    clean: Callable[[str], str] = str.strip
    rewrite: Callable[[str], str] = lambda answer: answer
    skip: Callable[[str], str | None] = lambda problem: None

    @property
    def columns(self) -> list[str]:
        """Top-level columns the adapter reads."""
        paths = [self.problem, self.answer, self.id, self.choices, *self.details]
        return sorted({path.split(".")[0] for path in paths if path is not None})

    def __call__(self, row: Mapping[str, Any]) -> Problem:
        """Return the problem in ``row``. Raises ``BadRow`` or ``Skip``."""
        problem = self.clean(_text(row, self.problem))
        if not problem:
            raise BadRow("empty_problem", f"column {self.problem!r} holds no problem")
        if reason := self.skip(problem):
            raise Skip(reason)
        choices: tuple[str, ...] = ()
        if self.choices is None:
            answer = self.take(_value(row, self.answer)).strip()
        else:
            choices, answer = _multiple_choice(_value(row, self.choices), _value(row, self.answer))
        if not answer:
            raise BadRow("empty_answer", f"column {self.answer!r} holds no answer")
        if len(answer) > MAX_ANSWER_CHARACTERS:
            raise BadRow(
                "answer_too_long",
                f"column {self.answer!r}: the answer has {len(answer):,} characters; no grader reads more than "
                f"{MAX_ANSWER_CHARACTERS:,}",
            )
        for path, text in (
            (self.problem, problem),
            (self.answer, answer),
            *((self.choices, c) for c in choices),
        ):
            _encodable(text, path)
        identifier = None
        if self.id is not None:
            identifier = str(_value(row, self.id))
            _encodable(identifier, self.id)
        details = {path.split(".")[-1]: _value(row, path) for path in self.details}
        for path, value in zip(self.details, details.values(), strict=True):
            _storable(value, path)
        rewritten = self.rewrite(answer)
        return Problem(
            text=problem,
            answer=rewritten,
            published_answer=None if rewritten == answer else answer,
            choices=choices,
            id=identifier,
            details=details,
        )


def as_given(answer: Any) -> str:
    """The column is the answer; dollar signs that delimit mathematics are removed."""
    return re.sub(r"(?<!\\)\$", "", _string(answer))


def only_element(answers: Any) -> str:
    """The column is a list with the one answer."""
    if not isinstance(answers, list) or len(answers) != 1:
        raise BadRow("malformed_answer", f"wanted a list with one answer, found {answers!r:.80}")
    return as_given(answers[0])


def integer(answer: Any) -> str:
    """The column is an integer, perhaps written as 27.0 or 027."""
    try:
        number = float(answer)
        whole = int(answer) if isinstance(answer, str) else int(number)
    except (TypeError, ValueError, OverflowError):
        number, whole = float("nan"), 0
    if number != whole:
        raise BadRow("malformed_answer", f"wanted an integer answer, found {answer!r:.80}")
    return str(whole)


def after_hashes(solution: Any) -> str:
    """GSM8K: what follows the last ``####`` of the solution, without thousands separators."""
    _, mark, answer = _string(solution).rpartition("####")
    if not mark:
        raise BadRow("no_answer", "the solution has no '####' line")
    return answer.replace(",", "")


def last_boxed(solution: Any) -> str:
    r"""MATH: the argument of the last ``\boxed`` (or ``\fbox``) of the solution."""
    solution = _string(solution)
    boxes = list(re.finditer(r"\\(?:boxed|fbox)\s*(?P<brace>\{)?", solution))
    if not boxes:
        raise BadRow("no_answer", r"the solution has no \boxed{}")
    start = boxes[-1].end()
    if boxes[-1]["brace"] is None:  # \boxed 5: the argument is the next word, as far as the mathematics goes
        return re.match(r"[^\s$]*", solution[start:])[0]
    depth = 1
    for bracket in re.finditer(r"\\.|[{}]", solution[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(bracket[0], 0)
        if depth == 0:
            return solution[start : start + bracket.start()]
    raise BadRow("malformed_answer", r"the last \boxed{ of the solution is not closed")


TAKES: dict[str, Callable[[Any], str]] = {
    take.__name__: take for take in (as_given, integer, only_element, last_boxed, after_hashes)
}
"""How an answer is taken from its column, by name; an entry that states its columns refers to these."""


def without_program_notation(answer: str) -> str:
    r"""Minerva: some answers are written as in a program (``4.5e33``, ``-1./3``, ``np.arcsin(x)``).

    A grader reads ``4.5e33`` as LaTeX, 4.5 times Euler's number times 33, and no right answer equals that.
    """
    if number := re.fullmatch(r"([+-]?\d+(?:\.\d*)?)e([+-]?\d+)", answer):
        return rf"{number[1]} \times 10^{{{int(number[2])}}}"
    answer = re.sub(r"(\d)\.(?=/)", r"\1", answer)
    return answer.replace("np.", "\\")


_PROOF = re.compile(r"\b(?:prove|proof|show that|demonstrate that)\b", re.IGNORECASE)


def proofs(problem: str) -> str | None:
    """NuminaMath: a problem that asks for a proof has no answer to check."""
    return "proof" if _PROOF.search(problem) else None


def without_dapo_prompt(text: str) -> str:
    """DAPO-Math-17k: its hub file holds problems inside its prompt, other copies hold bare problems."""
    return text.removeprefix(PROMPTS["dapo"].before).removesuffix(PROMPTS["dapo"].after).strip()


ADAPTERS: dict[str, Adapter] = {
    "gsm8k": Adapter("question", "answer", after_hashes),
    "math500": Adapter("problem", "answer", as_given, id="unique_id", details=("subject", "level")),
    "math": Adapter("problem", "solution", last_boxed, details=("type", "level")),
    "math_verl": Adapter(
        "reward_model.ground_truth.question",
        "reward_model.ground_truth.solution",
        last_boxed,
        details=("type", "level"),
    ),
    "aime": Adapter("problem", "answer", integer, id="id"),
    "aime_nemo": Adapter("problem", "expected_answer", integer, id="id"),
    "amc": Adapter("question", "answer", integer, id="id", details=("url",)),
    "minerva": Adapter("question", "answer", as_given, rewrite=without_program_notation),
    "minerva_solution": Adapter(
        "problem", "solution", last_boxed, details=("type",), rewrite=without_program_notation
    ),
    "olympiadbench": Adapter(
        "question",
        "final_answer",
        only_element,
        id="id",
        details=("subfield", "answer_type", "is_multiple_answer", "unit", "error"),
    ),
    "dapo": Adapter("prompt.0.content", "reward_model.ground_truth", integer, clean=without_dapo_prompt),
    "mmlu": Adapter("question", "answer", as_given, choices="choices", details=("subject",)),
    "numina_math_cot": Adapter("problem", "solution", last_boxed, details=("source",), skip=proofs),
}
"""Every known file layout by name; the table of data sets refers to these names."""


def _multiple_choice(choices: Any, answer: Any) -> tuple[tuple[str, ...], str]:
    """Return the choices, and the letter of the answer (an index from 0)."""
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26:
        raise BadRow("malformed_choices", f"wanted a list of 2 to 26 choices, found {choices!r:.80}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise BadRow(
            "malformed_answer", f"wanted an index below {len(choices)} into the choices, found {answer!r:.80}"
        )
    return tuple(_string(choice) for choice in choices), _letter(answer)


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _value(row: Any, path: str) -> Any:
    value = row
    for step in path.split("."):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            found = ", ".join(map(str, row)) if isinstance(row, Mapping) else repr(row)[:80]
            raise BadRow("missing_column", f"column {path!r} is missing; found {found}") from None
    return value


def _text(row: Mapping[str, Any], path: str) -> str:
    value = _value(row, path)
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"column {path!r}: wanted text, found {value!r:.80}")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"wanted text, found {value!r:.80}")
    return value


def _encodable(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair: JSON can hold it, UTF-8 cannot
        raise BadRow("not_utf8", f"column {path!r}: not UTF-8 text ({error.reason})") from None


def _storable(value: Any, path: str) -> None:
    """Raise BadRow for what JSON cannot hold: not a number, infinity, half a character, a date."""
    try:
        _encodable(json.dumps(value, ensure_ascii=False, allow_nan=False), path)
    except (TypeError, ValueError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow("not_json", f"column {path!r}: JSON cannot hold {value!r:.80} ({error})") from None
