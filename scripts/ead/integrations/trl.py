"""EAD with TIS inside TRL's GRPOTrainer (1.16), for its three ways to sample: transformers, vLLM colocated or served.

::

    args = GRPOConfig(vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=2.0, ...)
    AnnealedGRPOTrainer(model, reward, args, dataset, schedule=Annealed()).train()

Training samples are annealed, at the trainer's global step; evaluation samples are TRL's own.

TRL computes and applies the importance weights, by its ``vllm_importance_sampling_*`` settings. It needs the
log-probabilities of the distribution sampled from: vLLM returns them, and where transformers samples, a case in which
TRL by itself applies no weights, this class records them. ``token_truncate`` gives the weights of
``ead.importance.truncated_weights`` at the level ``token``, ``sequence_truncate`` those at the level ``sequence``.
``sequence_mask``, TRL's default, is refused: it multiplies the loss by the ratio of the whole response, without a lower
bound, and under EAD that ratio is close to 0 for nearly every response.
``vllm_importance_sampling_correction=False`` trains without weights.

Refused as well: a temperature other than 1 (TRL divides the trainer's logits by it too) and other settings of the
sampler that shape the distribution (:data:`PLAIN`), continuous batching, which takes no logits processor, and a
``rollout_func``, which samples by itself. What the model's ``generation_config.json`` asks for, min-p for instance, is
switched off while transformers samples for training; requests to vLLM override it in any case.

With tools a response has several turns. ``position`` says what the schedule counts: ``response``, the tokens that the
model has drawn for this response so far, without those of the tools; ``turn``, the tokens of the present turn. TRL
samples all rows of a batch with the same parameters, so with ``response`` the rows of a later turn are sampled in
groups of equal position, one after another.

A vLLM engine needs ``ead`` in its environment; a server also ``--logprobs-mode processed_logprobs``. Both are tested
when the trainer is made.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria
from trl import GRPOConfig, GRPOTrainer

from ead.integrations.transformers import AnnealedTemperature
from ead.schedule import HeldEntropy, Schedule, Switched

POSITIONS = ("response", "turn")
"""What a schedule's position counts in a response of several turns; see the module."""

PLAIN = {
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "repetition_penalty": (1,),
    "typical_p": (1,),
    "do_sample": (True,),
    "num_beams": (1,),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff", "presence_penalty", "frequency_penalty"), (0,)),
    **dict.fromkeys(("top_h", "watermarking_config"), ()),
}
"""Settings of a sampler under which the schedule alone shapes the distribution, and their values; None is allowed."""


class AnnealedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose training samples are drawn with ``schedule``; the other arguments are GRPOTrainer's.

    Args:
        schedule: any schedule of :mod:`ead.schedule`.
        position: ``response`` or ``turn``, one of :data:`POSITIONS`.

    Raises:
        TypeError: ``schedule`` is not a schedule.
        ValueError: an argument clashes with EAD, the schedule follows the training, or the vLLM engine does not know
            EAD; see the module.
    """

    def __init__(
        self,
        model,
        reward_funcs=None,
        args=None,
        *rest,
        schedule: Schedule,
        position: str = "response",
        **kwargs,
    ) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be one of ead.schedule, found {schedule!r}")
        if isinstance(schedule, HeldEntropy):
            raise ValueError("held_entropy follows the recorded entropies, which TRL's trainer does not give")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, found {position!r}")
        if (
            isinstance(schedule, Switched)
            and position == "response"
            and {"tools", "environment_factory"} & {*kwargs}
        ):
            raise ValueError(
                "a switched schedule and turns: position must be turn; a switch is not carried over"
            )
        check_arguments(GRPOConfig if args is None else args, kwargs.get("rollout_func"))
        self.schedule, self.position = schedule, position
        self._drawn: list[tuple[list[int], int]] = []  # the last turn's sequences, tokens drawn of each
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self._has_vllm = self.use_vllm
        if self._has_vllm:
            self._test_engine()
        self.use_vllm = True  # the condition under which TRL computes weights and applies them; see _generate

    def _generate(self, prompts):
        self._drawn, self.use_vllm = [], self._has_vllm
        try:
            return super()._generate(prompts)
        finally:
            self.use_vllm = True

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, *rest, **kwargs):
        drawn = self._count_drawn(prompt_ids)
        rows_at = defaultdict(list)  # all rows of a call have one position
        for row, count in enumerate(drawn):
            rows_at[count if self.model.training and self.position == "response" else 0].append(row)
        if len(rows_at) > 1 and (images or multimodal_fields):
            raise NotImplementedError("EAD with images in several turns: position must be turn")
        completions, logprobs = [[]] * len(drawn), [[]] * len(drawn)
        for first, rows in rows_at.items():
            prompts = [prompt_ids[row] for row in rows]
            with self._requesting(first, images) if self._has_vllm else self._recording(first) as recorded:
                tokens, values = super()._generate_single_turn(
                    prompts, images, multimodal_fields, num_generations, *rest, **kwargs
                )
            if recorded:
                values = torch.stack(recorded, dim=1).tolist()
            for row, ids, column in zip(rows, tokens, values, strict=True):
                completions[row], logprobs[row] = ids, column[: len(ids)]
        self._drawn = [
            ([*prompt, *ids], count + len(ids))
            for prompt, ids, count in zip(prompt_ids, completions, drawn, strict=True)
        ]
        return completions, logprobs

    def _count_drawn(self, prompt_ids: list[list[int]]) -> list[int]:
        """Return how many tokens of each row the model has drawn in earlier turns of the same responses."""
        counts = [[n for begun, n in self._drawn if row[: len(begun)] == begun] for row in prompt_ids]
        if self._drawn and not all(counts):
            raise RuntimeError("a turn continues none of the turns before it, so its position is not known")
        return [max(count, default=0) for count in counts]

    @contextmanager
    def _requesting(self, first: int, images: Any = None) -> Iterator[None]:
        """Ask vLLM for the schedule from position ``first`` on, in training."""
        plain = self.vllm_generation.generation_kwargs
        if self.model.training:
            ead = {**self.schedule.to_dict(), "step": self.state.global_step, "position": first}
            self.vllm_generation.generation_kwargs = self._asking_for(ead)
            if images and self.vllm_mode == "server":  # by an endpoint that takes other parameters
                raise NotImplementedError(
                    "EAD with images: a vLLM server is not supported, colocated vLLM is"
                )
        try:
            yield
        finally:
            self.vllm_generation.generation_kwargs = plain

    def _asking_for(self, ead: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of a request to vLLM, ``ead`` among them; a server takes no nested objects."""
        plain = self.vllm_generation.generation_kwargs
        served = self.vllm_mode == "server"
        key, value = ("vllm_xargs", json.dumps(ead)) if served else ("extra_args", ead)
        return {**plain, key: {**(plain.get(key) or {}), "ead": value}}

    @contextmanager
    def _recording(self, first: int) -> Iterator[list[torch.Tensor]]:
        """Make ``generate`` anneal from position ``first`` on, in training, and record log-probabilities.

        Yields the list to which each step appends those of its tokens, shape (rows,).
        """
        model = self.accelerator.unwrap_model(self.model_wrapped)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        record, plain, defaults = _Record(), model.generate, base.generation_config

        def generate(**inputs):
            processors = [record.note]
            if self.model.training:
                length = inputs["input_ids"].shape[1] - first
                processors.insert(0, AnnealedTemperature(self.schedule, length, self.state.global_step))
            return plain(**inputs, logits_processor=processors, stopping_criteria=[record])

        model.generate = generate
        if (
            self.model.training
        ):  # what TRL's own configuration, passed to generate, leaves open is taken from here
            base.generation_config = GenerationConfig()
        try:
            yield record.logprobs
        finally:
            del model.generate
            base.generation_config = defaults

    def _test_engine(self) -> None:
        """Raise ValueError where vLLM lacks ``ead`` or returns log-probabilities before annealing."""
        if self.vllm_mode == "server" and self.accelerator.is_main_process:
            mode = self.vllm_generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
            if mode != "processed_logprobs" and self.vllm_importance_sampling_correction:
                raise ValueError(
                    f"the server's logprobs mode is {mode}; start it with --logprobs-mode processed_logprobs"
                )
        plain = self.vllm_generation.generation_kwargs
        self.vllm_generation.generation_kwargs = {**self._asking_for({}), "max_tokens": 1}
        try:
            self.vllm_generation.generate([[0]], None, 1)
        except Exception as error:  # TRL's client raises no other
            if "schedule kind" not in str(error):
                raise
        else:
            raise ValueError("vLLM ignores requests for EAD: install ead in the environment of its engine")
        finally:
            self.vllm_generation.generation_kwargs = plain


class _Record(StoppingCriteria):
    """Keeps the log-probability of each token that ``generate`` draws, and stops nothing."""

    def __init__(self) -> None:
        self.logprobs: list[torch.Tensor] = []

    def note(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The last logits processor: what it is given is sampled from."""
        self._scores = scores
        return scores

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        drawn = input_ids[:, -1:]
        self.logprobs.append(self._scores.log_softmax(dim=-1).gather(-1, drawn)[:, 0])
        return torch.zeros_like(drawn[:, 0], dtype=torch.bool)


def check_arguments(args: Any, rollout_func: Any = None) -> None:
    """Raise ValueError where TRL's arguments clash with EAD; see the module."""
    asked = {name: getattr(args, name, None) for name in PLAIN} | (
        getattr(args, "generation_kwargs", None) or {}
    )
    for name, allowed in PLAIN.items():
        if asked[name] is not None and asked[name] not in allowed:
            raise ValueError(
                f"{name} is {asked[name]!r}, allowed with EAD: {allowed[0] if allowed else None}"
            )
    if args.vllm_importance_sampling_correction and args.vllm_importance_sampling_mode == "sequence_mask":
        raise ValueError(
            "vllm_importance_sampling_mode is sequence_mask, TRL's default: under EAD the ratio of a whole response is "
            "close to 0, and so would the loss be; set token_truncate, also where transformers samples"
        )
    if args.use_transformers_continuous_batching:
        raise ValueError(
            "use_transformers_continuous_batching: it takes no logits processor, so EAD cannot work"
        )
    if rollout_func is not None:
        raise ValueError("rollout_func samples by itself; ask for EAD in its own requests")
