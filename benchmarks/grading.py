"""Throughput of ead.verifier against a bare math-verify loop, on the same responses in one run.

    python benchmarks/grading.py --data FOLDER [--responses 5000] [--rounds 3] [--verl PYTHON] [--output FILE]

FOLDER is the configuration's ``paths.real_data``, with the data sets as their repositories publish them. The responses
are the data sets' own worked solutions with one box, GSM8K and MATH in equal parts, with an answer put into the box
(for GSM8K the ``#### 18`` becomes a sentence with ``\\boxed{18}``). Of each four responses to a problem one holds the
gold answer, one the same value written another way (``\\dfrac``, ``.0``, spaces, a currency sign, ``x = ...``, a sum,
``\\left(``), and two hold a wrong answer: a digit changed, or another problem's gold. Two sets:

- *rollouts*: four responses to each problem, as in training;
- *distinct*: one response, of a kind drawn at random, to each of as many problems: nothing repeats by design.

The baseline is the loop of math-verify's README in this process, ``verify(parse("$gold$"), parse(response))``. It is
compared with verifiers of both methods, careful and math_verify, kept from round to round, as in a training loop, and
with new ones, whose processes start, import and warm up within the time. Every round has problems of its own, so that
no cache helps from round to round; a first round, on problems of its own too, is not counted. Rounds alternate; ratios
are of medians. On a machine that others use, the CPU time says what the wall time cannot. With ``--verl``, an
interpreter that has verl, its scorer (which boxes the gold) and its pool of four processes are graded beside them
(grading_verl.py).

At the end the verdicts of the loop and of both methods are compared on every data set of FOLDER that math-verify
grades: one response of a kind drawn at random to each problem, of every kind in sets of up to SMALL problems. Those of
math_verify should be the loop's; where the careful grader differs, the record lists gold answer and answer.
"""

import argparse
import contextlib
import json
import logging
import re
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from arms import Arm, machine
from math_verify import parse, verify
from stamps import stamp

from ead.seeds import generator
from ead.verifier import Verifier, last_boxed
from reproduction.data import read_dataset
from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import load_datasets
from reproduction.files import write_json
from reproduction.tasks import multiple_choice
from reproduction.tasks.grading import problems_of

SMALL = 2000
KINDS = ("gold", "rewritten", "wrong", "wrong")
METHODS = ("careful", "math_verify")
SETS = {"rollouts": True, "distinct": False}  # name -> all kinds for each problem


