"""Print what targets cost before anything runs: `snakemake budget --config targets=fig10 gpus=16`.

Jobs are those that Snakemake would run now; times are measured ones where Snakemake has timed such jobs, and else the
estimates of workflow/resources.yaml.
"""

import argparse
import json
import sys
from pathlib import Path

from reproduction import budget
from reproduction.config import ConfigurationError
from reproduction.files import write_json
from reproduction.plan import read_plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configuration", required=True, help="JSON of reproduction.config.Configuration")
    parser.add_argument("--targets", nargs="+", required=True)
    parser.add_argument("--gpus", type=int, help="GPUs at hand; cores, where no job has a GPU")
    parser.add_argument("--json", type=Path, help="also write the budget to this file")
    arguments = parser.parse_args()

    try:
        plan = read_plan(json.loads(arguments.configuration))
        planned = budget.plan(plan.configuration, arguments.targets)
        jobs = budget.cost(planned, plan.estimates, plan.runs, Path(plan.configuration.paths.results))
        result = budget.summary(
            jobs,
            title=f"{', '.join(arguments.targets)} at scale {plan.configuration.scale}",
            source=plan.estimates.table.source,
            units=arguments.gpus,
        )
    except (budget.PlanningFailed, ConfigurationError) as error:
        print(error, file=sys.stderr)
        return 1
    print(budget.render(result))
    if arguments.json:
        write_json(arguments.json, json.loads(json.dumps(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
