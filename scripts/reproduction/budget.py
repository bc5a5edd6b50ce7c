"""What targets cost before anything is submitted: jobs, GPU hours, wall time on g GPUs, storage.

Snakemake says which jobs it would run (its logger ``jobs``). A job takes as long as jobs of its kind
took, where Snakemake has timed some (``results/{scale}/benchmarks``), else, a training, as the preflight of its model
makes one expect (``results/{scale}/preflight``), and else as ``workflow/resources.yaml`` does. Wall time and peak
storage are those of a timetable that starts the job with the longest way to the end first.
"""

import csv
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from reproduction.cluster.loggers import with_loggers
from reproduction.cluster.resources import Need, Needs, Resources, load_resources
from reproduction.config import WORKFLOW, Configuration, ConfigurationError, Scale
from reproduction.config.runs import AXES, RunConfiguration, expand_all
from reproduction.figures import load_experiments
from reproduction.files import put_between
from reproduction.plan import read_plan
from reproduction.rehearsal import reports as preflights

HOUR, GIGABYTE = 3600.0, 1e9


@dataclass(frozen=True)
class PlannedJob:
    """A job that Snakemake would run."""

    rule: str
    wildcards: Mapping[str, str]
    input: tuple[str, ...]
    output: tuple[str, ...]
    benchmark: str | None
    threads: int
    gpus: int


@dataclass(frozen=True)
class Costed:
    """A planned job with what it costs; ``before`` are the positions of the jobs it waits for.

    It leaves ``size`` bytes, has ``scratch`` more while it runs, and deletes ``freed`` of others when it ends.
    """

    rule: str
    seconds: float
    gpus: int
    cores: int
    size: int
    scratch: int
    freed: int
    source: Literal["measured", "estimated"]
    before: tuple[int, ...]


class PlanningFailed(RuntimeError):
    """Snakemake could not plan the targets; the message is what it said."""


def plan(configuration: Configuration, targets: Sequence[str]) -> list[PlannedJob]:
    """Return the jobs that Snakemake would run for ``targets``, in an order in which they can run.

    Raises PlanningFailed, for instance for an unknown target.
    """
    with tempfile.TemporaryDirectory() as scratch:
        values, jobs = Path(scratch) / "config.json", Path(scratch) / "jobs.jsonl"
        values.write_text(configuration.model_dump_json(), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile")),
            *("--dry-run", "--cores", "1", "--rerun-incomplete", "--configfile", str(values)),
            *("--rerun-triggers", "input", "mtime", "params"),
            *("--logger", "jobs", "--logger-jobs-file", str(jobs)),
            *("--", *targets),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=with_loggers())
        if done.returncode:
            raise PlanningFailed(done.stderr.strip() or done.stdout.strip())
        rows = [json.loads(line) for line in jobs.read_text(encoding="utf-8").splitlines()]
    planned = {}
    for row in rows:
        if not row.pop("has_shell"):  # a target such as `all` or `fig10`, which runs nothing
            continue
        row["input"], row["output"] = tuple(row["input"]), tuple(row["output"])
        planned[row["output"]] = PlannedJob(**row)
    return list(planned.values())


def cost(
    planned: Sequence[PlannedJob], needs: Needs, runs: Mapping[str, RunConfiguration], results: Path
) -> list[Costed]:
    """Return what each planned job costs; ``runs`` are the runs of the scale by name, in the folder ``results``."""
    maker = {path: number for number, job in enumerate(planned) for path in job.output}
    timings, preflight = Timings(results), results / needs.table_name / "preflight"
    costed = []
    for job in planned:
        need = need_of(job, needs, runs)
        # A preflight ends early where it fails, and passes once.
        measured_s = None if job.rule == "preflight_model" else timings.of(job.benchmark)
        if measured_s is None and job.rule == "train":
            measured_s = preflights.expected_s(preflight, runs[job.wildcards["run"]], need.gpus * need.nodes)
        costed.append(
            Costed(
                rule=job.rule,
                seconds=need.expected_s if measured_s is None else measured_s,
                gpus=need.gpus * need.nodes,
                cores=need.nodes * (need.cpus or job.threads),
                size=need.expected_bytes,
                scratch=need.scratch_bytes,
                freed=need.freed_bytes,
                source="estimated" if measured_s is None else "measured",
                before=tuple(sorted({maker[path] for path in job.input if path in maker})),
            )
        )
    return costed


