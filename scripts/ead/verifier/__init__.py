r"""Grading of answers: three graders, two of them in processes with a hard time-out.

``grade`` grades one list; ``Verifier`` keeps its processes and its cache for a training loop::

    with Verifier(timeout_s=5, workers=2) as verifier:
        verdicts = verifier.grade(responses, answers)
    Counter(verdict.status for verdict in verdicts)

- ``method="careful"`` (the default): the answer is what ``reading`` says (the last box, boxes that belong together,
  else a stated answer), read as LaTeX, program or plain text by ``notation``, and compared by value by
  ``equality``. Sums, integrals and limits are compared by math-verify.
- ``method="math_verify"`` is the paper's reward: ``verify(parse(f"${gold}$"), parse(response))`` of math-verify 0.9
  with its defaults, the mistakes included. Responses with one box that holds an integer expression, or the gold's own
  text, get the same verdict without it (tests/unit/test_verifier.py compares).
- ``method="string_match"`` is the grader of the authors' release (D09): the last box and the gold in the form of
  ``normalise``, equal or not; a response without a box is ``no_answer``.

docs/method.md says where they differ. A gold answer that holds a box is unpacked first.

Statuses: ``ok`` graded; ``no_answer`` nothing to grade; ``timeout`` the work on this item passed timeout_s; ``error``
the gold answer cannot be graded (``check_gold`` says why), math-verify raised, or the item's process was killed or
used more than memory_mb. All but ``ok`` have ``correct=False``, and no item touches another.
"""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from ead.verifier import careful
from ead.verifier.equality import NeedsNumerics
from ead.verifier.reading import MAX_TAIL_CHARACTERS, joined_boxes, read_answers
from ead.verifier.text import MAX_ANSWER_CHARACTERS, evaluate_arithmetic, last_boxed, normalise, read_integer

__all__ = [
    "MAX_ANSWER_CHARACTERS",
    "MAX_TAIL_CHARACTERS",
    "Verdict",
    "Verifier",
    "check_gold",
    "evaluate_arithmetic",
    "grade",
    "last_boxed",
    "normalise",
]

Method = Literal["careful", "math_verify", "string_match"]

_CACHED_PAIRS = 1 << 16
_LONG = 400  # characters; longer texts are cached by their digest
_METHODS = get_args(Method)

