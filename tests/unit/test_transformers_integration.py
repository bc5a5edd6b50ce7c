"""EAD inside transformers' generate: distributions, log-probabilities, padding, errors."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ead.integrations.transformers import PLAIN_SAMPLING, AnnealedTemperature
from ead.schedule import Annealed, Cosine, Fixed, Linear, Piecewise, ReverseAnnealed, Switched
from goodness_of_fit import assert_sampled_from, position_p_values

PAD, VOCABULARY = 0, 32
# 24 positions pass the flat start (0-3), the smooth fall (4-20) and the floor (21-23).
SCHEDULE = Annealed(tau_max=1.4, tau_min=0.3, d0=24, alpha=2, d_max=100, start=4)
STEP, POSITIONS = 2, 24
PROMPT = torch.tensor([[5, 9, 3, 17, 21]])


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.35,  # logits with a spread of about 2, so that temperatures show
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def generate(model, prompt=PROMPT, schedule=SCHEDULE, step=STEP, **arguments):
    processor = AnnealedTemperature(schedule, prompt_length=prompt.shape[1], step=step)
    arguments = {"max_new_tokens": POSITIONS, "attention_mask": (prompt != PAD).long(), **arguments}
    return model.generate(
        prompt, **PLAIN_SAMPLING | arguments, logits_processor=[processor], return_dict_in_generate=True
    )


@torch.no_grad()
def independent_logits(model, sequences, prompt_length=PROMPT.shape[1]):
    """Logits of one full forward pass at the response positions, float64: (rows, positions, vocabulary)."""
    mask = (sequences != PAD).long()
    mask[:, prompt_length:] = 1  # the padding token may also be sampled
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return (
        model(sequences, attention_mask=mask, position_ids=positions)
        .logits[:, prompt_length - 1 : -1]
        .double()
    )


@pytest.fixture(scope="module")
def draws(model):
    torch.manual_seed(1)
    sequences = generate(model, num_return_sequences=4000).sequences
    return independent_logits(model, sequences), sequences[:, PROMPT.shape[1] :]


def test_samples_follow_the_schedule_at_every_position(draws):
    temperatures = SCHEDULE.temperature(np.arange(POSITIONS), STEP)
    assert temperatures[0] == 1 and temperatures[-1] == 0.3 and len(set(temperatures)) > 15
    assert_sampled_from(*draws, temperatures)


@pytest.mark.parametrize("wrong", ["another step", "one position late", "temperature 1"])
def test_the_distribution_test_notices_a_wrong_temperature(draws, wrong):
    positions = np.arange(POSITIONS)
    temperatures = {
        "another step": SCHEDULE.temperature(positions, STEP + 1),
        "one position late": SCHEDULE.temperature(np.maximum(positions - 1, 0), STEP),
        "temperature 1": np.ones(POSITIONS),
    }[wrong]
    assert position_p_values(*draws, temperatures).min() < 1e-5


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, ReverseAnnealed(reading="mirrored", start=0), Fixed(0.7)], ids=str
)
def test_processed_logprobs_equal_an_independent_forward_pass(model, schedule):
    torch.manual_seed(2)
    output = generate(
        model, schedule=schedule, num_return_sequences=8, output_scores=True, output_logits=True
    )
    tokens = output.sequences[:, PROMPT.shape[1] :]
    logits = independent_logits(model, output.sequences)
    temperatures = torch.from_numpy(schedule.temperature(np.arange(POSITIONS), STEP))
    expected = torch.log_softmax(logits / temperatures[:, None], dim=-1)
    found = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    torch.testing.assert_close(
        found.double(), expected.gather(-1, tokens[..., None])[..., 0], atol=1e-4, rtol=0
    )
    # output_logits stays at temperature 1: the processor does not write into generate's tensor.
    torch.testing.assert_close(torch.stack(output.logits, 1).double(), logits, atol=1e-4, rtol=0)


def test_rows_padded_on_the_left_share_the_positions(model):
    prompts = torch.tensor([[PAD, PAD, 5, 9, 3], [7, 1, 22, 30, 4]])
    torch.manual_seed(3)
    output = generate(model, prompts, output_scores=True)
    alone = independent_logits(model, output.sequences[:1, 2:], prompt_length=3)
    temperatures = torch.from_numpy(SCHEDULE.temperature(np.arange(POSITIONS), STEP))
    scores = torch.stack(output.scores, 1)[0].double()
    torch.testing.assert_close(scores, alone[0] / temperatures[:, None], atol=1e-4, rtol=0)


def test_top_p_filters_the_annealed_distribution(model):
    torch.manual_seed(4)
    output = generate(model, num_return_sequences=64, output_scores=True, output_logits=True, top_p=0.8)
    temperatures = torch.from_numpy(SCHEDULE.temperature(np.arange(POSITIONS), STEP)).float()
    annealed = torch.softmax(torch.stack(output.logits, 1) / temperatures[:, None], dim=-1)
    kept = torch.stack(output.scores, 1).isfinite()
    mass = (annealed * kept).sum(-1)
    without_least = mass - annealed.masked_fill(~kept, 2).amin(-1)
    assert (mass >= 0.8 - 1e-5).all() and (without_least <= 0.8 + 1e-5).all()


def test_greedy_decoding_is_unchanged(model):
    greedy = generate(model, do_sample=False).sequences
    assert greedy.tolist() == model.generate(PROMPT, do_sample=False, max_new_tokens=POSITIONS).tolist()


def test_assisted_decoding_anneals_every_position(model):
    torch.manual_seed(5)
    output = generate(model, assistant_model=model, output_scores=True)
    positions = output.sequences.shape[1] - PROMPT.shape[1]
    logits = independent_logits(model, output.sequences)[0]
    temperatures = torch.from_numpy(SCHEDULE.temperature(np.arange(positions), STEP))
    scores = torch.cat(output.scores).double()
    torch.testing.assert_close(scores, logits / temperatures[:, None], atol=1e-4, rtol=0)


def test_a_response_already_begun_continues_at_its_position(model):
    begun = torch.cat([PROMPT, torch.tensor([[8, 2, 6, 11, 12, 13]])], dim=1)
    processor = AnnealedTemperature(SCHEDULE, prompt_length=PROMPT.shape[1], step=STEP)
    scores = torch.randn(1, VOCABULARY)
    assert torch.equal(processor(begun, scores), scores / SCHEDULE.temperature(6, STEP))


def test_a_prompt_of_embeddings_starts_at_zero(model):
    processor = AnnealedTemperature(SCHEDULE, prompt_length=0, step=STEP)
    torch.manual_seed(6)
    output = model.generate(
        inputs_embeds=model.get_input_embeddings()(PROMPT),
        **PLAIN_SAMPLING,
        max_new_tokens=POSITIONS,
        logits_processor=[processor],
        output_scores=True,
        return_dict_in_generate=True,
    )
    sequences = torch.cat([PROMPT, output.sequences], dim=1)
    temperatures = torch.from_numpy(SCHEDULE.temperature(np.arange(POSITIONS), STEP))
    expected = independent_logits(model, sequences)[0] / temperatures[:, None]
    torch.testing.assert_close(torch.cat(output.scores).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prompt_length", [-1, 2.0, True, "5", torch.tensor(5), None])
def test_prompt_length_is_an_integer_not_below_zero(prompt_length):
    with pytest.raises(ValueError, match="prompt_length must be an integer >= 0"):
        AnnealedTemperature(SCHEDULE, prompt_length=prompt_length)


@pytest.mark.parametrize("step", [-1, 1.5, None])
def test_step_is_an_integer_not_below_zero(step):
    with pytest.raises(ValueError, match="step must be an integer >= 0"):
        AnnealedTemperature(SCHEDULE, prompt_length=3, step=step)


def test_the_schedule_is_a_schedule():
    with pytest.raises(TypeError, match="schedule must be one of ead.schedule, found {'kind': 'fixed'}"):
        AnnealedTemperature({"kind": "fixed"}, prompt_length=3)


def test_a_prompt_shorter_than_said_is_refused(model):
    processor = AnnealedTemperature(SCHEDULE, prompt_length=9)
    with pytest.raises(ValueError, match="5 tokens, fewer than prompt_length = 9"):
        model.generate(PROMPT, **PLAIN_SAMPLING, max_new_tokens=4, logits_processor=[processor])


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(start=2, d0=12),
        Cosine(start=0, d0=15),
        Piecewise([2, 8, 9], [1.3, 0.7, 0.4]),
        Switched(SCHEDULE, Linear(tau_max=0.9, tau_min=0.5, start=0, d0=6, alpha=0), [7, 8, 9]),
    ],
    ids=lambda schedule: schedule.kind,
)
def test_every_formula_gives_the_scores_of_an_independent_pass_whatever_the_model_brings(
    model, schedule, monkeypatch
):
    """19-E: defaults of the model's generation_config.json, of every kind, leave the annealed distribution alone."""
    brought = {
        **{"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_p": 0.3, "top_k": 5, "top_p": 0.5},
        **{"temperature": 0.3, "typical_p": 0.5, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01, "top_h": 0.5},
        **{
            "suppress_tokens": [3, 4],
            "begin_suppress_tokens": [6],
            "bad_words_ids": [[5]],
            "min_new_tokens": 4,
        },
        **{"sequence_bias": [[[5], 4.0]], "forced_eos_token_id": 2, "guidance_scale": 1.5},
    }
    for name, value in brought.items():
        monkeypatch.setattr(model.generation_config, name, value)
    output = generate(model, PROMPT.repeat(40, 1), schedule, output_scores=True)
    width = PROMPT.shape[1]
    logits = independent_logits(model, output.sequences)
    positions, switched = np.arange(POSITIONS), 0
    for row, sequence in enumerate(output.sequences[:, width:].tolist()):
        at = {}
        if isinstance(schedule, Switched):
            found = [place + 1 for place, token in enumerate(sequence) if token in schedule.tokens]
            at, switched = {"switched_at": min(found, default=10**6)}, switched + bool(found)
        temperatures = torch.tensor(schedule.temperature(positions, STEP, **at))[:, None]
        scores = torch.stack([of_step[row] for of_step in output.scores])
        torch.testing.assert_close(
            torch.log_softmax(scores.double(), -1),
            torch.log_softmax(logits[row] / temperatures, -1),
            atol=2e-4,
            rtol=0,
        )
    assert switched or not isinstance(schedule, Switched)
