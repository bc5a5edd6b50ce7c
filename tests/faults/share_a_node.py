"""Two verl trainings at once on one machine, beside a Ray of somebody else's; one is killed with SIGKILL and goes on.

  .venv-verl-cpu/bin/python tests/faults/share_a_node.py --folder <empty folder> --record docs/records/shared_node.json

Both are small stand-ins with the real verl, Ray and vLLM on CPUs (18 GB of memory, about ten minutes on two cores),
started through train.py. The other Ray is found as `ray start` leaves it, and by RAY_ADDRESS. Both trainings must end
with every step, each sampler with the weights of its own trainer: at temperature 1 the importance ratios are then 1.
After the kill nothing of that training may live on, and the other one must not notice.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from reproduction.cluster import processes
from reproduction.cluster.devices import LOCAL
from reproduction.config import REPOSITORY, WORKFLOW, load_configuration, load_scale, merge, read_yaml
from reproduction.config.runs import resolve
from reproduction.engines.verl.configuration import MARK, mark
from reproduction.files import write_json
from reproduction.training import records

# A model that solves some problems: without differing rewards no update would move its weights, and those of one
# training could not be told from the other's.
CHOICES = {
    "models": {"tiny": {"hidden_size": 64, "heads": 2, "mlp_size": 192, "steps": 400, "warmup_steps": 30}}
}
SMALL = {"verl": {"dump_every": None, "validate_every": None}}
STEPS, TOLERANCE = 3, 2e-3
FOREIGN = "EAD_TEST_FOREIGN_RAY"
DEADLINE_S = 1500.0


class Training:
    """One training of the smoke test's scale, in a folder of its own."""

    def __init__(self, folder: Path, seed: int, inputs: Path, variables: dict[str, str]):
        scale = load_scale("mini", merge(merge(CHOICES, read_yaml(WORKFLOW / "verl_smoke.yaml")), SMALL))
        user = load_configuration({"scale": "mini", "seeds": [seed]})
        names = {"role": "llama_1b", "algorithm": "dapo", "sampler": "tau1.0", "rollouts": None}
        run = resolve(user, scale, **names, seed=seed)
        self.state, self.output = folder / f"state_{seed}", folder / f"run_{seed}"
        data = inputs / "data"
        self._variables, self._log = variables, folder / f"train_{seed}.log"
        self._command = [
            *(sys.executable, str(REPOSITORY / "scripts/train.py"), "--run", run.to_json()),
            *("--machine", scale.verl.model_dump_json(), "--scale", "mini", "--no-stream"),
            *("--model", str(inputs / "models/tiny/manifest.json")),
            *("--dataset", str(data / "countdown_train.parquet")),
            *("--validation", str(data / "countdown_test.parquet")),
            *("--output", str(self.output / "manifest.json"), "--state", str(self.state)),
            *("--tracking-folder", str(folder / "mlflow")),
        ]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ, **self._variables}
            )

    def processes(self) -> list[psutil.Process]:
        return processes.marked(MARK, mark(self.state.resolve()))

    def reached(self, step: int) -> bool:
        if self.process.poll() not in (None, 0):
            raise RuntimeError(f"ended with {self.process.returncode}\n{self._log.read_text()[-6000:]}")
        return (self.state / "checkpoints" / f"step_{step}").exists()

    def result(self) -> dict:
        rows = list(records.read(self.state / "metrics.jsonl"))
        log = (self.state / "verl" / "verl.log").read_text(errors="replace")
        return {
            "status": json.loads((self.output / "manifest.json").read_text())["status"],
            "steps": [row["step"] for row in rows],
            "gradient_norm": [row["gradient_norm"] for row in rows],
            "ratio_mean": [row["importance_ratio_mean"] for row in rows],
            "ratio_max": [row["importance_ratio_max"] for row in rows],
            "own_ray": "Connecting to existing Ray cluster" not in log,
        }


def wait_for(what: str, ready) -> float:
    """Wait for ``ready()``; return the seconds that it took."""
    begun = time.monotonic()
    while not ready():
        if time.monotonic() - begun > DEADLINE_S:
            raise RuntimeError(f"waited {DEADLINE_S:.0f} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - begun


def folders() -> set[str]:
    """Return the folders for sockets that are there, ours and those that verl makes by itself."""
    found = [*(LOCAL / f"ead-{os.getuid()}").glob("verl-*"), *Path("/tmp").glob("rl-colocate-zmq-*")]
    return set(map(str, found))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    inputs = folder / "results/mini"
    (folder / "config.yaml").write_text(json.dumps({"scale": "mini", "overrides": CHOICES}))
    targets = [inputs / "models/tiny/manifest.json"]
    targets += [inputs / f"data/countdown_{part}.parquet" for part in ("train", "test")]
    command = [str(REPOSITORY / ".venv/bin/python"), "-m", "snakemake", "--cores", "2", "--quiet", "all"]
    command += ["--snakefile", str(REPOSITORY / "workflow" / "Snakefile"), "--directory", str(folder), "--"]
    subprocess.run([*command, *(str(target.relative_to(folder)) for target in targets)], check=True)

    address, token = f"127.0.0.1:{free_port()}", str(os.getpid())
    ray = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--num-cpus=1",
        "--include-dashboard=false",
    ]
    ray += ["--node-ip-address=127.0.0.1", f"--port={address.rsplit(':', 1)[1]}"]
    found, sockets, others = {}, set(), folders()  # those of a training that was killed stay
    try:
        subprocess.run(
            ray, check=True, env={**os.environ, FOREIGN: token}, timeout=180, stdout=subprocess.DEVNULL
        )
        foreign = len(processes.marked(FOREIGN, token))
        first = Training(folder, 0, inputs, {})
        second = Training(folder, 1, inputs, {"RAY_ADDRESS": address})
        begun = time.monotonic()
        first.start()
        second.start()

        def looked(ready):
            sockets.update(folders() - others)
            return ready()

        wait_for("the first step", lambda: looked(lambda: first.reached(1)))
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        found["seconds_until_nothing_of_the_killed_lived"] = round(
            wait_for("the killed training's processes to end", lambda: not first.processes()), 1
        )
        first.start()
        for training in (first, second):
            wait_for("the last step", lambda training=training: looked(lambda: training.reached(STEPS)))
            wait_for("the end", lambda training=training: training.process.poll() == 0)
        found["seconds"] = round(time.monotonic() - begun)
        found["processes_left"] = len(first.processes()) + len(second.processes())
        found["foreign_ray_unharmed"] = len(processes.marked(FOREIGN, token)) == foreign
    finally:
        processes.end(processes.marked(FOREIGN, token))
    found |= {"killed": first.result(), "other": second.result()}
    found["folders_of_sockets"] = sorted(path.replace(str(os.getuid()), "UID", 1) for path in sockets)
    write_json(arguments.record, found)
    for name in ("killed", "other"):
        one = found[name]
        assert (one["status"], one["steps"], one["own_ray"]) == ("finished", [1, 2, 3], True), one
        assert all(abs(ratio - 1) < TOLERANCE for ratio in one["ratio_mean"]), one
        assert min(one["gradient_norm"][:2]) > 0, f"nothing moved the weights: {one}"
    assert found["processes_left"] == 0 and found["foreign_ray_unharmed"], found
    assert len(sockets) == 2 and not any("/tmp/rl-colocate" in path for path in sockets), sockets


if __name__ == "__main__":
    main()
