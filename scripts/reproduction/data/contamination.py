r"""Problems that a training set and an evaluation set share.

The problem is taken as its source states it: no prompt template, no choices. A pair is of one of four kinds:

``verbatim``  the same text, white space apart
``exact``     the same after normalisation: Unicode compatibility forms, lower case, and none of what LaTeX
              and Markdown use for layout only (``$``, ``\left``, ``\,``, ``\dfrac`` for ``\frac``, a final
              full stop, ...)
``overlap``   at least ``THRESHOLD`` of the evaluation problem's n-grams of ``N`` tokens occur in one training
              problem, and so do all its numbers: it was extended, reworded or lightly edited. A token is a
              word, a number, a LaTeX command or a single sign. A problem with fewer than ``MINIMUM`` n-grams
              is not tested: its n-grams say too little.
``variant``   as ``overlap``, but with other numbers: the same kind of exercise. Listed, not counted as
              contamination.
"""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

KINDS = ("verbatim", "exact", "overlap", "variant")
N = 8
THRESHOLD = 0.6
MINIMUM = 8

_SAME = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\leqslant": r"\le",
    r"\leq": r"\le",
    r"\geqslant": r"\ge",
}
_SAME |= {r"\geq": r"\ge", r"\neq": r"\ne", r"\cdots": r"\dots", r"\ldots": r"\dots"}
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|quad|qquad|big|bigg|Big|Bigg|mathrm|text|mbox)(?![A-Za-z])"
    r"|\\[,;:!() \[\]\\]|~|\$|\*\*"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_TOKEN = re.compile(r"\\[a-z]+|[^\W\d_]+|\d+|[^\s\w]|_")


@dataclass(frozen=True)
class SharedProblem:
    """One pair; ``coverage`` is the share of the evaluation problem's n-grams that the other one has."""

    kind: str
    coverage: float
    evaluation_id: str
    training_id: str
    evaluation_problem: str
    training_problem: str


def normalise(problem: str) -> str:
    """Return ``problem`` with layout removed; single spaces stay between its tokens."""
    text = unicodedata.normalize("NFKC", problem)
    text = _LAYOUT.sub(" ", text)
    text = _COMMAND.sub(lambda command: _SAME.get(command[0], command[0]), text).lower()
    return " ".join(_TOKEN.findall(text)).rstrip(" .:?")


def find_shared(training: pd.DataFrame, evaluation: pd.DataFrame) -> list[SharedProblem]:
    """Return every pair of problems that the two data sets share, in the order of the evaluation set.

    Both are frames of ``read_dataset``. An evaluation problem is paired with each training problem that
    equals it; failing that, with the one that covers it best.
    """
    training_ids, training_texts = _problems(training)
    evaluation_ids, evaluation_texts = _problems(evaluation)
    training_normal = [normalise(text) for text in training_texts]
    evaluation_normal = [normalise(text) for text in evaluation_texts]

    equal: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(training_normal):
        equal[text].append(row)
    best = _best_coverage(training_normal, evaluation_normal)

    def pair(row: int, training_row: int, coverage: float) -> SharedProblem:
        if "".join(evaluation_texts[row].split()) == "".join(training_texts[training_row].split()):
            kind = "verbatim"
        elif evaluation_normal[row] == training_normal[training_row]:
            kind = "exact"
        elif _numbers(evaluation_normal[row]) <= _numbers(training_normal[training_row]):
            kind = "overlap"
        else:
            kind = "variant"
        return SharedProblem(
            kind,
            round(coverage, 4),
            evaluation_ids[row],
            training_ids[training_row],
            evaluation_texts[row],
            training_texts[training_row],
        )

    pairs = []
    for row, text in enumerate(evaluation_normal):
        coverage, training_row = best[row]
        if text in equal:
            pairs += [pair(row, other, 1.0) for other in equal[text]]
        elif coverage >= THRESHOLD:
            pairs.append(pair(row, training_row, coverage))
    return pairs


def report(training: pd.DataFrame, evaluation: pd.DataFrame) -> dict[str, Any]:
    """Return what results/data/contamination/{training}~{evaluation}.json holds."""
    pairs = find_shared(training, evaluation)
    return {
        "training": {"name": training.data_source.iloc[0], "problems": len(training)},
        "evaluation": {"name": evaluation.data_source.iloc[0], "problems": len(evaluation)},
        "thresholds": {"n": N, "coverage": THRESHOLD, "minimum_ngrams": MINIMUM},
        "contaminated_problems": len({pair.evaluation_id for pair in pairs if pair.kind != "variant"}),
        "problems_by_kind": {
            kind: len({pair.evaluation_id for pair in pairs if pair.kind == kind}) for kind in KINDS
        },
        "pairs": [asdict(pair) for pair in pairs],
    }


def _numbers(text: str) -> Counter[str]:
    return Counter(token for token in text.split(" ") if token.isdecimal())


def _problems(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return ids and problem texts; a data set without bare problems is compared by its user messages."""
    texts = []
    for prompt, extra in zip(frame.prompt, frame.extra_info, strict=True):
        bare = json.loads(extra["details"]).get("problem")
        texts.append(bare if isinstance(bare, str) else prompt[-1]["content"])
    return [extra["id"] for extra in frame.extra_info], texts


def _best_coverage(training: Sequence[str], evaluation: Sequence[str]) -> list[tuple[float, int]]:
    """Return, for each evaluation problem, the largest coverage by one training problem, and its row.

    n-grams are compared by 64-bit hashes: at 10^8 n-grams against 10^6, a false match has a chance of 10^-5.
    """
    vocabulary: dict[str, int] = {}
    for text in evaluation:
        for token in text.split(" "):
            vocabulary.setdefault(token, len(vocabulary) + 1)
    generator = np.random.default_rng(0)
    code_of = generator.integers(0, 2**64, size=len(vocabulary) + 1, dtype=np.uint64)
    code_of[0] = 0  # tokens no evaluation problem has: their n-grams match nothing
    factors = generator.integers(0, 2**63, size=N, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    def ngrams(text: str) -> np.ndarray:
        """Hashes of the distinct n-grams of ``text`` that an evaluation problem could have."""
        codes = code_of[[vocabulary.get(token, 0) for token in text.split(" ")]]
        if len(codes) < N:
            return np.empty(0, dtype=np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(codes, N)
        return np.unique((windows * factors).sum(axis=1)[(windows != 0).all(axis=1)])

    owners: dict[int, list[int]] = defaultdict(list)  # n-gram -> evaluation rows
    sizes = np.zeros(len(evaluation), dtype=np.int64)
    for row, text in enumerate(evaluation):
        found = ngrams(text)
        sizes[row] = len(found)
        if len(found) >= MINIMUM:
            for ngram in found.tolist():
                owners[ngram].append(row)

    best = [(0.0, -1)] * len(evaluation)
    for training_row, text in enumerate(training):
        shared: dict[int, int] = defaultdict(int)
        for ngram in ngrams(text).tolist():
            for row in owners.get(ngram, ()):
                shared[row] += 1
        for row, count in shared.items():
            coverage = count / int(sizes[row])
            if coverage > best[row][0]:
                best[row] = (coverage, training_row)
    return best
