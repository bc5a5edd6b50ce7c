"""EAD inside TRL's GRPOTrainer where transformers samples: real trainings of a tiny model.

The tiny model asks, in its generation_config.json, for settings that would distort the distribution.
"""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig
from trl.trainer import grpo_trainer

from ead.importance import truncated_weights
from ead.integrations.trl import AnnealedGRPOTrainer, check_arguments
from ead.objective import group_advantages, policy_loss
from ead.schedule import Annealed, Fixed, HeldEntropy, Switched, Truncated
from goodness_of_fit import assert_sampled_from, position_p_values
from rules_reference import probabilities

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "trl_train.py"
SCHEDULE = Annealed(tau_max=1.4, tau_min=0.3, d0=8, alpha=4, d_max=100, start=3)
POSITIONS, CAP = 20, 2.0
PROMPTS = Dataset.from_dict({"prompt": ["What is 1 + 1?", "Count to a hundred and then back to one."] * 4})
DISTORTING = {"min_p": 0.2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5, "top_k": 5}


def reward(completion_ids, **_):
    return [float(ids[0] % 2 + ids[-1] / 300) for ids in completion_ids]


def settings(folder, **changes):
    arguments = dict(
        output_dir=str(folder),
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=CAP,
        max_completion_length=POSITIONS,
        num_generations=8,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        max_steps=4,
        learning_rate=1e-3,
        bf16=False,  # the reference is in float32
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    return GRPOConfig(**arguments | changes)


@pytest.fixture(scope="module")
def distorting_model(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distorting")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, **DISTORTING}))
    return folder


@torch.no_grad()
def independent_logits(trainer, batch):
    """Logits of the present policy at the completions of a batch, float64: (rows, positions, vocabulary)."""
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = trainer.model(tokens, attention_mask=mask, position_ids=places).logits
    return logits[:, batch["prompt_ids"].shape[1] - 1 : -1].double()


def logprobs_of(logits, batch, temperatures=1.0):
    scaled = (logits / torch.as_tensor(temperatures).reshape(-1, 1)).log_softmax(-1)
    return scaled.gather(-1, batch["completion_ids"][..., None])[..., 0]


class Watched(AnnealedGRPOTrainer):
    """Keeps each batch that was sampled, with the logits of the policy it was sampled from, and each loss."""

    def __init__(self, *args, **kwargs):
        self.sampled, self.losses = [], []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mode = "training" if self.model.training else "evaluation"
        self.sampled.append((mode, self.state.global_step, batch, independent_logits(self, batch)))
        return batch

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if self.model.training:
            logprobs = logprobs_of(independent_logits(self, inputs), inputs)
            self.losses.append((inputs, logprobs, loss.detach()))
        return loss


@pytest.fixture(scope="module")
def trained(distorting_model, tmp_path_factory):
    """Two batches, each trained on twice, with an evaluation after every step."""
    args = settings(tmp_path_factory.mktemp("run"), num_iterations=2, eval_strategy="steps", eval_steps=1)
    evaluated = PROMPTS.select(range(2))
    trainer = Watched(str(distorting_model), reward, args, PROMPTS, eval_dataset=evaluated, schedule=SCHEDULE)
    trainer.train()
    return trainer


def test_temperatures_follow_position_and_step(trained):
    assert [(mode, step) for mode, step, *_ in trained.sampled] == [
        ("training", 0),
        ("evaluation", 1),
        ("evaluation", 2),
        ("training", 2),
        ("evaluation", 3),
        ("evaluation", 4),
    ]
    for step, batch, logits in [entry[1:] for entry in trained.sampled if entry[0] == "training"]:
        mask = batch["completion_mask"].bool()
        found = batch["sampling_per_token_logps"].double()[mask]
        right, wrong = (
            logprobs_of(logits, batch, SCHEDULE.temperature(torch.arange(mask.shape[1]), at))[mask]
            for at in (step, step + 1)
        )
        torch.testing.assert_close(found, right, atol=1e-4, rtol=0)
        assert (found - wrong).abs().max() > 0.1


def test_weights_are_the_packages(trained):
    batches = [batch for mode, _, batch, _ in trained.sampled if mode == "training"]
    for batch in batches:
        mask = batch["completion_mask"].bool()
        weights = truncated_weights(
            batch["old_per_token_logps"], batch["sampling_per_token_logps"], mask, cap=CAP
        )
        torch.testing.assert_close(batch["importance_sampling_ratio"][mask], weights[mask])
        assert weights[mask].min() < 0.7 and weights.max() == CAP


def test_the_loss_is_the_packages_with_these_weights_also_on_a_batch_used_again_after_an_evaluation(trained):
    assert len(trained.losses) == 4
    for inputs, logprobs, loss in trained.losses:
        arguments = dict(
            logprobs=logprobs,
            old_logprobs=inputs["old_per_token_logps"].double(),
            advantages=inputs["advantages"].double(),
            mask=inputs["completion_mask"],
            clip_low=0.2,
            clip_high=0.2,
        )
        expected, _ = policy_loss(**arguments, weights=inputs["importance_sampling_ratio"].double())
        unweighted, _ = policy_loss(**arguments)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        assert abs(loss.item() - unweighted.item()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "standardise", "options"),
    [
        (
            {
                "loss_type": "grpo",
                "importance_sampling_level": "sequence",
                "epsilon": 3e-4,
                "epsilon_high": 4e-4,
            },
            True,
            {"kind": "gspo", "aggregation": "seq-mean-token-mean", "clip_low": 3e-4, "clip_high": 4e-4},
        ),
        (
            {"loss_type": "dr_grpo", "scale_rewards": "none"},
            False,
            {
                "aggregation": "seq-mean-token-sum-norm",
                "max_tokens": POSITIONS,
                "clip_low": 0.2,
                "clip_high": 0.2,
            },
        ),
    ],
    ids=["gspo", "dr_grpo"],
)
def test_gspo_and_dr_grpo_train_with_ead_and_their_losses_are_the_packages(
    distorting_model, tmp_path, changes, standardise, options
):
    rewarded = []

    def remembered(completion_ids, **_):
        rewarded.append(reward(completion_ids))
        return rewarded[-1]

    args = settings(tmp_path, num_iterations=2, max_steps=2, **changes)
    trainer = Watched(str(distorting_model), remembered, args, PROMPTS, schedule=SCHEDULE)
    trainer.train()
    (rewards,), groups = rewarded, torch.arange(16) // 8
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64), groups, standardise=standardise)
    assert len(trainer.losses) == 2
    for inputs, logprobs, loss in trainer.losses:
        # TRL adds 1e-4 to the standard deviation, ours 1e-6; and it shuffles the rows.
        found = inputs["advantages"].double()
        torch.testing.assert_close(found.sort().values, advantages.sort().values, rtol=2e-3, atol=1e-6)
        expected, statistics = policy_loss(
            logprobs=logprobs,
            old_logprobs=inputs["old_per_token_logps"].double(),
            advantages=found,
            mask=inputs["completion_mask"],
            weights=inputs["importance_sampling_ratio"].double(),
            **options,
        )
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert statistics["ratio_max"] > 1  # the second time the batch is not on policy


