"""Figures, a file for each kind: its entry's model, what it needs, how it is estimated, drawn and captioned.

``training_curves``   estimates by training step
``decoder_matrix``    training sampler by evaluation decoder
``schedules``         temperature by position
``propositions``      Propositions B.1 and C.1
``hyperparameters``   Table 1
``inference``         studies of decoding
``deviations``        what each reading changes
``trade_off``         two scores against each other
``tuning``            settings of the rivals, and which the rule chooses
``rivals``            the rivals against a control, at equal cost

A file that defines ``FIGURE`` is one; nothing else lists it. workflow/experiments.yaml has an entry for each figure,
whose ``analysis`` is the kind. Three have no entry, since nobody chooses their runs:

``claims``            every verdict with its interval
``cost``              how cost grows
``evaluation``        the published language model by decoder
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field

from reproduction.config import (
    SAMPLERS_FILE,
    WORKFLOW,
    Configuration,
    ConfigurationError,
    load_samplers,
    load_scale,
    read_yaml,
    suggest,
    validate,
)
from reproduction.config.runs import RunConfiguration, expand
from reproduction.fields import Name, Strict, defined_in
from reproduction.figures.claims import Verdicts
from reproduction.figures.cost import COST, CostFigure
from reproduction.figures.deviations import DeviationsFigure
from reproduction.figures.evaluation import REAL_LM, EvaluationTable
from reproduction.figures.figure import Figure, Grid, OfRuns
from reproduction.figures.inference import InferenceFigure
from reproduction.figures.schedules import SchedulePanel
from reproduction.figures.training_curves import TrainingCurves, published_curves

KINDS: dict[str, type[Figure]] = {
    kind.model_fields["analysis"].annotation.__args__[0]: kind
    for kind in defined_in(__name__, __path__, "FIGURE")
}
"""``analysis`` -> the kind of figure, for workflow/experiments.yaml."""
ALL_KINDS = {**KINDS, "claims": Verdicts, "cost": CostFigure, "evaluation": EvaluationTable}
"""The same with those that have no entry there."""
AnyFigure = Annotated[Union[tuple(KINDS.values())], Field(discriminator="analysis")]  # noqa: UP007


class Experiments(Strict):
    """workflow/experiments.yaml."""

    experiments: dict[Name, AnyFigure]


def load_experiments(
    path: Path = WORKFLOW / "experiments.yaml", samplers: Path = SAMPLERS_FILE
) -> dict[str, Figure]:
    """Read figure -> :class:`Figure`; a sampler that names a figure is in every grid of its runs."""
    experiments = validate(Experiments, {"experiments": read_yaml(path)}, path.name).experiments
    for name, sampler in load_samplers(samplers).items():
        for figure in sampler.figures:
            where = f"{samplers.name}: {name}.figures"
            if figure not in experiments:
                raise ConfigurationError(f"{where}: unknown figure {figure!r}{suggest(figure, experiments)}")
            if not isinstance(experiments[figure], OfRuns):
                raise ConfigurationError(f"{where}: {figure} shows no training runs")
            grids = [
                grid.model_copy(update={"sampler": list(dict.fromkeys([*grid.sampler, name]))})
                for grid in experiments[figure].runs
            ]
            experiments[figure] = experiments[figure].model_copy(update={"runs": grids})
    return experiments


def figures_of(
    run: RunConfiguration, scale_name: str, overrides: Mapping[str, Any] | None = None
) -> dict[str, Figure]:
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
