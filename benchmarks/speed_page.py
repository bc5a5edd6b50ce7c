"""Write the tables of docs/speed.md from the records of the benchmarks.

    python benchmarks/speed_page.py --page docs/speed.md

Every number of a table is a record's, and every table names its records, their commits, and whether the code that they
measured has changed since. A table without records says so.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stamps import MEASURED, RECORDS, changed

from reproduction.files import load_json, put_between, write_text

COMMAND = "make speed-page"
SIZES = {"115k": "115k", "default task": "default task, 115k", "6M": "6.5M", "29M": "29M"}
STEPS = ("step_one_thread", "step_two_threads")

Record = dict[str, Any]
Records = dict[str, Record]


def read_records(folder: Path = RECORDS) -> Records:
    """Return record -> its content, of those there are."""
    return {name: load_json(path) for name in sorted(MEASURED) if (path := folder / f"{name}.json").exists()}


# --- numbers and tables ------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return ``value`` with three digits, and without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(found: Mapping[str, float]) -> str:
    """Return a median with its lowest and highest round."""
    middle, low, high = (
        f"{found[key]:.{0 if found['median'] >= 20 else 2}f}" for key in ("median", "lowest", "highest")
    )
    return f"{middle} [{low}, {high}]"


def surplus(found: Mapping[str, Any]) -> str:
    """Return a ratio to 1 in percent, with its interval."""
    low, high = (f"{100 * (end - 1):+.1f}" for end in found["interval_95"])
    return f"{100 * (found['median'] - 1):+.1f} [{low}, {high}]"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(name: str, record: Record) -> str:
    """Say where and on which code a record was made."""
    code, machine = record["code"], record.get("machine")
    then = code["commit"][:7] + (" with changes" if code["modified"] else "")
    where = f"; {machine['processor']}, load {machine['load']:.1f} at the start" if machine else ""
    return f"[{name}.json](records/speed/{name}.json): commit {then}, {age(name, record)}{where}."


def age(name: str, record: Record) -> str:
    """Say whether the code that a record measured is today's."""
    return "**older code than today's**" if changed(record, name) else "today's code"


# --- the tables --------------------------------------------------------------------------------------------


def training_step(one: Record, two: Record) -> str:
    rows = [
        [
            SIZES.get(case, case),
            str(record["machine"]["threads"]),
            number(found["in process"]["cpu_s"]),
            number(found["trl tuned"]["cpu_s"]),
            ratio(found["tuned_over_in_process"]),
            ratio(found["as_it_comes_over_in_process"]),
        ]
        for record in (one, two)
        for case, found in record["cases"].items()
    ]
    columns = ["parameters", "threads", "in process, s", "TRL tuned, s"]
    return table([*columns, "tuned / in process", "as it comes / in process"], rows)


def parts_of_a_step(one: Record, two: Record) -> str:
    def parts(found: Mapping[str, float], *names: str) -> str:
        return " + ".join(number(found[f"{name}_cpu_s"]) for name in names)

    rows = []
    for record in (one, two):
        for case, found in record["cases"].items():
            share = found["share_of_matmul"]
            rate = f"{100 * share['sampling']:.0f} / {100 * share['update']:.0f}" if share else ""
            peer = parts(found["trl tuned"], "sampling", "logprobs", "update")
            ours = parts(found["in process"], "sampling", "update")
            rows.append([SIZES.get(case, case), str(record["machine"]["threads"]), ours, peer, rate])
    columns = ["parameters", "threads", "in process: sampling + update, s"]
    return table([*columns, "TRL: sampling + log-probabilities + update, s", "sampling / update, %"], rows)


def step_of_verl(verl: Record) -> str:
    return table(
        ["size", "responses", "verl / in process, CPU seconds", "wall-clock time"],
        (
            [
                size,
                f"{found['prompts']} x {found['rollouts']}",
                ratio(found["verl_over_in_process_cpu"]),
                ratio(found["verl_over_in_process_wall"]),
            ]
            for size, found in verl["sizes"].items()
        ),
    )


