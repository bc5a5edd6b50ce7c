"""An arm of sampling.py: transformers' own ``generate`` answers a sampling job."""

import argparse
from pathlib import Path

import torch
from arms import Measured, measured, serve
from sampling_job import SamplingJob
from transformers import LlamaForCausalLM

from reproduction.cluster import compute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder in Hugging Face format")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    compute.set_up(options.threads)
    model = LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    serve(lambda **job: sample(model, SamplingJob(**job)))


def sample(model: LlamaForCausalLM, job: SamplingJob) -> Measured:
    prompts = torch.tensor(job.prompts(model.config.vocab_size))
    torch.manual_seed(0)
    found: Measured = {}
    with measured(found):
        sequences = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            temperature=job.temperature,
            top_k=0,
            min_new_tokens=job.tokens,
            max_new_tokens=job.tokens,
        )
    return {**found, "tokens": sequences[:, prompts.shape[1] :].numel()}


if __name__ == "__main__":
    main()
