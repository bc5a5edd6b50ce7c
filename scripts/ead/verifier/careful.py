"""The careful grader: ``equality`` of what ``notation`` reads, and a comparison of texts where it reads nothing."""

import re
from dataclasses import dataclass
from functools import lru_cache

from ead.verifier import equality
from ead.verifier.notation import Group, Number, Unreadable, read
from ead.verifier.text import MAX_ANSWER_CHARACTERS, normalise

_LISTABLE = re.compile(r"-?[1-9][0-9]{0,2}(?:,[1-9][0-9]{2})+")
_BEYOND = re.compile(
    r"\\begin|\\(?:int|sum|prod|lim|setminus|cap|bigcap|forall|exists|bmod|pmod|det|iint|oint|infty)(?![a-zA-Z])"
)
_LETTERED = re.compile(r"\(?([A-Z])[).:](?:\s|$)")
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
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
        found.append(Group("list", tuple(Number(int(part)) for part in text.replace("-", "").split(","))))
    return tuple(found)


def readable(text: str) -> bool:
    return _trees(text) is not None


def decide(gold: str, answer: str, *, exact: bool) -> Decision:
    """Compare two texts. With ``exact`` raises NeedsNumerics or NeedsAlgebra for what takes a process."""
    if gold == answer:
        return Decision(True, None)
    if "." in gold and _DECIMAL_COMMA.fullmatch(answer):  # 2,74 where the gold answer has a point
        answer = answer.replace(",", ".")
    golds, answers = _trees(gold), _trees(answer)
    try:
        if golds is not None and answers is not None:
            if any(equality.equal(one, other, exact=exact) for one in golds for other in answers):
                return Decision(True, None)
            if not _LETTERED.match(answer):
                return Decision(False, vote(answer, exact=exact))
    except (Unreadable, RecursionError):
        golds = None  # a value out of reach
    if same_text(gold, answer):
        return Decision(True, None)
    if golds is None and _BEYOND.search(gold):  # a response cannot ask for algebra, only a gold answer can
        raise NeedsAlgebra
    return Decision(False, vote(answer, exact=exact))


def same_text(gold: str, answer: str) -> bool:
    """Compare what no notation fits: white space, the commands for text and, in words, capitals do not count."""
    one, other = plain_text(gold), plain_text(answer)
    if one == other or (len(one) > 3 and one.lower() == other.lower()):
        return True
    lettered = _LETTERED.match(other)
    return lettered is not None and re.fullmatch(r"\(?[A-Z]\)?", one) is not None and lettered[1] in one


def plain_text(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    return _SPACES.sub(" ", normalise(text) if "\\" in text else text).strip(" `*.$")


def vote(answer: str, *, exact: bool = False) -> str:
    """Return one text for all answers that are equal to ``answer``."""
    trees = _trees(answer)
    if trees is not None:
        try:
            return equality.canonical(trees[0], exact=exact)
        except (Unreadable, RecursionError):
            pass
    return normalise(answer)