_Item = tuple[str, str]  # gold; answer, or whole response for math_verify


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one response.

    ``extracted`` is the answer as the response writes it, or None. ``canonical`` is what the response votes for
    in Majority@N, or None where nothing was extracted. Correct answers vote together, for the gold's normal form.
    Wrong answers vote by value (rationals exactly, "6+7" and "13.0" alike; others to 12 digits), element by element
    in sets, tuples and intervals, and by ``normalise`` where no value could be had. A wrong answer never votes with a
    correct one.
    """

    correct: bool
    status: Literal["ok", "no_answer", "timeout", "error"]
    extracted: str | None
    canonical: str | None


class Verifier:
    """A grader that keeps its processes between calls. Use it as a context manager, or call ``close``.

    timeout_s: seconds of wall time one item may take, from when a worker starts on it.
    workers: number of processes that grade at once (>= 1).
    method: "careful", "math_verify" or "string_match" (which starts no process).
    memory_mb: resident memory of a worker (MiB) above which it is killed.

    Processes start with the first item that needs one. Calls from several threads take turns. After a fork the child
    starts processes of its own.
    Raises ValueError for a value outside these, ModuleNotFoundError without math-verify.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 5.0,
        workers: int = 2,
        method: Method = "careful",
        memory_mb: int = 1024,
    ):
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise ValueError(f"timeout_s is {timeout_s!r}: a positive number of seconds is needed")
        if workers < 1:
            raise ValueError(
                f"workers is {workers!r}: at least 1 is needed, since only a process can be stopped"
            )
        if method not in _METHODS:
            raise ValueError(f"method is {method!r}: allowed are {', '.join(_METHODS)}")
        if memory_mb < 256:
            raise ValueError(
                f"memory_mb is {memory_mb!r}: at least 256 is needed, sympy alone takes about 100"
            )
        if method != "string_match":
            for package in ("math_verify", "psutil"):
                if importlib.util.find_spec(package) is None:
                    raise ModuleNotFoundError(
                        f"{package} is not installed: pip install 'math-verify[antlr4_13_2]<0.10' psutil (beside "
                        "verl: antlr4_9_3)",
                        name=package,
                    )
        self.timeout_s = timeout_s
        self.workers = workers
        self.method = method
        self.memory_mb = memory_mb
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        self._cache: OrderedDict[tuple, Verdict] = OrderedDict()
        self._directly = _grade_carefully if method == "careful" else _grade_directly
        _VERIFIERS.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def grade(self, responses: Iterable[str], answers: Iterable[str]) -> list[Verdict]:
        """Return one verdict for each response, in order; ``answers`` holds the gold answer of each.

        A gold answer that ``check_gold`` objects to gives its rows the status ``error``.

        Raises ValueError, naming the row, for lists of different lengths, a string in place of a list and entries
        that are not strings;
        RuntimeError when no grading process can be kept alive.
        """
        for kind, texts in (("responses", responses), ("answers", answers)):
            if isinstance(texts, str):
                raise ValueError(f"{kind} is a string: a list with one text per response is needed")
        responses, answers = list(responses), list(answers)
        if len(responses) != len(answers):
            raise ValueError(
                f"{len(responses)} responses but {len(answers)} answers: one answer per response is needed"
            )
        golds: dict[str, str | None] = {}
        for row, (response, answer) in enumerate(zip(responses, answers, strict=True)):
            for kind, text in (("response", response), ("answer", answer)):
                if not isinstance(text, str):
                    raise ValueError(f"{kind} {row} is {type(text).__name__}, not a string")
            if answer not in golds:
                unpack = _unpack_boxes if self.method == "careful" else _unpack_gold
                golds[answer] = None if check_gold(answer) else unpack(answer)
        verdicts = [_NO_GOLD] * len(responses)
        rows = [row for row, answer in enumerate(answers) if golds[answer] is not None]
        graded = self._match_strings if self.method == "string_match" else self._verify
        found = graded([responses[row] for row in rows], [golds[answers[row]] for row in rows])
        for row, verdict in zip(rows, found, strict=True):
            verdicts[row] = verdict
        return verdicts

    def close(self) -> None:
        """End the processes. The next ``grade`` starts new ones."""
        with self._lock:
            self._stop()

    def _match_strings(self, responses: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
        verdicts = []
        for response, gold in zip(responses, golds, strict=True):
            answer = last_boxed(response)
            if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
                verdicts.append(_NO_ANSWER)
                continue
            canonical = normalise(answer)
            verdicts.append(Verdict(canonical == normalise(gold), "ok", answer, canonical))
        return verdicts

    def _verify(self, responses: Sequence[str], golds: Sequence[str]) -> list[Verdict]:
        verdicts: list[Verdict | None] = []
        waiting: dict[_Item, list[int]] = {}
        with self._lock:
            for row, (response, gold) in enumerate(zip(responses, golds, strict=True)):
                verdict, item = self._directly(response, gold)
                if item is not None:
                    if (key := _key(item)) in self._cache:
                        self._cache.move_to_end(key)
                        verdict = self._cache[key]
                    else:
                        waiting.setdefault(item, []).append(row)
                verdicts.append(verdict)
            for item, verdict in self._verify_items(list(waiting)).items():
                for row in waiting[item]:
                    verdicts[row] = verdict
                if verdict.status in ("ok", "no_answer"):  # a time-out may be the machine's fault: try again
                    self._cache[_key(item)] = verdict
            while len(self._cache) > _CACHED_PAIRS:
                self._cache.popitem(last=False)
        return verdicts

    def _verify_items(self, items: list[_Item]) -> dict[_Item, Verdict]:
        """Grade distinct items in the processes, starting them anew where they were killed."""
        done: dict[_Item, Verdict] = {}
        starts_without_progress = 0
        while len(done) < len(items):
            before = len(done)
            try:
                self._exchange([item for item in items if item not in done], done)
            except (BrokenPipeError, EOFError):
                self._stop()
                starts_without_progress = 0 if len(done) > before else starts_without_progress + 1
                if starts_without_progress == 2:
                    raise RuntimeError(
                        "the grading process died twice without a verdict on any of the remaining "
                        f"{len(items) - len(done)} items; its own message, if any, is on standard error"
                    ) from None
            except BaseException:
                # An interrupt between question and answer: the next call must not read old answers.
                self._stop()
                raise
        return done

    def _exchange(self, items: list[_Item], done: dict[_Item, Verdict]) -> None:
        """Send ``items`` to the server and add each verdict to ``done`` as it comes."""
        if self._server is None:
            self._server = self._start()
        by_gold: dict[str, list] = {}
        for index, (gold, text) in enumerate(items):
            by_gold.setdefault(gold, []).append([index, text])
        self._server.stdin.write(json.dumps(list(by_gold.items())).encode() + b"\n")
        self._server.stdin.flush()
        for _ in items:
            line = self._server.stdout.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            index, correct, status, extracted, printed = json.loads(line)
            gold, text = items[index]
            if self.method == "careful":
                extracted = text
            done[items[index]] = Verdict(correct, status, extracted, _vote(correct, extracted, printed, gold))

    def _start(self) -> subprocess.Popen:
        # Not by -m: the caller may have the package on its path in a way that a new process has not.
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); {_RUN_SERVER}"
        command = [sys.executable, "-P", "-c", program, "--method", self.method]
        command += ["--workers", str(self.workers), "--timeout-s", str(self.timeout_s)]
        command += ["--memory-bytes", str(self.memory_mb << 20)]
        # The order of sympy's sets, and so a verdict in a corner, depends on the hash seed.
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def _stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.terminate()
            server.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # what was left in its buffer is for nobody
                server.stdin.close()
            server.wait()

    def _leave_to_parent(self) -> None:
        """In a forked child: forget the server, which is the parent's, and whose pipes both would read."""
        self._lock = threading.Lock()  # a thread that held it does not exist here
        if self._server is not None:
            server, self._server = self._server, None
            server.returncode = 0  # no child of this process: nothing to wait for
            for pipe in (server.stdin, server.stdout):
                pipe.raw.close()  # without writing what the parent's buffer holds


