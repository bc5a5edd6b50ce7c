"""The verifier: extraction, verdicts equal to math-verify's, statuses, order, votes, lost processes."""

import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify

import ead.verifier as verifier_module
from ead.seeds import generator
from ead.verifier import (
    MAX_ANSWER_CHARACTERS,
    MAX_TAIL_CHARACTERS,
    Verdict,
    Verifier,
    check_gold,
    evaluate_arithmetic,
    grade,
    last_boxed,
    normalise,
)
from ead.verifier.text import MAX_ARITHMETIC_CHARACTERS, MAX_ARITHMETIC_DEPTH, read_integer

CASES_FILE = Path(__file__).with_name("answers.json")
CASES = json.loads(CASES_FILE.read_text(encoding="utf-8"))
HANG = "9^{9^{9^{9}}}"
TIMEOUT_S = 30.0  # for what must not time out on a busy machine


def box(text: str) -> str:
    return f"\\boxed{{{text}}}"


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout_s=TIMEOUT_S, workers=2) as shared:
        yield shared


@pytest.fixture(scope="module")
def reference():
    with Verifier(timeout_s=TIMEOUT_S, workers=2, method="math_verify") as shared:
        yield shared


# ---------------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so \\boxed{5}.", "5"),
        ("\\boxed{1} and then \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{\\left\\{ 1 \\right.}", "\\left\\{ 1 \\right."),
        ("\\boxed{a \\\\} b}", "a \\\\"),
        ("json: \\\\boxed{4}", "4"),
        ("first \\boxed{1}, then \\boxed{2", "1"),
        ("\\boxed{1 \\boxed{2", None),
        ("\\boxed{}", ""),
        ("\\boxed 5", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


def last_boxed_slowly(text: str) -> str | None:
    """The definition: of all places where a box opens, the last from which the braces close."""
    for start in range(len(text) - 1, -1, -1):
        name = next((n for n in ("\\boxed", "\\fbox") if text.startswith(n, start)), None)
        if name is None:
            continue
        at = start + len(name)
        while at < len(text) and text[at].isspace():
            at += 1
        if text[at : at + 1] != "{":
            continue
        begin, depth, at = at + 1, 1, at + 1
        while at < len(text) and depth:
            escaped = text[at : at + 2] == "\\\\" and not text.startswith(("boxed", "fbox"), at + 2)
            if escaped or text[at : at + 2] in ("\\{", "\\}"):
                at += 1
            else:
                depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth == 0:
            return text[begin : at - 1].strip()
    return None


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from(["\\boxed{", "\\fbox {", "\\boxed", "{", "}", "\\", "\\{", "a", " "])).map(
        "".join
    )
)
def test_last_boxed_is_its_definition(text):
    assert last_boxed(text) == last_boxed_slowly(text)


# ---------------------------------------------------------------------------------------------- string match


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dfrac{1}{2}", "\\frac12"),
        ("0.5", "1/2"),
        (".5", "\\tfrac{1}{2}"),
        ("\\left( 1, 2 \\right)", "(1,2)"),
        ("x = 5", "5"),
        ("\\$18", "18"),
        ("50\\%", "50"),
        ("18\\text{ cm}", "18"),
        ("\\text{Friday}", "Friday"),
        ("\\sqrt 3", "\\sqrt{3}"),
        ("90^\\circ", "90"),
        ("5.", "5"),
    ],
)
def test_normalise_unites(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"), [("1,000", "1000"), ("0.25", "1/4"), ("x+1", "1+x"), ("-5", "5"), ("1.0", "1")]
)
def test_normalise_keeps_apart(one, other):
    assert normalise(one) != normalise(other)


def test_string_match_differs_from_math_verify_where_values_are_equal(reference):
    """D09: the choice of the verifier changes rewards."""
    responses = [box("0.25"), box("\\frac{1}{4}"), box("1/3"), "The answer is $1/4$"]
    string = grade(responses, ["1/4"] * 4, method="string_match")
    assert [v.correct for v in string] == [False, True, False, False]
    assert [v.status for v in string] == ["ok", "ok", "ok", "no_answer"]
    assert [v.extracted for v in string] == ["0.25", "\\frac{1}{4}", "1/3", None]
    assert [v.correct for v in reference.grade(responses, ["1/4"] * 4)] == [True, True, False, True]


