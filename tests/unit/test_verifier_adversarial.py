"""Ten thousand hostile responses: none hangs, crashes, or changes another one's verdict or place."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ead.seeds import generator
from ead.verifier import MAX_ANSWER_CHARACTERS, Verifier, evaluate_arithmetic, grade, last_boxed, normalise

RESPONSES = 10_000
MEGABYTE = 1 << 20
GOLDS = ("3", "x+1", "(1,2)", "\\frac{3}{7}", "\\text{Friday}")

# What a response may be built from when it is built at random.
FRAGMENTS = [
    *[
        r"\frac",
        r"\frac{",
        r"\sqrt",
        r"\sqrt[",
        r"\int_",
        r"\sum_{",
        r"\prod",
        r"\lim_{",
        r"\binom",
        r"\mathbb{R}",
    ],
    *[
        r"\boxed{",
        r"\boxed",
        r"\fbox{",
        r"\text{",
        r"\left(",
        r"\right)",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
    ],
    *[
        r"\\",
        r"\{",
        r"\}",
        r"\(",
        r"\)",
        r"\[",
        r"\]",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "^",
        "_",
        "^{",
        "_{",
        "$",
        "$$",
    ],
    *[
        "&",
        "%",
        "#",
        "~",
        "'",
        "!",
        "!!",
        "=",
        "<",
        ">",
        "+",
        "-",
        "*",
        "/",
        "|",
        ",",
        ".",
        ";",
        ":",
        r"\le",
        r"\ge",
    ],
    *[
        r"\cdot",
        r"\times",
        r"\pi",
        r"\infty",
        r"\emptyset",
        r"\cup",
        r"\in",
        r"\sin",
        r"\log",
        r"\det",
        r"\pm",
    ],
    *[
        "x",
        "y",
        "i",
        "e",
        "n",
        "0",
        "1",
        "7",
        "10",
        "99",
        "3.14",
        "answer",
        "final",
        "is:",
        "Answer:",
        "or",
        "and",
    ],
]

Maker = Callable[[np.random.Generator], str]


def box(text: str) -> str:
    return f"So the answer is \\boxed{{{text}}}."


def pick(random: np.random.Generator, options):
    return options[int(random.integers(len(options)))]


def soup(random: np.random.Generator) -> str:
    text = " ".join(pick(random, FRAGMENTS) for _ in range(random.integers(1, 30)))
    return pick(random, [box(text), text])


def unicode_noise(random: np.random.Generator) -> str:
    text = "".join(map(chr, random.integers(1, 0x110000, size=random.integers(1, 60))))  # surrogates too
    return pick(random, [box(text), text])


def code(random: np.random.Generator) -> str:
    n = int(random.integers(99999))
    text = pick(
        random,
        [
            f"__import__('os').system('exit {n}')",
            f"while True: x = {n} ** x",
            f"lambda: ().__class__.__bases__[0].__subclasses__()[{n}]",
            f"```python\nprint({{'answer': {n}}})\n```",
            f"SELECT * FROM answers WHERE n = {n}; --",
            f"<script>alert({n})</script>",
        ],
    )
    return pick(random, [box(text), text])


def boxes(random: np.random.Generator) -> str:
    count = int(random.integers(1, 200))
    return "\\boxed{" * count + "5" + "}" * int(random.integers(count + 1))


def braces(random: np.random.Generator) -> str:
    return "".join(pick(random, ["{", "}", "\\{", "\\boxed{", "\\"]) for _ in range(random.integers(1, 500)))


def dollars(random: np.random.Generator) -> str:
    return "$" * int(random.integers(1, 400)) + "5" + "$" * int(random.integers(400))


def long_number(random: np.random.Generator) -> str:
    return box("".join(map(str, random.integers(10, size=random.integers(1, 2 * MAX_ANSWER_CHARACTERS)))))


def arithmetic(random: np.random.Generator) -> str:
    return box("".join(pick(random, "0123456789+-*() ") for _ in range(random.integers(1, 12))))


def prose(random: np.random.Generator) -> str:
    words = [
        "the",
        "answer",
        "is",
        "final",
        "so",
        "we",
        "have",
        "and",
        "or",
        "number",
        "percent",
        "of",
        "sum",
    ]
    return " ".join(pick(random, words) for _ in range(random.integers(1, 300)))


FAMILIES: tuple[Maker, ...] = (
    soup,
    unicode_noise,
    code,
    boxes,
    braces,
    dollars,
    long_number,
    arithmetic,
    prose,
)

# Each of these keeps math-verify busy for longer than the tests' time-out against an integer gold answer.
HANGING = (
    "9^{9^{9^{9}}}",
    "10^{10^{13}}",
    "100000000!",
    "((((9!)!)!)!)!",
    "\\sum_{k=1}^{1000000000} k^{k}",
    "\\binom{1000000000}{500000000}",
    "\\log_{2}{(2^{2^{40}})}",
    "(x+y+z+w)^{200}",
    "\\int_0^\\infty \\frac{\\sin(x^3)\\ln(x)}{x^7+e^x}dx",
    "(" * 150 + "5" + ")" * 150,
    "{" * 150 + "5" + "}" * 150,
    "\\frac{1}{" * 50 + "2" + "}" * 50,
)

MEGABYTES = (
    "{" * MEGABYTE,
    "}" * MEGABYTE,
    "$" * MEGABYTE,
    "\\" * MEGABYTE,
    "\\boxed{" * (MEGABYTE // 7),
    "\\boxed{5}" * (MEGABYTE // 9),
    "\\boxed " * (MEGABYTE // 7),
    box("1+" * (MEGABYTE // 2) + "1"),
    box("{" * (MEGABYTE // 2) + "}" * (MEGABYTE // 2)),
    box("9" * MEGABYTE),
    box("5") + " or so" * (MEGABYTE // 6),
    "\\frac{" * (MEGABYTE // 6),
    "\u221a\U0001d7d8 " * (MEGABYTE // 3),
    "answer is: " * (MEGABYTE // 11),
    "\n" * MEGABYTE,
    "7" * MEGABYTE,
)


def sentinel(i: int) -> tuple[str, str, bool]:
    """Return an ordinary response that needs a process, its gold answer and the verdict."""
    return box(f"\\frac{{{i}}}{{{i + 1}}}"), f"\\frac{{{2 * i}}}{{{2 * i + 2 + i % 2}}}", i % 2 == 0


def hostile_rows(count: int) -> list[tuple[str, str, bool | None]]:
    """Return (response, gold answer, verdict where it is known): one in twenty is a sentinel, the rest is hostile."""
    random = generator(0, "test", "hostile")
    rows: list[tuple[str, str, bool | None]] = [sentinel(i) for i in range(1, count // 20 + 1)]
    rows += [(box(text), "3", False) for text in HANGING]
    rows += [(text, "\\frac{3}{7}", False) for text in MEGABYTES]
    for i in range(count - len(rows)):
        rows.append((FAMILIES[i % len(FAMILIES)](random), pick(random, GOLDS), None))
    return [rows[i] for i in random.permutation(len(rows))]


def check_hostile(rows, verdicts) -> Counter:
    """Every row has a verdict of its own, and the sentinels have theirs; return the number of each status."""
    assert len(verdicts) == len(rows)
    sentinels = {sentinel(i)[:2] for i in range(1, RESPONSES // 20 + 1)}
    for (response, gold, correct), verdict in zip(rows, verdicts, strict=True):
        assert verdict.status == "ok" or not verdict.correct
        if correct is not None and len(response) < MEGABYTE // 2:
            assert verdict.correct == correct, (response, gold, verdict)
        if (response, gold) in sentinels:
            assert verdict.status == "ok"
    return Counter(verdict.status for verdict in verdicts)


def test_ten_thousand_hostile_responses():
    rows = hostile_rows(RESPONSES)
    assert len(rows) == RESPONSES
    with Verifier(timeout_s=1.0, workers=2) as verifier:
        verdicts = verifier.grade([response for response, _, _ in rows], [gold for _, gold, _ in rows])
        assert verifier._server.poll() is None  # the server that started is the one that finished
    counts = check_hostile(rows, verdicts)
    for (response, gold, _), verdict in zip(rows, verdicts, strict=True):
        boxed = last_boxed(response)
        if boxed and (value := evaluate_arithmetic(boxed)) is not None and gold == "3":
            assert verdict.correct == (value == 3) or verdict.extracted != boxed
    assert counts["ok"] > RESPONSES / 3
    assert counts["no_answer"] > RESPONSES / 10


def test_hostile_responses_by_math_verify():
    """What keeps math-verify busy is timed out, and nothing else is touched."""
    rows = [row for row in hostile_rows(RESPONSES) if row[2] is not None and len(row[0]) < MEGABYTE // 2][
        :150
    ]
    rows += [(box(text), "3", False) for text in HANGING[:4]]
    with Verifier(timeout_s=1.0, workers=2, method="math_verify") as verifier:
        verdicts = verifier.grade([response for response, _, _ in rows], [gold for _, gold, _ in rows])
        assert verifier._server.poll() is None
    check_hostile(rows, verdicts)
    assert [verdict.status for verdict in verdicts[-4:]] == ["timeout"] * 4


def test_hostile_responses_by_string_match():
    rows = hostile_rows(2000)
    verdicts = grade(
        [response for response, _, _ in rows], [gold for _, gold, _ in rows], method="string_match"
    )
    assert {verdict.status for verdict in verdicts} == {"ok", "no_answer"}
    for (response, _, _), verdict in zip(rows, verdicts, strict=True):
        assert verdict.extracted in (None, last_boxed(response))


def test_code_is_not_run(tmp_path: Path):
    target = tmp_path / "created"
    texts = [
        f"__import__('pathlib').Path('{target}').touch()",
        f"exec(\"open('{target}', 'w')\")",
        f"1+__import__('os').system('touch {target}')",
        f"\\text{{`touch {target}`}}",
    ]
    responses = [form for text in texts for form in (text, box(text), f"Answer: {text}", f"${text}$")]
    verdicts = grade(responses, ["1"] * len(responses), timeout_s=30.0, workers=2)
    assert len(verdicts) == len(responses)
    assert not target.exists()


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(codec=None), max_size=200))
def test_text_functions_take_any_text(text):
    boxed = last_boxed(text)
    assert boxed is None or boxed in text
    assert isinstance(normalise(text), str)
    assert last_boxed(f"{text}\\boxed{{7}}") == "7"
    value = evaluate_arithmetic(text)
    assert value is None or set(text) <= set("0123456789+-*() \t\n\\timescdo\u2212\u00d7\u2217")


def test_any_texts_get_the_same_verdicts_in_any_order():
    fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(" ".join)
    anything = st.text(alphabet=st.characters(codec=None), max_size=60)
    with Verifier(timeout_s=5.0, workers=2) as verifier:

        @settings(max_examples=40)
        @given(st.lists(st.one_of(fragments, fragments.map(box), anything, anything.map(box)), max_size=8))
        def check(responses):
            answers = [GOLDS[i % len(GOLDS)] for i in range(len(responses))]
            verdicts = verifier.grade(responses, answers)
            backwards = verifier.grade(responses[::-1], answers[::-1])[::-1]
            for one, other in zip(verdicts, backwards, strict=True):
                assert one == other or "timeout" in (one.status, other.status)

        check()
