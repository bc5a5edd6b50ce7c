"""GPUs of this machine: what is visible, and leases that real processes contend for. nvidia-smi is a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reproduction.cluster import devices
from reproduction.config import REPOSITORY, Verl

UUIDS = [f"GPU-{number}{number}{number}{number}0000-aaaa" for number in range(8)]
WHOLE = "GPU {}: NVIDIA H100 80GB HBM3 (UUID: {})"
PART = "  MIG 3g.40gb     Device  {}: (UUID: MIG-{})"

# Leases GPUs, notes between when and when it had which, and goes on holding them if told to.
HOLDER = """
import json, os, sys, time
from pathlib import Path
from reproduction.cluster import devices
devices.LOCAL, devices.POLL_S = Path(sys.argv[1]), 0.02
number, seconds, note = int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
with devices.leased(number, "a test") as names:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(names)
    begun = time.monotonic()
    note.with_suffix(".ready").touch()
    time.sleep(seconds)
    ended = time.monotonic()
note.write_text(json.dumps({"names": names, "begun": begun, "ended": ended}))
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts a stand-in for nvidia-smi on the path that prints the given lines; without lines it fails."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "LOCAL", tmp_path)
    monkeypatch.setattr(devices, "POLL_S", 0.02)

    def shows(*lines):
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        program = folder / "nvidia-smi"
        end = "exit 0" if lines else "echo No devices were found; exit 6"
        program.write_text("\n".join(["#!/bin/sh", "cat <<'END'", *lines, "END", end, ""]))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return shows


def whole(number):
    return [WHOLE.format(index, UUIDS[index]) for index in range(number)]


def names():
    return [device.name for device in devices.visible()]


def test_all_gpus_of_the_machine_are_visible_where_nothing_says_otherwise(machine):
    machine(*whole(8))
    assert names() == list("01234567")
    assert [device.identity for device in devices.visible()] == UUIDS


def test_a_machine_without_gpus_or_without_nvidia_smi_shows_none(machine, monkeypatch):
    machine()
    assert names() == []
    monkeypatch.setenv("PATH", "/nonexistent")
    assert names() == []


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("2,0", ["2", "0"]),
        (" 1 , 3", ["1", "3"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),  # CUDA hides what follows the first name that means nothing
        ("0,9,1", ["0"]),
        ("1,1", ["1"]),
        (f"{UUIDS[3]},{UUIDS[0]}", [UUIDS[3], UUIDS[0]]),
        ("GPU-1111", ["GPU-1111"]),  # cut short
        ("GPU-", []),  # of several
        ("NoDevFiles", []),
    ],
)
def test_the_outer_variable_is_read_as_cuda_reads_it(machine, monkeypatch, variable, expected):
    machine(*whole(4))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert names() == expected


