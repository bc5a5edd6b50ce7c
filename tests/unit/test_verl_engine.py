"""What the verl engine does around verl: it leaves nothing behind, and never resumes another run's state."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from reproduction import records
from reproduction.checkpoints import StateMismatch
from reproduction.config import load_scale
from reproduction.engines import verl

# A process of Ray's kind: in a session of its own, orphaned, deaf to SIGTERM, with a shared-memory segment.
STUBBORN = """
import mmap, os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.truncate(descriptor, 4096)
segment = mmap.mmap(descriptor, 4096)
open(sys.argv[2], "w").close()
time.sleep(600)
"""


@pytest.fixture
def segment():
    path = Path("/dev/shm") / f"ead_test_{secrets.token_hex(8)}"
    yield path
    path.unlink(missing_ok=True)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_orphans_and_their_shared_memory_are_found_and_removed(segment, tmp_path, monkeypatch):
    monkeypatch.setattr(verl, "END_S", 1.0)
    mark, ready = secrets.token_hex(8), tmp_path / "ready"
    subprocess.run(
        [sys.executable, "-c", STUBBORN, str(segment), str(ready)],
        env={**os.environ, verl.MARK: mark},
        check=True,
    )
    wait_for(ready.exists)
    (orphan,) = verl._marked(mark)
    segments = verl._mapped_segments([orphan])
    assert segments == {str(segment)}
    assert str(segment) not in verl.abandoned_segments()
    verl._end([orphan])
    assert not psutil.pid_exists(orphan.pid) or orphan.status() == psutil.STATUS_ZOMBIE
    assert str(segment) in verl.abandoned_segments()
    verl._remove_segments(segments)
    assert not segment.exists()


def test_a_segment_that_another_process_uses_stays(segment, tmp_path):
    ready = tmp_path / "ready"
    subprocess.run([sys.executable, "-c", STUBBORN, str(segment), str(ready)], check=True)
    wait_for(ready.exists)
    (other,) = [p for p in psutil.process_iter() if str(segment) in verl._mapped_segments([p])]
    try:
        verl._remove_segments({str(segment)})
        assert segment.exists()
    finally:
        other.kill()


def test_the_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "identity.json"
    verl._check_identity(path, {"run": "a", "model": "m"})
    verl._check_identity(path, {"run": "a", "model": "m"})
    with pytest.raises(StateMismatch, match="the state is of another run; remove the folder"):
        verl._check_identity(path, {"run": "b", "model": "m"})


def test_the_step_to_resume_from_is_the_one_verl_will_take(tmp_path):
    assert verl._resumed_step(tmp_path) == 0
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("4")
    assert verl._resumed_step(tmp_path) == 0  # the folder is not there: verl starts over
    (tmp_path / "global_step_4").mkdir()
    assert verl._resumed_step(tmp_path) == 4


@pytest.mark.parametrize(("loss", "diverged"), [(0.5, False), (float("nan"), True), (float("inf"), True)])
def test_a_step_that_is_not_finite_ends_the_run_as_diverged(tmp_path, loss, diverged):
    records.append(tmp_path / "metrics.jsonl", {"step": 1, "loss": 0.1, "gradient_norm": 1.0})
    records.append(tmp_path / "metrics.jsonl", {"step": 2, "loss": loss, "gradient_norm": 1.0})
    assert verl._diverged(tmp_path) == diverged


@pytest.mark.parametrize("found", [0, 1])
def test_a_training_on_a_node_that_lacks_its_gpus_says_so_and_starts_nothing(tmp_path, monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.setattr(verl, "version", lambda package: "0")  # this environment need not have verl
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "problems.parquet").touch()
    with pytest.raises(RuntimeError, match=f"verl.gpus_per_node asks for 8 GPUs, .* finds {found} here"):
        verl.train(
            SimpleNamespace(hash="of no run"),  # nothing else of the run is asked for before
            load_scale("paper").verl,
            model=tmp_path,
            dataset=tmp_path / "problems.parquet",
            validation=tmp_path / "problems.parquet",
            state=tmp_path / "state",
            progress=None,
        )
    assert [path.name for path in (tmp_path / "state" / "verl").iterdir()] == ["identity.json"]
