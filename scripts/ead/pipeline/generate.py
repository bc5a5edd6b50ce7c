"""The in-process sampler: batched decoding with a key-value cache, annealed or not.

All rows of a batch are at the same response position, so a schedule costs one scalar division per step. Each
prompt is read once for all its samples; rows that have finished leave the batch. The forward pass is written
out for Llama- and Qwen2-class models, because decoding one token with a general implementation spends most of
its time outside the matrix products at small sizes; a test holds it against the Hugging Face model.

The uniform numbers of a batch are drawn before decoding, one per row and position, and tokens are found by
inverting the cumulative distribution: what a row draws does not depend on when other rows finish.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ead.schedule import Schedule

SUPPORTED = ("llama", "qwen2")
COMPACTION = 0.75  # share of rows still decoding at which the finished ones leave the batch


@dataclass(frozen=True)
class Rollouts:
    """Sampled responses, B rows padded on the right to T tokens.

    ``tokens`` [B, T] int64, ``mask`` [B, T] bool (response tokens, the end-of-sequence token included),
    ``finished`` [B] bool (False: cut at the token limit). With ``record``, in nats and 0 outside the mask:
    ``behaviour_logprobs`` of the sampled token under the distribution it was drawn from (after the
    temperature, before top-p), ``policy_logprobs`` at the trainer's temperature, ``entropy`` at temperature 1
    and ``behaviour_entropy`` at the sampling temperature (D10), all [B, T] float32.
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


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    schedule: Schedule | None,
    *,
    samples: int,
    max_new_tokens: int,
    generator: torch.Generator | None,
    step: int = 0,
    top_p: float = 1.0,
    record: bool = False,
    logprob_temperature: str = "one",
    batch_rows: int = 1024,
) -> Rollouts:
    """Draw ``samples`` responses to each prompt; rows ``i * samples … (i + 1) * samples - 1`` answer prompt i.

    Args:
        model: a Hugging Face causal language model of a class in ``SUPPORTED``.
        prompts: token ids.
        schedule: temperature by response position; None decodes greedily.
        generator: source of the uniform numbers, on the CPU; may be None for greedy decoding.
        step: the trainer's global step, which sets the decay rate of an annealed schedule.
        record: also return log-probabilities and entropies.
        logprob_temperature: temperature of ``policy_logprobs``: ``one`` or ``sampling`` (D15).
        batch_rows: rows decoded together; bounds the memory of the cache.

    Raises:
        ValueError: unsupported model class, an empty prompt, or prompt and response exceed the positions.
    """
    _check(model, prompts, max_new_tokens)
    network = _Network(model)
    rows = len(prompts) * samples
    width = max_new_tokens
    uniforms = None if schedule is None else torch.rand(rows, width, generator=generator, dtype=torch.float64)
    temperatures = np.ones(width) if schedule is None else schedule.temperature(np.arange(width), step)
    eos = _end_tokens(model)
    pad = model.config.pad_token_id if model.config.pad_token_id is not None else min(eos)
    parts = []
    prompts_at_once = max(1, batch_rows // samples)
    for first in range(0, len(prompts), prompts_at_once):
        chunk = prompts[first : first + prompts_at_once]
        rows_of_chunk = slice(first * samples, (first + len(chunk)) * samples)
        draw = _Draw(
            temperatures=temperatures,
            uniforms=None if uniforms is None else uniforms[rows_of_chunk].to(network.device),
            top_p=top_p,
            record=record,
            policy_at_sampling_temperature=logprob_temperature == "sampling",
        )
        parts.append(_decode(network, chunk, samples, width, eos, pad, draw))
    return _concatenate(parts, pad)


def _check(model, prompts, max_new_tokens: int) -> None:
    if model.config.model_type not in SUPPORTED:
        raise ValueError(
            f"the in-process sampler supports models of type {', '.join(SUPPORTED)}, found {model.config.model_type!r}"
        )
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt is empty")
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > model.config.max_position_embeddings:
        raise ValueError(
            f"prompt and response need {longest} positions, the model has {model.config.max_position_embeddings}"
        )


def _end_tokens(model) -> list[int]:
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = model.config.eos_token_id
    return [eos] if isinstance(eos, int) else list(eos)


class _Network:
    """The weights of a Llama- or Qwen2-class model, arranged for decoding.

    The query, key and value projections are one matrix, and so are the gate and up projections.
    """

    def __init__(self, model: torch.nn.Module):
        config, base = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embedding, self.head = base.embed_tokens.weight, model.lm_head.weight
        self.final_norm = base.norm.weight
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        positions = torch.arange(config.max_position_embeddings, device=self.device)[None]
        cosine, sine = base.rotary_emb(self.embedding[:1, None], positions)
        self.cosine, self.sine = cosine[0], sine[0]  # [positions, head_dim]
        self.layers = []
        for layer in base.layers:
            attention, mlp = layer.self_attn, layer.mlp
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            biases = [projection.bias for projection in projections]
            self.layers.append(
                (
                    layer.input_layernorm.weight,
                    torch.cat([projection.weight for projection in projections]),
                    torch.cat(biases) if biases[0] is not None else None,
                    attention.o_proj.weight,
                    attention.o_proj.bias,
                    layer.post_attention_layernorm.weight,
                    torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    mlp.down_proj.weight,
                )
            )

    def new_cache(self, rows: int, length: int) -> Tensor:
        """Keys and values of all layers: [layers, 2, rows, kv_heads, length, head_dim]."""
        shape = (len(self.layers), 2, rows, self.kv_heads, length, self.head_dim)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def forward(
        self, tokens: Tensor, positions: Tensor, cache: Tensor, start: int, mask: Tensor | None
    ) -> Tensor:
        """Read ``tokens`` [B, L] into the cache at columns start … start + L - 1.

        ``positions`` [B, L] or [1, L] are rotary positions; ``mask`` broadcasts to [B, 1, L, start + L], True
        where attended; None attends to everything. Returns the last column's logits [B, V] in float32.
        """
        rows, length = tokens.shape
        hidden = F.embedding(tokens, self.embedding)
        cosine, sine = self.cosine[positions].unsqueeze(1), self.sine[positions].unsqueeze(1)
        end, q_size, kv_size = start + length, self.heads * self.head_dim, self.kv_heads * self.head_dim
        for index, (norm, qkv, qkv_bias, out, out_bias, norm2, gate_up, down) in enumerate(self.layers):
            joint = F.linear(F.rms_norm(hidden, norm.shape, norm, self.eps), qkv, qkv_bias)
            joint = joint.view(rows, length, -1, self.head_dim).transpose(1, 2)
            rotated = joint[:, : self.heads + self.kv_heads]
            rotated = rotated * cosine + _rotate_half(rotated) * sine
            keys, values = cache[index]
            keys[:, :, start:end] = rotated[:, self.heads :]
            values[:, :, start:end] = joint[:, self.heads + self.kv_heads :]
            attended = F.scaled_dot_product_attention(
                rotated[:, : self.heads],
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=mask,
                enable_gqa=self.heads != self.kv_heads,
            )
            hidden = hidden + F.linear(attended.transpose(1, 2).reshape(rows, length, q_size), out, out_bias)
            gate, up = F.linear(F.rms_norm(hidden, norm2.shape, norm2, self.eps), gate_up).chunk(2, -1)
            hidden = hidden + F.linear(F.silu(gate) * up, down)
        last = F.rms_norm(hidden[:, -1], self.final_norm.shape, self.final_norm, self.eps)
        return F.linear(last, self.head).float()


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


@dataclass(frozen=True)
class _Draw:
    """How the next token is chosen, and what is recorded about it."""

    temperatures: np.ndarray  # [T]
    uniforms: Tensor | None  # [B, T] float64; None is greedy
    top_p: float
    record: bool
    policy_at_sampling_temperature: bool

    def __call__(self, logits: Tensor, rows: Tensor, t: int) -> tuple[Tensor, list[Tensor]]:
        """Return tokens [b] and the recorded values [b] each, for the active ``rows`` at position ``t``."""
        temperature = float(self.temperatures[t])
        scaled = logits if temperature == 1.0 else logits / temperature
        if self.uniforms is None:
            tokens = logits.argmax(-1)
        else:
            tokens = _invert_cumulative(_nucleus(scaled, self.top_p), self.uniforms[rows, t])
        if not self.record:
            return tokens, []
        at_one = F.log_softmax(logits, -1)
        at_sampling = at_one if temperature == 1.0 else F.log_softmax(scaled, -1)
        policy = at_sampling if self.policy_at_sampling_temperature else at_one
        chosen = tokens.unsqueeze(-1)
        entropy = -(at_one.exp() * at_one).sum(-1)
        behaviour_entropy = entropy if temperature == 1.0 else -(at_sampling.exp() * at_sampling).sum(-1)
        return tokens, [
            at_sampling.gather(-1, chosen).squeeze(-1),
            policy.gather(-1, chosen).squeeze(-1),
            entropy,
            behaviour_entropy,
        ]


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


def _decode(network, prompts, samples, width, eos, pad, draw) -> Rollouts:
    """Decode one batch to its end."""
    device = network.device
    prompt_width = max(map(len, prompts))
    ids = torch.full((len(prompts), prompt_width), pad, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, prompt_width - len(prompt) :] = torch.as_tensor(prompt, device=device)
    padding = torch.tensor([prompt_width - len(prompt) for prompt in prompts], device=device)
    visible = torch.arange(prompt_width, device=device) >= padding[:, None]  # [P, L]: not left padding
    padded = bool(padding.any())

    logits, cache = _read_prompts(network, ids, padding, visible, prompt_width + width)
    logits = logits.repeat_interleave(samples, 0)
    cache = cache.repeat_interleave(samples, 2)
    padding = padding.repeat_interleave(samples, 0)
    visible = F.pad(visible, (0, width), value=True).repeat_interleave(samples, 0)

    total = len(prompts) * samples
    tokens = torch.full((total, width), pad, device=device)
    mask = torch.zeros(total, width, dtype=torch.bool, device=device)
    recorded = torch.zeros(4, total, width, device=device) if draw.record else None
    ends = torch.tensor(eos, device=device)
    rows = torch.arange(total, device=device)  # batch rows that the cache still holds
    going = torch.ones(total, dtype=torch.bool, device=device)  # which of them are still decoding
    for t in range(width):
        chosen, values = draw(logits, rows, t)
        active = rows[going]
        tokens[active, t], mask[active, t] = chosen[going], True
        for series, value in enumerate(values):
            recorded[series, active, t] = value[going]
        going &= ~torch.isin(chosen, ends)
        left = int(going.sum())
        if not left or t + 1 == width:
            break
        column = prompt_width + t
        if left <= COMPACTION * len(rows):
            # Copying the cache costs about one step, so finished rows stay in until enough of them have gathered.
            cache = cache[:, :, going]
            rows, chosen, padding, visible = rows[going], chosen[going], padding[going], visible[going]
            going = going[going]
        positions = (column - padding)[:, None]
        attended = visible[:, None, None, : column + 1] if padded else None
        logits = network.forward(chosen[:, None], positions, cache, column, attended)
    finished = (torch.isin(tokens, ends) & mask).any(-1)
    longest = int(mask.sum(-1).max())
    series = [None] * 4 if recorded is None else [values[:, :longest].cpu() for values in recorded]
    return Rollouts(tokens[:, :longest].cpu(), mask[:, :longest].cpu(), finished.cpu(), *series)


def _read_prompts(network, ids, padding, visible, length):
    """Run the prompts through the network once; return the next-token logits and the filled cache."""
    prompts, prompt_width = ids.shape
    cache = network.new_cache(prompts, length)
    causal = torch.ones(prompt_width, prompt_width, dtype=torch.bool, device=ids.device).tril()
    positions = (torch.arange(prompt_width, device=ids.device) - padding[:, None]).clamp_(min=0)
    # A padding row attends to itself, so that its (unused) softmax is finite.
    diagonal = torch.eye(prompt_width, dtype=torch.bool, device=ids.device)
    mask = (causal & visible[:, None, :] | diagonal)[:, None]
    return network.forward(ids, positions, cache, 0, mask), cache


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
