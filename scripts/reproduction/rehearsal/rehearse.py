"""The rehearsal of a scale: every distinct training configuration, on CPUs, with stand-ins for the models.

A cell passes when its training took two steps, was killed and resumed where its kind is, and every check of its
records holds; where it shows a kind of difference first, its checkpoints were evaluated with vLLM too, and its figure
was drawn. What a cell left is kept by the
configuration that was rehearsed and by the code that ran it: a passed cell is not run again, a failed one is, and two
scales that come to the same small configuration share it.
"""

import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock

from ead import seeds
from reproduction.cluster import compute
from reproduction.cluster.verl_environment import KEEPS_MEMORY
from reproduction.config import REPOSITORY, EvaluationRequest, PretrainedModel, Verl
from reproduction.config.command_line import selected
from reproduction.config.runs import RunConfiguration, digest
from reproduction.data import read_dataset
from reproduction.data.schema import write_dataset
from reproduction.figures import TrainingCurves
from reproduction.files import atomic_directory, load_json, sha256_of_file, write_json, write_text
from reproduction.models.pretrained import HubModel
from reproduction.models.tokenizer import Tokenizer
from reproduction.plan import Plan, read_plan
from reproduction.rehearsal import cells, checks
from reproduction.rehearsal.cells import STEPS, Variant, choose_rows, shrunk, too_long
from reproduction.rehearsal.exercise import MOMENTS, Exercise, TrainingFailed, draw_moment
from reproduction.rehearsal.stand_in import NoTokenizer, load_stand_ins, make_stand_in, write_description
from reproduction.tasks.grading import problems_of

log = logging.getLogger(__name__)

EVALUATED_PROBLEMS, EVALUATED_SAMPLES = 4, 2
TIMEOUT_S = 3600.0
KEPT = "row.json"
CELL_BYTES = 12 * 2**30  # ten processes with their imports, and room for the libraries to stay cached
# The code whose change asks for another rehearsal.
CODE = (
    "scripts/train.py",
    "scripts/ead/*.py",
    "scripts/ead/integrations/verl*.py",
    "scripts/ead/integrations/vllm/*.py",
    "scripts/reproduction/engines/*.py",
    "scripts/reproduction/engines/verl/*.py",
    "scripts/reproduction/cluster/verl_*.py",
    "scripts/reproduction/sampling/vllm.py",
    "scripts/reproduction/evaluation/evaluate.py",
    "workflow/rehearsal.yaml",
)
STAND_IN_CODE = (
    "scripts/reproduction/rehearsal/rehearse.py",
    "scripts/reproduction/rehearsal/stand_in.py",
    "scripts/reproduction/rehearsal/cells.py",
    "workflow/rehearsal.yaml",
)


@dataclass
class Part:
    """One thing that was tried: whether it held, what was found, how long it took."""

    name: str
    passed: bool
    found: str
    seconds: float


@dataclass
class Row:
    """The rehearsal of one cell."""

    cell: str
    names: list[str]
    status: str = "not run"  # passed, failed, not run
    reason: str = ""
    rehearsed_as: str = ""
    parts: list[Part] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        return cls(**{**values, "parts": [Part(**part) for part in values["parts"]]})


@dataclass(frozen=True)
class Rehearsal:
    """What is to be rehearsed, in plain data; ``datasets`` are prepared files by name in workflow/datasets.yaml."""

    configuration: Mapping[str, Any]
    datasets: Mapping[str, Path]
    tokenizers: Path | None
    folder: Path
    environment: Mapping[str, str]


class Stage:
    """What every rehearsal of a scale shares."""

    def __init__(self, rehearsal: Rehearsal):
        plan = read_plan(dict(rehearsal.configuration))
        self.scale_name, self.scale = plan.configuration.scale, plan.scale
        self.experiments, self.runs_of, self.models = plan.experiments, plan.runs_of, plan.models
        self.root_seed = plan.configuration.root_seed
        self.table = load_stand_ins()
        self.datasets, self.tokenizers = rehearsal.datasets, rehearsal.tokenizers
        self.folder, self.environment = rehearsal.folder, rehearsal.environment
        self.runs = first_runs(plan)
        self.cells = {cell.key: cell for cell in cells.distinct(self.runs.values(), plan.scale.verl)}


