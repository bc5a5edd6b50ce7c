"""What a kind of figure is: its entry in workflow/experiments.yaml, what it needs, its numbers, its picture, its words.

An estimation request holds what numbers depend on and nothing else, so that a new title or colour re-estimates
nothing; a drawing request holds the words and styles. Both are plain data, which a job carries.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import pandas as pd
from pydantic import AfterValidator, Field

from reproduction.config import ROLE_LABELS, Scale
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration
from reproduction.fields import ROLES, Name, Rollouts, Strict, unique
from reproduction.figures.analyses import CONFIDENCE
from reproduction.figures.style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


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


class Cell(NamedTuple):
    """A training that a figure shows, whatever its seed."""

    role: str
    algorithm: str
    sampler: str
    rollouts: int | None


class Figure(Strict):
    """What every entry has. A kind names itself by ``analysis``, a literal."""

    # What the job makes, below the scale's reports.
    folder: ClassVar[str] = "figures"
    suffixes: ClassVar[tuple[str, ...]] = ("pdf", "png", "csv")
    # Kinds with rules of their own: workflow/rules/inference.smk, deviations.smk.
    own_rules: ClassVar[bool] = False
    # Whether it shows the first seed of its runs alone.
    one_seed: ClassVar[bool] = False
    # In workflow/report/; it is filled with :meth:`caption`.
    caption_template: ClassVar[str] = "figure.rst"

    title: str = Field(description="heading of the figure")
    section: str = Field(description="where the paper shows it")
    group: Name = Field("method", description="MLflow experiment that holds its runs")

    def cells(self, scale: Scale) -> Iterator[Cell]:
        """Yield the trainings that it shows at a scale."""
        yield from ()

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with the entry beyond its model: names that ``scale`` or ``samplers`` do not have.

        ``samplers`` are those of workflow/samplers.yaml.
        """
        yield from ()

    def reads_evaluations(self) -> bool:
        """Whether its numbers come from evaluations of its runs."""
        return False

    def decoders_read(self, scale: Scale) -> list[str]:
        """Return the evaluation decoders that its numbers come from, beside the first of the scale."""
        return []

    def records(self) -> list[str]:
        """Return the files of a run's folder that its numbers come from."""
        return []

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """Return what :meth:`estimate` is asked.

        Raises ConfigurationError for what the scale lacks.
        """
        raise NotImplementedError

    @staticmethod
    def estimate(*, runs: Path, evaluations: Path, partial: bool, **request: Any) -> pd.DataFrame:
        """Return the numbers that are drawn, with intervals where there is data behind them.

        ``runs`` and ``evaluations`` are folders; ``partial`` takes what has results, instead of failing.
        """
        raise NotImplementedError

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """Return the words and styles that :meth:`plot` is given; ``name`` is the entry's."""
        return {"analysis": self.analysis, "title": self.title}

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """Draw the estimates."""
        raise NotImplementedError

    @classmethod
    def write(cls, estimates: Path, request: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Write what the job makes of its ``estimates``; ``files`` is suffix -> file."""
        table = pd.read_parquet(estimates)
        save(cls.plot(table, request), table, **files)

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """Return what the caption says of estimators, intervals and scale; ``words`` are the kind's own."""
        return {
            "title": self.title,
            "section": self.section,
            "scale": scale.description,
            "confidence": f"{CONFIDENCE:.0%}",
        }


class OfRuns(Figure):
    """A figure of a grid of trainings."""

    runs: list[Grid] = Field(min_length=1, description="the trainings it shows")

    def cells(self, scale: Scale) -> Iterator[Cell]:
        """See :class:`Figure`."""
        for grid in self.runs:
            for cell in product(grid.role, grid.algorithm, grid.sampler, grid.rollouts):
                yield Cell(*cell)

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        for grid in self.runs:
            yield from unknown(f"{where}.runs.algorithm", "algorithm", grid.algorithm, scale.algorithms)
            yield from unknown(f"{where}.runs.sampler", "sampler", grid.sampler, scale.samplers)
            for n in grid.rollouts:
                if n is not None and n not in scale.learning_rates:
                    rates = ", ".join(map(str, scale.learning_rates))
                    text = f"no learning rate for {n} rollouts per prompt; learning_rates has {rates}"
                    yield f"{where}.runs.rollouts: {text}"

    def indistinct(
        self, where: str, scale: Scale, key: str, shown: Sequence[str], instead: str
    ) -> Iterator[str]:
        """Yield what is wrong where trainings with the same ``shown`` axes differ in ``key``, which is not shown."""
        found: dict[tuple, set] = defaultdict(set)
        for cell in self.cells(scale):
            if cell.role in scale.roles:
                cell = cell._replace(rollouts=cell.rollouts or scale.rollouts_of(cell.role))
                found[tuple(getattr(cell, axis) for axis in shown)].add(getattr(cell, key))
        for values in filter(lambda values: len(values) > 1, found.values()):
            several = ", ".join(map(str, sorted(values)))
            yield f"{where}.runs.{key}: this figure shows one for each sampler, found {several}; {instead}"

    def reads_evaluations(self) -> bool:
        """See :class:`Figure`; a kind that reads what trainings record says otherwise."""
        return True

    def records(self) -> list[str]:
        """See :class:`Figure`."""
        return ["manifest.json"]

    def models(self, scale: Scale) -> dict[str, str]:
        """Return model -> role of the models that it shows, in the order of the entry."""
        roles = dict.fromkeys(role for grid in self.runs for role in grid.role)
        return {scale.roles[role].model: role for role in roles if role in scale.roles}

    def words_of_runs(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """Return the names and styles of models, algorithms and samplers, for a drawing request."""
        samplers = dict.fromkeys(run.sampler for run in runs.values())
        roles = dict.fromkeys(role for grid in self.runs for role in grid.role)
        return {
            "models": {model: model_label(model, role) for model, role in self.models(scale).items()},
            "absent": [ROLE_LABELS[role] for role in roles if role not in scale.roles],
            "algorithms": {run.algorithm: scale.algorithms[run.algorithm].label for run in runs.values()},
            "samplers": {
                # In the order of workflow/samplers.yaml, so that legends agree.
                key: {"label": sampler.label, "style": sampler.style.model_dump()}
                for key, sampler in scale.samplers.items()
                if key in samplers
            },
        }


def model_label(model: str, role: str) -> str:
    """Return a model's name in figures: the paper's, or its own and the one it stands for."""
    label = ROLE_LABELS[role]
    return label if model.lower() == label.lower() else f"{model}, for {label}"
