"""Real data sets: schema, adapters, table, preparation. Small files made here, and the real ones if present."""

import codecs
import hashlib
import json
import re
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from ead import seeds, verifier
from reproduction.config import ConfigurationError
from reproduction.data import SCHEMA, DatasetError, make_row, read_dataset, write_dataset
from reproduction.data.adapters import (
    ADAPTERS,
    TAKES,
    Adapter,
    BadRow,
    Skip,
    after_hashes,
    integer,
    last_boxed,
    number,
)
from reproduction.data.prepare import check_local_copy, prepare_dataset
from reproduction.data.prompts import PROMPTS
from reproduction.data.table import DatasetEntry, HubSource, LocalSource, find_dataset, load_datasets

TABLE = load_datasets()


def row(number: int = 0, **changes) -> dict:
    values = {
        "data_source": "made_up",
        "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
        "ground_truth": str(number + 1),
        "id": f"made_up/{number}",
        "index": number,
        "split": "test",
        "details": {"problem": f"What is {number} + 1?"},
    }
    return make_row(**(values | changes))


# --- schema ------------------------------------------------------------------------------------------------


def test_a_data_set_is_read_as_it_was_written(tmp_path):
    rows = [row(number) for number in range(5)]
    write_dataset(rows, tmp_path / "made_up.parquet")
    frame = read_dataset(tmp_path / "made_up.parquet")
    assert list(frame.columns) == SCHEMA.names
    assert frame.to_dict("records") == rows


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_dataset([row(number) for number in range(100)], tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_prompt_of_a_megabyte_passes(tmp_path):
    long = "x" * 2**20
    write_dataset([row(prompt=[{"role": "user", "content": long}])], tmp_path / "long.parquet")
    assert read_dataset(tmp_path / "long.parquet").prompt[0][0]["content"] == long


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "column 'prompt': expected a non-empty list"),
        ({"prompt": [{"role": "user", "content": " "}]}, r"column 'prompt\[0\].content': is empty"),
        ({"prompt": [{"role": "teacher", "content": "?"}]}, "role 'teacher' is not one of system, user"),
        ({"ground_truth": ""}, "column 'reward_model.ground_truth': is empty"),
        ({"ground_truth": 2}, "column 'reward_model.ground_truth': expected text, found 2"),
        ({"ground_truth": "\ud800"}, "column 'reward_model.ground_truth': not encodable as UTF-8"),
        ({"index": True}, "column 'extra_info.index': expected an integer"),
        ({"id": "made_up/0"}, "column 'extra_info.id': already used by row 0"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_written(tmp_path, changes, message):
    path = tmp_path / "made_up.parquet"
    with pytest.raises(DatasetError, match=rf"{path}: row 1 \(id .*{message}"):
        write_dataset([row(0), row(1, **changes)], path)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_unknown_fields_are_named(tmp_path):
    wrong = row() | {"answer": "1"}
    del wrong["ability"]
    with pytest.raises(
        DatasetError, match=r"row 0 .*missing fields \['ability'\], unknown fields \['answer'\]"
    ):
        write_dataset([wrong], tmp_path / "made_up.parquet")


def test_an_empty_data_set_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="has no rows"):
        write_dataset([], tmp_path / "made_up.parquet")


def test_reading_says_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "made_up.parquet"
    with pytest.raises(FileNotFoundError, match="no such data set"):
        read_dataset(path)
    write_dataset([row(number) for number in range(50)], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="not a readable Parquet file.*truncated"):
        read_dataset(path)
    pd.DataFrame({"data_source": [1], "question": ["?"]}).to_parquet(path)
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    assert "column 'data_source' is int64, expected string" in str(caught.value)
    assert "column 'prompt' is missing" in str(caught.value)
    assert "column 'question' is not part of the schema" in str(caught.value)


def test_reading_names_a_duplicate_id_and_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "made_up.parquet"
    pq.write_table(pa.Table.from_pylist([row(0), row(1), row(0)], schema=SCHEMA), path)
    with pytest.raises(DatasetError, match=r"row 2 \(id 'made_up/0'\).*already used by row 0"):
        read_dataset(path)
    table = pa.Table.from_pylist([row(0), row(1)], schema=SCHEMA)
    bytes_as_text = pa.array([b"made_up", b"made\xff"]).view(pa.string())
    pq.write_table(table.set_column(0, SCHEMA.field("data_source"), bytes_as_text), path)
    with pytest.raises(DatasetError, match="row 1, column 'data_source': not UTF-8 text"):
        read_dataset(path)


