"""Responses drawn and graded, in process or with vLLM, and the files that keep them: one row per response.

A sample file carries the identity of what it was made from, so that a repeated job makes only what is missing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ead import schedule, seeds
from ead.pipeline import policy
from ead.pipeline.config import Decoder, Verl
from ead.pipeline.files import atomic_path, sha256_of_file
from ead.pipeline.generate import generate
from ead.pipeline.rewards import Grader, Problem
from ead.pipeline.tokenizer import Tokenizer
from ead.pipeline.transformer import Transformer

_IDENTITY = b"ead.identity"
MAX_ROWS = 1024  # decoded together, ...
CACHE_BYTES = 2**32  # ... and fewer where their keys and values would take more than this
SAMPLE_COLUMNS = {
    "problem": "problem id",
    "sample": "index of the response to this problem, from 0",
    "response": "text, special tokens left out",
    "extracted": "answer as the verifier read it; null where there is none",
    "vote": "what it counts for in Majority@k; null where there is no answer",
    "correct": "the verdict",
    "status": "ok, no_answer, timeout or error",
    "tokens": "length of the response, the end-of-sequence token included",
    "finished": "false where the token limit cut the response",
}


@dataclass(frozen=True)
class Drawn:
    """What was drawn, prompt by prompt: tokens, whether each row ended by itself, entropies where asked for."""

    tokens: list[list[int]]
    finished: list[bool]
    entropies: list[np.ndarray] | None = None  # nats at temperature 1, one per token; float32


class Sampler(Protocol):
    """A model that draws: ``InProcess`` here, ``Vllm`` in ``ead.pipeline.decode_vllm``."""

    tokenizer: Tokenizer

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


@contextlib.contextmanager
def loaded(folder: Path, vllm: Verl | None, *, max_new_tokens: int) -> Iterator[Sampler]:
    """The model in ``folder``, in process or in vLLM on the machine that ``vllm`` describes.

    The two draw different samples from the same distributions.
    """
    if vllm is None:
        yield InProcess(folder)
        return
    from ead.pipeline.decode_vllm import Vllm  # vLLM is not in every environment

    with Vllm(folder, vllm, max_new_tokens=max_new_tokens) as sampler:
        yield sampler


class InProcess:
    """A model and the project's own sampler."""

    def __init__(self, folder: Path) -> None:
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


def sample_responses(
    sampler: Sampler,
    grader: Grader,
    problems: Sequence[Problem],
    decoder: Decoder,
    *,
    samples: int,
    max_new_tokens: int,
    stream: Sequence[str | int],
    prefixes: Sequence[Sequence[int]] | None = None,
    keep: Sequence[str] = (),
    report: Callable[[float], None] = lambda done: None,
) -> pd.DataFrame:
    """Draw ``samples`` responses per problem and grade them: one row per response, ``SAMPLE_COLUMNS``.

    Args:
        stream: root seed and names of the random stream.
        prefixes: response tokens that are given, one list per problem and all of one length; the decoder's
            schedule goes on where they end, and the limit of new tokens is that of the whole response.
        keep: further columns, lists with one entry per token: ``token_ids`` of the response; ``entropies`` of the
            tokens drawn, in nats at temperature 1.
        report: called with the number of problems that are done at most.
    """
    prompts = policy.encode(problems, sampler.tokenizer)
    prefixes = [[]] * len(problems) if prefixes is None else prefixes
    position = len(prefixes[0])
    if any(len(prefix) != position for prefix in prefixes):
        raise ValueError("the prefixes must have one length")
    drawn = sampler.draw(
        [[*prompt, *prefix] for prompt, prefix in zip(prompts, prefixes, strict=True)],
        decoder,
        samples=samples,
        max_new_tokens=max_new_tokens - position,
        stream=stream,
        position=position,
        entropies="entropies" in keep,
        report=report,
    )
    given = [prefix for prefix in prefixes for _ in range(samples)]
    tokens = [[*prefix, *row] for prefix, row in zip(given, drawn.tokens, strict=True)]
    columns = _graded(problems, samples, tokens, drawn.finished, sampler.tokenizer, grader)
    if "token_ids" in keep:
        columns["token_ids"] = [np.asarray(row, dtype=np.int32) for row in tokens]
    if "entropies" in keep:
        columns["entropies"] = drawn.entropies
    return pd.DataFrame(columns)


def _graded(
    problems: Sequence[Problem],
    samples: int,
    tokens: Sequence[Sequence[int]],
    finished: Sequence[bool],
    tokenizer: Tokenizer,
    grader: Grader,
) -> dict[str, list]:
    """Return ``SAMPLE_COLUMNS`` of responses that come problem by problem, ``samples`` to each."""
    asked: list[Problem] = [problem for problem in problems for _ in range(samples)]
    responses = tokenizer.decode(tokens)
    verdicts = grader.grade(asked, responses, finished)
    return {
        "problem": [problem.id for problem in asked],
        "sample": [index % samples for index in range(len(asked))],
        "response": responses,
        "extracted": [verdict.extracted for verdict in verdicts],
        "vote": [verdict.canonical for verdict in verdicts],
        "correct": [verdict.correct for verdict in verdicts],
        "status": [verdict.status for verdict in verdicts],
        "tokens": [len(row) for row in tokens],
        "finished": list(finished),
    }


# --- files -------------------------------------------------------------------------------------------------


def stored_identity(path: Path) -> str | None:
    """Return the identity a sample file was written with; None where there is no readable file."""
    try:
        metadata = pq.read_schema(path).metadata
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return metadata.get(_IDENTITY, b"").decode() or None


def write_samples(frame: pd.DataFrame, path: Path, identity: str) -> None:
    """Write a sample file that carries the identity of what it was made from, atomically."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _IDENTITY: identity.encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def describe_samples(path: Path, output: Path, step: int, decoder: str, dataset: str) -> dict:
    """What the manifest says of one sample file: counts that a health check needs, and its checksum."""
    frame = pd.read_parquet(path, columns=["correct", "status", "finished"])
    return {
        "step": step,
        "decoder": decoder,
        "dataset": dataset,
        "file": str(path.relative_to(output)),
        "sha256": sha256_of_file(path),
        "responses": len(frame),
        "correct": int(frame["correct"].sum()),
        "truncated": int((~frame["finished"]).sum()),
        "statuses": json.loads(frame["status"].value_counts().sort_index().to_json()),
    }
