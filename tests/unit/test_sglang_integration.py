"""EAD inside SGLang: its own code that applies processors, on tensors, with stand-ins for requests.

That code is taken from SGLang's sources (``pip install --no-deps sglang orjson dill``), so its kernels for GPUs are not
needed; the tests that take it are skipped where it is not installed.
"""

import ast
import importlib.util
import json
import logging
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ead.integrations.sglang import AnnealedTemperature, request_parameters
from ead.schedule import Annealed, Fixed, Linear, Switched

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sglang_server.py"
SCHEDULE = Annealed(tau_max=1.4, tau_min=0.3, d0=8, alpha=4, d_max=100, start=3)
VOCABULARY = 12


def nested_base(depth):
    config = {"kind": "fixed", "tau": 1}
    for _ in range(depth):
        config = {"kind": "dynamic", "base": config}
    return config


def nested_list(depth):
    values = []
    for _ in range(depth):
        values = [values]
    return values


class Request:
    """What SGLang tells a processor of a request, and how SGLang's scheduler changes it."""

    def __init__(self, parameters, **sampling):
        neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        self.sampling_params = SimpleNamespace(
            **{"temperature": 1.0, "top_k": 1 << 30, **neutral, **sampling}
        )
        self.params = None if parameters is None else {**parameters["custom_params"], "__req__": self}
        self.output_ids, self.decode_batch_idx, self.to_finish = [], 0, None
        self.sampled = 0  # the truth: tokens sampled that count

    def decode(self, lag):
        """Another decoding step; ``lag``: the newest token is not in the list yet, as under overlap scheduling."""
        self.decode_batch_idx += 1
        self.output_ids = [0] * (self.sampled - lag)

    def retract(self):
        """The token in flight is lost, the prompt is read anew with the tokens before it."""
        self.sampled = len(self.output_ids)
        self.decode_batch_idx = 0


@pytest.fixture
def aborted(monkeypatch):
    """Stands for SGLang's class that ends a request; nothing else of SGLang is imported."""
    module = ModuleType("sglang.srt.managers.schedule_batch")
    module.FINISH_ABORT = lambda message, status, kind: (message, status, kind)
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def divided_by(processor, *requests):
    """The temperatures by which the rows of a batch are divided."""
    logits = torch.randn(len(requests), VOCABULARY)
    result = processor(logits.clone(), [request.params for request in requests])
    return (logits / result).mean(dim=1).tolist()


@pytest.mark.parametrize("lag", [0, 1])
def test_temperatures_follow_position_and_step_whatever_the_list_of_tokens_lacks(lag):
    request = Request(request_parameters(SCHEDULE, step=2, position=4))
    plain = Request(None)
    processor = AnnealedTemperature()
    for position in range(30):
        if position:
            request.decode(lag)
        for _ in range(1 + position % 2):  # a watermark has the processor called twice
            found = divided_by(processor, request, plain)
            assert found == pytest.approx([SCHEDULE.temperature(4 + position, step=2), 1.0], rel=1e-5)
        request.sampled += 1


def test_parts_of_a_prompt_do_not_count():
    request = Request(request_parameters(SCHEDULE))
    processor = AnnealedTemperature()
    for _ in range(5):
        divided_by(processor, request)
    assert divided_by(processor, request) == pytest.approx([SCHEDULE.temperature(0)])


def test_a_retracted_request_goes_on_at_its_position():
    request, processor = Request(request_parameters(SCHEDULE)), AnnealedTemperature()
    for position in range(12):
        if position:
            request.decode(lag=1)
        divided_by(processor, request)
        request.sampled += 1
    request.retract()
    assert request.sampled == 10  # one token had come, the other was lost
    for _ in range(4):
        expected = SCHEDULE.temperature(request.sampled)
        assert divided_by(processor, request) == pytest.approx([expected], rel=1e-5)
        request.sampled += 1
        request.decode(lag=1)


def test_requests_without_ead_keep_their_bits():
    logits = torch.randn(2, VOCABULARY)
    others = [None, {"thinking_budget": 5}]
    assert AnnealedTemperature()(logits, others) is logits
    mixed = AnnealedTemperature()(logits, [others[1], Request(request_parameters(Fixed(0.5))).params])
    assert torch.equal(mixed[0], logits[0]) and torch.equal(mixed[1], logits[1] * 2)


def test_greedy_requests_stay_as_they_are():
    assert divided_by(AnnealedTemperature(), Request(request_parameters(Fixed(0.5)), top_k=1)) == [1.0]


