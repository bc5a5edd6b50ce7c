"""The records that the gallery is made from, of a run's reports or of the gallery, each checked whole."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, Field, Json

from reproduction.claims import VERDICTS, Claims, as_table
from reproduction.config import ConfigurationError
from reproduction.config.explain import check_csv, read_json, unknown, validate
from reproduction.figures.rivals import COSTS
from reproduction.figures.tuning import SCORES, TunedSetting

Number = float | None


class _Head(BaseModel):
    scale: str
    description: str
    seeds: list[int]
    seeds_by_experiment: dict[str, list[int]]
    confidence: float
    alpha: float
    parameters: dict[str, int]


class _Verdict(BaseModel):
    id: str
    reading: str
    verdict: Literal[VERDICTS]
    effect: Number
    low: Number
    high: Number
    unit: str | None
    boundary: Number
    problems: Number
    sample_unit: str | None
    seeds: Number


class _Component(BaseModel):
    label: str
    decisive: bool


class _Sign(BaseModel):
    run: str
    sign: str
    first_step: int


class _Judged(_Verdict):
    components: list[_Component]
    gates: Any
    signs: list[_Sign]
    missing: Any
    evidence: Any


class _Claims(_Head):
    """claims.json."""

    verdicts: Annotated[list[_Judged], Field(min_length=1)]


class _Choices(BaseModel):
    experiments: list[str]
    overrides: dict[str, Any]


class _Run(_Head):
    """run.json."""

    commit: str
    state: str
    configuration: _Choices
    cores: int | None
    machine: str
    python: str
    asked_by_name: list[str] = []


class _Code(BaseModel):
    version: str
    description: str


class _Configuration(BaseModel):
    value: Json[_Choices]


class _Entities(BaseModel):
    code: _Code = Field(alias="#code")
    configuration: _Configuration = Field(alias="#configuration")


class _Entity(BaseModel):
    id: str = Field(alias="@id")


class _Crate(BaseModel):
    """ro-crate-metadata.json."""

    graph: list[_Entity] = Field(alias="@graph")


class _Ranked(BaseModel):
    """A row of rivals.csv."""

    sampler: str
    cost: str | None
    metric: str | None
    rank: Number
    value: Number
    difference: Number
    difference_low: Number
    difference_high: Number
    p_holm: Number
    samples: Number
    status: Literal["finished", "not run"]


def read_claims(path: Path, declared: Claims) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return what claims.json holds, and its verdicts as a table; ConfigurationError where it is not whole."""
    judged = read_json(path, _Claims)
    table = as_table(judged)
    _declared(path, table, declared)
    return judged, table


def read_verdicts(path: Path, declared: Claims) -> pd.DataFrame:
    """Return the table of claims.csv; ConfigurationError where it is not whole."""
    check_csv(path, _Verdict)
    table = pd.read_csv(path)
    _declared(path, table, declared)
    return table


def read_run(path: Path) -> dict[str, Any]:
    """Return what run.json holds; ConfigurationError where it is not whole."""
    return read_json(path, _Run)


def read_crate(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entities of a run's crate by their names; ConfigurationError where one that is used is not whole."""
    entities = {entity["@id"]: entity for entity in read_json(path, _Crate)["@graph"]}
    validate(_Entities, entities, f"{path}: @graph")
    return entities


def read_rivals(path: Path) -> pd.DataFrame:
    """Return the table of rivals.csv; ConfigurationError where it is not whole."""
    check_csv(path, _Ranked)
    table = pd.read_csv(path)
    finished = table[table["status"] == "finished"]
    rows = finished.dropna(subset="value").value_counts(["sampler", "cost", "metric"])
    for row in product(finished["sampler"].unique(), COSTS, SCORES):
        if (found := rows.get(row, 0)) != 1:
            sampler, cost, metric = row
            raise ConfigurationError(
                f"{path}: {found} rows have a value of {metric} at equal {cost} for the sampler {sampler!r}; needed: 1"
            )
    return table


def check_tuning(path: Path) -> None:
    """Raise ConfigurationError where rivals_tuning.csv is not whole."""
    check_csv(path, TunedSetting)


def _declared(path: Path, table: pd.DataFrame, declared: Claims) -> None:
    mistakes = [
        *unknown(str(path), "claim", table["id"], declared.claims),
        *unknown(str(path), "reading", table["reading"], declared.readings),
    ]
    if mistakes:
        raise ConfigurationError("\n".join(dict.fromkeys(mistakes)))
