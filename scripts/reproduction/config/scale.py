"""One budget for the whole paper: models, data sets, trainings and machines (workflow/scales)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from reproduction.algorithms import Algorithm, AnyNamedAlgorithm, without_label
from reproduction.config import verl_limits
from reproduction.config.drawing import AnyStudy, Decoder, Evaluation, RealLanguageModel
from reproduction.config.explain import suggest
from reproduction.config.methods import NamedSampler, Style, adapt_schedule
from reproduction.fields import (
    ROLES,
    ConfigurationError,
    Count,
    LearningRate,
    Name,
    Rollouts,
    Seeds,
    Share,
    Strict,
)
from reproduction.tasks import GENERATED, AnyGeneratedData, GeneratedData


class RealData(Strict):
    """A real data set: an entry of workflow/datasets.yaml."""

    kind: Literal["real"] = Field(description="prepared from its source")
    source: Name = Field(description="name in workflow/datasets.yaml")
    limit: Count | None = Field(None, description="use the first so many problems; null uses all")


class WarmStartModel(Strict):
    """A Llama-class model trained from scratch on demonstrations (``reproduction.training.warmstart``)."""

    kind: Literal["warm_start"] = Field(description="trained here")
    hidden_size: Count = Field(description="width of the residual stream; a multiple of `heads`")
    layers: Count = Field(description="transformer blocks")
    heads: Count = Field(description="attention heads")
    mlp_size: Count = Field(description="width of the gated feed-forward layers")
    max_positions: Count = Field(512, description="longest prompt and response together, in tokens")
    dataset: Name = Field(description="problems whose demonstrations it learns from")
    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="demonstrations per step")
    learning_rate: LearningRate = Field(description="the peak of the learning rate")
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


MOST_CHECKPOINTS = 10_000


class Training(Strict):
    """Budget and optimiser of one run."""

    dataset: Name = Field(description="of the scale's data sets, or a name in workflow/datasets.yaml")
    steps: Count = Field(description="global steps; a multiple of `checkpoint_every`")
    prompts: Count = Field(description="prompts per step; each gets n rollouts")
    mini_batch_prompts: Count = Field(description="prompts per optimiser step; divides `prompts`")
    micro_batch_tokens: Count = Field(description="tokens per forward pass, padding included")
    max_new_tokens: Count = Field(description="longest response in tokens; a longer one is cut")
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


class ScheduleUnits(Strict):
    """What the paper's units are here: lengths in workflow/samplers.yaml, such as ``d0``, are converted."""

    length: PositiveFloat = Field(description="length of a response here over its length in the paper")
    steps: PositiveFloat = Field(description="training steps here over training steps in the paper")
    start: Annotated[int, Field(ge=0)] = Field(description="the template's length in tokens, the paper's c")


class Role(Strict):
    """What stands for one of the paper's models."""

    model: Name = Field(description="of the scale's models, or a name in workflow/models.yaml")
    recipe: Name | None = Field(None, description="key of the scale's recipes; null is its default training")
    learning_rates: dict[Rollouts, LearningRate] = Field(
        {}, description="rollouts per prompt -> learning rate, overrides the scale's (D18)"
    )
    annealed: dict[str, Any] = Field(
        {},
        description="overrides values of every annealed schedule, e.g. {tau_min: 0.8} for the paper's 7B model",
    )


class Recipe(Strict):
    """A training and evaluation that differ from the scale's default."""

    training: Training = Field(description="overrides the scale's training")
    evaluation: Evaluation = Field(description="overrides the scale's evaluation")
    rollouts: Rollouts | None = Field(None, description="overrides the scale's; null keeps the scale's")
    dual_clip: PositiveFloat | None = Field(
        None, description="overrides the algorithm's, if it has one; null keeps the algorithm's"
    )


