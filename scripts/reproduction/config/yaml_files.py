"""YAML 1.2, read strictly: no repeated key, no deep nesting, nothing but a mapping.

PyYAML speaks YAML 1.1, in which ``010`` is 8, ``1_0`` is 10, ``12:30`` is 750, ``no`` is false, ``1e3`` is a text and
``2026-11-29`` a date. Here each is what YAML 1.2's core schema says: 10, a text, a text, a text, 1000.0, a text; so a
value means in a file what it means on the command line.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from reproduction.config.explain import kind_of, read_text
from reproduction.fields import ConfigurationError

_PREFIX = "tag:yaml.org,2002:"
# Of YAML 1.2.2, section 10.3.2, with the characters that each begins with; `<<` is kept of YAML 1.1.
_CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern]]]:
    found: dict[str, list[tuple[str, re.Pattern]]] = {}
    for kind, (pattern, characters) in _CORE_SCHEMA.items():
        for character in characters:
            found.setdefault(character, []).append(
                (_PREFIX + kind, re.compile(rf"(?:{pattern})\Z", re.ASCII))
            )
    return found


class _StrictLoader(yaml.CSafeLoader):
    """YAML 1.2's scalars. YAML lets a repeated key win silently; here it is an error."""

    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node, deep=False):
        # `<<: *anchor` is no key of its own: what stands beside it may override what it brings.
        written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=deep) for key in written]
        for place, (key, value) in enumerate(zip(written, keys, strict=True)):
            if value in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {value!r} appears twice", key.start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_int(self, node) -> int:
        text = self.construct_scalar(node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)

    def construct_float(self, node) -> float:
        text = self.construct_scalar(node).lower()
        if text.lstrip("+-") in (".inf", ".nan"):
            return math.copysign(float(text.lstrip("+-")[1:]), -1 if text.startswith("-") else 1)
        return float(text)


_StrictLoader.add_constructor(f"{_PREFIX}int", _StrictLoader.construct_int)
_StrictLoader.add_constructor(f"{_PREFIX}float", _StrictLoader.construct_float)


class _Dumper(yaml.SafeDumper):
    """Texts that either YAML would take for something else are quoted, whoever reads the file."""


for _character, _patterns in _resolvers().items():
    for _tag, _pattern in _patterns:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_character])


# A table of the workflow has a few thousand values. Aliases can make a small file stand for billions of them.
MOST_VALUES = 100_000
MOST_LEVELS = 50


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in ``path``.

    Raises ConfigurationError, one line with the file, the place and the cause: no such file, not UTF-8, not YAML, a
    repeated key, anything but a mapping, or aliases that stand for more than ``MOST_VALUES`` values.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the mapping that ``text`` holds; ``source``, a file or an option, is named in errors.

    Raises ConfigurationError as :func:`read_yaml` does.
    """
    try:
        _check_depth(text)
        values = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{source}: not valid YAML{_yaml_problem(error, text)}") from None
    if not isinstance(values, dict):
        found = "an empty file" if values is None else kind_of(values)
        raise ConfigurationError(f"{source}: expected a mapping (key: value), found {found}")
    if sum(1 for _, _ in zip(_values_in(values), range(MOST_VALUES + 1), strict=False)) > MOST_VALUES:
        raise ConfigurationError(
            f"{source}: stands for more than {MOST_VALUES:,} values; use fewer aliases (*name)"
        )
    return values


def scalar(text: str) -> Any:
    """Return the value of a scalar as YAML has it: ``010`` is 10. Raises ConfigurationError where it is none."""
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{text!r}: no YAML scalar{_yaml_problem(error, text)}") from None
    return text if isinstance(value, dict | list) else value


def dump_yaml(value: Any, **style: Any) -> str:
    """Return ``value`` as YAML that :func:`read_yaml` and readers of YAML 1.1 read alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, **style)


def _check_depth(text: str) -> None:
    """Raise YAMLError for deep nesting, event by event: the composer is recursive, and ends the process instead."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS:
            raise yaml.constructor.ConstructorError(
                None, None, f"nested in more than {MOST_LEVELS} levels", event.start_mark
            )


def _yaml_problem(error: Exception, text: str) -> str:
    """Return place and cause in one line; yaml's own messages take several."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    cause = getattr(error, "problem", None) or " ".join(str(error).split())
    if (
        mark
        and text.splitlines()[mark.line : mark.line + 1]
        and text.splitlines()[mark.line].startswith("\t")
    ):
        cause = "indented with a tab; allowed: spaces"
    return f"{where}: {cause}"


def _values_in(value: Any) -> Iterator[Any]:
    ahead = [value]
    while ahead:
        value = ahead.pop()
        yield value
        if isinstance(value, Mapping):
            ahead.extend(value.values())
        elif isinstance(value, list):
            ahead.extend(value)


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``override``, merged mapping by mapping; lists and values are replaced."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged
