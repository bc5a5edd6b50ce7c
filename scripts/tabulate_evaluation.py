"""Tabulate one evaluation: accuracy with intervals, and what a health check needs, by decoder."""

import argparse
import json
from pathlib import Path

from reproduction.figures.analyses import summary
from reproduction.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluation", type=Path, required=True, help="manifest")
    parser.add_argument("--decoder-labels", required=True, help="JSON: decoder -> its name in tables")
    parser.add_argument("--samples", type=int, required=True, help="k of Pass@k and Worst@k")
    parser.add_argument("--root-seed", type=int, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--html", type=Path, required=True)
    arguments = parser.parse_args()

    table = summary(arguments.evaluation, root_seed=arguments.root_seed, k=arguments.samples)
    table["decoder"] = table["decoder"].map(json.loads(arguments.decoder_labels))
    write_text(arguments.csv, table.to_csv(index=False, float_format="%.6g"))
    write_text(arguments.html, _page(table))


def _page(table) -> str:
    """The table for a reader: percentages with their intervals in one cell."""
    shown = table[["decoder", "problems", "samples"]].copy()
    for name in [column for column in table if "@" in column and not column.endswith(("low", "high"))]:
        shown[f"{name} (%) [95% interval]"] = [
            f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            for value, low, high in zip(table[name], table[f"{name} low"], table[f"{name} high"], strict=True)
        ]
    shown["tokens per response"] = table["tokens per response"].map("{:.0f}".format)
    shown["truncated (%)"] = table["truncated share"].map(lambda share: f"{100 * share:.1f}")
    for column in ("no answer", "timeouts", "errors"):
        shown[column] = table[column]
    style = (
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
        "th,td{border-bottom:1px solid #ccc;padding:.35rem .8rem;text-align:right}"
        "th:first-child,td:first-child{text-align:left}</style>"
    )
    body = shown.to_html(index=False, border=0)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>{style}{body}</html>\n'


if __name__ == "__main__":
    main()
