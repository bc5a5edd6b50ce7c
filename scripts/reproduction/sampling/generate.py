"""The in-process sampler: batched decoding with a key-value cache, annealed or not.

All rows of a batch are at the same response position, so a schedule costs one scalar division per step; where it
switches at a token, each row has a number of its own, and where it looks at the logits, its rule (``ead.rules``) does
the division. Each prompt is read once for all its samples; rows that have finished leave the batch.

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

COMPACTION = 0.75  # share of rows still decoding at which the finished ones leave the batch
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
    """How the next token is chosen, and what is recorded about it."""

    temperatures: _SameForAll
    rule: Callable[[Tensor, float | Tensor, int], Tensor] | None
    uniforms: Tensor | None  # [B, T] float64; None is greedy
    top_p: float
    record: bool
    policy_at_sampling_temperature: bool

    def __call__(self, logits: Tensor, rows: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        """Return tokens [b] and the recorded values [4, b], for the batch's ``rows`` at position ``t``."""
        at_once = max(1, MAX_LOGITS // logits.shape[-1])
        if len(logits) <= at_once:
            return self._draw(logits, rows, t)
        pieces = zip(logits.split(at_once), rows.split(at_once), strict=True)
        tokens, values = zip(*(self._draw(*piece, t) for piece in pieces), strict=True)
        return torch.cat(tokens), torch.cat(values, -1) if self.record else None

    def _draw(self, logits: Tensor, rows: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
        temperature = self.temperatures.at(rows, t)
        everywhere_one = self.rule is None and isinstance(temperature, float) and temperature == 1.0
        if self.rule is not None:
            scaled = self.rule(logits, temperature, t)
        else:
            scaled = logits if everywhere_one else logits / temperature
        greedy, truncated = self.uniforms is None, self.rule is not None or self.top_p < 1.0
        probabilities = None
        if not greedy or (truncated and self.record):
            probabilities = _nucleus(scaled, self.top_p)
        tokens = logits.argmax(-1) if greedy else _invert_cumulative(probabilities, self.uniforms[rows, t])
        self.temperatures.note(rows, t, tokens)
        if not self.record:
            return tokens, None
        if truncated:
            return tokens, self._truncated_values(logits, probabilities, tokens)
        at_one = F.log_softmax(logits, -1)
        at_sampling = at_one if everywhere_one else F.log_softmax(scaled, -1)
        policy = at_sampling if self.policy_at_sampling_temperature else at_one
        chosen = tokens.unsqueeze(-1)
        entropy = -(at_one.exp() * at_one).sum(-1)
        behaviour_entropy = entropy if everywhere_one else -(at_sampling.exp() * at_sampling).sum(-1)
        logprobs = (series.gather(-1, chosen).squeeze(-1) for series in (at_sampling, policy))
        return tokens, torch.stack((*logprobs, entropy, behaviour_entropy))

    def _truncated_values(self, logits: Tensor, probabilities: Tensor, tokens: Tensor) -> Tensor:
        """Return the recorded values where ``probabilities`` [b, V], up to a factor, have a support of their own."""
        if self.policy_at_sampling_temperature:
            raise ValueError("logprob_temperature: sampling needs a schedule of the position alone")
        behaviour = probabilities / probabilities.sum(-1, keepdim=True)
        at_one = F.log_softmax(logits, -1)
        chosen = tokens.unsqueeze(-1)
        logprobs = (behaviour.gather(-1, chosen).log(), at_one.gather(-1, chosen))
        entropies = (-(at_one.exp() * at_one).sum(-1), torch.special.entr(behaviour).sum(-1))
        return torch.stack([*(series.squeeze(-1) for series in logprobs), *entropies]).to(logits.dtype)


def _invert_cumulative(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Return the smallest token whose cumulative probability exceeds the row's uniform number, [b]."""
    cumulative = probabilities.cumsum(-1)
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

    logits, cache = _read_prompts(model, ids, padding, visible)
    logits = logits.repeat_interleave(samples, 0)
    cache = [layer.repeat_interleave(samples, 1) for layer in cache]
    padding = padding.repeat_interleave(samples, 0)
    visible = F.pad(visible, (0, width), value=True).repeat_interleave(samples, 0)

    total = len(prompts) * samples
    tokens = torch.full((total, width), pad, device=device)
    mask = torch.zeros(total, width, dtype=torch.bool, device=device)
    recorded = torch.zeros(4, total, width, device=device) if draw.record else None
    ends = torch.tensor(model.shape.eos, device=device)
    rows = torch.arange(total, device=device)  # batch rows that the cache still holds
    going = torch.ones(total, dtype=torch.bool, device=device)  # which of them are still decoding
    for t in range(width):
        chosen, values = draw(logits, rows, t)
        done = ~going
        tokens[rows, t], mask[rows, t] = chosen.masked_fill(done, pad), going
        if values is not None:
            recorded[:, rows, t] = values.masked_fill(done, 0)
        going &= ~torch.isin(chosen, ends)
        left = int(going.sum())
        if not left or t + 1 == width:
            break
        report((t + 1) / width)
        column = prompt_width + t
        if left <= COMPACTION * len(rows):
            # Copying the cache costs about one step, so finished rows wait until enough have gathered.
            kept = going.nonzero().squeeze(-1)
            cache = [layer.index_select(1, kept) for layer in cache]
            rows, chosen, padding, visible = rows[going], chosen[going], padding[going], visible[going]
            going = going[going]
        if column == cache[0].shape[-2]:
            for layer in range(len(cache)):  # one after the other, so that little is held twice
                cache[layer] = _with_room(cache[layer], min(BLOCK, width - t))
        positions = (column - (padding if padded else padding[:1]))[:, None]
        attended = visible[:, None, None, : column + 1] if padded else None
        logits = model.read(chosen[:, None], positions, cache, column, attended)
    finished = (torch.isin(tokens, ends) & mask).any(-1)
    longest = int(mask.sum(-1).max())
    series = [None] * 4 if recorded is None else [values[:, :longest].cpu() for values in recorded]
    return Rollouts(tokens[:, :longest].cpu(), mask[:, :longest].cpu(), finished.cpu(), *series)


def _with_room(layer: Tensor, columns: int) -> Tensor:
    """Return a layer's cache with further columns, to be written before they are read."""
    held = layer.shape[-2]
    larger = layer.new_empty(*layer.shape[:-2], held + columns, layer.shape[-1])
    larger[..., :held, :] = layer
    return larger


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
