"""The check before GPUs are paid for: two steps of one run of each model, at full size, on the machine that will train.

Where a rehearsal asks whether every configuration runs, this asks whether this machine can run them, and how long they
take: GPUs, environment, disk, two steps with the longest prompts at the real batch and lengths, a kill, resume,
evaluation. ``snakemake budget`` then counts with the seconds measured here (``reports.expected_s``).
"""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil

from reproduction.cluster.resources import PREFLIGHT_PROBLEMS, PREFLIGHT_STEPS
from reproduction.config import EvaluationRequest, Verl
from reproduction.config.runs import RunConfiguration
from reproduction.data import read_dataset
from reproduction.data.schema import write_dataset
from reproduction.models.tokenizer import Tokenizer
from reproduction.rehearsal import checks
from reproduction.rehearsal.cells import choose_rows
from reproduction.rehearsal.exercise import MOMENTS, Exercise, clean_environment
from reproduction.rehearsal.reports import Line, Report
from reproduction.tasks.grading import problems_of
from reproduction.training import records

GIB = 2**30
MODULES = ("torch", "transformers", "ray", "vllm", "verl", "ead")
_PARTS = ("sampling_seconds", "logprobs_seconds", "reference_seconds", "update_seconds")


def check(
    run: RunConfiguration,
    machine: Verl,
    *,
    model: Path,
    dataset: Path,
    validation: Path,
    request: EvaluationRequest,
    scale: str,
    scratch_bytes: int,
    timeout_s: float,
    folder: Path,
) -> Report:
    """Try everything in order; stop at the first part that fails, since what follows would rest on it.

    No part takes longer than ``timeout_s``.
    """
    short = run.training.model_copy(
        update={
            "steps": PREFLIGHT_STEPS,
            "checkpoint_every": 1,
            "warmup_steps": min(run.training.warmup_steps, PREFLIGHT_STEPS),
        }
    )
    run = run.model_copy(update={"training": short})
    machine = machine.model_copy(update={"dump_every": 1, "validate_every": None})
    report = Report(run.model, run.name, socket.gethostname())
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that did not pass
    folder.mkdir(parents=True)
    rows, prompts = folder / "training.parquet", folder / "validation.parquet"
    exercise = Exercise(run, machine, model, rows, prompts, scale, folder, timeout_s)
    request = request.model_copy(update={"limit": PREFLIGHT_PROBLEMS})
    report.measured["gpus"] = float(machine.gpus)
    with peak_memory(machine) as peak:
        for name, act, advice in (
            *_surroundings(machine, folder, scratch_bytes),
            (
                "data",
                lambda: _longest_rows(exercise, dataset, validation),
                "prepare the data set again; docs/data.md",
            ),
            *_steps(exercise, report),
            *_evidence(exercise),
            (
                "evaluation",
                lambda: _evaluate(exercise, request, report),
                "the log; verl.tensor_parallel for a model that one GPU cannot hold",
            ),
        ):
            report.lines.append(_line(name, act, advice))
            if not report.lines[-1].passed:
                break
        report.measured.update(peak())
    return report


# A part of the check: its name, what it does, and what to do where that fails.
Part = tuple[str, Callable[[], str], str]


def _line(name: str, act: Callable[[], str], advice: str) -> Line:
    began = time.monotonic()
    try:
        found, passed = act(), True
    except Exception as error:  # whatever it is, it is a line of the report
        found, passed = f"{type(error).__name__}: {error}", False
    return Line(name, passed, found, "" if passed else advice, round(time.monotonic() - began, 1))


def _surroundings(machine: Verl, folder: Path, scratch_bytes: int) -> list[Part]:
    return [
        (
            "machine",
            lambda: devices(machine),
            "ask for a node with these GPUs: workflow/profiles/slurm/site.yaml",
        ),
        ("environment", imports, "build it again: make env-gpu; docs/troubleshooting.md"),
        (
            "disk",
            lambda: disk(folder, scratch_bytes),
            "free some, or set paths.results to a larger disk",
        ),
    ]


def _steps(exercise: Exercise, report: Report) -> list[Part]:
    environment = clean_environment()
    return [
        (
            "two steps, killed in the second",
            lambda: exercise.train_and_kill(MOMENTS[3], 1.0, environment),
            "out of memory: less verl.gpu_memory_utilization or training.micro_batch_tokens; else the log",
        ),
        (
            "resume",
            lambda: _resume(exercise, environment, report),
            "the log says at which step and why",
        ),
    ]


def _evidence(exercise: Exercise) -> list[Part]:
    """Of what the two steps wrote."""
    training = checks.Trained(exercise.run, exercise.state, exercise.model.parent)
    exact = exercise.machine.device == "cpu"
    return [
        ("every step once", lambda: checks.every_step_once(training), "report it with the folder"),
        (
            "longest prompt",
            lambda: checks.longest_prompt_was_asked(training, _longest(exercise)),
            "report it with the folder",
        ),
        (
            "EAD in the importance weights",
            lambda: checks.importance_weights(training, exact=exact),
            "is the package ead installed in the environment of the workers? pip show ead",
        ),
        (
            "sampler and trainer agree",
            lambda: checks.sampler_and_trainer_agree(training, exact=exact),
            "vLLM and the trainer compute different models: compare their dtypes and versions with envs/gpu.txt",
        ),
    ]


