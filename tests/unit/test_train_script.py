"""`python scripts/train.py NAME`: what it makes and gives to the training, without one."""

import json
import sys

import pytest

from reproduction.config import REPOSITORY

sys.path.append(str(REPOSITORY / "scripts"))
import train  # noqa: E402


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return what was given to scripts, one after the other; models and data are there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("scale: mini\n")

    def called(*arguments, made=True):
        given = []
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        monkeypatch.setattr(train, "_call", lambda script, options, *_: given.append(options))
        if made:
            for name in ("_dataset", "_model"):
                (tmp_path / name).touch()
                monkeypatch.setattr(train, name, lambda _, __, file=tmp_path / name: file)
        ended = train.train_by_name()
        return given if ended == 0 else ended

    return called


def test_the_gpus_of_a_training_are_those_of_the_plan(call):
    (options,) = call("model~qwen2.5-math-1.5b/sampler~ead", "--scale", "paper")
    assert (options["gpus"], options["nodes"]) == (2, 1)
    assert json.loads(options["machine"])["gpus_per_node"] == 8


def test_the_advice_names_the_scale_that_config_yaml_has_not(call):
    file = "results/data/numina_math_cot.parquet"
    advice = f"{file}: no such file; `snakemake --cores all {file} --config scale=paper` makes it"
    assert call("model~qwen2.5-math-1.5b", "--scale", "paper", made=False) == advice
