"""Whether models and data sets that are still to be fetched can be: asked before anything is."""

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from reproduction.config import Strict
from reproduction.data import DatasetError
from reproduction.data.sources import obtainable
from reproduction.data.table import HubFiles
from reproduction.rehearsal.reports import Line, Report

_ADVICE = {
    "model": "with a connection, and, for a model with a licence to accept, HF_TOKEN set: docs/data.md",
    "dataset": "with a connection, or set paths.real_data to a folder with local copies: docs/data.md",
}


class Wanted(Strict):
    """A model or a data set that trainings need."""

    name: str
    kind: Literal["model", "dataset"]
    prepared: str  # path of what the workflow makes of it
    hub: HubFiles | None  # where it would be fetched from; None for a local copy


def check(wanted: Iterable[Wanted]) -> Report:
    """Say of each whether it is here or can be fetched."""
    report = Report("models and data", "", socket.gethostname())
    for one in wanted:
        began = time.monotonic()
        try:
            found, passed = _where(one), True
        except DatasetError as error:
            found, passed = str(error), False
        seconds = round(time.monotonic() - began, 1)
        advice = "" if passed else _ADVICE[one.kind]
        report.lines.append(Line(f"{one.kind} {one.name}", passed, found, advice, seconds))
    return report


def _where(wanted: Wanted) -> str:
    if Path(wanted.prepared).exists():
        return "prepared"
    if wanted.hub is None:
        return "a local copy"
    return obtainable(wanted.hub, kind=wanted.kind)
