r"""A parser for the notations in which answers are written: LaTeX, programs, Unicode, plain text.

``read(text)`` returns a tree of the nodes below, or raises ``Unreadable``. Nothing is evaluated here and no text is
run: the work is bounded by the length of the text (MAX_ANSWER_CHARACTERS) and by MAX_DEPTH.

Expressions: numbers (``1,000``, ``10\,000``, ``.5``, ``4.5e33``, ``4.5 \times 10^{33}``, ``0.\overline{3}``), mixed
numbers (``3 1/2``, ``3\frac12``), ``+ - * / ^ **``, juxtaposition, ``\frac``, ``\sqrt[n]{}``, functions in LaTeX and
in programs (``\arcsin x``, ``np.arcsin(x)``, ``exp(2)``), ``|x|``, floors, factorials, binomials, ``\pm``.
Answers: lists, sets, tuples, intervals and their unions, matrices, ``x = 5``, equations, inequalities, quantities
with a unit, words, numbers in another base.

A letter is a variable and never a unit; a unit stands in ``\text{}`` or ``\mathrm{}``, or is a word. Digits that a
space parts are one number if they are groups of three, a mixed number before a fraction, and else unreadable.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MAX_DEPTH = 40
MAX_FACTORS = 60


class Unreadable(ValueError):
    """The text is not in the grammar."""


@dataclass(frozen=True, slots=True)
class Number:
    """``digits * 10**exponent``; ``decimal`` where it was written with a point or a power of ten."""

    digits: int
    exponent: int = 0
    decimal: bool = False


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation or function and its operands: ``+ * / ^ -``, ``sqrt``, ``sin``, ``%``, ``degree``, ``pm``, ..."""

    name: str
    arguments: tuple


@dataclass(frozen=True, slots=True)
class Words:
    """Text, its words parted by one space each."""

    text: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with what stands behind it: a unit, a noun."""

    value: object
    unit: str


@dataclass(frozen=True, slots=True)
class Based:
    """A number written in another base, digits kept as text."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Group:
    """Several values. ``kind``: "list" (no brackets), "set", "union", ":" (ratio), or the brackets: "()", "[)", ..."""

    kind: str
    items: tuple


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple


@dataclass(frozen=True, slots=True)
class Relation:
    """``sides[0] operators[0] sides[1] ...`` with operators ``= ~ < <= > >= != in``; ``~`` is an approximation."""

    operators: tuple
    sides: tuple


# ------------------------------------------------------------------------------------------------ characters

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()", strict=True))
_VULGAR = {
    character: unicodedata.normalize("NFKC", character).split("\u2044") for character in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
}
_CHARACTERS = {
    **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
    **dict.fromkeys("×✕✖⨯", r" \times "),
    **dict.fromkeys("·⋅∙•∗＊", r" \cdot "),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("，、﹐", ","),
    **dict.fromkeys("；", ";"),
    **dict.fromkeys("∶", ":"),
    **dict.fromkeys("。．", "."),
    **dict.fromkeys("′ʹ＇’", "'"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\x00", ""),
    **dict.fromkeys("\u2009\u200a\u202f\u2006\u2005\u00a0\u3000", r"\,"),
    **dict.fromkeys("≤≦⩽", r" \le "),
    **dict.fromkeys("≥≧⩾", r" \ge "),
    **dict.fromkeys("√", r"\sqrt "),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    **dict.fromkeys("°º˚", r"^\circ "),
    "∛": r"\sqrt[3] ",
    "∜": r"\sqrt[4] ",
    "±": r" \pm ",
    "∓": r" \mp ",
    "≠": r" \ne ",
    **dict.fromkeys("≈∼≃≅", r" \approx "),
    "∞": r"\infty ",
    "∪": r" \cup ",
    "∩": r" \cap ",
    "∈": r" \in ",
    "ℝ": r"\mathbb{R}",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "％": "%",
    "㎡": r"\text{ m}^2",
    "㎥": r"\text{ m}^3",
    "㎠": r"\text{ cm}^2",
    "㎤": r"\text{ cm}^3",
    "℃": r"^\circ \text{C}",
    "℉": r"^\circ \text{F}",
    **dict.fromkeys("“”„«»「」『』", '"'),
    # Numbers of statements: ①② is not 12.
    **{chr(0x2460 + number): f" {number + 1} " for number in range(20)},
}
_GREEK = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
          "lambda", "mu", "nu", "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi",
          "chi", "psi", "omega"]  # fmt: skip
for _name in _GREEK:
    _small = unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if _name == 'lambda' else _name.upper()}")
    _CHARACTERS[_small] = rf"\{_name} "
    if _small.upper() not in _CHARACTERS:
        _CHARACTERS[_small.upper()] = rf"\{_name.capitalize()} "
_CHARACTERS["ϕ"], _CHARACTERS["ϵ"] = r"\phi ", r"\epsilon "
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_SCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+|[{''.join(_SUBSCRIPTS)}]+")


def _script(match: re.Match) -> str:
    run = match[0]
    if run[0] in _SUPERSCRIPTS:
        return "^{" + "".join(_SUPERSCRIPTS[c] for c in run) + "}"
    return "_{" + "".join(_SUBSCRIPTS[c] for c in run) + "}"


