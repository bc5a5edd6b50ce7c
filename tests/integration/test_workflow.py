"""The mini workflow: the whole way, what a change re-runs, and mistakes that end it before it starts."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess

import pandas as pd
import pytest
import yaml
from rocrate.rocrate import ROCrate

from mini_workflow import Workflow
from reproduction.claims import Exported, ResultsFolder, export, judge, load_claims
from reproduction.config import load_configuration, load_scale
from reproduction.training import contract, warmstart

SAMPLERS = ["tau0.6", "tau1.0", "tau1.2", "ead", "ead_tis", "ead_released", "ead_released_tis"]


def run_folder(workflow, sampler):
    return workflow.folder / f"results/mini/runs/model~tiny/algorithm~dapo/sampler~{sampler}/n~4/seed~0"


def test_every_artefact_is_there(reproduced):
    for sampler in SAMPLERS:
        folder = run_folder(reproduced, sampler)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["status"], manifest["steps"], manifest["checkpoints"]) == ("finished", 4, [2, 4])
        assert {"train.py", "reproduction/engines/inprocess.py"} <= manifest["code"]["sources"].keys()
        metrics = pd.read_parquet(folder / "metrics.parquet")
        assert len(metrics) == 4 and {"step", *contract.columns("inprocess")} == set(metrics)
        assert yaml.safe_load((folder / "config.yaml").read_text())["sampler"] == sampler
        for step in (2, 4):
            assert (folder / f"checkpoints/step_{step}/model.safetensors").exists()
    for suffix in ("pdf", "png", "csv"):
        assert (reproduced.folder / f"reports/mini/figures/fig04.{suffix}").stat().st_size > 0


def test_the_figure_shows_every_cell_step_metric_and_decoder_with_its_interval(reproduced):
    drawn = pd.read_csv(reproduced.folder / "reports/mini/figures/fig04.csv")
    # Two metrics in panels, and three more in the table: Pass@1 and the resampled estimators (D05).
    combinations = {"sampler": 7, "decoder": 2, "metric": 5, "step": 3}
    assert {column: drawn[column].nunique() for column in combinations} == combinations
    assert len(drawn) == 7 * 2 * 5 * 3
    assert (drawn["low"] <= drawn["value"]).all() and (drawn["value"] <= drawn["high"]).all()
    assert (drawn["problems"] == 20).all() and (drawn["samples"] == 4).all()


def test_the_numbers_in_the_figure_are_those_of_the_samples(reproduced):
    """Pass@4 and Worst@4 by hand, from the response table."""
    drawn = pd.read_csv(reproduced.folder / "reports/mini/figures/fig04.csv")
    row = drawn[(drawn.sampler == "ead") & (drawn.decoder == "tau1.0") & (drawn.step == 4)]
    name = run_folder(reproduced, "ead").relative_to(reproduced.folder / "results/mini/runs")
    samples = pd.read_parquet(
        reproduced.folder / "results/mini/evaluations" / name / "step_4/tau1.0/countdown_test.parquet"
    )
    by_problem = samples.groupby("problem")["correct"]
    assert row[row.metric == "pass_at_k"].value.item() == pytest.approx(by_problem.any().mean())
    assert row[row.metric == "worst_at_k"].value.item() == pytest.approx(by_problem.all().mean())


def test_the_evidence_of_the_run_judges_as_its_results(reproduced, tmp_path):
    configuration = load_configuration(yaml.safe_load((reproduced.folder / "config.yaml").read_text()))
    scale = load_scale("mini", configuration.overrides)
    results, claims = ResultsFolder(reproduced.folder / "results/mini"), load_claims()
    judged = judge(claims, results, configuration, scale)
    verdicts = {row["verdict_in_full"] for row in judged["verdicts"] if row["id"] == "C04"}
    assert "inconclusive (1 seed, 3 needed)" in verdicts
    export(claims, judged, results, configuration, tmp_path / "evidence")
    evidence = Exported(tmp_path / "evidence")
    again = judge(claims, evidence, evidence.configuration, scale)
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(judged))


def test_a_second_run_has_nothing_to_do(reproduced):
    assert reproduced.planned() == {}


def test_the_report_shows_what_ran_and_says_what_did_not(reproduced):
    text = (reproduced.folder / "reports/mini/report.html").read_text()
    assert "Pass@16 and Worst@16 by training step" in text and "data:image/png;base64," in text
    assert "<b>fig08</b> has not been drawn" in text and "The claims have not been judged" in text
    assert "sampler~ead/n~4/seed~0" in text and "http://127.0.0.1:5000/#/experiments/" in text


def test_the_crate_leads_from_the_figure_to_checkpoints_data_and_code(reproduced):
    """Back along the actions: what made an entity, and what of."""
    reports = reproduced.folder / "reports/mini"
    crate = ROCrate(str(reports))
    actions = [entity for entity in crate.get_entities() if entity.type == "CreateAction"]
    (whole,) = (action for action in actions if action["instrument"] is crate.mainEntity)
    assert crate.get("report.html") in whole["result"] and crate.get("#configuration") in whole["object"]
    actions.remove(whole)
    made_by = {result.id: action for action in actions for result in action["result"]}
    found, ahead = {}, [crate.get("figures/fig04.png")]
    while ahead:
        entity = ahead.pop()
        if entity.id not in found:
            found[entity.id] = entity
            sources = made_by[entity.id].get("object", []) if entity.id in made_by else []
            ahead += [*sources, *(entity.get("hasPart") or [])]
    names = {entity["name"] for entity in found.values()}
    run = "model~tiny/algorithm~dapo/sampler~ead/n~4/seed~0"
    assert {f"checkpoint of {run} after step 4", f"run {run}, finished", "data set countdown_train"} <= names
    (base,) = (entity for entity in found.values() if entity["name"] == "base model tiny")
    assert base["description"] == warmstart.SOURCE
    manifest = json.loads((run_folder(reproduced, "ead") / "manifest.json").read_text())
    entity = next(entity for entity in found.values() if entity["name"] == f"run {run}, finished")
    assert entity["version"] == manifest["code"]["commit"]
    assert entity["additionalProperty"]["value"] == manifest["configuration_hash"]
    for entity in found.values():
        if "identifier" in entity:
            path = reproduced.folder / entity["identifier"]
            assert entity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_number_of_one_sampler_reruns_its_cell_and_what_depends_on_it(reproduced):
    change = {"samplers": {"ead": {"schedule": {"tau_max": 1.3}}}}
    assert reproduced.planned(overrides=change) == {
        "train": 1,
        "evaluate_run": 1,
        "estimate_figure": 1,
        "plot_figure": 1,
        "ingest_runs": 1,
        "estimate_cost": 1,
        "plot_cost": 1,
        "write_report": 1,
        "export_provenance": 1,
        "all": 1,
    }


def test_waiting_jobs_are_looked_at_when_one_has_ended_and_not_every_second(tmp_path):
    workflow = Workflow(tmp_path)
    workflow.configure()
    models = [f"results/mini/models/{name}/manifest.json" for name in ("tiny", "small", "medium")]
    said = workflow.run("--cores", "1", "--verbose", "--", *models).stderr
    jobs = 1 + len(models)  # and their problems
    assert jobs <= said.count("Resources before job selection") <= jobs + 1


def test_many_seeds_make_no_command_that_is_too_long(fresh):
    fresh.configure(seeds=list(range(260)))  # 1,820 trainings, whose folders alone are 145 kB
    said = fresh.run("--dry-run", "--printshellcmds").stdout
    commands = re.findall(r"Shell command: (.*)", said)
    assert any("/ingest_runs.py" in command and " --run @results" in command for command in commands)
    assert max(len(command.encode()) for command in commands) < 128 * 1024
    assert not (fresh.folder / "results").exists()


def test_arguments_in_a_file_are_those_of_the_command_line(reproduced, tmp_path):
    said = reproduced.run("--dry-run", "--printshellcmds", "--forcerun", "estimate_figure").stdout
    (command,) = re.findall(r"Shell command: (.*/estimate_figure.py .*fig04.parquet) >", said)
    words = shlex.split(command)
    request = words.index("--request") + 1
    (tmp_path / "arguments.txt").write_text(words[request] + "\n")
    words[request] = f"@{tmp_path / 'arguments.txt'}"
    words[words.index("--output") + 1] = str(tmp_path / "fig04.parquet")
    subprocess.run(words, cwd=reproduced.folder, check=True)
    stored = reproduced.folder / "results/mini/analyses/fig04.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "fig04.parquet"), pd.read_parquet(stored))


@pytest.mark.parametrize(
    "arguments",
    [("--set-threads", "train=2"), ("--set-resources", "train:mem_mb=2000"), ("--cores", "1")],
    ids=["threads", "memory", "cores"],
)
def test_threads_and_memory_rerun_nothing(reproduced, arguments):
    assert reproduced.planned(*arguments) == {}


def test_a_seed_more_trains_only_that_seed(reproduced):
    planned = reproduced.planned(seeds=[0, 1])
    assert (planned["train"], planned["evaluate_run"]) == (7, 7)
    assert "train_base_model" not in planned and "generate_problems" not in planned


def test_a_new_decoder_redraws_nothing_that_exists(reproduced, tmp_path):
    """The evaluation job runs again, but only the new decoder's samples are drawn."""
    copy = type(reproduced)(tmp_path / "copy")
    shutil.copytree(reproduced.folder, copy.folder)
    copy.configure(overrides={"evaluation": {"decoders": ["tau1.0", "tau0.6", "greedy", "ead_inference"]}})
    samples = sorted((copy.folder / "results/mini/evaluations").rglob("step_*/*/*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in samples}
    target = "results/mini/evaluations/model~tiny/manifest.json"
    copy.run(target)
    assert {path: path.stat().st_mtime_ns for path in samples} == before
    files = json.loads((copy.folder / target).read_text())["files"]
    greedy = next(file for file in files if file["decoder"] == "greedy")
    frame = pd.read_parquet((copy.folder / target).parent / greedy["file"])
    assert (frame.groupby("problem")["response"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scal": "mini"}, "unknown key 'scal'"),
        ({"seeds": "0"}, "seeds: Input should be a valid list"),
        ({"experiments": ["fig004"]}, "unknown experiment 'fig004' (did you mean 'fig04'?)"),
        (
            {"overrides": {"roles": {"llama_1b": {"model": "tinny"}}}},
            "unknown model 'tinny' (did you mean 'tiny'?)",
        ),
        (
            {"overrides": {"models": {"smollm2": {"source": "NoSuch/Model"}}}},
            "unknown pretrained model 'NoSuch/Model'",
        ),
        ({"overrides": {"datasets": {"gsm8k_test": {"source": "gsm9k"}}}}, "unknown data set 'gsm9k'"),
        ({"overrides": {"training": {"steps": "4"}}}, "training.steps: Input should be a valid integer"),
    ],
)
def test_a_mistake_ends_the_workflow_before_any_job_and_names_the_key(fresh, values, words):
    fresh.configure(**values)
    assert_refused(fresh, words)


def test_a_data_set_that_is_not_what_the_table_pins_ends_the_workflow_before_any_job(
    fresh, real_data, tmp_path
):
    """Here the file is cut short; a broken row is named in the same place (tests/unit/test_data.py)."""
    folder = tmp_path / "copies"
    folder.mkdir()
    lines = (real_data / "gsm8k_test.jsonl").read_text().splitlines(keepends=True)
    (folder / "gsm8k_test.jsonl").write_text("".join(lines[:100]))
    fresh.configure(paths={"real_data": str(folder)})
    assert_refused(fresh, "gsm8k_test.jsonl")


def assert_refused(workflow, words):
    done = workflow.run(check=False)
    assert done.returncode != 0
    message = done.stdout + done.stderr
    assert words in message
    assert "Traceback" not in message
    assert not (workflow.folder / "results").exists()


def test_another_base_model_is_taken_with_what_depends_on_it_where_it_is_asked_for_or_published(
    fresh, checkout, monkeypatch
):
    """At the scale that has published ones, on few problems."""
    monkeypatch.setenv("PYTHONPATH", os.fspath(checkout / "scripts"))
    workflow = type(fresh)(fresh.folder, snakefile=checkout / "workflow" / "Snakefile")
    few = {
        "datasets": {"few": {"kind": "grid", "split": "test", "limit": 4}},
        "evaluation": {"dataset": "few"},
    }
    workflow.configure(scale="cpu", overrides=few)
    target = "results/cpu/evaluations/model~tiny/manifest.json"
    workflow.run(target)
    taken = json.loads((workflow.folder / "results/cpu/models/tiny/manifest.json").read_text())
    carried = checkout / "workflow/base_models/cpu/tiny/manifest.json"
    assert taken == json.loads(carried.read_text()) and taken["source"] == warmstart.PUBLISHED
    assert workflow.planned("--", target) == {}
    again = {"train_base_model": 1, "evaluate_model": 1}
    assert workflow.planned("--", target, base_models="trained") == again
    carried.write_text(json.dumps(taken))  # another form
    assert workflow.planned("--", target) == again
