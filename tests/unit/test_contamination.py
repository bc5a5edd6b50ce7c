"""Problems that a training and an evaluation set share."""

import pandas as pd
import pytest

from reproduction.data import make_row, read_dataset
from reproduction.data.contamination import MINIMUM, THRESHOLD, N, find_shared, normalise, report
from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import load_datasets

LONG = (
    "A farmer has $12$ sheep and $30$ hens on two fields. Each week he sells one third of the sheep and buys "
    "as many hens as he sold. How many animals does he own after three weeks?"
)


def frame(*problems: str, name: str = "d") -> pd.DataFrame:
    rows = [
        make_row(
            data_source=name,
            prompt=[{"role": "user", "content": f"{problem} Let's think step by step."}],
            ground_truth="1",
            id=f"{name}/{number}",
            index=number,
            split="test",
            details={"problem": problem},
        )
        for number, problem in enumerate(problems)
    ]
    return pd.DataFrame(rows)


def kinds(training: str, evaluation: str) -> list[str]:
    return [pair.kind for pair in find_shared(frame(training, name="t"), frame(evaluation, name="e"))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $x^2$?", "What  is\n$x^2$ ?"),
        (r"Find $\dfrac{1}{2}$.", r"find $ \frac{1}{2} $"),
        (r"Find $\left( a, b \right)$", r"Find \(( a,b )\)"),
        (r"$1,2,\ldots$ and $x \leq 3$", r"$1, 2, \dots$ and $x \le 3$"),
        ("If ｘ = １", "if x = 1"),
    ],
)
def test_layout_does_not_tell_problems_apart(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is $x^2 + 1$?", "What is $x^2 - 1$?"),
        ("What is 12?", "What is 1 2?"),
        (r"$\sin x$", r"$\cos x$"),
        (r"$x \le 3$", "$x < 3$"),
    ],
)
def test_meaning_does(one, other):
    assert normalise(one) != normalise(other)


def test_the_four_kinds():
    assert kinds(LONG, LONG) == ["verbatim"]
    assert kinds(LONG, LONG.replace("$12$", r"\(12\)").replace("?", ".")) == ["exact"]
    assert kinds(LONG + " Give the last digit of the sum.", LONG) == ["overlap"]
    assert kinds(LONG.replace("12", "18"), LONG) == ["variant"]
    assert kinds("What is the area of a circle with a radius of five feet, to the nearest inch?", LONG) == []


def test_short_problems_are_compared_whole():
    short = "What is $1 + 1$?"
    assert kinds(short, short) == ["verbatim"]
    assert kinds(short + " Round to tens.", short) == []


def test_coverage_is_the_share_of_the_evaluation_problems_ngrams():
    words = [f"w{'abcdefghijklmnopqrstuvwxyz'[i]}" for i in range(26)]
    evaluation = " ".join(words)  # 26 tokens
    kept = 21
    (pair,) = find_shared(frame(" ".join(words[:kept])), frame(evaluation))
    assert pair.coverage == pytest.approx((kept - N + 1) / (26 - N + 1), abs=1e-4)
    assert pair.coverage >= THRESHOLD
    assert 26 - N + 1 >= MINIMUM


def test_every_training_copy_of_a_problem_is_listed():
    shared = find_shared(frame(LONG, "Other?", LONG + " ", name="t"), frame("One?", LONG, name="e"))
    assert [(pair.evaluation_id, pair.training_id) for pair in shared] == [("e/1", "t/0"), ("e/1", "t/2")]
    found = report(frame(LONG, LONG + " ", name="t"), frame(LONG, name="e"))
    assert found["contaminated_problems"] == 1
    assert found["problems_by_kind"] == {"verbatim": 1, "exact": 0, "overlap": 0, "variant": 0}


def test_the_prompt_template_is_not_compared():
    assert kinds("Name a colour.", "Name a fruit.") == []


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    table = load_datasets()

    def load(name: str) -> pd.DataFrame:
        prepare_dataset(
            name,
            table[name],
            folder / f"{name}.parquet",
            folder / f"{name}.json",
            real_data=real_data,
            any_length=True,
        )
        return read_dataset(folder / f"{name}.parquet")

    return load


def test_dapo_holds_the_two_known_problems_of_math500_and_more(real):
    training, evaluation = real("dapo_math_17k"), real("math500")
    texts = {
        extra["id"]: prompt[-1]["content"]
        for extra, prompt in zip(training.extra_info, training.prompt, strict=True)
    }
    found = report(training, evaluation)
    pairs = found["pairs"]
    identical = {
        pair["evaluation_id"]
        for pair in pairs
        if pair["evaluation_problem"].strip() == pair["training_problem"].strip()
    }
    assert len(identical) == 2, "the two that compare equal as they stand"
    assert {pair["evaluation_id"] for pair in pairs if pair["kind"] == "verbatim"} > identical
    assert all(pair["training_problem"] in texts[pair["training_id"]] for pair in pairs)
    assert found["problems_by_kind"] == {"verbatim": 4, "exact": 3, "overlap": 10, "variant": 7}
    assert found["contaminated_problems"] == 17


def test_math_training_and_test_problems_are_different_but_for_a_few(real):
    found = report(real("math_train"), real("math500"))
    assert found["problems_by_kind"]["verbatim"] + found["problems_by_kind"]["exact"] == 0
