"""Provenance of a report as an RO-Crate: from any figure back to samples, checkpoints, configuration and data.

The crate is the scale's folder of reports. What it holds (report, figures, tables, verdicts) are files of the crate;
what it does not hold, since checkpoints and samples are heavy, is described by path, SHA-256 and size. Every step of
the way is a ``CreateAction`` whose ``object`` are the inputs and whose ``result`` are the outputs:

    data -> train a run -> evaluate a run -> analyse and draw a figure -> report

The whole is one more ``CreateAction``, whose instrument is the workflow, which the crate holds a copy of: that makes it
a Workflow Run Crate (0.5), which extends RO-Crate 1.1.
"""

import json
import mimetypes
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from reproduction import layout
from reproduction.config import REPOSITORY, Configuration, Scale
from reproduction.config.runs import RunConfiguration, expand_all
from reproduction.figures import Figure, load_experiments
from reproduction.files import atomic_path, load_json, sha256_of_file
from reproduction.report import source_in_words
from reproduction.versions import code_version

LICENCE = "https://spdx.org/licenses/Apache-2.0"
# What a crate of one workflow run states of itself; the third, Workflow RO-Crate, comes with the main workflow.
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"  # sha256 is a term of it
_BIOSCHEMAS = "https://bioschemas.org/profiles/{}/1.0-RELEASE"
_MEDIA_TYPES = {".parquet": "application/vnd.apache.parquet", ".yaml": "application/yaml", ".csv": "text/csv"}