# --- adapters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so $\boxed{5}$ or rather $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$\boxed{\left\{1, 2\right\}}$", r"\left\{1, 2\right\}"),
        (r"$\boxed 7$ apples", "7"),
        (r"\fbox{no}", "no"),
        (
            "\\boxed{\n\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}\n}",
            "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
        ),
    ],
)
def test_the_last_box_is_the_answer(solution, answer):
    assert last_boxed(solution) == answer


@given(st.recursive(st.text("ab1 ", max_size=4), lambda inner: st.builds("{{{}}}{}".format, inner, inner)))
def test_any_balanced_text_in_a_box_comes_back(content):
    solution = rf"\boxed{{no}} then \boxed{{{content}}} done"
    assert last_boxed(solution) == content.strip() == verifier.last_boxed(solution)


@pytest.mark.parametrize(("solution", "reason"), [("5", "no_answer"), (r"\boxed{5", "malformed_answer")])
def test_a_solution_without_a_closed_box_is_a_bad_row(solution, reason):
    with pytest.raises(BadRow) as caught:
        last_boxed(solution)
    assert caught.value.reason == reason


INTEGERS = (
    st.integers() | st.integers(-(10**40), 10**40) | st.sampled_from([2**53, 2**53 + 1, 9007199254740993])
)


@given(INTEGERS, st.sampled_from(["", ".", ".0", ".000"]), st.sampled_from(["", "0", "000"]))
def test_an_integer_of_any_size_keeps_its_digits(value, fraction, zeros):
    """Through a floating-point number 9007199254740993 would become another one."""
    sign = "-" if value < 0 else ""
    written = [value, Decimal(value), f" {sign}{zeros}{abs(value)}{fraction} "]
    assert [integer(form) for form in written] == [str(value)] * 3
    if abs(value) < 2**53:
        assert integer(float(value)) == str(value)


@pytest.mark.parametrize(
    "answer",
    [
        True,
        False,
        0.5,
        "0.5",
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("0.5"),
        None,
        [1],
        "",
        "1,000",
        "1_0",
    ],
    ids=repr,
)
def test_what_is_no_integer_is_refused(answer):
    with pytest.raises(BadRow, match="expected an integer answer, found"):
        integer(answer)


def test_an_integer_that_has_lost_digits_is_refused():
    with pytest.raises(BadRow, match="has lost its last digits"):
        integer(9007199254740993.0)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.floats(-1e15, 1e15), INTEGERS)
def test_a_number_of_any_kind_keeps_its_value(exact, binary, whole):
    for answer, value in ((exact, exact), (str(exact), exact), (whole, whole), (str(whole), whole)):
        assert Decimal(number(answer)) == Decimal(value)
    assert float(number(binary)) == binary
    assert all("e" not in number(answer).lower() for answer in (exact, binary, whole))


@pytest.mark.parametrize(
    ("answer", "text"),
    [(0.5, "0.5"), (5, "5"), (5.0, "5"), (1e-7, "0.0000001"), ("0.50", "0.50"), ("1e3", "1000")],
)
def test_a_number_becomes_text(answer, text):
    assert number(answer) == text


@pytest.mark.parametrize(
    "answer", [True, float("nan"), float("inf"), "1/2", "1e999999999", "--1", "٣", None, [0.5]], ids=repr
)
def test_what_is_no_number_is_refused(answer):
    with pytest.raises(BadRow, match="expected a number as the answer, found"):
        number(answer)


@pytest.mark.parametrize(("answer", "take"), [(5, "integer"), (0.5, "number")])
@pytest.mark.parametrize("other", ["as_given", "after_hashes", "last_boxed"])
def test_a_number_where_text_is_wanted_names_the_remedy(answer, take, other):
    with pytest.raises(BadRow, match=f"`take: {take}`"):
        TAKES[other](answer)
    assert TAKES[take](answer) == str(answer)


@given(
    st.integers(0, 10**15), st.sampled_from(["", "$", "-", "€ "]), st.sampled_from(["", ".25", " km", "%"])
)
def test_thousands_separators_of_one_number_go(value, before, after):
    assert after_hashes(f"so\n#### {before}{value:,}{after}\nThe end, 1,234.") == f"{before}{value}{after}"


@given(
    st.lists(st.integers(-9999, 9999).map(str), min_size=2, max_size=4),
    st.sampled_from([("(", ")"), ("[", ")"), (r"\{", r"\}")]),
    st.sampled_from([",", ", "]),
)
def test_commas_between_numbers_stay(numbers, brackets, comma):
    answer = brackets[0] + comma.join(numbers) + brackets[1]
    assert after_hashes(f"#### {answer}\nwords, more words") == answer
    assert after_hashes(f"#### {', '.join(numbers)}") == ", ".join(numbers)


