"""Which answers are equal: trees of ``ead.verifier.notation``, compared by value.

- Exact numbers (integers, fractions, and finite decimals among themselves) are equal if they are the same rational.
- A decimal equals a number that it is the rounding of, to the digits shown, if the two differ by at most
  RELATIVE_PRECISION of their size: 0.333333 is 1/3, 0.3333 is not, whatever the number's magnitude. A number written
  without a point is never a rounding. Sixteen digits of binary arithmetic may differ in the last ones.
- A whole number is never rounded: 1e9 is not 1000000007. Integers too long to write out are compared modulo primes.
- Other expressions are equal if their values are, to 100 of 200 digits: of the numbers, or of the functions at six
  points, as far as both are real there. Two different analytic functions agree at no such point.
- Percent, degrees, units and labels (``x =``) count only where both sides have them; 50% is 50 and 0.5.

``equal(..., exact=True)`` raises NeedsNumerics instead of evaluating functions, for callers that have no time limit.
"""

import random
import re
from fractions import Fraction
from itertools import pairwise
from math import comb, factorial, gcd, lcm

import mpmath

from ead.verifier.notation import (
    Apply,
    Based,
    Group,
    Matrix,
    Number,
    Quantity,
    Relation,
    Symbol,
    Unreadable,
    Words,
)

RELATIVE_PRECISION = Fraction(1, 10**6)
_BINARY_NOISE = Fraction(1, 10**12)
_MAX_BITS = 20_000
_MAX_PRINTED_BITS = 4_000  # Python prints no decimal of more than 4,300 digits
_MAX_POWER = 10**9
_MAX_ITEMS = 60
_CONSTANTS = {"pi", "e", "i", "oo"}

_COARSE, _FINE = mpmath.MPContext(), mpmath.MPContext()
_COARSE.dps, _FINE.dps = 60, 200


class NeedsNumerics(Exception):
    """Functions have to be evaluated, which takes a process that can be stopped."""


def equal(gold, answer, *, exact: bool = False) -> bool:
    """Return whether two trees are equal. Raises Unreadable where a value is out of reach, NeedsNumerics."""
    return _Comparison(exact).same(gold, answer)


# ------------------------------------------------------------------------------------------------ simplification


def _expand_signs(tree) -> list:
    """Return the two trees that a plus-or-minus sign stands for, else the tree."""
    if not _contains(tree, ("pm", "mp")):
        return [tree]
    return [_with_sign(tree, plus) for plus in (True, False)]


def _contains(tree, names: tuple[str, ...]) -> bool:
    if isinstance(tree, Apply):
        return tree.name in names or any(_contains(part, names) for part in tree.arguments)
    if isinstance(tree, Quantity):
        return _contains(tree.value, names)
    if isinstance(tree, Relation):
        return any(_contains(side, names) for side in tree.sides)
    return False


def _with_sign(tree, plus: bool):
    if isinstance(tree, Apply):
        parts = tuple(_with_sign(part, plus) for part in tree.arguments)
        if tree.name in ("pm", "mp"):
            return parts[0] if plus == (tree.name == "pm") else Apply("-", parts)
        return Apply(tree.name, parts)
    if isinstance(tree, Quantity):
        return Quantity(_with_sign(tree.value, plus), tree.unit)
    if isinstance(tree, Relation):
        return Relation(tree.operators, tuple(_with_sign(side, plus) for side in tree.sides))
    return tree


_FUNCTION_NAMES = frozenset("fghpqFGHPQST")


def _label(tree) -> str | None:
    """Return the name that a side of an equation is, or None: x, a_n, f(x), f^{-1}(x), AB."""
    if isinstance(tree, Symbol):
        return None if tree.name in ("pi", "oo") else tree.name
    if isinstance(tree, Words):
        return None if _qualified(tree.text) else tree.text
    if isinstance(tree, Quantity):
        head = _label(tree.value)
        return None if head is None else f"{head} {tree.unit}"
    if isinstance(tree, Apply) and tree.name == "*" and isinstance(tree.arguments[1], Number):  # f(2)
        head, at = tree.arguments
        named = isinstance(head, Symbol) and head.name in _FUNCTION_NAMES and not at.decimal
        return f"{head.name}({at.digits})" if named and not at.exponent else None
    if isinstance(tree, Apply) and tree.name in ("*", "/", "abs"):
        parts = [_label(part) for part in tree.arguments]
        return None if None in parts else {"*": "", "/": "/", "abs": "|"}[tree.name].join([*parts, ""])
    if isinstance(tree, Group) and tree.kind == ":":
        parts = [_label(part) for part in tree.items]
        return None if None in parts else ":".join(parts)
    if isinstance(tree, Apply) and tree.name == "^" and tree.arguments[1] == Apply("-", (Number(1),)):
        head = _label(tree.arguments[0])
        return None if head is None else f"{head}^-1"
    if isinstance(tree, Group) and tree.kind == "()" and all(isinstance(item, Symbol) for item in tree.items):
        return "(" + ",".join(item.name for item in tree.items) + ")"
    return None


def _symbols(tree) -> set[str]:
    if isinstance(tree, Symbol):
        return set() if tree.name in _CONSTANTS else {tree.name}
    if isinstance(tree, Apply):
        return set().union(*map(_symbols, tree.arguments))
    return set()