def in_latex(text: str) -> str:
    """Return ``text`` with the characters of other scripts and typesettings written as LaTeX writes them."""
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)  # LaTeX inside a JSON string
    if text.isascii():
        return text.replace("\x00", "")
    text = _SCRIPT_RUN.sub(_script, text)
    pieces = []
    for character in text:
        if character in _VULGAR:
            above, below = _VULGAR[character]
            pieces.append(rf"\frac{{{above}}}{{{below}}}")
        else:
            pieces.append(_CHARACTERS.get(character, character))
    return unicodedata.normalize("NFKC", "".join(pieces))


# ------------------------------------------------------------------------------------------------ tokens

_LIKE_LATEX = ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "ln",
               "log", "exp", "sqrt", "abs", "floor", "max", "min"]  # fmt: skip
_FUNCTIONS = {
    **{name: name for name in _LIKE_LATEX},
    **{
        f"arc{name}": f"a{name}"
        for name in ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"]
    },
    **{f"a{name}": f"a{name}" for name in ["sin", "cos", "tan", "sinh", "cosh", "tanh"]},
    "lg": "lg",
    "ceil": "ceil",
    "cbrt": "cbrt",
    "log2": "log2",
    "log10": "lg",
    "gcd": "gcd",
    "lcm": "lcm",
    "tg": "tan",
    "ctg": "cot",
    "arctg": "atan",
    "factorial": "factorial",
}
_OF_SEVERAL = ("max", "min", "gcd", "lcm")
_CONSTANTS = {"pi": "pi", "infinity": "oo", "infty": "oo", "inf": "oo", "oo": "oo", "Infinity": "oo"}
_WORD_UNITS = {"USD", "cm", "mm", "km", "kg", "mph", "kph", "kmh"}  # letters that nobody multiplies
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|phantom(?:\s*\{[^{}]*\})?"
    r"|hspace\s*\*?\s*\{[^{}]*\}|(?:text)?color\s*\{[^{}]*\}|label\s*\{[^{}]*\})(?![a-zA-Z])\.?|\\!\s*"
)
_TEXT_COMMANDS = ["text", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "mbox",
                  "hbox", "mathrm", "mathsf", "mathtt", "operatorname", "rm", "unit", "emph"]  # fmt: skip
_TOKEN = re.compile(
    r"(?P<thin>\\[,;:> ]|\\q?quad|~)"
    r"|(?P<text>\\(?:" + "|".join(_TEXT_COMMANDS) + r")\*?\s*\{)"
    r"|(?P<command>\\[a-zA-Z]+|\\.)"
    r"|(?P<number>(?:[0-9]+(?:\.(?![a-zA-Z.])[0-9]*)?|\.[0-9]+)"
    r"(?:[eE][+-]?[0-9]+(?![\w.]))?)"
    r"|(?P<clock>[aApP]\.\s?[mM](?![a-zA-Z])\.?)"
    r"|(?P<word>[^\W\d_\u2e80-\U0010ffff]+|[^\W\d_\x00-\u2e7f]+)"
    r"|(?P<space>\s+)"
    r"|(?P<operator>\*\*|<=|>=|!=|==|.)",
    re.DOTALL,
)
_CONNECTIVE = re.compile(r"[\s,;]*\b(?:and|or)\b[\s,;]*|\s*[,;和或与]\s*")
# What \text{B} and \text{(A, C)} hold.
_LETTERS = re.compile(r"[A-Za-z](?:\s*,\s*[A-Za-z])*|\([A-Za-z](?:\s*,\s*[A-Za-z])+\)")
_NOT_LATIN = re.compile(r"[^\x00-\u024f]")
_MAX_EXPONENT_DIGITS = 9


@dataclass(slots=True)
class Token:
    kind: str  # number, symbol, function, constant, words, operator, command, open, close
    value: object
    spaced: str = ""  # what stood before it: "", " " or a LaTeX space
    written: str = ""


def _is_value(token: Token) -> bool:
    return token.kind in ("number", "symbol", "constant") or token.value in (")", "}", "]")


def _number(text: str) -> Number:
    mantissa, mark, power = text.lower().partition("e")
    if len(power.lstrip("+-")) > _MAX_EXPONENT_DIGITS:
        raise Unreadable(f"the exponent of {text[:40]!r} is too long")
    whole, point, places = mantissa.partition(".")
    return Number(int(whole + places or "0"), (int(power) if mark else 0) - len(places), bool(point or mark))


def _braced(text: str, start: int) -> int:
    """Return the index of the brace that closes the one before ``start``; ``\\}`` closes nothing."""
    depth, at = 1, start
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise Unreadable("a brace is not closed")


def _split_letters(run: str) -> list[tuple[str, str]]:
    """Return a run of letters as functions, constants and single letters, or as one word."""
    if run in _FUNCTIONS:
        return [("function", _FUNCTIONS[run])]
    if run in _CONSTANTS:
        return [("constant", _CONSTANTS[run])]
    if run in _WORD_UNITS or run.lower() in ("am", "pm", "pct") or _NOT_LATIN.search(run):
        return [("words", run)]
    pieces, letters, at = [], 0, 0
    while at < len(run):
        name = next((run[at : at + n] for n in (7, 6, 5, 4, 3, 2) if _known(run[at : at + n], n)), None)
        if name is None:
            pieces.append(("symbol", run[at]))
            letters += 1
            at += 1
        else:
            pieces.append(
                ("function", _FUNCTIONS[name]) if name in _FUNCTIONS else ("constant", _CONSTANTS[name])
            )
            at += len(name)
    if letters >= 4 or (len(pieces) > letters and letters > 2):
        return [("words", run)]
    return pieces