def features(run: RunConfiguration) -> set[tuple[str, Any]]:
    """Return what can make one configuration fail where another passes; what is absent is none."""
    sampler, algorithm = run.sampler_definition, run.algorithm_definition
    schedule = sampler.schedule
    correction = sampler.importance
    found = {
        ("model", run.model),
        ("data set", cells.source_of(run)),
        ("n", run.n),
        ("loss", algorithm.loss),
        ("aggregation", algorithm.aggregation),
        ("sampler", (schedule["kind"], schedule.get("reading"), schedule.get("origin"))),
        ("trainer's temperature", sampler.logprob_temperature),
    }
    if correction:
        found.add(("correction", (correction.level, correction.cap)))
    if algorithm.kl_coefficient > 0:
        found.add(("reference policy", True))
    return found


def covering_first(found: Sequence[Variant]) -> list[tuple[Variant, bool]]:
    """Return the cells in an order that shows every kind of difference early, and whether each shows a new one."""
    left, seen, ordered = list(found), set(), []
    while left:
        best = max(left, key=lambda cell: len(features(cell.run) - seen))
        ordered.append((best, bool(features(best.run) - seen)))
        seen |= features(best.run)
        left.remove(best)
    return ordered


def to_kill(ordered: Sequence[tuple[Variant, bool]]) -> dict[str, str | None]:
    """Return cell -> the moment to kill it at: the first of each model and of each algorithm, None for others.

    The first of all is killed between verl's tracker and our checkpoint; where others are is drawn
    (:func:`~reproduction.rehearsal.exercise.draw_moment`) and said by "".
    """
    moments: dict[str, str | None] = {}
    seen: set[tuple[str, str]] = set()
    for cell, _ in ordered:
        kinds = {("model", cell.run.model), ("algorithm", cell.run.algorithm)}
        moments[cell.key] = None if kinds <= seen else ("" if seen else MOMENTS[1])
        seen |= kinds
    return moments


def rehearse(
    rehearsal: Rehearsal,
    report: Callable[[Stage, list[Row]], None] = lambda stage, rows: None,
    select: str | None = None,
    jobs: int = 1,
) -> tuple[Stage, list[Row]]:
    """Rehearse the cells of a scale, ``jobs`` at a time; ``report`` gets all rows whenever one has changed.

    ``select`` are parts of run names: cells of other runs are only looked up among those that passed before.
    """
    stage = Stage(rehearsal)
    chosen = selected(stage.runs, select) if select else None
    ordered = covering_first(list(stage.cells.values()))
    moments = to_kill(ordered)
    whole = {cell.key for cell, new in ordered if new or moments[cell.key] is not None}
    rows = {key: Row(cell.run.name, list(cell.names)) for key, cell in stage.cells.items()}
    os.environ.update(KEEPS_MEMORY)  # of the processes that rehearse, which make the stand-ins
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(rehearsal,)
    )
    try:
        running: dict[Future[Row], str] = {}
        for cell, _ in ordered:
            moment, evaluated = moments[cell.key], cell.key in whole
            rows[cell.key], small = _known(cell, moment, evaluated, stage)
            if small and chosen is not None and set(chosen).isdisjoint(cell.names):
                rows[cell.key].reason = "not among the runs that were asked for"
            elif small:
                arguments = (cell.key, small, moment, evaluated, rows[cell.key])
                running[pool.submit(_row, *arguments)] = cell.key
        report(stage, list(rows.values()))
        for done in as_completed(running):
            rows[running[done]] = done.result()
            report(stage, list(rows.values()))
    finally:
        pool.shutdown(cancel_futures=True)  # after an interruption, what has not begun is left
    return stage, list(rows.values())


_stage: Stage | None = None  # of a process that rehearses


def _begin(rehearsal: Rehearsal) -> None:
    """Set up a process that rehearses one cell after another; vLLM is imported once in each."""
    global _stage
    compute.end_with_parent()
    compute.set_up(threads=1)  # what it computes itself is small
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _stage = Stage(rehearsal)


@dataclass(frozen=True)
class Trial:
    """A cell as it is to be rehearsed, in a folder of its own: killed at a moment or not, evaluated or not."""

    cell: Variant
    run: RunConfiguration
    machine: Verl
    moment: str | None
    evaluated: bool
    entry: HubModel
    dataset: Path
    folder: Path