_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_MINUS_INFINITY, _INFINITY = Apply("-", (Symbol("oo"),)), Symbol("oo")


def _interval(relation: Relation):
    """Return (variable, interval) for ``a < x <= b``, ``x > a``, ``a < x``; None for other relations."""
    operators, sides = relation.operators, relation.sides
    if not all(operator in _FLIPPED for operator in operators):
        return None
    if len({operator[0] for operator in operators}) != 1:
        return None
    if operators[0][0] == ">":
        operators, sides = tuple(_FLIPPED[o] for o in reversed(operators)), tuple(reversed(sides))
    places = [i for i, side in enumerate(sides) if _symbols(side) and _label(side) is not None]
    if len(places) != 1 or len(sides) > 3:
        return None
    at = places[0]
    others = [_symbols(_bare(side)) for i, side in enumerate(sides) if i != at]
    if (len(sides) == 3 and at != 1) or any(names & _symbols(sides[at]) for names in others):
        return None
    low, high = (
        (sides[at - 1] if at else _MINUS_INFINITY),
        (sides[at + 1] if at + 1 < len(sides) else _INFINITY),
    )
    opening = "[" if at and operators[at - 1] == "<=" else "("
    closing = "]" if at + 1 < len(sides) and operators[at] == "<=" else ")"
    return _label(sides[at]), Group(opening + closing, (low, high))


def _plain(tree, exact: bool):
    """Return (label or None, value) of one answer."""
    if isinstance(tree, Quantity) and isinstance(tree.value, Relation):
        return _plain(tree.value, exact)
    if not isinstance(tree, Relation):
        return None, tree
    if "~" in tree.operators:  # what is approximated counts, or what a name is approximately
        at = tree.operators.index("~")
        if at == 0 and len(tree.operators) == 1 and _label(tree.sides[0]) is not None:
            return _label(tree.sides[0]), tree.sides[1]
        kept = Relation(tree.operators[:at], tree.sides[: at + 1])
        return _plain(kept if at else tree.sides[0], exact)
    if all(operator == "=" for operator in tree.operators):
        label = _label(tree.sides[0])
        sides = tree.sides if label is None else tree.sides[1:]
        known = [
            side
            for side in sides
            if not isinstance(side, Group | Words | Matrix | Based) and not _symbols(_bare(side))
        ]
        comparison = _Comparison(exact)
        consistent = all(comparison.same(left, right) for left, right in pairwise(known))
        if consistent and (label is not None or len(known) == len(sides)):
            return label, tree.sides[-1]
    if tree.operators == ("in",) and (label := _label(tree.sides[0])) is not None:
        return label, tree.sides[1]
    if found := _interval(tree):
        return found
    return None, tree


def _bare(tree):
    return tree.value if isinstance(tree, Quantity) else tree


def _spread(tree) -> list:
    """Return the items of an answer: those of a list, and both of a plus-or-minus sign."""
    items = tree.items if isinstance(tree, Group) and tree.kind == "list" else (tree,)
    found = [piece for item in items for piece in _expand_signs(item)]
    if len(found) > _MAX_ITEMS:
        raise Unreadable(f"more than {_MAX_ITEMS} values")
    return found


# ------------------------------------------------------------------------------------------------ units and words

_UNITS = {
    name: canonical
    for canonical, names in {
        "m": "m meter metre 米", "cm": "cm centimeter centimetre 厘米", "mm": "mm millimeter millimetre 毫米",
        "km": "km kilometer kilometre 千米 公里", "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard",
        "mi": "mile", "s": "s sec second 秒", "min": "min minute 分钟", "h": "h hr hour 小时", "day": "day 天 日",
        "week": "week 周", "month": "month 月", "year": "year yr 年", "g": "g gm gram 克",
        "kg": "kg kilogram 千克 公斤",
        "mg": "mg milligram", "lb": "lb pound", "oz": "oz ounce", "l": "l L liter litre 升",
        "ml": "ml milliliter millilitre 毫升", "$": "$ dollar usd 美元", "cent": "cent 美分", "euro": "euro € 欧元",
        "£": "£ gbp 英镑", "¥": "¥ yen yuan 元", "newton": "newton N", "joule": "joule J", "watt": "watt W",
        "volt": "volt V", "kelvin": "kelvin K", "hz": "hz hertz", "pa": "pa pascal", "ev": "ev", "mol": "mol mole",
        "degree": "degree deg 度", "radian": "radian rad 弧度", "am": "am", "pm": "pm", "unit": "unit 单位",
        "celsius": "celsius C 摄氏度", "fahrenheit": "fahrenheit F 华氏度", "mile / h": "mph",
        "km / h": "kph kmh",
    }.items()
    for name in names.split()
}  # fmt: skip
_POWERS = {"square": 2, "squared": 2, "sq": 2, "平方": 2, "cubic": 3, "cubed": 3, "cu": 3, "立方": 3}
_FILLERS = {"of", "the", "a", "an", "个"}
# Behind a value these change what is said: 5 or more, 5 at least, 5 is wrong, 5 if x is even, 5 hundredths.
_QUALIFIERS = {
    *(
        "not",
        "no",
        "wrong",
        "incorrect",
        "than",
        "least",
        "most",
        "except",
        "or",
        "if",
        "unless",
        "when",
        "below",
    ),
    *("minus", "half", "halves", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    *("hundredth", "thousandth", "millionth", "hundred", "thousand", "million", "billion", "trillion"),
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "twentieth"),
    *(
        "thirtieth",
        "fortieth",
        "fiftieth",
        "sixtieth",
        "quadrillion",
        "quintillion",
        "dozen",
        "score",
        "gross",
    ),
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty"),
    *("forty", "fifty", "sixty", "seventy", "eighty", "ninety", "double", "triple", "twice", "thrice"),
    *(
        "square",
        "squared",
        "cubed",
        "cubic",
        "factorial",
        "pi",
        "root",
        "sqrt",
        "ln",
        "log",
        "exp",
        "sin",
        "cos",
    ),
    *("tan", "over", "divided", "plus", "times", "mod", "modulo", "base", "power", "infinity", "percent"),
    *("false", "isn", "aren", "never", "maybe", "perhaps", "possibly", "either", "neither", "nor", "but"),
    *("alternatively", "versus", "vs", "rather", "instead", "approximately", "negative"),
}
# Spellings that lose their last letter as plurals do.
_QUALIFIERS |= {word.removesuffix("s") for word in _QUALIFIERS if len(word) > 3}
_CHANGING_LETTERS = frozenset("eiπ")
_UNIT_WORD = re.compile(r"平方|立方|[^\W\d_]+|[0-9]*\.?[0-9]+|[$€£¥₹/-]")