def _known(name: str, length: int) -> bool:
    return len(name) == length and (name in _FUNCTIONS and name not in ("max", "min", "abs") or name == "pi")


def tokenise(text: str) -> list[Token]:
    """Return the tokens of ``text``, which ``in_latex`` has seen."""
    text = _LAYOUT.sub("", text)
    tokens: list[Token] = []
    spaced, at = "", 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        at, kind, value = match.end(), match.lastgroup, match[0]
        found: list[Token] = []
        if kind == "thin":
            spaced = value
        elif kind == "text":
            end = _braced(text, at)
            inner, at = text[at:end].strip(), end + 1
            if inner.strip("~ "):
                found = _of_text(re.match(r"\\([a-z]+)", value)[1], inner, tokens[-1] if tokens else None)
            else:
                spaced = spaced or " "
        elif kind == "number":
            found = [Token("number", _number(value), written=value)]
        elif kind == "clock":
            found = [Token("words", "pm" if value[0] in "pP" else "am")]
        elif kind == "word":
            if library := _LIBRARY.match(text, match.start()):
                at = library.end()
            elif value.lower() in _CONJUNCTIONS:
                found = [Token("operator", ",")]
            else:
                found = [Token(kind_, piece, written=value) for kind_, piece in _split_letters(value)]
        elif kind == "command":
            found = _of_command(value[1:])
        elif kind == "space" or value == "$":
            # "$" delimits mathematics or is a currency sign: neither is a value.
            spaced = spaced or " "
        elif value != "`":
            found = [Token("operator", {"**": "^", "==": "="}.get(value, value))]
        if found:
            found[0].spaced = found[0].spaced or spaced
            spaced = ""
            tokens += found
    return tokens


def _of_text(name: str, inner: str, before: Token | None) -> list[Token]:
    """Return the tokens of ``\\name{inner}`` behind the token ``before``."""
    if _CONNECTIVE.fullmatch(inner):
        return [Token("operator", ",")]
    if name == "operatorname" and inner in _FUNCTIONS:
        return [Token("function", _FUNCTIONS[inner])]
    unit = before is not None and _is_value(before) and not (name == "mathrm" and inner in ("e", "i", "d"))
    if _LETTERS.fullmatch(inner) and not unit:
        pieces = re.findall(r"[A-Za-z,]", inner)
        return [Token("operator" if piece == "," else "symbol", piece) for piece in pieces]
    if re.search(r"[0-9]", inner) or not re.search(r"[^\W\d_]", inner):
        return tokenise(inner)  # \text{5 cm}, \mathrm{10}
    words = " ".join(inner.replace("~", " ").replace("\\ ", " ").split())
    return [Token("words", words, written="text")]


def _of_command(name: str) -> list[Token]:
    if name in _FUNCTIONS:
        return [Token("function", _FUNCTIONS[name])]
    if name in _CONSTANTS:
        return [Token("constant", _CONSTANTS[name])]
    if name in _SAME:
        return [Token("operator", _SAME[name])]
    return [] if name in _WITHOUT_MEANING else [Token("command", name)]


_LIBRARY = re.compile(r"(?:np|numpy|math|sympy|cmath)\.")
_CONJUNCTIONS = ("and", "or", "和", "或", "与", "及")
_WITHOUT_MEANING = {"mathbf", "mathit", "boldsymbol", "bm", "mathcal", "mathnormal", "ensuremath", "bf", "it",
                    "(", ")", "[", "]", "\n", "displaystyle", "nonumber", "par", "hline"}  # fmt: skip
_SAME = {
    **dict.fromkeys(("cdot", "times", "ast", "cdotp", "bullet"), "*"),
    **dict.fromkeys(("div", "slash"), "/"),
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), "<="),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), ">="),
    **dict.fromkeys(("ne", "neq"), "!="),
    **dict.fromkeys(("equiv", "doteq", "cong"), "="),
    **dict.fromkeys(("approx", "simeq", "sim"), "~"),
    **dict.fromkeys(("lt",), "<"),
    **dict.fromkeys(("gt",), ">"),
    **dict.fromkeys(("vert", "lvert", "rvert", "mid"), "|"),
    **dict.fromkeys(("cup", "bigcup"), "cup"),
    **dict.fromkeys(("in",), "in"),
    **dict.fromkeys(("pm",), "+-"),
    **dict.fromkeys(("mp",), "-+"),
    **dict.fromkeys(("lbrack",), "["),
    **dict.fromkeys(("rbrack",), "]"),
    **dict.fromkeys(("lparen",), "("),
    **dict.fromkeys(("rparen",), ")"),
    **dict.fromkeys(("land", "lor", "wedge", "vee"), ","),
    **dict.fromkeys(("$", "dollar"), "$"),
    **dict.fromkeys(("{", "lbrace"), "\\{"),
    **dict.fromkeys(("}", "rbrace"), "\\}"),
    "%": "%",
    "degree": "degree",
    "langle": "<|",
    "rangle": "|>",
}
_RELATIONS = {"=", "~", "<", ">", "<=", ">=", "!=", "in"}
_ACCENTS = ["overline", "bar", "hat", "vec", "dot", "ddot", "tilde", "widehat", "widetilde",
            "overrightarrow", "underline", "mathbb", "mathfrak", "mathscr"]  # fmt: skip
