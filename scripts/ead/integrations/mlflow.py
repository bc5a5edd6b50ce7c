"""Runs in MLflow: streamed while a training runs, completed from its files afterwards.

Files are the truth, MLflow is a view of them. A training appends its metrics to ``metrics.jsonl``; a
:class:`RunStream` follows that file and sends it to MLflow, and :func:`ingest` later adds, once, whatever
MLflow missed. Each group of figures is one experiment, each cell (a run name without its seed) a parent run,
each seed a child run. A child is found again by its configuration hash, so a training that was killed and
resumed continues the same MLflow run, and a metric is never recorded twice for one step.

The stream lives in a process of its own, at low priority, because MLflow costs seconds of import and holds
the interpreter lock: the trainer starts at once, is not slowed, and cannot be stopped by a tracking server
that is slow, full or away. That process notices when the trainer dies and closes the run as KILLED.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import psutil

log = logging.getLogger(__name__)

ARTIFACTS = ("config.yaml", "manifest.json")
# The manifest's word -> MLflow's. A diverged training is a result (Figure 13); its tag `outcome` tells.
STATUSES = {"finished": "FINISHED", "diverged": "FINISHED"}

DISPLAY_ORDER = ("sampler", "n", "seed", "algorithm", "model")
SOURCE = "scripts/train.py"
COLOUR = "mlflow.runColor"
# Cells get these in turn and their seeds share them; MLflow's own choice may repeat. Okabe and Ito's palette.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")

_MAX_BATCH = 1000  # MLflow's limit of metrics per request
_MAX_PARAMETERS = 100  # and of parameters or tags
_LOCK_TIMEOUT_S = 60.0
_SYSTEM = "system/"  # where MLflow looks for system metrics
_LARGEST = sys.float_info.max  # what MLflow's SQL store writes for infinity


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps things.

    ``tracking_uri`` is a database (``sqlite:///folder/mlflow.db``) or a server (``http://host:port``).
    ``artifact_root`` is the folder for artifacts; None leaves the choice to the server.
    ``lock_folder`` holds the locks of those who write. Where they run on several machines it must be a folder that
    all of them see; by default it is beside a local database, else in this machine's temporary folder.

    Raises:
        ValueError: the URI is neither, or a database comes without an artifact root.
    """

    tracking_uri: str
    artifact_root: Path | None
    lock_folder: Path | None = None

    def __post_init__(self) -> None:
        scheme, separator, place = self.tracking_uri.partition("://")
        if not separator or scheme == "file" or not place:
            raise ValueError(
                f"tracking URI {self.tracking_uri!r}: expected a database (sqlite:///folder/mlflow.db) or a "
                "server (http://host:port)"
            )
        if self._is_database and self.artifact_root is None:
            raise ValueError(f"tracking URI {self.tracking_uri!r}: a database needs an artifact root")
        if self.tracking_uri.startswith("sqlite:///"):
            database = Path(self.tracking_uri.removeprefix("sqlite:///")).absolute()
            object.__setattr__(self, "tracking_uri", f"sqlite:///{database}")
        if self.artifact_root is not None:
            object.__setattr__(self, "artifact_root", Path(self.artifact_root).absolute())
        if self.lock_folder is not None:
            object.__setattr__(self, "lock_folder", Path(self.lock_folder).absolute())

    @classmethod
    def local(cls, folder: Path | str) -> "Store":
        """Return the store with its database and its artifacts below ``folder``."""
        folder = Path(folder).absolute()
        return cls(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")

    @property
    def is_one_file(self) -> bool:
        """An SQLite database: only for writers on one machine, because file locks of SQLite fail over networks."""
        return self.tracking_uri.startswith("sqlite:")

    @property
    def _is_database(self) -> bool:
        return not self.tracking_uri.startswith(("http://", "https://"))

    @property
    def _lock_folder(self) -> Path:
        if self.lock_folder is not None:
            folder = self.lock_folder
        elif self.tracking_uri.startswith("sqlite:///"):
            folder = Path(self.tracking_uri.removeprefix("sqlite:///")).parent / ".locks"
        else:
            folder = Path(tempfile.gettempdir()) / f"ead-mlflow-{_digest(self.tracking_uri)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lock(self) -> filelock.FileLock:
        """Serialises what must not race: schema migrations, find-or-create, writes to a database."""
        return filelock.FileLock(self._lock_folder / "store.lock", timeout=_LOCK_TIMEOUT_S)

    def write_lock(self) -> contextlib.AbstractContextManager:
        """A database has one writer at a time; a server sees to that itself."""
        return self.lock() if self._is_database else contextlib.nullcontext()

    def run_lock(self, configuration_hash: str) -> filelock.FileLock:
        """Held by whoever writes a run. The operating system frees it when that process dies."""
        return filelock.FileLock(self._lock_folder / f"{configuration_hash}.lock", timeout=_LOCK_TIMEOUT_S)

    def connect(self) -> Any:
        """Return an ``mlflow.MlflowClient``; a new database gets its tables."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        # A server that is away is retried by the next round, not inside one request.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        with self.lock():
            client = MlflowClient(self.tracking_uri)
            client.search_experiments(max_results=1)
        return client


@dataclass(frozen=True)
class RunDescription:
    """What MLflow shows of a run before its first metric.

    Args:
        experiment: MLflow experiment: one per group of figures.
        cell: the run's name without its seed; ``run`` is the whole name. See :func:`display_name`.
        configuration_hash: what the run is found by again.
        parameters: name in the paper -> value; nested mappings are flattened with dots.
        tags: for instance ``git_commit`` and ``figures``.
        note: what the experiment shows, for a reader of its page.

    Raises:
        ValueError: an empty name, or a hash that is not made of letters, digits, ``_`` and ``-``.
    """

    experiment: str
    cell: str
    run: str
    configuration_hash: str
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    note: str = ""

    def __post_init__(self) -> None:
        for key in ("experiment", "cell", "run"):
            if not getattr(self, key):
                raise ValueError(f"run description: {key} is empty")
        if not re.fullmatch(r"[\w-]+", self.configuration_hash, re.ASCII):
            raise ValueError(
                f"run description: configuration_hash {self.configuration_hash!r} may hold letters, digits, "
                "_ and -"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> "RunDescription":
        """Return the description in ``values``; a ValueError names ``source`` and the wrong key."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{source}: {error}") from None