# ---------------------------------------------------------------------------------------------- arithmetic

OPERATORS = {
    "+": "+",
    "-": "-",
    "*": "*",
    "\u2212": "-",
    "\u00d7": "*",
    "\u2217": "*",
    "\\times": "*",
    "\\cdot": "*",
}
SPACES = ("", " ", "  ", "\n", "\t")


def random_expression(random: np.random.Generator, depth: int) -> tuple[str, str]:
    """Return an expression of the grammar and the same one in Python's notation."""

    def pick(options):
        return options[int(random.integers(len(options)))]

    draw = random.random()
    if depth == 0 or draw < 0.2:
        digits = str(pick([0, 1, 7, int(random.integers(100)), int(random.integers(10**12))]))
        return "0" * int(random.integers(3)) * (random.random() < 0.1) + digits, digits
    if draw < 0.4:
        text, python = random_expression(random, depth - 1)
        return f"({pick(SPACES)}{text}{pick(SPACES)})", f"({python})"
    if draw < 0.5:
        text, python = random_expression(random, depth - 1)
        sign = pick(["-", "+", "\u2212"])
        return f"({sign}{pick(SPACES)}{text})", f"({OPERATORS[sign]}{python})"
    left, python_left = random_expression(random, depth - 1)
    right, python_right = random_expression(random, depth - 1)
    operator = pick(list(OPERATORS))
    return (
        f"{left}{pick(SPACES)}{operator}{pick(SPACES)}{right}",
        f"{python_left}{OPERATORS[operator]}{python_right}",
    )


def test_evaluate_arithmetic_is_python_arithmetic():
    random = generator(0, "test", "arithmetic")
    inside = 0
    for _ in range(5000):
        text, python = random_expression(random, int(random.integers(1, 6)))
        value = evaluate_arithmetic(text)
        inside += value is not None
        assert value is None or value == eval(python), text  # built by this test from digits and operators
        assert (value is None) == (len(text) > MAX_ARITHMETIC_CHARACTERS), text
    assert inside > 4000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("( 6 + 7 ) * 3 - 2", 37),
        ("((6+7)-3)*2", 20),
        ("--7", 7),
        ("3 - - 4", 7),
        ("3*-2", -6),
        ("2 \\times 3 \\cdot 4", 24),
        ("007", 7),
        ("(" * MAX_ARITHMETIC_DEPTH + "5" + ")" * MAX_ARITHMETIC_DEPTH, 5),
        ("9" * MAX_ARITHMETIC_CHARACTERS, int("9" * MAX_ARITHMETIC_CHARACTERS)),
    ],
)
def test_evaluate_arithmetic_inside_the_grammar(text, value):
    assert evaluate_arithmetic(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            " ",
            "()",
            "6 7",
            "(6)(7)",
            "2(3)",
            "(2)3",
            "6+",
            "*6",
            "6**2",
            "6/2",
            "2^3",
            "(6",
            "6)",
            "6=6",
        ],
        *["1,000", "1.0", "x", "\u0663", "6\\timesx", "\\cdots 6", "3 + \\", "7%"],
        "9" * (MAX_ARITHMETIC_CHARACTERS + 1),
        "(" * (MAX_ARITHMETIC_DEPTH + 1) + "5" + ")" * (MAX_ARITHMETIC_DEPTH + 1),
    ],
)
def test_evaluate_arithmetic_outside_the_grammar(text):
    assert evaluate_arithmetic(text) is None


@settings(max_examples=500)
@given(st.text(alphabet="0179+-*() \\timescdot\u2212\u00d7=,.", max_size=40))
def test_evaluate_arithmetic_accepts_only_what_python_accepts_too(text):
    value = evaluate_arithmetic(text)
    if value is not None:
        for sign, python in OPERATORS.items():
            text = text.replace(sign, python)
        text = re.sub(r"\b0+(?=[0-9])", "", "".join(text.split()))
        assert re.fullmatch(r"[-0-9+*()]+", text)
        assert value == eval(text)


