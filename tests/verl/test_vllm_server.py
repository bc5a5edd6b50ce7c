"""EAD through a real ``vllm serve`` over HTTP: parameters in vllm_xargs, refusals, a server that keeps going."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from vllm.triton_utils import HAS_TRITON

from ead.schedule import Annealed

# As vLLM chooses its runner from 0.31 on.
SECOND_RUNNER = HAS_TRITON and find_spec("vllm.v1.worker.gpu.sample.logits_processor") is not None
SCHEDULE = Annealed(tau_max=1.4, tau_min=0.3, d0=20, alpha=1, start=4)
STEP, POSITIONS = 3, 24
PROMPT = [72, 101, 97, 116, 58]
EAD = json.dumps({**SCHEDULE.to_dict(), "step": STEP})


def post(address, path, body):
    """Return (HTTP status, decoded answer)."""
    request = urllib.request.Request(
        address + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def complete(address, ead=EAD, **arguments):
    body = {
        "model": "tiny",
        "prompt": PROMPT,
        "temperature": 1.0,
        "max_tokens": POSITIONS,
        "ignore_eos": True,
        "logprobs": 0,
        "return_token_ids": True,
        "vllm_xargs": None if ead is None else {"ead": ead},
    }
    return post(address, "/v1/completions", body | arguments)


def assert_temperatures(answer, reference, temperatures):
    for choice in answer["choices"]:
        expected = reference.logprobs(PROMPT, choice["token_ids"], temperatures)
        np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def annealed():
    return SCHEDULE.temperature(np.arange(POSITIONS), STEP)


def test_completions_are_annealed(server, tiny_reference, annealed):
    status, answer = complete(server, n=4)
    assert status == 200, answer
    assert len(answer["choices"]) == 4
    assert_temperatures(answer, tiny_reference, annealed)


def test_concurrent_requests_keep_their_own_temperatures(server, tiny_reference, annealed):
    kinds = [
        ({}, annealed),
        ({"ead": None}, np.ones(POSITIONS)),
        ({"ead": None, "temperature": 0.6}, np.full(POSITIONS, 0.6)),
        ({"ead": '{"kind": "fixed", "tau": 0.8}'}, np.full(POSITIONS, 0.8)),
        ({"temperature": 0.0}, np.ones(POSITIONS)),
    ] * 6
    with ThreadPoolExecutor(len(kinds)) as pool:
        answers = list(pool.map(lambda kind: complete(server, **kind[0]), kinds))
    for (_, temperatures), (status, answer) in zip(kinds, answers, strict=True):
        assert status == 200, answer
        assert_temperatures(answer, tiny_reference, temperatures)


def test_chat_completions_are_annealed(server, tiny_reference, annealed):
    message = "2 + 3 = ?"
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": message}],
        "temperature": 1.0,
        "max_tokens": POSITIONS,
        "ignore_eos": True,
        "logprobs": True,
        "return_token_ids": True,
        "vllm_xargs": {"ead": EAD},
    }
    status, answer = post(server, "/v1/chat/completions", body)
    assert status == 200, answer
    choice = answer["choices"][0]
    found = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    expected = tiny_reference.logprobs(tiny_reference.chat_tokens(message), choice["token_ids"], annealed)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ead": '{"kind": "annealed", "tau_min": -0.5}'}, "tau_min must be greater than 0, found -0.5"),
        ({"ead": '{"kind": "annealed", "tau_mim": 0.5}'}, "unknown key 'tau_mim'"),
        ({"ead": '{"kind": "annealed", "step": -1}'}, "step must be an integer >= 0, found -1"),
        ({"ead": "annealed"}, "ead: not valid JSON"),
        ({"ead": "[" * 9000}, "ead: not valid JSON"),
        ({"ead": 7}, "ead: found int, allowed: a schedule as a mapping or as the JSON text of one"),
        ({"temperature": 0.7}, "the request's temperature is 0.7, allowed: 1, or 0"),
        pytest.param(
            {"min_p": 0.1},
            "min_p is 0.1, allowed: 0",
            marks=pytest.mark.skipif(SECOND_RUNNER, reason="the second runner supports min-p"),
        ),
        (
            {"vllm_xargs": {"ead_tau_max": 1.2}},
            "found the key 'ead_tau_max'; EAD is requested under the key 'ead'",
        ),
    ],
)
def test_a_wrong_request_is_answered_400_and_the_server_goes_on(
    server, tiny_reference, annealed, arguments, message
):
    status, answer = complete(server, **arguments)
    assert status == 400, answer
    assert message in answer["error"]["message"]
    status, answer = complete(server)
    assert status == 200, answer
    assert_temperatures(answer, tiny_reference, annealed)


def test_nested_objects_are_refused_by_vllm_itself(server):
    """Why the schedule travels as JSON text: vllm_xargs admits text and numbers only."""
    status, answer = complete(server, ead=json.loads(EAD))
    assert status == 400 and "vllm_xargs" in answer["error"]["message"]
