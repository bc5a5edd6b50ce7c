"""docs/configuration.md, written from the typed models: every key a person may write, what it allows and means."""

import json
import re
from dataclasses import MISSING, fields
from inspect import getdoc
from typing import Any

from pydantic import BaseModel

from ead import schedule
from reproduction import config, figures
from reproduction.algorithms import NAMED
from reproduction.cluster import slurm
from reproduction.config import command_line
from reproduction.data import table
from reproduction.models import pretrained
from reproduction.tasks import GENERATED

HEADER = """# Configuration

This page lists every key of every file that you may write. `make config` writes it from the typed model in
`scripts/reproduction/config`, and a test fails if the two differ. An unknown key, a wrong type or a value out of range
ends the workflow before any job; the message names the file, the key and what is allowed.

| file | holds |
| --- | --- |
{files}

`workflow/claims.yaml` and `workflow/deviations.yaml` were declared before their results; do not change them. Comments
in `workflow/resources.yaml` explain its keys. [workflow/schemas](../workflow/schemas) has JSON schemas for editors.

A *name* has letters, digits, dots, hyphens and underscores, and starts with a letter or a digit.
"""

SCHEDULES = """### Schedule

The temperature of each response token; [method.md](method.md#temperature-schedules) has the formulas.
"""

# Heading -> file, what it holds, the models whose keys it has: the file's own first, then those that it refers to.
FILES: dict[str, tuple[str, str, list[type[BaseModel]]]] = {
    "Your choices": ("config.yaml", "what you edit", [config.Configuration]),
    "The command line": (
        "--config",
        "what one call of Snakemake asks for, beside every key of config.yaml",
        [command_line.Request],
    ),
    "Scales": (
        "workflow/scales/{scale}.yaml",
        "models, data sets and budgets of a scale; `extends` names the scale whose values it overrides, and "
        "`overrides` of config.yaml override both",
        [
            config.Scale,
            config.ScalePlan,
            *(task.data for task in GENERATED.values()),
            config.RealData,
            config.WarmStartModel,
            config.PretrainedModel,
            config.Role,
            config.ScheduleUnits,
            config.Training,
            config.Decoder,
            config.Evaluation,
            config.RealLanguageModel,
            config.Recipe,
            config.Study,
            config.EntropyStudy,
            config.ForkingStudy,
            config.MajorityStudy,
            config.Verl,
            config.VerlModel,
        ],
    ),
    "Samplers": (
        "workflow/samplers.yaml",
        "training samplers, in the paper's units; the `samplers` of a scale override them",
        [config.SharedSampler, config.Style, config.Importance],
    ),
    "Algorithms": (
        "workflow/algorithms.yaml",
        "policy-gradient losses; the `algorithms` of a scale override them",
        [*NAMED.values()],
    ),
    "Figures": (
        "workflow/experiments.yaml",
        "figure -> the runs it needs and what it shows, one kind for each `analysis`",
        [
            figures.Figure,
            figures.Grid,
            figures.SchedulePanel,
            *figures.KINDS.values(),
        ],
    ),
    "Data sets": (
        "workflow/datasets.yaml",
        "real data sets and where they come from; an entry with a `kind` is a generated one, as a scale's `datasets`",
        [table.DatasetEntry, table.LocalSource, table.HubSource, table.Columns],
    ),
    "Models": (
        "workflow/models.yaml",
        "published models and where they come from",
        [pretrained.HubModel, pretrained.PackageModel],
    ),
    "The cluster": ("workflow/profiles/slurm/site.yaml", "what differs between clusters", [slurm.Site]),
}


# Patterns that have a name of their own.
WORDS = {
    "^[A-Za-z0-9][A-Za-z0-9._-]*$": "name",
    "^[0-9a-f]{64}$": "64 hexadecimal digits",
    "^[0-9a-f]{40}$": "40 hexadecimal digits",
}
KINDS = {"integer": "integer", "number": "number", "boolean": "true, false", "string": "text", "null": "null"}
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def render() -> str:
    """Return the page."""
    files = [f"| [{file}](#{_anchor(heading)}) | {holds} |" for heading, (file, holds, _) in FILES.items()]
    parts = [HEADER.format(files="\n".join(files))]
    for heading, (file, holds, models) in FILES.items():
        parts.append(f"## {heading}\n\n`{file}`: {holds}.\n")
        for model in models:
            if ANCHORS[model.__name__] != _anchor(heading):
                parts.append(f"### {model.__name__}\n\n{_about(model)}\n")
            parts.append(_table(rows_of(model)))
        if heading == "Samplers":
            parts.append(SCHEDULES)
            parts.append(_table(schedule_rows()))
    return "\n".join(parts)