class RunStream:
    """Follows a training's metrics file and sends it to MLflow, from a process of its own; a context manager.

    ::

        with RunStream(store, description, state / "metrics.jsonl", run_folder):
            train()

    Leaving the block sends the rest, uploads ``config.yaml`` and ``manifest.json`` of ``run_folder``, and
    closes the run as FINISHED (or what the manifest says), FAILED after an exception, KILLED after an
    interrupt. The run of a trainer that dies without leaving the block is closed as KILLED too.

    Nothing that goes wrong with MLflow is raised here: it is counted, warned of once when the stream closes,
    and repaired by :func:`ingest`. MLflow's own words go to ``mlflow.log`` beside the metrics file.

    Args:
        metrics_file: one JSON object per line, ``{"step": 3, "<metric>": 0.5, ...}``; need not exist yet, may
            shrink when a training resumes.
        interval_s: seconds between two batches.
        close_timeout_s: the longest that closing may take; after that the stream is stopped.
    """

    def __init__(
        self,
        store: Store,
        description: RunDescription,
        metrics_file: Path,
        run_folder: Path,
        *,
        interval_s: float = 10.0,
        close_timeout_s: float = 60.0,
    ) -> None:
        self._run = description.run
        self._close_timeout_s = close_timeout_s
        self._process: subprocess.Popen | None = None
        self._log_file = metrics_file.with_name("mlflow.log")
        order = {
            "store": {
                "tracking_uri": store.tracking_uri,
                "artifact_root": _text(store.artifact_root),
                "lock_folder": _text(store.lock_folder),
            },
            "description": description.to_dict(),
            "metrics_file": str(metrics_file.absolute()),
            "run_folder": str(run_folder.absolute()),
            "started": time.time(),
            "interval_s": interval_s,
            "parent": os.getpid(),
        }
        try:
            metrics_file.parent.mkdir(parents=True, exist_ok=True)
            with self._log_file.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    start_new_session=True,  # an interrupt in the terminal is the trainer's to handle
                )
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            self._warn(f"the stream did not start: {error}")

    def __enter__(self) -> "RunStream":
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is None:
            self.close("FINISHED")
        elif issubclass(exception_type, Exception):
            self.close("FAILED")
        else:
            self.close("KILLED")

    def close(self, status: str = "FINISHED") -> None:
        """Send what is left and close the run; once."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            answer, _ = process.communicate(status + "\n", timeout=self._close_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self._warn(f"the stream was stopped after {self._close_timeout_s:g} s")
            return
        try:
            result = json.loads(answer)
        except ValueError:
            self._warn(f"the stream ended with exit status {process.returncode} (see {self._log_file})")
            return
        if result["errors"]:
            self._warn(f"{result['errors']} errors, the last: {result['last_error']} (see {self._log_file})")

    def _warn(self, what: str) -> None:
        log.warning("MLflow lacks a part of %s: %s. Ingestion adds it from the files.", self._run, what)


@dataclass(frozen=True)
class DataSet:
    """A data set that a run used; ``context`` is ``training`` or ``evaluation``."""

    name: str
    context: str
    source: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class FinishedRun:
    """A run folder as :func:`ingest` needs it; times are Unix seconds."""

    folder: Path
    description: RunDescription
    outcome: str
    started: float
    ended: float

    @classmethod
    def read(cls, folder: Path) -> "FinishedRun":
        """Read ``manifest.json``: ``status``, ``started``, ``ended``, ``tracking`` (a RunDescription).

        Raises:
            ValueError: no manifest, or one that lacks a key or has an unknown status; names the file.
        """
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, so this run has not finished") from None
        except ValueError as error:
            raise ValueError(f"{path}: not valid JSON: {error}") from None
        for key in ("tracking", "status", "started", "ended"):
            if key not in manifest:
                raise ValueError(f"{path}: the key {key!r} is missing")
        if manifest["status"] not in STATUSES:
            raise ValueError(f"{path}: status {manifest['status']!r} is not one of {', '.join(STATUSES)}")
        description = RunDescription.from_dict(manifest["tracking"], f"{path}: tracking")
        return cls(folder, description, manifest["status"], manifest["started"], manifest["ended"])


def ingest(
    store: Store,
    folders: Iterable[Path],
    *,
    evaluations: Mapping[str, Iterable[tuple[int, Mapping[str, float]]]] | None = None,
    datasets: Mapping[str, Iterable[DataSet]] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Add to MLflow what it lacks of finished runs; return what was added to ``runs`` and ``cells``, by name.

    Idempotent: a second call adds nothing. A run's row names it in MLflow (``experiment_id``, ``run_id``) and counts
    ``points`` (metric values), ``parameters``, ``artifacts`` and ``datasets`` added, and ``differing``: values that
    MLflow holds for a step and the file does not; MLflow cannot replace a value, so they stay, and the file is right.
    ``status`` is [before, after]; before is None for a run that MLflow did not know. A cell shows the mean over its
    runs; its row counts ``points``.

    Args:
        evaluations: by name of the run, metrics by step of its checkpoints; shown beside the training's own.
        datasets: by name of the run, what it was trained and evaluated on.

    Raises:
        ValueError: a folder is not a finished run; names it.
        filelock.Timeout: a living training still streams the run.
        mlflow.exceptions.MlflowException: the store cannot be reached or refuses.
    """
    runs = [FinishedRun.read(Path(folder)) for folder in folders]
    client = store.connect()
    report: dict[str, dict[str, dict[str, Any]]] = {"runs": {}, "cells": {}}
    cells = {}
    for run in runs:
        name = run.description.run
        rows = [*_read_table(run.folder / "metrics.parquet"), *(evaluations or {}).get(name, [])]
        with store.run_lock(run.description.configuration_hash):
            record = _Record(store, client, run.description, started=run.started)
            points, differing = record.add_points(rows, run.started, run.ended)
            report["runs"][name] = {
                "experiment_id": record.experiment_id,
                "run_id": record.run_id,
                "points": points,
                "differing": differing,
                "parameters": record.parameters_added,
                "artifacts": record.add_artifacts([run.folder / file for file in ARTIFACTS]),
                "datasets": record.add_datasets((datasets or {}).get(name, [])),
                "status": [record.status_before, record.close(run.outcome, run.ended)],
            }
            cells[record.cell_id] = run.description.cell
    for cell_id, name in cells.items():
        report["cells"][name] = {"points": _show_mean(store, client, cell_id)}
    return report


