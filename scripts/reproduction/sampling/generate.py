"""The in-process sampler: batched decoding with a key-value cache, annealed or not.

All rows of a batch are at the same response position, so a schedule costs one scalar division per step; where it
switches at a token, each row has a number of its own, and where it looks at the logits, its rule (``ead.rules``) does
the division. What is the same is computed once: a branch is the responses to one prompt that have drawn the same
tokens so far, and the network reads each branch's token once, from the prompt on. Where responses of a branch draw
different tokens it forks; what has ended leaves the batch.

The uniform numbers of a batch are drawn before decoding, one per row and position, and tokens are found by
inverting the cumulative distribution: what a row draws does not depend on when other rows finish.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ead import rules
from ead.schedule import Schedule, Switched
from reproduction.models.transformer import Transformer

COMPACTION = 0.75  # share of branches still decoding at which the ended ones leave the cache
MAX_LOGITS = 2**24  # numbers that a draw works on at once: 64 MiB, in float64 twice that
BLOCK = 4  # columns by which the cache grows: what is read stays close together


@dataclass(frozen=True)
class Rollouts:
    """Sampled responses, B rows padded on the right to T tokens.

    ``tokens`` [B, T] int64, ``mask`` [B, T] bool (response tokens, the end-of-sequence token included),
    ``finished`` [B] bool (False: cut at the token limit). With ``record``, in nats and 0 outside the mask:
    ``behaviour_logprobs`` of the sampled token under the distribution it was drawn from (after temperature and
    truncation), ``policy_logprobs`` at the trainer's temperature, ``entropy`` at temperature 1 and
    ``behaviour_entropy`` of the distribution drawn from (D10), all [B, T] float32.
    """

    tokens: Tensor
    mask: Tensor
    finished: Tensor
    behaviour_logprobs: Tensor | None = None
    policy_logprobs: Tensor | None = None
    entropy: Tensor | None = None
    behaviour_entropy: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(-1)


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    schedule: Schedule | None,
    *,
    samples: int,
    max_new_tokens: int,
    generator: torch.Generator | None,
    step: int = 0,
    start: int = 0,
    top_p: float = 1.0,
    record: bool = False,
    logprob_temperature: str = "one",
    batch_rows: int = 1024,
    report: Callable[[float], None] = lambda share: None,
) -> Rollouts:
    """Draw ``samples`` responses to each prompt; rows ``i * samples … (i + 1) * samples - 1`` answer prompt i.

    Args:
        model: the policy to sample from.
        prompts: token ids.
        schedule: temperature by response position, and what it does with the logits; None decodes greedily.
        generator: source of the uniform numbers, on the CPU; may be None for greedy decoding.
        step: the trainer's global step, which sets the decay rate of an annealed schedule.
        start: response position of the first token drawn, where the prompts end with that many response tokens.
        record: also return log-probabilities and entropies.
        logprob_temperature: temperature of ``policy_logprobs``: ``one`` or ``sampling`` (D15), the latter for a
            schedule of the position alone.
        batch_rows: rows decoded together; bounds the memory of the cache.
        report: called after every token with the share of the work that is done at most.

    Raises:
        ValueError: an empty prompt, or prompt and response exceed the model's positions.
    """
    _check(model, prompts, max_new_tokens)
    rows = len(prompts) * samples
    width = max_new_tokens
    uniforms = None if schedule is None else torch.rand(rows, width, generator=generator, dtype=torch.float64)
    parts = []
    prompts_at_once = max(1, batch_rows // samples)
    for first in range(0, len(prompts), prompts_at_once):
        chunk = prompts[first : first + prompts_at_once]
        rows_of_chunk = slice(first * samples, (first + len(chunk)) * samples)
        before, part = first / len(prompts), len(chunk) / len(prompts)
        draw = _Draw(
            temperatures=_temperatures(schedule, step, start, width, chunk, samples, model.device),
            uniforms=None if uniforms is None else uniforms[rows_of_chunk].to(model.device),
            rule=None if schedule is None or schedule.rule is None else partial(_ruled, schedule, start),
            top_p=top_p,
            record=record,
            policy_at_sampling_temperature=logprob_temperature == "sampling",
        )
        for_chunk = partial(_share_of_whole, report, before, part)
        with torch.inference_mode():
            parts.append(_decode(model, chunk, samples, width, draw, for_chunk))
    # Outside of it, so that training may use what was drawn.
    return _concatenate(parts, model.shape.pad)


def _check(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt is empty")
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > model.shape.positions:
        raise ValueError(
            f"prompt and response need {longest} positions, the model has {model.shape.positions}"
        )


class _SameForAll:
    """Temperatures of a schedule of the position: one number for all rows."""

    def __init__(self, temperatures: np.ndarray) -> None:
        self._temperatures = temperatures  # [T]

    def at(self, rows: Tensor, t: int) -> float | Tensor:
        """Return what divides the logits of the batch's ``rows`` at the token number ``t`` that is drawn."""
        return float(self._temperatures[t])

    def note(self, rows: Tensor, t: int, tokens: Tensor) -> None:
        """Take note of what was drawn there."""


