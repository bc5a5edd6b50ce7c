"""Everything that a call of the workflow rests on, read and checked before Snakemake builds its graph.

Each file is checked by its own typed model; here they are checked against one another: a figure names a sampler, a
claim a figure, a scale a data set that has enough problems. :func:`read_plan` is what ``workflow/rules/common.smk``
calls, so a mistake ends a call before its first job, with one line that names the file, the key, what was found and
what is allowed.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reproduction import claims as paper_claims
from reproduction.claims import deviations as paper_deviations
from reproduction.claims import model as tests_of_claims
from reproduction.claims import quantities
from reproduction.cluster import resources, slurm
from reproduction.config import (
    MOST_LINES,
    SCALES,
    WORKFLOW,
    Configuration,
    ConfigurationError,
    Evaluation,
    PretrainedModel,
    RealData,
    Scale,
    load_configuration,
    load_samplers,
    load_scale,
    merge,
    read_yaml,
    suggest,
)
from reproduction.config.command_line import Request, read_command_line, selected, take_request
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration, expand_all
from reproduction.data.table import DatasetEntry, load_datasets
from reproduction.figures import DeviationsFigure, Figure, InferenceFigure, load_experiments
from reproduction.models.pretrained import TOKENIZER, HubModel, PackageModel, load_models
from reproduction.tasks import GeneratedData
from reproduction.training import contract

# A figure by this ending shows what has run and says of the rest that it has not.
SO_FAR = "_so_far"
# Targets that all chosen figures are behind.
WHOLE = ("all", "report", "provenance", "claims", "cost", "runs")


@dataclass(frozen=True)
class Plan:
    """What the rules are made from; every name in it is defined, every size possible."""

    request: Request
    configuration: Configuration
    scale: Scale
    experiments: dict[str, Figure]
    runs_of: dict[str, dict[str, RunConfiguration]]
    datasets: dict[str, DatasetEntry]
    models: dict[str, HubModel | PackageModel]
    claims: paper_claims.Claims
    deviations: dict[str, paper_deviations.Deviation]
    decoders_of: dict[str, set[str]]
    site: slurm.Site
    estimates: resources.Needs

    @property
    def runs(self) -> dict[str, RunConfiguration]:
        """Every run of the experiments by name."""
        return {name: run for table in self.runs_of.values() for name, run in table.items()}

    def evaluation_of(self, run: RunConfiguration) -> Evaluation:
        """Return how a run is evaluated: with the scale's first decoder and those that something reads."""
        return self.scale.evaluation_of(run.model).reduced_to(self.decoders_of[run.name])

    @property
    def figures_in_parts(self) -> dict[str, list[str]]:
        """The paper's figures that are several entries here: ``fig07`` -> ``fig07a`` and ``fig07b``."""
        parts: dict[str, list[str]] = {}
        for name in self.experiments:
            if (figure := re.fullmatch(r"(fig\d+)[a-z]", name)) and figure[1] not in self.experiments:
                parts.setdefault(figure[1], []).append(name)
        return parts

    def runs_behind(self, targets: Iterable[str]) -> list[RunConfiguration]:
        """Return the runs behind ``targets``: those of a figure by its name, and of all chosen figures for ``WHOLE``.

        Raises ConfigurationError for a name that is neither.
        """
        parts = dict.fromkeys(WHOLE, self.configuration.experiments)
        parts |= {name: [name] for name in self.runs_of} | self.figures_in_parts
        asked = [target.removesuffix(SO_FAR) for target in targets]
        _raise(unknown("--config: targets", "figure", asked, parts))
        figures = dict.fromkeys(name for target in asked for name in parts[target])
        return [run for name in figures for run in self.runs_of[name].values()]


def read_files(*paths: str | Path) -> dict[str, Any]:
    """Return the values of configuration files, each overriding those before it.

    Snakemake reads the same files, by YAML 1.1, lets a repeated key win silently, and runs what a file holds as a
    template where ``__use_yte__`` asks for it; the workflow takes its values from here.

    Raises ConfigurationError. A file that is not there is left to Snakemake, which may have been given others.
    """
    values: dict[str, Any] = {}
    for path in filter(Path.exists, map(Path, paths)):
        found = read_yaml(path)
        for key in found:
            if str(key).startswith("__"):
                known = Configuration.model_fields
                raise ConfigurationError(f"{path}: unknown key {key!r}{suggest(key, known)}")
        values = merge(values, found)
    return values


