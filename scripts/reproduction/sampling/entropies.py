"""Token entropies of responses that are already drawn, by one forward pass of transformers.

vLLM returns the log-probabilities of a few tokens, and an entropy wants the whole distribution. The in-process
sampler records entropies as it draws; a test holds the two against each other.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ead.metrics import token_entropy
from reproduction.sampling import policy

BATCH_TOKENS = 4096  # padding included: their logits are there at one time, ...
POSITIONS = 512  # ... and so many of them in float32 at once


@torch.inference_mode()
def token_entropies(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    device: str,
    report: Callable[[float], None] = lambda done: None,
) -> list[np.ndarray]:
    """Return the entropy at temperature 1 before every token of each response: nats, float32, one per token.

    Args:
        folder: the model in Hugging Face format.
        prompts, responses: token ids, row by row.
        device: ``cpu`` (float32) or ``cuda`` (bfloat16, as vLLM holds the model; entropies are float32).
        report: called with the number of rows that are done.
    """
    from transformers import AutoModelForCausalLM  # seconds, which drawing with vLLM need not wait for

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device).eval()
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    entropies: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(rows)
    done = 0
    for batch in policy.micro_batches(list(map(len, rows)), BATCH_TOKENS):
        # Padded on the right, where causal attention never looks.
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[row]) for row in batch], batch_first=True)
        widths = torch.tensor([len(rows[row]) for row in batch])
        mask = torch.arange(ids.shape[1]) < widths[:, None]
        # The first token of a response is predicted at the last of its prompt.
        first = min(len(prompts[row]) for row in batch) - 1
        logits = model(
            ids.to(device),
            attention_mask=mask.to(device),
            use_cache=False,
            logits_to_keep=ids.shape[1] - first,
        ).logits
        for place, row in enumerate(batch):
            start = len(prompts[row]) - 1 - first
            predicting = logits[place, start : start + len(responses[row])]
            parts = [token_entropy(part).cpu() for part in predicting.split(POSITIONS)]
            entropies[row] = torch.cat(parts).numpy()
        done += len(batch)
        report(done)
    return entropies
