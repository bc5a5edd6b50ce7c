"""The careful grader: the recorded bug reports, a sample of pairs of every notation, and the data sets' golds."""

import json
from itertools import permutations
from pathlib import Path

import pytest

from answer_pairs import PAIRS, boxed, unclosed
from ead.seeds import generator
from ead.verifier import Verifier, careful
from ead.verifier.notation import read
from ead.verifier.reading import read_answers

CASES = json.loads(Path(__file__).with_name("answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout_s=30, workers=2) as shared:
        yield shared


def test_every_recorded_report_is_graded_right(verifier):
    verdicts = verifier.grade([case["response"] for case in CASES], [case["gold"] for case in CASES])
    assert [v.correct for v in verdicts] == [case["right"] for case in CASES]


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("\\boxed{9.1e-31}", "1.6e-19", False),
        ("\\boxed{\\frac{1}{2^{70}}}", "\\frac{1}{2^{71}}", False),
        ("**Answer:** C", "C", True),
        ("**Answer:** C", "D", False),
        ("\\boxed{A, B, C, D}", "A", False),
        ("\\boxed{3}, no, \\boxed{4}", "3,4", False),
        ("\\boxed{½}", "0.5", True),
        ("\\boxed{2 + 3i} or \\boxed{2 - 3i}", "2 \\pm 3i", True),
        ("The answer is $3$ and $4$.", "3,4", True),
        ("so it is 4.\n#### 4", "4", True),
        ("\\boxed{x > 3}", "(3, \\infty)", True),
        ("\\boxed{\\text{Friday}}", "\\text{friday}", True),
        ("\\boxed{east}", "\\text{west}", False),
        ("\\boxed{\\sqrt{x^2}}", "x", False),
        ("\\boxed{3, 3, 4}", "3, 4", False),
        ("\\boxed{10, 000}", "10000", False),
        ("\\boxed{3}. Wait, that is wrong. \\boxed{4}", "3,4", False),
        ("\\boxed{5} ... \\boxed{", "5", False),
        ("$\\boxed 17$", "17", True),
        ("Answer: `C`", "C", True),
        ("the answer is B) 12", "B", True),
        ("The answer is (A)", "A", True),
        ("答案是 5。", "5", True),
        ("所以答案为：$\\frac{1}{2}$。", "1/2", True),
        ("答案是B", "A", False),
        ("\\boxed{x=3} \\boxed{y=4}", "x=3,y=4", True),
        ("\\boxed{4} or \\boxed{5}", "5", False),
        ("\\boxed{5}, \\boxed{5}", "5", True),
        ("The answer is 5 or 6", "5", False),
        ("The answer is not 5", "5", False),
        ("Is the answer 5? No, the answer is 6", "5", False),
        ("Answer: 1,234", "1234", True),
        ("The answer is 3.", "3.5", False),
        ("The answer is $\\{1, 2\\}$", "1,2", True),
        ("<answer>5</answer>", "5", True),
        ("The answer is $5$ or maybe $6$.", "5", False),
        ("The answer is $5$, possibly $6$.", "5", False),
        ("The answer is `5` or 6", "5", False),
        ("The answer is 5 (or 6)", "5", False),
        ("The answer is 5 (wrong)", "5", False),
        ("The answer is definitely not ever 5", "5", False),
        ("The answer is one of the numbers 3, 4, 5", "5", False),
        ("answer: 3 4 5", "5", False),
        ("The answer is $x=3$ or $x=4$.", "3,4", True),
        ("So the answer is 42 apples.", "42", True),
        (r"\boxed{6, \boxed{5}}", "5", False),
        (r"\boxed{5 \text{ or } \boxed{6}}", "6", False),
        (r"\boxed{\boxed{5}}", "5", True),
    ],
)
def test_others_of_the_same_kinds(verifier, response, gold, right):
    (verdict,) = verifier.grade([response], [gold])
    assert verdict.correct == right, verdict


EQUAL = json.loads(Path(__file__).with_name("equal_answers.json").read_text(encoding="utf-8"))


