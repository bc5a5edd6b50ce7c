"""The typed configuration: what a user edits, what a scale defines, what an experiment asks for.

These files are read and validated here before Snakemake builds its graph:

- ``config.yaml``: the user's choices (:class:`Configuration`)
- ``workflow/samplers.yaml``, ``workflow/algorithms.yaml``: the methods, in the paper's units, for all scales
- ``workflow/scales/{scale}.yaml``: models, data sets, budgets, and what differs there (:class:`Scale`)
- ``workflow/experiments.yaml``: figure -> grid of runs (:class:`Experiment`)

``workflow/datasets.yaml`` (``ead.pipeline.data``), ``workflow/models.yaml`` (``ead.pipeline.pretrained``) and
``workflow/claims.yaml`` (``ead.pipeline.claims``) are read where they are used.

Everything is strict: an unknown key, a wrong type or a value out of range is an error that names the file,
the key, what was found and what is allowed. ``workflow/schemas/`` holds the generated JSON schemas.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from ead import schedule

REPOSITORY = Path(__file__).resolve().parents[3]
WORKFLOW = REPOSITORY / "workflow"
SAMPLERS_FILE = WORKFLOW / "samplers.yaml"
SCALES = ("mini", "cpu", "gpu1", "paper")
# The models that the paper trains; a scale says what stands for each.
ROLES = ("llama_1b", "qwen_1_5b", "qwen_7b", "qwen3_8b")
ROLE_LABELS = {
    "llama_1b": "Llama-3.2-1B-Instruct",
    "qwen_1_5b": "Qwen2.5-Math-1.5B",
    "qwen_7b": "Qwen2.5-Math-7B",
    "qwen3_8b": "Qwen3-8B-Base",
}

# What `all` makes unless config.yaml says otherwise, in the paper's order; then what the project adds.
FIGURES = [
    *("fig01", "fig02", "fig03", "fig04", "fig05", "fig06", "fig07a", "fig07b", "fig08", "fig09", "fig10"),
    *("fig11a", "fig11b", "fig12", "fig13", "fig14", "table1", "propositions", "decoders", "deviations"),
]

# Names become folder names and wildcards, so they are kept to characters that need no quoting, and to a length that
# leaves room for the names of five axes and of a file. No name is "..", hidden, absolute, or holds a slash.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
# A folder that the user chooses. Snakemake would read braces and stars as patterns.
Folder = Annotated[str, Field(min_length=1, pattern=r"^[^{}*?\[\]\x00-\x1f\x7f]+$")]
# A file inside a folder that the project chooses: relative, and never above it.
RelativeFile = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$")
]
Share = Annotated[float, Field(gt=0, lt=1)]
# A number of things: beyond a billion it is a slip, and tables of that length would fill the memory.
Count = Annotated[int, Field(gt=0, le=10**9)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
# Rollouts are compared with their group, so a group of one has no advantage and nothing is learnt from it.
Rollouts = Annotated[int, Field(ge=2, le=10**4)]


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the message has one line per problem."""


