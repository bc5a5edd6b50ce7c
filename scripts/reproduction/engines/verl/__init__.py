"""The verl engine: verl's own trainer with Ray and vLLM, behind the contract of the in-process engine.

``train`` writes verl's configuration beside the run, starts ``verl.trainer.main_ppo`` as a child process and waits
for it. verl resumes from its own checkpoints; the records that our classes inside it write
(``reproduction.engines.verl.workers``) are cut back to the step that it resumes from, so every step is there once.

Nothing of the training outlives it: Ray's processes carry a mark in their environment and are ended by it, and
the shared-memory segments that only they had mapped are removed, also after a kill.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from reproduction.cluster import compute, devices, processes
from reproduction.cluster.verl_environment import environment
from reproduction.config import Verl, dump_yaml
from reproduction.config.runs import RunConfiguration
from reproduction.data import read_dataset, write_dataset
from reproduction.engines import Result
from reproduction.engines.verl import sockets
from reproduction.engines.verl.configuration import MARK, PARENT, agent_loops, configuration, mark
from reproduction.engines.verl.publishing import publish_missing
from reproduction.files import load_json, sha256_of_file, sha256_of_model, write_json, write_text
from reproduction.models.tokenizer import Tokenizer
from reproduction.progress import Progress
from reproduction.training import records
from reproduction.training.prompt_lengths import fitting
from reproduction.training.state import StateMismatch

log = logging.getLogger(__name__)

STATE_FORMAT = "1"
RECORDS = ("metrics.jsonl", "groups.jsonl", "timings.jsonl")
# Logical: Ray places actors by them and enforces nothing. verl reserves several with each GPU.
RAY_CPUS, RAY_CPUS_PER_GPU = 16, 8
POLL_S = 1.0
TRACKER = "latest_checkpointed_iteration.txt"  # verl's own name
RAY_STARTS = 4
RAY_WAS_LATE = "Ray did not start within its 30 seconds"
# What Ray says where its own processes took longer than it gives them (ray._private.node: a constant), whatever else
# runs on the node; nothing of the training has begun by then.
_RAY_TIMED_OUT = b"The current node timed out during startup"


def train(
    run: RunConfiguration,
    machine: Verl,
    *,
    model: Path,
    dataset: Path,
    validation: Path,
    state: Path,
    progress: Path | None,
) -> Result:
    """Train ``run`` from ``model`` on ``dataset``, from verl's last checkpoint in ``state`` if there is one.

    Leaves in ``state`` what the in-process engine leaves: ``metrics.jsonl``, ``groups.jsonl``, ``timings.jsonl`` and
    ``checkpoints/step_N/`` in Hugging Face format; and below ``verl/`` its configuration, its log, its own
    checkpoint, and the dumps of rollouts and validations that the scale asks for.

    All prompts are measured before anything starts; ``prompts.json`` says which were too long and left out.

    Raises:
        StateMismatch: the state belongs to another run, model, data set, prompt limit or version of verl.
        ValueError: too few prompts fit.
        RuntimeError: the node lacks GPUs; Ray did not start in any attempt; or verl failed, and the message has the
            end of its log.
    """
    machine = machine.of(run.model)
    model, dataset, validation, state = (Path(path).resolve() for path in (model, dataset, validation, state))
    folder = state / "verl"
    _check_identity(
        folder / "identity.json",
        {
            "run": run.hash,
            "model": sha256_of_model(model),
            "dataset": sha256_of_file(dataset),
            "max_prompt_tokens": str(machine.max_prompt_tokens),
            "verl": version("verl"),
            "format": STATE_FORMAT,
        },
    )
    ended = folder / "ended.json"
    if ended.exists():  # a workflow that was killed before it noticed asks again
        return Result(**load_json(ended))
    if machine.device == "cuda":
        compute.require_gpus(machine.gpus_per_node, "verl.gpus_per_node")
    _mend_tracker(folder / "checkpoints")
    done = _resumed_step(folder / "checkpoints")
    dataset, validation = _fitting(run, machine, model, dataset, validation, state)
    values = configuration(
        run,
        machine,
        model=model,
        dataset=dataset,
        validation=validation,
        state=state,
        cpus=RAY_CPUS + RAY_CPUS_PER_GPU * machine.gpus_per_node,
        done=done,
    )
    write_text(folder / "verl.yaml", dump_yaml(values))
    loops = agent_loops(run, machine, state=state)
    write_text(folder / "agent_loops.yaml", dump_yaml(loops))

    _cut_records(state, done)
    _check_gpus(folder / "checkpoints" / f"global_step_{done}", machine)
    if done in run.training.checkpoints:
        dtype = values["ead"]["checkpoint_dtype"]
        publish_missing(folder / "checkpoints", state / "checkpoints", done, model=model, dtype=dtype)
    with Progress(progress, run.name, run.training.steps, "step", done) as bar:
        if done < run.training.steps:
            with devices.for_training(machine):
                code = _run(state, machine, lambda: _report(state, bar))
            if code and not _diverged(state):
                raise RuntimeError(
                    f"verl ended with status {code}; its log is {folder / 'verl.log'}\n{_tail(folder / 'verl.log')}"
                )
    result = _result(run, state)
    write_json(ended, asdict(result))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # 12 bytes per parameter, of no further use
    return result


def _cut_records(state: Path, done: int) -> None:
    """Leave the records of the ``done`` steps that verl goes on from."""
    for name in RECORDS:
        records.truncate(state / name, done)
    steps = len(list(records.read(state / "metrics.jsonl")))
    if steps != done:
        raise StateMismatch(
            f"{state}: verl's checkpoint is of step {done}, the records have {steps} steps; remove the folder"
        )


def _fitting(
    run: RunConfiguration, machine: Verl, model: Path, dataset: Path, validation: Path, state: Path
) -> tuple[Path, Path]:
    """Return the data sets that verl is to read: as they are, or copies without the prompts that are too long."""
    tokenizer = Tokenizer(model)
    files, measured = [], {}
    for name, path, least in (("training", dataset, run.training.prompts), ("validation", validation, 1)):
        frame = read_dataset(path)
        kept, measured[name] = fitting(
            [extra["id"] for extra in frame["extra_info"]],
            tokenizer.chat_lengths(frame["prompt"]),
            machine.max_prompt_tokens,
            name=str(path),
            least=least,
        )
        if len(kept) < len(frame):
            log.warning(
                "%s: %d of %d prompts are longer than %d tokens (verl.max_prompt_tokens) and left out",
                path,
                len(frame) - len(kept),
                len(frame),
                machine.max_prompt_tokens,
            )
            path = state / "verl" / f"{name}.parquet"
            write_dataset(frame.iloc[kept].to_dict("records"), path)
        files.append(path)
    write_json(state / "prompts.json", measured)
    return files[0], files[1]


def _result(run: RunConfiguration, state: Path) -> Result:
    """What the records and the checkpoints say; RuntimeError if that is no end of ``run``."""
    last = _last(state)
    folders = (state / "checkpoints").glob("step_*")
    checkpoints = sorted(int(path.name.removeprefix("step_")) for path in folders)
    if _diverged(state):
        return Result("diverged", last["step"], checkpoints)
    if last is None or last["step"] != run.training.steps or checkpoints != run.training.checkpoints:
        log_file = state / "verl" / "verl.log"
        raise RuntimeError(
            f"verl ended early: the records reach step {last and last['step']} of {run.training.steps}, "
            f"checkpoints {checkpoints}; its log is {log_file}\n{_tail(log_file)}"
        )
    return Result("finished", run.training.steps, checkpoints)


def _check_identity(path: Path, identity: dict[str, str]) -> None:
    if path.exists():
        found = load_json(path)
        if found != identity:
            differing = sorted(key for key in identity if found.get(key) != identity[key])
            raise StateMismatch(
                f"{path.parent}: the state is of another {', '.join(differing)}; remove the folder to start over"
            )
    write_json(path, identity)


def tracked_step(folder: Path) -> int:
    """Return the step of verl's last checkpoint in ``folder``, by its tracker file; 0 where it has none."""
    tracker = folder / TRACKER
    return int(tracker.read_text().strip() or 0) if tracker.exists() else 0


