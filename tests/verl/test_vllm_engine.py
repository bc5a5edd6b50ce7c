"""EAD in a real vLLM engine on the CPU: distributions, log-probabilities, mixed batches, preemption.

With the runner that vLLM chooses: the first, or with tests/hosts/interpreter on the path the second.
"""

import os

import numpy as np
import pytest
from scipy.special import log_softmax
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError  # not a ValueError from 0.32 on

from ead.integrations.vllm import AnnealedTemperature
from ead.schedule import Annealed, Fixed, ReverseAnnealed
from goodness_of_fit import assert_sampled_from, position_p_values

# 20 positions pass the flat start (0-3), the smooth fall (4-17) and the floor (18-19).
SCHEDULE = Annealed(tau_max=1.4, tau_min=0.3, d0=22, alpha=0.5, d_max=100, start=4)
STEP, POSITIONS = 2, 20
PROMPT = [72, 101, 97, 116, 58]
MAX_SEQS = 64


@pytest.fixture(scope="module")
def engine(tiny_model):
    """One engine for the module: prefill in chunks of 48 tokens, and too little memory for 64 long responses.

    (Only long prompts are chunked: on CPUs vLLM 0.24 fails on seeded requests in the midst of their prompt.)
    The class is named although its entry point is installed, as in many configurations: it must divide once.
    """
    patch = pytest.MonkeyPatch()
    # Triton's interpreter cannot run vLLM's kernel for top-k and top-p; vLLM's PyTorch function does the same.
    if "TRITON_INTERPRET" in os.environ:
        patch.setattr("vllm.v1.sample.ops.topk_topp_sampler.HAS_TRITON", False)
    llm = LLM(
        str(tiny_model),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=MAX_SEQS,
        max_num_batched_tokens=1024,
        long_prefill_token_threshold=48,
        block_size=32,
        num_gpu_blocks_override=128,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        logits_processors=["ead.integrations.vllm:AnnealedTemperature"],
        disable_log_stats=False,
    )
    yield llm
    llm.llm_engine.engine_core.shutdown()
    patch.undo()


def request(schedule=None, step=STEP, **arguments):
    extra_args = None if schedule is None else {"ead": {**schedule.to_dict(), "step": step}}
    arguments = {"max_tokens": POSITIONS, "ignore_eos": True, "logprobs": 0, **arguments}
    return SamplingParams(extra_args=extra_args, **arguments)


def generate(engine, params, prompts=None):
    """Return (tokens, log-probabilities) of every sample, in order."""
    prompts = prompts or [PROMPT] * len(params)
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [
        (
            list(sample.token_ids),
            np.array(
                [entry[token].logprob for entry, token in zip(sample.logprobs, sample.token_ids, strict=True)]
            ),
        )
        for output in outputs
        for sample in output.outputs
    ]


def temperatures(schedule=SCHEDULE, step=STEP, positions=POSITIONS):
    return schedule.temperature(np.arange(positions), step)


@pytest.fixture(scope="module")
def draws(engine, tiny_reference):
    """Logits and tokens of 1,200 samples, half of them siblings of one request (n > 1)."""
    params = [request(SCHEDULE)] * 600 + [request(SCHEDULE, n=50)] * 12
    tokens = [tokens for tokens, _ in generate(engine, params)]
    assert len(tokens) == 1200
    return tiny_reference.logits(PROMPT, tokens), np.array(tokens)


def test_samples_follow_the_schedule_at_every_position(draws):
    assert len(set(temperatures())) > 14
    assert_sampled_from(*draws, temperatures())


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(temperatures(step=6), id="another step"),
        pytest.param(
            SCHEDULE.temperature(np.maximum(np.arange(POSITIONS) - 1, 0), STEP), id="one position late"
        ),
        pytest.param(temperatures() ** 2, id="divided twice"),
        pytest.param(np.ones(POSITIONS), id="not at all"),
    ],
)
def test_the_distribution_test_notices_a_wrong_temperature(draws, wrong):
    assert position_p_values(*draws, wrong).min() < 1e-5


MIXED = {
    "annealed": request(SCHEDULE),
    "annealed, later step": request(SCHEDULE, step=60),
    "released reading": request(Annealed(reading="released", d0=2, alpha=0, start=0)),
    "reverse": request(ReverseAnnealed(reading="mirrored", start=0)),
    "fixed through EAD": request(Fixed(0.7)),
    "greedy with EAD": request(SCHEDULE, temperature=0.0),
    "fixed": request(temperature=0.6),
    "greedy": request(temperature=0.0),
    "plain": request(),
    "shorter": request(SCHEDULE, max_tokens=7),
}


def mixed_temperatures(name):
    params = MIXED[name]
    if "EAD" not in name and params.extra_args is None:
        return np.full(params.max_tokens, params.temperature or 1.0)
    if params.temperature == 0:  # vLLM reports greedy rows at temperature 1
        return np.ones(params.max_tokens)
    ead = dict(params.extra_args["ead"])
    step = ead.pop("step")
    from ead.schedule import from_config

    return from_config(ead).temperature(np.arange(params.max_tokens), step)


def test_processed_logprobs_equal_an_independent_forward_pass_in_a_mixed_batch(engine, tiny_reference):
    names = [name for name in MIXED for _ in range(12)]
    np.random.default_rng(0).shuffle(names)
    prompts = [PROMPT + [40 + index % 50] * (1 + index % 7) for index in range(len(names))]
    samples = generate(engine, [MIXED[name] for name in names], prompts)
    for name, prompt, (tokens, logprobs) in zip(names, prompts, samples, strict=True):
        expected = tiny_reference.logprobs(prompt, tokens, mixed_temperatures(name))
        np.testing.assert_allclose(logprobs, expected, atol=1e-4, rtol=0, err_msg=name)
        if "greedy" in name:
            assert tokens == tiny_reference.logits(prompt, [tokens])[0].argmax(-1).tolist()


