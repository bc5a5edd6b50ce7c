"""A calm view of a Snakemake workflow: ``snakemake --logger calm``.

On a terminal one picture says what runs, how far each job is and what is left; anywhere else (a log file, CI)
plain lines say what started and ended, and now and then where things are. A failure comes with its log, the
log's last lines and what to do next; the end with a summary. Snakemake's complete log is written as always.

A job that passes ``--progress FILE`` to its script is shown with a bar: see ``reproduction.progress``.
"""

import contextlib
import logging
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from snakemake_logger_plugin_calm import text
from snakemake_logger_plugin_calm.live import Picture
from snakemake_logger_plugin_calm.state import Job, Workflow

_REFRESH_S = 1.0
# What Snakemake says without an event and the view says otherwise, or nobody needs; all of it is in the log.
_NOISE = (
    "Activating conda",
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Conda environments: ignored",
    "Elapsed time",
    "Execute ",
    "Exiting because a job execution failed",
    "Group jobs: inactive",
    "Job failed, going on",
    "Removing output files of failed job",
    "Select jobs to execute",
    "Shutting down, this might take",
    "Singularity containers: ignored",
    "This was a dry-run",
    "Updating checkpoint",
    "Using shell",
    "Will exit after finishing currently running",
    "host: ",
)
_NOTHING_TO_DO = "Nothing to be done"
_LOG_HINT = "Complete log(s): "
_INTERRUPT = "Terminating processes on user request"
_RETRY = "Trying to restart job "


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options ``--logger-calm-...``."""

    report: str = field(
        default="",
        metadata={"help": "File to point to when all is done", "env_var": False, "required": False},
    )
    interval: int = field(
        default=30,
        metadata={
            "help": "Seconds between lines about running jobs where the output is not a terminal",
            "env_var": False,
            "required": False,
            "type": int,
        },
    )


class LogHandler(LogHandlerBase):
    """Snakemake's log handler; events arrive in one thread, a second one keeps the view up to date.

    Nothing that goes wrong here may stop the workflow: an exception is reported once, and from then on records
    are printed as Snakemake formats them.
    """

    def __post_init__(self) -> None:
        self._stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self._console = Console(
            file=self._stream, no_color=self.common_settings.nocolor or None, highlight=False, markup=False
        )
        quiet = {str(choice).lower().rpartition(".")[2] for choice in self.common_settings.quiet or ()}
        self._silent = "all" in quiet and not self.common_settings.dryrun
        self._terse = bool(quiet & {"all", "progress", "rules"})
        self._interval_s = self.settings.interval if self.settings else 30
        if self._interval_s < 1:
            raise WorkflowError(f"--logger-calm-interval {self._interval_s}: must be at least 1 second")
        self._report = self.settings.report if self.settings else ""
        self._workflow = Workflow(time.time())
        self._full_log = ""
        self._nothing_to_do = self._broken = self._closed = False
        self._live: Live | None = None
        self._guard = threading.RLock()
        self._end = threading.Event()
        self._ticker: threading.Thread | None = None
        self._last_line = time.time()

    # --- what Snakemake asks of a plugin -------------------------------------------------------------------

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True  # the view needs to see every event, whatever it then prints

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: logging.LogRecord) -> None:
        with self._guard:
            try:
                if not self._broken:
                    self._take(record)
                    return
            except Exception:
                self._give_up()
            try:
                self._print_as_snakemake(record)
            except Exception:
                self.handleError(record)

    def close(self) -> None:
        """End the view and print the summary; once."""
        self._end.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._guard:
            if not self._closed:
                self._closed = True
                try:
                    self._stop_live()
                    if not self._broken:
                        self._say_how_it_ended()
                except Exception:
                    self._give_up()
        super().close()

    # --- events --------------------------------------------------------------------------------------------

    def _take(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event is None:
            self._take_message(record)
            return
        if event == LogEvent.ERROR:
            self._take_error(record)
            return
        if event == LogEvent.DEBUG_DAG:
            if self.common_settings.debug_dag:
                self._say(self.format(record))
            return
        if event == LogEvent.RUN_INFO and self._workflow.total:
            return  # a dry run repeats its statistics at the end
        job = self._workflow.apply(event, record)
        if self.common_settings.dryrun:
            self._take_dry(event, job)
        elif event == LogEvent.RUN_INFO:
            self._start()
        elif event == LogEvent.JOB_INFO:
            self._announce(job)
        elif event == LogEvent.JOB_FINISHED:
            self._tell_finished(job)
        elif event == LogEvent.JOB_ERROR and not self._workflow.interrupted:
            self._say(f"{_clock()}  " + "\n".join(text.failure(job)), "red", first_only=True)

    def _take_message(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message in ("", "None"):
            return
        if message.startswith(_LOG_HINT):
            self._full_log = message.removeprefix(_LOG_HINT)
        elif message.startswith(_NOTHING_TO_DO):
            self._nothing_to_do = True
        elif message.startswith(_INTERRUPT):
            self._workflow.interrupted = True
        elif message.startswith(_RETRY):
            self._say(f"{_clock()}  it is tried again")
        elif record.levelno >= logging.ERROR and not message.startswith(_NOISE):
            self._say(message, "red")
        elif record.levelno == logging.WARNING:
            self._say(message, "yellow")
        elif record.levelno == logging.DEBUG:
            if self.common_settings.verbose:
                self._say(message)
        elif not message.startswith(_NOISE) and not self._terse:
            self._say(message)

    def _take_error(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # A failed command is reported by its job; the last error only says that there was one.
        if "CalledProcessError" in message:
            self._workflow.add_command_error(message)
            return
        if "At least one job did not complete" in message:
            return
        self._say(message, "red")

    def _take_dry(self, event: LogEvent, job: Job | None) -> None:
        if event == LogEvent.RUN_INFO:
            width = max(map(len, self._workflow.totals), default=0)
            lines = [f"This would run {text.jobs(self._workflow.total)}:"]
            lines += [f"  {rule:{width}}  {count}" for rule, count in self._workflow.totals.items()]
            self._say("\n".join(lines))
        elif event == LogEvent.JOB_INFO and not job.is_target and not self._terse:
            self._say(f"{text.name(job)}\n    {job.reason}")
            if self.common_settings.printshellcmds and job.shell:
                self._say(job.shell)

    def _announce(self, job: Job) -> None:
        if self.common_settings.printshellcmds and job.shell:
            self._say(job.shell)
        if self._live is None and not self._terse and not job.is_target:
            self._say(f"{_clock()}  started   {text.name(job)}")

    def _tell_finished(self, job: Job) -> None:
        if self._live is None and not self._terse and not job.is_target:
            number = sum(self._workflow.finished.values())
            took = text.duration(job.ended - job.started)
            self._say(
                f"{_clock()}  finished  {text.name(job)}  in {took} ({number} of {self._workflow.total})"
            )

    # --- the view ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._terse:
            return
        if self._console.is_terminal:
            self._live = Live(
                Picture(self._workflow, time.time),
                console=self._console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        else:
            self._say(
                f"{_clock()}  {text.jobs(self._workflow.total)} to run: {_listed(self._workflow.totals)}"
            )
        self._ticker = threading.Thread(target=self._tick, name="calm-view", daemon=True)
        self._ticker.start()

    def _tick(self) -> None:
        while not self._end.wait(_REFRESH_S if self._live else min(1.0, self._interval_s / 4)):
            with self._guard:
                if self._broken:
                    return
                try:
                    if self._live is not None:
                        self._live.refresh()
                    elif time.time() - self._last_line >= self._interval_s:
                        self._say_position()
                except Exception:
                    self._give_up()

    def _say_position(self) -> None:
        now = time.time()
        lines = [f"{_clock()}  {text.overall(self._workflow, now)}"]
        for job in self._workflow.running:
            where = text.position(job) or f"for {text.duration(now - job.started)}"
            lines.append(f"          running   {text.name(job)}: {where}")
        self._say("\n".join(lines))

    def _say_how_it_ended(self) -> None:
        workflow = self._workflow
        if self._silent:
            return
        if self._nothing_to_do:
            self._say("Nothing to do: everything that was asked for is there and up to date.", "green")
            if self._report:
                self._say(f"Report: {self._report}")
        elif workflow.total and self.common_settings.dryrun:
            self._say("This was a dry run; nothing was run.")
        elif workflow.total:
            bad = workflow.failures or workflow.done < workflow.total
            lines = text.summary(workflow, time.time(), report=self._report, log=self._full_log)
            self._say("\n".join(["", *lines]), "red" if bad else "green", first_only=True)

    def _say(self, message: str, style: str = "", first_only: bool = False) -> None:
        """Print above the picture, or as plain lines; ``first_only`` styles the first line that says anything."""
        self._last_line = time.time()
        if not first_only:
            self._console.print(message, style=style or None, soft_wrap=True)
            return
        for line in message.split("\n"):
            self._console.print(line, style=style or None, soft_wrap=True)
            style = "" if line else style

    def _stop_live(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    # --- when the view fails -------------------------------------------------------------------------------

    def _give_up(self) -> None:
        """Report the current exception once and leave the rest to Snakemake's own formatting."""
        if self._broken:
            return
        self._broken = True
        report = f"The calm view failed; Snakemake's own lines follow.\n{traceback.format_exc(limit=3)}"
        with contextlib.suppress(Exception):
            self._stop_live()
        with contextlib.suppress(Exception):  # there is nowhere left to report to
            print(report, file=self._stream, flush=True)

    def _print_as_snakemake(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        hidden = {
            LogEvent.SHELLCMD: not self.common_settings.printshellcmds,
            LogEvent.DEBUG_DAG: not self.common_settings.debug_dag,
        }
        if hidden.get(event, False) or (record.levelno == logging.DEBUG and not self.common_settings.verbose):
            return
        line = self.format(record)
        if line and line != "None":
            print(line, file=self._stream, flush=True)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _listed(totals: dict[str, int]) -> str:
    return ", ".join(f"{count} {rule}" for rule, count in totals.items())
