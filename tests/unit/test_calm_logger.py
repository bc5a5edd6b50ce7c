"""The calm view of a workflow: its state, its words, and real Snakemake runs on a terminal and in a pipe."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from snakemake.logging import DefaultFormatter
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.tests import MockOutputSettings, TestLogHandlerBase

import snakemake_logger_plugin_calm as calm
from reproduction.cluster.loggers import with_loggers
from reproduction.progress import Progress
from snakemake_logger_plugin_calm import live, text
from snakemake_logger_plugin_calm.state import Remaining, Workflow, progress_file, readable

RUN = "model~tiny/algorithm~dapo/sampler~ead/n~8/seed~0"


class TestContract(TestLogHandlerBase):
    """The tests that Snakemake's plugin interface brings along: every event is taken without an error."""

    __test__ = True

    def get_log_handler_cls(self):
        return calm.LogHandler

    def get_log_handler_settings(self):
        return calm.LogHandlerSettings()


class Events:
    """A workflow driven by the events that Snakemake sends, on a clock of the test's own."""

    def __init__(self, totals: dict[str, int]):
        self.now = 1000.0
        self.workflow = Workflow(self.now)
        self.send(LogEvent.RUN_INFO, stats={**totals, "total": sum(totals.values())})

    def send(self, event, **fields):
        return self.workflow.apply(event, type("Record", (), {"created": self.now, **fields}))

    def start(self, job_id, rule, shell="run", **wildcards):
        self.send(LogEvent.JOB_STARTED, jobs=[job_id])
        return self.send(
            LogEvent.JOB_INFO,
            jobid=job_id,
            rule_name=rule,
            wildcards=wildcards,
            log=[f"logs/{rule}.log"],
            reason="",
            shellcmd=shell,
            output=["out"],
        )

    def finish(self, job_id):
        self.send(LogEvent.JOB_FINISHED, job_id=job_id)
        done = sum(self.workflow.finished.values())
        self.send(LogEvent.PROGRESS, done=done, total=self.workflow.total)

    def fail(self, job_id, rule):
        return self.send(LogEvent.JOB_ERROR, jobid=job_id, rule_name=rule, log=[f"logs/{rule}.log"])


# --- state ------------------------------------------------------------------------------------------------


def test_jobs_are_counted_and_timed():
    events = Events({"train": 2, "report": 1})
    events.start(1, "train", run=RUN)
    events.now += 10
    events.finish(1)
    workflow = events.workflow
    assert (workflow.done, workflow.total) == (1, 3)
    assert workflow.mean_seconds("train") == pytest.approx(10)
    assert workflow.mean_seconds("report") is None
    assert workflow.running == []


def test_a_failed_job_that_is_tried_again_is_no_failure():
    events = Events({"train": 1})
    events.start(1, "train")
    events.fail(1, "train")
    assert [job.id for job in events.workflow.failures] == [1]
    events.start(1, "train")
    assert events.workflow.failures == []
    events.finish(1)
    assert events.workflow.done == 1


def test_jobs_that_end_after_an_interrupt_have_not_failed():
    events = Events({"train": 1})
    events.start(1, "train")
    events.workflow.interrupted = True
    events.fail(1, "train")
    assert events.workflow.failures == []


@pytest.mark.parametrize(
    ("said", "signal"),
    [
        ("Command 'set -e; run --x' died with <Signals.SIGKILL: 9>.", "SIGKILL"),
        ("Command 'set -e; run --x' returned non-zero exit status 137.", "SIGKILL"),
        ("Command 'set -e; run --x' returned non-zero exit status 1.", ""),
        ("Command 'set -e; another' died with <Signals.SIGKILL: 9>.", ""),
    ],
)
def test_a_job_killed_by_a_signal_is_told_from_one_that_failed(said, signal):
    events = Events({"train": 1})
    events.start(1, "train", shell="run --x")
    events.workflow.add_command_error(said)
    assert events.fail(1, "train").signal == signal
    assert ("killed from outside" in "\n".join(text.failure(events.workflow.failures[0]))) is bool(signal)


def test_time_left_comes_from_finished_jobs_of_the_same_rule():
    events = Events({"train": 5, "all": 1})
    assert events.workflow.remaining(events.now) is None
    events.start(1, "train")
    events.now += 10
    events.finish(1)
    events.start(2, "train")
    events.now += 4
    # 6 s of the second job and 3 more of 10 s, one at a time; `all` takes no time.
    remaining = events.workflow.remaining(events.now)
    assert remaining == Remaining(pytest.approx(36), True)


def test_time_left_is_shared_by_jobs_that_run_at_once():
    events = Events({"train": 6})
    for job in (1, 2):
        events.start(job, "train")
    events.now += 10
    for job in (1, 2):
        events.finish(job)
    assert events.workflow.remaining(events.now) == Remaining(pytest.approx(20), True)


