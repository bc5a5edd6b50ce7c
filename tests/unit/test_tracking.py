"""What MLflow shows beside a training's records, from hand-made evaluations."""

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from evaluations import write_evaluation
from reproduction.files import write_json, write_text
from reproduction.tracking import DataSet, Store, contents

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


@pytest.mark.parametrize("name", ["plain", "what?", "a?b=c&d#e", "50%41", "a b"])
def test_a_local_database_lies_in_its_folder_whatever_that_is_called(tmp_path, name):
    store = Store.local(tmp_path / name)
    (tmp_path / name).mkdir()
    with create_engine(store.tracking_uri).begin() as connection:
        connection.execute(text("create table t (x)"))
    assert store.database_file == tmp_path / name / "mlflow.db" and store.database_file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert Store(store.tracking_uri, store.artifact_root) == store  # as the follower is told it


def test_a_database_keeps_its_artifacts_in_the_folder_and_a_server_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store.at(None, "runs") == Store.local(tmp_path / "runs")
    database = Store.at("sqlite:///kept/mine.db", "runs")
    assert database.database_file == tmp_path / "kept/mine.db" and database.is_one_file
    assert (
        database.artifact_root == tmp_path / "runs/artifacts"
        and database.lock_folder == tmp_path / "runs/.locks"
    )
    server = Store.at("http://127.0.0.1:5000", "runs")
    assert server.artifact_root is None and server.database_file is None