class _ByRow(_SameForAll):
    """Temperatures of a schedule that switches, row by row, when its token is drawn."""

    def __init__(
        self,
        schedule: Switched,
        step: int,
        start: int,
        width: int,
        begun: Sequence[Sequence[int]],
        samples: int,
        device: torch.device,
    ) -> None:
        positions = np.arange(start + width)
        self._start, self._never = start, start + width
        self._before = torch.from_numpy(schedule.before.temperature(positions, step)).to(device)
        self._after = torch.from_numpy(schedule.after.temperature(positions, step)).to(device)
        self._tokens = torch.tensor(schedule.tokens, device=device)
        switched = [
            next((place + 1 for place, token in enumerate(row) if token in schedule.tokens), self._never)
            for row in begun
        ]
        # Position of the first token after the switch, [B].
        self._switched_at = torch.tensor(switched, device=device).repeat_interleave(samples)

    def at(self, rows: Tensor, t: int) -> Tensor:
        position, switched_at = self._start + t, self._switched_at[rows]
        after = self._after[(position - switched_at).clamp_(min=0)]
        found = torch.where(switched_at <= position, after, self._before[position])
        return found.float().unsqueeze(-1)

    def note(self, rows: Tensor, t: int, tokens: Tensor) -> None:
        after = torch.where(torch.isin(tokens, self._tokens), self._start + t + 1, self._never)
        self._switched_at[rows] = torch.minimum(self._switched_at[rows], after)


def _temperatures(
    schedule: Schedule | None,
    step: int,
    start: int,
    width: int,
    prompts: Sequence[Sequence[int]],
    samples: int,
    device: torch.device,
) -> _SameForAll:
    schedule = None if schedule is None else schedule.by_position
    if isinstance(schedule, Switched):
        begun = [prompt[len(prompt) - start :] for prompt in prompts]
        return _ByRow(schedule, step, start, width, begun, samples, device)
    if schedule is None:
        return _SameForAll(np.ones(width))
    return _SameForAll(schedule.temperature(start + np.arange(width), step))


def _ruled(schedule: Schedule, start: int, logits: Tensor, temperature: float | Tensor, t: int) -> Tensor:
    """Return the logits that a schedule with a rule draws the token number ``t`` from."""
    return rules.apply(schedule.rule, logits, temperature, schedule.rule_numbers, start + t)


