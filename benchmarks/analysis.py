"""Estimates of a large evaluation: seconds and peak memory, against a loop over problems that gives the same numbers.

    python benchmarks/analysis.py [--checkpoints 50] [--problems 500] [--samples 256] [--rounds 3] [--output FILE]

Made-up verdicts and votes are written as one evaluation, a sample file per checkpoint. Parts:

- read: sample files to counts of correct responses (``evaluation.samples.correct_counts``, checksums included)
- metrics: Pass@k and Worst@k of every problem and checkpoint for k = 1, 4, 16, 64, 256
- bootstrap: the mean over problems of each, and of its difference to the first checkpoint, paired by problem
- majority: Majority@k for k = 1, 3, 8, 16, 24, 32, 64 at the first ``--majority`` checkpoints (the loop is slow)

The loop is what one writes first: ``DataFrame.groupby``, ``math.comb`` for each problem, one mean for each replicate,
``numpy.convolve`` for each number of leaders. Both arms are processes of their own with one thread and take turns;
their results must agree. Peak memory is each process's, imports included.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from arms import Arm, Measured, alternate, machine, measured, median, ratio, serve
from scipy import special
from stamps import stamp

from ead import metrics, seeds, statistics
from reproduction.evaluation import samples
from reproduction.files import write_json

SIZES = (1, 4, 16, 64, 256)
MAJORITY_SIZES = (1, 3, 8, 16, 24, 32, 64)
PARTS = ("read", "metrics", "bootstrap", "majority")
ANSWERS = 12  # different answers to a problem
REPLICATES, CONFIDENCE = 4000, 0.95
SEED = 0


def stream(*names: str | int) -> np.random.Generator:
    return seeds.generator(SEED, "benchmark", "analysis", *names)


def write_evaluation(folder: Path, checkpoints: int, problems: int, responses: int) -> None:
    """Write one evaluation: problems differ in how often they are solved, which grows with training."""
    # They import torch, which no analysis needs.
    from reproduction.evaluation.responses import describe_samples, write_samples

    skill = stream("skill").beta(0.6, 1.2, size=problems)
    records = []
    for step in range(1, checkpoints + 1):
        random = stream("step", step)
        correct = (
            random.random((problems, responses)) < np.clip(skill + 0.2 * step / checkpoints, 0, 1)[:, None]
        )
        wrong = 1 + ((ANSWERS - 1) * random.random(correct.shape) ** 2).astype(int)
        votes = np.where(correct, 0, wrong).ravel().astype(str)
        frame = pd.DataFrame(
            {
                "problem": np.repeat([f"problem-{i:04}" for i in range(problems)], responses),
                "sample": np.tile(np.arange(responses), problems),
                "response": "a response",
                "extracted": votes,
                "vote": votes,
                "correct": correct.ravel(),
                "status": "ok",
                "tokens": 100,
                "finished": True,
            }
        )
        path = folder / f"step_{step}" / "tau1.0" / "test.parquet"
        write_samples(frame, path, "identity")
        records.append(describe_samples(path, folder, step, "tau1.0", "test"))
    write_json(folder / "manifest.json", {"files": records})


class Project:
    """The project's own functions, called as its analyses call them."""

    def read(self, manifest: Path, checkpoints: int) -> dict[str, np.ndarray]:
        counts = samples.correct_counts(manifest)
        self.n, self.c = (
            counts[name].to_numpy().reshape(checkpoints, -1) for name in ("responses", "correct")
        )
        return {"n": self.n, "c": self.c}

    def metrics(self) -> dict[str, np.ndarray]:
        functions = (metrics.pass_at_k, metrics.worst_at_k)
        self.scores = np.stack([f(self.n, self.c, k) for f in functions for k in SIZES if k <= self.n.min()])
        return {"scores": self.scores}

    def bootstrap(self) -> dict[str, np.ndarray]:
        scores = self.scores[:, :, None, :]  # one seed
        mean = statistics.bootstrap(scores, generator=stream("bootstrap"), replicates=REPLICATES)
        difference = statistics.paired_difference(
            scores[:, 1:], scores[:, :1], generator=stream("bootstrap"), replicates=REPLICATES
        )
        return {
            f"{name}_{field}": getattr(estimate, field)
            for name, estimate in (("mean", mean), ("difference", difference))
            for field in ("value", "low", "high")
        }

    def majority(self, manifest: Path, checkpoints: int) -> dict[str, np.ndarray]:
        values = []
        for drawn in votes_of(manifest, checkpoints):
            for _, group in drawn.groupby(["step", "problem"], sort=True):
                values.append(
                    metrics.majority_at_k(group["vote"].tolist(), group["correct"].to_numpy(), MAJORITY_SIZES)
                )
        return {"majority": np.array(values)}


