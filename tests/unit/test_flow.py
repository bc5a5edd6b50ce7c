"""The picture of a run's way in CONTRIBUTING.md is that of the rules, the scripts and their imports."""

import re

import pytest
from test_layers import GRAPH
from test_layout import RULES

from pages import blocks
from reproduction.config import REPOSITORY

TABLE, STEP = (block for block in blocks(REPOSITORY / "CONTRIBUTING.md") if "generate" in block)
LINES = [re.split(r"\s{2,}", line.strip()) for line in TABLE.splitlines()[1:]]


def reached(module: str) -> set[str]:
    return {other for other in GRAPH[module] if other.startswith("reproduction.")}


@pytest.mark.parametrize("line", LINES, ids=[line[0] for line in LINES])
def test_a_rule_runs_its_script_which_calls_its_packages_and_leaves_its_file(line):
    rule, script, packages, file = line
    body = RULES[rule]
    assert f"/{script}" in body
    assert file.replace("{", "{{").replace("}", "}}") in body or file in body
    called = {name.split(".")[1] for name in reached(script.removesuffix(".py"))}
    assert set(packages.split(", ")) <= called


def test_what_a_line_needs_stands_above_it():
    """A rule that names another's file in its text comes after it."""
    names = [line[0] for line in LINES]
    for place, (_, _, _, file) in enumerate(LINES):
        wanted = file.replace("{", "{{").replace("}", "}}")
        for rule in names[:place]:
            inputs = RULES[rule].partition("output:")[0]
            assert wanted not in inputs, f"{rule} reads {file}, which is made further down"


def test_a_step_of_the_engine_calls_each_part():
    parts = [f"reproduction.{part}" for part in re.split(r"\s*->\s*", STEP.strip())]
    assert len(parts) == 7 and set(parts) <= reached("reproduction.engines.inprocess")