class ScalePlan(Strict):
    """What ``all`` makes at a scale where config.yaml leaves it to the scale."""

    experiments: Annotated[list[Name], Field(min_length=1)] | None = Field(
        None, description="entries of workflow/experiments.yaml; null: every figure"
    )
    seeds: Seeds = Field(description="one training per cell and seed")
    seeds_by_experiment: dict[Name, Seeds] = Field(
        {},
        description="experiment -> the seeds of its cells, in place of `seeds`; a cell that several experiments show "
        "has the seeds of all of them",
    )


class VerlModel(Strict):
    """What one model needs otherwise; null is as for the others."""

    max_prompt_tokens: Count | None = Field(None, description="as in `verl`")
    max_num_seqs: Count | None = Field(None, description="as in `verl`")
    gpu_memory_utilization: Share | None = Field(None, description="as in `verl`")


class Verl(Strict):
    """How the verl engine uses its machines. A run's statistics do not depend on these, so its hash does not."""

    device: Literal["cuda", "cpu"] = Field(
        "cuda", description="cpu is for the smoke test: float32, one process"
    )
    nodes: Count = Field(1, description="machines of one training")
    gpus_per_node: Count = Field(1, description="GPUs that a training takes on each")
    max_prompt_tokens: Count = Field(
        1024, description="a longer prompt is left out of a training; in an evaluation it is an error"
    )
    tensor_parallel: Count = Field(1, description="GPUs that share one vLLM engine")
    gpu_memory_utilization: Share = Field(0.6, description="share of a GPU's memory that vLLM takes")
    max_num_seqs: Count = Field(
        256,
        description="responses that one vLLM engine decodes at once; as many as the rest of its memory holds",
    )
    seed_of: Literal["engine", "response"] = Field(
        "engine",
        description="whether each vLLM engine or each response has a random stream; for each response vLLM draws row "
        "by row",
    )
    offload: bool = Field(
        False, description="keep parameters and optimiser in host memory while vLLM samples"
    )
    attention: Literal["sdpa", "flash_attention_2"] = Field(
        "sdpa", description="attention of the trainer; flash_attention_2 packs sequences and needs flash-attn"
    )
    reward_workers: Count = Field(8, description="processes that grade responses")
    resume_every: Count | None = Field(
        None,
        description="steps between states to resume from; divides `checkpoint_every`, which is the default",
    )
    validate_every: Count | None = Field(
        None, description="steps between validations inside verl, beside the evaluation of checkpoints"
    )
    validation_samples: Count = Field(4, description="responses per problem in those validations, at tau = 1")
    dump_every: Count | None = Field(
        None, description="steps between dumps of rollouts, token by token; null keeps none"
    )
    models: dict[Name, VerlModel] = Field({}, description="model -> values that override those above")

    @property
    def gpus(self) -> int:
        """GPUs of one training."""
        return self.nodes * self.gpus_per_node

    def of(self, model: str) -> "Verl":
        """Return this with what ``model`` needs otherwise laid over it."""
        own = self.models.get(model, VerlModel()).model_dump(exclude_none=True)
        return self.model_copy(update={**own, "models": {}})