def _unit(text: str) -> tuple[dict[str, int], set[str]]:
    """Return the powers of the known units in ``text``, and its other words."""
    powers: dict[str, int] = {}
    others: set[str] = set()
    sign, power, last, given, minus = 1, 1, None, 1, False
    text = re.sub(r"(?<=[A-Za-z])\.", "", text)  # sq. ft.
    words = [piece for word in _UNIT_WORD.findall(text) for piece in _UNITS.get(word, word).split()]
    for word in words:
        lower = word.lower()
        single = lower.removesuffix("s") if len(lower) > 2 else lower
        name = _UNITS.get(word) or (len(word) > 1 and (_UNITS.get(lower) or _UNITS.get(single)))
        if word in ("/", "每") or lower == "per":
            sign = -1
        elif last is not None and (word.isdigit() or lower in ("squared", "cubed")):
            exponent = int(word) if word.isdigit() else _POWERS[lower]
            powers[last] += given * (-exponent if minus else exponent) - given
        elif lower in _POWERS:
            power = _POWERS[lower]
        elif name:
            last, given = name, sign * power
            powers[name] = powers.get(name, 0) + given
            sign = power = 1
        elif word != "-" and lower not in _FILLERS:
            others.add(single if len(word) > 3 else word)
        minus = word == "-"
    if power != 1:  # squared, and no unit behind it
        others.add("squared")
    return powers, others


def _units_agree(one: str, other: str) -> bool:
    """Return whether two units are the same, or one says no more than the other: triangles, right triangles."""
    (powers, words), (other_powers, other_words) = _unit(one), _unit(other)
    if (words ^ other_words) & (_QUALIFIERS | _CHANGING_LETTERS):
        return False
    known, other_known = set(powers.items()), set(other_powers.items())
    if powers and other_powers and not words and not other_words and "degree" not in {*powers, *other_powers}:
        return known == other_known
    if {w for w in words ^ other_words if w.isdigit()}:
        return False
    every, other_every = known | words, other_known | other_words
    return every <= other_every or other_every <= every


def _qualified(unit: str) -> bool:
    return bool(_unit(unit)[1] & (_QUALIFIERS | _CHANGING_LETTERS))


def _letters(tree) -> str | None:
    """Return the text of words, or of letters side by side."""
    if isinstance(tree, Words):
        return "".join(c for c in tree.text if c.isalnum() or c in "+-'")
    if isinstance(tree, Symbol):
        return tree.name
    if isinstance(tree, Apply) and tree.name == "*":
        parts = [_letters(part) for part in tree.arguments]
        return None if None in parts else "".join(parts)
    return None


# ------------------------------------------------------------------------------------------------ numbers


def fraction(tree) -> Fraction | None:
    """Return the value of an expression of rational numbers, or None where it is none or would be long."""
    if isinstance(tree, Number):
        if abs(tree.exponent) > 1_000:
            return None
        return Fraction(tree.digits) * Fraction(10) ** tree.exponent
    if not isinstance(tree, Apply):
        return None
    values = []
    for part in tree.arguments:
        value = fraction(part)
        if value is None:
            return None
        values.append(value)
    result = _rational(tree.name, values)
    if result is not None and result.numerator.bit_length() + result.denominator.bit_length() > _MAX_BITS:
        return None
    return result