def test_samples_follow_the_schedule_at_every_position(distorting_model, tmp_path):
    args = settings(tmp_path, per_device_train_batch_size=800, num_generations=400, max_steps=1)
    trainer = Watched(str(distorting_model), reward, args, PROMPTS, schedule=SCHEDULE)
    trainer.train()
    ((_, _, batch, logits),) = trainer.sampled
    temperatures = SCHEDULE.temperature(torch.arange(POSITIONS))
    smallest = 1.0
    for position in range(POSITIONS):
        rows = batch["completion_mask"][:, position].bool()  # a response that has ended is not continued
        column = (
            logits[rows, position : position + 1],
            batch["completion_ids"][rows, position : position + 1],
        )
        assert_sampled_from(*column, temperatures[[position]], false_alarm=1e-4 / POSITIONS)
        smallest = min(smallest, position_p_values(*column, [1.0])[0])
    assert smallest < 1e-5  # the test would notice plain sampling


def test_log_probabilities_of_a_truncated_sampler_are_those_of_what_is_left(distorting_model, tmp_path):
    schedule = Truncated(Fixed(1.2), min_p=0.1)
    trainer = Watched(
        str(distorting_model), reward, settings(tmp_path, max_steps=1), PROMPTS, schedule=schedule
    )
    trainer.train()
    ((_, _, batch, logits),) = trainer.sampled
    for row, column in batch["completion_mask"].nonzero()[::7].tolist():
        token = int(batch["completion_ids"][row, column])
        expected = probabilities(schedule, logits[row, column], column)[token]
        found = float(batch["sampling_per_token_logps"][row, column])
        assert found == pytest.approx(math.log(expected), abs=1e-3)


