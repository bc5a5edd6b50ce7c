"""examples/verl_train.py: the installed verl composes what it asks for and reads the rows and loops it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset

from ead.schedule import Annealed, from_config
from reproduction.data import make_row, write_dataset

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "verl_train.py"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The folder that the example writes, and the configuration with which verl would start."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("train", "validation"):
        rows = [
            make_row(
                data_source="toy",
                prompt=[{"role": "user", "content": f"What is {n} + 1?"}],
                ground_truth=str(n + 1),
                id=f"toy/{n}",
                index=n,
                split="train",
                ability="math",
                details={},
            )
            for n in range(3)
        ]
        write_dataset(rows, folder / f"{name}.parquet")
    # Hydra's --cfg prints the composed configuration instead of training; an unknown key would be an error.
    words = ["out", "train.parquet", "validation.parquet", "trainer.total_epochs=2", "--cfg", "job"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *words],
        cwd=folder,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    text = done.stdout[done.stdout.index("actor_rollout_ref:") :]
    return folder / "out", OmegaConf.create(text)


def test_verl_samples_with_ead_and_corrects_for_it(asked):
    folder, config = asked
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.temperature, rollout.calculate_log_probs) == (1.0, True)
    assert rollout.logprobs_mode == "processed_logprobs"
    correction = config.algorithm.rollout_correction
    assert (correction.rollout_is, correction.rollout_is_threshold) == ("token", 2.0)
    assert correction.bypass_mode is False
    assert config.trainer.total_epochs == 2  # the user's own overrides are the last
    loops = OmegaConf.load(rollout.agent.agent_loop_config_path)
    schedules = {loop.name: loop.schedule for loop in loops}
    assert from_config(OmegaConf.to_container(schedules["ead_rollout"])) == Annealed()
    assert schedules["ead_validation"] is None
    assert json.loads((folder / "agent_loops.yaml").read_text()) == OmegaConf.to_container(loops)


@pytest.mark.parametrize(("key", "name"), [("train_files", "ead_rollout"), ("val_files", "ead_validation")])
def test_verls_own_data_set_hands_each_row_its_agent_loop(asked, tiny_model, key, name):
    _, config = asked
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = RLHFDataset([config.data[key]], tokenizer, config.data)
    assert len(rows) == 3
    assert [row["agent_name"] for row in (rows[0], rows[2])] == [name, name]
    assert rows[2]["index"] == 2
