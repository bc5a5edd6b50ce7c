"""What a scale recorded of the runs that workflow/deviations.yaml compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from reproduction.config import ConfigurationError, Evaluation, Scale, Training
from reproduction.config.runs import RunConfiguration
from reproduction.evaluation.samples import correct_counts, read_samples
from reproduction.files import load_json


def cell_of(algorithm: str, sampler: str) -> str:
    """Return how a cell of the experiment ``deviations`` is called: by its sampler, under another algorithm by both."""
    return sampler if algorithm == "dapo" else f"{algorithm}/{sampler}"


@dataclass(frozen=True)
class Recorded:
    """What a scale recorded of the experiment ``deviations``, whose runs are of one model.

    Attributes:
        folder: the scale's results; every path in a result is relative to it.
        cells: cell (:func:`cell_of`) -> names of its runs, one per seed.
        training, evaluation: those of the model.
        dataset_file: problems of the evaluation; ``training_card`` is the card of the training set.
        real_lm_dataset: problems of the published language model, where the scale has one.
    """

    root_seed: int
    scale: Scale
    folder: Path
    cells: Mapping[str, Sequence[str]]
    training: Training
    evaluation: Evaluation
    dataset_file: Path
    training_card: Path
    real_lm_dataset: Path | None = None
    _counts: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        root_seed: int,
        scale: Scale,
        runs: Mapping[str, RunConfiguration],
        folder: Path,
        **files: Path | None,
    ) -> "Recorded":
        """Return the records of ``runs``; ``files`` are the attributes that are files.

        Raises ConfigurationError for runs of several models.
        """
        cells: dict[str, list[str]] = {}
        for run in runs.values():
            cells.setdefault(cell_of(run.algorithm, run.sampler), []).append(run.name)
        if len({run.model for run in runs.values()}) > 1:
            raise ConfigurationError("experiments.yaml: the pairs of `deviations` are runs of one model")
        run = next(iter(runs.values()), None)
        training = run.training if run else scale.training
        evaluation = scale.evaluation_of(run.model) if run else scale.evaluation
        return cls(root_seed, scale, folder, cells, training, evaluation, **files)

    @property
    def decoder(self) -> str:
        """The evaluation decoder at which trainings are compared."""
        return self.evaluation.decoders[0]

    @property
    def real_lm(self) -> Path | None:
        """Manifest of the evaluation of the published language model."""
        asked = self.scale.real_lm
        return asked and self.folder / "evaluations" / f"model~{asked.model}" / "manifest.json"

    def label(self, cell: str) -> str:
        algorithm, _, sampler = cell.rpartition("/")
        label = self.scale.samplers[sampler].label if sampler in self.scale.samplers else sampler
        return f"{self.algorithm_label(algorithm)}, {label}" if algorithm else label

    def algorithm_label(self, algorithm: str) -> str:
        found = self.scale.algorithms.get(algorithm)
        return found.label if found else algorithm

    def evaluations(self, sampler: str) -> list[Path]:
        return [self.folder / "evaluations" / run / "manifest.json" for run in self.cells.get(sampler, ())]

    def missing(self, *samplers: str, decoders: Sequence[str] | None = None) -> str | None:
        """Return why the final evaluations of ``samplers`` cannot be compared at ``decoders``; None where they can."""
        for sampler in samplers:
            if not self.evaluations(sampler):
                return f"no cell of the sampler {sampler} at this scale"
            for path in self.evaluations(sampler):
                if not path.exists():
                    return f"missing {path.relative_to(self.folder)}"
                drawn = {file["decoder"] for file in load_json(path)["files"]}
                for decoder in decoders or [self.decoder]:
                    if decoder not in drawn:
                        return f"no samples with the decoder {decoder}"
        return None

    def tables(self, cell: str, name: str) -> tuple[list[Path], str | None]:
        """Return a table of each training of ``cell``, and why they cannot be read; None where they can."""
        paths = [self.folder / "runs" / run / f"{name}.parquet" for run in self.cells.get(cell, ())]
        if not paths:
            return paths, f"no cell of the sampler {cell} at this scale"
        missing = [path for path in paths if not path.exists()]
        return paths, f"missing {missing[0].relative_to(self.folder)}" if missing else None

    def evidence(self, *samplers: str) -> list[str]:
        return [str(path.relative_to(self.folder)) for name in samplers for path in self.evaluations(name)]

    def final_counts(self, sampler: str, decoder: str) -> tuple[np.ndarray, np.ndarray]:
        """Return responses and correct responses of the last checkpoints, both ``[seeds, problems]``."""
        if (sampler, decoder) not in self._counts:
            tables = []
            for path in self.evaluations(sampler):
                tables.append(correct_counts(path, [decoder], last_step=True).set_index("problem"))
            if any(not table.index.equals(tables[0].index) for table in tables):
                raise ValueError(f"the seeds of {sampler} were evaluated on different problems")
            self._counts[sampler, decoder] = tuple(
                np.stack([table[column].to_numpy(dtype=int) for table in tables])
                for column in ("responses", "correct")
            )
        return self._counts[sampler, decoder]

    def paired_counts(self, *samplers: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return :meth:`final_counts` of each cell, of the seeds that all of them have."""
        seeds_of = [[int(run.rpartition("seed~")[2]) for run in self.cells[sampler]] for sampler in samplers]
        shared = sorted(set.intersection(*map(set, seeds_of)))
        return [
            tuple(
                counts[[own.index(seed) for seed in shared]]
                for counts in self.final_counts(sampler, self.decoder)
            )
            for sampler, own in zip(samplers, seeds_of, strict=True)
        ]


def final_samples(manifest: Path, decoder: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the samples of an evaluation's last checkpoint with one decoder (``evaluation.samples.read_samples``)."""
    return read_samples(manifest, decoders=[decoder], columns=columns, last_step=True)
