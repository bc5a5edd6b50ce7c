"""The real verl, Ray and vLLM on a CPU, once: `snakemake verl_smoke`, and what its dumps say.

EAD with TIS for two steps, an interruption, a resumed third step, an evaluation with vLLM. Everything below is
recomputed from the dumped tokens and the checkpoints by a forward pass in transformers, which knows nothing of
verl, vLLM or EAD. Set EAD_VERL_SMOKE to the folder of an earlier run to look at it again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

pytest.importorskip("verl")

from conftest import REPOSITORY, Reference
from ead.schedule import from_config
from reproduction.cluster import processes
from reproduction.config import WORKFLOW, load_configuration, load_scale, merge, read_yaml
from reproduction.config.runs import resolve
from reproduction.engines import inprocess, prompts_of_step
from reproduction.engines.verl.configuration import MARK, mark
from reproduction.models.transformer import Transformer
from reproduction.rehearsal import checks
from reproduction.rehearsal.checks import log_softmax_at
from reproduction.sampling.generate import Rollouts

STEPS = (1, 2, 3)
# The mini scale's own base model solves nothing, and equal rewards have no gradient to compare.
OVERRIDES = {
    "models": {"tiny": {"hidden_size": 64, "heads": 2, "mlp_size": 192, "steps": 400, "warmup_steps": 30}}
}
CPU_PYTHON = Path(os.environ.get("EAD_CPU_PYTHON", REPOSITORY / ".venv" / "bin" / "python"))
TOLERANCE = checks.FLOAT32


@pytest.fixture(scope="session")
def run():
    """The resolved configuration, as the rule resolves it."""
    scale = load_scale("mini", merge(OVERRIDES, read_yaml(WORKFLOW / "verl_smoke.yaml")))
    return resolve(
        load_configuration({"scale": "mini"}),
        scale,
        role="llama_1b",
        algorithm="dapo",
        sampler="ead_tis",
        rollouts=None,
        seed=0,
    )


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """Working directory of the finished target."""
    if "EAD_VERL_SMOKE" in os.environ:
        return Path(os.environ["EAD_VERL_SMOKE"])
    if not CPU_PYTHON.exists():
        pytest.fail(f"{CPU_PYTHON}: no such interpreter; `make test-seams` builds it, or set EAD_CPU_PYTHON")
    folder = tmp_path_factory.mktemp("verl_smoke")
    choices = {"scale": "mini", "overrides": OVERRIDES, "interpreters": {"verl_cpu": sys.executable}}
    (folder / "config.yaml").write_text(yaml.safe_dump(choices))
    command = [
        *(str(CPU_PYTHON), "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")),
        *("--directory", str(folder), "--cores", "2", "verl_smoke"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        logs = [path.read_text()[-6000:] for path in (folder / "results").rglob("verl*.log")]
        pytest.fail("\n".join([done.stderr[-3000:], *logs]))
    return folder


@pytest.fixture(scope="session")
def results(smoke) -> Path:
    return smoke / "results" / "mini"


@pytest.fixture(scope="session")
def report(results) -> dict:
    return json.loads((results / "verl_smoke" / "report.json").read_text())


@pytest.fixture(scope="session")
def state(results, run) -> Path:
    return results / "verl_smoke" / "state" / run.hash


@pytest.fixture(scope="session")
def training(run, state, results) -> checks.Trained:
    """The records of the run: the checks that need no more are those of a rehearsal."""
    return checks.Trained(run, state, results / "models" / "tiny")


@pytest.fixture(scope="session")
def steps(training) -> dict[int, pd.DataFrame]:
    """Responses of each training step, with what verl's trainer computed about them."""
    return training.steps


@pytest.fixture(scope="session")
def references(results, state) -> dict[int, Reference]:
    """The policy after each step; 0 is the model that training started from."""
    folders = {0: results / "models" / "tiny"} | {s: state / "checkpoints" / f"step_{s}" for s in STEPS}
    return {step: Reference(folder) for step, folder in folders.items()}


def logits_of(reference, frame) -> list[np.ndarray]:
    """Logits [T, V] at every token of every response of ``frame``, by transformers."""
    return [reference.logits(list(row.prompt_tokens), [list(row.tokens)])[0] for row in frame.itertuples()]


