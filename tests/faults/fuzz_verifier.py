"""Fuzz the real grading pool: hostile responses until the time is up, and what became of them.

    python tests/faults/fuzz_verifier.py --seconds 300 --record docs/records/fuzz_verifier.json

Responses come from three sources: generators of known poisons and of random text (hypothesis, which steers towards
responses that take long), and, where ``--corpus`` names a folder, the inputs with which tests/faults/guided_fuzzer.py
reached new code of the parser. The two graders that use the pool take half of the time each. Every batch holds
canaries: answers whose verdict is known. A batch passes where each response has one verdict, in order; each canary has
its own; and the call ends within what its time limits allow. On a busy machine a canary may run out of time, which its
status says; graded again by itself it must have its verdict.
"""

import argparse
import json
import os
import platform
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings, target
from hypothesis import strategies as st

from ead.seeds import derive, generator
from ead.verifier import Verdict, Verifier

TIMEOUT_S, MEMORY_MB, WORKERS = 1.0, 512, 2
SLACK_S = 20.0  # to start the processes again, and for a machine that is busy with other work
STATUSES = {"ok", "no_answer", "timeout", "error"}
CANARIES = [
    (r"so it is $\boxed{\frac{2}{4}}$", "0.5", True),
    (r"\boxed{x^2 + 2x + 1}", "(x+1)^2", True),
    (r"\boxed{\frac{1}{3}}", "0.5", False),
    (r"\boxed{(2, 1)}", "(1, 2)", False),
]
GOLDS = [
    "3",
    "x+1",
    "(1,2)",
    r"\frac{3}{7}",
    r"\text{Friday}",
    r"\{1, 2, 3\}",
    r"[0, \infty)",
    "10^{100}",
    "-1",
    "12,345",
]

WORDS = [
    *(
        r"\frac",
        r"\frac{",
        r"\sqrt",
        r"\sqrt[",
        r"\int_",
        r"\sum_{",
        r"\prod",
        r"\lim_{",
        r"\binom",
        r"\mathbb{R}",
    ),
    *(
        r"\left(",
        r"\right)",
        r"\left\{",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        "&",
        r"\text{",
        r"\boxed{",
    ),
    *(
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "^",
        "_",
        "^{",
        "_{",
        "!",
        "=",
        "<",
        r"\le",
        r"\cup",
        r"\infty",
        r"\pi",
        "$",
        "%",
    ),
    *(
        "1",
        "0",
        "-",
        "+",
        "*",
        "/",
        ".",
        ",",
        "e",
        "x",
        "y",
        "i",
        "9" * 30,
        "1e999",
        "0." + "3" * 40,
        r"\log",
        r"\sin",
    ),
    *("\u2212", "\u00d7", "\u221e", "\u202e", "\u0000", "\ud800", "\U0001d7d9", "\u0663", " ", "\n", "\t"),
    *("__import__('os')", "lambda", "import", "None", "True", "nan", "inf", "Symbol", "#", '"', "'", "`"),
]


def repeated(parts: tuple[str, str, str], depth: int) -> str:
    opened, middle, closed = parts
    return opened * depth + middle + closed * depth


NESTS = [
    *(
        (r"\frac{", "1", "}{2}"),
        (r"\sqrt{", "x", "}"),
        ("(", "1", ")"),
        (r"\left(", "1", r"\right)"),
        ("{", "1", "}"),
    ),
    *(
        ("x^{", "2", "}"),
        ("x_{", "2", "}"),
        (r"\text{", "a", "}"),
        (r"\boxed{", "1", "}"),
        ("-", "1", ""),
        ("1+", "1", ""),
    ),
    *(
        (r"\sin ", "x", ""),
        (r"\{", "1", r"\}"),
        ("[", "1", "]"),
        ("2^", "2", ""),
        (r"\binom{", "1", "}{1}"),
        ("!", "", ""),
    ),
    *(
        ("", "5", "!"),
        ("|", "x", "|"),
        (r"\int ", "x", " dx"),
        (r"\sum_{i=1}^{9} ", "i", ""),
        ("1/(1+", "x", ")"),
    ),
]
POISONS = [
    *(
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "2^{2^{2^{100}}}",
        "(10^{1000})!",
        "99999!",
        "9999999999!!",
        r"\binom{10^9}{10^8}",
    ),
    *(
        r"\sum_{i=1}^{10^9} i^{i}",
        r"\prod_{k=1}^{10^7} k",
        r"\int_0^{\infty} e^{-x^{x^x}} dx",
        r"\lim_{x \to 0} x^{x^{x}}",
    ),
    *(
        "0." + "9" * 900,
        "1" * 990,
        "1e" + "9" * 300,
        "1,2," * 240 + "3",
        "x+" * 490 + "x",
        "1*" * 490 + "1",
        "(x+1)^{10^6}",
    ),
    *(
        r"\frac{1}{" * 120 + "2" + "}" * 120,
        r"\pi^{\pi^{\pi^{\pi}}}",
        r"\sqrt[10^9]{2^{10^9}}",
        "0^{0^{0}}",
        r"\frac{0}{0}",
    ),
    *(
        r"\{" + ",".join(map(str, range(300))) + r"\}",
        r"\begin{pmatrix}" + r"1 & 2 \\" * 80 + r"\end{pmatrix}",
    ),
    *(
        r"\sin(\cos(\tan(10^{100})))",
        r"(x+y+z+u+v+w)^{60} - 1",
        r"\log_{10^{-400}}(10^{400})",
        "1<x<2<y<3<z" * 20,
    ),
    *(
        r"\def\a{\a\a}\a",
        r"x = y = z = x",
        r"\infty - \infty",
        "5 = 5 = 5",
        "A" * 999,
        "\u0663\u0664",
        "1_000",
        "0x10",
    ),
]

