"""What jobs need: GPUs, nodes, memory, disk and time.

``workflow/resources.yaml`` says what the models of each scale need and how fast they are (:class:`Resources`), the run
says how much it samples. From both follows the :class:`Need` of a job, which a cluster is asked for
(``reproduction.cluster.slurm``) and the budget adds up (``reproduction.budget``).
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from reproduction.cluster import devices
from reproduction.config import (
    REPOSITORY,
    ROLES,
    SCALES,
    WORKFLOW,
    ConfigurationError,
    Evaluation,
    ForkingStudy,
    MajorityStudy,
    Name,
    Scale,
    Share,
    Strict,
    read_yaml,
    suggest,
    validate,
    verl_limits,
)
from reproduction.config.runs import RunConfiguration

RESOURCES_FILE = REPOSITORY / "workflow" / "resources.yaml"

# Every rule of the workflow but the figures' own targets: what workflow/resources.yaml may name, and no figure may.
RULES = tuple(
    sorted(
        name
        for file in (WORKFLOW / "Snakefile", *(WORKFLOW / "rules").glob("*.smk"))
        for name in re.findall(
            r"^ *(?:use rule \w+ as|rule) (\w+)(?: with)?:", file.read_text(encoding="utf-8"), re.MULTILINE
        )
    )
)


# --- resources.yaml ----------------------------------------------------------------------------------------


class Need(Strict):
    """What one job asks for at its first attempt, and what it is expected to take."""

    gpus: NonNegativeInt = Field(0, description="on each node")
    nodes: PositiveInt = Field(1, description="above 1, Ray is started across them")
    cpus: PositiveInt | None = Field(None, description="on each node; null is the rule's number of threads")
    memory_mb: PositiveInt = Field(description="on each node")
    minutes: PositiveInt = Field(description="time limit")
    expected_s: PositiveFloat = Field(description="time that it is expected to take")
    expected_bytes: NonNegativeInt = Field(0, description="what it is expected to leave on the disk")
    scratch_bytes: NonNegativeInt = Field(0, description="what it has on the disk besides, while it runs")
    freed_bytes: NonNegativeInt = Field(0, description="what it deletes of others' results when it ends")


class Allocation(Strict):
    """The machines of one job, without its time."""

    gpus: NonNegativeInt = Field(0, description="on each node")
    nodes: PositiveInt = Field(1, description="above 1, Ray is started across them")
    cpus: PositiveInt | None = Field(None, description="on each node; null is the rule's number of threads")
    memory_mb: PositiveInt = Field(description="on each node")

    @property
    def units(self) -> int:
        """GPUs of the job, or its cores where it has no GPU."""
        return self.nodes * (self.gpus or self.cpus or 1)


class Gpu(Strict):
    """A kind of GPU, and how well it is used: what hours are made from where nothing is measured yet."""

    flops_per_s: PositiveFloat = Field(description="dense bfloat16 peak")
    bytes_per_s: PositiveFloat = Field(description="of its memory")
    share_of_peak: Share = Field(description="of flops_per_s, in matrix products of sampling and training")
    decode_step_s: PositiveFloat = Field(
        description="of one token of all responses, beside reading and computing"
    )
    decode_share: Share = Field(
        description="time at the full number of responses over all time that tokens take"
    )
    seed_row_s: Annotated[float, Field(ge=0)] = Field(
        description="of a token of a response with a seed of its own"
    )


class Method(Strict):
    """How the trainer works, in the terms that its time depends on."""

    flops_per_parameter: PositiveFloat = Field(
        description="of a token: forward, backward, activations once more, log-probabilities before the update"
    )
    padding: Annotated[float, Field(ge=1)] = Field(description="tokens computed over tokens that count")
    logprob_row_s: Annotated[float, Field(ge=0)] = Field(0, description="of a token, in Python")
    order_s: Annotated[float, Field(ge=0)] = Field(0, description="of a step, to look up its prompts")


class SampledModel(Strict):
    """A model that only draws: on a core at the rate given, on a GPU at the rate that follows from its size."""

    parameters: PositiveFloat
    evaluate: Allocation
    sampling_tokens_per_s: PositiveFloat | None = Field(None, description="response tokens drawn, per core")
    cache_bytes_per_token: PositiveFloat | None = Field(
        None, description="keys and values: 2 x layers x key-value heads x head size x 2 bytes"
    )


class ModelResources(SampledModel):
    """One of the paper's trained models at one scale."""

    train: Allocation
    update_tokens_per_s: PositiveFloat | None = Field(
        None, description="response tokens learnt from, log-probabilities included, per core"
    )
    response_share: Share | None = Field(None, description="as in the scale; null is that")


