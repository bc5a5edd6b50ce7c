"""The tutorial, line by line, at the mini scale and with one model: `make test-tutorial`.

Its last block, the rest of Figure 4, is left out: other tests train that much.
"""

import json
import os
import resource
import subprocess
import sys
import time

import pandas as pd
import yaml
from mlflow import MlflowClient

from mini_workflow import add_entry
from pages import TUTORIAL, all_blocks, commands_of

OTHER_ROLES = ("qwen_1_5b", "qwen_7b", "qwen3_8b")


def test_the_tutorial_does_what_it_says(checkout):
    configuration = yaml.safe_load((checkout / "config.yaml").read_text(encoding="utf-8"))
    configuration |= {"scale": "mini", "overrides": {"roles": dict.fromkeys(OTHER_ROLES)}}
    # A stream takes only the processor time that nothing else wants, and a training waits up to a minute for its end.
    configuration["tracking"]["stream"] = False
    (checkout / "config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    reports = checkout / "reports" / "mini"
    seen = []
    for language, block in all_blocks(TUTORIAL)[:-1]:
        if language == "yaml":
            comment, _, entry = block.partition("\n")
            add_entry(checkout, comment.removeprefix("# workflow/").removesuffix(".yaml"), entry)
        for program, *words in commands_of(block) if not language else []:
            if program == "snakemake":
                seen.append(run(checkout, words))
    # The training by name; then the figure, for which that one is not trained again.
    assert [said.count("rule train:") for said in (seen[1], seen[3])] == [1, 2]
    assert manifests(checkout) >= {"ead", "my_ead", "tau1.0"}

    for picture in ("fig03", "fig04_so_far", "my_figure"):
        assert (reports / "figures" / f"{picture}.png").is_file(), picture
    drawn = pd.read_csv(reports / "figures" / "my_figure.csv")
    assert set(drawn["sampler"]) == {"tau1.0", "ead", "my_ead"}

    client = MlflowClient(f"sqlite:///{checkout}/results/mlflow/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "mini-fig04-samplers"]
    hotter = client.search_runs([experiment.experiment_id], 'params.tau_max = "1.4"')
    # The training and its parent.
    assert [run.data.params["sampler"] for run in hotter] == ["my_ead", "my_ead"]
    both = client.search_runs([experiment.experiment_id], 'params.seed = "0"')
    assert {run.data.params["sampler"] for run in both} >= {"my_ead", "ead"}

    page = (reports / "report.html").read_text(encoding="utf-8")
    assert 'id="C03"' in page and "my_figure" in page
    verdicts = json.loads((reports / "claims_so_far.json").read_text(encoding="utf-8"))["verdicts"]
    judged = {row["id"]: row["verdict"] for row in verdicts if row["reading"] == "printed"}
    assert judged["C03"] == "not run"  # it compares three fixed temperatures on two models


def run(checkout, words) -> str:
    """Run a command of the page to its end; return what Snakemake said, and print the seconds that it took."""
    words = [str(2) if word == "all" and words[i - 1] == "--cores" else word for i, word in enumerate(words)]
    started, before = time.monotonic(), processor_time()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "scripts"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    print(f"{time.monotonic() - started:5.0f} s, {processor_time() - before:4.0f} s of a processor:", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def processor_time() -> float:
    """Seconds that all finished child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def manifests(checkout) -> set[str]:
    """The samplers that have been trained with."""
    runs = checkout.glob("results/mini/runs/*/*/*/*/*/manifest.json")
    return {
        part.removeprefix("sampler~") for path in runs for part in path.parts if part.startswith("sampler~")
    }
