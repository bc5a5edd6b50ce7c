"""Validation whose errors a person can act on: the file, the key, what was found and what is allowed."""

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from reproduction.fields import ConfigurationError


def suggest(name: Any, known: Iterable) -> str:
    """Return the end of an error message: the nearest known names, at most three equally near, and all of them."""
    known = list(map(str, known))
    nearness = [difflib.SequenceMatcher(None, each, str(name)[:200]).ratio() for each in known]
    near = [each for each, ratio in zip(known, nearness, strict=True) if 0.6 <= ratio == max(nearness)][:3]
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    return f"{hint}; known: {', '.join(known) or 'none'}"


def unknown(where: str, kind: str, names: Iterable[str | None], table: Iterable[str]) -> Iterator[str]:
    """Yield what to say of each of ``names`` that ``table`` lacks; null is no name."""
    for name in names:
        if name is not None and name not in table:
            yield f"{where}: unknown {kind} {name!r}{suggest(name, table)}"


def kind_of(value: Any) -> str:
    """Return what a value is, in words of YAML, and the value where it is a short one."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


MOST_LINES = 20  # of one message


def validate(model: type[BaseModel], values: Any, source: str) -> Any:
    """Return ``values`` as ``model``.

    Raises ConfigurationError with one line per problem: the source, the key, what was found and what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        lines = [_explain(model, problem, source, values) for problem in problems[:MOST_LINES]]
        if len(problems) > MOST_LINES:
            lines.append(f"{source}: and {len(problems) - MOST_LINES} mistakes more")
        raise ConfigurationError("\n".join(lines)) from None
    except RecursionError:
        raise ConfigurationError(f"{source}: nested too deeply") from None


def read_text(path: Path) -> str:
    """Return the text of a file. Raises ConfigurationError where there is none, or none in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at position {error.start}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None


def read_json(path: Path, model: type[BaseModel]) -> Any:
    """Return what a JSON file holds, which is as ``model`` says.

    Raises ConfigurationError: the file, and the place or the key.
    """
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path}: not JSON: {error}") from None
    validate(model, values, str(path))
    return values


def check_csv(path: Path, row: type[BaseModel]) -> None:
    """Look at every row of a CSV file, whose columns ``row`` describes; an empty value is null.

    pandas alone reads half a row as one with empty values. Raises ConfigurationError: the file, and the column or line.
    """
    text = read_text(path)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        found = [(lines.line_num, values) for values in lines if values]
    except csv.Error as error:
        raise ConfigurationError(f"{path}: line {lines.line_num}: not CSV: {error}") from None
    if not found:
        raise ConfigurationError(f"{path}: an empty file")
    (_, columns), *rows = found
    for column, field in row.model_fields.items():
        if field.is_required() and column not in columns:
            raise ConfigurationError(f"{path}: the column {column!r} is missing{suggest(column, columns)}")
    if not rows:
        raise ConfigurationError(f"{path}: no row below the names of the columns")
    for number, values in rows:
        where = f"{path}: line {number}"
        if len(values) != len(columns):
            raise ConfigurationError(f"{where}: {len(values)} values for {len(columns)} columns")
        validate(row, {name: value or None for name, value in zip(columns, values, strict=True)}, where)
    if not text.endswith("\n"):
        raise ConfigurationError(f"{where}: cut short, without the end of a line")


def _explain(model: type[BaseModel], problem: Mapping[str, Any], source: str, values: Any) -> str:
    location = _without_discriminators(problem["loc"], values)
    key = ".".join(map(_printable, location)) or "(top level)"
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}{suggest(location[-1], _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{source}: the key {key!r} is missing"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = ".".join(map(_printable, [*location, problem["ctx"]["discriminator"].strip("'")]))
        if problem["type"] == "union_tag_not_found":
            return f"{source}: the key {key!r} is missing"
        expected = " or ".join(problem["ctx"]["expected_tags"].rsplit(", ", 1))
        return f"{source}: {key}: Input should be {expected}, found {kind_of(problem['ctx']['tag'])}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("model_type", "dict_type", "model_attributes_type"):
        message = "Input should be a mapping (key: value)"
    found = problem["input"]
    if isinstance(found, BaseModel) or (isinstance(found, Mapping) and problem["type"] == "value_error"):
        return f"{source}: {key}: {message}" if location else f"{source}: {message}"  # it names the keys
    return f"{source}: {key}: {message}, found {kind_of(found)}{_number_hint(found, problem['type'])}"


def _printable(part: Any) -> str:
    text = str(part)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number_hint(found: Any, problem: str) -> str:
    """YAML 1.1 reads 1e-3 as text; say how to write it."""
    if problem not in ("float_type", "int_type") or not isinstance(found, str):
        return ""
    try:
        number = float(found)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    if number.is_integer() and abs(number) < 1e6:
        return f", which is text; write {int(number)}"
    written = f"{number!r}"
    if "e" in written and "." not in written:
        written = written.replace("e", ".0e")
    return f", which is text; write {written}"


def _without_discriminators(location: tuple, values: Any) -> list:
    """Drop what pydantic adds to the location of a union member, the discriminator's value: no key of the file."""
    parts = []
    for part in location:
        if isinstance(values, Mapping) and part not in values:
            if part in (values.get("kind"), values.get("analysis"), values.get("loss")):
                continue
            values = None
        elif isinstance(values, Mapping):
            values = values[part]
        elif isinstance(values, list):
            values = values[part] if part < len(values) else None
        parts.append(part)
    return parts


def _keys_at(model: type[BaseModel], location: list) -> list[str]:
    """The keys that ``model`` allows at ``location``, for the hint of an error message."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def alternatives(node: dict) -> list[dict]:
        if "$ref" in node:
            return alternatives(definitions[node["$ref"].rsplit("/", 1)[-1]])
        options = node.get("anyOf", []) + node.get("oneOf", []) + node.get("allOf", [])
        return [node] + [deeper for option in options for deeper in alternatives(option)]

    nodes = alternatives(schema)
    for part in location:
        steps = []
        for node in nodes:
            if isinstance(part, int):
                steps += alternatives(node["items"]) if isinstance(node.get("items"), dict) else []
            elif part in node.get("properties", {}):
                steps += alternatives(node["properties"][part])
            elif isinstance(node.get("additionalProperties"), dict):
                steps += alternatives(node["additionalProperties"])
            else:  # a name table: the schema may describe its values by pattern
                for values in node.get("patternProperties", {}).values():
                    steps += alternatives(values)
        nodes = steps
    return sorted({key for node in nodes for key in node.get("properties", {})})
