"""One run in MLflow and the cell above it: found or created, completed, closed."""

import json
import math
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reproduction.config.runs import flatten
from reproduction.tracking.description import STATUSES, DataSet, RunDescription
from reproduction.tracking.store import Store
from reproduction.tracking.values import display_name, metric_name, model_name, same, short_digest

COLOUR = "mlflow.runColor"
# Cells get these in turn and their seeds share them; MLflow's own choice may repeat. Okabe and Ito's palette.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")
_SOURCE = "scripts/train.py"
_MAX_BATCH = 1000  # MLflow's limit of metrics per request
_MAX_PARAMETERS = 100  # and of parameters or tags
SYSTEM = "system/"  # where MLflow looks for system metrics


# A step, its metrics, and the data set that they were measured on, where it is known.
ModelMetrics = tuple[int, Mapping[str, float], DataSet | None]


class RunRecord:
    """One run in MLflow, found or created. The caller holds the run's lock: there is one writer."""

    def __init__(
        self, store: Store, client: Any, description: RunDescription, started: float | None = None
    ) -> None:
        self._store, self._client = store, client
        parameters = flatten(description.parameters)
        shared = {name: value for name, value in parameters.items() if name != "seed"}
        tags = {key: str(value) for key, value in description.tags.items()}
        source = {"mlflow.source.name": _SOURCE, "mlflow.source.type": "PROJECT"}
        if "git_commit" in tags:
            tags["mlflow.source.git.commit"] = tags["git_commit"]
        seed = {"role": "seed", "configuration_hash": description.configuration_hash}
        # A cell whose configuration changed is another cell with the same name.
        cell = {
            "role": "cell",
            "cell_hash": short_digest(json.dumps([description.cell, shared], sort_keys=True)),
        }

        experiment_id = find_experiment(store, client, description.experiment, description.note)
        cell_name, run_name = display_name(description.cell), display_name(description.run)
        parent, _ = find_or_create(store, client, experiment_id, cell_name, cell, started)
        self.cell_id = parent.info.run_id
        nested = {"mlflow.parentRunId": self.cell_id, COLOUR: parent.data.tags.get(COLOUR, COLOURS[0])}
        self._run, created = find_or_create(store, client, experiment_id, run_name, seed, started, nested)
        self.experiment_id, self.run_id = experiment_id, self._run.info.run_id
        self.status_before = None if created else self._run.info.status
        with store.write_lock():
            describe(client, parent, shared, {**source, "run_name": description.cell})
            tags |= {**source, **nested, "run_name": description.run}
            self.parameters_added = describe(client, self._run, parameters, tags)
        self._parameters, self._hash, self._name = parameters, description.configuration_hash, description.run
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
                elif not same(known[step].value, value):
                    differing += 1
        for start in range(0, len(points), _MAX_BATCH):
            batch = points[start : start + _MAX_BATCH]
            with self._store.write_lock():
                self._client.log_batch(self._run.info.run_id, metrics=batch)
            for point in batch:
                self._known.setdefault(point.key, {})[point.step] = point
        return len(points), differing

    def add_artifacts(self, files: Iterable[Path]) -> int:
        """Upload the files that MLflow lacks or holds another version of; return their number."""
        return upload(self._client, self._run.info.run_id, files)

    def add_datasets(self, datasets: Iterable[DataSet]) -> int:
        """Log the data sets that MLflow does not show with this run; return their number."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = {(entry.dataset.name, entry.dataset.digest) for entry in self._run.inputs.dataset_inputs}
        added = [
            DatasetInput(
                Dataset(
                    name=data.name,
                    digest=data.digest,
                    source_type="local",
                    source=json.dumps({"uri": data.source}),
                    profile=json.dumps({"rows": data.rows, "sha256": data.sha256}),
                ),
                tags=[InputTag("mlflow.data.context", data.context)],
            )
            for data in datasets
            if (data.name, data.digest) not in known
        ]
        if added:
            with self._store.write_lock():
                self._client.log_inputs(self._run.info.run_id, datasets=added)
        return len(added)

    def add_models(self, checkpoints: Mapping[int, Path], metrics: Iterable[ModelMetrics]) -> int:
        """Show each checkpoint as a logged model that this run made, with what is known of it; return how many are new.

        A model is found again by the run's configuration hash and its step. Its metrics are points that the run has
        already, and name the data set that they were measured on.

        Args:
            checkpoints: step -> folder of the checkpoint.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

        identity = {"configuration_hash": self._hash}
        found = _find_models(self._client, self.experiment_id, **identity)
        models = {int(model.tags["step"]): model for model in found}
        new = [step for step in checkpoints if step not in models]
        with self._store.write_lock():
            for step in new:
                folder = f"{self._name}/checkpoints/{checkpoints[step].name}"
                models[step] = self._client.create_logged_model(
                    self.experiment_id,
                    model_name(f"{self._run.info.run_name} step {step}"),
                    self.run_id,
                    tags={**identity, "step": str(step), "checkpoint": folder},
                    params=self._parameters,
                    model_type="checkpoint",
                )
        points = []
        for step, values, data in metrics:
            if step not in checkpoints:
                continue
            of = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
            known = {(point.key, point.dataset_name) for point in models[step].metrics or ()}
            for name in values:
                point = self._known[metric_name(name)][step]
                # MLflow shows a model's NaN as 0, which would rank it.
                if (point.key, of.get("dataset_name")) not in known and math.isfinite(point.value):
                    # The run's own point: with another time it would be a second one.
                    point = Metric(point.key, point.value, point.timestamp, step, models[step].model_id, **of)
                    points.append(point)
        made = {output.model_id for output in (self._run.outputs.model_outputs if self._run.outputs else ())}
        outputs = [
            LoggedModelOutput(model.model_id, step)
            for step, model in models.items()
            if model.model_id not in made
        ]
        with self._store.write_lock():
            for start in range(0, len(points), _MAX_BATCH):
                self._client.log_batch(self.run_id, metrics=points[start : start + _MAX_BATCH])
            if outputs:
                self._client.log_outputs(self.run_id, outputs)
            for model in models.values():
                if model.status != LoggedModelStatus.READY:
                    self._client.finalize_logged_model(model.model_id, "READY")
        return len(new)

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
        points = [Metric(SYSTEM + name, value, round(1000 * now), step) for name, value in values.items()]
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
        terminate(self._store, self._client, run, status, ended)
        return status


