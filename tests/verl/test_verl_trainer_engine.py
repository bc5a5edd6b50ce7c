"""The trainer's engine inside verl: fused log-probabilities against verl's plain ones, tied embeddings and untied."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")

from reproduction.engines.verl.workers import rows_by_length

TOLERANCE = 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_fused_log_probabilities_are_the_plain_ones(tiny_model, tmp_path, tied):
    """Untied, verl's own engine fails: FSDP2 keeps the output layer's weight in shards (7B and 8B)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    shape = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=tied)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script, output = Path(__file__).with_name("engine_parity.py"), tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, str(script), str(folder), port, str(output)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    print(found)
    assert found["engine"] == "Engine"
    assert max(found["logprobs"], found["entropy"]) < TOLERANCE
    assert found["gradients"] < TOLERANCE * found["largest_gradient"]
    assert found["norms"][0] == pytest.approx(found["norms"][1], rel=TOLERANCE)


def test_rows_are_sorted_inside_their_mini_batch_and_stay_in_it():
    lengths = [9, 3, 7, 1, 2, 8, 6, 4]
    order = rows_by_length(lengths, 4)
    assert order == [3, 1, 2, 0, 4, 7, 6, 5]
    assert rows_by_length(lengths, 8) == sorted(range(8), key=lengths.__getitem__)
