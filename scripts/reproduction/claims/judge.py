"""The verdicts: every claim under every reading, from what has run."""

import logging
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ead import seeds, statistics
from reproduction.claims import power
from reproduction.claims.comparisons import (
    Builder,
    as_shares,
    decoder_of,
    inputs,
    planned_seeds,
    runs_compared,
)
from reproduction.claims.decision import Comparison, Group, combine, decisive, estimate, few_seeds, leaves
from reproduction.claims.evidence import EndedEarly, Evidence, MissingEvidence, Results, ResultsFolder
from reproduction.claims.model import Claims, Proposition, Stability
from reproduction.claims.words import models_in_words, quantity_in_words, signs_in_words, test_in_words
from reproduction.config import Configuration, Scale

log = logging.getLogger(__name__)

VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not run")
GATES = {
    "timeouts": "the verifier timed out",
    "errors": "the verifier failed",
    "truncated_share": "responses cut by the token limit",
    "zero_reward_share": "training responses without a reward",
    "diverged": "the training diverged",
    "negative_control": "what should not differ was measured to differ",
}


def required(claims: Claims, results: Results, configuration: Configuration, scale: Scale) -> list[str]:
    """Return the files below {results}/{scale} that all verdicts need, each once."""
    evidence = Evidence(results, configuration, scale)
    paths = (
        path
        for claim in claims.claims.values()
        for reading in claim.readings
        for test in claim.tests
        for path in inputs(evidence, test, claims.readings[reading])
    )
    return list(dict.fromkeys(paths))


def decoders_read(claims: Claims, configuration: Configuration, scale: Scale) -> Iterator[tuple[str, str]]:
    """Yield run and evaluation decoder for all samples of trainings that verdicts rest on."""
    evidence = Evidence(ResultsFolder(Path()), configuration, scale)  # it names runs, and reads nothing
    for claim in claims.claims.values():
        for reading, test in product(map(claims.readings.get, claim.readings), claim.tests):
            if decoder := decoder_of(test, reading):
                for run in runs_compared(evidence, test, reading):
                    yield run.name, decoder


def judge(claims: Claims, results: Results, configuration: Configuration, scale: Scale) -> dict[str, Any]:
    """Return the content of claims.json (see ``reproduction.claims``) from ``results``.

    What has not run gives the verdict *not run*, and a training that diverged before what is compared *inconclusive*.
    Both keep their place in the family that Holm's method corrects for, and so do trainings of too few seeds, so that
    a verdict never weakens when more is run.
    """
    evidence = Evidence(results, configuration, scale)
    rows = [
        _row(claims, name, reading, evidence)
        for name, claim in claims.claims.items()
        for reading in claim.readings
    ]
    for reading in claims.readings:
        family = [
            row
            for row in rows
            if row["reading"] == reading
            and row["p"] is not None
            and not few_seeds(row["seeds"], row["seeds_needed"])
        ]
        for name in ("p", "p_against"):
            waiting = [1.0] * (len(claims.family(reading)) - len(family))
            adjusted = statistics.holm([*(row[name] for row in family), *waiting])
            for row, value in zip(family, adjusted[: len(family)], strict=True):
                row[f"{name}_adjusted"] = float(value)
    for row in rows:
        _decide(row, claims)
        row.pop("_tree")
    counted = {
        reading: [row["verdict"] for row in rows if row["reading"] == reading] for reading in claims.readings
    }
    return {
        "schema": 2,
        "scale": configuration.scale,
        "description": scale.description,
        "configuration": configuration.choices,
        "seeds": configuration.seeds,
        "seeds_by_experiment": configuration.seeds_by_experiment,
        "parameters": evidence.parameters,
        "root_seed": configuration.root_seed,
        "confidence": claims.confidence,
        "alpha": claims.alpha,
        "power": claims.power,
        "between_seeds": claims.between_seeds.source,
        "family": {
            "correction": "Holm",
            "sizes": {reading: len(claims.family(reading)) for reading in claims.readings},
        },
        "gates": {
            name: {"limit": getattr(claims.gates, name), "about": GATES[name]}
            for name in type(claims.gates).model_fields
        },
        "margins": {
            name: {"value": margin.at(configuration.scale), "unit": margin.unit, "reason": margin.reason}
            for name, margin in claims.margins.items()
        },
        "readings": {
            name: {"label": reading.label, "about": reading.about}
            for name, reading in claims.readings.items()
        },
        "counts": {
            reading: {verdict: verdicts.count(verdict) for verdict in VERDICTS}
            for reading, verdicts in counted.items()
            if verdicts
        },
        "verdicts": rows,
    }