_VERIFIERS: weakref.WeakSet[Verifier] = weakref.WeakSet()


def _leave_servers_to_parent() -> None:
    for verifier in list(_VERIFIERS):
        verifier._leave_to_parent()


os.register_at_fork(after_in_child=_leave_servers_to_parent)


def grade(
    responses: Iterable[str],
    answers: Iterable[str],
    *,
    timeout_s: float = 5.0,
    workers: int = 2,
    method: Method = "careful",
    memory_mb: int = 1024,
) -> list[Verdict]:
    """Grade ``responses`` against the gold ``answers`` once; see ``Verifier``, which keeps its processes."""
    with Verifier(timeout_s=timeout_s, workers=workers, method=method, memory_mb=memory_mb) as verifier:
        return verifier.grade(responses, answers)


_RUN_SERVER = "from ead.verifier.server import main; main()"
_DIGIT = re.compile(r"[0-9]")
_FINAL = re.compile(r"final answer", re.IGNORECASE)
_FINAL_BOX = re.compile(
    r"final answer is:?\s+\$\\boxed\{(?:(?!final answer)[^$\n])*\}\$\.?(?:\s*I hope it is correct\.?)?\s*",
    re.IGNORECASE,
)
_NO_ANSWER = Verdict(correct=False, status="no_answer", extracted=None, canonical=None)
_NO_GOLD = Verdict(correct=False, status="error", extracted=None, canonical=None)


