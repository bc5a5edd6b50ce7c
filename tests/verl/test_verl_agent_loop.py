"""What the agent loop asks of vLLM for one response, without an engine."""

import asyncio
import json
import uuid
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from ead import seeds
from ead.integrations import verl as integration
from ead.integrations.verl import AnnealedAgentLoop, prompt_name, request_parameters
from ead.schedule import Annealed

SCHEDULE = Annealed().to_dict()
STREAM = [2025, "train", 0, "rollouts"]
VERLS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}


def loop(monkeypatch, asked, **arguments):
    """An agent loop whose base class only notes what it would have sent; its engine knows EAD."""

    async def refuse(**request):
        assert request["sampling_params"]["extra_args"]["ead"]["position"] == -1
        raise ValueError("ead: position is -1")

    async def noted(self, sampling_params, **kwargs):
        asked.append(sampling_params)
        sampling_params["max_tokens"] = 1  # verl's server edits what it is given
        return SimpleNamespace(prompt_ids=[1], response_ids=[2], response_mask=[1], response_logprobs=[-0.5])

    monkeypatch.setattr(SingleTurnAgentLoop, "__init__", lambda self, *a, **k: None)
    monkeypatch.setattr(SingleTurnAgentLoop, "run", noted)
    monkeypatch.setattr(AnnealedAgentLoop, "_proof", None)
    agent = AnnealedAgentLoop(stream=STREAM, **arguments)
    agent.server_manager = SimpleNamespace(generate=refuse)
    return agent


def run(agent, step=7, index=3, session=0, shared=VERLS):
    row = {"index": index, "ead_row": index, "raw_prompt": []}
    return asyncio.run(agent.run(shared, global_steps=step, session_id=session, **row))


def test_the_step_and_the_schedule_are_in_the_request(monkeypatch):
    asked = []
    run(loop(monkeypatch, asked, schedule=SCHEDULE), step=7)
    assert asked[0]["extra_args"] == {"ead": {**SCHEDULE, "step": 7}}
    assert asked[0]["temperature"] == 1.0


def test_without_a_schedule_nothing_is_annealed(monkeypatch):
    asked = []
    run(loop(monkeypatch, asked, schedule=None))
    assert "extra_args" not in asked[0]


def test_siblings_share_verls_parameters_and_stay_apart(monkeypatch):
    asked, shared = [], dict(VERLS)
    agent = loop(monkeypatch, asked, schedule=SCHEDULE)
    for session in range(4):
        run(agent, session=session, shared=shared)
    assert shared == VERLS
    assert len({request["seed"] for request in asked}) == 4


def test_an_engine_that_ignores_ead_ends_the_training(monkeypatch):
    agent = loop(monkeypatch, [], schedule=SCHEDULE)

    async def ignore(**_):
        return SimpleNamespace(token_ids=[1])

    agent.server_manager = SimpleNamespace(generate=ignore)
    with pytest.raises(RuntimeError, match="vLLM ignores the request for EAD"):
        run(agent)


@pytest.mark.parametrize("change", [{"step": 8}, {"prompt": 4}, {"sibling": 1}])
def test_a_seed_is_its_names(change):
    names = {"step": 7, "prompt": 3, "sibling": 0}
    seed = request_parameters(VERLS, None, STREAM, **names)["seed"]
    assert seed == seeds.derive(2025, "train", 0, "rollouts", 7, 3, 0)
    assert request_parameters(VERLS, None, STREAM, **(names | change))["seed"] != seed
    other = [2025, "train", 1, "rollouts"]
    assert request_parameters(VERLS, None, other, **names)["seed"] != seed


def test_a_record_has_what_was_asked_and_what_came(monkeypatch, tmp_path):
    agent = loop(monkeypatch, [], schedule=SCHEDULE, record=str(tmp_path), record_every=2)
    run(agent, step=3)
    assert not list(tmp_path.iterdir())
    run(agent, step=4)
    (file,) = tmp_path.iterdir()
    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["extra_args"]["ead"]["step"] == line["step"] == 4
    assert (line["tokens"], line["logprobs"]) == ([2], [-0.5])


def test_a_trainer_that_interrupts_responses_is_refused(monkeypatch):
    agent = loop(monkeypatch, [], schedule=SCHEDULE)
    agent.server_manager = object.__new__(FullyAsyncLLMServerClient)
    with pytest.raises(ValueError, match="EAD needs verl's synchronous trainer"):
        run(agent)
    plain = loop(monkeypatch, [])
    plain.server_manager = object.__new__(FullyAsyncLLMServerClient)
    run(plain)  # it anneals nothing


