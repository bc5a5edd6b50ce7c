"""The run table: from experiments to resolved run configurations, and the folders a run lives in.

A run is one row. Its readable name is its Snakemake wildcard
(``model~…/algorithm~…/sampler~…/n~…/seed~…``), so two figures that need the same run share it. Its hash covers
everything that its numbers depend on, and keys the trainer's private state: a changed configuration never
resumes old weights, an interrupted run never starts over.
"""

import hashlib
import itertools
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd

from reproduction import health, records
from reproduction.config import (
    REPOSITORY,
    Algorithm,
    Configuration,
    ConfigurationError,
    CountdownData,
    Experiment,
    InferenceFigure,
    Name,
    PretrainedModel,
    RealData,
    Sampler,
    Scale,
    Strict,
    Training,
    WarmStartModel,
    adapt_schedule,
    dump_yaml,
    load_experiments,
    load_scale,
    suggest,
    validate,
)
from reproduction.files import atomic_directory, link, sha256_of_file, write_json, write_parquet, write_text

log = logging.getLogger(__name__)

AXES = ("model", "algorithm", "sampler", "n", "seed")
NAME_PATTERN = "/".join(f"{axis}~[^/]+" for axis in AXES)


class RunConfiguration(Strict):
    """One resolved training run: everything its numbers depend on, and nothing else."""

    engine: Literal["inprocess", "verl"]
    model: Name
    algorithm: Name
    sampler: Name
    n: int
    seed: int
    root_seed: int
    learning_rate: float
    model_definition: WarmStartModel | PretrainedModel
    # The data set that a warm start learnt from is part of what the model is.
    model_dataset: CountdownData | None
    dataset_definition: CountdownData | RealData
    sampler_definition: Sampler
    algorithm_definition: Algorithm
    training: Training

    @property
    def name(self) -> str:
        return "/".join(f"{axis}~{getattr(self, axis)}" for axis in AXES)

    @property
    def cell(self) -> str:
        """The name without its seed: what figures average over."""
        return self.name.rpartition("/")[0]

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of the canonical JSON form."""
        return digest(self.model_dump(mode="json"))

    def parameters(self) -> dict[str, Any]:
        """Return the run under the paper's names, for logs and MLflow."""
        sampler, algorithm = self.sampler_definition, self.algorithm_definition
        schedule = {k: v for k, v in sampler.schedule.items() if k != "kind"}
        return {
            "model": self.model,
            "algorithm": self.algorithm,
            "sampler": self.sampler,
            "n": self.n,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "batch_size": self.training.prompts,
            "mini_batch_size": self.training.mini_batch_prompts,
            "max_response_length": self.training.max_new_tokens,
            "steps": self.training.steps,
            "dataset": self.training.dataset,
            "schedule": sampler.schedule["kind"],
            **schedule,
            "tis": sampler.importance.model_dump() if sampler.importance else "off",
            "logprob_temperature": sampler.logprob_temperature,
            **algorithm.model_dump(exclude_none=True),
            "root_seed": self.root_seed,
            "engine": self.engine,
        }

    def to_json(self) -> str:
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> "RunConfiguration":
        return cls.model_validate_json(text)


def axes_of(name: str) -> dict[str, str]:
    """Return axis -> value of a run's name."""
    return dict(part.split("~", 1) for part in name.split("/"))