def rows_of(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Return key, allowed values, default and meaning of the model's own keys.

    Keys of a base model with a table of its own are left to that table; a section without one is shown in place.
    """
    schema = model.model_json_schema()
    inherited = {key for base in _shown_bases(model) for key in base.model_fields}
    rows = []
    for key, field in model.model_fields.items():
        section = field.annotation
        if key in inherited:
            continue
        if isinstance(section, type) and issubclass(section, BaseModel) and section.__name__ not in ANCHORS:
            rows += rows_of(section, f"{prefix}{key}.")
            continue
        found = schema["properties"][key]
        default = "required" if field.is_required() else _value(found.get("default"))
        rows.append((f"{prefix}{key}", _allowed(found, schema), default, field.description or ""))
    return rows


def schedule_rows() -> list[tuple[str, str, str, str]]:
    """Return the same for the kinds of a schedule, from the classes of ``ead.schedule``."""
    about = _attributes(schedule.Annealed) | _attributes(schedule.OfLogits)
    rows = [("kind", ", ".join(map(_value, schedule.KINDS)), "required", "the formula")]
    for kind in dict.fromkeys(
        (schedule.Fixed, schedule.Annealed, schedule.Piecewise, *schedule.KINDS.values())
    ):
        if kind.__doc__ and "Attributes:" in kind.__doc__:
            about |= _attributes(kind)
        for field in fields(kind):
            if field.name in [row[0] for row in rows]:
                continue  # `tau` of a piecewise schedule is that of a fixed one, several times
            allowed = {
                float: "number",
                int: "integer ≥ 0",
                tuple[float, ...]: "list of number",
                tuple[int, ...]: "list of integer ≥ 0",
                schedule.Schedule: "[Schedule](#schedule)",
            }.get(field.type)
            if field.name == "reading":
                allowed = "; ".join(
                    f"{_code(kind.kind)}: {', '.join(map(_value, kind.readings))}"
                    for kind in (schedule.Annealed, schedule.ReverseAnnealed)
                )
            elif field.name == "origin":
                allowed = ", ".join(map(_value, schedule.ORIGINS))
            elif field.name == "interpolation":
                allowed = ", ".join(map(_value, kind.interpolations))
            default = "required" if field.default is MISSING else _value(field.default)
            if field.default_factory is not MISSING:
                default = _code(f"fixed, tau: {field.default_factory().tau:g}")
            meaning = about.get(
                field.name,
                "the temperature of every token (`fixed`), or a list, one at each of `at` (`piecewise`)",
            )
            rows.append((field.name, allowed, default, meaning))
    return rows


def _attributes(kind: type) -> dict[str, str]:
    """Return name -> text of the section Attributes of a docstring."""
    section = getdoc(kind).split("Attributes:\n")[1].split("\n\n")[0]
    found = re.findall(r"^ {4}([\w, ]+): (.*?)(?=^ {4}\w|\Z)", section, flags=re.DOTALL | re.MULTILINE)
    return {name: _prose(text).rstrip(".") for names, text in found for name in names.split(", ")}


def _allowed(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return what a part of a JSON schema allows, in words."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        name = LISTED_AS.get(name, name)
        return f"[{name}](#{ANCHORS[name]})" if name in ANCHORS else _allowed(schema["$defs"][name], schema)
    if options := node.get("anyOf") or node.get("oneOf"):
        return " or ".join(_allowed(option, schema) for option in options)
    if "enum" in node:
        return ", ".join(_value(value) for value in node["enum"])
    if "const" in node:
        return _value(node["const"])
    kind = node.get("type")
    if kind == "array":
        items = node.get("prefixItems") or [node["items"]]
        return "list of " + ", ".join(_allowed(item, schema) for item in items)
    if kind == "object":
        by_pattern = next(iter(node.get("patternProperties", {}).values()), True)
        values = node.get("additionalProperties") or by_pattern
        return "mapping" if values is True else f"name -> {_allowed(values, schema)}"
    limits = [f"{sign} {node[key]:g}" for key, sign in BOUNDS.items() if key in node]
    pattern = node.get("pattern")
    if pattern in WORDS:
        return WORDS[pattern]
    return " ".join([KINDS[kind], *limits, *(["like", _code(pattern)] if pattern else [])])


def _shown_bases(model: type[BaseModel]) -> list[type[BaseModel]]:
    # An algorithm of the tables, which has a label, is named as the algorithm that it is; both are one table.
    shown = ANCHORS.keys() - {model.__name__}
    return [base for base in model.__mro__[1:] if base.__name__ in shown and issubclass(base, BaseModel)]


def _about(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring, and whose keys it has besides."""
    also = [f"[{base.__name__}](#{ANCHORS[base.__name__]})" for base in _shown_bases(model)]
    return " ".join(
        [_prose((model.__doc__ or "").split("\n\n")[0]), *(f"Also the keys of {base}." for base in also)]
    )


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    cells = ([_code(key), allowed, default, meaning] for key, allowed, default, meaning in rows)
    return "\n".join(
        [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells), ""]
    )


def _prose(text: str) -> str:
    """A docstring as Markdown."""
    return re.sub(r":class:`(\w+)`", r"\1", " ".join(text.split())).replace("``", "`")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return _code(f"{value:g}" if value < 1e6 else str(value))
    return _code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _code(text: str) -> str:
    return f"`{text}`"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _anchors() -> dict[str, str]:
    """Return model -> the heading under which its keys are listed: a file's only or first kind has the file's own."""
    anchors = {}
    for heading, (_, _, models) in FILES.items():
        for model in models:
            alone = model is models[0] and model not in (pretrained.HubModel,)
            anchors[model.__name__] = _anchor(heading if alone else model.__name__)
    return anchors


ANCHORS = _anchors()
# The tables of a scale hold what the shared tables do.
LISTED_AS = {config.NamedSampler.__name__: config.SharedSampler.__name__}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of the files a person writes, by file name in workflow/schemas/."""
    models = {"config": config.Configuration, "scale": config.Scale, "experiments": figures.Experiments}
    return {f"{name}.schema.json": model.model_json_schema() for name, model in models.items()}
