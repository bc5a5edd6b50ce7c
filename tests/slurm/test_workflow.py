"""The mini workflow through `snakemake --profile slurm`: what Slurm's own records say of it."""

import json

from cluster import GPU_MODEL

from conftest import FIGURE


def jobs_of(checkout, rule):
    fields = ("JobID", "State", "Comment", "ReqMem", "AllocTRES", "Partition", "Timelimit", "ExitCode")
    return [row for row in checkout.records(*fields) if row["Comment"].startswith(f"rule_{rule}")]


def test_every_job_completed_at_its_first_attempt(finished):
    records = finished.records("State", "Comment")
    assert {row["State"] for row in records} == {"COMPLETED"}
    rules = [row["Comment"].split("_wildcards_")[0].removeprefix("rule_") for row in records]
    assert sorted(rules) == sorted(
        ["generate_problems"] * 2
        + ["train_base_model", "evaluate_model"]
        + ["train"] * 4
        + ["evaluate_run"] * 4
        + [
            "estimate_figure",
            "plot_figure",
            "estimate_cost",
            "plot_cost",
            "write_report",
            "export_provenance",
        ]
    )


def test_jobs_got_the_gpus_and_the_memory_that_the_resource_table_names(finished):
    for row in jobs_of(finished, "train_wildcards"):
        allocated = dict(part.split("=") for part in row["AllocTRES"].split(","))
        assert (allocated["gres/gpu"], allocated["mem"], allocated["cpu"]) == ("2", "1200M", "1")
        assert (row["Partition"], row["ReqMem"], row["Timelimit"]) == ("gpu", "1200M", "00:10:00")
    for row in jobs_of(finished, "evaluate_run"):
        assert "gres/gpu" not in row["AllocTRES"]
        assert (row["Partition"], row["ReqMem"]) == ("cpu", "1200M")
    for row in jobs_of(finished, "estimate_figure"):
        assert (row["ReqMem"], row["Timelimit"]) == ("2000M", "00:30:00")


def test_logs_are_readable_and_name_the_run(finished):
    logs = sorted((finished.folder / "results/mini/logs/train").rglob("*.log"))
    assert len(logs) == 4
    for log in logs:
        assert "finished after 4 steps" in log.read_text()
    # Slurm's own logs hold nothing new once a job succeeded.
    assert not list((finished.folder / "results/slurm_logs").rglob("*.log"))


def test_the_figure_is_there_and_one_local_step_told_mlflow(finished):
    for suffix in ("pdf", "png", "csv"):
        assert (finished.folder / f"reports/mini/figures/{FIGURE}.{suffix}").stat().st_size > 0
    report = json.loads((finished.folder / "results/mlflow/ingested_mini.json").read_text())
    assert len(report["runs"]) == 4
    # No training wrote to the store from its node: the ingestion added every point itself.
    assert all(run["points"] > 0 for run in report["runs"].values())
    assert not jobs_of(finished, "ingest_runs"), "ingestion was sent to a node"


def test_gpus_are_asked_for_by_the_model_that_the_site_names(finished):
    job = jobs_of(finished, "train_wildcards")[0]["JobID"]
    assert f"gres:gpu:{GPU_MODEL}:2" in finished.slurm.call("scontrol", "show", "job", job)


def test_nothing_is_left_to_do(finished):
    done = finished.run("--dry-run", config=("scale=mini", f"experiments=[{FIGURE}]"))
    assert "Nothing to be done" in done.stdout + done.stderr
