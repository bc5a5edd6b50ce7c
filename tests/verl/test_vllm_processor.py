"""The vLLM logits processor without an engine: batch updates against a plain reference, requests, errors."""

import json
import subprocess
import sys
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError  # not a ValueError from 0.32 on
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessors,
    MoveDirectionality,
    validate_logits_processors_parameters,
)
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from ead.integrations.vllm import AnnealedTemperature, request, requested_schedule
from ead.schedule import Annealed, Fixed, HeldEntropy, Linear, Piecewise, ReverseAnnealed, Switched
from rules_reference import RULED, probabilities

ROWS, VOCABULARY = 8, 32
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SCHEDULES = [
    Annealed(d0=6, alpha=1, start=2),
    Annealed(d0=6, alpha=1, start=2, reading="released", origin="start"),
    ReverseAnnealed(d0=6, reading="mirrored", start=0),
    Fixed(0.7),
    Linear(d0=6, start=1),
    Piecewise([0, 3, 9], [1.3, 0.8, 0.5]),
]
PLAIN = [{"temperature": 1.0}, {"temperature": 0.6, "min_p": 0.1}, {"temperature": 0.0}]


def processors(count, device="cpu", logits_processors=None, logprobs_mode="processed_logprobs"):
    """So many instances as one engine would construct them."""
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=ROWS, async_scheduling=False),
        model_config=SimpleNamespace(logits_processors=logits_processors, logprobs_mode=logprobs_mode),
    )
    arguments = (config, torch.device(device))
    return [AnnealedTemperature(*arguments, is_pin_memory=device != "cpu") for _ in range(count)]


def processor(*arguments, **named):
    return processors(1, *arguments, **named)[0]


def sampling_params(ead=None, **arguments):
    return SamplingParams(**arguments, extra_args=None if ead is None else {"ead": ead})


requests = st.one_of(
    st.builds(
        lambda schedule, step, first, as_text, greedy: sampling_params(
            json.dumps({**schedule.to_dict(), "step": step} | first)
            if as_text
            else {**schedule.to_dict(), "step": step} | first,
            temperature=0.0 if greedy else 1.0,
        ),
        st.sampled_from(SCHEDULES),
        st.integers(0, 30),
        st.sampled_from([{}, {"position": 0}, {"position": 9}]),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    ),
    st.sampled_from(PLAIN).map(lambda arguments: sampling_params(**arguments)),
)


def expected_row(logits, params, position):
    """The reference: one row at a time, the schedule asked for its one temperature."""
    request = (params.extra_args or {}).get("ead")
    if request is None or params.temperature == 0:
        return logits
    schedule, step, first = requested_schedule(params)
    return logits / torch.tensor(schedule.temperature(first + position, step), dtype=torch.float32)


def assert_same_bits(found, expected):
    assert torch.equal(found.cpu().view(torch.int32), expected.cpu().view(torch.int32))


def check_rows(lp, logits, rows):
    """Apply ``lp`` and compare each row, in bits; ``rows`` holds (params, output tokens) or None."""
    expected = [
        row if request is None else expected_row(row, request[0], len(request[1]))
        for row, request in zip(logits.clone(), rows, strict=True)
    ]
    found = lp.apply(logits)
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32)), f"row {row}"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_sequence_of_batch_updates_keeps_every_row_right(data):
    lp = processor()
    rows = [None] * ROWS  # the reference: row -> (params, its output tokens)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 12), label="engine steps")):
        update = None
        if data.draw(st.booleans(), label="the batch changes"):
            occupied = [row for row in range(ROWS) if rows[row] is not None]
            removed = data.draw(st.lists(st.sampled_from(occupied), unique=True)) if occupied else []
            indices = st.integers(0, ROWS - 1)
            added = [
                (row, params, None, [0] * data.draw(st.integers(0, 20), label="tokens before preemption"))
                for row, params in data.draw(
                    st.lists(st.tuples(indices, requests), unique_by=lambda entry: entry[0], max_size=4)
                )
            ]
            pairs = st.tuples(indices, indices).filter(lambda pair: pair[0] != pair[1])
            moved = [
                (*pair, direction)
                for pair, direction in data.draw(
                    st.lists(st.tuples(pairs, st.sampled_from(MoveDirectionality)), max_size=4)
                )
            ]
            for row in removed:
                rows[row] = None
            for row, params, _, tokens in added:
                rows[row] = (params, tokens)
            for source, target, direction in moved:
                swap = direction == MoveDirectionality.SWAP
                rows[source], rows[target] = (rows[target] if swap else None), rows[source]
            size = max((row + 1 for row in range(ROWS) if rows[row] is not None), default=0)
            update = BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved)
        lp.update_state(update)
        size = max((row + 1 for row in range(ROWS) if rows[row] is not None), default=0)
        check_rows(lp, torch.randn(size, VOCABULARY, generator=generator), rows[:size])
        for _, tokens in filter(None, rows):
            # Asynchronous scheduling appends a placeholder, part of a prompt brings none, a failure takes some back.
            grown = data.draw(st.sampled_from([1, 1, 1, 0, 30, -2]), label="tokens of the step")
            tokens[:] = tokens[:grown] if grown < 0 else tokens + [-1] * grown


