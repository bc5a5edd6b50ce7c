"""The data set and the reward as verl's processes use them, without an engine."""

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("verl")

from safetensors.torch import save_file
from tensordict import TensorDict
from verl.trainer.ppo import core_algos
from verl.workers.config import FSDPActorConfig, PolicyLossConfig

from reproduction.algorithms import ALGORITHMS
from reproduction.cluster.verl_environment import environment as variables
from reproduction.config import WORKFLOW, Verl, load_configuration, load_scale, merge, read_yaml
from reproduction.config.runs import resolve
from reproduction.data import make_row, write_dataset
from reproduction.engines import prompts_of_step
from reproduction.engines.verl import workers
from reproduction.engines.verl.configuration import MARK, ROLLOUT, VALIDATION
from reproduction.engines.verl.workers import Problems, PublishCheckpoint, VerifierReward
from reproduction.models.tokenizer import Tokenizer
from reproduction.tasks import countdown
from reproduction.training import contract, warmstart
from verl import DataProto


@pytest.fixture(scope="module")
def run():
    scale = load_scale("mini", merge({}, read_yaml(WORKFLOW / "verl_smoke.yaml")))
    user = load_configuration({"scale": "mini"})
    return resolve(user, scale, role="llama_1b", algorithm="dapo", sampler="ead_tis", rollouts=None, seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("world")
    (folder / "model").mkdir()
    warmstart.write_tokenizer(folder / "model", countdown.VOCABULARY)
    (folder / "model" / "config.json").write_text('{"eos_token_id": 1}')
    problems = countdown.generate_problems(3, "train", root_seed=0, test_share=0.2, limit=40)
    rows = list(countdown.dataset_rows(problems, "train", "train"))
    write_dataset(rows, folder / "train.parquet")
    write_dataset(rows[:5], folder / "validation.parquet")
    data = SimpleNamespace(
        train_files=str(folder / "train.parquet"),
        val_files=str(folder / "validation.parquet"),
        ead_run=run.to_json(),
    )
    return SimpleNamespace(folder=folder, problems=problems, rows=rows, data=data)


def test_rows_come_in_the_order_of_the_run_and_name_their_agent_loop(world, run):
    training = Problems(world.data.train_files, None, world.data)
    validation = Problems([world.data.val_files], None, world.data)
    assert len(training) == run.training.steps * run.training.prompts and len(validation) == 5
    drawn = [training[item] for item in range(len(training))]
    for step in range(1, run.training.steps + 1):
        first = (step - 1) * run.training.prompts
        expected = [world.rows[i]["extra_info"]["id"] for i in prompts_of_step(run, step, len(world.rows))]
        of_step = drawn[first : first + run.training.prompts]
        assert [row["extra_info"]["id"] for row in of_step] == expected
    assert {row["agent_name"] for row in drawn} == {ROLLOUT}
    assert {validation[item]["agent_name"] for item in range(5)} == {VALIDATION}


def configuration(world):
    """The part of verl's configuration that the reward reads."""
    model = SimpleNamespace(path=str(world.folder / "model"))
    return SimpleNamespace(data=world.data, actor_rollout_ref=SimpleNamespace(model=model))


def reward(world, row, tokens):
    """What verl's reward loop is told about one response."""
    tokenizer = Tokenizer(world.folder / "model")
    decoder = SimpleNamespace(decode=lambda ids, skip_special_tokens: tokenizer.decode([ids])[0])
    names = {key: np.array([value], dtype=object) for key, value in row.items()}
    data = DataProto(
        batch=TensorDict(
            {
                "responses": torch.tensor([tokens]),
                "attention_mask": torch.ones(1, 4 + len(tokens), dtype=torch.long),
            },
            batch_size=1,
        ),
        non_tensor_batch=names,
    )

    async def graded():
        manager = VerifierReward(configuration(world), decoder, None, reward_router_address=None)
        manager.loop = asyncio.get_running_loop()
        with manager.grader:
            return await manager.run_single(data)

    return asyncio.run(graded())


def test_a_reward_is_the_verdict_of_the_projects_verifier(world, run):
    row = Problems(world.data.train_files, None, world.data)[0]
    row.pop("dummy_tensor")
    problem = next(p for p in world.problems if p.prompt == row["raw_prompt"][0]["content"])
    tokenizer = Tokenizer(world.folder / "model")
    demonstrator = countdown.Demonstrator(0.999, 0.5, 1)
    responses = [demonstrator.respond(problem, np.random.default_rng(seed)) for seed in range(5)]
    text = next(r for r in responses if countdown.grade(r, problem.numbers, problem.target).correct)
    tokens = [*tokenizer.encode(text), 1]
    right = reward(world, row, tokens)
    assert right["reward_score"] == 1.0 and right["reward_extra_info"]["finished"]
    wrong = reward(world, row, [*tokens[:-2], 1])
    assert wrong["reward_score"] == 0.0
    limit = run.training.max_new_tokens
    cut = reward(world, row, (tokens[:-1] * limit)[:limit])
    assert cut["reward_score"] == 0.0 and not cut["reward_extra_info"]["finished"]


@pytest.mark.parametrize(("response", "expected"), [(r"\boxed{12}", True), (r"\boxed{13}", False)])
def test_real_problems_are_graded_by_the_answer_that_is_shown(world, response, expected):
    row = make_row(
        data_source="gsm8k",
        prompt=[{"role": "user", "content": "?"}],
        ground_truth="12",
        id="a",
        index=0,
        split="train",
    )
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: response)
    manager = VerifierReward(configuration(world), tokenizer, None)
    with manager.grader:
        assert manager._grade(row, [5], True).correct == expected


