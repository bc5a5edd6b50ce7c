"""From a declared test to the comparisons that it makes, with their scores."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from math import exp, expm1, log1p

import numpy as np
import pandas as pd

from ead import seeds
from reproduction.claims import model
from reproduction.claims.decision import Comparison, Group, Side
from reproduction.claims.evidence import Evidence, MissingEvidence, problems_file
from reproduction.config.runs import RunConfiguration
from reproduction.figures import inference, propositions

TEMPERATURES = np.geomspace(0.2, 5.0, 41)  # 1 is the middle one
SCORE_UNIT = "share of problems"
UNITS = {
    "pass_at_1": "share of responses",
    "entropy": "nats",
    "entropy_at_sampling_temperature": "nats",
    "response_length_mean": "tokens",
}


class Builder:
    """Makes the comparisons of one claim under one reading."""

    def __init__(self, evidence: Evidence, claims: model.Claims, reading: model.Reading):
        self.evidence = evidence
        self.claims = claims
        self.reading = reading

    def build(self, test) -> Group:
        """Return the comparisons of ``test``.

        Raises MissingEvidence for what has not run.
        """
        return _BUILDERS[type(test)](self, test)

    # --- what a reading changes ----------------------------------------------------------------------------

    def runs(self, role: str, algorithm: str, sampler: str, n: int | None) -> list[RunConfiguration]:
        return self.evidence.cell(role, algorithm, self.reading.samplers.get(sampler, sampler), n)

    def decoder(self, declared: str) -> str:
        return self.reading.decoder or declared

    def metric(self, declared: str) -> str:
        return self.reading.metrics.get(declared, declared)

    def margin(self, test) -> float:
        return self.claims.margins[test.margin].at(self.evidence.configuration.scale)

    def label_of(self, runs: Sequence[RunConfiguration]) -> str:
        run = runs[0]
        label = self.evidence.scale.samplers[run.sampler].label
        return label if run.n == self.evidence.scale.rollouts else f"{label} (n = {run.n})"

    # --- scores --------------------------------------------------------------------------------------------

    def scores(self, runs: Sequence[RunConfiguration], quantity) -> pd.DataFrame:
        """Return one row per seed, one column per problem (or step); logarithms where ratios are compared."""
        if isinstance(quantity, model.EvaluationQuantity):
            decoder = self.decoder(quantity.decoder)
            return self.evidence.scores(runs, quantity, decoder)
        values = self.evidence.training(runs, self.metric(quantity.metric), quantity.steps)
        return np.log(values) if quantity.compared_as == "ratio" else values

    def described(self, quantity, runs: Sequence[Sequence[RunConfiguration]]) -> dict:
        """Return what a comparison says of its quantity and of the runs behind it."""
        everyone = [run for cell in runs for run in cell]
        if isinstance(quantity, model.EvaluationQuantity):
            decoder = self.decoder(quantity.decoder)
            return {
                "unit": UNITS.get(quantity.metric, SCORE_UNIT),
                "sample_unit": "problems",
                "samples": self.evidence.samples(everyone, decoder),
                "subjects": [(run, decoder) for run in everyone],
                # What is assumed is assumed of the declared decoder.
                "between_seeds": None
                if self.reading.decoder
                else self.claims.between_seeds.variance(quantity, len(runs)),
            }
        ratio = quantity.compared_as == "ratio"
        return {
            "unit": "share of the control" if ratio else UNITS.get(quantity.metric, quantity.metric),
            "sample_unit": "training steps",
            "ratio": ratio,
            "subjects": [(run, None) for run in everyone],
        }

    # --- kinds of test -------------------------------------------------------------------------------------

    def contrast(self, test: model.Contrast) -> Group:
        margin = self.margin(test)
        groups = []
        # One machine measured them all: where it failed once, it decides nothing elsewhere either.
        gates = [
            gate
            for role, algorithm in product(test.role, test.algorithm)
            for gate in self.negative_control(test, role, algorithm, margin)
        ]
        for role, algorithm in product(test.role, test.algorithm):
            pairs = []
            for sampler, n, control in product(test.treatment, test.n, test.controls):
                cells = (
                    self.runs(role, algorithm, sampler, n),
                    self.runs(role, algorithm, control, test.control_n or n),
                )
                treated, controls = with_shared_seeds(cells)
                described = self.described(test.quantity, [treated, controls])
                difference = _paired(
                    self.scores(treated, test.quantity),
                    self.scores(controls, test.quantity),
                    treated,
                    controls,
                )
                supports, refutes = sides(test.kind, log1p(margin) if described.get("ratio") else margin)
                pairs.append(
                    Comparison(
                        label=f"{_where(treated, algorithm)}: {self.label_of(treated)} − {self.label_of(controls)}",
                        scores=difference.to_numpy(),
                        supports=supports,
                        refutes=refutes,
                        margin=margin,
                        gates=list(gates),
                        seeds_by_side=[len(cell) for cell in cells],
                        **described,
                    )
                )
            groups.append(Group(pairs, least=1 if test.need == "any" else None))
        return Group(groups)

    def negative_control(self, test: model.Contrast, role: str, algorithm: str, margin: float) -> list[dict]:
        """Return a gate where two samplers that do not differ in truth were measured to, by more than the margin."""
        if test.negative_control is None:
            return []
        first, second = with_shared_seeds(
            [self.runs(role, algorithm, sampler, None) for sampler in test.negative_control]
        )
        scores = [self.scores(runs, test.quantity) for runs in (first, second)]
        difference = abs(float(_paired(*scores, first, second).to_numpy().mean()))
        if test.quantity.source == "training" and test.quantity.compared_as == "ratio":
            difference = expm1(difference)
        if difference <= margin:
            return []
        subject = f"{self.label_of(first)} against {self.label_of(second)}, {_where(first, algorithm)}"
        return [{"gate": "negative_control", "subject": subject, "value": difference, "limit": margin}]

    def lead_shrinks(self, test: model.LeadShrinks) -> Group:
        margin = self.margin(test)
        parts = []
        for role, algorithm in product(test.role, test.algorithm):
            planned = [
                self.runs(role, algorithm, sampler, n)
                for n in (test.small_n, test.large_n)
                for sampler in (test.treatment, *test.controls)
            ]
            cells, leads = with_shared_seeds(planned), []
            for first in (0, len(test.controls) + 1):
                treated, *controls = cells[first : first + len(test.controls) + 1]
                mean = sum(self.scores(runs, test.quantity) for runs in controls) / len(controls)
                leads.append(_paired(self.scores(treated, test.quantity), mean, treated, controls[0]))
            supports, refutes = sides("exceeds", margin)
            small, large = cells[0][0].n, cells[-1][0].n
            parts.append(
                Comparison(
                    label=f"{_where(cells[0], algorithm)}: lead at n = {small} − lead at n = {large}",
                    scores=_paired(leads[0], leads[1], cells[0], cells[-1]).to_numpy(),
                    supports=supports,
                    refutes=refutes,
                    margin=margin,
                    seeds_by_side=[len(cell) for cell in planned],
                    **self.described(test.quantity, cells),
                )
            )
        return Group(parts)

    def trend(self, test: model.Trend) -> Group:
        """Windows of the run, paired step by step: what is left of a trend within windows widens the interval."""
        margin, metric = self.margin(test), self.metric(test.metric)
        groups = []
        for role, sampler in product(test.role, test.samplers):
            runs = self.runs(role, "dapo", sampler, None)
            values = self.evidence.training(runs, metric, "run", least=4).to_numpy()  # two windows of two
            windows = min(test.windows, values.shape[1] // 2)
            length = values.shape[1] // windows
            parts = [values[:, i * length : (i + 1) * length] for i in range(windows)]
            described = {
                "unit": UNITS.get(metric, metric),
                "sample_unit": "training steps",
                "subjects": [(run, None) for run in runs],
                "margin": margin,
            }
            where = f"{_where(runs, 'dapo')}: {self.label_of(runs)}"
            # "Falls": no part lies above an earlier one by the margin, and the last lies below the first.
            # "Does not fall": some part lies above an earlier one.
            falls = test.kind == "falls"
            rises = [
                Comparison(
                    label=f"{where}, part {late + 1} − part {early + 1} of {windows}",
                    scores=parts[late] - parts[early],
                    supports=sides("at_most" if falls else "exceeds", margin)[0],
                    refutes=sides("at_most" if falls else "exceeds", margin)[1],
                    **described,
                )
                for early, late in combinations(range(windows), 2)
            ]
            if falls:
                supports, refutes = sides("exceeds", margin)
                whole = Comparison(
                    label=f"{where}, part 1 − part {windows} of {windows}",
                    scores=parts[0] - parts[-1],
                    supports=supports,
                    refutes=refutes,
                    **described,
                )
                groups.append(Group([whole, *rises]))
            else:
                groups.append(Group(rises, least=1))
        return Group(groups)

    def stability(self, test: model.Stability) -> Group:
        margin, decoder = self.margin(test), self.decoder(test.decoder)
        stable = test.kind == "stable"
        groups = []
        for role, sampler in product(test.role, test.samplers):
            runs = self.runs(role, "dapo", sampler, None)
            where = f"{_where(runs, 'dapo')}: {self.label_of(runs)}"
            subjects = [(run, decoder) for run in runs]
            by_step = self.evidence.scores_by_step(runs, "pass_at_1", decoder)
            *earlier, last = by_step
            parts: list[Comparison | Group] = [
                Comparison(
                    label=f"{where}, Pass@1 at step {step} − at step {last}",
                    unit=UNITS["pass_at_1"],
                    sample_unit="problems",
                    scores=(by_step[step] - by_step[last]).to_numpy(),
                    supports=[(margin, -1 if stable else 1)],
                    refutes=[(margin, 1 if stable else -1)],
                    margin=margin,
                    samples=self.evidence.samples(runs, decoder),
                    subjects=subjects,
                )
                for step in earlier
            ]
            diverged = np.mean([self.evidence.diverged(run) for run in runs])
            norms = self.evidence.training(runs, "gradient_norm", "run", least=1).to_numpy()
            spikes = (norms > test.spike_factor * np.median(norms, axis=1, keepdims=True)).mean()
            for words, value, limit in (
                ("share of seeds that diverged", diverged, 0.0),
                (
                    f"share of steps with {test.spike_factor:g} times the median gradient",
                    spikes,
                    test.spike_share,
                ),
            ):
                parts.append(
                    Comparison(
                        label=f"{where}, {words}",
                        unit="share",
                        sample_unit="training steps",
                        fact=bool(value > limit) != stable,
                        value=float(value),
                        margin=limit,
                        subjects=subjects,
                    )
                )
            groups.append(Group(parts, least=None if stable else 1))
        return Group(groups)

    def early_late(self, test: model.EarlyLate) -> Group:
        margin = self.margin(test)
        table = self.evidence.problems_of_analysis(test.analysis)
        if "k" in table:
            table = table[table["k"] == table["k"].max()]
        # What every response opens with is neither early nor late: it leaves nothing to choose.
        if test.by == "position":
            table = table[table["position"] >= self.evidence.template_tokens(test.analysis)]
        parts = []
        for (name, decoder), rows in table.groupby(["model", "decoder"], sort=True):
            differences = []
            forks = inference.halves(rows["branch"]) if test.by == "branch" else None
            for _, problem in rows.groupby("problem", sort=True):
                places = problem[test.by]
                middle = (places.min() + places.max()) / 2
                chosen = map(places.isin, forks) if forks else (places < middle, places > middle)
                early, late = (problem[half] for half in chosen)
                if len(early) and len(late):
                    differences.append(_weighted(early, test.column) - _weighted(late, test.column))
            supports, refutes = sides("exceeds", margin)
            parts.append(
                Comparison(
                    label=f"{name} at {decoder}: earlier half − later half",
                    unit="nats" if test.column == "entropy" else SCORE_UNIT,
                    sample_unit="problems",
                    scores=np.array([differences]),
                    supports=supports,
                    refutes=refutes,
                    margin=margin,
                    samples=int(rows["samples"].min()) if "samples" in rows else None,
                )
            )
        return Group(parts)

    def most_sizes(self, test: model.MostSizes) -> Group:
        margin = self.margin(test)
        table = self.evidence.problems_of_analysis(test.analysis)
        groups = []
        for name, rows in table.groupby("model", sort=True):
            scores = rows.pivot(index=["decoder", "k"], columns="problem", values="maj_at_k")
            for decoder, size in product([test.treatment, *test.controls], rows["k"].unique()):
                if (decoder, size) not in scores.index:
                    path = problems_file(test.analysis)
                    raise MissingEvidence(f"{path}: no votes of {decoder} among {size} on {name}")
            for control in test.controls:
                supports, refutes = sides("at_least", margin)
                parts = [
                    Comparison(
                        label=f"{name}: {test.treatment} − {control} at N = {size}",
                        unit=SCORE_UNIT,
                        sample_unit="problems",
                        scores=(scores.loc[(test.treatment, size)] - scores.loc[(control, size)]).to_numpy()[
                            None
                        ],
                        supports=supports,
                        refutes=refutes,
                        margin=margin,
                        samples=int(rows["samples"].min()),
                    )
                    for size in sorted(rows["k"].unique())
                ]
                groups.append(Group(parts, least=len(parts) // 2 + 1))
        return Group(groups)

    def proposition(self, test: model.Proposition) -> Group:
        generator = seeds.generator(self.evidence.configuration.root_seed, "claims", test.name)
        violations = _violations(test.name, generator, test.cases, test.tolerance)
        return Group(
            [
                Comparison(
                    label=f"violations in {test.cases} drawn distributions, {len(TEMPERATURES)} temperatures each",
                    unit="share of distributions",
                    sample_unit="distributions",
                    fact=violations == 0,
                    value=violations / test.cases,
                    margin=0.0,
                    samples=test.cases,
                )
            ]
        )


_BUILDERS: dict[type, Callable[[Builder, object], Group]] = {
    model.Contrast: Builder.contrast,
    model.LeadShrinks: Builder.lead_shrinks,
    model.Trend: Builder.trend,
    model.Stability: Builder.stability,
    model.EarlyLate: Builder.early_late,
    model.MostSizes: Builder.most_sizes,
    model.Proposition: Builder.proposition,
}


def sides(kind: str, margin: float) -> tuple[list[Side], list[Side]]:
    """Return where the true difference must lie to support and to refute ``kind``.

    ``exceeds`` is supported above 0 and refuted below the margin, its smallest effect of interest: an interval
    within (0, margin) supports it. The other kinds have one boundary for both.
    """
    return {
        "exceeds": ([(0.0, 1)], [(margin, -1)]),
        "at_least": ([(-margin, 1)], [(-margin, -1)]),
        "at_most": ([(margin, -1)], [(margin, 1)]),
        "equivalent": ([(-margin, 1), (margin, -1)], [(margin, 1), (-margin, -1)]),
    }[kind]


def as_shares(value: float, ratio: bool) -> float:
    """Return a difference as it is, and a logarithm of a ratio as the share by which it exceeds 1."""
    return exp(value) - 1 if ratio else value


def inputs(evidence: Evidence, test, reading: model.Reading) -> Iterator[str]:
    """Yield the files below the scale's results that ``test`` reads; roles that the scale lacks have none."""
    if isinstance(test, (model.EarlyLate, model.MostSizes)):
        yield problems_file(test.analysis)
    evaluated = decoder_of(test, reading) is not None
    for run in runs_compared(evidence, test, reading):
        if evaluated:
            yield f"evaluations/{run.name}/manifest.json"
        if isinstance(test, model.Stability):
            yield f"evaluations/model~{run.model}/manifest.json"
        yield f"runs/{run.name}/manifest.json"


