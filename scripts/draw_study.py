"""Draw the responses of an inference study: sample, grade, keep every response."""

import argparse
import logging
from pathlib import Path

from reproduction.cluster import compute
from reproduction.config import InferenceRequest, Verl
from reproduction.evaluation.responses import write_manifest
from reproduction.evaluation.studies import draw_study
from reproduction.files import load_json, sha256_of_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="its name in the scale")
    parser.add_argument("--request", required=True, help="JSON of reproduction.config.InferenceRequest")
    parser.add_argument(
        "--subject", type=Path, required=True, help="manifest of a model, or of a run: its last checkpoint"
    )
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument(
        "--output", type=Path, required=True, help="manifest; responses are written beside it"
    )
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vllm", help="JSON of reproduction.config.Verl: draw with vLLM on that machine")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    compute.set_up(arguments.threads)
    request = InferenceRequest.model_validate_json(arguments.request)
    subject = load_json(arguments.subject)
    model = arguments.subject.parent
    if "checkpoints" in subject:
        model = model / "checkpoints" / f"step_{subject['checkpoints'][-1]}"
    machine = Verl.model_validate_json(arguments.vllm) if arguments.vllm else None
    records = draw_study(
        request,
        model,
        arguments.dataset,
        arguments.output.parent,
        label=f"study {arguments.study}",
        progress=arguments.progress,
        workers=arguments.threads,
        vllm=machine,
    )
    write_manifest(
        arguments.output,
        request,
        arguments.dataset,
        records,
        study=arguments.study,
        subject=subject.get("run") or subject.get("name") or arguments.subject.parent.name,
        model_sha256=sha256_of_model(model),
    )


if __name__ == "__main__":
    main()
