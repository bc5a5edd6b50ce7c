"""Copy the pictures and verdicts of one full run into reports/gallery, small enough to commit, and draw the schedule.

  python scripts/make_gallery.py --reports reports/cpu --gallery reports/gallery --readme README.md

The project's README gets the verdicts too, between two comments that mark their place. The gallery is outside the
rules' outputs: no rule reads or writes it.
"""

import argparse
import io
import json
import os
import platform
import shutil
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from ead.schedule import Annealed
from reproduction.claims import load_claims
from reproduction.claims.words import models_in_words, rule_in_words
from reproduction.config import load_scale
from reproduction.figures import load_experiments
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, set_style
from reproduction.files import atomic_path, write_text
from reproduction.report import VERDICTS, amount, number, unit_label

MARKS = ("<!-- verdicts, by `make gallery` -->", "<!-- end of verdicts -->")
RULE = "../../docs/claims.md"  # from the gallery
MAX_BYTES = 150_000  # of one picture
MAX_TOTAL_BYTES = 3_000_000
WIDTHS = (1350, 1200, 1050, 900, 750)  # pixels; the first that fits is taken
STEPS_DRAWN = {
    0: ("blue", "dotted"),
    100: ("green", "dashed"),
    440: ("black", "solid"),
}  # of the paper's epoch


def shrink(path: Path) -> bytes:
    """Return the picture within MAX_BYTES: as it is, or with a palette at the largest of WIDTHS that fits.

    The palette has 256 colours chosen for coverage: thin lines keep their own colour, which a palette chosen by
    area would give to a neighbour. Raises ValueError where even the smallest is larger.
    """
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    data = io.BytesIO()
    whole.save(data, "PNG", optimize=True)
    if data.tell() <= MAX_BYTES:
        return data.getvalue()
    for width in WIDTHS:
        width = min(width, whole.width)
        small = whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        palette = small.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        palette.save(data, "PNG", optimize=True)
        if data.tell() <= MAX_BYTES:
            return data.getvalue()
    raise ValueError(f"{path}: larger than {MAX_BYTES} bytes at a width of {WIDTHS[-1]} pixels")