def _known(cell: Variant, moment: str | None, evaluated: bool, stage: Stage) -> tuple[Row, str | None]:
    """Return what is known of a cell, and, where that is not all, the key of the small configuration to rehearse."""
    run, machine = shrunk(cell.run, stage.scale.verl)
    row = Row(cell.run.name, list(cell.names), reason="not its turn yet")
    definition = cell.run.model_definition
    if not isinstance(definition, PretrainedModel) or not isinstance(
        stage.models.get(definition.source), HubModel
    ):
        row.reason = "the model is no published one with a hub entry"
        return row, None
    source, stands = cells.source_of(cell.run), _data_set(cell, stage)
    key = digest(
        {
            "told": cells.told(run, machine, stands),
            "data": sha256_of_file(stage.datasets[stands]),
            "tokenizer": str(stage.tokenizers is not None),
            "code": _checksums(CODE),
            "packages": {name: version(name) for name in ("verl", "ray", "transformers")},
        }
    )
    kept = stage.folder / "cells" / key / KEPT
    if kept.exists():
        earlier = Row.from_dict(load_json(kept))
        wanted = {name for name, asked in (("kill", moment is not None), ("evaluation", evaluated)) if asked}
        if earlier.status == "passed" and wanted <= {part.name for part in earlier.parts}:
            return Row(**{**vars(earlier), "cell": row.cell, "names": row.names}), None
    row.rehearsed_as = f"{key}" + ("" if stands == source else f", with {stands} for {source}")
    return row, key


def _data_set(cell: Variant, stage: Stage) -> str:
    """Return the cell's training set, or the one that stands for it."""
    source = cells.source_of(cell.run)
    return source if source in stage.datasets else stage.table.datasets.get(source, source)


def _row(cell_key: str, small: str, moment: str | None, evaluated: bool, row: Row) -> Row:
    """Rehearse one cell, in a process that has begun, and keep what came of it."""
    cell = _stage.cells[cell_key]
    run, machine = shrunk(cell.run, _stage.scale.verl)
    entry, dataset = _stage.models[cell.run.model_definition.source], _stage.datasets[_data_set(cell, _stage)]
    trial = Trial(cell, run, machine, moment, evaluated, entry, dataset, _stage.folder / "cells" / small)
    began, name = time.monotonic(), trial.cell.run.name
    log.info("%s: %s", name, trial.folder)
    shutil.rmtree(trial.folder, ignore_errors=True)  # of an attempt that did not pass, or was not killed
    row.reason = ""
    try:
        _rehearse_cell(trial, _stage, row)
        row.status = "passed"
    except NoTokenizer as error:
        row.reason = str(error)
    except (checks.Failed, TrainingFailed) as error:
        row.status, row.reason = "failed", str(error)
    except Exception as error:
        # A cell that cannot be rehearsed is a row of the table, not the end of the others.
        row.status, row.reason = "failed", f"{type(error).__name__}: {error}"
        write_text(trial.folder / "traceback.txt", traceback.format_exc())
    log.info("%s: %s after %.0f s %s", name, row.status, time.monotonic() - began, row.reason)
    write_json(trial.folder / KEPT, row.to_dict())
    return row


def code_files(patterns: Sequence[str] = CODE) -> list[Path]:
    """Return the files that fit. Raises FileNotFoundError for a pattern that none fits: it has moved."""
    found = []
    for pattern in patterns:
        files = sorted(REPOSITORY.glob(pattern))
        if not files:
            raise FileNotFoundError(f"{pattern}: no such file in the project")
        found += files
    return found


def _checksums(patterns: Sequence[str]) -> dict[str, str]:
    return {file.relative_to(REPOSITORY).as_posix(): sha256_of_file(file) for file in code_files(patterns)}