def check_gold(answer: str) -> str | None:
    """Return why no response can be graded against the gold ``answer``, or None if one can."""
    gold = _unpack_gold(answer)
    if not gold:
        return f"the gold answer is {answer!r:.40}: it may not be empty"
    if len(gold) > MAX_ANSWER_CHARACTERS:
        return f"the gold answer has {len(gold):,} characters: at most {MAX_ANSWER_CHARACTERS:,} are graded"
    return None


def _unpack_gold(answer: str) -> str:
    boxed = last_boxed(answer)
    return answer.strip() if boxed is None else boxed


def _unpack_boxes(answer: str) -> str:
    return (joined_boxes(answer) if "\\boxed" in answer else None) or _unpack_gold(answer)


def _key(item: _Item) -> tuple:
    gold, text = item
    return gold, text if len(text) <= _LONG else hashlib.blake2b(
        text.encode("utf-8", "surrogatepass")
    ).digest()


def _grade_carefully(response: str, gold: str) -> tuple[Verdict | None, _Item | None]:
    """Return the careful verdict where no process is needed for it, else the item to grade in one."""
    texts = [text for text in read_answers(response) if len(text) <= MAX_ANSWER_CHARACTERS]
    answer = texts[0] if texts else ""
    try:
        answer = next((text for text in texts if careful.readable(text)), answer)
        if not answer:
            return _NO_ANSWER, None
        decision = careful.decide(gold, answer, exact=True)
    # A fault of one row costs that row only: its process reports it.
    except (NeedsNumerics, careful.NeedsAlgebra, ArithmeticError, MemoryError, TypeError, ValueError):
        return None, (gold, answer)
    except RecursionError:  # the caller's own calls take most of the stack; a process has all of it
        return None, (gold, answer)
    return Verdict(
        decision.correct, "ok", answer, _vote(decision.correct, answer, decision.canonical, gold)
    ), None


def _grade_directly(response: str, gold: str) -> tuple[Verdict | None, _Item | None]:
    """Return math-verify's verdict where no process is needed for it, else the item to grade in one."""
    if not response.strip():
        return _NO_ANSWER, None
    answer = _only_box(response)
    if answer is None:
        return None, (gold, response)
    if answer == gold and _DIGIT.search(gold) and not re.search(r"[$\n%]", gold):
        # math-verify compares the texts it reads too, and no text with a digit is read as empty.
        return Verdict(True, "ok", answer, _vote(True, answer, None, gold)), None
    value, expected = read_integer(answer), evaluate_arithmetic(gold)
    if value is None or expected is None:
        return None, (gold, response)
    correct = value == expected
    return Verdict(correct, "ok", answer, _vote(correct, answer, str(value), gold)), None


def _only_box(response: str) -> str | None:
    r"""Return the content of the response's only box where that is certainly what math-verify extracts.

    It prefers what follows "final answer is", reads a percent sign behind the box, and counts braces without regard
    to backslashes. Where "final answer is" stands right before ``$\boxed{...}$`` and nothing follows, its pattern and
    that of the box hold the same text.
    """
    if response.count("boxed") != 1 or "fbox" in response:
        return None
    if (final := _FINAL.search(response)) and not _FINAL_BOX.fullmatch(response, final.start()):
        return None
    before, opening, after = response.partition("\\boxed{")
    answer = last_boxed(response)
    if not opening or not answer or "\\{" in answer or "\\}" in answer:
        return None
    behind = after.partition("}")[2] if "{" not in answer else after[len(answer) :]
    return None if "%" in behind or "ercent" in behind or "pct" in behind else answer


def _vote(correct: bool, extracted: str | None, printed: str | None, gold: str) -> str | None:
    """Return ``Verdict.canonical``; ``printed`` is the worker's form of a wrong answer, or None."""
    expected = normalise(gold)
    if correct:
        return expected
    if extracted is None:
        return None
    vote = printed if printed is not None else normalise(extracted)
    return vote if vote != expected else f"not {vote}"
