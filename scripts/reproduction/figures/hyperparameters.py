"""Table 1: the paper's hyperparameters beside a scale's."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import Field

from reproduction.config import ROLE_LABELS, ConfigurationError, Scale, adapt_schedule, suggest
from reproduction.config.explain import unknown
from reproduction.config.runs import RunConfiguration
from reproduction.figures.figure import Figure
from reproduction.files import write_text

SAMPLER, ALGORITHM = "ead", "dapo"


def _schedule(key: str) -> Callable[[Scale, str], object]:
    return lambda scale, role: adapt_schedule(scale.samplers[SAMPLER].schedule, scale.roles[role].annealed)[
        key
    ]


def _learning_rates(scale: Scale, role: str) -> str:
    return ", ".join(f"{rate:g} (n = {n})" for n, rate in sorted(scale.learning_rates_of(role).items()))


def _clip(scale: Scale, role: str) -> str:
    algorithm = scale.algorithms[ALGORITHM]
    return f"{algorithm.clip_low:g} / {algorithm.clip_high:g}"


# Key of the experiment's `paper` -> its name in the table and its value at a scale, for one of the paper's models.
ROWS: dict[str, tuple[str, Callable[[Scale, str], object]]] = {
    "training_batch_size": ("Training batch size (prompts)", lambda s, role: s.training_of(role).prompts),
    "mini_batch_size": ("Mini-batch size (prompts)", lambda s, role: s.training_of(role).mini_batch_prompts),
    "micro_batch_size": (
        "Micro-batch size",
        lambda s, role: f"{s.training_of(role).micro_batch_tokens:,} tokens",
    ),
    "max_response_length": (
        "Maximal response length (tokens)",
        lambda s, role: s.training_of(role).max_new_tokens,
    ),
    "learning_rate": ("Learning rate", _learning_rates),
    "rollouts": ("Rollouts per prompt n", lambda s, role: s.rollouts_of(role)),
    "steps": ("Training steps", lambda s, role: s.training_of(role).steps),
    "clip": ("Clip range, low / high (DAPO)", _clip),
    "tau_max": ("τ_max", _schedule("tau_max")),
    "tau_min": ("τ_min", _schedule("tau_min")),
    "d0": ("Initial decay rate d0 (tokens)", _schedule("d0")),
    "alpha": ("Growth factor α (tokens per step)", _schedule("alpha")),
    "d_max": ("Decay cap d_max (tokens)", _schedule("d_max")),
    "start": ("Start of annealing c (tokens)", _schedule("start")),
    "evaluation_samples": (
        "Evaluation samples per problem",
        lambda s, role: s.evaluation_of(s.roles[role].model).samples,
    ),
}


def compare(paper: Mapping[str, str], scale: Scale) -> list[dict[str, str]]:
    """Return one row per hyperparameter: its name, the paper's value, and the scale's for each of its models.

    Raises ConfigurationError for a key that is none of ``ROWS``.
    """
    rows = []
    for key, written in paper.items():
        if key not in ROWS:
            raise ConfigurationError(f"experiments.yaml: unknown hyperparameter {key!r}{suggest(key, ROWS)}")
        name, value = ROWS[key]
        row = {"hyperparameter": name, "paper": written}
        for role, stands in scale.roles.items():
            found = value(scale, role)
            row[f"{stands.model} ({ROLE_LABELS[role]})"] = (
                f"{found:,.6g}" if isinstance(found, (int, float)) else str(found)
            )
        rows.append(row)
    return rows


class Hyperparameters(Figure):
    """Table 1: the paper's hyperparameters beside this scale's."""

    folder: ClassVar[str] = "tables"
    suffixes: ClassVar[tuple[str, ...]] = ("csv", "html")
    caption_template: ClassVar[str] = "hyperparameters.rst"

    analysis: Literal["hyperparameters"] = Field(description="the kind of figure")
    paper: dict[str, str] = Field(description="a row's name -> what the paper says")

    def mistakes(self, where: str, scale: Scale, samplers: Mapping[str, Any]) -> Iterator[str]:
        """See :class:`Figure`."""
        yield from unknown(f"{where}.paper", "hyperparameter", self.paper, ROWS)

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {"analysis": self.analysis, "rows": compare(self.paper, scale)}

    @staticmethod
    def estimate(*, rows: list[dict[str, str]], **_) -> pd.DataFrame:
        """See :class:`Figure`."""
        return pd.DataFrame(rows)

    @classmethod
    def write(cls, estimates: Path, request: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """See :class:`Figure`."""
        table = pd.read_parquet(estimates)
        write_text(files["csv"], table.to_csv(index=False))
        write_text(files["html"], table.to_html(index=False, border=0))


FIGURE = Hyperparameters