def _longest_rows(exercise: Exercise, dataset: Path, validation: Path) -> str:
    """Write what the steps train on, the longest prompts among it, and what is evaluated."""
    count = PREFLIGHT_STEPS * exercise.run.training.prompts
    frame = read_dataset(dataset)
    longest, tokenizer = min(count, 200), Tokenizer(exercise.model.parent)
    limit = exercise.machine.of(exercise.run.model).max_prompt_tokens
    kept = choose_rows(frame, tokenizer, count, longest=longest, seed=exercise.run.root_seed, limit=limit)
    write_dataset(kept.to_dict("records"), exercise.dataset)
    write_dataset(read_dataset(validation).head(PREFLIGHT_PROBLEMS).to_dict("records"), exercise.validation)
    return f"{count} of {len(frame)} problems, the longest prompts among them"


def _evaluate(exercise: Exercise, request: EvaluationRequest, report: Report) -> str:
    began = time.monotonic()
    exercise.evaluate(request)
    report.measured["evaluation_s"] = time.monotonic() - began
    every, last = list(request.decoders), [*request.decoders, *request.final_decoders]
    decoders = {
        step: last if step == PREFLIGHT_STEPS else every for step in exercise.run.training.checkpoints
    }
    problems = min(PREFLIGHT_PROBLEMS, len(read_dataset(exercise.validation)))
    return checks.evaluated(exercise.evaluation, decoders, problems, request.samples)


def _resume(exercise: Exercise, environment: Mapping[str, str], report: Report) -> str:
    began = time.monotonic()
    exercise.train(environment)
    wall = time.monotonic() - began
    timings = pd.DataFrame(list(records.read(exercise.state / "timings.jsonl")))
    parts = timings[[name for name in _PARTS if name in timings]]
    # The first step also compiles and warms up, the second was interrupted once.
    step = float(parts.sum(axis=1).max())
    taken = float(parts.iloc[-1].sum())
    report.measured |= {
        **{name.removesuffix("_seconds") + "_s": float(values.max()) for name, values in parts.items()},
        "step_s": step,
        "start_and_save_s": max(0.0, wall - taken),
        "responses": float(exercise.run.training.prompts * exercise.run.n),
    }
    longest = ", ".join(f"{name.removesuffix('_seconds')} {v.max():.0f}" for name, v in parts.items())
    return f"{step:.0f} s a step ({longest})"


def _longest(exercise: Exercise) -> int:
    """Return the tokens of the longest prompt that a training asks; longer ones than the limit it leaves out."""
    tokenizer, problems = Tokenizer(exercise.model.parent), problems_of(read_dataset(exercise.dataset))
    limit = exercise.machine.of(exercise.run.model).max_prompt_tokens
    return max(length for p in problems if (length := len(tokenizer.encode_chat(p.messages))) <= limit)


def devices(machine: Verl) -> str:
    """Say which GPUs this node shows. Raises Failed where they are fewer than a training takes."""
    memory = psutil.virtual_memory().total / GIB
    host = f"{socket.gethostname()}: {psutil.cpu_count()} cores, {memory:.0f} GiB of memory"
    if machine.device == "cpu":
        return host
    rows = _nvidia_smi("name", "memory.total")
    if len(rows) < machine.gpus_per_node:
        raise checks.Failed(f"{host}, {len(rows)} GPUs; verl.gpus_per_node is {machine.gpus_per_node}")
    names = ", ".join(sorted({f"{name} ({_gib(total):.0f} GiB)" for name, total in rows}))
    return f"{host}, {len(rows)} GPUs: {names}"


def _nvidia_smi(*fields: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise checks.Failed(f"nvidia-smi does not answer: {error}") from None
    return [[cell.strip() for cell in row.split(",")] for row in done.stdout.splitlines() if row.strip()]


def _gib(mebibytes: str) -> float:
    """Read a number of nvidia-smi's; NaN where it has none, as for a GPU that shares the host's memory."""
    try:
        return float(mebibytes) / 1024
    except ValueError:
        return float("nan")


def imports() -> str:
    """Import what a training needs, in a process of its own. Raises Failed with the last line of what it said."""
    code = f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise checks.Failed(done.stderr.strip().splitlines()[-1])
    return ", ".join(MODULES)


def disk(folder: Path, wanted: int) -> str:
    """Say how much room there is. Raises Failed where a training's checkpoints would not fit."""
    free = shutil.disk_usage(folder).free
    words = f"{free / 1e9:.0f} GB free, a training needs {wanted / 1e9:.0f} GB"
    if free < wanted:
        raise checks.Failed(words)
    return words


@contextmanager
def peak_memory(machine: Verl):
    """Watch the memory of the host and of its GPUs; yields a function that returns the peaks in GiB."""
    peaks = {"host_gib": 0.0} | ({"gpu_gib": 0.0} if machine.device == "cuda" else {})
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(2):
            memory = psutil.virtual_memory()
            peaks["host_gib"] = max(peaks["host_gib"], (memory.total - memory.available) / GIB)
            if machine.device == "cuda":
                try:
                    used = max(_gib(row[0]) for row in _nvidia_smi("memory.used"))
                except checks.Failed:
                    continue
                peaks["gpu_gib"] = max(peaks["gpu_gib"], used)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: dict(peaks)
    finally:
        ended.set()
        thread.join()