def need_of(job: PlannedJob, needs: Needs, runs: Mapping[str, RunConfiguration]) -> Need:
    """Return what ``job`` needs, as its rule says to Slurm."""
    if job.rule == "train":
        return needs.train(runs[job.wildcards["run"]])
    if job.rule == "preflight_model":
        of_model = [run for run in runs.values() if run.model == job.wildcards["checked_model"]]
        (run,) = preflights.chosen(of_model, needs.scale.rollouts).values()
        return needs.preflight(run)
    if job.rule == "evaluate_run":
        return needs.evaluate_run(runs[job.wildcards["run"]])
    if job.rule == "evaluate_model":
        return needs.evaluate_model(job.wildcards["model"])
    if job.rule == "draw_study":
        return needs.draw_study(job.wildcards["study"])
    if job.rule == "import_model":
        return needs.import_model(job.wildcards["imported_model"])
    return needs.rule(job.rule)


class Timings:
    """Seconds that Snakemake measured below ``results``, by kind of job: the same step, model and rollouts."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._of_step: dict[Path, dict[tuple[str, ...], list[float]]] = {}

    def of(self, benchmark: str | None) -> float | None:
        """Return the median of what jobs of this kind took; None where none was timed."""
        if benchmark is None:
            return None
        root, step, name = self._parts(Path(benchmark))
        if root / step not in self._of_step:
            self._of_step[root / step] = self._read(root / step)
        seconds = self._of_step[root / step].get(_kind(name))
        return statistics.median(seconds) if seconds else None

    def _read(self, folder: Path) -> dict[tuple[str, ...], list[float]]:
        found = defaultdict(list)
        for path in sorted(folder.rglob("*.tsv")):
            with path.open(encoding="utf-8", newline="") as file:
                seconds = [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
            found[_kind(self._parts(path)[2])] += seconds
        return found

    def _parts(self, benchmark: Path) -> tuple[Path, str, str]:
        """Split ``results/cpu/benchmarks/train/model~tiny/….tsv`` after ``benchmarks`` and after the step."""
        parts = Path(str(benchmark.relative_to(self._results)).removesuffix(".tsv")).parts
        at = parts.index("benchmarks") + 1
        return self._results.joinpath(*parts[:at]), parts[at], "/".join(parts[at + 1 :])


def _kind(name: str) -> tuple[str, ...]:
    axes = dict(part.split("~", 1) for part in name.split("/") if "~" in part)
    if set(axes) == set(AXES):
        return axes["model"], axes["n"]
    return (axes["model"],) if set(axes) == {"model"} else (name,)


@dataclass(frozen=True)
class Timetable:
    """How long jobs take on so many units, and the most bytes that they have on the disk at one time."""

    seconds: float
    peak_bytes: int


def timetable(jobs: Sequence[Costed], units: int, *, of: Literal["gpus", "cores"]) -> Timetable:
    """Simulate ``jobs`` on ``units`` GPUs or cores.

    With GPUs, jobs that use none wait for nothing but their inputs. Raises ConfigurationError for a job that is larger
    than ``units``.
    """
    sizes = [getattr(job, of) for job in jobs]
    for job, size in zip(jobs, sizes, strict=True):
        if size > units:
            raise ConfigurationError(f"one job of rule {job.rule} takes {size} {of}; there are {units}")
    after = defaultdict(list)
    for number, job in enumerate(jobs):
        for earlier in job.before:
            after[earlier].append(number)
    way = [0.0] * len(jobs)  # seconds from the start of a job to the end of everything that needs it
    for number in reversed(range(len(jobs))):
        way[number] = jobs[number].seconds + max((way[later] for later in after[number]), default=0.0)

    waiting = [len(job.before) for job in jobs]
    ready = [(-way[number], number) for number, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now, free, held, peak = 0.0, units, 0, 0
    while ready or running:
        put_back = []
        while ready:
            entry = heapq.heappop(ready)
            if sizes[entry[1]] <= free:
                free -= sizes[entry[1]]
                held += jobs[entry[1]].size + jobs[entry[1]].scratch
                heapq.heappush(running, (now + jobs[entry[1]].seconds, entry[1]))
            else:
                put_back.append(entry)
        for entry in put_back:
            heapq.heappush(ready, entry)
        peak = max(peak, held)
        now, number = heapq.heappop(running)
        free += sizes[number]
        held -= jobs[number].scratch + jobs[number].freed
        for later in after[number]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, (-way[later], later))
    return Timetable(now, peak)


# --- docs/paper_scale.md -----------------------------------------------------------------------------------


def before(scale: Scale, resources: Resources) -> tuple[Scale, Resources]:
    """Return the paper's scale and resources as they were before the waste was taken out (``resources.before``)."""
    old = resources.before
    plain = {"max_num_seqs": old.max_num_seqs, "seed_of": old.seed_of}
    models = {name: own.model_copy(update={"max_num_seqs": None}) for name, own in scale.verl.models.items()}
    verl = scale.verl.model_copy(update={**plain, "models": models})
    table = resources.scales["paper"]
    roles = {
        name: role.model_copy(update={"train": role.train.model_copy(update={"gpus": old.gpus})})
        for name, role in table.roles.items()
    }
    table = table.model_copy(update={"method": old.method, "roles": roles})
    scales = {**resources.scales, "paper": table}
    return scale.model_copy(update={"verl": verl}), resources.model_copy(update={"scales": scales})