def canonical(value: Any) -> str:
    """One text per value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def resolve(
    configuration: Configuration,
    scale: Scale,
    *,
    role: str,
    algorithm: str,
    sampler: str,
    rollouts: int | None,
    seed: int,
) -> RunConfiguration:
    """Resolve one row against the scale.

    Raises ConfigurationError naming the unknown role, algorithm or sampler, or the missing learning rate.
    """
    for kind, name, table in (
        ("role", role, scale.roles),
        ("algorithm", algorithm, scale.algorithms),
        ("sampler", sampler, scale.samplers),
    ):
        if name not in table:
            raise ConfigurationError(
                f"experiments.yaml: unknown {kind} {name!r} at this scale{suggest(name, table)}"
            )
    n = rollouts or scale.rollouts_of(role)
    learning_rates = scale.learning_rates_of(role)
    if n not in learning_rates:
        raise ConfigurationError(f"learning_rates: no learning rate for {n} rollouts per prompt")
    model = scale.roles[role].model
    definition = scale.models[model]
    training = scale.training_of(role)
    drawn = scale.samplers[sampler].sampler
    values = {
        "engine": scale.engine,
        "model": model,
        "algorithm": algorithm,
        "sampler": sampler,
        "n": n,
        "seed": seed,
        "root_seed": configuration.root_seed,
        "learning_rate": learning_rates[n],
        "model_definition": definition,
        "model_dataset": scale.datasets[definition.dataset]
        if isinstance(definition, WarmStartModel)
        else None,
        "dataset_definition": scale.datasets[training.dataset],
        "sampler_definition": drawn.model_copy(
            update={"schedule": adapt_schedule(drawn.schedule, scale.roles[role].annealed)}
        ),
        "algorithm_definition": scale.algorithm_of(role, algorithm),
        "training": training,
    }
    return validate(RunConfiguration, values, "run")


def expand(configuration: Configuration, scale: Scale, experiment: Experiment) -> dict[str, RunConfiguration]:
    """Return the runs of one experiment by name, one per cell and seed, for the roles that the scale has.

    verl divides the trainer's logits by one number, so there an annealed sampler has no run whose log-probabilities
    are taken at the sampling temperature (D15). An inference figure has at most one: the run, with the first seed,
    whose last checkpoint its study looks at.
    """
    if isinstance(experiment, InferenceFigure):
        study = scale.study(experiment.study)
        if study is None or study.sampler is None:
            return {}
        run = resolve(
            configuration,
            scale,
            role=study.role,
            algorithm=study.algorithm,
            sampler=study.sampler,
            rollouts=None,
            seed=configuration.seeds[0],
        )
        return {run.name: run}
    runs = {}
    for grid in getattr(experiment, "runs", []):
        axes = itertools.product(grid.role, grid.algorithm, grid.sampler, grid.rollouts, configuration.seeds)
        for role, algorithm, sampler, rollouts, seed in axes:
            if role not in scale.roles or not _possible(scale, sampler):
                continue
            run = resolve(
                configuration,
                scale,
                role=role,
                algorithm=algorithm,
                sampler=sampler,
                rollouts=rollouts,
                seed=seed,
            )
            runs[run.name] = run
    return runs


def _possible(scale: Scale, sampler: str) -> bool:
    definition = scale.samplers.get(sampler)
    if scale.engine != "verl" or definition is None:  # an unknown sampler is explained by `resolve`
        return True
    return definition.logprob_temperature == "one" or definition.schedule["kind"] == "fixed"


def figures_of(
    run: RunConfiguration, scale_name: str, overrides: Mapping[str, Any] | None = None
) -> dict[str, Experiment]:
    """Return the experiments of workflow/experiments.yaml that show ``run``, in the order of the file.

    ``overrides`` are those of config.yaml: they may give a role another model, and so a run another name.
    """
    configuration = Configuration(scale=scale_name, seeds=[run.seed], root_seed=run.root_seed)
    scale = load_scale(scale_name, overrides)
    return {
        name: experiment
        for name, experiment in load_experiments().items()
        if run.name in expand(configuration, scale, experiment)
    }


def tracking_experiment(scale_name: str, experiment: Experiment | None) -> str:
    """Return the MLflow experiment of a run: one per scale and group of figures."""
    return f"{scale_name}-{experiment.group if experiment else 'unlisted'}"


class TrainingResult(Protocol):
    """What an engine returns."""

    status: str
    steps: int
    checkpoints: list[int]


def mark_started(state: Path) -> float:
    """Return when this run first started, in Unix seconds; a resumed run keeps its first start."""
    path = state / "started.json"
    if not path.exists():
        write_json(path, time.time())
    return json.loads(path.read_text(encoding="utf-8"))


def mark_sources(state: Path, engine: Path) -> dict[str, str]:
    """Return the code that this run first started with; a resumed run keeps it.

    That is what is loaded (:func:`loaded_sources`) and what lies beside ``engine``, whose processes load more.
    """
    path = state / "sources.json"
    if not path.exists():
        write_json(path, loaded_sources(engine.parent.glob("*.py")))
    return json.loads(path.read_text(encoding="utf-8"))


def publish(
    run: RunConfiguration,
    state: Path,
    output: Path,
    result: TrainingResult,
    *,
    started: float,
    sources: Mapping[str, str],
    tracking: Mapping[str, Any],
    card: Callable[[int, Mapping[str, float]], str],
    cpu_seconds_outside_steps: float | None = None,
) -> None:
    """Make the run folder from the trainer's state; the manifest comes last, and says how healthy the run was.

    ``card`` writes the model card of a checkpoint, of its step and what was recorded for that step; one without its
    weights gets none. ``prompts.json`` of the state is what the engine found of the prompts' lengths
    (``reproduction.prompts``).

    Checkpoints are linked, not moved: the state stays whole, so that publishing again after a kill in between
    gives the same folder.
    """
    metrics = _read_table(state / "metrics.jsonl")
    signs = health.signs(metrics)
    for sign in signs:
        log.warning("%s from step %d on, in %d steps", sign.name, sign.first_step, sign.steps)
    write_parquet(metrics, output / "metrics.parquet")
    write_parquet(_read_table(state / "timings.jsonl"), output / "timings.parquet")
    groups = _read_table(state / "groups.jsonl")
    by_prompt = [column for column in groups if column != "step"]
    write_parquet(groups.explode(by_prompt, ignore_index=True).infer_objects(), output / "groups.parquet")
    write_text(output / "config.yaml", dump_yaml(run.model_dump(mode="json")))
    for step in result.checkpoints:
        with atomic_directory(output / "checkpoints" / f"step_{step}") as folder:
            for file in (state / "checkpoints" / f"step_{step}").iterdir():
                link(file, folder / file.name)
            if list(folder.glob("*.safetensors")):
                recorded = metrics.set_index("step").loc[step].dropna().to_dict()
                (folder / "README.md").write_text(card(step, recorded), encoding="utf-8")
    write_json(
        output / "manifest.json",
        {
            "run": run.name,
            "cell": run.cell,
            "configuration_hash": run.hash,
            "status": result.status,
            "steps": result.steps,
            "checkpoints": result.checkpoints,
            "prompts": json.loads((state / "prompts.json").read_text(encoding="utf-8")),
            "health": [sign.to_dict() for sign in signs],
            "code": {**code_version(), "sources": dict(sources)},
            "started": started,
            "ended": time.time(),
            "cpu_seconds_outside_steps": cpu_seconds_outside_steps,
            "metrics_sha256": sha256_of_file(output / "metrics.parquet"),
            "tracking": {
                **tracking,
                "tags": {**tracking["tags"], "health": ", ".join(sign.name for sign in signs) or "no signs"},
            },
        },
    )


def _read_table(path: Path) -> pd.DataFrame:
    return pd.DataFrame(list(records.read(path)))


@cache
def code_version() -> dict[str, str | bool]:
    """Return the commit of the checkout and whether tracked files differ from it; recorded, never hashed.

    Raises RuntimeError where git was killed: a record must not depend on that.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode < 0:  # no answer at all is not the answer of a folder that is no checkout
            raise RuntimeError(f"{' '.join(command)} was ended by signal {-done.returncode}")
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit or "unknown",
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def loaded_sources(also: Iterable[Path] = ()) -> dict[str, str]:
    """Return file below scripts/ -> SHA-256 of what this process has loaded of the project, and of the files ``also``.

    It is recorded, never hashed: edited code makes a run stale, not another run.
    """
    folder = REPOSITORY / "scripts"
    files = {
        Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)
    }
    ours = sorted(file for file in files | set(also) if file.is_relative_to(folder))
    return {file.relative_to(folder).as_posix(): sha256_of_file(file) for file in ours}


def changed_sources(recorded: Mapping[str, str]) -> list[str]:
    """Return those of the recorded files (:func:`loaded_sources`) that differ now or are gone."""
    folder = REPOSITORY / "scripts"
    return [
        name
        for name, checksum in recorded.items()
        if not (folder / name).is_file() or sha256_of_file(folder / name) != checksum
    ]


def table(runs: Mapping[str, RunConfiguration]) -> list[dict[str, Any]]:
    """Return the runs as rows of a table: their axes, learning rate and hash."""
    return [
        {**{axis: getattr(run, axis) for axis in AXES}, "learning_rate": run.learning_rate, "hash": run.hash}
        for run in runs.values()
    ]