def _rational(name: str, values: list[Fraction]) -> Fraction | None:
    first = values[0]
    whole = all(value.denominator == 1 for value in values)
    if name == "-":
        return -first
    if name in ("+", "mixed"):
        return sum(values)
    if name == "*":
        return values[0] * values[1]
    if name == "/":
        if values[1] == 0:
            raise Unreadable("a division by zero")
        return first / values[1]
    if name == "^":
        power = values[1]
        if power.denominator != 1 or abs(power) > _MAX_BITS:
            return None
        size = first.numerator.bit_length() + first.denominator.bit_length()
        if size * abs(power) > _MAX_BITS or (first == 0 and power <= 0):
            return None
        return first ** int(power)
    if name == "abs":
        return abs(first)
    if name == "floor":
        return Fraction(first.__floor__())
    if name == "ceil":
        return Fraction(first.__ceil__())
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name == "factorial" and whole and 0 <= first <= 500:
        return Fraction(factorial(int(first)))
    if name == "binomial" and whole and 0 <= values[1] <= first <= 1_000:
        return Fraction(comb(int(first), int(values[1])))
    if name in ("gcd", "lcm") and whole:
        return Fraction((gcd if name == "gcd" else lcm)(*map(int, values)))
    return None


_PRIMES = (2**61 - 1, 2**89 - 1)
_MAX_RESIDUE_STEPS = 10**5


def _residue(tree, prime: int) -> int | None:
    """Return a rational number modulo ``prime``, or None for what is not certainly one."""
    value = fraction(tree)
    if value is not None:
        if value.denominator % prime == 0:
            return None
        return value.numerator * pow(value.denominator, -1, prime) % prime
    if isinstance(tree, Number):
        power = pow(10, abs(tree.exponent), prime)
        return tree.digits * (power if tree.exponent >= 0 else pow(power, -1, prime)) % prime
    if not isinstance(tree, Apply):
        return None
    if tree.name in ("^", "factorial", "binomial"):
        return _residue_of_large(tree, prime)
    if tree.name not in ("-", "+", "*", "/"):
        return None
    parts = [_residue(part, prime) for part in tree.arguments]
    if None in parts or (tree.name == "/" and parts[1] == 0):
        return None
    if tree.name == "-":
        return -parts[0] % prime
    if tree.name == "+":
        return sum(parts) % prime
    return parts[0] * (parts[1] if tree.name == "*" else pow(parts[1], -1, prime)) % prime


def _residue_of_large(tree, prime: int) -> int | None:
    if tree.name == "^":
        base, power = _residue(tree.arguments[0], prime), fraction(tree.arguments[1])
        if base is None or power is None or power.denominator != 1 or (base == 0 and power <= 0):
            return None
        return pow(base, int(power), prime)
    sizes = [fraction(part) for part in tree.arguments]
    if any(size is None or size.denominator != 1 or not 0 <= size <= _MAX_RESIDUE_STEPS for size in sizes):
        return None
    if tree.name == "binomial":
        return comb(*map(int, sizes)) % prime
    product = 1
    for number in range(2, int(sizes[0]) + 1):
        product = product * number % prime
    return product


def _written_decimal(tree) -> tuple[Number, int] | None:
    """Return (number, sign) if the tree is one number that was written as a decimal."""
    sign = 1
    while isinstance(tree, Apply) and tree.name == "-":
        tree, sign = tree.arguments[0], -sign
    return (tree, sign) if isinstance(tree, Number) and tree.decimal else None


def _is_rounding(decimal: Number, value: Fraction, exact: Fraction) -> bool:
    difference = abs(value - exact)
    if difference > RELATIVE_PRECISION * abs(exact):
        return False
    if difference * 2 <= Fraction(10) ** decimal.exponent:
        return True
    return len(str(decimal.digits)) >= 15 and difference <= _BINARY_NOISE * abs(exact)


class _Outside(Exception):
    """A function is not real at this point."""