def test_time_left_says_when_a_rule_has_not_been_timed():
    events = Events({"prepare": 2, "train": 3})
    events.start(1, "prepare")
    events.now += 100
    events.finish(1)
    assert events.workflow.remaining(events.now) == Remaining(pytest.approx(100), False)
    assert text.left(events.workflow, events.now) == "at least 2 min left"


def test_time_left_believes_what_a_job_reports(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    events = Events({"train": 2})
    events.now = time.time()
    events.start(1, "train", shell=f"python train.py --progress {path}")
    with Progress(path, "ead", total=10, unit="step") as bar:
        events.now += 20
        monkeypatch.setattr("reproduction.progress.time.time", lambda: events.now)
        monkeypatch.setattr("reproduction.progress.time.monotonic", lambda: events.now)
        bar.update(4)
        # 4 of 10 steps in 20 s: 30 s for this job, and as a whole 50 s for the other one.
        remaining = events.workflow.remaining(events.now)
        assert remaining.seconds == pytest.approx(80, rel=0.05)
        assert text.position(events.workflow.running[0]).startswith("4 of 10 steps, 40 %, 30 s left")
    assert text.position(events.workflow.running[0]) == "", (
        "a status that has ended belongs to an earlier run"
    )


@pytest.mark.parametrize(
    ("shell", "path"),
    [
        ("python train.py --progress results/a.json --steps 3", "results/a.json"),
        ("python train.py --progress='results/a b.json' > log", "results/a b.json"),
        ("python train.py --progress 'it'\"'\"'s.json'", "it's.json"),
        ("echo \"it's\" ; echo '", None),
        ("echo ' ; python train.py --progress a.json", "a.json"),
        ("python train.py --progress", None),
        ("", None),
    ],
)
def test_the_progress_file_is_found_in_the_command(shell, path):
    found = progress_file(shell)
    assert (found and str(found)) == path


@pytest.mark.parametrize(
    ("wildcards", "shown"),
    [
        ({"run": RUN}, "ead n8 seed0 dapo tiny"),
        ({"run": RUN, "step": "30", "decoder": "tau1.0"}, "ead n8 seed0 dapo tiny step30 tau1.0"),
        ({"dataset": "gsm8k"}, "gsm8k"),
        ({}, ""),
    ],
)
def test_wildcards_are_readable(wildcards, shown):
    assert readable(wildcards) == shown


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds, words):
    assert text.duration(seconds) == words


def test_a_failure_shows_the_end_of_its_log_and_what_to_do(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("\n".join(f"line {i}" for i in range(100)) + "\n\nbar 10%\rbar 20%\n")
    events = Events({"train": 1})
    job = events.start(1, "train", run=RUN)
    events.fail(1, "train")
    job.logs = [str(log)]
    lines = text.failure(job)
    assert lines[0] == "FAILED  train  ead n8 seed0 dapo tiny  after 0.0 s"
    assert f"  log: {log}" in lines
    assert "  | bar 20%" in lines and "  | line 99" in lines and "  | line 50" not in lines
    assert any("run the same command again" in line for line in lines)
    job.logs = [str(tmp_path / "absent.log")]
    assert "  | (No such file or directory)" in text.failure(job)


def test_the_summary_says_how_it_ended(tmp_path):
    report = tmp_path / "report.html"
    report.write_text("")
    events = Events({"train": 2})
    events.start(1, "train")
    events.now += 100
    events.finish(1)

    def say():
        return "\n".join(text.summary(events.workflow, events.now, report=str(report), log="full.log"))

    assert say().startswith("Interrupted after 1 min 40 s: 1 of 2 jobs done.")
    events.start(2, "train")
    events.fail(2, "train")
    assert say().startswith("Stopped after 1 min 40 s: 1 job failed, 1 of 2 done, 0 not run.")
    assert str(report) not in say()
    events.start(2, "train")
    events.finish(2)
    assert say().startswith("Finished: 2 jobs in 1 min 40 s.")
    assert f"Report: {report}" in say()


@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (60, 10), (40, 6)])
def test_the_picture_fits_the_terminal(width, height):
    events = Events({f"rule_number_{i}": 3 for i in range(30)})
    for job in range(12):
        events.start(job, f"rule_number_{job}", run=RUN)
    for job in range(4):
        events.finish(job)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(live.draw(events.workflow, events.now, console))
    lines = console.file.getvalue().splitlines()
    assert "4 of 90 jobs done" in "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 8)


# --- the handler ------------------------------------------------------------------------------------------


@pytest.fixture
def handler(monkeypatch):
    """A handler whose standard error is ``handler.printed``."""
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    handler = calm.LogHandler(MockOutputSettings(), calm.LogHandlerSettings())
    handler.setFormatter(DefaultFormatter())
    handler.printed = printed
    yield handler
    handler.close()


def record(event, message="", **fields):
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, message, (), None)
    made.event = event
    made.__dict__.update(fields)
    return made