def test_a_prompt_that_is_too_long_is_refused(monkeypatch):
    agent = loop(monkeypatch, [])
    agent.rollout_config = SimpleNamespace(prompt_length=3)
    assert agent._cap_text_prompt_length([1, 2, 3]) == [1, 2, 3]
    with pytest.raises(ValueError, match="a prompt has 4 tokens, allowed: 3"):
        agent._cap_text_prompt_length([1, 2, 3, 4])


def test_a_wrong_schedule_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="tau_min"):
        loop(monkeypatch, [], schedule={"kind": "annealed", "tau_min": -1})


# --- what tells a prompt from the others of its step -----------------------------------------------------------

MESSAGES = [{"role": "user", "content": "What is 1 + 1?"}]
OTHER = [{"role": "user", "content": "What is 1 + 2?"}]


@pytest.fixture(autouse=True)
def forgotten():
    """A process that has sampled nothing yet, as after a resume."""
    integration._copies.clear()


def seeds_of(agent, asked, rows, *, siblings=2, step=7):
    """Seeds [row][sibling] of a batch, its prompts and siblings interleaved as verl's tasks are."""
    asked.clear()

    async def sample():
        loops = [
            agent.run(VERLS, global_steps=step, session_id=sibling, **row)
            for sibling in range(siblings)
            for row in rows
        ]
        await asyncio.gather(*loops)

    asyncio.run(sample())
    flat = [request["seed"] for request in asked]
    return [flat[place :: len(rows)] for place in range(len(rows))]


def row_of(index, messages=MESSAGES, **more):
    return {"index": index, "raw_prompt": messages, "uid": str(uuid.uuid4()), **more}


INDICES = st.one_of(
    st.uuids().map(str), st.uuids(), st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.just(0)
)


@settings(deadline=None)
@given(st.lists(st.tuples(INDICES, st.text(max_size=3)), min_size=1, max_size=12))
def test_every_response_of_a_batch_has_a_seed_of_its_own_and_the_same_one_after_a_resume(prompts):
    """Indices of any kind, repeated or absent; prompts that are repeated, with the same index or another."""

    def drawn():
        integration._copies.clear()
        names = {}
        for index, text in prompts:
            row = row_of(index, [{"role": "user", "content": text}])
            name = prompt_name(STREAM, 7, row)
            assert prompt_name(STREAM, 7, row) == name  # its siblings share it
            names[row["uid"]] = name
        return list(names.values())

    first = drawn()
    assert len(set(first)) == len(prompts)
    assert drawn() == first


def test_prompts_named_by_uuids_and_copies_of_them_get_responses_of_their_own(monkeypatch):
    """As in the hub's DAPO-Math-17k: each prompt 100 times, under one UUID."""
    asked = []
    agent = loop(monkeypatch, asked, schedule=SCHEDULE)
    names = [str(uuid.UUID(int=number)) for number in range(3)]
    rows = [row_of(name, [{"role": "user", "content": name}]) for _ in range(100) for name in names]
    found = seeds_of(agent, asked, rows)
    assert len({seed for siblings in found for seed in siblings}) == 2 * len(rows)
    integration._copies.clear()
    again = [{**row, "uid": str(uuid.uuid4())} for row in rows]
    assert seeds_of(agent, asked, again) == found


def test_without_an_index_prompts_of_a_step_differ(monkeypatch):
    asked = []
    agent = loop(monkeypatch, asked)
    found = seeds_of(agent, asked, [row_of(0, MESSAGES), row_of(0, OTHER), row_of(0, MESSAGES)])
    assert len({seed for siblings in found for seed in siblings}) == 6


def test_a_row_with_a_number_is_named_by_it_alone(monkeypatch):
    asked = []
    agent = loop(monkeypatch, asked)
    rows = [row_of("the same", ead_row=np.int64(number)) for number in range(3)]
    expected = [[seeds.derive(*STREAM, 7, number, sibling) for sibling in range(2)] for number in range(3)]
    assert seeds_of(agent, asked, rows) == expected
    assert seeds_of(agent, asked, rows[::-1]) == expected[::-1]


def test_copies_on_two_of_verls_workers_differ(monkeypatch):
    monkeypatch.setattr(integration.ray, "is_initialized", lambda: True)
    names = []
    for worker in (
        "agent_loop_worker_0_0123abcd",
        "agent_loop_worker_1_4567cdef",
        "agent_loop_worker_0_89abcdef",
    ):
        context = SimpleNamespace(get_actor_name=lambda worker=worker: worker)
        monkeypatch.setattr(integration.ray, "get_runtime_context", lambda context=context: context)
        integration._copies.clear()  # another process
        names.append(prompt_name(STREAM, 7, row_of("the same")))
    assert names[0] != names[1] and names[0] == names[2]


def test_what_is_remembered_of_copies_stays_small():
    for step in range(1000):
        prompt_name(STREAM, step, row_of(0))
    assert len(integration._copies) == integration._KEPT_STEPS