class Loop:
    """The same numbers, problem by problem."""

    def read(self, manifest: Path, checkpoints: int) -> dict[str, np.ndarray]:
        n, c = [], []
        for file in json.loads(manifest.read_text())["files"]:
            frame = pd.read_parquet(manifest.parent / file["file"], columns=["problem", "correct"])
            for _, part in frame.groupby("problem", sort=True):
                n.append(len(part))
                c.append(int(part["correct"].sum()))
        self.n, self.c = (np.array(values).reshape(checkpoints, -1) for values in (n, c))
        return {"n": self.n, "c": self.c}

    def metrics(self) -> dict[str, np.ndarray]:
        sizes = [k for k in SIZES if k <= self.n.min()]
        scores = [
            [
                [share(int(n), int(c), k) for n, c in zip(*row, strict=True)]
                for row in zip(self.n, self.c, strict=True)
            ]
            for share in (
                lambda n, c, k: 1 - math.comb(n - c, k) / math.comb(n, k),
                lambda n, c, k: math.comb(c, k) / math.comb(n, k),
            )
            for k in sizes
        ]
        self.scores = np.array(scores)
        return {"scores": self.scores}

    def bootstrap(self) -> dict[str, np.ndarray]:
        found: dict[str, list] = {}
        for metric in self.scores:
            for step, scores in enumerate(metric):
                self._add(found, "mean", scores)
                if step:
                    self._add(found, "difference", scores - metric[0])
        shape = len(self.scores), -1
        return {name: np.reshape(values, shape) for name, values in found.items()}

    def _add(self, found: dict[str, list], name: str, scores: np.ndarray) -> None:
        drawn, factors = self._resamples(len(scores))
        value = scores.mean()
        means = np.array([scores[rows].mean() for rows in drawn])
        replicates = value + (means - value) * factors
        low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        for field, number in (("value", value), ("low", low), ("high", high)):
            found.setdefault(f"{name}_{field}", []).append(number)

    def _resamples(self, problems: int) -> tuple[np.ndarray, np.ndarray]:
        """The random numbers that ``ead.statistics.bootstrap`` draws from such a generator, drawn once."""
        if not hasattr(self, "_drawn"):
            random = stream("bootstrap")
            random.permutation(REPLICATES)  # for the seeds' part, which is zero with one seed
            rows = random.integers(problems, size=(REPLICATES, problems - 1))
            probabilities = (random.permutation(REPLICATES) + 0.5) / REPLICATES
            freedom = problems - 1
            self._drawn = rows, np.sqrt(freedom / (2 * special.gammaincinv(freedom / 2, probabilities)))
        return self._drawn

    def majority(self, manifest: Path, checkpoints: int) -> dict[str, np.ndarray]:
        values = []
        for drawn in votes_of(manifest, checkpoints):
            for _, group in drawn.groupby(["step", "problem"], sort=True):
                counts = Counter(group["vote"])
                verdicts = group.groupby("vote")["correct"].mean()
                values.append(self._majority([(counts[vote], verdicts[vote]) for vote in counts], len(group)))
        return {"majority": np.array(values)}

    @staticmethod
    def _majority(labels: list[tuple[int, float]], n: int) -> list[float]:
        """Count subsets by size: ``ways[j][s]`` of s responses, with ``top`` votes for each of j answers."""
        most = max(MAJORITY_SIZES)
        right = np.zeros(most + 1)
        for top in range(1, most + 1):
            ways, weighted = [np.eye(1, most + 1)[0]], [np.zeros(most + 1)]
            for count, correctness in labels:
                fewer = np.array([float(math.comb(count, s)) for s in range(min(top, most + 1))])
                exactly = np.zeros(top + 1)
                exactly[top] = math.comb(count, top)
                zero = np.zeros(most + 1)
                ways.append(zero)
                weighted.append(zero)
                ways, weighted = (
                    [
                        np.convolve(ways[j], fewer)[: most + 1]
                        + (np.convolve(ways[j - 1], exactly)[: most + 1] if j else 0)
                        for j in range(len(ways))
                    ],
                    [
                        np.convolve(weighted[j], fewer)[: most + 1]
                        + (
                            np.convolve(weighted[j - 1] + correctness * ways[j - 1], exactly)[: most + 1]
                            if j
                            else 0
                        )
                        for j in range(len(ways))
                    ],
                )
            for j in range(1, len(ways)):
                right += weighted[j] / j
        return [right[k] / math.comb(n, k) for k in MAJORITY_SIZES]


