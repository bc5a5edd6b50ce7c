"""A machine on which the project cannot run is told so before anything is installed."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from reproduction.config import REPOSITORY

sys.path.append(str(REPOSITORY / "scripts"))
import check_machine  # noqa: E402


@pytest.mark.parametrize(
    ("version", "verl", "right"),
    [
        ((3, 10), False, False),
        ((3, 11), False, True),
        ((3, 13), False, True),
        ((3, 14), False, False),
        ((2, 7), False, False),
        ((4, 0), False, False),
        ((3, 12), True, True),
        ((3, 13), True, False),
    ],
)
def test_a_python_is_taken_or_refused_with_what_to_do(version, verl, right):
    said = check_machine.wrong_python(version, verl)
    assert (said == "") == right
    assert right or re.search(
        r"needs Python 3\.11 to 3\.1\d, and \S+ is Python [\d.]+\. Name another .*PYTHON=", said
    )


def test_a_home_that_cannot_be_written_is_told_what_to_set(tmp_path):
    (tmp_path / "file").touch()
    for environment in ({"XDG_CACHE_HOME": str(tmp_path / "file" / "x")}, {"XDG_CACHE_HOME": "/proc/none"}):
        assert "Set XDG_CACHE_HOME" in check_machine.wrong_cache(environment)
    assert check_machine.wrong_cache({"XDG_CACHE_HOME": str(tmp_path / "new")}) == ""


def test_the_folder_is_the_one_that_snakemake_uses(tmp_path):
    code = "from snakemake.common import get_appdirs; print(get_appdirs().user_cache_dir)"
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    for given in ({}, {"XDG_CACHE_HOME": str(tmp_path / "given")}):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **given}, capture_output=True, text=True
        )
        folder = check_machine.cache_folder({**environment, **given}) if given else tmp_path / ".cache"
        assert done.stdout.strip() == str(folder / "snakemake")


def test_make_asks_before_it_installs(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": "/proc/none"}
    command = ["make", "-C", str(REPOSITORY), "--always-make", ".venv-gpu/ready", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode and "Set XDG_CACHE_HOME" in done.stderr and "pip" not in done.stdout


def test_the_pages_and_the_package_name_the_same_pythons():
    oldest, newest = (".".join(map(str, version)) for version in (check_machine.OLDEST, check_machine.NEWEST))
    assert f"Python {oldest} to {newest}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={oldest}"
    environment = yaml.safe_load((REPOSITORY / "envs" / "cpu.yaml").read_text())
    assert f"python={oldest}" in environment["dependencies"]
