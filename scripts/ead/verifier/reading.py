r"""Which text of a response is its answer, for the careful grader.

1. The last box. Boxes that belong together are joined: between them stands layout only, or a comma, "and" or "or"
   with at most three other words. A sentence, or a word like "no" or "then", makes the later box a correction, and so
   does "the final answer is 5" behind the last one. ``\boxed 17`` is a box. A last box that does not close is no
   answer, and no earlier one takes its place: the response was cut off, or went on thinking.
2. Without a box, what follows the last ``####``, or the last "answer is", "answer:", "answer =".
3. Else the last formula or number, whichever ends last.

2 and 3 look at the last MAX_TAIL_CHARACTERS only. Everything is linear in the length of the response.
"""

import re

from ead.verifier.text import last_boxed

MAX_TAIL_CHARACTERS = 1_000

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*\{?|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
_BARE_BOX = re.compile(r"\\[a-zA-Z]+(?:\{[^{}]*\})*|-?[^\s$\\{}]+")
_LAYOUT = re.compile(
    r"\\[,;:! ()\[\]\\]|\\q?quad|\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}|[\s$&~{}]+"  # \text{ and }: its words
)
_JOINING = re.compile(r"[,;，、和或与]|\b(?:and|or)\b")
_WORD = re.compile(r"[^\W\d_]{2,}")
_PARTING = frozenset(
    [
        "no",
        "not",
        "wrong",
        "wait",
        "actually",
        "rather",
        "instead",
        "correct",
        "correction",
        "check",
        "again",
        "mistake",
        "but",
        "so",
        "thus",
        "hence",
        "therefore",
        "then",
        "gives",
        "give",
        "giving",
        "get",
        "gets",
        "equals",
        "equal",
        "becomes",
        "is",
        "was",
        "were",
        "yields",
        "means",
        "since",
        "because",
        "if",
        "when",
        "simplifies",
    ]
)
_MAX_BETWEEN = 70
_MAX_WORDS = 3
_STATED = re.compile(
    r"(?:\banswer\b(?:\s+(?:to|of|for)\b[^.:\n]{0,80})?|答案)[\s*_]*(?:is|are|as|为|是|[:：=])+[\s*_]*[:：]?[\s*_]*",
    re.IGNORECASE,
)
_FINAL = re.compile(r"\bfinal answer\b(?:\s+is|\s*:)[\s*]*(?=[$\d\\-])", re.IGNORECASE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$((?:\\.|[^$\\])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AND_FORMULA = re.compile(r"\s*(?:,?\s*(?:and|or)|,)\s*(?=\$|\\\(|\\\[)")
_NUMBER = re.compile(
    r"(?<![\w.,\\])[-−–+]?[$€£¥]?(?:\d{1,3}(?: \d{3})+(?![\d/])|\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?(?:\s*\\?%)?"
)
_HOPE = re.compile(r"\s*I hope it is correct.*$", re.DOTALL)
_BARE_LATEX = re.compile(r"(?!.*[$])(?=.*\\[a-zA-Z])(?:\\[a-zA-Z]++|[^\\a-zA-Z]|[a-zA-Z](?![a-zA-Z]{2}))*+")
_WHOLE_SENTENCE_END = re.compile(r"\n|[.。!?](?=\s|$)")
_HEDGED = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|not|never|wrong|incorrect|either|neither)\b|\bone of\b", re.IGNORECASE
)
_ASIDE = re.compile(r"`|\(\s*or\b")
_INNER_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_SENTENCE_END = re.compile(rf"{_WHOLE_SENTENCE_END.pattern}|\s\(")


def read_answers(response: str) -> list[str]:
    """Return the texts that may be the answer of ``response``, most likely first; [] where it gives none.

    A box is one text. A sentence may be its whole rest or the formula or number in it: the first that is readable.
    """
    box = next(reversed(list(_BOX.finditer(response))), None)
    if box is not None:
        stated = next(reversed(list(_FINAL.finditer(response, box.end()))), None)
        if stated is None:
            boxed = joined_boxes(response)
            return [boxed] if boxed else []
        response = response[stated.start() :]
    tail = _HOPE.sub("", response[-MAX_TAIL_CHARACTERS:])
    _, hashes, after = tail.rpartition("####")
    if hashes and after.strip():
        return [after.strip().partition("\n")[0].strip()]
    stated = next(reversed(list(_STATED.finditer(tail))), None)
    if stated is not None and (rest := tail[stated.end() :].lstrip()):
        return _from_sentence(rest)
    if _BARE_LATEX.fullmatch(tail.strip()):
        return [tail.strip()]
    last = _last_value(tail)
    return [] if last is None else [last]


def has_box(response: str) -> bool:
    return _BOX.search(response) is not None


def joined_boxes(response: str) -> str | None:
    r"""Return the content of the last box, with those that belong to it before it; None where it does not close."""
    boxes = _boxes(response)
    if boxes is None or not boxes:
        return None
    start, _, content = boxes[-1]
    contents = {content: None}  # each once, in their order
    for start_before, end_before, content in reversed(boxes[:-1]):
        between = response[end_before:start]
        if not _belong_together(between):
            break
        contents.setdefault(content)
        start = start_before
    return ", ".join(reversed(contents))


def _belong_together(between: str) -> bool:
    """Return whether what stands between two boxes makes them one answer: layout, or "and" and a few words."""
    if len(between) > _MAX_BETWEEN:
        return False
    between = _LAYOUT.sub(lambda match: f" {match[1] or ''} ", between)
    if not between.strip():
        return True
    words = [word.lower() for word in _WORD.findall(between)]
    others = [word for word in words if word not in ("and", "or")]
    parted = re.search(r"[.!?:](?:\s|$)", between) or "->" in between
    return (
        not parted
        and bool(_JOINING.search(between))
        and len(others) <= _MAX_WORDS
        and not _PARTING & set(others)
    )


def _boxes(response: str) -> list[tuple[int, int, str]] | None:
    """Return (start, end, content) of the boxes, the outermost of nested ones; None if the last does not close."""
    # In place of a content in braces its start, until it is known which boxes are within another: else each would be
    # read once for every box around it.
    found: list[tuple[int, int, str | int]] = []
    openings: list[tuple[int, int] | None] = []  # (start, start of content) of a box, None for a brace
    for token in _BOX_OR_BRACE.finditer(response):
        text = token[0]
        if text in ("\\{", "\\}") or (text.startswith("\\") and not text.startswith(("\\b", "\\f"))):
            continue
        if text == "{":
            openings.append(None)
        elif text == "}":
            opening = openings.pop() if openings else None
            if opening is not None:
                start, begin = opening
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.end(), begin))
        elif text.endswith("{"):
            openings.append((token.start(), token.end()))
        else:
            bare = _BARE_BOX.match(response, token.end())
            if bare and (content := bare[0].rstrip(".,;:!?)")):
                found.append((token.start(), token.end() + len(content), content))
    open_boxes = [opening[0] for opening in openings if opening is not None]
    if open_boxes and (not found or max(open_boxes) > found[-1][0]):
        return None
    return [
        (
            start,
            end,
            content if isinstance(content, str) else _without_boxes(response[content : end - 1].strip()),
        )
        for start, end, content in found
    ]