UNSEEN = ["\ufeff", "\u200b", "\u200d", "\u2060", "\u200e", "\u00ad"]


@given(st.lists(st.sampled_from([*UNSEEN, "4", "2", "x", " ", "/"]), min_size=1))
def test_what_nobody_sees_is_no_part_of_an_answer(signs):
    seen = "".join(sign for sign in signs if sign not in UNSEEN).strip()
    row = {"q": "Q", "a": "".join(signs)}
    adapter = Adapter("q", "a", TAKES["as_given"])
    if not seen:
        with pytest.raises(BadRow, match="holds no answer"):
            adapter(row)
        return
    found = adapter(row)
    assert found.answer == seen
    assert found.published_answer == (None if "".join(signs).strip() == seen else "".join(signs).strip())


@pytest.mark.parametrize("code", [0, 7, 8, 11, 12, 27, 127, 0x85])
def test_a_control_character_in_an_answer_is_a_bad_row(code):
    with pytest.raises(BadRow, match=f"control character U\\+{code:04X}"):
        Adapter("q", "a", TAKES["as_given"])({"q": "Q", "a": f"4{chr(code)}2"})


@pytest.mark.parametrize("sign", [*UNSEEN, "\0"])
def test_no_data_set_is_written_with_a_gold_that_nothing_matches(tmp_path, sign):
    with pytest.raises(DatasetError, match=rf"reward_model.ground_truth': holds .*U\+{ord(sign):04X}"):
        write_dataset([row(ground_truth=f"42{sign}")], tmp_path / "made_up.parquet")


NAMES = st.text("ab.", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_a_column_is_found_by_its_name_with_dots_or_by_its_path(names):
    source = "found"
    for name in reversed(names):
        source = {name: source}
    assert Adapter(".".join(names), "answer", TAKES["as_given"])({**source, "answer": "1"}).text == "found"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"q": {"txt": "Q"}}, r"column 'q.text': 'text' is missing in 'q'; found 'txt'"),
        ({"q,text": "Q"}, r"column 'q.text': 'q' is missing; found 'q,text'"),
        ({"q": ["Q"]}, r"column 'q.text': 'text' is missing in 'q'; found \['Q'\]"),
        ({}, r"column 'q.text': 'q' is missing; found nothing"),
    ],
)
def test_what_is_missing_is_named_where_it_is_missing(source, message):
    with pytest.raises(BadRow, match=message):
        Adapter("q.text", "a", TAKES["as_given"])(source)


@pytest.mark.parametrize(
    ("adapter", "source", "problem", "answer"),
    [
        ("gsm8k", {"question": "Q ", "answer": "48/2=24\n#### 1,024"}, "Q", "1024"),
        (
            "math500",
            {"problem": "Q", "answer": r"\$5", "unique_id": "u", "subject": "s", "level": 2},
            "Q",
            r"\$5",
        ),
        ("aime", {"id": 60, "problem": "Q", "answer": "073"}, "Q", "73"),
        ("amc", {"id": 0, "question": "Q", "answer": 27.0, "url": "u"}, "Q", "27"),
        (
            "dapo",
            {
                "prompt": [{"role": "user", "content": PROMPTS["dapo"].messages("Q $x$?")[0]["content"]}],
                "reward_model": {"style": "rule", "ground_truth": "-34"},
            },
            "Q $x$?",
            "-34",
        ),
        (
            "olympiadbench",
            {
                "id": 1,
                "question": "Q",
                "final_answer": ["$69$,$84$"],
                "subfield": "Algebra",
                "answer_type": "Numerical",
                "is_multiple_answer": True,
                "unit": None,
                "error": None,
            },
            "Q",
            "69,84",
        ),
        ("numina_math_cot", {"source": "amc_aime", "problem": "Q", "solution": r"\boxed{3}"}, "Q", "3"),
    ],
)
def test_adapters_find_problem_and_answer(adapter, source, problem, answer):
    found = ADAPTERS[adapter](source)
    assert (found.text, found.answer) == (problem, answer)


def test_multiple_choice_shows_lettered_choices():
    found = ADAPTERS["mmlu"]({"question": "Q", "choices": ["1", "2", "3", "4"], "answer": 2, "subject": "s"})
    assert found.asked == "Q\n\nA) 1\nB) 2\nC) 3\nD) 4"
    assert (found.text, found.answer) == ("Q", "C")