_NAMES = {*_GREEK, *(name.capitalize() for name in _GREEK), "ell", "hbar", "partial", "nabla", "Re", "Im",
          "imath", "jmath", "varphi", "vartheta", "varepsilon", "varrho", "varsigma", "prime", "aleph", "triangle",
          "angle"}  # fmt: skip
_SYNONYMS = {
    "varphi": "phi",
    "vartheta": "theta",
    "varepsilon": "epsilon",
    "varrho": "rho",
    "varsigma": "sigma",
}


_REALS = Group("()", (Apply("-", (Symbol("oo"),)), Symbol("oo")))
_ALL_REALS = re.compile(r"(?:the set of |all )+real numbers|all reals", re.IGNORECASE)
_NO_SOLUTION = re.compile(r"no (?:real )?solutions?", re.IGNORECASE)
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
               "百": 2, "千": 3, "万": 4, "百万": 6, "千万": 7, "亿": 8, "万亿": 12}  # fmt: skip
_MAGNITUDE = re.compile(
    r"(hundred|thousand|million|billion|trillion)(?![a-z])\s*|(万亿|百万|千万|万|亿|百|千(?![克米瓦卡]))"
)


# ------------------------------------------------------------------------------------------------ the parser


def read(text: str):
    """Return the tree of ``text``. Raises Unreadable."""
    text = text.strip(" \t\n\r`*")
    if (found := _phrase(text)) is not None:
        return found
    text = in_latex(text)
    while len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return _Parser(tokenise(text)).answer()


def _phrase(text: str) -> Group | None:
    if _ALL_REALS.fullmatch(text):
        return _REALS
    return Group("set", ()) if _NO_SOLUTION.fullmatch(text) else None


def _opens(token: Token) -> bool:
    return token.kind == "operator" and token.value in ("(", "[", "{", "\\{", "<|")


