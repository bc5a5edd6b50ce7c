"""Runs in MLflow: streamed, killed, resumed, ingested; against real databases and a real server."""

import itertools
import json
import logging
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reproduction import tracking
from reproduction.tracking import DataSet, RunDescription, RunStream, Store
from reproduction.tracking.values import model_name

pytest.importorskip("mlflow")

METRICS = ["reward_mean", "Pass@16"]
STEPS = 12

# A trainer as far as MLflow can tell: resumes after its last checkpoint (every 5 steps), appends one line per
# step, writes its run folder last. Its values depend on seed and step only, as a real training's do.
TRAINER = """
import json, sys, time
from pathlib import Path
import pandas as pd
from reproduction.tracking import RunDescription, RunStream, Store

order = json.loads(sys.argv[1])
store = Store(**order["store"])
description = RunDescription(**order["description"])
state, folder = Path(order["state"]), Path(order["folder"])
state.mkdir(parents=True, exist_ok=True)
metrics = state / "metrics.jsonl"
lines = metrics.read_text().splitlines() if metrics.exists() else []
done = len(lines) // 5 * 5
metrics.write_text("".join(line + "\\n" for line in lines[:done]))
started = time.time()
with RunStream(store, description, metrics, folder, interval_s=0.2, close_timeout_s=300):
    for step in range(done + 1, order["steps"] + 1):
        values = {name: order["seed"] + step / 10 + i for i, name in enumerate(order["metrics"])}
        with metrics.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\\n")
        if step == order["stop_at"]:
            time.sleep(order["stop_for"])
            raise RuntimeError("the training failed")
    folder.mkdir(parents=True)
    pd.DataFrame(map(json.loads, metrics.read_text().splitlines())).to_parquet(folder / "metrics.parquet")
    (folder / "config.yaml").write_text("tau_max: 1.2\\n")
    manifest = {"status": "finished", "started": started, "ended": time.time(), "checkpoints": []}
    manifest["tracking"] = order["description"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
"""


def describe(seed: int = 0, sampler: str = "ead", **parameters) -> RunDescription:
    cell = f"model~tiny/algorithm~dapo/sampler~{sampler}/n~8"
    return RunDescription(
        experiment="fig04-samplers",
        cell=cell,
        run=f"{cell}/seed~{seed}",
        configuration_hash=f"{sampler}{seed}",
        parameters={"tau_max": 1.2, "seed": seed, "training": {"steps": STEPS}, **parameters},
        tags={"git_commit": "abc123", "figures": "fig04,fig06"},
        note="Pass@16 by training step",
    )