def gpu_hours(needs: Needs, runs: Iterable[RunConfiguration]) -> tuple[float, float]:
    """Return the GPU-hours of the runs' trainings and of their evaluations."""
    trained = evaluated = 0.0
    for run in runs:
        train, evaluate = needs.train(run), needs.evaluate_run(run)
        trained += train.gpus * train.nodes * train.expected_s / HOUR
        evaluated += evaluate.gpus * evaluate.nodes * evaluate.expected_s / HOUR
    return trained, evaluated


def paper_parts(scale: Scale) -> dict[str, dict[str, RunConfiguration]]:
    """Return what people ask the price of, by name: runs of the paper's scale with one seed."""
    user = Configuration(scale="paper", seeds=[0])
    runs_of = expand_all(user, scale, load_experiments())
    beyond = {name: runs_of.pop(name) for name in ("rivals_tuning", "rivals")}
    everything = {name: run for runs in runs_of.values() for name, run in runs.items()}
    readings = {"released", "mirrored"}  # D01, D02: the paper's figures have one curve for each sampler
    figures = {
        name: run
        for figure, runs in runs_of.items()
        if figure.startswith("fig")
        for name, run in runs.items()
        if run.sampler_definition.schedule.get("reading") not in readings
    }
    of_fig04 = {
        name: run for name, run in runs_of["fig04"].items() if run.model == scale.roles["qwen_1_5b"].model
    }
    return {
        "`main_question`: τ = 1, EAD as released, with TIS": runs_of["main_question"],
        "Figure 4 on Qwen, the paper's 5 curves": {k: r for k, r in of_fig04.items() if k in figures},
        "Figure 4 on Qwen, both readings of EAD": of_fig04,
        "Figure 12, the shipped recipe (D17)": runs_of["fig12"],
        "the paper's own curves, all figures": figures,
        "everything, with all readings that are run": everything,
        "beyond the paper: `rivals_tuning`, 3 settings of each rival": beyond["rivals_tuning"],
        "beyond the paper: `rivals`, a further seed": beyond["rivals"],
    }