def test_rows_with_rules_have_the_distribution_of_their_definition_among_others():
    """Rules, schedules and requests without EAD in one batch; rows move, and a token later positions have moved too."""
    lp, step = processor(), 3
    asked = [*RULED[1:4], None, Annealed(d0=6, alpha=1, start=2), RULED[5], RULED[7], RULED[8]]
    rows = [
        (
            sampling_params(
                None if schedule is None else {**schedule.to_dict(), "step": step}, temperature=1.0
            ),
            [],
        )
        for schedule in asked
    ]
    added = [(row, params, None, tokens) for row, (params, tokens) in enumerate(rows)]
    lp.update_state(BatchUpdate(batch_size=ROWS, removed=[], added=added, moved=[]))
    generator = torch.Generator().manual_seed(0)
    for position in range(4):
        if position == 2:
            asked[0], asked[3] = asked[3], asked[0]
            lp.update_state(BatchUpdate(ROWS, removed=[], added=[], moved=[(0, 3, MoveDirectionality.SWAP)]))
        elif position:
            lp.update_state(None)
        logits = torch.randn(ROWS, VOCABULARY, generator=generator) * 2
        found = lp.apply(logits.clone())
        for row, schedule in enumerate(asked):
            if schedule is None:
                assert_same_bits(found[row], logits[row])
            elif schedule.rule is None:
                tau = torch.tensor(schedule.temperature(position, step), dtype=torch.float32)
                assert_same_bits(found[row], logits[row] / tau)
            else:
                expected = probabilities(schedule, logits[row], position, step)
                np.testing.assert_allclose(found[row].double().softmax(-1).numpy(), expected, atol=1e-5)
        for _, tokens in rows:
            tokens.append(0)
    lp.update_state(
        BatchUpdate(batch_size=4, removed=[4, 5, 6, 7], added=[(0, PLAIN_ROW, None, [])], moved=[])
    )
    lp.update_state(BatchUpdate(batch_size=1, removed=[1, 2, 3], added=[], moved=[]))
    logits = torch.randn(1, VOCABULARY)
    version = logits._version
    assert lp.apply(logits) is logits and logits._version == version


PLAIN_ROW = sampling_params(temperature=1.0)


def test_rules_take_as_many_numbers_as_they_have(own_rules):
    """A rule's numbers grow the table that others are in; see tests/verl/conftest.py."""
    lp, asked = processor(), [*own_rules, RULED[1]]
    added = [
        (row, sampling_params(schedule.to_dict(), temperature=1.0), None, [])
        for row, schedule in enumerate(asked)
    ]
    lp.update_state(BatchUpdate(batch_size=3, removed=[], added=added, moved=[]))
    logits = torch.randn(3, VOCABULARY)
    found = lp.apply(logits.clone())
    for row, schedule in enumerate(asked[:2]):
        torch.testing.assert_close(found[row], logits[row] / sum(schedule.rule_numbers))
    expected = probabilities(RULED[1], logits[2], 0, 0)
    np.testing.assert_allclose(found[2].double().softmax(-1).numpy(), expected, atol=1e-5)


def test_a_request_carries_no_schedule_that_follows_a_training():
    with pytest.raises(ValueError, match=r"ask for the fixed one that resolved\(\) returns"):
        requested_schedule(sampling_params(HeldEntropy().to_dict(), temperature=1.0))


BLOCKS = {"kernel_block_sizes": [16], "max_num_blocks_per_req": [4]}  # a vLLM knows one or both


