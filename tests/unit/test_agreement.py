"""How often verdicts repeat: runs dealt from the seeds of two pieces of evidence."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_claims import World, right_chances, right_training

from reproduction.claims import (
    Exported,
    ResultsFolder,
    agreement,
    export,
    judge,
    load_claims,
    same_numbers,
)
from reproduction.claims.agreement import Dealt, verdicts
from reproduction.config import ConfigurationError
from reproduction.files import sha256_of_file, write_json

SEEDS = 2
NAMES = ("C04", "C18")


def claims():
    declared = load_claims(changes={"replicates": 1000, "seeds": SEEDS})
    return declared.model_copy(update={"claims": {name: declared.claims[name] for name in NAMES}})


def no_gain(run, step):
    """The chances of a world in which the sampler changes nothing."""
    return right_chances(run.model_copy(update={"sampler": "tau1.0"}), step)


def make(folder, chances, seeds=SEEDS):
    world = World(
        folder / "world",
        chances,
        right_training,
        by_experiment={"fig04": list(range(seeds))},
        only=lambda run: run.model in ("small", "tiny") and run.n == 4 and run.algorithm == "dapo",
    )
    write_json(world.folder / "models/tiny/manifest.json", {"parameters": 5, "sha256": "f" * 64})
    results = ResultsFolder(world.folder)
    judged = judge(claims(), results, world.configuration, world.scale)
    export(claims(), judged, results, world.configuration, folder / "evidence")
    return Exported(folder / "evidence")


@pytest.fixture(scope="module")
def gain(tmp_path_factory):
    return make(tmp_path_factory.mktemp("gain"), right_chances)


@pytest.fixture(scope="module")
def null(tmp_path_factory):
    return make(tmp_path_factory.mktemp("null"), no_gain)


def test_a_run_of_one_parts_own_seeds_has_its_verdicts(gain, null):
    for number, part in enumerate((gain, null)):
        own = [(number, seed) for seed in range(SEEDS)]
        stated = {(row["id"], row["reading"]): row["verdict"] for row in part.judged["verdicts"]}
        assert verdicts(claims(), [gain, null], own) == stated


def test_every_dealt_seed_brings_its_own_samples(gain, null):
    """The first one brought those of seed 0, whichever it was."""
    parts, cell = [gain, null], "model~tiny/algorithm~dapo/sampler~ead_tis/n~4"
    dealt = ((0, 1), (1, 0))
    for index, (number, seed) in enumerate(dealt):
        expected = parts[number].counts(f"{cell}/seed~{seed}", "tau1.0")
        assert Dealt(parts, dealt).counts(f"{cell}/seed~{index}", "tau1.0").equals(expected)
    assert not gain.counts(f"{cell}/seed~0", "tau1.0").equals(gain.counts(f"{cell}/seed~1", "tau1.0"))


def test_every_run_is_dealt_and_one_beside_itself_agrees(gain):
    table, differing = agreement(claims(), [gain, gain])
    assert set(table["runs"]) == {6} and len(differing) == 3
    assert differing[0] == 0  # the pair of the two parts' own seeds
    assert (table["all_seeds"] == "reproduced").all()


def test_numbers_are_compared_to_the_last_bit(gain, null, tmp_path):
    trainings, subjects = len(gain.numbers()["trainings"]), len(gain.numbers()["evaluations"])
    assert trainings and subjects
    assert same_numbers(gain, gain) == {"trainings": (trainings,) * 2, "evaluations": (subjects,) * 2}
    same, both = same_numbers(gain, null)["evaluations"]
    assert same < both == subjects
    changed = shutil.copytree(gain.folder, tmp_path / "changed")
    metrics = pd.read_parquet(changed / "metrics.parquet")
    column = metrics.columns.get_loc("reward_mean")
    metrics.iloc[0, column] = np.nextafter(metrics.iloc[0, column], 2)
    # The order of rows and a metric of one run alone make no difference.
    metrics.assign(another=0.0)[::-1].to_parquet(changed / "metrics.parquet")
    hashes = json.loads((changed / "manifest.json").read_text())
    changed_hash = {"metrics.parquet": sha256_of_file(changed / "metrics.parquet")}
    write_json(changed / "manifest.json", hashes | changed_hash)
    assert same_numbers(gain, Exported(changed))["trainings"] == (trainings - 1, trainings)


def test_shares_count_the_dealt_runs(gain, null):
    table, differing = agreement(claims(), [gain, null])
    row = table.set_index(["id", "reading"]).loc["C04", "printed"]
    shares = row.drop(["runs", "all_seeds"]).astype(float)
    assert shares.sum() == pytest.approx(1) and shares["reproduced"] < 1
    # One pair has the seeds of either part, and those are known to differ.
    assert len(differing) == 3 and max(differing) >= 1


def test_other_base_models_or_another_design_are_refused(gain, null, tmp_path):
    changed = shutil.copytree(null.folder, tmp_path / "changed")
    records = json.loads((changed / "records.json").read_text())
    records["models"]["models/tiny/manifest.json"]["sha256"] = "0" * 64
    write_json(changed / "records.json", records)
    hashes = json.loads((changed / "manifest.json").read_text())
    write_json(changed / "manifest.json", hashes | {"records.json": sha256_of_file(changed / "records.json")})
    with pytest.raises(ConfigurationError, match="differ in the base model models/tiny/manifest.json"):
        agreement(claims(), [gain, Exported(changed)])
    with pytest.raises(ConfigurationError, match="differ in seeds_by_experiment"):
        agreement(claims(), [gain, make(tmp_path / "three", right_chances, seeds=3)])
    single = make(tmp_path / "single", right_chances, seeds=1)
    with pytest.raises(ConfigurationError, match="nothing to deal"):
        agreement(claims(), [single, single])
