"""The tables of the workflow: read, and merged where one overrides another."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ead import schedule
from reproduction.algorithms import AnyNamedAlgorithm
from reproduction.config.choices import Configuration
from reproduction.config.drawing import Evaluation
from reproduction.config.explain import kind_of, suggest, unknown, validate
from reproduction.config.methods import Samplers, SharedSampler
from reproduction.config.scale import Scale, ScheduleUnits, Training
from reproduction.config.yaml_files import merge, read_yaml
from reproduction.fields import SAMPLERS_FILE, SCALES, WORKFLOW, ConfigurationError, Name, Strict
from reproduction.tasks import is_generated


def load_configuration(values: Mapping[str, Any], source: str = "config.yaml") -> Configuration:
    """Validate the user's choices, for instance Snakemake's merged ``config``."""
    return validate(Configuration, dict(values), source)


def resolve(choices: str, **more: Any) -> tuple[Configuration, Scale]:
    """Return the choices that a rule hands to its script as JSON, with ``more`` beside them, and their scale."""
    configuration = load_configuration({**json.loads(choices), **more}, "--configuration")
    return configuration, load_scale(configuration.scale, configuration.overrides)


def load_scale(name: str, overrides: Mapping[str, Any] | None = None, workflow: Path | None = None) -> Scale:
    """Read and validate a scale with its ``overrides``; see :func:`scale_values`."""
    source = f"scales/{name}.yaml" + (" with config.yaml's overrides" if overrides else "")
    values = scale_values(name, overrides, workflow)
    # Every recipe repeats what is wrong with these, so they are looked at first.
    defaults = {key: values[key] for key in _Defaults.model_fields if key in values}
    validate(_Defaults, defaults, source)
    return validate(Scale, values, source)


class _Defaults(Strict):
    training: Training
    evaluation: Evaluation


class _Algorithms(Strict):
    algorithms: dict[Name, AnyNamedAlgorithm]


def scale_values(
    name: str, overrides: Mapping[str, Any] | None = None, workflow: Path | None = None
) -> dict[str, Any]:
    """Return ``{workflow}/scales/{name}.yaml`` over the shared methods; ``overrides`` override both.

    A role that is null is left out. The file's ``extends`` names a scale whose values it overrides in the same
    way; a recipe's values override the scale's default training and evaluation. The shared samplers are in
    the paper's units and are converted first; what the scale and ``overrides`` say is in the scale's own. A data set
    or a model that is named but not defined there is the entry of that name in the table of data sets or models.
    """
    workflow = workflow or WORKFLOW
    folder = workflow / "scales"
    path = folder / f"{name}.yaml"
    values = read_yaml(path)
    if "extends" in values:
        base = values.pop("extends")
        others = [scale for scale in SCALES if scale != name]
        if base not in others:
            raise ConfigurationError(
                f"scales/{path.name}: extends: unknown scale {kind_of(base)}{suggest(base, others)}"
            )
        values = merge(read_yaml(folder / f"{base}.yaml"), values)
    own, values = values, merge(values, overrides or {})
    if isinstance(values.get("roles"), Mapping):
        values["roles"] = {name: role for name, role in values["roles"].items() if role is not None}
    units = values.get("schedule_units")
    # With every default filled in, so that those are converted too.
    samplers = {
        name: sampler.model_dump(exclude={"figures"})
        for name, sampler in load_samplers(workflow / "samplers.yaml").items()
    }
    shared = {"samplers": samplers, "algorithms": load_algorithms(workflow / "algorithms.yaml")}
    if units is not None:
        units = validate(ScheduleUnits, units, f"scales/{path.name}: schedule_units")
        shared["samplers"] = convert_samplers(shared["samplers"], units)
    if mistakes := list(_misspelt(overrides or {}, merge(shared, own))):
        raise ConfigurationError("\n".join(mistakes))
    values = merge(shared, values)
    if isinstance(values.get("recipes"), Mapping):
        defaults = {key: values[key] for key in ("training", "evaluation") if key in values}
        values["recipes"] = {
            name: merge(defaults, recipe) if isinstance(recipe, Mapping) else recipe
            for name, recipe in values["recipes"].items()
        }
    for section, key, kind in (("datasets", "dataset", "real"), ("models", "model", "pretrained")):
        if isinstance(defined := values.get(section), Mapping):
            absent = [name for name in _named(values, key) if name not in defined]
            published = read_yaml(workflow / f"{section}.yaml") if absent else {}
            taken = {name: {"kind": kind, "source": name} for name in absent if name in published}
            if section == "datasets":
                taken |= {name: published[name] for name in taken if is_generated(published[name])}
            values[section] = {**defined, **taken}
    return values


def _misspelt(overrides: Mapping[str, Any], defined: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to say of methods that ``overrides`` changes and ``defined`` lacks; a new one has a label."""
    for section in ("samplers", "algorithms", "decoders"):
        entries, known = overrides.get(section), defined.get(section)
        if isinstance(entries, Mapping) and isinstance(known, Mapping):
            changed = [
                name for name, entry in entries.items() if isinstance(entry, Mapping) and "label" not in entry
            ]
            for line in unknown(
                f"config.yaml: overrides.{section}", section.removesuffix("s"), changed, known
            ):
                yield f"{line}; a new one needs a label"


def _named(values: Any, key: str) -> list[str]:
    """Return every text that stands under ``key``, at any depth, once and in order."""
    if not isinstance(values, Mapping):
        return []
    here = [values[key]] if isinstance(values.get(key), str) else []
    deeper = (name for value in values.values() for name in _named(value, key))
    return list(dict.fromkeys([*here, *deeper]))


def load_samplers(path: Path = SAMPLERS_FILE) -> dict[str, SharedSampler]:
    """Read name -> :class:`SharedSampler`, in the paper's units."""
    return validate(Samplers, {"samplers": read_yaml(path)}, path.name).samplers


def load_algorithms(path: Path = WORKFLOW / "algorithms.yaml") -> dict[str, Any]:
    """Read name -> algorithm as it is written, once it is valid."""
    values = read_yaml(path)
    validate(_Algorithms, {"algorithms": values}, path.name)
    return values


def convert_samplers(samplers: Mapping[str, Any], units: ScheduleUnits) -> dict[str, Any]:
    """Return samplers in the paper's units as samplers in a scale's, for every field that says its unit."""
    factors = {"length": units.length, "length/steps": units.length / units.steps, "steps": units.steps}

    def converted(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
        def convert(unit: str, value: float) -> float:
            if unit != "start":
                return float(f"{value * factors[unit]:.6g}")
            if value != schedule.Annealed.start:
                raise ConfigurationError(
                    f"samplers.yaml: {name}.schedule.start: found {value}, allowed: {schedule.Annealed.start}, the "
                    "paper's, in whose place a scale puts the length of its own template; give another one in "
                    f"config.yaml, in tokens: overrides: {{samplers: {{{name}: {{schedule: {{start: ...}}}}}}}}"
                )
            return units.start

        return schedule.from_config(config).converted(convert).to_dict()

    return {
        name: {**sampler, "schedule": converted(name, sampler["schedule"])}
        for name, sampler in samplers.items()
    }