def read_plan(
    values: Mapping[str, Any], given: Mapping[str, Any] = MappingProxyType({}), workflow: Path = WORKFLOW
) -> Plan:
    """Return the plan of one call.

    Args:
        values: of the configuration files (:func:`read_files`).
        given: values of ``--config`` as Snakemake parsed them. They override ``values``; those that concern this
            call only are taken out.
        workflow: folder with scales/, samplers.yaml and the other tables.

    Raises:
        ConfigurationError: one line per mistake.
    """
    values = merge(values, read_command_line(given))
    request = take_request(values)
    configuration = load_configuration(values)
    scale = load_scale(configuration.scale, configuration.overrides, workflow)
    experiments = load_experiments(workflow / "experiments.yaml", workflow / "samplers.yaml")
    datasets = load_datasets(workflow / "datasets.yaml")
    models = load_models(workflow / "models.yaml")
    claims = paper_claims.load_claims(workflow / "claims.yaml")
    deviations = paper_deviations.load_deviations(workflow / "deviations.yaml")
    site = slurm.load_site(workflow / "profiles" / "slurm" / "site.yaml")
    table = resources.load_resources(workflow / "resources.yaml")
    resources.Needs(configuration.scale, scale, table)  # what it lacks is said first
    _raise(
        [
            *_choices(configuration, experiments),
            *_sources(configuration.scale, scale, datasets, models),
            *_sizes(configuration, scale, datasets),
            *_experiments(experiments, scale, workflow),
            *_claims(claims, scale, experiments),
            *_deviations(deviations, scale),
        ]
    )
    runs_of = expand_all(configuration, scale, experiments)
    decoders = decoders_of(configuration, scale, experiments, runs_of, claims, deviations)
    plan = Plan(
        request=request,
        configuration=configuration,
        scale=scale,
        experiments=experiments,
        runs_of=runs_of,
        datasets=datasets,
        models=models,
        claims=claims,
        deviations=deviations,
        site=site,
        decoders_of=decoders,
        estimates=resources.Needs(configuration.scale, scale, table, decoders),
    )
    if request.select:
        selected(plan.runs, request.select)
    _raise(_drawable(plan))
    return plan


def decoders_of(
    configuration: Configuration,
    scale: Scale,
    experiments: Mapping[str, Figure],
    runs_of: Mapping[str, Mapping[str, RunConfiguration]],
    claims: paper_claims.Claims,
    deviations: Mapping[str, paper_deviations.Deviation],
) -> dict[str, set[str]]:
    """Return run -> evaluation decoders: the first of its evaluation, and what figures, claims and deviations read.

    All figures count, also those that config.yaml does not ask for, so that no other target evaluates a run again.
    """
    found: dict[str, set[str]] = {}
    for name, experiment in experiments.items():
        for run in runs_of[name].values():
            found.setdefault(run.name, {scale.evaluation_of(run.model).decoders[0]}).update(
                experiment.decoders_read(scale)
            )
    for run, decoder in paper_claims.decoders_read(claims, configuration, scale):
        found.setdefault(run, set()).add(decoder)
    compared = [
        quantity
        for deviation in deviations.values()
        for quantity in deviation.quantities
        if isinstance(quantity, quantities.Decoders)
    ]
    for run, quantity in product(runs_of.get("deviations", {}).values(), compared):
        if run.algorithm == "dapo" and run.sampler in quantity.samplers:
            found[run.name].update([quantity.treatment, *quantity.controls])
    return found


def _raise(mistakes: Iterable[str]) -> None:
    found = list(dict.fromkeys(mistakes))
    if len(found) > MOST_LINES:
        found = [*found[:MOST_LINES], f"and {len(found) - MOST_LINES} mistakes more"]
    if found:
        raise ConfigurationError("\n".join(found))


# --- config.yaml -------------------------------------------------------------------------------------------


def _choices(configuration: Configuration, experiments: Mapping[str, Figure]) -> Iterator[str]:
    yield from unknown("config.yaml: experiments", "experiment", configuration.experiments, experiments)
    several = [
        name for name, figure in experiments.items() if hasattr(figure, "runs") and not figure.one_seed
    ]
    yield from unknown(
        "seeds_by_experiment", "experiment of trainings", configuration.seeds_by_experiment or {}, several
    )
    for name, python in configuration.interpreters.model_dump().items():
        if python is not None and shutil.which(python) is None:
            yield (
                f"config.yaml: interpreters.{name}: no such program, found {python!r}; allowed: the path of a "
                "Python that exists, or null for the current one"
            )
    for name in ("results", "reports"):
        folder = Path(getattr(configuration.paths, name))
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            yield f"config.yaml: paths.{name}: {str(nearest)!r} is a file; allowed: a folder, new or present"
        elif not os.access(nearest, os.W_OK):
            yield f"config.yaml: paths.{name}: {str(nearest)!r} cannot be written; allowed: a folder of yours"
    data = configuration.paths.real_data
    if data is not None and not Path(data).is_dir():
        yield (
            f"config.yaml: paths.real_data: no such folder, found {data!r}; allowed: a folder with the files that "
            "workflow/datasets.yaml names, or null for the hub"
        )
    tokenizers = configuration.paths.tokenizers
    if tokenizers is not None and not Path(tokenizers).is_dir():
        yield (
            f"config.yaml: paths.tokenizers: no such folder, found {tokenizers!r}; allowed: a folder with "
            "{owner}/{model}/tokenizer.json, or null for the hub"
        )


