r"""Pairs of answers that are equal, and pairs that are not, notation by notation: for the careful grader's tests.

``PAIRS[kind](random)`` returns (gold, equal answer, unequal answer). Both answers are made from values drawn first,
never from a grader.
"""

from fractions import Fraction

import numpy as np


def whole(random: np.random.Generator, low: int, high: int) -> int:
    return int(random.integers(low, high))


def pick(random: np.random.Generator, *options):
    return options[int(random.integers(len(options)))]


def scientific(mantissa: str, power: int, random) -> str:
    return pick(
        random,
        rf"{mantissa} \times 10^{{{power}}}",
        rf"{mantissa}\cdot 10^{{{power}}}",
        f"{mantissa}e{power}",
        f"{mantissa}E{power:+d}",
        f"{mantissa} × 10^{power}",
    )


def tiny_numbers(random):
    digits, power = whole(random, 11, 99), whole(random, -40, -5)
    mantissa = f"{digits // 10}.{digits % 10}"
    other = digits
    while other == digits:
        other = whole(random, 11, 99)
    wrong = pick(
        random,
        scientific(f"{other // 10}.{other % 10}", power, random),
        scientific(mantissa, power + pick(random, -1, 1), random),
        "0",
        "0.0",
        f"-{mantissa}e{power}",
    )
    return (
        scientific(mantissa, power, random),
        scientific(mantissa + "0" * whole(random, 0, 3), power, random),
        wrong,
    )


def large_numbers(random):
    number = whole(random, 10**6, 10**15)
    wrong = number + pick(random, -1, 1, 10)
    return str(number), f"{number:,}", pick(random, str(wrong), f"{wrong:,}")


def powers_of_two(random):
    power = whole(random, 20, 200)
    return (
        rf"\frac{{1}}{{2^{{{power}}}}}",
        pick(
            random,
            f"2^{{-{power}}}",
            f"1/2^{power}",
            rf"\left(\frac{{1}}{{2}}\right)^{{{power}}}",
            f"2**(-{power})",
        ),
        rf"\frac{{1}}{{2^{{{power + pick(random, -1, 1)}}}}}",
    )


def decimals(random):
    """A decimal is the rounding of a fraction, to six digits at least; one digit away it is not."""
    below = pick(random, 3, 7, 9, 11, 13, 17, 19, 21, 23)
    above = whole(random, 1, 40 * below)
    while above % below == 0 or Fraction(above, below).denominator in (1, 2, 4, 5, 8, 10):
        above += 1
    digits = whole(random, 7, 12)
    value = Fraction(above, below)
    rounded = round(value, digits)
    text = f"{int(rounded)}.{int((rounded - int(rounded)) * 10**digits):0{digits}d}"
    last = str((int(text[-1]) + whole(random, 2, 9)) % 10)
    if random.random() < 0.3:
        return rf"\frac{{{above}}}{{{below}}}", text, text[:5]
    return rf"\frac{{{above}}}{{{below}}}", text, text[:-1] + last


def letters_are_no_units(random):
    number, letter = whole(random, 2, 999), pick(random, *"abcdghkmnpqrstuvwxyz")
    other = pick(random, *"abcdghkmnpqrstuvwxyz".replace(letter, ""))
    gold = f"{number}{pick(random, '', ' ')}{letter}"
    return (
        gold,
        pick(random, f"{letter} \\cdot {number}", f"{number} {letter}", f"{number}*{letter}"),
        pick(random, str(number), f"{number}{other}", f"{number + 1}{letter}"),
    )


def units(random):
    number, unit = (
        whole(random, 2, 999),
        pick(random, "cm", "meters", "inches", "dollars", "hours", "miles", "kg"),
    )
    other = pick(
        random, *(u for u in ("cm", "meters", "inches", "dollars", "hours", "miles", "kg") if u != unit)
    )
    gold = rf"{number}\text{{ {unit}}}"
    right = pick(random, str(number), rf"{number} \mathrm{{{unit}}}", rf"{number}\ \text{{{unit}}}.")
    return (
        gold,
        right,
        pick(random, rf"{number}\text{{ {other}}}", str(number + 1), rf"{number + 1}\text{{ {unit}}}"),
    )


def digit_groups(random):
    number = whole(random, 1_000, 10**9)
    separator = pick(random, ",", r"\,", " ", "~", "{,}", r",\!", "\u2009", "\u202f", r"\;")
    grouped = f"{number:,}".replace(",", separator)
    groups = [int(group) for group in f"{number:,}".split(",")]
    product, total = int(np.prod([int(g) for g in groups], dtype=object)), sum(groups)
    wrong = pick(random, product, total, number + 1, number * 10)
    return grouped, pick(random, str(number), f"{number:,}"), str(wrong if wrong != number else number + 1)


