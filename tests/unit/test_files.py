"""Files that are whole or absent."""

import json

import numpy as np
import pandas as pd
import pytest

from reproduction.files import (
    atomic_directory,
    atomic_path,
    put_between,
    sha256_of_file,
    write_json,
    write_parquet,
    write_text,
)


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent, "a rename is atomic within a folder"
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with atomic_directory(target) as folder:
        (folder / "old").write_text("1")
    with pytest.raises(RuntimeError), atomic_directory(target) as folder:
        (folder / "new").write_text("2")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    with atomic_directory(target) as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_takes_numpy_values_and_refuses_what_json_has_not(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"b": np.float32(0.5), "a": np.arange(2), "é": tmp_path})
    assert json.loads(path.read_text()) == {"b": 0.5, "a": [0, 1], "é": str(tmp_path)}
    assert path.read_text().index('"b"') < path.read_text().index('"a"')
    for value in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, value)


def test_parquet_and_checksums(tmp_path):
    frame = pd.DataFrame({"x": [1, 2]}, index=[5, 6])
    write_parquet(frame, tmp_path / "frame.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "frame.parquet"), frame.reset_index(drop=True))
    write_text(tmp_path / "abc", "abc")
    assert sha256_of_file(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_text_is_put_between_the_marks_and_nowhere_else():
    first, last = "<!-- hours, by `make config` -->", "<!-- end of hours -->"
    page = f"a\n{first}\nold\n{last}\nb"
    assert put_between(page, "hours", "make config", "new") == f"a\n{first}\n\nnew\n\n{last}\nb"
    for lacking in ("a\n", f"a\n{first}\n", f"{last}\n{first}"):
        with pytest.raises(ValueError, match="the page lacks '<!-- hours, by `make config` -->'"):
            put_between(lacking, "hours", "make config", "new")