class Scheduler:
    """vLLM's own persistent batch, driven the way its model runner drives it; ``generated`` is the truth."""

    def __init__(self, processor):
        self.batch = InputBatch(
            max_num_reqs=ROWS,
            max_model_len=64,
            max_num_batched_tokens=64,
            device=torch.device("cpu"),
            vocab_size=VOCABULARY,
            block_sizes=[16],
            logitsprocs=LogitsProcessors([processor]),
            **{name: value for name, value in BLOCKS.items() if name in signature(InputBatch).parameters},
        )
        self.states = {}  # request -> vLLM's record of it
        self.generated = {}  # request -> number of tokens generated
        self.preempted = []

    def start(self, params):
        name = str(len(self.states))
        self.generated[name] = 0
        self.states[name] = CachedRequestState(
            req_id=name,
            prompt_token_ids=[1, 2, 3],
            mm_features=[],
            sampling_params=params,
            generator=None,
            block_ids=([0],),
            num_computed_tokens=0,
            output_token_ids=[],
        )
        self.batch.add_request(self.states[name])

    def preempt(self, name):
        self.batch.remove_request(name)
        self.preempted.append(name)

    def resume(self, name):
        self.preempted.remove(name)
        state = self.states[name]
        state.output_token_ids = list(state.output_token_ids)  # a new list, as vLLM makes
        self.batch.add_request(state)

    def sample(self, name):
        self.states[name].output_token_ids.append(-1)  # asynchronous scheduling: a placeholder
        self.generated[name] += 1

    def rows(self):
        return [
            (self.states[name].sampling_params, [0] * self.generated[name]) for name in self.batch.req_ids
        ]


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_vllms_own_batch_bookkeeping_keeps_every_request_at_its_position(data):
    lp = processor()
    scheduler = Scheduler(lp)
    batch = scheduler.batch
    generator = torch.Generator().manual_seed(0)
    for _ in range(data.draw(st.integers(1, 14), label="engine steps")):
        # vLLM's order: finished and preempted requests leave, others come, the batch condenses and reorders.
        for name in list(batch.req_ids):
            leaves = data.draw(st.sampled_from(["stays", "stays", "finished", "preempted"]))
            if leaves == "finished":
                batch.remove_request(name)
            elif leaves == "preempted":
                scheduler.preempt(name)
        for name in list(scheduler.preempted):
            if batch.num_reqs < ROWS and data.draw(st.booleans(), label="resumes"):
                scheduler.resume(name)
        for params in data.draw(st.lists(requests, max_size=3)):
            if batch.num_reqs < ROWS:
                scheduler.start(params)
        batch.condense()
        size = batch.num_reqs
        if size > 1 and data.draw(st.booleans(), label="reorder"):
            pair = st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)
            batch.swap_states(*data.draw(pair))
        batch.refresh_metadata()
        check_rows(lp, torch.randn(size, VOCABULARY, generator=generator), scheduler.rows())
        for name in batch.req_ids:
            if data.draw(st.sampled_from([True, True, False]), label="samples, its prompt being done"):
                scheduler.sample(name)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_without_ead_keep_their_bits(device):
    lp = processor(device)
    ead = sampling_params({"kind": "annealed", "start": 0})
    update = BatchUpdate(
        batch_size=3,
        removed=[],
        added=[
            (0, sampling_params(), None, []),
            (1, ead, None, [7, 8]),
            (2, sampling_params({"kind": "annealed"}, temperature=0.0), None, []),
        ],
        moved=[],
    )
    lp.update_state(update)
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), -0.0, 1e-45, 3.4e38, -1e-39, 0.1])
    logits = special.repeat(3, VOCABULARY // len(special)).to(device)
    found = lp.apply(logits.clone())
    assert_same_bits(found[0], logits[0])
    assert_same_bits(found[2], logits[2])  # greedy: EAD leaves it alone
    assert_same_bits(
        found[1],
        logits[1] / torch.tensor(Annealed(start=0).temperature(2), dtype=torch.float32, device=device),
    )


@pytest.mark.parametrize(
    "update",
    [None, BatchUpdate(2, [], [(0, sampling_params(), None, []), (1, sampling_params(), None, [])], [])],
)
def test_a_batch_without_ead_is_not_touched_at_all(update):
    lp = processor()
    lp.update_state(update)
    logits = torch.randn(2, VOCABULARY)
    before = logits.clone()
    version = logits._version
    assert lp.apply(logits) is logits and logits._version == version
    assert_same_bits(logits, before)


def test_annealing_ends_when_its_last_request_leaves():
    lp = processor()
    lp.update_state(
        BatchUpdate(
            2,
            [],
            [(0, sampling_params(), None, []), (1, sampling_params({"kind": "fixed", "tau": 0.5}), None, [])],
            [],
        )
    )
    assert not torch.equal(lp.apply(torch.ones(2, 4)), torch.ones(2, 4))
    lp.update_state(BatchUpdate(1, [1], [], []))
    logits = torch.ones(1, 4)
    version = logits._version
    assert lp.apply(logits)._version == version


def test_positions_far_out_neither_overflow_nor_warn():
    class Endless(list):
        def __len__(self):
            return 2**62

    lp = processor()
    lp.update_state(
        BatchUpdate(
            1, [], [(0, sampling_params({"kind": "annealed", "step": 2**64 - 1}), None, Endless())], []
        )
    )
    np.testing.assert_allclose(lp.apply(torch.ones(1, 4)).numpy(), 10.0, rtol=1e-6)


def test_a_class_named_twice_divides_once():
    name = "ead.integrations.vllm:AnnealedTemperature"
    for names in ([], [name], [AnnealedTemperature], [name, name]):
        processor(logits_processors=[name])  # of an engine that ended before it made the second
        copies = processors(len(names) + 1, logits_processors=names)
        logits = torch.ones(1, 4)
        for copy in copies:
            copy.update_state(
                BatchUpdate(1, [], [(0, sampling_params({"kind": "fixed", "tau": 0.5}), None, [])], [])
            )
        for copy in copies:
            logits = copy.apply(logits)
        assert logits.tolist() == [[2.0] * 4], names


def test_rows_that_do_not_match_the_batch_are_an_error():
    lp = processor()
    lp.update_state(BatchUpdate(1, [], [(0, sampling_params({"kind": "annealed"}), None, [])], []))
    with pytest.raises(RuntimeError, match="2 rows of logits for a batch of 1"):
        lp.apply(torch.ones(2, 4))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("encode", [lambda data: data, json.dumps], ids=["mapping", "JSON"])
def test_a_request_carries_any_schedule_and_the_step(schedule, encode):
    params = sampling_params(encode({**schedule.to_dict(), "step": 7}))
    AnnealedTemperature.validate_params(params)
    assert requested_schedule(params) == (schedule, 7, 0)
    continued = sampling_params(encode({**schedule.to_dict(), "position": 12}))
    assert requested_schedule(continued) == (schedule, 0, 12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step": True}, "step must be an integer >= 0, found True"),
        ({"step": 1.0}, "step must be an integer >= 0, found 1.0"),
        ({"tau_max": True}, "tau_max must be a finite number, found True"),
        ({"tau_max": [1.2]}, r"tau_max must be a finite number, found \[1.2\]"),
    ],
)
def test_a_wrong_value_is_refused_though_one_that_equals_it_was_read_before(wrong, message):
    right = {"kind": "annealed", "tau_max": 1.0, "step": 1}
    assert requested_schedule(sampling_params(right)) == (Annealed(tau_max=1.0), 1, 0)
    with pytest.raises(ValueError, match=message):
        requested_schedule(sampling_params({**right, **wrong}))


