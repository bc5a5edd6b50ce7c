"""Beside snakemake, transformers and TRL the installed wheel changes nothing that does not ask for it."""

import json
import sys
from importlib.metadata import distribution
from pathlib import Path

import ead

HOSTS = Path(__file__).resolve().parents[1]
EXAMPLES = HOSTS.parents[1] / "examples"
PLUGINS = """
import importlib, json, sys
import numpy, torch
before = set(sys.modules)
for module in ("schedule", "importance", "objective", "metrics", "seeds", "integrations.vllm"):
    importlib.import_module(f"ead.{module}")
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)))
"""


def test_the_package_is_the_wheel():
    assert Path(sys.prefix) in Path(ead.__file__).parents


def test_no_host_is_handed_anything_but_vllms_plug_in():
    ours = distribution("ead").entry_points
    assert [(point.group, point.name) for point in ours] == [("vllm.logits_processors", "ead")]


def test_beyond_torch_and_numpy_the_method_and_its_entry_point_load_only_the_package(tmp_path, run_alone):
    script = tmp_path / "plugins.py"
    script.write_text(PLUGINS)
    assert json.loads(run_alone(script)) == ["ead"]


def test_snakemake_runs_a_workflow_and_offers_its_own_loggers(run_alone):
    total, loggers = run_alone(HOSTS / "jobs" / "plain_snakemake.py").splitlines()
    assert total == "['0', '1', '2'] True"
    assert "calm" not in loggers and "jobs" not in loggers


def test_transformers_generates(tiny_model, run_alone):
    greedy, sampled = map(
        json.loads, run_alone(HOSTS / "jobs" / "plain_transformers.py", tiny_model).splitlines()
    )
    assert len(greedy) == len(sampled) == 28 and greedy[:4] == sampled[:4] == [72, 101, 97, 116]


def test_transformers_anneals_where_asked(tiny_model, run_alone):
    assert len(run_alone(EXAMPLES / "transformers_generate.py", tiny_model).strip()) > 3


def test_trl_trains(tiny_model, run_alone):
    steps, *_ = run_alone(HOSTS / "jobs" / "plain_trl.py", tiny_model).splitlines()[-1].split()
    assert steps == "2"
