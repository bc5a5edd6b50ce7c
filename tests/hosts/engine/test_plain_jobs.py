"""Beside the newest vLLM with a CPU build the installed wheel changes nothing that does not ask for it."""

import json
import sys
from pathlib import Path

import ead

HOSTS = Path(__file__).resolve().parents[1]
EXAMPLES = HOSTS.parents[1] / "examples"
ADDED = """
import json, sys
from importlib.metadata import entry_points
import vllm, vllm.v1.sample.logits_processor
from vllm import LLM, SamplingParams
before = set(sys.modules)
(point,) = [point for point in entry_points(group="vllm.logits_processors") if point.dist.name == "ead"]
point.load()
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)))
"""


def test_the_package_is_the_wheel():
    assert Path(sys.prefix) in Path(ead.__file__).parents


def test_the_plug_in_loads_nothing_that_vllm_has_not(tmp_path, run_alone):
    script = tmp_path / "added.py"
    script.write_text(ADDED)
    assert json.loads(run_alone(script).splitlines()[-1]) == ["ead"]


def test_an_engine_answers_requests_that_do_not_ask(tiny_model, run_alone):
    lines = run_alone(HOSTS / "jobs" / "plain_vllm.py", tiny_model).splitlines()[-3:]
    assert [len(json.loads(line)) for line in lines] == [24, 24, 24]


def test_an_engine_anneals_where_asked(tiny_model, run_alone):
    assert len(run_alone(EXAMPLES / "vllm_offline.py", tiny_model).strip()) > 3
