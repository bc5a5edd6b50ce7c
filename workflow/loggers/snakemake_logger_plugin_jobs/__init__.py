"""The jobs of a dry run as data: ``snakemake --dry-run --logger jobs --logger-jobs-file FILE``.

One JSON object per line: what Snakemake would run, with its wildcards, files and resources. The budget is made of it
(``reproduction.budget``). Nothing is printed; warnings and errors go to standard error.
"""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options ``--logger-jobs-...``."""

    file: str = field(default="", metadata={"help": "File to write to", "env_var": False, "required": True})


class LogHandler(LogHandlerBase):
    """Snakemake's log handler."""

    def __post_init__(self) -> None:
        self._file = Path(self.settings.file).open("w", encoding="utf-8")  # noqa: SIM115 (closed in close)

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", None) == LogEvent.JOB_INFO:
            job = {
                "rule": record.rule_name,
                "wildcards": dict(record.wildcards or {}),
                "input": list(record.input or ()),
                "output": list(record.output or ()),
                "benchmark": record.benchmark,
                "threads": record.threads,
                "gpus": record.resources.get("gpu") or 0,
                "has_shell": bool(record.shellcmd),
            }
            self._file.write(json.dumps(job) + "\n")
            self._file.flush()
        elif record.levelno >= logging.WARNING:
            print(record.getMessage(), file=sys.stderr)

    def close(self) -> None:
        self._file.close()
        super().close()