def test_states_between_checkpoints_are_not_published(world, run, tmp_path):
    """verl saves every `resume_every` steps; the run's checkpoints are what the workflow evaluates."""
    step = run.training.steps
    saved = tmp_path / "saved" / "actor" / "huggingface"
    saved.mkdir(parents=True)
    save_file({"weight": torch.ones(2)}, saved / "model.safetensors")
    config = SimpleNamespace(
        ead=SimpleNamespace(state=str(tmp_path), checkpoint_dtype="float32"),
        actor_rollout_ref=configuration(world).actor_rollout_ref,
    )
    callback = PublishCheckpoint(config)
    # A run with one checkpoint, at its end.
    training = run.training.model_copy(update={"checkpoint_every": step})
    trainer = SimpleNamespace(run=run.model_copy(update={"training": training}))
    for number in range(1, step + 1):
        callback.on_save(trainer, number, str(tmp_path / "saved"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step_{step}"]


ENDS = """
import reproduction.cluster.verl_cpu
import reproduction.engines.verl.workers
from types import SimpleNamespace
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.vllm_rollout import ServerAdapter
from reproduction.engines.verl import sockets
assert get_rollout_class("vllm") is sockets.Rollout and issubclass(sockets.Rollout, ServerAdapter)
# vLLM makes its workers of its own class and this one; what the extension reads of them is given here.
worker = object.__new__(sockets.Worker)
worker.local_rank, worker.model_runner = 0, SimpleNamespace(vllm_config=None)
print(super(sockets.Worker, worker)._get_zmq_handle(), worker._get_zmq_handle())
"""


def test_verl_and_vllm_find_their_ends_of_the_socket():
    """In a process of its own, as verl starts them: the platform comes before verl."""
    environment = {**os.environ, **variables(Verl(device="cpu")), MARK: "0123456789abcdef"}
    done = subprocess.run([sys.executable, "-c", ENDS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs, ours = done.stdout.split()[-2:]
    assert theirs == "ipc:///tmp/rl-colocate-zmq-0-replica-0-rank-0.sock"
    assert (
        ours == f"ipc:///tmp/ead-{os.getuid()}/verl-0123456789abcdef/rl-colocate-zmq-0-replica-0-rank-0.sock"
    )


def test_a_step_records_what_the_contract_says(run):
    """Else a column that a claim reads would be missing when the training is over."""
    rows, tokens = 2 * run.n, 5
    mask = torch.arange(tokens) < torch.tensor([5, 3, 1, 4] * (rows // 4))[:, None]
    logprobs = torch.log(torch.full((rows, tokens), 0.5))
    rewards = torch.zeros(rows, tokens)
    rewards[0, 0] = 1.0
    frame = pd.DataFrame(
        {
            "problem": np.repeat(["a", "b"], run.n),
            "place": np.repeat([0, 1], run.n),
            "status": ["ok"] * (rows - 1) + ["no_answer"],
            "finished": [True] * (rows - 1) + [False],
        }
    )
    tensors = {"response_mask": mask, "rm_scores": rewards, "entropy": torch.full((rows, tokens), 0.7)}
    tensors |= {"old_log_probs": logprobs, "rollout_log_probs": logprobs - 0.1}
    rollouts = workers._Rollouts(run, 3, frame, tensors)
    reported = ("pg_loss", "grad_norm", "lr", "ppo_kl", "pg_clipfrac", "pg_clipfrac_lower", "kl_loss")
    update = workers._update_metrics({f"actor/{name}": 0.25 for name in reported}, run)
    values = {"step": 3, **rollouts.metrics(), **update}
    contract.check("verl", values)
    assert values["reward_mean"] == pytest.approx(1 / rows)
    assert (values["solved_by_any"], values["equal_reward_groups"]) == (0.5, 0.5)
    assert values["truncated_share"] == values["verdicts_no_answer"] == pytest.approx(1 / rows)
    assert values["entropy"] == pytest.approx(0.7)
    groups = rollouts.groups()
    assert set(groups) == {"step", "problem", *contract.BY_PROMPT} and groups["problem"] == ["a", "b"]


@pytest.mark.parametrize("name", [name for name, kind in ALGORITHMS.items() if kind.trains_in_verl])
def test_a_step_can_be_recorded_from_what_verls_loss_reports(name, run):
    """A metric that an algorithm names and verl's loss lacks would end the training at its first step."""
    algorithm = ALGORITHMS[name](loss=name)
    told = algorithm.verl()["actor_rollout_ref"]["actor"]["policy_loss"]
    config = FSDPActorConfig(
        strategy="fsdp", rollout_n=4, ppo_micro_batch_size_per_gpu=4, policy_loss=PolicyLossConfig(**told)
    )
    ones = torch.ones(4, 8)
    _, reported = core_algos.get_policy_loss_fn(told["loss_mode"])(
        -ones, -ones, ones, ones, "token-mean", config
    )
    values = {f"actor/{each}": 0.25 for each in ("pg_loss", "grad_norm", "lr", "kl_loss")} | reported
    found = workers._update_metrics(values, run.model_copy(update={"algorithm_definition": algorithm}))
    assert {"dual_clip_share", *contract.OWN["verl"]} == algorithm.verl_shares.keys() <= found.keys()
    assert {share for share in values if "clipfrac" in share} >= {
        share for share in algorithm.verl_shares.values() if isinstance(share, str)
    }