def test_the_run_was_interrupted_resumed_and_finished(report, results, run, state):
    """Between verl's note of the checkpoint to resume from and the publishing of that checkpoint."""
    assert report["interrupted"] == {"saved": 2, "published": ["step_1"]}
    assert (report["status"], report["steps"]) == ("finished", 3)
    assert [row["step"] for row in report["metrics"]] == [1, 2, 3]
    log = (state / "verl" / "verl.log").read_text()
    assert "Resuming from" in log and "setting global step to 2" in log
    folder = results / "verl_smoke" / "runs" / run.name
    assert len(pd.read_parquet(folder / "metrics.parquet")) == 3
    assert len(pd.read_parquet(folder / "groups.parquet")) == 3 * run.training.prompts
    assert json.loads((folder / "manifest.json").read_text())["checkpoints"] == [1, 2, 3]
    assert not (state / "verl" / "checkpoints").exists()


def test_nothing_is_left_behind(report, state):
    assert report["shared_memory"]["seen"] > 0
    assert report["shared_memory"]["left"] == {"interrupted": [], "finished": []}
    assert processes.marked(MARK, mark(state.resolve())) == []


def test_what_a_rehearsal_asks_of_the_records(training, results):
    rows = pd.read_parquet(results / "data" / "countdown_train.parquet")
    print(checks.every_step_once(training))
    print(checks.prompts_in_order(training, [info["id"] for info in rows.extra_info]))
    print(checks.responses_of_their_own(training))
    print(checks.sampler_and_trainer_agree(training))
    print(checks.importance_weights(training))
    print(checks.learns(training))


def test_trainer_logprobs_are_those_of_the_policy_before_the_step(steps, training, references):
    drawn = training.samples("rollouts").set_index(["step", "prompt", "sibling"])
    for step, frame in steps.items():
        frame = frame.assign(
            prompt_tokens=[
                drawn.loc[(step, r.prompt, r.sibling), "prompt_tokens"] for r in frame.itertuples()
            ]
        )
        for row, logits in zip(frame.itertuples(), logits_of(references[step - 1], frame), strict=True):
            expected = log_softmax_at(logits, row.tokens, np.ones(len(row.tokens)))
            assert np.abs(expected - row.policy_logprobs).max() < TOLERANCE


def test_the_recorded_importance_weights_are_those_of_the_dumps(report, steps):
    for row in report["metrics"]:
        ratios = np.concatenate(
            [np.exp(r.policy_logprobs - r.behaviour_logprobs) for r in steps[row["step"]].itertuples()]
        )
        assert row["importance_weight_mean"] == pytest.approx(np.minimum(ratios, 2.0).mean(), abs=1e-5)
        assert row["importance_effective_sample_share"] < 0.999


@pytest.mark.parametrize("step", STEPS)
def test_temperatures_recomputed_from_the_dumps_are_the_schedules(step, training, references, run):
    """At each position the schedule's temperature explains the log-probabilities that vLLM returned, and no other.

    One unlikely token may have the same log-probability at two temperatures, so a position with few responses left
    may not tell them apart: the schedule's must be among those that explain it, and alone at many positions.
    """
    drawn = training.samples("rollouts").query("step == @step")
    schedule = from_config(run.sampler_definition.schedule)
    logits = logits_of(references[step - 1], drawn)
    longest = max(map(len, drawn["tokens"]))
    expected = schedule.temperature(np.arange(longest), step)
    assert np.ptp(expected) > 0.7  # the schedule moves, so a wrong step or position shows
    alone, worst = 0, 0.0
    for position in range(longest):
        rows = [
            (z[position], tokens[position], logprobs[position])
            for z, tokens, logprobs in zip(logits, drawn["tokens"], drawn["logprobs"], strict=True)
            if len(tokens) > position
        ]
        stacked, chosen, observed = (np.array(column) for column in zip(*rows, strict=True))

        def error(temperature, stacked=stacked, chosen=chosen, observed=observed):
            return np.abs(log_softmax_at(stacked, chosen, np.full(len(chosen), temperature)) - observed).max()

        worst = max(worst, error(expected[position]))
        others = np.arange(0.05, 3.0, 0.005)
        others = others[np.abs(others - expected[position]) > 0.005]
        alone += min(map(error, others)) > TOLERANCE
    print(
        f"step {step}: {longest} positions, largest error {worst:.1e}, {alone} explained by no other temperature"
    )
    assert worst < TOLERANCE
    assert alone > longest / 3


