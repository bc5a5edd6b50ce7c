"""A run is trained by its readable name without Snakemake: from the same tables, into the same places."""

import importlib.util
import json
from pathlib import Path

import pytest

from reproduction.config import REPOSITORY
from reproduction.config.runs import RunConfiguration
from reproduction.plan import read_files, read_plan

NAME = "model~tiny/algorithm~dapo/sampler~ead/n~4/seed~0"


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train", REPOSITORY / "scripts" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("scale: mini\noverrides: {training: {steps: 2}}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()


def test_a_name_is_the_arguments_that_the_rule_gives(train, folder):
    made("results/mini/models/tiny/manifest.json")
    made("results/mini/data/countdown_train.parquet")
    arguments = train.read_arguments(["model~tiny/sampler~ead/n~4/algorithm~dapo", "--threads", "2"])
    plan = read_plan(read_files("config.yaml"))
    assert RunConfiguration.from_json(arguments.run) == plan.runs[NAME]
    assert plan.runs[NAME].training.steps == 2 and arguments.threads == 2
    assert arguments.output == Path("results/mini/runs") / NAME / "manifest.json"
    assert arguments.state == Path("results/mini/state") / plan.runs[NAME].hash
    assert (arguments.scale, arguments.overrides) == ("mini", {"training": {"steps": 2}})
    assert json.loads(arguments.run)["sampler"] == "ead" and not arguments.no_stream


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sampler~ead", "give more of it: model~"),
        ("sampler~eda", "did you mean 'sampler~ead"),
        (NAME, "results/mini/models/tiny/manifest.json has not been made: snakemake results/mini/models"),
    ],
)
def test_what_a_name_lacks_is_said(train, folder, capsys, name, words):
    with pytest.raises(SystemExit):
        train.read_arguments([name])
    assert words in capsys.readouterr().err


def test_without_a_name_the_rule_gives_everything(train, capsys):
    with pytest.raises(SystemExit):
        train.read_arguments(["--run", "{}"])
    assert "give the name of a run, or --model, --dataset" in capsys.readouterr().err
