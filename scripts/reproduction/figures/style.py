"""One visual language for every figure: a sampler has the same colour, mark and name everywhere."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from reproduction.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every common form of colour blindness; marks and dashes repeat
# the distinction for print without colour. workflow/samplers.yaml says which sampler has which.
COLORS = {
    "blue": "#0072B2",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#E0C000",  # darker than the original, which fades on white paper
    "orange": "#E69F00",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "black": "#000000",
    "grey": "#7F7F7F",
}
LINES = {"solid": (), "dashed": (3, 1), "dotted": (1, 1), "dashdot": (5, 1, 1, 1)}
INK = "#262626"
PRINT_WIDTH = 6.75  # inches: the text width of the paper


def pyplot() -> ModuleType:
    """Return ``matplotlib.pyplot`` without a display.

    Modules of this package load matplotlib where they draw: every plan and every training loads the modules.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def seeds_in_words(seeds: pd.Series) -> str:
    """Return "3 training seeds", or "1 to 3 training seeds" where cells have different numbers; ``seeds`` are those."""
    found = seeds.dropna()
    low, high = (int(found.min()), int(found.max())) if len(found) else (0, 0)
    return f"{low}{f' to {high}' if high > low else ''} training seed{'s' * (high != 1)}"


def set_style() -> None:
    """Type sizes for a figure printed at its own size; call before drawing."""
    plt = pyplot()
    # matplotlib's own settings: to import a library for them would take longer than to draw.
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "font.family": "DejaVu Sans",
            "font.size": 8,
            "axes.labelsize": 8,
            "axes.titlesize": 8.5,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "legend.fontsize": 7.5,
            "legend.title_fontsize": 7.5,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "axes.linewidth": 0.8,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.major.size": 3,
            "ytick.major.size": 3,
            "axes.axisbelow": True,
            "lines.solid_capstyle": "butt",  # an interval ends where its line ends
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "pdf.fonttype": 42,
            "svg.hashsalt": "ead",
        }
    )


def percent(axes: "Axes") -> None:
    """Label the y axis, which holds shares, in percent: every tick with its exact value."""
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}".replace("-", "−")))


def head(figure: "Figure", title: str, *lines: str) -> None:
    """Set the figure's title and, smaller below it, what it is drawn from."""
    figure.suptitle("\n".join([title, *(line for line in lines if line)]), fontsize=8, x=0.01, ha="left")


def save(figure: "Figure", drawn: pd.DataFrame, pdf: Path, png: Path, csv: Path) -> None:
    """Write the figure as PDF and PNG, and what it draws as CSV; the same data give the same bytes."""
    with atomic_path(pdf) as temporary:
        figure.savefig(temporary, metadata={"CreationDate": None})
    with atomic_path(png) as temporary:
        figure.savefig(temporary)
    with atomic_path(csv) as temporary:
        drawn.to_csv(temporary, index=False, float_format="%.6g")
    pyplot().close(figure)


def nothing_ran(request: Mapping[str, Any]) -> "Figure":
    """Return a figure that says that none of its cells has run, and which models the scale lacks."""
    figure = pyplot().figure(figsize=(PRINT_WIDTH, 1.0), layout="constrained")
    axis = figure.add_subplot()
    axis.set_axis_off()
    text = f"not run at this scale: {', '.join(request['absent'])}" if request["absent"] else "not run"
    axis.text(0.5, 0.5, text, ha="center", va="center", style="italic", color="grey")
    head(figure, request["title"])
    return figure
