"""Every snakemake command of the pages is planned in a checkout as a reader has it; minutes, in `make test-seams`."""

import os
import subprocess
import sys

import pytest

from pages import EXTEND, blocks, commands, pages

COMMANDS = list(
    dict.fromkeys(tuple(words[1:]) for page in pages() for words in commands(page) if words[0] == "snakemake")
)


def test_the_pages_have_commands():
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_is_planned(extended_checkout, words):
    (extended_checkout / "data").mkdir()
    (extended_checkout / "data" / "my_problems.jsonl").write_text(blocks(EXTEND, "json")[0], encoding="utf-8")
    # Nothing is started; a lock is taken off all the same, where none is.
    plan = [] if "--unlock" in words else ["--dry-run"]
    cores = [] if {"--profile", "--cores"} & set(words) else ["--cores", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *plan, *cores, *words],
        cwd=extended_checkout,
        env={**os.environ, "PYTHONPATH": str(extended_checkout / "scripts")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]


# What `snakemake --lint` finds, each meant. Where a job's program and folders lie is no parameter of the job: another
# machine is no reason to run it again. A helper stands in the file of the rules that use it. Three targets print.
MEANT = ("Shell command directly uses variable", "Mixed rules and functions in same snakefile")
PRINTING = ("rule budget", "rule power", "rule stale")


def test_the_linter_finds_nothing_else(extended_checkout):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"],
        cwd=extended_checkout,
        env={**os.environ, "PYTHONPATH": str(extended_checkout / "scripts")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lints, where = [], ""
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith("Lints for "):
            where = line.removeprefix("Lints for ").partition(" (")[0]
        elif line.startswith("    * "):
            lints.append((where, line.strip(" *:")))
    assert ("rule budget", "No log directive defined") in lints
    assert not [
        (place, what)
        for place, what in lints
        if not what.startswith(MEANT) and not (place in PRINTING and what == "No log directive defined")
    ]
