"""EAD inside verl's own trainer (0.9): an agent loop that carries the trainer's global step into each request.

Nothing of verl is patched. Three places of its configuration turn EAD on:

- ``actor_rollout_ref.rollout.agent.agent_loop_config_path`` names a YAML list with this class::

    - name: ead_rollout
      _target_: ead.integrations.verl.AnnealedAgentLoop
      schedule: {kind: annealed, tau_max: 1.2, tau_min: 0.1, d0: 25, alpha: 5, d_max: 40000, start: 10}
      stream: [2025, train, 0, rollouts]
    - name: ead_validation
      _target_: ead.integrations.verl.AnnealedAgentLoop
      schedule: null
      stream: [2025, train, 0, validation]

- the rows of the training set carry ``agent_name: ead_rollout``, those of the validation set
  ``ead_validation``. verl does not tell an agent loop whether it validates, so without this column validation
  would be annealed too, silently. A second column, ``ead_row``, numbers the rows: each then has random streams of its
  own, whatever ``extra_info.index`` says and however often a prompt is repeated;
- ``actor_rollout_ref.rollout.temperature`` is 1, and ``logprobs_mode`` stays ``processed_logprobs``, so that
  verl's rollout correction (TIS) sees the log-probabilities of the distribution really sampled from.

The engine's processor is ``ead.integrations.vllm.AnnealedTemperature``, which an installed ``ead`` publishes by
its entry point.

:class:`AnnealedToolAgentLoop`, named in the same way, is verl's loop of several turns with tools. Its ``position`` says
what the schedule counts: ``response``, the tokens that the model has drawn for this response so far, without those of
the tools; ``turn``, the tokens of the present turn.

Refused: verl's asynchronous trainers (``colocate_async``, ``separate_async``, fully asynchronous). They interrupt a
response and ask for the rest of it as for a new one, which would be annealed from the beginning again.

Do not put verl's ``@register`` on an agent loop that a YAML list names: it would replace that entry and drop its
parameters, and EAD would be off without a word. Watch the importance weights: with EAD they have a spread from
the first step on.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import ray
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from ead import seeds
from ead.schedule import HeldEntropy, Switched, from_config

POSITIONS = ("response", "turn")
"""What a schedule's position counts in a response of several turns; see the module."""

_IMPOSSIBLE = {"kind": "fixed", "tau": 1.0, "position": -1}
_REFUSED = "ead: position is -1"