def close_killed(store: Store, state_folder: Path) -> list[str]:
    """Close, as KILLED, runs that MLflow shows as running although nobody writes them; return their names.

    ``state_folder`` holds one folder per configuration hash. A run is closed when its hash has a folder there
    and no living process on this host holds its lock. It opens again when its training resumes.
    """
    client = store.connect()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    closed = []
    for folder in sorted(path for path in state_folder.iterdir() if path.is_dir()):
        found = _find(client, experiments, role="seed", configuration_hash=folder.name)
        for run in (run for run in found if run.info.status == "RUNNING"):
            lock = store.run_lock(folder.name)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                _terminate(store, client, run, "KILLED", time.time())
            finally:
                lock.release()
            # A stream killed while it opened the run has not named it in full yet.
            closed.append(run.data.tags.get("run_name", run.info.run_name))
    return closed


def add_figures(store: Store, figures: Mapping[str, Iterable[Path]]) -> dict[str, int]:
    """Add figure files, by experiment, to that experiment's run ``figures``; return the numbers added.

    A file that is there already, byte for byte, is not added again.
    """
    client = store.connect()
    added = {}
    for experiment, files in figures.items():
        experiment_id = _experiment(store, client, experiment)
        with store.run_lock(f"figures-{experiment_id}"):
            # Older than every training, so that it stands below them in MLflow's list.
            oldest = min((run.info.start_time for run in _find(client, [experiment_id])), default=None)
            started = None if oldest is None else oldest / 1000 - 1
            run, _ = _find_or_create(store, client, experiment_id, "figures", {"role": "figures"}, started)
            added[experiment] = _upload(client, run.info.run_id, map(Path, files))
            if run.info.status != "FINISHED":
                with store.write_lock():
                    client.set_terminated(run.info.run_id, "FINISHED")
    return added


