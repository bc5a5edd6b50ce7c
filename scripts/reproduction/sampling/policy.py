"""The policy being trained: encoding prompts, decoding responses, log-probabilities with gradients."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reproduction.models.tokenizer import Tokenizer
from reproduction.models.transformer import Transformer
from reproduction.tasks.grading import Problem

MAX_LOGITS = 2**24  # numbers: 64 MiB


def encode(problems: Sequence[Problem], tokenizer: Tokenizer) -> list[list[int]]:
    """Return each problem's prompt as token ids, through the tokenizer's chat template."""
    return [tokenizer.encode_chat(problem.messages) for problem in problems]


def decode(tokens: Tensor, mask: Tensor, tokenizer: Tokenizer) -> list[str]:
    """Return the text of each response [B, T], special tokens left out."""
    return tokenizer.decode([row[:n] for row, n in zip(tokens.tolist(), mask.sum(-1).tolist(), strict=True)])


def micro_batches(widths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Yield row indices in batches of similar width, each at most ``token_budget`` tokens with its padding.

    A row wider than the budget is a batch of its own.
    """
    batch: list[int] = []
    for row in np.argsort(-np.asarray(widths), kind="stable").tolist():
        # Rows come widest first, so the first row of a batch sets its width.
        if batch and (len(batch) + 1) * widths[batch[0]] > token_budget:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def response_logprobs(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    tokens: Tensor,
    mask: Tensor,
    temperatures: Tensor | None = None,
) -> Tensor:
    """Return log-probabilities [B, T] in nats of response ``tokens`` [B, T], 0 outside ``mask``; differentiable.

    ``temperatures`` [T] divide the logits by response position; None is temperature 1. Sequences are padded
    on the right, where causal attention never looks, and only response tokens reach the output matrix.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    responses = mask.sum(-1)
    rows = [
        torch.cat([torch.tensor(prompt), row[: int(n)]])
        for prompt, row, n in zip(prompts, tokens, responses, strict=True)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
    hidden = model(ids)
    row, position = mask.nonzero(as_tuple=True)
    # The token at response position t is predicted one column earlier.
    chosen = token_logprobs(
        model,
        hidden[row, lengths[row] + position - 1],
        tokens[row, position].to(hidden.device),
        None if temperatures is None else temperatures.to(hidden)[position],
    )
    return torch.zeros(mask.shape, device=hidden.device).index_put((row, position), chosen)


def token_logprobs(
    model: Transformer, hidden: Tensor, tokens: Tensor, temperatures: Tensor | None = None
) -> Tensor:
    """Return log-probabilities [N] of ``tokens`` [N], each predicted from a row of ``hidden`` [N, hidden].

    Beyond :data:`MAX_LOGITS` numbers the logits are made in pieces, and once more for their gradient, so that a
    vocabulary of 150,000 tokens costs no more memory than one of 100.
    """
    at_once = max(1, MAX_LOGITS // model.shape.vocabulary)
    if len(hidden) <= at_once:
        return _chosen_logprobs(model, hidden, tokens, temperatures)
    pieces = []
    for first in range(0, len(hidden), at_once):
        part = slice(first, first + at_once)
        inputs = (model, hidden[part], tokens[part], None if temperatures is None else temperatures[part])
        pieces.append(checkpoint(_chosen_logprobs, *inputs, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(pieces)


def _chosen_logprobs(
    model: Transformer, hidden: Tensor, tokens: Tensor, temperatures: Tensor | None
) -> Tensor:
    logits = model.logits(hidden)
    if temperatures is not None:
        logits = logits / temperatures.unsqueeze(-1)
    return torch.log_softmax(logits, -1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