class _Evaluation:
    """Evaluates trees in one mpmath context at one point."""

    def __init__(self, context, point: dict, real: bool):
        self.context, self.point, self.real = context, point, real

    def __call__(self, tree):
        context = self.context
        if isinstance(tree, Number):
            if abs(tree.exponent) > _MAX_POWER:
                raise Unreadable("a power of ten out of reach")
            return context.mpf(tree.digits) * context.mpf(10) ** tree.exponent
        if isinstance(tree, Symbol):
            if tree.name == "pi":
                return +context.pi
            if tree.name == "e":
                return +context.e
            if tree.name == "i":
                return context.mpc(0, 1)
            if tree.name == "oo":
                return context.inf
            return self.point[tree.name](context)
        if not isinstance(tree, Apply):
            raise Unreadable("not a number")
        values = [self(part) for part in tree.arguments]
        try:
            return self.apply(tree.name, values)
        except (ArithmeticError, TypeError, ValueError) as error:  # max of complex numbers is a TypeError
            raise _Outside from error

    def apply(self, name: str, values: list):
        context, first = self.context, values[0]
        if name == "-":
            return -first
        if name in ("+", "mixed"):
            return sum(values[1:], first)
        if name == "*":
            return first * values[1]
        if name == "/":
            return first / values[1]
        if name == "%":
            return first / 100
        if name == "degree":
            return first * context.pi / 180
        if name == "^":
            return self.power(first, values[1])
        if name == "sqrt":
            return self.root(first, 2)
        if name == "cbrt":
            return self.root(first, 3)
        if name == "root":
            return self.root(first, values[1])
        if name == "exp":
            if abs(first) > _MAX_POWER:
                raise Unreadable("an exponent out of reach")
            return context.exp(first)
        if name in ("ln", "lg", "log2"):
            if self.real and not (_is_real(first) and first > 0):
                raise _Outside
            logarithm = context.ln(first)
            return logarithm if name == "ln" else logarithm / context.ln(10 if name == "lg" else 2)
        if name in ("asin", "acos", "atanh") and self.real and not (_is_real(first) and abs(first) <= 1):
            raise _Outside
        if name in ("factorial", "binomial"):
            if any(abs(value) > 10**5 for value in values):
                raise Unreadable(f"a {name} out of reach")
            return getattr(context, name)(*values)
        if name in ("abs", "floor", "ceil"):
            return abs(first) if name == "abs" else getattr(context, name)(first)
        if name in ("max", "min"):
            return max(values) if name == "max" else min(values)
        if name in _MP_FUNCTIONS and len(values) == 1:
            if abs(first) > 10**30:
                raise Unreadable(f"the argument of {name} is out of reach")
            return getattr(context, name)(first)
        raise Unreadable(f"{name} of {len(values)} values")

    def power(self, base, exponent):
        if abs(exponent) > _MAX_POWER:
            raise Unreadable("an exponent out of reach")
        whole = _is_real(exponent) and exponent == self.context.floor(exponent)
        if whole:
            if base == 0 and exponent < 0:
                raise ZeroDivisionError
            return base ** int(exponent.real)
        if self.real and _is_real(base) and base < 0:
            raise _Outside
        return base**exponent

    def root(self, base, index):
        if abs(index) > _MAX_POWER:
            raise Unreadable("a root out of reach")
        if _is_real(base) and base < 0:
            if _is_real(index) and index == int(index) and int(index) % 2:
                return -self.power(-base, 1 / self.context.mpf(index))
            if self.real:
                raise _Outside
        return self.context.sqrt(base) if index == 2 else self.power(base, 1 / self.context.mpf(index))


_MP_FUNCTIONS = set(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "sinh",
        "cosh",
        "tanh",
        "coth",
        "asin",
        "acos",
        "atan",
        "acot",
        "asec",
        "acsc",
        "asinh",
        "acosh",
        "atanh",
    ]
)


def _is_real(value) -> bool:
    return not hasattr(value, "_mpc_")


def _at(name: str, number: int):
    """Return a coordinate, as a function of the context: irregular, between 0.3 and 2.3 or its negative.

    From _POINTS on the points spread to 2000: a function that is constant in pieces shows more than one of them.
    """
    draw = random.Random(f"{name} {number}")
    size = Fraction(draw.randrange(10**30), 5 * 10**29) + Fraction(3, 10)
    negative = number >= 3 and (number == 3 or draw.random() < 0.5)
    if number >= _POINTS:
        size *= 10 ** (number % 4)
    return lambda context: context.mpf((-1 if negative else 1) * size.numerator) / size.denominator


_POINTS, _MORE_POINTS = 6, 30
_IN_PIECES = ("floor", "ceil", "max", "min", "abs", "gcd", "lcm")


def _points(*trees) -> range:
    return range(_MORE_POINTS if any(_contains(tree, _IN_PIECES) for tree in trees) else _POINTS)


# ------------------------------------------------------------------------------------------------ comparison


