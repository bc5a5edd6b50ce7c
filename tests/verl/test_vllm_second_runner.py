"""The second runner's interface on real tensors: its loader, its request state, rows of speculative decoding.

Engines with it: test_vllm_speculation.py and `make test-vllm`. Skipped where vLLM has no such interface (before 0.31).
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from vllm import SamplingParams

from ead.integrations.vllm import AnnealedTemperature
from ead.schedule import Annealed, Cosine, Fixed, Linear, Piecewise, Switched
from goodness_of_fit import assert_sampled_from
from rules_reference import RULED, probabilities

interface = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor")

SLOTS, LENGTH, VOCABULARY, DRAFTED, STEP = 8, 64, 16, 3, 2
PLAIN = [
    Annealed(start=2, d0=6),
    Linear(start=1, d0=7),
    Cosine(start=0, d0=9, origin="start"),
    Piecewise([0, 4, 9], [1.3, 0.8, 0.5]),
    Fixed(0.7),
]


def buffer(*shape):
    array = np.zeros(shape, dtype=np.int32)
    return SimpleNamespace(np=array, gpu=torch.from_numpy(array))


def request_state():
    return interface.LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=SLOTS,
        vocab_size=VOCABULARY,
        all_token_ids=buffer(SLOTS, LENGTH),
        prompt_len=buffer(SLOTS),
        prefill_len=buffer(SLOTS),
        total_len=buffer(SLOTS),
    )


def configuration(drafted=DRAFTED, named=None):
    return SimpleNamespace(
        model_config=SimpleNamespace(logits_processors=named, logprobs_mode="processed_logprobs"),
        speculative_config=SimpleNamespace(num_speculative_tokens=drafted) if drafted else None,
    )


def params(schedule=None, position=0, **arguments):
    ead = None if schedule is None else {"ead": {**schedule.to_dict(), "step": STEP, "position": position}}
    return SamplingParams(extra_args=ead, **arguments)


class Batch:
    """Requests in slots, as the runner keeps them; the reference is each request's list of tokens."""

    def __init__(self, processor, states, generator):
        self.processor, self.states, self.generator = processor, states, generator
        self.requests = {}

    def add(self, slot, schedule, prompt, drawn, position=0, **arguments):
        tokens = [*prompt, *drawn]
        self.states.all_token_ids.np[slot] = 0
        self.states.all_token_ids.np[slot, : len(tokens)] = tokens
        self.states.prompt_len.np[slot], self.states.prefill_len.np[slot] = len(prompt), len(tokens)
        changes = self.processor.add_request(slot, params(schedule, position, **arguments))
        annealed = schedule if arguments.get("temperature", 1) else None
        assert changes == (annealed is not None)
        self.requests[slot] = (annealed, len(prompt) - position, tokens)

    def step(self, slots, drafts):
        """Return the context of a step in which each slot tries ``drafts[slot]``, and the temperatures of its rows."""
        rows, expected = [], []
        for slot in slots:
            schedule, first, tokens = self.requests[slot]
            sequence = [*tokens, *drafts[slot]]
            for tried in range(len(drafts[slot]) + 1):
                place = len(tokens) - 1 + tried
                rows.append((slot, tried, sequence[place], place))
                drawn = sequence[max(first, 0) : place + 1]
                expected.append(self.temperature(schedule, drawn, place + 1 - first, max(-first, 0)))
        slot_of, local, inputs, places = (
            torch.tensor(column, dtype=torch.int32) for column in zip(*rows, strict=True)
        )
        context = interface.LogitsContext(
            expanded_idx_mapping=slot_of,
            idx_mapping=torch.tensor(slots, dtype=torch.int32),
            idx_mapping_np=np.array(slots, dtype=np.int32),
            expanded_local_pos=local,
            input_ids=inputs,
            pos=places.long(),
            seq_lens_upper_bound_np=np.array([len(self.requests[slot][2]) for slot in slots]),
        )
        return context, np.array(expected)

    @staticmethod
    def temperature(schedule, drawn, position, unseen):
        if schedule is None:
            return 1.0
        if not isinstance(schedule, Switched):
            return schedule.temperature(position, STEP)
        hits = (place + 1 for place, token in enumerate(drawn, unseen) if token in schedule.tokens)
        at = next(hits, None)
        return schedule.temperature(position, STEP, switched_at=at)

    def settle(self, slot, new):
        tokens = self.requests[slot][2]
        self.states.all_token_ids.np[slot, len(tokens) : len(tokens) + len(new)] = new
        tokens.extend(new)