def test_a_request_without_ead_is_not_judged():
    for params in (
        SamplingParams(temperature=0.3, min_p=0.2),
        SamplingParams(extra_args={"other": 1}),
        sampling_params(),
    ):
        AnnealedTemperature.validate_params(params)
        assert requested_schedule(params) is None


ANNEALED = {"kind": "annealed"}


@pytest.mark.parametrize(
    ("ead", "arguments", "message"),
    [
        ({}, {}, "schedule kind: found None, allowed: fixed, annealed, reverse_annealed, linear"),
        ({"kind": "sigmoid"}, {}, "schedule kind: found 'sigmoid'"),
        ({"kind": "fixed"}, {}, "the key 'tau' is missing"),
        ({**ANNEALED, "tau_mim": 0.1}, {}, "unknown key 'tau_mim', allowed: tau_max, tau_min"),
        ({**ANNEALED, "steps": 3}, {}, "unknown key 'steps', allowed: .*, step, position"),
        ({**ANNEALED, "tau_min": 0}, {}, "tau_min must be greater than 0, found 0.0"),
        ({**ANNEALED, "tau_min": 0.001}, {}, "the lowest temperature is 0.001, allowed: 0.01 or more"),
        (
            {"kind": "fixed", "tau": 1e300},
            {},
            "the highest temperature is 1e[+]300, beyond the range of float32",
        ),
        ({**ANNEALED, "tau_max": "hot"}, {}, "tau_max must be a finite number, found 'hot'"),
        (
            {"kind": "switched", "before": ANNEALED, "after": {"kind": "x"}, "tokens": [1]},
            {},
            "after: schedule kind",
        ),
        ({**ANNEALED, "step": -1}, {}, "step must be an integer >= 0, found -1"),
        ({**ANNEALED, "step": 1.5}, {}, "step must be an integer >= 0, found 1.5"),
        ({**ANNEALED, "step": None}, {}, "step must be an integer >= 0, found None"),
        ({**ANNEALED, "position": -1}, {}, "position is -1, allowed: an integer from 0"),
        ({**ANNEALED, "position": 2.0}, {}, "position is 2.0, allowed: an integer from 0"),
        ([1, 2], {}, "found list, allowed: a schedule as a mapping or as the JSON text of one"),
        (True, {}, "found bool, allowed: a schedule"),
        ("[1, 2]", {}, "found list, allowed: a schedule"),
        ("annealed", {}, "not valid JSON: Expecting value"),
        ("", {}, "not valid JSON: Expecting value"),
        ("[" * 9_999, {}, "not valid JSON: maximum recursion depth"),
        (" " * 10_001, {}, "the JSON text has 10001 characters, allowed: 10000"),
        ('{"kind": "annealed", "tau_max": Infinity}', {}, "tau_max must be a finite number, found inf"),
        (ANNEALED, {"temperature": 0.7}, "the request's temperature is 0.7, allowed: 1, or 0 for greedy"),
        (ANNEALED, {"min_p": 0.05}, "min_p is 0.05, allowed: 0"),
        (
            ANNEALED,
            {"repetition_penalty": 1.1},
            "repetition_penalty is 1.1, allowed: 1; .*generation_config.json",
        ),
        (ANNEALED, {"presence_penalty": 0.5}, "presence_penalty is 0.5, allowed: 0"),
        (ANNEALED, {"frequency_penalty": 0.5}, "frequency_penalty is 0.5, allowed: 0"),
    ],
)
def test_wrong_parameters_are_refused_with_their_name(ead, arguments, message):
    with pytest.raises(ValueError, match=message):
        AnnealedTemperature.validate_params(sampling_params(ead, **arguments))