def test_equal_and_different_answers_of_many_notations(verifier):
    """Written by hand: what a gold answer of each notation equals, and what is like it and is another answer."""
    rows = [(entry["gold"], answer, right) for entry in EQUAL for right, name in ((True, "equal"), (False, "different"))
            for answer in entry.get(name, ())]  # fmt: skip
    verdicts = verifier.grade(
        [f"So \\boxed{{{answer}}}" for _, answer, _ in rows], [gold for gold, *_ in rows]
    )
    assert [row for row, v in zip(rows, verdicts, strict=True) if v.correct != row[2]] == []


@pytest.mark.parametrize(
    "answer",
    [
        r"x=\sqrt[(9^{10^9})]{-2}=5",
        r"x = \sqrt[((9^{10^9})^{10^9})]{-2} = 5",
        r"x=\max(i,2)=5",
        r"9^{4000} \cdot 9^{2000}",
        r"\min(x,i)",
    ],
)
def test_an_answer_that_cannot_be_evaluated_is_wrong_and_touches_no_other(verifier, answer):
    rows = [f"\\boxed{{{text}}}" for text in ("5", answer, "4")]
    verdicts = verifier.grade(rows, ["5"] * 3)
    assert [(v.status, v.correct) for v in verdicts] == [("ok", True), ("ok", False), ("ok", False)]


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("3", "math.log(8, 2)", True),
        ("\\ln 8", "log(8, 2)", False),
        ("2", "sqrt(4, 9)", False),
        ("e", "exp(1, 5)", False),
        ("3", "abs(3, 4)", False),
        ("6", "factorial(3, 9)", False),
        ("3", "log(8, 2, 5)", False),
        ("3", "ln(8, 2)", False),
        ("0", "log(8, 0)", False),
        ("0", "\\log_0 8", False),
        ("9", "max(3, 9)", True),
        ("2", "gcd(4, 6)", True),
    ],
)
def test_no_argument_of_a_function_is_dropped(verifier, gold, answer, right):
    assert verifier.grade([f"\\boxed{{{answer}}}"], [gold])[0].correct is right


@pytest.mark.parametrize(
    ("gold", "answer"), [("9", "The answer is sqrt(4, 9)."), ("1000", "The answer is sqrt(1,000).")]
)
def test_an_argument_too_many_is_no_answer_of_its_own(verifier, gold, answer):
    assert not verifier.grade([answer], [gold])[0].correct


@pytest.mark.parametrize("text", [r"1.5e3\overline{3}", r"1.25e1\overline{3}"])
def test_digits_that_repeat_behind_a_power_of_ten_cost_their_own_row_only(verifier, text):
    verdicts = verifier.grade([f"\\boxed{{{text}}}", "\\boxed{2}", "\\boxed{3}"], ["1", "2", text])
    assert [(v.status, v.correct) for v in verdicts] == [("ok", False), ("ok", True), ("ok", False)]


def test_an_answer_that_takes_too_deep_a_stack_is_graded_in_a_process(verifier):
    def deeper(calls: int):
        return deeper(calls - 1) if calls else verifier.grade(["\\boxed{" + "A. " * 330 + "5}"], ["5"])

    assert deeper(700)[0].status == "ok"


@pytest.mark.parametrize("kind", PAIRS)
def test_equal_answers_are_accepted_and_no_unequal_one(verifier, kind):
    """Some of the campaign tests/faults/grade_pairs.py, whose record is docs/records/grade_pairs.json."""
    random = generator(0, "test", "answer pairs", kind)
    drawn = [PAIRS[kind](random) for _ in range(25)]
    golds = [gold for gold, _, _ in drawn]
    right = verifier.grade([boxed(random, answer, wrong) for _, answer, wrong in drawn], golds)
    assert [row for row, v in zip(drawn, right, strict=True) if not v.correct] == []
    wrong = verifier.grade([boxed(random, answer, other) for _, other, answer in drawn], golds)
    assert [row for row, v in zip(drawn, wrong, strict=True) if v.correct] == []
    cut_off = verifier.grade([unclosed(answer) for _, answer, _ in drawn], golds)
    assert {v.status for v in cut_off} == {"no_answer"}


def test_verdict_and_vote_agree(verifier):
    """What is equal votes together, though the vote never sees the gold answer."""
    answers = ["10\\,000", "10000", "10,000", "1e4", "10 000", "10^4"]
    votes = {v.canonical for v in verifier.grade([f"\\boxed{{{a}}}" for a in answers], ["7"] * len(answers))}
    assert votes == {"10000"}
    assert all(
        v.correct for v in verifier.grade([f"\\boxed{{{a}}}" for a in answers], ["10\\,000"] * len(answers))
    )