def test_the_loader_takes_the_class_and_validates_with_it():
    from vllm.v1.worker.gpu.sample.logits_processor import loader

    assert AnnealedTemperature in loader._load_v2_logitsprocs_plugins()
    validate = interface.build_custom_logits_processors_params_validator(None)
    validate(params(Annealed(), min_p=0.1))  # filters the annealed distribution here
    validate(SamplingParams(repetition_penalty=1.1))  # asks for no EAD
    for refused, words in (
        (params(Annealed(), repetition_penalty=1.1), "repetition_penalty is 1.1, allowed: 1"),
        (params(Annealed(), temperature=0.7), "temperature is 0.7, allowed: 1"),
        (SamplingParams(extra_args={"ead": {"kind": "annealed", "tau_min": -1}}), "tau_min must be greater"),
    ):
        with pytest.raises(Exception, match=words):
            validate(refused)
    with pytest.raises(ValueError, match="min_p is 0.1, allowed: 0"):  # asked as the first runner would
        AnnealedTemperature.validate_params(params(Annealed(), min_p=0.1))


@pytest.mark.parametrize("seed", range(12))
def test_every_row_has_the_temperature_of_its_place(seed):
    """Slots are reused, requests come back after preemption, drafts are accepted in part, positions are continued."""
    generator = np.random.default_rng(seed)
    states = request_state()
    batch = Batch(AnnealedTemperature(configuration(), states), states, generator)
    for _ in range(8):
        slots = [int(slot) for slot in generator.permutation(SLOTS)[:6]]
        for slot in slots:
            schedule = [*PLAIN, None][generator.integers(6)]
            if schedule is not None and generator.random() < 0.5:
                schedule = Switched(schedule, PLAIN[generator.integers(5)], (3, 5))
            prompt = generator.integers(0, VOCABULARY, generator.integers(1, 10)).tolist()
            drawn = generator.integers(0, VOCABULARY, generator.integers(0, 12)).tolist()
            # Beyond the prompt, too: a request says what it likes.
            position = int(generator.integers(0, len(prompt) + 4)) if schedule else 0
            batch.add(slot, schedule, prompt, drawn, position, temperature=float(generator.random() < 0.9))
        batch.processor.apply_staged_writes()
        for _ in range(4):
            drafts = {
                slot: generator.integers(0, VOCABULARY, generator.integers(0, DRAFTED + 1)).tolist()
                for slot in slots
            }
            context, temperatures = batch.step([int(slot) for slot in generator.permutation(slots)], drafts)
            logits = torch.randn(len(temperatures), VOCABULARY)
            found = batch.processor.apply(logits.clone(), context)
            expected = logits / torch.tensor(temperatures, dtype=torch.float32)[:, None]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
            for slot in slots:
                accepted = drafts[slot][: generator.integers(0, len(drafts[slot]) + 1)]
                batch.settle(slot, [*accepted, int(generator.integers(0, VOCABULARY))])


@pytest.mark.parametrize("seed", range(4))
def test_rows_with_rules_have_the_distribution_of_their_definition(seed):
    """Among rows without one, with drafts, and in slots that another rule had before."""
    generator = np.random.default_rng(seed)
    states = request_state()
    batch = Batch(AnnealedTemperature(configuration(), states), states, generator)
    for _ in range(4):
        slots = [int(slot) for slot in generator.permutation(SLOTS)[:6]]
        for slot in slots:
            schedule = [*RULED, *PLAIN, None][generator.integers(len(RULED) + len(PLAIN) + 1)]
            drawn = generator.integers(0, VOCABULARY, generator.integers(0, 4)).tolist()
            batch.add(slot, schedule, [1, 2, 3], drawn, position=0)
        batch.processor.apply_staged_writes()
        drafts = {
            slot: generator.integers(0, VOCABULARY, generator.integers(0, DRAFTED + 1)).tolist()
            for slot in slots
        }
        context, temperatures = batch.step(slots, drafts)
        logits = torch.randn(len(temperatures), VOCABULARY) * 2
        found = batch.processor.apply(logits.clone(), context)
        for row, (slot, place) in enumerate(zip(context.expanded_idx_mapping, context.pos, strict=True)):
            schedule, first, _ = batch.requests[int(slot)]
            if schedule is None or schedule.rule is None:
                torch.testing.assert_close(
                    found[row], logits[row] / float(temperatures[row]), rtol=1e-6, atol=0
                )
                continue
            expected = probabilities(schedule, logits[row], int(place) + 1 - first, STEP)
            np.testing.assert_allclose(found[row].double().softmax(-1).numpy(), expected, atol=1e-5)


