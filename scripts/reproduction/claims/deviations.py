"""The deviations D01-D20: where paper, figures and released code disagree, and what each choice changes in numbers.

``workflow/deviations.yaml`` declares, per deviation, what each source says, which key of the configuration is the
choice, and the quantities that show what it changes. Each kind of quantity is one function here. Differences are
estimated with ``ead.statistics``, paired by problem, as in figures and claims; what has not run is a row that says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, PositiveInt

from ead import metrics, schedule, seeds, statistics
from ead.verifier import grade, normalise
from reproduction.config import (
    WORKFLOW,
    ConfigurationError,
    Evaluation,
    Name,
    Scale,
    Strict,
    Training,
    read_yaml,
    validate,
)
from reproduction.config.runs import RunConfiguration
from reproduction.data import read_dataset
from reproduction.evaluation.samples import correct_counts, read_samples
from reproduction.figures.analyses import CONFIDENCE, METRICS
from reproduction.files import load_json
from reproduction.tasks import GeneratedData
from reproduction.tasks.grading import problems_of
from reproduction.training import contract

METRIC_NAMES = {"pass_at_1": "Pass@1", "pass_at_k": "Pass@{k}", "worst_at_k": "Worst@{k}"}

# --- workflow/deviations.yaml --------------------------------------------------------------------------------


class Pair(Strict):
    """The difference between two training samplers, treatment minus control, paired by problem."""

    kind: Literal["pair"]
    treatment: Name
    control: Name
    treatment_algorithm: Name = "dapo"
    control_algorithm: Name = "dapo"


class ScheduleValues(Strict):
    """What the formula of each sampler gives, in the paper's units and in this scale's."""

    kind: Literal["schedule"]
    samplers: list[Name]
    steps: list[Annotated[int, Field(ge=0)]] = Field(description="training steps of the paper")
    about: Literal["floor", "ceiling", "start", "cap"] = Field(
        description="when the temperature reaches tau_min or tau_max, what it is at t = c, or the decay rate's cap"
    )


class Estimators(Strict):
    """Exact Pass@k and Worst@k minus the framework's resampled ones, on the same samples."""

    kind: Literal["estimators"]
    samplers: list[Name]


class Decoders(Strict):
    """The difference between evaluation decoders for one checkpoint."""

    kind: Literal["decoders"]
    samplers: list[Name]
    treatment: Name
    controls: list[Name]


class Graders(Strict):
    """How many verdicts on recorded responses a string match of the last box would change."""

    kind: Literal["graders"]
    samplers: list[Name]


class Entropies(Strict):
    """Entropy at the sampling temperature minus entropy at 1, first training step, paired by prompt."""

    kind: Literal["entropies"]
    samplers: list[Name]


class Record(Strict):
    """The mean over training steps of a recorded metric."""

    kind: Literal["record"]
    samplers: list[Name]
    algorithm: Name = "dapo"
    metric: Name
    label: str
    unit: str


class Prompts(Strict):
    """Size of the training set, and how often a run goes through it."""

    kind: Literal["prompts"]
    paper_prompts: PositiveInt
    released_prompts: PositiveInt
    paper_batch: PositiveInt


class Split(Strict):
    """Problems evaluated and problems there are, with the width of the interval that each gives."""

    kind: Literal["split"]
    sampler: Name


class Advantages(Strict):
    """The factor between advantages with the sample and with the population standard deviation."""

    kind: Literal["advantages"]
    rollouts: list[PositiveInt]


class MicroBatches(Strict):
    """How unequally a mean of micro-batch means weighs tokens, from the lengths of recorded responses."""

    kind: Literal["micro_batches"]
    samplers: list[Name]
    rows: PositiveInt = Field(description="responses of a micro-batch")


class NotRun(Strict):
    """A reading that is named and not run, with the reason."""

    kind: Literal["not_run"]
    label: str
    reason: str


