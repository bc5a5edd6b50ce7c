"""What docs/extend.md adds, in one checkout: Snakemake plans what the page says, and a training runs with its code."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from pages import EXTEND, additions, blocks, commands


@pytest.fixture
def extended(fresh, extended_checkout, monkeypatch):
    """The mini workflow of a checkout in which each table has one entry more."""
    (fresh.folder / "data").mkdir()
    (fresh.folder / "data" / "my_problems.jsonl").write_text(blocks(EXTEND, "json")[0], encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.fspath(extended_checkout / "scripts"))
    values = {"scale": "mini", "experiments": ["fig04"], "tracking": {"stream": False}}
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump(values))
    return type(fresh)(fresh.folder, snakefile=extended_checkout / "workflow" / "Snakefile")


def test_each_entry_is_planned_without_another_file_touched(extended):
    """The sampler in Figure 4 for two roles, the figure's three runs, the model in a role, the data in evaluations."""
    planned = extended.planned(
        "--",
        "fig_tis",
        "fig04",
        overrides={
            "roles": {"llama_1b": {"model": "smollm2-360m"}},
            "evaluation": {"dataset": "my_problems"},
        },
        paths={"real_data": "data"},
    )
    # Figure 4 has seven samplers for two roles; its own runs have 4 rollouts and those of `fig_tis` 8.
    assert planned["train"] == planned["evaluate_run"] == 2 * (7 + 1) + 3
    assert planned["import_model"] == 1 and planned["train_base_model"] == 1
    assert planned["prepare_dataset"] == 1
    assert planned["plot_figure"] == planned["estimate_figure"] == 2
    assert planned["fig_tis"] == 1


def test_a_local_copy_that_is_not_there_is_missed_by_what_needs_it_alone(extended):
    """A folder of local copies need not hold all of them."""
    done = extended.run(
        "--dry-run", "results/data/math500.parquet", "--config", "paths={real_data: data}", check=False
    )
    assert done.returncode != 0
    assert "data/math500.jsonl: no such file. Copy it there from" in done.stdout + done.stderr


def test_a_training_runs_with_the_task_the_algorithm_and_the_formula_of_the_page(extended_checkout):
    """Each is one file, or the end of one, and its entry."""
    assert [path for path, _ in additions(EXTEND) if path.endswith(".py")] == [
        "scripts/ead/schedule.py",
        "scripts/reproduction/figures/last_step.py",
        "scripts/reproduction/tasks/sorting.py",
        "scripts/reproduction/algorithms/rloo.py",
    ]
    (choices,) = (text for text in blocks(EXTEND, "yaml") if text.startswith("# config.yaml"))
    (extended_checkout / "config.yaml").write_text(choices + "tracking: {stream: false}\n")
    (command,) = (
        words for words in commands(EXTEND) if words[0] == "python" and "algorithm~rloo" in words[2]
    )
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=extended_checkout,
        env={**os.environ, "PYTHONPATH": str(extended_checkout / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    run = "results/mini/runs/model~tiny/algorithm~rloo/sampler~ead_quadratic/n~4/seed~0"
    folder = extended_checkout / run
    assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["dataset_definition"]["kind"] == written["model_dataset"]["kind"] == "sorting"
    assert written["algorithm_definition"]["loss"] == "rloo"
    assert written["sampler_definition"]["schedule"]["kind"] == "quadratic"


def test_a_figure_of_a_new_kind_is_drawn(extended):
    """The file of the page, its entry, its target: two trainings, an estimate, a picture."""
    extended.run("fig_entropy_left")
    drawn = pd.read_csv(extended.folder / "reports/mini/figures/fig_entropy_left.csv")
    assert sorted(drawn["sampler"]) == ["ead", "tau1.0"] and (drawn["value"] > 0).all()
    for suffix in ("png", "pdf"):
        assert (extended.folder / f"reports/mini/figures/fig_entropy_left.{suffix}").stat().st_size > 0