def test_the_parser_bounds_its_work():
    for text in (
        "(" * 900,
        "-" * 900,
        "\\sqrt" * 150,
        "{" * 400 + "}" * 400,
        "2^" * 400 + "2",
        "|" * 900,
        "1," * 450,
    ):
        careful.decide("5", text, exact=True)
    assert read_answers("\\boxed{" * 50_000) == []
    assert len(read_answers("\\boxed{1}," * 20_000)) == 1
    assert len(read_answers("\\boxed{" * 20_000 + "5" + "}" * 20_000)) == 1
    for text in (
        "\\frac{ " * 150 + "word",
        "\\sqrt" * 190 + "words",
        "$" * 900 + "x",
        "answer is " * 90,
        "\n" * 900,
    ):
        read_answers(text)
    assert read("9e999999").exponent == 999999


GOLDS = ("aime24", "aime25", "amc23", "math500", "minerva_math", "olympiadbench", "gsm8k_test", "math_test")


@pytest.fixture(scope="module")
def golds(real_data, tmp_path_factory):
    from reproduction.data import read_dataset
    from reproduction.data.prepare import prepare_dataset
    from reproduction.data.table import load_datasets
    from reproduction.tasks.grading import problems_of

    folder, found = tmp_path_factory.mktemp("golds"), {}
    for name in GOLDS:
        path = folder / f"{name}.parquet"
        prepare_dataset(name, load_datasets()[name], path, path.with_suffix(".json"), real_data=real_data)
        found[name] = problems_of(read_dataset(path))
    return found


@pytest.mark.parametrize("name", GOLDS)
def test_every_gold_equals_itself_and_its_published_form(verifier, golds, name):
    pairs = {(p.answer, p.answer.replace("\\frac", "\\dfrac") + " ") for p in golds[name]}
    pairs |= {(p.answer, published) for p in golds[name] if (published := p.details.get("published_answer"))}
    pairs |= {(published, gold) for gold, published in pairs}
    rows = sorted(pairs)
    verdicts = verifier.grade([f"\\boxed{{{answer}}}" for _, answer in rows], [gold for gold, _ in rows])
    assert [(row, v) for row, v in zip(rows, verdicts, strict=True) if not v.correct] == []


def test_a_gold_with_another_digit_or_sign_is_another_answer(verifier, golds):
    random = generator(0, "test", "changed golds")
    rows = []
    for gold in sorted({p.answer for name in GOLDS for p in golds[name]}):
        digits = [at for at, character in enumerate(gold) if character in "0123456789"]
        changed = [gold[1:] if gold.startswith("-") else f"-{gold}"] if gold[0] in "-123456789" else []
        for _ in range(2 if digits else 0):
            at = digits[int(random.integers(len(digits)))]
            changed.append(f"{gold[:at]}{(int(gold[at]) + int(random.integers(1, 10))) % 10}{gold[at + 1 :]}")
        rows += [(gold, text) for text in changed if text != gold]
    verdicts = verifier.grade([f"\\boxed{{{text}}}" for _, text in rows], [gold for gold, _ in rows])
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.correct] == []


REVIEWED = Path(__file__).with_name("equal_golds.json")


@pytest.mark.parametrize("name", GOLDS)
def test_no_two_golds_are_equal_unless_a_person_said_so(golds, name):
    """Equal golds are in one of the lists of equal_golds.json, under the reason why they are equal.

    What is equal votes together, or is equal to a precision only; so pairs within each vote are compared.
    """
    votes: dict[str, set[str]] = {}
    for answer in {p.answer for p in golds[name]}:
        votes.setdefault(careful.vote(answer), set()).add(answer)
    reviewed: dict[str, list[set[str]]] = {}
    for lists in json.loads(REVIEWED.read_text(encoding="utf-8")).values():
        for equal in lists:
            for gold in equal:
                reviewed.setdefault(gold, []).append(set(equal))
    assert [
        (gold, answer)
        for group in votes.values()
        for gold, answer in permutations(sorted(group), 2)
        if careful.decide(gold, answer, exact=False).correct
        and not any(answer in equal for equal in reviewed.get(gold, ()))
    ] == []
