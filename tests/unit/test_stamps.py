"""docs/speed.md says of each record whether the code that it measured is today's."""

import json
import sys

import pytest

from reproduction.config import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import stamps

PAGE = (REPOSITORY / "docs" / "speed.md").read_text(encoding="utf-8")


def test_the_page_says_which_records_are_of_older_code():
    assert stamps.with_table(PAGE) == PAGE, "run `make stamps`, and measure again what the page is to claim"


def test_every_record_is_stamped_and_quoted():
    names = {path.stem for path in stamps.RECORDS.glob("*.json")}
    assert names and names <= stamps.MEASURED.keys()
    assert all(f"records/speed/{name}.json" in PAGE for name in names)


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
    records = tmp_path / "records"
    records.mkdir()
    (records / "memory.json").write_text(json.dumps(record))
    assert stamps.changed(record, "memory", scripts) == []
    assert "older" not in stamps.table(records, scripts)
    (scripts / "ead" / "edited.py").write_text("X = 2\n")
    (scripts / "ead" / "gone.py").unlink()
    (scripts / "ead" / "new.py").write_text("X = 1\n")
    changed = ["ead/edited.py", "ead/gone.py", "ead/new.py"]
    assert stamps.changed(record, "memory", scripts) == changed
    assert "| **older** |" in stamps.table(records, scripts)
