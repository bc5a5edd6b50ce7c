"""The deviations D01-D20: where paper, figures and released code disagree, and what each choice changes in numbers.

``workflow/deviations.yaml`` declares, per deviation, what each source says, which key of the configuration is the
choice, and the quantities that show what it changes (``reproduction.claims.quantities``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from reproduction.claims.quantities import AnyQuantity
from reproduction.claims.recorded import Recorded
from reproduction.config import WORKFLOW, Strict, read_yaml, validate


class Deviation(Strict):
    """One row of the deviations page."""

    title: str
    paper: str = Field(description="what the paper says")
    release: str = Field(description="what the released code or the figures show")
    choice: str = Field(description="the configuration's key and the values that run")
    quantities: list[AnyQuantity] = Field(min_length=1)


class Deviations(Strict):
    """workflow/deviations.yaml."""

    deviations: dict[Annotated[str, Field(pattern=r"^D\d\d$")], Deviation]


def load_deviations(path: Path = WORKFLOW / "deviations.yaml") -> dict[str, Deviation]:
    """Read id -> :class:`Deviation`; ConfigurationError names what is wrong."""
    return validate(Deviations, {"deviations": read_yaml(path)}, path.name).deviations


def tabulate(deviations: Mapping[str, Deviation], recorded: Recorded) -> list[dict[str, Any]]:
    """Return one row per deviation: what the sources say, the choice, and ``measures``, the rows of its quantities."""
    return [
        {
            "id": name,
            **deviation.model_dump(include={"title", "paper", "release", "choice"}),
            "measures": [row for q in deviation.quantities for row in q.measure(name, recorded)],
        }
        for name, deviation in deviations.items()
    ]
