"""Data sets from a hub: the real client against a small server in the hub's layout."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hub_server import COMMIT, HubServer, hub_server
from reproduction.data import DatasetError, read_dataset
from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import load_datasets

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = ("dataset", "somebody/gsm8k")


def parquet(folder: Path, first: int, rows: int) -> bytes:
    table = pa.table(
        {
            "question": [f"What is {number} + 1?" for number in range(first, first + rows)],
            "answer": [f"#### {number + 1}" for number in range(first, first + rows)],
        }
    )
    pq.write_table(table, folder / "part.parquet")
    return (folder / "part.parquet").read_bytes()


class Workplace:
    """A hub with one data set of two files, and a table that describes it."""

    def __init__(self, folder: Path, hub: HubServer):
        self.folder, self.hub = folder, hub
        files = {f"data/train-{part}.parquet": parquet(folder, 3 * part, 3) for part in range(2)}
        hub.files[TRAIN] = files
        self.entry = {
            "title": "GSM8K",
            "licence": "MIT",
            "role": "training",
            "split": "train",
            "prompt": "minimal_rl",
            "unique": True,
            "hub": {
                "repository": TRAIN[1],
                "revision": COMMIT,
                "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
                "rows": 6,
                "adapter": "gsm8k",
            },
        }

    def table(self) -> Path:
        table = self.folder / "datasets.yaml"
        table.write_text(yaml.safe_dump({"gsm8k": self.entry}))
        return table

    def prepare(self, **options) -> dict:
        """Prepare the data set and return its card."""
        entry = load_datasets(self.table())["gsm8k"]
        return prepare_dataset("gsm8k", entry, self.output, self.card, cache=self.folder / "cache", **options)

    def run_script(self) -> subprocess.CompletedProcess:
        command = [sys.executable, str(REPOSITORY / "scripts" / "prepare_dataset.py"), "--dataset", "gsm8k"]
        command += ["--table", str(self.table()), "--cache", str(self.folder / "cache")]
        command += ["--output", str(self.output), "--card", str(self.card)]
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"HF_ENDPOINT": self.hub.endpoint}
        )

    @property
    def output(self) -> Path:
        return self.folder / "results" / "gsm8k.parquet"

    @property
    def card(self) -> Path:
        return self.folder / "results" / "gsm8k.card.json"

    def fails(self) -> str:
        """Prepare the data set, which must fail and write nothing; return the message."""
        with pytest.raises(DatasetError) as caught:
            self.prepare()
        assert not self.output.exists()
        assert not self.card.exists()
        return str(caught.value)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its attempts
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield Workplace(tmp_path, hub)


def test_files_come_from_the_pinned_revision_and_then_from_the_cache(workplace):
    done = workplace.run_script()
    assert done.returncode == 0, done.stderr
    assert "gsm8k: read 6 rows, kept 6, dropped 0" in done.stdout
    answers = [model["ground_truth"] for model in read_dataset(workplace.output).reward_model]
    assert answers == ["1", "2", "3", "4", "5", "6"]
    source = json.loads(workplace.card.read_text())["source"]
    assert source["revision"] == COMMIT
    assert source["pinned"]
    assert {file["name"]: file["sha256"] for file in source["files"]} == workplace.entry["hub"]["files"]
    assert all(f"/resolve/{COMMIT}/" in request for request in workplace.hub.requests if "resolve" in request)

    first = workplace.output.read_bytes(), workplace.card.read_bytes()
    workplace.hub.stop()
    workplace.prepare()
    assert (workplace.output.read_bytes(), workplace.card.read_bytes()) == first


def test_a_wrong_checksum_stops_before_anything_is_written(workplace):
    files = workplace.entry["hub"]["files"]
    right = files["data/train-1.parquet"]
    files["data/train-1.parquet"] = "0" * 64
    message = workplace.fails()
    assert "somebody/gsm8k: data/train-1.parquet: the checksum does not match" in message
    assert f"expected {'0' * 64}\n  found    {right}" in message


def test_a_file_the_repository_lacks_is_named(workplace):
    workplace.entry["hub"]["files"]["data/train-2.parquet"] = "0" * 64
    assert "the repository has no file 'data/train-2.parquet'; correct the table" in workplace.fails()


@pytest.mark.parametrize(
    ("key", "value"),
    [("repository", "somebody/gsm9k"), ("revision", "d" * 40)],
    ids=["repository", "revision"],
)
def test_an_unknown_repository_or_revision_is_named(workplace, key, value):
    workplace.entry["hub"][key] = value
    message = workplace.fails()
    assert value in message
    assert "has no such dataset or revision" in message


def test_an_unpinned_source_prints_its_pins_and_is_used_only_if_accepted(workplace):
    pins = dict(workplace.entry["hub"]["files"])
    workplace.entry["hub"] |= {"revision": None, "files": dict.fromkeys(pins)}
    message = workplace.fails()
    assert "--accept-unpinned" in message
    printed = yaml.safe_load(re.search(r"  revision: .*?(?=\nCompare)", message, re.DOTALL)[0])
    assert printed == {"revision": COMMIT, "files": pins}

    assert workplace.prepare(accept_unpinned=True)["source"]["pinned"] is False
    workplace.entry["hub"] |= printed
    assert workplace.prepare()["source"]["pinned"] is True


def test_a_download_that_breaks_off_fails_and_works_the_next_time(workplace):
    workplace.hub.cut_after = 200
    message = workplace.fails()
    assert "data/train-0.parquet: the download" in message
    assert "broke off" in message
    workplace.hub.cut_after = None
    workplace.prepare()
    assert len(read_dataset(workplace.output)) == 6


def test_a_hub_that_does_not_answer_is_named(workplace):
    endpoint = workplace.hub.endpoint
    workplace.hub.stop()
    message = workplace.fails()
    assert f"{endpoint} cannot be reached" in message
    assert "set paths.real_data" in message
