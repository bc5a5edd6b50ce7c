"""One vLLM engine for all checkpoints of a run: weights are reloaded, and the random stream starts anew."""

import pytest

pytest.importorskip("verl")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conftest import Reference
from reproduction.config import Decoder, Verl
from reproduction.sampling.vllm import Vllm

GREEDY = Decoder(schedule=None, label="x")
TAU1 = Decoder(schedule={"kind": "fixed", "tau": 1.0}, label="x")
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16]]
LENGTH = 12


def greedy_continuation(folder, prompt):
    """What transformers chooses, token by token."""
    reference = Reference(folder)
    tokens = []
    for _ in range(LENGTH):
        logits = reference.logits(list(prompt), [[*tokens, 0]])[0, -1]
        tokens.append(int(logits.argmax()))
        if tokens[-1] == reference.model.config.eos_token_id:
            break
    return tokens


def test_another_checkpoint_is_loaded_into_the_running_engine(tiny_model, tmp_path):
    other = tmp_path / "other"
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model)).save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(other)
    machine = Verl(device="cpu", max_prompt_tokens=64, max_num_seqs=16, seed_of="engine")
    with Vllm(tiny_model, machine, max_new_tokens=32) as sampler:

        def draw(decoder, name, samples=2):
            stream = (2025, "evaluate", name)
            return sampler.draw(
                PROMPTS, decoder, samples=samples, max_new_tokens=LENGTH, stream=stream
            ).tokens

        first, again, another = draw(TAU1, "a"), draw(TAU1, "a"), draw(TAU1, "b")
        assert first == again != another
        assert first[0] != first[1]
        # Greedily, and with the same prompts, whose keys and values a cache would still have.
        for folder in (tiny_model, other, tiny_model):
            sampler.load(folder)
            assert draw(GREEDY, "x", samples=1) == [greedy_continuation(folder, p) for p in PROMPTS]