class Strict(BaseModel):
    """No unknown keys, no silent conversions from text, no NaN or infinity, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _schedule(value: Any) -> dict[str, Any]:
    return schedule.from_config(value).to_dict()


# A schedule is stored as plain data with every default filled in, so that it can be hashed and written.
ScheduleDict = Annotated[dict[str, Any], BeforeValidator(_schedule)]


def _unique(values: list) -> list:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"holds {repeated[0]!r} more than once")
    return values


# --- config.yaml -------------------------------------------------------------------------------------------


class Paths(Strict):
    """Where things are read and written; relative paths start at the repository."""

    results: Folder = Field("results", description="everything the rules produce")
    reports: Folder = Field("reports", description="figures, tables and reports")
    real_data: Folder | None = Field(
        None, description="folder with local copies of the real data sets; null fetches them from their hub"
    )


class Tracking(Strict):
    """MLflow. Files are the truth; MLflow is a view that can be rebuilt from them."""

    uri: Annotated[str, Field(pattern=r"^(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?://\S+$")] | None = (
        Field(
            None,
            description="tracking server; null keeps a local store in {results}/mlflow (see `make mlflow`)",
        )
    )
    stream: bool = Field(
        True,
        description="send metrics while a training runs; false leaves it to the job that ingests finished runs",
    )


class Interpreters(Strict):
    """Python of each environment when Snakemake runs without --sdm conda; null is the current one."""

    cpu: str | None = Field(None, description="envs/cpu: the workflow and the in-process engine")
    verl_cpu: str | None = Field(None, description="envs/verl-cpu: verl and vLLM on CPUs")
    gpu: str | None = Field(None, description="envs/gpu: verl and vLLM on GPUs")


class Configuration(Strict):
    """What a user edits (config.yaml)."""

    scale: Literal[SCALES] = Field(
        "cpu",
        description="mini (tests, a minute), cpu (a laptop), gpu1 (one 80 GB GPU), paper (8 GPUs per run)",
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], AfterValidator(_unique)] = Field(
        [0], min_length=1, description="one training per cell and seed; adding a seed reuses what ran"
    )
    root_seed: int = Field(
        2025, ge=0, description="every random stream of the project is derived from this number"
    )
    experiments: Annotated[list[Name], AfterValidator(_unique)] = Field(
        FIGURES, description="entries of workflow/experiments.yaml that `all` makes"
    )
    overrides: dict[str, Any] = Field(
        {},
        description="laid over workflow/scales/{scale}.yaml, e.g. {samplers: {ead: {schedule: {tau_max: 1.3}}}}",
    )
    paths: Paths = Paths()
    tracking: Tracking = Tracking()
    interpreters: Interpreters = Interpreters()


# --- workflow/scales/*.yaml --------------------------------------------------------------------------------


class CountdownData(Strict):
    """Problems of the synthetic task (``ead.pipeline.countdown``); train and test never share one."""

    kind: Literal["countdown"] = Field(description="generated problems")
    numbers: Literal[3, 4] = Field(description="how many numbers a problem gives")
    split: Literal["train", "test"] = Field(description="which part of all problems")
    test_share: Share = Field(0.2, description="share of all problems that are held out")
    limit: Count | None = Field(None, description="keep this many problems; null keeps all")


class RealData(Strict):
    """A real data set: an entry of workflow/datasets.yaml."""

    kind: Literal["real"] = Field(description="prepared from its source")
    source: Name = Field(description="name in workflow/datasets.yaml")
    limit: Count | None = Field(None, description="use the first so many problems; null uses all")


class WarmStartModel(Strict):
    """A Llama-class model trained from scratch on demonstrations (``ead.pipeline.warmstart``)."""

    kind: Literal["warm_start"] = Field(description="trained here")
    hidden_size: Count = Field(description="width of the residual stream; a multiple of `heads`")
    layers: Count = Field(description="transformer blocks")
    heads: Count = Field(description="attention heads")
    mlp_size: Count = Field(description="width of the gated feed-forward layers")
    max_positions: Count = Field(512, description="longest prompt and response together, in tokens")
    dataset: Name = Field(description="problems whose demonstrations it learns from")
    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="demonstrations per step")
    learning_rate: LearningRate = Field(description="its peak")
    warmup_steps: Count = Field(description="steps over which the learning rate rises to its peak")
    skill: Share = Field(0.5, description="probability that an attempt of the demonstrator succeeds")
    surrender: Share = Field(0.5, description="probability of giving up after a failed attempt")
    max_attempts: Count = Field(4, description="attempts after which the demonstrator gives up")

    @model_validator(mode="after")
    def _consistent(self) -> "WarmStartModel":
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads})")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be at most steps ({self.steps})")
        return self


class PretrainedModel(Strict):
    """A published model: an entry of workflow/models.yaml."""

    kind: Literal["pretrained"] = Field(description="imported from its source")
    source: str = Field(min_length=1, description="name in workflow/models.yaml")


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


class Sampler(Strict):
    """How training rollouts are drawn, and how the trainer accounts for it."""

    schedule: ScheduleDict = Field(
        description="temperature of each response token, see [Schedule](#schedule)"
    )
    importance: Importance | None = Field(None, description="null trains without correction")
    logprob_temperature: Literal["one", "sampling"] = Field(
        "one", description="divide the trainer's logits by the sampling temperature, or not (D15)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Sampler":
        if self.importance and self.logprob_temperature == "sampling":
            raise ValueError(
                "importance needs logprob_temperature: one; with `sampling` the trainer has no log-probabilities "
                "of the policy at temperature 1 that the sampler could be corrected to"
            )
        return self


class NamedSampler(Sampler):
    """A sampler as the tables of a scale hold it; a run depends on the :class:`Sampler` alone."""

    label: str = Field(min_length=1, description="its name in figures and tables")
    style: Style = Field(description="how figures draw it")

    @property
    def sampler(self) -> Sampler:
        return Sampler(**{name: getattr(self, name) for name in Sampler.model_fields})


class SharedSampler(NamedSampler):
    """An entry of workflow/samplers.yaml, in the paper's units."""

    figures: Annotated[list[Name], AfterValidator(_unique)] = Field(
        [], description="figures that show it besides those whose `runs` name it in workflow/experiments.yaml"
    )


