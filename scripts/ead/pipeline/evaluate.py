"""Draw and grade evaluation samples from checkpoints: every checkpoint x every decoder.

A sample file holds one row per response. It carries the identity of what it was made from, so that a repeated
evaluation makes only what is missing: a new decoder or checkpoint does not redraw the others.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ead import schedule, seeds
from ead.pipeline import policy
from ead.pipeline.config import Decoder, EvaluationRequest, Verl
from ead.pipeline.data import read_dataset
from ead.pipeline.files import atomic_directory, atomic_path, sha256_of_file, sha256_of_model, write_json
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
DELETED = "deleted.json"  # stands for a checkpoint that was deleted after its evaluation
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
    vllm: Verl | None = None,
) -> list[dict]:
    """Evaluate ``checkpoints`` (step -> model folder, in order); return one record per sample file, for the manifest.

    The last checkpoint, or the only one, is also evaluated with the request's ``final_decoders``. Samples are drawn
    in process, or with vLLM on the machine that ``vllm`` describes; the two draw different samples from the same
    distributions. A checkpoint that was deleted after its evaluation (:func:`prune`) keeps the samples it has.

    Raises:
        ValueError: a sample file would have to be made from a checkpoint that was deleted.
    """
    plan = [(step, name, decoder) for step in checkpoints for name, decoder in request.decoders.items()]
    for step in list(checkpoints)[-1:]:
        plan += [(step, name, decoder) for name, decoder in request.final_decoders.items()]
    problems = problems_of(read_dataset(dataset))[: request.limit]
    dataset_sha = sha256_of_file(dataset)
    records = []
    loaded: tuple[int, Any] | None = None
    shas = {step: _weights_sha256(folder) for step, folder in checkpoints.items()}
    with (
        contextlib.ExitStack() as engine,
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
                    **({"engine": "vllm"} if vllm else {}),
                }
            )
            if stored_identity(path) != identity:
                if (checkpoints[step] / DELETED).exists():
                    raise ValueError(
                        f"{path}: to be drawn from step {step}, whose checkpoint was deleted after its evaluation "
                        "(keep_checkpoints: last); train the run again, or leave the request as it was"
                    )
                if loaded is None or loaded[0] != step:
                    engine.close()
                    loaded = (step, engine.enter_context(_loaded(checkpoints[step], request, vllm)))
                done = len(records) * len(problems)
                frame = _sample(request, name, decoder, problems, loaded[1], grader, bar, done)
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


def _weights_sha256(folder: Path) -> str:
    deleted = folder / DELETED
    return json.loads(deleted.read_text())["sha256"] if deleted.exists() else sha256_of_model(folder)


def prune(checkpoints: Mapping[int, Path], twins: Sequence[Path] = ()) -> None:
    """Delete the weights of all but the last checkpoint, once they are evaluated.

    What remains of each is the checksum that its samples were drawn from. ``twins`` are folders that hold links to
    the same files (the trainer's state), as ``step_N`` each.
    """
    for step, folder in list(checkpoints.items())[:-1]:
        if (folder / DELETED).exists():
            continue
        record = {"step": step, "sha256": sha256_of_model(folder)}
        for place in (folder, *(twin / folder.name for twin in twins)):
            if place.exists():
                with atomic_directory(place) as left:
                    write_json(left / DELETED, record)


@contextlib.contextmanager
def _loaded(
    folder: Path, request: EvaluationRequest, vllm: Verl | None
) -> Iterator[Callable[..., pd.DataFrame]]:
    """A function that draws and grades responses of the checkpoint: see :func:`sample_responses`."""
    if vllm is None:
        yield partial(_in_process, Transformer.load(folder), Tokenizer(folder), request)
        return
    from ead.pipeline.decode_vllm import Vllm

    with Vllm(folder, vllm, max_new_tokens=request.max_new_tokens) as engine:
        yield partial(_with_vllm, engine, request)


def _in_process(
    model, tokenizer, request, grader, problems, decoder, *, samples, name, report
) -> pd.DataFrame:
    return sample_responses(
        model,
        tokenizer,
        grader,
        problems,
        decoder,
        samples=samples,
        max_new_tokens=request.max_new_tokens,
        stream=partial(seeds.torch_generator, request.root_seed, "evaluate", request.dataset, name),
        report=report,
    )


def _with_vllm(engine, request, grader, problems, decoder, *, samples, name, report) -> pd.DataFrame:
    tokens, finished = engine.draw(
        policy.encode(problems, engine.tokenizer),
        decoder,
        samples=samples,
        stream=partial(seeds.derive, request.root_seed, "evaluate", request.dataset, name),
    )
    report(len(problems))
    return pd.DataFrame(_graded(problems, samples, tokens, finished, engine.tokenizer, grader))


def _sample(request, name, decoder, problems, draw, grader, bar, done) -> pd.DataFrame:
    """Draw ``request.samples`` responses per problem with one decoder and grade them."""
    greedy = decoder.schedule is None
    frame = draw(
        grader,
        problems,
        decoder,
        # Greedy samples of one problem are all the same, so one is drawn and its row repeated.
        samples=1 if greedy else request.samples,
        name=name,
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
        given = [prefix for prefix in prefixes[chunk] for _ in range(samples)]
        tokens = [
            [*prefix, *row[:drawn]]
            for prefix, row, drawn in zip(
                given, rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True
            )
        ]
        columns = _graded(problems[chunk], samples, tokens, rollouts.finished.tolist(), tokenizer, grader)
        if "token_ids" in keep:
            columns["token_ids"] = [np.asarray(row, dtype=np.int32) for row in tokens]
        if "entropies" in keep:
            lengths = rollouts.lengths.tolist()
            columns["entropies"] = [row[:n] for row, n in zip(rollouts.entropy.numpy(), lengths, strict=True)]
        parts.append(pd.DataFrame(columns))
        report(chunk.stop)
    return pd.concat(parts, ignore_index=True)


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