def _rehearse_cell(trial: Trial, stage: Stage, row: Row) -> None:
    """Do it; ``row`` collects the parts. Raises where one does not hold."""
    cell, run, machine, moment = trial.cell, trial.run, trial.machine, trial.moment

    def part(name: str, act: Callable[[], str | None]) -> None:
        began = time.monotonic()
        try:
            found, passed = act() or "", True
        except Exception as error:
            found, passed = str(error), False
            raise
        finally:
            row.parts.append(Part(name, passed, found, round(time.monotonic() - began, 1)))

    evaluation = stage.scale.evaluation_of(cell.run.model)
    model, files = part_of_stage(part, trial, evaluation.dataset, stage)
    longest = files["longest"]
    exercise = Exercise(
        run,
        machine,
        model / "manifest.json",
        files["training"],
        files["validation"],
        stage.scale_name,
        trial.folder,
        TIMEOUT_S,
    )
    if moment is not None:
        drawn, delay_s = draw_moment(seeds.generator(stage.root_seed, "rehearsal", int(cell.key, 16) % 2**31))
        chosen = moment or drawn
        part("kill", lambda: exercise.train_and_kill(chosen, delay_s, stage.environment))
        part("resume", lambda: exercise.train(stage.environment))
    else:
        part("train", lambda: exercise.train(stage.environment))
    training = checks.Trained(run, exercise.state, model)
    ids = [problem.id for problem in problems_of(read_dataset(files["training"]))]
    part("every step once", lambda: checks.every_step_once(training))
    part("prompts", lambda: checks.prompts_in_order(training, ids))
    part("longest prompt", lambda: checks.longest_prompt_was_asked(training, longest))
    part("responses", lambda: checks.responses_of_their_own(training))
    part("sampler and trainer", lambda: checks.sampler_and_trainer_agree(training))
    part("importance weights", lambda: checks.importance_weights(training))
    part("temperatures", lambda: checks.temperatures_are_the_schedules(training))
    part("learning", lambda: checks.learns(training))
    if not trial.evaluated:
        return
    request = evaluation_request(stage, evaluation)
    part("evaluation", lambda: exercise.evaluate(request))
    every, last = list(request.decoders), [*request.decoders, *request.final_decoders]
    decoders = {step: last if step == run.training.steps else every for step in run.training.checkpoints}
    part(
        "samples",
        lambda: checks.evaluated(exercise.evaluation, decoders, EVALUATED_PROBLEMS, EVALUATED_SAMPLES),
    )
    part("figure", lambda: _figure(run, exercise, stage))


def part_of_stage(part, trial: Trial, evaluation_dataset: str, stage: Stage):
    """Make, or find, what a cell trains from: the stand-in, and the rows it trains and validates on."""
    cell, machine, entry, dataset = trial.cell, trial.machine, trial.entry, trial.dataset
    table, source = stage.table, cell.run.model_definition.source
    shared = stage.folder / "stand_ins" / digest([source, sha256_of_file(dataset), _checksums(STAND_IN_CODE)])
    count = STEPS * trial.run.training.prompts  # each is asked once, the longest among them
    training, validation = shared / f"training_{count}.parquet", shared / "validation.parquet"
    manifest = shared / "model" / "manifest.json"
    description, learnt = shared / "description", shared / "learnt.parquet"

    def model() -> str:
        shared.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / "lock"):  # cells of one model may come at once
            make()
            if not training.exists():
                few = choose_rows(
                    read_dataset(learnt), Tokenizer(manifest.parent), count, longest=2, seed=stage.root_seed
                )
                write_dataset(few.to_dict("records"), training)
        differences = load_json(manifest)["source"]["differences"]
        return "; ".join(["real tokenizer and configuration", *differences])

    def make() -> None:
        if not manifest.exists():
            # The tokenizer comes first: it says which prompts are long.
            with atomic_directory(description) as new:
                write_description(source, entry, new, table=table, tokenizers=stage.tokenizers)
            rows = choose_rows(
                read_dataset(dataset), Tokenizer(description), 8, longest=2, seed=stage.root_seed
            )
            write_dataset(rows.to_dict("records"), learnt)
            held_out = read_dataset(stage.datasets[stage.scale.datasets[evaluation_dataset].source])
            write_dataset(held_out.head(EVALUATED_PROBLEMS).to_dict("records"), validation)
            made = make_stand_in(
                source, entry, manifest.parent, problems_of(rows), table=table, tokenizers=stage.tokenizers
            )
            log.info("%s: learnt to a loss of %.2f", source, made["learnt"]["loss"])

    part("stand-in", model)
    config = load_json(manifest.parent / "config.json")

    def lengths() -> str:
        mistake = too_long(cell.run, stage.scale.verl, config)
        if mistake:
            raise checks.Failed(mistake)
        return (
            f"{machine.max_prompt_tokens} + {cell.run.training.max_new_tokens} tokens of "
            f"{config['max_position_embeddings']} positions"
        )

    part("full length", lengths)
    tokenizer = Tokenizer(manifest.parent)
    longest = max(len(tokenizer.encode_chat(p.messages)) for p in problems_of(read_dataset(training)))
    return manifest.parent, {"training": training, "validation": validation, "longest": longest}