class _Annealed:
    """What both agent loops add to verl's: requests with a schedule at the trainer's global step.

    Args:
        schedule: what ``ead.schedule.from_config`` takes; None samples at the temperature that verl sets.
        stream: root seed and names of the random stream that responses are drawn from. A response's own seed
            is derived from it and the global step, the row and the response's number among its siblings, so a
            resumed run draws what an uninterrupted one would have drawn. The row is known by its column ``ead_row``;
            where it has none, by :func:`prompt_name`. vLLM draws such responses one by one. None leaves the seed to
            the engine.
        record: folder to write every response to, one JSON object per line, with its tokens, its
            log-probabilities and the request's parameters; None keeps nothing. ``record_every`` thins the steps.

    Raises:
        ValueError: the schedule is malformed or follows the training, the trainer is asynchronous, or a prompt is
            longer than ``rollout.prompt_length``, which verl would cut with a warning.
        RuntimeError: the engine does not know EAD, and would sample at the temperature that verl sets.
    """

    _proof: ClassVar[asyncio.Task | None] = None  # one for all loops of a process

    def __init__(
        self,
        *args,
        stream: Sequence[int | str] | None = None,
        schedule: Mapping[str, Any] | None = None,
        record: str | None = None,
        record_every: int = 1,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.record, self.record_every = record, record_every
        self.stream = None if stream is None else _plain(stream)
        self.schedule = None if schedule is None else from_config(_plain(schedule)).to_dict()
        if self.schedule and self.schedule["kind"] == HeldEntropy.kind:
            raise ValueError(
                "held_entropy follows the recorded entropies, which verl does not tell an agent loop"
            )

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        """Return the response to ``kwargs["raw_prompt"]``."""
        step, row = int(kwargs["global_steps"]), kwargs.get("ead_row")
        names = {
            "step": step,
            "prompt": prompt_name(self.stream or [], step, kwargs) if row is None else int(row),
            "sibling": int(kwargs["session_id"]),
        }
        if self.schedule is not None:
            await self._annealing_is_on()
        request = request_parameters(sampling_params, self.schedule, self.stream, **names)
        # verl's server edits the parameters it is given, so it gets a copy of its own.
        output = await super().run(dict(request), **kwargs)
        if self.record and names["step"] % self.record_every == 0:
            self._write({**names, **request}, output)
        return output

    async def _annealing_is_on(self) -> None:
        """Ask once for a schedule that no engine with EAD accepts; an engine without EAD ignores what it is asked."""
        if isinstance(self.server_manager, FullyAsyncLLMServerClient):
            raise ValueError(
                "EAD needs verl's synchronous trainer (trainer.v1.trainer_mode: sync): an asynchronous one interrupts "
                "responses, and what follows would be annealed from the beginning again"
            )
        cls = type(self)
        if cls._proof is None:
            cls._proof = asyncio.create_task(self._prove())
        await asyncio.shield(cls._proof)

    async def _prove(self) -> None:
        try:
            await self.server_manager.generate(
                request_id="ead",
                prompt_ids=[0],
                sampling_params={"temperature": 1.0, "max_tokens": 1, "extra_args": {"ead": _IMPOSSIBLE}},
            )
        except Exception as error:
            if _REFUSED in str(error):
                return
            raise
        raise RuntimeError(
            "vLLM ignores the request for EAD: its environment lacks the entry point vllm.logits_processors of the "
            "package ead, or speculative decoding is on; install ead into the interpreter that runs verl"
        )

    def _write(self, request: dict[str, Any], output: AgentLoopOutput) -> None:
        folder = Path(self.record)
        folder.mkdir(parents=True, exist_ok=True)
        line = {
            **request,
            "prompt_tokens": output.prompt_ids,
            "tokens": output.response_ids,
            "mask": output.response_mask,  # 1 at the tokens that the model drew
            "logprobs": output.response_logprobs,
        }
        # One file per process: lines of several would mix.
        name = "responses" if self.stream is None else self.stream[-1]
        with (folder / f"{name}_{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _cap_text_prompt_length(self, prompt_ids: list[int]) -> list[int]:
        limit = self.rollout_config.prompt_length
        if len(prompt_ids) > limit:
            raise ValueError(
                f"a prompt has {len(prompt_ids)} tokens, allowed: {limit}; leave the row out of the data set or "
                "raise the limit"
            )
        return prompt_ids


class AnnealedAgentLoop(_Annealed, SingleTurnAgentLoop):
    """One prompt, one response, sampled with a schedule at the trainer's global step; see :class:`_Annealed`."""


class AnnealedToolAgentLoop(_Annealed, ToolAgentLoop):
    """verl's loop of turns with tools, sampled with a schedule at the trainer's global step.

    Args: those of :class:`_Annealed`, and
        position: ``response`` or ``turn``, one of :data:`POSITIONS`.

    Raises:
        ValueError: as for :class:`_Annealed`, or ``position`` is another word.
    """

    def __init__(self, *args, position: str = "response", **kwargs):
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, found {position!r}")
        super().__init__(*args, **kwargs)
        if position == "response" and (self.schedule or {}).get("kind") == Switched.kind:
            raise ValueError(
                "a switched schedule and turns: position must be turn; a switch is not carried over"
            )
        self.position = position

    async def _handle_generating_state(self, agent_data, sampling_params, *args, **kwargs):
        drawn = sum(agent_data.response_mask) if self.position == "response" else 0
        request = turn_parameters(sampling_params, agent_data.assistant_turns, drawn)
        return await super()._handle_generating_state(agent_data, request, *args, **kwargs)


def turn_parameters(request: Mapping[str, Any], turn: int, position: int) -> dict[str, Any]:
    """Return the parameters of one turn: ``request``'s with a seed of the turn's own, annealed from ``position`` on."""
    turned = {**request}
    if turn and "seed" in request:  # used again it would draw the same random numbers again
        turned["seed"] = seeds.derive(request["seed"], turn)
    if "extra_args" in request:
        turned["extra_args"] = {"ead": {**request["extra_args"]["ead"], "position": position}}
    return turned


def request_parameters(
    sampling_params: Mapping[str, Any],
    schedule: Mapping[str, Any] | None,
    stream: Sequence[int | str] | None,
    *,
    step: int,
    prompt: int | str,
    sibling: int,
) -> dict[str, Any]:
    """Return vLLM's sampling parameters of one response; ``sampling_params``, which siblings share, stays."""
    request = dict(sampling_params)
    if stream is not None:
        root_seed, *names = stream
        request["seed"] = seeds.derive(root_seed, *names, step, prompt, sibling)
    if schedule is not None:
        request["extra_args"] = {"ead": {**schedule, "step": step}}
    return request


_KEPT_STEPS = 8  # of which copies are remembered; an asynchronous trainer has few steps in flight
_copies: dict[int, dict[tuple, dict[Any, int]]] = {}  # step -> prompt -> uid -> number of the copy


def prompt_name(stream: Sequence[int | str], step: int, row: Mapping[str, Any]) -> str:
    """Return what tells a row without a number of its own from the others of its step.

    That is its index (verl gives 0 to a row without one, and some data sets name a prompt by a UUID), its messages,
    and for copies of a prompt the number of the copy, which a resumed run gives again as long as the number of verl's
    agent-loop workers stays. Siblings share the row's ``uid``, which verl draws anew each time.
    """
    messages = json.dumps(_plain(row["raw_prompt"]), sort_keys=True, default=str)
    digest = hashlib.sha256(messages.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    name = f"{row.get('index')}/{digest}/{_worker()}"
    if step not in _copies:
        for old in sorted(_copies)[: 1 - _KEPT_STEPS]:
            del _copies[old]
        _copies[step] = {}
    uids = _copies[step].setdefault((*stream, name), {})
    return f"{name}/{uids.setdefault(row.get('uid'), len(uids))}"


def _worker() -> str:
    """The agent-loop worker that this process is: each has its own part of a batch, the same one after a resume."""
    name = ray.get_runtime_context().get_actor_name() if ray.is_initialized() else None
    return (name or "").rpartition("_")[0]  # verl ends the name with random digits


def _plain(value: Any) -> Any:
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return value.tolist() if isinstance(value, np.ndarray) else value