def read_problems(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the (solution with a box, gold answer) pairs of GSM8K and of MATH."""
    gsm8k, math = [], []
    with (folder / "gsm8k_train.jsonl").open() as lines:
        for line in lines:
            solution, _, gold = json.loads(line)["answer"].partition("#### ")
            gold = gold.strip()
            gsm8k.append((f"{solution}The final answer is $\\boxed{{{gold}}}$.", gold))
    with (folder / "math_test.jsonl").open() as lines:
        for line in lines:
            solution = json.loads(line)["solution"]
            gold = last_boxed(solution)
            if gold and solution.count("\\boxed") == 1 and f"\\boxed{{{gold}}}" in solution:
                math.append((solution, gold))
    return gsm8k, math


def rewrite(gold: str, random: np.random.Generator) -> str:
    """Return ``gold`` in another notation of the same value."""
    forms = [f" {gold} "]
    if re.fullmatch(r"-?\d+", gold):
        forms += [f"{gold}.0", f"\\${gold}", f"x = {gold}", f"{int(gold) - 7} + 7"]
    if "\\frac" in gold:
        forms += [gold.replace("\\frac", "\\dfrac")] * 3
    if gold.startswith("(") and gold.endswith(")"):
        forms += [f"\\left({gold[1:-1]}\\right)"] * 3
    return str(random.choice(forms))


def spoil(gold: str, others: list[str], random: np.random.Generator) -> str:
    """Return a wrong answer: ``gold`` with one digit raised, or another problem's gold."""
    digits = [match.start() for match in re.finditer(r"[0-8]", gold)]
    if digits and random.random() < 0.7:
        at = int(random.choice(digits))
        return gold[:at] + str(int(gold[at]) + 1) + gold[at + 1 :]
    return str(random.choice(others))


def respond(
    problems: list[tuple[str, str]], every_kind: bool, random: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return responses and gold answers: for each problem one response of every kind, or of one at random."""
    golds = [gold for _, gold in problems]
    responses, answers = [], []
    for solution, gold in problems:
        before, _, after = solution.rpartition(f"\\boxed{{{gold}}}")
        for kind in KINDS if every_kind else [str(random.choice(KINDS))]:
            answer = gold
            if kind == "rewritten":
                answer = rewrite(gold, random)
            elif kind == "wrong":
                answer = spoil(gold, golds, random)
            responses.append(f"{before}\\boxed{{{answer}}}{after}")
            answers.append(gold)
    return responses, answers


def grade_bare(responses: list[str], answers: list[str]) -> list[bool]:
    return [
        verify(parse(f"${answer}$"), parse(response))
        for response, answer in zip(responses, answers, strict=True)
    ]


def read_clocks() -> tuple[float, float]:
    """Return wall seconds, and CPU seconds of this process and all its descendants, ended ones too."""
    this = psutil.Process()
    cpu = sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))
    return time.perf_counter(), cpu


def compare_verdicts(data: Path, workers: int, random: np.random.Generator) -> dict[str, dict]:
    """Return, by data set, the numbers of problems and of verdicts that are not the loop's, with these responses."""
    found = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Verifier(workers=workers, method="math_verify") as verifier,
        Verifier(workers=workers, method="careful") as careful,
    ):
        for name, entry in load_datasets().items():
            if entry.local is None:
                continue
            path = Path(scratch) / f"{name}.parquet"
            prepare_dataset(name, entry, path, path.with_suffix(".json"), real_data=data, any_length=True)
            problems = [p for p in problems_of(read_dataset(path)) if p.ability != multiple_choice.ABILITY]
            if not problems:
                continue
            pairs = [(f"So the answer is $\\boxed{{{p.answer}}}$.", p.answer) for p in problems]
            responses, answers = respond(pairs, every_kind=len(pairs) <= SMALL, random=random)
            expected, verdicts = grade_bare(responses, answers), verifier.grade(responses, answers)
            own = careful.grade(responses, answers)
            found[name] = {
                "problems": len(problems),
                "responses": len(responses),
                "correct": sum(expected),
                "not_ok": sum(verdict.status != "ok" for verdict in verdicts),
                "differing": list_differing(responses, answers, expected, verdicts),
                "careful_not_ok": sum(verdict.status != "ok" for verdict in own),
                **{
                    f"only_{who}": sorted(
                        f"{answer} <- {verdict.extracted}"
                        for bare, verdict, answer in zip(expected, own, answers, strict=True)
                        if bare != verdict.correct == (who == "careful")
                    )
                    for who in ("careful", "math_verify")
                },
            }
            print(
                f"{name}: {len(found[name]['differing'])} of {len(responses)} verdicts are not the loop's; correct "
                f"only for careful {len(found[name]['only_careful'])}, only for math-verify "
                f"{len(found[name]['only_math_verify'])}",
                flush=True,
            )
    return found


def list_differing(responses, answers, expected, verdicts) -> list[str]:
    return [
        f"gold {answer!r}: loop {bare}, {verdict}; response ends {response[-120:]!r}"
        for bare, verdict, response, answer in zip(expected, verdicts, responses, answers, strict=True)
        if bare != verdict.correct
    ]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets' local copies")
    parser.add_argument("--responses", type=int, default=5000, help="responses per round of the first set")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verl", type=Path, help="Python of an environment with verl")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)

    code = stamp("grading")
    random = generator(arguments.seed, "benchmark", "grading")
    gsm8k, math = ([rows[i] for i in random.permutation(len(rows))] for rows in read_problems(arguments.data))
    share = arguments.responses // len(KINDS) // 2  # problems per data set and round
    if (available := min(len(gsm8k), len(math)) // share - 1) < arguments.rounds:
        parser.error(f"--rounds {arguments.rounds}: the data sets hold problems for {available} rounds")
    with (
        Arm(arguments.verl, "grading_verl.py", threads=1)
        if arguments.verl
        else contextlib.nullcontext() as verl
    ):
        sets = {
            name: measure(gsm8k, math, share, every_kind, arguments, random, verl)
            for name, every_kind in SETS.items()
        }
    verdicts = compare_verdicts(arguments.data, arguments.workers, random)
    if arguments.output:
        about = machine(1, "math-verify", "sympy") | {
            "workers": arguments.workers,
            "rounds": arguments.rounds,
        }
        write_json(arguments.output, {"machine": about, "code": code, "sets": sets, "verdicts": verdicts})


def measure(gsm8k, math, share: int, every_kind: bool, arguments, random, verl: Arm | None) -> dict:
    """Time the graders on one set, round by round; print and return medians and ranges over rounds."""
    graders = ["bare loop", *(f"{age} {method}" for method in METHODS for age in ("kept", "new"))]
    graders += ["verl"] if verl else []
    runs: dict[str, list[tuple[float, float]]] = {grader: [] for grader in graders}
    differing, verls, not_ok = [], 0, 0
    with contextlib.ExitStack() as stack:
        kept = {m: stack.enter_context(Verifier(workers=arguments.workers, method=m)) for m in METHODS}
        for round_ in range(arguments.rounds + 1):
            rows = slice(round_ * share, (round_ + 1) * share)
            responses, answers = respond(gsm8k[rows] + math[rows], every_kind, random)
            clocks = [read_clocks()]
            expected = grade_bare(responses, answers)
            clocks.append(read_clocks())
            for method in METHODS:
                verdicts = kept[method].grade(responses, answers)
                clocks.append(read_clocks())
                with Verifier(workers=arguments.workers, method=method) as new:
                    again = new.grade(responses, answers)
                clocks.append(read_clocks())
                if again != verdicts:
                    raise RuntimeError(f"the kept and the new verifier disagree ({method})")
            scores = verl.ask(responses=responses, answers=answers)["scores"] if verl else expected
            clocks.append(read_clocks())
            if round_ == 0:
                continue
            for grader, start, end in zip(graders, clocks[:-1], clocks[1:], strict=False):
                runs[grader].append((end[0] - start[0], end[1] - start[1]))
            not_ok += sum(verdict.status != "ok" for verdict in verdicts)
            differing += list_differing(responses, answers, expected, verdicts)
            verls += sum(bool(score) != bare for score, bare in zip(scores, expected, strict=True))
    count = len(responses)
    found = {"responses": count, "not_ok": not_ok, "differing": differing, "graders": {}}
    if verl:
        found["verl_differing"] = verls
    for grader, pairs in runs.items():
        found["graders"][grader] = {
            "responses_per_s": spread([count / wall for wall, _ in pairs]),
            "cpu_ms_per_response": spread([1000 * cpu / count for _, cpu in pairs]),
            "loop_over_this": spread(
                [bare / wall for (bare, _), (wall, _) in zip(runs["bare loop"], pairs, strict=True)]
            ),
        }
        rate, cpu, ratio = (values["median"] for values in found["graders"][grader].values())
        print(
            f"{'rollouts' if every_kind else 'distinct'}: {grader} {rate:.0f} responses/s, "
            f"{cpu:.3f} CPU ms each, {ratio:.2f} times the loop",
            flush=True,
        )
    print(f"verdicts that are not the loop's: {len(differing)}; of verl {found.get('verl_differing', '-')}")
    return found


if __name__ == "__main__":
    main()
