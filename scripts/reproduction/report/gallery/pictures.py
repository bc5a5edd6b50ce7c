"""The gallery's pictures: those of a run made small enough to commit, the verdicts, and the schedule."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from ead.schedule import Annealed
from reproduction.config import ConfigurationError
from reproduction.figures import claims as forest
from reproduction.figures.style import COLORS, LINES, PRINT_WIDTH, set_style
from reproduction.files import atomic_path

MAX_BYTES = 150_000  # of one picture
WIDTHS = (1350, 1200, 1050, 900, 750)  # pixels; the first that fits is taken
# Of the paper's epoch.
STEPS_DRAWN = {0: ("blue", "dotted"), 100: ("green", "dashed"), 440: ("black", "solid")}


def shrink(path: Path) -> bytes:
    """Return the picture within MAX_BYTES: as it is, or with a palette at the largest of WIDTHS that fits.

    The palette has 256 colours chosen for coverage: thin lines keep their own colour, which a palette chosen by
    area would give to a neighbour. Raises ValueError where even the smallest is larger, ConfigurationError for a file
    that is no picture.
    """
    try:
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ConfigurationError(f"{path}: no whole picture: {error}") from None
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


def draw_verdicts(run: dict, rows: list[dict], path: Path) -> None:
    """Draw the verdicts as the workflow does, from what the gallery holds of them."""
    judged = {**run, "verdicts": rows}
    figure = forest.forest(judged, forest.rows(judged))
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
        temporary.write_bytes(shrink(temporary))
    plt.close(figure)


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