@pytest.mark.parametrize("key", ["EAD", "ead_tau_max", "Ead_step", "ead-schedule", " ead"])
def test_a_misspelt_key_is_refused(key):
    with pytest.raises(
        ValueError, match=f"found the key '{key}'; EAD is requested under the key 'ead' alone"
    ):
        AnnealedTemperature.validate_params(SamplingParams(extra_args={key: 1}))


def test_a_request_that_asks_for_greedy_decoding_may_have_penalties():
    AnnealedTemperature.validate_params(sampling_params(ANNEALED, temperature=0.0, repetition_penalty=1.1))


def test_filters_are_reported_once(monkeypatch):
    messages = []
    monkeypatch.setattr(request.logger, "warning", lambda form, *values: messages.append(form % values))
    request.warn_once.cache_clear()
    for _ in range(2):
        AnnealedTemperature.validate_params(sampling_params(ANNEALED, top_p=0.8, top_k=20))
    (message,) = messages
    assert "top_p = 0.8 and top_k = 20" in message and "generation_config.json" in message


def switched(position=0):
    schedule = Switched(Fixed(2.0), Piecewise([0, 1], [0.5, 0.25]), [7, 8])
    return sampling_params({**schedule.to_dict(), "position": position})


def test_a_switched_row_follows_its_own_tokens():
    lp = processor()
    rows = [[], [1, 8, 1], []]
    prompts = [[7, 1], [1, 2], [7, 1]]
    added = [(row, switched(position=2 * (row == 2)), prompts[row], rows[row]) for row in range(3)]
    lp.update_state(BatchUpdate(3, [], added, []))

    def temperatures():
        return (1 / lp.apply(torch.ones(len(rows), 2)))[:, 0].tolist()

    assert temperatures() == [2.0, 0.25, 0.25]  # a token of the prompt switches only as part of the response
    lp.update_state(BatchUpdate(3, [], [], [(0, 1, MoveDirectionality.SWAP)]))
    rows[0], rows[1] = rows[1], rows[0]
    for token, expected in ((5, 2.0), (7, 0.5), (7, 0.25)):
        for row in rows:
            row.append(token)
        lp.update_state(None)
        assert temperatures() == [0.25, expected, 0.25]
    del rows[1][1:]  # vLLM takes tokens back
    lp.update_state(None)
    assert temperatures() == [0.25, 2.0, 0.25]


