"""kill -9 or Ctrl-C in the middle of a training, and of the whole workflow: the same bits come out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from reproduction.config import REPOSITORY

RUN = "model~tiny/algorithm~dapo/sampler~ead_tis/n~4/seed~0"


def bits(workflow):
    folder = workflow.folder / "results/mini/runs" / RUN
    return (
        (folder / "metrics.parquet").read_bytes(),
        (folder / "checkpoints/step_4/model.safetensors").read_bytes(),
    )


@pytest.fixture
def untrained(reproduced, tmp_path):
    """A copy of the finished workflow in which one run has never been trained."""
    copy = type(reproduced)(tmp_path / "copy")
    shutil.copytree(reproduced.folder, copy.folder)
    shutil.rmtree(copy.folder / "results/mini/runs" / RUN)
    shutil.rmtree(copy.folder / "results/mini/state" / configuration_hash(reproduced))
    return copy


def configuration_hash(workflow):
    manifest = workflow.folder / "results/mini/runs" / RUN / "manifest.json"
    return json.loads(manifest.read_text())["configuration_hash"]


KILL_POINTS = {
    "before the first step": lambda state: (state / "started.json").exists(),
    "after step 1, before a checkpoint": lambda state: lines(state) >= 1,
    "at the first checkpoint": lambda state: (state / "checkpoints/step_2").exists(),
    "after step 3": lambda state: lines(state) >= 3,
    "at the last checkpoint": lambda state: (state / "checkpoints/step_4").exists(),
}


def lines(state):
    path = state / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(point, state, process):
    deadline = time.monotonic() + 120
    while not KILL_POINTS[point](state):
        assert process.poll() is None, "the training ended before the kill"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_workflow_killed_in_a_training_ends_with_the_same_bits(untrained, reproduced, point):
    state = untrained.folder / "results/mini/state" / configuration_hash(reproduced)
    target = f"results/mini/runs/{RUN}/manifest.json"
    process = subprocess.Popen(
        untrained.command(target),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=untrained.environment,
        start_new_session=True,
    )
    wait_for(point, state, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (untrained.folder / target).exists(), "a killed training left a manifest"

    untrained.run("--unlock")
    untrained.run("--rerun-incomplete", target)
    assert bits(untrained) == bits(reproduced)


def test_ctrl_c_of_make_reproduce_says_what_is_done_and_the_same_command_goes_on(untrained, reproduced):
    state = untrained.folder / "results/mini/state" / configuration_hash(reproduced)
    target = f"results/mini/runs/{RUN}/manifest.json"
    command = [sys.executable, str(REPOSITORY / "scripts" / "reproduce.py"), "--cores", "2", target]
    where = {"cwd": untrained.folder, "env": untrained.environment, "text": True, "stdout": subprocess.PIPE}
    process = subprocess.Popen(
        command,
        **where,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    wait_for("after step 1, before a checkpoint", state, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal gives it to the whole group
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted after" in said and "same command again" in said and "Traceback" not in said
    assert not list((untrained.folder / ".snakemake/locks").glob("*"))
    assert not (untrained.folder / target).exists(), "an interrupted training left a manifest"

    assert subprocess.run(command, **where, check=False).returncode == 0
    assert bits(untrained) == bits(reproduced)
