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

Refused with tools and ``response``: a vLLM that several processes of the trainer ask together (a server, or tensor
parallelism), because TRL then sends the prompts of all of them with the parameters of one.

A vLLM engine needs ``ead`` in its environment; a server also ``--logprobs-mode processed_logprobs``. Both are tested
when the trainer is made. Training samples with images are refused with a server, and in several turns by ``response``.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import GenerationConfig
from trl import GRPOConfig, GRPOTrainer

from ead.integrations.transformers import AnnealedTemperature
from ead.schedule import HeldEntropy, Schedule, Switched

POSITIONS = ("response", "turn")
"""What a schedule's position counts in a response of several turns; see the module."""

PLAIN = {
    **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "typical_p", "num_beams"), (1,)),
    **{"top_k": (0, -1), "do_sample": (True,)},  # without top_k, generate takes 50
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff", "presence_penalty", "frequency_penalty"), (0,)),
    **dict.fromkeys(("top_h", "watermarking_config"), ()),
}
"""Settings of a sampler under which the schedule alone shapes the distribution, and their values.

None is allowed too, except for ``top_k``."""


class AnnealedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose training samples are drawn with ``schedule``; the other arguments are GRPOTrainer's.

    Args:
        schedule: any schedule of :mod:`ead.schedule` that does not follow the training.
        position: ``response`` or ``turn``, one of :data:`POSITIONS`.

    Raises:
        TypeError: ``schedule`` is not a schedule.
        ValueError: an argument clashes with EAD, or vLLM does not know EAD; see the module.
    """

    def __init__(self, model, reward_funcs=None, args=None, *rest, schedule, position="response", **kwargs):
        check_arguments(GRPOConfig if args is None else args, schedule, position, kwargs)
        self.schedule, self.position = schedule, position
        self._drawn: list[tuple[list[int], int]] = []  # the last turn's sequences, tokens drawn of each
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self._has_vllm, self._served = self.use_vllm, self.use_vllm and self.vllm_mode == "server"
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
        drawn, rows_at = self._count_drawn(prompt_ids), defaultdict(list)
        for row, count in enumerate(drawn):  # all rows of a call have one position
            rows_at[count if self.model.training and self.position == "response" else 0].append(row)
        if self.model.training and (images or multimodal_fields) and (self._served or len(rows_at) > 1):
            raise NotImplementedError("images: EAD takes no vLLM server, and in turns position must be turn")
        completions, logprobs = [[]] * len(drawn), [[]] * len(drawn)
        for first, rows in rows_at.items():
            prompts = [prompt_ids[row] for row in rows]
            with self._sampling_from(first) as recorded:
                tokens, values = super()._generate_single_turn(
                    prompts, images, multimodal_fields, num_generations, *rest, **kwargs
                )
            if recorded:
                values = torch.stack(recorded, dim=1).tolist()
            for row, ids, column in zip(rows, tokens, values, strict=True):
                completions[row], logprobs[row] = ids, column[: len(ids)]
        turns = zip(prompt_ids, completions, drawn, strict=True)
        self._drawn = [([*prompt, *ids], count + len(ids)) for prompt, ids, count in turns]
        return completions, logprobs

    def _count_drawn(self, prompt_ids: list[list[int]]) -> list[int]:
        """Return how many tokens of each row the model has drawn in earlier turns of the same responses."""
        counts = [[n for begun, n in self._drawn if row[: len(begun)] == begun] for row in prompt_ids]
        if self._drawn and not all(counts):
            raise RuntimeError("a turn continues none of the turns before it, so its position is not known")
        return [max(count, default=0) for count in counts]

    def _sampling_from(self, first: int):
        """Return a context in which the next tokens are drawn at position ``first``; in evaluation, without EAD."""
        if not self._has_vllm:
            return self._recording(first)
        ead = {**self.schedule.to_dict(), "step": self.state.global_step, "position": first}
        return self._requesting(ead) if self.model.training else nullcontext()

    @contextmanager
    def _requesting(self, ead: dict[str, Any]) -> Iterator[None]:
        """Have vLLM asked for ``ead``; its server takes no nested objects."""
        plain = self.vllm_generation.generation_kwargs
        key, value = ("vllm_xargs", json.dumps(ead)) if self._served else ("extra_args", ead)
        self.vllm_generation.generation_kwargs = {**plain, key: {**(plain.get(key) or {}), "ead": value}}
        try:
            yield
        finally:
            self.vllm_generation.generation_kwargs = plain

    @contextmanager
    def _recording(self, first: int) -> Iterator[list[torch.Tensor]]:
        """Have ``generate`` anneal, in training, and record log-probabilities.

        Yields the list to which each step appends those of its tokens, shape (rows,).
        """
        model = self.accelerator.unwrap_model(self.model_wrapped)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        plain, defaults, training = model.generate, base.generation_config, self.model.training
        logprobs, sampled_from = [], []

        def record(tokens):
            if sampled_from:
                logprobs.append(sampled_from.pop().log_softmax(dim=-1).gather(-1, tokens[:, -1:])[:, 0])

        def note(tokens, scores):  # the last logits processor: what it is given is sampled from
            record(tokens)
            sampled_from.append(scores)
            return scores

        def generate(**inputs):
            start = inputs["input_ids"].shape[1] - first
            annealed = [AnnealedTemperature(self.schedule, start, self.state.global_step)] if training else []
            tokens = plain(**inputs, logits_processor=[*annealed, note])
            record(tokens)
            return tokens

        model.generate = generate
        # What TRL's own configuration, passed to generate, leaves open is taken from here.
        base.generation_config = GenerationConfig() if training else defaults
        try:
            yield logprobs
        finally:
            del model.generate
            base.generation_config = defaults

    def _test_engine(self) -> None:
        """Raise ValueError where vLLM lacks ``ead`` or returns log-probabilities before annealing."""
        if self._served and not self.accelerator.is_main_process:
            return  # the main process alone speaks to a server
        vllm = self.vllm_generation
        if self._served and self.vllm_importance_sampling_correction:
            mode = vllm.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
            if mode != "processed_logprobs":
                raise ValueError(f"start the server with --logprobs-mode processed_logprobs, not {mode}")
        try:
            with self._requesting({}):  # EAD refuses a request that names no kind of schedule
                if self._served:
                    vllm.vllm_client.generate([[0]], generation_kwargs=vllm.generation_kwargs)
                else:
                    vllm.generate([[0]], None, 1)
        except Exception as error:  # TRL's client raises no other
            if "schedule kind" not in str(error):
                raise
        else:
            raise ValueError("vLLM ignores requests for EAD: install ead in the environment of its engine")


def check_arguments(args: Any, schedule: Any, position: str, others: dict[str, Any]) -> None:
    """Raise TypeError or ValueError where arguments of the trainer clash with EAD; see the module."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be one of ead.schedule, found {schedule!r}")
    asked = {name: getattr(args, name, None) for name in PLAIN} | (args.generation_kwargs or {})
    for name, allowed in PLAIN.items():
        if asked[name] not in allowed and (asked[name] is not None or name == "top_k"):
            raise ValueError(f"{name} is {asked[name]!r}, allowed with EAD: {[*allowed, None][0]}")
    in_turns = any(others.get(name) for name in ("tools", "environment_factory"))
    for clashes, message in (
        (
            isinstance(schedule, HeldEntropy),
            "held_entropy follows the recorded entropies, which TRL's trainer does not give",
        ),
        (position not in POSITIONS, f"position must be one of {', '.join(POSITIONS)}, found {position!r}"),
        (
            isinstance(schedule, Switched) and in_turns and position == "response",
            "a switched schedule and turns: position must be turn; a switch is not carried over",
        ),
        (
            in_turns
            and position == "response"
            and args.use_vllm
            and args.world_size > 1
            # One that each process has for itself is asked by that process alone.
            and (args.vllm_mode == "server" or args.vllm_tensor_parallel_size > 1),
            "tools, several processes and one vLLM for all of them: position must be turn; TRL sends all prompts with "
            "the position of one process",
        ),
        (
            args.vllm_importance_sampling_correction
            and args.vllm_importance_sampling_mode == "sequence_mask",
            "vllm_importance_sampling_mode is sequence_mask, TRL's default: under EAD the ratio of a whole response is "
            "close to 0, and so would the loss be; set token_truncate, also where transformers samples",
        ),
        (
            args.use_transformers_continuous_batching,
            "use_transformers_continuous_batching: it takes no logits processor, so EAD cannot work",
        ),
        (others.get("rollout_func"), "rollout_func samples by itself; ask for EAD in its own requests"),
    ):
        if clashes:
            raise ValueError(message)
