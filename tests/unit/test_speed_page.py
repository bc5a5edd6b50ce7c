"""The tables of docs/speed.md are those of the records, which know the code that they measured."""

import sys

import pytest

from reproduction.config import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import speed_page
import stamps

PAGE = (REPOSITORY / "docs" / "speed.md").read_text(encoding="utf-8")


def test_the_page_has_the_tables_of_its_records():
    assert speed_page.with_tables(PAGE, speed_page.read_records()) == PAGE, "run `make speed-page`"


def test_every_record_has_a_table():
    shown = {name for _, names in speed_page.TABLES.values() for name in names}
    assert shown == set(stamps.MEASURED)
    assert {path.stem for path in stamps.RECORDS.glob("*.json")} <= shown
    assert {aim.record for aim in speed_page.AIMS} <= shown


def test_a_table_without_its_record_says_so():
    page = speed_page.with_tables(PAGE, {})
    assert page.count("Not measured: there is no record") == len(speed_page.TABLES)
    assert "[step_one_thread.json]" not in page


def test_an_aim_without_its_record_says_so():
    page = speed_page.with_tables(PAGE, {})
    assert page.count("not measured |") == len(speed_page.AIMS)


def test_a_record_that_lacks_what_its_table_shows_is_named():
    records = speed_page.read_records()
    records["sampling"]["sizes"]["115k"]["512"] = records["sampling"]["sizes"]["115k"]["256"]
    with pytest.raises(ValueError, match="sampling, vllm: no '512', which the table 'sampling' shows"):
        speed_page.with_tables(PAGE, records)


def test_a_record_of_older_code_is_marked_in_every_table_made_from_it():
    records = speed_page.read_records()
    record = records["vllm_versions"]
    files = {**record["code"]["files"], "ead/schedule.py": "another"}
    records["vllm_versions"] = {**record, "code": {**record["code"], "files": files}}
    lines = speed_page.with_tables(PAGE, records).splitlines()
    of_record = [line for line in lines if line.startswith("- [vllm_versions.json]")]
    assert of_record and all("**older code than today's**" in line for line in of_record)


@pytest.mark.parametrize(
    ("value", "bound", "at_most", "reached"),
    [(2.0, 2, False, "yes"), (1.99, 2, False, "**no**"), (1.0, 1, True, "yes"), (1.01, 1, True, "**no**")],
)
def test_an_aim_is_reached_at_its_bound(value, bound, at_most, reached):
    aim = speed_page.Aim("a ratio", "split", lambda record: record["value"], bound, at_most)
    assert aim.row({"value": value, "code": {"files": {}}})[3] == reached


def test_numbers_keep_three_digits():
    numbers = [speed_page.number(value) for value in (0.5414, 13.77, 52.4, 999.5, 100892)]
    assert numbers == ["0.541", "13.8", "52.4", "1,000", "100,892"]
    assert speed_page.ratio({"median": 1.641, "lowest": 1.5, "highest": 29.5}) == "1.64 [1.50, 29.50]"
    assert speed_page.surplus({"median": 1.0268, "interval_95": [0.999, 1.03]}) == "+2.7 [-0.1, +3.0]"


def test_every_pattern_finds_a_file():
    lacking = [
        pattern
        for patterns in stamps.MEASURED.values()
        for pattern in patterns
        if not list(stamps.SCRIPTS.glob(pattern))
    ]
    assert not lacking


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ('"""Other words."""\n\nX = 1\n\n\ndef f(a):\n    return a + X  # why\n', False),
        ('"""Words."""\nX = 2\ndef f(a):\n    "A."\n    return a + X\n', True),
        ('"""Words."""\nX = 1\ndef f(a):\n    "A."\n    return a - X\n', True),
        ('"""Words."""\nX = 1\ndef f(a, *b):\n    "A."\n    return a + X\n', True),
    ],
)
def test_code_counts_and_words_do_not(edited, counts):
    source = '"""Words."""\nX = 1\ndef f(a):\n    "A."\n    return a + X\n'
    assert (stamps.code_checksum(edited) != stamps.code_checksum(source)) == counts


def test_a_changed_a_new_and_a_missing_file_make_a_record_older(tmp_path, monkeypatch):
    monkeypatch.setitem(stamps.MEASURED, "memory", ("ead/*.py",))
    scripts = tmp_path / "scripts"
    (scripts / "ead").mkdir(parents=True)
    for name in ("kept", "edited", "gone"):
        (scripts / "ead" / f"{name}.py").write_text("X = 1\n")
    record = {"code": stamps.stamp("memory", scripts)}
    assert stamps.changed(record, "memory", scripts) == []
    (scripts / "ead" / "edited.py").write_text("X = 2\n")
    (scripts / "ead" / "gone.py").unlink()
    (scripts / "ead" / "new.py").write_text("X = 1\n")
    changed = ["ead/edited.py", "ead/gone.py", "ead/new.py"]
    assert stamps.changed(record, "memory", scripts) == changed
