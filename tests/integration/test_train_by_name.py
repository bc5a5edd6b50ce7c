"""`python scripts/train.py sampler~ead/n~4`: a training without Snakemake, as the workflow's rule makes it."""

import hashlib
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from reproduction.config import REPOSITORY

EAD = "results/mini/runs/model~tiny/algorithm~dapo/sampler~ead/n~4/seed~0"
# What differs between two trainings of one run: the clock, the commit, and whether it was measured.
OF_THE_TRAINING = ("started", "ended", "cpu_seconds_outside_steps", "code")


@pytest.fixture
def train(tmp_path):
    def call(*arguments, check=True, **choices):
        values = {"scale": "mini", "tracking": {"stream": False}, **choices}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts" / "train.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr[-4000:]
        return done

    return call


def files_of(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "timings.parquet", ".snakemake_timestamp")
    }


def test_the_run_folder_is_that_of_the_rule_to_the_bit(train, tmp_path, reproduced):
    done = train("sampler~ead/n~4")
    assert EAD in done.stderr
    ours, rules = tmp_path / EAD, reproduced.folder / EAD
    assert files_of(ours) == files_of(rules)
    assert len(pd.read_parquet(ours / "timings.parquet")) == 4
    first, second = (json.loads((folder / "manifest.json").read_text()) for folder in (ours, rules))
    assert first["code"]["sources"] == second["code"]["sources"]
    assert {key: value for key, value in first.items() if key not in OF_THE_TRAINING} == {
        key: value for key, value in second.items() if key not in OF_THE_TRAINING
    }
    assert "has run already" in train("sampler~ead").stderr  # n~4 is the scale's


def test_another_task_and_another_algorithm_are_named_alone(train, tmp_path):
    """Two kinds in one training: paths on a grid, and GSPO."""
    on_the_grid = {
        "models": {"tiny": {"dataset": "grid_train"}},
        "training": {"dataset": "grid_train"},
        "evaluation": {"dataset": "grid_test"},
    }
    train("algorithm~gspo", overrides=on_the_grid)
    folder = tmp_path / EAD.replace("dapo", "gspo")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["status"], manifest["steps"]) == ("finished", 4)
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert (written["dataset_definition"]["kind"], written["algorithm_definition"]["loss"]) == (
        "grid",
        "gspo",
    )
    problems = pd.read_parquet(tmp_path / "results/mini/data/grid_train.parquet")
    asked = pd.read_parquet(folder / "groups.parquet")["problem"]
    assert set(asked) <= {row["id"] for row in problems["extra_info"]}


@pytest.mark.parametrize(
    ("arguments", "choices", "words"),
    [
        (["sampler~eda"], {}, "sampler~eda: unknown sampler 'eda' (did you mean 'ead'?); known: tau0.6"),
        (["sampler~ead"], {"scale": "mni"}, "config.yaml: scale: Input should be 'mini'"),
        (
            ["model~tiny"],
            {"overrides": {"training": {"dataset": "gsm8k_train"}}},
            "results/data/gsm8k_train.parquet: no such file; `snakemake --cores all results/data/gsm8k_train.parquet`",
        ),
    ],
)
def test_a_mistake_ends_it_before_anything_is_made(train, tmp_path, arguments, choices, words):
    done = train(*arguments, check=False, **choices)
    assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()
