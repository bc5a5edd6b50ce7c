"""What draws responses to prompts: the interface, and the in-process sampler behind it (vLLM: ``sampling.vllm``)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from ead import schedule, seeds
from reproduction.config import Decoder
from reproduction.models.tokenizer import Tokenizer
from reproduction.models.transformer import Transformer
from reproduction.sampling.generate import generate

MAX_ROWS = 1024  # decoded together, ...
CACHE_BYTES = 2**32  # ... and fewer where their keys and values would take more than this


@dataclass(frozen=True)
class Drawn:
    """What was drawn, prompt by prompt: tokens, whether each row ended by itself, entropies where asked for."""

    tokens: list[list[int]]
    finished: list[bool]
    entropies: list[np.ndarray] | None = None  # nats at temperature 1, one per token; float32


class Sampler(Protocol):
    """A model that draws: ``InProcess``, or ``reproduction.sampling.vllm.Vllm``."""

    tokenizer: Tokenizer

    def load(self, folder: Path) -> None:
        """Go on with the weights in ``folder``, another checkpoint of the same model."""
        ...

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        decoder: Decoder,
        *,
        samples: int,
        max_new_tokens: int,
        stream: Sequence[str | int],
        position: int = 0,
        entropies: bool = False,
        report: Callable[[float], None] = lambda done: None,
    ) -> Drawn:
        """Return ``samples`` responses per prompt, in order.

        Args:
            max_new_tokens: the most that is drawn for each.
            stream: root seed and names of the random stream; the sampler adds what tells its draws apart.
            position: of the first token drawn, where the prompts end with that many tokens of a response.
            entropies: return them too.
            report: called with the number of prompts that are done at most.
        """
        ...


class InProcess:
    """A model and the project's own sampler."""

    def __init__(self, folder: Path) -> None:
        self.load(folder)

    def load(self, folder: Path) -> None:
        """See :class:`Sampler`."""
        self.tokenizer, self.model = Tokenizer(folder), Transformer.load(folder)

    def draw(
        self,
        prompts,
        decoder,
        *,
        samples,
        max_new_tokens,
        stream,
        position=0,
        entropies=False,
        report=lambda done: None,
    ) -> Drawn:
        """See :class:`Sampler`. The stream of a batch is named by the place of its first prompt."""
        longest, allowed = max(map(len, prompts)), self.model.shape.positions - max_new_tokens
        if longest > allowed:  # before the first is drawn
            raise ValueError(
                f"a prompt has {longest} tokens; beside responses of {max_new_tokens} the model's positions allow "
                f"{allowed}"
            )
        row_bytes = self.model.cache_bytes(max(map(len, prompts)) + max_new_tokens)
        rows = max(samples, min(MAX_ROWS, CACHE_BYTES // row_bytes))
        per_chunk = rows // samples
        drawn = Drawn([], [], [] if entropies else None)
        for first in range(0, len(prompts), per_chunk):
            chunk = prompts[first : first + per_chunk]
            rollouts = generate(
                self.model,
                chunk,
                None if decoder.schedule is None else schedule.from_config(decoder.schedule),
                samples=samples,
                max_new_tokens=max_new_tokens,
                generator=seeds.torch_generator(*stream, first),
                start=position,
                top_p=decoder.top_p,
                record=entropies,
                batch_rows=rows,
                report=partial(_in_batch, report, first, len(chunk)),
            )
            lengths = rollouts.lengths.tolist()
            drawn.tokens.extend(row[:n] for row, n in zip(rollouts.tokens.tolist(), lengths, strict=True))
            drawn.finished.extend(rollouts.finished.tolist())
            if entropies:
                recorded = zip(rollouts.entropy.numpy(), lengths, strict=True)
                drawn.entropies.extend(row[:n] for row, n in recorded)
            report(first + len(chunk))
        return drawn


def _in_batch(report: Callable[[float], None], first: int, size: int, share: float) -> None:
    report(first + share * size)
