"""The grading process: imports math-verify once and forks workers that can be killed.

A program of its own, started by ``ead.verifier.Verifier`` with its standard input and output as pipes. It has one
thread, so that forking is safe whatever threads the caller runs, and a killed worker is replaced in milliseconds,
its parser already warm.

Caller to server, one JSON line per batch: ``[[gold, [[index, text], ...]], ...]``. A text is a whole response for
the grader math_verify, and an answer for the careful one.
Server to caller, one JSON line per item as it finishes: ``[index, correct, status, extracted, canonical]``.

A worker arms a kernel timer (``setitimer``) when it starts on an item, and SIGALRM keeps its default action: at
the deadline the kernel ends the worker, whatever it is doing, and the server reports *timeout* for this item. Any
other death, a memory use above the limit (the server kills the worker), or an exception of math-verify is *error*.
The limit is on resident memory, read every POLL_S: math-verify would take a MemoryError, which a limit on address
space raises, for an answer that cannot be parsed.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import psutil
from math_verify import LatexExtractionConfig, parse, verify
from math_verify import parser as extraction
from math_verify.grader import get_pct_val, is_relation, unwrap_eq
from sympy import Basic, Eq, FiniteSet, Float, Interval, Rational, Tuple

from ead.verifier import careful

CANONICAL_S = 1.0  # the printed form of an answer is worth this much time after its verdict
MAX_PRINTED_CHARACTERS = 4_000
POLL_S = 0.1  # how often the memory of the workers is read
# For what the careful grader cannot read (sums, integrals, limits): no letter is dropped as a unit.
ALGEBRA = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        normalization_config=replace(LatexExtractionConfig().normalization_config, units=False),
    )
]
UNIT_ITEMS = 8  # answers to one gold that go to a worker together

# The ANTLR parser learns its decisions from what it reads; parsed before forking, these serve every worker.
WARM_UP = [
    r"\frac{3}{2}",
    r"2\sqrt{13}",
    r"x^2 + 3x - 4",
    r"\left( -1, \frac{\pi}{2} \right)",
    r"1, 2, 3",
    r"[0, \infty)",
    r"0.25",
    r"12,345",
    r"30^\circ",
    r"50\%",
    r"\text{(B)}",
]

# Sympy imports and prepares much at its first comparison of unlike forms: done before forking, it is not charged to the
# first response of every new worker (0.2 s of its time limit).
WARM_UP_PAIRS = [
    ("(x+1)^2", "x^2 + 2x + 1"),
    ("(1, 2)", "(2, 1)"),
    ("0.5", r"\frac{2}{4}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
]


# Answers come back: math-verify remembers what it made of the last 20 texts, and this of more. An expression does not
# change, so neither does a verdict.
extraction.parse_latex_cached = lru_cache(maxsize=4096)(extraction.parse_latex_cached.__wrapped__)


# So do gold answers.
@lru_cache(maxsize=4096)
def parse_gold(gold: str) -> list:
    """Return what math-verify finds in a gold answer, given as its documentation asks: as a formula."""
    return parse(f"${gold}$", parsing_timeout=None)


def grade(gold: str, text: str) -> tuple[bool, str, str | None, str | None]:
    """Return (correct, status, extracted, None) of a response: math-verify's verdict with its defaults."""
    answer = parse(text, parsing_timeout=None)
    if not answer:
        return False, "no_answer", None, answer
    extracted = next((part for part in answer if isinstance(part, str)), None)
    expected = parse_gold(gold)
    if not expected:
        return False, "error", extracted, answer
    return *compare(expected, answer), extracted, answer


def grade_carefully(gold: str, text: str) -> tuple[bool, str, str | None, str | None]:
    """Return (correct, status, extracted, vote) of an answer; see ``ead.verifier.careful``."""
    try:
        decision = careful.decide(gold, text, exact=False)
    except careful.NeedsAlgebra:
        expected, answer = (
            parse(f"\\boxed{{{part}}}", ALGEBRA, parsing_timeout=None) for part in (gold, text)
        )
        correct, status = compare(expected, answer)
        return correct, status, text, careful.vote(text)
    return decision.correct, "ok", text, decision.canonical


def compare(gold: list, answer: list) -> tuple[bool, str]:
    """Return math-verify's verdict over all pairs, "error" where none is equal and a comparison raised."""
    status = "ok"
    # Texts, which come last, are compared first: that takes least, and one equal pair is enough.
    for expected, found in product(gold[::-1], answer[::-1]):
        try:
            if verify(expected, found, timeout_seconds=None, raise_on_error=True):
                return True, "ok"
        except Exception:
            status = "error"
    return False, status


def canonical(expression) -> str:
    """Return one text for equal values: rationals exactly, other numbers to 12 digits, else what sympy prints."""
    # As in x = 5, and i = 5, whose left side is no symbol.
    if isinstance(expression, Eq) and expression.lhs.is_Atom:
        expression = expression.rhs
    expression = unwrap_eq(expression)
    expression = get_pct_val(expression, expression)
    if is_relation(expression):
        return str(expression)  # doit() would make it true or false
    if isinstance(expression, FiniteSet):
        return "{" + ",".join(sorted(canonical(element) for element in expression.args)) + "}"
    if isinstance(expression, Tuple):
        return "(" + ",".join(canonical(element) for element in expression.args) + ")"
    if isinstance(expression, Interval):
        left, right = "(" if expression.left_open else "[", ")" if expression.right_open else "]"
        return f"{left}{canonical(expression.start)},{canonical(expression.end)}{right}"
    value = expression.doit()
    if isinstance(value, Float):
        value = Rational(str(value))
    if getattr(value, "is_number", False) and not value.is_Rational:
        value = value.evalf(12)
    return str(value)


