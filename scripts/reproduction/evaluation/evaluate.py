"""Draw and grade evaluation samples from checkpoints: every checkpoint x every decoder.

A repeated evaluation makes only what is missing: a new decoder or checkpoint does not redraw the others.
"""

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pandas as pd

from reproduction.cluster import devices
from reproduction.cluster.timings import FileTimings
from reproduction.config import EvaluationRequest, Verl
from reproduction.config.runs import digest
from reproduction.data import read_dataset
from reproduction.evaluation.responses import (
    describe_samples,
    loaded,
    sample_responses,
    stored_identity,
    write_samples,
)
from reproduction.files import atomic_directory, load_json, sha256_of_file, sha256_of_model, write_json
from reproduction.progress import Progress
from reproduction.sampling.sampler import Sampler
from reproduction.tasks.grading import Grader, problems_of

DELETED = "deleted.json"  # stands for a checkpoint that was deleted after its evaluation


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

    The last checkpoint, or the only one, is also evaluated with the request's ``final_decoders``. Samples are drawn in
    process, or with vLLM on the machine that ``vllm`` describes, in one engine for all checkpoints and on GPUs leased
    for it; the two draw different samples from the same distributions. A checkpoint that was deleted after its
    evaluation (:func:`prune`) keeps the samples it has. What each file took is left in ``timings.parquet``.

    Raises:
        ValueError: a sample file would have to be made from a checkpoint that was deleted.
    """
    plan = [(step, name, decoder) for step in checkpoints for name, decoder in request.decoders.items()]
    for step in list(checkpoints)[-1:]:
        plan += [(step, name, decoder) for name, decoder in request.final_decoders.items()]
    if not plan:
        return []  # of a run that diverged before its first checkpoint
    problems = problems_of(read_dataset(dataset))[: request.limit]
    dataset_sha = sha256_of_file(dataset)
    records = []
    timings = FileTimings(output / "timings.parquet")
    sampler: Sampler | None = None
    loaded_step = None
    with (
        devices.for_sampling(vllm),
        contextlib.ExitStack() as engine,
        ThreadPoolExecutor(1) as reader,  # checksums of later checkpoints while earlier ones draw
        Grader(timeout_s=request.verifier_timeout_s, workers=workers) as grader,
        Progress(progress, label, len(plan) * len(problems), "problem") as bar,
    ):
        shas = {step: reader.submit(_weights_sha256, folder) for step, folder in checkpoints.items()}
        for step, name, decoder in plan:
            path = output / f"step_{step}" / name / f"{request.dataset}.parquet"
            identity = digest(
                {
                    "checkpoint": shas[step].result(),
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
                if sampler is None:
                    model = loaded(checkpoints[step], vllm, max_new_tokens=request.max_new_tokens)
                    sampler = engine.enter_context(model)
                elif loaded_step != step:
                    sampler.load(checkpoints[step])
                loaded_step = step
                done = len(records) * len(problems)
                frame = _sample(request, name, decoder, problems, sampler, grader, bar, done)
                # Before the samples: were they there without their times, they would never be drawn again.
                timings.record(step=step, decoder=name, dataset=request.dataset)
                write_samples(frame, path, identity)
            records.append(describe_samples(path, output, step, name, request.dataset))
            bar.update(len(records) * len(problems), f"step {step}, decoder {name}")
    return records


def _weights_sha256(folder: Path) -> str:
    deleted = folder / DELETED
    if deleted.exists():
        return load_json(deleted)["sha256"]
    files = sorted(folder.glob("*.safetensors"))
    return _sha256(folder, tuple((file.name, file.stat().st_mtime_ns) for file in files))


@cache  # a run's checkpoints are read once, for their identities and for what is left of them
def _sha256(folder: Path, written: tuple[tuple[str, int], ...]) -> str:
    return sha256_of_model(folder)


def prune(checkpoints: Mapping[int, Path], twins: Sequence[Path] = ()) -> None:
    """Delete the weights of all but the last checkpoint, once they are evaluated.

    What remains of each is the checksum that its samples were drawn from. ``twins`` are folders that hold links to
    the same files (the trainer's state), as ``step_N`` each.
    """
    for step, folder in list(checkpoints.items())[:-1]:
        if (folder / DELETED).exists():
            continue
        record = {"step": step, "sha256": _weights_sha256(folder)}
        for place in (folder, *(twin / folder.name for twin in twins)):
            if place.exists():
                with atomic_directory(place) as left:
                    write_json(left / DELETED, record)


def _sample(request, name, decoder, problems, sampler, grader, bar, done) -> pd.DataFrame:
    """Draw ``request.samples`` responses per problem with one decoder and grade them."""
    greedy = decoder.schedule is None
    frame = sample_responses(
        sampler,
        grader,
        problems,
        decoder,
        # Greedy samples of one problem are all the same, so one is drawn and its row repeated.
        samples=1 if greedy else request.samples,
        max_new_tokens=request.max_new_tokens,
        stream=(request.root_seed, "evaluate", request.dataset, name),
        report=partial(_show_progress, bar, done, name),
    )
    if greedy:
        frame = frame.loc[frame.index.repeat(request.samples)].reset_index(drop=True)
        frame["sample"] = frame.index % request.samples
    return frame


def _show_progress(bar: Progress, before: int, decoder: str, done: float) -> None:
    bar.update(before + int(done), f"decoder {decoder}")