def _without_boxes(content: str) -> str:
    """Return the content of a box without the boxes in it: all of it is the answer, not what an inner box holds."""
    inner = last_boxed(content)
    if inner is None:
        return content
    opening = _BOX.match(content)
    if opening and content[opening.end() :].strip()[1:-1].strip() == inner:
        return inner
    return _INNER_BOX.sub("", content)


def _from_sentence(rest: str) -> list[str]:
    whole = _WHOLE_SENTENCE_END.split(rest, maxsplit=1)[0].strip(" *`")
    words = set(re.findall(r"[a-z]{2,}", _FORMULA.sub("", whole).lower()))
    several = not re.search(r"[^\W\d_]", whole) and len(_NUMBER.findall(whole)) > 1
    if several or (_HEDGED.search(whole) and (words - {"or", "and"} or _ASIDE.search(whole))):
        return [whole]  # 5 or maybe 6; 3 4 5
    if formula := _FORMULA.match(rest):
        contents = [_content(formula)]
        while (joint := _AND_FORMULA.match(rest, formula.end())) and (
            following := _FORMULA.match(rest, joint.end())
        ):
            contents.append(_content(following))
            formula = following
        return [", ".join(contents)]
    if code := re.match(r"`+([^`\n]+)`+", rest):
        return [code[1].strip()]
    if bold := re.match(r"\*\*([^*\n]+)\*\*", rest):
        rest = bold[1]
    end = _SENTENCE_END.search(rest)
    sentence = (rest[: end.start()] if end else rest).strip(" *`")
    value = _last_value(sentence)
    found = [text for text in (sentence, value) if text]
    if value is not None and len(_WORD.findall(sentence)) >= _MAX_WORDS:
        found.reverse()  # The largest $n$ is 34
    return list(dict.fromkeys(found))


def _last_value(text: str) -> str | None:
    formula = next(reversed(list(_FORMULA.finditer(text))), None)
    number = next(reversed(list(_NUMBER.finditer(text, formula.end() if formula else 0))), None)
    if number is not None:
        return number[0].strip().rstrip(",")
    return None if formula is None else _content(formula)


def _content(formula: re.Match) -> str:
    return next(group for group in formula.groups() if group is not None).strip()
