"""Rivals of the paper's method, ranked at equal optimiser steps and at equal tokens sampled, and what explains it.

Every rival is compared with one control on the problems and seeds that tuned nothing (``figures.tuning``). For each
score and cost, intervals and p-values are corrected for the number of rivals (``ead.statistics.against_control``). At
equal tokens each run counts up to the fewest tokens that any run sampled in its whole training; between two checkpoints
a problem's score is taken on a straight line.
"""

import textwrap
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from ead import seeds, statistics
from reproduction.config import Scale
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration, axes_of
from reproduction.evaluation.samples import correct_counts, read_samples
from reproduction.fields import Name
from reproduction.figures.analyses import CONFIDENCE, METRIC_LABELS
from reproduction.figures.style import INK, PRINT_WIDTH, head, nothing_ran, pyplot, set_style
from reproduction.figures.tuning import SCORES, OfRivals, of_problems
from reproduction.files import load_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COSTS = ("steps", "tokens")
"""What is held equal."""
EXPLANATIONS = {
    "entropy_first": "entropy, first quarter (nats)",
    "entropy_last": "entropy, last quarter (nats)",
    "sampling_entropy_last": "same, sampled (nats)",
    "learning_signal": "groups that, teach (%)",
    "effective_sample_share": "effective, samples (%)",
    "distinct_correct": "distinct, correct answers",
    "tokens": "tokens sampled (thousands)",
}
"""Quantity -> its name; a comma and a bracket begin a line. Entropies are the policy's at temperature 1 and that of the
distribution sampled from; groups teach where their rewards differ; answers are counted by problem."""


