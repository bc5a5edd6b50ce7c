r"""Grading of answers: math-verify in processes with a hard time-out, or a string match.

``grade`` grades one list; ``Verifier`` keeps its processes and its cache for a training loop::

    with Verifier(timeout_s=5, workers=2) as verifier:
        verdicts = verifier.grade(responses, answers)
    Counter(verdict.status for verdict in verdicts)

What is graded (``method="math_verify"``, math-verify 0.9):

- The answer is the content of the response's last balanced ``\boxed{}``. It is put back into a box of its own
  and read as a whole: ``parse`` with LatexExtractionConfig(boxed_match_priority=0) and ExprExtractionConfig(),
  extraction_mode "first_match". A box that cannot be parsed is compared as text.
- A response without a box is read by the same extraction, in mode "any_match" (math-verify's default), in its
  last MAX_TAIL_CHARACTERS characters: "Answer: 5", "... is $5$", else its last number.
- The gold answer is put into a box and read like one: bare golds are misgraded. A gold that holds a box is
  unpacked first.
- Equal is what ``verify(gold, answer)`` says with its defaults. Answers written like the gold, and integers or
  integer expressions against integers, get the same verdict without it (tests/unit/test_verifier.py compares).

Statuses: ``ok`` graded; ``no_answer`` nothing to grade: no box and nothing found, an empty box, or an answer
longer than MAX_ANSWER_CHARACTERS; ``timeout`` the work on this item passed timeout_s; ``error`` math-verify
raised, or its process was killed or used more than memory_mb. All but ``ok`` have ``correct=False``, and no item
touches another.

``method="string_match"`` is the grader of the authors' release (D09): both sides in the form of ``normalise``,
equal or not; a response without a box is ``no_answer``.
"""

import contextlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from ead.verifier.text import MAX_ANSWER_CHARACTERS, evaluate_arithmetic, last_boxed, normalise, read_integer

__all__ = [
    "MAX_ANSWER_CHARACTERS",
    "MAX_TAIL_CHARACTERS",
    "Verdict",
    "Verifier",
    "evaluate_arithmetic",
    "grade",
    "last_boxed",
    "normalise",
]

MAX_TAIL_CHARACTERS = 1_000
_CACHED_PAIRS = 1 << 16
_METHODS = ("math_verify", "string_match")

_Item = tuple[str, bool, str]  # gold, boxed, text


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one response.

    ``extracted`` is the answer as the response writes it, or None. ``canonical`` is what the response votes for
    in Majority@N, or None where nothing was extracted. Correct answers vote together, for the gold's normal form.
    Wrong answers vote by value where they are numbers (rationals exactly, "6+7" and "13.0" alike; others to 12
    digits), element by element in sets, tuples and intervals, else by the expression sympy prints, and by
    ``normalise`` where that could not be had. A wrong answer never votes with a correct one.
    """

    correct: bool
    status: Literal["ok", "no_answer", "timeout", "error"]
    extracted: str | None
    canonical: str | None


class Verifier:
    """A grader that keeps its processes between calls. Use it as a context manager, or call ``close``.

    timeout_s: seconds of wall time one item may take, from when a worker starts on it.
    workers: number of processes that grade at once (>= 1).
    method: "math_verify" or "string_match" (which starts no process).
    memory_mb: resident memory of a worker (MiB) above which it is killed.

    Processes start with the first item that needs one. Calls from several threads take turns.
    Raises ValueError for a value outside these, ModuleNotFoundError without math-verify.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 5.0,
        workers: int = 2,
        method: Literal["math_verify", "string_match"] = "math_verify",
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
        if method == "math_verify":
            for package in ("math_verify", "psutil"):
                if importlib.util.find_spec(package) is None:
                    raise ModuleNotFoundError(
                        f"{package} is not installed: pip install 'ead[verifier]'", name=package
                    )
        self.timeout_s = timeout_s
        self.workers = workers
        self.method = method
        self.memory_mb = memory_mb
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        self._cache: OrderedDict[_Item, Verdict] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def grade(self, responses: Iterable[str], answers: Iterable[str]) -> list[Verdict]:
        """Return one verdict for each response, in order; ``answers`` holds the gold answer of each.

        Raises ValueError, naming the row, for lists of different lengths, entries that are not strings, and
        gold answers that are empty or longer than MAX_ANSWER_CHARACTERS; RuntimeError when no grading process
        can be kept alive.
        """
        responses, answers = list(responses), list(answers)
        if len(responses) != len(answers):
            raise ValueError(
                f"{len(responses)} responses but {len(answers)} answers: one answer per response is needed"
            )
        golds: dict[str, str] = {}
        for row, (response, answer) in enumerate(zip(responses, answers, strict=True)):
            for kind, text in (("response", response), ("answer", answer)):
                if not isinstance(text, str):
                    raise ValueError(f"{kind} {row} is {type(text).__name__}, not a string")
            if answer not in golds:
                golds[answer] = _unpack_gold(answer, row)
        graded = self._match_strings if self.method == "string_match" else self._verify
        return graded(responses, [golds[answer] for answer in answers])

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
                verdict, item = _grade_directly(response, gold)
                if item is not None:
                    if item in self._cache:
                        self._cache.move_to_end(item)
                        verdict = self._cache[item]
                    else:
                        waiting.setdefault(item, []).append(row)
                verdicts.append(verdict)
            for item, verdict in self._verify_items(list(waiting)).items():
                for row in waiting[item]:
                    verdicts[row] = verdict
                if verdict.status in ("ok", "no_answer"):  # a time-out may be the machine's fault: try again
                    self._cache[item] = verdict
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
            except (
                BaseException
            ):  # an interrupt between question and answer: the next call must not read old answers
                self._stop()
                raise
        return done

    def _exchange(self, items: list[_Item], done: dict[_Item, Verdict]) -> None:
        """Send ``items`` to the server and add each verdict to ``done`` as it comes."""
        if self._server is None:
            self._server = self._start()
        by_gold: dict[str, list] = {}
        for index, (gold, boxed, text) in enumerate(items):
            by_gold.setdefault(gold, []).append([index, boxed, text])
        self._server.stdin.write(json.dumps(list(by_gold.items())).encode() + b"\n")
        self._server.stdin.flush()
        for _ in items:
            line = self._server.stdout.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            index, correct, status, extracted, printed = json.loads(line)
            gold, boxed, text = items[index]
            extracted = text if boxed else extracted
            done[items[index]] = Verdict(correct, status, extracted, _vote(correct, extracted, printed, gold))

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-P", str(Path(__file__).with_name("server.py"))]
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