def printed_form(answer: list) -> str | None:
    """Return the printed form of what math-verify extracted, or None."""
    printed = None
    if answer and isinstance(answer[0], Basic):
        with contextlib.suppress(Exception):
            printed = canonical(answer[0])
    return printed if printed is None or len(printed) <= MAX_PRINTED_CHARACTERS else None


def work(connection: socket.socket, timeout_s: float, grader) -> None:
    """Serve units ``[gold, [[index, text], ...]]`` until the connection closes."""
    stream = connection.makefile("rwb")

    def send(*message) -> None:
        stream.write(json.dumps(message).encode() + b"\n")
        stream.flush()

    for line in stream:
        gold, items = json.loads(line)
        for _, text in items:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            try:
                correct, status, extracted, answer = grader(gold, text)
            except Exception:
                correct, status, extracted, answer = False, "error", None, None
            send(correct, status, extracted)
            # From here the verdict stands; only its printed form can still be lost.
            signal.setitimer(signal.ITIMER_REAL, CANONICAL_S)
            printed = answer
            if isinstance(answer, list):
                printed = None if correct else printed_form(answer)
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(printed)


@dataclass
class Worker:
    pid: int
    connection: socket.socket
    received: bytes = b""
    gold: str = ""
    items: list = ()  # the unit's unfinished items, the first one in work
    verdict: list | None = None  # of the first item, while its printed form is awaited


class Server:
    def __init__(self, workers: int, timeout_s: float, memory_bytes: int, results: int, grader):
        self.timeout_s = timeout_s
        self.grader = grader
        self.memory_bytes = memory_bytes
        self.results = results
        self.selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []
        self.units: deque = deque()
        for _ in range(workers):
            self.start_worker()

    def start_worker(self) -> Worker:
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the child must not run our handler
        pid = os.fork()
        if pid == 0:
            # A copy of another worker's connection would hide the server's death from that worker.
            for other in self.workers:
                other.connection.close()
            ours.close()
            os.close(self.results)
            sys.stdin.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            try:
                work(theirs, self.timeout_s, self.grader)
            except ConnectionError:
                pass  # the server is gone
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        worker = Worker(pid, ours)
        self.workers.append(worker)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self.selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def run(self, batch: list) -> None:
        """Grade one batch, reporting every item once, in the order of finishing."""
        for gold, items in batch:
            self.units.extend((gold, items[at : at + UNIT_ITEMS]) for at in range(0, len(items), UNIT_ITEMS))
        next_poll = time.monotonic() + POLL_S
        while self.units or any(worker.items for worker in self.workers):
            for worker in list(self.workers):
                if self.units and not worker.items:
                    self.give(worker)
            for key, _ in self.selector.select(timeout=POLL_S):
                self.receive(key.data)
            if time.monotonic() >= next_poll:
                self.check_memory()
                next_poll = time.monotonic() + POLL_S

    def give(self, worker: Worker) -> None:
        worker.gold, worker.items = self.units.popleft()
        try:
            worker.connection.sendall(json.dumps([worker.gold, worker.items]).encode() + b"\n")
        except ConnectionError:  # it was killed while idle, so no item is to blame
            self.units.appendleft((worker.gold, worker.items))
            worker.items = []
            self.replace(worker)

    def receive(self, worker: Worker) -> None:
        try:
            data = worker.connection.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.replace(worker)
            return
        *lines, worker.received = (worker.received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if worker.verdict is None:
                worker.verdict = message
            else:
                self.finish(worker, message[0])

    def finish(self, worker: Worker, printed: str | None) -> None:
        (index, _), *worker.items = worker.items
        correct, status, extracted = worker.verdict
        worker.verdict = None
        message = json.dumps([index, correct, status, extracted, printed]).encode() + b"\n"
        while message:
            message = message[os.write(self.results, message) :]

    def replace(self, worker: Worker) -> None:
        """Bury a dead worker, report the item it was on, and put the rest of its unit back, one by one."""
        self.selector.unregister(worker.connection)
        self.workers.remove(worker)
        worker.connection.close()
        _, ended = os.waitpid(worker.pid, 0)
        if worker.items:
            timed_out = os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGALRM
            if worker.verdict is None:
                worker.verdict = [False, "timeout" if timed_out else "error", None]
            self.finish(worker, None)
            self.units.extendleft((worker.gold, [item]) for item in reversed(worker.items))
        self.start_worker()

    def check_memory(self) -> None:
        for worker in self.workers:
            try:
                used = psutil.Process(worker.pid).memory_info().rss
            except psutil.Error:
                continue  # it has just died: its connection tells
            if used > self.memory_bytes:
                os.kill(worker.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the workers and this process, from wherever a signal found it."""
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGKILL)
        for worker in self.workers:
            os.waitpid(worker.pid, 0)
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--method", choices=["math_verify", "careful"], required=True)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify warns that its own time-outs are off: ours are in force
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted caller closes our input
    results = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not write into the results
    if arguments.method == "math_verify":
        for text in WARM_UP:
            parsed = parse_gold(text)
            compare(parsed, parsed)
        for gold, answer in WARM_UP_PAIRS:
            compare(parse_gold(gold), parse_gold(answer))
    grader = {"math_verify": grade, "careful": grade_carefully}[arguments.method]
    gc.freeze()  # the collector would write to, and so copy, every page that workers share
    server = Server(arguments.workers, arguments.timeout_s, arguments.memory_bytes, results, grader)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    try:
        for line in sys.stdin.buffer:
            server.run(json.loads(line))
    except BrokenPipeError:
        pass  # the caller is gone
    server.stop()


if __name__ == "__main__":
    main()