class _Parser:
    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0  # open |
        self.brackets_open = 0

    def peek(self, ahead: int = 0) -> Token | None:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else None

    def is_operator(self, *values: str, ahead: int = 0) -> bool:
        token = self.peek(ahead)
        return token is not None and token.kind == "operator" and token.value in values

    def is_command(self, *names: str) -> bool:
        token = self.peek()
        return token is not None and token.kind == "command" and token.value in names

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise Unreadable("the text ends too early")
        self.at += 1
        return token

    def expect(self, *values: str) -> str:
        if not self.is_operator(*values):
            raise Unreadable(f"expected {' or '.join(values)}")
        return self.take().value

    # answers: lists of relations of unions of expressions

    def answer(self):
        if [token.value for token in self.tokens[-2:]] == [".", "."]:
            raise Unreadable("digits are left out")
        while (
            self.tokens
            and self.tokens[-1].kind == "operator"
            and self.tokens[-1].value in (".", ",", ";", ":", "!!")
            or self.tokens
            and self.tokens[-1].kind == "command"
            and self.tokens[-1].value == "\\"
        ):
            self.tokens.pop()
        while self.is_operator(":"):
            self.take()
        if not self.tokens:
            raise Unreadable("nothing is written")
        parts = [self.items((";",))]
        while self.is_operator(";"):
            self.take()
            parts.append(self.items((";",)))
        if self.peek() is not None:
            raise Unreadable(f"unexpected {self.peek().value!r}")
        lists = [found[0] if len(found) == 1 else Group("list", tuple(found)) for found in parts if found]
        return lists[0] if len(lists) == 1 else Group("list", tuple(lists))

    def items(self, closers: tuple[str, ...]) -> list:
        found = []
        while not self.is_operator(*closers) and self.peek() is not None:
            found.append(self.relation())
            if self.is_operator(",") or (self.is_operator(";") and ";" not in closers):
                while self.is_operator(",") or (self.is_operator(";") and ";" not in closers):
                    self.take()
            else:
                break
        return found

    def relation(self):
        while self.is_operator("=", "~"):  # \\approx 8.24
            self.take()
        sides, operators = [self.ratio()], []
        while self.is_operator(*_RELATIONS):
            operators.append(self.take().value)
            sides.append(self.ratio())
        return Relation(tuple(operators), tuple(sides)) if operators else sides[0]

    def ratio(self):
        parts = [self.union()]
        while self.is_operator(":"):
            self.take()
            parts.append(self.union())
        return parts[0] if len(parts) == 1 else Group(":", tuple(parts))

    def union(self):
        parts = [self.quantity()]
        while self.is_operator("cup"):
            self.take()
            parts.append(self.quantity())
        if len(parts) > 1 and all(isinstance(part, Group) and part.kind == "set" for part in parts):
            return Group("set", tuple(item for part in parts for item in part.items))
        return parts[0] if len(parts) == 1 else Group("union", tuple(parts))

    def quantity(self):
        """An expression and the words behind it."""
        currency = ""
        sign = self.is_operator("-") and self.is_operator("$", ahead=1)
        if sign:
            self.take()
        if self.is_operator("$", "€", "£", "¥", "₹"):
            currency = self.take().value
        token = self.peek()
        if token is not None and token.kind == "words":
            return self.words()
        value = self.sum()
        if sign:
            value = Apply("-", (value,))
        unit = []
        while (token := self.peek()) is not None and (
            token.kind in ("words",)
            or (token.kind == "function" and token.value in ("min", "sec") and token.written)
            or (unit and self.is_operator("^", "/", ".", "*", "'", "(", ")"))
            or (unit and token.kind == "number" and unit[-1].kind == "operator")
            or (unit and token.kind == "symbol" and "for" in str(unit[0].value).split())  # for all real x
            or self.is_operator("€", "£", "¥", "₹", "$")
        ):
            unit.append(self.take())
            if unit[-1].value == "^" and self.is_operator("{"):  # s^{-1}
                while not self.is_operator("}"):
                    unit.append(self.take())
                unit.append(self.take())
        if self.is_operator("."):
            self.take()
        if not unit and not currency:
            return _temperature(value)
        if len(unit) == 1 and str(unit[0].value).lower() in ("percent", "percentage", "pct"):
            return Apply("%", (value,))
        written = " ".join(str(t.written if t.kind == "number" else t.value) for t in unit)
        while magnitude := _MAGNITUDE.match(written):  # 5 million dollars
            written = written[magnitude.end() :].strip()
            value = Apply("*", (value, Number(10 ** _MAGNITUDES[magnitude[1] or magnitude[2]])))
        if written or currency:
            return _quantity(value, " ".join(part for part in (currency, written) if part))
        return value

    def words(self):
        parts = []
        while (token := self.peek()) is not None and not (
            token.kind == "operator" and token.value in ("cup", "|", "\\}", ")", "]", "}")
        ):
            if parts and self.is_operator(",", ";", *_RELATIONS):
                break
            if token.kind == "command":
                raise Unreadable(f"\\{token.value} among words")
            parts.append(str(token.written if token.written not in ("", "text") else token.value))
            self.at += 1
        text = " ".join(" ".join(parts).split())
        found = _phrase(text)
        return Words(text) if found is None else found

    # expressions

    def nested(self, parse):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        found = parse()
        self.depth -= 1
        return found

    def sum(self):
        return self.nested(self._sum)

    def _sum(self):
        negative = False
        signed = None
        if self.is_operator("+-", "-+"):
            signed = self.take().value
        while self.is_operator("+", "-"):
            negative ^= self.take().value == "-"
        first = self.product()
        if signed:
            first = Apply("pm" if signed == "+-" else "mp", (first,))
        terms = [Apply("-", (first,)) if negative else first]
        while self.is_operator("+", "-", "+-", "-+"):
            operator = self.take().value
            negative = operator == "-"
            while self.is_operator("+", "-"):
                negative ^= self.take().value == "-"
            term = self.product()
            if operator in ("+-", "-+"):
                term = Apply("pm" if operator == "+-" else "mp", (term,))
            terms.append(Apply("-", (term,)) if negative else term)
        return terms[0] if len(terms) == 1 else Apply("+", tuple(terms))

    def product(self):
        value = self.power()
        for _ in range(MAX_FACTORS):
            token = self.peek()
            if self.is_operator("*", "/"):
                operator = self.take().value
                negative = False
                while self.is_operator("-", "+"):
                    negative ^= self.take().value == "-"
                factor = self.power()
                if negative:
                    factor = Apply("-", (factor,))
                value = Apply("/", (value, factor)) if operator == "/" else _times(value, factor)
            elif token is not None and self.starts_factor(token):
                before = self.tokens[self.at - 1]
                if token.kind == "number" and before.kind in ("number",):
                    raise Unreadable("numbers side by side")
                if (
                    token.kind == "number"
                    and before.kind == "operator"
                    and before.value not in (")", "]", "\\}")
                ):
                    raise Unreadable("a number behind an operator")
                factor = self.power()
                mixed = _mixed(value, factor)
                if factor == Number(0) and isinstance(value, Symbol):  # I(0) is no product
                    value = Symbol(f"{value.name}(0)")
                else:
                    value = mixed if mixed is not None else Apply("*", (value, factor))
            else:
                return value
        raise Unreadable(f"more than {MAX_FACTORS} factors")

    def starts_factor(self, token: Token) -> bool:
        if token.kind in ("number", "symbol", "constant"):
            return True
        if token.kind == "function":
            following = self.peek(1)
            return following is not None and not (token.written in ("min", "sec") and not _opens(following))
        if token.kind == "command":
            return token.value in ("frac", "dfrac", "tfrac", "cfrac", "binom", "dbinom", "tbinom", "lfloor", "lceil",
                                   *_ACCENTS, *_NAMES)  # fmt: skip
        return token.value in ("(", "[", "{") or (token.value == "|" and self.bars == 0)

    def power(self):
        base = self.nested(self.primary)
        for _ in range(MAX_FACTORS):
            if self.is_operator("!") and not self.is_operator("!", ahead=1):
                self.take()
                base = Apply("factorial", (base,))
            elif self.is_operator("%"):
                self.take()
                base = Apply("%", (base,))
            elif self.is_operator("degree"):
                self.take()
                base = Apply("degree", (base,))
            elif self.is_operator("'"):
                if not isinstance(base, Symbol):
                    raise Unreadable("a prime behind no name")
                self.take()
                base = Symbol(base.name + "'")
            elif self.is_operator("_"):
                self.take()
                base = self.subscript(base)
            elif self.is_operator("^"):
                self.take()
                if self.degree_sign():
                    base = Apply("degree", (base,))
                elif self.is_command("prime"):
                    self.take()
                    base = Symbol(getattr(base, "name", "") + "'")
                else:
                    return Apply("^", (base, self.exponent()))
            else:
                return base
        raise Unreadable("too many signs behind a value")

    def degree_sign(self) -> bool:
        if self.is_command("circ"):
            self.take()
            return True
        braced = self.is_operator("{") and (inner := self.peek(1)) is not None and inner.value == "circ"
        if braced and self.is_operator("}", ahead=2):
            self.at += 3
            return True
        return False

    def exponent(self):
        if self.is_operator("{"):
            return self.braces()
        negative = False
        while self.is_operator("-", "+"):
            negative ^= self.take().value == "-"
        value = self.nested(self.power)
        return Apply("-", (value,)) if negative else value

    def braces(self):
        """The argument of a command or an exponent: what braces hold."""
        self.expect("{")
        bars, self.bars = self.bars, 0
        value = self.sum()
        self.bars = bars
        self.expect("}")
        return value

    def argument(self):
        """One argument of ``\\frac`` and the like: braces, one digit, one symbol or a command."""
        if self.is_operator("{"):
            return self.braces()
        token = self.peek()
        if token is not None and token.kind == "number":
            digits = token.written
            if not digits.isdigit():
                raise Unreadable(f"an argument without braces: {digits!r}")
            if len(digits) > 1:  # \frac12
                self.tokens[self.at] = Token("number", _number(digits[1:]), "", digits[1:])
            else:
                self.take()
            return Number(int(digits[0]))
        return self.nested(self.primary)

    def subscript(self, base):
        if self.is_operator("{"):
            start = self.at
            depth = 0
            while True:
                token = self.take()
                depth += (token.kind == "operator") * {"{": 1, "}": -1}.get(token.value, 0)
                if depth == 0:
                    break
            inside = self.tokens[start + 1 : self.at - 1]
        else:
            inside = [self.take()]
        name = "".join(str(t.written if t.kind == "number" else t.value) for t in inside)
        if isinstance(base, Words):
            return self.in_base(base.text, name)
        if isinstance(base, Symbol):
            return Symbol(f"{base.name}_{name}")
        raise Unreadable("a subscript behind no name")

    def in_base(self, digits: str, base: str) -> Based:
        base = base.rstrip(".").removeprefix("\\text")
        if not base.isdigit() or not 2 <= int(base) <= 36:
            raise Unreadable("a subscript behind a number")
        return Based(digits.lstrip("0") or "0", int(base))

    def primary(self):
        token = self.take()
        if token.kind == "number":
            if self.is_operator("_"):
                self.take()
                return self.subscript(Words(token.written))
            return self.number(token)
        if token.kind == "symbol":
            return Symbol(token.value)
        if token.kind == "constant":
            return Symbol(token.value)
        if token.kind == "function":
            return self.function(token.value)
        if token.kind == "words":
            return Symbol(token.value)
        if token.kind == "command":
            return self.command(token.value)
        if token.value in ("(", "["):
            return self.brackets(token.value)
        if token.value == "{":
            bars, self.bars = self.bars, 0
            found = self.nested(lambda: self.items(("}",)))
            self.bars = bars
            if self.is_command("choose") and len(found) == 1:
                self.take()
                found = [Apply("binomial", (found[0], self.relation()))]
            self.expect("}")
            if not found:
                raise Unreadable("empty braces")
            return found[0] if len(found) == 1 else Group("list", tuple(found))
        if token.value == "\\{":
            name = self.peek()
            built = name is not None and name.kind == "symbol" and self.is_operator("|", ":", ahead=1)
            self.at += 2 * built  # {x | x > 3}
            found = self.inside(("\\}",))
            self.expect("\\}")
            if built:
                if len(found) != 1 or not isinstance(found[0], Relation):
                    raise Unreadable("a set by several conditions")
                return found[0]
            return Group("set", tuple(found))
        if token.value == "<|":
            found = self.inside(("|>",))
            self.expect("|>")
            return Group("()", tuple(found))
        if token.value == "|":
            self.bars += 1
            value = self.sum()
            self.bars -= 1
            self.expect("|")
            return Apply("abs", (value,))
        if token.value == "+-":
            return Apply("pm", (self.power(),))
        if token.value == "-":
            return Apply("-", (self.power(),))
        raise Unreadable(f"unexpected {token.value!r}")

    def inside(self, closers: tuple[str, ...]) -> list:
        bars, self.bars = self.bars, 0
        self.brackets_open += 1
        found = self.nested(lambda: self.items(closers))
        self.brackets_open -= 1
        self.bars = bars
        return found

    def brackets(self, opening: str):
        found = self.inside((")", "]"))
        closing = self.expect(")", "]")
        if len(found) == 1 and opening == "(" and closing == ")" and not isinstance(found[0], Relation):
            return found[0] if not isinstance(found[0], Quantity) else found[0].value
        if (
            len(found) == 1
            and opening == "["
            and closing == "]"
            and not isinstance(found[0], Relation | Quantity)
        ):
            return found[0]
        if len(found) < 2 and found and isinstance(found[0], Relation):
            return found[0]
        return Group(opening + closing, tuple(found))

    def number(self, token: Token) -> object:
        """A number and the groups of three digits that belong to it; a repeating decimal; a mixed number."""
        value: Number = token.value
        if token.written.isdigit() and len(token.written) <= 3 and token.written[0] != "0":
            groups, at = [], self.at
            kind = None
            while (found := self._digit_group(at, kind)) is not None:
                kind, following, at = found
                groups.append(following)
            if groups:
                self.at = at
                last = groups[-1]
                value = _number(token.written + "".join(groups))
                return Number(value.digits, value.exponent, "." in last)
        if self.is_command("overline", "bar") and "." in token.written and not self.peek().spaced:
            if "e" in token.written.lower():
                raise Unreadable("digits that repeat behind a power of ten")
            self.take()
            repeated = self.braced_digits()
            places = -value.exponent
            head = Fraction(value.digits, 10**places)
            tail = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10**places)
            total = head + tail
            return Apply("/", (Number(total.numerator), Number(total.denominator)))
        following = self.peek()
        if (
            token.written.isdigit()
            and following is not None
            and following.kind == "number"
            and following.spaced
            and following.written.isdigit()
            and self.is_operator("/", ahead=1)
            and (below := self.peek(2)) is not None
            and below.kind == "number"
            and below.written.isdigit()
            and 0 < following.value.digits < below.value.digits
        ):  # 3 1/2
            self.at += 3
            fraction = Apply("/", (following.value, below.value))
            return Apply("mixed", (value, fraction))
        return value

    def _digit_group(self, at: int, kind: str | None) -> tuple[str, str, int] | None:
        """Return (separator, three digits, index behind them) if a group of a number follows at ``at``."""
        tokens = self.tokens
        if at >= len(tokens):
            return None
        token, separator = tokens[at], None
        if token.kind == "number" and token.spaced:
            separator, after = "space", at
        elif token.kind == "operator" and token.value == "," and at + 1 < len(tokens):
            after = at + 1
            if token.spaced or tokens[after].spaced or self.brackets_open:
                return None  # (100,101) is a pair
            separator = ","
        elif (
            at + 3 < len(tokens)
            and [t.value for t in tokens[at : at + 3] if t.kind == "operator"] == ["{", ",", "}"]
            and tokens[at + 3].kind == "number"
        ):
            separator, after = "{,}", at + 3
        else:
            return None
        group = tokens[after]
        if group.kind != "number" or (kind is not None and separator != kind):
            return None
        whole = group.written.partition(".")[0]
        if len(whole) != 3 or "e" in group.written.lower():
            return None
        if (
            separator == "space"
            and after + 1 < len(tokens)
            and tokens[after + 1].value == "/"
            and kind is None
        ):
            return None  # 3 100/200
        return separator, group.written, after + 1

    def braced_digits(self) -> str:
        self.expect("{")
        token = self.take()
        self.expect("}")
        if token.kind != "number" or not token.written.isdigit():
            raise Unreadable("what repeats is no number")
        return token.written

    def function(self, name: str):
        power = base = None
        while self.is_operator("^", "_") or (name == "sqrt" and self.is_operator("[")):
            mark = self.take().value
            if mark == "[":
                base = self.sum()
                self.expect("]")
            elif mark == "^":
                power = self.exponent()
            else:
                base = self.braces() if self.is_operator("{") else self.nested(self.primary)
        if self.is_operator("("):
            self.take()
            arguments = self.inside((")",))
            self.expect(")")
            if not arguments:
                raise Unreadable(f"{name} of nothing")
        elif name in ("sqrt", "cbrt"):
            arguments = [self.argument_of_root()]
        elif self.is_operator("{"):
            arguments = [self.braces()]
        else:
            arguments = [self.nested(self._function_argument)]
        if any(isinstance(a, Relation | Group | Words) for a in arguments):
            raise Unreadable(f"{name} of no number")
        if name == "log" and base is None and len(arguments) == 2:
            base = arguments.pop()  # log(8, 2) of programs
        if base == Number(0) or (len(arguments) > 1 and name not in _OF_SEVERAL):
            # It has no value: it is read, and equal to itself alone.
            return Symbol(f"{name}{power}{base}{tuple(arguments)}")
        if name == "sqrt" and base is not None:
            value = Apply("root", (arguments[0], base))
        elif name in ("log", "ln") and base is not None:
            value = Apply("/", (Apply("ln", (arguments[0],)), Apply("ln", (base,))))
        elif base is not None:
            raise Unreadable(f"a subscript of {name}")
        else:
            value = Apply("ln" if name == "log" else name, tuple(arguments))
        if power is None:
            return value
        if power == Apply("-", (Number(1),)) and name in (
            "sin",
            "cos",
            "tan",
            "cot",
            "sec",
            "csc",
            "sinh",
            "cosh",
            "tanh",
        ):
            return Apply("a" + name, value.arguments)
        return Apply("^", (value, power))

    def argument_of_root(self):
        if self.is_operator("{"):
            return self.braces()
        token = self.peek()
        if (
            token is not None
            and token.kind == "number"
            and token.written.isdigit()
            and len(token.written) > 1
            and not token.spaced
        ):
            return self.argument()  # \sqrt12 is the root of 1, times 2
        return self.nested(self.primary)

    def _function_argument(self):
        """``\\sin 2\\pi x``: factors side by side, up to an operator or another function."""
        negative = self.is_operator("-")
        if negative:
            self.take()
        value = self.power()
        while (token := self.peek()) is not None and (
            token.kind in ("number", "symbol", "constant")
            or (token.kind == "command" and token.value in ("frac", "dfrac", "tfrac", *_NAMES))
        ):
            if token.kind == "number":
                raise Unreadable("numbers side by side")
            value = Apply("*", (value, self.power()))
        while self.is_operator("/") and (token := self.peek(1)) is not None and token.kind == "number":
            self.take()
            value = Apply("/", (value, self.power()))
        return Apply("-", (value,)) if negative else value

    def command(self, name: str):
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above = self.argument()
            return Apply("/", (above, self.argument()))
        if name in ("binom", "dbinom", "tbinom"):
            above = self.argument()
            return Apply("binomial", (above, self.argument()))
        if name in ("lfloor", "lceil"):
            value = self.sum()
            if not self.is_command("rfloor" if name == "lfloor" else "rceil"):
                raise Unreadable(f"\\{name} is not closed")
            self.take()
            return Apply("floor" if name == "lfloor" else "ceil", (value,))
        if name in ("emptyset", "varnothing"):
            return Group("set", ())
        if name == "begin":
            return self.matrix()
        if name in _ACCENTS:
            inside = self.braces() if self.is_operator("{") else self.nested(self.primary)
            if name == "underline":
                return inside
            if name == "mathbb" and inside == Symbol("R"):
                return _REALS
            written = _names(inside)
            return Symbol(f"{name}({written})")
        if name in _NAMES:
            return Symbol(_SYNONYMS.get(name, name))
        raise Unreadable(f"\\{name}")

    def matrix(self):
        environment = []
        self.expect("{")
        while not self.is_operator("}"):
            environment.append(str(self.take().value))
        self.take()
        name = "".join(environment)
        if name not in ("pmatrix", "bmatrix", "matrix", "vmatrix", "array", "Bmatrix", "smallmatrix"):
            raise Unreadable(f"the environment {name[:20]!r}")
        if name == "array" and self.is_operator("{"):
            while not self.is_operator("}"):
                self.take()
            self.take()
        rows, row = [], []
        while not self.is_command("end"):
            row.append(self.nested(self.relation))
            if self.is_operator("&"):
                self.take()
            elif self.is_command("\\"):
                self.take()
                rows.append(tuple(row))
                row = []
            elif not self.is_command("end"):
                raise Unreadable("a cell of a matrix goes on")
        if row:
            rows.append(tuple(row))
        self.take()
        self.expect("{")
        while not self.is_operator("}"):
            self.take()
        self.take()
        return Apply("det", (Matrix(tuple(rows)),)) if name == "vmatrix" else Matrix(tuple(rows))


