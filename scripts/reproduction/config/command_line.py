"""What one call of Snakemake asks for, given with ``--config`` and never kept in config.yaml.

snakemake budget --config targets=fig10 gpus=16
snakemake runs --config select=sampler~ead_tis/n~8
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from reproduction.config import ConfigurationError, Count, Strict, scalar, suggest, validate


class Request(Strict):
    """Values of ``--config`` that concern this call only."""

    targets: Annotated[
        list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
    ] = Field(
        ["all"],
        min_length=1,
        description="of `snakemake budget`: figures, files or other targets; of `preflight`: figures, or `all`",
    )
    gpus: Count | None = Field(
        None,
        description="of `snakemake budget`: GPUs at hand (cores, where no job has a GPU); null shows several",
    )
    select: str | None = Field(
        None,
        description="of `snakemake runs` and `rehearse`: parts of a run's name, for instance sampler~ead_tis/n~8",
    )


def read_command_line(given: Any) -> Any:
    """Return what ``--config`` was given as a file would have it; Snakemake leaves most of it as text.

    ``seeds=[0,1]`` comes as texts and becomes numbers; ``0x10`` is 16, ``yes`` a text.
    """
    if isinstance(given, Mapping):
        return {read_command_line(key): read_command_line(item) for key, item in given.items()}
    if isinstance(given, list):
        return [read_command_line(item) for item in given]
    if not isinstance(given, str):
        return given
    try:
        value = scalar(given)
    except ConfigurationError:
        return given
    return value if value is None or isinstance(value, bool | int | float) else given


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