def test_positions_survive_preemption_and_prefill_in_chunks(engine, tiny_reference):
    def preemptions():
        return next(metric.value for metric in engine.get_metrics() if metric.name == "vllm:num_preemptions")

    schedule = Annealed(tau_max=1.3, tau_min=0.2, d0=100, alpha=0, start=3)
    prompts = [PROMPT * 20 + [60 + index % 40] for index in range(MAX_SEQS)]  # 101 tokens, three chunks
    before = preemptions()
    samples = generate(engine, [request(schedule, max_tokens=60)] * MAX_SEQS, prompts)
    assert preemptions() > before
    for prompt, (tokens, logprobs) in zip(prompts, samples, strict=True):
        expected = tiny_reference.logprobs(prompt, tokens, temperatures(schedule, positions=60))
        np.testing.assert_allclose(logprobs, expected, atol=1e-4, rtol=0)


def processors(engine):
    """Return what holds the processors of either runner, and the name of its list."""
    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    if hasattr(runner, "input_batch"):
        return runner.input_batch.logitsprocs, "argmax_invariant"
    return runner.sampler, "logits_processors"


def test_other_requests_get_the_bits_they_get_without_the_processor(engine, monkeypatch):
    others = [
        request(seed=seed, logprobs=5, **arguments)
        for seed, arguments in enumerate(
            [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 3}, {"min_p": 0.1}] * 6
        )
    ]
    annealed = [request(SCHEDULE, seed=100 + index) for index in range(len(others))]
    not_annealed = [request(seed=100 + index) for index in range(len(others))]

    def run(companions):
        batch = [params for pair in zip(others, companions, strict=True) for params in pair]
        return generate(engine, batch)

    mixed, alone = run(annealed), run(not_annealed)
    holder, name = processors(engine)
    loaded = getattr(holder, name)
    assert sum(isinstance(processor, AnnealedTemperature) for processor in loaded) == 2
    monkeypatch.setattr(
        holder,
        name,
        [processor for processor in loaded if not isinstance(processor, AnnealedTemperature)],
    )
    without = run(not_annealed)
    for index in range(0, len(without), 2):
        for run_ in (mixed, alone):
            assert run_[index][0] == without[index][0]
            np.testing.assert_array_equal(run_[index][1], without[index][1])
    assert any(mixed[index][0] != without[index][0] for index in range(1, len(without), 2))


def test_top_p_and_masks_apply_to_the_annealed_distribution(engine, tiny_reference):
    allowed = list(range(30, 60))
    params = request(SCHEDULE, allowed_token_ids=allowed, top_p=0.8)
    for tokens, logprobs in generate(engine, [params] * 8):
        logits = tiny_reference.logits(PROMPT, [tokens])[0][:, allowed] / temperatures()[:, None]
        probabilities = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        for position, token in enumerate(tokens):
            order = np.sort(probabilities[position])[::-1]
            kept = order[: np.searchsorted(np.cumsum(order), 0.8) + 1].sum()
            expected = np.log(probabilities[position, allowed.index(token)] / kept)
            assert abs(logprobs[position] - expected) < 1e-4


def test_min_p_filters_the_annealed_distribution_or_is_refused(engine, tiny_reference):
    """The second runner filters after it has tempered (chi-square); the first would before, so it refuses."""
    asked = request(SCHEDULE, min_p=0.1)
    if processors(engine)[1] == "argmax_invariant":
        with pytest.raises((ValueError, VLLMValidationError), match="min_p is 0.1, allowed: 0"):
            generate(engine, [asked])
        return
    samples = generate(engine, [asked] * 256)
    drawn = np.array([tokens for tokens, _ in samples])
    tempered = tiny_reference.logits(PROMPT, drawn.tolist()) / temperatures()[:, None]
    above = tempered - tempered.max(-1, keepdims=True) - np.log(0.1)
    filtered = log_softmax(np.where(above >= 0, tempered, -np.inf), -1)
    assert 4 < (above >= 0).sum(-1).mean() < 100
    assert_sampled_from(filtered, drawn, np.ones(POSITIONS))
    expected = np.take_along_axis(filtered, drawn[..., None], -1)[..., 0]
    clear = np.abs(above).min(-1) > 1e-4  # else the engine's float32 may fall on the other side
    assert clear.mean() > 0.9
    found = np.array([logprobs for _, logprobs in samples])
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-4, rtol=0)


def test_a_refused_request_leaves_the_engine_working(engine, tiny_reference):
    with pytest.raises(
        (ValueError, VLLMValidationError), match="ead: the request's temperature is 0.7, allowed: 1, or 0"
    ):
        generate(engine, [request(SCHEDULE, temperature=0.7)])
    with pytest.raises((ValueError, VLLMValidationError), match="tau_min must be greater than 0"):
        generate(engine, [SamplingParams(extra_args={"ead": {"kind": "annealed", "tau_min": -1}})])
    ((tokens, logprobs),) = generate(engine, [request(SCHEDULE)])
    np.testing.assert_allclose(
        logprobs, tiny_reference.logprobs(PROMPT, tokens, temperatures()), atol=1e-4, rtol=0
    )