def decoder_of(test, reading: model.Reading) -> str | None:
    """Return the evaluation decoder whose samples ``test`` reads; None where it reads none."""
    declared = getattr(test, "decoder", None) or getattr(getattr(test, "quantity", None), "decoder", None)
    return declared and (reading.decoder or declared)


def runs_compared(evidence: Evidence, test, reading: model.Reading) -> Iterator[RunConfiguration]:
    """Yield the trainings that ``test`` compares; roles that the scale lacks have none."""
    algorithms: Sequence[str] = ["dapo"]
    cells: list[tuple[str, int | None]] = []
    match test:
        case model.Contrast():
            algorithms = test.algorithm
            cells += product(test.treatment, test.n)
            cells += [(control, test.control_n or n) for control, n in product(test.controls, test.n)]
            cells += [(sampler, None) for sampler in test.negative_control or ()]
        case model.LeadShrinks():
            algorithms = test.algorithm
            cells += product([test.treatment, *test.controls], [test.small_n, test.large_n])
        case model.Trend() | model.Stability():
            cells += [(sampler, None) for sampler in test.samplers]
        case _:
            return
    for role, algorithm, (sampler, n) in product(test.role, algorithms, dict.fromkeys(cells)):
        if role in evidence.scale.roles:
            yield from evidence.cell(role, algorithm, reading.samplers.get(sampler, sampler), n)