def mixed_numbers(random):
    number, below = whole(random, 1, 60), whole(random, 3, 15)
    above = whole(random, 1, below)
    value = Fraction(number) + Fraction(above, below)
    gold = pick(random, f"{number} {above}/{below}", rf"{number}\frac{{{above}}}{{{below}}}",
                rf"{number} \tfrac{{{above}}}{{{below}}}")  # fmt: skip
    product = Fraction(number * above, below)
    wrong = product if product != value else value + 1
    return (
        gold,
        rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value),
        rf"\frac{{{wrong.numerator}}}{{{wrong.denominator}}}",
    )


def programs(random):
    a, b = whole(random, 2, 30), whole(random, 2, 30)
    latex, program, wrong = pick(
        random,
        (rf"\frac{{\pi}}{{{a}}}", f"pi/{a}", f"pi/{a + 1}"),
        (rf"e^{{{a}}} - {b}", f"exp({a}) - {b}", f"exp({a}) + {b}"),
        (rf"\arcsin{{({a}/{a + b})}}", f"np.arcsin({a}/{a + b})", f"np.arccos({a}/{a + b + 1})"),
        (rf"{a}\sqrt{{{b}}}", f"{a}*sqrt({b})", f"{a}*sqrt({b + 1})"),
        (f"x^{{{a}}} + {b}x", f"x**{a} + {b}*x", f"x**{a} - {b}*x"),
        (rf"\frac{{{a}}}{{{b}}}x^2", f"{a}*x**2/{b}", f"{a}*x**2*{b}"),
        (rf"\ln {a} + {b}", f"log({a}) + {b}", f"log({a}) - {b}"),
        (rf"\sqrt[3]{{{a}}}", f"{a}**(1/3)", f"{a}**(1/2)"),
    )
    return (latex, program, wrong) if random.random() < 0.7 else (program, latex, wrong)


def complex_numbers(random):
    a, b = whole(random, 1, 50), whole(random, 2, 50)
    sign = pick(random, "+", "-")
    flipped = "-" if sign == "+" else "+"
    return (
        f"{a} {sign} {b}i",
        pick(random, f"{a}.0 {sign} {b}.0i", f"{'-' if sign == '-' else ''}{b}i + {a}", f"{a}{sign}{b} i"),
        pick(random, f"{a} {flipped} {b}i", f"{a}.0{sign}{b + 1}.0i", f"{a}"),
    )


def unicode(random):
    a, b = whole(random, 2, 9), whole(random, 2, 9)
    script = "⁰¹²³⁴⁵⁶⁷⁸⁹"
    return pick(
        random,
        (f"x^{a}+{b}", f"x{script[a]} + {b}", f"x{script[a - 1]} + {b}"),
        (rf"{a}\sqrt{{{b}}}", f"{a}√{b}", f"{a}√{b + 1}"),
        (str(10 * a + b), f"{10 * a + b}°", f"{10 * a + b + 1}°"),
        (f"-{a}{b}", f"{pick(random, *'–−—')}{a}{b}", f"{a}{b}"),
        (rf"\frac{{{2 * a + 1}}}{{2}}", f"{a}½", f"{a}¼"),
        (rf"{a}\pi", f"{a}π", f"{b + a}π"),
        (rf"x \le {a}", f"x ≤ {a}", f"x ≥ {a}"),
        (f"{a}x", "".join(chr(ord(c) + 0xFEE0) for c in str(a)) + "x", f"{a + 1}ｘ"),
    )


def full_width(random):
    a, b = whole(random, 1, 60), whole(random, 61, 99)
    wide = "".join(chr(ord(c) + 0xFEE0) for c in f"({a},{b})")
    return f"({a},{b})", wide, "".join(chr(ord(c) + 0xFEE0) for c in f"({b},{a})")


def measure_words(random):
    a, word = whole(random, 1, 999), pick(random, "个", "人", "元", "只", "种")
    return (
        str(a),
        pick(random, rf"\text{{{a}{word}}}", f"{a}{word}", rf"{a}\text{{{word}}}"),
        rf"\text{{{a + 1}{word}}}",
    )


