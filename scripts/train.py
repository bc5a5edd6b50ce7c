"""Train one run and publish its folder: manifest, resolved configuration, metrics, checkpoints.

    python scripts/train.py sampler~ead/n~4 --scale mini

trains the run with these parts of its readable name, by config.yaml and the tables, as the workflow would. Synthetic
problems and the base model are made first where they are not there. The workflow itself gives everything by options.

The trainer works in its private state folder, from its last state if it was interrupted. What is declared to
Snakemake appears only when the run has ended, the manifest last.
"""

import argparse
import contextlib
import importlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from filelock import FileLock

from reproduction import layout
from reproduction.cluster import ray
from reproduction.cluster.timings import cpu_seconds
from reproduction.config import ConfigurationError, RealData, Verl, WarmStartModel, load_configuration
from reproduction.config.runs import RunConfiguration, canonical, named, tracking_experiment
from reproduction.engines import Result
from reproduction.files import load_json, sha256_of_file
from reproduction.models import published
from reproduction.tracking import RunDescription, RunStream, Store
from reproduction.training import records, warmstart
from reproduction.training.model_card import model_card
from reproduction.training.run_folder import mark_sources, mark_started, publish
from reproduction.versions import code_version

SCRIPTS = Path(__file__).parent
STREAM_AFTER_S = 60.0  # most trainings of the default scale are over by then


def main() -> None:
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        sys.exit(train_by_name())
    arguments = read_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if (arguments.nodes or 1) > 1 and not ray.is_on_cluster():
        logging.info("Ray on %d nodes", arguments.nodes)
        sys.exit(ray.run_on_nodes([sys.executable, *sys.argv], arguments.nodes))
    run = RunConfiguration.from_json(arguments.run)
    base = load_json(arguments.model)
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


def read_arguments() -> argparse.Namespace:
    """Return what the rule gives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    return parser.parse_args()


def train_by_name() -> int | str:
    """Make what the named run wants, then train it in a process that is given what the workflow gives it."""
    from reproduction.plan import read_files, read_plan  # not part of the code that a training depends on

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", help="parts of a run's name; the others are their defaults: DAPO, EAD, the first seed"
    )
    parser.add_argument("--scale", help="scale of the run; default: that of config.yaml")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        plan = read_plan(read_files("config.yaml"), {"scale": arguments.scale} if arguments.scale else {})
        configuration, scale = plan.configuration, plan.scale
        run = named(configuration, scale, arguments.name)
        results = Path(configuration.paths.results)
        here = (results, configuration.scale)
        output = layout.run_manifest(*here, run.name)
        if output.exists():
            found = load_json(output)["configuration_hash"]
            if found == run.hash:
                logging.info("%s: has run already", output.parent)
                return 0
            logging.info("%s: of another configuration (%s) and trained anew", output.parent, found)
            shutil.rmtree(output.parent)
        options = {
            "run": run.to_json(),
            "dataset": _dataset(run.training.dataset, plan),
            "output": output,
            "state": layout.state_folder(*here, run),
            "scale": configuration.scale,
            "overrides": canonical(configuration.overrides),
            "tracking-folder": results / "mlflow",
        }
        if configuration.tracking.uri:
            options["tracking-uri"] = configuration.tracking.uri
        if scale.engine == "verl":
            options["machine"] = scale.verl.model_dump_json()
            options["validation"] = _dataset(scale.evaluation_of(run.model).dataset, plan)
            need = plan.estimates.train(run)
            options |= {"gpus": need.gpus, "nodes": need.nodes}
        options["model"] = _model(run.model, plan)
    except ConfigurationError as error:
        return str(error)
    logging.info("%s", output.parent)
    _call("train", options, *([] if configuration.tracking.stream else ["--no-stream"]))
    return 0


def _dataset(name: str, plan) -> Path:
    """Return the problems of a data set; those of a synthetic one are made where they are not as defined."""
    definition, root_seed = plan.scale.datasets[name], plan.configuration.root_seed
    file = layout.dataset_file(
        Path(plan.configuration.paths.results), plan.configuration.scale, plan.scale, name
    )
    if isinstance(definition, RealData):
        return _from_outside(file, plan)
    card = layout.data_card(file)
    expected = {"definition": definition.model_dump(mode="json"), "root_seed": root_seed}
    if not file.exists() or not _holds(card, expected):
        made = {"name": name, "definition": definition.model_dump_json(), "root-seed": root_seed}
        _call("generate_problems", {**made, "output": file, "card": card})
    return file


def _model(name: str, plan) -> Path:
    """Return the manifest of a base model; one that is no import is made where it is not the one that is asked for."""
    definition, root_seed = plan.scale.models[name], plan.configuration.root_seed
    manifest = layout.model_manifest(
        Path(plan.configuration.paths.results), plan.configuration.scale, plan.scale, name
    )
    if not isinstance(definition, WarmStartModel):
        return _from_outside(manifest, plan)
    dataset = _dataset(definition.dataset, plan)
    expected = {"definition": definition.model_dump(mode="json"), "dataset_sha256": sha256_of_file(dataset)}
    carried = published.manifest_of(plan.configuration.scale, name)
    if plan.configuration.base_models == "trained":
        expected["source"] = warmstart.SOURCE
    elif _holds(carried, {**expected, "root_seed": root_seed}):
        expected["sha256"] = load_json(carried)["sha256"]
    if not _holds(manifest, expected):
        made = {"name": name, "definition": definition.model_dump_json(), "root-seed": root_seed}
        if plan.configuration.base_models == "published":
            made["published"] = published.folder_of(plan.configuration.scale)
        _call("train_base_model", {**made, "dataset": dataset, "output": manifest})
    return manifest


def _from_outside(file: Path, plan) -> Path:
    if not file.exists():
        from reproduction.plan import read_files

        command = f"snakemake --cores all {shlex.quote(str(file))}"
        scale = plan.configuration.scale
        if scale != load_configuration(read_files("config.yaml")).scale:
            command += f" --config scale={scale}"
        raise ConfigurationError(f"{file}: no such file; `{command}` makes it")
    return file


def _holds(file: Path, expected: dict) -> bool:
    if not file.exists():
        return False
    values = load_json(file)
    return {key: values.get(key) for key in expected} == expected


def _call(script: str, options: dict, *flags: str) -> None:
    """Run a script beside this one; what it says of an error is on the screen already."""
    logging.info("%s", script)
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, str(SCRIPTS / f"{script}.py"), *given, *flags], check=False)
    if done.returncode:
        sys.exit(done.returncode)


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