class Crate:
    """Builds the crate of one scale; see :func:`export`."""

    def __init__(self, reports: Path, results: Path, description: str, published: datetime) -> None:
        self._reports, self._results = reports, results
        self._crate = ROCrate(version="1.1")
        self._crate.metadata.extra_contexts.append(_CONTEXT)
        self._crate.name = f"Exploratory Annealed Decoding, reproduced: scale {results.name}"
        self._crate.description = description
        self._crate.license = LICENCE
        self._crate.datePublished = published
        self._known: dict[str, Any] = {}
        self._crate.root_dataset["conformsTo"] = [
            self.entity(address, "CreativeWork", name=name, version=address.rpartition("/")[2])
            for address, name in _PROFILES.items()
        ]

    def entity(self, name_in_crate: str, kind: str, /, **properties: Any) -> Any:
        """Return the entity of that ``@id``, made at the first call."""
        if name_in_crate not in self._known:
            values = {"@type": kind, **{key: v for key, v in properties.items() if v is not None}}
            self._known[name_in_crate] = self._crate.add(ContextEntity(self._crate, name_in_crate, values))
        return self._known[name_in_crate]

    def file(self, path: Path, about: str, **properties: Any) -> Any:
        """Return the entity of an existing file: a part of the crate below its folder, else a description."""
        inside = path.is_relative_to(self._reports)
        identifier = path.relative_to(self._reports).as_posix() if inside else f"#{self._outside(path)}"
        if identifier in self._known:
            return self._known[identifier]
        values = {
            "name": about,
            "sha256": properties.pop("sha256", None) or sha256_of_file(path),
            "contentSize": str(path.stat().st_size),
            "encodingFormat": _MEDIA_TYPES.get(path.suffix)
            or mimetypes.guess_type(path.name)[0]
            or "application/octet-stream",
            **properties,
        }
        if inside:
            self._known[identifier] = self._crate.add_file(path, identifier, properties=values)
            return self._known[identifier]
        return self.entity(identifier, "CreativeWork", **values, identifier=self._outside(path))

    def action(self, identifier: str, name: str, inputs: Iterable, outputs: Iterable, **properties) -> Any:
        """Describe one step; what has no output did not happen."""
        inputs, outputs = list(inputs), list(outputs)
        if not outputs:
            return None
        properties.setdefault(
            "instrument",
            self.entity(
                "https://snakemake.github.io",
                "SoftwareApplication",
                name="Snakemake",
                url="https://snakemake.github.io",
                version=metadata.version("snakemake"),
            ),
        )
        action = self.entity(
            f"#{identifier}",
            "CreateAction",
            name=name,
            object=inputs or None,
            result=outputs,
            **properties,
        )
        self._crate.root_dataset.append_to("mentions", action)
        return action

    def workflow(self, commit: str, configuration: Any, page: Any) -> Any:
        """Copy the workflow into the crate and describe it as the crate's main entity."""
        for path in _workflow_files():
            copy = self._reports / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        main, *rules = (path.relative_to(REPOSITORY).as_posix() for path in _workflow_files())
        parameters = {
            kind: self.entity(
                f"#parameter-{name}",
                "FormalParameter",
                name=name,
                additionalType=additional,
                workExample=example,
                conformsTo=self.entity(_BIOSCHEMAS.format("FormalParameter"), "CreativeWork"),
            )
            for kind, name, additional, example in (
                ("input", "configuration", "PropertyValue", configuration),
                ("output", "report", "File", page),
            )
        }
        configuration["exampleOfWork"], page["exampleOfWork"] = parameters["input"], parameters["output"]
        return self._crate.add_workflow(
            self._reports / main,
            main,
            main=True,
            lang="snakemake",
            lang_version=metadata.version("snakemake"),
            properties={
                "name": "Exploratory Annealed Decoding, reproduced",
                "version": commit,
                "license": LICENCE,
                "conformsTo": self.entity(_BIOSCHEMAS.format("ComputationalWorkflow"), "CreativeWork"),
                "hasPart": [self.file(self._reports / name, "rules of the workflow") for name in rules],
                **parameters,
            },
        )

    def write(self) -> None:
        # The files are where they belong already, so only the description is written.
        with atomic_path(self._reports / "ro-crate-metadata.json") as temporary:
            text = json.dumps(self._crate.metadata.generate(), indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")

    def _outside(self, path: Path) -> str:
        """The path as the crate names it: below the folder of results or the repository."""
        for root in (self._results.parent.parent, REPOSITORY):
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name


def export(
    configuration: Configuration,
    scale: Scale,
    experiments: Mapping[str, Figure],
    datasets: Mapping[str, Path],
    *,
    results: Path,
    reports: Path,
) -> dict[str, int]:
    """Write ``{reports}/ro-crate-metadata.json`` from what is there; return how many entities of each kind it has.

    Args:
        datasets: data set of the scale -> its Parquet file.

    Raises:
        FileNotFoundError: there is no report yet.
    """
    results, reports = results.resolve(), reports.resolve()
    page = reports / "report.html"
    if not page.exists():
        raise FileNotFoundError(f"{page}: write the report first")
    published = datetime.fromtimestamp(page.stat().st_mtime, UTC)
    crate = Crate(reports, results, scale.description, published)
    code = code_version()
    crate.entity(
        "#code",
        "CreativeWork",
        name="ead",
        version=code["commit"],
        description="with changes that are not committed" if code["modified"] else "as committed",
    )
    choices = crate.entity(
        "#configuration",
        "PropertyValue",
        name="configuration",
        value=json.dumps(
            configuration.model_dump(mode="json", exclude={"paths", "tracking", "interpreters"})
        ),
    )
    data = {
        name: crate.file(path.resolve(), f"data set {name}")
        for name, path in datasets.items()
        if path.exists()
    }
    runs_of = expand_all(configuration, scale, {**load_experiments(), **experiments})
    evaluated: dict[str, Any] = {}
    recorded: dict[str, Any] = {}
    drawn = []
    for name, experiment in experiments.items():
        inputs = []
        for run in runs_of[name].values():
            if run.name not in evaluated:
                recorded[run.name] = _training(crate, run, results, data, scale)
                evaluated[run.name] = _evaluation(crate, run, results, recorded[run.name], data, scale)
            inputs += [entity for entity in (recorded[run.name], evaluated[run.name]) if entity]
        drawn += _figure(crate, name, experiment.title, inputs, results, reports)
    others = _verdicts_and_tables(crate, reports)
    evidence = [entity for entity in evaluated.values() if entity]
    crate.action("tabulate", "Judge claims, compute deviations and tables", evidence, others)
    written = crate.file(page, "the report")
    crate.action("report", "Write the report", [choices, *drawn, *others], [written])
    crate.action(
        "run",
        "Run the workflow",
        [choices, *data.values()],
        [written, *drawn, *others],
        instrument=crate.workflow(code["commit"], choices, written),
        endTime=published.isoformat(timespec="seconds"),
    )
    crate.write()
    kinds: dict[str, int] = {}
    for entity in crate._crate.get_entities():
        kind = entity.type if isinstance(entity.type, str) else entity.type[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def _verdicts_and_tables(crate: Crate, reports: Path) -> list[Any]:
    """Return the entities of what is computed beside the figures, where it is there."""
    others = [
        crate.file(reports / name, about)
        for name, about in (
            ("claims.json", "verdicts on the claims, with effects and intervals"),
            ("claims.csv", "verdicts, as a table"),
            ("deviations.json", "what each deviation D01-D20 changes in numbers"),
            ("deviations.csv", "the same as a table"),
            ("deviations.html", "the same as a page"),
        )
        if (reports / name).exists()
    ]
    others += [crate.file(path, f"table {path.stem}") for path in sorted((reports / "tables").glob("*.*"))]
    return others


def _training(crate: Crate, run: RunConfiguration, results: Path, data: Mapping, scale: Scale) -> Any:
    """The manifest of a run, with its checkpoints as parts."""
    folder = results / "runs" / run.name
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return None
    values = load_json(manifest)
    checkpoints = [
        crate.file(path, f"checkpoint of {run.name} after step {step}")
        for step in values["checkpoints"]
        if (path := folder / "checkpoints" / f"step_{step}" / "model.safetensors").exists()
    ]
    entity = crate.file(
        manifest,
        f"run {run.name}, {values['status']}",
        hasPart=[
            *checkpoints,
            crate.file(folder / "config.yaml", f"resolved configuration of {run.name}"),
            crate.file(folder / "metrics.parquet", f"metrics of {run.name}"),
        ],
        version=values["code"]["commit"],
        additionalProperty=crate.entity(
            f"#configuration-hash-{values['configuration_hash']}",
            "PropertyValue",
            name="configuration hash",
            value=values["configuration_hash"],
        ),
    )
    model = layout.model_manifest(results.parent, results.name, scale, run.model)
    inputs = [data[run.training.dataset]] if run.training.dataset in data else []
    if model.exists():
        source = load_json(model)["source"]
        inputs.append(crate.file(model, f"base model {run.model}", description=source_in_words(source)))
    crate.action(
        f"train/{run.name}",
        f"Train {run.name}",
        inputs,
        [entity, *checkpoints],
        startTime=_time(values["started"]),
        endTime=_time(values["ended"]),
    )
    return entity


def _evaluation(crate: Crate, run: RunConfiguration, results: Path, training, data: Mapping, scale: Scale):
    """The manifest of an evaluation, with its sample files, by their recorded checksums, as parts."""
    manifest = results / "evaluations" / run.name / "manifest.json"
    if not manifest.exists():
        return None
    files = load_json(manifest)["files"]
    samples = [
        crate.file(
            manifest.parent / file["file"],
            f"{file['responses']} responses, step {file['step']}, decoder {file['decoder']}, {run.name}",
            sha256=file["sha256"],
        )
        for file in files
        if (manifest.parent / file["file"]).exists()
    ]
    entity = crate.file(manifest, f"evaluation of {run.name}", hasPart=samples)
    dataset = scale.evaluation_of(run.model).dataset
    inputs = [item for item in (training, data.get(dataset)) if item]
    crate.action(f"evaluate/{run.name}", f"Evaluate {run.name}", inputs, [entity])
    return entity


def _figure(crate: Crate, name: str, title: str, inputs: list, results: Path, reports: Path) -> list:
    files = [
        crate.file(path, f"{name}: {title}")
        for suffix in ("png", "pdf", "csv")
        if (path := reports / "figures" / f"{name}.{suffix}").exists()
    ]
    estimates = results / "analyses" / f"{name}.parquet"
    if estimates.exists():
        middle = crate.file(estimates, f"estimates of {name}")
        crate.action(f"analyse/{name}", f"Estimate {name}", inputs, [middle])
        inputs = [middle]
    crate.action(f"draw/{name}", f"Draw {name}", inputs, files)
    return files


def _workflow_files() -> list[Path]:
    """The Snakefile, then the files that it includes."""
    folder = REPOSITORY / "workflow"
    return [folder / "Snakefile", *sorted(folder.glob("rules/*.smk"))]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