def _row(claims: Claims, name: str, reading_name: str, evidence: Evidence) -> dict[str, Any]:
    """Return a verdict's row without what the correction for multiple tests decides."""
    claim, reading = claims.claims[name], claims.readings[reading_name]
    scale = evidence.scale
    margins = {
        test.margin: claims.margins[test.margin] for test in claim.tests if not isinstance(test, Proposition)
    }
    row = {
        "id": name,
        "title": claim.title,
        "claim": claim.claim,
        "figure": claim.figure,
        "reading": reading_name,
        "reading_label": reading.label,
        "models": models_in_words(claim, scale, evidence.experiments, evidence.parameters),
        "verdict": "not run",
        "verdict_in_full": "not run",
        "reason": "",
        "quantity": _joined(quantity_in_words(test, reading, scale) for test in claim.tests),
        "test": _joined(
            test_in_words(test, scale, _margin_in_words(claims, test, evidence.configuration.scale))
            for test in claim.tests
        ),
        "margin_reason": _joined(margin.reason for margin in margins.values()),
        **dict.fromkeys(_NUMBERS),
        "seeds_needed": claims.seeds_needed(name),
        **dict.fromkeys(power.COLUMNS),
        "components": [],
        "gates": [],
        "signs": [],
        "missing": [],
        "evidence": [],
        "figure_file": f"figures/{claim.figure}.png",
        "_tree": None,
    }
    paths = list(dict.fromkeys(path for test in claim.tests for path in inputs(evidence, test, reading)))
    row["evidence"] = [
        {"kind": _KINDS[path.partition("/")[0]], "path": path}
        for path in paths
        if evidence.results.exists(path)
    ]
    try:
        evidence.require(paths)
        tree = _tree(claims, name, reading_name, evidence)
    except EndedEarly as ended:
        sentence, run, step = ended.args
        row["gates"] = [{"gate": "diverged", "subject": run, "value": step, "limit": None}]
        row |= dict.fromkeys(("verdict", "verdict_in_full"), "inconclusive")
        row["reason"] = f"Health: {GATES['diverged']} at step {step} in {run}; {sentence}."
        return row | _power(claims, name, reading_name, evidence, None)
    except MissingEvidence as missing:
        row["missing"] = list(missing.args)
        more = f" and {len(missing.args) - 1} more" if len(missing.args) > 1 else ""
        row["reason"] = f"Missing: {missing.args[0]}{more}."
        return row | _power(claims, name, reading_name, evidence, None)

    unstable_is_tested = any(isinstance(test, Stability) for test in claim.tests)
    comparisons = list(leaves(tree))
    for comparison in comparisons:
        found = [
            evidence.exceeded_gates(run, decoder, claims.gates, may_diverge=unstable_is_tested)
            for run, decoder in comparison.subjects
        ]
        comparison.gates += [gate for gates in found for gate in gates]
        comparison.signs = [sign for run, _ in comparison.subjects for sign in evidence.signs(run)]
    estimate(
        comparisons,
        seeds.generator(evidence.configuration.root_seed, "claims", name, reading_name),
        confidence=claims.confidence,
        power=claims.power,
        replicates=claims.replicates,
    )
    row["_tree"] = tree
    if claim.about_trainings:
        row["seeds"] = min(c.scores.shape[0] for c in comparisons if c.scores is not None)
        row |= _power(claims, name, reading_name, evidence, tree)
    if not claim.numeric:
        row["p"], row["p_against"] = combine(tree)
    return row


def _tree(claims: Claims, name: str, reading: str, evidence: Evidence) -> Group:
    """Return the comparisons of a claim under a reading; raises MissingEvidence."""
    builder = Builder(evidence, claims, claims.readings[reading])
    return Group([builder.build(test) for test in claims.claims[name].tests])


def _power(claims: Claims, name: str, reading: str, evidence: Evidence, tree: Group | None) -> dict[str, Any]:
    """Return how many seeds a claim about trainings needs; ``tree`` is None where it has not run."""
    if not claims.claims[name].about_trainings:
        return dict.fromkeys(power.COLUMNS)
    if tree is None:
        planned = power.Planned(evidence.results, evidence.configuration, evidence.scale)
        try:
            tree = _tree(claims, name, reading, planned)
        except MissingEvidence:
            return dict.fromkeys(power.COLUMNS) | {"spread": "unknown"}
    return power.seeds_for_margin(tree, claims, reading)