class ScaleResources(Strict):
    """What a scale's jobs need, and where its numbers come from."""

    source: str = Field(min_length=1, description="where these numbers come from")
    startup_s: PositiveFloat = Field(description="from the start of a job to its first token")
    step_s: Annotated[float, Field(ge=0)] = Field(
        0,
        description="of a training step beside its tokens: exchange of weights, grading, the engine's sleep",
    )
    gpu: Gpu | None = Field(None, description="null: rates are given, per core")
    method: Method | None = Field(None, description="null: rates are given, per core")
    prompt_tokens: PositiveFloat = Field(150, description="mean length of a prompt")
    response_share: Share = Field(description="mean response length over the longest one allowed")
    hot_steps: NonNegativeInt = Field(
        0, description="first steps in which responses at a fixed temperature above 1.1 reach the limit"
    )
    problems: PositiveInt = Field(description="problems of an evaluation set without a limit")
    problems_of: dict[Name, PositiveInt] = Field(
        {}, description="evaluation sets that have another number of them"
    )
    checkpoint_bytes_per_parameter: PositiveFloat = Field(
        description="of a checkpoint in Hugging Face format"
    )
    state_bytes_per_parameter: PositiveFloat = Field(description="of all trainer states kept at one time")
    state_stays: bool = Field(description="whether the trainer's state stays when the run has ended")
    roles: dict[Literal[ROLES], ModelResources]
    models: dict[Name, SampledModel] = Field(
        {}, description="the scale's models that are in no role: studies of decoding draw from them"
    )


class Before(Strict):
    """How trainings at the paper's scale were run before the waste was taken out: to say what that was worth."""

    method: Method
    gpus: PositiveInt = Field(description="of every training")
    max_num_seqs: PositiveInt
    seed_of: Literal["engine", "response"]


class Resources(Strict):
    """workflow/resources.yaml."""

    safety: PositiveFloat = Field(description="time asked for over time expected")
    shortest_minutes: PositiveInt = Field(description="no training or evaluation asks for less")
    rules: dict[Name, Need] = Field(description="rules that run no model; `default` is for those not named")
    scales: dict[Literal[SCALES], ScaleResources]
    before: Before

    @model_validator(mode="after")
    def _rules_exist(self) -> "Resources":
        if "default" not in self.rules:
            raise ValueError("rules: the key 'default' is missing; it is for the rules that are not named")
        for name in self.rules:
            if name != "default" and name not in RULES:
                raise ValueError(f"rules: unknown rule {name!r}{suggest(name, ['default', *RULES])}")
        return self


def load_resources(path: Path = RESOURCES_FILE) -> Resources:
    """Read the resource table. Raises ConfigurationError naming the file, the key and what is allowed."""
    return validate(Resources, read_yaml(path), path.name)


# --- needs -------------------------------------------------------------------------------------------------

# Of a response's logits, float32 and 151,936 of them: passes over them from logits to token and log-probability,
# counted in vLLM's sampler (temperature, log-softmax, softmax, noise, division, maximum; each reads, most write).
LOGIT_BYTES, LOGIT_PASSES = 4 * 151_936, 10
HOT = 1.1  # fixed temperatures above this are 1.2 in the paper: 7 to 9 nats at step 0 (Figure 6)
# A preflight: steps of its training, one of them begun twice, and problems of its evaluation.
PREFLIGHT_STEPS, PREFLIGHT_PROBLEMS = 2, 16
BYTES_PER_TOKEN = 4.3  # of an evaluation's samples, compressed; measured on 30 files of the mini scale