class Scale(Strict):
    """One budget for the whole paper: every name an experiment uses is defined here."""

    engine: Literal["inprocess", "verl"] = Field(
        description="what trains: a loop in this process, or verl with Ray and vLLM"
    )
    description: str = Field(description="hardware, data and models in a few words, for figures and reports")
    plan: ScalePlan | None = Field(
        None, description="the default of experiments and seeds in config.yaml; null: every figure, seed 0"
    )
    datasets: dict[Name, Annotated[AnyGeneratedData | RealData, Field(discriminator="kind")]] = Field(
        description="the scale's data sets; a name in workflow/datasets.yaml needs no entry"
    )
    models: dict[Name, Annotated[WarmStartModel | PretrainedModel, Field(discriminator="kind")]] = Field(
        description="the scale's models; a name in workflow/models.yaml needs no entry"
    )
    roles: dict[Literal[ROLES], Role] = Field(description="the paper's model -> what stands for it here")
    schedule_units: ScheduleUnits | None = Field(None, description="null: the paper's units are this scale's")
    samplers: dict[Name, NamedSampler] = Field(
        description="overrides workflow/samplers.yaml, in the scale's own units"
    )
    algorithms: dict[Name, AnyNamedAlgorithm] = Field(description="overrides workflow/algorithms.yaml")
    rollouts: Rollouts = Field(description="rollouts per prompt where an experiment does not say")
    learning_rates: dict[Rollouts, LearningRate] = Field(description="rollouts per prompt -> learning rate")
    training: Training = Field(description="the training of every role without a recipe")
    recipes: dict[Name, Recipe] = Field({}, description="what differs for the roles that name one")
    decoders: dict[Name, Decoder] = Field(description="how evaluation samples may be drawn")
    evaluation: Evaluation = Field(description="the evaluation of every checkpoint and base model")
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

    def rollouts_of(self, role: str) -> int:
        """Return the rollouts per prompt of a role where an experiment does not say."""
        recipe = self.roles[role].recipe
        return (self.recipes[recipe].rollouts if recipe else None) or self.rollouts

    def learning_rates_of(self, role: str) -> dict[int, float]:
        return self.learning_rates | self.roles[role].learning_rates

    def algorithm_of(self, role: str, algorithm: str) -> Algorithm:
        """Return an algorithm as the role's recipe has it."""
        found, recipe = without_label(self.algorithms[algorithm]), self.roles[role].recipe
        bound = self.recipes[recipe].dual_clip if recipe else None
        return found.bounded(bound) if bound else found

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
                if not isinstance(self.datasets[model.dataset], GeneratedData):
                    raise ValueError(
                        f"models.{name}.dataset: demonstrations exist for generated problems only "
                        f"({', '.join(GENERATED)})"
                    )
        trainings = {"training": self.training}
        evaluations: dict[str, Evaluation] = {"evaluation": self.evaluation}
        for name, recipe in self.recipes.items():
            trainings[f"recipes.{name}.training"] = recipe.training
            evaluations[f"recipes.{name}.evaluation"] = recipe.evaluation
        if self.real_lm is not None:
            known("model", self.real_lm.model, "real_lm.model", self.models)
            if self.real_lm.model in recipe_of:  # one evaluation would be step 0 of its figures, too
                role = next(name for name, role in self.roles.items() if role.model == self.real_lm.model)
                raise ValueError(
                    f"real_lm.model: {self.real_lm.model!r} stands for the role {role!r}; "
                    "name another model, or give it a second name under models"
                )
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
        for name, recipe in self.recipes.items():
            if recipe.rollouts and recipe.rollouts not in self.learning_rates:
                raise ValueError(f"recipes.{name}.rollouts: no learning rate for {recipe.rollouts} rollouts")
        if self.engine == "verl":
            if self.verl is None:
                raise ValueError("verl: the engine verl needs this section")
            for name in self.verl.models:
                known("model", name, f"verl.models.{name}", self.models)
            for where, training in trainings.items():
                self._trainable_by_verl(where, training)
        return self

    def _trainable_by_verl(self, where: str, training: Training) -> None:
        """Raise ValueError for what ``reproduction.engines.verl`` would refuse when the job has started."""
        if problem := verl_limits.learning_rate(training.decay):
            raise ValueError(f"{where}: {problem}")
        if training.checkpoint_every % (self.verl.resume_every or 1):
            raise ValueError(
                f"{where}.checkpoint_every ({training.checkpoint_every}) must be a multiple of verl.resume_every "
                f"({self.verl.resume_every})"
            )
        for n in self.learning_rates:
            if problem := verl_limits.shares(training.mini_batch_prompts, n, self.verl.gpus):
                raise ValueError(f"{where}.mini_batch_prompts: {problem}")