texts = st.text(alphabet=st.characters(codec=None), max_size=300)
sentences = st.lists(st.sampled_from(WORDS), max_size=60).map("".join)
nests = st.builds(repeated, st.sampled_from(NESTS), st.integers(1, 400))
powers = st.lists(st.integers(0, 10**6), min_size=1, max_size=6).map(
    lambda n: "^{".join(map(str, n)) + "}" * (len(n) - 1)
)
answers = st.one_of(sentences, nests, powers, st.sampled_from(POISONS), texts)
long_texts = st.builds(
    lambda part, size: (part * (size // len(part) + 1))[:size],
    sentences.filter(len),
    st.integers(10**4, 2**20),
)
responses = st.one_of(
    answers.map(r"\boxed{{{}}}".format),
    answers.map("Answer: {}".format),
    answers.map("${}$".format),
    answers,
    st.builds("{}{}".format, long_texts, answers.map(r"\boxed{{{}}}".format)),
    long_texts,
)


class Watch(threading.Thread):
    """Samples the grading processes every 50 ms: their largest memory, how many there were."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server: int | None = None
        self.servers: set[int] = set()
        self.workers: set[int] = set()
        self.peak_bytes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            if self.server is None:
                continue
            try:
                children = psutil.Process(self.server).children()
                self.servers.add(self.server)
                self.workers |= {child.pid for child in children}
                self.peak_bytes = max([self.peak_bytes, *(child.memory_info().rss for child in children)])
            except psutil.Error:
                continue  # it has just ended


class Campaign:
    """One grading pool, and counts of what it was given."""

    def __init__(self, verifier: Verifier, root_seed: int, watch: Watch):
        self.verifier, self.watch, self.root_seed = verifier, watch, root_seed
        self.inputs = self.batches = self.canaries = self.characters = self.out_of_time = 0
        self.statuses: Counter[str] = Counter()
        self.faults: list[dict] = []
        self.slowest_s = 0.0
        self.slowest: list[str] = []

    def grade(self, hostile: list[str]) -> float:
        """Grade one batch with its canaries, check it, and return the seconds that it took."""
        random = generator(self.root_seed, "fuzz", self.batches)
        rows = [(text, GOLDS[random.integers(len(GOLDS))], None) for text in hostile]
        for canary in CANARIES:
            rows.insert(int(random.integers(len(rows) + 1)), canary)
        self.batches += 1
        self.inputs += len(hostile)
        self.canaries += len(CANARIES)
        self.characters += sum(map(len, hostile))
        self.verifier._cache.clear()  # a verdict from memory tests nothing
        started = time.monotonic()
        try:
            verdicts = self.verifier.grade([row[0] for row in rows], [row[1] for row in rows])
        except Exception as error:
            self.fault("the call raised", repr(error)[:300], hostile)
            return time.monotonic() - started
        finally:
            self.watch.server = self.verifier._server.pid if self.verifier._server else None
        taken = time.monotonic() - started
        allowed = SLACK_S + len(rows) * (TIMEOUT_S + 1.0) / WORKERS
        if taken > allowed:
            self.fault("the call hung", f"{taken:.1f} s of {allowed:.1f}", hostile)
        if taken > self.slowest_s:
            self.slowest_s, self.slowest = taken, [text[:200] for text in hostile]
        self.check(rows, verdicts, hostile)
        return taken

    def check(self, rows: list[tuple], verdicts: list[Verdict], hostile: list[str]) -> None:
        if len(verdicts) != len(rows):
            self.fault("the count differs", f"{len(verdicts)} verdicts of {len(rows)}", hostile)
            return
        for (text, _, expected), verdict in zip(rows, verdicts, strict=True):
            if expected is None:
                self.statuses[verdict.status] += 1
                if verdict.status not in STATUSES or (verdict.correct and verdict.status != "ok"):
                    self.fault("an impossible verdict", repr(verdict)[:300], [text])
            elif verdict.status == "timeout":
                self.out_of_time += 1
                if not self.is_right_alone(text, expected):
                    self.fault("a canary has no verdict by itself", text, hostile)
            elif (verdict.status, verdict.correct) != ("ok", expected):
                self.fault("a canary was changed", f"{text}: {verdict!r}"[:300], hostile)

    def is_right_alone(self, text: str, expected: bool, times: int = 5) -> bool:
        gold = next(gold for canary, gold, _ in CANARIES if canary == text)
        verdicts = (self.verifier.grade([text], [gold])[0] for _ in range(times))
        return any((verdict.status, verdict.correct) == ("ok", expected) for verdict in verdicts)

    def fault(self, kind: str, words: str, hostile: list[str]) -> None:
        self.faults.append({"kind": kind, "words": words, "inputs": [text[:2000] for text in hostile]})


def fuzz(campaign: Campaign, seconds: float) -> None:
    """Draw and grade batches for ``seconds``; hypothesis prefers what made a batch slow."""
    end = time.monotonic() + seconds
    part = 0
    while time.monotonic() < end:

        @seed(derive(campaign.root_seed, "fuzz", "hypothesis", part))
        @settings(
            max_examples=50,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.target],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(responses, min_size=1, max_size=24))
        def one(hostile):
            if time.monotonic() < end:
                target(campaign.grade(hostile), label="seconds")

        one()
        part += 1


def replay(campaign: Campaign, corpus: Path, batch: int = 24) -> int:
    """Grade the inputs of a corpus, boxed and as they are; return how many files it has."""
    files = sorted(path for path in corpus.iterdir() if path.is_file())
    found = [path.read_bytes().decode("utf-8", errors="surrogateescape") for path in files]
    hostile = [form for text in found for form in (text, rf"\boxed{{{text}}}")]
    for at in range(0, len(hostile), batch):
        campaign.grade(hostile[at : at + batch])
    return len(files)


def campaign(method: str, arguments: argparse.Namespace) -> dict:
    """Fuzz one grader for half of the time; return what happened."""
    watch = Watch()
    watch.start()
    started = time.monotonic()
    with Verifier(timeout_s=TIMEOUT_S, workers=WORKERS, memory_mb=MEMORY_MB, method=method) as verifier:
        campaign = Campaign(verifier, arguments.root_seed, watch)
        campaign.grade(["warm up"])
        files = replay(campaign, arguments.corpus) if arguments.corpus else 0
        fuzz(campaign, arguments.seconds / 2)
        left = len(psutil.Process(verifier._server.pid).children())
    watch.ended.set()
    return {
        "seconds": round(time.monotonic() - started, 1),
        "inputs": campaign.inputs,
        "inputs_of_the_guided_fuzzer": files,
        "characters": campaign.characters,
        "batches": campaign.batches,
        "canaries": campaign.canaries,
        "canaries_out_of_time": campaign.out_of_time,
        "statuses": dict(campaign.statuses.most_common()),
        "slowest_call_s": round(campaign.slowest_s, 2),
        "largest_worker_mb": round(watch.peak_bytes / 2**20),
        "workers_replaced": len(watch.workers) - WORKERS,
        "workers_at_the_end": left,
        "server_restarts": len(watch.servers) - 1,
        "faults": campaign.faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--corpus", type=Path, help="folder that tests/faults/guided_fuzzer.py filled")
    parser.add_argument("--root-seed", type=int, default=2025)
    parser.add_argument("--record", type=Path, help="write what happened to this file")
    arguments = parser.parse_args()
    record = {
        "date": datetime.now().date().isoformat(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "root_seed": arguments.root_seed,
        "limits": {"timeout_s": TIMEOUT_S, "memory_mb": MEMORY_MB, "workers": WORKERS},
        **{method: campaign(method, arguments) for method in ("math_verify", "careful")},
        "load_of_the_last_minutes": round(os.getloadavg()[1], 1),
    }
    text = json.dumps(record, indent=1, ensure_ascii=True) + "\n"
    if arguments.record:
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(text, encoding="utf-8")
    print(text)
    ended = (record["math_verify"], record["careful"])
    return int(any(found["faults"] or found["workers_at_the_end"] != WORKERS for found in ended))


if __name__ == "__main__":
    sys.exit(main())