@pytest.mark.parametrize(
    ("published", "answer"),
    [
        ("4.5e33", r"4.5 \times 10^{33}"),
        ("1e-5", r"1 \times 10^{-5}"),
        ("-1./3", "-1/3"),
        ("np.arcsin(10/13)", r"\arcsin(10/13)"),
    ],
)
def test_minerva_answers_in_program_notation_become_latex(published, answer):
    found = ADAPTERS["minerva_solution"]({"problem": "Q", "solution": rf"\boxed{{{published}}}", "type": "t"})
    assert (found.answer, found.published_answer) == (answer, published)


@pytest.mark.parametrize("published", ["1.6", "e^{-2t}", "2e", r"3e^{x}", r"\frac{1}{2}", "0.5", "I(0)"])
def test_other_minerva_answers_stay(published):
    found = ADAPTERS["minerva_solution"]({"problem": "Q", "solution": rf"\boxed{{{published}}}", "type": "t"})
    assert (found.answer, found.published_answer) == (published, None)


@pytest.mark.parametrize("answer", [4, -1, "C", True, None])
def test_an_answer_that_is_no_choice_is_a_bad_row(answer):
    with pytest.raises(BadRow, match="expected an index below 4"):
        ADAPTERS["mmlu"]({"question": "Q", "choices": list("abcd"), "answer": answer, "subject": "s"})


@pytest.mark.parametrize("problem", ["Prove that $1 = 1$.", "Give a proof.", "Show that it holds."])
def test_numina_proofs_are_skipped(problem):
    with pytest.raises(Skip, match="proof"):
        ADAPTERS["numina_math_cot"]({"source": "olympiads", "problem": problem, "solution": r"\boxed{1}"})


def test_a_missing_column_says_which_are_there():
    with pytest.raises(BadRow, match="column 'question': 'question' is missing; found 'problem', 'answer'"):
        ADAPTERS["gsm8k"]({"problem": "Q", "answer": "#### 1"})


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_templates_keep_the_problem(name):
    messages = PROMPTS[name].messages("What is $1 + 1$?")
    assert [message["role"] for message in messages] in (["user"], ["system", "user"])
    assert "What is $1 + 1$?" in messages[-1]["content"]


def test_the_prompt_of_the_public_recipe():
    system, user = PROMPTS["minimal_rl"].messages("P")
    assert system["content"] == r"Please reason step by step, and put your final answer within \boxed{}."
    assert user["content"] == r"P Let's think step by step and output the final answer within \boxed{}."


# --- table -------------------------------------------------------------------------------------------------


def test_the_table_pins_every_local_copy_and_says_what_it_could_not_verify():
    unpinned = {
        name
        for name, entry in TABLE.items()
        if entry.hub and (entry.hub.files is None or None in entry.hub.files.values())
    }
    assert unpinned == {"minerva_math", "olympiadbench", "mmlu_dev", "numina_math_cot", "numina_math"}
    assert {name for name, entry in TABLE.items() if entry.local is None} == {
        "numina_math_cot",
        "numina_math",
    }
    assert {name for name, entry in TABLE.items() if entry.hub and entry.hub.revision is None} == {
        "numina_math"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sha256: abc", r"table.yaml: datasets.d.local.sha256: .*, found 'abc'"),
        ("licnce: MIT", r"table.yaml: unknown key 'datasets.d.licnce' \(did you mean 'licence'\?\)"),
        ("prompt: minimal", r"unknown name \(did you mean 'minimal_rl'\?\)"),
        ("adapter: gsm9k", r"unknown name \(did you mean 'gsm8k'\?\)"),
        ("rows: many", r"datasets.d.local.rows: .*, found 'many'"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, change, message):
    entry = f"""
        d:
          title: D
          licence: MIT
          role: evaluation
          split: test
          prompt: minimal_rl
          unique: false
          local: {{file: d.jsonl, sha256: {"0" * 64}, origin: here, rows: 1, adapter: gsm8k}}
    """
    key = change.split(":")[0]
    if f"{key}:" not in entry:
        entry = entry.replace("          role:", f"          {change}\n          role:")
    else:
        entry = re.sub(rf"{key}: [^,}}\n]+", change, entry)
    (tmp_path / "table.yaml").write_text(entry)
    with pytest.raises(ConfigurationError, match=message):
        load_datasets(tmp_path / "table.yaml")


def test_an_unknown_data_set_gets_a_hint():
    with pytest.raises(ConfigurationError, match=r"unknown data set 'gsm8k' \(did you mean 'gsm8k_test'\?\)"):
        find_dataset("gsm8k", TABLE)


# --- preparation -------------------------------------------------------------------------------------------


def gsm8k_line(number: int) -> str:
    return json.dumps({"question": f"What is {number} + 1?", "answer": f"#### {number + 1}"})


def entry_for(path: Path, rows: int, adapter: str = "gsm8k", **changes) -> DatasetEntry:
    values = {
        "title": "D",
        "licence": "MIT",
        "role": "training",
        "split": "train",
        "prompt": "minimal_rl",
        "unique": False,
        "local": LocalSource(
            file=path.name,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            origin="the test",
            rows=rows,
            adapter=adapter,
        ),
    }
    return DatasetEntry(**(values | changes))


def prepare(path: Path, entry: DatasetEntry, **options) -> dict:
    folder = path.parent
    return prepare_dataset(
        "d", entry, folder / "out" / "d.parquet", folder / "out" / "d.card.json", real_data=folder, **options
    )


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(gsm8k_line(number) for number in range(4)) + "\n")
    return path


