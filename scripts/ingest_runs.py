"""Add to MLflow what it lacks of finished runs: metrics, evaluations, parameters, data sets, artifacts,
checkpoints as logged models; and figures.

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

from reproduction import tracking
from reproduction.files import write_json
from reproduction.tracking import contents


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of finished runs")
    parser.add_argument(
        "--local",
        type=Path,
        required=True,
        help="folder of the local store: its database, artifacts and locks",
    )
    parser.add_argument("--uri", help="server (http://127.0.0.1:5000) or database instead of the local one")
    parser.add_argument(
        "--state",
        type=Path,
        help="trainers' state folder: runs of it that a kill left open are closed as KILLED",
    )
    parser.add_argument(
        "--evaluations", type=Path, help="folder of the runs' evaluations, where they are done"
    )
    parser.add_argument(
        "--dataset", nargs="*", default=[], metavar="NAME=FILE", help="data sets that have a card beside them"
    )
    described = parser.add_argument_group("descriptions of the experiments")
    described.add_argument("--scale", help="the scale of the runs")
    described.add_argument("--shown", nargs="*", default=[], help="figures that show them")
    described.add_argument("--page", help="the report, which has the claims' verdicts")
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
    for experiment, file in _pairs(parser, "--figure", "EXPERIMENT=FILE", arguments.figure, files=True):
        figures[experiment].append(Path(file))
    files = {
        name: Path(file)
        for name, file in _pairs(parser, "--dataset", "NAME=FILE", arguments.dataset, files=True)
    }
    evaluations, datasets = {}, {}
    for run in arguments.run if arguments.evaluations else []:
        name = tracking.FinishedRun.read(run).description.run
        manifest = arguments.evaluations / name / "manifest.json"
        if manifest.exists():
            evaluations[name] = contents.evaluation_metrics(manifest)
            datasets[name] = contents.datasets_of(run, manifest, files)

    place = tracking.Store.at(arguments.uri, arguments.local)
    ingested = tracking.ingest(place, arguments.run, evaluations=evaluations, datasets=datasets)
    runs = ingested["runs"]
    tracking.describe_experiments(
        place, contents.experiment_notes(arguments.scale, arguments.shown, arguments.page)
    )
    counts = ("points", "parameters", "artifacts", "datasets", "models")
    totals = {key: sum(run[key] for run in runs.values()) for key in counts}
    report = {
        "store": place.tracking_uri,
        "totals": totals,
        **ingested,
        "closed_as_killed": tracking.close_killed(place, arguments.state) if arguments.state else [],
        "figures": tracking.add_figures(place, figures),
    }
    write_json(arguments.report, report)

    for name, run in runs.items():
        if run["differing"]:
            print(f"{name}: {run['differing']} values in MLflow differ from the file", file=sys.stderr)
    added = ", ".join(f"{count} {what}" for what, count in totals.items())
    print(f"{len(runs)} runs in {place.tracking_uri}; added {added}")


def _pairs(parser, option: str, form: str, texts: list[str], files: bool = False) -> list[tuple[str, str]]:
    """Return the two sides of ``=`` of each text; the parser ends the program where one has another form."""
    pairs = [text.partition("=") for text in texts]
    for name, separator, value in pairs:
        if not (name and separator and value) or (files and not Path(value).is_file()):
            ending = " with an existing file" if files else ""
            parser.error(f"{option} {name}{separator}{value}: expected {form}{ending}")
    return [(name, value) for name, _, value in pairs]


if __name__ == "__main__":
    main()
