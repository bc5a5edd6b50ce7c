"""What MLflow costs a training: no stream, a healthy store, and stores that are away, silent, full or killed.

    python benchmarks/mlflow_stream.py --output mlflow_stream.json

Rounds of short trainings of the cpu scale, one for each state of MLflow in an order drawn anew per round. Timed is the
training alone, between the start and the end of its stream: wall and processor seconds of the trainer's process, as
ratios to the training without a stream in the same round. What the stream's own process takes is given apart, and so
is the time that its end costs. After each training the finished run is ingested into a healthy store, which may then
lack nothing.
"""

import argparse
import json
import random
import resource
import signal
import socket
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
import workload

from reproduction.config import Configuration, load_scale
from reproduction.config.runs import RunConfiguration, expand
from reproduction.data import write_dataset
from reproduction.engines import inprocess
from reproduction.figures import load_experiments
from reproduction.tracking import RunDescription, RunStream, Store, ingest
from reproduction.training import warmstart
from reproduction.training.model_card import model_card
from reproduction.training.run_folder import publish

STATES = ("none", "healthy", "away", "silent", "full", "killed")
ROOT_SEED = 2025


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    parser.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), options.steps)
        order = random.Random(ROOT_SEED)
        rounds = []
        for number in range(options.rounds):
            states = ["none", *(state for state in options.states if state != "none")]
            order.shuffle(states)
            rounds.append({state: world.training(state, f"{number}_{state}") for state in states})
            print(
                json.dumps({state: rounds[-1][state]["wall_s"] for state in STATES if state in rounds[-1]}),
                flush=True,
            )
    result = {"rounds": options.rounds, "steps": options.steps, "states": summary(rounds)}
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


class World:
    """A base model, problems, and one run of the cpu scale."""

    def __init__(self, folder: Path, steps: int):
        self.folder = folder
        scale = load_scale("cpu", {"training": {"steps": steps, "checkpoint_every": steps}})
        runs = expand(Configuration(), scale, load_experiments()["fig04"]).values()
        self.run: RunConfiguration = next(run for run in runs if run.sampler == "ead_tis")
        task, data = workload.task(), workload.dataset().model_copy(update={"limit": 1000})
        problems = data.problems(ROOT_SEED, data.limit)
        definition = self.run.model_definition.model_copy(update={"steps": 100})
        model, _ = warmstart.train(definition, task, problems, root_seed=ROOT_SEED)
        self.model, self.dataset = folder / "model", folder / "train.parquet"
        self.model.mkdir()
        model.save(self.model)
        warmstart.write_tokenizer(self.model, task.vocabulary)
        write_dataset(data.rows(problems, "train"), self.dataset)
        self.complete = Store.local(folder / "complete")

    def training(self, state: str, name: str) -> dict[str, float]:
        """Train once with MLflow in ``state``; return what it took, and what MLflow lacked after ingestion."""
        description = RunDescription(
            experiment="benchmark",
            note="",
            cell=self.run.cell,
            run=self.run.name,
            configuration_hash=name,
            parameters=self.run.parameters(),
            tags={"state": state},
        )
        home, output = self.folder / name, self.folder / name / "run"
        with ExitStack() as stack:
            store = stack.enter_context(store_in_state(state, home))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            stream = store and RunStream(
                store, description, home / "metrics.jsonl", output, interval_s=2.0, close_timeout_s=10.0
            )
            if state == "killed":
                threading.Timer(3.0, stream._process.send_signal, [signal.SIGKILL]).start()
            wall, processor = time.perf_counter(), time.process_time()
            result = inprocess.train(
                self.run, model=self.model, dataset=self.dataset, state=home, progress=None
            )
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            publish(
                self.run,
                home,
                output,
                result,
                started=time.time() - wall,
                sources={},
                tracking=description.to_dict(),
                card=partial(
                    model_card, self.run, {"source": "trained from scratch: benchmarks/workload.py"}
                ),
            )
            closing = time.perf_counter()
            if stream:
                stream.close()
            closing = time.perf_counter() - closing
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        ingest(self.complete, [output])
        lacking = self._lacking(name, output)
        return {
            "wall_s": wall,
            "processor_s": processor,
            "stream_processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "closing_s": closing,
            "lacking": lacking,
        }

    def _lacking(self, name: str, output: Path) -> int:
        """Values of the finished run that the complete store does not hold."""
        import pandas as pd

        client = self.complete.connect()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.configuration_hash = '{name}'")
        frame = pd.read_parquet(output / "metrics.parquet").set_index("step")
        return sum(
            len(frame) - len({point.step for point in client.get_metric_history(run.info.run_id, column)})
            for column in frame
        )


@contextmanager
def store_in_state(state: str, folder: Path):
    """Yield a store that is healthy, or a server that is away, silent, or answers every request with 507 (full)."""
    if state == "none":
        yield None
    elif state in ("healthy", "killed"):
        yield Store.local(folder / "mlflow")
    elif state == "full":
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Full)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Store(f"http://127.0.0.1:{server.server_port}", None, folder / "locks")
        server.shutdown()
    else:
        with socket.socket() as listener:  # bound only: connections are refused; listening: they wait
            listener.bind(("127.0.0.1", 0))
            if state == "silent":
                listener.listen(16)
            yield Store(f"http://127.0.0.1:{listener.getsockname()[1]}", None, folder / "locks")


class _Full(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(507)

    do_POST = do_GET

    def log_message(self, *_) -> None:
        pass


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict]:
    """Medians over the rounds; times as ratios to the same round's training without a stream."""
    states = {}
    for state in rounds[0]:
        ratios = {
            kind: [one[state][kind] / one["none"][kind] for one in rounds]
            for kind in ("wall_s", "processor_s")
        }
        states[state] = {
            "wall_ratio": round(statistics.median(ratios["wall_s"]), 4),
            "processor_ratio": round(statistics.median(ratios["processor_s"]), 4),
            "processor_ratios": [round(ratio, 3) for ratio in ratios["processor_s"]],
            "stream_processor_s": round(
                statistics.median(one[state]["stream_processor_s"] for one in rounds), 2
            ),
            "closing_s": round(statistics.median(one[state]["closing_s"] for one in rounds), 2),
            "values_lacking_after_ingestion": sum(one[state]["lacking"] for one in rounds),
        }
    return states


if __name__ == "__main__":
    main()