def evaluation_request(stage: Stage, evaluation) -> EvaluationRequest:
    """Return the scale's evaluation with fewer problems, samples and tokens; its decoders stay."""
    decoders = stage.scale.decoders
    return EvaluationRequest(
        dataset=evaluation.dataset,
        limit=EVALUATED_PROBLEMS,
        samples=EVALUATED_SAMPLES,
        max_new_tokens=cells.RESPONSE_TOKENS,
        decoders={name: decoders[name] for name in evaluation.decoders},
        final_decoders={name: decoders[name] for name in evaluation.final_decoders},
        verifier_timeout_s=evaluation.verifier_timeout_s,
        root_seed=stage.root_seed,
    )


def _figure(run: RunConfiguration, exercise: Exercise, stage: Stage) -> str:
    """Estimate and draw the first figure of training curves with the run, from what it left alone."""
    from reproduction.figures import style

    curves = [(name, each) for name, each in stage.experiments.items() if isinstance(each, TrainingCurves)]
    showing = [(name, each) for name, each in curves if run.name in stage.runs_of[name]]
    name, experiment = (showing or curves)[0]  # a run may be in the table of deviations alone
    request = experiment.estimation(stage.scale, {run.name: run}, stage.root_seed)
    request.pop("analysis")
    folders = {"runs": exercise.folder / "runs", "evaluations": exercise.folder / "evaluations"}
    estimates = experiment.estimate(**request, **folders, partial=True)
    if estimates.empty:
        raise checks.Failed(f"{name}: nothing to draw")
    drawing = experiment.drawing(name, stage.scale, {run.name: run})
    files = [exercise.folder / f"{name}.{suffix}" for suffix in ("pdf", "png", "csv")]
    style.save(experiment.plot(estimates, drawing), estimates, *files)
    return f"{name} with {len(estimates)} estimates"


# --- the table -----------------------------------------------------------------------------------------------


def as_data(rows: Sequence[Row], scale_name: str, runs: Sequence[str]) -> dict[str, Any]:
    """Return the table as plain data: a row per cell, and for every run of the scale the cell that stands for it."""
    statuses = [row.status for row in rows]
    return {
        "scale": scale_name,
        "cells": len(rows),
        **{status.replace(" ", "_"): statuses.count(status) for status in ("passed", "failed", "not run")},
        "rows": [row.to_dict() for row in rows],
        "stands_for": {name: row.cell for row in rows for name in row.names if name in set(runs)},
    }


def as_markdown(rows: Sequence[Row], scale_name: str) -> str:
    """Return the table for a reader: one line per cell."""
    counts = {status: sum(row.status == status for row in rows) for status in ("passed", "failed", "not run")}
    runs = sum(len(row.names) for row in rows)
    lines = [
        f"# Rehearsal of the scale `{scale_name}`",
        "",
        f"{len(rows)} distinct configurations stand for {runs} runs: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + ".",
        "",
        "| cell | stands for | passed | killed | evaluated | seconds | what failed, why not run, or what stood in |",
        "| --- | ---: | --- | --- | --- | ---: | --- |",
    ]
    for row in rows:
        killed = next(
            (
                part.found.split(";")[0].removeprefix("killed ")
                for part in row.parts
                if part.name == "kill" and part.passed
            ),
            "",
        )
        evaluated = "yes" if any(part.name == "figure" and part.passed for part in row.parts) else ""
        failed = next((part.name for part in row.parts if not part.passed), "")
        why = (
            " ".join(f"{failed}: {row.reason}".split())[:240]
            if row.status == "failed"
            else row.reason.split("\n")[0]
        )
        why = why or row.rehearsed_as.partition(", ")[2]  # the data set that stood for another
        seconds = sum(part.seconds for part in row.parts)
        word = {"passed": "yes", "failed": "**no**", "not run": "not run"}[row.status]
        cell, stands = row.cell.replace("/seed~0", ""), len(row.names)
        lines.append(
            f"| `{cell}` | {stands} | {word} | {killed} | {evaluated} | {seconds:.0f} | {why.replace('|', '/')} |"
        )
    return "\n".join([*lines, ""])


def first_runs(plan: Plan) -> dict[str, RunConfiguration]:
    """Return the runs that a scale plans by name, one seed of each cell: a seed makes no other configuration."""
    found: dict[str, RunConfiguration] = {}
    cells_seen: set[str] = set()
    for experiment in plan.configuration.experiments:
        for name, run in plan.runs_of[experiment].items():
            if name in found or run.cell not in cells_seen:
                found[name] = run
                cells_seen.add(run.cell)
    return found
