"""Trainings that a cluster stops half-way, each in another way, and what is left of it at the end: nothing.

All trainings are stopped by SIGSTOP after their third step, past the first checkpoint, so that what happens to them
happens at a known moment. Limits and retries are those of the profile.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import GPUS_PER_NODE

from conftest import CONFIG, NAMES, RUNS, STEPS, WAYS, Checkout, manifest, without_trainings
from reproduction.config import REPOSITORY

STOPPED_AT = 3
# The first four share a node.
NODE_OF = dict.fromkeys(WAYS, "node1") | {"node failure": "node2", "preemption": "node3"}


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
        processes = self.processes()
        assert processes, f"{self.name} ended before it was stopped"
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        saved = [int(path.stem.removeprefix("step_")) for path in (self.state / "trainer").glob("*.json")]
        self.saved = max(saved)
        return True

    def job(self) -> str:
        """The Slurm job that runs it; accounting learns of a job's comment only at its end."""
        wanted = [str(self.checkout.folder), "rule_train_wildcards_" + self.name.replace("/", "_")]
        listing = self.checkout.slurm.call("squeue", "--noheader", "--states=RUNNING", "--format=%A|%Z|%k")
        return next(job for job, *of in (line.split("|") for line in listing.splitlines()) if of == wanted)

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
def interrupted(undisturbed, tmp_path_factory) -> dict[str, Training]:
    """Every training stopped and disturbed in its own way, in one workflow that is never touched itself."""
    untrained = without_trainings(undisturbed, tmp_path_factory.mktemp("interrupted"))
    trainings = {way: Training(untrained, name) for way, name in NAMES.items()}
    nodes = {name: f"--nodelist={NODE_OF[way]}" for way, name in NAMES.items()}
    process = untrained.start(
        *("--set-resources", f"train:slurm_extra={nodes!r}[wildcards.run]", "--"),
        *map(manifest, NAMES.values()),
        config=CONFIG,
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
            "--nodes=1",
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
    "memory": ["FAILED", "COMPLETED"],  # OUT_OF_MEMORY where the limit is a cgroup's
    "scancel": ["CANCELLED by 0", "COMPLETED"],
    "requeue": ["REQUEUED", "COMPLETED"],
    "node failure": ["NODE_FAIL", "COMPLETED"],
    "preemption": ["PREEMPTED", "COMPLETED"],
}


@pytest.mark.parametrize("way", WAYS)
def test_slurm_saw_the_interruption_and_the_second_start(interrupted, way):
    assert [row["State"] for row in interrupted[way].history()] == STATES[way]


def test_the_log_of_a_failed_job_is_kept_and_says_why(interrupted):
    training = interrupted["memory"]
    job = training.history()[0]["JobIDRaw"]
    (log,) = (training.checkout.folder / "results/slurm_logs/rule_train").rglob(f"{job}.log")
    assert f"StepId={job}.0 exceeded memory limit" in log.read_text()


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_training_goes_on_and_ends_with_the_bits_of_an_undisturbed_one(
    interrupted, undisturbed, way
):
    training = interrupted[way]
    log = (training.checkout.folder / f"results/mini/logs/train/{training.name}.log").read_text()
    resumed = re.search(r"resuming after step (\d+)", log)
    assert resumed, "it started over"
    # Slurm lets a stopped process go on for a moment before it ends it.
    assert training.saved <= int(resumed[1]) < STEPS
    assert f"finished after {STEPS} steps" in log
    assert training.bits() == Training(undisturbed, training.name).bits()