def test_preparing_writes_the_data_set_and_its_card_reproducibly(source):
    card = prepare(source, entry_for(source, 4))
    out = source.parent / "out"
    first = (out / "d.parquet").read_bytes(), (out / "d.card.json").read_bytes()
    assert prepare(source, entry_for(source, 4)) == card == json.loads((out / "d.card.json").read_text())
    assert ((out / "d.parquet").read_bytes(), (out / "d.card.json").read_bytes()) == first
    assert card["rows"] == {"read": 4, "kept": 4, "dropped": 0}
    frame = read_dataset(out / "d.parquet")
    assert list(frame.reward_model) == [{"style": "rule", "ground_truth": str(n + 1)} for n in range(4)]
    assert [extra["id"] for extra in frame.extra_info] == ["d/0", "d/1", "d/2", "d/3"]
    assert frame.prompt[0] == PROMPTS["minimal_rl"].messages("What is 0 + 1?")
    assert card["example"] == frame.iloc[0].to_dict()


def test_a_checksum_that_differs_stops_before_anything_is_written(source):
    entry = entry_for(source, 4)
    source.write_text(source.read_text() + gsm8k_line(4) + "\n")
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    with pytest.raises(
        DatasetError, match=f"d.jsonl: .*\n  expected {entry.local.sha256}\n  found    {found}"
    ):
        prepare(source, entry)
    assert not (source.parent / "out").exists()


def test_a_missing_local_file_says_what_to_do(source):
    entry = entry_for(source, 4)
    source.unlink()
    with pytest.raises(
        DatasetError, match=r"d.jsonl: no such file. Copy it there from the test, or set paths.real_data"
    ):
        prepare(source, entry)


def test_another_number_of_rows_than_the_table_says_is_an_error(source):
    with pytest.raises(DatasetError, match="read 4 rows, the table says 5"):
        prepare(source, entry_for(source, 5))