def test_evaluation_is_as_without_ead(distorting_model, tmp_path):
    drawn = []
    for trainer_class, arguments in ((grpo_trainer.GRPOTrainer, {}), (Watched, {"schedule": SCHEDULE})):
        kept = []

        def keep(completion_ids, kept=kept, **_):
            kept += completion_ids
            return [0.0] * len(completion_ids)

        trainer = trainer_class(
            str(distorting_model), keep, settings(tmp_path), PROMPTS, eval_dataset=PROMPTS, **arguments
        )
        trainer.evaluate()
        drawn.append(kept)
    assert drawn[0] == drawn[1] and len(drawn[0]) > 8


# Turns

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.get('tool_calls') or [] %}{{ call['function'] | tojson }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATS = Dataset.from_dict(
    {"prompt": [[{"role": "user", "content": text}] for text in PROMPTS["prompt"]]},
)


def look_up(word: str) -> str:
    """Look a word up.

    Args:
        word: the word.
    """
    return f"{word}: no entry"


@pytest.fixture
def tool_trainer(tiny_model, tmp_path, monkeypatch):
    """``tool_trainer(position)`` has trained for a step; every second response calls a tool, whatever it says."""

    def parse(tokenizer, ids, prefix, tools):
        message = {"role": "assistant", "content": tokenizer.decode(ids)}
        if "tool" in tokenizer.decode(prefix) or ids[0] % 2:
            return message
        call = {"name": "look_up", "arguments": {"word": "tau"}}
        return {**message, "tool_calls": [{"type": "function", "function": call}]}

    monkeypatch.setattr(grpo_trainer, "parse_response", parse)

    def run(position):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model, padding_side="left")
        tokenizer.chat_template, tokenizer.response_template = TEMPLATE, {}
        args = settings(tmp_path, max_steps=1, max_completion_length=200, per_device_train_batch_size=32)
        # The first turn ends where the model says so; a smaller vocabulary than it has letters ends it soon.
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(0, 256, 20)]
        trainer = Watched(
            model,
            reward,
            args,
            CHATS,
            processing_class=tokenizer,
            tools=[look_up],
            schedule=SCHEDULE,
            position=position,
        )
        trainer.train()
        ((_, step, batch, logits),) = trainer.sampled
        return step, batch, logits

    return run


