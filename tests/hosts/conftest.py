"""Tests of the wheel beside its hosts: each folder runs in an environment of its own, from a list of envs/host-*.txt.

``training/``: snakemake, transformers and TRL. ``engine/``: the newest vLLM with a CPU build. ``package/``: the wheel
and the source archive themselves. In the first two the package is the wheel, installed as people install it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = Path(__file__).parent / "jobs"
# Read by vLLM when it is imported; a variable that is already set wins.
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # compiling costs a minute and these models gain nothing
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    from tiny_model import write_tiny_model  # not where all are: package/ has no torch

    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def run_alone(tmp_path):
    """``run_alone(file, *arguments)`` runs a script in a process and a folder of its own; returns what it prints."""

    def run(file: Path, *arguments, **environment) -> str:
        done = subprocess.run(
            [sys.executable, str(file), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