class Samplers(Strict):
    """workflow/samplers.yaml."""

    samplers: dict[Name, SharedSampler]


class Algorithm(Strict):
    """Policy-gradient loss; the advantage is always the group's standardised reward (D11, D13)."""

    loss: Literal["clip", "clip_cov", "kl_cov"] = Field(
        "clip", description="PPO's clipped loss, or one of EntropyMech's two, Clip-Cov and KL-Cov"
    )
    clip_low: PositiveFloat = Field(0.2, description="probability ratios below 1 minus this are clipped")
    clip_high: PositiveFloat = Field(0.2, description="probability ratios above 1 plus this are clipped")
    dual_clip: PositiveFloat | None = Field(
        None, description="bounds the loss at this times the advantage where that is negative; null does not"
    )
    aggregation: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"] = Field(
        "token-mean", description="from the losses of tokens to one number"
    )
    kl_coefficient: Annotated[float, Field(ge=0)] = Field(0.0, description="penalty to the reference policy")


class NamedAlgorithm(Algorithm):
    """An algorithm as the tables of a scale hold it."""

    label: str = Field(min_length=1, description="its name in figures and tables")

    @property
    def algorithm(self) -> Algorithm:
        return Algorithm(**{name: getattr(self, name) for name in Algorithm.model_fields})


MOST_CHECKPOINTS = 10_000


