"""How often a verdict comes out the same: the seeds of several runs of one design, dealt into runs of it again.

Trainings that start from the same base models differ between machines as they do between seeds, so two runs of three
seeds are six seeds. Twenty runs of three seeds can be dealt from them; each shares no seed with one other.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from reproduction.claims.exported import Exported
from reproduction.claims.judge import VERDICTS, judge
from reproduction.claims.model import Claims
from reproduction.config import ConfigurationError, load_scale

Seed = tuple[int, int]
"""A training seed: the number of the run's evidence, and the seed there."""


class Dealt:
    """:class:`~reproduction.claims.evidence.Results`: a run whose seed ``i`` is ``seeds[i]`` of ``parts``.

    What has one seed only is taken from the part that ``seeds[0]`` is of, base models from the first part.
    """

    def __init__(self, parts: Sequence[Exported], seeds: Sequence[Seed]):
        self.parts, self.seeds = parts, seeds

    def exists(self, path: str) -> bool:
        part, there = self._find(path)
        return part.exists(there)

    def json(self, path: str) -> dict:
        part, there = self._find(path)
        return part.json(there)

    def table(self, path: str) -> pd.DataFrame:
        part, there = self._find(path)
        return part.table(there)

    def counts(self, subject: str, decoder: str) -> pd.DataFrame:
        part, there = self._find(f"evaluations/{subject}/manifest.json")
        return part.counts(there.removeprefix("evaluations/").removesuffix("/manifest.json"), decoder)

    def _find(self, path: str) -> tuple[Exported, str]:
        """Return the evidence that ``path`` lies in, and its name there."""
        before, found, after = path.partition("/seed~")
        if not found:
            return self.parts[self.seeds[0][0] if path.startswith("analyses/") else 0], path
        index, slash, file = after.partition("/")
        number, seed = self.seeds[int(index)]
        there = f"{before}/seed~{seed}{slash}{file}"
        # One seed was designed for this cell: no other can be dealt.
        if index == "0" and not self.parts[number].exists(there):
            there = f"{before}/seed~0{slash}{file}"
        return self.parts[number], there


def same_numbers(one: Exported, other: Exported) -> dict[str, tuple[int, int]]:
    """Return, of ``trainings`` and ``evaluations``, how many have the same numbers in both, and how many both have.

    The same to the last bit: metrics of every step of a training, counts of every problem of a subject and decoder. A
    metric that only one of them records is left out.
    """
    found = {}
    theirs = other.numbers()
    for kind, ours in one.numbers().items():
        both = ours.keys() & theirs[kind].keys()
        found[kind] = sum(_same(ours[name], theirs[kind][name]) for name in both), len(both)
    return found


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    columns = sorted(one.columns.intersection(other.columns))
    order = [name for name in ("step", "problem") if name in columns]
    first, second = (part[columns].sort_values(order, ignore_index=True) for part in (one, other))
    return first.equals(second)


def verdicts(claims: Claims, parts: Sequence[Exported], seeds: Sequence[Seed]) -> dict[tuple[str, str], str]:
    """Return (claim, reading) -> verdict of a run with ``seeds``, for claims that have all of them."""
    configuration = parts[0].configuration
    of_all, by_experiment = configuration.seeds, configuration.seeds_by_experiment
    renumbered = {
        "seeds": _renumbered(of_all, seeds),
        "seeds_by_experiment": {
            name: _renumbered(designed, seeds) for name, designed in by_experiment.items()
        },
    }
    configuration = configuration.model_copy(update=renumbered)
    scale = load_scale(configuration.scale, configuration.overrides)
    rows = judge(claims, Dealt(parts, seeds), configuration, scale)["verdicts"]
    return {(row["id"], row["reading"]): row["verdict"] for row in rows if row["seeds"] == len(seeds)}


def agreement(claims: Claims, parts: Sequence[Exported]) -> tuple[pd.DataFrame, list[int]]:
    """Return how often each verdict is reached, and in how many claims each pair of runs without a common seed differs.

    The table has a row per claim and reading: ``id``, ``reading``, ``runs`` (how many were dealt), the share of each of
    ``VERDICTS`` among them, and ``all_seeds``, the verdict from the seeds of all parts together.

    Raises ConfigurationError where the parts are not of one design and one set of base models, or it has one seed.
    """
    first = parts[0]
    for part in parts[1:]:
        differing = [
            *(
                key
                for key, value in part.configuration.choices.items()
                if value != first.configuration.choices[key]
            ),
            *(
                f"the base model {path}"
                for path in sorted(part.models)
                if part.models[path] != first.models.get(path)
            ),
        ]
        if differing:
            raise ConfigurationError(
                f"{part.folder} and {first.folder} are not of one design, so their seeds cannot be dealt together; "
                f"they differ in {', '.join(differing)}"
            )
    # Those of the cells that have the most.
    designed = max([first.configuration.seeds, *first.configuration.seeds_by_experiment.values()], key=len)
    if len(designed) < 2:
        raise ConfigurationError("the runs have one seed, so there is nothing to deal")
    every = [(number, seed) for number in range(len(parts)) for seed in designed]
    dealt = {seeds: verdicts(claims, parts, seeds) for seeds in combinations(every, len(designed))}
    pooled = verdicts(claims, parts, every)
    if not pooled:
        raise ConfigurationError(
            f"{' and '.join(str(part.folder) for part in parts)}: no claim has all of its trainings in both, so "
            "there is nothing to compare"
        )
    rows = []
    for claim, reading in pooled:
        counts = Counter(each[claim, reading] for each in dealt.values())
        shares = {verdict: counts[verdict] / len(dealt) for verdict in VERDICTS}
        rows.append(
            {
                "id": claim,
                "reading": reading,
                "runs": len(dealt),
                **shares,
                "all_seeds": pooled[claim, reading],
            }
        )
    in_pairs = [
        sum(one[key] != other[key] for key in pooled)
        for (a, one), (b, other) in combinations(dealt.items(), 2)
        if not set(a) & set(b)
    ]
    return pd.DataFrame(rows), in_pairs


def _renumbered(designed: list[int], seeds: Sequence[Seed]) -> list[int]:
    """The numbers of ``seeds`` where the design has more than one seed."""
    return list(range(len(seeds))) if len(designed) > 1 else designed
