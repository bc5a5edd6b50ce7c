"""What the verdicts rest on: recorded samples, training records and inference analyses, and their health."""

from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from reproduction.claims.model import EvaluationQuantity, Gates, Role
from reproduction.config import Configuration, Scale
from reproduction.config.runs import RunConfiguration, resolve, seeds_of_cells
from reproduction.evaluation.samples import correct_counts
from reproduction.figures import Figure, load_experiments
from reproduction.figures.analyses import METRICS
from reproduction.files import load_json
from reproduction.layout import model_from_scale
from reproduction.training import contract, health

Steps = Literal["final", "late", "run"]


class MissingEvidence(Exception):
    """What a claim needs and is not there; ``args`` are paths below the scale's results, or sentences."""


class EndedEarly(MissingEvidence):
    """A training that diverged before what a claim compares; ``args`` are a sentence, the run and its last step."""


class Results(Protocol):
    """Where the results of one scale are read from; paths are those below {results}/{scale}."""

    def exists(self, path: str) -> bool: ...

    def json(self, path: str) -> dict: ...

    def table(self, path: str) -> pd.DataFrame: ...

    def counts(self, subject: str, decoder: str) -> pd.DataFrame:
        """Return ``responses`` and ``correct`` of an evaluation by ``step`` and ``problem``, sorted."""


class ResultsFolder:
    """:class:`Results` as they lie below ``folder`` ({results}/{scale})."""

    def __init__(self, folder: Path):
        self.folder = folder

    def exists(self, path: str) -> bool:
        return (self.folder / path).exists()

    def json(self, path: str) -> dict:
        return load_json(self.folder / path)

    def table(self, path: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / path)

    def counts(self, subject: str, decoder: str) -> pd.DataFrame:
        manifest = self.folder / "evaluations" / subject / "manifest.json"
        return correct_counts(manifest, decoders=[decoder]).drop(columns="decoder")