@dataclass(frozen=True)
class _Draw:
    """How the next token is chosen, and what is recorded about it.

    Distributions are computed by branch, which rows that have drawn the same tokens share.
    """

    temperatures: _SameForAll
    rule: Callable[[Tensor, float | Tensor, int], Tensor] | None
    uniforms: Tensor | None  # [B, T] float64; None is greedy
    top_p: float
    record: bool
    policy_at_sampling_temperature: bool

    def __call__(
        self, logits: Tensor, branches: Tensor, rows: Tensor, t: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return tokens [b] and the recorded values [4, b], for the batch's ``rows`` [b] at position ``t``.

        ``branches`` [b] says which of the ``logits`` [branches, V] are a row's.
        """
        at_once = max(1, MAX_LOGITS // logits.shape[-1])
        if max(len(logits), len(rows)) <= at_once:  # a draw has a cumulative distribution for each row
            return self._draw(logits, branches, rows, t)
        pieces = zip(branches.split(at_once), rows.split(at_once), strict=True)
        drawn = (
            self._draw(logits[of], torch.arange(len(of), device=of.device), part, t) for of, part in pieces
        )
        tokens, values = zip(*drawn, strict=True)
        return torch.cat(tokens), torch.cat(values, -1) if self.record else None

    def _draw(self, logits: Tensor, branches: Tensor, rows: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        temperature = self.temperatures.at(rows, t)
        if isinstance(temperature, Tensor):  # rows of a branch have the same
            temperature = temperature.new_ones(len(logits), 1).index_copy_(0, branches, temperature)
        everywhere_one = self.rule is None and isinstance(temperature, float) and temperature == 1.0
        if self.rule is not None:
            scaled = self.rule(logits, temperature, t)
        else:
            scaled = logits if everywhere_one else logits / temperature
        greedy, truncated = self.uniforms is None, self.rule is not None or self.top_p < 1.0
        probabilities = None
        if not greedy or (truncated and self.record):
            probabilities = _nucleus(scaled, self.top_p)
        if greedy:
            tokens = logits.argmax(-1)[branches]
        else:
            tokens = _invert_cumulative(probabilities, branches, self.uniforms[rows, t])
        self.temperatures.note(rows, t, tokens)
        if not self.record:
            return tokens, None
        if truncated:
            return tokens, self._truncated_values(logits, probabilities, branches, tokens)
        # One operator for both distributions: on small batches the number of operators decides.
        both = F.log_softmax(logits.unsqueeze(0) if everywhere_one else torch.stack((logits, scaled)), -1)
        entropies = -(both.exp() * both).sum(-1)
        at_one, at_sampling = both[0], both[-1]
        policy = at_sampling if self.policy_at_sampling_temperature else at_one
        logprobs = (series[branches, tokens] for series in (at_sampling, policy))
        return tokens, torch.stack((*logprobs, entropies[0, branches], entropies[-1, branches]))

    def _truncated_values(
        self, logits: Tensor, probabilities: Tensor, branches: Tensor, tokens: Tensor
    ) -> Tensor:
        """Return the recorded values where ``probabilities``, up to a factor, have a support of their own."""
        if self.policy_at_sampling_temperature:
            raise ValueError("logprob_temperature: sampling needs a schedule of the position alone")
        behaviour = probabilities / probabilities.sum(-1, keepdim=True)
        at_one = F.log_softmax(logits, -1)
        logprobs = (behaviour[branches, tokens].log(), at_one[branches, tokens])
        entropies = (-(at_one.exp() * at_one).sum(-1), torch.special.entr(behaviour).sum(-1))
        return torch.stack([*logprobs, *(series[branches] for series in entropies)]).to(logits.dtype)


def _invert_cumulative(probabilities: Tensor, branches: Tensor, uniforms: Tensor) -> Tensor:
    """Return the smallest token whose cumulative probability exceeds the row's uniform number, [b]."""
    cumulative = probabilities.cumsum(-1)[branches]
    # Scaling by the total keeps the draw inside the distribution whatever the rounding of the sum.
    drawn = (uniforms * cumulative[:, -1]).unsqueeze(-1)
    tokens = torch.searchsorted(cumulative, drawn, right=True).squeeze(-1)
    return tokens.clamp_(max=probabilities.shape[-1] - 1)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return probabilities in float64, restricted to the smallest set of tokens that holds ``top_p``."""
    probabilities = torch.softmax(logits.double(), -1)
    if top_p == 1.0:
        return probabilities
    ordered, order = probabilities.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    return torch.zeros_like(probabilities).scatter_(-1, order, ordered)


def _share_of_whole(report: Callable[[float], None], before: float, part: float, share: float) -> None:
    report(before + part * share)


def _decode(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    samples: int,
    width: int,
    draw: _Draw,
    report: Callable[[float], None],
) -> Rollouts:
    """Decode one batch to its end."""
    device, pad = model.device, model.shape.pad
    prompt_width = max(map(len, prompts))
    ids = torch.full((len(prompts), prompt_width), pad, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, prompt_width - len(prompt) :] = torch.as_tensor(prompt, device=device)
    padding = torch.tensor([prompt_width - len(prompt) for prompt in prompts], device=device)
    visible = torch.arange(prompt_width, device=device) >= padding[:, None]  # [P, L]: not left padding
    padded = bool(padding.any())

    logits, layers = _read_prompts(model, ids, padding, visible)
    visible = F.pad(visible, (0, width), value=True)

    total = len(prompts) * samples
    cache = _Branches(layers, total, model.shape.vocabulary, pad)
    tokens = torch.full((total, width), pad, device=device)
    mask = torch.zeros(total, width, dtype=torch.bool, device=device)
    recorded = torch.zeros(4, total, width, device=device) if draw.record else None
    ends = torch.tensor(model.shape.eos, device=device)
    rows = torch.arange(total, device=device)  # those still decoding
    branches = torch.arange(len(prompts), device=device).repeat_interleave(samples)  # of each
    for t in range(width):
        chosen, values = draw(logits, branches, rows, t)
        tokens[rows, t], mask[rows, t] = chosen, True
        if values is not None:
            recorded[:, rows, t] = values
        going = ~torch.isin(chosen, ends)
        rows, branches, chosen = rows[going], branches[going], chosen[going]
        if not len(rows) or t + 1 == width:
            break
        report((t + 1) / width)
        column = prompt_width + t
        branches, read = cache.follow(branches, chosen, column, min(BLOCK, width - t))
        positions = (column - (padding[cache.prompts] if padded else padding[:1]))[:, None]
        attended = visible[cache.prompts, None, None, : column + 1] if padded else None
        logits = model.read(read[:, None], positions, cache.layers, column, attended)
    finished = (torch.isin(tokens, ends) & mask).any(-1)
    longest = int(mask.sum(-1).max())
    series = [None] * 4 if recorded is None else [values[:, :longest].cpu() for values in recorded]
    return Rollouts(tokens[:, :longest].cpu(), mask[:, :longest].cpu(), finished.cpu(), *series)


class _Branches:
    """The cache of a batch: keys and values of its branches, and of which prompt each is.

    Of each layer [2, slots, kv_heads, columns, D]. There are never more branches than rows that still decode, so that
    many slots are enough. The first ``used`` of them are read; those of ended branches too, until others take them or
    all move.
    """

    def __init__(self, layers: list[Tensor], rows: int, vocabulary: int, pad: int) -> None:
        self._layers, self._vocabulary, self._pad = layers, vocabulary, pad
        self._slots = self._used = layers[0].shape[1]
        self._prompts = torch.arange(self._used, device=layers[0].device)
        self._shared = rows > self._used  # some rows have a branch in common

    @property
    def layers(self) -> list[Tensor]:
        return [layer[:, : self._used] for layer in self._layers]

    @property
    def prompts(self) -> Tensor:
        return self._prompts[: self._used]

    def follow(self, branches: Tensor, chosen: Tensor, filled: int, block: int) -> tuple[Tensor, Tensor]:
        """Fork where rows of one branch have drawn different tokens, and make room for one more column.

        Args:
            branches: the slot of each row that goes on, [b].
            chosen: the token that each has drawn, [b].
            filled: columns that are.
            block: columns to be added when all are filled.

        Returns the slot of each row now, [b], and the token to be read in each slot, [used].
        """
        shared = self._shared
        if shared:
            drawn, branch_of_row = torch.unique(branches * self._vocabulary + chosen, return_inverse=True)
            parents, read = drawn // self._vocabulary, drawn % self._vocabulary
            self._shared = len(parents) < len(branches)
        else:
            branch_of_row = torch.arange(len(branches), device=branches.device)
            parents, read = branches, chosen
        held = self._layers[0].shape[-2]
        columns = held + (block if filled == held else 0)
        # Copying all costs about one step, so slots of ended branches wait until enough have gathered.
        if columns > held or len(parents) <= COMPACTION * self._used:
            self._move(parents, len(branches), filled, columns)
            return branch_of_row, read
        slots = self._fork(parents) if shared else parents
        return slots[branch_of_row], read.new_full((self._used,), self._pad).index_copy_(0, slots, read)

    def _move(self, parents: Tensor, slots: int, filled: int, columns: int) -> None:
        """Copy what each branch has of its parent to new layers, where the branches lie side by side."""
        for number, layer in enumerate(self._layers):  # one after the other, so that little is held twice
            moved = layer.new_empty(2, slots, layer.shape[2], columns, layer.shape[-1])
            into = moved[:, : len(parents), :, :filled]
            torch.index_select(layer[..., :filled, :], 1, parents, out=into)
            self._layers[number] = moved
        self._prompts, self._slots, self._used = self._prompts[parents], slots, len(parents)

    def _fork(self, parents: Tensor) -> Tensor:
        """Return a slot for each branch: its parent's for the first, and free ones, with a copy, for the others."""
        others = F.pad(parents[1:] == parents[:-1], (1, 0))
        copied = parents[others]
        taken = torch.zeros(self._slots, dtype=torch.bool, device=parents.device).index_fill_(
            0, parents, True
        )
        free = (~taken).nonzero().squeeze(-1)[: len(copied)]
        if not len(free):
            return parents
        for layer in self._layers:
            layer.index_copy_(1, free, layer.index_select(1, copied))
        self._used = max(self._used, int(free[-1]) + 1)
        self._prompts = F.pad(self._prompts, (0, self._used - len(self._prompts)))
        self._prompts[free] = self._prompts[copied]
        return parents.masked_scatter(others, free)


def _read_prompts(model, ids, padding, visible):
    """Run the prompts through the network once; return the next-token logits and the filled cache."""
    prompts, prompt_width = ids.shape
    cache = model.new_cache(prompts, prompt_width)
    causal = torch.ones(prompt_width, prompt_width, dtype=torch.bool, device=ids.device).tril()
    positions = (torch.arange(prompt_width, device=ids.device) - padding[:, None]).clamp_(min=0)
    # A padding row attends to itself, so that its (unused) softmax is finite.
    diagonal = torch.eye(prompt_width, dtype=torch.bool, device=ids.device)
    mask = (causal & visible[:, None, :] | diagonal)[:, None]
    return model.read(ids, positions, cache, 0, mask), cache


def _concatenate(parts: list[Rollouts], pad: int) -> Rollouts:
    """Stack the batches' rows, padding all to the longest response."""
    width = max(part.tokens.shape[1] for part in parts)

    def stack(name: str, fill: float = 0) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            return None
        return torch.cat([F.pad(value, (0, width - value.shape[1]), value=fill) for value in values])

    series = ("behaviour_logprobs", "policy_logprobs", "entropy", "behaviour_entropy")
    return Rollouts(
        stack("tokens", pad),
        stack("mask"),
        torch.cat([part.finished for part in parts]),
        *(stack(name) for name in series),
    )