def test_a_retry_asks_for_more_of_what_ran_out_and_of_nothing_else(interrupted):
    asked = {
        way: [(row["ReqMem"], row["Timelimit"]) for row in interrupted[way].history()]
        for way in ("time limit", "memory", "scancel")
    }
    # The first limit was shortened from outside, to one minute.
    assert asked["time limit"] == [("1200M", "00:01:00"), ("1200M", "00:20:00")]
    assert asked["memory"] == [("1200M", "00:10:00"), ("2400M", "00:10:00")]
    assert asked["scancel"] == [("1200M", "00:10:00"), ("1200M", "00:10:00")]
    # A job that Slurm queued again is the same job.
    assert [row["ReqMem"] for row in interrupted["requeue"].history()] == ["1200M", "1200M"]


def test_mlflow_shows_each_run_once_finished_and_with_every_step(interrupted, tmp_path):
    """By the ingestion, as the profile has it: no job wrote to a store of its own."""
    from mlflow import MlflowClient

    checkout = interrupted["requeue"].checkout
    assert not (checkout.folder / "results/mlflow").exists()
    command = [
        sys.executable,
        "scripts/ingest_runs.py",
        "--local",
        str(tmp_path),
        "--state",
        "results/mini/state",
    ]
    command += ["--report", str(tmp_path / "report.json"), "--run"]
    command += [f"results/mini/runs/{name}" for name in NAMES.values()]
    for _ in range(2):  # a second ingestion adds nothing
        subprocess.run(command, cwd=checkout.folder, env=checkout.environment, check=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, "tags.role = 'seed'")
    assert sorted(run.data.tags["run_name"] for run in found) == sorted(NAMES.values())
    for run in found:
        assert run.info.status == "FINISHED"
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "reward_mean")]
        assert steps == list(range(1, STEPS + 1))


# --- kill -9 of Snakemake itself ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(undisturbed, tmp_path_factory) -> dict[str, Training]:
    """Snakemake killed with two trainings half-way, and the recovery of docs/cluster.md; one is left to run on."""
    untrained = without_trainings(undisturbed, tmp_path_factory.mktemp("killed"))
    trainings = {
        fate: Training(untrained, name)
        for fate, name in zip(("cancelled", "left to run"), RUNS, strict=False)
    }
    targets = [manifest(training.name) for training in trainings.values()]
    process = untrained.start("--", *targets, config=CONFIG)
    stopped = set()

    def all_stopped() -> bool:
        stopped.update(fate for fate in trainings if fate not in stopped and trainings[fate].stop())
        return len(stopped) == 2

    try:
        wait_for("both trainings to be stopped", all_stopped, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # One job ends with the recovery's first line. The other runs on beside the job that replaces it, as where nobody
    # looked for it: the new one waits until the old one has ended, and finds everything done.
    untrained.slurm.call("scancel", trainings["cancelled"].job())
    for pid in trainings["left to run"].processes():
        os.kill(pid, signal.SIGCONT)
    untrained.run("--unlock", config=CONFIG)
    untrained.run("--", *targets, config=CONFIG)
    return trainings


@pytest.mark.parametrize("fate", ["cancelled", "left to run"])
def test_after_kill_9_of_snakemake_two_lines_finish_the_work(killed, undisturbed, fate):
    training = killed[fate]
    assert training.bits() == Training(undisturbed, training.name).bits()
    assert training.history()[-1]["State"] == "COMPLETED"


def test_the_lines_of_the_documentation_cancel_the_jobs_of_this_checkout_only(slurm, tmp_path):
    page = (REPOSITORY / "docs/cluster.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("squeue") and "scancel" in line)
    jobs = {}
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        command = (
            "sbatch",
            "--parsable",
            f"--chdir={tmp_path / name}",
            "--output=/dev/null",
            "--wrap=sleep 600",
        )
        jobs[name] = slurm.call(*command).strip()
    subprocess.run(["bash", "-c", line], cwd=tmp_path / "ours", env=slurm.environment, check=True)
    states = {
        name: slurm.call("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()
        for name, job in jobs.items()
    }
    slurm.call("scancel", jobs["theirs"])
    assert states["theirs"] in ("PENDING", "RUNNING")
    assert states["ours"] in ("CANCELLED", "COMPLETING")
