"""The one schema every data set has, its reader and its writer.

The columns are those verl's trainer reads, so both engines train on the same files:

=============  ========================================================================================
data_source    name of the data set
prompt         list of {role, content}: the messages before the response
ability        what the row asks for ("math", "multiple_choice", ...)
reward_model   {style, ground_truth}: how a response is graded, and the reference answer
extra_info     {id, index, split, details}: unique name, position in the source, split, and a JSON object
               (as text) with whatever else the source tells
=============  ========================================================================================
"""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reproduction.files import atomic_path

_TEXT = pa.string()
SCHEMA = pa.schema(
    [
        ("data_source", _TEXT),
        ("prompt", pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))),
        ("ability", _TEXT),
        ("reward_model", pa.struct([("style", _TEXT), ("ground_truth", _TEXT)])),
        (
            "extra_info",
            pa.struct([("id", _TEXT), ("index", pa.int64()), ("split", _TEXT), ("details", _TEXT)]),
        ),
    ]
)
"""Exact columns and types of results/data/{dataset}.parquet."""

_ROLES = ("system", "user", "assistant")


class DatasetError(ValueError):
    """A data set that cannot be used as it is; the message names the file, the row and what to do."""


def make_row(
    *,
    data_source: str,
    prompt: Sequence[Mapping[str, str]],
    ground_truth: str,
    id: str,
    index: int,
    split: str,
    ability: str = "math",
    style: str = "rule",
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one row of ``SCHEMA``. ``details`` is any JSON object; it is stored as text with sorted keys."""
    return {
        "data_source": data_source,
        "prompt": [dict(message) for message in prompt],
        "ability": ability,
        "reward_model": {"style": style, "ground_truth": ground_truth},
        "extra_info": {
            "id": id,
            "index": index,
            "split": split,
            "details": json.dumps(details or {}, ensure_ascii=False, sort_keys=True, allow_nan=False),
        },
    }


def write_dataset(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Validate ``rows`` and write them to ``path`` (Parquet), atomically.

    The bytes depend on the rows and the version of pyarrow only. Raises ``DatasetError`` for the first row
    that does not fit the schema, and then writes nothing.
    """
    rows = list(rows)
    _check_rows(rows, path)
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, write_page_checksum=True)


def read_dataset(path: str | Path) -> pd.DataFrame:
    """Read and validate ``path``; one row per problem.

    ``prompt`` holds lists of dictionaries, ``reward_model`` and ``extra_info`` dictionaries, all plain Python
    values. Raises ``FileNotFoundError``, or ``DatasetError`` for an unreadable file, other columns or types
    than ``SCHEMA``, an empty data set, a duplicate id, or an empty prompt or answer.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such data set; `snakemake {path}` makes it")
    try:
        table = pq.read_table(path, memory_map=False, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(
            f"{path}: not a readable Parquet file ({error}); it may be truncated or damaged: "
            "delete it and make it again"
        ) from error
    _check_columns(table.schema, path)
    columns = {name: _to_python(table[name], name, path) for name in SCHEMA.names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    _check_rows(rows, path)
    return pd.DataFrame(columns)


def _check_columns(found: pa.Schema, path: Path) -> None:
    wrong = []
    for field in SCHEMA:
        if field.name not in found.names:
            wrong.append(f"column {field.name!r} is missing (expected {field.type})")
        elif found.field(field.name).type != field.type:
            wrong.append(f"column {field.name!r} is {found.field(field.name).type}, expected {field.type}")
    wrong += [
        f"column {name!r} is not part of the schema" for name in found.names if name not in SCHEMA.names
    ]
    if wrong:
        raise DatasetError(
            f"{path}: {'; '.join(wrong)}. Write data sets with reproduction.data.write_dataset"
        )


def _to_python(column: pa.ChunkedArray, name: str, path: Path) -> list[Any]:
    """Return the column as Python values; Arrow does not check that its text is UTF-8 before this."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        for index, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{path}: row {index}, column {name!r}: not UTF-8 text ({error}); re-encode the source"
                ) from error
        raise


