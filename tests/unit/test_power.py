"""How many seeds a claim needs: the formula, and planted effects judged with the seeds that it designs."""

import math
import os
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reproduction.claims import judge, load_claims, power_table
from reproduction.claims.decision import Comparison, Group
from reproduction.claims.model import Claims
from reproduction.claims.power import MOST_SEEDS, seeds_for_margin
from reproduction.config import REPOSITORY, Configuration, load_scale, read_yaml, validate

PROBLEMS, SAMPLES, CHECKPOINTS = 500, 16, (10, 20, 30, 40)
EFFECT = 0.04  # of Pass@16, and the margin
SHIFT = 0.012  # between the seeds of one sampler; with the sampling noise of four checkpoints, 0.016
REPLICATES = int(os.environ.get("POWER_REPLICATES", "25"))  # more for the record
OVERRIDES = {"training": {"steps": 40, "checkpoint_every": 10}, "evaluation": {"samples": SAMPLES}}


class Drawn:
    """Results that are drawn instead of read: trainings of two samplers, one ahead by ``effect`` of Pass@16."""

    def __init__(self, effect: float, *stream: int):
        self.effect = effect
        self.rng = np.random.default_rng([*stream, round(effect * 1000)])
        self.chances = self.rng.uniform(0.2, 0.75, PROBLEMS)  # of at least one correct response

    def exists(self, path):
        return not path.startswith(("models", "../models"))

    def json(self, path):
        file = {"decoder": "tau1.0", "file": "f", "responses": 1, "truncated": 0, "statuses": {}}
        return {"status": "finished", "steps": 40, "files": [file]}

    def table(self, path):
        zero = ("truncated_share", "verdicts_timeout", "verdicts_error", "loss", "equal_reward_groups")
        columns = {
            "reward_mean": [0.4],
            "gradient_norm": [0.1],
            "entropy": [0.2],
            "response_length_mean": [40.0],
        }
        return pd.DataFrame({"step": [1], **columns, **dict.fromkeys(zero, [0.0])})

    def counts(self, subject, decoder):
        shift = self.rng.normal(0, SHIFT) + self.effect * ("sampler~ead" in subject)
        found = self.rng.random((len(CHECKPOINTS), PROBLEMS)) < self.chances + shift
        correct = found * (1 + self.rng.binomial(SAMPLES - 1, 0.3, found.shape))
        return pd.DataFrame(
            {
                "step": np.repeat(CHECKPOINTS, PROBLEMS),
                "problem": np.tile([f"p{i:03}" for i in range(PROBLEMS)], len(CHECKPOINTS)),
                "responses": SAMPLES,
                "correct": correct.ravel(),
            }
        )


def declared(family: int) -> Claims:
    """One claim, that EAD exceeds a temperature of 1 in Pass@16, and others of the family that have not run."""
    values = read_yaml(REPOSITORY / "workflow" / "claims.yaml")
    claim = values["claims"]["C06"]
    test = {**claim["tests"][0], "role": ["qwen_7b"], "controls": ["tau1.0"]}
    missing = {**test, "role": ["qwen3_8b"]}
    values["claims"] = {
        f"C{6 + i:02}": {**claim, "readings": ["printed"], "tests": [missing if i else test]}
        for i in range(family)
    }
    values["margins"]["pass_gain"] |= {"value": EFFECT, "scales": {}}
    return validate(Claims, {**values, "replicates": 1000}, "test")


@cache
def setting(seeds: int):
    overrides = {**OVERRIDES, "roles": {"qwen3_8b": None}}
    return Configuration(scale="mini", seeds=list(range(seeds)), overrides=overrides), load_scale(
        "mini", overrides
    )


def designed_seeds(family: int) -> int:
    """The number of seeds that a pilot of 40 calls for."""
    (row, *_) = power_table(declared(family), Drawn(EFFECT, 1), *setting(40))
    assert row["spread"] == "recorded"
    return row["seeds_corrected"]


@pytest.mark.parametrize("family", [int(os.environ.get("POWER_FAMILY", "1"))])
def test_a_planted_effect_and_a_planted_null_are_told_apart_with_the_designed_seeds(family):
    """Four points are found with the declared power, and no difference is called one at most at the declared level.

    Tolerances are binomial, 1 in 1,000.
    """
    claims, seeds = declared(family), designed_seeds(family)
    few = stats.binom.ppf(0.999, REPLICATES, claims.alpha)
    many = stats.binom.ppf(0.001, REPLICATES, claims.power)
    found = {}
    for effect in (EFFECT, 0.0):
        rows = [judge(claims, Drawn(effect, 2, i), *setting(seeds))["verdicts"][0] for i in range(REPLICATES)]
        found[effect] = pd.Series([row["verdict_in_full"] for row in rows]).value_counts().to_dict()
        assert np.mean([row["effect"] for row in rows]) == pytest.approx(effect, abs=0.004)
    print(f"family of {family}: {seeds} seeds, found by true difference {found} of {REPLICATES}")
    assert seeds >= claims.seeds
    assert found[EFFECT].get("reproduced", 0) >= many and found[EFFECT].get("not reproduced", 0) <= few
    assert found[0.0].get("reproduced", 0) <= few


