"""Write each rival's chosen setting (target rivals_tuning) into workflow/experiments.yaml, and print it."""

import argparse
import re
from pathlib import Path

import pandas as pd

from reproduction.config import WORKFLOW
from reproduction.figures import load_experiments
from reproduction.figures.rivals import Rivals
from reproduction.figures.tuning import SCORES, Tuning
from reproduction.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tuning", type=Path, help="reports/{scale}/figures/rivals_tuning.csv")
    parser.add_argument(
        "--entry", default="rivals", help="of experiments.yaml, an experiment of the kind rivals"
    )
    parser.add_argument("--experiments", type=Path, default=WORKFLOW / "experiments.yaml")
    arguments = parser.parse_args()

    experiments = load_experiments(arguments.experiments)
    entry = experiments.get(arguments.entry)
    if not isinstance(entry, Rivals):
        raise SystemExit(f"{arguments.experiments}: {arguments.entry} is no experiment of the kind rivals")
    tuned = experiments.get(entry.tuned_by)
    if not isinstance(tuned, Tuning):
        raise SystemExit(
            f"{arguments.experiments}: {arguments.entry}.tuned_by: {entry.tuned_by} tunes nothing"
        )
    table = pd.read_csv(arguments.tuning)
    decided = table[table["chosen"] & (table["metric"] == SCORES[0])].set_index("rival")["sampler"]
    text = arguments.experiments.read_text(encoding="utf-8")
    start = re.search(rf"^{re.escape(arguments.entry)}:$", text, flags=re.MULTILINE).end()
    head, body = text[:start], text[start:]
    for rival, before in entry.chosen.items():
        if rival not in tuned.rivals:
            raise SystemExit(f"{arguments.entry}.chosen: {entry.tuned_by} tunes no {rival}")
        if rival not in decided:
            print(f"{rival}: {before} stays, its settings have not all run")
            continue
        body = re.sub(
            rf"^(    {re.escape(rival)}: ).*$", rf"\g<1>{decided[rival]}", body, count=1, flags=re.MULTILINE
        )
        print(f"{rival}: {decided[rival]}" + ("" if decided[rival] == before else f" (before: {before})"))
    write_text(arguments.experiments, head + body)
    load_experiments(arguments.experiments)


if __name__ == "__main__":
    main()
