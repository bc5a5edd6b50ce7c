"""What a preflight found, for the terminal and for the budget; light, since every call of the workflow reads it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reproduction.config.runs import RunConfiguration
from reproduction.files import load_json, write_json


@dataclass
class Line:
    """One thing that was tried, and what to do where it did not hold."""

    name: str
    passed: bool
    found: str
    advice: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """What was found for one model."""

    model: str
    run: str
    node: str
    lines: list[Line] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(line.passed for line in self.lines)

    @classmethod
    def read(cls, path: Path) -> "Report":
        values = load_json(path)
        return cls(**{**values, "lines": [Line(**line) for line in values["lines"]]})


def chosen(runs: Iterable[RunConfiguration], rollouts: int) -> dict[str, RunConfiguration]:
    """Return model -> the run that shows most: one with TIS where there is one, annealed, at the scale's rollouts."""

    def shows(run: RunConfiguration) -> tuple:
        sampler = run.sampler_definition
        return (run.n == rollouts, sampler.importance is not None, sampler.schedule["kind"] != "fixed")

    found: dict[str, RunConfiguration] = {}
    for run in runs:
        if run.model not in found or shows(run) > shows(found[run.model]):
            found[run.model] = run
    return found


def write(report: Report, path: Path) -> None:
    write_json(path, asdict(report))


def render(reports: Iterable[Report]) -> str:
    """Return the lines of all models for a terminal: what passed, what was found, what to do."""
    text = []
    for report in reports:
        text += ["", f"{report.model} on {report.node}" + (f" ({report.run})" if report.run else "")]
        for line in report.lines:
            text.append(
                f"  {'pass' if line.passed else 'FAIL'}  {line.name}: {line.found}  [{line.seconds:.0f} s]"
            )
            if line.advice:
                text.append(f"        what to do: {line.advice}")
        if report.measured:
            names = {"host_gib": "host, all processes, GiB", "gpu_gib": "fullest GPU, GiB"}
            text.append(
                "        measured: "
                + ", ".join(f"{names.get(name, name)} {value:.1f}" for name, value in report.measured.items())
            )
    return "\n".join(text)


def expected_s(folder: Path, run: RunConfiguration, gpus: int) -> float | None:
    """Return the seconds of a training as the preflight of its model makes one expect.

    None where it was not passed, or was on another number of GPUs than ``gpus``, those of the training.

    A step's seconds grow with its responses; each checkpoint and one start cost what the resumed start and its
    checkpoint did. Responses get longer or shorter as a training learns: this does not know how.
    """
    path = folder / f"{run.model}.json"
    if not path.exists():
        return None
    report = Report.read(path)
    if not report.passed or report.measured.get("gpus") != gpus:
        return None
    measured, training = report.measured, run.training
    step = measured["step_s"] * training.prompts * run.n / measured["responses"]
    return training.steps * step + (1 + len(training.checkpoints)) * measured["start_and_save_s"]


def summary(paths: Iterable[Path]) -> tuple[str, bool]:
    """Return the text of all reports and whether all passed; reports that did not are removed, to be made again."""
    reports = {path: Report.read(path) for path in paths}
    for path, report in reports.items():
        if not report.passed:
            path.unlink()
    return render(reports.values()), all(report.passed for report in reports.values())
