"""Ask for what is to be fetched, try one model at full size here, show what was found: `snakemake preflight`."""

import argparse
import logging
import signal
import sys
from pathlib import Path

from pydantic import TypeAdapter

from reproduction.config import EvaluationRequest, Verl
from reproduction.config.runs import RunConfiguration
from reproduction.rehearsal import reports
from reproduction.rehearsal.sources import Wanted, check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    table = kinds.add_parser("table", help="print reports; those that did not pass are removed")
    table.add_argument("reports", type=Path, nargs="*")
    model = kinds.add_parser("model", help="try one model")
    model.add_argument("--run", required=True, help="JSON of reproduction.config.runs.RunConfiguration")
    model.add_argument("--machine", required=True, help="JSON of reproduction.config.Verl")
    model.add_argument("--request", required=True, help="JSON of reproduction.config.EvaluationRequest")
    model.add_argument("--model", type=Path, required=True, help="manifest of the model")
    model.add_argument("--dataset", type=Path, required=True)
    model.add_argument("--validation", type=Path, required=True, help="problems of the evaluation")
    model.add_argument("--scale", required=True)
    model.add_argument("--scratch-bytes", type=int, required=True, help="what a training needs on the disk")
    model.add_argument("--timeout-s", type=float, required=True, help="for each part")
    model.add_argument("--gpus", type=int, required=True)
    model.add_argument("--nodes", type=int, required=True)
    model.add_argument("--folder", type=Path, required=True, help="what the trial leaves; emptied first")
    model.add_argument("--output", type=Path, required=True, help="report; written whether it passed or not")
    sources = kinds.add_parser("sources", help="ask whether what is still to be fetched can be")
    sources.add_argument("--wanted", required=True, help="JSON list of reproduction.rehearsal.sources.Wanted")
    sources.add_argument("--output", type=Path, required=True, help="report; written if it passed")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    if arguments.kind == "table":
        text, passed = reports.summary(arguments.reports)
        print(text)
        return 0 if passed else 1
    if arguments.kind == "sources":
        report = check(TypeAdapter(list[Wanted]).validate_json(arguments.wanted))
        if report.passed:
            reports.write(report, arguments.output)
        else:
            print(reports.render([report]), file=sys.stderr)
        return 0 if report.passed else 1
    from reproduction.rehearsal import preflight  # loads torch, which the table does not need

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the training that it has started, too
    machine = Verl.model_validate_json(arguments.machine)
    granted = {"gpus_per_node": arguments.gpus, "nodes": arguments.nodes}
    report = preflight.check(
        RunConfiguration.from_json(arguments.run),
        machine.model_copy(update={key: value for key, value in granted.items() if value}),
        model=arguments.model.resolve(),
        dataset=arguments.dataset.resolve(),
        validation=arguments.validation.resolve(),
        request=EvaluationRequest.model_validate_json(arguments.request),
        scale=arguments.scale,
        scratch_bytes=arguments.scratch_bytes,
        timeout_s=arguments.timeout_s,
        folder=arguments.folder.resolve(),
    )
    reports.write(report, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