class Site:
    """A results folder with a store, trainers and a look at what MLflow recorded."""

    def __init__(self, root: Path, store: Store | None = None):
        self.root = root
        self.store = store or Store.local(root / "mlflow")

    def state(self, description: RunDescription) -> Path:
        return self.root / "state" / description.configuration_hash

    def folder(self, description: RunDescription) -> Path:
        return self.root / "runs" / description.run

    def start(self, description, *, stop_at=None, stop_for=0.0) -> subprocess.Popen:
        order = {
            "store": {
                "tracking_uri": self.store.tracking_uri,
                "artifact_root": self.store.artifact_root and str(self.store.artifact_root),
            },
            "description": description.to_dict(),
            "state": str(self.state(description)),
            "folder": str(self.folder(description)),
            "seed": description.parameters["seed"],
            "steps": STEPS,
            "metrics": METRICS,
            "stop_at": stop_at,
            "stop_for": stop_for,
        }
        return subprocess.Popen([sys.executable, "-c", TRAINER, json.dumps(order)], stderr=subprocess.PIPE)

    def train(self, description, **options) -> int:
        process = self.start(description, **options)
        process.communicate(timeout=400)
        return process.returncode

    def finish(self, description, steps=STEPS, status="finished", checkpoints=()) -> Path:
        """Make the folder of a finished run that MLflow has never heard of."""
        folder = self.folder(description)
        folder.mkdir(parents=True)
        seed = description.parameters["seed"]
        rows = [
            {"step": step, **{name: seed + step / 10 + i for i, name in enumerate(METRICS)}}
            for step in range(1, steps + 1)
        ]
        pd.DataFrame(rows).to_parquet(folder / "metrics.parquet")
        (folder / "config.yaml").write_text("tau_max: 1.2\n")
        for step in checkpoints:
            (folder / "checkpoints" / f"step_{step}").mkdir(parents=True)
            (folder / "checkpoints" / f"step_{step}" / "config.json").write_text("{}")
        manifest = {"status": status, "started": 1e9, "ended": 1e9 + 60, "checkpoints": list(checkpoints)}
        manifest["tracking"] = description.to_dict()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    def runs(self, role: str) -> list:
        client = self.store.connect()
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        return sorted(client.search_runs(ids, f"tags.role = '{role}'"), key=lambda run: run.info.run_name)

    def dump(self) -> list[str]:
        """Every row of the local database."""
        path = self.store.tracking_uri.removeprefix("sqlite:///")
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return list(connection.iterdump())

    def history(self, run, name: str) -> list[tuple[int, float]]:
        points = self.store.connect().get_metric_history(run.info.run_id, name)
        return sorted((point.step, point.value) for point in points)

    def wait_for(self, condition, what: str, timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
            time.sleep(0.2)


def expected(seed: float, name: str, steps: int = STEPS) -> list[tuple[int, float]]:
    return [(step, seed + step / 10 + METRICS.index(name)) for step in range(1, steps + 1)]


def close_to(points: list[tuple[int, float]]):
    return pytest.approx(np.array(points), rel=1e-12)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A database with its tables, made once: that takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    Store.local(folder).connect()
    return folder / "mlflow.db"


@pytest.fixture
def new_site(tmp_path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def site(new_site, empty_store) -> Site:
    (new_site.root / "mlflow").mkdir()
    shutil.copy(empty_store, new_site.root / "mlflow")
    return new_site


# --- streaming --------------------------------------------------------------------------------------------


def test_two_trainings_that_start_at_once_share_one_store_one_experiment_and_one_parent(new_site):
    site = new_site
    trainings = [site.start(describe(seed)) for seed in (0, 1)]
    assert [training.communicate(timeout=400) and training.returncode for training in trainings] == [0, 0]

    client = site.store.connect()
    experiments = {experiment.name: experiment for experiment in client.search_experiments()}
    assert set(experiments) == {"Default", "fig04-samplers"}
    experiment = experiments["fig04-samplers"]
    assert experiment.tags["mlflow.note.content"] == "Pass@16 by training step"
    assert experiment.artifact_location == (site.root / "mlflow/artifacts/fig04-samplers").as_uri()

    (parent,) = site.runs("cell")
    assert parent.info.run_name == "ead n8 dapo tiny"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"tau_max": "1.2", "training.steps": "12"}

    children = site.runs("seed")
    assert {child.data.tags["mlflow.runColor"] for child in children} == {parent.data.tags["mlflow.runColor"]}
    assert [child.info.run_name for child in children] == ["ead n8 seed0 dapo tiny", "ead n8 seed1 dapo tiny"]
    for seed, child in enumerate(children):
        assert child.info.status == "FINISHED"
        assert child.data.params == {"tau_max": "1.2", "training.steps": "12", "seed": str(seed)}
        tags = child.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["configuration_hash"] == f"ead{seed}"
        assert tags["run_name"] == describe(seed).run
        assert tags["git_commit"] == tags["mlflow.source.git.commit"] == "abc123"
        assert tags["figures"] == "fig04,fig06"
        assert tags["outcome"] == "finished"
        assert site.history(child, "reward_mean") == expected(seed, "reward_mean")
        assert site.history(child, "Pass_at_16") == expected(seed, "Pass@16")
        artifacts = client.list_artifacts(child.info.run_id)
        assert [artifact.path for artifact in artifacts] == ["config.yaml", "manifest.json"]

    # Nothing is left for ingestion but the mean that the cell shows.
    report = tracking.ingest(site.store, [site.folder(describe(seed)) for seed in (0, 1)])
    for child, row in zip(children, report["runs"].values(), strict=True):
        assert row == {
            "experiment_id": experiment.experiment_id,
            "run_id": child.info.run_id,
            "points": 0,
            "differing": 0,
            "parameters": 0,
            "artifacts": 0,
            "datasets": 0,
            "models": 0,
            "status": ["FINISHED", "FINISHED"],
        }
    (parent,) = site.runs("cell")
    assert site.history(parent, "reward_mean") == close_to(expected(0.5, "reward_mean"))


def test_a_killed_training_is_shown_as_killed_and_resumes_its_own_run(site):
    description = describe()

    # Killed when MLflow already has steps that the trainer, resuming after step 5, will make again.
    training = site.start(description, stop_at=8, stop_for=600.0)
    try:
        site.wait_for(
            lambda: any(len(site.history(run, "reward_mean")) == 8 for run in site.runs("seed")), "8 steps"
        )
        usage = "system/trainer_memory_megabytes"
        site.wait_for(lambda: site.history(site.runs("seed")[0], usage), "the trainer's use of memory")
    finally:
        training.kill()
        training.communicate()
    site.wait_for(lambda: site.runs("seed")[0].info.status == "KILLED", "the run to be closed as KILLED")
    (run,) = site.runs("seed")
    assert all(megabytes > 10 for _, megabytes in site.history(run, usage))
    assert site.history(run, "reward_mean") == expected(0, "reward_mean", steps=8)
    assert [parent.info.status for parent in site.runs("cell")] == ["KILLED"]

    assert site.train(description) == 0
    (resumed,) = site.runs("seed")
    assert resumed.info.run_id == run.info.run_id
    assert resumed.info.status == "FINISHED"
    for name in METRICS:
        assert site.history(resumed, tracking.metric_name(name)) == expected(0, name)
    assert [parent.info.status for parent in site.runs("cell")] == ["FINISHED"]


def test_a_failing_training_is_shown_as_failed(site):
    assert site.train(describe(), stop_at=3) == 1
    (run,) = site.runs("seed")
    assert run.info.status == "FAILED"
    assert site.history(run, "reward_mean") == expected(0, "reward_mean", steps=3)


def test_a_tracking_server_that_is_away_costs_a_warning_and_is_made_up_for(tmp_path, caplog, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    description = describe()
    metrics = tmp_path / "state" / "metrics.jsonl"
    caplog.set_level(logging.WARNING)
    with RunStream(Store(address, None), description, metrics, tmp_path / "run", interval_s=0.2):
        metrics.write_text('{"step": 1, "reward_mean": 0.5}\n')
    (warning,) = [record for record in caplog.records if record.name == f"{tracking.__name__}.stream"]
    assert "MLflow lacks a part of model~tiny/algorithm~dapo/sampler~ead/n~8/seed~0" in warning.getMessage()

    site = Site(tmp_path)
    report = tracking.ingest(site.store, [site.finish(description)])
    assert report["runs"][description.run]["points"] == STEPS * len(METRICS)


def test_a_stream_that_hangs_is_stopped(tmp_path, caplog):
    with socket.socket() as deaf:  # accepts connections and never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        stream = RunStream(
            Store(address, None),
            describe(),
            tmp_path / "metrics.jsonl",
            tmp_path / "run",
            close_timeout_s=4.0,
        )
        process = stream._process
        stream.close()
    assert process.returncode == -signal.SIGKILL
    assert "the stream was stopped after 4 s" in caplog.text


def test_a_stream_that_cannot_start_does_not_stop_the_training(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-such-python"))
    with RunStream(Store.local(tmp_path), describe(), tmp_path / "metrics.jsonl", tmp_path / "run"):
        pass
    assert "the stream did not start" in caplog.text


def test_a_short_training_is_left_to_the_ingestion(site, caplog):
    caplog.set_level(logging.WARNING)
    description = describe()
    with RunStream(site.store, description, site.root / "none.jsonl", site.root / "run", delay_s=600):
        folder = site.finish(description)
    assert not caplog.records and not site.runs("seed")
    report = tracking.ingest(site.store, [folder])
    assert report["runs"][description.run]["points"] == STEPS * len(METRICS)


def test_a_short_training_that_failed_is_reported(site):
    with (
        pytest.raises(ValueError, match="broken"),
        RunStream(site.store, describe(), site.root / "none.jsonl", site.root / "run", delay_s=600),
    ):
        raise ValueError("broken")
    (run,) = site.runs("seed")
    assert run.info.status == "FAILED"


# --- ingestion --------------------------------------------------------------------------------------------


def test_ingestion_adds_what_is_missing_once(site):
    folders = [site.finish(describe(seed)) for seed in (0, 1)]
    more = {
        "evaluations": {describe(seed).run: [(STEPS, {"tau1.0/Pass@16": 0.5})] for seed in (0, 1)},
        "datasets": {
            describe(0).run: [DataSet("countdown", "training", "generated", 40, "0123456789abcdef" * 4)]
        },
    }
    report = tracking.ingest(site.store, folders, **more)
    (first, _) = site.runs("seed")
    assert report["runs"][describe(0).run] == {
        "experiment_id": first.info.experiment_id,
        "run_id": first.info.run_id,
        "points": STEPS * len(METRICS) + 1,
        "differing": 0,
        "parameters": 3,
        "artifacts": 2,
        "datasets": 1,
        "models": 0,
        "status": [None, "FINISHED"],
    }
    assert report["cells"] == {describe().cell: {"points": STEPS * len(METRICS) + 1}}
    assert (first.info.start_time, first.info.end_time) == (10**12, 10**12 + 60_000)
    assert site.history(first, "reward_mean") == expected(0, "reward_mean")
    assert site.history(first, "tau1.0/Pass_at_16") == [(STEPS, 0.5)]
    (used,) = first.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("countdown", "0123456789abcdef")
    assert json.loads(used.dataset.profile) == {"rows": 40, "sha256": "0123456789abcdef" * 4}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]

    before = site.dump()
    report = tracking.ingest(site.store, folders, **more)
    for row in itertools.chain(report["runs"].values(), report["cells"].values()):
        assert not any(
            row[key] for key in ("points", "differing", "parameters", "artifacts", "datasets") if key in row
        )
    assert site.dump() == before


TRAINED_ON = DataSet("countdown_train", "training", "generated", 40, "0123456789abcdef" * 4)
EVALUATED_ON = DataSet("countdown_test", "evaluation", "generated", 20, "fedcba9876543210" * 4)


def test_checkpoints_are_logged_models_that_the_search_ranks(site):
    """By a metric on a data set; what was pruned is not among them, and a second ingestion adds nothing."""
    descriptions = [describe(0, "ead_released"), describe(0, "ead")]
    scores = {descriptions[0].run: (0.2, 0.7), descriptions[1].run: (0.4, math.nan)}
    folders = [site.finish(description, checkpoints=(3, 6, 12)) for description in descriptions]
    for folder in folders:
        (folder / "checkpoints" / "step_3" / "config.json").unlink()  # its weights were deleted
    more = {
        "evaluations": {
            name: [(6, {"Pass@16/eval": first}), (12, {"Pass@16/eval": last})]
            for name, (first, last) in scores.items()
        },
        "datasets": dict.fromkeys(scores, (TRAINED_ON, EVALUATED_ON)),
    }
    # As if a first ingestion had been killed between a model and what it says of it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(site.store.connect()), "log_outputs", _killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.ingest(site.store, folders[:1], **more)
    report = tracking.ingest(site.store, folders, **more)["runs"]
    assert [row["models"] for row in report.values()] == [0, 2]

    client = site.store.connect()
    experiment = report[descriptions[0].run]["experiment_id"]
    by = {"field_name": "metrics.Pass_at_16/eval", "ascending": False, "dataset_name": "countdown_test"}
    ranked = client.search_logged_models([experiment], "params.tau_max = '1.2'", order_by=[by])
    assert [model.name for model in ranked[:3]] == [
        "ead_released n8 seed0 dapo tiny step 12",
        "ead n8 seed0 dapo tiny step 6",
        "ead_released n8 seed0 dapo tiny step 6",
    ]
    best, last = ranked[0], ranked[3]
    assert best.tags["checkpoint"] == f"{descriptions[0].run}/checkpoints/step_12" and best.status == "READY"
    (run,) = (run for run in site.runs("seed") if run.info.run_id == best.source_run_id)
    assert sorted(output.step for output in run.outputs.model_outputs) == [6, 12]
    found = {(point.key, point.dataset_name, point.dataset_digest): point.value for point in best.metrics}
    assert found[("Pass_at_16/eval", "countdown_test", EVALUATED_ON.digest)] == 0.7
    assert found[("reward_mean", "countdown_train", TRAINED_ON.digest)] == 1.2
    assert "Pass_at_16/eval" not in {point.key for point in last.metrics}  # NaN
    # The run's own history has each point once.
    assert [step for step, _ in site.history(run, "reward_mean")] == list(range(1, STEPS + 1))

    before = site.dump()
    tracking.ingest(site.store, folders, **more)
    assert site.dump() == before


def _killed(*_, **__):
    raise KeyboardInterrupt


def test_a_further_seed_replaces_the_mean_of_its_cell(site):
    folders = [site.finish(describe(0))]
    tracking.ingest(site.store, folders)
    (before,) = site.runs("cell")
    folders.append(site.finish(describe(2), steps=STEPS - 2))
    tracking.ingest(site.store, folders)
    (cell,) = site.runs("cell")
    assert cell.info.run_name == before.info.run_name
    assert cell.data.params == before.data.params
    assert site.history(cell, "reward_mean") == close_to(expected(1, "reward_mean", steps=STEPS - 2))
    assert {run.data.tags["mlflow.parentRunId"] for run in site.runs("seed")} == {cell.info.run_id}
    after = site.dump()
    tracking.ingest(site.store, folders)
    assert site.dump() == after


def test_ingestion_completes_a_partial_record_and_counts_what_differs(site):
    description = describe()
    assert site.train(description, stop_at=4) == 1
    folder = site.finish(description)
    frame = pd.read_parquet(folder / "metrics.parquet")
    frame.loc[0, "reward_mean"] = -1.0  # MLflow was told another value at step 1
    frame.to_parquet(folder / "metrics.parquet")
    report = tracking.ingest(site.store, [folder])["runs"][description.run]
    assert report["points"] == (STEPS - 4) * len(METRICS)
    assert report["differing"] == 1
    assert report["status"] == ["FAILED", "FINISHED"]
    (run,) = site.runs("seed")
    assert site.history(run, "reward_mean") == expected(0, "reward_mean")


def test_values_that_are_not_finite_are_the_same_when_seen_again(site):
    folder = site.finish(describe(), status="diverged")
    frame = pd.DataFrame({"step": [1, 2], "loss": [float("inf"), 0.5]})
    frame.to_parquet(folder / "metrics.parquet")
    tracking.ingest(site.store, [folder])
    report = tracking.ingest(site.store, [folder])["runs"][describe().run]
    assert (report["points"], report["differing"], report["status"][1]) == (0, 0, "FINISHED")
    assert site.runs("seed")[0].data.tags["outcome"] == "diverged"


def test_another_configuration_of_a_cell_is_another_cell(site):
    tracking.ingest(site.store, [site.finish(describe())])
    changed = describe(seed=1, tau_max=1.5)
    tracking.ingest(site.store, [site.finish(changed)])
    cells = site.runs("cell")
    assert {run.data.params["tau_max"] for run in cells} == {"1.2", "1.5"}
    assert len({run.data.tags["mlflow.runColor"] for run in cells}) == 2, "they can be told apart in a chart"


def test_a_run_left_open_by_a_kill_is_closed_unless_it_is_still_written(site):
    description = describe()
    # The trainer and the process that streams for it die at once, as when a machine goes down.
    training = site.start(description, stop_at=3, stop_for=600.0)
    try:
        site.wait_for(
            lambda: any("run_name" in run.data.tags for run in site.runs("seed")),
            "the stream to open its run",
        )
        assert tracking.close_killed(site.store, site.root / "state") == [], "it is still written"
        (stream,) = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
        os.kill(int(stream), signal.SIGKILL)
    finally:
        training.kill()
        training.communicate()
    assert [run.info.status for run in site.runs("seed")] == ["RUNNING"]
    # The operating system frees the run's lock when the killed process is really gone.
    site.wait_for(
        lambda: tracking.close_killed(site.store, site.root / "state") == [description.run],
        "the run to be closed",
    )
    assert [run.info.status for run in site.runs("seed") + site.runs("cell")] == ["KILLED", "KILLED"]
    assert tracking.close_killed(site.store, site.root / "state") == []


def test_figures_are_added_once_per_version(site, tmp_path):
    figure = tmp_path / "fig04.png"
    figure.write_bytes(b"first")
    tracking.ingest(site.store, [site.finish(describe())])
    assert tracking.add_figures(site.store, {"fig04-samplers": [figure]}) == {"fig04-samplers": 1}
    assert tracking.add_figures(site.store, {"fig04-samplers": [figure]}) == {"fig04-samplers": 0}
    figure.write_bytes(b"again")
    assert tracking.add_figures(site.store, {"fig04-samplers": [figure]}) == {"fig04-samplers": 1}
    (run,) = site.runs("figures")
    assert run.info.start_time < min(run.info.start_time for run in site.runs("seed"))
    copy = site.store.connect().download_artifacts(run.info.run_id, "fig04.png")
    assert Path(copy).read_bytes() == b"again"


def test_the_script_ingests_and_reports(site, tmp_path):
    folder = site.finish(describe())
    (tmp_path / "state").mkdir()
    script = Path(tracking.__file__).parents[2] / "ingest_runs.py"
    report = tmp_path / "report" / "ingested.json"
    command = [sys.executable, script, "--run", folder, "--local", site.root / "mlflow"]
    command += ["--state", tmp_path / "state", "--report", report]
    subprocess.run(command, check=True, timeout=120)
    written = json.loads(report.read_text())
    assert written["totals"] == {
        "points": STEPS * len(METRICS),
        "parameters": 3,
        "artifacts": 2,
        "datasets": 0,
        "models": 0,
    }
    assert written["closed_as_killed"] == []
    bad = subprocess.run([*command, "--figure", "fig04"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2
    assert "expected EXPERIMENT=FILE" in bad.stderr


# --- a real server ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """`mlflow server` on 127.0.0.1; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "server-artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, env=environment, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_a_real_server_records_the_same(server, tmp_path):
    site = Site(tmp_path, Store(server, None))
    assert site.train(describe()) == 0
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/runs/search",
        data=json.dumps({"experiment_ids": ["1"], "filter": "tags.role = 'seed'"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        (run,) = json.load(answer)["runs"]
    assert run["info"]["run_name"] == "ead n8 seed0 dapo tiny"
    assert run["info"]["status"] == "FINISHED"
    values = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    # A training this short may end before its use of the machine was recorded.
    assert {key: value for key, value in values.items() if not key.startswith("system/")} == {
        "reward_mean": pytest.approx(1.2),
        "Pass_at_16": pytest.approx(2.2),
    }
    report = tracking.ingest(site.store, [site.folder(describe())])["runs"][describe().run]
    assert (report["points"], report["parameters"], report["artifacts"]) == (0, 0, 0)
    assert tracking.pages(site.store, server) == {
        "fig04-samplers": f"{server}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
    }


# --- reading and bad input --------------------------------------------------------------------------------


def test_metrics_are_read_line_by_line_while_they_are_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert tracking.read_metrics(path) == []
    path.write_text('{"step": 1, "loss": 0.5, "entropy": null}\n{"step": 2, "lo')
    assert tracking.read_metrics(path) == [(1, {"loss": 0.5})]
    path.write_text('{"step": 1, "loss": 0.25}\n{"step": 2, "loss": 1}\n')
    assert tracking.read_metrics(path) == [(1, {"loss": 0.25}), (2, {"loss": 1.0})]


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"loss": 1}', '{"step": "x"}', '{"step": 1, "loss": "high"}']
)
def test_a_line_that_is_no_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        tracking.read_metrics(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "done"}, "status 'done' is not one of finished"),
        ({"started": None}, "the key 'started' is missing"),
        ({"checkpoints": None}, "the key 'checkpoints' is missing"),
        ({"tracking": {"cell": "a"}}, r"manifest\.json: tracking: .*missing"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(site, change, message):
    folder = site.finish(describe())
    manifest = {**json.loads((folder / "manifest.json").read_text()), **change}
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        tracking.ingest(site.store, [folder])


def test_a_folder_without_a_manifest_has_not_finished(site):
    with pytest.raises(ValueError, match="has not finished"):
        tracking.ingest(site.store, [site.root / "runs"])


@pytest.mark.parametrize("uri", ["mlruns", "file:///mlruns", "http://", ""])
def test_a_tracking_uri_that_is_neither_database_nor_server_is_refused(uri):
    with pytest.raises(ValueError, match="expected a database"):
        Store(uri, Path("artifacts"))


def test_a_database_needs_an_artifact_root():
    with pytest.raises(ValueError, match="needs an artifact root"):
        Store("sqlite:///mlflow.db", None)


def test_a_logged_model_has_a_name_that_mlflow_accepts():
    assert model_name("tau0.6 n4 step 40") == "tau0_6 n4 step 40"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("model~tiny/algorithm~dapo/sampler~ead/n~8/seed~0", "ead n8 seed0 dapo tiny"),
        ("model~tiny/algorithm~dapo/sampler~tau0.6/n~16", "tau0.6 n16 dapo tiny"),
        ("warm start", "warm start"),
    ],
)
def test_names_are_short_and_tell_runs_apart(name, shown):
    assert tracking.display_name(name) == shown


@pytest.mark.parametrize("change", [{"experiment": ""}, {"configuration_hash": "a'b"}])
def test_a_description_that_mlflow_could_not_find_again_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        RunDescription(**{**describe().to_dict(), **change})