def grade(
    responses: Iterable[str],
    answers: Iterable[str],
    *,
    timeout_s: float = 5.0,
    workers: int = 2,
    method: Literal["math_verify", "string_match"] = "math_verify",
    memory_mb: int = 1024,
) -> list[Verdict]:
    """Grade ``responses`` against the gold ``answers`` once; see ``Verifier``, which keeps its processes."""
    with Verifier(timeout_s=timeout_s, workers=workers, method=method, memory_mb=memory_mb) as verifier:
        return verifier.grade(responses, answers)


_DIGIT = re.compile(r"[0-9]")
_NO_ANSWER = Verdict(correct=False, status="no_answer", extracted=None, canonical=None)


def _unpack_gold(answer: str, row: int) -> str:
    boxed = last_boxed(answer)
    gold = answer.strip() if boxed is None else boxed
    if not gold:
        raise ValueError(f"answer {row} is {answer!r}: a gold answer may not be empty")
    if len(gold) > MAX_ANSWER_CHARACTERS:
        raise ValueError(
            f"answer {row} has {len(gold)} characters: at most {MAX_ANSWER_CHARACTERS} are allowed"
        )
    return gold


def _grade_directly(response: str, gold: str) -> tuple[Verdict | None, _Item | None]:
    """Return the verdict where no process is needed for it, else the item to grade in one."""
    answer = last_boxed(response)
    if answer is None:
        tail = response[-MAX_TAIL_CHARACTERS:]
        return (None, (gold, False, tail)) if tail.strip() else (_NO_ANSWER, None)
    if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
        return _NO_ANSWER, None
    if answer == gold and _DIGIT.search(gold):
        # math-verify compares the texts it reads too, and no text with a digit is read as empty.
        return Verdict(True, "ok", answer, _vote(True, answer, None, gold)), None
    value, expected = read_integer(answer), evaluate_arithmetic(gold)
    if value is None or expected is None:
        return None, (gold, True, answer)
    correct = value == expected
    return Verdict(correct, "ok", answer, _vote(correct, answer, str(value), gold)), None


def _vote(correct: bool, extracted: str | None, printed: str | None, gold: str) -> str | None:
    """Return ``Verdict.canonical``; ``printed`` is the worker's form of a wrong answer, or None."""
    expected = normalise(gold)
    if correct:
        return expected
    if extracted is None:
        return None
    vote = printed if printed is not None else normalise(extracted)
    return vote if vote != expected else f"not {vote}"
