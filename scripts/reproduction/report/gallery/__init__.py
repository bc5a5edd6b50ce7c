"""The gallery: pictures and verdicts of one full run, small enough to commit.

run.json says what ran, and claims.csv has the verdicts as that run judged them. The rule of today's
workflow/claims.yaml on training seeds is laid over these, by :func:`pages.ruled`. It can turn a verdict to
inconclusive and never to anything else, so it needs no result of the run. Where it changes one, the page says so.
"""

import json
import os
import platform
from pathlib import Path

import pandas as pd

from reproduction.claims import Claims, load_claims
from reproduction.config import load_scale
from reproduction.config.explain import read_text
from reproduction.figures import load_experiments
from reproduction.files import atomic_path, put_between, write_json, write_text
from reproduction.report.gallery.pages import ASKED_BY_NAME, page, ranking, ruled, summary
from reproduction.report.gallery.pictures import draw_schedule, draw_verdicts, shrink
from reproduction.report.gallery.records import (
    check_tuning,
    read_claims,
    read_crate,
    read_rivals,
    read_run,
    read_verdicts,
)

MAX_TOTAL_BYTES = 3_000_000  # of all pictures


def make(reports: Path | None, gallery: Path, readme: Path | None) -> None:
    """Write the gallery and its part of ``readme``, once everything they are made from is read and found whole.

    Raises ConfigurationError for a file that is not, ValueError for pictures too large and a README without marks.
    """
    declared, experiments = load_claims(), load_experiments()
    files: dict[str, bytes] = {}
    if reports:
        run, table, files = read_reports(reports, declared)
    else:
        run, table = read_run(gallery / "run.json"), read_verdicts(gallery / "claims.csv", declared)
    rows = ruled(table, declared, run)
    ranked = (reports / "figures" if reports and "rivals.csv" in files else gallery) / "rivals.csv"
    tables = {}
    if ranked.exists():
        samplers = load_scale(run["scale"], run["configuration"]["overrides"]).samplers
        labels = {name: sampler.label for name, sampler in samplers.items()}
        tables["rivals"] = ranking(read_rivals(ranked), labels, experiments["rivals"].control)
    titles = {name: experiment.title for name, experiment in experiments.items()}
    titles |= {"claims": "Every verdict with its interval", "cost": "How cost grows"}
    changed = any(row["verdict"] != row["was"] for row in rows)
    names = (
        {path.name for path in gallery.glob("*.png")} | files.keys() | ({"claims.png"} if changed else set())
    )
    shown = sorted(Path(name).stem for name in names if name.endswith(".png") and name != "schedule.png")
    pictures = [(name, titles.get(name, name)) for name in shown]
    texts = {gallery / "README.md": page(run, rows, declared, pictures, tables)}
    if readme:
        texts[readme] = put_between(read_text(readme), "verdicts", "make gallery", summary(run, rows))

    for name, data in files.items():
        with atomic_path(gallery / name) as temporary:
            temporary.write_bytes(data)
    if reports:
        write_json(gallery / "run.json", run)
    if changed:
        draw_verdicts(run, rows, gallery / "claims.png")
    with atomic_path(gallery / "schedule.png") as temporary:
        draw_schedule(temporary)
    for path, text in texts.items():
        write_text(path, text)
    print(f"{len(pictures)} pictures in {gallery}")


def read_reports(reports: Path, declared: Claims) -> tuple[dict, pd.DataFrame, dict[str, bytes]]:
    """Return what run.json is to say of a run, its verdicts, and files of the gallery, small enough to commit."""
    judged, table = read_claims(reports / "claims.json", declared)
    crate = read_crate(reports / "ro-crate-metadata.json")
    files = {path.name: shrink(path) for path in sorted((reports / "figures").glob("*.png"))}
    if (total := sum(map(len, files.values()))) > MAX_TOTAL_BYTES:
        raise ValueError(f"{reports}: {total:,} bytes of pictures, more than {MAX_TOTAL_BYTES:,}")
    asked = {name: path for name in ASKED_BY_NAME if (path := reports / "figures" / f"{name}.csv").exists()}
    for path in asked.values():
        check = check_tuning if path.stem == "rivals_tuning" else read_rivals
        check(path)
        files[path.name] = path.read_bytes()
    files["claims.csv"] = table.to_csv(index=False).encode()
    run = {**describe(judged, crate, judged["parameters"]), "asked_by_name": list(asked)}
    return run, table, files


def describe(judged: dict, crate: dict[str, dict], parameters: dict[str, int]) -> dict:
    """Return the content of run.json: what the pages say of a run beside its verdicts.

    Args:
        judged: content of claims.json; ``crate`` the entities of the crate by their names.
        parameters: model -> number of parameters.
    """
    head = ("scale", "description", "seeds", "seeds_by_experiment", "confidence", "alpha")
    return {
        **{key: judged[key] for key in head},
        "commit": crate["#code"]["version"],
        "state": crate["#code"]["description"],
        "configuration": json.loads(crate["#configuration"]["value"]),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "parameters": parameters,
    }
