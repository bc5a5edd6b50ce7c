"""Trainings that a cluster stops half-way, each in another way, and what is left of it at the end: nothing.

All trainings are stopped by SIGSTOP after their third step, past the first checkpoint, so that what happens to them
happens at a known moment. Limits and retries are those of the profile.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import GPUS_PER_NODE

from conftest import FIGURE, Checkout
from ead.pipeline.config import Configuration, load_experiments, load_scale
from ead.pipeline.runs import expand

STEPS, STOPPED_AT = 8, 3
CONFIG = (
    "scale=mini",
    f"experiments=[{FIGURE}]",
    "seeds=[0,1]",
    f"overrides={{training: {{steps: {STEPS}}}}}",
)
# One training each; the first four share a node.
WAYS = ("time limit", "memory", "scancel", "requeue", "node failure", "preemption")
NODE_OF = dict.fromkeys(WAYS, "node1") | {"node failure": "node2", "preemption": "node3"}


def runs():
    configuration = Configuration(scale="mini", experiments=[FIGURE], seeds=[0, 1])
    return expand(
        configuration, load_scale("mini", {"training": {"steps": STEPS}}), load_experiments()[FIGURE]
    )


RUNS = runs()
NAMES = dict(zip(WAYS, RUNS, strict=False))


def manifest(name: str) -> str:
    return f"results/mini/runs/{name}/manifest.json"


class Training:
    """One training of a checkout, seen from outside."""

    def __init__(self, checkout: Checkout, name: str):
        self.checkout, self.name = checkout, name
        self.folder = checkout.folder / "results/mini/runs" / name
        self.state = checkout.folder / "results/mini/state" / RUNS[name].hash

    @property
    def steps(self) -> int:
        path = self.state / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def processes(self) -> list[int]:
        """The processes that train it now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            ours = f"PYTHONPATH={self.checkout.folder}/scripts".encode() in environment
            if ours and any(word.endswith("scripts/train.py") for word in words[:3]):
                output = words[words.index("--output") + 1]
                found += [int(process.name)] if output == manifest(self.name) else []
        return found

    def stop(self) -> bool:
        """Stop it once it is far enough; return whether it is stopped."""
        if self.steps < STOPPED_AT:
            return False
        for process in self.processes():
            os.kill(process, signal.SIGSTOP)
        return True

    def job(self) -> str:
        """The Slurm job that runs it."""
        rows = self.checkout.records("JobID", "State", "Comment")
        comment = "rule_train_wildcards_" + self.name.replace("/", "_")
        return next(
            row["JobID"] for row in reversed(rows) if row["Comment"] == comment and row["State"] == "RUNNING"
        )

    def history(self) -> list[dict[str, str]]:
        """Slurm's records of its jobs, each start of a requeued one included."""
        comment = "rule_train_wildcards_" + self.name.replace("/", "_")
        rows = self.checkout.records("State", "Comment", "ReqMem", "Timelimit", "NodeList")
        return [row for row in rows if row["Comment"] == comment]

    def bits(self) -> dict[str, bytes]:
        files = ["metrics.parquet", "groups.parquet"]
        files += [f"checkpoints/step_{step}/model.safetensors" for step in range(2, STEPS + 1, 2)]
        return {name: (self.folder / name).read_bytes() for name in files}