def describe_experiments(store: Store, notes: Mapping[str, str]) -> None:
    """Give experiments their description (Markdown), shown at the top of their page."""
    client = store.connect()
    for name, note in notes.items():
        experiment_id = _experiment(store, client, name, note)
        with store.write_lock():
            client.set_experiment_tag(experiment_id, "mlflow.note.content", note)


def pages(store: Store, address: str) -> dict[str, str]:
    """Return, by experiment, the page with its charts on the MLflow server at ``address``.

    MLflow 3 opens an experiment on its page for language-model applications; these addresses do not.
    """
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    return {
        experiment.name: f"{address}/#/experiments/{experiment.experiment_id}/runs?{query}"
        for experiment in store.connect().search_experiments(filter_string="name != 'Default'")
    }


# --- one run ----------------------------------------------------------------------------------------------


class _Record:
    """One run in MLflow, found or created. The caller holds the run's lock: there is one writer."""

    def __init__(
        self, store: Store, client: Any, description: RunDescription, started: float | None = None
    ) -> None:
        self._store, self._client = store, client
        parameters = _flatten(description.parameters)
        shared = {name: value for name, value in parameters.items() if name != "seed"}
        tags = {key: str(value) for key, value in description.tags.items()}
        source = {"mlflow.source.name": SOURCE, "mlflow.source.type": "PROJECT"}
        if "git_commit" in tags:
            tags["mlflow.source.git.commit"] = tags["git_commit"]
        seed = {"role": "seed", "configuration_hash": description.configuration_hash}
        # A cell whose configuration changed is another cell with the same name.
        cell = {"role": "cell", "cell_hash": _digest(json.dumps([description.cell, shared], sort_keys=True))}

        experiment_id = _experiment(store, client, description.experiment, description.note)
        cell_name, run_name = display_name(description.cell), display_name(description.run)
        parent, _ = _find_or_create(store, client, experiment_id, cell_name, cell, started)
        self.cell_id = parent.info.run_id
        nested = {"mlflow.parentRunId": self.cell_id, COLOUR: parent.data.tags.get(COLOUR, COLOURS[0])}
        self._run, created = _find_or_create(store, client, experiment_id, run_name, seed, started, nested)
        self.experiment_id, self.run_id = experiment_id, self._run.info.run_id
        self.status_before = None if created else self._run.info.status
        with store.write_lock():
            _describe(client, parent, shared, {**source, "run_name": description.cell})
            tags |= {**source, **nested, "run_name": description.run}
            self.parameters_added = _describe(client, self._run, parameters, tags)
        self._known = _history(client, self._run)

    def reopen(self) -> None:
        """Show the run, and its cell, as running."""
        with self._store.write_lock():
            for run_id in (self._run.info.run_id, self.cell_id):
                self._client.update_run(run_id, "RUNNING")

    def add_points(
        self,
        rows: Iterable[tuple[int, Mapping[str, float]]],
        started: float | None = None,
        ended: float | None = None,
    ) -> tuple[int, int]:
        """Send the values that MLflow lacks; return their number, and that of values MLflow has otherwise.

        A streamed value carries the time of its sending. A value added afterwards carries a time between
        ``started`` and ``ended``, in proportion to its step.
        """
        from mlflow.entities import Metric

        rows = list(rows)
        last = max((step for step, _ in rows), default=0)
        now = time.time()
        points, differing = [], 0
        for step, values in rows:
            when = now if started is None else started + (ended - started) * step / max(last, 1)
            for name, value in values.items():
                key = metric_name(name)
                known = self._known.get(key, {})
                if step not in known:
                    points.append(Metric(key, value, round(1000 * when), step))
                elif not _same(known[step], value):
                    differing += 1
        for start in range(0, len(points), _MAX_BATCH):
            batch = points[start : start + _MAX_BATCH]
            with self._store.write_lock():
                self._client.log_batch(self._run.info.run_id, metrics=batch)
            for point in batch:
                self._known.setdefault(point.key, {})[point.step] = point.value
        return len(points), differing

    def add_artifacts(self, files: Iterable[Path]) -> int:
        """Upload the files that MLflow lacks or holds another version of; return their number."""
        return _upload(self._client, self._run.info.run_id, files)

    def add_datasets(self, datasets: Iterable[DataSet]) -> int:
        """Log the data sets that MLflow does not show with this run; return their number."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = {(entry.dataset.name, entry.dataset.digest) for entry in self._run.inputs.dataset_inputs}
        added = [
            DatasetInput(
                Dataset(
                    name=data.name,
                    digest=data.sha256[:16],
                    source_type="local",
                    source=json.dumps({"uri": data.source}),
                    profile=json.dumps({"rows": data.rows, "sha256": data.sha256}),
                ),
                tags=[InputTag("mlflow.data.context", data.context)],
            )
            for data in datasets
            if (data.name, data.sha256[:16]) not in known
        ]
        if added:
            with self._store.write_lock():
                self._client.log_inputs(self._run.info.run_id, datasets=added)
        return len(added)

    def add_usage(self, process: Any) -> None:
        """Record what the trainer's process takes of the machine; shown under MLflow's system metrics."""
        from mlflow.entities import Metric

        now = time.time()
        values = {
            # Of one core, since the last call; the first call has nothing to compare with and says 0.
            "trainer_cpu_utilization_percentage": process.cpu_percent(),
            "trainer_memory_megabytes": process.memory_info().rss / 1e6,
        }
        step = round(now - self._run.info.start_time / 1000)
        points = [Metric(_SYSTEM + name, value, round(1000 * now), step) for name, value in values.items()]
        with self._store.write_lock():
            self._client.log_batch(self._run.info.run_id, metrics=points)

    def close(self, outcome: str, ended: float) -> str:
        """Close the run and, with its last child, the cell; return the status.

        ``outcome`` is a manifest's status or MLflow's.
        """
        status = STATUSES.get(outcome, outcome)
        run = self._client.get_run(self._run.info.run_id)
        if outcome in STATUSES and run.data.tags.get("outcome") != outcome:
            with self._store.write_lock():
                self._client.set_tag(run.info.run_id, "outcome", outcome)
        _terminate(self._store, self._client, run, status, ended)
        return status


def _history(client: Any, run: Any) -> dict[str, dict[int, float]]:
    """Return what MLflow holds of a run, but for system metrics: metric -> step -> value."""
    return {
        key: {point.step: point.value for point in client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
        if not key.startswith(_SYSTEM)
    }


def _show_mean(store: Store, client: Any, cell_id: str) -> int:
    """Give a cell the mean of its finished runs at the steps they share; return the number of values added.

    MLflow can neither replace nor remove a value, so when a further seed changes the mean, the cell's run is
    replaced by a new one of the same name.
    """
    from mlflow.entities import Metric

    with store.lock():
        cell = client.get_run(cell_id)
        children = _children(client, cell)
        finished = [_history(client, child) for child in children if child.info.status == "FINISHED"]
        if not finished:
            return 0
        mean = _mean(finished)
        known = _history(client, cell)
        if any(
            step not in mean.get(key, {}) or not _same(value, mean[key][step])
            for key, values in known.items()
            for step, value in values.items()
        ):
            cell, known = _replace(client, cell, children), {}
        ended = max(child.info.end_time for child in children if child.info.end_time)
        points = [
            Metric(key, value, ended, step)
            for key, values in mean.items()
            for step, value in values.items()
            if step not in known.get(key, {})
        ]
        for start in range(0, len(points), _MAX_BATCH):
            client.log_batch(cell.info.run_id, metrics=points[start : start + _MAX_BATCH])
    return len(points)


def _mean(runs: list[dict[str, dict[int, float]]]) -> dict[str, dict[int, float]]:
    """Return the mean over runs of the metrics and steps that all of them have."""
    mean = {}
    for key in set.intersection(*(set(run) for run in runs)):
        steps = set.intersection(*(set(run[key]) for run in runs))
        mean[key] = {step: math.fsum(run[key][step] for run in runs) / len(runs) for step in steps}
    return mean


def _replace(client: Any, cell: Any, children: list[Any]) -> Any:
    """Return a new run in the place of ``cell``, without its metrics, and delete the old one."""
    info = cell.info
    new = client.create_run(info.experiment_id, info.start_time, cell.data.tags, info.run_name)
    _describe(client, new, cell.data.params, {})
    for child in children:
        client.set_tag(child.info.run_id, "mlflow.parentRunId", new.info.run_id)
    if info.status != "RUNNING":
        client.set_terminated(new.info.run_id, info.status, info.end_time)
    client.delete_run(info.run_id)
    return new


def _children(client: Any, cell: Any) -> list[Any]:
    return _find(client, [cell.info.experiment_id], **{"`mlflow.parentRunId`": cell.info.run_id})


def metric_name(name: str) -> str:
    """Return ``name`` as MLflow accepts it: ``Pass@16`` becomes ``Pass_at_16``, other characters ``_``."""
    return re.sub(r"[^/\w.\- ]", "_", name.replace("@", "_at_"))


def display_name(name: str) -> str:
    """Return a run's or cell's name for a narrow column: what tells runs apart comes first.

    ``model~tiny/algorithm~dapo/sampler~ead/n~8/seed~0`` becomes ``ead n8 seed0 dapo tiny``. A name of another
    form stays as it is. The whole name is in the tag ``run_name``.
    """
    axes = dict(part.split("~", 1) for part in name.split("/") if "~" in part)
    if len(axes) != len(name.split("/")):
        return name
    order = [axis for axis in DISPLAY_ORDER if axis in axes]
    order += [axis for axis in axes if axis not in DISPLAY_ORDER]
    return " ".join(axis + axes[axis] if axes[axis].isdigit() else axes[axis] for axis in order)


def _experiment(store: Store, client: Any, name: str, note: str = "") -> str:
    with store.lock():
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            # Without a root of our own the server decides; a local default would be ./mlruns.
            place = None
            if store.artifact_root is not None:
                place = (store.artifact_root / re.sub(r"[^\w.-]+", "_", name)).as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
            return client.create_experiment(name, artifact_location=place, tags=tags)
    if experiment.lifecycle_stage != "active":
        raise RuntimeError(
            f"the MLflow experiment {name!r} was deleted: restore it with `mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}`, or purge it with `mlflow gc`"
        )
    return experiment.experiment_id


def _find(client: Any, experiment_ids: list[str], **tags: str) -> list[Any]:
    """Return all active runs with these tags, the oldest first."""
    query = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    runs, token = [], None
    while True:
        page = client.search_runs(
            experiment_ids, query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _find_or_create(
    store: Store,
    client: Any,
    experiment_id: str,
    name: str,
    identity: Mapping[str, str],
    started: float | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[Any, bool]:
    """Return the run with the tags ``identity``, and whether it had to be created."""
    with store.lock():
        if found := _find(client, [experiment_id], **identity):
            return found[0], False
        tags = {**identity, **(tags or {})}
        if identity["role"] == "cell":
            tags[COLOUR] = COLOURS[len(_find(client, [experiment_id], role="cell")) % len(COLOURS)]
        start_time = None if started is None else round(1000 * started)
        return client.create_run(experiment_id, start_time, tags, name), True


def _describe(client: Any, run: Any, parameters: Mapping[str, str], tags: Mapping[str, str]) -> int:
    """Add missing parameters and changed tags; return the number of parameters. MLflow keeps a parameter's
    first value: a changed one would be another configuration, so another run."""
    from mlflow.entities import Param, RunTag

    missing = [Param(key, value) for key, value in parameters.items() if key not in run.data.params]
    changed = [RunTag(key, str(value)) for key, value in tags.items() if run.data.tags.get(key) != str(value)]
    for start in range(0, max(len(missing), len(changed)), _MAX_PARAMETERS):
        part = slice(start, start + _MAX_PARAMETERS)
        client.log_batch(run.info.run_id, params=missing[part], tags=changed[part])
    return len(missing)


def _terminate(store: Store, client: Any, run: Any, status: str, ended: float) -> None:
    """Close a child, and its cell once no other child runs, where they are not closed like that already."""
    with store.lock():
        if run.info.status != status:
            client.set_terminated(run.info.run_id, status, round(1000 * ended))
        cell = client.get_run(run.data.tags["mlflow.parentRunId"])
        children = _children(client, cell)
        statuses = {child.info.status for child in children}
        if "RUNNING" in statuses:
            return
        worst = next(status for status in ("FAILED", "KILLED", "FINISHED") if status in statuses)
        if cell.info.status != worst:
            client.set_terminated(cell.info.run_id, worst, max(child.info.end_time for child in children))


def _upload(client: Any, run_id: str, files: Iterable[Path]) -> int:
    present = {artifact.path: artifact.file_size for artifact in client.list_artifacts(run_id)}
    added = 0
    for file in files:
        if present.get(file.name) == file.stat().st_size:
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(client.download_artifacts(run_id, file.name, scratch))
                if copy.read_bytes() == file.read_bytes():
                    continue
        client.log_artifact(run_id, str(file))
        added += 1
    return added


# --- values -----------------------------------------------------------------------------------------------


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the steps in a metrics file, in order; none where it does not exist yet.

    A last line without its newline is still being written and left out, null is no value, and of two lines
    for one step the last counts.

    Raises:
        ValueError: a line is not a JSON object of numbers with a step; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            values = json.loads(line)
            rows[int(values["step"])] = _numbers(values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error!r} in {line[:80]!r}") from None
    return sorted(rows.items())


def _read_table(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The same from ``metrics.parquet``: a column ``step`` and one per metric."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pylist()
    try:
        return [(row["step"], _numbers(row)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}; expected a column 'step' and columns of numbers") from None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if name != "step" and value is not None}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _same(recorded: float, value: float) -> bool:
    if math.isnan(value):
        return math.isnan(recorded)
    return recorded == max(-_LARGEST, min(value, _LARGEST))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- the stream's process ---------------------------------------------------------------------------------


class _Follower:
    """Sends one metrics file to MLflow, round by round."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._store = Store(**order["store"])
        self._description = RunDescription(**order["description"])
        self._metrics_file, self._run_folder = Path(order["metrics_file"]), Path(order["run_folder"])
        self._lock = self._store.run_lock(self._description.configuration_hash)
        self._started = order["started"]
        self._client = self._record = self._seen = None
        self._trainer = psutil.Process(order["parent"])

    def round(self, outcome: str | None) -> None:
        """Send what is new; with an outcome, also the artifacts, and close the run.

        After an exception the next round looks up again what MLflow has.
        """
        record, self._record = self._record, None
        if record is None:
            self._seen = None
            self._client = self._client or self._store.connect()
            if not self._lock.is_locked:
                self._lock.acquire()
            record = _Record(self._store, self._client, self._description, self._started)
            record.reopen()
        stat = self._metrics_file.stat() if self._metrics_file.exists() else None
        change = stat and (stat.st_mtime_ns, stat.st_size)
        if change != self._seen:
            record.add_points(read_metrics(self._metrics_file))
            self._seen = change
        if outcome is None:
            record.add_usage(self._trainer)
        else:
            record.add_artifacts(path for name in ARTIFACTS if (path := self._run_folder / name).exists())
            manifest = self._run_folder / "manifest.json"
            if outcome == "FINISHED" and manifest.exists():
                outcome = json.loads(manifest.read_text(encoding="utf-8"))["status"]
            record.close(outcome, time.time())
        self._record = record