def test_validation_is_not_annealed(training, references, run):
    drawn = training.samples("validation")
    # The interruption may have come before the validation of its step.
    assert {1, 3} <= set(drawn["step"]) <= set(STEPS)
    assert "extra_args" not in drawn or drawn["extra_args"].isna().all()
    for step in sorted(set(drawn["step"])):
        frame = drawn.query("step == @step")
        worst = {"one": 0.0, "schedule": 0.0}
        annealed = from_config(run.sampler_definition.schedule)
        for row, logits in zip(frame.itertuples(), logits_of(references[step], frame), strict=True):
            positions = np.arange(len(row.tokens))
            for name, taus in (
                ("one", np.ones(len(positions))),
                ("schedule", annealed.temperature(positions, step)),
            ):
                error = np.abs(log_softmax_at(logits, row.tokens, taus) - row.logprobs).max()
                worst[name] = max(worst[name], error)
        print(f"step {step}: validation against tau = 1 {worst['one']:.1e}, annealed {worst['schedule']:.1e}")
        assert worst["one"] < TOLERANCE < worst["schedule"]


@pytest.mark.parametrize("step", STEPS)
def test_one_step_is_the_same_in_both_engines(step, steps, state, run, results, report, tmp_path):
    """The in-process engine's update on verl's rollouts and rewards, from the same weights."""
    before = results / "models" / "tiny" if step == 1 else state / "checkpoints" / f"step_{step - 1}"
    frame = steps[step]
    trainer = inprocess.Trainer(
        run, results / "models" / "tiny", results / "data" / "countdown_train.parquet", tmp_path, 1
    )
    trainer.model.load_state_dict(Transformer.load(before).state_dict())
    trainer.step = step

    def padded(column, dtype):
        rows = [torch.tensor(np.asarray(row), dtype=dtype) for row in frame[column]]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    lengths = torch.tensor([len(row) for row in frame["tokens"]])
    rollouts = Rollouts(
        tokens=padded("tokens", torch.long),
        mask=torch.arange(int(lengths.max())) < lengths[:, None],
        finished=torch.tensor(frame["finished"].to_numpy()),
        behaviour_logprobs=padded("behaviour_logprobs", torch.float32),
        policy_logprobs=padded("policy_logprobs", torch.float32),
    )
    chosen = prompts_of_step(run, step, len(trainer.problems))
    rewards = torch.tensor(frame["reward"].to_numpy()).float()
    ours = trainer._update(chosen, rollouts, rewards)
    theirs = report["metrics"][step - 1]
    print(
        f"step {step}: loss {ours['loss']:.7f} and {theirs['loss']:.7f}, "
        f"gradient norm {ours['gradient_norm']:.6f} and {theirs['gradient_norm']:.6f}"
    )
    assert theirs["gradient_norm"] > 0.01
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=TOLERANCE)
    assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=TOLERANCE, abs=TOLERANCE)
    assert ours["importance_weight_mean"] == pytest.approx(theirs["importance_weight_mean"], abs=1e-5)
    assert rewards.mean().item() == pytest.approx(theirs["reward_mean"])


def test_the_evaluation_has_the_contract_of_the_in_process_one(report, results, run):
    from reproduction.evaluation.responses import SAMPLE_COLUMNS
    from reproduction.evaluation.samples import read_samples

    frame = read_samples(results / "verl_smoke" / "evaluations" / run.name / "manifest.json")
    assert list(frame.columns) == [*SAMPLE_COLUMNS, "step", "decoder"]
    drawn = set(zip(frame["step"], frame["decoder"], strict=True))
    assert drawn == {(step, name) for step in STEPS for name in ("tau1.0", "ead")}
    assert (frame.groupby(["step", "decoder", "problem"]).size() == 4).all()
    assert frame["tokens"].max() <= run.training.max_new_tokens
    assert (frame.loc[~frame["finished"], "tokens"] == run.training.max_new_tokens).all()