def sampling_speed(sampling: Record, vllm: Record) -> str:
    return table(
        ["parameters, batch", "tokens per CPU second", "`generate` / in process", "vLLM / in process"],
        (
            [
                f"{SIZES.get(size, size)}, {batch}",
                number(found["tokens_per_cpu_second"]["in process"]),
                ratio(found["generate_over_in_process"]),
                ratio(vllm["sizes"][size]["throughput"][batch]["vllm_over_in_process_cpu"]),
            ]
            for size, batches in sampling["sizes"].items()
            for batch, found in batches.items()
        ),
    )


def cost_of_annealing(vllm: Record) -> str:
    where = {
        "in process": "in process",
        "in process, record": "in process, with a training's records",
        "in process, record, against 0.6": "the same, against temperature 0.6",
        "vllm": "vLLM",
    }
    found = vllm["sizes"]["115k"]["overhead"]
    rows = ([text, surplus(found[arm]["cpu"]), surplus(found[arm]["wall"])] for arm, text in where.items())
    return table(["where", "CPU seconds, %", "wall-clock time, %"], rows)


def versions_of_vllm(vllm_versions: Record) -> str:
    return table(
        ["vLLM", "in the processor's methods, % of wall-clock time", "whole jobs, CPU seconds, %"],
        (
            [version, f"{100 * found['processor_share_of_wall']:.2f}", surplus(found["cpu"])]
            for version, found in vllm_versions["versions"].items()
        ),
    )


def split_of_cores(split: Record) -> str:
    rows = ([SIZES.get(size, size), ratio(found["ratio"])] for size, found in split["sizes"].items())
    return table(["parameters", "steps per second, side by side / one at a time"], rows)


def planning(dag: Record) -> str:
    return table(
        ["trainings", "jobs", "dry run, s", "second run with nothing to do, s", "memory, MB"],
        (
            [
                number(row["cells"]),
                number(row["jobs"]),
                *(f"{row[f'{run}_wall_s']} (CPU {row[f'{run}_processor_s']})" for run in ("plan", "no_op")),
                number(max(row["plan_peak_mb_of_all"], row["no_op_peak_mb_of_all"])),
            ]
            for row in dag["rows"]
        ),
    )


def peak_memory(memory: Record) -> str:
    rows = sorted(
        memory["rows"], key=lambda row: (row["part"], row["batch"], row["length"], row["vocabulary"])
    )
    return table(
        ["part", "batch", "tokens", "vocabulary", "peak, MB", "one tensor of logits, MB"],
        (
            [
                row["part"],
                *(number(row[axis]) for axis in ("batch", "length", "vocabulary", "peak_mb", "logits_mb")),
            ]
            for row in rows
        ),
    )


def estimates(analysis: Record) -> str:
    return table(
        ["part", "CPU s", "loop / project", "peak, MB"],
        (
            [part, number(seconds["project"]), ratio(analysis["ratio_cpu"][part]), number(peak)]
            for part, seconds in analysis["cpu_s"].items()
            for peak in [analysis["peak_mb"]["project"][part]]
        ),
    )


def graders(grading: Record) -> str:
    return table(
        ["responses", "grader", "loop / grader, wall-clock time", "CPU ms per response"],
        (
            [kind, name, ratio(found["loop_over_this"]), number(found["cpu_ms_per_response"]["median"])]
            for kind, measured in grading["sets"].items()
            for name, found in measured["graders"].items()
        ),
    )


@dataclass(frozen=True)
class Aim:
    """What a record is to show: a number at least, or at most, as large as ``bound``."""

    what: str
    record: str
    value: Callable[[Record], float]
    bound: float
    at_most: bool = False

    def row(self, record: Record | None) -> list[str]:
        bound = f"{'at most' if self.at_most else 'at least'} {number(self.bound)}"
        if record is None:
            return [self.what, bound, "", "not measured", self.record, ""]
        value = self.value(record)
        reached = value <= self.bound if self.at_most else value >= self.bound
        return [
            self.what,
            bound,
            f"{value:.3g}",
            "yes" if reached else "**no**",
            self.record,
            age(self.record, record),
        ]


def _tuned(case: str) -> Callable[[Record], float]:
    return lambda record: record["cases"][case]["tuned_over_in_process"]["median"]


def _surplus_of(arm: str) -> Callable[[Record], float]:
    return lambda record: 100 * (record["sizes"]["115k"]["overhead"][arm]["cpu"]["median"] - 1)


