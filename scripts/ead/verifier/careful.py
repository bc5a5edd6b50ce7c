"""The careful grader: ``equality`` of what ``notation`` reads, and a comparison of texts where it reads nothing."""

import re
from dataclasses import dataclass
from functools import lru_cache

from ead.verifier import equality
from ead.verifier.notation import Apply, Group, Number, Unreadable, read
from ead.verifier.text import MAX_ANSWER_CHARACTERS, normalise

_LISTABLE = re.compile(r"-?[1-9][0-9]{0,2}(?:,[1-9][0-9]{2})+")
_BEYOND = re.compile(
    r"\\begin|\\(?:int|sum|prod|lim|setminus|cap|bigcap|forall|exists|bmod|pmod|det|iint|oint|infty)(?![a-zA-Z])"
)
_LETTERED = re.compile(r"(?i:(?:option|choice)\s+)?\(?([A-Z])(?:[).:](?:\s+(?=\S)|$)|$)")
_DIGITS = re.compile(r"[0-9]+")
_CAPITAL = re.compile(r"[A-Z]")
_LETTER = re.compile(r"\(?[A-Z]\)?")
# Behind a choice: another letter, or a word that takes the choice back.
_ANOTHER = re.compile(
    r"(?<![A-Za-z])[A-Z]\)|^and\b|(?:^|and|or|[,/&;])\s*\(?[A-Z](?![A-Za-z])"
    r"|(?<![A-Za-z\\])[A-J](?:(?![A-Za-z])|[A-J])|\b(?:not|but|perhaps|maybe|either|neither|or)\b"
)
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,(?![0-9]{3}$)[0-9]+")  # 2,500 is a whole number
_SPACES = re.compile(r"\s+|\\[,;:! ]|~")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox|textit|textrm)\s*\{([^{}]*)\}")


class NeedsAlgebra(Exception):
    """Only a computer algebra system can compare these: sums, integrals, limits, differences of sets."""


@dataclass(frozen=True, slots=True)
class Decision:
    correct: bool
    canonical: str | None  # what a wrong answer votes for


@lru_cache(maxsize=8192)
def _trees(text: str) -> tuple | None:
    """Return the readings of a text: one, or two for 70,110, which may be a number or a list. None: unreadable."""
    try:
        if len(text) > MAX_ANSWER_CHARACTERS:
            return None
        found = [read(text)]
    except (Unreadable, RecursionError):
        return None
    if _LISTABLE.fullmatch(text):
        first, *others = (Number(int(part)) for part in text.removeprefix("-").split(","))
        found.append(Group("list", (Apply("-", (first,)) if text[0] == "-" else first, *others)))
    return tuple(found)


def readable(text: str) -> bool:
    return _trees(text) is not None or _choice(text) is not None


def _choice(text: str) -> tuple[str, str] | None:
    """Return the letter and what stands behind it in ``B) 12``, ``option B``."""
    if not _CAPITAL.search(text, 0, 40):
        return None
    text = without_text(text)
    lettered = _LETTERED.match(text)
    return None if lettered is None else (lettered[1], text[lettered.end() :])


def decide(gold: str, answer: str, *, exact: bool) -> Decision:
    """Compare two texts. With ``exact`` raises NeedsNumerics or NeedsAlgebra for what takes a process."""
    if gold == answer:
        return Decision(True, None)
    if (choice := _choice(answer)) is not None:
        letter, rest = choice
        if _LETTER.fullmatch(without_text(gold)):  # B) 12, option B
            correct = letter in without_text(gold) and not _ANOTHER.search(rest)
            return Decision(correct, None if correct else vote(answer, exact=exact))
        if rest and decide(gold, rest, exact=exact).correct:
            return Decision(True, None)
    if "." in gold and _DECIMAL_COMMA.fullmatch(answer):  # 2,74 where the gold answer has a point
        answer = answer.replace(",", ".")
    golds, answers = _trees(gold), _trees(answer)
    try:
        if golds is not None and answers is not None:
            equal = any(equality.equal(one, other, exact=exact) for one in golds for other in answers)
            return Decision(equal, None if equal else vote(answer, exact=exact))
    except (Unreadable, RecursionError):
        golds = None  # a value out of reach
    if same_text(gold, answer):
        return Decision(True, None)
    if golds is None and _BEYOND.search(gold):  # a response cannot ask for algebra, only a gold answer can
        raise NeedsAlgebra
    return Decision(False, vote(answer, exact=exact))


def same_text(gold: str, answer: str) -> bool:
    """Compare what no notation fits: white space, the commands for text and, in words, capitals do not count."""
    if _DIGITS.findall(without_text(gold)) != _DIGITS.findall(without_text(answer)):  # 5\, 6 is not 56
        return False
    one, other = plain_text(gold), plain_text(answer)
    return one == other or (len(one) > 3 and one.lower() == other.lower())


def without_text(text: str) -> str:
    return _SPACES.sub(" ", _TEXT.sub(r"\1", text)).strip(" `*$").removesuffix(".")


def plain_text(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    return _SPACES.sub(" ", normalise(text) if "\\" in text else text).strip(" `*$").removesuffix(".")


def vote(answer: str, *, exact: bool = False) -> str:
    """Return one text for all answers that are equal to ``answer``."""
    trees = _trees(answer)
    if trees is not None:
        try:
            return equality.canonical(trees[0], exact=exact)
        except (Unreadable, RecursionError):
            pass
    return normalise(answer)
