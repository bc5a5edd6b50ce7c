"""The run table: from experiments to resolved run configurations.

A run is one row. Its readable name is its Snakemake wildcard
(``model~…/algorithm~…/sampler~…/n~…/seed~…``), so two figures that need the same run share it. Its hash covers
everything that its numbers depend on, and keys the trainer's private state: a changed configuration never
resumes old weights, an interrupted run never starts over.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from reproduction.algorithms import AnyAlgorithm
from reproduction.config import (
    Configuration,
    ConfigurationError,
    Name,
    PretrainedModel,
    RealData,
    SamplerDefinition,
    Scale,
    Strict,
    Training,
    WarmStartModel,
    adapt_schedule,
    suggest,
    validate,
    verl_limits,
)
from reproduction.tasks import AnyGeneratedData

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
    model_dataset: AnyGeneratedData | None
    dataset_definition: Annotated[AnyGeneratedData | RealData, Field(discriminator="kind")]
    sampler_definition: SamplerDefinition
    algorithm_definition: AnyAlgorithm
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
    if scale.engine == "verl" and not scale.algorithms[algorithm].trains_in_verl:
        raise ConfigurationError(
            f"algorithms.{algorithm}: verl has no counterpart of its loss; train it at a CPU scale"
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


# What `scripts/train.py` takes where a name does not say: the paper's method on the recipe that it released (D11).
DEFAULT_ALGORITHM, DEFAULT_SAMPLER = "dapo", "ead"


def named(configuration: Configuration, scale: Scale, name: str) -> RunConfiguration:
    """Return the run whose readable name has every part of ``name``: ``sampler~ead/n~4``.

    What ``name`` leaves out: the model is that of the scale's first role, the algorithm DAPO, the sampler EAD, n the
    scale's, the seed the first of ``configuration``.

    Raises:
        ConfigurationError: a part is no ``axis~value``, or its axis or value is unknown here.
    """
    given: dict[str, str] = {}
    for part in name.strip("/").split("/"):
        axis, tilde, value = part.partition("~")
        if not tilde or not value:
            raise ConfigurationError(
                f"{name}: {part!r} is no part of a run's name; write axis~value, as sampler~ead"
            )
        if axis not in AXES:
            raise ConfigurationError(f"{name}: unknown axis {axis!r}{suggest(axis, AXES)}")
        if axis in given:
            raise ConfigurationError(f"{name}: {axis} stands there more than once")
        given[axis] = value
    roles = {role.model: key for key, role in scale.roles.items()}
    known = {"model": roles, "algorithm": scale.algorithms, "sampler": scale.samplers}
    for axis, table in known.items():
        if axis in given and given[axis] not in table:
            raise ConfigurationError(f"{name}: unknown {axis} {given[axis]!r}{suggest(given[axis], table)}")
    for axis in ("n", "seed"):
        if axis in given and not given[axis].isdecimal():
            raise ConfigurationError(f"{name}: {axis} must be a whole number, found {given[axis]!r}")
    role = roles[given["model"]] if "model" in given else next(iter(scale.roles))
    n, rates = int(given.get("n", scale.rollouts_of(role))), scale.learning_rates_of(role)
    if n not in rates:
        raise ConfigurationError(f"{name}: no learning rate for n = {n}{suggest(n, rates)} (learning_rates)")
    return resolve(
        configuration,
        scale,
        role=role,
        algorithm=given.get("algorithm", DEFAULT_ALGORITHM),
        sampler=given.get("sampler", DEFAULT_SAMPLER),
        rollouts=n,
        seed=int(given.get("seed", configuration.seeds[0])),
    )


class Shows(Protocol):
    """What shows runs: an entry of workflow/experiments.yaml (``reproduction.figures``)."""

    one_seed: bool
    group: str

    def cells(self, scale: Scale) -> Iterable[tuple[str, str, str, int | None]]:
        """Yield role, algorithm, sampler and rollouts of each cell."""
        ...


CellSeeds = Mapping[tuple[str, str, str, int], list[int]]
"""Seeds by role, algorithm, sampler and rollouts."""


def seeds_of_cells(
    configuration: Configuration, scale: Scale, experiments: Mapping[str, Shows]
) -> dict[tuple[str, str, str, int], list[int]]:
    """Return the seeds of each cell: those of every experiment that shows it, in order.

    ``experiments`` are all that there are, whichever are asked for, so that a run is no other run for another target.
    """
    found: dict[tuple[str, str, str, int], list[int]] = {}
    for name, experiment in experiments.items():
        seeds = configuration.seeds[:1] if experiment.one_seed else configuration.seeds_of(name)
        for cell in experiment.cells(scale):
            if cell[0] in scale.roles:
                of_cell = found.setdefault(_key(scale, cell), [])
                of_cell += [seed for seed in seeds if seed not in of_cell]
    return found


def expand(
    configuration: Configuration, scale: Scale, figure: Shows, seeds: CellSeeds = MappingProxyType({})
) -> dict[str, RunConfiguration]:
    """Return the runs of one figure by name, one per cell and seed, for the roles that the scale has.

    A cell that ``seeds`` (:func:`seeds_of_cells`) lacks has those of ``configuration.seeds``. verl divides the
    trainer's logits by one number, so there an annealed sampler has no run whose log-probabilities are taken at the
    sampling temperature (D15), and it knows no loss with the release's micro-batches (D19, D20).
    """
    runs = {}
    for cell in figure.cells(scale):
        role, algorithm, sampler, rollouts = cell
        if role not in scale.roles or not _possible(scale, algorithm, sampler):
            continue
        of_cell = seeds.get(_key(scale, cell), configuration.seeds)
        for seed in configuration.seeds[:1] if figure.one_seed else of_cell:
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


def expand_all(
    configuration: Configuration, scale: Scale, experiments: Mapping[str, Shows]
) -> dict[str, dict[str, RunConfiguration]]:
    """Return the runs of every experiment, as :func:`expand`, with the seeds that the experiments share."""
    seeds = seeds_of_cells(configuration, scale, experiments)
    return {name: expand(configuration, scale, figure, seeds) for name, figure in experiments.items()}


def _key(scale: Scale, cell: tuple[str, str, str, int | None]) -> tuple[str, str, str, int]:
    role, algorithm, sampler, rollouts = cell
    return role, algorithm, sampler, rollouts or scale.rollouts_of(role)


def _possible(scale: Scale, algorithm: str, sampler: str) -> bool:
    if scale.engine != "verl":
        return True
    loss, definition = scale.algorithms.get(algorithm), scale.samplers.get(sampler)
    if loss is None or definition is None:  # an unknown name is explained by `resolve`
        return True
    return loss.trains_in_verl and verl_limits.temperature(definition) is not None


def tracking_experiment(scale_name: str, figure: Shows | None) -> str:
    """Return the MLflow experiment of a run: one per scale and group of figures."""
    return f"{scale_name}-{figure.group if figure else 'unlisted'}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as text by dotted key."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def table(runs: Mapping[str, RunConfiguration]) -> list[dict[str, Any]]:
    """Return the runs as rows of a table: their axes, learning rate and hash."""
    return [
        {**{axis: getattr(run, axis) for axis in AXES}, "learning_rate": run.learning_rate, "hash": run.hash}
        for run in runs.values()
    ]