AIMS = (
    Aim("training step, forced lengths, 115k: tuned TRL / in process", "step_one_thread", _tuned("115k"), 2),
    Aim("training step, default task: tuned TRL / in process", "step_one_thread", _tuned("default task"), 4),
    Aim("training step, forced lengths, 6.5M: tuned TRL / in process", "step_one_thread", _tuned("6M"), 1.6),
    Aim("training step, forced lengths, 29M: tuned TRL / in process", "step_two_threads", _tuned("29M"), 1.6),
    Aim(
        "training step, default scale: verl / in process",
        "verl",
        lambda record: record["sizes"]["default scale"]["verl_over_in_process_cpu"]["median"],
        8,
    ),
    Aim(
        "sampling, 115k, batch 256: `generate` / in process",
        "sampling",
        lambda record: record["sizes"]["115k"]["256"]["generate_over_in_process"]["median"],
        2.2,
    ),
    Aim(
        "sampling, 115k, batch 256: vLLM / in process",
        "vllm",
        lambda record: record["sizes"]["115k"]["throughput"]["256"]["vllm_over_in_process_cpu"]["median"],
        3.5,
    ),
    Aim("EAD in process, without records, %", "vllm", _surplus_of("in process"), 1, at_most=True),
    Aim(
        "EAD in process, with a training's records, %",
        "vllm",
        _surplus_of("in process, record"),
        1,
        at_most=True,
    ),
    Aim(
        "EAD in vLLM's newest version, the processor's methods, %",
        "vllm_versions",
        lambda record: 100 * list(record["versions"].values())[-1]["processor_share_of_wall"],
        1,
        at_most=True,
    ),
    Aim("planning all cells, s", "dag", lambda record: record["rows"][-1]["plan_wall_s"], 15, at_most=True),
    Aim(
        "a second run of all cells, s",
        "dag",
        lambda record: record["rows"][-1]["no_op_wall_s"],
        20,
        at_most=True,
    ),
    Aim(
        "estimates of a large evaluation, MB",
        "analysis",
        lambda record: max(record["peak_mb"]["project"].values()),
        1000,
        at_most=True,
    ),
)


def aims(records: Records) -> str:
    columns = ["what", "aim", "median measured", "reached", "record", "of"]
    return table(columns, (aim.row(records.get(aim.record)) for aim in AIMS))


TABLES: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "training step": (training_step, STEPS),
    "parts of a step": (parts_of_a_step, STEPS),
    "step of verl": (step_of_verl, ("verl",)),
    "sampling": (sampling_speed, ("sampling", "vllm")),
    "cost of annealing": (cost_of_annealing, ("vllm",)),
    "versions of vLLM": (versions_of_vllm, ("vllm_versions",)),
    "split of the cores": (split_of_cores, ("split",)),
    "planning": (planning, ("dag",)),
    "memory": (peak_memory, ("memory",)),
    "estimates": (estimates, ("analysis",)),
    "graders": (graders, ("grading",)),
}
"""Place on the page -> its table, and the records that this is made from."""


def with_tables(page: str, records: Records) -> str:
    """Return the page with the tables of ``records`` between its marks.

    Raises ValueError naming the table whose records lack something that it shows.
    """
    try:
        page = put_between(page, "aims", COMMAND, aims(records))
    except KeyError as error:
        raise ValueError(f"a record lacks {error}, which an aim asks for; measure it again") from None
    for place, (write, names) in TABLES.items():
        lacking = [name for name in names if name not in records]
        if lacking:
            text = f"Not measured: there is no record {', '.join(lacking)}."
        else:
            try:
                shown = write(*(records[name] for name in names))
            except KeyError as error:
                raise ValueError(
                    f"{', '.join(names)}: no {error}, which the table {place!r} shows; measure again"
                ) from None
            about = "\n".join(f"- {source(name, records[name])}" for name in names)
            text = f"{shown}\n\n{about}"
        page = put_between(page, place, COMMAND, text)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, required=True)
    page = parser.parse_args().page
    records = read_records()
    write_text(page, with_tables(page.read_text(encoding="utf-8"), records))
    for name, record in records.items():
        if files := changed(record, name):
            print(f"{name}: changed since: {', '.join(files)}")


if __name__ == "__main__":
    main()
