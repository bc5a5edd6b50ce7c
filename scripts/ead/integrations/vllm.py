"""EAD inside vLLM's V1 engine (0.24): a batch-level logits processor with parameters per request.

The installed package publishes it under the entry point ``vllm.logits_processors``: every engine of the
environment, ``vllm serve`` and verl's rollout workers included, loads it without being told. Naming it in
``logits_processors`` as well is harmless, except that an engine with asynchronous scheduling then waits for
every token before it samples the next.

A request asks for EAD with ``extra_args["ead"]``: a schedule as plain data (``Schedule.to_dict()``), optionally
``step``, the trainer's global step, and ``position``, how many tokens of a response its prompt ends with::

    SamplingParams(temperature=1.0, extra_args={"ead": {**Annealed().to_dict(), "step": 120}})

The OpenAI-compatible server takes the same data as a JSON string, because ``vllm_xargs`` holds no nested
objects: ``{"temperature": 1.0, "vllm_xargs": {"ead": "{\\"kind\\": \\"annealed\\", \\"step\\": 120}"}}``.

Position and order. A token's position is the request's ``position`` (0 if it names none) plus the number of its
output tokens before it, also after preemption. vLLM applies, in this order: penalties, logit bias, grammars; the
request's temperature; min-p; EAD; top-k and top-p. Hence:

- the temperature must be 1 with EAD, or 0: greedy requests are accepted and stay as they are (D06);
- min-p is refused: it would filter by the distribution before EAD;
- top-k and top-p filter the annealed distribution. A model's ``generation_config.json`` may set both,
  and the temperature, for requests that do not.

A request without ``ead`` gets bit-identical logits whatever shares its batch. Log-probabilities of the
annealed distribution, which importance weights need, are returned under
``logprobs_mode="processed_logprobs"``; vLLM's default is the distribution before EAD.

Speculative decoding: vLLM then loads no processor from entry points, and tells no one, so do not combine the
two. Where the class is named in ``logits_processors``, vLLM refuses to start.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
    cached_load_custom_logitsprocs,
)

from ead.schedule import PARAMETERS, Fixed, Schedule, annealed_temperature, from_config

logger = init_logger(__name__)

_KEY = "ead"
_GREEDY_BELOW = 1e-5  # vLLM decodes greedily below this temperature
_LOWEST_TEMPERATURE = 0.01  # vLLM raises lower temperatures to this one, to keep float32 logits finite
_LONGEST_TEXT = 10_000
_LAST_POSITION = 2**31 - 1
_NOT_ANNEALED = Fixed(1.0).parameters()
_LOOKAHEAD = 16  # steps for which temperatures are computed at once


def requested_schedule(params: SamplingParams) -> tuple[Schedule, int, int] | None:
    """Return the schedule, global step and first position that ``params`` asks for, or None where it asks for none.

    Raises:
        ValueError: the parameters are malformed or clash with other sampling parameters; see the module.
    """
    extra_args = params.extra_args or {}
    misspelt = [key for key in extra_args if key != _KEY and key.lower().split("_")[0] == _KEY]
    if misspelt:
        raise ValueError(
            f"extra_args: found the key {misspelt[0]!r}; EAD is requested under the key {_KEY!r} alone"
        )
    if extra_args.get(_KEY) is None:
        return None
    config = dict(_plain_data(extra_args[_KEY]))
    position = config.pop("position", 0)
    if type(position) is not int or not 0 <= position <= _LAST_POSITION:
        raise ValueError(f"ead: position is {position!r}, allowed: an integer from 0 to {_LAST_POSITION}")
    described = tuple(chain.from_iterable(config.items()))
    try:
        schedule, step = _schedule_and_step(*described)
    except TypeError:  # some value has no hash; let the schedule say which
        schedule, step = _schedule_and_step.__wrapped__(*described)
    if params.temperature != 1 and params.temperature >= _GREEDY_BELOW:
        raise ValueError(
            f"ead: the request's temperature is {params.temperature}, allowed: 1, or 0 for greedy decoding "
            "(a request that sets none has the one of the model's generation_config.json)"
        )
    if params.min_p:
        raise ValueError(f"ead: min_p is {params.min_p}, allowed: 0; min-p would filter before annealing")
    return schedule, step, position


@lru_cache(maxsize=1024, typed=True)  # typed: True is no step, though it equals 1
def _schedule_and_step(*described: Any) -> tuple[Schedule, int]:
    """Read ``described``, keys and values in turn, once for all requests that say the same."""
    config = dict(zip(described[::2], described[1::2], strict=True))
    step = config.pop("step", 0)
    schedule = from_config(config)
    row = dict(zip(PARAMETERS, schedule.parameters(step), strict=True))
    if row["floor"] < _LOWEST_TEMPERATURE:
        raise ValueError(
            f"ead: the lowest temperature is {row['floor']}, allowed: {_LOWEST_TEMPERATURE} or more"
        )
    if row["ceiling"] > np.finfo(np.float32).max:
        raise ValueError(f"ead: the highest temperature is {row['ceiling']}, beyond the range of float32")
    return schedule, step


def _plain_data(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"ead: the JSON text has {len(value)} characters, allowed: {_LONGEST_TEXT}")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"ead: not valid JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise ValueError(
            f"ead: found {type(value).__name__}, allowed: a schedule as a mapping or as the JSON text of one"
        )
    return value


class AnnealedTemperature(LogitsProcessor):
    """Divide each row's logits by its schedule's temperature at its position; see the module."""

    # vLLM constructs a class once per place that names it (entry point, ``logits_processors``), one after
    # another. The first instance works; this many more of the same engine are still to come and stay idle.
    _duplicates_to_come: ClassVar[int] = 0

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError for a request whose EAD parameters are wrong (HTTP 400 from the server)."""
        requested_schedule(sampling_params)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        cls = type(self)
        self._idle = cls._duplicates_to_come > 0
        if self._idle:
            cls._duplicates_to_come -= 1
            logger.info("%s is named twice, by its entry point and in logits_processors", cls.__name__)
            return
        named = cached_load_custom_logitsprocs(tuple(vllm_config.model_config.logits_processors or ()))
        cls._duplicates_to_come = max(named.count(cls) - 1, 0)

        rows = vllm_config.scheduler_config.max_num_seqs
        self._logprobs_mode = vllm_config.model_config.logprobs_mode
        # One entry per row of the batch; a row that is not annealed keeps temperature 1 and counts no tokens.
        self._parameters = np.tile(_NOT_ANNEALED[:, None], rows)
        self._outputs: list[list[int] | tuple[()]] = [()] * rows
        self._first = np.zeros(rows, dtype=np.int64)  # position of the request's first output token
        self._annealed = np.zeros(rows, dtype=bool)
        self._batch_size = 0
        self._any_annealed = False
        # Of this step and the next: how long the outputs will be, and the batch's temperatures, [batch, 1].
        self._foreseen: Iterator[tuple[list[int], torch.Tensor]] = iter(())
        self._temperatures = torch.ones(0, 1)
        # The pinned buffer is rewritten in a later step. That is safe because vLLM calls update_state only when the
        # previous step's copies to the device are done (GPUModelRunner.synchronize_input_prep).
        self._host = torch.ones(_LOOKAHEAD * rows, dtype=torch.float32, pin_memory=is_pin_memory)
        on_host = torch.device(device).type == "cpu"
        self._device = self._host if on_host else torch.ones_like(self._host, device=device)

    def is_argmax_invariant(self) -> bool:
        """True: division by a positive temperature keeps the order, so vLLM may skip greedy batches."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch and compute this step's temperatures; vLLM calls it before every forward pass."""
        if self._idle:
            return
        if batch_update is not None:
            self._follow(batch_update)
            self._foreseen = iter(())
        if self._any_annealed:
            # Lengths only: under asynchronous scheduling the newest tokens are still placeholders.
            lengths = list(map(len, self._outputs[: self._batch_size]))
            expected, self._temperatures = next(self._foreseen, (None, None))
            if lengths != expected:
                self._foreseen = self._foresee(lengths)
                _, self._temperatures = next(self._foreseen)

    def _foresee(self, lengths: list[int]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Return lengths and temperatures of some steps from this one on, if each output grows by a token a step.

        It does, but for a request whose prompt is read in parts or whose tokens vLLM takes back. Numpy's calls, not
        its arithmetic, are what a step would pay for.
        """
        size = len(lengths)
        foreseen = np.array(lengths) + np.arange(_LOOKAHEAD)[:, None] * self._annealed[:size]
        temperatures = annealed_temperature(self._parameters[:, :size], foreseen + self._first[:size])
        host, device = (
            buffer[: foreseen.size].view(_LOOKAHEAD, size, 1) for buffer in (self._host, self._device)
        )
        host.numpy()[..., 0] = temperatures
        if self._device is not self._host:
            device.copy_(host, non_blocking=True)
        return zip(foreseen.tolist(), device.unbind(), strict=True)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Divide ``logits``, shape (batch, vocabulary), in place; untouched where no row is annealed."""
        if self._idle or not self._any_annealed:
            return logits
        if logits.shape[0] != self._batch_size:
            raise RuntimeError(f"{logits.shape[0]} rows of logits for a batch of {self._batch_size} requests")
        return logits.div_(self._temperatures)

    def _follow(self, update: BatchUpdate) -> None:
        for row in update.removed:
            self._clear(row)
        for row, params, _, output_tokens in update.added:
            request = requested_schedule(params)
            if request is None or params.temperature < _GREEDY_BELOW:
                self._clear(row)
                continue
            schedule, step, self._first[row] = request
            self._parameters[:, row] = schedule.parameters(step)
            self._outputs[row] = output_tokens  # vLLM's own list: it grows with the response
            self._annealed[row] = True
            if params.logprobs is not None and self._logprobs_mode.startswith("raw"):
                logger.warning_once(
                    "EAD is on and logprobs_mode is %s: the log-probabilities returned are those before "
                    "annealing. Importance weights need processed_logprobs.",
                    self._logprobs_mode,
                )
        for source, target, direction in update.moved:
            pair, swapped = [source, target], [target, source]
            self._parameters[:, pair] = self._parameters[:, swapped]
            self._annealed[pair] = self._annealed[swapped]
            self._first[pair] = self._first[swapped]
            self._outputs[source], self._outputs[target] = self._outputs[target], self._outputs[source]
            if direction == MoveDirectionality.UNIDIRECTIONAL:
                self._clear(source)
        self._batch_size = update.batch_size
        self._any_annealed = bool(self._annealed[: self._batch_size].any())

    def _clear(self, row: int) -> None:
        self._parameters[:, row] = _NOT_ANNEALED
        self._outputs[row] = ()
        self._first[row] = 0
        self._annealed[row] = False
