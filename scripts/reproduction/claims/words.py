"""What a test measures and what must hold, in words, for reports."""

from collections.abc import Mapping, Sequence
from typing import Any

from reproduction.claims import model
from reproduction.claims.decision import few_seeds
from reproduction.config import ROLE_LABELS, Scale
from reproduction.config.runs import axes_of
from reproduction.figures import Figure
from reproduction.training.contract import PER_TOKEN


def models_in_words(
    claim: model.Claim, scale: Scale, experiments: Mapping[str, Figure], parameters: Mapping[str, int]
) -> str:
    """Return which models a claim is tested on at this scale, and which of the paper's each stands for.

    Args:
        parameters: model -> number of parameters, of those that are made.
    """

    def named(name: str) -> str:
        return f"{size(parameters[name])}-parameter model ({name})" if name in parameters else f"model {name}"

    parts = {}
    for test in claim.tests:
        for role in getattr(test, "role", ()):
            label = ROLE_LABELS[role]
            name = scale.roles[role].model if role in scale.roles else "none"
            parts[role] = name if name == label.lower() else f"{named(name)} in the role of {label}"
        if isinstance(test, model.EarlyLate | model.MostSizes):
            study = scale.study(experiments[test.analysis].study)
            if study:
                parts["studied"] = named(study.model or scale.roles[study.role].model)
    return ", ".join(parts.values())


def size(parameters: int) -> str:
    """Return a number of parameters as models are called by it: 115k, 135M, 7.6B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)


def quantity_in_words(test, reading: model.Reading, scale: Scale) -> str:
    """Return the quantity of a test in words."""
    k = scale.evaluation.samples
    names = {"pass_at_1": "Pass@1", "pass_at_k": f"Pass@{k}", "worst_at_k": f"Worst@{k}"}
    spans = {
        "final": "at the last checkpoint",
        "late": "over the last third of the training",
        "run": "over the run",
    }
    match test:
        case model.Contrast() | model.LeadShrinks():
            quantity = test.quantity
            if isinstance(quantity, model.EvaluationQuantity):
                decoder = scale.decoders[reading.decoder or quantity.decoder].label
                span = spans[quantity.steps]
                if quantity.least_checkpoints > 1:
                    span += f", and over the last {quantity.least_checkpoints} checkpoints at least"
                return f"{names[quantity.metric]} at {decoder}, mean {span}"
            name = {
                PER_TOKEN: "CPU time of sampling per response token",
                "response_length_mean": "response length in training",
            }.get(quantity.metric, quantity.metric)
            return f"{name}, mean {spans[quantity.steps]}"
        case model.Trend():
            metric = reading.metrics.get(test.metric, test.metric).replace("_", " ")
            return f"{metric} of the training's own responses, in {test.windows} equal parts of the run"
        case model.Stability():
            decoder = scale.decoders[reading.decoder or test.decoder].label
            return f"Pass@1 at {decoder} by checkpoint, gradient norms, and how the training ended"
        case model.EarlyLate():
            name = {"entropy": "token entropy"}.get(test.column, "Majority@k")
            return f"{name} by {'position' if test.by == 'position' else 'branching point'}"
        case model.MostSizes():
            return "Majority@N by N"
        case model.Proposition():
            return {
                "variance_inflation": "variance inflation by temperature",
                "entropy_by_temperature": "entropy by temperature",
            }[test.name]
    raise TypeError(f"no words for {type(test).__name__}")


def test_in_words(test, scale: Scale, margin: str) -> str:
    """Return what must hold, in words; ``margin`` is the margin as text."""

    def labels(names: Sequence[str], n: Sequence[int | None] = (None,)) -> str:
        sizes = "" if list(n) == [None] else f" with n = {' or '.join(str(size) for size in n)}"
        return ", ".join(scale.samplers[name].label for name in names) + sizes

    match test:
        case model.Contrast():
            some = "some" if test.need == "any" else "every"
            words = {
                "exceeds": f"above {some} control (smallest effect of interest {margin})",
                "at_least": f"not below {some} control by {margin}",
                "at_most": f"not above {some} control by {margin}",
                "equivalent": f"within {margin} of {some} control",
            }[test.kind]
            treatment = labels(test.treatment, test.n)
            controls = labels(test.controls, [test.control_n])
            return f"{treatment} {words}: {controls}; on {_all(test.role, test.algorithm)}"
        case model.LeadShrinks():
            return (
                f"lead of {labels([test.treatment])} over the mean of {labels(test.controls)} smaller with "
                f"{test.large_n} rollouts (smallest effect of interest {margin}); on {_all(test.role, test.algorithm)}"
            )
        case model.Trend():
            words = (
                f"last part below the first, none above an earlier one by {margin}"
                if test.kind == "falls"
                else f"some part above an earlier one (smallest rise of interest {margin})"
            )
            return f"{labels(test.samplers)}: {words}; on {_all(test.role)}"
        case model.Stability():
            words = "none of" if test.kind == "stable" else "any of"
            return (
                f"{labels(test.samplers)} {test.kind}: {words} a fall of Pass@1 by more than {margin} since an earlier "
                f"checkpoint, a non-finite loss, gradient norms of {test.spike_factor:g} times the median on more than "
                f"{test.spike_share:.0%} of the steps; on {_all(test.role)}"
            )
        case model.EarlyLate():
            return f"earlier half above later half, problem by problem (smallest effect of interest {margin})"
        case model.MostSizes():
            controls = ", ".join(test.controls)
            return f"{test.treatment} not below {controls} by {margin}, for more than half of the sizes N"
        case model.Proposition():
            return f"no violation beyond {margin} in {test.cases} drawn distributions"
    raise TypeError(f"no words for {type(test).__name__}")


def _all(roles: Sequence[str], algorithms: Sequence[str] = ("dapo",)) -> str:
    return ", ".join(roles) + ("" if list(algorithms) == ["dapo"] else f" under {' and '.join(algorithms)}")


def signs_in_words(signs: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence that stands beside a number whose trainings show signs of ill health."""

    def words(sign: Mapping[str, Any]) -> str:
        axes = axes_of(sign["run"])
        run = (
            f"{axes['sampler']} of {axes['model']}, {axes['algorithm']}, n = {axes['n']}, seed {axes['seed']}"
        )
        return f"{sign['sign'].replace('_', ' ')} from step {sign['first_step']} on ({run})"

    return f"Flagged trainings are behind this number: {'; '.join(map(words, signs))}."


