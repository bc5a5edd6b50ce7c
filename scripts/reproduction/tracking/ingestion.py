"""Ingestion: MLflow gets what it lacks of runs that have ended, and what is shown of whole experiments."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from reproduction.tracking.description import DataSet, FinishedRun
from reproduction.tracking.record import (
    RunRecord,
    find,
    find_experiment,
    find_or_create,
    show_mean,
    terminate,
    upload,
)
from reproduction.tracking.store import Store
from reproduction.tracking.values import read_table

ARTIFACTS = ("config.yaml", "manifest.json")


def ingest(
    store: Store,
    folders: Iterable[Path],
    *,
    evaluations: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]] | None = None,
    datasets: Mapping[str, Iterable[DataSet]] | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Add to MLflow what it lacks of finished runs; return what was added to ``runs`` and ``cells``, by name.

    Idempotent: a second call adds nothing. A run's row names it in MLflow (``experiment_id``, ``run_id``) and counts
    what was added: ``points`` (metric values), ``parameters``, ``artifacts``, ``datasets`` and ``models`` (a logged
    model for each checkpoint, with its metrics, so that MLflow's search ranks checkpoints). It counts ``differing``:
    values that MLflow holds for a step and the file does not; MLflow cannot replace a value, so they stay, and the
    file is right. ``status`` is [before, after]; before is None for a run that MLflow did not know. A cell shows the
    mean over its runs; its row counts ``points``.

    Args:
        evaluations: by name of the run, metrics by step of its checkpoints; shown beside the training's own.
        datasets: by name of the run, what it was trained and evaluated on, one of each.

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
        trained, evaluated = read_table(run.folder / "metrics.parquet"), (evaluations or {}).get(name, [])
        used = {data.context: data for data in (datasets or {}).get(name, [])}
        measured = [(*row, used.get("training")) for row in trained]
        measured += [(*row, used.get("evaluation")) for row in evaluated]
        with store.run_lock(run.description.configuration_hash):
            record = RunRecord(store, client, run.description, started=run.started)
            points, differing = record.add_points([*trained, *evaluated], run.started, run.ended)
            report["runs"][name] = {
                "experiment_id": record.experiment_id,
                "run_id": record.run_id,
                "points": points,
                "differing": differing,
                "parameters": record.parameters_added,
                "artifacts": record.add_artifacts([run.folder / file for file in ARTIFACTS]),
                "datasets": record.add_datasets(used.values()),
                "models": record.add_models(run.checkpoints, measured),
                "status": [record.status_before, record.close(run.outcome, run.ended)],
            }
            cells[record.cell_id] = run.description.cell
    for cell_id, name in cells.items():
        report["cells"][name] = {"points": show_mean(store, client, cell_id)}
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
        found = find(client, experiments, role="seed", configuration_hash=folder.name)
        for run in (run for run in found if run.info.status == "RUNNING"):
            lock = store.run_lock(folder.name)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                terminate(store, client, run, "KILLED", time.time())
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
        experiment_id = find_experiment(store, client, experiment)
        with store.run_lock(f"figures-{experiment_id}"):
            # Older than every training, so that it stands below them in MLflow's list.
            oldest = min((run.info.start_time for run in find(client, [experiment_id])), default=None)
            started = None if oldest is None else oldest / 1000 - 1
            run, _ = find_or_create(store, client, experiment_id, "figures", {"role": "figures"}, started)
            added[experiment] = upload(client, run.info.run_id, map(Path, files))
            if run.info.status != "FINISHED":
                with store.write_lock():
                    client.set_terminated(run.info.run_id, "FINISHED")
    return added


def describe_experiments(store: Store, notes: Mapping[str, str]) -> None:
    """Give experiments their description (Markdown), shown at the top of their page."""
    client = store.connect()
    for name, note in notes.items():
        experiment_id = find_experiment(store, client, name, note)
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