# ---------------------------------------------------------------------------------- parity with math-verify


def direct_and_processed(reference: Verifier, pairs: list[tuple[str, str]]) -> list[tuple]:
    """Return (answer, gold, verdict without a process, verdict of math-verify in a process)."""
    direct = [verifier_module._grade_directly(box(answer), gold)[0] for answer, gold in pairs]
    processed = reference._verify_items(list(dict.fromkeys((gold, box(answer)) for answer, gold in pairs)))
    return [
        (answer, gold, verdict, processed[gold, box(answer)])
        for (answer, gold), verdict in zip(pairs, direct, strict=True)
    ]


def assert_parity(rows: list[tuple]) -> None:
    for answer, gold, direct, processed in rows:
        assert direct is not None, f"{answer!r} should need no process"
        assert (direct.correct, direct.status) == (processed.correct, processed.status), (answer, gold)
        assert direct.canonical == processed.canonical, (answer, gold)


def test_short_expressions_get_math_verifys_verdict(reference):
    tokens = ["0", "7", "12", "+", "-", "*", "(", ")", " ", "\\times ", "\u2212"]
    pairs = []
    for length in (1, 2, 3, 4):
        random = generator(0, "test", "short expressions", length)
        for sequence in itertools.product(tokens, repeat=length):
            text = "".join(sequence)
            value = evaluate_arithmetic(text)
            if value is not None and text == text.strip() and (length < 4 or random.random() < 0.2):
                pairs.append((text, str(value if len(pairs) % 3 else value + 1)))
    assert len(pairs) > 300
    rows = direct_and_processed(reference, pairs)
    assert {row[2].correct for row in rows} == {True, False}
    assert_parity(rows)


def test_random_expressions_get_math_verifys_verdict(reference):
    random = generator(0, "test", "parity")
    pairs = []
    while len(pairs) < 150:
        text, _ = random_expression(random, int(random.integers(2, 5)))
        value = evaluate_arithmetic(text)
        if value is not None:
            wrong = int(random.choice([-1, 1, 10])) * (random.random() < 0.5)
            sign = "-" if random.random() < 0.2 and not wrong else ""
            pairs.append((text, str(value + wrong) if not sign else str(-value)))
    assert_parity(direct_and_processed(reference, pairs))


def test_labelled_integers_get_math_verifys_verdict(reference):
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    forms = [f"{letter} = 12" for letter in letters] + [
        "$12",
        "\\$12",
        "\\$ 12",
        "x=\\$12",
        "x=-12",
        "x = 3 * 4",
        "n=(5+7)",
        "\\$-12",
    ]
    pairs = [(form, gold) for form in forms for gold in ("12", "-12", "13")]
    assert all(read_integer(form) is not None for form in forms)
    assert_parity(direct_and_processed(reference, pairs))