def votes_of(manifest: Path, checkpoints: int):
    """Yield the samples of the first checkpoints, one at a time."""
    files = json.loads(manifest.read_text())["files"]
    for file in files[:checkpoints]:
        part = manifest.parent / file["file"]
        yield pd.read_parquet(part, columns=["problem", "vote", "correct"]).assign(step=file["step"])


def peak_bytes() -> float:
    """Return the largest resident size of this program so far; getrusage would begin with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def serve_arm(name: str) -> None:
    arm = {"project": Project, "loop": Loop}[name]()
    rounds: Counter[str] = Counter()

    def answer(manifest: str, checkpoints: int, majority: int, results: str) -> Measured:
        found: Measured = {}
        values: dict[str, np.ndarray] = {}
        arguments = {"read": (Path(manifest), checkpoints), "majority": (Path(manifest), majority)}
        for part in PARTS:
            with measured(found, f"{part}_"):
                made = getattr(arm, part)(*arguments.get(part, ()))
            values |= made
            found[f"{part}_peak_bytes"] = peak_bytes()
        rounds["answered"] += 1
        np.savez(f"{results}/{name}.npz", **values)
        return found

    serve(answer)


def agree(results: Path) -> dict[str, float]:
    """Return the largest difference of each array; raises AssertionError where the arms disagree."""
    with np.load(results / "project.npz") as project, np.load(results / "loop.npz") as loop:
        assert set(project.files) == set(loop.files)
        for name in project.files:
            np.testing.assert_allclose(project[name], loop[name], rtol=1e-9, atol=1e-12, err_msg=name)
        return {name: float(np.abs(project[name] - loop[name]).max()) for name in project.files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", choices=("project", "loop"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoints", type=int, default=50)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--majority", type=int, default=1, help="checkpoints of which Majority@k is taken")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_arm(arguments.serve)
        return
    code = stamp("analysis")
    python, script = Path(sys.executable), Path(__file__).name
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_evaluation(folder, arguments.checkpoints, arguments.problems, arguments.samples)
        job = {"manifest": f"{folder}/manifest.json", "results": scratch}
        job |= {"checkpoints": arguments.checkpoints, "majority": arguments.majority}
        arms = {name: Arm(python, script, "--serve", name, threads=1) for name in ("project", "loop")}
        try:
            taken = alternate(arms, job, arguments.rounds, warm_ups=0)
        finally:
            for arm in arms.values():
                arm.close()
        differences = agree(folder)
    record = {
        "machine": machine(1, "numpy", "pandas", "pyarrow"),
        "code": code,
        "setting": {
            "checkpoints": arguments.checkpoints,
            "problems": arguments.problems,
            "samples": arguments.samples,
            "sizes": SIZES,
            "majority_checkpoints": arguments.majority,
            "majority_sizes": MAJORITY_SIZES,
            "replicates": REPLICATES,
            "rounds": arguments.rounds,
        },
        "cpu_s": {part: {name: median(taken[name], f"{part}_cpu_s") for name in arms} for part in PARTS},
        "ratio_cpu": {part: ratio(taken, "loop", "project", f"{part}_cpu_s") for part in PARTS},
        "peak_mb": {
            name: {part: taken[name][0][f"{part}_peak_bytes"] / 1e6 for part in PARTS} for name in arms
        },
        "largest_difference": differences,
    }
    print(json.dumps(record, indent=2))
    if arguments.output:
        write_json(arguments.output, record)


if __name__ == "__main__":
    main()
