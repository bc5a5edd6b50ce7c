"""Rivals of the paper's method, a few settings of each: how sensitive each is, and which setting the rule chooses.

The rule: of a rival's settings, the one with the highest Pass@k at the last checkpoint, on the tuning problems; of
equal ones the first. Every rival has as many settings, and each is trained once, with the first seed. Tuning problems
are every other one of the evaluation's; ``rivals`` ranks on the rest, and on other seeds where there are some.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, Field, model_validator

from ead import seeds, statistics
from reproduction.config import Scale
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration, axes_of
from reproduction.evaluation.samples import correct_counts
from reproduction.fields import ROLES, Name, unique
from reproduction.figures.analyses import CONFIDENCE, METRIC_LABELS, METRICS
from reproduction.figures.figure import Cell, Figure, Grid, OfRuns
from reproduction.figures.style import COLORS, PRINT_WIDTH, head, nothing_ran, pyplot, set_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

SCORES = ("pass_at_k", "pass_at_1")
"""What is estimated; the first decides."""


class TunedSetting(BaseModel):
    """A row of the figure's table, as a reader of the CSV file finds it."""

    rival: str
    sampler: str
    metric: str
    chosen: Literal["True", "False"]
    value: float | None
    status: Literal["finished", "diverged", "not run"]