def intervals(random):
    low, high = whole(random, -50, 20), whole(random, 21, 90)
    left, right = pick(random, ("(", "<"), ("[", r"\le")), pick(random, (")", "<"), ("]", r"\le"))
    turned = {"<": r"\le", r"\le": "<"}
    wrong = pick(
        random,
        rf"{low} {turned[left[1]]} x {right[1]} {high}",
        rf"{low} {left[1]} x {turned[right[1]]} {high}",
        rf"{low} {left[1]} x {right[1]} {high + 1}",
    )
    back = {"<": ">", r"\le": r"\ge"}
    return (
        f"{left[0]}{low}, {high}{right[0]}",
        pick(random, rf"{low} {left[1]} x {right[1]} {high}", rf"{high} {back[right[1]]} x {back[left[1]]} {low}",
             rf"x \in {left[0]}{low},{high}{right[0]}"),
        wrong,
    )  # fmt: skip


def lists(random):
    values = [int(v) for v in random.choice(np.arange(-40, 40), size=whole(random, 2, 5), replace=False)]
    shuffled = [int(v) for v in random.permutation(values)]
    wrong = [*values[:-1], values[-1] + 41]
    join = pick(random, ", ", ",", r", \; ")
    last = shuffled[-1]
    named = ", ".join(f"x={v}" for v in shuffled)
    return (
        ", ".join(map(str, values)),
        pick(random, join.join(map(str, shuffled)) if join != "," else ", ".join(map(str, shuffled)), named,
             rf"\{{{', '.join(map(str, shuffled))}\}}", f"{', '.join(map(str, shuffled[:-1]))} and {last}"),
        pick(random, ", ".join(map(str, wrong)), ", ".join(map(str, values[:-1]))),
    )  # fmt: skip


def points(random):
    values = [whole(random, -40, 40) for _ in range(whole(random, 2, 5))]
    if len(set(values)) == 1:
        values[0] += 1
    turned = values[::-1] if values[::-1] != values else [values[1], values[0], *values[2:]]
    return (
        "(" + ", ".join(map(str, values)) + ")",
        pick(random, r"\left(" + ",".join(map(str, values)) + r"\right)", "(" + ",".join(map(str, values)) + ")",
             "(" + ", ".join(f"{v}.0" for v in values) + ")"),
        "(" + ",".join(map(str, turned)) + ")",
    )  # fmt: skip


def polynomials(random):
    a, b = whole(random, 1, 20), whole(random, 21, 40)
    return (
        f"x^2 + {a + b}x + {a * b}",
        pick(
            random, f"(x+{a})(x+{b})", rf"\left(x + {b}\right)\left(x+{a}\right)", f"x(x+{a + b}) + {a * b}"
        ),
        pick(random, f"(x-{a})(x+{b})", f"(x+{a})(x+{b + 1})", f"(y+{a})(y+{b})"),
    )


def radicals(random):
    a, b = whole(random, 2, 12), pick(random, 2, 3, 5, 7, 11, 13)
    return (
        rf"{a}\sqrt{{{b}}}",
        pick(
            random, rf"\sqrt{{{a * a * b}}}", rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}", rf"{a} \cdot {b}^{{1/2}}"
        ),
        pick(random, rf"\sqrt{{{a * a * b + 1}}}", rf"{a + 1}\sqrt{{{b}}}", rf"-{a}\sqrt{{{b}}}"),
    )


def equations(random):
    a, b, k = whole(random, 1, 20), whole(random, 1, 20), whole(random, 2, 6)
    return (
        f"y = {a}x + {b}",
        pick(random, f"{a}x + {b}", f"{a}x - y + {b} = 0", f"{k}y = {k * a}x + {k * b}", f"y={b}+{a}x"),
        pick(random, f"y = {a}x - {b}", f"{a}x + y + {b} = 0", f"{a + 1}x + {b}"),
    )


def trailing_words(random):
    a, b = whole(random, 2, 30), whole(random, 1, 30)
    words = pick(random, r"\text{ for all real } x", r"\text{ for all } x", r"\text{ for any real number } x")
    return f"f(x)={a}x+{b}", f"f(x)={a}x+{b} {words}", f"f(x)={a}x+{b + 1} {words}"


def choices(random):
    letter = pick(random, *"ABCDE")
    other = pick(random, *"ABCDE".replace(letter, ""))
    return (
        letter,
        pick(
            random,
            rf"\text{{{letter}}}",
            f"({letter})",
            rf"\text{{({letter})}}",
            f"{letter}) 12",
            rf"\textbf{{{letter}}}",
        ),
        pick(random, other, "A, B, C, D", f"({other})", f"{letter}, {other}"),
    )


