"""A training on two nodes: Slurm's side of it is real, Ray is stood in for by a script.

Both nodes of this Slurm are one machine, where two real Rays would take each other for the head.
"""

import json
import os

import yaml

from conftest import CONFIG, RUNS, manifest, without_trainings

STAND_IN = """\
#!/usr/bin/env python3
# Writes down what it was given on this node; on the first node it runs the program, as `ray symmetric-run` does.
import json, os, subprocess, sys
place = os.environ["SLURM_PROCID"]
told = {key: os.environ.get(key) for key in ("SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "SLURM_NTASKS")}
with open(f"NOTES/{place}.json", "w") as file:
    json.dump({"arguments": sys.argv[1:], **told}, file)
if place == "0":
    sys.exit(subprocess.run(sys.argv[sys.argv.index("--") + 1 :]).returncode)
"""


def test_two_nodes_get_a_task_each_with_all_its_gpus_and_the_training_runs_once(
    undisturbed, tmp_path, monkeypatch
):
    checkout = without_trainings(undisturbed, tmp_path)
    resources = yaml.safe_load((checkout.folder / "workflow/resources.yaml").read_text())
    resources["scales"]["mini"]["roles"]["qwen_1_5b"]["train"].update(gpus=2, nodes=2)
    checkout.edit("workflow/resources.yaml", **resources)
    # --gpus counts the whole job's; as generic resources they are counted on each node.
    site = yaml.safe_load((checkout.folder / "workflow/profiles/slurm/site.yaml").read_text())
    checkout.edit("workflow/profiles/slurm/site.yaml", gpu={**site["gpu"], "form": "gres"})
    notes, programs = tmp_path / "notes", tmp_path / "programs"
    notes.mkdir()
    programs.mkdir()
    (programs / "ray").write_text(STAND_IN.replace("NOTES", str(notes)))
    (programs / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    name = next(iter(RUNS))
    checkout.run("--", manifest(name), config=CONFIG)

    (job,) = checkout.records("State", "AllocTRES", "NodeList")
    assert (job["State"], job["NodeList"]) == ("COMPLETED", "node[1-2]")
    allocated = dict(part.split("=") for part in job["AllocTRES"].split(","))
    assert (allocated["gres/gpu"], allocated["node"], allocated["mem"]) == ("4", "2", "2400M")
    first, second = (json.loads((notes / f"{place}.json").read_text()) for place in range(2))
    assert (first["SLURMD_NODENAME"], second["SLURMD_NODENAME"]) == ("node1", "node2")
    assert first["CUDA_VISIBLE_DEVICES"] == second["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert first["arguments"] == second["arguments"]
    assert first["arguments"][0] == "symmetric-run"
    assert first["arguments"][first["arguments"].index("--min-nodes") + 1] == "2"
    written = json.loads((checkout.folder / manifest(name)).read_text())
    assert (written["status"], written["steps"]) == ("finished", 8)
