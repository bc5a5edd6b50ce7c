"""An arm of against_vllm.py and sampling.py: the in-process sampler answers a sampling job."""

import argparse
from dataclasses import replace
from pathlib import Path

from arms import Measured, measured, serve
from sampling_job import SamplingJob

from ead import seeds
from reproduction.cluster import compute
from reproduction.models.transformer import Transformer
from reproduction.sampling.generate import generate

NEVER = -1  # no token has this id, so no response ends by itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face format")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    compute.set_up(options.threads)
    model = Transformer.load(options.model)
    model.shape = replace(model.shape, eos=(NEVER,))
    serve(lambda record=False, **job: sample(model, SamplingJob(**job), record))


def sample(model: Transformer, job: SamplingJob, record: bool) -> Measured:
    """``record``: as in training, with log-probabilities and entropies."""
    prompts = job.prompts(model.shape.vocabulary)
    found: Measured = {}
    with measured(found):
        rollouts = generate(
            model,
            prompts,
            job.schedule,
            samples=1,
            max_new_tokens=job.tokens,
            generator=seeds.torch_generator(0, "benchmark", "rollouts"),
            record=record,
        )
    return {**found, "tokens": int(rollouts.lengths.sum())}


if __name__ == "__main__":
    main()