def power_table(
    claims: Claims, results: Results, configuration: Configuration, scale: Scale
) -> list[dict[str, Any]]:
    """Return how many seeds each claim about trainings needs for its margin, from what has run or is assumed.

    Beside them stand the seeds that the configuration plans for the claim and the least that a verdict needs.
    """
    evidence = Evidence(results, configuration, scale)
    rows = []
    for name, claim in claims.claims.items():
        for reading in claim.readings if claim.about_trainings else ():
            try:
                tree = _tree(claims, name, reading, evidence)
            except MissingEvidence:
                tree = None
            margins = (_margin_in_words(claims, test, configuration.scale) for test in claim.tests)
            of_tests = [planned_seeds(evidence, test, claims.readings[reading]) for test in claim.tests]
            row = {
                "id": name,
                "title": claim.title,
                "reading": reading,
                "margin": _joined(margins),
                "seeds_planned": min((seeds for seeds in of_tests if seeds is not None), default=None),
                "seeds_needed": claims.seeds_needed(name),
            }
            rows.append(row | _power(claims, name, reading, evidence, tree))
    return rows


def _decide(row: dict[str, Any], claims: Claims) -> None:
    """Set the verdict, its reason, and the numbers of the comparison that it rests on."""
    tree: Group | None = row["_tree"]
    if tree is None:
        return
    comparisons = list(leaves(tree))
    if row["p"] is None:  # a proposition
        holds = all(comparison.fact for comparison in comparisons)
        verdict, chosen = ("reproduced" if holds else "not reproduced"), comparisons[0]
        reason = f"{chosen.value:.2%} of the drawn distributions violate it."
    elif few := few_seeds(row["seeds"], row["seeds_needed"]):
        verdict, chosen = "inconclusive", decisive(tree, against=row["p_against"] < row["p"])
        reason = f"{few.capitalize()}: nothing is decided. What these trainings show: {_in_words(chosen)}."
        fewest = next((c for c in comparisons if len(set(c.seeds_by_side)) > 1), None)
        if fewest:
            sizes = " and ".join(map(str, fewest.seeds_by_side))
            reason += f" Only seeds that both sides have are compared: {fewest.label} has {sizes}."
    elif row["p_adjusted"] <= claims.alpha:
        verdict, chosen = "reproduced", decisive(tree, against=False)
        reason = f"It holds; of what it needs, the least certain is {_in_words(chosen)}."
    elif row["p_against_adjusted"] <= claims.alpha:
        verdict, chosen = "not reproduced", decisive(tree, against=True)
        reason = f"Evidence against: {_in_words(chosen)}."
    else:
        verdict, chosen = "inconclusive", decisive(tree, against=False)
        reason = _open_reason(row, chosen, claims)
    if chosen.signs:
        reason += f" {signs_in_words(chosen.signs)}"
    row |= {
        "signs": chosen.signs,
        "verdict": verdict,
        "verdict_in_full": verdict_in_full(verdict, row["seeds"], row["seeds_needed"]),
        "reason": reason,
        **_numbers(chosen),
        "seeds": row["seeds"],
    }
    row["components"] = [
        {
            "label": comparison.label,
            **{name: value for name, value in _numbers(comparison).items() if name != "sample_unit"},
            "seeds_by_side": list(comparison.seeds_by_side),
            "signs": comparison.signs,
            "boundary_for": [_shown(comparison, boundary) for boundary, _ in comparison.supports],
            "boundary_against": [_shown(comparison, boundary) for boundary, _ in comparison.refutes],
            "p": comparison.p,
            "p_against": comparison.p_against,
            "decisive": comparison is chosen,
            "status": _status(comparison, claims.alpha),
        }
        for comparison in comparisons
    ]
    gates = {(gate["gate"], gate["subject"]): gate for c in comparisons for gate in c.gates}
    row["gates"] = list(gates.values())


def verdict_in_full(verdict: str, seeds: int | None, needed: int | None) -> str:
    """Return a verdict as reports show it: *inconclusive (1 seed, 3 needed)* for trainings of too few seeds."""
    few = few_seeds(seeds, needed)
    return f"inconclusive ({few})" if few and verdict != "not run" else verdict