def render_paper_hours() -> str:
    """Return the table of docs/paper_scale.md: GPU-hours with one seed, before and now."""
    paper = read_plan({"scale": "paper", "seeds": [0]})
    scale, now = paper.scale, paper.estimates
    then = Needs("paper", *before(scale, load_resources()))
    lines = [
        "| what | runs | before | now: training | evaluation | in all |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for what, runs in paper_parts(scale).items():
        trained, evaluated = gpu_hours(now, runs.values())
        lines.append(
            f"| {what} | {len(runs)} | {sum(gpu_hours(then, runs.values())):,.0f} | {trained:,.0f} | "
            f"{evaluated:,.0f} | **{trained + evaluated:,.0f}** |"
        )
    return "\n".join(lines)


def render_plans() -> str:
    """Return the table of docs/paper_scale.md: what each scale of GPUs plans by itself, and one run of each kind."""
    lines = [
        "| scale | runs | GPUs | a step | a run | its evaluation | in all |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("gpu24", "gpu1", "paper"):
        read = read_plan({"scale": name})
        needs = read.estimates
        groups = defaultdict(list)
        for experiment in read.configuration.experiments:
            for run in read.runs_of[experiment].values():
                if run not in groups[run.model, run.n]:
                    groups[run.model, run.n].append(run)
        for (model, n), runs in groups.items():
            needed = [needs.train(run) for run in runs]
            first = min(needed, key=lambda need: need.expected_s)
            training = runs[needed.index(first)].training
            evaluate = needs.evaluate_run(runs[0]).expected_s
            step = (first.expected_s - needs.table.startup_s) / training.steps
            lines.append(
                f"| `{name}` | {len(runs)} of {model}, n = {n} | {first.gpus * first.nodes} | {step:.0f} s | "
                f"{first.expected_s / HOUR:.1f} h | {evaluate / HOUR:.1f} h | "
                f"{sum(gpu_hours(needs, runs)):,.0f} GPU-hours |"
            )
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """Return docs/paper_scale.md with its tables as they are now, between the comments that mark them."""
    for name, text in (("plans", render_plans()), ("hours", render_paper_hours())):
        page = put_between(page, name, "make config", text)
    return page


def summary(jobs: Sequence[Costed], *, title: str, source: str, units: int | None) -> dict[str, Any]:
    """Return the budget as plain data: a row per rule, totals, a timetable for each number of units."""
    by_rule = defaultdict(list)
    for job in jobs:
        by_rule[job.rule].append(job)
    of: Literal["gpus", "cores"] = "gpus" if any(job.gpus for job in jobs) else "cores"
    largest = max((getattr(job, of) for job in jobs), default=1)
    tried = [units] if units else [largest * factor for factor in (1, 2, 4, 8)]
    return {
        "title": title,
        "rules": [{"rule": rule, **_totals(group)} for rule, group in by_rule.items()],
        "total": _totals(jobs),
        "of": of,
        "schedules": {number: asdict(timetable(jobs, number, of=of)) for number in tried},
        "source": source,
    }


def _totals(jobs: Sequence[Costed]) -> dict[str, float]:
    return {
        "jobs": len(jobs),
        "gpu_hours": sum(job.gpus * job.seconds for job in jobs) / HOUR,
        "core_hours": sum(job.cores * job.seconds for job in jobs) / HOUR,
        "longest_s": max((job.seconds for job in jobs), default=0.0),
        "bytes": sum(job.size - job.freed for job in jobs),
        "measured": sum(job.source == "measured" for job in jobs),
    }


def render(budget: Mapping[str, Any]) -> str:
    """Return the budget as a table for a terminal."""
    total = budget["total"]
    if not total["jobs"]:
        return f"{budget['title']}: nothing to run, everything is there."
    head = ("rule", "jobs", "GPU hours", "core hours", "longest", "storage", "timed")
    rows = [head] + [
        (
            row["rule"],
            f"{row['jobs']}",
            f"{row['gpu_hours']:.1f}",
            f"{row['core_hours']:.1f}",
            duration(row["longest_s"]),
            f"{row['bytes'] / GIGABYTE:.1f} GB",
            f"{row['measured']} of {row['jobs']}",
        )
        for row in [*budget["rules"], {"rule": "total", **total}]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [budget["title"], ""]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append("  ".join(cells))
    unit = {"gpus": "GPUs", "cores": "cores"}[budget["of"]]
    lines += ["", f"{unit:>5}  wall time without queueing  peak storage"]
    for number, found in budget["schedules"].items():
        peak = f"{found['peak_bytes'] / GIGABYTE:.1f} GB"
        lines.append(f"{number:>5}  {duration(found['seconds']):>26}  {peak:>12}")
    if total["measured"] < total["jobs"]:
        lines += ["", f"Times not measured yet: {budget['source']}."]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``3 d 4 h``, ``2 h 05 min``, ``40 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
