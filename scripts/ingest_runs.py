"""Add to MLflow what it missed of finished runs: metrics, parameters, artifacts, status; and the figures.

Files are the truth and MLflow is a view, so this may be run at any time and any number of times: a second run
adds nothing. It is the one writer that repairs what streaming lost (a tracking server that was away, a
training that was killed).

  python scripts/ingest_runs.py --run results/cpu/runs/model~tiny/.../seed~0 --local results/mlflow \
      --state results/cpu/state --figure fig04-samplers=reports/cpu/figures/fig04.png --report ingested.json
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from ead.integrations import mlflow
from ead.pipeline.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of finished runs")
    store = parser.add_mutually_exclusive_group(required=True)
    store.add_argument("--local", type=Path, help="folder of a local store (its database and artifacts)")
    store.add_argument("--uri", help="tracking server, for instance http://127.0.0.1:5000")
    parser.add_argument("--locks", type=Path, help="folder of a server's locks, shared with the trainings")
    parser.add_argument(
        "--state",
        type=Path,
        help="trainers' state folder: runs of it that a kill left open are closed as KILLED",
    )
    parser.add_argument(
        "--figure",
        nargs="*",
        default=[],
        metavar="EXPERIMENT=FILE",
        help="figures to show with an experiment",
    )
    parser.add_argument("--report", type=Path, required=True, help="JSON file: what was added")
    arguments = parser.parse_args()

    figures = defaultdict(list)
    for text in arguments.figure:
        experiment, separator, file = text.partition("=")
        if not (experiment and separator and Path(file).is_file()):
            parser.error(f"--figure {text}: expected EXPERIMENT=FILE with an existing file")
        figures[experiment].append(Path(file))

    place = (
        mlflow.Store.local(arguments.local)
        if arguments.local
        else mlflow.Store(arguments.uri, None, arguments.locks)
    )
    ingested = mlflow.ingest(place, arguments.run)
    runs = ingested["runs"]
    counts = ("points", "parameters", "artifacts")
    totals = {key: sum(run[key] for run in runs.values()) for key in counts}
    report = {
        "store": place.tracking_uri,
        "totals": totals,
        **ingested,
        "closed_as_killed": mlflow.close_killed(place, arguments.state) if arguments.state else [],
        "figures": mlflow.add_figures(place, figures),
    }
    write_json(arguments.report, report)

    for name, run in runs.items():
        if run["differing"]:
            print(f"{name}: {run['differing']} values in MLflow differ from the file", file=sys.stderr)
    added = ", ".join(f"{count} {what}" for what, count in totals.items())
    print(f"{len(runs)} runs in {place.tracking_uri}; added {added}")


if __name__ == "__main__":
    main()