class _Comparison:
    def __init__(self, exact: bool):
        self.exact = exact

    def plain(self, tree):
        return _plain(tree, self.exact)

    def same(self, gold, answer) -> bool:
        golds, answers = _spread(gold), _spread(answer)
        if len(golds) == 1 and len(answers) == 1:
            return self.same_item(golds[0], answers[0])
        if len(golds) == 1:
            _, inside = self.plain(golds[0])
            if isinstance(inside, Group) and inside.kind == "set":
                return self.one_name(answers) and self.unordered(inside.items, answers)
            if isinstance(inside, Group) and inside.kind == "union" and self.unordered(inside.items, answers):
                return True
            if isinstance(inside, Group) and inside.kind == "()" and self.same_named(inside, answers):
                return True
            return self.one_name(answers) and all(self.same_item(golds[0], item) for item in answers)
        if len(answers) == 1:
            _, inside = self.plain(answers[0])
            if isinstance(inside, Group) and inside.kind in ("set", "union"):
                return self.one_name(golds) and self.unordered(golds, inside.items)
            return isinstance(inside, Group) and inside.kind == "()" and self.same_named(inside, golds)
        labels = [{self.plain(item)[0] for item in items} for items in (golds, answers)]
        if {None} in labels and max(map(len, labels)) > 1:  # a = 1, b = 2 and 1, 2
            return self.ordered(*([self.plain(item)[1] for item in items] for items in (golds, answers)))
        groups = all(isinstance(self.plain(item)[1], Group) for item in golds)
        if groups and len(self.distinct(golds)) == len(golds):
            answers = self.distinct(answers)
        return self.unordered(golds, answers)

    def one_name(self, items) -> bool:
        """x = 1, x = 2 are the values of one name; x = 1, y = 2 are no set of two values."""
        return len({label for label, _ in map(self.plain, items)}) == 1

    def same_named(self, point, named) -> bool:
        """x = 1, y = 2 is the point (1, 2). Without names 1, 2 is a set of answers, and (1, 2) may be an interval."""
        plain = [self.plain(item) for item in named]
        labels = [label for label, _ in plain]
        letters = all(label and len(label) == 1 for label in labels)
        if letters and labels != sorted(labels):  # b = 1, a = 2: the point (a, b) is (2, 1)
            plain.sort(key=lambda pair: pair[0])
        return all(labels) and self.ordered(point.items, [value for _, value in plain])

    def ordered(self, golds, answers) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def unordered(self, golds, answers) -> bool:
        golds, answers = (
            [piece for item in items for piece in _expand_signs(item)] for items in (golds, answers)
        )
        if len(golds) != len(answers) or len(golds) > _MAX_ITEMS:
            return False
        for gold in golds:
            place = next((i for i, answer in enumerate(answers) if self.same(gold, answer)), None)
            if place is None:
                return False
            del answers[place]
        return True

    def same_item(self, gold, answer) -> bool:
        if gold == answer:
            return True
        gold_label, gold_value = self.plain(gold)
        answer_label, answer_value = self.plain(answer)
        if gold_label is not None and answer_label is not None and gold_label != answer_label:
            return self.same_relation(gold, answer)
        if isinstance(gold_value, Relation) or isinstance(answer_value, Relation):
            return self.same_relation(gold, answer)
        if self.same_value(gold_value, answer_value):
            return True
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self.same_relation(gold, answer)
        return False

    def same_value(self, gold, answer) -> bool:
        if isinstance(gold, Quantity) or isinstance(answer, Quantity):
            return self.same_quantity(gold, answer)
        if gold == answer:
            return True
        if isinstance(gold, Words) or isinstance(answer, Words):
            one, other = _letters(gold), _letters(answer)
            if one is None or other is None:
                return False
            return one == other or (len(one) > 1 and one.lower() == other.lower())
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return self.same_matrix(gold, answer)
        if isinstance(gold, Group) or isinstance(answer, Group):
            return self.same_group(gold, answer)
        if isinstance(gold, Based) or isinstance(answer, Based):
            return self.same_in_base(gold, answer)
        if _is_negative(gold) and _is_negative(answer) and isinstance(gold.arguments[0], Based):
            return self.same_in_base(gold.arguments[0], answer.arguments[0])
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.same_relation(gold, answer)
        return self.same_expression(gold, answer)

    def same_quantity(self, gold, answer) -> bool:
        if isinstance(gold, Quantity) and isinstance(answer, Quantity):
            return _units_agree(gold.unit, answer.unit) and self.same(gold.value, answer.value)
        quantity, other = (gold, answer) if isinstance(gold, Quantity) else (answer, gold)
        if _qualified(quantity.unit):
            return False
        for name in ("%", "degree"):
            if isinstance(other, Apply) and other.name == name:
                return (
                    name == "degree"
                    and _units_agree(quantity.unit, name)
                    and self.same(quantity.value, other)
                )
        if isinstance(other, Group | Words | Matrix):
            return self.same(quantity.value, other) if not isinstance(other, Words) else False
        if len(quantity.unit) == 1 and _symbols(other):  # 7 \text{ m} and 7 m
            return self.same(Apply("*", (quantity.value, Symbol(quantity.unit))), other)
        return self.same(quantity.value, other)

    def same_matrix(self, gold, answer) -> bool:
        rows = []
        for tree in (gold, answer):
            if isinstance(tree, Matrix):
                rows.append([list(row) for row in tree.rows])
            elif isinstance(tree, Group) and tree.kind in ("()", "[]"):
                nested = tree.items and all(isinstance(i, Group) and i.kind == tree.kind for i in tree.items)
                rows.append([list(i.items) for i in tree.items] if nested else [[i] for i in tree.items])
            else:
                return False
        one, other = rows
        if isinstance(gold, Group) or isinstance(answer, Group):  # a vector in brackets: a column or a row
            one = [[item] for item in one[0]] if len(one) == 1 else one
            other = [[item] for item in other[0]] if len(other) == 1 else other
        return [len(row) for row in one] == [len(row) for row in other] and all(
            self.same(a, b)
            for left, right in zip(one, other, strict=True)
            for a, b in zip(left, right, strict=True)
        )

    def same_group(self, gold, answer) -> bool:
        if not isinstance(gold, Group):
            return answer.kind == "set" and len(answer.items) == 1 and self.same(gold, answer.items[0])
        if not isinstance(answer, Group):
            return gold.kind == "set" and len(gold.items) == 1 and self.same(gold.items[0], answer)
        kinds = {gold.kind, answer.kind}
        for one, other in ((gold, answer), (answer, gold)):
            if one.kind == "set" and len(one.items) == 1 and other.kind not in ("set", "list"):
                return self.same(one.items[0], other)
        if kinds == {"set"}:
            return self.unordered(self.distinct(gold.items), self.distinct(answer.items))
        if kinds == {"list", "()"}:
            return self.same_named(*((gold, answer.items) if gold.kind == "()" else (answer, gold.items)))
        if kinds <= {"list", "set"} or kinds == {"union"}:
            return self.unordered(gold.items, answer.items)
        if gold.kind == answer.kind or (kinds == {"()", "[]"} and len(gold.items) > 2):
            return self.ordered(gold.items, answer.items)
        return False

    def distinct(self, items) -> list:
        found = []
        for item in items:
            if not any(self.same(known, item) for known in found):
                found.append(item)
        return found

    def same_in_base(self, gold, answer) -> bool:
        if isinstance(gold, Based) and isinstance(answer, Based):
            return gold == answer
        based, other = (gold, answer) if isinstance(gold, Based) else (answer, gold)
        return isinstance(gold, Based) and isinstance(other, Number) and based.digits == str(other.digits)

    # values

    def same_expression(self, gold, answer) -> bool:
        if {tree.name for tree in (gold, answer) if isinstance(tree, Apply)} == {"%", "degree"}:
            return False
        for name in ("%", "degree"):
            marked = [isinstance(tree, Apply) and tree.name == name for tree in (gold, answer)]
            if all(marked):
                return self.same(gold.arguments[0], answer.arguments[0])
            if any(marked):
                one, other = (gold, answer) if marked[0] else (answer, gold)
                return self.same(one.arguments[0], other) or (
                    name == "%" and self.same(Apply("/", (one.arguments[0], Number(100))), other)
                )
        exact_gold, exact_answer = fraction(gold), fraction(answer)
        if exact_gold is not None and exact_answer is not None:
            return self.same_rational(gold, exact_gold, answer, exact_answer)
        if isinstance(gold, Number) and isinstance(answer, Number):  # powers of ten out of reach
            return _stripped(gold) == _stripped(answer)
        if (exact_gold is None) != (exact_answer is None):
            other = gold if exact_gold is None else answer
            if _symbols(other):
                return False
        elif _symbols(gold) != _symbols(answer):
            return False
        if self.exact:
            raise NeedsNumerics
        if _symbols(gold):
            return self.same_function(gold, answer)
        return self.same_number(gold, answer)

    def same_rational(self, gold, exact_gold, answer, exact_answer) -> bool:
        if exact_gold == exact_answer:
            return True
        written_gold, written_answer = _written_decimal(gold), _written_decimal(answer)
        if written_gold and written_answer:
            coarse = max(written_gold[0], written_answer[0], key=lambda number: number.exponent)
            other = exact_answer if coarse is written_gold[0] else exact_gold
            return _is_rounding(coarse, exact_gold + exact_answer - other, other) and coarse.exponent < 0
        if written_gold:
            return _is_rounding(written_gold[0], exact_gold, exact_answer)
        if written_answer and (exact_gold.denominator != 1 or exact_answer.denominator != 1):
            return _is_rounding(written_answer[0], exact_answer, exact_gold)
        return False  # a whole number is not rounded: 1e9 is not 1000000007

    def same_number(self, gold, answer) -> bool:
        if not _written_decimal(gold) and not _written_decimal(answer):
            residues = [(_residue(gold, prime), _residue(answer, prime)) for prime in _PRIMES]
            if all(None not in pair for pair in residues):  # rational numbers too long to write out
                return all(one == other for one, other in residues)
        try:
            pairs = [
                (_Evaluation(context, {}, real=False)(gold), _Evaluation(context, {}, real=False)(answer))
                for context in (_COARSE, _FINE)
            ]
        except _Outside:
            return False
        if _agree(*pairs):
            return True
        for tree, value in ((gold, pairs[1][1]), (answer, pairs[1][0])):
            written = _written_decimal(tree)
            if written and _is_real(value) and _FINE.isfinite(value) and value != 0:
                number, sign = written
                if abs(number.exponent) > 1_000:
                    return False
                exact = sign * Fraction(number.digits) * Fraction(10) ** number.exponent
                ratio = value / (_FINE.mpf(exact.numerator) / exact.denominator)
                if abs(ratio - 1) < 1e-5:  # else the value itself might be too long for a fraction
                    return _is_rounding(number, exact, Fraction(int(ratio * 10**40), 10**40) * exact)
        return False

    def same_function(self, gold, answer) -> bool:
        names = sorted(_symbols(gold))
        for real in (True, False):
            compared = 0
            for number in _points(gold, answer):
                point = {name: _at(name, number) for name in names}
                try:
                    pairs = [
                        (_Evaluation(context, point, real)(gold), _Evaluation(context, point, real)(answer))
                        for context in (_COARSE, _FINE)
                    ]
                except _Outside:
                    continue
                if not _agree(*pairs):
                    return False
                compared += 1
            if compared >= 2:
                return True
        return False

    # relations

    def same_relation(self, gold, answer) -> bool:
        if not isinstance(gold, Relation) or not isinstance(answer, Relation):
            return False
        if len(gold.operators) != 1 or len(answer.operators) != 1:
            return gold.operators == answer.operators and all(map(self.same, gold.sides, answer.sides))
        operators, differences = [], []
        for relation in (gold, answer):
            operator, (left, right) = relation.operators[0], relation.sides
            if any(isinstance(side, Group | Words | Matrix | Based) for side in (left, right)):
                return gold.operators == answer.operators and all(map(self.same, gold.sides, answer.sides))
            if operator[0] == ">":
                operator, left, right = _FLIPPED[operator], right, left
            operators.append(operator)
            differences.append(Apply("+", (_bare(left), Apply("-", (_bare(right),)))))
        if operators[0] != operators[1] or _symbols(differences[0]) != _symbols(differences[1]):
            return False
        if not _symbols(differences[0]):
            return gold.operators == answer.operators and all(map(self.same, gold.sides, answer.sides))
        if self.exact:
            raise NeedsNumerics
        return self.proportional(*differences, positive=operators[0][0] == "<")

    def proportional(self, one, other, positive: bool) -> bool:
        names = sorted(_symbols(one))
        factor, compared = None, 0
        for number in _points(one, other):
            point = {name: _at(name, number) for name in names}
            try:
                ratios = [
                    _Evaluation(context, point, True)(one) / _Evaluation(context, point, True)(other)
                    for context in (_COARSE, _FINE)
                ]
            except (_Outside, ZeroDivisionError):
                continue
            compared += 1
            if factor is None:
                factor = ratios
            elif not _agree(*zip(factor, ratios, strict=True)):
                return False
        return compared >= 2 and factor[1] != 0 and not (positive and not factor[1].real > 0)


