"""Evaluate the checkpoints of a run, or a model: sample, grade, keep every response."""

import argparse
import logging
from pathlib import Path

from reproduction.cluster import compute
from reproduction.config import EvaluationRequest, Verl
from reproduction.config.runs import axes_of
from reproduction.evaluation.evaluate import evaluate, prune
from reproduction.evaluation.responses import write_manifest
from reproduction.files import load_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subject", required=True, help="name of the run or model")
    parser.add_argument(
        "--request", required=True, help="JSON of reproduction.evaluation.evaluate.EvaluationRequest"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--run", type=Path, help="manifest of a finished run: all its checkpoints are evaluated"
    )
    source.add_argument("--model", type=Path, help="manifest of a model: it is evaluated as step 0")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="manifest; samples are written beside it")
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vllm", help="JSON of reproduction.config.Verl: draw with vLLM on that machine")
    parser.add_argument(
        "--delete-intermediate",
        type=Path,
        metavar="STATE",
        help="delete all checkpoints but the last when they are evaluated, also in the trainer's state",
    )
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    compute.set_up(arguments.threads)
    request = EvaluationRequest.model_validate_json(arguments.request)
    if arguments.run is None:
        checkpoints = {0: arguments.model.parent}
    else:
        steps = load_json(arguments.run)["checkpoints"]
        checkpoints = {step: arguments.run.parent / "checkpoints" / f"step_{step}" for step in steps}
    machine = Verl.model_validate_json(arguments.vllm) if arguments.vllm else None
    machine = machine.of(axes_of(arguments.subject)["model"]) if machine else None
    records = evaluate(
        request,
        checkpoints,
        arguments.dataset,
        arguments.output.parent,
        label=f"evaluation of {arguments.subject}",
        progress=arguments.progress,
        workers=arguments.threads,
        vllm=machine,
    )
    write_manifest(arguments.output, request, arguments.dataset, records, subject=arguments.subject)
    if arguments.delete_intermediate:
        prune(checkpoints, [arguments.delete_intermediate / "checkpoints"])


if __name__ == "__main__":
    main()