def test_hidden_tokens_are_an_error_and_not_a_wrong_temperature():
    lp = processor()
    lp.update_state(BatchUpdate(1, [], [(0, switched(), None, [-1])], []))
    with pytest.raises(
        RuntimeError, match="name ead.integrations.vllm:AnnealedTemperature in logits_processors"
    ):
        lp.apply(torch.ones(1, 2))


class Engine:
    """Asks as vLLM's frontend does: a method of what holds the engine's configuration."""

    def __init__(self, speculative=None, asynchronous=False, named=None):
        self.vllm_config = SimpleNamespace(
            speculative_config=speculative,
            scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
            model_config=SimpleNamespace(logits_processors=named),
        )

    def validate(self, params):
        validate_logits_processors_parameters(None, params)


def test_what_the_first_runner_cannot_do_is_refused_before_it_would_be_wrong():
    refused = (ValueError, VLLMValidationError)
    with pytest.raises(refused, match="loads no processors under speculative decoding"):
        Engine(speculative=object()).validate(sampling_params(ANNEALED))
    with pytest.raises(refused, match="hides under asynchronous scheduling"):
        Engine(asynchronous=True).validate(switched())
    Engine(asynchronous=True, named=["ead.integrations.vllm:AnnealedTemperature"]).validate(switched())
    Engine(asynchronous=True).validate(sampling_params(ANNEALED))
    Engine(speculative=object()).validate(SamplingParams())


def test_a_frontend_that_is_not_known_gets_no_promise():
    class Later(Engine):
        def validate(self, params):
            AnnealedTemperature.validate_params(params)

    Later().validate(SamplingParams())
    with pytest.raises(ValueError, match="in a way that this package does not know"):
        Later().validate(sampling_params(ANNEALED))


UNKNOWN = """
import abc, logging, sys, types
import torch
from vllm import SamplingParams
import vllm.v1.sample.logits_processor as first

class LogitsProcessor(abc.ABC):  # of a later vLLM, in a place of its own
    @abc.abstractmethod
    def reshape(self, logits, everything): ...
    @abc.abstractmethod
    def prepare(self): ...

later = types.ModuleType("vllm.v3.logits_processor")
later.LogitsProcessor = LogitsProcessor
sys.modules[later.__name__] = later
if sys.argv[1] == "changed":
    first.LogitsProcessor.__abstractmethods__ |= {"start_step"}
elif sys.argv[1] == "moved":
    sys.modules |= {first.__name__: None, "vllm.v1.worker.gpu.sample.logits_processor": None}
from ead.integrations.vllm import AnnealedTemperature

messages = []
logging.getLogger("vllm.ead").addFilter(lambda record: messages.append(record.getMessage()))
assert issubclass(AnnealedTemperature, LogitsProcessor)
config = types.SimpleNamespace(model_config=None)
for arguments in ((config, "cpu", False), (config, "state"), (config,), (config, 1, 2, 3)):
    instance = AnnealedTemperature(*arguments)
    logits = torch.ones(1, 2)
    assert instance.reshape(logits, None) is logits and instance.prepare() is None
    assert instance.apply(logits) is logits and instance.add_request(0, SamplingParams()) is False
    instance.update_state(None)
    try:
        instance.add_request(0, SamplingParams(extra_args={"ead": {"kind": "annealed"}}))
    except RuntimeError as error:
        assert "asks for EAD, which is not available" in str(error)
    else:
        raise AssertionError("not annealed, silently")
assert messages and len(messages) == len(set(messages)), messages
AnnealedTemperature.validate_params(SamplingParams())
try:
    AnnealedTemperature.validate_params(SamplingParams(extra_args={"ead": {"kind": "annealed"}}))
except ValueError as error:
    assert "vLLM 0.24 to 0.33" in str(error), error
else:
    assert sys.argv[1] == "later", "accepted"
"""


@pytest.mark.parametrize("case", ["later", "changed", "moved"])
def test_an_interface_that_is_not_known_is_left_alone(case, tmp_path):
    """One warning for each reason, no exception without EAD, and an error for a request that asks for it."""
    script = tmp_path / "unknown.py"
    script.write_text(UNKNOWN)
    result = subprocess.run([sys.executable, script, case], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
