"""The paper's scale is planned on any machine: no GPU, no hub, no tokenizer."""

import json
import socket
import sys

import pytest
import yaml

from reproduction.config import REPOSITORY
from reproduction.figures import load_experiments

INFERENCE = ("fig01", "fig02", "fig09")


@pytest.mark.parametrize(("scale", "least"), [("paper", 45), ("gpu1", 20)])
def test_every_training_evaluation_and_figure_is_planned(fresh, monkeypatch, scale, least):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        figures = [name for name, e in load_experiments().items() if e.analysis == "training_curves"]
        (fresh.folder / "config.yaml").write_text(
            yaml.safe_dump({"scale": scale, "experiments": [*figures, *INFERENCE]})
        )
        planned = fresh.planned()
    assert planned["train"] == planned["evaluate_run"] >= least
    assert planned["plot_figure"] == len(figures)
    assert planned["draw_study"] == planned["plot_study"] == len(INFERENCE)


@pytest.mark.parametrize(("scale", "trainings", "models"), [("paper", None, 3), ("gpu1", 1, 1)])
def test_figures_of_inference_alone_need_few_models(fresh, scale, trainings, models):
    """At gpu1 Figure 2 looks at a run, which Figure 4 needs too; nothing else is trained, no model is evaluated."""
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump({"scale": scale}))
    planned = fresh.planned("--", *INFERENCE)
    assert planned["draw_study"] == 3 and planned["import_model"] == models
    assert planned.get("train") == trainings and "evaluate_model" not in planned


def test_the_smoke_target_is_planned_where_its_model_is_trained(fresh):
    planned = fresh.planned("--cores", "1", "verl_smoke")
    assert planned == {"generate_problems": 2, "train_base_model": 1, "verl_smoke": 1}


def test_a_run_that_this_machine_has_no_gpus_for_is_refused_before_any_job(fresh, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump({"scale": "gpu1"}))
    refused = fresh.run("--", "fig04", check=False)
    assert refused.returncode and not (fresh.folder / "results").exists()
    assert " asks for 1 GPU (workflow/resources.yaml), and CUDA_VISIBLE_DEVICES=''" in refused.stderr
    # A plan for another machine can be read, and says the same.
    planned = fresh.run("--dry-run", "--config", "scale=paper", "--", "fig04")
    assert (planned.stdout + planned.stderr).count("train asks for 2 GPUs (workflow") == 1


# Stands for the Python of verl and vLLM: leases what the job was granted, as train.py does, and writes its files.
STAND_IN = """#!{python}
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, "{scripts}")
started = time.monotonic()
from reproduction.cluster import devices
value = dict(zip(sys.argv, sys.argv[1:]))
output = Path(value["--output"])
with devices.leased(int(value["--gpus"]), "a test") as names:
    begun = time.monotonic()
    time.sleep(1)
    ended = time.monotonic()
for name in ("config.yaml", "metrics.parquet", "groups.parquet", "timings.parquet"):
    (output.parent / name).touch()
(output.parent / "checkpoints").mkdir()
output.write_text(json.dumps({{"started": started, "begun": begun, "ended": ended, "names": names}}))
"""


def test_without_a_cluster_as_many_trainings_start_as_there_are_gpus(fresh, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    python = fresh.folder / "python"
    python.write_text(STAND_IN.format(python=sys.executable, scripts=REPOSITORY / "scripts"))
    python.chmod(0o755)
    choices = {"scale": "gpu1", "interpreters": {"gpu": str(python)}, "seeds": [0, 1, 2]}
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump(choices))
    for file in ("models/qwen2.5-math-1.5b/manifest.json", "data/math_train.parquet", "data/math500.parquet"):
        path = fresh.folder / "results" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    run = "results/gpu1/runs/model~qwen2.5-math-1.5b/algorithm~dapo/sampler~tau1.0/n~4/seed~{}/manifest.json"
    manifests = [run.format(seed) for seed in range(3)]
    fresh.run("--cores", "4", "--", *manifests)
    notes = [json.loads((fresh.folder / manifest).read_text()) for manifest in manifests]
    first, second, third = sorted(notes, key=lambda note: note["started"])
    assert sorted(first["names"] + second["names"]) == ["3", "5"]
    # The third job was not even started before a GPU was free.
    assert third["started"] >= min(first["ended"], second["ended"])
