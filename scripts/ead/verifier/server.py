"""The grading process: imports math-verify once and forks workers that can be killed.

A program of its own, started by ``ead.verifier.Verifier`` with its standard input and output as pipes. It imports
nothing of this package and has one thread, so that forking is safe whatever threads the caller runs and a killed
worker is replaced in milliseconds, its parser already warm.

Caller to server, one JSON line per batch: ``[[gold, [[index, boxed, text], ...]], ...]``. Server to caller, one JSON line
per item as it finishes: ``[index, correct, status, extracted, canonical]``.

A worker arms a kernel timer (``setitimer``) when it starts on an item, and SIGALRM keeps its default action: at the
deadline the kernel ends the worker, whatever it is doing, and the server reports *timeout* for this item. Any
other death, a memory use above the limit (killed by the server), or an exception of math-verify is *error*.
"""

import argparse
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
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import psutil
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.grader import get_pct_val, unwrap_eq
from sympy import Basic, FiniteSet, Float, Interval, Rational, Tuple

CANONICAL_S = 1.0  # the printed form of an answer is worth this much time after its verdict
POLL_S = 0.1  # how often the memory of the workers is read
UNIT_ITEMS = 8  # answers to one gold that go to a worker together

# math-verify's defaults (LaTeX, then plain expressions), except that a box is taken before "final answer is".
EXTRACTION = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

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


def extract(text: str) -> list:
    """Return what math-verify finds: the parsed expression, if it could be parsed, and its text; [] for nothing."""
    return parse(text, EXTRACTION, parsing_timeout=None, raise_on_error=True)


@lru_cache(maxsize=1024)
def parse_gold(gold: str) -> list:
    if parsed := extract(f"\\boxed{{{gold}}}"):
        return parsed
    raise ValueError(f"math-verify finds nothing in the gold answer {gold!r}")


def compare(gold: list, answer: list) -> tuple[bool, str]:
    """Return math-verify's verdict over all pairs, and "error" where none is equal and a comparison raised."""
    status = "ok"
    for expected, found in product(gold, answer):
        try:
            if verify(expected, found, timeout_seconds=None, raise_on_error=True):
                return True, "ok"
        except Exception:
            status = "error"
    return False, status


def canonical(expression) -> str:
    """Return one text for equal values: exact rationals, other numbers to 12 digits, else the printed expression."""
    expression = unwrap_eq(expression)
    expression = get_pct_val(expression, expression)
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


def work(connection: socket.socket, timeout_s: float) -> None:
    """Serve units ``[gold, [[index, boxed, text], ...]]`` until the connection closes."""
    stream = connection.makefile("rwb")

    def send(*message) -> None:
        stream.write(json.dumps(message).encode() + b"\n")
        stream.flush()

    for line in stream:
        gold, items = json.loads(line)
        for _, boxed, text in items:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            answer, extracted = [], None
            try:
                answer = extract(f"\\boxed{{{text}}}" if boxed else text)
                extracted = next((part for part in answer if isinstance(part, str)), None)
                correct, status = compare(parse_gold(gold), answer) if answer else (False, "no_answer")
            except Exception:
                correct, status = False, "error"
            send(correct, status, extracted)
            # From here the verdict stands; only its printed form can still be lost.
            signal.setitimer(signal.ITIMER_REAL, CANONICAL_S)
            printed = None
            if not correct and answer and isinstance(answer[0], Basic):
                try:
                    printed = canonical(answer[0])
                except Exception:
                    printed = None
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
    over_memory: bool = False


class Server:
    def __init__(self, workers: int, timeout_s: float, memory_bytes: int, results: int):
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self.results = results
        self.selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []
        self.units: deque = deque()
        for _ in range(workers):
            self.start_worker()

    def start_worker(self) -> Worker:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            # A copy of another worker's connection would hide the server's death from that worker.
            for other in self.workers:
                other.connection.close()
            ours.close()
            os.close(self.results)
            sys.stdin.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                work(theirs, self.timeout_s)
            except ConnectionError:
                pass  # the server is gone
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        worker = Worker(pid, ours)
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def run(self, batch: list) -> None:
        """Grade one batch, reporting every item once, in the order of finishing."""
        for gold, items in batch:
            self.units.extend((gold, items[at : at + UNIT_ITEMS]) for at in range(0, len(items), UNIT_ITEMS))
        for worker in list(self.workers):
            self.give(worker)
        next_poll = time.monotonic() + POLL_S
        while any(worker.items for worker in self.workers):
            for key, _ in self.selector.select(timeout=POLL_S):
                self.receive(key.data)
            if time.monotonic() >= next_poll:
                self.check_memory()
                next_poll = time.monotonic() + POLL_S

    def give(self, worker: Worker) -> None:
        if self.units:
            worker.gold, worker.items = self.units.popleft()
            try:
                worker.connection.sendall(json.dumps([worker.gold, worker.items]).encode() + b"\n")
            except OSError:  # it died idle: receive() sees the end of its stream and replaces it
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
        if lines and not worker.items:
            self.give(worker)

    def finish(self, worker: Worker, printed: str | None) -> None:
        (index, _, _), *worker.items = worker.items
        correct, status, extracted = worker.verdict
        worker.verdict = None
        message = json.dumps([index, correct, status, extracted, printed]).encode() + b"\n"
        while message:
            message = message[os.write(self.results, message) :]

    def replace(self, worker: Worker) -> None:
        """Bury a dead worker, report the item it was on, and give the rest of its unit to a new one."""
        self.selector.unregister(worker.connection)
        self.workers.remove(worker)
        worker.connection.close()
        _, ended = os.waitpid(worker.pid, 0)
        if worker.items:
            timed_out = os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGALRM
            if worker.verdict is None:
                worker.verdict = [False, "timeout" if timed_out and not worker.over_memory else "error", None]
            self.finish(worker, None)
            if worker.items:
                self.units.appendleft((worker.gold, worker.items))
        self.give(self.start_worker())

    def check_memory(self) -> None:
        for worker in self.workers:
            try:
                used = psutil.Process(worker.pid).memory_info().rss
            except psutil.Error:
                continue  # it has just died: its connection tells
            if used > self.memory_bytes:
                worker.over_memory = True
                os.kill(worker.pid, signal.SIGKILL)

    def stop(self) -> None:
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify warns that its own time-outs are off: ours are in force
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted caller closes our input
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    results = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not write into the results
    for text in WARM_UP:
        parsed = parse_gold(text)
        compare(parsed, parsed)
    gc.freeze()  # the collector would write to, and so copy, every page that workers share
    server = Server(arguments.workers, arguments.timeout_s, arguments.memory_bytes, results)
    try:
        for line in sys.stdin.buffer:
            server.run(json.loads(line))
    except BrokenPipeError:
        pass  # the caller is gone
    finally:
        server.stop()


if __name__ == "__main__":
    main()