# --- the scale ---------------------------------------------------------------------------------------------


def _sources(
    scale_name: str, scale: Scale, datasets: Mapping[str, DatasetEntry], models: Mapping[str, Any]
) -> Iterator[str]:
    where = f"{scale_name}.yaml"
    for alias, data in scale.datasets.items():
        if isinstance(data, RealData):
            yield from unknown(f"{where}: datasets.{alias}.source", "data set", [data.source], datasets)
    for alias, model in scale.models.items():
        if isinstance(model, PretrainedModel):
            yield from unknown(f"{where}: models.{alias}.source", "pretrained model", [model.source], models)
    with_tokenizer = [
        name for name, entry in models.items() if isinstance(entry, HubModel) and TOKENIZER in entry.files
    ]
    for name, entry in datasets.items():
        yield from unknown(
            f"datasets.yaml: {name}.tokenizer",
            "hub model with a tokenizer.json",
            [entry.tokenizer],
            with_tokenizer,
        )


def _sizes(configuration: Configuration, scale: Scale, datasets: Mapping[str, DatasetEntry]) -> Iterator[str]:
    """Nothing asks a data set for more problems than it has."""
    where = f"{configuration.scale}.yaml"
    sizes = {}
    for name, data in scale.datasets.items():
        if isinstance(data, GeneratedData):
            wanted = _most_wanted(name, scale)
            exist = data.existing(configuration.root_seed, max(wanted, data.limit or 0))
            if data.limit is not None and data.limit > exist:
                yield f"{where}: datasets.{name}.limit: at most {exist} such problems exist, found {data.limit}"
            sizes[name] = min(exist, data.limit or exist)
        elif data.source in datasets:
            entry = datasets[data.source]
            rows = [source.rows for source in (entry.local, entry.hub) if source is not None]
            if None not in rows:  # of a source that is not pinned
                sizes[name] = min(max(rows), data.limit or max(rows))
    for key, name, asked in _asked(scale):
        if name in sizes and asked > sizes[name]:
            yield f"{where}: {key}: at most {sizes[name]}, the problems of {name!r}, found {asked}"


def _asked(scale: Scale) -> Iterator[tuple[str, str, int]]:
    """Yield key, data set and number of its problems wanted at a time."""
    yield "training.prompts", scale.training.dataset, scale.training.prompts
    for name, recipe in scale.recipes.items():
        yield f"recipes.{name}.training.prompts", recipe.training.dataset, recipe.training.prompts
    for name, study in scale.inference.items():
        yield f"inference.{name}.problems", study.dataset, study.problems


def _most_wanted(dataset: str, scale: Scale) -> int:
    return max((asked for _, name, asked in _asked(scale) if name == dataset), default=0)


# --- experiments.yaml --------------------------------------------------------------------------------------


def _experiments(experiments: Mapping[str, Figure], scale: Scale, workflow: Path) -> Iterator[str]:
    file = "experiments.yaml"
    if "deviations" not in experiments:
        yield f"{file}: the key 'deviations' is missing; the runs that deviations.yaml compares"
    written = load_samplers(workflow / "samplers.yaml")
    studies = _studies_of_all_scales(workflow) | scale.inference.keys()
    for name, experiment in experiments.items():
        where = f"{file}: {name}"
        if (name in resources.RULES and name != "deviations") or name.endswith(SO_FAR):
            yield (
                f"{where}: a target or a file of the workflow has this name; allowed: any but "
                f"{', '.join(resources.RULES)} and names that end with {SO_FAR}"
            )
        if (name == "deviations") != isinstance(experiment, DeviationsFigure):
            yield (
                f"{where}.analysis: found {experiment.analysis!r}; allowed: `deviations` for the experiment of that "
                "name, and for no other"
            )
        yield from experiment.mistakes(where, scale, written)
        if isinstance(experiment, InferenceFigure):
            yield from unknown(f"{where}.study", "study", [experiment.study], sorted(studies))


def _studies_of_all_scales(workflow: Path) -> set[str]:
    """A scale may lack a study, and then lacks its figure; a study that no scale has is a slip."""
    found: set[str] = set()
    for name in SCALES:
        studies = read_yaml(workflow / "scales" / f"{name}.yaml").get("inference")
        found |= set(studies) if isinstance(studies, Mapping) else set()
    return found