def test_one_gpu_has_one_identity_under_all_its_names(machine, monkeypatch):
    machine(*whole(4))
    for name in ("1", UUIDS[1], "GPU-1111"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
        assert [device.identity for device in devices.visible()] == [UUIDS[1]]


def test_the_parts_of_a_divided_gpu_stand_for_it(machine, monkeypatch):
    machine(
        *whole(1),
        WHOLE.format(1, UUIDS[1]),
        PART.format(0, "a"),
        PART.format(1, "b"),
        WHOLE.format(2, UUIDS[2]),
    )
    assert names() == ["0", "MIG-a", "MIG-b", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    assert names() == ["MIG-b"]


def test_names_are_taken_as_they_are_where_nvidia_smi_is_missing(machine, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,MIG-a,nonsense,1")
    assert names() == ["0", "MIG-a"]


def test_a_lease_sets_the_variable_and_puts_it_back(machine, monkeypatch):
    machine(*whole(4))
    with devices.leased(2, "a test"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # nvidia-smi's
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2,1")
    with devices.leased(1, "a test"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,2,1"


def test_too_few_gpus_are_named_with_both_numbers(machine, monkeypatch):
    machine(*whole(2))
    with (
        pytest.raises(
            devices.MissingGPUs, match="verl.gpus_per_node asks for 8 GPUs; nvidia-smi finds 2 GPUs here"
        ),
        devices.for_training(Verl(gpus_per_node=8)),
    ):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with (
        pytest.raises(
            devices.MissingGPUs,
            match="tensor_parallel asks for 2 GPUs; CUDA_VISIBLE_DEVICES='0' leaves 1 GPU",
        ),
        devices.for_sampling(Verl(tensor_parallel=2)),
    ):
        pass


def test_jobs_without_a_gpu_lease_none(machine):
    machine()
    for lease in (
        devices.for_sampling(None),
        devices.for_sampling(Verl(device="cpu")),
        devices.for_training(Verl(device="cpu")),
    ):
        with lease:
            assert "CUDA_VISIBLE_DEVICES" not in os.environ


# --- contention ----------------------------------------------------------------------------------------------


class Holder:
    """A process that leases GPUs."""

    def __init__(self, folder: Path, name: str, number: int, seconds: float, **variables):
        self.note = folder / f"{name}.json"
        command = [sys.executable, "-c", HOLDER, str(folder), str(number), str(seconds), str(self.note)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts"), **variables}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    @property
    def holds(self) -> bool:
        return self.note.with_suffix(".ready").exists()

    def wait_until_it_holds(self, seconds=300) -> None:
        deadline = time.monotonic() + seconds
        while not self.holds:
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> dict:
        assert self.process.wait(timeout=300) == 0, self.process.stderr.read()
        return json.loads(self.note.read_text())


def test_no_gpu_is_two_processes_at_once_whatever_they_ask_for(machine, tmp_path):
    machine(*whole(3))
    asked = [1, 2, 3, 1, 2, 1]
    holders = [Holder(tmp_path, str(place), number, 0.2) for place, number in enumerate(asked)]
    held = [holder.end() for holder in holders]
    assert [len(one["names"]) for one in held] == asked
    for place, one in enumerate(held):
        for other in held[:place]:
            apart = one["ended"] <= other["begun"] or other["ended"] <= one["begun"]
            assert apart or not set(one["names"]) & set(other["names"]), (one, other)


def test_the_gpu_of_a_process_that_was_killed_is_free_again(machine, tmp_path):
    machine(*whole(1))
    killed = Holder(tmp_path, "killed", 1, 600)
    killed.wait_until_it_holds()
    after = Holder(tmp_path, "after", 1, 0)
    time.sleep(0.5)
    assert after.process.poll() is None and not after.holds
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    assert after.end()["names"] == ["0"]


def test_a_process_that_is_killed_while_it_waits_leaves_the_queue(machine, tmp_path):
    machine(*whole(2))
    first = Holder(tmp_path, "first", 1, 600)
    first.wait_until_it_holds()
    waiting = Holder(tmp_path, "waiting", 2, 0)  # takes the other GPU, and waits for the first one's
    time.sleep(1.5)
    last = Holder(tmp_path, "last", 1, 0)
    time.sleep(0.5)
    assert not waiting.holds
    waiting.process.send_signal(signal.SIGKILL)
    waiting.process.wait()
    assert last.end()["names"] == ["1"]
    first.process.kill()
    first.process.wait()


def test_the_same_gpu_under_another_name_is_taken(machine, tmp_path):
    machine(*whole(2))
    holder = Holder(tmp_path, "uuid", 1, 600, CUDA_VISIBLE_DEVICES=UUIDS[0])
    holder.wait_until_it_holds()
    assert Holder(tmp_path, "index", 1, 0).end()["names"] == ["1"]
    holder.process.kill()
    holder.process.wait()


def test_jobs_of_slurm_have_gpus_of_their_own_under_equal_names(machine, tmp_path):
    machine(*whole(1))
    first = Holder(tmp_path, "first", 1, 600, SLURM_JOB_ID="1", CUDA_VISIBLE_DEVICES="0")
    first.wait_until_it_holds()
    assert Holder(tmp_path, "second", 1, 0, SLURM_JOB_ID="2", CUDA_VISIBLE_DEVICES="0").end()["names"] == [
        "0"
    ]
    assert first.process.poll() is None
    first.process.kill()
    first.process.wait()
