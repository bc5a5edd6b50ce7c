"""What MLflow shows beside a training's records, from hand-made evaluations."""

import numpy as np
import pytest

from evaluations import write_evaluation
from reproduction.files import write_json, write_text
from reproduction.tracking import DataSet, contents

CARD = {"source": "generated", "rows": 40, "sha256": "ab" * 32}
REAL_CARD = {"source": {"origin": "openai/gsm8k"}, "rows": {"kept": 50}, "content_sha256": "cd" * 32}


def test_an_evaluation_is_shown_by_step_and_decoder_under_the_figures_names(tmp_path):
    half, none = np.array([[True, True], [True, False]]), np.zeros((2, 2), bool)
    manifest = write_evaluation(tmp_path, {2: none, 4: half}, ["tau1.0", "greedy"])
    (first, at_start), (last, at_end) = contents.evaluation_metrics(manifest)
    assert (first, last) == (2, 4)
    assert set(at_start) == set(at_end) and set(at_start.values()) == {0.0}
    expected = {"Pass@1": 0.75, "Pass@2": 1.0, "Worst@2": 0.5}
    assert at_end == {
        f"decoder {decoder}/{key}": value
        for decoder in ("tau1.0", "greedy")
        for key, value in expected.items()
    }


def test_data_sets_come_with_the_checksums_of_their_cards(tmp_path):
    write_text(tmp_path / "run/config.yaml", "training: {dataset: countdown}")
    write_json(tmp_path / "countdown.card.json", CARD)
    write_json(tmp_path / "gsm8k.card.json", REAL_CARD)
    manifest = write_evaluation(tmp_path, {1: np.ones((1, 1), bool)}, request={"dataset": "gsm8k"})
    files = {name: tmp_path / f"{name}.parquet" for name in ("countdown", "gsm8k")}
    assert contents.datasets_of(tmp_path / "run", manifest, files) == [
        DataSet("countdown", "training", "generated", 40, "ab" * 32),
        DataSet("gsm8k", "evaluation", "openai/gsm8k", 50, "cd" * 32),
    ]
    with pytest.raises(KeyError, match="gsm8k"):
        contents.datasets_of(tmp_path / "run", manifest, {"countdown": files["countdown"]})


def test_an_experiment_names_its_figures_their_claims_and_where_the_verdicts_stand():
    notes = contents.experiment_notes("cpu", ["fig04", "fig10"], "reports/cpu/report.html")
    text = "\n".join(notes.values())
    assert "**fig04**" in text and "**fig10**" in text
    assert "reports/cpu/report.html#C03-printed" in text
    assert all(name.startswith("cpu-") for name in notes)