def _is_negative(tree) -> bool:
    return isinstance(tree, Apply) and tree.name == "-"


def _stripped(number: Number) -> tuple[int, int]:
    digits, exponent = number.digits, number.exponent
    while digits and digits % 10 == 0:
        digits, exponent = digits // 10, exponent + 1
    return digits, exponent if digits else 0


def _agree(coarse: tuple, fine: tuple) -> bool:
    """Return whether two values are equal, given (one, other) at 60 and at 200 digits."""
    one, other = fine
    if not (_FINE.isfinite(one) and _FINE.isfinite(other)):
        return one == other
    difference = abs(one - other)
    if difference <= 1e-100 * max(abs(one), abs(other)):
        return True
    return all(_vanishes(*pair) for pair in zip(coarse, fine, strict=True))


def _vanishes(coarse, fine) -> bool:
    """A sum that is zero shrinks with the precision at which it is evaluated."""
    return fine == 0 or coarse == 0 or abs(fine) <= 1e-100 * abs(coarse)


# ------------------------------------------------------------------------------------------------ votes


def canonical(tree, *, exact: bool = False) -> str:
    """Return one text for equal answers: what an answer votes for. Labels, units and percent signs do not count.

    Numbers that are equal to a precision only (0.333333 and 1/3) vote apart. Raises Unreadable where a value is out
    of reach, and with ``exact`` NeedsNumerics.
    """
    items = _spread(tree)
    if len(items) > 1:
        return "{" + ", ".join(sorted(_canonical_item(item, exact) for item in items)) + "}"
    return _canonical_item(items[0], exact)


