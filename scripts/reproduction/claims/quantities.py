"""The kinds of quantities that workflow/deviations.yaml may ask for: a class each, with its keys and what it measures.

Differences are estimated with ``ead.statistics``, paired by problem, as in figures and claims. What has not run is a
row that says so.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, PositiveInt

from ead import metrics, schedule, seeds, statistics
from ead.verifier import grade, normalise
from reproduction.claims.recorded import Recorded, cell_of, final_samples
from reproduction.config import WORKFLOW, Name, Strict, read_yaml
from reproduction.data import read_dataset
from reproduction.figures.analyses import CONFIDENCE, METRICS
from reproduction.files import load_json
from reproduction.tasks import GeneratedData
from reproduction.tasks.grading import problems_of, task_of
from reproduction.tasks.problem import Problem
from reproduction.training import contract

METRIC_NAMES = {"pass_at_1": "Pass@1", "pass_at_k": "Pass@{k}", "worst_at_k": "Worst@{k}"}

Rows = Iterator[dict[str, Any]]


class Quantity(Strict):
    """A number, or several, that show what a choice between readings changes.

    A row has ``kind`` (``training`` and ``evaluation`` are paired differences), ``label``, ``quantity`` (what is
    measured), ``value``, ``low``, ``high`` (null where a number is computed, not estimated), ``unit``, ``problems``,
    ``samples``, ``seeds``, ``status`` (``measured``, ``computed`` or ``not run``), ``reason`` (why it did not run) and
    ``evidence`` (paths relative to the scale's results). Percentage points and shares are fractions of 1.
    """

    @abstractmethod
    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        """Yield the rows of ``deviation`` that ``recorded`` gives."""


# --- rows ---------------------------------------------------------------------------------------------------


def _row(kind: str, label: str, quantity: str, **values: Any) -> dict[str, Any]:
    row = {
        "kind": kind,
        "label": label,
        "quantity": quantity,
        **dict.fromkeys(("value", "low", "high", "unit", "problems", "samples", "seeds")),
        "status": "measured",
        "reason": None,
        "evidence": [],
    }
    return row | values


def _not_run(kind: str, label: str, quantity: str, reason: str) -> dict[str, Any]:
    return _row(kind, label, quantity, status="not run", reason=reason)


def _computed(kind: str, label: str, quantity: str, value: float, unit: str) -> dict[str, Any]:
    return _row(kind, label, quantity, value=float(value), unit=unit, status="computed")


def _paired(
    recorded: Recorded, stream: Sequence[str], treatment: np.ndarray, control: np.ndarray
) -> dict[str, Any]:
    """The paired difference of scores ``[seeds, problems]``; ``stream`` names what is drawn for its interval."""
    estimate = statistics.paired_difference(
        treatment,
        control,
        generator=seeds.generator(recorded.root_seed, "deviations", *stream),
        confidence=CONFIDENCE,
    )
    return {name: getattr(estimate, name) for name in ("value", "low", "high", "problems", "seeds")}


def _differences(kind, deviation, stream, label, sides, recorded, evidence) -> Rows:
    """Pass@1, Pass@k and Worst@k of ``sides`` (treatment, control): their paired differences."""
    samples = int(min(totals.min() for totals, _ in sides))
    for metric, name in METRIC_NAMES.items():
        scores = [METRICS[metric](totals, right) for totals, right in sides]
        values = {"unit": "percentage points", "samples": samples, "evidence": evidence}
        estimated = _paired(recorded, (deviation, stream, metric), *scores)
        yield _row(kind, label, name.format(k=samples), **estimated, **values)


# --- trainings and evaluations -----------------------------------------------------------------------------


class Pair(Quantity):
    """The difference between two training samplers, treatment minus control, paired by problem."""

    kind: Literal["pair"]
    treatment: Name
    control: Name
    treatment_algorithm: Name = "dapo"
    control_algorithm: Name = "dapo"

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        sides = ((self.treatment_algorithm, self.treatment), (self.control_algorithm, self.control))
        cells = [cell_of(*side) for side in sides]
        if self.treatment_algorithm == self.control_algorithm:
            named = map(recorded.label, cells)
        elif self.treatment == self.control:
            named = (recorded.algorithm_label(algorithm) for algorithm, _ in sides)
        else:
            named = (
                f"{recorded.algorithm_label(each)}, {recorded.label(sampler)}" for each, sampler in sides
            )
        label = " − ".join(named)
        if reason := recorded.missing(*cells):
            yield _not_run("training", label, "difference of Pass@1, Pass@k and Worst@k", reason)
            return
        counts, evidence = recorded.paired_counts(*cells), recorded.evidence(*cells)
        yield from _differences("training", deviation, "-".join(cells), label, counts, recorded, evidence)


class Decoders(Quantity):
    """The difference between evaluation decoders for one checkpoint."""

    kind: Literal["decoders"]
    samplers: list[Name]
    treatment: Name
    controls: list[Name]

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        for sampler, control in product(self.samplers, self.controls):
            label = f"{recorded.label(sampler)}: evaluated {self.treatment} − {control}"
            decoders = (self.treatment, control)
            if reason := recorded.missing(sampler, decoders=decoders):
                yield _not_run("evaluation", label, "difference of Pass@k", reason)
                continue
            sides = [recorded.final_counts(sampler, decoder) for decoder in decoders]
            stream, evidence = f"{sampler}-{self.treatment}-{control}", recorded.evidence(sampler)
            yield from _differences("evaluation", deviation, stream, label, sides, recorded, evidence)


class Estimators(Quantity):
    """Exact Pass@k and Worst@k minus the framework's resampled ones, on the same samples."""

    kind: Literal["estimators"]
    samplers: list[Name]

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        for sampler in self.samplers:
            label = f"{recorded.label(sampler)}: exact − resampled"
            if reason := recorded.missing(sampler):
                yield _not_run("evaluation", label, "difference of the estimates", reason)
                continue
            totals, right = recorded.final_counts(sampler, recorded.decoder)
            k = int(totals.min())
            verdicts = np.arange(k) < right[..., None]  # which of the samples are correct does not matter
            pairs = {
                f"Pass@{k}": (metrics.pass_at_k(totals, right, k), metrics.resampled_best_at_k(verdicts, k)),
                f"Worst@{k}": (
                    metrics.worst_at_k(totals, right, k),
                    metrics.resampled_worst_at_k(verdicts, k),
                ),
            }
            for name, scores in pairs.items():
                values = {"unit": "percentage points", "samples": k, "evidence": recorded.evidence(sampler)}
                estimated = _paired(recorded, (deviation, sampler, name), *scores)
                yield _row("evaluation", label, name, **estimated, **values)


class Graders(Quantity):
    """How many verdicts on recorded responses a string match of the last box would change."""

    kind: Literal["graders"]
    samplers: list[Name]

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        for sampler in self.samplers:
            label = f"{recorded.label(sampler)}, decoder {recorded.decoder}"
            reason = recorded.missing(sampler)
            if reason is None and not recorded.dataset_file.exists():
                reason = f"missing {recorded.dataset_file.name}"
            if reason:
                yield _not_run("count", label, "verdicts that differ", reason)
                continue
            problems = problems_of(read_dataset(recorded.dataset_file))
            if any(task_of(problem).grade for problem in problems):
                reason = "this task's answers are not compared as text; see the published language model"
                yield _not_run("count", label, "verdicts that differ", reason)
                continue
            frame = pd.concat(
                final_samples(path, recorded.decoder, ["problem", "response", "correct"])
                for path in recorded.evaluations(sampler)
            )
            yield from _disagreements(frame, _answers(problems), label, recorded.evidence(sampler))
        label = "published language model"
        if recorded.real_lm is None or not recorded.real_lm.exists():
            yield _not_run("count", label, "verdicts that differ", "the target real_lm has not run")
            return
        answers = _answers(problems_of(read_dataset(recorded.real_lm_dataset)))
        evidence = [str(recorded.real_lm.relative_to(recorded.folder))]
        for decoder in dict.fromkeys(file["decoder"] for file in load_json(recorded.real_lm)["files"]):
            frame = final_samples(recorded.real_lm, decoder, ["problem", "response", "correct", "extracted"])
            for compared in (_disagreements, _careful_disagreements):
                yield from compared(frame, answers, f"{label}, decoder {decoder}", evidence)


def _answers(problems: Sequence[Problem]) -> dict[str, str]:
    return {problem.id: problem.answer for problem in problems}


def _disagreements(frame: pd.DataFrame, answers, label, evidence) -> Rows:
    verdicts = grade(frame["response"], frame["problem"].map(answers), method="string_match")
    matched = np.array([verdict.correct for verdict in verdicts])
    correct = frame["correct"].to_numpy(dtype=bool)
    counts = {
        "verdicts that differ": int((matched != correct).sum()),
        "correct only for the string match": int((matched & ~correct).sum()),
    }
    return _counted(frame, label, counts, evidence)


def _careful_disagreements(frame: pd.DataFrame, answers, label, evidence) -> Rows:
    """Count where the careful grader differs from math-verify, by kind: it reads another text, or finds it equal."""
    verdicts = grade(frame["response"], frame["problem"].map(answers), method="careful")
    counts = {
        f"correct only for {who}, {reads}": 0
        for who in ("the careful grader", "math-verify")
        for reads in ("the same text", "another text")
    }
    for verdict, correct, extracted in zip(verdicts, frame["correct"], frame["extracted"], strict=True):
        if verdict.correct != bool(correct):
            reads = "the same text" if _same_text(verdict.extracted, extracted) else "another text"
            who = "the careful grader" if verdict.correct else "math-verify"
            counts[f"correct only for {who}, {reads}"] += 1
    return _counted(frame, label, counts, evidence)


def _same_text(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and normalise(one) == normalise(other)


def _counted(frame: pd.DataFrame, label: str, counts: Mapping[str, int], evidence) -> Rows:
    size = {"samples": len(frame), "problems": int(frame["problem"].nunique())}
    unit = f"of {len(frame):,} responses"
    for name, count in counts.items():
        yield _row("count", label, name, value=count, unit=unit, evidence=evidence, **size)


def _not_recorded(recorded: Recorded, frames: Sequence[pd.DataFrame], columns: Sequence[str]) -> str | None:
    """Return why ``columns`` of trainings' tables have no numbers: an engine may not know them for every sampler."""
    for column in columns:
        if any(frame[column].isna().all() for frame in frames):
            return f"the engine {recorded.scale.engine} does not know {column} for this training"
    return None


class Entropies(Quantity):
    """Entropy at the sampling temperature minus entropy at 1, first training step, paired by prompt."""

    kind: Literal["entropies"]
    samplers: list[Name]

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        for sampler in self.samplers:
            label = f"{recorded.label(sampler)}, first training step"
            paths, reason = recorded.tables(sampler, "groups")
            if reason:
                yield _not_run("entropy", label, "entropy", reason)
                continue
            columns = ("entropy", "entropy_at_sampling_temperature")
            frames = [pd.read_parquet(path, columns=["step", *columns]) for path in paths]
            first = [frame[frame["step"] == frame["step"].min()] for frame in frames]
            if reason := _not_recorded(recorded, first, columns):
                yield _not_run("entropy", label, "entropy", reason)
                continue
            # Seeds draw different prompts, so nothing pairs them: all prompts are one sample.
            at_one, at_sampling = (
                np.concatenate([frame[column] for frame in first])[None, :] for column in columns
            )
            values = {"unit": "nats", "evidence": [str(path.relative_to(recorded.folder)) for path in paths]}
            estimated = _paired(recorded, (deviation, sampler), at_sampling, at_one) | {"seeds": len(paths)}
            yield _row(
                "entropy", label, "entropy at the sampling temperature − entropy at 1", **estimated, **values
            )
            size = {"problems": at_one.size, "seeds": len(paths)}
            yield _row(
                "entropy", label, "entropy at temperature 1", value=float(at_one.mean()), **size, **values
            )


class Record(Quantity):
    """The mean over training steps of a recorded metric."""

    kind: Literal["record"]
    samplers: list[Name]
    algorithm: Name = "dapo"
    metric: Name
    label: str
    unit: str

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        for sampler in self.samplers:
            cell = cell_of(self.algorithm, sampler)
            paths, reason = recorded.tables(cell, "metrics")
            if contract.lacking(recorded.scale.engine, [self.metric]):
                reason = f"the engine {recorded.scale.engine} does not record {self.metric}"
            if reason:
                yield _not_run("record", recorded.label(cell), self.label, reason)
                continue
            frames = [pd.read_parquet(path, columns=["step", self.metric]) for path in paths]
            if reason := _not_recorded(recorded, frames, [self.metric]):
                yield _not_run("record", recorded.label(cell), self.label, reason)
                continue
            yield _row(
                "record",
                recorded.label(cell),
                self.label,
                value=float(np.mean([frame[self.metric].mean() for frame in frames])),
                unit=self.unit,
                seeds=len(paths),
                evidence=[str(path.relative_to(recorded.folder)) for path in paths],
            )


class MicroBatches(Quantity):
    """How unequally a mean of micro-batch means weighs tokens, from the lengths of recorded responses."""

    kind: Literal["micro_batches"]
    samplers: list[Name]
    rows: PositiveInt = Field(description="responses of a micro-batch")

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        """The weight of a token over the mean weight: a batch of few tokens gives each of them more."""
        for sampler in self.samplers:
            label = f"{recorded.label(sampler)}, {self.rows} responses in a micro-batch"
            if reason := recorded.missing(sampler):
                yield _not_run("micro_batches", label, "weights of tokens", reason)
                continue
            # Responses of one problem follow one another; a step's micro-batches hold different ones.
            lengths = np.concatenate(
                [
                    final_samples(path, recorded.decoder, ["sample", "tokens"])
                    .sort_values("sample", kind="stable")["tokens"]
                    .to_numpy(float)
                    for path in recorded.evaluations(sampler)
                ]
            )
            whole = len(lengths) // self.rows * self.rows
            sizes = lengths[:whole].reshape(-1, self.rows).sum(axis=1)
            weights = np.repeat(sizes.mean() / sizes, sizes.astype(int))
            for name, share in (("5th percentile", 0.05), ("95th percentile", 0.95)):
                value = np.quantile(weights, share)
                yield _computed("micro_batches", label, f"weight of a token, {name}", value, "ratio")


class Split(Quantity):
    """Problems evaluated and problems there are, with the width of the interval that each gives."""

    kind: Literal["split"]
    sampler: Name

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        label = "this scale"
        if reason := recorded.missing(self.sampler):
            yield _not_run("split", label, "problems evaluated", reason)
            return
        totals, right = recorded.final_counts(self.sampler, recorded.decoder)
        problems = totals.shape[1]
        yield _computed("split", label, "problems evaluated", problems, "problems")
        dataset = recorded.scale.datasets[recorded.evaluation.dataset]
        if not isinstance(dataset, GeneratedData):
            return
        whole = len(dataset.problems(recorded.root_seed, None))
        yield _computed("split", label, "problems of the whole split", whole, "problems")
        half = 1.96 * METRICS["pass_at_k"](totals, right).mean(axis=0).std(ddof=1)
        name = f"half-width of the 95% interval of Pass@{int(totals.min())}, {recorded.label(self.sampler)}"
        for where, size in (("on the problems evaluated", problems), ("on the whole split", whole)):
            yield _computed("split", where, name, half / np.sqrt(size), "percentage points")


# --- formulas and data sets ----------------------------------------------------------------------------------


class ScheduleValues(Quantity):
    """What the formula of each sampler gives, in the paper's units and in this scale's."""

    kind: Literal["schedule"]
    samplers: list[Name]
    steps: list[Annotated[int, Field(ge=0)]] = Field(description="training steps of the paper")
    about: Literal["floor", "ceiling", "start", "cap"] = Field(
        description="when the temperature reaches tau_min or tau_max, what it is at t = c, or the decay rate's cap"
    )

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        """In the paper's units: workflow/samplers.yaml as it is written, before a scale converts it."""
        table = read_yaml(WORKFLOW / "samplers.yaml")
        for name, step in product(self.samplers, self.steps):
            formula = schedule.from_config(table[name]["schedule"])
            for what, value, unit in _SCHEDULE_FACTS[self.about](formula, step):
                yield _computed("schedule", f"{table[name]['label']}, step {step}", what, value, unit)


_POSITIONS = np.arange(1_000_000)
_LONGEST = 3072  # tokens, the paper's limit (Table 1)


def _crossing(formula: schedule.Schedule, step: int, limit: str) -> float:
    """Return the first position from the schedule's start on where the temperature is at ``limit``; inf beyond 1e6."""
    values = formula.temperature(_POSITIONS, step)[formula.start :]
    reached = np.flatnonzero(np.isclose(values, getattr(formula, limit)))
    return float(reached[0] + formula.start) if len(reached) else float("inf")


def _floor(formula, step):
    yield "first position at τ_min", _crossing(formula, step, "tau_min"), "tokens"
    yield f"τ at token {_LONGEST - 1}", formula.temperature(_LONGEST - 1, step), "temperature"


def _ceiling(formula, step):
    yield "first position at τ_max", _crossing(formula, step, "tau_max"), "tokens"
    yield f"τ at token {formula.start}", formula.temperature(formula.start, step), "temperature"


def _start(formula, step):
    yield f"τ at token {formula.start}", formula.temperature(formula.start, step), "temperature"
    hot = int((formula.temperature(_POSITIONS[:_LONGEST], step)[formula.start :] > 1).sum())
    yield f"tokens above τ = 1 of the first {_LONGEST}", hot, "tokens"


def _cap(formula, step):
    stretch = formula.parameters(step)[2] / formula.decay_rate(step)
    yield "cap of the decay rate", stretch * formula.d_max, "tokens"
    yield "decay rate", stretch * formula.decay_rate(step), "tokens"


_SCHEDULE_FACTS = {"floor": _floor, "ceiling": _ceiling, "start": _start, "cap": _cap}


class Prompts(Quantity):
    """Size of the training set, and how often a run goes through it."""

    kind: Literal["prompts"]
    paper_prompts: PositiveInt
    released_prompts: PositiveInt
    paper_batch: PositiveInt

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        for name, prompts in (("paper's", self.paper_prompts), ("released", self.released_prompts)):
            steps = prompts / self.paper_batch
            yield _computed("prompts", f"{name} set", "training steps per epoch", steps, "steps")
        if not recorded.training_card.exists():
            card = recorded.training_card
            yield _not_run("prompts", "this scale", "training prompts", f"missing {card.name}")
            return
        rows = load_json(recorded.training_card)["rows"]
        # The card of a prepared set counts what was read and what was kept.
        prompts = rows["kept"] if isinstance(rows, dict) else rows
        epochs = recorded.training.steps * recorded.training.prompts / prompts
        yield _computed("prompts", "this scale", "training prompts", prompts, "prompts")
        yield _computed("prompts", "this scale", "passes through them in a run", epochs, "epochs")


class Advantages(Quantity):
    """The factor between advantages with the sample and with the population standard deviation."""

    kind: Literal["advantages"]
    rollouts: list[PositiveInt]

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        import torch

        from ead.objective import group_advantages

        for n in self.rollouts:
            rewards = np.zeros(n)
            rewards[0] = 1.0
            ours = group_advantages(torch.tensor(rewards), torch.zeros(n, dtype=torch.long))[0].item()
            ratio = ours / ((1 - rewards.mean()) / rewards.std())
            yield _computed(
                "advantages", f"{n} rollouts", "advantage, sample over population", ratio, "ratio"
            )


class NotRun(Quantity):
    """A reading that is named and not run, with the reason."""

    kind: Literal["not_run"]
    label: str
    reason: str

    def measure(self, deviation: str, recorded: Recorded) -> Rows:
        yield _not_run("reading", self.label, "the other reading", self.reason)


AnyQuantity = Annotated[
    Pair
    | ScheduleValues
    | Estimators
    | Decoders
    | Graders
    | Entropies
    | Record
    | Prompts
    | Split
    | Advantages
    | MicroBatches
    | NotRun,
    Field(discriminator="kind"),
]
