"""The examples run as they stand, each in an interpreter of its own, and print what the model answered.

The tiny model has random weights: its answer has no meaning, and may end early.
"""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name, argument, **environment):
    """Return what the example prints."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), str(argument)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def test_transformers_example(tiny_model):
    assert len(run("transformers_generate.py", tiny_model).strip()) > 3


def test_vllm_offline_example(tiny_model):
    # As a user runs it: the engine in a process of its own.
    assert len(run("vllm_offline.py", tiny_model, VLLM_ENABLE_V1_MULTIPROCESSING="1").strip()) > 3


def test_vllm_server_example(server):
    assert len(run("vllm_server.py", f"{server}/v1").strip()) > 3