def _is_hot(run: RunConfiguration) -> bool:
    """Whether a run samples at a fixed temperature above ``HOT``."""
    schedule = run.sampler_definition.schedule
    return schedule["kind"] == "fixed" and schedule["tau"] > HOT


class Needs:
    """What each job of a scale needs."""

    def __init__(
        self,
        scale_name: str,
        scale: Scale,
        resources: Resources,
        decoders_of: Mapping[str, Collection[str]] = MappingProxyType({}),
    ):
        """See the class; ``decoders_of`` names those that a run is evaluated with, by default all of the scale."""
        self._decoders_of = decoders_of
        if scale_name not in resources.scales:
            raise ConfigurationError(
                f"{RESOURCES_FILE.name}: scales: no entry {scale_name!r}{suggest(scale_name, resources.scales)}"
            )
        self.scale, self.table, self.resources = scale, resources.scales[scale_name], resources
        self.table_name = scale_name
        absent = sorted(scale.roles.keys() - self.table.roles.keys())
        if absent:
            raise ConfigurationError(
                f"{RESOURCES_FILE.name}: scales.{scale_name}.roles: no entry for {absent[0]!r}, "
                f"which the scale {scale_name!r} defines"
            )
        self._role_of = {role.model: name for name, role in scale.roles.items()}
        if scale.engine == "verl" and scale.verl.device == "cuda":
            self._check_gpus()
        for name, study in scale.inference.items():
            if scale.engine == "verl" and study.model and self._sampled(study.model) is None:
                raise ConfigurationError(
                    f"{RESOURCES_FILE.name}: scales.{scale_name}.models: no entry for {study.model!r}, "
                    f"which inference.{name} draws from"
                )

    def _check_gpus(self) -> None:
        """Raise ConfigurationError where verl or vLLM could not use the GPUs that a job asks for."""
        for name, role in self.scale.roles.items():
            resources, engine = self.table.roles[name], self.scale.verl.of(role.model).tensor_parallel
            where = f"{RESOURCES_FILE.name}: scales.{self.table_name}.roles.{name}"
            recipe = self.scale.recipes.get(role.recipe)
            training = recipe.training if recipe else self.scale.training
            rates = role.learning_rates | self.scale.learning_rates
            gpus = resources.train.gpus * resources.train.nodes
            if not gpus:
                raise ConfigurationError(f"{where}.train.gpus: found 0, verl trains on 1 or more")
            if gpus % engine:
                raise ConfigurationError(
                    f"{where}.train.gpus: {gpus} GPUs, of which each engine takes {engine} (verl.tensor_parallel)"
                )
            if resources.evaluate.gpus != engine:
                raise ConfigurationError(
                    f"{where}.evaluate.gpus: found {resources.evaluate.gpus}; the engine of an evaluation takes "
                    f"{engine} (verl.tensor_parallel)"
                )
            for n in [recipe.rollouts] if recipe and recipe.rollouts else rates:
                if problem := verl_limits.shares(training.mini_batch_prompts, n, gpus):
                    raise ConfigurationError(f"{where}.train.gpus: {problem}")

    def train(self, run: RunConfiguration) -> Need:
        """One training: time from the tokens it draws and learns from, storage from its checkpoints and state."""
        model, training = self._model(run.model), run.training
        hot = min(self.table.hot_steps, training.steps) if _is_hot(run) else 0
        mean = self._response(training.max_new_tokens, model)
        seconds = (training.steps - hot) * self._step_s(run, mean)
        seconds += hot * self._step_s(run, training.max_new_tokens)
        checkpoints = len(training.checkpoints) * self._checkpoint(model)
        state = round(model.parameters * self.table.state_bytes_per_parameter)
        return self._need(
            model.train,
            seconds,
            checkpoints + (state if self.table.state_stays else 0),
            scratch_bytes=0 if self.table.state_stays else state,
        )

    def preflight(self, run: RunConfiguration) -> Need:
        """The check of a run at full size: its first steps, a kill within the second, a resume, an evaluation.

        Nothing is measured yet, and an attempt that runs out of time begins anew: twice the usual limit.
        """
        model, evaluation = self._model(run.model), self.scale.evaluation_of(run.model)
        longest = run.training.max_new_tokens
        mean = longest if _is_hot(run) and self.table.hot_steps else self._response(longest, model)
        evaluated = self._evaluate(run.model, evaluation, PREFLIGHT_STEPS, limit=PREFLIGHT_PROBLEMS)
        seconds = (PREFLIGHT_STEPS + 1) * self._step_s(run, mean)
        seconds += self.table.startup_s + evaluated.expected_s  # the resumed start, and the evaluation's
        state = round(model.parameters * self.table.state_bytes_per_parameter)
        checkpoints = PREFLIGHT_STEPS * self._checkpoint(model)
        need = self._need(model.train, seconds, 0, scratch_bytes=state + checkpoints)
        return need.model_copy(update={"minutes": 2 * need.minutes})

    def _step_s(self, run: RunConfiguration, mean: float) -> float:
        """Seconds of a training step whose responses have ``mean`` tokens."""
        model, training, table = self._model(run.model), run.training, self.table
        responses = training.prompts * run.n / model.train.units
        sampling_s = self._sampling_s(run.model, model, responses, mean, training.max_new_tokens)
        if table.method is None:
            return table.step_s + sampling_s + responses * mean / model.update_tokens_per_s
        gpu, method = table.gpu, table.method
        computed = responses * (table.prompt_tokens + mean) * method.padding
        reference = 2 if run.algorithm_definition.kl_coefficient else 0  # its forward pass
        update_s = computed * (method.flops_per_parameter + reference) * model.parameters
        update_s /= gpu.flops_per_s * gpu.share_of_peak
        rows_s = responses * (table.prompt_tokens + mean) * method.logprob_row_s
        return table.step_s + method.order_s + sampling_s + update_s + rows_s

    def _sampling_s(
        self, name: str, model: SampledModel, responses: float, mean: float, longest: int
    ) -> float:
        """Seconds in which one unit draws ``responses`` responses of ``mean`` tokens, the longest of which is last.

        On a GPU, a token of b responses takes a time that is the same for any b, reads the weights, and for each
        response reads the keys and values so far, multiplies by the weights and works on its logits in float32.
        """
        gpu = self.table.gpu
        if gpu is None or model.cache_bytes_per_token is None:
            return responses * mean / model.sampling_tokens_per_s
        machine = self.scale.verl.of(name)
        at_once = min(responses, machine.max_num_seqs)
        alone_s = gpu.decode_step_s + 2 * model.parameters / gpu.bytes_per_s
        each_s = (self.table.prompt_tokens + mean / 2) * model.cache_bytes_per_token / gpu.bytes_per_s
        each_s += 2 * model.parameters / (gpu.flops_per_s * gpu.share_of_peak)
        each_s += LOGIT_PASSES * LOGIT_BYTES / gpu.bytes_per_s
        each_s += gpu.seed_row_s if machine.seed_of == "response" else 0
        token_s = (alone_s + at_once * each_s) / at_once / gpu.decode_share
        return responses * mean * token_s + longest * alone_s

    def evaluate_run(self, run: RunConfiguration) -> Need:
        """The samples of all checkpoints of a run; afterwards the scale may keep the last checkpoint only."""
        count = len(run.training.checkpoints)
        freed = (count - 1) * self._checkpoint(self._model(run.model))
        evaluation = self.scale.evaluation_of(run.model).reduced_to(self._decoders_of.get(run.name))
        freed = freed if self.scale.keep_checkpoints == "last" else 0
        return self._evaluate(run.model, evaluation, count, freed=freed)

    def evaluate_model(self, model: str) -> Need:
        """The samples of a model as it comes."""
        if model not in self._role_of:  # the real language model beside the paper's
            return self.rule("evaluate_model")
        return self._evaluate(model, self.scale.evaluation_of(model), 1)

    def _evaluate(
        self, name: str, evaluation: Evaluation, checkpoints: int, *, freed: int = 0, limit: int | None = None
    ) -> Need:
        model = self._model(name)
        decoders = [*evaluation.decoders * checkpoints, *evaluation.final_decoders]
        problems = self.table.problems_of.get(evaluation.dataset, self.table.problems)
        limit = limit or self.scale.datasets[evaluation.dataset].limit or problems
        mean = self._response(evaluation.max_new_tokens, model)

        def seconds_of(decoder: str) -> float:
            greedy = self.scale.decoders[decoder].schedule is None  # drawn once and counted for every sample
            drawn = limit * (1 if greedy else evaluation.samples)
            return self._sampling_s(
                name, model, drawn / model.evaluate.units, mean, evaluation.max_new_tokens
            )

        seconds = sum(map(seconds_of, decoders))
        size = round(len(decoders) * limit * evaluation.samples * mean * BYTES_PER_TOKEN)
        return self._need(model.evaluate, seconds, size, freed_bytes=freed)

    def draw_study(self, name: str) -> Need:
        """The responses of a study of decoding; in process, one number serves for all.

        Of a response of at most m tokens that is cut after b, at most the share 1 - b / m of the mean length is left to
        draw, however the lengths are distributed. The forward pass for entropies is left to the safety factor.
        """
        if self.scale.engine == "inprocess":
            return self.rule("draw_study")
        study = self.scale.inference[name]
        name = study.model or self.scale.roles[study.role].model
        model = self._sampled(name)
        mean, longest = self._response(study.max_new_tokens, model), study.max_new_tokens
        responses = rows = len(study.decoders) * study.problems * study.samples
        # Tokens that are drawn, and those of them that keep a number of 4 bytes beside the text.
        drawn, numbers = responses * mean, 0.0
        if isinstance(study, ForkingStudy):
            rows += responses * study.branches * len(study.positions)
            left = sum(1 - position / longest for position in study.positions)
            drawn += responses * study.branches * mean * left
        if not isinstance(study, MajorityStudy):
            numbers = responses * mean
        size = round(rows * mean * BYTES_PER_TOKEN + 4 * numbers)
        each = (drawn / mean / model.evaluate.units, mean, longest)
        return self._need(model.evaluate, self._sampling_s(name, model, *each), size)

    def import_model(self, name: str) -> Need:
        """A published model, in the bytes of a checkpoint where its size is known."""
        need, model = self.rule("import_model"), self._sampled(name)
        return need if model is None else need.model_copy(update={"expected_bytes": self._checkpoint(model)})

    def rule(self, name: str) -> Need:
        """A rule that runs no model of the paper."""
        return self.resources.rules.get(name, self.resources.rules["default"])

    def _model(self, name: str) -> ModelResources:
        return self.table.roles[self._role_of[name]]

    def _sampled(self, name: str) -> SampledModel | None:
        return self._model(name) if name in self._role_of else self.table.models.get(name)

    def _response(self, longest: int, model: SampledModel) -> float:
        return (getattr(model, "response_share", None) or self.table.response_share) * longest

    def _checkpoint(self, model: SampledModel) -> int:
        return round(model.parameters * self.table.checkpoint_bytes_per_parameter)

    def _need(self, allocation: Allocation, seconds: float, size: int, **bytes_moved: int) -> Need:
        expected_s = self.table.startup_s + seconds
        return Need(
            **allocation.model_dump(),
            minutes=max(self.resources.shortest_minutes, math.ceil(self.resources.safety * expected_s / 60)),
            expected_s=expected_s,
            expected_bytes=size,
            **bytes_moved,
        )


# --- this machine ------------------------------------------------------------------------------------------


def too_few_gpus(rule: str, gpus: int, nodes: int, available: Sequence[devices.Device]) -> str | None:
    """Return what to say of a job that asks this machine for more GPUs than ``available``; None if it does not."""
    if nodes * gpus <= len(available):
        return None
    asked = devices.gpus(gpus) + (f" on each of {nodes} nodes" if nodes > 1 else "")
    return (
        f"{rule} asks for {asked} (workflow/resources.yaml), and {devices.explain(available)}. Run it on a cluster "
        "(--profile slurm), or take a scale that fits this machine (docs/paper_scale.md)"
    )
