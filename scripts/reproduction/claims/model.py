"""workflow/claims.yaml: the paper's claims as tests, declared before their results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from reproduction.config import (
    ROLES,
    SCALES,
    WORKFLOW,
    Name,
    Rollouts,
    Share,
    Strict,
    merge,
    read_yaml,
    suggest,
    validate,
)

Role = Literal[ROLES]


class Margin(Strict):
    """The smallest effect of interest, or the largest difference that still counts as none."""

    value: PositiveFloat
    scales: dict[Literal[SCALES], PositiveFloat] = Field(
        {}, description="where a scale calls for another number"
    )
    unit: str = Field(min_length=1)
    reason: str = Field(min_length=1)

    def at(self, scale: str) -> float:
        return self.scales.get(scale, self.value)


class Gates(Strict):
    """Largest shares with which an evaluation or a training still counts as healthy."""

    timeouts: Share
    errors: Share
    truncated_share: Share
    zero_reward_share: Share


class Reading(Strict):
    """One way to read a claim where the text, the figures and the release differ (D01, D02, D06, D10)."""

    label: str = Field(min_length=1)
    about: str = Field(min_length=1, description="where it comes from, for reports")
    samplers: dict[Name, Name] = Field({}, description="sampler of the claim -> sampler in its place")
    decoder: Name | None = Field(None, description="evaluation decoder in place of the claim's")
    metrics: dict[Name, Name] = Field({}, description="metric of the claim -> metric in its place")


class EvaluationQuantity(Strict):
    """A score of problems, averaged over checkpoints."""

    source: Literal["evaluation"]
    metric: Literal["pass_at_1", "pass_at_k", "worst_at_k"]
    decoder: Name
    steps: Literal["final", "late", "run"] = Field(
        description="last checkpoint, those in the last third of the training, or all: the area under the curve"
    )
    least_checkpoints: PositiveInt = Field(
        1,
        description="the last so many checkpoints, where the last third of a training holds fewer; only for `late`",
    )

    @model_validator(mode="after")
    def _of_late(self) -> "EvaluationQuantity":
        if self.least_checkpoints > 1 and self.steps != "late":
            raise ValueError(f"least_checkpoints is for steps: late, found {self.steps}")
        return self


class TrainingQuantity(Strict):
    """A number that the training records at every step."""

    source: Literal["training"]
    metric: Name = Field(description="column of metrics.parquet, or sampling_cpu_seconds_per_token")
    steps: Literal["late", "run"]
    compared_as: Literal["difference", "ratio"] = "difference"


class Contrast(Strict):
    """Treatments against controls, for every role and algorithm: each pair is a comparison."""

    kind: Literal["exceeds", "at_least", "at_most", "equivalent"] = Field(
        description="above; not below by the margin; not above by the margin; neither"
    )
    quantity: Annotated[EvaluationQuantity | TrainingQuantity, Field(discriminator="source")]
    role: list[Role] = Field(min_length=1)
    algorithm: list[Name] = Field(["dapo"], min_length=1)
    treatment: list[Name] = Field(min_length=1, description="training samplers")
    n: list[Rollouts | None] = Field([None], min_length=1, description="rollouts; null is the scale's")
    controls: list[Name] = Field(min_length=1)
    control_n: Rollouts | None = Field(None, description="rollouts of the controls; null is the treatment's")
    need: Literal["all", "any"] = Field("all", description="how many of the pairs must hold")
    margin: Name
    negative_control: Annotated[tuple[Name, Name], Field(strict=False)] | None = Field(
        None,
        description="samplers that do not differ in truth: where they differ by more than the margin, the "
        "measurement decides nothing",
    )


class LeadShrinks(Strict):
    """The treatment's lead over the mean of the controls is smaller with more rollouts."""

    kind: Literal["lead_shrinks"]
    quantity: EvaluationQuantity
    role: list[Role] = Field(min_length=1)
    algorithm: list[Name] = Field(["dapo"], min_length=1)
    treatment: Name
    controls: list[Name] = Field(min_length=1)
    small_n: Rollouts
    large_n: Rollouts
    margin: Name


class Trend(Strict):
    """A training metric falls monotonically between windows of steps, or does not."""

    kind: Literal["falls", "does_not_fall"]
    metric: Name
    role: list[Role] = Field(min_length=1)
    samplers: list[Name] = Field(min_length=1)
    windows: Annotated[int, Field(ge=2)] = Field(description="equal parts of the run that are compared")
    margin: Name = Field(description="a rise below it is none")


class Stability(Strict):
    """A training is unstable if it diverged, ends well below an earlier checkpoint, or has gradient spikes."""

    kind: Literal["stable", "unstable"]
    role: list[Role] = Field(min_length=1)
    samplers: list[Name] = Field(min_length=1)
    decoder: Name
    margin: Name = Field(description="loss of Pass@1 since an earlier checkpoint that makes it unstable")
    spike_factor: PositiveFloat = Field(description="a spike's gradient norm over the run's median")
    spike_share: Share = Field(description="share of steps with spikes that makes it unstable")