def _open_reason(row: dict[str, Any], chosen: Comparison, claims: Claims) -> str:
    if chosen.gates:
        gate = chosen.gates[0]
        limit = "" if gate["limit"] is None else f" ({gate['value']:.1%}, limit {gate['limit']:.0%})"
        return f"Health: {GATES.get(gate['gate'], gate['gate'])}{limit} in {gate['subject']}."
    if chosen.constant:
        return f"No variation to judge from: {_in_words(chosen)}."
    if row["p"] <= claims.alpha or row["p_against"] <= claims.alpha:
        side = "for" if row["p"] <= claims.alpha else "against"
        p = row["p"] if side == "for" else row["p_against"]
        adjusted = row["p_adjusted"] if side == "for" else row["p_against_adjusted"]
        chosen = decisive(row["_tree"], against=side == "against")
        return (
            f"Evidence {side} it does not survive the correction (p = {p:.2g}, adjusted {adjusted:.2g}): "
            f"{_in_words(chosen)}."
        )
    detectable = (
        ""
        if chosen.minimum_detectable_effect is None
        else f" {_amount(chosen, _detectable(chosen))} would be found with a probability of {claims.power:.0%}."
    )
    return f"The interval leaves it open: {_in_words(chosen)}.{detectable}"


_KINDS = {"evaluations": "evaluation", "runs": "run", "analyses": "analysis"}
_NUMBERS = (
    *("effect", "low", "high", "unit", "boundary", "margin", "minimum_detectable_effect"),
    *("problems", "samples", "seeds", "sample_unit"),
    *("p", "p_adjusted", "p_against", "p_against_adjusted"),
)


def _numbers(comparison: Comparison) -> dict[str, Any]:
    shape = (None, None) if comparison.scores is None else comparison.scores.shape
    return {
        "effect": _shown(comparison, comparison.value),
        "low": _shown(comparison, comparison.low),
        "high": _shown(comparison, comparison.high),
        "unit": comparison.unit,
        "boundary": _shown(comparison, comparison.supports[0][0])
        if comparison.supports
        else comparison.margin,
        "margin": comparison.margin,
        "minimum_detectable_effect": _detectable(comparison),
        "problems": shape[1],
        "samples": comparison.samples,
        "seeds": shape[0] if comparison.subjects else None,
        "sample_unit": comparison.sample_unit,
    }


def _shown(comparison: Comparison, value: float | None) -> float | None:
    return None if value is None else as_shares(value, comparison.ratio)


def _detectable(comparison: Comparison) -> float | None:
    return _shown(comparison, comparison.minimum_detectable_effect)


def _status(comparison: Comparison, alpha: float) -> str:
    if comparison.gates or comparison.constant:
        return "unhealthy" if comparison.gates else "constant"
    if comparison.p <= alpha:
        return "established"
    return "refuted" if comparison.p_against <= alpha else "open"


def _in_words(comparison: Comparison) -> str:
    effect = _amount(comparison, _shown(comparison, comparison.value))
    if comparison.low is None:
        return f"{comparison.label}: {effect}"
    low, high = (_shown(comparison, bound) for bound in (comparison.low, comparison.high))
    return f"{comparison.label}: {effect} [{_amount(comparison, low)}, {_amount(comparison, high)}]"


def _amount(comparison: Comparison, value: float) -> str:
    if comparison.unit.startswith("share"):
        return f"{value * 100:+.1f} {'%' if comparison.ratio or comparison.fact is not None else 'points'}"
    return f"{value:+.3g} {comparison.unit}"


def _margin_in_words(claims: Claims, test, scale: str) -> str:
    if isinstance(test, Proposition):
        return f"{test.tolerance:g}"
    margin = claims.margins[test.margin]
    value = margin.at(scale)
    if margin.unit.startswith("share of the control"):
        return f"{value * 100:g} %"
    return f"{value * 100:g} points" if margin.unit.startswith("share") else f"{value:g} {margin.unit}"


def _joined(sentences) -> str:
    return "; ".join(dict.fromkeys(sentences))


def as_table(judged: dict[str, Any]) -> pd.DataFrame:
    """Return the verdicts as a table, one row each, without lists.

    ``comparison`` is the one that decides, of as many as ``comparisons`` says; ``flagged`` says which trainings behind
    it show a sign of ill health.
    """
    rows = judged["verdicts"]
    decisive_ones = [next((c["label"] for c in row["components"] if c["decisive"]), None) for row in rows]
    nested = ["components", "gates", "signs", "missing", "evidence"]
    return (
        pd.DataFrame(rows)
        .drop(columns=nested)
        .assign(
            comparison=decisive_ones,
            comparisons=[len(row["components"]) for row in rows],
            flagged=[signs_in_words(row["signs"]) if row["signs"] else None for row in rows],
            scale=judged["scale"],
        )
    )
