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

from reproduction.tracking.description import DataSet, FinishedRun, RunDescription
from reproduction.tracking.ingestion import add_figures, close_killed, describe_experiments, ingest, pages
from reproduction.tracking.store import Store
from reproduction.tracking.stream import RunStream
from reproduction.tracking.values import display_name, metric_name, read_metrics
