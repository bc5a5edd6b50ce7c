"""Train one run and publish its folder: manifest, resolved configuration, metrics, checkpoints.

The trainer works in its private state folder, from its last state if it was interrupted. What is declared to
Snakemake appears only when the run has ended, the manifest last.
"""

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path

from filelock import FileLock

from reproduction.cluster import ray
from reproduction.cluster.timings import cpu_seconds
from reproduction.config import Verl
from reproduction.config.runs import RunConfiguration, tracking_experiment
from reproduction.engines import Result
from reproduction.figures import figures_of
from reproduction.tracking import RunDescription, RunStream, Store
from reproduction.training import records
from reproduction.training.model_card import model_card
from reproduction.training.run_folder import mark_sources, mark_started, publish
from reproduction.versions import code_version

STREAM_AFTER_S = 60.0  # most trainings of the default scale are over by then


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="JSON of reproduction.config.runs.RunConfiguration")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model to start from")
    parser.add_argument("--dataset", type=Path, required=True, help="training problems, Parquet")
    parser.add_argument("--output", type=Path, required=True, help="manifest; the run folder is its parent")
    parser.add_argument("--state", type=Path, required=True, help="the trainer's private folder")
    parser.add_argument("--scale", required=True, help="the run's scale, to look up which figures show it")
    parser.add_argument(
        "--overrides", type=json.loads, default={}, help="JSON of the overrides of that scale (config.yaml)"
    )
    parser.add_argument(
        "--no-stream", action="store_true", help="leave MLflow to the ingestion of finished runs"
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or database; without it the local store is used"
    )
    parser.add_argument(
        "--tracking-folder",
        type=Path,
        required=True,
        help="local MLflow store; of another database its artifacts, of a server its locks",
    )
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    verl = parser.add_argument_group("for runs of the engine verl")
    verl.add_argument("--machine", help="JSON of reproduction.config.Verl")
    verl.add_argument("--validation", type=Path, help="problems that verl validates on, Parquet")
    verl.add_argument("--gpus", type=int, help="GPUs per node, where they are not as --machine says")
    verl.add_argument("--nodes", type=int, help="nodes, where they are not as --machine says")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if (arguments.nodes or 1) > 1 and not ray.is_on_cluster():
        logging.info("Ray on %d nodes", arguments.nodes)
        sys.exit(ray.run_on_nodes([sys.executable, *sys.argv], arguments.nodes))
    run = RunConfiguration.from_json(arguments.run)
    base = json.loads(arguments.model.read_text(encoding="utf-8"))
    version = code_version()
    figures = figures_of(run, arguments.scale, arguments.overrides)
    first = next(iter(figures.values()), None)
    tracking = RunDescription(
        experiment=tracking_experiment(arguments.scale, first),
        note=first.title if first else "",
        cell=run.cell,
        run=run.name,
        configuration_hash=run.hash,
        parameters=run.parameters(),
        tags={
            "git_commit": version["commit"],
            "git_modified": str(version["modified"]).lower(),
            "figures": ", ".join(figures),
        },
    )
    store = Store.at(arguments.tracking_uri, arguments.tracking_folder)
    engine = importlib.import_module(f"reproduction.engines.{run.engine}")
    started = mark_started(arguments.state)
    sources = mark_sources(arguments.state, Path(engine.__file__))
    logging.info("run %s, configuration %s", run.name, run.hash)
    logging.info("%s", json.dumps(run.parameters()))
    # A workflow that was killed may have left this training running: wait for it, then go on from its state.
    lock = FileLock(arguments.state / "lock")
    streams = not arguments.no_stream
    if streams and store.is_one_file and "SLURM_JOB_ID" in os.environ:
        logging.info("a job of a cluster does not write to %s; rule ingest_runs will", store.tracking_uri)
        streams = False
    stream = (
        contextlib.nullcontext()
        if not streams
        else RunStream(
            store,
            tracking,
            arguments.state / "metrics.jsonl",
            arguments.output.parent,
            delay_s=STREAM_AFTER_S,
        )
    )
    with lock, stream:
        timings = arguments.state / "timings.jsonl"
        earlier = list(records.read(timings))
        result = (train_with_verl if run.engine == "verl" else train_in_process)(run, arguments)
        publish(
            run,
            arguments.state,
            arguments.output.parent,
            result,
            started=started,
            sources=sources,
            tracking=tracking.to_dict(),
            card=partial(model_card, run, base),
            cpu_seconds_outside_steps=outside_steps(timings, earlier),
        )
    logging.info("%s after %d steps", result.status, result.steps)


def outside_steps(timings: Path, earlier: list[dict]) -> float | None:
    """Return the CPU seconds of this process and its children outside the steps it took: start, checkpoints, tracking.

    None where the engine records no CPU seconds of its steps. ``earlier`` are the records that were there before.
    """
    taken = [row for row in records.read(timings) if row not in earlier]
    in_steps = [value for row in taken for key, value in row.items() if key.endswith("_cpu_seconds")]
    return cpu_seconds() - sum(in_steps) if in_steps else None


def train_in_process(run: RunConfiguration, arguments: argparse.Namespace) -> Result:
    from reproduction.cluster import compute
    from reproduction.engines import inprocess

    compute.set_up(arguments.threads)
    return inprocess.train(
        run,
        model=arguments.model.parent,
        dataset=arguments.dataset,
        state=arguments.state,
        progress=arguments.progress,
    )


def train_with_verl(run: RunConfiguration, arguments: argparse.Namespace) -> Result:
    from reproduction.engines import verl

    machine = Verl.model_validate_json(arguments.machine)
    granted = {"gpus_per_node": arguments.gpus, "nodes": arguments.nodes}
    machine = machine.model_copy(update={key: value for key, value in granted.items() if value})
    return verl.train(
        run,
        machine,
        model=arguments.model.parent,
        dataset=arguments.dataset,
        validation=arguments.validation,
        state=arguments.state,
        progress=arguments.progress,
    )


if __name__ == "__main__":
    main()
