"""What the typed models of the YAML files are made of: names, numbers with bounds, the error of a mistake."""

import importlib
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ead import schedule

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOW = REPOSITORY / "workflow"
SAMPLERS_FILE = WORKFLOW / "samplers.yaml"
SCALES = ("mini", "cpu", "gpu24", "gpu1", "paper")
# The models that the paper trains; a scale says what stands for each.
ROLES = ("llama_1b", "qwen_1_5b", "qwen_7b", "qwen3_8b")
ROLE_LABELS = {
    "llama_1b": "Llama-3.2-1B-Instruct",
    "qwen_1_5b": "Qwen2.5-Math-1.5B",
    "qwen_7b": "Qwen2.5-Math-7B",
    "qwen3_8b": "Qwen3-8B-Base",
}
# What `all` makes unless config.yaml says otherwise, in the paper's order; then what the project adds.
FIGURES = [
    *("fig01", "fig02", "fig03", "fig04", "fig05", "fig06", "fig07a", "fig07b", "fig08", "fig09", "fig10"),
    *("fig11a", "fig11b", "fig12", "fig13", "fig14", "table1", "propositions", "decoders", "deviations"),
]
# Names become folder names and wildcards, so they are kept to characters that need no quoting, and to a length that
# leaves room for the names of five axes and of a file. No name is "..", hidden, absolute, or holds a slash.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
# A folder that the user chooses. Snakemake would read braces and stars as patterns, and scripts an "@" in front as a
# file with an argument in each line.
_NOT_IN_FOLDERS = r"{}*?\[\]\x00-\x1f\x7f\x85\u2028\u2029"


def _folder(written: str) -> str:
    """Return the folder as ``Path`` writes it, so that rules, which join texts, and scripts name the same files."""
    try:
        value = str(Path(written).expanduser() if written.startswith("~") else Path(written))
    except RuntimeError:
        raise ValueError(f"no such user as in {written!r}; write the folder out") from None
    if value.startswith("~"):  # "./~x", which Path writes as "~x"
        raise ValueError(f"a folder here does not begin with ~; found {value!r}")
    if value == ".":
        raise ValueError("the folder of the repository itself; name one inside it or elsewhere")
    if found := re.search(rf"[{_NOT_IN_FOLDERS}]|^@", value):
        raise ValueError(
            "a folder here holds none of { } * ? [ ] and no line break, and does not begin with @; "
            f"found {found[0]!r}"
        )
    return value


Folder = Annotated[
    str,
    Field(min_length=1, json_schema_extra={"pattern": rf"^(?!@)[^{_NOT_IN_FOLDERS}]+$"}),  # for editors
    AfterValidator(_folder),
]
# A file inside a folder that the project chooses: relative, and never above it.
RelativeFile = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$")
]
Share = Annotated[float, Field(gt=0, lt=1)]
# A number of things: beyond a billion it is a slip, and tables of that length would fill the memory.
Count = Annotated[int, Field(gt=0, le=10**9)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
# Rollouts are compared with their group, so a group of one has no advantage and nothing is learnt from it.
Rollouts = Annotated[int, Field(ge=2, le=10**4)]


def unique(values: list) -> list:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"holds {repeated[0]!r} more than once")
    return values


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], AfterValidator(unique), Field(min_length=1)]


def defined_in(package: str, path: Iterable[str], name: str) -> list[Any]:
    """Return what the modules of a package define as ``name``, in the order of their names."""
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(path)]
    return [getattr(module, name) for module in modules if hasattr(module, name)]


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the message has one line per problem."""


class Strict(BaseModel):
    """No unknown keys, no silent conversions from text, no NaN or infinity, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _schedule(value: Any) -> dict[str, Any]:
    return schedule.from_config(value).to_dict()


# A schedule is stored as plain data with every default filled in, so that it can be hashed and written.
ScheduleDict = Annotated[dict[str, Any], BeforeValidator(_schedule)]
