r"""How each public source names its columns, and what its answers look like.

An ``Adapter`` turns one row of one file layout into a ``SourceProblem``. It raises ``BadRow`` for a row that is
broken and ``Skip`` for a sound row that has no place in the data set (a proof has no checkable answer).
"""

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from ead import verifier
from ead.verifier import MAX_ANSWER_CHARACTERS, check_gold
from reproduction.data.prompts import PROMPTS
from reproduction.data.schema import control_character

_ABSENT = object()


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
class SourceProblem:
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
        # A column's own name may have dots in it.
        return sorted({name for path in paths if path is not None for name in (path.split(".")[0], path)})

    def __call__(self, row: Mapping[str, Any]) -> SourceProblem:
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
        published, answer = answer, without_format_characters(answer).strip()
        if not answer:
            raise BadRow("empty_answer", f"column {self.answer!r} holds no answer")
        if reason := check_gold(answer):
            raise BadRow("answer_too_long", f"column {self.answer!r}: {reason}")
        for path, text in (
            (self.problem, problem),
            (self.answer, answer),
            *((self.choices, c) for c in choices),
        ):
            _encodable(text, path)
        if control := control_character(answer):
            raise BadRow(
                "control_character", f"column {self.answer!r}: holds the control character {control}"
            )
        identifier = None
        if self.id is not None:
            identifier = str(_value(row, self.id))
            _encodable(identifier, self.id)
        details = {path.split(".")[-1]: _value(row, path) for path in self.details}
        for path, value in zip(self.details, details.values(), strict=True):
            _storable(value, path)
        rewritten = self.rewrite(answer)
        return SourceProblem(
            text=problem,
            answer=rewritten,
            published_answer=None if rewritten == published else published,
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
        raise BadRow("malformed_answer", f"expected a list with one answer, found {answers!r:.80}")
    return as_given(answers[0])


def integer(answer: Any) -> str:
    """The column is an integer, perhaps written as 27.0 or 027, of any size."""
    whole = None
    if isinstance(answer, str):
        if written := re.fullmatch(r"([+-]?[0-9]+)(?:\.0*)?", without_format_characters(answer).strip()):
            whole = written[1]
    elif isinstance(answer, float) and answer.is_integer():
        if abs(answer) >= 2**53:
            raise BadRow(
                "digits_lost",
                f"the integer {answer!r:.80} is stored as a floating-point number, which has lost its last digits",
            )
        whole = int(answer)
    elif isinstance(answer, int) and not isinstance(answer, bool):
        whole = answer
    elif isinstance(answer, Decimal) and answer.is_finite() and answer == int(answer):
        whole = int(answer)
    if whole is None:
        raise BadRow("malformed_answer", f"expected an integer answer, found {answer!r:.80}{_remedy(answer)}")
    return str(int(whole)) if len(str(whole)) <= MAX_ANSWER_CHARACTERS else whole


def number(answer: Any) -> str:
    """The column is a number, or one as text: 0.5, 1e-3; the digits are those of the column."""
    if isinstance(answer, str):
        answer = without_format_characters(answer)
    if isinstance(answer, str) and re.fullmatch(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)", answer.strip()):
        return answer.strip()
    written = answer.strip() if isinstance(answer, str) else repr(answer)
    is_number = isinstance(answer, (int, float, Decimal)) and not isinstance(answer, bool)
    exact = None
    if is_number or (isinstance(answer, str) and re.fullmatch(r"[0-9.eE+-]+", written)):
        with contextlib.suppress(InvalidOperation):
            exact = answer if isinstance(answer, Decimal) else Decimal(written)
    if exact is None or not exact.is_finite() or abs(exact.adjusted()) > MAX_ANSWER_CHARACTERS:
        raise BadRow("malformed_answer", f"expected a number as the answer, found {answer!r:.80}")
    text = format(exact, "f")  # a grader need not know exponents
    return text.removesuffix(".0") if isinstance(answer, float) else text


def after_hashes(solution: Any) -> str:
    """GSM8K: the line after the last ``####`` of the solution, a number without thousands separators."""
    _, mark, answer = _string(solution).rpartition("####")
    if not mark:
        raise BadRow("no_answer", "the solution has no '####' line")
    line = answer.strip().partition("\n")[0].strip()
    # One number, perhaps with a currency before it or a unit after it; in a pair or a list commas part the numbers.
    one_number = re.fullmatch(r"[^\d,()\[\]{}]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,()\[\]{}]*", line)
    return line.replace(",", "") if one_number else line


def last_boxed(solution: Any) -> str:
    r"""MATH: the argument of the last ``\boxed`` (or ``\fbox``) of the solution, read as in responses.

    A reference solution must be whole, so a last box that does not close is a mistake, where a response's last box
    that does is taken.
    """
    solution = _string(solution)
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        raise BadRow("no_answer", r"the solution has no \boxed{}")
    last = solution[start:]
    # \boxed 5: TeX takes the next word, as far as the mathematics goes.
    if bare := re.match(r"\\(?:boxed|fbox)\s*(?!\s|\{)(?P<word>[^\s$]*)", last):
        return bare["word"]
    found = verifier.last_boxed(last)
    if found is None:
        raise BadRow("malformed_answer", r"the last \boxed{ of the solution is not closed")
    return found


TAKES: dict[str, Callable[[Any], str]] = {
    take.__name__: take for take in (as_given, integer, number, only_element, last_boxed, after_hashes)
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


def without_format_characters(answer: str) -> str:
    """Remove what nobody sees and no grader expects: marks of byte order, zero-width spaces, marks of direction."""
    return "".join(character for character in answer if unicodedata.category(character) != "Cf")


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
    "numina_math": Adapter("problem", "answer", as_given),
    "numina_math_cot": Adapter("problem", "solution", last_boxed, details=("source",), skip=proofs),
}
"""Every known file layout by name; the table of data sets refers to these names."""


def _multiple_choice(choices: Any, answer: Any) -> tuple[tuple[str, ...], str]:
    """Return the choices, and the letter of the answer (an index from 0)."""
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26:
        raise BadRow("malformed_choices", f"expected a list of 2 to 26 choices, found {choices!r:.80}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise BadRow(
            "malformed_answer",
            f"expected an index below {len(choices)} into the choices, found {answer!r:.80}",
        )
    return tuple(_string(choice) for choice in choices), _letter(answer)


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _value(row: Any, path: str) -> Any:
    """The value at a dotted path; a name with dots in it goes before a path through nested columns."""
    value, left = row, path
    while left:
        step = left
        if isinstance(value, list):
            step = left.split(".")[0]
            found = value[int(step)] if step.isdecimal() and int(step) < len(value) else _ABSENT
        else:
            while isinstance(value, Mapping) and step not in value and "." in step:
                step = step.rpartition(".")[0]
            found = value[step] if isinstance(value, Mapping) and step in value else _ABSENT
        if found is _ABSENT:
            above = path.removesuffix(left).removesuffix(".")
            there = ", ".join(map(repr, value)) if isinstance(value, Mapping) else repr(value)
            raise BadRow(
                "missing_column",
                f"column {path!r}: {left.split('.')[0]!r} is missing{f' in {above!r}' if above else ''}; "
                f"found {there[:200] or 'nothing'}",
            )
        value, left = found, left[len(step) + 1 :]
    return value


def _text(row: Mapping[str, Any], path: str) -> str:
    value = _value(row, path)
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"column {path!r}: expected text, found {value!r:.80}")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"expected text, found {value!r:.80}{_remedy(value)}")
    return value


def _remedy(value: Any) -> str:
    """What to do about a number where something else was wanted."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return ""
    return "; `take: integer` reads whole numbers, `take: number` any"


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