def _resumed_step(folder: Path) -> int:
    """The step that verl will resume from, 0 for none: its tracker file names it."""
    step = tracked_step(folder)
    return step if step and (folder / f"global_step_{step}").exists() else 0


def _mend_tracker(folder: Path) -> None:
    """Fill a tracker file that a kill has left empty, which verl cannot read.

    verl empties and writes it after a checkpoint is complete, so it is the last checkpoint's.
    """
    tracker = folder / TRACKER
    if not tracker.exists() or tracker.read_text().strip():
        return
    saved = [int(path.name.removeprefix("global_step_")) for path in folder.glob("global_step_*")]
    if saved:
        write_text(tracker, str(max(saved)))
    else:
        tracker.unlink()


def _check_gpus(checkpoint: Path, machine: Verl) -> None:
    """Raise StateMismatch if ``checkpoint`` is of another number of GPUs: each has written its own part."""
    files = (checkpoint / "actor").glob("model_world_size_*_rank_*.pt")
    found = {int(path.name.split("_")[3]) for path in files}
    gpus = machine.nodes * machine.gpus_per_node
    if found and gpus not in found:
        began_with = devices.gpus(max(found))
        raise StateMismatch(
            f"{checkpoint}: this state was written on {began_with}, and the training now has {gpus}; verl resumes on "
            f"as many as it began with. Give it {began_with} (`train` in workflow/resources.yaml), or remove "
            f"{checkpoint.parents[2]} to start over"
        )


