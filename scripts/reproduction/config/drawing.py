"""What is drawn from models apart from training: evaluations, and studies of decoding."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from reproduction.config.explain import suggest
from reproduction.fields import ROLES, Count, Name, ScheduleDict, Strict, unique


class Decoder(Strict):
    """How evaluation samples are drawn, whatever the training sampler was (D06)."""

    schedule: ScheduleDict | None = Field(description="see [Schedule](#schedule); null is greedy decoding")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="nucleus sampling; 1 is without")
    label: str = Field(min_length=1, description="its name in figures and tables")


class Evaluation(Strict):
    """Which samples are drawn from every checkpoint."""

    dataset: Name = Field(description="of the scale's data sets, or a name in workflow/datasets.yaml")
    samples: Count = Field(16, description="responses per problem")
    max_new_tokens: Count = Field(description="a response is cut here")
    decoders: Annotated[list[Name], AfterValidator(unique)] = Field(
        min_length=1,
        description="keys of the scale's decoders; a run is evaluated with the first, and with those of the others "
        "that a figure, a claim or a deviation of it reads",
    )
    final_decoders: Annotated[list[Name], AfterValidator(unique)] = Field(
        [], description="further decoders, for the last checkpoint only"
    )
    verifier_timeout_s: PositiveFloat = Field(10.0, description="seconds for grading one response")

    @model_validator(mode="after")
    def _consistent(self) -> "Evaluation":
        if twice := [decoder for decoder in self.final_decoders if decoder in self.decoders]:
            raise ValueError(f"final_decoders holds {twice[0]!r}, which is among the decoders already")
        return self

    def reduced_to(self, decoders: Collection[str] | None) -> "Evaluation":
        """Return the evaluation with those of its decoders that are among ``decoders``; None leaves it as it is."""
        if decoders is None:
            return self
        kept = {
            key: [name for name in getattr(self, key) if name in decoders]
            for key in ("decoders", "final_decoders")
        }
        return self.model_copy(update=kept)


class RealLanguageModel(Evaluation):
    """The same evaluation with a published language model on real problems."""

    model: Name = Field(description="of the scale's models, or a name in workflow/models.yaml")


class EvaluationRequest(Strict):
    """What to draw from every checkpoint; plain data, so that a rule can carry it."""

    dataset: Name
    limit: int | None = None
    samples: int
    max_new_tokens: int
    decoders: dict[Name, Decoder]
    final_decoders: dict[Name, Decoder] = {}
    verifier_timeout_s: float
    root_seed: int


class Study(Strict):
    """Responses of one model or one trained run, drawn to look at decoding itself; the run is its first seed's."""

    model: Name | None = Field(None, description="a model without further training; or give `role`")
    role: Literal[ROLES] | None = Field(
        None, description="a model of the paper; without `sampler`, its base model"
    )
    algorithm: Name | None = Field(None, description="of the run whose last checkpoint is studied")
    sampler: Name | None = Field(None, description="training sampler of that run")
    dataset: Name = Field(description="of the scale's data sets, or a name in workflow/datasets.yaml")
    problems: Count = Field(description="drawn at random from the data set")
    max_prompt_tokens: Count | None = Field(
        None, description="problems with a longer prompt are left out; null takes all"
    )
    samples: Count = Field(description="responses per problem and decoder")
    max_new_tokens: Count = Field(description="a response is cut here")
    decoders: Annotated[list[Name], AfterValidator(unique)] = Field(
        min_length=1, description="keys of the scale's decoders"
    )
    verifier_timeout_s: PositiveFloat = Field(10.0, description="seconds for grading one response")

    @model_validator(mode="after")
    def _one_subject(self) -> "Study":
        if (self.model is None) == (self.role is None):
            raise ValueError("give either a model or a role")
        if (self.algorithm is None) != (self.sampler is None) or (self.algorithm and self.role is None):
            raise ValueError("a run is given by role, algorithm and sampler together")
        return self


class EntropyStudy(Study):
    """Token entropy at temperature 1 by position in the response (Figure 1)."""

    kind: Literal["entropy"] = Field(description="Figure 1's study")
    template_tokens: Annotated[int, Field(ge=0)] = Field(
        0, description="tokens that open every response alike; they count neither as early nor as late"
    )


class ForkingStudy(Study):
    """Majority@k of continuations by the position at which a response is cut (Figure 2)."""

    kind: Literal["forking"] = Field(description="Figure 2's study")
    positions: Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(unique)] = Field(
        min_length=2, description="response tokens that are kept, in increasing order"
    )
    branches: Count = Field(description="continuations of every cut response")
    sizes: Annotated[list[Count], AfterValidator(unique)] = Field(
        min_length=1, description="k of Majority@k, at most `branches`"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ForkingStudy":
        if self.positions != sorted(self.positions) or self.positions[-1] >= self.max_new_tokens:
            raise ValueError(
                f"positions must increase and lie below max_new_tokens ({self.max_new_tokens}), "
                f"found {self.positions}"
            )
        if max(self.sizes) > self.branches:
            raise ValueError(f"sizes must be at most branches ({self.branches}), found {max(self.sizes)}")
        return self


class MajorityStudy(Study):
    """Majority@N by N and decoder (Figure 9)."""

    kind: Literal["majority"] = Field(description="Figure 9's study")
    sizes: Annotated[list[Count], AfterValidator(unique)] = Field(
        min_length=1, description="N of Majority@N, at most `samples`"
    )
    baselines: list[Name] = Field(min_length=1, description="decoders that every other one is compared with")

    @model_validator(mode="after")
    def _consistent(self) -> "MajorityStudy":
        if max(self.sizes) > self.samples:
            raise ValueError(f"sizes must be at most samples ({self.samples}), found {max(self.sizes)}")
        for baseline in self.baselines:
            if baseline not in self.decoders:
                raise ValueError(f"baselines: unknown decoder {baseline!r}{suggest(baseline, self.decoders)}")
        if not self.treatments:
            raise ValueError("every decoder is a baseline, so none is compared")
        return self

    @property
    def treatments(self) -> list[str]:
        return [decoder for decoder in self.decoders if decoder not in self.baselines]


AnyStudy = Annotated[EntropyStudy | ForkingStudy | MajorityStudy, Field(discriminator="kind")]


class InferenceRequest(Strict):
    """A study as a job needs it: plain data, so that a rule can carry it."""

    study: AnyStudy
    decoders: dict[Name, Decoder]
    root_seed: int
