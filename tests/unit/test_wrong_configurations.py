"""Every row of tests/wrong_configurations.yaml is explained, by the functions that workflow/rules/common.smk calls."""

import json
import sys
from pathlib import Path

import pytest
from snakemake.cli import parse_config

from reproduction import plan
from reproduction.cluster.resources import RULES
from reproduction.config import REPOSITORY, ConfigurationError, read_yaml
from reproduction.tasks.countdown import EXISTING, solutions

sys.path.append(str(REPOSITORY / "tests"))
from wrong_configurations import copy_checkout, load_table  # noqa: E402

WRONG = load_table()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the files that a user edits; a test changes one of them and puts it back."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_one_line_names_the_key_what_was_found_and_what_is_allowed(wrong, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    with wrong.laid_over(checkout), pytest.raises(ConfigurationError) as caught:
        plan.read_plan(plan.read_files("config.yaml"), parse_config(wrong.config), Path("workflow"))
    message = str(caught.value)
    assert all(word in message for word in wrong.words), message
    assert len(message.splitlines()) == 1 and len(message) < 2000, message
    assert not list(checkout.rglob("*hacked*"))


def test_the_table_is_long_and_names_each_mistake_once():
    assert len(WRONG) >= 100
    assert len({wrong.name for wrong in WRONG}) == len(WRONG)


def test_the_files_that_the_table_changes_are_right_without_it(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    found = plan.read_plan(read_yaml(checkout / "config.yaml"), {}, checkout / "workflow")
    assert found.configuration.experiments == ["fig04"]
    assert found.runs and found.claims.claims and found.deviations


def test_several_mistakes_have_a_line_each(checkout):
    values = {"scale": "huge", "seeds": [0, 0], "pahts": {}}
    with pytest.raises(ConfigurationError) as caught:
        plan.read_plan(values, {}, checkout / "workflow")
    assert len(str(caught.value).splitlines()) == 3


def test_a_thousand_mistakes_do_not_flood_the_screen(checkout):
    with pytest.raises(ConfigurationError) as caught:
        plan.read_plan({"scale": "mini", "seeds": ["x" * 10**6] * 1000}, {}, checkout / "workflow")
    message = str(caught.value)
    assert len(message.splitlines()) == 21 and message.endswith("980 mistakes more")
    assert len(message) < 5000


def test_rules_are_known_however_they_are_written():
    """At the margin, under a condition, and made of another; not the figures' own targets, whose names are values."""
    assert {"all", "train", "tabulate_real_lm", "plot_study", "claims"} <= set(RULES) and len(RULES) > 40
    assert not {"fig04", "name", "figure"} & set(RULES)


@pytest.mark.parametrize("numbers", EXISTING)
def test_the_number_of_countdown_problems(numbers):
    assert len(solutions(numbers)) == EXISTING[numbers]


def test_a_plan_is_plain_enough_for_every_job_to_make_it_again(checkout, monkeypatch):
    """Jobs plan anew from the same values: nothing may depend on the process."""
    monkeypatch.chdir(checkout)
    made = [plan.read_plan(read_yaml(checkout / "config.yaml"), {}, checkout / "workflow") for _ in range(2)]
    hashes = [json.dumps({name: run.hash for name, run in one.runs.items()}) for one in made]
    assert hashes[0] == hashes[1]