class Training(Strict):
    """Budget and optimiser of one run."""

    dataset: Name = Field(description="of the scale's data sets, or a name in workflow/datasets.yaml")
    steps: Count = Field(description="global steps; a multiple of `checkpoint_every`")
    prompts: Count = Field(description="prompts per step; each gets n rollouts")
    mini_batch_prompts: Count = Field(description="prompts per optimiser step; divides `prompts`")
    micro_batch_tokens: Count = Field(description="tokens per forward pass, padding included")
    max_new_tokens: Count = Field(description="a response is cut here")
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = Field((0.9, 0.99), description="of AdamW")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="of AdamW")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="steps over which the learning rate rises"
    )
    decay: Literal["constant", "linear"] = Field(
        "constant", description="the learning rate afterwards: kept, or falling to 0 at the last step"
    )
    gradient_clip: PositiveFloat = Field(1.0, description="largest norm of a gradient")
    checkpoint_every: Count = Field(description="steps between checkpoints that are evaluated")
    verifier_timeout_s: PositiveFloat = Field(10.0, description="seconds for grading one response")

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.prompts % self.mini_batch_prompts:
            raise ValueError(
                f"prompts ({self.prompts}) must be a multiple of mini_batch_prompts ({self.mini_batch_prompts})"
            )
        if self.steps % self.checkpoint_every:
            raise ValueError(
                f"steps ({self.steps}) must be a multiple of checkpoint_every ({self.checkpoint_every})"
            )
        if self.steps // self.checkpoint_every > MOST_CHECKPOINTS:
            raise ValueError(
                f"steps ({self.steps}) must be at most {MOST_CHECKPOINTS} times checkpoint_every "
                f"({self.checkpoint_every}), or the run has too many checkpoints"
            )
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be at most steps ({self.steps})")
        return self

    @property
    def window(self) -> int:
        """Steps over which figures average what a training logs at every step: a twentieth of the run."""
        return max(1, round(self.steps / 20))

    @property
    def checkpoints(self) -> list[int]:
        return list(range(self.checkpoint_every, self.steps + 1, self.checkpoint_every))


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
    decoders: Annotated[list[Name], AfterValidator(_unique)] = Field(
        min_length=1, description="keys of the scale's decoders"
    )
    final_decoders: Annotated[list[Name], AfterValidator(_unique)] = Field(
        [], description="further decoders, for the last checkpoint only"
    )
    verifier_timeout_s: PositiveFloat = Field(10.0, description="seconds for grading one response")

    @model_validator(mode="after")
    def _consistent(self) -> "Evaluation":
        if twice := [decoder for decoder in self.final_decoders if decoder in self.decoders]:
            raise ValueError(f"final_decoders holds {twice[0]!r}, which is among the decoders already")
        return self


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

    model: Name | None = Field(None, description="a model as it comes, or ...")
    role: Literal[ROLES] | None = Field(None, description="... one of the paper's: its base model, or ...")
    algorithm: Name | None = Field(None, description="... the last checkpoint of a run, with ...")
    sampler: Name | None = Field(None, description="... its training sampler")
    dataset: Name = Field(description="of the scale's data sets, or a name in workflow/datasets.yaml")
    problems: Count = Field(description="drawn at random from the data set")
    max_prompt_tokens: Count | None = Field(
        None, description="problems with a longer prompt are left out; null takes all"
    )
    samples: Count = Field(description="responses per problem and decoder")
    max_new_tokens: Count = Field(description="a response is cut here")
    decoders: Annotated[list[Name], AfterValidator(_unique)] = Field(
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
    positions: Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_unique)] = Field(
        min_length=2, description="response tokens that are kept, in increasing order"
    )
    branches: Count = Field(description="continuations of every cut response")
    sizes: Annotated[list[Count], AfterValidator(_unique)] = Field(
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
    sizes: Annotated[list[Count], AfterValidator(_unique)] = Field(
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


class ScheduleUnits(Strict):
    """What the paper's units are here: ``d0``, ``alpha`` and ``d_max`` of workflow/samplers.yaml are converted."""

    length: PositiveFloat = Field(description="length of a response here over its length in the paper")
    steps: PositiveFloat = Field(description="training steps here over training steps in the paper")
    start: Annotated[int, Field(ge=0)] = Field(description="the template's length in tokens, the paper's c")


class Role(Strict):
    """What stands for one of the paper's models."""

    model: Name = Field(description="of the scale's models, or a name in workflow/models.yaml")
    recipe: Name | None = Field(None, description="key of the scale's recipes; null is its default training")
    annealed: dict[str, Any] = Field(
        {}, description="laid over every annealed schedule, e.g. {tau_min: 0.8} for the paper's 7B model"
    )


class Recipe(Strict):
    """A training and evaluation that differ from the scale's default."""

    training: Training = Field(description="laid over the scale's training")
    evaluation: Evaluation = Field(description="laid over the scale's evaluation")


class Verl(Strict):
    """How the verl engine uses its machines. A run's statistics do not depend on these, so its hash does not."""

    device: Literal["cuda", "cpu"] = Field(
        "cuda", description="cpu is for the smoke test: float32, one process"
    )
    nodes: Count = Field(1, description="machines of one training")
    gpus_per_node: Count = Field(1, description="GPUs that a training takes on each")
    max_prompt_tokens: Count = Field(1024, description="a longer prompt is an error")
    tensor_parallel: Count = Field(1, description="GPUs that share one vLLM engine")
    gpu_memory_utilization: Share = Field(0.6, description="share of a GPU's memory that vLLM takes")
    offload: bool = Field(
        False, description="keep parameters and optimiser in host memory while vLLM samples"
    )
    attention: Literal["sdpa", "flash_attention_2"] = Field(
        "sdpa", description="of the trainer; flash_attention_2 packs sequences and wants flash-attn built"
    )
    reward_workers: Count = Field(8, description="processes that grade responses")
    validate_every: Count | None = Field(
        None, description="steps between validations inside verl, beside the evaluation of checkpoints"
    )
    validation_samples: Count = Field(4, description="responses per problem in those validations, at tau = 1")
    dump_every: Count | None = Field(
        None, description="steps between dumps of rollouts, token by token; null keeps none"
    )


class Scale(Strict):
    """One budget for the whole paper: every name an experiment uses is defined here."""

    engine: Literal["inprocess", "verl"] = Field(
        description="what trains: a loop in this process, or verl with Ray and vLLM"
    )
    description: str = Field(description="hardware, data and models in a few words, for figures and reports")
    datasets: dict[Name, Annotated[CountdownData | RealData, Field(discriminator="kind")]] = Field(
        description="the scale's data sets; a name in workflow/datasets.yaml needs no entry"
    )
    models: dict[Name, Annotated[WarmStartModel | PretrainedModel, Field(discriminator="kind")]] = Field(
        description="the scale's models; a name in workflow/models.yaml needs no entry"
    )
    roles: dict[Literal[ROLES], Role] = Field(description="the paper's model -> what stands for it here")
    schedule_units: ScheduleUnits | None = Field(None, description="null: the paper's units are this scale's")
    samplers: dict[Name, NamedSampler] = Field(
        description="laid over workflow/samplers.yaml, in the scale's own units"
    )
    algorithms: dict[Name, NamedAlgorithm] = Field(description="laid over workflow/algorithms.yaml")
    rollouts: Rollouts = Field(description="rollouts per prompt where an experiment does not say")
    learning_rates: dict[Rollouts, LearningRate] = Field(description="rollouts per prompt -> learning rate")
    training: Training = Field(description="of every role without a recipe")
    recipes: dict[Name, Recipe] = Field({}, description="what differs for the roles that name one")
    decoders: dict[Name, Decoder] = Field(description="how evaluation samples may be drawn")
    evaluation: Evaluation = Field(description="of every checkpoint, and of the base models")
    inference: dict[Name, AnyStudy] = Field({}, description="study -> the responses it draws")
    keep_checkpoints: Literal["all", "last"] = Field(
        "all", description="last deletes a run's other checkpoints when they are evaluated"
    )
    verl: Verl | None = Field(None, description="required by the verl engine")
    real_lm: RealLanguageModel | None = Field(None, description="what the target real_lm evaluates")
    published_curves: bool = Field(
        False, description="overlay the paper's curves: only where models, data and steps are the paper's"
    )

    def study(self, name: str) -> AnyStudy | None:
        """Return a study; None where this scale lacks it, or the role it looks at."""
        found = self.inference.get(name)
        return None if found is None or (found.role and found.role not in self.roles) else found

    def style_of(self, decoder: str) -> Style:
        """Return how figures draw a decoder: like the first sampler of its kind, whatever the decay rate."""
        telling = ("kind", "tau", "reading", "origin")
        drawn = self.decoders[decoder].schedule or {}
        for sampler in self.samplers.values():
            if all(sampler.schedule.get(key) == drawn.get(key) for key in telling):
                return sampler.style
        raise ConfigurationError(
            f"decoders.{decoder}: no sampler is like it, so figures have no style for it"
        )

    def training_of(self, role: str) -> Training:
        recipe = self.roles[role].recipe
        return self.recipes[recipe].training if recipe else self.training

    def evaluation_of(self, model: str) -> Evaluation:
        """Return the evaluation of ``model`` and of the runs that start from it."""
        for role in self.roles.values():
            if role.model == model and role.recipe:
                return self.recipes[role.recipe].evaluation
        return self.evaluation

    @model_validator(mode="after")
    def _names_exist(self) -> "Scale":
        def known(kind: str, name: str, where: str, table: Mapping) -> None:
            if name not in table:
                raise ValueError(f"{where}: unknown {kind} {name!r}{suggest(name, table)}")

        recipe_of: dict[str, str | None] = {}
        for name, role in self.roles.items():
            known("model", role.model, f"roles.{name}.model", self.models)
            if role.recipe is not None:
                known("recipe", role.recipe, f"roles.{name}.recipe", self.recipes)
            # A run is named by its model, so a model has one recipe and one form of each schedule.
            if role.model in recipe_of:
                raise ValueError(f"roles.{name}.model: {role.model!r} already stands for another role")
            recipe_of[role.model] = role.recipe
            for sampler in self.samplers.values():
                try:
                    adapt_schedule(sampler.schedule, role.annealed)
                except ValueError as error:
                    raise ValueError(f"roles.{name}.annealed: {error}") from None
        for name, model in self.models.items():
            if isinstance(model, WarmStartModel):
                known("dataset", model.dataset, f"models.{name}.dataset", self.datasets)
                if not isinstance(self.datasets[model.dataset], CountdownData):
                    raise ValueError(
                        f"models.{name}.dataset: demonstrations exist for countdown problems only"
                    )
        trainings = {"training": self.training}
        evaluations: dict[str, Evaluation] = {"evaluation": self.evaluation}
        for name, recipe in self.recipes.items():
            trainings[f"recipes.{name}.training"] = recipe.training
            evaluations[f"recipes.{name}.evaluation"] = recipe.evaluation
        if self.real_lm is not None:
            known("model", self.real_lm.model, "real_lm.model", self.models)
            evaluations["real_lm"] = self.real_lm
        for name, study in self.inference.items():
            where = f"inference.{name}"
            known("dataset", study.dataset, f"{where}.dataset", self.datasets)
            for key, value, table in (
                ("model", study.model, self.models),
                ("algorithm", study.algorithm, self.algorithms),
                ("sampler", study.sampler, self.samplers),
            ):
                if value is not None:
                    known(key, value, f"{where}.{key}", table)
            for decoder in study.decoders:
                known("decoder", decoder, f"{where}.decoders", self.decoders)
        for where, training in trainings.items():
            known("dataset", training.dataset, f"{where}.dataset", self.datasets)
        for where, evaluation in evaluations.items():
            known("dataset", evaluation.dataset, f"{where}.dataset", self.datasets)
            for key in ("decoders", "final_decoders"):
                for decoder in getattr(evaluation, key):
                    known("decoder", decoder, f"{where}.{key}", self.decoders)
        if self.rollouts not in self.learning_rates:
            raise ValueError(
                f"learning_rates: no learning rate for rollouts = {self.rollouts}; there are some for "
                f"{', '.join(map(str, self.learning_rates)) or 'none'}"
            )
        if self.engine == "verl":
            if self.verl is None:
                raise ValueError("verl: the engine verl needs this section")
            for where, training in trainings.items():
                self._trainable_by_verl(where, training)
        return self

    def _trainable_by_verl(self, where: str, training: Training) -> None:
        """Raise ValueError for what ``ead.pipeline.engines.verl`` would refuse when the job has started."""
        if training.warmup_steps or training.decay != "constant":
            raise ValueError(
                f"{where}: the verl engine keeps the learning rate constant; allowed: warmup_steps = 0 and "
                f"decay = 'constant', found warmup_steps = {training.warmup_steps}, decay = {training.decay!r}"
            )
        gpus = self.verl.nodes * self.verl.gpus_per_node
        for n in self.learning_rates:
            responses = training.mini_batch_prompts * n
            if responses % gpus:
                raise ValueError(
                    f"{where}.mini_batch_prompts: a mini-batch of {responses} responses ({n} rollouts per prompt) "
                    f"does not divide among {gpus} GPUs (verl.nodes x verl.gpus_per_node)"
                )


# --- workflow/experiments.yaml -----------------------------------------------------------------------------


class Grid(Strict):
    """Every combination of these is one cell; a role that the scale does not define has no cells there."""

    role: Annotated[list[Literal[ROLES]], AfterValidator(_unique)] = Field(
        min_length=1, description="models of the paper"
    )
    algorithm: Annotated[list[Name], AfterValidator(_unique)] = Field(
        min_length=1, description="keys of the scale's algorithms"
    )
    sampler: Annotated[list[Name], AfterValidator(_unique)] = Field(
        min_length=1, description="keys of the scale's samplers"
    )
    rollouts: Annotated[list[Rollouts | None], AfterValidator(_unique)] = Field(
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


# --- reading -----------------------------------------------------------------------------------------------


def suggest(name: Any, known: Iterable) -> str:
    """Return the end of an error message: the nearest known name, and all of them."""
    known = list(map(str, known))
    near = difflib.get_close_matches(str(name)[:200], known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; known: {', '.join(known) or 'none'}"


class _UniqueKeyLoader(yaml.CSafeLoader):
    """YAML lets a repeated key win silently; here it is an error."""

    def construct_mapping(self, node, deep=False):
        # `<<: *anchor` is no key of its own: what stands beside it may override what it brings.
        written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=deep) for key in written]
        for place, (key, value) in enumerate(zip(written, keys, strict=True)):
            if value in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {value!r} appears twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


# A table of the workflow has a few thousand values. Aliases can make a small file stand for billions of them.
MOST_VALUES = 100_000
MOST_LEVELS = 50


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in ``path``.

    Raises ConfigurationError, one line with the file, the place and the cause: no such file, not UTF-8, not YAML, a
    repeated key, anything but a mapping, or aliases that stand for more than ``MOST_VALUES`` values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text)
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at position {error.start}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path}: not valid YAML{_yaml_problem(error, text)}") from None
    if not isinstance(values, dict):
        found = "an empty file" if values is None else _kind_of(values)
        raise ConfigurationError(f"{path}: expected a mapping (key: value), found {found}")
    if sum(1 for _, _ in zip(_values_in(values), range(MOST_VALUES + 1), strict=False)) > MOST_VALUES:
        raise ConfigurationError(
            f"{path}: stands for more than {MOST_VALUES:,} values; use fewer aliases (*name)"
        )
    return values


