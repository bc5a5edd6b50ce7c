"""EAD on a real pretrained language model, in vLLM and in transformers, with the paper's own schedules."""

import numpy as np
import pytest
import torch
from vllm import LLM, SamplingParams

from ead.integrations.transformers import PLAIN_SAMPLING, AnnealedTemperature
from ead.schedule import Annealed
from goodness_of_fit import assert_sampled_from, position_p_values

# The paper's floors for its large and its small models; d0 = 25, alpha = 5, start = 10.
SCHEDULES = [Annealed(tau_min=0.8, origin="start"), Annealed(tau_min=0.1, origin="start")]
POSITIONS = 32
QUESTION = "What is 12 + 30? Let's think step by step."


def assert_equal_logprobs(found, expected, temperatures):
    """Within 1e-4; below temperature 1 within 1e-4 of the logits, whose rounding errors 1 / tau enlarges."""
    error = np.abs(np.asarray(found) - expected) * np.minimum(temperatures, 1)
    assert error.max() < 1e-4


@pytest.fixture(scope="module")
def reference(smollm2_reference):
    return smollm2_reference


@pytest.fixture(scope="module")
def prompt(reference):
    return reference.chat_tokens(QUESTION)


@pytest.fixture(scope="module")
def engine(smollm2):
    llm = LLM(
        str(smollm2),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=64,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_vllm_logprobs_equal_an_independent_forward_pass(engine, reference, prompt, schedule):
    steps = [0, 1, 40]
    params = [
        SamplingParams(
            max_tokens=POSITIONS,
            ignore_eos=True,
            logprobs=0,
            extra_args={"ead": {**schedule.to_dict(), "step": step}},
        )
        for step in steps
    ]
    outputs = engine.generate([{"prompt_token_ids": prompt}] * len(params), params, use_tqdm=False)
    for step, output in zip(steps, outputs, strict=True):
        sample = output.outputs[0]
        found = [entry[token].logprob for entry, token in zip(sample.logprobs, sample.token_ids, strict=True)]
        temperatures = schedule.temperature(np.arange(POSITIONS), step)
        expected = reference.logprobs(prompt, list(sample.token_ids), temperatures)
        assert_equal_logprobs(found, expected, temperatures)


def test_vllm_samples_follow_the_schedule(engine, reference):
    prompt = reference.tokens("My favourite")  # many ways to go on, so that temperatures show
    schedule = Annealed(tau_max=1.2, tau_min=0.5, d0=12, alpha=0, start=2, origin="start")
    rows, positions = 64, 12
    params = SamplingParams(
        max_tokens=positions, ignore_eos=True, n=rows, extra_args={"ead": schedule.to_dict()}
    )
    (output,) = engine.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    tokens = np.array([list(sample.token_ids) for sample in output.outputs])
    temperatures = schedule.temperature(np.arange(positions))
    # All positions together, each at its own temperature: 768 draws.
    logits = reference.logits(prompt, tokens.tolist())
    together = (rows * positions, 1, logits.shape[-1])

    def tempered(divisors):
        return (logits / divisors[:, None]).reshape(together)

    draws = tokens.reshape(-1, 1)
    assert_sampled_from(tempered(temperatures), draws, np.ones(1))
    assert position_p_values(tempered(temperatures[::-1]), draws, np.ones(1)) < 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_transformers_logprobs_equal_an_independent_forward_pass(reference, prompt, schedule):
    torch.manual_seed(0)
    output = reference.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        **PLAIN_SAMPLING,
        num_return_sequences=2,
        max_new_tokens=POSITIONS,
        logits_processor=[AnnealedTemperature(schedule, prompt_length=len(prompt), step=1)],
        output_scores=True,
        return_dict_in_generate=True,
    )
    found = torch.log_softmax(torch.stack(output.scores, 1), dim=-1)
    end = reference.model.generation_config.eos_token_id
    for row, tokens in enumerate(output.sequences[:, len(prompt) :].tolist()):
        length = tokens.index(end) + 1 if end in tokens else len(tokens)
        tokens, temperatures = tokens[:length], schedule.temperature(np.arange(length), 1)
        expected = reference.logprobs(prompt, tokens, temperatures)
        assert_equal_logprobs(found[row, range(length), tokens], expected, temperatures)