def test_rules_take_as_many_numbers_as_they_have(own_rules):
    """A rule's numbers grow the table that others are in; see tests/verl/conftest.py."""
    states = request_state()
    batch = Batch(AnnealedTemperature(configuration(), states), states, None)
    asked = [*own_rules, RULED[1]]
    for slot, schedule in enumerate(asked):
        batch.add(slot, schedule, [1, 2], [3])
    batch.processor.apply_staged_writes()
    context, _ = batch.step([0, 1, 2], {0: [], 1: [], 2: []})
    logits = torch.randn(3, VOCABULARY)
    found = batch.processor.apply(logits.clone(), context)
    for row, schedule in enumerate(asked[:2]):
        torch.testing.assert_close(found[row], logits[row] / sum(schedule.rule_numbers))
    expected = probabilities(RULED[1], logits[2], 1, STEP)
    np.testing.assert_allclose(found[2].double().softmax(-1).numpy(), expected, atol=1e-5)


def test_a_batch_without_ead_is_not_touched():
    states = request_state()
    batch = Batch(AnnealedTemperature(configuration(), states), states, None)
    batch.add(0, Annealed(), [1, 2], [])
    batch.add(1, None, [1, 2], [3])
    batch.processor.apply_staged_writes()
    context, _ = batch.step([1], {1: [4]})
    logits = torch.randn(2, VOCABULARY)
    version = logits._version
    assert batch.processor.apply(logits, context) is logits and logits._version == version


def test_a_class_named_twice_divides_once():
    named = ["ead.integrations.vllm:AnnealedTemperature"]
    states = request_state()
    engine = configuration(named=named)
    copies = [AnnealedTemperature(engine, states) for _ in range(2)]
    logits = torch.ones(1, VOCABULARY)
    for processor in copies:
        batch = Batch(processor, states, None)
        states.prompt_len.np[0] = states.prefill_len.np[0] = 2
        processor.add_request(0, params(Fixed(0.5)))
        processor.apply_staged_writes()
        batch.requests[0] = (Fixed(0.5), 2, [1, 2])
        logits = processor.apply(logits, batch.step([0], {0: []})[0])
    assert logits.tolist() == [[2.0] * VOCABULARY]


@pytest.mark.parametrize("min_p", [0.0, 0.2])
def test_speculative_rows_are_accepted_and_drawn_from_the_annealed_distribution(min_p):
    """Rejection sampling with the processed logits of speculative rows: tokens and log-probabilities (chi-square)."""
    generator = np.random.default_rng(1)
    positions, requests = 8, 3000
    schedule = Annealed(tau_max=1.6, tau_min=0.4, d0=9, alpha=0, start=1)
    table = generator.normal(0, 2, (VOCABULARY, VOCABULARY))  # logits after each token
    temperatures = schedule.temperature(np.arange(positions))
    states = request_state()
    processor = AnnealedTemperature(configuration(), states)
    rows, drawn = [], []
    for first in range(0, requests, SLOTS):
        batch = Batch(processor, states, generator)
        slots = list(range(min(SLOTS, requests - first)))
        for slot in slots:
            batch.add(slot, schedule, [0, 1], [])
        processor.apply_staged_writes()
        while any(len(batch.requests[slot][2]) < 2 + positions for slot in slots):
            drafts = {slot: generator.integers(0, VOCABULARY, DRAFTED).tolist() for slot in slots}
            context, _ = batch.step(slots, drafts)
            logits = torch.from_numpy(table[context.input_ids.long()]).float()
            processed = log_softmax(processor.apply(logits, context).double().numpy(), -1)
            if min_p:  # comes after the processor there
                processed[processed < processed.max(-1, keepdims=True) + np.log(min_p)] = -np.inf
            chances = np.exp(log_softmax(processed, -1)).reshape(len(slots), DRAFTED + 1, VOCABULARY)
            for slot in slots:
                settled = []
                for row, draft in enumerate([*drafts[slot], None]):
                    target = chances[slot, row]
                    if draft is None:
                        settled.append(int(generator.choice(VOCABULARY, p=target)))
                    elif generator.random() < min(1, target[draft] * VOCABULARY):  # drafts are uniform
                        settled.append(draft)
                        continue
                    else:
                        rest = np.maximum(target - 1 / VOCABULARY, 0)
                        settled.append(int(generator.choice(VOCABULARY, p=rest / rest.sum())))
                    break
                batch.settle(slot, settled)
        drawn += [batch.requests[slot][2][2 : 2 + positions] for slot in slots]
    drawn = np.array(drawn)
    before = np.concatenate([np.ones((len(drawn), 1), dtype=int), drawn[:, :-1]], 1)
    rows = table[before] / temperatures[:, None]
    if min_p:
        rows = np.where(rows < rows.max(-1, keepdims=True) + np.log(min_p), -np.inf, rows)
    assert_sampled_from(rows, drawn, np.ones(positions))
