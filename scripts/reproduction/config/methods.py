"""Samplers: workflow/samplers.yaml."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from ead import schedule
from reproduction.fields import Name, ScheduleDict, Strict, unique


class Importance(Strict):
    """Truncated importance sampling (paper, appendix B.2; D03, D04)."""

    level: Literal["token", "sequence"] = Field(
        "token", description="a weight for each token, or one for the whole response (D04)"
    )
    cap: PositiveFloat = Field(2.0, description="epsilon; the paper gives no value (D03)")


class Style(Strict):
    """How figures draw a sampler; colours are Okabe and Ito's, told apart with every form of colour blindness."""

    color: Literal["blue", "sky", "green", "yellow", "orange", "vermilion", "purple", "black", "grey"] = (
        Field(description="of line, markers and interval")
    )
    marker: Literal["o", "s", "D", "v", "^", "<", ">", "P", "X"] = Field(description="at each point")
    line: Literal["solid", "dashed", "dotted", "dashdot"] = Field(description="between the points")


class SamplerDefinition(Strict):
    """How training rollouts are drawn, and how the trainer accounts for it."""

    schedule: ScheduleDict = Field(
        description="temperature of each response token, see [Schedule](#schedule)"
    )
    importance: Importance | None = Field(None, description="null trains without correction")
    logprob_temperature: Literal["one", "sampling"] = Field(
        "one", description="divide the trainer's logits by the sampling temperature, or not (D15)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SamplerDefinition":
        if self.importance and self.logprob_temperature == "sampling":
            raise ValueError(
                "importance needs logprob_temperature: one; with `sampling` the trainer has no log-probabilities "
                "of the policy at temperature 1 that the sampler could be corrected to"
            )
        kind = schedule.KINDS[self.schedule["kind"]]
        if self.logprob_temperature == "sampling" and issubclass(
            kind, (schedule.Switched, schedule.OfLogits)
        ):
            raise ValueError("logprob_temperature: sampling needs a schedule of the position alone")
        return self


class NamedSampler(SamplerDefinition):
    """A sampler as the tables of a scale hold it; a run depends on the :class:`SamplerDefinition` alone."""

    label: str = Field(min_length=1, description="its name in figures and tables")
    style: Style = Field(description="how figures draw it")

    @property
    def sampler(self) -> SamplerDefinition:
        return SamplerDefinition(**{name: getattr(self, name) for name in SamplerDefinition.model_fields})


class SharedSampler(NamedSampler):
    """An entry of workflow/samplers.yaml, in the paper's units."""

    figures: Annotated[list[Name], AfterValidator(unique)] = Field(
        [], description="figures that show it besides those whose `runs` name it in workflow/experiments.yaml"
    )


class Samplers(Strict):
    """workflow/samplers.yaml."""

    samplers: dict[Name, SharedSampler]


def adapt_schedule(schedule_values: Mapping[str, Any], annealed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule whose values, or those of its parts, a role's ``annealed`` overrides if it has such a curve.

    Raises ValueError for a key or a value that the schedule does not allow.
    """
    kind = schedule.KINDS[schedule_values["kind"]]
    if kind is schedule.Switched:
        parts = {part: adapt_schedule(schedule_values[part], annealed) for part in ("before", "after")}
        return {**schedule_values, **parts}
    if issubclass(kind, schedule.OfLogits):
        return {**schedule_values, "base": adapt_schedule(schedule_values["base"], annealed)}
    if not issubclass(kind, schedule.StepAware) or not annealed:
        return dict(schedule_values)
    return schedule.from_config({**schedule_values, **annealed}).to_dict()
