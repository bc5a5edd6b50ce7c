"""Train one run and publish its folder: manifest, resolved configuration, metrics, checkpoints.

The trainer works in its private state folder, from its last state if it was interrupted. What is declared to
Snakemake appears only when the run has ended, the manifest last.
"""

import argparse
import contextlib
import json
import logging
from pathlib import Path

import torch
from filelock import FileLock

from ead.integrations.mlflow import RunDescription, RunStream, Store
from ead.pipeline.engines import inprocess
from ead.pipeline.runs import (
    RunConfiguration,
    code_version,
    figures_of,
    mark_started,
    publish,
    tracking_experiment,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="JSON of ead.pipeline.runs.RunConfiguration")
    parser.add_argument("--model", type=Path, required=True, help="manifest of the model to start from")
    parser.add_argument("--dataset", type=Path, required=True, help="training problems, Parquet")
    parser.add_argument("--output", type=Path, required=True, help="manifest; the run folder is its parent")
    parser.add_argument("--state", type=Path, required=True, help="the trainer's private folder")
    parser.add_argument("--scale", required=True, help="the run's scale, to look up which figures show it")
    parser.add_argument(
        "--no-stream", action="store_true", help="leave MLflow to the ingestion of finished runs"
    )
    parser.add_argument("--tracking-uri", help="MLflow server; without it the local store is used")
    parser.add_argument("--tracking-folder", type=Path, required=True, help="local MLflow store")
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    torch.set_num_threads(arguments.threads)
    run = RunConfiguration.from_json(arguments.run)
    version = code_version()
    figures = figures_of(run, arguments.scale)
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
    store = (
        Store(arguments.tracking_uri, None)
        if arguments.tracking_uri
        else Store.local(arguments.tracking_folder)
    )
    started = mark_started(arguments.state)
    logging.info("run %s, configuration %s", run.name, run.hash)
    logging.info("%s", json.dumps(run.parameters()))
    # A workflow that was killed may have left this training running: wait for it, then go on from its state.
    lock = FileLock(arguments.state / "lock")
    stream = (
        contextlib.nullcontext()
        if arguments.no_stream
        else RunStream(store, tracking, arguments.state / "metrics.jsonl", arguments.output.parent)
    )
    with lock, stream:
        result = inprocess.train(
            run,
            model=arguments.model.parent,
            dataset=arguments.dataset,
            state=arguments.state,
            progress=arguments.progress,
        )
        publish(
            run,
            arguments.state,
            arguments.output.parent,
            result,
            started=started,
            tracking=tracking.to_dict(),
        )
    logging.info("%s after %d steps", result.status, result.steps)


if __name__ == "__main__":
    main()
