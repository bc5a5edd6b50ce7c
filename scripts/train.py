"""Train one run and publish its folder: manifest, resolved configuration, metrics, checkpoints.

    python scripts/train.py sampler~ead/n~4     without Snakemake, from config.yaml and the same tables

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

from reproduction import layout
from reproduction.cluster import ray
from reproduction.cluster.timings import cpu_seconds
from reproduction.config import ConfigurationError, Verl
from reproduction.config.command_line import selected
from reproduction.config.runs import RunConfiguration, tracking_experiment
from reproduction.engines import Result
from reproduction.tracking import RunDescription, RunStream, Store
from reproduction.training import records
from reproduction.training.model_card import model_card
from reproduction.training.run_folder import mark_sources, mark_started, publish
from reproduction.versions import code_version

STREAM_AFTER_S = 60.0  # most trainings of the default scale are over by then


def main() -> None:
    arguments = read_arguments(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if (arguments.nodes or 1) > 1 and not ray.is_on_cluster():
        logging.info("Ray on %d nodes", arguments.nodes)
        sys.exit(ray.run_on_nodes([sys.executable, *sys.argv], arguments.nodes))
    run = RunConfiguration.from_json(arguments.run)
    base = json.loads(arguments.model.read_text(encoding="utf-8"))
    engine = importlib.import_module(f"reproduction.engines.{run.engine}")
    started = mark_started(arguments.state)
    sources = mark_sources(arguments.state, Path(engine.__file__))
    tracking = describe(run, arguments.scale, arguments.overrides)
    logging.info("run %s, configuration %s", run.name, run.hash)
    logging.info("%s", json.dumps(run.parameters()))
    # A workflow that was killed may have left this training running: wait for it, then go on from its state.
    with FileLock(arguments.state / "lock"), stream_of(tracking, arguments):
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


def read_arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "name",
        nargs="?",
        help="parts of a run's name, such as sampler~ead/n~4: everything else is then read from config.yaml and the "
        "tables, as the workflow does; without it all of the following is given",
    )
    of_rule = parser.add_argument_group("as the rule gives them")
    of_rule.add_argument("--run", help="JSON of reproduction.config.runs.RunConfiguration")
    of_rule.add_argument("--model", type=Path, help="manifest of the model to start from")
    of_rule.add_argument("--dataset", type=Path, help="training problems, Parquet")
    of_rule.add_argument("--output", type=Path, help="manifest; the run folder is its parent")
    of_rule.add_argument("--state", type=Path, help="the trainer's private folder")
    of_rule.add_argument("--scale", help="the run's scale, to look up which figures show it")
    of_rule.add_argument(
        "--tracking-folder",
        type=Path,
        help="local MLflow store; of another database its artifacts, of a server its locks",
    )
    parser.add_argument(
        "--overrides", type=json.loads, default={}, help="JSON of the overrides of that scale (config.yaml)"
    )
    parser.add_argument(
        "--no-stream", action="store_true", help="leave MLflow to the ingestion of finished runs"
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or database; without it the local store is used"
    )
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    verl = parser.add_argument_group("for runs of the engine verl")
    verl.add_argument("--machine", help="JSON of reproduction.config.Verl")
    verl.add_argument("--validation", type=Path, help="problems that verl validates on, Parquet")
    verl.add_argument("--gpus", type=int, help="GPUs per node, where they are not as --machine says")
    verl.add_argument("--nodes", type=int, help="nodes, where they are not as --machine says")
    arguments = parser.parse_args(given)
    required = ("run", "model", "dataset", "output", "state", "scale", "tracking_folder")
    missing = [key for key in required if getattr(arguments, key) is None]
    if arguments.name is None:
        if missing:
            parser.error(f"give the name of a run, or --{', --'.join(missing).replace('_', '-')}")
        return arguments
    if len(missing) < len(required):
        parser.error("a name says everything that the rule's arguments say: give one or the other")
    try:
        found = as_the_rule_gives_them(arguments.name)
    except (ConfigurationError, FileNotFoundError) as error:
        parser.error(str(error))
    return parser.parse_args([*found, *(argument for argument in given if argument != arguments.name)])


def as_the_rule_gives_them(name: str) -> list[str]:
    """Return the arguments of rule ``train`` for the run that ``name`` selects from config.yaml and the tables.

    Raises:
        ConfigurationError: a mistake in those files, or the name is that of no run, or of several.
        FileNotFoundError: the run's base model or data set has not been made; says which command makes it.
    """
    from reproduction.plan import read_files, read_plan

    plan = read_plan(read_files("config.yaml"))
    configuration, scale = plan.configuration, plan.scale
    found = selected(plan.runs, name)
    if len(found) > 1:
        raise ConfigurationError(
            f"{name}: the name of {len(found)} runs, give more of it: {', '.join(found)}"
        )
    run = plan.runs[found[0]]
    results = Path(configuration.paths.results)
    place = (results, configuration.scale, scale)
    problems = {"dataset": run.training.dataset}
    if run.engine == "verl":
        problems["validation"] = scale.evaluation_of(run.model).dataset
    files = {"model": layout.model_manifest(*place, run.model)}
    files |= {key: layout.dataset_file(*place, dataset) for key, dataset in problems.items()}
    for file in files.values():
        if not file.exists():
            raise FileNotFoundError(f"{file} has not been made: snakemake {file}")
    values = {
        **files,
        "run": run.to_json(),
        "output": layout.run_manifest(results, configuration.scale, run.name),
        "state": layout.state_folder(results, configuration.scale, run),
        "scale": configuration.scale,
        "overrides": json.dumps(configuration.overrides),
        "tracking-folder": results / "mlflow",
    }
    if configuration.tracking.uri:
        values["tracking-uri"] = configuration.tracking.uri
    if run.engine == "verl":
        values["machine"] = scale.verl.model_dump_json()
    arguments = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return arguments if configuration.tracking.stream else [*arguments, "--no-stream"]


def describe(run: RunConfiguration, scale: str, overrides: dict) -> RunDescription:
    """Return what MLflow is told of the run."""
    # After the run's code is noted: a changed plot makes no training stale.
    from reproduction.figures import figures_of

    figures, version = figures_of(run, scale, overrides), code_version()
    first = next(iter(figures.values()), None)
    return RunDescription(
        experiment=tracking_experiment(scale, first),
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


def stream_of(
    tracking: RunDescription, arguments: argparse.Namespace
) -> contextlib.AbstractContextManager[object]:
    """Return what sends the run's metrics to MLflow while it trains; nothing where that is left to the ingestion."""
    store = Store.at(arguments.tracking_uri, arguments.tracking_folder)
    if arguments.no_stream:
        return contextlib.nullcontext()
    if store.is_one_file and "SLURM_JOB_ID" in os.environ:
        logging.info("a job of a cluster does not write to %s; rule ingest_runs will", store.tracking_uri)
        return contextlib.nullcontext()
    metrics = arguments.state / "metrics.jsonl"
    return RunStream(store, tracking, metrics, arguments.output.parent, delay_s=STREAM_AFTER_S)


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