def _check_depth(text: str) -> None:
    """Raise YAMLError for deep nesting, event by event: the composer is recursive, and ends the process instead."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS:
            raise yaml.constructor.ConstructorError(
                None, None, f"nested in more than {MOST_LEVELS} levels", event.start_mark
            )


def _yaml_problem(error: Exception, text: str) -> str:
    """Return place and cause in one line; yaml's own messages take several."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    cause = getattr(error, "problem", None) or " ".join(str(error).split())
    if (
        mark
        and text.splitlines()[mark.line : mark.line + 1]
        and text.splitlines()[mark.line].startswith("\t")
    ):
        cause = "indented with a tab; allowed: spaces"
    return f"{where}: {cause}"


def _values_in(value: Any) -> Iterator[Any]:
    ahead = [value]
    while ahead:
        value = ahead.pop()
        yield value
        if isinstance(value, Mapping):
            ahead.extend(value.values())
        elif isinstance(value, list):
            ahead.extend(value)


def _kind_of(value: Any) -> str:
    """Return what a value is, in words of YAML, and the value where it is a short one."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``override`` laid over it, mapping by mapping; lists and values are replaced."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def validate(model: type[BaseModel], values: Any, source: str) -> Any:
    """Return ``values`` as ``model``.

    Raises ConfigurationError with one line per problem: the source, the key, what was found and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(model, problem, source, values) for problem in problems[:MOST_LINES]]
        if len(problems) > MOST_LINES:
            lines.append(f"{source}: and {len(problems) - MOST_LINES} mistakes more")
        raise ConfigurationError("\n".join(lines)) from None
    except RecursionError:
        raise ConfigurationError(f"{source}: nested too deeply") from None


