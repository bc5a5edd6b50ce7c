"""Responses drawn and graded, in process or with vLLM, and the files that keep them: one row per response.

A sample file carries the identity of what it was made from, so that a repeated job makes only what is missing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from reproduction.config import Decoder, Verl
from reproduction.files import atomic_path, sha256_of_file, write_json
from reproduction.models.tokenizer import Tokenizer
from reproduction.sampling import policy
from reproduction.sampling.sampler import InProcess, Sampler
from reproduction.tasks.grading import Grader, Problem
from reproduction.versions import code_version

_IDENTITY = b"ead.identity"
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


@contextlib.contextmanager
def loaded(folder: Path, vllm: Verl | None, *, max_new_tokens: int) -> Iterator[Sampler]:
    """The model in ``folder``, in process or in vLLM on the machine that ``vllm`` describes.

    The two draw different samples from the same distributions.
    """
    if vllm is None:
        yield InProcess(folder)
        return
    from reproduction.sampling.vllm import Vllm  # vLLM is not in every environment

    with Vllm(folder, vllm, max_new_tokens=max_new_tokens) as sampler:
        yield sampler


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


def write_manifest(
    path: Path, request: BaseModel, dataset: Path, files: Sequence[dict], **about: str
) -> None:
    """Write what samples were asked for and the ``files`` that hold them; ``about`` says whose they are."""
    write_json(
        path,
        {
            **about,
            "request": request.model_dump(mode="json"),
            "dataset_sha256": sha256_of_file(dataset),
            "code": code_version(),
            "files": files,
        },
    )


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