def test_the_bounds_of_the_grammar_get_math_verifys_verdict(reference):
    deep = "(" * MAX_ARITHMETIC_DEPTH + "5" + ")" * MAX_ARITHMETIC_DEPTH
    long = "+".join(["1"] * (MAX_ARITHMETIC_CHARACTERS // 2))
    big = "9" * MAX_ARITHMETIC_CHARACTERS
    pairs = [
        (deep, "5"),
        (deep, "6"),
        (long, "100"),
        (long, "101"),
        (big, str(int(big))),
        (big, str(int(big) - 1)),
    ]
    assert_parity(direct_and_processed(reference, pairs))


def test_an_answer_written_like_the_gold_is_correct(reference):
    """The shortcut for equal texts with a digit is math-verify's verdict, also where sympy cannot compare."""
    texts = [
        "\\frac{1}{0}",
        "\\frac{0}{0}",
        "3 \\mathrm{th}",
        "2 apples",
        "x = 3",
        "1, 2",
        "[1,2)",
        "7.",
        "\u0663 1",
    ]
    assert_parity(direct_and_processed(reference, [(text, text) for text in texts]))


def gold_answers(folder) -> list[str]:
    """Return gold answers of all kinds: every text of MATH-500 and OlympiadBench, and a few of GSM8K."""
    golds = []
    for name, field in (("math500", "answer"), ("olympiadbench", "final_answer"), ("gsm8k_test", "answer")):
        for line in (folder / f"{name}.jsonl").read_text().splitlines():
            value = json.loads(line)[field]
            golds += value or [] if isinstance(value, list) else [value.partition("#### ")[2] or value]
    return [gold.strip() for gold in dict.fromkeys(golds) if len(gold) < MAX_ANSWER_CHARACTERS]


def reference_rows(real_data) -> list[tuple[str, str]]:
    """Real golds in sentences, in boxes, written differently, swapped; and the recorded bug reports."""
    random = generator(0, "test", "real answers")
    golds = [str(gold) for gold in random.choice(gold_answers(real_data), size=60, replace=False)]
    others = [str(gold) for gold in random.permutation(golds)]
    forms = ["\\boxed{%s}", "The final answer is $%s$. I hope it is correct.", "So $x$ is $%s$.", "Answer: %s",
             "\\[ \\boxed{%s} \\]\n\\[ y \\]",
             "We try \\boxed{5}, and then \\boxed{%s}.", "$\\boxed{%s}$\\%%"]  # fmt: skip
    rows = [(forms[i % len(forms)] % gold, gold) for i, gold in enumerate(golds)]
    rows += [(box(other), gold) for other, gold in zip(others, golds, strict=True)]
    return rows + [(case["response"], case["gold"]) for case in CASES]


def test_the_reference_is_bare_math_verify(reference, real_data):
    """``method="math_verify"`` is math-verify's loop with its defaults, whatever that says."""
    rows = reference_rows(real_data)
    verdicts = reference.grade([response for response, _ in rows], [gold for _, gold in rows])
    for (response, gold), verdict in zip(rows, verdicts, strict=True):
        expected = verify(
            parse(f"${gold}$", parsing_timeout=None),
            parse(response, parsing_timeout=None),
            timeout_seconds=None,
        )
        assert verdict.correct == expected, (response, gold, verdict)
    assert {verdict.correct for verdict in verdicts} == {True, False}


# ------------------------------------------------------------------------------- what is read, and how golds are


@pytest.mark.parametrize(
    ("response", "gold", "correct", "extracted"),
    [
        ("We get \\boxed{1}. No: \\boxed{\\frac{2}{4}}", "\\frac{1}{2}", True, "\\frac{2}{4}"),
        ("We get \\boxed{\\frac12}. No: \\boxed{\\frac13}", "\\frac{1}{2}", False, "\\frac13"),
        ("Answer: 34", "34", True, "34"),
        ("hence the sum is $\\frac{3}{4}$.", "0.75", True, "\\frac{3}{4}"),
        ("first 34" + " and so on" * MAX_TAIL_CHARACTERS, "34", False, None),
        ("\\boxed{\\sqrt{8}}", "$2\\sqrt{2}$", True, "\\sqrt{8}"),
        ("\\boxed{\\sqrt{8}}", "So it is \\boxed{2\\sqrt{2}}.", True, "\\sqrt{8}"),
        ("\\boxed{x=\\frac{3}{2}}", "\\frac32", True, "x=\\frac{3}{2}"),
        ("\\boxed{\\text{(B)}}", "B", True, "\\text{(B)}"),
        ("\\boxed{\\frac13 E_{1}+\\frac23 E_{2}}", "\\frac{2}{3}", False, "\\frac13 E_{1}+\\frac23 E_{2}"),
        ("\\boxed{I(0)\ne^{-t}}", "I(0) e^{-t}\n", True, "I(0)\ne^{-t}"),
    ],
)  # fmt: skip
def test_what_is_graded(verifier, response, gold, correct, extracted):
    (verdict,) = verifier.grade([response], [gold])
    assert (verdict.correct, verdict.extracted) == (correct, extracted)
    assert verdict.status == ("no_answer" if extracted is None else "ok")


def test_no_answer(verifier):
    responses = ["", "   ", "no idea", "\\boxed{}", box("1+" * MAX_ANSWER_CHARACTERS + "1")]
    assert verifier.grade(responses, ["3"] * 5) == [Verdict(False, "no_answer", None, None)] * 5


def test_order_is_kept_and_repeats_are_graded_alike(verifier):
    random = generator(0, "test", "order")
    kinds = [
        ("\\frac{2}{4}", "0.5", True),
        ("\\frac{2}{5}", "0.5", False),
        ("6*7", "42", True),
        ("x+1", "1+x", True),
        ("x-1", "1+x", False),
    ]
    rows = [kinds[i] for i in random.integers(len(kinds), size=400)]
    verdicts = verifier.grade([box(answer) for answer, _, _ in rows], [gold for _, gold, _ in rows])
    assert [(v.extracted, v.correct) for v in verdicts] == [(answer, correct) for answer, _, correct in rows]
    assert verdicts == verifier.grade([box(answer) for answer, _, _ in rows], [gold for _, gold, _ in rows])


@pytest.mark.parametrize(
    ("answers", "votes"),
    [
        (["13", "6+7", "13.0", "x=13", "\\frac{26}{2}", "13\\%"], 1),
        (["\\sqrt{8}", "2\\sqrt{2}", "\\frac{4}{\\sqrt{2}}"], 1),
        (["1,2", "\\{2, 1\\}", "\\frac{2}{2}, 2"], 1),
        (["\\frac{1}{3}", "\\frac{2}{6}", "0.333"], 2),
        (["(1,2)", "[1,2)", "(2,1)"], 3),
        (["x+1", "1+x", "x+2"], 2),
    ],
)
def test_votes_of_wrong_answers(verifier, answers, votes):
    verdicts = verifier.grade([box(answer) for answer in answers], ["-99"] * len(answers))
    assert {v.status for v in verdicts} == {"ok"}
    assert not any(v.correct for v in verdicts)
    assert len({v.canonical for v in verdicts}) == votes


def test_correct_answers_vote_together_and_with_no_wrong_one(verifier):
    answers = ["\\frac{1}{2}", "0.5", "50\\%", "x=1/2", "1/3", "\\frac{2}{3}"]
    verdicts = verifier.grade([box(answer) for answer in answers], ["\\dfrac12"] * len(answers))
    assert [v.correct for v in verdicts] == [True] * 4 + [False] * 2
    assert {v.canonical for v in verdicts if v.correct} == {"\\frac{1}{2}"}
    # "6 7" is no number, so it is wrong against 67 though its text without spaces is 67.
    (wrong,) = verifier.grade([box("6 7")], ["67"])
    assert (wrong.correct, wrong.canonical) == (False, "not 67")
    assert verifier_module._vote(False, "6 7", None, "67") != verifier_module._vote(True, "67", None, "67")


# ---------------------------------------------------------------------------------------------- lost processes


def workers_of(verifier: Verifier) -> list[psutil.Process]:
    return psutil.Process(verifier._server.pid).children()


def test_a_hanging_item_times_out_alone():
    rows = [(f"\\frac{{{i}}}{{7}}", f"\\frac{{{2 * i}}}{{14}}") for i in range(1, 41)]
    rows.insert(3, (HANG, "5"))
    rows.insert(20, (f"{HANG}+1", "\\frac{2}{14}"))  # in the middle of another gold's answers
    with Verifier(timeout_s=1.5, workers=2, method="math_verify") as verifier:
        verdicts = verifier.grade([box(answer) for answer, _ in rows], [gold for _, gold in rows])
        assert Counter(v.status for v in verdicts) == {"ok": 40, "timeout": 2}
        assert [v.status == "timeout" for v in verdicts] == [HANG in answer for answer, _ in rows]
        assert all(v.correct for v in verdicts if v.status == "ok")
        assert verdicts[3] == Verdict(False, "timeout", None, None)
        assert not any(v.correct for v in verdicts if v.status == "timeout")
        assert len(workers_of(verifier)) == 2


def test_the_careful_grader_has_the_same_limits():
    """What it leaves to algebra may hang; powers that no memory holds are compared as they are written."""
    answers = ["\\sum_{k=1}^{1000000000} k^{k}", HANG, "9e999999", "2^{2^{2^{2^{2^{2}}}}}", "\\frac{2}{6}"]
    golds = ["\\int_0^1 x dx", "5", "8e999999", "7", "\\frac{1}{3}"]
    verdicts = grade([box(answer) for answer in answers], golds, timeout_s=2.0, workers=1)
    assert [v.status for v in verdicts] == ["timeout", "ok", "ok", "ok", "ok"]
    assert [v.correct for v in verdicts] == [False] * 4 + [True]
    assert verdicts[0].extracted == answers[0]


def test_time_in_the_queue_does_not_count():
    """One worker, four hanging items: the last starts after three time-outs and is still graded on its own time."""
    responses = [box(f"{HANG}+{i}") for i in range(3)] + [box("\\frac{2}{6}")]
    verdicts = grade(responses, ["\\frac{1}{3}"] * 4, timeout_s=1.0, workers=1, method="math_verify")
    assert [v.status for v in verdicts] == ["timeout"] * 3 + ["ok"]
    assert verdicts[3].correct


def test_an_item_that_eats_memory_is_an_error_alone():
    responses = [box("\\frac{2}{6}"), box("(x+1)^{100000}"), box("\\frac{3}{9}"), box("x+1")]
    verdicts = grade(
        responses,
        ["\\frac{1}{3}", "x+2", "\\frac{1}{3}", "1+x"],
        timeout_s=TIMEOUT_S,
        workers=1,
        memory_mb=256,
        method="math_verify",
    )
    assert [(v.status, v.correct) for v in verdicts] == [
        ("ok", True),
        ("error", False),
        ("ok", True),
        ("ok", True),
    ]


def test_a_killed_worker_costs_one_item():
    rows = [(f"{HANG}", "5")] + [(f"\\frac{{{i}}}{{7}}", f"\\frac{{{2 * i}}}{{14}}") for i in range(1, 21)]
    with Verifier(timeout_s=TIMEOUT_S, workers=1, method="math_verify") as verifier:
        verifier.grade([box("x")], ["y"])  # the processes run
        (victim,) = workers_of(verifier)

        def kill_when_busy():
            idle = victim.cpu_times().user
            while victim.cpu_times().user < idle + 0.3:  # it is deep in the hanging item
                time.sleep(0.02)
            victim.kill()

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        verdicts = verifier.grade([box(answer) for answer, _ in rows], [gold for _, gold in rows])
        killer.join()
        assert [v.status for v in verdicts] == ["error"] + ["ok"] * 20
        assert all(v.correct for v in verdicts[1:])
        (heir,) = workers_of(verifier)
        heir.kill()  # while idle: no item is lost
        while heir.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert verifier.grade([box("\\frac{2}{6}")], ["\\frac{1}{3}"])[0].correct


def test_a_killed_server_is_replaced_and_no_item_is_lost():
    rows = [(f"\\frac{{{i}}}{{7}}", f"\\frac{{{2 * i}}}{{14}}") for i in range(1, 80)]
    with Verifier(timeout_s=TIMEOUT_S, workers=2, method="math_verify") as verifier:
        verifier.grade([box("x")], ["y"])
        server = verifier._server
        threading.Timer(0.05, lambda: os.kill(server.pid, signal.SIGKILL)).start()
        verdicts = verifier.grade([box(answer) for answer, _ in rows], [gold for _, gold in rows])
        assert {(v.status, v.correct) for v in verdicts} == {("ok", True)}


def test_a_server_that_cannot_run_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        Verifier(timeout_s=1, workers=1, method="math_verify") as verifier,
        pytest.raises(RuntimeError, match="died twice"),
    ):
        verifier.grade([box("x+1")], ["x"])


def test_close_ends_every_process_even_in_the_middle_of_an_item():
    verifier = Verifier(timeout_s=TIMEOUT_S, workers=2, method="math_verify")
    verifier.grade([box("x")], ["y"])
    processes = [psutil.Process(verifier._server.pid), *workers_of(verifier)]
    request = json.dumps([["5", [[0, box(HANG)]]]]).encode() + b"\n"
    verifier._server.stdin.write(request)
    verifier._server.stdin.flush()
    verifier.close()
    _, alive = psutil.wait_procs(processes, timeout=TIMEOUT_S / 2)
    assert not alive
    assert verifier.grade([box("\\frac{2}{6}")], ["\\frac13"])[0].correct  # and it can start again
    verifier.close()


def test_a_forked_child_starts_a_server_of_its_own():
    """The pipes of the parent's are shared: who reads first would have the other's verdicts."""
    rows = [(f"\\frac{{{i}}}{{7}}", f"\\frac{{{2 * i}}}{{14}}") for i in range(1, 40)]
    responses = [box(answer) for answer, _ in rows]
    with Verifier(timeout_s=TIMEOUT_S, workers=1, method="math_verify") as verifier:
        verifier.grade([box("x")], ["y"])
        server = verifier._server
        with verifier._lock:  # as another thread may hold it
            child = os.fork()
        if child == 0:
            wrong = None
            try:
                signal.alarm(int(TIMEOUT_S))
                wrong = not any(v.correct for v in verifier.grade(responses, ["x"] * len(rows)))
                verifier.close()
            finally:
                os._exit(0 if wrong else 1)
        right = all(v.correct for v in verifier.grade(responses, [gold for _, gold in rows]))
        assert (right, os.waitpid(child, 0)[1]) == (True, 0)
        assert verifier._server is server
        assert verifier.grade([box("\\frac{2}{6}")], ["\\frac{1}{3}"])[0].correct


def test_integers_need_no_process():
    with Verifier(timeout_s=1, workers=1, method="math_verify") as verifier:
        verdicts = verifier.grade([box("( 6 + 7 ) * 2"), box("-3"), box("x = 4")], ["26", "3", "4"])
        assert [v.correct for v in verdicts] == [True, False, True]
        assert [v.canonical for v in verdicts] == ["26", "-3", "4"]
        assert verifier._server is None


def test_threads_take_turns(verifier):
    results: dict[int, list[Verdict]] = {}

    def run(k: int) -> None:
        results[k] = verifier.grade(
            [box(f"\\frac{{{i}}}{{{k}}}") for i in range(1, 30)], ["\\frac{1}{3}"] * 29
        )

    threads = [threading.Thread(target=run, args=(k,)) for k in (3, 6, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in (3, 6, 9):
        assert [v.correct for v in results[k]] == [3 * i == k for i in range(1, 30)]


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
        ({"method": "exact"}, "method is 'exact': allowed are careful, math_verify, string_match"),
        ({"memory_mb": 10}, "memory_mb is 10"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        Verifier(**arguments)


@pytest.mark.parametrize(
    ("responses", "answers", "message"),
    [
        ("a", ["1"], "responses is a string"),
        (["a"], "1", "answers is a string"),
        (["a"], [], "1 responses but 0 answers"),
        (["a", None], ["1", "2"], "response 1 is NoneType"),
        (["a", "b"], ["1", 2], "answer 1 is int"),
    ],
)
@pytest.mark.parametrize("method", ["careful", "math_verify", "string_match"])
def test_bad_rows(responses, answers, message, method):
    with pytest.raises(ValueError, match=message):
        grade(responses, answers, method=method)


def test_nothing_to_grade():
    assert grade([], []) == []


@pytest.mark.parametrize("method", ["careful", "math_verify", "string_match"])
def test_a_gold_that_cannot_be_graded_is_its_rows_status(method):
    golds = ["5", "1" * (MAX_ANSWER_CHARACTERS + 1), " ", "\\boxed{}", "5"]
    verdicts = grade([box("5")] * 5, golds, method=method, timeout_s=TIMEOUT_S)
    assert [v.status for v in verdicts] == ["ok", "error", "error", "error", "ok"]
    assert [v.correct for v in verdicts] == [True, False, False, False, True]
    assert check_gold(golds[1]) == "the gold answer has 1,001 characters: at most 1,000 are graded"
    assert "may not be empty" in check_gold(" ")
    assert check_gold("5") is None