def _canonical_item(tree, exact: bool) -> str:
    _, tree = _plain(tree, exact)
    tree = _bare(tree)
    if isinstance(tree, Words):
        text = _letters(tree)
        return text.lower() if len(text) > 1 else text
    if isinstance(tree, Matrix):
        return (
            "["
            + "; ".join(", ".join(canonical(cell, exact=exact) for cell in row) for row in tree.rows)
            + "]"
        )
    if isinstance(tree, Based):
        return f"{tree.digits}_{tree.base}"
    if isinstance(tree, Group):
        items = [canonical(item, exact=exact) for item in tree.items]
        if tree.kind == "set":
            return "{" + ", ".join(sorted(set(items))) + "}" if len(set(items)) != 1 else items[0]
        if tree.kind in ("union", "list"):
            return " or ".join(sorted(items))
        if tree.kind == ":":
            return ":".join(items)
        return tree.kind[0] + ", ".join(items) + tree.kind[1]
    if isinstance(tree, Relation):
        return " ".join(
            [canonical(tree.sides[0], exact=exact)]
            + [
                f"{o} {canonical(s, exact=exact)}"
                for o, s in zip(tree.operators, tree.sides[1:], strict=True)
            ]
        )
    if isinstance(tree, Apply) and tree.name in ("%", "degree"):
        tree = tree.arguments[0]
    if _is_negative(tree) and isinstance(tree.arguments[0], Based):
        return "-" + canonical(tree.arguments[0], exact=exact)
    value = fraction(tree)
    if value is not None:
        long = value.numerator.bit_length() + value.denominator.bit_length() > _MAX_PRINTED_BITS
        return f"{value.numerator:#x}/{value.denominator:#x}" if long else str(value)
    if isinstance(tree, Number):
        digits, exponent = _stripped(tree)
        return f"{digits}e{exponent}"
    if isinstance(tree, Symbol):
        return tree.name
    if exact:
        raise NeedsNumerics
    return _fingerprint(tree)


def _fingerprint(tree) -> str:
    """Return an expression's value, or its values at two points."""
    names = sorted(_symbols(tree))
    values = []
    for number in range(2) if names else range(1):
        point = {name: _at(name, number) for name in names}
        try:
            value = _Evaluation(_COARSE, point, real=False)(tree)
        except _Outside:
            raise Unreadable("no value") from None
        if not _is_real(value) and abs(value.imag) <= 1e-40 * abs(value):
            value = value.real
        values.append(_COARSE.nstr(value, 12))
    return (f"function of {', '.join(names)}: " if names else "") + ", ".join(values)