def rule_in_words(claims: Mapping[str, Any]) -> str:
    """Return how a verdict is reached, for readers of claims.json (``claims``); docs/claims.md says it at length."""
    return (
        f"A claim is reproduced if the results support it at level {claims['alpha']:g} after Holm's correction over "
        "the claims of its reading, and not reproduced if they contradict it at that level: every interval that it "
        "needs then lies beyond a boundary that was declared, with its margin, before the results. Otherwise it is "
        "inconclusive, and so is a claim about trainings of fewer seeds than it needs, whatever its intervals. It is "
        "not run if a result that it needs is missing."
    )


def what_would_change(row: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """Return what evidence would change a verdict: ``row`` is one of claims.json, ``claims`` the whole file."""
    if row["verdict"] == "not run":
        return "The missing runs: the figure's target makes them, and then the target claims judges again."
    if few_seeds(row["seeds"], row["seeds_needed"]):
        return (
            f"Training seeds: {row['seeds_needed']} at least. Trainings of other seeds differ, which an interval over "
            "problems does not hold. The target power says how many seeds would find an effect of the margin's size."
        )
    if row["gates"]:
        return (
            "Healthy runs in place of those that exceed a limit; until then nothing counts for or against it."
        )
    if row["p_adjusted"] is None:
        return "A distribution on which the proposition fails, by more than the rounding error that the test allows."
    if row["verdict"] == "reproduced":
        return (
            f"Results with which the adjusted p-value of the whole claim, {row['p_adjusted']:.2g} now, rises above "
            f"{claims['alpha']:g}: an interval of one of its comparisons that reaches the boundary."
        )
    if row["verdict"] == "not reproduced":
        return (
            "Results with which every comparison that the claim needs lies beyond its boundary, on the claimed side, "
            f"with an adjusted p-value of at most {claims['alpha']:g}; that of the opposite is "
            f"{row['p_against_adjusted']:.2g} now."
        )
    return (
        "More problems or training seeds: they narrow the interval until it lies on one side of the boundary, and the "
        f"claim is reproduced or not reproduced. The adjusted p-values are {row['p_adjusted']:.2g} for it and "
        f"{row['p_against_adjusted']:.2g} against it; at most {claims['alpha']:g} decides."
    )
