"""Peak memory of the in-process engine by batch, length and vocabulary.

    python benchmarks/memory.py [--output FILE]

Each number is one call in a process of its own: the largest resident size while it runs, above the size before it,
when everything is imported, the model is there and a call on one row of two tokens has been made.

- sampling: ``reproduction.sampling.generate.generate`` with log-probabilities and entropies, as in a training step
- update: one micro-batch, ``reproduction.sampling.policy.response_logprobs``, ``ead.objective.policy_loss`` and
  its backward pass; the gradients, as large as the parameters, are among it

The model is the default scale's (hidden 64, 2 layers, tied embeddings) with other vocabularies, so that what grows with
the vocabulary stands out. Prompts have 16 tokens and no response ends early. Beside each peak stands the size of one
float32 tensor over batch x length x vocabulary (for sampling batch x vocabulary, the logits of one position, and the
cache of keys and values).
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch
import workload
from arms import Arm, Measured, machine, serve
from stamps import stamp

from ead import objective, schedule, seeds
from reproduction.config import load_scale
from reproduction.files import write_json
from reproduction.models.transformer import Shape, Transformer
from reproduction.sampling import generate, policy
from reproduction.training import warmstart

PROMPT, POSITIONS = 16, 1024
# The first value of each is the one that the others' lines go through.
GRID = {
    "sampling": {"batch": (64, 16, 256), "length": (64, 16, 256), "vocabulary": (32_000, 121, 150_000)},
    "update": {"batch": (16, 4, 64), "length": (128, 32, 512), "vocabulary": (32_000, 121, 150_000)},
}


def cells() -> list[dict]:
    """The settings to measure: one axis at a time."""
    found = []
    for part, axes in GRID.items():
        centre = {axis: values[0] for axis, values in axes.items()}
        settings = [{**centre, axis: value} for axis, values in axes.items() for value in values]
        found += [{"part": part, **setting} for setting in settings]
    return list({json.dumps(cell): cell for cell in found}.values())


def build_model(vocabulary: int) -> Transformer:
    config = warmstart.build_model(
        load_scale("cpu").models["tiny"], workload.task().vocabulary, stream()
    ).config
    config = {**config, "vocab_size": vocabulary, "max_position_embeddings": POSITIONS}
    model = Transformer(dataclasses.replace(Shape.from_config(config), eos=()), config)
    model.initialise(stream(), 0.02)
    return model


def stream() -> torch.Generator:
    return seeds.torch_generator(0, "benchmark", "memory")


def sample(model: Transformer, batch: int, length: int) -> None:
    prompts = torch.randint(model.shape.vocabulary, (batch, PROMPT), generator=stream()).tolist()
    drawn = generate.generate(
        model,
        prompts,
        schedule.Fixed(1.0),
        samples=1,
        max_new_tokens=length,
        generator=stream(),
        record=True,
    )
    assert drawn.tokens.shape == (batch, length) and bool(drawn.mask.all())


def update(model: Transformer, batch: int, length: int) -> None:
    random = stream()
    prompts = torch.randint(model.shape.vocabulary, (batch, PROMPT), generator=random).tolist()
    tokens = torch.randint(model.shape.vocabulary, (batch, length), generator=random)
    mask = torch.ones(batch, length, dtype=torch.bool)
    logprobs = policy.response_logprobs(model, prompts, tokens, mask)
    advantages = torch.randn(batch, generator=random)
    loss, _ = objective.policy_loss(
        logprobs, logprobs.detach(), advantages, mask, clip_low=0.2, clip_high=0.28
    )
    loss.backward()
    assert bool(model.embedding.grad.any())
    model.zero_grad()


def memory(field: str) -> int:
    """Return a size in bytes from the system's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def serve_arm() -> None:
    def answer(part: str, batch: int, length: int, vocabulary: int) -> Measured:
        model = build_model(vocabulary)
        call = {"sampling": sample, "update": update}[part]
        call(model, 1, 2)
        Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted from here on
        before, cpu = memory("VmRSS"), time.process_time()
        call(model, batch, length)
        return {
            "peak_mb": (memory("VmHWM") - before) / 1e6,
            "loaded_mb": before / 1e6,
            "parameters_mb": sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6,
            "cpu_s": time.process_time() - cpu,
        }

    serve(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_arm()
        return
    about, rows = {"machine": machine(arguments.threads), "code": stamp("memory")}, []
    for cell in cells():
        with Arm(Path(sys.executable), Path(__file__).name, "--serve", threads=arguments.threads) as arm:
            found = arm.ask(**cell)
        columns = 1 if cell["part"] == "sampling" else cell["length"]
        logits = cell["batch"] * columns * cell["vocabulary"] * 4 / 1e6
        cache = build_model(121).cache_bytes(PROMPT + cell["length"]) * cell["batch"] / 1e6
        rows.append({**cell, **found, "logits_mb": logits, **({"cache_mb": cache} if columns == 1 else {})})
        print(
            f"{cell['part']:8}  {cell['batch']:4} x {cell['length']:3} x {cell['vocabulary']:6}: "
            f"{found['peak_mb']:7.0f} MB above {found['loaded_mb']:.0f}; logits {logits:.0f} MB",
            flush=True,
        )
    if arguments.output:
        write_json(arguments.output, {**about, "rows": rows})


if __name__ == "__main__":
    main()
