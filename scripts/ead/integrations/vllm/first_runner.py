"""EAD in vLLM's first model runner (V1): a batch of rows that vLLM adds, moves and removes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ead.integrations.vllm.request import RuleTable, is_greedy, requested_schedule, warn_of_raw_logprobs
from ead.schedule import Schedule, ScheduleTable, Switched

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate

_LOOKAHEAD = 16  # steps for which temperatures are computed at once


def sees_tokens(vllm_config: "VllmConfig") -> bool:
    """Whether the first runner shows the tokens that it sampled to a processor, not only how many there are."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    return not asynchronous or bool(vllm_config.model_config.logits_processors)


@dataclass
class _Switch:
    """Where a row's switching token was drawn, found as its response grows."""

    schedule: Switched
    step: int
    first: int  # response position of the request's first output token
    known: Sequence[int]  # the response tokens that its prompt ends with
    scanned: int = 0  # of known and output tokens together
    found: int | None = None  # response position of the token
    tokens: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = frozenset(self.schedule.tokens)

    def look(self, output: Sequence[int]) -> bool:
        """Read what is new in ``output``; whether this changed the schedule that holds."""
        before = self.found
        drawn = len(self.known) + len(output)
        if drawn < self.scanned:  # vLLM took tokens back
            self.scanned, self.found = 0, None
        while self.found is None and self.scanned < drawn:
            past = self.scanned - len(self.known)
            token = self.known[self.scanned] if past < 0 else output[past]
            if token < 0:
                raise RuntimeError(
                    "a request's schedule is switched, and vLLM's first runner hides the tokens under asynchronous "
                    "scheduling: name ead.integrations.vllm:AnnealedTemperature in logits_processors too"
                )
            if token in self.tokens:
                self.found = self.scanned + self.first - len(self.known)
            self.scanned += 1
        return self.found != before

    def now(self) -> tuple[Schedule, int]:
        """The schedule that holds, and its position of the request's first output token."""
        if self.found is None:
            return self.schedule.before, self.first
        return self.schedule.after, self.first - self.found - 1