Quantity = Annotated[
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


class Deviation(Strict):
    """One row of the deviations page."""

    title: str
    paper: str = Field(description="what the paper says")
    release: str = Field(description="what the released code or the figures show")
    choice: str = Field(description="the configuration's key and the values that run")
    quantities: list[Quantity] = Field(min_length=1)


class Deviations(Strict):
    """workflow/deviations.yaml."""

    deviations: dict[Annotated[str, Field(pattern=r"^D\d\d$")], Deviation]


def load_deviations(path: Path = WORKFLOW / "deviations.yaml") -> dict[str, Deviation]:
    """Read id -> :class:`Deviation`; ConfigurationError names what is wrong."""
    return validate(Deviations, {"deviations": read_yaml(path)}, path.name).deviations


def cell_of(algorithm: str, sampler: str) -> str:
    """Return how a cell of the experiment ``deviations`` is called: by its sampler, under another algorithm by both."""
    return sampler if algorithm == "dapo" else f"{algorithm}/{sampler}"


# --- what a scale recorded -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """What a scale recorded of the experiment ``deviations``, whose runs are of one model.

    Attributes:
        folder: the scale's results; every path in a result is relative to it.
        cells: cell (:func:`cell_of`) -> names of its runs, one per seed.
        training, evaluation: those of the model.
        dataset_file: problems of the evaluation; ``training_card`` is the card of the training set.
        real_lm_dataset: problems of the published language model, where the scale has one.
    """

    root_seed: int
    scale: Scale
    folder: Path
    cells: Mapping[str, Sequence[str]]
    training: Training
    evaluation: Evaluation
    dataset_file: Path
    training_card: Path
    real_lm_dataset: Path | None = None
    _counts: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        root_seed: int,
        scale: Scale,
        runs: Mapping[str, RunConfiguration],
        folder: Path,
        **files: Path | None,
    ) -> "Recorded":
        """Return the records of ``runs``; ``files`` are the attributes that are files.

        Raises ConfigurationError for runs of several models.
        """
        cells: dict[str, list[str]] = {}
        for run in runs.values():
            cells.setdefault(cell_of(run.algorithm, run.sampler), []).append(run.name)
        if len({run.model for run in runs.values()}) > 1:
            raise ConfigurationError("experiments.yaml: the pairs of `deviations` are runs of one model")
        run = next(iter(runs.values()), None)
        training = run.training if run else scale.training
        evaluation = scale.evaluation_of(run.model) if run else scale.evaluation
        return cls(root_seed, scale, folder, cells, training, evaluation, **files)

    @property
    def decoder(self) -> str:
        """The evaluation decoder at which trainings are compared."""
        return self.evaluation.decoders[0]

    @property
    def real_lm(self) -> Path | None:
        """Manifest of the evaluation of the published language model."""
        asked = self.scale.real_lm
        return asked and self.folder / "evaluations" / f"model~{asked.model}" / "manifest.json"

    def label(self, cell: str) -> str:
        algorithm, _, sampler = cell.rpartition("/")
        label = self.scale.samplers[sampler].label if sampler in self.scale.samplers else sampler
        return f"{self.algorithm_label(algorithm)}, {label}" if algorithm else label

    def algorithm_label(self, algorithm: str) -> str:
        found = self.scale.algorithms.get(algorithm)
        return found.label if found else algorithm

    def evaluations(self, sampler: str) -> list[Path]:
        return [self.folder / "evaluations" / run / "manifest.json" for run in self.cells.get(sampler, ())]

    def missing(self, *samplers: str, decoders: Sequence[str] | None = None) -> str | None:
        """Return why the final evaluations of ``samplers`` cannot be compared at ``decoders``; None where they can."""
        for sampler in samplers:
            if not self.evaluations(sampler):
                return f"no cell of the sampler {sampler} at this scale"
            for path in self.evaluations(sampler):
                if not path.exists():
                    return f"missing {path.relative_to(self.folder)}"
                drawn = {file["decoder"] for file in load_json(path)["files"]}
                for decoder in decoders or [self.decoder]:
                    if decoder not in drawn:
                        return f"no samples with the decoder {decoder}"
        return None

    def tables(self, cell: str, name: str) -> tuple[list[Path], str | None]:
        """Return a table of each training of ``cell``, and why they cannot be read; None where they can."""
        paths = [self.folder / "runs" / run / f"{name}.parquet" for run in self.cells.get(cell, ())]
        if not paths:
            return paths, f"no cell of the sampler {cell} at this scale"
        missing = [path for path in paths if not path.exists()]
        return paths, f"missing {missing[0].relative_to(self.folder)}" if missing else None

    def evidence(self, *samplers: str) -> list[str]:
        return [str(path.relative_to(self.folder)) for name in samplers for path in self.evaluations(name)]

    def final_counts(self, sampler: str, decoder: str) -> tuple[np.ndarray, np.ndarray]:
        """Return responses and correct responses of the last checkpoints, both ``[seeds, problems]``."""
        if (sampler, decoder) not in self._counts:
            tables = []
            for path in self.evaluations(sampler):
                tables.append(correct_counts(path, [decoder], last_step=True).set_index("problem"))
            if any(not table.index.equals(tables[0].index) for table in tables):
                raise ValueError(f"the seeds of {sampler} were evaluated on different problems")
            self._counts[sampler, decoder] = tuple(
                np.stack([table[column].to_numpy(dtype=int) for table in tables])
                for column in ("responses", "correct")
            )
        return self._counts[sampler, decoder]

    def paired_counts(self, *samplers: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return :meth:`final_counts` of each cell, of the seeds that all of them have."""
        seeds_of = [[int(run.rpartition("seed~")[2]) for run in self.cells[sampler]] for sampler in samplers]
        shared = sorted(set.intersection(*map(set, seeds_of)))
        return [
            tuple(
                counts[[own.index(seed) for seed in shared]]
                for counts in self.final_counts(sampler, self.decoder)
            )
            for sampler, own in zip(samplers, seeds_of, strict=True)
        ]


def final_samples(manifest: Path, decoder: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the samples of an evaluation's last checkpoint with one decoder (``evaluation.samples.read_samples``)."""
    return read_samples(manifest, decoders=[decoder], columns=columns, last_step=True)


def tabulate(deviations: Mapping[str, Deviation], recorded: Recorded) -> list[dict[str, Any]]:
    """Return one row per deviation: what the sources say, the choice, and ``measures`` (see :func:`measure`)."""
    return [
        {
            "id": name,
            **deviation.model_dump(include={"title", "paper", "release", "choice"}),
            "measures": [row for q in deviation.quantities for row in measure(name, q, recorded)],
        }
        for name, deviation in deviations.items()
    ]


def measure(deviation: str, quantity: Any, recorded: Recorded) -> list[dict[str, Any]]:
    """Return the rows that a quantity gives.

    A row has ``kind`` (``training`` and ``evaluation`` are paired differences), ``label``, ``quantity`` (what is
    measured), ``value``, ``low``, ``high`` (null where a number is computed, not estimated), ``unit``, ``problems``,
    ``samples``, ``seeds``, ``status`` (``measured``, ``computed`` or ``not run``), ``reason`` (why it did not run) and
    ``evidence`` (paths relative to the scale's results). Percentage points and shares are fractions of 1.
    """
    return list(_MEASURES[quantity.kind](deviation, quantity, recorded))


# --- one function per kind ---------------------------------------------------------------------------------


Rows = Iterator[dict[str, Any]]


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


def _pair(deviation: str, pair: Pair, recorded: Recorded) -> Rows:
    sides = ((pair.treatment_algorithm, pair.treatment), (pair.control_algorithm, pair.control))
    cells = [cell_of(*side) for side in sides]
    if pair.treatment_algorithm == pair.control_algorithm:
        named = map(recorded.label, cells)
    elif pair.treatment == pair.control:
        named = (recorded.algorithm_label(algorithm) for algorithm, _ in sides)
    else:
        named = (f"{recorded.algorithm_label(each)}, {recorded.label(sampler)}" for each, sampler in sides)
    label = " − ".join(named)
    if reason := recorded.missing(*cells):
        yield _not_run("training", label, "difference of Pass@1, Pass@k and Worst@k", reason)
        return
    counts, evidence = recorded.paired_counts(*cells), recorded.evidence(*cells)
    yield from _differences("training", deviation, "-".join(cells), label, counts, recorded, evidence)


def _differences(kind, deviation, stream, label, sides, recorded, evidence) -> Rows:
    """Pass@1, Pass@k and Worst@k of ``sides`` (treatment, control): their paired differences."""
    samples = int(min(totals.min() for totals, _ in sides))
    for metric, name in METRIC_NAMES.items():
        scores = [METRICS[metric](totals, right) for totals, right in sides]
        values = {"unit": "percentage points", "samples": samples, "evidence": evidence}
        estimated = _paired(recorded, (deviation, stream, metric), *scores)
        yield _row(kind, label, name.format(k=samples), **estimated, **values)


def _decoders(deviation: str, quantity: Decoders, recorded: Recorded) -> Rows:
    for sampler, control in product(quantity.samplers, quantity.controls):
        label = f"{recorded.label(sampler)}: evaluated {quantity.treatment} − {control}"
        decoders = (quantity.treatment, control)
        if reason := recorded.missing(sampler, decoders=decoders):
            yield _not_run("evaluation", label, "difference of Pass@k", reason)
            continue
        sides = [recorded.final_counts(sampler, decoder) for decoder in decoders]
        stream, evidence = f"{sampler}-{quantity.treatment}-{control}", recorded.evidence(sampler)
        yield from _differences("evaluation", deviation, stream, label, sides, recorded, evidence)


def _estimators(deviation: str, quantity: Estimators, recorded: Recorded) -> Rows:
    for sampler in quantity.samplers:
        label = f"{recorded.label(sampler)}: exact − resampled"
        if reason := recorded.missing(sampler):
            yield _not_run("evaluation", label, "difference of the estimates", reason)
            continue
        totals, right = recorded.final_counts(sampler, recorded.decoder)
        k = int(totals.min())
        verdicts = np.arange(k) < right[..., None]  # which of the samples are correct does not matter
        pairs = {
            f"Pass@{k}": (metrics.pass_at_k(totals, right, k), metrics.resampled_best_at_k(verdicts, k)),
            f"Worst@{k}": (metrics.worst_at_k(totals, right, k), metrics.resampled_worst_at_k(verdicts, k)),
        }
        for name, scores in pairs.items():
            values = {"unit": "percentage points", "samples": k, "evidence": recorded.evidence(sampler)}
            estimated = _paired(recorded, (deviation, sampler, name), *scores)
            yield _row("evaluation", label, name, **estimated, **values)


def _schedule(deviation: str, quantity: ScheduleValues, recorded: Recorded) -> Rows:
    """In the paper's units: workflow/samplers.yaml as it is written, before a scale converts it."""
    table = read_yaml(WORKFLOW / "samplers.yaml")
    for name, step in product(quantity.samplers, quantity.steps):
        formula = schedule.from_config(table[name]["schedule"])
        for what, value, unit in _SCHEDULE_FACTS[quantity.about](formula, step):
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


def _graders(deviation: str, quantity: Graders, recorded: Recorded) -> Rows:
    for sampler in quantity.samplers:
        label = f"{recorded.label(sampler)}, decoder {recorded.decoder}"
        reason = recorded.missing(sampler)
        if reason is None and not recorded.dataset_file.exists():
            reason = f"missing {recorded.dataset_file.name}"
        if reason:
            yield _not_run("count", label, "verdicts that differ", reason)
            continue
        frame = pd.concat(
            final_samples(path, recorded.decoder, ["problem", "response", "correct"])
            for path in recorded.evaluations(sampler)
        )
        yield from _disagreements(frame, _answers(recorded.dataset_file), label, recorded.evidence(sampler))
    label = "published language model"
    if recorded.real_lm is None or not recorded.real_lm.exists():
        yield _not_run("count", label, "verdicts that differ", "the target real_lm has not run")
        return
    answers = _answers(recorded.real_lm_dataset)
    evidence = [str(recorded.real_lm.relative_to(recorded.folder))]
    for decoder in dict.fromkeys(file["decoder"] for file in load_json(recorded.real_lm)["files"]):
        frame = final_samples(recorded.real_lm, decoder, ["problem", "response", "correct", "extracted"])
        for compared in (_disagreements, _careful_disagreements):
            yield from compared(frame, answers, f"{label}, decoder {decoder}", evidence)


def _answers(dataset: Path) -> dict[str, str]:
    return {problem.id: problem.answer for problem in problems_of(read_dataset(dataset))}


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


def _entropies(deviation: str, quantity: Entropies, recorded: Recorded) -> Rows:
    for sampler in quantity.samplers:
        label = f"{recorded.label(sampler)}, first training step"
        paths, reason = recorded.tables(sampler, "groups")
        if reason:
            yield _not_run("entropy", label, "entropy", reason)
            continue
        columns = ("entropy", "entropy_at_sampling_temperature")
        frames = [pd.read_parquet(path, columns=["step", *columns]) for path in paths]
        first = [frame[frame["step"] == frame["step"].min()] for frame in frames]
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
        yield _row("entropy", label, "entropy at temperature 1", value=float(at_one.mean()), **size, **values)


def _record(deviation: str, quantity: Record, recorded: Recorded) -> Rows:
    for sampler in quantity.samplers:
        cell = cell_of(quantity.algorithm, sampler)
        paths, reason = recorded.tables(cell, "metrics")
        if contract.lacking(recorded.scale.engine, [quantity.metric]):
            reason = f"the engine {recorded.scale.engine} does not record {quantity.metric}"
        if reason:
            yield _not_run("record", recorded.label(cell), quantity.label, reason)
            continue
        frames = [pd.read_parquet(path, columns=["step", quantity.metric]) for path in paths]
        yield _row(
            "record",
            recorded.label(cell),
            quantity.label,
            value=float(np.mean([frame[quantity.metric].mean() for frame in frames])),
            unit=quantity.unit,
            seeds=len(paths),
            evidence=[str(path.relative_to(recorded.folder)) for path in paths],
        )


def _prompts(deviation: str, quantity: Prompts, recorded: Recorded) -> Rows:
    for name, prompts in (("paper's", quantity.paper_prompts), ("released", quantity.released_prompts)):
        steps = prompts / quantity.paper_batch
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


def _split(deviation: str, quantity: Split, recorded: Recorded) -> Rows:
    label = "this scale"
    if reason := recorded.missing(quantity.sampler):
        yield _not_run("split", label, "problems evaluated", reason)
        return
    totals, right = recorded.final_counts(quantity.sampler, recorded.decoder)
    problems = totals.shape[1]
    yield _computed("split", label, "problems evaluated", problems, "problems")
    dataset = recorded.scale.datasets[recorded.evaluation.dataset]
    if not isinstance(dataset, GeneratedData):
        return
    whole = len(dataset.problems(recorded.root_seed, None))
    yield _computed("split", label, "problems of the whole split", whole, "problems")
    half = 1.96 * METRICS["pass_at_k"](totals, right).mean(axis=0).std(ddof=1)
    name = f"half-width of the 95% interval of Pass@{int(totals.min())}, {recorded.label(quantity.sampler)}"
    for where, size in (("on the problems evaluated", problems), ("on the whole split", whole)):
        yield _computed("split", where, name, half / np.sqrt(size), "percentage points")


def _advantages(deviation: str, quantity: Advantages, recorded: Recorded) -> Rows:
    import torch

    from ead.objective import group_advantages

    for n in quantity.rollouts:
        rewards = np.zeros(n)
        rewards[0] = 1.0
        ours = group_advantages(torch.tensor(rewards), torch.zeros(n, dtype=torch.long))[0].item()
        ratio = ours / ((1 - rewards.mean()) / rewards.std())
        yield _computed("advantages", f"{n} rollouts", "advantage, sample over population", ratio, "ratio")


def _micro_batches(deviation: str, quantity: MicroBatches, recorded: Recorded) -> Rows:
    """The weight of a token over the mean weight: a batch of few tokens gives each of them more."""
    for sampler in quantity.samplers:
        label = f"{recorded.label(sampler)}, {quantity.rows} responses in a micro-batch"
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
        whole = len(lengths) // quantity.rows * quantity.rows
        sizes = lengths[:whole].reshape(-1, quantity.rows).sum(axis=1)
        weights = np.repeat(sizes.mean() / sizes, sizes.astype(int))
        for name, share in (("5th percentile", 0.05), ("95th percentile", 0.95)):
            value = np.quantile(weights, share)
            yield _computed("micro_batches", label, f"weight of a token, {name}", value, "ratio")


def _not_run_reading(deviation: str, quantity: NotRun, recorded: Recorded) -> Rows:
    yield _not_run("reading", quantity.label, "the other reading", quantity.reason)


_MEASURES: dict[str, Callable[[str, Any, Recorded], Rows]] = {
    "pair": _pair,
    "schedule": _schedule,
    "estimators": _estimators,
    "decoders": _decoders,
    "graders": _graders,
    "entropies": _entropies,
    "record": _record,
    "prompts": _prompts,
    "split": _split,
    "advantages": _advantages,
    "micro_batches": _micro_batches,
    "not_run": _not_run_reading,
}
