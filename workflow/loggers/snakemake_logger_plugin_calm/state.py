"""What a running workflow is doing, put together from Snakemake's log events; prints nothing."""

import re
import shlex
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from reproduction import progress
from reproduction.tracking import display_name

RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass
class Job:
    """One job of the workflow; times are Unix seconds."""

    id: int
    rule: str = ""
    label: str = ""
    logs: list[str] = field(default_factory=list)
    reason: str = ""
    shell: str = ""
    progress_file: Path | None = None
    is_target: bool = False  # a rule like `all`, which only names what is wanted
    state: str = RUNNING
    started: float = 0.0
    ended: float = 0.0
    signal: str = ""  # what killed it, for instance SIGKILL

    def status(self) -> progress.Status | None:
        """What the job says of itself, if it reports and is alive."""
        if self.progress_file is None:
            return None
        status = progress.read(self.progress_file)
        # A status that has ended belongs to an earlier run of this job.
        return status if status is not None and status.state == "running" else None


@dataclass(frozen=True)
class Remaining:
    """Estimated seconds until the end; ``complete`` is False while some rule has not been timed yet."""

    seconds: float
    complete: bool


class Workflow:
    """The state of one workflow run."""

    def __init__(self, now: float) -> None:
        self.started = now
        self.totals: dict[str, int] = {}  # rule -> jobs, in the order in which rules run
        self.jobs: dict[int, Job] = {}
        self.done = self.total = 0
        self.finished: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()  # of finished jobs, by rule
        self.failures: list[Job] = []  # in order; a job that is tried again leaves the list
        self.interrupted = False  # by the user; jobs that end from now on have not failed
        self._errors: list[str] = []

    def apply(self, event: LogEvent, record: Any) -> Job | None:
        """Take in an event; return the job that it concerns, where it is one job."""
        if event == LogEvent.RUN_INFO:
            self.totals = {rule: count for rule, count in record.stats.items() if rule != "total"}
            self.total = record.stats.get("total", sum(self.totals.values()))
        elif event == LogEvent.PROGRESS:
            self.done, self.total = record.done, record.total
        elif event == LogEvent.JOB_STARTED:
            for job_id in record.jobs:
                job = self._job(job_id)
                job.state, job.started = RUNNING, record.created
                self.failures = [failure for failure in self.failures if failure.id != job_id]
        elif event == LogEvent.JOB_INFO:
            return self._describe(record)
        elif event == LogEvent.JOB_FINISHED:
            job = self._job(record.job_id)
            job.state, job.ended = DONE, record.created
            self.finished[job.rule] += 1
            self.seconds[job.rule] += job.ended - job.started
            return job
        elif event == LogEvent.JOB_ERROR:
            job = self._job(record.jobid)
            job.rule, job.state, job.ended = record.rule_name, FAILED, record.created
            job.logs = list(record.log)
            job.signal = self._signal(job)
            if not self.interrupted and job not in self.failures:
                self.failures.append(job)
            return job
        return None

    def add_command_error(self, message: str) -> None:
        """Keep Snakemake's message about a failed command; it comes before the event of its job."""
        self._errors.append(message)

    @property
    def running(self) -> list[Job]:
        """Jobs that run, the longest running first."""
        jobs = (job for job in self.jobs.values() if job.state == RUNNING and job.rule and not job.is_target)
        return sorted(jobs, key=lambda job: job.started)

    def mean_seconds(self, rule: str) -> float | None:
        """Mean duration of the rule's finished jobs."""
        return self.seconds[rule] / self.finished[rule] if self.finished[rule] else None

    def remaining(self, now: float) -> Remaining | None:
        """Estimate the time left from finished jobs of the same rules and from what running jobs report.

        Work that is left is shared among as many jobs as have run at once on average so far. None before
        anything is known.
        """
        left, known, complete = 0.0, False, True
        longest = 0.0
        in_rule: Counter[str] = Counter()
        reported: dict[str, float] = {}  # rule -> estimated duration of a running job
        for job in self.running:
            in_rule[job.rule] += 1
            elapsed = now - job.started
            status = job.status()
            mean = self.mean_seconds(job.rule)
            if status is not None and status.remaining_s is not None:
                seconds = max(0.0, status.remaining_s - (now - status.updated))
                reported[job.rule] = elapsed + seconds
            elif mean is not None:
                seconds = max(0.0, mean - elapsed)
            else:
                complete = False
                continue
            left, known, longest = left + seconds, True, max(longest, seconds)
        for rule, total in self.totals.items():
            waiting = total - self.finished[rule] - in_rule[rule]
            if waiting <= 0:
                continue
            mean = self.mean_seconds(rule)
            mean = reported.get(rule) if mean is None else mean
            if mean is None:
                # A target or another rule that takes no time is no reason to call an estimate incomplete.
                complete = complete and waiting == 1 and rule == list(self.totals)[-1]
                continue
            left, known = left + waiting * mean, True
        if not known:
            return None
        return Remaining(max(longest, left / self._parallel(now)), complete)

    def _parallel(self, now: float) -> float:
        """Jobs that ran at once, on average since the first one started."""
        jobs = [job for job in self.jobs.values() if job.started]
        busy = sum((job.ended or now) - job.started for job in jobs)
        since = now - min((job.started for job in jobs), default=now)
        return max(1.0, busy / since) if since > 0 else 1.0

    def _signal(self, job: Job) -> str:
        """Name the signal that ended the job's command or, as the shell's exit status 128 + n tells, a part of it."""
        for message in self._errors:
            if job.shell and job.shell.strip() in message:
                if killed := re.search(r"died with <Signals\.(\w+)", message):
                    return killed[1]
                status = re.search(r"non-zero exit status (\d+)", message)
                if status and int(status[1]) - 128 in set(signal.Signals):
                    return signal.Signals(int(status[1]) - 128).name
        return ""

    def _job(self, job_id: int) -> Job:
        return self.jobs.setdefault(job_id, Job(job_id))

    def _describe(self, record: Any) -> Job:
        job = self._job(record.jobid)
        job.rule = record.rule_name
        job.label = readable(dict(record.wildcards))
        job.logs = list(record.log)
        job.reason = record.reason
        job.shell = record.shellcmd or ""
        job.progress_file = progress_file(job.shell)
        job.is_target = not record.output and not record.shellcmd
        job.started = job.started or record.created
        return job


def readable(wildcards: dict[str, str]) -> str:
    """Return wildcards as short as MLflow shows them: ``ead n8 seed0 dapo tiny``, ``step30 gsm8k``."""
    parts = []
    for name, value in wildcards.items():
        if all("~" in part for part in value.split("/")):
            parts.append(display_name(value))
        else:
            parts.append(name + value if value.isdigit() else value)
    return " ".join(parts)


def progress_file(shell: str) -> Path | None:
    """Return the file that a job reports its progress to: the argument of ``--progress`` in its command."""
    if "--progress" not in shell:
        return None
    try:
        words = shlex.split(shell, comments=False)
    except ValueError:  # a command with an unbalanced quote, for instance in a here-document
        words = shell.split()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--progress" and following:
            return Path(following)
        if match := re.fullmatch(r"--progress=(.+)", word):
            return Path(match[1])
    return None