@pytest.mark.parametrize("position", ["response", "turn"])
def test_a_second_turn_goes_on_or_starts_anew(tool_trainer, position):
    step, batch, logits = tool_trainer(position)
    drawn = (batch["tool_mask"] * batch["completion_mask"]).bool()
    turn = (torch.diff(drawn.int(), dim=1, prepend=torch.zeros(len(drawn), 1)) == 1).cumsum(-1)
    of_response = drawn.cumsum(-1) - 1
    begins = torch.where(turn == 2, (drawn & (turn == 1)).sum(-1, keepdim=True), 0)
    positions = of_response if position == "response" else of_response - begins
    second = drawn & (turn == 2)
    assert second.any(dim=1).sum() > 4 and (~second.any(dim=1)).sum() > 4
    assert len({row.sum().item() for row in (drawn & (turn == 1))[second.any(dim=1)]}) > 2
    temperatures = torch.as_tensor(SCHEDULE.temperature(positions.clamp(min=0), step))
    scaled = (logits / temperatures[..., None]).log_softmax(-1)
    expected = scaled.gather(-1, batch["completion_ids"][..., None])[..., 0]
    found = batch["sampling_per_token_logps"].double()
    torch.testing.assert_close(found[drawn], expected[drawn], atol=1e-4, rtol=0)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm_importance_sampling_mode": "sequence_mask"}, "sequence_mask.*set token_truncate"),
        ({"temperature": 0.7}, "temperature is 0.7, allowed with EAD: 1"),
        ({"top_p": 0.9}, "top_p is 0.9, allowed with EAD: 1"),
        ({"top_k": 20}, "top_k is 20, allowed with EAD: 0"),
        ({"top_k": None}, "top_k is None, allowed with EAD: 0"),  # generate's default is 50
        ({"generation_kwargs": {"top_k": None}}, "top_k is None, allowed with EAD: 0"),
        ({"min_p": 0.1}, "min_p is 0.1, allowed with EAD: 0"),
        ({"repetition_penalty": 1.1}, "repetition_penalty is 1.1, allowed with EAD: 1"),
        ({"generation_kwargs": {"temperature": 0.6}}, "temperature is 0.6, allowed with EAD: 1"),
        ({"generation_kwargs": {"top_h": 0.5}}, "top_h is 0.5, allowed with EAD: None"),
        ({"use_transformers_continuous_batching": True}, "it takes no logits processor"),
    ],
)
def test_arguments_that_clash_are_refused_before_the_model_is_loaded(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        AnnealedGRPOTrainer("no/model", reward, settings(tmp_path, **changes), PROMPTS, schedule=SCHEDULE)


def test_trls_defaults_are_refused():
    with pytest.raises(ValueError, match="sequence_mask, TRL's default"):
        AnnealedGRPOTrainer("no/model", reward, train_dataset=PROMPTS, schedule=SCHEDULE)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": {"kind": "annealed"}}, TypeError, "schedule must be one of ead.schedule"),
        ({"schedule": HeldEntropy()}, ValueError, "held_entropy follows the recorded entropies"),
        ({"schedule": SCHEDULE, "position": "token"}, ValueError, "response, turn, found 'token'"),
        ({"schedule": SCHEDULE, "rollout_func": print}, ValueError, "rollout_func samples by itself"),
        ({"schedule": Switched(SCHEDULE, Fixed(1.0), [7]), "tools": [look_up]}, ValueError, "must be turn"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        AnnealedGRPOTrainer("no/model", reward, settings(tmp_path), PROMPTS, **arguments)


@pytest.mark.parametrize(
    ("processes", "changes", "position", "refused"),
    [
        (2, {"vllm_mode": "server"}, "response", True),
        (2, {"vllm_mode": "colocate", "vllm_tensor_parallel_size": 2}, "response", True),
        (2, {"vllm_mode": "server"}, "turn", False),
        (2, {"vllm_mode": "colocate"}, "response", False),
        (1, {"vllm_mode": "server"}, "response", False),
    ],
)
def test_turns_at_a_position_are_not_gathered_from_several_processes(
    tmp_path, monkeypatch, processes, changes, position, refused
):
    args = settings(tmp_path, use_vllm=True, **changes)
    monkeypatch.setattr(type(args), "world_size", property(lambda _: processes))
    expected = pytest.raises(ValueError, match="several processes") if refused else nullcontext()
    with expected:
        check_arguments(args, SCHEDULE, position, {"tools": [look_up]})


@pytest.mark.parametrize("none", [None, []])
def test_no_tools_make_no_turns(tmp_path, monkeypatch, none):
    args = settings(tmp_path, use_vllm=True, vllm_mode="server")
    monkeypatch.setattr(type(args), "world_size", property(lambda _: 2))
    check_arguments(args, SCHEDULE, "response", {"tools": none, "environment_factory": None})


def test_without_correction_any_mode_will_do_and_no_weight_is_applied(distorting_model, tmp_path):
    args = settings(
        tmp_path,
        max_steps=1,
        vllm_importance_sampling_correction=False,
        vllm_importance_sampling_mode="sequence_mask",
    )
    trainer = Watched(str(distorting_model), reward, args, PROMPTS, schedule=SCHEDULE)
    trainer.train()
    ((_, _, batch, _),) = trainer.sampled
    assert "importance_sampling_ratio" not in batch


def test_the_example_runs_as_it_stands(distorting_model, tmp_path, run_alone):
    """``distorting_model``: a model as it comes from the hub, with settings of its own."""
    printed = run_alone(EXAMPLE, distorting_model, tmp_path / "run", CUDA_VISIBLE_DEVICES="")
    assert "sampling/importance_sampling_ratio/mean" in printed
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").exists()


# vLLM, by a stand-in for TRL's class that talks to it


class Engine:
    """Notes what TRL hands on to vLLM, refuses as an engine with EAD does, and answers with fixed tokens."""

    logprobs_mode = "processed_logprobs"
    knows_ead = True

    def __init__(self, mode, generation_kwargs, **_):
        self.mode, self.generation_kwargs = mode, generation_kwargs or {}
        self.vllm_client = SimpleNamespace(
            get_server_info=lambda: {"model_config": {"logprobs_mode": self.logprobs_mode}},
            generate=lambda prompts, generation_kwargs: self.refuse(generation_kwargs),
        )
        self.asked, self.refused = [], 0

    def refuse(self, asked):
        ead = (asked.get("extra_args") or asked.get("vllm_xargs") or {}).get("ead")
        if self.knows_ead and ead is not None and "kind" not in (json.loads(ead) if self.served else ead):
            self.refused += 1
            raise Exception("Request failed: 400, ead: schedule kind: found None")

    def sync_weights(self): ...

    def generate(self, prompts, images, num_generations, profiler=None):
        self.refuse(self.generation_kwargs)
        self.asked.append(self.generation_kwargs)
        return (
            prompts,
            [[5, 6, 7 + row] for row in range(len(prompts))],
            [[[-0.5]] * 3 for _ in prompts],
            None,
        )

    @property
    def served(self):
        return self.mode == "server"


@pytest.fixture
def with_engine(tiny_model, tmp_path, monkeypatch):
    def make(mode):
        monkeypatch.setattr(grpo_trainer, "VLLMGeneration", Engine)
        args = settings(
            tmp_path,
            use_vllm=True,
            vllm_mode=mode,
            max_steps=2,
            eval_strategy="steps",
            eval_steps=1,
            generation_kwargs={"stop": ["x"]},
        )
        return Watched(
            str(tiny_model), reward, args, PROMPTS, eval_dataset=PROMPTS.select([0, 1]), schedule=SCHEDULE
        )

    return make


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_requests_to_vllm_carry_the_schedule_in_training_alone(with_engine, mode):
    trainer = with_engine(mode)
    engine = trainer.vllm_generation
    assert engine.asked == [] and engine.refused == 1  # the trainer's question
    trainer.train()
    plain = {"stop": ["x"]}
    expected = []
    for step in (0, 1):
        ead = {**SCHEDULE.to_dict(), "step": step, "position": 0}
        asked = {"vllm_xargs": {"ead": json.dumps(ead)}} if engine.served else {"extra_args": {"ead": ead}}
        expected += [{**plain, **asked}, plain]  # a training batch, an evaluation
    assert engine.asked == expected
    assert engine.generation_kwargs == plain
    batch = trainer.sampled[0][2]
    mask = batch["completion_mask"].bool()
    weights = truncated_weights(
        batch["old_per_token_logps"], batch["sampling_per_token_logps"], mask, cap=CAP
    )
    torch.testing.assert_close(batch["importance_sampling_ratio"][mask], weights[mask])


def test_an_engine_that_ignores_ead_is_refused(with_engine, monkeypatch):
    monkeypatch.setattr(Engine, "knows_ead", False)
    with pytest.raises(ValueError, match="vLLM ignores requests for EAD"):
        with_engine("colocate")


def test_of_several_processes_one_speaks_to_the_server(with_engine, monkeypatch):
    """Its question does not gather the processes' prompts, as TRL's own requests do: the others would wait for ever."""
    monkeypatch.setattr(Accelerator, "is_main_process", property(lambda _: False))
    assert with_engine("server").vllm_generation.refused == 0


def test_a_server_that_returns_raw_logprobs_is_refused(with_engine, monkeypatch):
    monkeypatch.setattr(Engine, "logprobs_mode", "raw_logprobs")
    with pytest.raises(ValueError, match="processed_logprobs"):
        with_engine("server")
