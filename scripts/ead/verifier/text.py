"""Answer texts: the last box of a response, the string-match normal form, integer arithmetic.

Everything here runs in the calling process on text a model wrote, so every function is linear in the length
of its input and none of them evaluates code.
"""

import re

MAX_ANSWER_CHARACTERS = 1_000
"""Longest answer that is graded (the longest gold of MATH, GSM8K, OlympiadBench and Minerva has 210)."""

MAX_ARITHMETIC_CHARACTERS = 200
MAX_ARITHMETIC_DEPTH = 8

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# A backslash escapes a brace or another backslash, but `\\boxed` (a box inside a JSON string) is still a box.
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced ``\boxed{...}`` (or ``\fbox{...}``) of ``text``, stripped.

    The last box is the one that opens last among those that close, so the inner one of two nested boxes, and
    the previous one where the text ends inside a box. None where no box closes; ``""`` for an empty box.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    if opening := _BOX.match(text, start):
        depth = 1
        for token in _BOX_OR_BRACE.finditer(text, opening.end()):
            if token[0] == "{":
                depth += 1
            elif token[0] == "}":
                depth -= 1
                if depth == 0:
                    return text[opening.end() : token.start()].strip()
    # The last box does not close: one pass with a stack over the whole text finds the last one that does.
    best: tuple[int, int] | None = None
    openings: list[int | None] = []
    for token in _BOX_OR_BRACE.finditer(text):
        if token[0] == "{":
            openings.append(None)
        elif token[0] == "}":
            begin = openings.pop() if openings else None
            if begin is not None and (best is None or begin > best[0]):
                best = begin, token.start()
        elif token[0].endswith("{") and token[0] != "\\{":
            openings.append(token.end())
    return None if best is None else text[slice(*best)].strip()


_REMOVED = re.compile(
    r"\\[!,;: ]|~"  # LaTeX spaces
    r"|\\(?:left|right|displaystyle)(?![a-zA-Z])"
    r"|\\?[$%]"  # currency and percent signs
    r"|\^(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"  # degrees
)
_SPACE = re.compile(r"\s+")
_WHOLE_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")
_TRAILING_TEXT = re.compile(r"(?<=.)\\(?:text|mathrm|mbox)\{[^{}]*\}$", re.DOTALL)
_FRACTION_NAME = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BARE_FRACTION = re.compile(r"\\frac(?:(\d)|\{([^{}]*)\})(?:(\d)|\{([^{}]*)\})")
_BARE_ROOT = re.compile(r"\\sqrt(\w)")
_SLASH_FRACTION = re.compile(r"(-?\d+)/(\d+)")
_ASSIGNMENT = re.compile(r"[^=]{1,2}=([^=]+)")
_LEADING_POINT = re.compile(r"(?:^|(?<=[{(,=+\-*/]))\.(?=\d)")


def normalise(answer: str) -> str:
    r"""Return the form in which ``method="string_match"`` compares answers (D09; in the style of MATH's grader).

    In order: LaTeX spaces, ``\left``/``\right``/``\displaystyle``, ``$``, ``%`` (escaped or not) and degree signs
    are removed; an answer that is one ``\text{...}`` becomes its content, a trailing ``\text{...}`` (a unit) is
    removed; white space and a final full stop are removed; ``\dfrac``, ``\tfrac``, ``\cfrac`` become ``\frac``;
    ``x=5`` with at most two characters before the only ``=`` becomes ``5``; ``\frac12`` becomes ``\frac{1}{2}``,
    ``\sqrt2`` ``\sqrt{2}``, ``3/4`` ``\frac{3}{4}``, ``.5`` ``0.5``, and a whole ``0.5`` ``\frac{1}{2}``. Nothing
    else is equal: ``1,000`` and ``1000``, or ``0.25`` and ``1/4``, differ.
    """
    text = _REMOVED.sub("", answer).strip()
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = whole[1]
    text = _TRAILING_TEXT.sub("", text)
    text = _SPACE.sub("", text).removesuffix(".")
    text = _FRACTION_NAME.sub(r"\\frac", text)
    if assignment := _ASSIGNMENT.fullmatch(text):
        text = assignment[1]
    text = _BARE_FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    if fraction := _SLASH_FRACTION.fullmatch(text):
        text = rf"\frac{{{fraction[1]}}}{{{fraction[2]}}}"
    text = _LEADING_POINT.sub("0.", text)
    return r"\frac{1}{2}" if text == "0.5" else text


# U+2212 is the minus sign, U+00D7 the multiplication sign, U+2217 the asterisk operator.
_ARITHMETIC = re.compile(r"[ \t\n]*(?:([0-9]+)|([-+*()\u2212\u00d7\u2217])|(\\(?:times|cdot)(?![a-zA-Z])))")
_TIMES = {"*", "\u00d7", "\u2217"}
_MINUS = {"-", "\u2212"}


def evaluate_arithmetic(text: str) -> int | None:
    r"""Return the value of an integer expression, or None where ``text`` is outside the grammar.

    Grammar: non-negative integers in ASCII digits (leading zeros allowed); binary and unary ``+`` and ``-`` (also
    U+2212); ``*``, ``\times``, ``\cdot``, U+00D7, U+2217; parentheses; spaces, tabs and newlines between tokens.
    Outside it are juxtaposition (``6 7``, ``2(3)``), division, powers, ``=``, and texts longer than
    MAX_ARITHMETIC_CHARACTERS or nested deeper than MAX_ARITHMETIC_DEPTH. Inside it math-verify 0.9 finds the same
    value (tests/unit/test_verifier.py).
    """
    if len(text) > MAX_ARITHMETIC_CHARACTERS:
        return None
    text = text.rstrip(" \t\n")
    outer: list[tuple[int, int, int]] = []  # state around each open parenthesis
    total, product, sign = 0, 1, 1  # finished terms, factors of the open term, sign of the next factor
    operand_next = True
    position = 0
    while position < len(text):
        token = _ARITHMETIC.match(text, position)
        if token is None:
            return None
        position = token.end()
        number, symbol, command = token.groups()
        if operand_next:
            if number:
                product *= sign * int(number)
                operand_next = False
            elif symbol == "(":
                if len(outer) == MAX_ARITHMETIC_DEPTH:
                    return None
                outer.append((total, product, sign))
                total, product, sign = 0, 1, 1
            elif symbol == "+":
                pass
            elif symbol in _MINUS:
                sign = -sign
            else:
                return None
        elif symbol == "+" or symbol in _MINUS:
            total, product, sign = total + product, 1, -1 if symbol in _MINUS else 1
            operand_next = True
        elif command or symbol in _TIMES:
            sign = 1
            operand_next = True
        elif symbol == ")" and outer:
            value = total + product
            total, product, sign = outer.pop()
            product *= sign * value
        else:
            return None
    return None if operand_next or outer else total + product


_INTEGER_PREFIX = re.compile(r"[ \t\n]*(?:[a-zA-Z][ \t\n]*=[ \t\n]*)?(?:\\?\$)?")


def read_integer(answer: str) -> int | None:
    r"""Return the integer an answer states, or None: ``evaluate_arithmetic`` after ``x =`` and a currency sign.

    ``x`` is any ASCII letter. math-verify reads such an answer as the same integer where the gold answer is no
    equation.
    """
    return evaluate_arithmetic(answer[_INTEGER_PREFIX.match(answer).end() :])