def page(claims: dict, pictures: list[tuple[str, str]], crate: dict[str, dict]) -> str:
    """Return README.md: where this comes from (as the crate recorded it), the verdicts, the figures."""
    code, configuration = crate["#code"], crate["#configuration"]
    experiments, scale = load_experiments(), load_scale(claims["scale"])
    declared = load_claims().claims
    lines = [
        "# Gallery",
        "",
        f"One full run at the scale `{claims['scale']}` ({claims['description']}), commit `{code['version']}` "
        f"({code['description']}), {os.cpu_count()} CPU cores, {platform.machine()}, Python "
        f"{platform.python_version()}. `make gallery` writes this folder from the reports of such a run.",
        "",
        f"Configuration: `{configuration['value']}`",
        "",
        "## Verdicts",
        "",
        *textwrap.wrap(f"{rule_in_words(claims)} [How a claim is judged]({RULE}) explains the rule.", 118),
        "",
        "A verdict concerns the models that were trained, not the paper's: each stands in the role of one of them.",
        "Where the paper leaves a choice open, a claim has a verdict for each reading, and the first one counts.",
        "The table is also a file: [claims.csv](claims.csv).",
        "",
        "| id | claim, or another reading of it | tested on | verdict | effect | 95% interval | unit | units resampled "
        "| seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in claims["verdicts"]:
        unit = row["unit"] or ""
        interval = "" if row["low"] is None else f"[{amount(row['low'], unit)}, {amount(row['high'], unit)}]"
        models = models_in_words(declared[row["id"]], scale, experiments)
        cells = [row["id"], row["claim"], models] if row["primary"] else [row["id"], row["reading_label"], ""]
        cells += [row["verdict"], amount(row["effect"], unit), interval]
        size = "–" if row["problems"] is None else f"{number(row['problems'])} {row['sample_unit']}"
        cells += [unit_label(unit), size, number(row["seeds"])]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    lines += ["", "## Figures", ""]
    for name, title in pictures:
        lines += [f"### {name}: {title}", "", f"![{title}]({name}.png)", ""]
    return "\n".join(lines)


def summary(claims: dict) -> str:
    """Return the verdicts for the project's README: the main claim in a sentence, and a row of counts per reading.

    The main claim is C03 with C04.
    """
    seeds = max(row["seeds"] or 0 for row in claims["verdicts"])
    readings = {
        "formula as printed": [row for row in claims["verdicts"] if row["primary"]],
        "sampler as released": [row for row in claims["verdicts"] if row["reading"] == "released"],
    }
    said = (
        "The main claim is that EAD reaches a higher Pass@16 than every fixed temperature, without TIS (C03) and with "
        f"it (C04). This run is at the `{claims['scale']}` scale ({claims['description']}; {seeds} training "
        f"seed{'s' * (seeds != 1)}). {' '.join(_main_verdict(*reading) for reading in readings.items())}"
    )
    lines = [
        textwrap.fill(said, 118, break_on_hyphens=False),
        "",
        f"| number of claims | {' | '.join(VERDICTS)} |",
        f"| --- |{' --- |' * len(VERDICTS)}",
    ]
    for reading, rows in readings.items():
        verdicts = [row["verdict"] for row in rows]
        counts = " | ".join(str(verdicts.count(name)) for name in VERDICTS)
        lines.append(f"| {len(rows)} claims, {reading} | {counts} |")
    return "\n".join(lines)


def _main_verdict(reading: str, rows: list[dict]) -> str:
    alone, with_tis = (row["verdict"] for row in rows if row["id"] in ("C03", "C04"))
    found = f"C03 and C04 are {alone}" if alone == with_tis else f"C03 is {alone} and C04 is {with_tis}"
    return f"With the {reading}, {found}."


def draw_schedule(path: Path) -> None:
    """Draw the paper's schedule by position in the response, at three training steps, in both readings."""
    set_style()
    figure, axes = plt.subplots(1, 2, figsize=(PRINT_WIDTH, 2.3), sharey=True, layout="constrained")
    positions = np.arange(900)
    readings = {"printed": "formula as printed, exp(t / d)", "released": "sampler as released, exp(t / 20 d)"}
    for axis, (reading, title) in zip(axes, readings.items(), strict=True):
        axis.axhspan(1, 1.4, color=COLORS["vermilion"], alpha=0.1, linewidth=0)
        for step, (color, line) in STEPS_DRAWN.items():
            tau = Annealed(reading=reading).temperature(positions, step)
            axis.plot(positions, tau, color=COLORS[color], dashes=LINES[line], label=f"training step {step}")
        axis.set(title=title, xlabel="position in the response (tokens)", ylim=(0, 1.4), xlim=(0, 900))
        axis.text(890, 1.37, "above 1: explores", ha="right", va="top", color=COLORS["vermilion"])
    axes[0].set_ylabel("temperature")
    axes[1].legend(loc="center right")
    figure.savefig(path, format="png")
    plt.close(figure)


def put(text: str, readme: str) -> str:
    """Return ``readme`` with ``text`` between :data:`MARKS`; ValueError where these are missing."""
    first, last = MARKS
    before, found, rest = readme.partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise ValueError(f"the README lacks {first!r} ... {last!r}, between which the verdicts stand")
    return f"{before}{first}\n\n{text}\n\n{last}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=Path, required=True, help="reports of the scale")
    parser.add_argument("--gallery", type=Path, required=True)
    parser.add_argument("--readme", type=Path, help="page that shows the verdicts in short")
    arguments = parser.parse_args()

    records = [arguments.reports / name for name in ("claims.json", "claims.csv", "ro-crate-metadata.json")]
    for record in records:
        if not record.exists():
            print(f"{record}: no such file; `make reproduce` writes it", file=sys.stderr)
            return 1
    claims, crate = (json.loads(record.read_text(encoding="utf-8")) for record in (records[0], records[-1]))
    titles = {name: experiment.title for name, experiment in load_experiments().items()}
    titles |= {"claims": "Every verdict with its interval", "cost": "How cost grows"}
    pictures, total = [], 0
    for path in sorted((arguments.reports / "figures").glob("*.png")):
        data = shrink(path)
        total += len(data)
        with atomic_path(arguments.gallery / path.name) as temporary:
            temporary.write_bytes(data)
        pictures.append((path.stem, titles.get(path.stem, path.stem)))
    if total > MAX_TOTAL_BYTES:
        print(f"{arguments.gallery}: {total:,} bytes, more than {MAX_TOTAL_BYTES:,}", file=sys.stderr)
        return 1
    with atomic_path(arguments.gallery / "schedule.png") as temporary:
        draw_schedule(temporary)
    with atomic_path(arguments.gallery / "claims.csv") as temporary:
        shutil.copyfile(arguments.reports / "claims.csv", temporary)
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    write_text(arguments.gallery / "README.md", page(claims, pictures, entities))
    if arguments.readme:
        write_text(arguments.readme, put(summary(claims), arguments.readme.read_text(encoding="utf-8")))
    print(f"{len(pictures)} pictures, {total:,} bytes, in {arguments.gallery}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
