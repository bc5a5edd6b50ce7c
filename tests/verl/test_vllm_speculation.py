"""Speculative decoding with EAD in a real engine with vLLM's second runner: `make test-vllm`.

That runner needs Triton; tests/hosts/interpreter on the path lends it Triton's interpreter.
"""

import numpy as np
import pytest
from vllm import LLM, SamplingParams
from vllm.triton_utils import HAS_TRITON

from ead.schedule import Annealed, Cosine, Fixed, Switched
from goodness_of_fit import assert_sampled_from, position_p_values

pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor", reason="vLLM is older than 0.31")
if not HAS_TRITON:
    pytest.skip("vLLM's second runner needs Triton", allow_module_level=True)

SCHEDULE = Annealed(tau_max=1.4, tau_min=0.15, d0=14, alpha=0.5, d_max=100, start=2)
SWITCHED = Switched(Cosine(start=0, d0=9, origin="start"), Fixed(0.4), tuple(range(0, 256, 17)))
STEP, POSITIONS, SAMPLES = 2, 20, 128
PROMPT = [72, 101, 97, 116, 72, 101]


@pytest.fixture(scope="module")
def engine(tiny_model):
    llm = LLM(
        str(tiny_model),
        dtype="float32",
        max_model_len=128,
        max_num_seqs=64,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        disable_log_stats=False,
        # It drafts for itself, at its own temperature: some drafts are accepted and some are not.
        speculative_config={"method": "draft_model", "model": str(tiny_model), "num_speculative_tokens": 3},
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()


def draw(engine, *params):
    prompts = [{"prompt_token_ids": PROMPT}] * len(params)
    answers = [output.outputs[0] for output in engine.generate(prompts, list(params), use_tqdm=False)]
    tokens = [list(answer.token_ids) for answer in answers]
    logprobs = [
        [entry[token].logprob for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)]
        for answer in answers
    ]
    return tokens, np.array(logprobs)


def request(schedule, **arguments):
    ead = None if schedule is None else {"ead": {**schedule.to_dict(), "step": STEP}}
    return SamplingParams(max_tokens=POSITIONS, ignore_eos=True, logprobs=0, extra_args=ead, **arguments)


def accepted(engine):
    counted = {metric.name: metric for metric in engine.get_metrics()}
    return counted["vllm:spec_decode_num_accepted_tokens"].value


def test_samples_follow_the_schedule_where_drafts_are_accepted(engine, tiny_reference):
    before = accepted(engine)
    tokens, logprobs = draw(engine, *[request(SCHEDULE)] * SAMPLES)
    assert accepted(engine) > before + SAMPLES
    temperatures = SCHEDULE.temperature(np.arange(POSITIONS), STEP)
    logits = tiny_reference.logits(PROMPT, tokens)
    assert_sampled_from(logits, np.array(tokens), temperatures)
    assert position_p_values(logits, np.array(tokens), np.ones(POSITIONS)).min() < 1e-5
    for row, found in zip(tokens, logprobs, strict=True):
        expected = tiny_reference.logprobs(PROMPT, row, temperatures)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_each_request_of_a_mixed_batch_has_its_own_temperatures(engine, tiny_reference):
    kinds = [SCHEDULE, SWITCHED, None, Fixed(0.7)]
    tokens, logprobs = draw(engine, *[request(kind) for kind in kinds] * 8)
    switched = 0
    for kind, row, found in zip(kinds * 8, tokens, logprobs, strict=True):
        if isinstance(kind, Switched):
            hit = next((place + 1 for place, token in enumerate(row) if token in kind.tokens), None)
            switched += hit is not None and hit < POSITIONS
            temperatures = kind.temperature(np.arange(POSITIONS), STEP, switched_at=hit)
        else:
            temperatures = (kind or Fixed(1.0)).temperature(np.arange(POSITIONS), STEP)
        expected = tiny_reference.logprobs(PROMPT, row, temperatures)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert switched > 2