@pytest.mark.parametrize(
    ("params", "sampling", "message"),
    [
        ({"kind": "anealed"}, {}, "schedule kind: found 'anealed'"),
        ("annealed", {}, "found str, allowed: a schedule as a mapping"),
        ({"kind": "annealed", "step": -1}, {}, "step must be an integer >= 0"),
        ({"kind": "annealed", "position": 1.5}, {}, "position is 1.5, allowed: an integer"),
        ({"kind": "annealed", "position": [37]}, {}, "position is [37], allowed: an integer"),
        ({"kind": "first_token", "position": 10**25}, {}, "allowed: an integer from 0 to 2147483647"),
        (nested_base(1_000), {}, "nested too deep"),
        ({"kind": "fixed", "tau": nested_list(5_000)}, {}, "nested too deep"),
        ({"kind": "annealed"}, {"temperature": 0.7}, "the temperature is 0.7, allowed: 1"),
        ({"kind": "annealed"}, {"repetition_penalty": 1.1}, "repetition_penalty is 1.1, allowed: 1"),
    ],
)
def test_a_wrong_request_is_aborted_and_the_others_of_its_batch_go_on(aborted, params, sampling, message):
    wrong = Request({"custom_params": {"ead": params}}, **sampling)
    right = Request(request_parameters(Fixed(0.5)))
    assert divided_by(AnnealedTemperature(), wrong, right) == pytest.approx([1.0, 0.5])
    assert message in wrong.to_finish[0] and wrong.to_finish[1:] == (400, "BadRequestError")
    assert right.to_finish is None


def test_a_prompt_that_another_server_has_read_is_refused(aborted):
    request = Request(request_parameters(Fixed(0.5)))
    request.decode_batch_idx = 1
    assert divided_by(AnnealedTemperature(), request) == [1.0]
    assert "another server has read the prompt" in request.to_finish[0]


def test_speculative_decoding_is_refused(aborted):
    request = Request(request_parameters(Fixed(0.5)))
    assert divided_by(AnnealedTemperature(), request, request) == [1.0, 1.0]
    assert "speculative decoding" in request.to_finish[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": SCHEDULE, "step": -1}, "step must be an integer >= 0"),
        ({"schedule": SCHEDULE, "position": -1}, "position is -1, allowed: an integer"),
        ({"schedule": SCHEDULE, "position": [3, 4]}, "position is .3, 4., allowed: an integer"),
        ({"schedule": Fixed(1e-300)}, "the lowest temperature is 1e-300, allowed: 0.01 or more"),
        ({"schedule": Switched(SCHEDULE, Fixed(1.0), [7])}, "a switched schedule needs the newest token"),
    ],
)
def test_a_client_hears_of_a_wrong_value_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        request_parameters(**arguments)


def test_a_name_travels_and_no_code():
    text = request_parameters(Linear(), step=3)["custom_logit_processor"]
    sent = bytes.fromhex(json.loads(text)["callable"])
    assert pickle.loads(sent) is AnnealedTemperature  # our own
    assert len(sent) < 100 and b"ead.integrations.sglang" in sent


# SGLang's own code


def source_of_sglang(name: str) -> Path:
    spec = importlib.util.find_spec("sglang")
    if spec is None:
        pytest.skip("SGLang's sources are not installed")
    return Path(spec.submodule_search_locations[0]) / name


def test_sglang_reads_the_name_and_applies_the_processor_to_its_rows():
    path = source_of_sglang("srt/sampling/custom_logit_processor.py")
    spec = importlib.util.spec_from_file_location("custom_logit_processor", path)
    reading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reading)
    tree = ast.parse(source_of_sglang("srt/layers/sampler.py").read_text())
    (function,) = [node for node in tree.body if getattr(node, "name", "") == "apply_custom_logit_processor"]
    function.args.args[1].annotation = None
    space = {"torch": torch, "logger": logging.getLogger("sglang")}
    exec(compile(ast.Module([function], []), str(path), "exec"), space)

    asked = request_parameters(SCHEDULE, step=1)
    requests = [Request(asked), Request(None), Request(asked)]
    requests[2].sampled = 5
    requests[2].output_ids, requests[2].decode_batch_idx = [0] * 4, 0
    processor = reading.CustomLogitProcessor.from_str(asked["custom_logit_processor"])

    class Batch(SimpleNamespace):
        def __len__(self):
            return len(requests)

    batch = Batch(
        custom_params=[request.params for request in requests],
        custom_logit_processor={
            0: SimpleNamespace(processor=processor, rows=[0, 2], indices=torch.tensor([0, 2]))
        },
    )
    logits = torch.randn(3, VOCABULARY)
    before = logits.clone()
    space["apply_custom_logit_processor"](logits, batch)
    expected = [SCHEDULE.temperature(0, 1), 1.0, SCHEDULE.temperature(4, 1)]
    assert (before / logits).mean(dim=1).tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(logits[1], before[1])


def test_the_example_sends_what_the_processor_reads():
    """The server is a stand-in: it samples nothing and answers with the temperatures."""
    processor = AnnealedTemperature()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sampling = body["sampling_params"]
            request = Request(
                {"custom_params": sampling["custom_params"]}, temperature=sampling["temperature"]
            )
            named = json.loads(body["custom_logit_processor"])["callable"]
            right = b"AnnealedTemperature" in bytes.fromhex(named) and self.path == "/generate"
            reply = json.dumps({"text": f"{right} {divided_by(processor, request)[0]:.3f}"}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_): ...

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), f"http://127.0.0.1:{server.server_port}"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        server.shutdown()
    assert done.stdout.strip() == "True 1.000", done.stderr