def _names(tree) -> str:
    if isinstance(tree, Symbol):
        return tree.name
    if isinstance(tree, Number) and not tree.decimal:
        return str(tree.digits)
    if isinstance(tree, Apply) and tree.name == "*":
        return "".join(_names(part) for part in tree.arguments)
    raise Unreadable("an accent on no name")


def _temperature(value):
    """Return 30 degrees times C, as it was read, as a quantity."""
    if isinstance(value, Apply) and value.name == "-":
        inside = _temperature(value.arguments[0])
        return Quantity(Apply("-", (inside.value,)), inside.unit) if isinstance(inside, Quantity) else value
    if isinstance(value, Apply) and value.name == "*":
        number, scale = value.arguments
        if isinstance(number, Apply) and number.name == "degree" and scale in (Symbol("C"), Symbol("F")):
            return _quantity(number, scale.name)
    return value


def _quantity(value, unit: str) -> Quantity:
    if isinstance(value, Apply) and value.name == "degree":
        return Quantity(value.arguments[0], f"degree {unit}")
    return Quantity(value, unit)


def _times(left, right):
    """A product; a number times a power of ten is one number."""
    if (
        isinstance(left, Number)
        and isinstance(right, Apply)
        and right.name == "^"
        and right.arguments[0] == Number(10)
    ):
        power = right.arguments[1]
        sign = 1
        if isinstance(power, Apply) and power.name == "-":
            sign, power = -1, power.arguments[0]
        if (
            isinstance(power, Number)
            and not power.decimal
            and power.exponent == 0
            and len(str(power.digits)) <= _MAX_EXPONENT_DIGITS
        ):
            return Number(left.digits, left.exponent + sign * power.digits, True)
    return Apply("*", (left, right))


def _mixed(whole, fraction):
    """Return 3 + 1/2 for ``3\\frac{1}{2}``, or None where it is a product."""
    if not (
        isinstance(whole, Number)
        and not whole.decimal
        and isinstance(fraction, Apply)
        and fraction.name == "/"
    ):
        return None
    above, below = fraction.arguments
    whole_numbers = all(isinstance(part, Number) and not part.decimal for part in (above, below))
    return Apply("mixed", (whole, fraction)) if whole_numbers and 0 < above.digits < below.digits else None