class FirstRunner:
    """Temperatures of a batch, row by row, as vLLM's first runner asks for them."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        rows = vllm_config.scheduler_config.max_num_seqs
        self._logprobs_mode = vllm_config.model_config.logprobs_mode
        # One entry per row of the batch; a row that is not annealed keeps temperature 1 and counts no tokens.
        self._table, self._rules = ScheduleTable(rows), RuleTable(rows)
        self._outputs: list[list[int] | tuple[()]] = [()] * rows
        self._first = np.zeros(rows, dtype=np.int64)  # position of the request's first output token
        self._annealed = np.zeros(rows, dtype=bool)
        self._switches: dict[int, _Switch] = {}
        self._batch_size = 0
        self._any_annealed = False
        self._present: list[int] = []  # rules of the batch's rows
        # Of this step and the next: how long the outputs will be, and the batch's temperatures, [batch, 1].
        self._foreseen: Iterator[tuple[list[int], torch.Tensor]] = iter(())
        self._temperatures = torch.ones(0, 1)
        # The pinned buffer is rewritten in a later step. That is safe because vLLM calls update_state only when the
        # copies that the previous step made before its forward pass are done (GPUModelRunner.synchronize_input_prep);
        # those made after it have buffers of their own.
        self._host = torch.ones(_LOOKAHEAD * rows, dtype=torch.float32, pin_memory=is_pin_memory)
        on_host = torch.device(device).type == "cpu"
        self._device = self._host if on_host else torch.ones_like(self._host, device=device)

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        """Follow the batch and compute this step's temperatures; vLLM calls it before every forward pass."""
        if batch_update is not None:
            self._follow(batch_update)
            self._foreseen = iter(())
        if self._any_annealed:
            # Lengths only: under asynchronous scheduling the newest tokens are still placeholders.
            lengths = list(map(len, self._outputs[: self._batch_size]))
            expected, self._temperatures = next(self._foreseen, (None, None))
            if lengths != expected:
                self._look_ahead(lengths, self._host)

    def _look_ahead(self, lengths: list[int], host: torch.Tensor) -> None:
        self._foreseen = self._foresee(lengths, host)
        _, self._temperatures = next(self._foreseen)

    def _foresee(self, lengths: list[int], host: torch.Tensor) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Return lengths and temperatures of some steps from this one on, if each output grows by a token a step.

        It does, but for a request whose prompt is read in parts or whose tokens vLLM takes back. Numpy's calls, not
        its arithmetic, are what a step would pay for. They pass through ``host``, as large as the buffer.
        """
        size = len(lengths)
        foreseen = np.array(lengths) + np.arange(_LOOKAHEAD)[:, None] * self._annealed[:size]
        temperatures = self._table.temperatures(foreseen + self._first[:size])
        host, device = (buffer[: foreseen.size].view(_LOOKAHEAD, size, 1) for buffer in (host, self._device))
        host.numpy()[..., 0] = temperatures
        if self._device is not self._host:
            device.copy_(host, non_blocking=True)
        return zip(foreseen.tolist(), device.unbind(), strict=True)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Divide ``logits``, shape (batch, vocabulary), in place; untouched where no row is annealed."""
        if not self._any_annealed:
            return logits
        if logits.shape[0] != self._batch_size:
            raise RuntimeError(f"{logits.shape[0]} rows of logits for a batch of {self._batch_size} requests")
        if self._switches:
            self._follow_switches()
        if not self._present:
            return logits.div_(self._temperatures)
        rows = slice(self._batch_size)
        position = self._first[rows] + [len(output) for output in self._outputs[rows]]
        columns = (self._rules.rule[rows], self._rules.numbers[:, rows], position)
        on_device = (torch.from_numpy(column).to(logits.device) for column in columns)
        return self._rules.apply(self._present, logits, self._temperatures, *on_device)

    def _follow_switches(self) -> None:
        """Let rows whose switching token was drawn go on with their second schedule.

        Here and not before the forward pass: under asynchronous scheduling the newest token is known only now.
        """
        switched = [row for row, switch in self._switches.items() if switch.look(self._outputs[row])]
        for row in switched:
            schedule, self._first[row] = self._switches[row].now()
            self._table.set(row, schedule, self._switches[row].step)
        if switched:
            host = self._host
            # The next update_state may come before the device reaches this step's copy.
            if self._device is not host:
                host = torch.empty(host.shape, dtype=host.dtype, pin_memory=host.is_pinned())
            self._look_ahead(list(map(len, self._outputs[: self._batch_size])), host)

    def _follow(self, update: "BatchUpdate") -> None:
        for row in update.removed:
            self._clear(row)
        for row, params, prompt_tokens, output_tokens in update.added:
            self._clear(row)
            request = requested_schedule(params)
            if request is None or is_greedy(params):
                continue
            schedule, step, first = request
            self._rules.set(row, schedule)
            schedule = schedule.by_position
            if isinstance(schedule, Switched):
                known = (prompt_tokens or ())[-first:] if first else ()
                self._switches[row] = _Switch(schedule, step, first, known)
                schedule = schedule.before
            self._table.set(row, schedule, step)
            self._first[row] = first
            self._outputs[row] = output_tokens  # vLLM's own list: it grows with the response
            self._annealed[row] = True
            warn_of_raw_logprobs(params, self._logprobs_mode)
        for source, target, direction in update.moved:
            pair, swapped = [source, target], [target, source]
            self._table.swap(source, target)
            self._rules.swap(source, target)
            self._annealed[pair] = self._annealed[swapped]
            self._first[pair] = self._first[swapped]
            self._outputs[source], self._outputs[target] = self._outputs[target], self._outputs[source]
            ours, theirs = self._switches.pop(source, None), self._switches.pop(target, None)
            self._switches |= {row: found for row, found in ((target, ours), (source, theirs)) if found}
            if direction.name == "UNIDIRECTIONAL":
                self._clear(source)
        self._batch_size = update.batch_size
        self._any_annealed = bool(self._annealed[: self._batch_size].any())
        self._present = [rule for rule in np.unique(self._rules.rule[: self._batch_size]).tolist() if rule]

    def _clear(self, row: int) -> None:
        self._table.clear(row)
        self._rules.rule[row] = 0
        self._outputs[row] = ()
        self._first[row] = 0
        self._annealed[row] = False
        self._switches.pop(row, None)
