"""Draw and grade evaluation samples from checkpoints: every checkpoint x every decoder.

A sample file holds one row per response. It carries the identity of what it was made from, so that a repeated
evaluation makes only what is missing: a new decoder or checkpoint does not redraw the others.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ead import schedule, seeds
from ead.pipeline import policy
from ead.pipeline.config import Decoder, EvaluationRequest
from ead.pipeline.data import read_dataset
from ead.pipeline.files import atomic_path, sha256_of_file
from ead.pipeline.generate import generate
from ead.pipeline.progress import Progress
from ead.pipeline.rewards import Grader, Problem, problems_of
from ead.pipeline.runs import digest
from ead.pipeline.tokenizer import Tokenizer
from ead.pipeline.transformer import Transformer

log = logging.getLogger(__name__)

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


def evaluate(
    request: EvaluationRequest,
    checkpoints: Mapping[int, Path],
    dataset: Path,
    output: Path,
    *,
    label: str,
    progress: Path | None,
    workers: int,
) -> list[dict]:
    """Evaluate ``checkpoints`` (step -> model folder, in order); return one record per sample file, for the manifest.

    The last checkpoint, or the only one, is also evaluated with the request's ``final_decoders``.
    """
    plan = [(step, name, decoder) for step in checkpoints for name, decoder in request.decoders.items()]
    for step in list(checkpoints)[-1:]:
        plan += [(step, name, decoder) for name, decoder in request.final_decoders.items()]
    problems = problems_of(read_dataset(dataset))[: request.limit]
    dataset_sha = sha256_of_file(dataset)
    records = []
    loaded: tuple[int, Transformer, Tokenizer] | None = None
    shas = {step: sha256_of_file(folder / "model.safetensors") for step, folder in checkpoints.items()}
    with (
        Grader(timeout_s=request.verifier_timeout_s, workers=workers) as grader,
        Progress(progress, label, len(plan) * len(problems), "problem") as bar,
    ):
        for step, name, decoder in plan:
            path = output / f"step_{step}" / name / f"{request.dataset}.parquet"
            identity = digest(
                {
                    "checkpoint": shas[step],
                    "dataset": dataset_sha,
                    "decoder": decoder.model_dump(mode="json", exclude={"label"}),
                    "request": request.model_dump(mode="json", exclude={"decoders", "final_decoders"}),
                    "stream": name,
                }
            )
            if stored_identity(path) != identity:
                if loaded is None or loaded[0] != step:
                    loaded = (step, Transformer.load(checkpoints[step]), Tokenizer(checkpoints[step]))
                done = len(records) * len(problems)
                frame = _sample(request, name, decoder, problems, *loaded[1:], grader, bar, done)
                write_samples(frame, path, identity)
            records.append(describe_samples(path, output, step, name, request.dataset))
            bar.update(len(records) * len(problems), f"step {step}, decoder {name}")
    return records


def stored_identity(path: Path) -> str | None:
    """Return the identity a sample file was written with; None where there is no readable file."""
    try:
        metadata = pq.read_schema(path).metadata
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return metadata.get(_IDENTITY, b"").decode() or None


def _sample(request, name, decoder, problems, model, tokenizer, grader, bar, done) -> pd.DataFrame:
    """Draw ``request.samples`` responses per problem with one decoder and grade them."""
    greedy = decoder.schedule is None
    frame = sample_responses(
        model,
        tokenizer,
        grader,
        problems,
        decoder,
        # Greedy samples of one problem are all the same, so one is drawn and its row repeated.
        samples=1 if greedy else request.samples,
        max_new_tokens=request.max_new_tokens,
        stream=partial(seeds.torch_generator, request.root_seed, "evaluate", request.dataset, name),
        report=partial(_show_progress, bar, done, name),
    )
    if greedy:
        frame = frame.loc[frame.index.repeat(request.samples)].reset_index(drop=True)
        frame["sample"] = frame.index % request.samples
    return frame


def sample_responses(
    model: Transformer,
    tokenizer: Tokenizer,
    grader: Grader,
    problems: Sequence[Problem],
    decoder: Decoder,
    *,
    samples: int,
    max_new_tokens: int,
    stream: Callable[[int], torch.Generator],
    prefixes: Sequence[Sequence[int]] | None = None,
    keep: Sequence[str] = (),
    report: Callable[[float], None] = lambda done: None,
) -> pd.DataFrame:
    """Draw ``samples`` responses per problem and grade them: one row per response, ``SAMPLE_COLUMNS``.

    Args:
        stream: index of the first problem of a batch -> source of its random numbers.
        prefixes: response tokens that are given, one list per problem and all of one length; the decoder's
            schedule goes on where they end, and the limit of new tokens is that of the whole response.
        keep: further columns, lists with one entry per token drawn: ``token_ids``; ``entropies`` in nats at
            temperature 1.
        report: called with the number of problems that are done at most.
    """
    prompts = policy.encode(problems, tokenizer)
    prefixes = [[]] * len(problems) if prefixes is None else prefixes
    start = len(prefixes[0])
    if any(len(prefix) != start for prefix in prefixes):
        raise ValueError("the prefixes must have one length")
    row_bytes = model.cache_bytes(max(map(len, prompts)) + max_new_tokens)
    rows = max(samples, min(MAX_ROWS, CACHE_BYTES // row_bytes))
    per_chunk = rows // samples
    parts = []
    for first in range(0, len(problems), per_chunk):
        chunk = slice(first, min(first + per_chunk, len(problems)))
        rollouts = generate(
            model,
            [[*prompt, *prefix] for prompt, prefix in zip(prompts[chunk], prefixes[chunk], strict=True)],
            None if decoder.schedule is None else schedule.from_config(decoder.schedule),
            samples=samples,
            max_new_tokens=max_new_tokens - start,
            generator=stream(first),
            start=start,
            top_p=decoder.top_p,
            record="entropies" in keep,
            batch_rows=rows,
            report=partial(_in_batch, report, first, chunk.stop - first),
        )
        asked: list[Problem] = [problem for problem in problems[chunk] for _ in range(samples)]
        given = [prefix for prefix in prefixes[chunk] for _ in range(samples)]
        tokens = [
            [*prefix, *row[:drawn]]
            for prefix, row, drawn in zip(
                given, rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True
            )
        ]
        responses = tokenizer.decode(tokens)
        verdicts = grader.grade(asked, responses, rollouts.finished.tolist())
        columns = {
            "problem": [problem.id for problem in asked],
            "sample": [index % samples for index in range(len(asked))],
            "response": responses,
            "extracted": [verdict.extracted for verdict in verdicts],
            "vote": [verdict.canonical for verdict in verdicts],
            "correct": [verdict.correct for verdict in verdicts],
            "status": [verdict.status for verdict in verdicts],
            "tokens": [len(row) for row in tokens],
            "finished": rollouts.finished.tolist(),
        }
        if "token_ids" in keep:
            columns["token_ids"] = [np.asarray(row, dtype=np.int32) for row in tokens]
        if "entropies" in keep:
            lengths = rollouts.lengths.tolist()
            columns["entropies"] = [row[:n] for row, n in zip(rollouts.entropy.numpy(), lengths, strict=True)]
        parts.append(pd.DataFrame(columns))
        report(chunk.stop)
    return pd.concat(parts, ignore_index=True)


def _in_batch(report: Callable[[float], None], first: int, size: int, share: float) -> None:
    report(first + share * size)


def _show_progress(bar: Progress, before: int, decoder: str, done: float) -> None:
    bar.update(before + int(done), f"decoder {decoder}")


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
