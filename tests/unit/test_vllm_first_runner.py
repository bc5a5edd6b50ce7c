"""vLLM's first runner without vLLM: when what the host prepares reaches the device."""

from types import SimpleNamespace

import pytest
import torch

from ead.integrations.vllm.first_runner import FirstRunner
from ead.integrations.vllm.request import requested_schedule

NEUTRAL = {"temperature": 1, "top_p": 1, "top_k": 0, "logprobs": None, "repetition_penalty": 1.0}
NO_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0}


class LateDevice:
    """Memory of a device whose copies run late, as those of a stream behind a forward pass do."""

    def __init__(self, memory, queue):
        self.memory, self.queue = memory, queue

    def __getitem__(self, index):
        return LateDevice(self.memory[index], self.queue)

    def view(self, *shape):
        return LateDevice(self.memory.view(*shape), self.queue)

    def copy_(self, host, non_blocking):
        self.queue.append((self.memory, host))

    def unbind(self):
        return self.memory.unbind()


def finish(queue):
    for memory, host in queue:
        memory.copy_(host)
    queue.clear()


def asking(ead):
    return SimpleNamespace(extra_args={"ead": ead}, **NEUTRAL, **NO_PENALTIES)


def update(**changes):
    return SimpleNamespace(**{"removed": [], "added": [], "moved": [], "batch_size": 2, **changes})


def test_a_switched_step_has_its_temperatures_though_the_host_is_a_step_ahead():
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        model_config=SimpleNamespace(logprobs_mode="processed_logprobs"),
    )
    runner, queue = FirstRunner(config, torch.device("cpu"), False), []
    runner._device = LateDevice(torch.ones_like(runner._host), queue)
    switched = {"kind": "switched", "tokens": [7]}
    switched |= {"before": {"kind": "fixed", "tau": 1.5}, "after": {"kind": "fixed", "tau": 0.5}}
    one, other = [], []
    added = [(0, asking(switched), [1], one), (1, asking({"kind": "fixed", "tau": 0.9}), [1], other)]
    runner.update_state(update(added=added))
    finish(queue)
    for output in (one, other):
        output.append(-1)  # under asynchronous scheduling the token comes later
    runner.update_state(None)
    finish(queue)
    one[0], other[0] = 7, 3
    runner._follow_switches()
    temperatures = runner._temperatures
    for output in (one, other):
        output.append(-1)
    runner.update_state(update(removed=[0], added=[(0, asking({"kind": "fixed", "tau": 0.2}), [1], [])]))
    (memory, host), *_ = queue
    memory.copy_(host)
    assert temperatures.flatten().tolist() == pytest.approx([0.5, 0.9])


def test_a_text_nested_too_deep_is_a_wrong_value():
    nested = '{"kind": "dynamic", "base": ' * 300 + '{"kind": "fixed", "tau": 1}' + "}" * 300
    with pytest.raises(ValueError, match="nested too deep"):
        requested_schedule(asking(nested))
    values = []
    for _ in range(5_000):
        values = [values]
    with pytest.raises(ValueError, match="nested too deep"):
        requested_schedule(asking({"kind": "fixed", "tau": values}))