MOST_LINES = 20  # of one message


def _explain(model: type[BaseModel], problem: Mapping[str, Any], source: str, values: Any) -> str:
    location = _without_discriminators(problem["loc"], values)
    key = ".".join(map(_printable, location)) or "(top level)"
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}{suggest(location[-1], _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{source}: the key {key!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        message = "Input should be a mapping (key: value)"
    found = problem["input"]
    if isinstance(found, BaseModel) or (isinstance(found, Mapping) and problem["type"] == "value_error"):
        return f"{source}: {key}: {message}" if location else f"{source}: {message}"  # it names the keys
    return f"{source}: {key}: {message}, found {_kind_of(found)}{_number_hint(found, problem['type'])}"


def _printable(part: Any) -> str:
    text = str(part)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number_hint(found: Any, problem: str) -> str:
    """YAML 1.1 reads 1e-3 as text; say how to write it."""
    if problem not in ("float_type", "int_type") or not isinstance(found, str):
        return ""
    try:
        number = float(found)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    if number.is_integer() and abs(number) < 1e6:
        return f", which is text; write {int(number)}"
    written = f"{number!r}"
    if "e" in written and "." not in written:
        written = written.replace("e", ".0e")
    return f", which is text; write {written}"


def _without_discriminators(location: tuple, values: Any) -> list:
    """Drop what pydantic adds to the location of a union member, the discriminator's value: no key of the file."""
    parts = []
    for part in location:
        if isinstance(values, Mapping) and part not in values:
            if part in (values.get("kind"), values.get("analysis")):
                continue
            values = None
        elif isinstance(values, Mapping):
            values = values[part]
        elif isinstance(values, list):
            values = values[part] if part < len(values) else None
        parts.append(part)
    return parts


def _keys_at(model: type[BaseModel], location: list) -> list[str]:
    """The keys that ``model`` allows at ``location``, for the hint of an error message."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def alternatives(node: dict) -> list[dict]:
        if "$ref" in node:
            return alternatives(definitions[node["$ref"].rsplit("/", 1)[-1]])
        options = node.get("anyOf", []) + node.get("oneOf", []) + node.get("allOf", [])
        return [node] + [deeper for option in options for deeper in alternatives(option)]

    nodes = alternatives(schema)
    for part in location:
        steps = []
        for node in nodes:
            if isinstance(part, int):
                steps += alternatives(node["items"]) if isinstance(node.get("items"), dict) else []
            elif part in node.get("properties", {}):
                steps += alternatives(node["properties"][part])
            elif isinstance(node.get("additionalProperties"), dict):
                steps += alternatives(node["additionalProperties"])
            else:  # a name table: the schema may describe its values by pattern
                for values in node.get("patternProperties", {}).values():
                    steps += alternatives(values)
        nodes = steps
    return sorted({key for node in nodes for key in node.get("properties", {})})


def load_configuration(values: Mapping[str, Any], source: str = "config.yaml") -> Configuration:
    """Validate the user's choices, for instance Snakemake's merged ``config``."""
    return validate(Configuration, dict(values), source)


def load_scale(name: str, overrides: Mapping[str, Any] | None = None, workflow: Path | None = None) -> Scale:
    """Read and validate a scale with ``overrides`` laid over it; see :func:`scale_values`."""
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
    algorithms: dict[Name, NamedAlgorithm]


def scale_values(
    name: str, overrides: Mapping[str, Any] | None = None, workflow: Path | None = None
) -> dict[str, Any]:
    """Return ``{workflow}/scales/{name}.yaml`` over the shared methods, with ``overrides`` laid over both.

    A role that is null is left out. The file's ``extends`` names a scale whose values it overrides in the same
    way; a recipe's values are laid over the scale's default training and evaluation. The shared samplers are in
    the paper's units and are converted first; what the scale and ``overrides`` say is in the scale's own. A data set
    or a model that is named but not defined there is the entry of that name in the table of real ones.
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
                f"scales/{path.name}: extends: unknown scale {_kind_of(base)}{suggest(base, others)}"
            )
        values = merge(read_yaml(folder / f"{base}.yaml"), values)
    values = merge(values, overrides or {})
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
            values[section] = {**defined, **taken}
    return values


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
    """Return samplers in the paper's units as samplers in a scale's: decay rates and the start are converted."""
    factors = {"d0": units.length, "alpha": units.length / units.steps, "d_max": units.length}

    def converted(schedule_values: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(schedule_values)
        for key, factor in factors.items():
            if key in values:
                values[key] = float(f"{values[key] * factor:.6g}")
        if "start" in values:
            values["start"] = units.start
        return values

    return {
        name: {**sampler, "schedule": converted(sampler["schedule"])} for name, sampler in samplers.items()
    }


def adapt_schedule(schedule_values: Mapping[str, Any], annealed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule with a role's ``annealed`` values laid over it, unless its temperature is fixed.

    Raises ValueError for a key or a value that the schedule does not allow.
    """
    if schedule_values["kind"] == schedule.Fixed.kind or not annealed:
        return dict(schedule_values)
    return schedule.from_config({**schedule_values, **annealed}).to_dict()


def load_experiments(
    path: Path = WORKFLOW / "experiments.yaml", samplers: Path = SAMPLERS_FILE
) -> dict[str, Experiment]:
    """Read figure -> :class:`Experiment`; a sampler that names a figure is in every grid of its runs."""
    experiments = validate(Experiments, {"experiments": read_yaml(path)}, path.name).experiments
    for name, sampler in load_samplers(samplers).items():
        for figure in sampler.figures:
            where = f"{samplers.name}: {name}.figures"
            if figure not in experiments:
                raise ConfigurationError(f"{where}: unknown figure {figure!r}{suggest(figure, experiments)}")
            if not hasattr(experiments[figure], "runs"):
                raise ConfigurationError(f"{where}: {figure} shows no training runs")
            grids = [
                grid.model_copy(update={"sampler": list(dict.fromkeys([*grid.sampler, name]))})
                for grid in experiments[figure].runs
            ]
            experiments[figure] = experiments[figure].model_copy(update={"runs": grids})
    return experiments


# --- generated files ---------------------------------------------------------------------------------------


def render_configuration(values: Mapping[str, Any] | None = None) -> str:
    """Return config.yaml with ``values`` (by default the defaults), each key with its description as a comment."""
    model = Configuration.model_validate(dict(values or {}))
    header = "# What you edit. `make config` rewrites this file from the typed model and keeps your values.\n"
    return header + "".join(_render(model, indent=0))


def _render(model: BaseModel, indent: int) -> list[str]:
    lines = []
    margin = "  " * indent
    for key, field in type(model).model_fields.items():
        value = getattr(model, key)
        if isinstance(value, BaseModel):
            about = (type(value).__doc__ or "").strip().splitlines()[0]
            lines += [f"\n{margin}# {about}\n", f"{margin}{key}:\n", *_render(value, indent + 1)]
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
            lines += [f"{margin}{key}: {text}  # {field.description}\n"]
    return lines


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of the files a person writes, by file name in workflow/schemas/."""
    models = {"config": Configuration, "scale": Scale, "experiments": Experiments}
    return {f"{name}.schema.json": model.model_json_schema() for name, model in models.items()}
