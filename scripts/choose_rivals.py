"""Write each rival's chosen setting (target rivals_tuning) into workflow/experiments.yaml, and print it."""

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from reproduction.config import WORKFLOW, ConfigurationError
from reproduction.config.explain import check_csv
from reproduction.figures import load_experiments
from reproduction.figures.rivals import Rivals
from reproduction.figures.tuning import SCORES, TunedSetting, Tuning
from reproduction.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tuning", type=Path, help="reports/{scale}/figures/rivals_tuning.csv")
    parser.add_argument(
        "--entry", default="rivals", help="of experiments.yaml, an experiment of the kind rivals"
    )
    parser.add_argument("--experiments", type=Path, default=WORKFLOW / "experiments.yaml")
    arguments = parser.parse_args()

    try:
        experiments = load_experiments(arguments.experiments)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None
    entry = experiments.get(arguments.entry)
    if not isinstance(entry, Rivals):
        raise SystemExit(f"{arguments.experiments}: {arguments.entry} is no experiment of the kind rivals")
    tuned = experiments.get(entry.tuned_by)
    if not isinstance(tuned, Tuning):
        raise SystemExit(
            f"{arguments.experiments}: {arguments.entry}.tuned_by: {entry.tuned_by} tunes nothing"
        )
    decided = read_choice(arguments.tuning, tuned)
    text = arguments.experiments.read_text(encoding="utf-8")
    start = re.search(rf"^{re.escape(arguments.entry)}:.*$", text, flags=re.MULTILINE).end()
    head, body = text[:start], text[start:]
    expected = dict(entry.chosen)
    for rival, before in entry.chosen.items():
        if rival not in tuned.rivals:
            raise SystemExit(f"{arguments.entry}.chosen: {entry.tuned_by} tunes no {rival}")
        if rival not in decided:
            print(f"{rival}: {before} stays, its settings have not all run")
            continue
        body = re.sub(
            rf"^(    {re.escape(rival)}: ).*$", rf"\g<1>{decided[rival]}", body, count=1, flags=re.MULTILINE
        )
        expected[rival] = decided[rival]
        print(f"{rival}: {decided[rival]}" + ("" if decided[rival] == before else f" (before: {before})"))
    with TemporaryDirectory() as folder:
        changed = Path(folder) / arguments.experiments.name
        write_text(changed, head + body)
        if load_experiments(changed)[arguments.entry].chosen != expected:
            raise SystemExit(
                f"{arguments.experiments}: {arguments.entry}.chosen must have one line per rival, "
                "'    rival: setting'; nothing was written"
            )
    write_text(arguments.experiments, head + body)


def read_choice(path: Path, tuned: Tuning) -> dict[str, str]:
    """Return rival -> chosen sampler from the table of ``tuned``; an end with one line if it is not that table."""
    try:
        check_csv(path, TunedSetting)
    except ConfigurationError as error:
        raise SystemExit(f"{error}; expected: a table of rivals_tuning") from None
    table = pd.read_csv(path)
    rows = table[table["chosen"] & (table["metric"] == SCORES[0])]
    decided: dict[str, str] = {}
    for rival, sampler in zip(rows["rival"], rows["sampler"], strict=True):
        if sampler not in tuned.rivals.get(rival, ()):
            raise SystemExit(f"{path}: {sampler!r} is no setting of the rival {rival!r}")
        if (rows["rival"] == rival).sum() > 1:
            raise SystemExit(f"{path}: the rival {rival!r} is chosen more than once")
        of_rival = table[(table["rival"] == rival) & (table["metric"] == SCORES[0])]
        if set(of_rival["sampler"]) != set(tuned.rivals[rival]) or (of_rival["status"] == "not run").any():
            raise SystemExit(f"{path}: {sampler!r} is chosen, but the settings of {rival!r} have not all run")
        if of_rival.set_index("sampler").loc[sampler, "value"] != of_rival["value"].max():
            raise SystemExit(
                f"{path}: {sampler!r} is chosen, but another setting of {rival!r} has a higher score"
            )
        decided[rival] = sampler
    return decided


if __name__ == "__main__":
    main()
