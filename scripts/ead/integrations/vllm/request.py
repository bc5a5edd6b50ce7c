"""What a request asks for: the schedule in its sampling parameters, read and checked."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ead import rules
from ead.integrations import TOO_DEEP, first_position
from ead.schedule import BESIDE, Schedule, from_config, with_column

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams

# Below vLLM's own logger, so that messages look like its own and go where those go.
logger = logging.getLogger("vllm.ead")

_KEY = "ead"
_GREEDY_BELOW = 1e-5  # vLLM decodes greedily below this temperature
_LONGEST_TEXT = 10_000
_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_FROM_MODEL = (
    "a request that sets none has the one of the model's generation_config.json, unless the engine is started with "
    "--generation-config vllm"
)


@cache
def warn_once(message: str) -> None:
    """Log ``message`` as a warning, once in this process."""
    logger.warning("%s", message)


def asks_for_ead(params: "SamplingParams") -> bool:
    """Whether ``params`` carry EAD parameters, right or wrong."""
    return any(_is_ours(key) for key in params.extra_args or {})


def _is_ours(key: str) -> bool:
    """Whether a key is ours or a misspelling of it: ``EAD``, ``ead_schedule``, ``ead-schedule``."""
    return key.strip().lower().startswith(_KEY)


def is_greedy(params: "SamplingParams") -> bool:
    """Whether vLLM takes the most probable token, whatever the schedule."""
    return params.temperature < _GREEDY_BELOW


def requested_schedule(params: "SamplingParams") -> tuple[Schedule, int, int] | None:
    """Return the schedule, global step and first position that ``params`` asks for, or None where it asks for none.

    Raises:
        ValueError: the parameters are malformed or clash with other sampling parameters; see the package.
    """
    extra_args = params.extra_args or {}
    misspelt = [key for key in extra_args if key != _KEY and _is_ours(key)]
    if misspelt:
        raise ValueError(
            f"extra_args: found the key {misspelt[0]!r}; EAD is requested under the key {_KEY!r} alone"
        )
    if extra_args.get(_KEY) is None:
        return None
    asked = extra_args[_KEY]
    try:
        schedule, step, position = _of_text(asked) if isinstance(asked, str) else _of_data(asked)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    if not is_greedy(params):
        _check_neighbours(params)
    return schedule, step, position


def _check_neighbours(params: "SamplingParams") -> None:
    """Refuse or report the other parameters that shape the distribution; the model may have brought them."""
    if params.temperature != 1:
        raise ValueError(
            f"ead: the request's temperature is {params.temperature}, allowed: 1, or 0 for greedy decoding "
            f"({_FROM_MODEL})"
        )
    for name, neutral in _PENALTIES.items():
        if getattr(params, name) != neutral:
            raise ValueError(
                f"ead: the request's {name} is {getattr(params, name)}, allowed: {neutral:g}; EAD would anneal a "
                f"distribution that is no longer the model's ({_FROM_MODEL})"
            )
    if params.top_p < 1 or params.top_k > 0:
        warn_once(
            f"EAD: a request has top_p = {params.top_p:g} and top_k = {params.top_k}, which filter the annealed "
            f"distribution ({_FROM_MODEL}). The log-probabilities are those of what is left."
        )


def _of_data(data: Any) -> tuple[Schedule, int, int]:
    if not isinstance(data, Mapping):
        raise ValueError(
            f"ead: found {type(data).__name__}, allowed: a schedule as a mapping or as the JSON text of one"
        )
    config = dict(data)
    position = first_position(config.pop("position", 0))
    described = tuple(chain.from_iterable(config.items()))
    try:
        schedule, step = _schedule_and_step(*described)
    except TypeError:  # some value has no hash: a list of a schedule, or a mistake that the schedule names
        schedule, step = _schedule_and_step.__wrapped__(*described)
    return schedule, step, position


@lru_cache(maxsize=1024)
def _of_text(text: str) -> tuple[Schedule, int, int]:
    """Read ``text`` once for all requests that say the same."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"ead: the JSON text has {len(text)} characters, allowed: {_LONGEST_TEXT}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"ead: not valid JSON: {error}") from error
    return _of_data(data)


@lru_cache(maxsize=1024, typed=True)  # typed: True is no step, though it equals 1
def _schedule_and_step(*described: Any) -> tuple[Schedule, int]:
    """Read ``described``, keys and values in turn, once for all requests that say the same."""
    config = dict(zip(described[::2], described[1::2], strict=True))
    step = config.pop("step", 0)
    schedule = from_config(config, BESIDE)
    schedule.temperature(0, step)  # raises on a bad step
    lowest, highest = schedule.bounds
    if lowest < rules.LOWEST_TEMPERATURE:
        raise ValueError(
            f"ead: the lowest temperature is {lowest}, allowed: {rules.LOWEST_TEMPERATURE} or more"
        )
    if highest > float(np.finfo(np.float32).max):
        raise ValueError(f"ead: the highest temperature is {highest}, beyond the range of float32")
    return schedule, step


class RuleTable:
    """The rules of a batch's rows, for either runner: which row has one, and what it takes.

    Attributes:
        rules: those seen so far; ``rule`` counts them from 1.
        rule: integers, shape (rows,); 0 is none.
        numbers: float64, shape (height, rows); a shorter column ends in zeros.
    """

    def __init__(self, rows: int) -> None:
        self.rules: list[tuple[rules.Rule, int]] = []  # each with how many numbers it takes
        self.rule = np.zeros(rows, dtype=np.int64)
        self.numbers = np.zeros((2, rows))

    def set(self, row: int, schedule: Schedule) -> None:
        """Let ``row`` follow the rule of ``schedule``, if it has one."""
        if schedule.rule is None:
            self.rule[row] = 0
            return
        column = schedule.rule_numbers
        rule = (schedule.rule, len(column))
        if rule not in self.rules:
            self.rules.append(rule)
        self.rule[row] = self.rules.index(rule) + 1
        self.numbers = with_column(self.numbers, row, column)

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        pair, swapped = [one, other], [other, one]
        self.rule[pair] = self.rule[swapped]
        self.numbers[:, pair] = self.numbers[:, swapped]

    def apply(
        self,
        present: Sequence[int],
        logits: "torch.Tensor",
        temperatures: "torch.Tensor",
        rule: "torch.Tensor",
        numbers: "torch.Tensor",
        position: "torch.Tensor",
    ) -> "torch.Tensor":
        """Divide ``logits`` in place by ``temperatures``, or do what the rule of a row says.

        Args:
            logits: shape (rows, vocabulary); temperatures: shape (rows, 1).
            present: the rules that occur in ``rule``.
            rule, numbers, position: of each row, on the device of ``logits``.
        """
        # Every row is computed: to pick some out, the host would have to wait for the device.
        found = {}
        for each in filter(None, present):
            shape, height = self.rules[each - 1]
            found[each] = rules.apply(shape, logits, temperatures, numbers[:height], position)
        logits.div_(temperatures)
        for each, shaped in found.items():
            logits.copy_(shaped.where((rule == each)[:, None], logits))
        return logits


def warn_of_raw_logprobs(params: "SamplingParams", logprobs_mode: str) -> None:
    """Warn where a request with EAD is to be answered with log-probabilities before annealing."""
    if params.logprobs is not None and logprobs_mode.startswith("raw"):
        warn_once(
            f"EAD is on and logprobs_mode is {logprobs_mode}: the log-probabilities returned are those before "
            "annealing. Importance weights need processed_logprobs."
        )