BAD_LINES = {
    "not_json": b'{"question": "cut off',
    "not_utf8": b'{"question": "\xff", "answer": "#### 1"}',
    "not_an_object": b"[1, 2]",
    "missing_column": b'{"question": "Q"}',
    "wrong_type": b'{"question": 5, "answer": "#### 1"}',
    "empty_problem": b'{"question": "  ", "answer": "#### 1"}',
    "empty_answer": b'{"question": "Q", "answer": "so #### "}',
    "no_answer": b'{"question": "Q", "answer": "so 5"}',
    "answer_too_long": b'{"question": "Q", "answer": "#### ' + b"9" * 1001 + b'"}',
}
# Lines that a reader could take for something else, or that could end it.
HOSTILE_LINES = {
    "a key twice": b'{"question": "Q", "answer": "#### 1", "answer": "#### 2"}',
    "nested without end": b'{"question": ' + b"[" * 100_000,
    "a number without end": b'{"question": "Q", "answer": ' + b"9" * 100_000 + b"}",
    "two objects": b'{"question": "Q", "answer": "#### 1"} {}',
    "bytes of zero": b"\x00" * 1000,
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_a_bad_row_is_an_error_that_names_it_or_is_dropped_and_counted(source, reason):
    source.write_bytes(source.read_bytes() + BAD_LINES[reason] + b"\n" + gsm8k_line(5).encode() + b"\n")
    with pytest.raises(DatasetError, match=r"d: d.jsonl: row 4 \(line 5\): .*on_bad_row: drop"):
        prepare(source, entry_for(source, 6))
    # The check before any job starts finds the same.
    with pytest.raises(DatasetError, match=r"d: d.jsonl: row 4 \(line 5\): .*on_bad_row: drop"):
        check_local_copy("d", entry_for(source, 6), source.parent)
    assert not (source.parent / "out").exists()
    check_local_copy("d", entry_for(source, 6, on_bad_row="drop"), source.parent)
    card = prepare(source, entry_for(source, 6, on_bad_row="drop"))
    assert card["rows"] == {"read": 6, "kept": 5, "dropped": 1}
    assert card["dropped"] == {reason: {"count": 1, "rows": "4"}}
    frame = read_dataset(source.parent / "out" / "d.parquet")
    assert [extra["index"] for extra in frame.extra_info] == [0, 1, 2, 3, 5]


@pytest.mark.parametrize("line", HOSTILE_LINES.values(), ids=HOSTILE_LINES)
def test_a_hostile_line_is_one_bad_row(source, line):
    source.write_bytes(source.read_bytes() + line + b"\n" + gsm8k_line(5).encode() + b"\n")
    with pytest.raises(DatasetError, match=r"d: d.jsonl: row 4 \(line 5\): not JSON") as caught:
        prepare(source, entry_for(source, 6))
    assert len(str(caught.value)) < 500
    card = prepare(source, entry_for(source, 6, on_bad_row="drop"))
    assert card["dropped"] == {"not_json": {"count": 1, "rows": "4"}}


def math500_line(**changes) -> str:
    values = {"problem": "Q", "answer": "5", "unique_id": "u", "subject": "s", "level": 2} | changes
    return json.dumps(values)


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"unique_id": "u0"}, "duplicate_id", "the id 'u0' is that of row 0 already"),
        ({"level": float("nan")}, "not_json", "column 'level': JSON cannot hold nan"),
        ({"level": float("inf")}, "not_json", "column 'level': JSON cannot hold inf"),
        ({"subject": "\ud83d"}, "not_utf8", "column 'subject': not UTF-8 text"),
        ({"unique_id": "\ud83d"}, "not_utf8", "column 'unique_id': not UTF-8 text"),
        ({"answer": " $ $ "}, "empty_answer", "column 'answer' holds no answer"),
        ({"answer": None}, "wrong_type", "expected text, found None"),
        ({"problem": ["Q"]}, "wrong_type", "column 'problem': expected text"),
    ],
)
def test_a_row_that_could_not_be_stored_is_named_at_its_source(tmp_path, changes, reason, message):
    path = tmp_path / "d.jsonl"
    lines = [math500_line(unique_id="u0"), math500_line(unique_id="u1"), math500_line(unique_id="u2", **{})]
    lines.insert(2, math500_line(**({"unique_id": "u9"} | changes)))
    path.write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=rf"d: d.jsonl: row 2 \(line 3\): .*{re.escape(message)}"):
        prepare(path, entry_for(path, 4, "math500"))
    card = prepare(path, entry_for(path, 4, "math500", on_bad_row="drop"))
    assert card["dropped"] == {reason: {"count": 1, "rows": "2"}}
    assert card["rows"]["kept"] == 3


def test_a_problem_of_a_megabyte_is_prepared_whole(source):
    long = "x" * 2**20
    source.write_text(json.dumps({"question": long, "answer": f"{long} #### 5"}))
    prepare(source, entry_for(source, 1))
    [prompt] = read_dataset(source.parent / "out" / "d.parquet").prompt
    assert long in prompt[-1]["content"]


def test_half_of_a_surrogate_pair_is_a_bad_row(source):
    source.write_text(source.read_text() + r'{"question": "\ud83d?", "answer": "#### 1"}' + "\n")
    with pytest.raises(DatasetError, match=r"row 4 \(line 5\): column 'question': not UTF-8 text"):
        prepare(source, entry_for(source, 5))


@given(
    st.lists(st.sampled_from([b"", codecs.BOM_UTF8]), min_size=4, max_size=4),
    st.sampled_from([b"", b"\n", b"\n\n", b"\r\n \r\n\n"]),
)
def test_marks_of_byte_order_and_empty_last_lines_cost_no_row(tmp_path_factory, marks, end):
    """One at the start of a file, and those that joining files leaves within it."""
    path = tmp_path_factory.mktemp("marks") / "d.jsonl"
    path.write_bytes(b"\n".join(mark + gsm8k_line(n).encode() for n, mark in enumerate(marks)) + end)
    for on_bad_row in ("error", "drop"):
        assert prepare(path, entry_for(path, 4, on_bad_row=on_bad_row))["rows"]["kept"] == 4


