"""The policy being trained: loading it, encoding prompts, and log-probabilities with gradients."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ead.pipeline.rewards import Problem


def load(folder: Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a local folder in Hugging Face format (safetensors, no remote code)."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def encode(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return each problem's prompt as token ids, through the tokenizer's chat template."""
    return [
        tokenizer.apply_chat_template(problem.messages, add_generation_prompt=True, return_dict=False)
        for problem in problems
    ]


def decode(tokens: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text of each response, special tokens left out."""
    rows = [row[kept].tolist() for row, kept in zip(tokens, mask, strict=True)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


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
    model: PreTrainedModel,
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
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    row, position = mask.nonzero(as_tuple=True)
    # The token at response position t is predicted one column earlier.
    logits = model.lm_head(hidden[row, lengths[row] + position - 1]).float()
    if temperatures is not None:
        logits = logits / temperatures.to(logits)[position].unsqueeze(-1)
    chosen = torch.log_softmax(logits, -1).gather(-1, tokens[row, position].to(logits.device).unsqueeze(-1))
    return torch.zeros(mask.shape, device=logits.device).index_put((row, position), chosen.squeeze(-1))