def wait_for(what: str, ready: Callable[[], bool], process: subprocess.Popen, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert process.poll() is None, f"Snakemake ended before {what}"
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def untrained(finished, tmp_path_factory) -> Checkout:
    """The finished checkout's data and base model, with no training started."""
    copy = Checkout(tmp_path_factory.mktemp("untrained") / "ead", finished.slurm)
    shutil.copytree(finished.folder, copy.folder, symlinks=True)
    for name in ("runs", "state", "evaluations", "analyses", "logs", "benchmarks", "progress"):
        shutil.rmtree(copy.folder / "results/mini" / name, ignore_errors=True)
    shutil.rmtree(copy.folder / "results/mlflow", ignore_errors=True)
    shutil.rmtree(copy.folder / "reports")
    return copy


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow server, as a site would run one: many nodes write to it."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def undisturbed(untrained, tmp_path_factory) -> Checkout:
    """The same trainings on this machine, without Slurm and without interruptions."""
    copy = Checkout(tmp_path_factory.mktemp("undisturbed") / "ead", untrained.slurm)
    shutil.copytree(untrained.folder, copy.folder, symlinks=True)
    command = [*(sys.executable, "-m", "snakemake", "--cores", "2", "--rerun-triggers", "mtime")]
    command += [*map(manifest, NAMES.values()), "--config", *CONFIG, "tracking={stream: false}"]
    done = subprocess.run(command, cwd=copy.folder, env=copy.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return copy


@pytest.fixture(scope="module")
def interrupted(undisturbed, untrained, server) -> dict[str, Training]:
    """Every training stopped and disturbed in its own way, in one workflow that is never touched itself."""
    trainings = {way: Training(untrained, name) for way, name in NAMES.items()}
    nodes = {name: f"--nodelist={NODE_OF[way]}" for way, name in NAMES.items()}
    process = untrained.start(
        *("--set-resources", f"train:slurm_extra={nodes!r}[wildcards.run]", "--"),
        *map(manifest, NAMES.values()),
        config=(*CONFIG, f"tracking={{uri: '{server}'}}"),
    )
    try:
        stopped = set()

        def all_stopped() -> bool:
            stopped.update(way for way in WAYS if way not in stopped and trainings[way].stop())
            return len(stopped) == len(WAYS)

        wait_for("all trainings to be stopped", all_stopped, process)
        slurm = untrained.slurm
        slurm.call("scancel", trainings["scancel"].job())
        slurm.call("scontrol", "requeue", trainings["requeue"].job())
        # What hangs runs into its limit; one minute is the shortest that Slurm knows.
        slurm.call("scontrol", "update", f"jobid={trainings['time limit'].job()}", "timelimit=1")
        # Something in the job grows beyond what was asked for.
        hungry = trainings["memory"].processes()[0]
        os.kill(hungry, signal.SIGUSR1)
        os.kill(hungry, signal.SIGCONT)
        urgent = (
            "--partition=urgent",
            "--nodelist=node3",
            f"--gpus=fake:{GPUS_PER_NODE}",
            "--output=/dev/null",
        )
        slurm.call("sbatch", *urgent, "--wrap=sleep 3")
        slurm.kill_node("node2")
        time.sleep(3)
        slurm.revive_node("node2")
        process.wait(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, (untrained.folder / "snakemake.log").read_text()[-6000:]
    return trainings


# What Slurm calls each of a training's starts.
STATES = {
    "time limit": ["TIMEOUT", "COMPLETED"],
    "memory": ["OUT_OF_MEMORY", "COMPLETED"],
    "scancel": ["CANCELLED by 0", "COMPLETED"],
    "requeue": ["REQUEUED", "COMPLETED"],
    "node failure": ["NODE_FAIL", "COMPLETED"],
    "preemption": ["PREEMPTED", "COMPLETED"],
}


@pytest.mark.parametrize("way", WAYS)
def test_slurm_saw_the_interruption_and_the_second_start(interrupted, way):
    assert [row["State"] for row in interrupted[way].history()] == STATES[way]


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_training_goes_on_and_ends_with_the_bits_of_an_undisturbed_one(
    interrupted, undisturbed, way
):
    training = interrupted[way]
    log = (training.checkout.folder / f"results/mini/logs/train/{training.name}.log").read_text()
    assert "resuming after step 2" in log, "it started over"
    assert f"finished after {STEPS} steps" in log
    assert training.bits() == Training(undisturbed, training.name).bits()


def test_a_retry_asks_for_more_time_and_memory(interrupted):
    history = interrupted["time limit"].history()
    assert [row["ReqMem"] for row in history] == ["1200M", "2400M"]
    assert history[1]["Timelimit"] == "00:20:00"
    assert [row["ReqMem"] for row in interrupted["memory"].history()] == ["1200M", "2400M"]
    # A job that Slurm queued again is the same job.
    assert [row["ReqMem"] for row in interrupted["requeue"].history()] == ["1200M", "1200M"]


def test_mlflow_shows_each_run_once_finished_and_with_every_step(interrupted, server):
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, "tags.role = 'seed'")
    shown = {run.data.tags["run_name"]: run for run in found}
    assert sorted(run.data.tags["run_name"] for run in found) == sorted(NAMES.values())
    for run in shown.values():
        assert run.info.status == "FINISHED"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "reward_mean")]
        assert steps == list(range(1, STEPS + 1))