class EarlyLate(Strict):
    """An inference analysis: the earlier half of the positions against the later half, problem by problem."""

    kind: Literal["early_exceeds_late"]
    analysis: Name
    column: Name
    by: Literal["position", "branch"]
    margin: Name


class MostSizes(Strict):
    """Majority@N of one inference decoder is at least that of others, for more than half of the sizes N."""

    kind: Literal["at_least_for_most"]
    analysis: Name
    treatment: Name
    controls: list[Name] = Field(min_length=1)
    margin: Name


class Proposition(Strict):
    """A mathematical statement, checked on drawn distributions."""

    kind: Literal["proposition"]
    name: Literal["variance_inflation", "entropy_by_temperature"]
    cases: PositiveInt
    tolerance: PositiveFloat = Field(description="rounding error that is no violation")


Test = Annotated[
    Contrast | LeadShrinks | Trend | Stability | EarlyLate | MostSizes | Proposition,
    Field(discriminator="kind"),
]


class Claim(Strict):
    """One sentence of the paper; it holds if all its tests do."""

    title: str = Field(min_length=1, max_length=40, description="the claim in a few words, for the figure")
    claim: str = Field(min_length=1, description="without the paper's models: reports say which models ran")
    figure: Name
    readings: list[Name] = Field(min_length=1)
    seeds: PositiveInt | None = Field(None, description="training seeds it needs, where that is more")
    tests: list[Test] = Field(min_length=1)

    @property
    def numeric(self) -> bool:
        """Whether this is checked without statistics, and so takes no part in the correction."""
        return all(isinstance(test, Proposition) for test in self.tests)

    @property
    def about_trainings(self) -> bool:
        """Whether it concerns trainings, of which there may be several by seed; else one model's decoding."""
        return any(isinstance(test, Contrast | LeadShrinks | Trend | Stability) for test in self.tests)


class BetweenSeeds(Strict):
    """What is assumed of how trainings differ by their seed, where a run has not recorded it."""

    source: str = Field(min_length=1)
    deviations: dict[
        Literal["pass_at_1", "pass_at_k", "worst_at_k"], dict[Literal["final", "late", "run"], PositiveFloat]
    ] = Field(
        description="standard deviations between the scores of trainings, by the checkpoints in the mean"
    )

    def variance(self, quantity: EvaluationQuantity, cells: int) -> float | None:
        """Return the variance of a comparison's effect between seeds; None where nothing is assumed.

        Of two ``cells``, a treatment and a control; or of more, the difference of two leads over a mean of controls.
        """
        deviation = self.deviations.get(quantity.metric, {}).get(quantity.steps)
        if deviation is None:
            return None
        return 2 * deviation**2 * (1 if cells == 2 else 1 + 1 / (cells // 2 - 1))


class Claims(Strict):
    """workflow/claims.yaml."""

    alpha: Share = Field(description="family-wise error of each kind of verdict")
    confidence: Share
    power: Share
    replicates: Annotated[int, Field(ge=1000)]
    seeds: PositiveInt = Field(description="training seeds that a verdict on trainings needs at least")
    between_seeds: BetweenSeeds
    margins: dict[Name, Margin]
    gates: Gates
    readings: dict[Name, Reading]
    claims: dict[Annotated[str, Field(pattern=r"^C\d\d$")], Claim]

    @field_validator("claims")
    @classmethod
    def _ordered(cls, claims: dict) -> dict:
        if list(claims) != sorted(claims):
            raise ValueError("claims must be in the order of their numbers")
        return claims

    @model_validator(mode="after")
    def _names_exist(self) -> "Claims":
        for name, claim in self.claims.items():
            for reading in claim.readings:
                if reading not in self.readings:
                    raise ValueError(
                        f"claims.{name}: unknown reading {reading!r}{suggest(reading, self.readings)}"
                    )
            for test in claim.tests:
                margin = getattr(test, "margin", None)
                if margin is not None and margin not in self.margins:
                    raise ValueError(
                        f"claims.{name}: unknown margin {margin!r}{suggest(margin, self.margins)}"
                    )
        return self

    def family(self, reading: str) -> list[str]:
        """Return the claims that ``reading`` gives a verdict on by statistics: one family of tests."""
        return [
            name for name, claim in self.claims.items() if not claim.numeric and reading in claim.readings
        ]

    def seeds_needed(self, claim: str) -> int | None:
        """Return how many training seeds a verdict on ``claim`` needs; None where it is not about trainings."""
        declared = self.claims[claim]
        return max(self.seeds, declared.seeds or 0) if declared.about_trainings else None


def load_claims(path: Path = WORKFLOW / "claims.yaml", changes: Mapping[str, Any] | None = None) -> Claims:
    """Read and validate workflow/claims.yaml, with ``changes`` laid over it: other margins, readings, seeds."""
    source = f"{path.name} with the changes" if changes else path.name
    return validate(Claims, merge(read_yaml(path), changes or {}), source)
