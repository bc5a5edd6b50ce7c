"""Words for the calm view: durations, jobs, failures. Plain text, no colours."""

from collections.abc import Iterable
from pathlib import Path

from snakemake_logger_plugin_calm.state import Job, Workflow

LOG_LINES = 15


def duration(seconds: float) -> str:
    """Return ``seconds`` as a person says it: ``4.2 s``, ``38 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def elapsed(seconds: float) -> str:
    """Return ``seconds`` without tenths, for a figure that changes while one looks at it."""
    return f"{int(seconds)} s" if seconds < 60 else duration(seconds)


def roughly(seconds: float) -> str:
    """Return an estimate without false precision: ``half a minute``, ``6 min``, ``2 h 10 min``."""
    if seconds < 45:
        return "half a minute"
    minutes = max(1, round(seconds / 60))
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def left(workflow: Workflow, now: float) -> str:
    """Return the estimate of the time left, or nothing while there is none."""
    remaining = workflow.remaining(now)
    if remaining is None or workflow.done >= workflow.total:
        return ""
    if remaining.complete:
        return f"about {roughly(remaining.seconds)} left"
    return f"at least {roughly(remaining.seconds)} left" if remaining.seconds >= 60 else ""


def jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"


def name(job: Job) -> str:
    return f"{job.rule}  {job.label}".rstrip()


def position(job: Job) -> str:
    """Return how far a running job says it is: ``34 of 60 steps, 57 %, 40 s left, Pass@1 0.31``."""
    status = job.status()
    if status is None:
        return ""
    parts = [f"{status.done:g} of {status.total:g} {status.unit}s, {status.fraction:.0%}".replace("%", " %")]
    if status.remaining_s is not None:
        parts.append(f"{duration(status.remaining_s)} left")
    if status.message:
        parts.append(status.message)
    return ", ".join(parts)


def overall(workflow: Workflow, now: float) -> str:
    """Return the line that says where the whole workflow is."""
    parts = [f"{workflow.done} of {jobs(workflow.total)} done", elapsed(now - workflow.started)]
    if workflow.failures:
        parts.insert(1, f"{len(workflow.failures)} failed")
    return ", ".join(filter(None, [*parts, left(workflow, now)]))


def failure(job: Job) -> list[str]:
    """Return what a person needs when a job failed: its log, the log's last lines, what to do."""
    lines = [f"FAILED  {name(job)}" + (f"  after {duration(job.ended - job.started)}" if job.started else "")]
    if job.signal:
        memory = "; the machine may have run out of memory" if job.signal == "SIGKILL" else ""
        lines.append(f"  it was killed from outside ({job.signal}{memory})")
    if not job.logs:
        lines.append(
            "  it has no log file; its output is above" + (", and its command is:" if job.shell else "")
        )
        lines += [f"  | {line}" for line in job.shell.strip().splitlines()[-LOG_LINES:]]
    for log in job.logs:
        lines.append(f"  log: {log}")
        lines += [f"  | {line}" for line in tail(Path(log))]
    lines.append(
        "  next: fix the cause and run the same command again. Finished jobs are kept, and a training"
    )
    lines.append("        continues from its last checkpoint.")
    return lines


def tail(path: Path, count: int = LOG_LINES) -> list[str]:
    """Return the last lines of a log file, or one line that says why there are none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return [f"({error.strerror})"]
    # A progress bar rewrites its line with carriage returns; its last state is what a person would have seen.
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.splitlines()]
    return [line for line in lines if line][-count:] or ["(empty)"]


def summary(workflow: Workflow, now: float, *, report: str, log: str) -> list[str]:
    """Return the last lines of a run: how it ended, what took the time, where to look."""
    took = duration(now - workflow.started)
    if workflow.failures:
        waiting = workflow.total - workflow.done - len(workflow.failures)
        lines = [
            f"Stopped after {took}: {jobs(len(workflow.failures))} failed, {workflow.done} of "
            f"{workflow.total} done, {waiting} not run."
        ]
        lines += [
            f"  failed: {name(job)}  ({', '.join(job.logs) or 'no log file'})" for job in workflow.failures
        ]
    elif workflow.done < workflow.total:
        lines = [f"Interrupted after {took}: {workflow.done} of {jobs(workflow.total)} done."]
        lines.append("  Run the same command again to continue.")
    else:
        lines = [f"Finished: {jobs(workflow.total)} in {took}."]
    lines += _slowest(workflow)
    if report and not workflow.failures and Path(report).exists():
        lines.append(f"Report: {report}")
    if log:
        lines.append(f"Full log: {log}")
    return lines


def _slowest(workflow: Workflow, count: int = 5) -> Iterable[str]:
    """The rules that took the most time, if there is more than one and it matters."""
    rules = [rule for rule, seconds in workflow.seconds.most_common(count) if seconds >= 1]
    if len(rules) < 2:
        return
    width = max(map(len, rules))
    for rule in rules:
        number, seconds = workflow.finished[rule], workflow.seconds[rule]
        each = f", {duration(seconds / number)} each" if number > 1 else ""
        yield f"  {rule:{width}}  {jobs(number):>8}  {duration(seconds)}{each}"