def with_shared_seeds(cells: Sequence[Sequence[RunConfiguration]]) -> list[list[RunConfiguration]]:
    """Return the runs of each cell whose seed every cell has, in one order: what can be paired by seed."""
    shared = set.intersection(*({run.seed for run in cell} for cell in cells))
    if not shared:
        names = ", ".join(f"{cell[0].cell} has {[run.seed for run in cell]}" for cell in cells)
        raise MissingEvidence(f"trainings of one seed: {names}")
    return [sorted((run for run in cell if run.seed in shared), key=lambda run: run.seed) for cell in cells]


def planned_seeds(evidence: Evidence, test, reading: model.Reading) -> int | None:
    """Return how many seeds all cells of ``test`` have in the plan; None where it compares no training here."""
    cells: dict[str, set[int]] = {}
    for run in runs_compared(evidence, test, reading):
        cells.setdefault(run.cell, set()).add(run.seed)
    return len(set.intersection(*cells.values())) if cells else None


def _where(runs: Sequence[RunConfiguration], algorithm: str) -> str:
    return f"{runs[0].model}, {algorithm}"


def _paired(treatment: pd.DataFrame, control: pd.DataFrame, treated, controls) -> pd.DataFrame:
    """Return the difference, paired by seed and by problem; by the steps that both reached where columns are steps."""
    if treatment.columns.name == "problem" and not treatment.columns.equals(control.columns):
        raise ValueError(
            f"{treated[0].cell} and {controls[0].cell} were evaluated on different problems; evaluate them again"
        )
    shared = treatment.columns.intersection(control.columns)
    return treatment[shared] - control[shared]


def _weighted(rows: pd.DataFrame, column: str) -> float:
    """Return the mean of ``column``, by the number of responses where the table gives it."""
    return float(np.average(rows[column], weights=rows.get("responses")))


# --- propositions ------------------------------------------------------------------------------------------


def _violations(name: str, generator: np.random.Generator, cases: int, tolerance: float) -> int:
    """Count those of ``cases`` drawn softmax distributions, flat to peaked, for which a proposition fails."""
    count = 0
    for _ in range(cases):
        logits = generator.normal(0, generator.uniform(0.1, 6), generator.integers(2, 65))
        logprobs = propositions.tempered_logprobs(logits, TEMPERATURES)
        if name == "variance_inflation":
            one = len(TEMPERATURES) // 2
            failed = propositions.violates_b1(
                propositions.log_variance_inflation(logprobs, one), one, tolerance
            )
        else:
            failed = propositions.violates_c1(propositions.entropies(logprobs), tolerance)
        count += bool(failed)
    return count