class OfRivals(Figure):
    """A figure of one model and algorithm, and of samplers by the rival that they are settings of."""

    caption_template: ClassVar[str] = "figure.rst"

    role: Literal[ROLES] = Field(description="model of the paper")
    algorithm: Name = Field(description="of the scale's algorithms")

    @property
    def samplers(self) -> list[str]:
        """Every sampler that is shown."""
        raise NotImplementedError

    @property
    def runs(self) -> list[Grid]:
        """The trainings it shows."""
        return [Grid(role=[self.role], algorithm=[self.algorithm], sampler=self.samplers)]

    def cells(self, scale: Scale) -> Iterator[Cell]:
        """See :class:`Figure`."""
        yield from OfRuns.cells(self, scale)

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from unknown(f"{where}.algorithm", "algorithm", [self.algorithm], scale.algorithms)

    reads_evaluations = OfRuns.reads_evaluations
    models = OfRuns.models
    words_of_runs = OfRuns.words_of_runs

    def absent(self, runs: Mapping[str, RunConfiguration]) -> list[str]:
        """Samplers that have no run at the scale, such as those that its engine cannot train with."""
        trained = {run.sampler for run in runs.values()}
        return [sampler for sampler in self.samplers if sampler not in trained]

    def without_runs(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> list[str]:
        """Return their labels."""
        return [scale.samplers[sampler].label for sampler in self.absent(runs)]

    def captioned(self, scale: Scale, runs: Mapping[str, RunConfiguration], text: str) -> dict[str, str]:
        """Return the caption whose words are ``text``, and which samplers have no runs."""
        missing = ", ".join(self.without_runs(scale, runs))
        words = text + (f" No runs at this scale: {missing}." if missing else "")
        return {**Figure.caption(self, scale, runs), "words": words}


class Tuning(OfRivals):
    """Every setting of every rival, on the problems that are for tuning."""

    one_seed: ClassVar[bool] = True

    analysis: Literal["tuning"] = Field(description="the kind of figure")
    rivals: dict[Name, Annotated[list[Name], AfterValidator(unique), Field(min_length=2)]] = Field(
        min_length=1, description="rival -> its settings, keys of the scale's samplers; as many for each"
    )

    @model_validator(mode="after")
    def _same_number_of_trials(self) -> "Tuning":
        most = max(map(len, self.rivals.values()))
        for rival, settings in self.rivals.items():
            if len(settings) != most:
                raise ValueError(
                    f"rivals.{rival} has {len(settings)} settings, others {most}: all need as many"
                )
        unique(self.samplers)
        return self

    @property
    def samplers(self) -> list[str]:
        """See :class:`OfRivals`."""
        return [setting for settings in self.rivals.values() for setting in settings]

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from super().mistakes(where, scale, samplers)
        for rival, settings in self.rivals.items():
            yield from unknown(f"{where}.rivals.{rival}", "sampler", settings, scale.samplers)

    def records(self) -> list[str]:
        """See :class:`Figure`."""
        return ["manifest.json"]

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {
            "analysis": self.analysis,
            "names": list(runs),
            "rivals": self.rivals,
            "decoder": scale.evaluation.decoders[0],
            "root_seed": root_seed,
        }

    @staticmethod
    def estimate(
        *,
        names: list[str],
        rivals: Mapping[str, list[str]],
        decoder: str,
        root_seed: int,
        runs: Path,
        evaluations: Path,
        partial: bool,
    ) -> pd.DataFrame:
        """Return a row per setting and score: ``rival``, ``sampler``, the estimate, and whether it is ``chosen``.

        A setting that diverged before its first checkpoint has no estimate and is not chosen.
        """
        scores, lost = {}, set()
        for name in names:
            manifest = evaluations / name / "manifest.json"
            if manifest.exists() or not partial:
                counts = correct_counts(manifest, [decoder], last_step=True)
                if counts.empty:
                    lost.add(axes_of(name)["sampler"])
                else:
                    scores[axes_of(name)["sampler"]] = of_problems(counts, tuning=True)
        rows = []
        for rival, settings in rivals.items():
            decisive = [scores[each][SCORES[0]].mean() if each in scores else -np.inf for each in settings]
            done = scores.keys() & settings and scores.keys() | lost >= set(settings)
            best = settings[int(np.argmax(decisive))] if done else None
            for setting in settings:
                for metric in SCORES:
                    row = {"rival": rival, "sampler": setting, "metric": metric, "chosen": setting == best}
                    without = {"status": "diverged" if setting in lost else "not run"}
                    found = scores.get(setting)
                    rows.append(row | (_estimated(found, metric, root_seed) if found else without))
        return pd.DataFrame(rows)

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`."""
        words = {**super().drawing(name, scale, runs), **self.words_of_runs(scale, runs)}
        labels = {sampler: scale.samplers[sampler].label for sampler in self.samplers}
        return words | {"labels": labels, "rivals": list(self.rivals)}

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """Draw a row per setting, grouped by rival; what the rule chooses is filled."""
        set_style()
        if (estimates["status"] != "finished").all():
            return nothing_ran(request)
        settings = list(request["labels"])
        size = (PRINT_WIDTH, 0.9 + 0.15 * len(settings))
        figure, axes = pyplot().subplots(1, len(SCORES), figsize=size, sharey=True, layout="constrained")
        for axis, metric in zip(axes, SCORES, strict=True):
            of_metric = estimates[estimates["metric"] == metric]
            colors = {}
            for height, (_, row) in enumerate(of_metric.iterrows()):
                color = colors.setdefault(row["rival"], list(COLORS.values())[len(colors) % len(COLORS)])
                if row["status"] != "finished":
                    axis.text(
                        0.02, height, row["status"], style="italic", color="grey", va="center", fontsize=6
                    )
                    continue
                axis.errorbar(
                    100 * row["value"],
                    height,
                    xerr=[[100 * (row["value"] - row["low"])], [100 * (row["high"] - row["value"])]],
                    color=color,
                    marker="o",
                    markerfacecolor=color if row["chosen"] else "white",
                    elinewidth=0.8,
                )
            axis.set_xlabel(METRIC_LABELS[metric].format(k=int(estimates["samples"].min())))
        axes[0].set_yticks(range(len(settings)), [request["labels"][setting] for setting in settings])
        axes[0].invert_yaxis()
        problems = int(estimates["problems"].min())
        head(
            figure,
            request["title"],
            f"{problems} tuning problems, one seed; filled: chosen; bars: 95% intervals",
        )
        return figure

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """See :class:`Figure`."""
        text = (
            "Each mark is the last checkpoint of one training, on the half of the evaluation's problems that is for "
            "tuning. Of the settings of a rival, the one with the highest Pass@k is chosen (filled)."
        )
        return self.captioned(scale, runs, text)


def of_problems(counts: pd.DataFrame, *, tuning: bool) -> dict[str, np.ndarray]:
    """Return score -> values of the problems, ordered by their names: of every other one, or of the rest."""
    chosen = counts.sort_values("problem").iloc[(0 if tuning else 1) :: 2]
    responses, correct = (chosen[column].to_numpy(dtype=int) for column in ("responses", "correct"))
    samples = {"samples": responses}
    return samples | {metric: METRICS[metric](responses, correct) for metric in SCORES}


def _estimated(scores: Mapping[str, np.ndarray], metric: str, root_seed: int) -> dict[str, Any]:
    found = statistics.bootstrap(
        scores[metric][None], generator=seeds.generator(root_seed, "bootstrap"), confidence=CONFIDENCE
    )
    sizes = {"problems": found.problems, "samples": int(scores["samples"].min())}
    return {"value": found.value, "low": found.low, "high": found.high, **sizes, "status": "finished"}


FIGURE = Tuning