def _last(state: Path) -> dict | None:
    return next(iter(deque(records.read(state / "metrics.jsonl"), maxlen=1)), None)


def _diverged(state: Path) -> bool:
    last = _last(state)
    return last is not None and not (math.isfinite(last["loss"]) and math.isfinite(last["gradient_norm"]))


def _report(state: Path, bar: Progress) -> None:
    last = _last(state)
    if last is not None:
        bar.update(
            last["step"], f"reward {last['reward_mean']:.3f}, {last['response_length_mean']:.0f} tokens"
        )


def _tail(path: Path, lines: int = 40) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


# --- the child process -------------------------------------------------------------------------------------


def _run(state: Path, machine: Verl, report) -> int:
    """Run verl to its end and return its exit status; start it again where Ray alone was late, and say so."""
    path = state / "verl" / "verl.log"
    for attempt in range(1, RAY_STARTS + 1):
        before = path.stat().st_size if path.exists() else 0
        code = _launch(state, machine, report)
        with path.open("rb") as file:
            file.seek(before)
            late = code and _RAY_TIMED_OUT in file.read()
        if not late:
            return code
        log.warning("%s (attempt %d of %d): the node is busy", RAY_WAS_LATE, attempt, RAY_STARTS)
    raise RuntimeError(
        f"{RAY_WAS_LATE} in any of {RAY_STARTS} attempts; the limit is Ray's own. Give the training a node with less "
        f"beside it; its log is {path}"
    )


def _launch(state: Path, machine: Verl, report) -> int:
    """Run verl to its end and return its exit status; leave no process and no shared memory behind.

    Processes that an earlier attempt left, because it was killed, are ended first: they would still write to ``state``.
    """
    folder, ours = state / "verl", mark(state)
    processes.end(processes.marked(MARK, ours))
    command = [sys.executable, "-m", "verl.trainer.main_ppo"]
    command += ["--config-path", str(folder), "--config-name", "verl"]
    # An Interpreter of a virtual environment finds its tools (ninja, ray) only if its folder is on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = {**os.environ, **environment(machine), MARK: ours, PARENT: str(os.getpid()), "PATH": path}
    if machine.nodes == 1:
        variables.pop("RAY_ADDRESS", None)  # of some other cluster
    segments: set[str] = set()
    with (folder / "verl.log").open("ab") as output, _interrupts_as_exceptions():
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        log.info("verl runs as process %d; its log is %s", process.pid, folder / "verl.log")
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                segments |= processes.mapped_segments(processes.marked(MARK, ours))
                report()
            report()
            return process.returncode
        finally:
            processes.end(processes.marked(MARK, ours))
            process.wait()
            processes.remove_abandoned(segments)
            shutil.rmtree(sockets.folder(ours), ignore_errors=True)


@contextlib.contextmanager
def _interrupts_as_exceptions() -> Iterator[None]:
    """SIGTERM, which a workflow or a batch system sends, raises SystemExit so that the clean-up runs."""

    def stop(number, frame):
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
