"""Evaluation samples and the estimates made from them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from ead import metrics
from evaluations import write_evaluation
from reproduction.config import Configuration, Decoder, EvaluationRequest, load_scale
from reproduction.config.runs import expand
from reproduction.data import write_dataset
from reproduction.engines import Result
from reproduction.evaluation import evaluate, responses
from reproduction.evaluation.samples import correct_counts, read_samples
from reproduction.figures import load_experiments
from reproduction.figures.evaluation import EvaluationTable
from reproduction.files import write_json
from reproduction.tasks import countdown
from reproduction.training import contract, records, warmstart
from reproduction.training.run_folder import publish

ONE_MODEL = {"roles": {"qwen_1_5b": None}}
TAU1 = Decoder(schedule={"kind": "fixed", "tau": 1.0}, label="τ = 1.0")
GREEDY = Decoder(schedule=None, label="greedy")


def request(**changes):
    values = {
        "dataset": "test",
        "samples": 3,
        "max_new_tokens": 24,
        "decoders": {"tau1.0": TAU1},
        "verifier_timeout_s": 10.0,
        "root_seed": 0,
    }
    return EvaluationRequest(**(values | changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    definition = load_scale("mini").models["tiny"].model_copy(update={"steps": 30})
    problems = countdown.generate_problems(3, "test", root_seed=0, test_share=0.2, limit=6)
    model, _ = warmstart.train(definition, countdown.TASK, problems, root_seed=0)
    (folder / "model").mkdir()
    model.save(folder / "model")
    warmstart.write_tokenizer(folder / "model", countdown.VOCABULARY)
    write_dataset(countdown.dataset_rows(problems, "test", "test"), folder / "test.parquet")
    return folder


def run(world, output, asked):
    return evaluate.evaluate(
        asked, {0: world / "model"}, world / "test.parquet", output, label="x", progress=None, workers=1
    )


def test_the_last_checkpoint_alone_gets_the_final_decoders(world, tmp_path):
    asked = request(samples=2, final_decoders={"greedy": GREEDY})
    records = evaluate.evaluate(
        asked,
        {2: world / "model", 4: world / "model"},
        world / "test.parquet",
        tmp_path,
        label="x",
        progress=None,
        workers=1,
    )
    assert [(r["step"], r["decoder"]) for r in records] == [(2, "tau1.0"), (4, "tau1.0"), (4, "greedy")]


def test_one_row_per_response_and_the_counts_of_the_manifest(world, tmp_path):
    (record,) = run(world, tmp_path, request())
    frame = pd.read_parquet(tmp_path / record["file"])
    assert list(frame.columns) == list(responses.SAMPLE_COLUMNS)
    assert len(frame) == record["responses"] == 18
    assert frame.groupby("problem").size().eq(3).all() and sorted(frame["sample"].unique()) == [0, 1, 2]
    assert record["correct"] == frame["correct"].sum()
    assert record["truncated"] == (~frame["finished"]).sum()
    assert sum(record["statuses"].values()) == 18


def test_samples_repeat_to_the_byte(world, tmp_path):
    first = run(world, tmp_path / "a", request())
    assert first == run(world, tmp_path / "b", request())


def test_what_is_there_is_kept_and_what_changed_is_drawn_again(world, tmp_path):
    (before,) = run(world, tmp_path, request())
    path = tmp_path / before["file"]
    stamp = path.stat().st_mtime_ns
    run(world, tmp_path, request(decoders={"tau1.0": TAU1, "greedy": GREEDY}))
    assert path.stat().st_mtime_ns == stamp
    run(world, tmp_path, request(samples=4))
    assert len(pd.read_parquet(path)) == 24


def test_times_of_what_is_kept_are_kept_and_are_no_part_of_the_samples(world, tmp_path):
    def times():
        return pd.read_parquet(tmp_path / "timings.parquet").set_index("decoder")["cpu_seconds"].to_dict()

    (first,) = run(world, tmp_path, request())
    before = times()
    assert set(before) == {"tau1.0"} and before["tau1.0"] > 0
    again, _ = run(world, tmp_path, request(decoders={"tau1.0": TAU1, "greedy": GREEDY}))
    assert again == first  # checksums included
    assert times()["tau1.0"] == before["tau1.0"] and times()["greedy"] > 0
    (tmp_path / first["file"]).unlink()
    (redrawn,) = run(world, tmp_path, request())
    assert redrawn == first and set(times()) == {"tau1.0", "greedy"}
    assert times()["tau1.0"] != before["tau1.0"]


def test_a_truncated_sample_file_is_never_taken_for_a_result(world, tmp_path):
    (before,) = run(world, tmp_path, request())
    path = tmp_path / before["file"]
    path.write_bytes(path.read_bytes()[:100])
    (after,) = run(world, tmp_path, request())
    assert after == before


def test_greedy_samples_are_all_the_same(world, tmp_path):
    (record,) = run(world, tmp_path, request(decoders={"greedy": GREEDY}))
    frame = pd.read_parquet(tmp_path / record["file"])
    assert (frame.groupby("problem")["response"].nunique() == 1).all()
    assert len(frame) == 18


def test_a_sample_file_that_changed_after_its_manifest_is_refused(world, tmp_path):
    records = run(world, tmp_path, request())
    manifest = tmp_path / "manifest.json"
    write_json(manifest, {"files": records})
    assert len(read_samples(manifest)) == 18
    (tmp_path / records[0]["file"]).unlink()
    with pytest.raises(ValueError, match="missing or changed"):
        read_samples(manifest)


def test_counts_are_those_of_the_samples(tmp_path):
    random = np.random.default_rng(0)
    verdicts = {10: random.random((12, 5)) < 0.4, 2: random.random((12, 3)) < 0.4}
    manifest = write_evaluation(tmp_path, verdicts, ["tau1.0", "greedy", "ead"])
    chosen = ["tau1.0", "greedy"]
    by_problem = read_samples(manifest, decoders=chosen).groupby(["step", "decoder", "problem"], sort=True)[
        "correct"
    ]
    expected = by_problem.agg(responses="size", correct="sum").reset_index()
    pd.testing.assert_frame_equal(correct_counts(manifest, chosen), expected)
    last = expected[expected["step"] == 10].reset_index(drop=True)
    pd.testing.assert_frame_equal(correct_counts(manifest, chosen, last_step=True), last)
    with pytest.raises(ValueError, match="no samples of the decoders"):
        correct_counts(manifest, ["tau9"])


def test_a_run_that_diverged_before_its_first_checkpoint_is_published_and_evaluated(world, tmp_path):
    run = next(
        iter(expand(Configuration(scale="mini"), load_scale("mini"), load_experiments()["fig04"]).values())
    )
    state, folder = tmp_path / "state", tmp_path / "run"
    # As verl leaves it: the step that ended the run has neither groups nor times.
    last = dict.fromkeys(contract.columns(run.engine), 0.5) | {"step": 1, "loss": float("nan")}
    records.append(state / "metrics.jsonl", last)
    write_json(state / "prompts.json", {})
    how = {"started": 0.0, "sources": {}, "tracking": {"tags": {}}, "card": None}
    publish(run, state, folder, Result("diverged", 1, []), **how)
    assert (folder / "checkpoints").is_dir() and not list((folder / "checkpoints").iterdir())
    assert pd.read_parquet(folder / "groups.parquet", columns=["step", *contract.BY_PROMPT]).empty

    asked, manifest = request(), tmp_path / "evaluation" / "manifest.json"
    files = evaluate.evaluate(
        asked, {}, world / "test.parquet", manifest.parent, label="x", progress=tmp_path / "p.json", workers=1
    )
    responses.write_manifest(manifest, asked, world / "test.parquet", files, subject=run.name)
    counts = correct_counts(manifest, ["tau1.0"], last_step=True)
    assert counts.empty and list(counts) == ["step", "decoder", "problem", "responses", "correct"]
    assert counts.dtypes[["step", "responses", "correct"]].eq("int64").all()
    assert read_samples(manifest, columns=["problem"]).columns.tolist() == ["problem", "step", "decoder"]
    assert read_samples(manifest).groupby(["step", "decoder"]).size().to_dict() == {}


# --- estimates -----------------------------------------------------------------------------------------------


def test_the_summary_counts_what_a_health_check_needs(tmp_path):
    correct = np.array([[True, False, True, True], [False, False, False, False]])
    manifest = write_evaluation(tmp_path, {0: correct})
    table = EvaluationTable.estimate(manifest=manifest, root_seed=0, k=4)
    (row,) = table.to_dict("records")
    assert row["Pass@1"] == pytest.approx(3 / 8) and row["Pass@4"] == 0.5 and row["Worst@4"] == 0
    assert (row["timeouts"], row["errors"], row["problems"], row["samples"]) == (0, 0, 2, 4)
    assert metrics.pass_at_k(4, 3, 4) == 1
    assert json.loads(manifest.read_text())["files"][0]["correct"] == 3


def test_deleted_checkpoints_keep_their_samples_and_give_no_new_ones(world, tmp_path):
    checkpoints = {}
    for step in (1, 2):
        for place in ("run", "state"):
            shutil.copytree(world / "model", tmp_path / place / f"step_{step}")
        checkpoints[step] = tmp_path / "run" / f"step_{step}"

    def evaluated(asked):
        return evaluate.evaluate(
            asked, checkpoints, world / "test.parquet", tmp_path / "out", label="x", progress=None, workers=1
        )

    before = evaluated(request())
    evaluate.prune(checkpoints, [tmp_path / "state"])
    for place in ("run", "state"):
        assert [file.name for file in (tmp_path / place / "step_1").iterdir()] == [evaluate.DELETED]
        assert (tmp_path / place / "step_2" / "model.safetensors").exists()
    assert evaluated(request()) == before
    evaluate.prune(checkpoints, [tmp_path / "state"])
    assert evaluated(request()) == before
    more = {"tau1.0": TAU1, "greedy": GREEDY}
    with pytest.raises(ValueError, match="step 1, whose checkpoint was deleted after its evaluation"):
        evaluated(request(decoders=more))
    assert len(evaluated(request(final_decoders={"greedy": GREEDY}))) == 3  # the last one is still there
