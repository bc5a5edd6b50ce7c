"""Look for answers that reach new code of the parser: atheris (libFuzzer) over math-verify and the text functions.

    python -m pip install atheris==2.3.0    # in an environment of its own, beside envs/cpu.txt
    python tests/faults/guided_fuzzer.py CORPUS -max_total_time=300

Here the parser runs in this process, without the pool that protects a training, so that coverage can be seen. An input
that takes longer than a second is ended and kept: CORPUS holds every input that reached new code, and
tests/faults/fuzz_verifier.py --corpus gives them to the real pool.
"""

import contextlib
import hashlib
import logging
import os
import signal
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ead.verifier", "math_verify", "latex2sympy2_extended"]):
    from ead.verifier import evaluate_arithmetic, last_boxed, normalise, server

TOKENS = [
    r"\frac{",
    r"\sqrt{",
    r"\boxed{",
    r"\left(",
    r"\right)",
    r"\text{",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
]
TOKENS += [
    r"\sum_{",
    r"\int_",
    r"\binom{",
    r"\infty",
    r"\cup",
    r"\pi",
    r"\log_",
    "^{",
    "_{",
    "}{",
    r"\%",
    r"\le",
    "10^",
]
CORPUS = Path(sys.argv[1])


class TooLong(BaseException):
    """Raised by the alarm; no handler of ``Exception`` stops it."""


def alarm(*_) -> None:
    raise TooLong


def text_of(data: bytes) -> str:
    """Return the text that ``data`` stands for: bytes above 127 are tokens of LaTeX, the rest is ASCII."""
    return "".join(chr(byte) if byte < 128 else TOKENS[byte % len(TOKENS)] for byte in data[:400])


def keep(text: str) -> None:
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    (CORPUS / "slow" / name).write_text(text, encoding="utf-8")


def try_one(data: bytes) -> None:
    text = text_of(data)
    evaluate_arithmetic(text)
    normalise(text)
    boxed = last_boxed(rf"so \boxed{{{text}}}")
    assert boxed is None or boxed in rf"so \boxed{{{text}}}"
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with contextlib.suppress(Exception):
            server.grade("3", True, text)
    except TooLong:
        keep(text)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def write_texts() -> None:
    """Turn libFuzzer's inputs into the texts that they stand for."""
    (CORPUS / "texts").mkdir(exist_ok=True)
    for path in sorted((CORPUS / "inputs").iterdir()):
        (CORPUS / "texts" / path.name).write_text(text_of(path.read_bytes()), encoding="utf-8")
    for path in sorted((CORPUS / "slow").iterdir()):
        (CORPUS / "texts" / f"slow-{path.name}").write_bytes(path.read_bytes())


def main() -> None:
    logging.disable(logging.WARNING)
    for folder in ("inputs", "slow"):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
    for number, token in enumerate([*server.WARM_UP, "9^{9^{9}}", "x=1", r"\{1,2\}"]):
        (CORPUS / "inputs" / f"start-{number}").write_bytes(token.encode())
    signal.signal(signal.SIGALRM, alarm)
    pid = os.fork()  # libFuzzer ends its process; what it found is turned into texts afterwards
    if pid == 0:
        options = ["-timeout=60", "-rss_limit_mb=4096", "-max_len=400", *sys.argv[2:]]
        atheris.Setup([sys.argv[0], *options, str(CORPUS / "inputs")], try_one)
        atheris.Fuzz()
        os._exit(0)
    _, ended = os.waitpid(pid, 0)
    write_texts()
    print(f"{len(list((CORPUS / 'texts').iterdir()))} texts in {CORPUS / 'texts'}")
    sys.exit(os.waitstatus_to_exitcode(ended))


if __name__ == "__main__":
    main()