def nouns(random):
    """What is counted: one noun is not another, and words that change the statement do not go unread."""
    number = whole(random, 2, 999)
    noun = pick(random, "ways", "students", "integers", "triangles", "boxes")
    other = pick(random, *(n for n in ("ways", "students", "integers", "triangles", "boxes") if n != noun))
    qualified = pick(random, "or more", "at least", "if n is even", "hundredths", "is wrong", "million")
    return (
        rf"{number}\text{{ {noun}}}",
        pick(random, str(number), rf"{number} \text{{ {noun}}}", rf"{number}\text{{ {noun} in total}}",
             f"{number} {noun}"),
        pick(random, rf"{number}\text{{ {other}}}", rf"{number}\text{{ {qualified}}}", rf"{number}^\circ",
             rf"{number}\%"),
    )  # fmt: skip


def magnitudes(random):
    number, (word, zeros) = (
        whole(random, 2, 999),
        pick(random, ("thousand", 3), ("million", 6), ("billion", 9), ("万", 4), ("亿", 8)),
    )
    value = number * 10**zeros
    return (
        f"{value:,}",
        pick(random, rf"{number}\text{{ {word}}}", rf"\${number}\text{{ {word}}}", f"{number} {word}"),
        pick(random, str(number), rf"{number + 1}\text{{ {word}}}", str(value * 10), str(value // 10)),
    )


def compound_units(random):
    number = whole(random, 2, 999)
    spellings = pick(
        random,
        (r"\text{ m/s}", r"\text{ meters per second}", r"\text{ m}", r"\text{ m s}", r"\text{ km/h}"),
        (r"\text{ ft}^2", r"\text{ square feet}", r"\text{ ft}", r"\text{ cubic feet}", r"\text{ m}^2"),
        (r"\text{ mph}", r"\text{ miles per hour}", r"\text{ kph}", r"\text{ miles}", r"\text{ hours}"),
        (r"^\circ\text{C}", "℃", "℉", r"^\circ\text{F}", r"\text{ radians}"),
        (r"\text{ m}^3", "㎥", "㎡", r"\text{ square meters}", r"\text{ m}"),
        (r"\text{小时}", "小时", "分钟", r"\text{天}", "千克"),
    )
    return f"{number}{spellings[0]}", f"{number}{spellings[1]}", f"{number}{pick(random, *spellings[2:])}"


def chains(random):
    """x = a + b = c: every number in it has to be the same."""
    a, b = whole(random, 2, 99), whole(random, 2, 99)
    name = pick(random, "x", "n", "A", "f(2)")
    return (
        str(a + b),
        pick(random, f"{name} = {a} + {b} = {a + b}", f"{a} + {b} = {a + b}", f"{name} = {a + b}"),
        pick(
            random, f"{name} = {a} + {b + 1} = {a + b}", f"{name} = {a + b} = {a + b + 1}", f"{a} = {a + b}"
        ),
    )


def named_values(random):
    a, b = whole(random, 1, 50), whole(random, 51, 99)
    return (
        f"x = {a}, y = {b}",
        pick(random, f"y = {b}, x = {a}", f"{a}, {b}", f"({a}, {b})", rf"x={a} \text{{ and }} y={b}"),
        pick(random, f"x = {b}, y = {a}", f"{b}, {a}", f"({b}, {a})", f"x = {a}"),
    )


PAIRS = {
    function.__name__: function
    for function in (
        tiny_numbers, large_numbers, powers_of_two, decimals, letters_are_no_units, units, digit_groups, mixed_numbers,
        programs, complex_numbers, unicode, full_width, measure_words, intervals, lists, points, polynomials, radicals,
        equations, trailing_words, choices, nouns, magnitudes, compound_units, chains, named_values,
    )
}  # fmt: skip


# ---------------------------------------------------------------------------------------- where the answer stands


def boxed(random, right: str, wrong: str):
    return pick(
        random,
        rf"So the answer is $\boxed{{{right}}}$.",
        rf"First \boxed{{{wrong}}}. Checking again, this is wrong: \boxed{{{right}}}",
        rf"\boxed{{{wrong}}}, no, wait. \boxed{{{right}}}",
        rf"We get \fbox{{{right}}}.",
        rf"\[ \boxed{{{right}}} \]",
        rf"\boxed {{{right}}}",
    )


def unclosed(right: str) -> str:
    return rf"\boxed{{{right}}} no, rather \boxed{{{right}"
