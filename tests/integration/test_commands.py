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
