"""A campaign of the careful grader: thousands of equal and unequal answers of each notation.

    python tests/faults/grade_pairs.py [--pairs 3000] [--root-seed 2025] [--record docs/records/grade_pairs.json]

Ends with 1 for a wrong accept, or a kind whose equal answers are accepted in less than 99 of 100 cases. The same for
votes: equal answers vote together, and an unequal one votes apart from both.
"""

import argparse
import json
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from answer_pairs import PAIRS, boxed, unclosed
from ead.seeds import generator
from ead.verifier import Verifier


def campaign(verifier: Verifier, kind: str, count: int, root_seed: int) -> dict:
    random = generator(root_seed, "answer pairs", kind)
    drawn = [PAIRS[kind](random) for _ in range(count)]
    golds = [gold for gold, _, _ in drawn]
    right = verifier.grade([boxed(random, answer, wrong) for _, answer, wrong in drawn], golds)
    wrong = verifier.grade([boxed(random, answer, other) for _, other, answer in drawn], golds)
    cut_off = verifier.grade([unclosed(answer) for _, answer, _ in drawn], golds)
    elsewhere = ["\\text{another gold answer}"] * count  # as wrong answers the three vote by themselves
    votes = [verifier.grade([f"\\boxed{{{text[i]}}}" for text in drawn], elsewhere) for i in range(3)]
    together = [one.canonical == other.canonical for one, other in zip(votes[0], votes[1], strict=True)]
    apart = [v.canonical not in (a.canonical, b.canonical) for a, b, v in zip(*votes, strict=True)]
    return {
        "pairs": count,
        "right_accepted": sum(v.correct for v in right),
        "wrong_accepted": sum(v.correct for v in wrong) + sum(v.correct for v in cut_off),
        "statuses": dict(Counter(v.status for v in [*right, *wrong])),
        "equal_vote_together": sum(together),
        "unequal_vote_apart": sum(apart),
        "examples": {
            "rejected": [d for d, v in zip(drawn, right, strict=True) if not v.correct][:5],
            "accepted": [d for d, v in zip(drawn, wrong, strict=True) if v.correct][:5],
            "vote_apart": [d for d, same in zip(drawn, together, strict=True) if not same][:2],
            "vote_together": [d for d, own in zip(drawn, apart, strict=True) if not own][:2],
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=3000, help="of each kind")
    parser.add_argument("--root-seed", type=int, default=2025)
    parser.add_argument("--record", type=Path, help="write what happened to this file")
    arguments = parser.parse_args()
    started = time.monotonic()
    with Verifier(timeout_s=20, workers=2) as verifier:
        kinds = {}
        for kind in PAIRS:
            kinds[kind] = campaign(verifier, kind, arguments.pairs, arguments.root_seed)
            print(kind, json.dumps(kinds[kind], ensure_ascii=False), flush=True)
    failed = [
        kind
        for kind, found in kinds.items()
        if found["wrong_accepted"] or found["right_accepted"] < 0.99 * found["pairs"]
    ]
    record = {
        "date": datetime.now().date().isoformat(),
        "seconds": round(time.monotonic() - started),
        "root_seed": arguments.root_seed,
        "kinds": kinds,
        "failed": failed,
    }
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    print("failed:", failed)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
