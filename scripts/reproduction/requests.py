"""What one call of Snakemake asks for, given with ``--config`` and never kept in config.yaml.

snakemake budget --config targets=fig10 gpus=16
snakemake runs --config select=sampler~ead_tis/n~8
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from reproduction.config import ConfigurationError, Count, Strict, suggest, validate


class Request(Strict):
    """Values of ``--config`` that concern this call only."""

    targets: Annotated[
        list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
    ] = Field(["all"], min_length=1, description="of `snakemake budget`: figures, files or other targets")
    gpus: Count | None = Field(
        None,
        description="of `snakemake budget`: GPUs at hand (cores, where no job has a GPU); null shows several",
    )
    select: str | None = Field(
        None,
        description="of `snakemake runs` and `rehearse`: parts of a run's name, for instance sampler~ead_tis/n~8",
    )


def read_command_line(config: dict[str, Any], given: Iterable[str]) -> None:
    """Give the values of ``--config`` their types: Snakemake leaves whatever is inside a list or mapping as text.

    ``given`` are the keys on the command line. ``seeds=[0,1]`` comes as texts and becomes numbers, as in config.yaml.
    """
    for key in given:
        if isinstance(config.get(key), Mapping | list):
            config[key] = _typed(config[key])


def _typed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_typed(key): _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return float(value) if re.fullmatch(r"[+-]?\d[\d.]*[eE][+-]?\d+", value) else _scalar(value)
    except (ValueError, yaml.YAMLError):
        return value


def _scalar(text: str) -> Any:
    value = yaml.safe_load(text)
    return value if value is None or isinstance(value, bool | int | float) else text


def take_request(values: dict[str, Any]) -> Request:
    """Take the request out of Snakemake's merged ``config``. Raises ConfigurationError naming the key."""
    return validate(
        Request, {key: values.pop(key) for key in Request.model_fields if key in values}, "--config"
    )


def selected(names: Iterable[str], selection: str | None) -> list[str]:
    """Return the run names that have every part of ``selection`` (``axis~value``, separated by slashes).

    Raises ConfigurationError where there is no selection, or where no run has its parts.
    """
    names = list(names)
    if not selection:
        raise ConfigurationError(
            "snakemake runs: say which, for instance --config select=sampler~ead_tis/n~8"
        )
    wanted = set(selection.strip("/").split("/"))
    known = sorted({part for name in names for part in name.split("/")})
    for part in sorted(wanted - set(known)):
        raise ConfigurationError(f"--config select: no run has the part {part!r}{suggest(part, known)}")
    found = [name for name in names if wanted <= set(name.split("/"))]
    if not found:
        raise ConfigurationError(f"--config select: no run has all parts of {selection!r}")
    return found