def _follow() -> None:
    """Read the order from standard input, follow it until told the outcome, answer with the errors met."""
    os.nice(5)
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what MLflow prints is no answer
    inbox = _Inbox()
    order = json.loads(inbox.wait(math.inf, parent=None))
    follower = _Follower(order)
    errors, last_error, outcome, wait_s = 0, None, None, 0.0
    while outcome is None:
        outcome = inbox.wait(wait_s, order["parent"])
        wait_s = order["interval_s"]
        try:
            follower.round(outcome)
        except Exception as error:  # whatever MLflow or its server throws
            log.exception("a round failed")
            errors, last_error = errors + 1, f"{type(error).__name__}: {error}"[:300]
    with answer:
        json.dump({"errors": errors, "last_error": last_error}, answer)


class _Inbox:
    """Lines from standard input, waited for without missing the parent's death."""

    def __init__(self) -> None:
        self._buffer = b""

    def wait(self, timeout_s: float, parent: int | None) -> str | None:
        """Return the next line; None after ``timeout_s``; ``KILLED`` when the parent is gone."""
        deadline = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                return line.decode()
            # A forked child of the trainer may keep the pipe open after the trainer died.
            if parent is not None and os.getppid() != parent:
                return "KILLED"
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([sys.stdin.fileno()], [], [], min(left, 1.0))
            if ready:
                data = os.read(sys.stdin.fileno(), 65536)
                if not data:
                    return "KILLED"
                self._buffer += data
            elif left == 0:
                return None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _follow()
