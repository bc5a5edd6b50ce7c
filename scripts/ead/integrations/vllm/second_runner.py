"""EAD in vLLM's second model runner (V2): slots that requests keep, and rows that know their positions.

Everything that changes with a step is on the device, because the host does not wait for it: the rows of a step are
formed, and under speculative decoding accepted, there. So temperatures are computed there too, in float64.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ead.integrations.vllm.request import RuleTable, is_greedy, requested_schedule, warn_of_raw_logprobs
from ead.schedule import ScheduleTable, Switched

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

_NEVER = torch.iinfo(torch.int64).max
_NO_TOKEN = -1
_MOST_TOKENS = 16  # that ead.schedule.Switched takes


class SecondRunner:
    """Temperatures of a step's rows, as vLLM's second runner asks for them."""

    def __init__(self, vllm_config: "VllmConfig", req_states: "LogitsProcRequestState") -> None:
        slots = req_states.max_num_reqs
        self._states = req_states
        self._logprobs_mode = vllm_config.model_config.logprobs_mode
        # How many tokens may be accepted in one step besides the one that is sampled.
        speculative = vllm_config.speculative_config
        self._drafted = speculative.num_speculative_tokens if speculative else 0
        # One entry per slot, on the host and, from the next apply_staged_writes on, on the device.
        self._table, self._later = ScheduleTable(slots), ScheduleTable(slots)  # until and after a switch
        self._rules = RuleTable(slots)
        self._start = np.zeros(slots, dtype=np.int64)  # place in the sequence of the response's first token
        self._tokens = np.full((slots, _MOST_TOKENS), _NO_TOKEN, dtype=np.int64)  # that switch
        self._annealed = np.zeros(slots, dtype=bool)
        self._switches = np.zeros(slots, dtype=bool)
        self._taken: list[int] = []  # slots to be brought to the device
        # Place in the sequence of the token that switched.
        self._switched_at = torch.full((slots,), _NEVER, device=req_states.device)
        self._on_device = self._copies()

    def add_request(self, slot: int, params: "SamplingParams") -> bool:
        """Take the slot over for a request; whether its logits will be changed."""
        request = requested_schedule(params)
        annealed = request is not None and not is_greedy(params)
        if not annealed and not self._annealed[slot]:
            return False
        self._taken.append(slot)
        self._annealed[slot], self._switches[slot] = annealed, False
        self._table.clear(slot)
        self._rules.rule[slot] = 0
        self._tokens[slot] = _NO_TOKEN
        if not annealed:
            return False
        schedule, step, position = request
        self._start[slot] = int(self._states.prompt_len.np[slot]) - position
        self._rules.set(slot, schedule)
        schedule = schedule.by_position
        if isinstance(schedule, Switched):
            self._later.set(slot, schedule.after, step)
            self._tokens[slot, : len(schedule.tokens)] = schedule.tokens
            self._switches[slot] = True
            schedule = schedule.before
        self._table.set(slot, schedule, step)
        warn_of_raw_logprobs(params, self._logprobs_mode)
        return True

    def apply_staged_writes(self) -> None:
        """Bring the slots of new requests to the device."""
        if not self._taken:
            return
        self._on_device = self._copies()
        self._switched_at[self._copied(np.array(self._taken))] = _NEVER
        for slot in {slot for slot in self._taken if self._switches[slot]}:
            # A request that was preempted comes back with its response so far.
            # A request may name a position beyond its prompt; what is not there did not switch.
            first, end = max(int(self._start[slot]), 0), int(self._states.prefill_len.np[slot])
            if end > first:
                drawn = self._states.all_token_ids.gpu[slot, first:end]
                hits = torch.isin(drawn, self._on_device["tokens"][slot].to(drawn.dtype))
                places = torch.arange(first, end, device=drawn.device)
                self._switched_at[slot] = torch.where(hits, places, _NEVER).min()
        self._taken.clear()

    def _copies(self) -> dict[str, torch.Tensor]:
        arrays = {
            "start": self._start,
            "tokens": self._tokens,
            "parameters": self._table.parameters,
            "formulas": self._table.formulas,
            "later parameters": self._later.parameters,
            "later formulas": self._later.formulas,
            "rule": self._rules.rule,
            "rule numbers": self._rules.numbers,
        }
        return {name: self._copied(array) for name, array in arrays.items()}

    def _copied(self, array: np.ndarray) -> torch.Tensor:
        """Return a copy on the device; the array may change at once, and the device is not waited for."""
        host = torch.from_numpy(array.copy())
        if self._states.device.type != "cuda":
            return host.to(self._states.device)
        return host.pin_memory().to(self._states.device, non_blocking=True)

    def apply(self, logits: torch.Tensor, ctx: "LogitsContext") -> torch.Tensor:
        """Divide ``logits``, shape (rows, vocabulary), in place; untouched where no row is annealed."""
        if not self._annealed[ctx.idx_mapping_np].any():
            return logits
        slots = ctx.expanded_idx_mapping.long()
        # The row at place p of a sequence draws the token at place p + 1. A prompt read in parts draws, too early, a
        # token that nobody uses.
        position = (ctx.pos + 1 - self._on_device["start"][slots]).clamp(min=0)
        temperatures = self._temperatures(self._table, "", slots, position, ctx)
        if self._switches[ctx.idx_mapping_np].any():
            since = ctx.pos - self._follow_switches(slots, ctx)
            later = self._temperatures(self._later, "later ", slots, since.clamp(min=0), ctx)
            temperatures = torch.where(since >= 0, later, temperatures)
        temperatures = temperatures.to(logits.dtype)[:, None]
        present = [rule for rule in np.unique(self._rules.rule[ctx.idx_mapping_np]).tolist() if rule]
        if not present:
            return logits.div_(temperatures)
        rule, numbers = self._on_device["rule"][slots], self._on_device["rule numbers"][:, slots]
        return self._rules.apply(present, logits, temperatures, rule, numbers, position)

    def _temperatures(
        self,
        table: ScheduleTable,
        which: str,
        slots: torch.Tensor,
        position: torch.Tensor,
        ctx: "LogitsContext",
    ) -> torch.Tensor:
        return table.evaluate(
            np.unique(table.formulas[ctx.idx_mapping_np]),
            self._on_device[f"{which}parameters"][:, slots],
            self._on_device[f"{which}formulas"][slots],
            position.double(),
            torch,
        )

    def _follow_switches(self, slots: torch.Tensor, ctx: "LogitsContext") -> torch.Tensor:
        """Return, for each row, the place of the token that switched its request; note those that stay.

        A row's sequence is the tokens that are settled, and then those that this step tries: the inputs of the rows
        before it. No more tokens than one step can accept were settled since the last one.
        """
        rows = torch.arange(len(slots), device=slots.device)
        tokens, start = self._on_device["tokens"][slots], self._on_device["start"][slots].clamp(min=0)
        found = torch.full_like(ctx.pos, _NEVER)
        for back in range(self._drafted + 1):
            place = ctx.pos - back
            tried = ctx.input_ids[(rows - back).clamp(min=0)]
            settled = self._states.all_token_ids.gpu[slots, place.clamp(min=0)]
            token = torch.where(ctx.expanded_local_pos >= back, tried, settled)
            hit = (token[:, None] == tokens).any(-1) & (place >= start)
            found = torch.where(hit, place, found)
        # What the first row of a request has seen is settled. Of the others nothing is noted: every write is of a
        # value that its slot would take anyway.
        settled = torch.where(ctx.expanded_local_pos == 0, found, _NEVER)
        self._switched_at.scatter_reduce_(0, slots, settled, "amin")
        return torch.minimum(found, self._switched_at[slots])