# --- the formula -------------------------------------------------------------------------------------------


def leaf(margin=0.04, between=2 * 0.016**2, scores=None, **more):
    scores = np.zeros((1, 2)) if scores is None else scores
    values = {"supports": [(0.0, 1)], "margin": margin, "between_seeds": between, "scores": scores, **more}
    return Comparison("", "share", "problems", **values)


def needed(part) -> dict:
    return seeds_for_margin(Group([part]), load_claims(), "printed")


def test_the_number_of_seeds_is_that_of_students_test():
    """Five seeds for four points, as three seeds on six samplers gave; by simulation: 4 are too few, 5 enough."""
    assert needed(leaf()) == {"seeds_alone": 5, "seeds_corrected": 10, "spread": "assumed"}
    rng = np.random.default_rng(0)
    for seeds, enough in ((4, False), (5, True)):
        drawn = rng.normal(0.04, 0.016 * math.sqrt(2), (20000, seeds))
        p = stats.ttest_1samp(drawn, 0, axis=1).pvalue
        assert (np.mean((p < 0.05) & (drawn.mean(axis=1) > 0)) >= 0.8) == enough


def test_smaller_margins_and_more_comparisons_need_more_seeds():
    alone = needed(leaf())["seeds_alone"]
    assert needed(leaf(margin=0.02))["seeds_alone"] > 2 * alone
    assert needed(Group([leaf()] * 6))["seeds_alone"] > alone
    assert needed(Group([leaf(), leaf(margin=0.4)], least=1))["seeds_alone"] < alone
    assert needed(Group([leaf(fact=True), leaf()]))["seeds_alone"] >= alone


def test_what_is_not_known_or_not_reachable_is_no_number():
    unknown = needed(Group([leaf(), leaf(between=None)]))
    assert unknown == {"seeds_alone": None, "seeds_corrected": None, "spread": "unknown"}
    # 20 problems that differ by 30 points leave an interval that no number of seeds narrows to 4 points.
    scores = np.random.default_rng(0).normal(0, 0.3, (1, 20))
    assert needed(leaf(scores=scores))["seeds_alone"] is None
    assert needed(leaf(scores=np.zeros((3, 20))))["seeds_alone"] is None and MOST_SEEDS == 500


def test_the_page_on_claims_has_the_numbers_of_the_cpu_scale():
    class Nothing(Drawn):
        def exists(self, path):
            return False

    rows = power_table(load_claims(), Nothing(0.0), Configuration(scale="cpu"), load_scale("cpu"))
    computed = {row["id"]: row for row in rows if row["reading"] == "printed" and row["seeds_alone"]}
    table = (REPOSITORY / "docs" / "claims.md").read_text(encoding="utf-8").partition("seeds, alone")[2]
    stated = {}
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            break
        names, _, alone, corrected = (cell.strip().split(", ") for cell in line.strip("|").split("|"))
        for name, number in zip(
            names, corrected * len(names) if len(corrected) == 1 else corrected, strict=True
        ):
            stated[name] = (int(alone[0]), int(number))
    decided = {row["id"] for row in rows if row["seeds_planned"] >= row["seeds_needed"]}
    assert decided == {"C03", "C04", "C05", "C07", "C16", "C18"}  # as the page says of one run
    assert stated == {name: (row["seeds_alone"], row["seeds_corrected"]) for name, row in computed.items()}


def test_a_scale_that_has_not_run_has_a_table_from_what_is_assumed(tmp_path):
    class Nothing(Drawn):
        def exists(self, path):
            return False

    rows = power_table(load_claims(), Nothing(0.0), *setting(1))
    by_claim = {row["id"]: row for row in rows if row["reading"] == "printed"}
    assert {"C01", "C02", "C11", "C19", "C20"}.isdisjoint(by_claim) and len(by_claim) == 15
    greedy = next(row for row in rows if (row["id"], row["reading"]) == ("C03", "released_evaluation"))
    assert greedy["spread"] == "unknown"  # what is assumed is assumed of sampling at a temperature of 1
    assert {(row["seeds_planned"], row["seeds_needed"]) for row in rows} == {
        (1, 3),
        (None, 3),
    }  # C15's role is absent
    assert by_claim["C03"]["spread"] == "assumed" and by_claim["C07"]["spread"] == "unknown"
    assert (
        by_claim["C03"]["seeds_corrected"]
        > by_claim["C03"]["seeds_alone"]
        > by_claim["C08"]["seeds_alone"]
        > 3
    )
