"""What the agent loop asks of vLLM for one response, without an engine."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from ead import seeds
from ead.integrations.verl import AnnealedAgentLoop, request_parameters
from ead.schedule import Annealed

SCHEDULE = Annealed().to_dict()
STREAM = [2025, "train", 0, "rollouts"]
VERLS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}


def loop(monkeypatch, asked, **arguments):
    """An agent loop whose base class only notes what it would have sent."""

    async def noted(self, sampling_params, **kwargs):
        asked.append(sampling_params)
        sampling_params["max_tokens"] = 1  # verl's server edits what it is given
        return SimpleNamespace(prompt_ids=[1], response_ids=[2], response_logprobs=[-0.5])

    monkeypatch.setattr(SingleTurnAgentLoop, "__init__", lambda self, *a, **k: None)
    monkeypatch.setattr(SingleTurnAgentLoop, "run", noted)
    return AnnealedAgentLoop(stream=STREAM, **arguments)


def run(agent, step=7, index=3, session=0, shared=VERLS):
    return asyncio.run(agent.run(shared, global_steps=step, index=index, session_id=session, raw_prompt=[]))


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
    import json

    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["extra_args"]["ead"]["step"] == line["step"] == 4
    assert (line["tokens"], line["logprobs"]) == ([2], [-0.5])


def test_a_prompt_that_is_too_long_is_refused(monkeypatch):
    agent = loop(monkeypatch, [])
    agent.rollout_config = SimpleNamespace(prompt_length=3)
    assert agent._cap_text_prompt_length([1, 2, 3]) == [1, 2, 3]
    with pytest.raises(ValueError, match="a prompt has 4 tokens, allowed: 3"):
        agent._cap_text_prompt_length([1, 2, 3, 4])


def test_a_wrong_schedule_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="tau_min"):
        loop(monkeypatch, [], schedule={"kind": "annealed", "tau_min": -1})
