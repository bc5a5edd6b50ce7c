"""The table of data sets, workflow/datasets.yaml: real ones, with sources pinned by revision and checksum.

An entry with a ``kind`` is a generated one (``reproduction.tasks``); a scale takes it as its own.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from reproduction.config import (
    REPOSITORY,
    ConfigurationError,
    Count,
    Name,
    RelativeFile,
    Strict,
    read_yaml,
    suggest,
    validate,
)
from reproduction.data.adapters import ADAPTERS, TAKES, Adapter
from reproduction.data.prompts import PROMPTS
from reproduction.tasks import AnyGeneratedData, is_generated

TABLE = REPOSITORY / "workflow" / "datasets.yaml"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


def _one_of(known: dict) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"unknown name{suggest(name, known)}")
        return name

    return AfterValidator(check)


AdapterName = Annotated[str, _one_of(ADAPTERS)]
PromptName = Annotated[str, _one_of(PROMPTS)]


class Columns(Strict):
    """Which columns hold the problem and its answer; dotted paths reach into nested ones."""

    problem: str = Field(min_length=1, description="column of the problem")
    answer: str = Field(min_length=1, description="column of the answer, or of a solution with it")
    take: Literal[tuple(TAKES)] = Field(
        "as_given",
        description="how the answer is taken: the text as it is, an integer, the only element of a list, "
        "the last \\boxed{} of a solution, what follows its last ####",
    )
    id: str | None = Field(None, description="a column with unique names; null numbers the rows")


class Layout(Strict):
    """What the rows of a source hold."""

    rows: Count = Field(description="rows in all files together; any other number is an error")
    adapter: AdapterName | None = Field(
        None, description="a known file layout (reproduction.data.adapters); give this or `columns`"
    )
    # Left out where absent: an entry is a parameter of its job, and an unused key is no reason to run it again.
    columns: Columns | None = Field(
        None,
        description="the columns of a file that no adapter knows",
        exclude_if=lambda value: value is None,
    )

    @model_validator(mode="after")
    def _one_layout(self) -> "Layout":
        if (self.adapter is None) == (self.columns is None):
            raise ValueError("give either an adapter or columns")
        return self

    @property
    def reader(self) -> Adapter:
        """From a row to its problem."""
        if self.columns is None:
            return ADAPTERS[self.adapter]
        columns = self.columns
        return Adapter(columns.problem, columns.answer, TAKES[columns.take], id=columns.id)


class LocalFile(Strict):
    """One file in the configured folder of local copies (``paths.real_data``)."""

    file: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*\.(jsonl|parquet)$", description="file name in that folder"
    )
    sha256: Sha256 = Field(description="of the file")
    origin: str = Field(min_length=1, description="where the copy was taken from")


class LocalSource(Layout, LocalFile):
    """A local copy of a data set, and what it holds."""


class HubFiles(Strict):
    """Files of a repository on its hub."""

    repository: str = Field(pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$", description="owner/name")
    revision: Commit | None = Field(description="commit, which fixes every file; null where none is known")
    files: dict[RelativeFile, Sha256 | None] | None = Field(
        min_length=1,
        description="file -> SHA-256, null where the hub's statement for that commit does; null with the revision",
    )

    @model_validator(mode="after")
    def _files_of_a_commit(self) -> "HubFiles":
        if self.files is None and self.revision is not None:
            raise ValueError("a pinned revision needs its files")
        return self


class HubSource(Layout, HubFiles):
    """Files of a data set repository on its hub, and what they hold."""

    rows: Count | None = Field(
        description="rows in all files together; any other number is an error. Null with the revision"
    )

    @model_validator(mode="after")
    def _rows_of_a_commit(self) -> "HubSource":
        if self.rows is None and self.revision is not None:
            raise ValueError("a pinned revision needs its number of rows")
        return self


class DatasetEntry(Strict):
    """One data set of the table."""

    title: str = Field(min_length=1, description="its name in reports")
    licence: str = Field(min_length=1, description="of the data, as its authors state it")
    role: Literal["training", "evaluation"] = Field(description="what it is for")
    split: Literal["train", "test", "dev"] = Field(description="which part of the source it is")
    ability: Literal["math", "multiple_choice"] = Field("math", description="what kind of answers it has")
    prompt: PromptName = Field(description="prompt template (reproduction.data.prompts)")
    unique: bool = Field(
        description="keep one row of each problem, and none whose answers contradict each other"
    )
    on_bad_row: Literal["error", "drop"] = Field(
        "error", description="a broken row ends the preparation, or is left out and counted"
    )
    max_problem_tokens: Count | None = Field(
        None, description="leave out longer problems; a limit needs a `tokenizer` to count with"
    )
    tokenizer: str | None = Field(
        None, description="model of workflow/models.yaml whose tokenizer counts the tokens of a problem"
    )
    local: LocalSource | None = Field(None, description="a copy in the folder that `paths.real_data` names")
    hub: HubSource | None = Field(None, description="where it comes from without a local copy")

    @model_validator(mode="after")
    def _counts_with_something(self) -> "DatasetEntry":
        if (self.max_problem_tokens is None) != (self.tokenizer is None):
            raise ValueError("give both `max_problem_tokens` and `tokenizer`, or neither")
        return self

    @model_validator(mode="after")
    def _has_a_source(self) -> "DatasetEntry":
        if self.local is None and self.hub is None:
            raise ValueError("needs `local`, `hub` or both")
        return self


class _Table(Strict):
    datasets: dict[Name, DatasetEntry]


class _GeneratedTable(Strict):
    datasets: dict[Name, AnyGeneratedData]


def load_datasets(path: Path = TABLE) -> dict[str, DatasetEntry]:
    """Read and validate the table; return its real data sets. Raises ``ConfigurationError`` naming a wrong key."""
    real, generated = {}, {}
    for name, entry in read_yaml(Path(path)).items():
        (generated if is_generated(entry) else real)[name] = entry
    validate(_GeneratedTable, {"datasets": generated}, Path(path).name)
    return validate(_Table, {"datasets": real}, Path(path).name).datasets


def find_dataset(name: str, table: dict[str, DatasetEntry]) -> DatasetEntry:
    """Return the entry ``name``; an unknown name is a ``ConfigurationError`` with the nearest known one."""
    if name not in table:
        raise ConfigurationError(f"unknown data set {name!r}{suggest(name, table)}")
    return table[name]