def test_a_blank_line_in_the_middle_is_a_bad_row(source):
    source.write_text(gsm8k_line(0) + "\n\n" + gsm8k_line(1) + "\n")
    with pytest.raises(DatasetError, match=r"row 1 \(line 2\): not JSON"):
        prepare(source, entry_for(source, 3))


def test_no_row_left_is_an_error(source):
    source.write_text('{"text": 1}\n' * 3)
    with pytest.raises(DatasetError, match=r"no row is left; dropped \{'missing_column': 3\}"):
        prepare(source, entry_for(source, 3, on_bad_row="drop"))


def test_repeated_problems_are_dropped_once_and_contradictory_ones_altogether(source):
    lines = [gsm8k_line(0), gsm8k_line(1), gsm8k_line(0), gsm8k_line(2), gsm8k_line(0), gsm8k_line(0)]
    lines.append(gsm8k_line(1).replace("#### 2", "#### 3"))
    source.write_text("\n".join(lines))
    card = prepare(source, entry_for(source, 7, unique=True))
    assert card["dropped"] == {
        "contradictory_answers": {"count": 2, "rows": "1, 6"},
        "duplicate_problem": {"count": 3, "rows": "2, 4-5"},
    }
    assert prepare(source, entry_for(source, 7, unique=False))["rows"]["kept"] == 7


def test_long_problems_are_dropped_where_a_tokenizer_is_configured(source):
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(source.parent / "tokenizer.json"))
    source.write_text(gsm8k_line(0) + "\n" + json.dumps({"question": "word " * 6, "answer": "#### 1"}))
    entry = entry_for(source, 2, max_problem_tokens=5, tokenizer="somebody/model")
    card = prepare(source, entry, tokenizer=source.parent)
    assert card["dropped"] == {"too_long": {"count": 1, "rows": "1"}}
    assert (card["length_filter"]["applied"], card["length_filter"]["left_out"]) == (True, 1)
    with pytest.raises(
        DatasetError, match="more than 5 tokens .* needs a tokenizer: give that of somebody/model"
    ):
        prepare(source, entry)
    card = prepare(source, entry, any_length=True)
    assert card["rows"]["kept"] == 2
    assert card["length_filter"] == {
        "applied": False,
        "reason": "problems of any length were asked for",
        "max_problem_tokens": 5,
    }
    with pytest.raises(DatasetError, match="no such tokenizer"):
        prepare(source, entry, tokenizer=source.parent / "nowhere")


def test_a_limit_of_length_wants_a_tokenizer(source):
    with pytest.raises(ValueError, match="give both `max_problem_tokens` and `tokenizer`"):
        entry_for(source, 2, max_problem_tokens=5)


def parquet_source(tmp_path: Path, table: pa.Table) -> Path:
    path = tmp_path / "d.parquet"
    pq.write_table(table, path)
    return path


def test_a_truncated_parquet_file_is_named(tmp_path):
    path = parquet_source(tmp_path, pa.table({"question": ["Q"] * 1000, "answer": ["#### 1"] * 1000}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=f"{path}: not a readable Parquet file after row 0"):
        prepare(path, entry_for(path, 1000))


def test_parquet_without_a_column_or_with_another_type_is_a_bad_row(tmp_path):
    path = parquet_source(tmp_path, pa.table({"problem": ["Q"], "answer": ["#### 1"]}))
    with pytest.raises(
        DatasetError, match="d.parquet: row 0: column 'question': 'question' is missing; found 'answer'"
    ):
        prepare(path, entry_for(path, 1))
    path = parquet_source(tmp_path, pa.table({"question": [1, 2], "answer": ["#### 1"] * 2}))
    with pytest.raises(DatasetError, match="d.parquet: row 0: column 'question': expected text, found 1"):
        prepare(path, entry_for(path, 2))
    with pytest.raises(DatasetError, match=r"no row is left; dropped \{'wrong_type': 2\}"):
        prepare(path, entry_for(path, 2, on_bad_row="drop"))


def test_no_cut_and_no_flipped_bit_of_a_prepared_data_set_is_read_as_something_else(tmp_path):
    path = tmp_path / "made_up.parquet"
    rows = [row(number) for number in range(200)]
    write_dataset(rows, path)
    whole, random = path.read_bytes(), seeds.generator(2025, "test", "damage")
    refused = 0
    for length in random.integers(0, len(whole), 50):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match="not a readable Parquet file"):
            read_dataset(path)
    for place in random.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            assert read_dataset(path).to_dict("records") == rows  # a statistic, or a name that nothing uses
        except DatasetError:
            refused += 1
    assert refused > 100