def test_an_exception_in_the_view_is_reported_once_and_the_workflow_goes_on(handler, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such colour")

    monkeypatch.setattr(Workflow, "apply", broken)
    for job in (1, 2):
        handler.emit(record(LogEvent.JOB_FINISHED, f"Finished jobid: {job}", job_id=job))
    handler.close()
    printed = handler.printed.getvalue()
    assert printed.count("The calm view failed") == 1
    assert "no such colour" in printed
    assert "Finished jobid: 1" in printed and "Finished jobid: 2" in printed


def test_an_output_that_is_gone_does_not_stop_the_workflow(handler, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler.printed.close()
    handler.emit(record(None, "a message"))
    handler.close()


def test_messages_that_nobody_needs_are_left_out(handler):
    for message in ("Building DAG of jobs...", "Using shell: /bin/bash", "something of the workflow's own"):
        handler.emit(record(None, message))
    assert handler.printed.getvalue() == "something of the workflow's own\n"


def test_an_interval_that_is_not_positive_is_refused():
    with pytest.raises(WorkflowError, match="--logger-calm-interval 0"):
        calm.LogHandler(MockOutputSettings(), calm.LogHandlerSettings(interval=0))


# --- real runs --------------------------------------------------------------------------------------------

SNAKEFILE = """
rule all:
    input: expand("made/{name}", name=["good", "bad"])

rule make:
    output: "made/{name}"
    log: "logs/{name}.log"
    shell: "python job.py --progress progress/{wildcards.name}.json {wildcards.name} > {log} 2>&1"
"""
JOB = """
import sys, time
from pathlib import Path
from reproduction.progress import Progress
with Progress(sys.argv[2], sys.argv[3], total=12, unit="step") as bar:
    for step in range(12):
        time.sleep(0.25)
        bar.update(step + 1, "loss 0.5")
        if sys.argv[3] == "bad" and step == 5 and not Path("mended").exists():
            raise ValueError("the weights do not fit")
Path("made", sys.argv[3]).write_text("")
"""


@pytest.fixture
def workflow(tmp_path):
    """A workflow of two jobs, one of which fails until a file `mended` exists."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "job.py").write_text(JOB)
    environment = {**with_loggers(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--logger", "calm", "--cores", "2", "--keep-going"]

    def run(*options, terminal=False):
        if not terminal:
            done = subprocess.run(
                [*command, *options],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            return done.returncode, done.stdout + done.stderr
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            env={**environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
            stdout=theirs,
            stderr=theirs,
            stdin=theirs,
        )
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed
                break
            if not part:
                break
            seen += part
        os.close(ours)
        return process.wait(), seen.decode()

    return run, tmp_path


def test_plain_lines_in_a_pipe(workflow):
    run, folder = workflow
    code, printed = run("--logger-calm-interval", "1", "--logger-calm-report", "made/good")
    assert code == 1
    assert "3 jobs to run: 2 make, 1 all" in printed
    assert re.search(r"\d\d:\d\d:\d\d  started   make  good\n", printed)
    assert re.search(r"running   make  good: \d+ of 12 steps, \d+ %", printed)
    assert re.search(r"finished  make  good  in \d\.\d s \(1 of 3\)", printed)
    assert re.search(r"FAILED  make  bad  after \d", printed)
    assert "  | ValueError: the weights do not fit" in printed
    assert re.search(r"Stopped after .*: 1 job failed, 1 of 3 done, 1 not run\.", printed)
    assert "\x1b" not in printed

    (folder / "mended").write_text("")
    code, printed = run("--dry-run")
    assert code == 0
    assert "This would run 2 jobs:" in printed
    assert "make  bad" in printed and "This was a dry run; nothing was run." in printed

    code, printed = run("--logger-calm-report", "made/good")
    assert code == 0
    assert re.search(r"Finished: 2 jobs in", printed)
    assert "Report: made/good" in printed
    code, printed = run()
    assert code == 0
    assert "Nothing to do: everything that was asked for is there and up to date." in printed


def test_one_picture_on_a_terminal(workflow):
    run, _ = workflow
    code, printed = run(terminal=True)
    assert code == 1
    assert re.search(r"make +.*0/2", printed)
    assert re.search(r"[1-9] of 12 steps, \d+ %", printed)
    assert "ValueError: the weights do not fit" in printed
    assert "1 of 3 done" in printed
    assert "started   make" not in printed, "lines are for places without a picture"
    assert "view failed" not in printed


def test_a_call_that_does_not_ask_for_a_logger_of_ours_imports_none(tmp_path):
    code = "import snakemake.cli, sys; snakemake.cli.get_argument_parser(); print(*sys.modules)"
    for environment, found in ((os.environ, []), (with_loggers(), ["calm", "jobs"])):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        prefix = "snakemake_logger_plugin_"
        loaded = {name.removeprefix(prefix) for name in done.stdout.split() if name.startswith(prefix)}
        assert {name for name in loaded if "." not in name} == set(found)
