"""verl's own loop with tools, run through two turns: where each turn's schedule begins, and its seed."""

import asyncio
import json

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from ead.integrations.verl import AnnealedToolAgentLoop
from ead.schedule import Annealed

SCHEDULE = Annealed().to_dict()
CALL = '<tool_call>{"name": "look_up", "arguments": {"word": "tau"}}</tool_call><|im_end|>'
ANSWER = "It is a Greek letter.<|im_end|>"
SCHEMA = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "description": "the word"}},
            "required": ["word"],
        },
    },
}


class Server:
    """Stands for vLLM: gives the texts in turn and keeps what it was asked."""

    def __init__(self, tokenizer, *texts):
        self.texts, self.tokenizer, self.asked = list(texts), tokenizer, []

    async def generate(self, prompt_ids, sampling_params, **_):
        if sampling_params.get("extra_args", {}).get("ead", {}).get("position") == -1:
            raise ValueError("ead: position is -1")  # as an engine that knows EAD does
        self.asked.append((list(prompt_ids), dict(sampling_params)))
        sampling_params["max_tokens"] = 1  # verl's server edits what it is given
        tokens = self.tokenizer(self.texts.pop(0))["input_ids"]
        return TokenOutput(token_ids=tokens, log_probs=[-0.5] * len(tokens))


def run(tiny_model, folder, texts=(CALL, ANSWER), **arguments):
    """Return the loop's output, the requests and the texts' lengths in tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    server = Server(tokenizer, *texts)
    turns = {
        "max_user_turns": 3,
        "max_assistant_turns": 3,
        "max_parallel_calls": 1,
        "max_tool_response_length": 200,
        "tool_response_truncate_side": "left",
        "format": "hermes",
    }
    rollout = {
        "prompt_length": 500,
        "response_length": 900,
        "full_determinism": False,
        "multi_turn": turns,
    }
    tool = FunctionTool("look_up", lambda word: f"{word}: no entry", OpenAIFunctionToolSchema(**SCHEMA))
    row = {"global_steps": 7, "index": 3, "session_id": 0}

    async def answer():
        loop = AnnealedToolAgentLoop(
            trainer_config=DictConfigWrap(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})),
            server_manager=server,
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(OmegaConf.create({})),
            tools=ToolListWrap([tool]),
            stream=[2025, "train"],
            record=str(folder),
            **arguments,
        )
        messages = [{"role": "user", "content": "What is tau?"}]
        return await loop.run({"temperature": 1.0, "logprobs": True}, raw_prompt=messages, **row)

    output = asyncio.run(answer())
    return output, server.asked, [len(tokenizer(text)["input_ids"]) for text in texts]


@pytest.mark.parametrize("position", ["response", "turn"])
def test_a_second_turn_goes_on_or_starts_anew(tiny_model, tmp_path, position):
    output, asked, (first, second) = run(tiny_model, tmp_path, schedule=SCHEDULE, position=position)
    assert [request["extra_args"]["ead"] for _, request in asked] == [
        {**SCHEDULE, "step": 7, "position": 0},
        {**SCHEDULE, "step": 7, "position": first if position == "response" else 0},
    ]
    # The tool's answer lies between the turns and counts for neither.
    assert sum(output.response_mask) == first + second < len(output.response_mask)
    assert len(asked[1][0]) > len(asked[0][0]) + first


def test_every_turn_draws_random_numbers_of_its_own(tiny_model, tmp_path):
    seeds = [
        [request["seed"] for _, request in run(tiny_model, tmp_path, schedule=None)[1]] for _ in range(2)
    ]
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == 2


def test_without_a_schedule_no_turn_is_annealed(tiny_model, tmp_path):
    _, asked, _ = run(tiny_model, tmp_path, schedule=None)
    assert len(asked) == 2 and not any("extra_args" in request for _, request in asked)


def test_a_record_tells_the_models_tokens_from_the_tools(tiny_model, tmp_path):
    output, _, (first, second) = run(tiny_model, tmp_path, schedule=SCHEDULE)
    (line,) = map(json.loads, next(tmp_path.iterdir()).read_text().splitlines())
    assert line["mask"] == output.response_mask and sum(line["mask"]) == first + second
    assert len(line["tokens"]) == len(line["mask"])


def test_another_word_for_a_position_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="position must be one of response, turn, found 'token'"):
        run(tiny_model, tmp_path, schedule=SCHEDULE, position="token")


def test_a_switch_is_not_carried_over_to_another_turn(tiny_model, tmp_path):
    switched = {"kind": "switched", "before": SCHEDULE, "after": {"kind": "fixed", "tau": 1.0}, "tokens": [7]}
    with pytest.raises(ValueError, match="position must be turn"):
        run(tiny_model, tmp_path, schedule=switched)
    _, asked, _ = run(tiny_model, tmp_path, schedule=switched, position="turn")
    assert [request["extra_args"]["ead"]["kind"] for _, request in asked] == ["switched"] * 2
