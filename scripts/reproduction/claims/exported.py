"""What verdicts rest on, small enough to commit: counts by problem and metrics by step, with their hashes.

:func:`export` writes a folder, :class:`Exported` reads it back; verdicts from the folder are those from the results. It
holds

- ``counts.parquet``: ``subject`` (a run, or ``model~`` and a base model), ``decoder``, ``step``, ``problem``,
  ``responses``, ``correct``
- ``metrics.parquet`` and ``timings.parquet``: ``run``, ``step`` and what the trainings recorded
- ``{figure}_problems.parquet``: scores by problem of an inference analysis
- ``records.json``: the configuration, how each training ended, the health of each evaluation, the models' sizes and
  checksums, the commits of the trainings
- ``claims.json``: the verdicts
- ``manifest.json``: {file: SHA-256} of all of these
"""

from pathlib import Path
from typing import Any

import pandas as pd

from reproduction.claims.evidence import Evidence, ResultsFolder
from reproduction.claims.judge import required
from reproduction.claims.model import Claims
from reproduction.config import Configuration, load_configuration, load_scale
from reproduction.files import (
    atomic_directory,
    checksums,
    load_json,
    sha256_of_file,
    write_json,
    write_parquet,
)

TIMINGS = ["step", "sampling_cpu_seconds"]


def export(
    claims: Claims, judged: dict[str, Any], results: ResultsFolder, configuration: Configuration, folder: Path
) -> None:
    """Write all that the claims need and that has run to ``folder``; ``judged`` is the content of claims.json.

    Raises ValueError naming what a verdict rests on and ``results`` lack, or a sample file that is missing or changed.
    """
    rests_on = (each["path"] for verdict in judged["verdicts"] for each in verdict["evidence"])
    if lacking := next((path for path in rests_on if not results.exists(path)), None):
        raise ValueError(
            f"{results.folder}: no {lacking}, which a verdict of claims.json rests on; "
            "--results and --reports are the folders of one run"
        )
    scale = load_scale(configuration.scale, configuration.overrides)
    paths = [path for path in required(claims, results, configuration, scale) if results.exists(path)]
    records: dict[str, Any] = {
        "configuration": judged["configuration"],
        "commits": {},
        "runs": {},
        "evaluations": {},
        "models": {
            path: {key: manifest[key] for key in ("parameters", "sha256")}
            for path, manifest in Evidence(results, configuration, scale).made_models.items()
        },
    }
    tables: dict[str, list[pd.DataFrame]] = {"counts": [], "metrics": [], "timings": []}
    for path in paths:
        kind, _, rest = path.partition("/")
        name = rest.removesuffix("/manifest.json")
        if kind == "runs":
            manifest = results.json(path)
            records["runs"][name] = {"status": manifest["status"], "steps": manifest["steps"]}
            commit = manifest.get("code", {}).get("commit")
            records["commits"][commit] = records["commits"].get(commit, 0) + 1
            tables["metrics"].append(results.table(f"runs/{name}/metrics.parquet").assign(run=name))
            if results.exists(f"runs/{name}/timings.parquet"):
                times = results.table(f"runs/{name}/timings.parquet")
                tables["timings"].append(times.reindex(columns=TIMINGS).assign(run=name))
        elif kind == "evaluations":
            files = results.json(path)["files"]
            kept = ("step", "decoder", "file", "responses", "truncated", "statuses")
            records["evaluations"][name] = [{key: file[key] for key in kept} for file in files]
            for decoder in dict.fromkeys(file["decoder"] for file in files):
                tables["counts"].append(results.counts(name, decoder).assign(subject=name, decoder=decoder))
        else:
            tables[Path(path).stem] = [results.table(path)]
    with atomic_directory(folder) as temporary:
        for name, parts in tables.items():
            if parts:
                write_parquet(pd.concat(parts, ignore_index=True), temporary / f"{name}.parquet")
        write_json(temporary / "records.json", records)
        write_json(temporary / "claims.json", judged)
        write_json(temporary / "manifest.json", checksums(temporary))


class Exported:
    """:class:`~reproduction.claims.evidence.Results` from what :func:`export` wrote to ``folder``.

    Raises FileNotFoundError where there is none, and ValueError naming a file that is missing or changed.
    """

    def __init__(self, folder: Path):
        if not (folder / "manifest.json").exists():
            raise FileNotFoundError(
                f"{folder}: no evidence there; `make reproduce`, then `make evidence`, makes it in reports/evidence/cpu"
            )
        for name, expected in load_json(folder / "manifest.json").items():
            if not (folder / name).exists() or sha256_of_file(folder / name) != expected:
                raise ValueError(
                    f"{folder / name}: missing or changed since {folder / 'manifest.json'} was written"
                )
        self.folder = folder
        self.judged = load_json(folder / "claims.json")
        self._records = load_json(folder / "records.json")
        self.configuration = load_configuration(self._records["configuration"], str(folder / "records.json"))
        # A sample file is none here: its counts are.
        self._evaluated = {
            f"{name}/{file}"
            for name, files in self._records["evaluations"].items()
            for file in ["manifest.json", *(each["file"] for each in files)]
        }
        self.models = self._records["models"]
        self._runs = {name: self._by_run(name) for name in ("metrics", "timings")}
        counts = self._parquet("counts")
        self._counts = {} if counts is None else dict(iter(counts.groupby(["subject", "decoder"])))

    def numbers(self) -> dict[str, dict[Any, pd.DataFrame]]:
        """Return ``trainings`` (run -> metrics by step) and ``evaluations`` (subject, decoder -> counts by problem)."""
        return {"trainings": self._runs["metrics"], "evaluations": self._counts}

    def exists(self, path: str) -> bool:
        kind, _, rest = path.partition("/")
        if kind == "runs":
            run, _, file = rest.rpartition("/")
            return run in (self._records["runs"] if file == "manifest.json" else self._runs[Path(file).stem])
        if kind == "evaluations":
            return rest in self._evaluated
        if kind == "analyses":
            return (self.folder / rest).exists()
        return path in self.models

    def json(self, path: str) -> dict:
        kind, _, rest = path.partition("/")
        name = rest.removesuffix("/manifest.json")
        if kind == "evaluations":
            return {"files": self._records["evaluations"][name]}
        return self._records["runs"][name] if kind == "runs" else self.models[path]

    def table(self, path: str) -> pd.DataFrame:
        kind, _, rest = path.partition("/")
        if kind == "analyses":
            return pd.read_parquet(self.folder / rest)
        run, _, file = rest.rpartition("/")
        return self._runs[Path(file).stem][run]

    def counts(self, subject: str, decoder: str) -> pd.DataFrame:
        return self._counts[subject, decoder].drop(columns=["subject", "decoder"])

    def _parquet(self, name: str) -> pd.DataFrame | None:
        path = self.folder / f"{name}.parquet"
        return pd.read_parquet(path) if path.exists() else None

    def _by_run(self, name: str) -> dict[str, pd.DataFrame]:
        table = self._parquet(name)
        if table is None:
            return {}
        return {run: rows.drop(columns="run") for run, rows in table.groupby("run")}