def _history(client: Any, run: Any) -> dict[str, dict[int, Any]]:
    """Return what MLflow holds of a run, but for system metrics: metric -> step -> point."""
    return {
        key: {point.step: point for point in client.get_metric_history(run.info.run_id, key)}
        for key in run.data.metrics
        if not key.startswith(SYSTEM)
    }


def show_mean(store: Store, client: Any, cell_id: str) -> int:
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
            step not in mean.get(key, {}) or not same(point.value, mean[key][step])
            for key, points in known.items()
            for step, point in points.items()
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


def _mean(runs: list[dict[str, dict[int, Any]]]) -> dict[str, dict[int, float]]:
    """Return the mean over runs of the metrics and steps that all of them have."""
    mean = {}
    for key in set.intersection(*(set(run) for run in runs)):
        steps = set.intersection(*(set(run[key]) for run in runs))
        mean[key] = {step: math.fsum(run[key][step].value for run in runs) / len(runs) for step in steps}
    return mean


def _replace(client: Any, cell: Any, children: list[Any]) -> Any:
    """Return a new run in the place of ``cell``, without its metrics, and delete the old one."""
    info = cell.info
    new = client.create_run(info.experiment_id, info.start_time, cell.data.tags, info.run_name)
    describe(client, new, cell.data.params, {})
    for child in children:
        client.set_tag(child.info.run_id, "mlflow.parentRunId", new.info.run_id)
    if info.status != "RUNNING":
        client.set_terminated(new.info.run_id, info.status, info.end_time)
    client.delete_run(info.run_id)
    return new


def _children(client: Any, cell: Any) -> list[Any]:
    return find(client, [cell.info.experiment_id], **{"`mlflow.parentRunId`": cell.info.run_id})


def find_experiment(store: Store, client: Any, name: str, note: str = "") -> str:
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


def find(client: Any, experiment_ids: list[str], **tags: str) -> list[Any]:
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


def _find_models(client: Any, experiment_id: str, **tags: str) -> list[Any]:
    """Return all logged models with these tags."""
    query = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    models, token = [], None
    while True:
        page = client.search_logged_models([experiment_id], query, page_token=token)
        models += page
        token = page.token
        if not token:
            return models


def find_or_create(
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
        if found := find(client, [experiment_id], **identity):
            return found[0], False
        tags = {**identity, **(tags or {})}
        if identity["role"] == "cell":
            tags[COLOUR] = COLOURS[len(find(client, [experiment_id], role="cell")) % len(COLOURS)]
        start_time = None if started is None else round(1000 * started)
        return client.create_run(experiment_id, start_time, tags, name), True


def describe(client: Any, run: Any, parameters: Mapping[str, str], tags: Mapping[str, str]) -> int:
    """Add missing parameters and changed tags; return the number of parameters. MLflow keeps a parameter's
    first value: a changed one would be another configuration, so another run."""
    from mlflow.entities import Param, RunTag

    missing = [Param(key, value) for key, value in parameters.items() if key not in run.data.params]
    changed = [RunTag(key, str(value)) for key, value in tags.items() if run.data.tags.get(key) != str(value)]
    for start in range(0, max(len(missing), len(changed)), _MAX_PARAMETERS):
        part = slice(start, start + _MAX_PARAMETERS)
        client.log_batch(run.info.run_id, params=missing[part], tags=changed[part])
    return len(missing)


def terminate(store: Store, client: Any, run: Any, status: str, ended: float) -> None:
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


def upload(client: Any, run_id: str, files: Iterable[Path]) -> int:
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
