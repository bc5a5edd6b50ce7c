"""The view on a terminal: what runs, how far it is, what is left. Drawn anew once a second."""

from collections import Counter
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from snakemake_logger_plugin_calm import text
from snakemake_logger_plugin_calm.state import Workflow

_BAR = 16
_QUIET = "bright_black"


def draw(workflow: Workflow, now: float, console: Console) -> RenderableType:
    """Return the picture of ``workflow`` at ``now``, no higher than the terminal."""
    if not workflow.total:
        return Text(f"Looking at what there is to do ({text.elapsed(now - workflow.started)})", _QUIET)
    head = Text(text.overall(workflow, now), "bold")
    if workflow.failures:
        head.stylize("red")
    room = console.size.height - 5
    running = _running(workflow, now, console.size.width, limit=max(2, room // 2))
    rules = _rules(workflow, limit=max(2, room - running.row_count))
    parts: list[RenderableType] = [Text(), head, rules]
    if running.row_count:
        parts += [Text(), running]
    return Group(*parts)


def _rules(workflow: Workflow, limit: int) -> Table:
    """One line per rule, in the order in which rules run; where room is short, some share one."""
    in_rule = {job.rule for job in workflow.running}
    failed = Counter(job.rule for job in workflow.failures)
    finished, others = [], []
    for rule, total in workflow.totals.items():
        done, mean = workflow.finished[rule], workflow.mean_seconds(rule)
        style = "green" if done >= total else ("" if done or rule in in_rule else _QUIET)
        note = Text("" if mean is None else text.duration(mean) + (" each" if total > 1 else ""), _QUIET)
        if failed[rule]:
            note = Text(f"{failed[rule]} failed", "red")
        (finished if done >= total else others).append((rule, done, total, style, note))
    if len(finished) + len(others) > limit:
        finished = [_together(finished, "rules", "green")] if finished else []
        kept = max(1, limit - len(finished) - 1)
        if len(others) > kept + 1:
            others[kept:] = [_together(others[kept:], "more rules", _QUIET)]
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for rule, done, total, style, note in [*finished, *others]:
        bar = ProgressBar(total, done, width=_BAR, complete_style="cyan", finished_style="green")
        table.add_row(Text(rule, style), bar, Text(f"{done}/{total}", style), note)
    return table


def _together(rows: list[tuple], name: str, style: str) -> tuple:
    return f"{len(rows)} {name}", sum(row[1] for row in rows), sum(row[2] for row in rows), style, Text()


def _running(workflow: Workflow, now: float, width: int, limit: int) -> Table:
    """One line per running job: its rule, what it works on, how far it is."""
    jobs = workflow.running
    shown = jobs if len(jobs) <= limit else jobs[: limit - 1]
    rule_width = max((len(job.rule) for job in shown), default=0)
    label_width = min(max((len(job.label) for job in shown), default=0), max(16, width // 3))
    bar_width = _BAR if width >= 100 else _BAR // 2
    table = Table.grid(padding=(0, 2))
    for column in (
        rule_width,
        label_width,
        bar_width,
        max(8, width - rule_width - label_width - bar_width - 8),
    ):
        table.add_column(no_wrap=True, overflow="ellipsis", width=column)
    for job in shown:
        status = job.status()
        bar: RenderableType = Text()
        if status is not None:
            bar = ProgressBar(1.0, status.fraction, width=bar_width, complete_style="cyan")
        said = text.position(job) or text.duration(now - job.started)
        table.add_row(job.rule, job.label, bar, Text(said, _QUIET))
    if len(shown) < len(jobs):
        table.add_row(Text(f"and {len(jobs) - len(shown)} more", _QUIET))
    return table


class Picture:
    """A renderable that is drawn when it is looked at, so that a resized terminal gets a fitting one."""

    def __init__(self, workflow: Workflow, clock: Callable[[], float]) -> None:
        self._workflow, self._clock = workflow, clock

    def __rich_console__(self, console: Console, options: ConsoleOptions):
        yield draw(self._workflow, self._clock(), console)
