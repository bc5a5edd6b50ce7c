"""The in-process engine: reproducible, resumable to the bit, and its step is the one that the paper states."""

import json

import numpy as np
import pytest
import torch

from ead import objective, seeds
from ead.verifier import Verdict
from reproduction.algorithms import without_label
from reproduction.config import Configuration, Importance, Scale, load_algorithms, load_scale, merge
from reproduction.config.runs import expand
from reproduction.data import read_dataset, write_dataset
from reproduction.engines import inprocess
from reproduction.figures import load_experiments
from reproduction.models.transformer import Transformer
from reproduction.sampling import policy
from reproduction.tasks import countdown
from reproduction.training import records, warmstart
from reproduction.training.adamw import AdamW

SIZE = {"training": {"steps": 4, "prompts": 4, "mini_batch_prompts": 2, "max_new_tokens": 24}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small base model that solves some problems, and a data set."""
    folder = tmp_path_factory.mktemp("world")
    definition = load_scale("mini").models["tiny"].model_copy(update={"steps": 40})
    problems = countdown.generate_problems(3, "train", root_seed=0, test_share=0.2, limit=40)
    model, _ = warmstart.train(definition, countdown.TASK, problems, root_seed=0)
    (folder / "model").mkdir()
    model.save(folder / "model")
    warmstart.write_tokenizer(folder / "model", countdown.VOCABULARY)
    write_dataset(countdown.dataset_rows(problems, "train", "train"), folder / "train.parquet")
    return folder


def run_of(sampler="ead_tis", **overrides):
    values = merge(load_scale("mini").model_dump(mode="python"), merge(SIZE, overrides))
    scale = Scale.model_validate(values)
    runs = expand(Configuration(scale="mini"), scale, load_experiments()["fig04"])
    return next(run for run in runs.values() if run.sampler == sampler)


def train(world, run, state):
    return inprocess.train(
        run, model=world / "model", dataset=world / "train.parquet", state=state, progress=None
    )


def outcome(state):
    """The bits of a training: its metrics and its last weights."""
    weights = (state / "checkpoints" / "step_4" / "model.safetensors").read_bytes()
    return (state / "metrics.jsonl").read_text(), weights


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    state = tmp_path_factory.mktemp("undisturbed")
    result = train(world, run_of(), state)
    assert (result.status, result.steps, result.checkpoints) == ("finished", 4, [2, 4])
    return state


def test_training_repeats_to_the_bit(world, undisturbed, tmp_path):
    train(world, run_of(), tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_interrupted_training_ends_with_the_same_bits(world, undisturbed, tmp_path, steps):
    trainer = inprocess.Trainer(run_of(), world / "model", world / "train.parquet", tmp_path, workers=1)
    for _ in range(steps):
        trainer.advance()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')  # a kill in the middle of a write
    train(world, run_of(), tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("held_entropy", {"annealed_share": 1.0}), ("truncated", {"min_p": 0.1})]
)
def test_a_sampler_that_follows_the_training_or_the_logits_resumes_with_the_same_bits(
    world, tmp_path, kind, wanted
):
    """E3's temperature is a function of the recorded entropies, those before the kill and those after it."""
    definition = run_of().sampler_definition.model_copy(update={"schedule": {"kind": kind, **wanted}})
    run = run_of(training={"checkpoint_every": 2}).model_copy(update={"sampler_definition": definition})
    train(world, run, tmp_path / "whole")

    def start():
        return inprocess.Trainer(run, world / "model", world / "train.parquet", tmp_path / "cut", workers=1)

    for steps in (1, 3):  # with nothing saved, and with a step that is to be made again
        trainer = start()
        for _ in range(steps):
            trainer.advance()
    trainer = start()
    assert trainer.step == len(trainer.entropies) == 2
    train(world, run, tmp_path / "cut")
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    if kind == "held_entropy":
        trainer.step, trainer.entropies = 4, [0.5, 0.4, 0.6]
        assert trainer._schedule_of_step().tau not in (1.0, trainer.schedule.tau)


def test_another_configuration_is_refused(world, undisturbed):
    with pytest.raises(RuntimeError, match="written with run ="):
        train(world, run_of("ead"), undisturbed)


def test_another_seed_gives_another_training(world, undisturbed, tmp_path):
    train(world, run_of().model_copy(update={"seed": 1}), tmp_path)
    assert outcome(tmp_path)[0] != outcome(undisturbed)[0]


def test_the_records_by_prompt_average_to_the_metrics_of_the_step(undisturbed):
    for group, step in zip(
        *(records.read(undisturbed / f"{n}.jsonl") for n in ("groups", "metrics")), strict=True
    ):
        assert len(set(group["problem"])) == 4
        for name in ("reward_mean", "response_length_mean", "truncated_share", "entropy"):
            assert np.mean(group[name]) == pytest.approx(step[name])


def test_samplers_share_their_prompts(world, tmp_path):
    trainers = [
        inprocess.Trainer(run_of(name), world / "model", world / "train.parquet", tmp_path / name, workers=1)
        for name in ("tau0.6", "ead")
    ]
    first, second = ([t._prompts_of_step(step) for step in range(1, 12)] for t in trainers)
    assert first == second
    epoch = np.concatenate(first[:10])
    assert len(set(epoch.tolist())) == 40  # every problem once before any comes again


def test_metrics_are_complete_and_finite(undisturbed):
    rows = list(records.read(undisturbed / "metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert all(np.isfinite(value) for value in row.values())
        assert 0 <= row["reward_mean"] <= 1
        assert row["importance_weight_mean"] < 1 < row["importance_ratio_max"]


def test_fixed_temperature_is_on_policy_as_the_framework_trains_it(world, tmp_path):
    """D15: with ``sampling`` the trainer's logits are divided too, so that every weight is 1."""
    run = run_of("tau0.6")
    # A configuration that corrects for nothing is refused; here its weights are what is looked at.
    corrected = run.sampler_definition.model_copy(update={"importance": Importance(level="token", cap=2.0)})
    run = run.model_copy(update={"sampler_definition": corrected})
    train(world, run, tmp_path)
    for row in records.read(tmp_path / "metrics.jsonl"):
        assert row["importance_ratio_mean"] == pytest.approx(1, abs=1e-6)
        assert row["importance_ratio_max"] == pytest.approx(1, abs=1e-6)
        assert row["entropy"] != row["entropy_at_sampling_temperature"]  # D10


def test_micro_batches_do_not_change_the_gradient(world, tmp_path):
    def gradient(budget):
        run = run_of(training={"micro_batch_tokens": budget})
        folder = tmp_path / str(budget)
        trainer = inprocess.Trainer(run, world / "model", world / "train.parquet", folder, workers=1)
        trainer.step = 1
        chosen = trainer._prompts_of_step(1)
        rollouts = trainer._rollouts(chosen)
        # Rewards are made up: what matters is that they differ within each group.
        rewards = (torch.arange(len(rollouts.tokens)) % 3 == 0).float()
        advantages = objective.group_advantages(rewards, np.repeat(np.arange(4), run.n))
        trainer._mini_batch(list(range(8)), chosen, rollouts, advantages, None)
        return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])

    whole, split = gradient(100_000), gradient(64)
    torch.testing.assert_close(split, whole, atol=1e-6, rtol=1e-4)
    assert whole.abs().max() > 1e-4


def test_log_probabilities_of_the_trainer_are_the_samplers(world, tmp_path):
    trainer = inprocess.Trainer(run_of("ead"), world / "model", world / "train.parquet", tmp_path, workers=1)
    trainer.step = 3
    chosen = trainer._prompts_of_step(3)
    rollouts = trainer._rollouts(chosen)
    prompts = [trainer.prompts[i] for i in chosen for _ in range(trainer.run.n)]
    for temperatures, recorded in (
        (None, rollouts.policy_logprobs),
        (
            torch.from_numpy(trainer.schedule.temperature(np.arange(rollouts.tokens.shape[1]), 3)),
            rollouts.behaviour_logprobs,
        ),
    ):
        with torch.no_grad():
            found = policy.response_logprobs(
                trainer.model, prompts, rollouts.tokens, rollouts.mask, temperatures
            )
        torch.testing.assert_close(found, recorded, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tempered", [False, True])
def test_log_probabilities_in_pieces_are_the_same_with_the_same_gradient(world, monkeypatch, tempered):
    model = Transformer.load(world / "model")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, model.shape.hidden, generator=generator, requires_grad=True)
    tokens = torch.randint(model.shape.vocabulary, (50,), generator=generator)
    temperatures = torch.linspace(0.5, 1.2, 50) if tempered else None

    def found():
        logprobs = policy.token_logprobs(model, hidden, tokens, temperatures)
        (logprobs * torch.arange(50)).sum().backward()
        gradients = [hidden.grad, model.embedding.grad]
        hidden.grad = model.embedding.grad = None
        return [logprobs, *gradients]

    whole = found()
    monkeypatch.setattr(policy, "MAX_LOGITS", 7 * model.shape.vocabulary)
    torch.testing.assert_close(found(), whole)
    assert all(value.abs().max() > 0.1 for value in whole)


@pytest.mark.parametrize("where", ["weights", "gradient"])
def test_a_policy_that_diverges_ends_the_run_as_a_result(world, tmp_path, monkeypatch, where):
    """Step 3 goes wrong: what was saved before it stays, and the run says how it ended."""
    advance = inprocess.Trainer.advance

    def poisoned(trainer):
        if trainer.step == 2 and where == "weights":
            with torch.no_grad():
                trainer.model.norm.fill_(float("nan"))
        if trainer.step == 2 and where == "gradient":
            trainer.model.norm.register_hook(lambda gradient: gradient * float("inf"))
        return advance(trainer)

    monkeypatch.setattr(inprocess.Trainer, "advance", poisoned)
    result = train(world, run_of("tau1.0"), tmp_path)
    assert (result.status, result.steps, result.checkpoints) == ("diverged", 3, [2])
    last = list(records.read(tmp_path / "metrics.jsonl"))[-1]
    assert last["step"] == 3 and not np.isfinite(last["gradient_norm"])


@pytest.mark.parametrize("name", [name for name in load_algorithms() if name != "dapo"])
def test_the_other_algorithms_of_the_table_train(world, tmp_path, monkeypatch, name):
    """With a reward that so weak a model earns now and then: without one there would be no gradient to see."""
    monkeypatch.setattr(inprocess.Grader, "grade", rewarded_by_length)
    entry = load_scale("mini").algorithms[name]
    run = run_of().model_copy(update={"algorithm": name, "algorithm_definition": without_label(entry)})
    assert train(world, run, tmp_path).status == "finished"
    rows = list(records.read(tmp_path / "metrics.jsonl"))
    assert max(row["gradient_norm"] for row in rows) > 0
    if name == "gspo":  # its range is narrow: the second mini-batch of a step is no longer on policy
        assert max(row["clip_low_share"] + row["clip_high_share"] for row in rows) > 0


def rewarded_by_length(grader, problems, responses, finished):
    return [
        Verdict(correct=len(response.split()) % 2 == 0, status="ok", extracted=None, canonical=None)
        for response in responses
    ]


def test_a_penalty_to_the_reference_policy_trains(world, tmp_path):
    run = run_of(algorithms={"dapo": {"kl_coefficient": 0.1}})
    assert train(world, run, tmp_path).status == "finished"


def test_too_few_problems_are_named(world, tmp_path):
    run = run_of(training={"prompts": 64, "mini_batch_prompts": 64})
    with pytest.raises(ValueError, match="40 of 40 prompts can be used, 64 are asked for"):
        train(world, run, tmp_path)


def test_a_prompt_that_leaves_no_room_for_a_response_is_left_out_and_counted(world, tmp_path):
    """At the step that drew it the training would have failed, and again at each retry."""
    rows = read_dataset(world / "train.parquet").to_dict("records")
    words = rows[7]["prompt"][-1]["content"]
    rows[7]["prompt"][-1]["content"] = " ".join([words] * (512 // len(words.split())))
    write_dataset(rows, tmp_path / "train.parquet")
    trainer = inprocess.Trainer(run_of(), world / "model", tmp_path / "train.parquet", tmp_path, workers=1)
    assert list(trainer.measured["left_out"]) == [rows[7]["extra_info"]["id"]]
    assert len(trainer.prompts) == len(trainer.problems) == len(rows) - 1
    assert (
        max(map(len, trainer.prompts)) <= trainer.model.shape.positions - SIZE["training"]["max_new_tokens"]
    )


def test_micro_batches_hold_every_row_once_within_the_budget():
    widths = seeds.generator(0, "widths").integers(5, 100, size=50).tolist()
    batches = list(policy.micro_batches(widths, 300))
    assert sorted(row for batch in batches for row in batch) == list(range(50))
    assert all(len(batch) * max(widths[row] for row in batch) <= 300 for batch in batches)
    assert list(policy.micro_batches([500], 300)) == [[0]]


def test_records_survive_json(undisturbed):
    for line in (undisturbed / "metrics.jsonl").read_text().splitlines():
        assert json.dumps(json.loads(line)) == line


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_optimizer_takes_the_steps_of_torchs_adamw(weight_decay):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=generator) for size in ((5, 3), (7,), (2,))]
    ours, theirs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    settings = {"betas": (0.9, 0.99), "weight_decay": weight_decay}
    optimizer, reference = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for step in range(5):
        learning_rate = 1e-3 * (step + 1)
        reference.param_groups[0]["lr"] = learning_rate
        for mine, torchs in zip(ours[:2], theirs[:2], strict=True):  # the third never has a gradient
            torchs.grad = torch.randn(mine.shape, generator=generator)
            mine.grad = torchs.grad.clone()
        optimizer.step(learning_rate)
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
    assert not torch.equal(ours[0], start[0]) and torch.equal(ours[2], start[2])
    assert all(map(torch.equal, ours, theirs))
