"""Samplers that look at the logits: distribution, log-probabilities and importance weights, in process and in
transformers; the same in vLLM's processor: tests/verl."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM

from ead import rules
from ead.importance import truncated_weights
from ead.integrations import sglang
from ead.integrations.transformers import PLAIN_SAMPLING, AnnealedTemperature
from ead.schedule import (
    Annealed,
    BySteps,
    Dynamic,
    EntropyBased,
    FirstToken,
    Fixed,
    HeldEntropy,
    Switched,
    Truncated,
    from_config,
)
from pages import blocks
from reproduction.config import REPOSITORY
from reproduction.sampling import generate as sampling
from rules_reference import EAD, RULED, probabilities

VOCABULARY = 24
PROMPTS = [[100, 5, 8, 9], [101, 7]]


def ids(schedule):
    return f"{schedule.kind} of {schedule.base.kind}"


def draw(model, schedule, prompts=PROMPTS, **options):
    options = {"samples": 4, "max_new_tokens": 8, "record": True} | options
    generator = torch.Generator().manual_seed(0)
    return sampling.generate(model, prompts, schedule, generator=generator, **options)


def logits_of(model, prompt, response):
    with torch.no_grad():
        return model.logits(model(torch.tensor([[*prompt, *response]])))[0, len(prompt) - 1 : -1].double()


@pytest.mark.parametrize("schedule", RULED, ids=ids)
def test_a_rule_is_its_definition(schedule):
    """Rows of every position at once, and one row at a position that all share."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, VOCABULARY, generator=generator, dtype=torch.float64) * 2
    positions, step = np.arange(12) // 2, 3
    together = rules.apply(
        schedule.rule,
        logits,
        torch.from_numpy(schedule.temperature(positions, step)),
        [torch.full((12,), float(number)) for number in schedule.rule_numbers],
        torch.from_numpy(positions),
    ).softmax(-1)
    for row, position in enumerate(positions.tolist()):
        expected = probabilities(schedule, logits[row], position, step)
        np.testing.assert_allclose(together[row].numpy(), expected, atol=1e-9)
        alone = rules.apply(
            schedule.rule,
            logits[row, None],
            schedule.temperature(position, step),
            schedule.rule_numbers,
            position,
        )
        np.testing.assert_allclose(alone.softmax(-1)[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("schedule", RULED, ids=ids)
def test_recorded_log_probabilities_are_those_of_the_distribution_drawn_from(model, schedule):
    rollouts = draw(model, schedule, step=2)
    for row, prompt in enumerate([prompt for prompt in PROMPTS for _ in range(4)]):
        n = int(rollouts.lengths[row])
        response = rollouts.tokens[row, :n].tolist()
        for t, logits in enumerate(logits_of(model, prompt, response)):
            expected = probabilities(schedule, logits, t, 2)
            at_one = torch.log_softmax(logits, -1)[response[t]]
            assert rollouts.behaviour_logprobs[row, t] == pytest.approx(
                math.log(expected[response[t]]), abs=1e-3
            )
            assert rollouts.policy_logprobs[row, t] == pytest.approx(float(at_one), abs=1e-4)
            assert rollouts.behaviour_entropy[row, t] == pytest.approx(stats.entropy(expected), abs=1e-3)


@pytest.mark.parametrize("schedule", RULED, ids=ids)
def test_samples_follow_the_distribution(model, schedule):
    """Chi-square at the positions where the rules act; what is outside the support never comes."""
    draws, p_values = 20_000, []
    for prefix in ([], [9], [9, 30, 12]):
        tokens = sampling.generate(
            model,
            [[100, 5, 8, 9, *prefix]],
            schedule,
            samples=draws,
            max_new_tokens=1,
            start=len(prefix),
            generator=torch.Generator().manual_seed(len(prefix)),
            batch_rows=draws,
        ).tokens[:, 0]
        logits = logits_of(model, [100, 5, 8, 9], [*prefix, 0])[-1]
        expected = probabilities(schedule, logits, len(prefix)) * draws
        found = np.bincount(tokens.numpy(), minlength=len(expected))
        assert not found[expected == 0].any()
        common = expected >= 5
        observed = np.append(found[common], found[~common].sum())
        predicted = np.append(expected[common], expected[~common].sum())
        keep = predicted > 0
        p_values.append(stats.chisquare(observed[keep], predicted[keep]).pvalue if keep.sum() > 1 else 1.0)
    assert min(p_values) > 1e-4 / len(p_values), p_values


@pytest.mark.parametrize("schedule", RULED, ids=ids)
def test_weights_make_every_estimate_unbiased_within_the_support(schedule):
    """All responses of two tokens: the sum of behaviour x weight x value is the policy's, where it is reached."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1 + 6, 6, generator=generator, dtype=torch.float64) * 1.5
    values = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    estimate = reached = lost = 0.0
    for first, second in itertools.product(range(6), repeat=2):
        rows = (logits[0], logits[1 + first])
        policy = [float(row.log_softmax(-1)[token]) for row, token in zip(rows, (first, second), strict=True)]
        behaviour = [
            probabilities(schedule, row, t)[token]
            for t, (row, token) in enumerate(zip(rows, (first, second), strict=True))
        ]
        if min(behaviour) == 0:  # no weight brings back what is never drawn
            lost += math.exp(sum(policy))
            continue
        weights = truncated_weights(
            torch.tensor([policy], dtype=torch.float64),
            torch.tensor([behaviour], dtype=torch.float64).log(),
            torch.ones(1, 2),
            cap=None,
            level="sequence",
        )
        estimate += math.prod(behaviour) * float(weights[0, 0]) * float(values[first, second])
        reached += math.exp(sum(policy)) * float(values[first, second])
    assert estimate == pytest.approx(reached, abs=1e-9)
    cut = isinstance(schedule, (Truncated, FirstToken))
    assert (lost > 0) == cut


def test_top_p_of_a_decoder_counts_in_the_recorded_log_probabilities(model):
    rollouts = draw(model, Fixed(1.2), top_p=0.7)
    reference = Truncated(Fixed(1.2), top_p=0.7)
    response = rollouts.tokens[0, : int(rollouts.lengths[0])].tolist()
    for t, logits in enumerate(logits_of(model, PROMPTS[0], response)):
        expected = math.log(probabilities(reference, logits, t)[response[t]])
        assert rollouts.behaviour_logprobs[0, t] == pytest.approx(expected, abs=1e-3)
    assert torch.equal(rollouts.tokens, draw(model, reference).tokens)


@pytest.mark.parametrize("schedule", [Fixed(1.0), Fixed(0.6), EAD, BySteps(), None], ids=str)
def test_a_schedule_of_the_position_keeps_its_bits_and_never_meets_a_rule(schedule, monkeypatch):
    """The step of the loop, against the division and the log-softmax that it consisted of before there were rules."""
    monkeypatch.setattr(rules, "apply", None)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, VOCABULARY, generator=generator)
    uniforms = torch.rand(50, 6, generator=generator, dtype=torch.float64)
    t, rows, step = 4, torch.arange(50), 7
    temperatures = sampling._temperatures(schedule, step, 0, 6, PROMPTS, 25, torch.device("cpu"))
    chosen = None if schedule is None else uniforms
    step_of_loop = sampling._Draw(temperatures, None, chosen, 1.0, True, False)
    tokens, recorded = step_of_loop(logits, rows, rows, t)
    tau = 1.0 if schedule is None else float(schedule.temperature(t, step))
    scaled = logits if tau == 1 else logits / tau
    if schedule is None:
        assert torch.equal(tokens, logits.argmax(-1))
    else:
        cumulative = torch.softmax(scaled.double(), -1).cumsum(-1)
        drawn = (uniforms[:, t] * cumulative[:, -1])[:, None]
        assert torch.equal(tokens, torch.searchsorted(cumulative, drawn, right=True)[:, 0])
    for values, series in zip((scaled, logits), recorded[:2], strict=True):
        assert torch.equal(torch.log_softmax(values, -1).gather(-1, tokens[:, None])[:, 0], series)
    for values, series in zip((logits, scaled), recorded[2:], strict=True):
        logprobs = torch.log_softmax(values, -1)
        assert torch.equal(-(logprobs.exp() * logprobs).sum(-1), series)


def test_the_trainer_has_no_temperature_of_the_logits(model):
    with pytest.raises(ValueError, match="needs a schedule of the position alone"):
        draw(model, RULED[0], logprob_temperature="sampling")


# --- transformers and SGLang ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        **shape,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.35,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("schedule", RULED, ids=ids)
def test_generate_of_transformers_samples_what_its_scores_say(llama, schedule):
    torch.manual_seed(4)
    prompt, positions, rows = torch.tensor([[5, 9, 3]]), 5, 3000
    output = llama.generate(
        prompt,
        **PLAIN_SAMPLING,
        attention_mask=torch.ones_like(prompt),
        logits_processor=[AnnealedTemperature(schedule, 3, step=2)],
        max_new_tokens=positions,
        num_return_sequences=rows,
        output_scores=True,
        return_dict_in_generate=True,
    )
    with torch.no_grad():
        logits = llama(output.sequences).logits[:, 2:-1].double()
    first = output.sequences[:, 3].numpy()
    expected = probabilities(schedule, logits[0, 0], 0, 2)
    found = np.bincount(first, minlength=VOCABULARY)
    assert not found[expected == 0].any()
    common = expected * rows >= 5
    observed = np.append(found[common], found[~common].sum())
    predicted = np.append(expected[common], expected[~common].sum()) * rows
    keep = predicted > 0
    assert keep.sum() == 1 or stats.chisquare(observed[keep], predicted[keep]).pvalue > 1e-4
    for row, t in itertools.product(range(20), range(positions)):
        expected = probabilities(schedule, logits[row, t], t, 2)
        np.testing.assert_allclose(output.scores[t][row].double().softmax(-1).numpy(), expected, atol=2e-4)


def test_sglang_shapes_each_row_by_its_own_rule():
    logits = torch.randn(len(RULED) + 1, VOCABULARY, generator=torch.Generator().manual_seed(5))
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    rows = [None]
    for schedule in RULED:
        request = SimpleNamespace(
            sampling_params=SimpleNamespace(temperature=1.0, top_k=1 << 30, **neutral),
            output_ids=[],
            decode_batch_idx=0,
        )
        asked = sglang.request_parameters(schedule, step=2, position=1)
        rows.append({**asked["custom_params"], "__req__": request})
    found = sglang.AnnealedTemperature()(logits.clone(), rows)
    assert torch.equal(found[0], logits[0])
    for row, schedule in enumerate(RULED, start=1):
        expected = probabilities(schedule, logits[row], 1, 2)
        np.testing.assert_allclose(found[row].double().softmax(-1).numpy(), expected, atol=1e-5)


# --- definitions ---------------------------------------------------------------------------------------------


def test_plain_data_round_trip_and_conversion():
    def convert(unit, value):
        return {"length": 2 * value, "length/steps": 3 * value, "steps": 5 * value, "start": 4}[unit]

    for schedule in (*RULED, BySteps(), HeldEntropy(0.9)):
        assert from_config(schedule.to_dict()) == schedule
    assert FirstToken(Annealed(), place=3).converted(convert) == FirstToken(
        Annealed(d0=50, alpha=15, d_max=80000, start=4), place=3
    )
    assert BySteps(steps=10).converted(convert) == BySteps(steps=50)


def test_the_first_token_is_none_that_is_forbidden():
    """A grammar may leave fewer tokens than there are candidates."""
    schedule = FirstToken(candidates=5)
    logits = torch.full((1, 10), -torch.inf)
    logits[0, 3], logits[0, 7] = 2.0, 1.0
    found = rules.apply(schedule.rule, logits, 1.0, schedule.rule_numbers, 0).softmax(-1)
    assert found.nonzero()[:, 1].tolist() == [3, 7] and found[0, 3] == found[0, 7] == 0.5


def test_steps_are_a_straight_line():
    schedule = BySteps(1.2, 0.8, 4)
    assert [schedule.temperature(9, step) for step in (0, 1, 4, 99)] == pytest.approx([1.2, 1.1, 0.8, 0.8])


def test_the_controller_holds_the_entropy():
    """The recurrence of the release: nothing for two steps, then the target over what was found."""
    schedule, factor = HeldEntropy(1.0, annealed_share=0), math.log(50) + math.log(math.log(50))
    assert schedule.resolved([], 50, 100) == schedule.resolved([0.5], 50, 100) == Fixed(1.0)
    third = 1 + math.log(0.5 / 0.4) / factor
    assert schedule.resolved([0.5, 0.4], 50, 100).tau == pytest.approx(third)
    fourth = third * (1 + third * math.log(0.5 / 0.6) / factor)
    assert schedule.resolved([0.5, 0.4, 0.6], 50, 100).tau == pytest.approx(fourth)
    # Of 10 steps the last 4 lower the target, to 0.9 of it behind the last step.
    falling = HeldEntropy(1.0).resolved([0.5] * 9, 50, 10).tau
    tau, target = 1.0, 0.5
    for step in range(2, 10):
        tau *= 1 + tau * math.log(target / 0.5) / factor
        if step >= 6:
            target = 0.5 * (0.1 * (1 + math.cos(math.pi * (step - 6) / 4)) / 2 + 0.9)
    assert falling == pytest.approx(tau) and falling < 1
    assert schedule.resolved([1.0, *[1e9] * 500], 50, 500).tau >= 0.01  # however far it is off


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HeldEntropy().temperature(0), "ask for the fixed one that resolved() returns"),
        (lambda: EntropyBased(HeldEntropy()), "base must be a schedule of position and step alone"),
        (lambda: EntropyBased({"kind": "x"}), "base: schedule kind: found 'x'"),
        (lambda: Truncated(Truncated(min_p=0.1), top_p=0.9), "base must be a schedule of position and step"),
        (lambda: Switched(RULED[0], Fixed(1), 1), "before must be a schedule of position and step alone"),
        (lambda: Truncated(), "top_p, min_p must be set, one of them"),
        (lambda: Truncated(top_p=0.9, min_p=0.1), "top_p, min_p must be set, one of them"),
        (lambda: Truncated(top_p=0), "top_p must be greater than 0 and at most 1"),
        (lambda: Truncated(min_p=1), "min_p must be at least 0 and less than 1"),
        (lambda: EntropyBased(theta=0), "theta must be greater than 0"),
        (lambda: EntropyBased(n=1), "n must be between 0 and 1"),
        (lambda: Dynamic(Fixed(0.5), spread=0.5), "spread must be at least 0 and less than 0.5"),
        (lambda: FirstToken(candidates=65), "candidates must be from 2 to 64"),
        (lambda: FirstToken(candidates=1.5), "candidates must be an integer"),
        (lambda: BySteps(steps=0), "steps must be greater than 0"),
        (lambda: AnnealedTemperature(HeldEntropy(), 3), "ask for the fixed one that resolved() returns"),
        (lambda: sglang.request_parameters(HeldEntropy()), "ask for the fixed one that resolved() returns"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError) as error:
        build()
    assert message in str(error.value)


def test_the_page_of_the_rivals_runs_as_it_stands():
    (block,) = blocks(REPOSITORY / "docs" / "rivals.md", "python")
    exec(block, {})