class Rivals(OfRivals):
    """The chosen setting of every rival against a control."""

    analysis: Literal["rivals"] = Field(description="the kind of figure")
    tuned_by: Name = Field(description="the entry that tunes: an experiment of the kind `tuning`")
    chosen: dict[Name, Name] = Field(
        min_length=2,
        description="rival -> the setting of it that is ranked; scripts/choose_rivals.py writes it",
    )
    tuned_seed: Annotated[int, Field(ge=0)] = Field(
        0, description="the seed that `tuned_by` has used: it ranks nothing where there is another"
    )
    control: Name = Field("tau1.0", description="sampler that every rival is compared with")

    @property
    def samplers(self) -> list[str]:
        """See :class:`OfRivals`."""
        return list(dict.fromkeys([self.control, *self.chosen.values()]))

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]):
        """See :class:`Figure`."""
        yield from super().mistakes(where, scale, samplers)
        yield from unknown(f"{where}.control", "sampler", [self.control], scale.samplers)
        for rival, setting in self.chosen.items():
            yield from unknown(f"{where}.chosen.{rival}", "sampler", [setting], scale.samplers)

    def records(self) -> list[str]:
        """See :class:`Figure`."""
        return ["manifest.json", "metrics.parquet"]

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        by_sampler = defaultdict(set)
        for run in runs.values():
            by_sampler[run.sampler].add(run.seed)
        # Other figures may plan further seeds of some cells; samplers are ranked on the seeds that all of them have.
        shared = set.intersection(*by_sampler.values()) if by_sampler else set()
        return {
            "analysis": self.analysis,
            "names": list(runs),
            "control": self.control,
            "seeds": sorted(shared - {self.tuned_seed} or shared),
            "responses": {name: run.training.prompts * run.n for name, run in runs.items()},
            "decoder": scale.evaluation.decoders[0],
            "root_seed": root_seed,
        }

    @staticmethod
    def estimate(
        *,
        names: list[str],
        control: str,
        seeds: list[int],
        responses: Mapping[str, int],
        decoder: str,
        root_seed: int,
        runs: Path,
        evaluations: Path,
        partial: bool,
    ) -> pd.DataFrame:
        """Return a row per sampler, cost and score, and one per sampler and quantity that explains.

        A run that diverged before its first checkpoint counts as none; a sampler of such runs alone is ``diverged``.
        ``value``, ``low``, ``high``: the mean and its interval; ``difference``, ``difference_low``,
        ``difference_high``: to the control, simultaneous over the rivals; ``p_holm``; ``seeds``, ``problems``.
        """
        trainings: dict[str, list[_Training]] = defaultdict(list)
        lost = set()
        for name in names:
            axes = axes_of(name)
            trainings[axes["sampler"]]  # a sampler without results is in the table, too
            if int(axes["seed"]) not in seeds:
                continue
            needed = (evaluations / name / "manifest.json", runs / name / "metrics.parquet")
            if all(path.exists() for path in needed) or not partial:
                if load_json(needed[0])["files"]:
                    trainings[axes["sampler"]].append(
                        _read(name, int(axes["seed"]), responses[name], decoder, runs, evaluations, partial)
                    )
                else:
                    lost.add(axes["sampler"])
        scored = _scores(trainings)
        rows = [
            {"sampler": sampler, "status": "diverged" if sampler in lost else "not run"}
            for sampler, found in trainings.items()
            if not found
        ]
        rows += _ranked(scored, control, root_seed)
        for sampler, found in trainings.items():
            for quantity in EXPLANATIONS if found else ():
                values = [each.explanations[quantity] for each in found]
                row = {"sampler": sampler, "cost": "training", "metric": quantity, "seeds": len(found)}
                rows.append({**row, "value": float(np.mean(values)), "status": "finished"})
        return pd.DataFrame(rows, columns=_COLUMNS)

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`."""
        words = {**super().drawing(name, scale, runs), **self.words_of_runs(scale, runs)}
        return words | {"control": self.control, "without_runs": self.without_runs(scale, runs)}

    @staticmethod
    def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
        """See :class:`Figure`."""
        return plot(estimates, request)

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, str]:
        """See :class:`Figure`."""
        control = scale.samplers[self.control].label
        text = (
            f"Differences to {control} at the last checkpoint and at equal tokens sampled, on problems that tuned "
            "nothing. Intervals hold for all differences of a panel together; a star marks what is below 0.05 after "
            "Holm's correction. Below: entropies, groups with a learning signal and effective sample share of the "
            "training, and distinct correct final answers per problem at its end."
        )
        return self.captioned(scale, runs, text)


# --- estimates ---------------------------------------------------------------------------------------------

_COLUMNS = [
    *("sampler", "cost", "metric", "rank", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "p_holm"),
    *("seeds", "problems", "samples", "status"),
]


class _Training(NamedTuple):
    """One run: scores of its checkpoints, step 0 among them, and the tokens sampled up to each."""

    seed: int
    steps: np.ndarray  # [checkpoints]
    tokens: np.ndarray  # [checkpoints]
    scores: dict[str, np.ndarray]  # score -> [checkpoints, problems]
    samples: int
    explanations: dict[str, float]


def _read(
    name: str, seed: int, responses: int, decoder: str, runs: Path, evaluations: Path, partial: bool
) -> _Training:
    metrics = pd.read_parquet(runs / name / "metrics.parquet")
    metrics = metrics[np.isfinite(metrics["gradient_norm"])]  # a run that diverged ends before
    sampled = np.concatenate([[0.0], (metrics["response_length_mean"] * responses).cumsum()])
    base = evaluations / f"model~{axes_of(name)['model']}" / "manifest.json"
    counts = [correct_counts(evaluations / name / "manifest.json", [decoder])]
    if base.exists() or not partial:
        counts.append(correct_counts(base, [decoder]).assign(step=0))
    table = pd.concat(counts)
    parts = {int(step): of_problems(part, tuning=False) for step, part in table.groupby("step")}
    steps = np.array(sorted(parts))
    quarter = max(1, len(metrics) // 4)
    answers = read_samples(
        evaluations / name / "manifest.json",
        decoders=[decoder],
        columns=["problem", "correct", "extracted"],
        last_step=True,
    )
    problems = answers["problem"].nunique()
    solutions = answers[answers["correct"]].groupby("problem")["extracted"].nunique().sum() / problems
    return _Training(
        seed,
        steps,
        sampled[steps],
        {metric: np.stack([parts[step][metric] for step in steps.tolist()]) for metric in SCORES},
        min(int(part["samples"].min()) for part in parts.values()),
        {
            "entropy_first": metrics["entropy"].head(quarter).mean(),
            "entropy_last": metrics["entropy"].tail(quarter).mean(),
            "sampling_entropy_last": metrics["entropy_at_sampling_temperature"].tail(quarter).mean(),
            "learning_signal": 1 - metrics["equal_reward_groups"].mean(),
            "effective_sample_share": metrics["importance_effective_sample_share"].mean(),
            "distinct_correct": solutions,
            "tokens": sampled[-1],
        },
    )


def _scores(trainings: Mapping[str, list[_Training]]) -> dict[tuple[str, str], dict[str, dict[int, Any]]]:
    """Return (cost, score) -> sampler -> seed -> values of the problems."""
    every = [each for found in trainings.values() for each in found]
    budget = min((each.tokens[-1] for each in every), default=0.0)
    scored: dict[tuple[str, str], dict[str, dict[int, Any]]] = {}
    for metric in SCORES:
        for cost in COSTS:
            scored[cost, metric] = {
                sampler: {each.seed: (_at(each, metric, cost, budget), each.samples) for each in found}
                for sampler, found in trainings.items()
                if found
            }
    return scored


def _at(training: _Training, metric: str, cost: str, budget: float) -> np.ndarray:
    """Return the scores of the problems at the last checkpoint, or at ``budget`` tokens."""
    scores = training.scores[metric]
    if cost == "steps":
        return scores[-1]
    after = min(int(np.searchsorted(training.tokens, budget)), len(scores) - 1)
    before = max(after - 1, 0)
    width = training.tokens[after] - training.tokens[before]
    share = (budget - training.tokens[before]) / width if width else 1.0
    return scores[before] * (1 - share) + scores[after] * share


def _ranked(
    scored: Mapping[tuple[str, str], Mapping[str, Mapping[int, Any]]], control: str, root_seed: int
) -> list[dict[str, Any]]:
    rows = []
    for (cost, metric), of_sampler in scored.items():
        here = {}
        # Of a table of what has run so far, samplers are compared on the seeds that all of them have, if there are any.
        shared = sorted(set.intersection(*map(set, of_sampler.values()))) if of_sampler else []
        for sampler, every in of_sampler.items():
            by_seed = {seed: every[seed] for seed in shared or every}
            found = statistics.bootstrap(
                np.stack([scores for scores, _ in by_seed.values()]),
                generator=seeds.generator(root_seed, "bootstrap"),
                confidence=CONFIDENCE,
            )
            here[sampler] = {
                **{"sampler": sampler, "cost": cost, "metric": metric, "status": "finished"},
                **{"value": found.value, "low": found.low, "high": found.high},
                **{"seeds": found.seeds, "problems": found.problems},
                "samples": min(samples for _, samples in by_seed.values()),
            }
        for rank, row in enumerate(sorted(here.values(), key=lambda row: -row["value"]), start=1):
            row["rank"] = rank
        names = list(of_sampler)
        if control in of_sampler and len(names) > 1 and shared:
            scores = np.array([[of_sampler[name][seed][0] for seed in shared] for name in names])
            found = statistics.against_control(scores, names.index(control), confidence=CONFIDENCE)
            others = [name for name in names if name != control]
            columns = ("difference", "difference_low", "difference_high", "p_holm")
            values = zip(found.value, found.low, found.high, found.p_value, strict=True)
            for name, row in zip(others, values, strict=True):
                here[name] |= dict(zip(columns, map(float, row), strict=True))
        rows += here.values()
    return rows


# --- the picture -------------------------------------------------------------------------------------------


def plot(estimates: pd.DataFrame, request: Mapping[str, Any]) -> "Picture":
    """Draw differences to the control, a row per sampler from the best down, and the table that explains them."""
    set_style()
    finished = estimates[estimates["status"] == "finished"]
    if finished.empty:
        return nothing_ran(request)
    first = finished[(finished["cost"] == "steps") & (finished["metric"] == SCORES[0])]
    order = first.sort_values("rank")["sampler"].tolist()
    size = (PRINT_WIDTH, 1.9 + 0.42 * len(order))
    figure, axes = pyplot().subplots(2, 1, figsize=size, layout="constrained", height_ratios=[1.3, 1])
    inner = axes[0].get_subplotspec().subgridspec(1, len(SCORES))
    axes[0].remove()
    panels = [figure.add_subplot(cell) for cell in inner]
    for axis, metric in zip(panels, SCORES, strict=True):
        _differences(axis, finished[finished["metric"] == metric], order)
        axis.set_xlabel(
            f"{METRIC_LABELS[metric].format(k=int(finished['samples'].min()))[:-4]}, points above control"
        )
        axis.set_yticks([])
    labels = [request["samplers"][sampler]["label"] for sampler in order]
    panels[0].set_yticks(range(len(order)), labels)
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=6.5)
    _explain(axes[1], finished[finished["cost"] == "training"], order, labels)
    control = request["samplers"][request["control"]]["label"]
    number, problems = int(first["seeds"].min()), int(first["problems"].min())
    notes = [
        f"control: {control}; {number} training seed{'s' if number != 1 else ''}, {problems} problems, none of which "
        "tuned anything",
        "bars: 95% intervals for all rivals of a panel together; *: p < 0.05 after Holm's correction",
    ]
    waiting, lost = (
        [
            request["samplers"][sampler]["label"]
            for sampler in estimates.loc[estimates["status"] == status, "sampler"]
        ]
        for status in ("not run", "diverged")
    )
    missing = waiting + request["without_runs"]
    if not finished["difference"].notna().any():
        notes.append("no differences: the control, or a seed that all samplers have, has not run")
    if lost:
        notes += textwrap.wrap(f"diverged before the first checkpoint: {', '.join(lost)}", 110)
    if missing:
        notes += textwrap.wrap(f"not run: {', '.join(missing)}", 110)
    head(figure, request["title"], *notes)
    return figure


def _differences(axis: "Axes", here: pd.DataFrame, order: list[str]) -> None:
    axis.axvline(0, color=INK, linewidth=0.8)
    for cost, shift, fill in (("steps", -0.15, INK), ("tokens", 0.15, "white")):
        rows = here[(here["cost"] == cost) & here["difference"].notna()]
        heights = np.array([order.index(sampler) for sampler in rows["sampler"]]) + shift
        value, low, high = (
            100 * rows[column].to_numpy(dtype=float)
            for column in ("difference", "difference_low", "difference_high")
        )
        style = {"color": INK, "marker": "o", "markerfacecolor": fill, "markersize": 4}
        errors = [value - low, high - value]
        axis.errorbar(
            value, heights, xerr=errors, linestyle="none", elinewidth=0.8, label=f"equal {cost}", **style
        )
        for height, end, p_holm in zip(heights, high, rows["p_holm"], strict=True):
            if p_holm < 1 - CONFIDENCE:
                axis.text(end, height, " *", va="center")
    axis.set_ylim(len(order) - 0.5, -0.5)


def _explain(axis: "Axes", here: pd.DataFrame, order: list[str], labels: list[str]) -> None:
    axis.set_axis_off()
    values = here.pivot(index="sampler", columns="metric", values="value").reindex(order)
    shares = [name for name, words in EXPLANATIONS.items() if words.endswith("(%)")]
    factors = {**dict.fromkeys(shares, 100), "tokens": 1e-3}
    cells = [
        [
            # An engine may not know an entropy for a sampler.
            "–"
            if pd.isna(row[name])
            else f"{row[name] * factors.get(name, 1):.{0 if name in factors else 2}f}"
            for name in EXPLANATIONS
        ]
        for _, row in values.iterrows()
    ]
    heads = [words.replace(", ", "\n").replace(" (", "\n(", 1) for words in EXPLANATIONS.values()]
    table = axis.table(cells, rowLabels=labels, colLabels=heads, loc="upper center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(6)
    for (row, _), cell in table.get_celld().items():
        cell.set_linewidth(0.3)
        if row == 0:
            cell.set_height(2.6 * cell.get_height())


FIGURE = Rivals