def _check_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Raise ``DatasetError`` naming file, row, id and column of the first row that does not fit."""
    if not rows:
        raise DatasetError(f"{path}: the data set has no rows; a data set needs at least one")
    first_row_of: dict[str, int] = {}
    for index, row in enumerate(rows):
        problem = _problem_of(row)
        if problem is None:
            identifier = row["extra_info"]["id"]
            earlier = first_row_of.setdefault(identifier, index)
            if earlier != index:
                problem = f"column 'extra_info.id': already used by row {earlier}; ids are unique"
        if problem is not None:
            raise DatasetError(f"{path}: row {index} (id {_id_of(row)!r}), {problem}")


def _id_of(row: Any) -> Any:
    try:
        return row["extra_info"]["id"]
    except (KeyError, TypeError):
        return None


def _problem_of(row: Any) -> str | None:
    """Return what is wrong with one row, naming the column, or ``None``."""
    if problem := _wrong_keys(row, SCHEMA.names, "row"):
        return problem
    if problem := _wrong_keys(row["reward_model"], ("style", "ground_truth"), "column 'reward_model'"):
        return problem
    if problem := _wrong_keys(row["extra_info"], ("id", "index", "split", "details"), "column 'extra_info'"):
        return problem

    texts = {
        "data_source": row["data_source"],
        "ability": row["ability"],
        "reward_model.style": row["reward_model"]["style"],
        "reward_model.ground_truth": row["reward_model"]["ground_truth"],
        "extra_info.id": row["extra_info"]["id"],
        "extra_info.split": row["extra_info"]["split"],
        "extra_info.details": row["extra_info"]["details"],
    }
    prompt = row["prompt"]
    if not isinstance(prompt, list) or not prompt:
        return f"column 'prompt': expected a non-empty list of messages, found {_short(prompt)}"
    for number, message in enumerate(prompt):
        if problem := _wrong_keys(message, ("role", "content"), f"column 'prompt', message {number}"):
            return problem
        if message["role"] not in _ROLES:
            return (
                f"column 'prompt', message {number}: role {_short(message['role'])} is not one of "
                f"{', '.join(_ROLES)}"
            )
        texts[f"prompt[{number}].content"] = message["content"]

    for column, text in texts.items():
        if problem := _wrong_text(text):
            return f"column {column!r}: {problem}"
    gold = row["reward_model"]["ground_truth"]
    if unseen := [f"U+{ord(sign):04X}" for sign in gold if unicodedata.category(sign) == "Cf"]:
        return f"column 'reward_model.ground_truth': holds {unseen[0]}, which nobody sees and no response has"
    if control := control_character(gold):
        return f"column 'reward_model.ground_truth': holds the control character {control}"
    index = row["extra_info"]["index"]
    if not isinstance(index, int) or isinstance(index, bool):
        return f"column 'extra_info.index': expected an integer, found {_short(index)}"
    try:
        details = json.loads(row["extra_info"]["details"])
    except ValueError as error:
        return f"column 'extra_info.details': not JSON ({error}); build rows with make_row"
    if not isinstance(details, dict):
        return f"column 'extra_info.details': expected a JSON object, found {_short(details)}"
    return None


def _wrong_keys(value: Any, wanted: Sequence[str], what: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{what}: expected the fields {', '.join(wanted)}, found {_short(value)}"
    missing = [name for name in wanted if name not in value]
    extra = [str(name) for name in value if name not in wanted]
    if missing or extra:
        return f"{what}: missing fields {missing}, unknown fields {extra}; expected {', '.join(wanted)}"
    return None


def _wrong_text(text: Any) -> str | None:
    if not isinstance(text, str):
        return f"expected text, found {_short(text)}"
    if not text.strip():
        return "is empty; give it a value or drop the row"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"not encodable as UTF-8 ({error.reason} at character {error.start})"
    return None


def control_character(text: str) -> str | None:
    """Return the name of the first character of ``text`` that no text has (U+0000); tabs and line ends are none."""
    for character in text:
        if unicodedata.category(character) == "Cc" and character not in "\t\n\r":
            return f"U+{ord(character):04X}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def card_facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``source``, ``rows`` and ``sha256`` of a data card, and ``of``, what is hashed: the file or its rows.

    Prepared and generated data sets have cards of two forms.
    """
    if "content_sha256" in card:
        source, rows = card["source"]["origin"], card["rows"]["kept"]
        return {"source": source, "rows": rows, "sha256": card["content_sha256"], "of": "rows"}
    return {name: card[name] for name in ("source", "rows", "sha256")} | {"of": "file"}
