"""Copy the pictures of one full run into reports/gallery, small enough to commit, with the table of verdicts.

  python scripts/make_gallery.py --reports reports/cpu --gallery reports/gallery

The gallery is for the project's README and is outside the rules' outputs: no rule reads or writes it.
"""

import argparse
import io
import json
import os
import platform
import sys
from pathlib import Path

from PIL import Image

from ead.pipeline.config import load_configuration, load_experiments, load_scale, read_yaml
from ead.pipeline.files import atomic_path, write_text
from ead.pipeline.report import VERDICTS, amount, number
from ead.pipeline.runs import code_version

MAX_BYTES = 150_000  # of one picture
MAX_TOTAL_BYTES = 3_000_000
WIDTHS = (1350, 1200, 1050, 900, 750)  # pixels; the first that fits is taken


def shrink(path: Path) -> bytes:
    """Return the picture as a PNG with a palette of 64 colours, at the largest of WIDTHS within MAX_BYTES.

    Raises ValueError where even the smallest is larger.
    """
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        for width in WIDTHS:
            if width > picture.width and width != WIDTHS[-1]:
                continue
            size = (
                min(width, picture.width),
                round(picture.height * min(width, picture.width) / picture.width),
            )
            small = picture.resize(size, Image.Resampling.LANCZOS).quantize(64, dither=Image.Dither.NONE)
            data = io.BytesIO()
            small.save(data, "PNG", optimize=True)
            if data.tell() <= MAX_BYTES:
                return data.getvalue()
    raise ValueError(f"{path}: larger than {MAX_BYTES} bytes at a width of {WIDTHS[-1]} pixels")


def page(claims: dict, pictures: list[tuple[str, str]], description: str, choices: str) -> str:
    """Return README.md: where this comes from, the verdicts, the figures."""
    code = code_version()
    lines = [
        "# Gallery",
        "",
        f"One full run at the scale `{claims['scale']}` ({description}), commit `{code['commit']}`"
        f"{' with local changes' if code['modified'] else ''}, {os.cpu_count()} CPU cores, {platform.machine()},"
        f" Python {platform.python_version()}. Configuration: `{choices}`. `make gallery` writes this folder.",
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
        cells += ["%" if unit == "share" else unit, number(row["problems"]), number(row["seeds"])]
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    lines += ["", "## Figures", ""]
    for name, title in pictures:
        lines += [f"### {name}: {title}", "", f"![{title}]({name}.png)", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=Path, required=True, help="reports of the scale")
    parser.add_argument("--gallery", type=Path, required=True)
    arguments = parser.parse_args()

    claims_file = arguments.reports / "claims.json"
    if not claims_file.exists():
        print(f"{claims_file}: no such file; `make reproduce` judges the claims", file=sys.stderr)
        return 1
    claims = json.loads(claims_file.read_text(encoding="utf-8"))
    configuration = load_configuration(read_yaml(Path("config.yaml")))
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
    scale = load_scale(configuration.scale, configuration.overrides)
    choices = json.dumps(configuration.model_dump(include={"scale", "seeds", "root_seed", "overrides"}))
    write_text(arguments.gallery / "README.md", page(claims, pictures, scale.description, choices))
    print(f"{len(pictures)} pictures, {total:,} bytes, in {arguments.gallery}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
