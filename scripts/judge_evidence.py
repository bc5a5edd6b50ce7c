"""Judge the claims again from committed evidence, as they are declared or with other choices; nothing is trained.

  python scripts/judge_evidence.py --evidence reports/evidence/cpu
  python scripts/judge_evidence.py --evidence reports/evidence/cpu \\
      --changes '{margins: {pass_gain: {scales: {cpu: 0.04}}}, claims: {C03: {readings: [released]}}}'
  python scripts/judge_evidence.py --evidence reports/evidence/cpu --beside reports/evidence/cpu_other_order

It prints every verdict, and beside it the verdict of the run where the two differ. Without changes a difference is an
error: the exit status is 1. Beside the evidence of another run of the same design, it prints how many trainings and
evaluations have the same numbers in both. Where no training has, it deals runs from the seeds of both and prints how
often each verdict comes out.
"""

import argparse
import sys
from pathlib import Path

from reproduction.claims import Claims, Exported, agreement, judge, load_claims, same_numbers
from reproduction.config import load_scale, parse_yaml
from reproduction.figures import load_experiments
from reproduction.plan import check_claims


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evidence", type=Path, required=True, help="what export_evidence.py wrote")
    parser.add_argument("--changes", default="", help="YAML, laid over workflow/claims.yaml")
    parser.add_argument("--beside", type=Path, help="evidence of another run of the same design")
    arguments = parser.parse_args()

    try:
        changes = parse_yaml(arguments.changes, "--changes") if arguments.changes else {}
        claims = load_claims(changes=changes)
        evidence = Exported(arguments.evidence)
        configuration = evidence.configuration
        scale = load_scale(configuration.scale, configuration.overrides)
        check_claims(claims, scale, load_experiments())
        if arguments.beside:
            return _print_agreement(claims, [evidence, Exported(arguments.beside)])
        judged = judge(claims, evidence, configuration, scale)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    before = {(row["id"], row["reading"]): row["verdict_in_full"] for row in evidence.judged["verdicts"]}
    differ = 0
    for row in judged["verdicts"]:
        was, found = before.pop((row["id"], row["reading"]), "none"), row["verdict_in_full"]
        differ += was != found
        print(
            f"{row['id']} {row['reading']:20} {found}" + (f"   (of the run: {was})" if was != found else "")
        )
    print(f"{len(judged['verdicts'])} verdicts, {differ} differ from the run's")
    return int(not arguments.changes and bool(differ or before))


def _print_agreement(claims: Claims, parts: list[Exported]) -> int:
    found = same_numbers(*parts)
    for kind, (same, both) in found.items():
        print(f"{same} of {both} {kind} that both have are the same to the last bit")
    if found["trainings"][0]:
        print("A training that is the same in both is no further seed, so nothing is dealt")
        return 0
    table, differing = agreement(claims, parts)
    shown = table.columns.drop(["id", "reading", "runs", "all_seeds"])
    print(table.assign(**{name: table[name].map("{:.0%}".format) for name in shown}).to_string(index=False))
    print(
        f"Pairs of runs without a common seed differ in {min(differing)} to {max(differing)} of {len(table)} verdicts, "
        f"{sum(differing) / len(differing):.1f} on average over {len(differing)} pairs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
