"""Figures and the grids of runs that they show: workflow/experiments.yaml."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from reproduction.fields import ROLES, Count, Name, Rollouts, Strict, unique


class Grid(Strict):
    """Every combination of these is one cell; a role that the scale does not define has no cells there."""

    role: Annotated[list[Literal[ROLES]], AfterValidator(unique)] = Field(
        min_length=1, description="models of the paper"
    )
    algorithm: Annotated[list[Name], AfterValidator(unique)] = Field(
        min_length=1, description="keys of the scale's algorithms"
    )
    sampler: Annotated[list[Name], AfterValidator(unique)] = Field(
        min_length=1, description="keys of the scale's samplers"
    )
    rollouts: Annotated[list[Rollouts | None], AfterValidator(unique)] = Field(
        [None], min_length=1, description="null is the scale's default"
    )


class Figure(Strict):
    """What every entry has."""

    title: str = Field(description="heading of the figure")
    section: str = Field(description="where the paper shows it")
    group: Name = Field("method", description="MLflow experiment that holds its runs")


class TrainingCurves(Figure):
    """Estimates by training step, and the runs they need."""

    analysis: Literal["training_curves"] = Field(description="the kind of figure")
    runs: list[Grid] = Field(min_length=1, description="the trainings it shows")
    metrics: list[Name] = Field(min_length=1, description="rows of the figure")
    tabulated: list[Name] = Field([], description="metrics of the figure's CSV that it does not draw")
    decoders: list[Name] | None = Field(
        None, description="evaluation decoders, a row each; null is the scale's first"
    )
    curves: Literal["sampler", "n"] = Field("sampler", description="what tells the curves of a panel apart")


class DecoderMatrix(Figure):
    """The last checkpoints: training sampler by evaluation decoder, the scale's final ones included (D06)."""

    analysis: Literal["decoder_matrix"] = Field(description="the kind of figure")
    runs: list[Grid] = Field(min_length=1, description="the trainings it shows")
    metrics: list[Name] = Field(min_length=1, description="rows of the figure")


class SchedulePanel(Strict):
    """One panel of Figure 3: a sampler of workflow/samplers.yaml, with several values in place of its own."""

    sampler: Name = Field(description="key of workflow/samplers.yaml")
    title: str = Field(description="heading of the panel")
    d: list[PositiveFloat] | None = Field(None, description="decay rates in tokens, a curve each; or ...")
    steps: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="... shares of the training, a curve each, in the scale's own units"
    )

    @model_validator(mode="after")
    def _one_axis(self) -> "SchedulePanel":
        if (self.d is None) == (self.steps is None):
            raise ValueError("give either d or steps")
        return self


class Schedules(Figure):
    """Temperature by position, from the schedules alone (Figure 3)."""

    analysis: Literal["schedules"] = Field(description="the kind of figure")
    positions: Annotated[int, Field(gt=0, le=10**6)] = Field(
        description="response tokens shown, in the paper's length"
    )
    panels: list[SchedulePanel] = Field(min_length=1, description="from left to right")


class Propositions(Figure):
    """Propositions B.1 and C.1 by enumeration over distributions drawn at random."""

    analysis: Literal["propositions"] = Field(description="the kind of figure")
    temperatures: list[PositiveFloat] = Field(min_length=3, description="sampling temperatures, the x axis")
    vocabularies: list[Annotated[int, Field(ge=2, le=10**6)]] = Field(
        min_length=1, description="sizes of the distributions, a curve each"
    )
    distributions: Count = Field(description="drawn per size")
    spread: PositiveFloat = Field(description="logits are uniform in [-spread, 0]")


class Hyperparameters(Figure):
    """Table 1: the paper's hyperparameters beside this scale's."""

    analysis: Literal["hyperparameters"] = Field(description="the kind of figure")
    paper: dict[str, str] = Field(description="a row's name -> what the paper says")


class InferenceFigure(Figure):
    """Estimates from one study of the scale; a scale without that study lacks the figure."""

    analysis: Literal["inference"] = Field(description="the kind of figure")
    study: Name = Field(description="key of the scale's inference section")


class DeviationsFigure(Figure):
    """The runs that workflow/deviations.yaml compares, and the forest of their differences."""

    analysis: Literal["deviations"] = Field(description="the kind of figure")
    runs: list[Grid] = Field(min_length=1, description="the trainings it shows")


Experiment = Annotated[
    TrainingCurves
    | DecoderMatrix
    | Schedules
    | Propositions
    | Hyperparameters
    | InferenceFigure
    | DeviationsFigure,
    Field(discriminator="analysis"),
]


class Experiments(Strict):
    """workflow/experiments.yaml."""

    experiments: dict[Name, Experiment]