def _drawable(plan: Plan) -> Iterator[str]:
    """What a figure would otherwise say when its job is planned: for the figures that config.yaml asks for."""
    for name in plan.configuration.experiments:
        experiment, scale = plan.experiments[name], plan.scale
        try:
            if isinstance(experiment, InferenceFigure):
                study = scale.study(experiment.study)
                for decoder in study.decoders if study else []:
                    scale.style_of(decoder)
            elif not experiment.own_rules:
                experiment.estimation(scale, plan.runs_of[name], plan.configuration.root_seed)
        except ConfigurationError as error:
            yield str(error)
        except ValueError as error:
            yield f"experiments.yaml: {name}: {error}"


# --- claims.yaml and deviations.yaml ------------------------------------------------------------------------


def check_claims(claims: paper_claims.Claims, scale: Scale, experiments: Mapping[str, Figure]) -> None:
    """Raise ConfigurationError with a line for each name in the claims that nothing defines."""
    _raise(_claims(claims, scale, experiments))


def _claims(claims: paper_claims.Claims, scale: Scale, experiments: Mapping[str, Figure]) -> Iterator[str]:
    file = "claims.yaml"
    scores = tests_of_claims.EvaluationQuantity.model_fields["metric"].annotation.__args__
    recorded = [*contract.RECORDED, contract.PER_TOKEN]
    for name, reading in claims.readings.items():
        where = f"{file}: readings.{name}"
        exchanged = [*reading.samplers, *reading.samplers.values()]
        yield from unknown(f"{where}.samplers", "sampler", exchanged, scale.samplers)
        yield from unknown(f"{where}.decoder", "decoder", [reading.decoder], scale.decoders)
        metrics = [*reading.metrics, *reading.metrics.values()]
        yield from unknown(f"{where}.metrics", "metric", metrics, [*scores, *recorded])
    inference = [name for name, figure in experiments.items() if isinstance(figure, InferenceFigure)]
    for name, claim in claims.claims.items():
        yield from unknown(f"{file}: claims.{name}.figure", "figure", [claim.figure], experiments)
        for number, test in enumerate(claim.tests):
            where = f"{file}: claims.{name}.tests.{number}"
            yield from unknown(
                f"{where}.algorithm", "algorithm", getattr(test, "algorithm", []), scale.algorithms
            )
            if hasattr(test, "analysis"):
                yield from unknown(f"{where}.analysis", "inference figure", [test.analysis], inference)
                compared = [getattr(test, "treatment", None), *getattr(test, "controls", [])]
                yield from unknown(where, "decoder", compared, scale.decoders)
            else:
                yield from unknown(where, "sampler", _samplers_of(test), scale.samplers)
            quantity = getattr(test, "quantity", None)
            decoder = getattr(quantity, "decoder", None) or getattr(test, "decoder", None)
            yield from unknown(f"{where}.decoder", "decoder", [decoder], scale.decoders)
            metric = getattr(test, "metric", None)
            if isinstance(quantity, tests_of_claims.TrainingQuantity):
                metric = quantity.metric
            yield from unknown(f"{where}.metric", "metric", [metric], recorded)
            if isinstance(test, tests_of_claims.EarlyLate):
                yield from unknown(f"{where}.column", "column", [test.column], ["entropy", "maj_at_k"])


def _samplers_of(test: Any) -> list[str]:
    """Return the training samplers that a test of a claim names."""
    treatment = getattr(test, "treatment", [])
    named = [treatment] if isinstance(treatment, str) else [*treatment]
    for key in ("controls", "samplers", "negative_control"):
        named += getattr(test, key, None) or ()
    return named


def _deviations(deviations: Mapping[str, paper_deviations.Deviation], scale: Scale) -> Iterator[str]:
    for name, deviation in deviations.items():
        for number, quantity in enumerate(deviation.quantities):
            where = f"deviations.yaml: {name}.quantities.{number}"
            named = [*getattr(quantity, "samplers", []), getattr(quantity, "sampler", None)]
            compared = [getattr(quantity, "treatment", None), getattr(quantity, "control", None)]
            if isinstance(quantity, quantities.Decoders):
                compared += quantity.controls
                yield from unknown(where, "decoder", compared, scale.decoders)
            else:
                named += compared
            yield from unknown(where, "sampler", named, scale.samplers)
            algorithms = [
                getattr(quantity, key, None)
                for key in ("algorithm", "treatment_algorithm", "control_algorithm")
            ]
            yield from unknown(where, "algorithm", algorithms, scale.algorithms)
            if isinstance(quantity, quantities.Record):
                yield from unknown(f"{where}.metric", "metric", [quantity.metric], contract.RECORDED)
