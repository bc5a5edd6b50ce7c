"""Beside the newest vLLM with a CPU build the installed wheel changes nothing that does not ask for it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import ead
from ead.schedule import Annealed
from tiny_model import Reference

JOBS = Path(__file__).resolve().parents[1] / "jobs"
SCHEDULE = Annealed(tau_max=1.4, tau_min=0.3, d0=22, alpha=0.5, d_max=100, start=4)
STEP, PROMPT = 2, [72, 101, 97, 116]
ADDED = """
import json, sys
from importlib.metadata import entry_points
import vllm, vllm.v1.sample.logits_processor
from vllm import LLM, SamplingParams
before = set(sys.modules)
(point,) = [point for point in entry_points(group="vllm.logits_processors") if point.dist.name == "ead"]
point.load()
print(json.dumps(sorted(set(sys.modules) - before)))
"""
_AT = "vllm.v1.worker.gpu.sample.logits_processor"
INTERFACE = {"vllm.v1.worker.gpu", "vllm.v1.worker.gpu.sample", _AT, f"{_AT}.interface", f"{_AT}.loader"}
# Python imports a module of this name at its start: its process is as if the package were not installed.
WITHOUT = """
import importlib.metadata, sys
found = importlib.metadata.distributions
importlib.metadata.distributions = lambda **of: (one for one in found(**of) if one.metadata["Name"] != "ead")
sys.modules["ead"] = None
"""


def answers(printed: str) -> list:
    """What a job printed as JSON lists, without vLLM's words."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("[")]


def test_the_package_is_the_wheel():
    assert Path(sys.prefix) in Path(ead.__file__).parents


def test_the_plug_in_loads_parts_of_the_package_and_an_interface_of_vllms_and_nothing_else(
    tmp_path, run_alone
):
    """So its import takes milliseconds: the class inherits from the interfaces of both runners, and from no runner."""
    script = tmp_path / "added.py"
    script.write_text(ADDED)
    (added,) = answers(run_alone(script))
    ours = {name for name in added if name.split(".")[0] == "ead"}
    plug_in = {name for name in ours if name.startswith("ead.integrations.vllm")}
    assert ours - plug_in == {"ead", "ead.integrations", "ead.rules", "ead.schedule"} and plug_in
    others = {name for name in added if name.split(".")[0] not in {"ead", *sys.stdlib_module_names}}
    assert others <= INTERFACE


def test_an_engine_answers_requests_that_do_not_ask_as_without_the_package(tiny_model, tmp_path, run_alone):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT)
    job = JOBS / "plain_vllm.py"
    with_it = answers(run_alone(job, tiny_model))
    assert [len(tokens) for tokens in with_it] == [24, 24, 24]
    assert answers(run_alone(job, tiny_model, PYTHONPATH=str(hidden))) == with_it


def test_an_engine_anneals_where_asked(tiny_model, run_alone):
    asked = json.dumps({**SCHEDULE.to_dict(), "step": STEP})
    *annealed, plain = answers(run_alone(JOBS / "annealed_vllm.py", tiny_model, asked))
    assert len(annealed) == 7
    reference = Reference(tiny_model)
    temperatures = SCHEDULE.temperature(np.arange(24), STEP)
    for tokens, logprobs in annealed:
        expected = reference.logprobs(PROMPT, tokens, temperatures)
        np.testing.assert_allclose(logprobs, expected, atol=1e-4, rtol=0)
    tokens, logprobs = plain
    assert logprobs == pytest.approx(reference.logprobs(PROMPT, tokens, np.ones(24)), abs=1e-4)