class Evidence:
    """The results of one scale; each file is read once.

    Methods raise :class:`MissingEvidence` for what has not run, and ValueError for files that contradict one
    another.
    """

    def __init__(self, results: Results, configuration: Configuration, scale: Scale):
        self.results = results
        self.configuration = configuration
        self.scale = scale
        self._counts = cache(self._read_counts)
        self._json = cache(results.json)
        self._table = cache(results.table)
        self._by_step = cache(lambda path: self._table(path).set_index("step"))
        self._shares = cache(self._health_shares)

    @cached_property
    def experiments(self) -> dict[str, Figure]:
        return load_experiments()

    @cached_property
    def _seeds(self) -> dict[tuple[str, str, str, int], list[int]]:
        return seeds_of_cells(self.configuration, self.scale, self.experiments)

    def cell(self, role: Role, algorithm: str, sampler: str, n: int | None) -> list[RunConfiguration]:
        """Return the runs of a cell, one for each seed that the configuration gives it."""
        if role not in self.scale.roles:
            raise MissingEvidence(f"a model in the role {role}, which this scale does not have")
        key = (role, algorithm, sampler, n or self.scale.rollouts_of(role))
        return [
            resolve(
                self.configuration,
                self.scale,
                role=role,
                algorithm=algorithm,
                sampler=sampler,
                rollouts=n,
                seed=seed,
            )
            for seed in self._seeds.get(key, self.configuration.seeds)
        ]

    def require(self, paths: Iterable[str]) -> None:
        missing = [path for path in dict.fromkeys(paths) if not self.results.exists(path)]
        if missing:
            raise MissingEvidence(*missing)

    @cached_property
    def made_models(self) -> dict[str, dict]:
        """The manifest of each model that is made, by its path below the scale's folder."""
        paths = [model_from_scale(self.scale, name) for name in self.scale.models]
        manifests = {path: self._json(path) for path in paths if self.results.exists(path)}
        return {path: manifest for path, manifest in manifests.items() if "parameters" in manifest}

    @cached_property
    def parameters(self) -> dict[str, int]:
        """The number of parameters of each model that is made."""
        paths = {name: model_from_scale(self.scale, name) for name in self.scale.models}
        return {
            name: self.made_models[path]["parameters"]
            for name, path in paths.items()
            if path in self.made_models
        }

    # --- evaluations ---------------------------------------------------------------------------------------

    def scores(
        self, runs: Sequence[RunConfiguration], quantity: EvaluationQuantity, decoder: str
    ) -> pd.DataFrame:
        """Return the score averaged over checkpoints: one row per seed, one column per problem."""
        rows = []
        for run in runs:
            counts = self._counts(run.name, decoder)
            taken = list(counts.index.unique("step"))
            if quantity.steps == "late":
                late = sum(3 * step > 2 * run.training.steps for step in taken)
                # A diverged run may have ended before; its gate says so.
                taken = taken[-max(late, quantity.least_checkpoints) :]
            elif quantity.steps == "final":
                taken = taken[-1:]
            rows.append(np.mean([self._metric(counts.loc[step], quantity.metric) for step in taken], axis=0))
        return self._matrix(runs, rows, decoder)

    def scores_by_step(
        self, runs: Sequence[RunConfiguration], metric: str, decoder: str
    ) -> dict[int, pd.DataFrame]:
        """Return step -> scores as :meth:`scores`, step 0 being the base model, for steps that all seeds have."""
        base = self._counts(f"model~{runs[0].model}", decoder)
        counts = [self._counts(run.name, decoder) for run in runs]
        steps = sorted(set.intersection(*(set(table.index.unique("step")) for table in counts)))
        first = [self._metric(base.loc[0], metric)] * len(runs)
        rows = {
            0: first,
            **{step: [self._metric(table.loc[step], metric) for table in counts] for step in steps},
        }
        return {step: self._matrix(runs, values, decoder) for step, values in rows.items()}

    def samples(self, runs: Sequence[RunConfiguration], decoder: str) -> int:
        """Return the least number of responses per problem."""
        return min(int(self._counts(run.name, decoder)["n"].min()) for run in runs)

    @staticmethod
    def _metric(counts: pd.DataFrame, metric: str) -> np.ndarray:
        return METRICS[metric](counts["n"].to_numpy(), counts["c"].to_numpy())

    def _matrix(self, runs: Sequence[RunConfiguration], rows: list, decoder: str) -> pd.DataFrame:
        problems = [self._counts(run.name, decoder).index.unique("problem") for run in runs]
        if any(not index.equals(problems[0]) for index in problems[1:]):
            raise ValueError(
                f"{runs[0].cell}: its seeds were evaluated on different problems; evaluate them again"
            )
        return pd.DataFrame(np.stack(rows), columns=problems[0])

    def _read_counts(self, subject: str, decoder: str) -> pd.DataFrame:
        """Return responses ``n`` and correct responses ``c`` by step and problem, both sorted."""
        path = f"evaluations/{subject}/manifest.json"
        self.require([path])
        files = [file for file in self._json(path)["files"] if file["decoder"] == decoder]
        if not files:
            run = f"runs/{subject}/manifest.json"
            if self.results.exists(run) and self._json(run)["status"] == "diverged":
                raise EndedEarly("no checkpoint was saved before", subject, self._json(run)["steps"])
            raise MissingEvidence(f"{path}: no samples of decoder {decoder}")
        self.require(f"evaluations/{subject}/{file['file']}" for file in files)
        counts = self.results.counts(subject, decoder)
        counts = counts.rename(columns={"responses": "n", "correct": "c"}).set_index(["step", "problem"])
        if len(counts) != counts.index.unique("step").size * counts.index.unique("problem").size:
            raise ValueError(f"{path}: its checkpoints were evaluated on different problems; evaluate again")
        return counts

    # --- trainings -----------------------------------------------------------------------------------------

    def training(
        self, runs: Sequence[RunConfiguration], metric: str, steps: Steps, least: int = 2
    ) -> pd.DataFrame:
        """Return a recorded metric: one row per seed, one column per step that every seed reached.

        Raises MissingEvidence where those are fewer than ``least``: EndedEarly where a training diverged before.
        """
        series = []
        for run in runs:
            if contract.lacking(run.engine, [metric]):
                raise MissingEvidence(f"{metric}, which the engine {run.engine} does not record")
            table = self._metrics(run)
            if metric == contract.PER_TOKEN:
                path = f"runs/{run.name}/timings.parquet"
                self.require([path])
                seconds = self._by_step(path)["sampling_cpu_seconds"]
                tokens = table["response_length_mean"] * run.training.prompts * run.n
                values = seconds / tokens
            else:
                values = table[metric]
            if values.isna().all() and not self.diverged(run):
                raise MissingEvidence(
                    f"{metric} of {run.name}, which the engine {run.engine} does not know for its sampler"
                )
            series.append(values[values.index * 3 > run.training.steps * 2] if steps == "late" else values)
        shared = pd.DataFrame([values.to_dict() for values in series]).dropna(axis=1).sort_index(axis=1)
        if shared.shape[1] < least:
            said = f"of {metric}, {shared.shape[1]} steps that every seed reached are too few"
            ends = {run.name: self._manifest(run)["steps"] for run in runs if self.diverged(run)}
            if not ends:
                raise MissingEvidence(f"{runs[0].cell}: {said}")
            first = min(ends, key=ends.get)
            raise EndedEarly(said, first, ends[first])
        return shared

    def diverged(self, run: RunConfiguration) -> bool:
        return self._manifest(run)["status"] == "diverged"

    def _manifest(self, run: RunConfiguration) -> dict:
        path = f"runs/{run.name}/manifest.json"
        self.require([path])
        return self._json(path)

    def _metrics(self, run: RunConfiguration) -> pd.DataFrame:
        path = f"runs/{run.name}/metrics.parquet"
        self.require([path])
        return self._by_step(path)

    # --- inference analyses --------------------------------------------------------------------------------

    def problems_of_analysis(self, analysis: str) -> pd.DataFrame:
        """Return the scores by problem that an inference analysis writes beside its estimates."""
        path = problems_file(analysis)
        self.require([path])
        return self._table(path)

    def template_tokens(self, analysis: str) -> int:
        """Return how many tokens open every response alike in the study behind an inference analysis."""
        experiment = self.experiments[analysis]
        study = self.scale.study(experiment.study)
        return getattr(study, "template_tokens", 0)

    # --- health --------------------------------------------------------------------------------------------

    def exceeded_gates(
        self, run: RunConfiguration, decoder: str | None, gates: Gates, *, may_diverge: bool
    ) -> list[dict]:
        """Return the gates that a run, or its evaluation with ``decoder``, does not pass.

        Each is ``gate``, ``subject``, ``value`` and ``limit``. A run that diverged fails a gate of its own,
        unless its stability is what is tested.
        """
        manifest = self._manifest(run)
        expected = ("finished", "diverged") if may_diverge else ("finished",)
        exceeded = []
        if manifest["status"] not in expected:
            exceeded.append(
                {"gate": manifest["status"], "subject": run.name, "value": manifest["steps"], "limit": None}
            )
        for gate, value in self._shares(run.name, decoder).items():
            limit = getattr(gates, gate)
            if value > limit:
                exceeded.append({"gate": gate, "subject": run.name, "value": value, "limit": limit})
        return exceeded

    def signs(self, run: RunConfiguration) -> list[dict]:
        """Return ``run``, ``sign`` and ``first_step`` of each of a training's ``training.health.signs``.

        They forbid no verdict, as an unstable training is a result; who reads a number must know of them.
        """
        return [
            {"run": run.name, "sign": sign.name, "first_step": sign.first_step}
            for sign in health.signs(self._metrics(run).reset_index())
        ]

    def _health_shares(self, run: str, decoder: str | None) -> dict[str, float]:
        """Return the larger share of training and evaluation for each gate."""
        path = f"runs/{run}/metrics.parquet"
        self.require([path])
        table = self._by_step(path)
        shares = {
            "timeouts": table["verdicts_timeout"].mean(),
            "errors": table["verdicts_error"].mean(),
            "truncated_share": table["truncated_share"].mean(),
        }
        if decoder is not None:
            files = self._json(f"evaluations/{run}/manifest.json")["files"]
            files = [file for file in files if file["decoder"] == decoder]
            total = sum(file["responses"] for file in files)
            counts = {
                "timeouts": sum(file["statuses"].get("timeout", 0) for file in files),
                "errors": sum(file["statuses"].get("error", 0) for file in files),
                "truncated_share": sum(file["truncated"] for file in files),
            }
            shares = {gate: max(share, counts[gate] / total) for gate, share in shares.items()}
        shares["zero_reward_share"] = 1 - table["reward_mean"].mean()
        return {gate: float(share) for gate, share in shares.items()}


def problems_file(analysis: str) -> str:
    """Where an inference analysis writes its scores by problem, below the scale's results."""
    return f"analyses/{analysis}_problems.parquet"
