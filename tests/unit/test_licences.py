"""docs/licences.md names every pinned package with its version."""

import re
import sys

import pytest

from reproduction.config import REPOSITORY

sys.path.append(str(REPOSITORY / "scripts"))
import list_licences  # noqa: E402


@pytest.mark.parametrize("environment", list_licences.ENVIRONMENTS)
def test_the_page_has_every_pinned_package(environment):
    text = list_licences.PAGE.read_text(encoding="utf-8").partition("## All")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]]
    listed = {name: version for name, version, where, _ in rows if environment in where.split(", ")}
    assert listed == list_licences.pins(environment), "run `make licences`"
    assert all(licence for *_, licence in rows)


def test_every_line_of_a_pinned_list_is_read():
    for environment in list_licences.ENVIRONMENTS:
        lines = (REPOSITORY / "envs" / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
        pinned = [line for line in lines if re.match(r"[A-Za-z0-9]", line)]
        assert len(list_licences.pins(environment)) == len(pinned)


def test_another_version_than_the_pinned_one_is_an_error(tmp_path):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, version in list_licences.pins("cpu").items():
        folder = site / f"{name}-0.{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.{version}\n")
    with pytest.raises(LookupError, match="is pinned"):
        list_licences.table({"cpu": tmp_path})


def test_a_licence_is_taken_from_the_best_statement(tmp_path):
    folder = tmp_path / "x-1.dist-info"
    folder.mkdir()
    head = "Metadata-Version: 2.4\nName: x\nVersion: 1\n"
    for statement, expected in [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other\n", "MIT OR Apache-2.0"),
        ("License: other\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
        ("License: Apache 2.0\nClassifier: Topic :: Software\n", "Apache-2.0"),
        ("", ""),
    ]:
        (folder / "METADATA").write_text(head + statement)
        [package] = list_licences.distributions(path=[str(tmp_path)])
        assert list_licences.licence_of(package) == expected
    (folder / "LICENSE").write_text("Permission is hereby granted,\nfree of charge, to anyone")
    (folder / "RECORD").write_text("x-1.dist-info/LICENSE,,\n")
    [package] = list_licences.distributions(path=[str(tmp_path)])
    assert list_licences.licence_of(package) == "MIT (by its licence file)"