def test_bytes_in_parquet_that_are_no_text_are_a_bad_row(tmp_path):
    question = pa.array([b"Q0", b"Q\xff", b"Q2"]).view(pa.string())
    path = parquet_source(tmp_path, pa.table({"question": question, "answer": ["#### 1"] * 3}))
    with pytest.raises(DatasetError, match="d.parquet: row 1: not UTF-8 text"):
        prepare(path, entry_for(path, 3))
    assert prepare(path, entry_for(path, 3, on_bad_row="drop"))["dropped"] == {
        "not_utf8": {"count": 1, "rows": "1"}
    }


def test_numina_rows_without_a_checkable_answer_are_counted(tmp_path):
    rows = [
        ("algebra", "What is $1 + 1$?", r"It is $\boxed{2}$."),
        ("olympiads", "Prove that $1 + 1 = 2$.", "Clear. $\\blacksquare$"),
        ("cn_k12", "What is $2 + 2$?", "It is 4."),
        ("cn_k12", "What is $3 + 3$?", r"It is \boxed{}."),
        ("orca_math", "What is $1 + 1$?", r"\boxed{2}"),
    ]
    columns = [pa.array(list(column)) for column in zip(*rows, strict=True)]
    messages = pa.array([[{"role": "user", "content": "unused"}]] * len(rows))
    table = pa.table([*columns, messages], names=["source", "problem", "solution", "messages"])
    path = parquet_source(tmp_path, table)
    numina = TABLE["numina_math_cot"]
    entry = entry_for(path, 5, "numina_math_cot", unique=numina.unique, on_bad_row=numina.on_bad_row)
    card = prepare(path, entry)
    assert {reason: dropped["rows"] for reason, dropped in card["dropped"].items()} == {
        "proof": "1",
        "no_answer": "2",
        "empty_answer": "3",
        "duplicate_problem": "4",
    }
    assert card["rows"]["kept"] == 1


def test_the_releases_numina_rows_have_answers_of_their_own(tmp_path):
    """Columns problem and answer (D16)."""
    path = parquet_source(tmp_path, pa.table({"problem": ["What is $1 + 1$?"], "answer": ["$2$"]}))
    prepare(path, entry_for(path, 1, TABLE["numina_math"].hub.adapter))
    assert read_dataset(tmp_path / "out" / "d.parquet").reward_model[0]["ground_truth"] == "2"


@pytest.mark.parametrize("unknown", ["files", "rows"])
def test_a_pinned_revision_wants_its_files_and_rows(unknown):
    values = TABLE["numina_math_cot"].hub.model_dump()
    with pytest.raises(ValueError, match="a pinned revision needs its"):
        HubSource(**{**values, unknown: None})
    HubSource(**{**values, "revision": None, "files": None, "rows": None})


def test_without_any_source_that_can_be_used_the_entry_is_named(source):
    with pytest.raises(DatasetError, match="d: the table has only a local copy"):
        prepare_dataset("d", entry_for(source, 4), source.parent / "o", source.parent / "c", real_data=None)


def test_an_entry_needs_a_source():
    with pytest.raises(ValueError, match="needs `local`, `hub` or both"):
        DatasetEntry(
            title="D", licence="MIT", role="training", split="train", prompt="dapo", unique=False, hub=None
        )


# --- the real files ----------------------------------------------------------------------------------------

EXPECTED_DROPPED = {
    "dapo_math_17k": {"contradictory_answers": 24, "duplicate_problem": 650},
    "math_train": {"empty_answer": 2},
}


@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if entry.local])
def test_real_data_sets_are_prepared_whole(name, real_data, tmp_path):
    card = prepare_dataset(
        name,
        TABLE[name],
        tmp_path / "d.parquet",
        tmp_path / "d.json",
        real_data=real_data,
        any_length=True,
    )
    dropped = {reason: found["count"] for reason, found in card["dropped"].items()}
    assert dropped == EXPECTED_DROPPED.get(name, {})
    assert card["answers_rewritten"] == (61 if name == "minerva_math" else 0)
    assert card["rows"]["kept"] == TABLE[name].local.rows - sum(dropped.values())
    assert len(read_dataset(tmp_path / "d.parquet")) == card["rows"]["kept"]


def test_answers_extracted_from_math_solutions_equal_the_published_ones(real_data):
    """MATH-500 publishes answers and solutions: the last box of each solution is the answer."""
    lines = (real_data / "math500.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 500
    for line in map(json.loads, lines):
        assert re.sub(r"\s", "", last_boxed(line["solution"])) == re.sub(r"\s", "", line["answer"])
