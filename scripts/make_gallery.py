"""Copy the pictures of one full run into reports/gallery, small enough to commit, with the table of verdicts.

  python scripts/make_gallery.py --reports reports/cpu --gallery reports/gallery --readme README.md

The project's README gets the verdicts too, between two comments that mark their place. The gallery is outside the
rules' outputs: no rule reads or writes it.
"""

import argparse
import io
import json
import os
import platform
import sys
from pathlib import Path

from PIL import Image

from reproduction.config import load_experiments
from reproduction.files import atomic_path, write_text
from reproduction.report import VERDICTS, amount, number, unit_label

MARKS = ("<!-- verdicts, by `make gallery` -->", "<!-- end of verdicts -->")
MAX_BYTES = 150_000  # of one picture
MAX_TOTAL_BYTES = 3_000_000
WIDTHS = (1350, 1200, 1050, 900, 750)  # pixels; the first that fits is taken


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
        ", ".join(f"{claims['counts'].get(name, 0)} {name}" for name in VERDICTS) + ".",
        "",
        "| id | claim | verdict | effect | 95% interval | unit | n | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in claims["verdicts"]:
        if not row["primary"]:
            continue
        unit = row["unit"] or ""
        interval = "" if row["low"] is None else f"[{amount(row['low'], unit)}, {amount(row['high'], unit)}]"
        cells = [row["id"], row["claim"], row["verdict"], amount(row["effect"], unit), interval]
        cells += [unit_label(unit), number(row["problems"]), number(row["seeds"])]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    lines += ["", "## Figures", ""]
    for name, title in pictures:
        lines += [f"### {name}: {title}", "", f"![{title}]({name}.png)", ""]
    return "\n".join(lines)


def summary(claims: dict) -> str:
    """Return the verdicts for the project's README: a row per verdict, with its claims."""
    one_seed = max(row["seeds"] or 0 for row in claims["verdicts"]) == 1
    lines = [f"| at this scale{', with this seed' if one_seed else ''} | claims |", "| --- | --- |"]
    for verdict in VERDICTS:
        rows = [row for row in claims["verdicts"] if row["primary"] and row["verdict"] == verdict]
        if rows:
            texts = "<br>".join(f"{row['id']} {row['claim']}" for row in rows)
            lines.append(f"| {verdict} ({len(rows)}) | {texts} |")
    return "\n".join(lines)


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

    records = [arguments.reports / name for name in ("claims.json", "ro-crate-metadata.json")]
    for record in records:
        if not record.exists():
            print(f"{record}: no such file; `make reproduce` writes it", file=sys.stderr)
            return 1
    claims, crate = (json.loads(record.read_text(encoding="utf-8")) for record in records)
    titles = {name: experiment.title for name, experiment in load_experiments().items()}
    titles["claims"] = "Every verdict with its interval"
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
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    write_text(arguments.gallery / "README.md", page(claims, pictures, entities))
    if arguments.readme:
        write_text(arguments.readme, put(summary(claims), arguments.readme.read_text(encoding="utf-8")))
    print(f"{len(pictures)} pictures, {total:,} bytes, in {arguments.gallery}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
