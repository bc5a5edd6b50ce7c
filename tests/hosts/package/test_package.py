"""What is built for people: the wheel and the source archive hold the method and its integrations, nothing else."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Folder with the archive, and the wheel that was built from it, of the files of this checkout as they are."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def sources() -> set[str]:
    listed = [
        "git",
        "-C",
        str(REPOSITORY),
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "scripts/ead",
    ]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        name.removeprefix("scripts/")
        for name in names
        if name.endswith(".py") and (REPOSITORY / name).exists()
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == sources() and "ead/schedule.py" in files


def test_the_archive_holds_what_the_wheel_is_built_from_and_nothing_else(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    files = {name for name in names if ".egg-info/" not in name}
    assert files == {f"scripts/{name}" for name in sources()} | {
        *("LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "scripts/ead/README.md")
    } - ({"README.md"} - files)


def test_both_pass_the_check_of_the_package_index(built):
    files = map(str, built.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_metadata_is_stated(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Requires-Python"] == ">=3.11" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] and metadata["Keywords"] and metadata.get_all("Classifier")
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert not re.search(r"\]\((?!https?:)", metadata.get_payload()), (
        "a relative link leads nowhere on an index page"
    )


@pytest.mark.parametrize("extra", ["transformers", "vllm", "verl", "trl"])
def test_an_extra_begins_with_the_oldest_version_that_a_pinned_list_tests(extra):
    (bounds,) = [text for text in PROJECT["optional-dependencies"][extra] if text.startswith(extra)]
    lowest, below = (
        version(found) for found in re.fullmatch(rf"{extra}(?:\[\w+\])?>=([\d.]+),<([\d.]+)", bounds).groups()
    )
    pinned = set()
    for path in (REPOSITORY / "envs").glob("*.txt"):
        found = re.search(rf"^{extra}(?:-cpu)?==([\d.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        pinned |= {version(found[1])} if found else set()
    assert pinned and min(pinned)[: len(lowest)] == lowest and max(pinned) < below, (bounds, sorted(pinned))


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
