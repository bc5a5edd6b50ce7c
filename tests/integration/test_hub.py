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
from huggingface_hub import constants

from hub_server import COMMIT, HubServer, hub_server
from reproduction.data import DatasetError, read_dataset
from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import HubFiles, load_datasets
from reproduction.models.pretrained import HubModel, import_model, import_tokenizer
from reproduction.rehearsal import sources

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


def test_a_pinned_revision_needs_no_checksum_in_the_table(workplace):
    """The hub states one for each file of it; the card has them, and says what each was compared with."""
    pins = dict(workplace.entry["hub"]["files"])
    workplace.entry["hub"]["files"] = dict.fromkeys(pins)
    source = workplace.prepare()["source"]
    assert source["pinned"] is True
    assert {file["name"]: file["sha256"] for file in source["files"]} == pins
    assert {file["verified_by"] for file in source["files"]} == {"hub sha256"}
    workplace.hub.stop()
    assert workplace.prepare()["source"] == source  # and without a connection


@pytest.mark.parametrize("cached", [False, True], ids=["fetched now", "in the cache"])
@pytest.mark.parametrize("name", ["data/train-1.parquet", "data/train-1.jsonl"], ids=["large", "small"])
def test_a_file_that_is_not_what_the_hub_states_is_refused_and_not_fetched_again(workplace, name, cached):
    content = "".join(
        json.dumps({"question": f"{n}?", "answer": f"#### {n}"}) + "\n" for n in range(3)
    ).encode()
    files = workplace.hub.files[TRAIN]
    files[name] = content if name.endswith("jsonl") else files["data/train-1.parquet"]
    workplace.entry["hub"]["files"] = {"data/train-0.parquet": None, name: None}
    if cached:
        workplace.prepare()
        (blob,) = [
            path.resolve()
            for path in (workplace.folder / "cache").rglob(Path(name).name)
            if path.is_symlink()
        ]
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
        workplace.output.unlink()
        workplace.card.unlink()
    else:
        workplace.hub.damaged.add(Path(name).name)
    message = workplace.fails()
    assert f"somebody/gsm8k: {name}: the checksum does not match" in message
    assert re.search(r"Delete \S+/blobs/\w+ to fetch it again", message)
    sent = dict(workplace.hub.sent)
    assert workplace.fails() == message
    assert dict(workplace.hub.sent) == sent  # a repeated job costs no download


def test_a_small_file_is_compared_with_gits_checksum(workplace):
    content = json.dumps({"question": "?", "answer": "#### 1"}).encode()
    workplace.hub.files[TRAIN] = {"train.jsonl": content}
    workplace.entry["hub"] |= {"files": {"train.jsonl": None}, "rows": 1}
    (file,) = workplace.prepare()["source"]["files"]
    assert file["verified_by"] == "hub git-sha1"
    assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_checksum_that_the_hub_contradicts_is_refused_before_the_download(workplace):
    workplace.entry["hub"]["files"]["data/train-0.parquet"] = "0" * 64
    assert "correct the table; nothing was fetched" in workplace.fails()
    assert not workplace.hub.sent


def test_a_cache_without_links_asks_the_hub_again(workplace, monkeypatch):
    """Some file systems have no symbolic links: the file itself lies where the link would."""
    workplace.entry["hub"]["files"] = dict.fromkeys(workplace.entry["hub"]["files"])
    workplace.prepare()
    for link in list((workplace.folder / "cache").rglob("*.parquet")):
        if link.is_symlink():
            link.resolve().rename(link)
    assert {f["verified_by"] for f in workplace.prepare()["source"]["files"]} == {"hub sha256"}


def test_without_a_pinned_revision_nothing_is_fetched_and_the_pins_are_printed(workplace):
    pins = dict.fromkeys(workplace.entry["hub"]["files"])
    workplace.hub.files[TRAIN]["README.md"] = b"# GSM8K"
    workplace.entry["hub"]["revision"] = None
    message = workplace.fails()
    assert "--accept-unpinned" in message and not workplace.hub.sent
    source = workplace.prepare(accept_unpinned=True)["source"]
    assert source["pinned"] is True  # every file by the table
    workplace.entry["hub"]["files"] = pins
    source = workplace.prepare(accept_unpinned=True)["source"]
    assert (source["pinned"], source["revision"]) == (False, COMMIT)
    # An entry of which nothing is known but the repository: what is printed pins it.
    workplace.output.unlink()
    workplace.card.unlink()
    workplace.entry["hub"] |= {"files": None, "rows": None}
    message = workplace.fails()
    printed = yaml.safe_load(re.search(r"  revision: .*?(?=\nCompare)", message, re.DOTALL)[0])
    assert printed == {"revision": COMMIT, "files": pins}
    workplace.entry["hub"] |= {**printed, "rows": 6}
    assert workplace.prepare()["source"]["pinned"] is True


def test_what_was_fetched_is_prepared_without_a_connection(workplace):
    """On a cluster the download runs on the login node, what follows on nodes that may reach no hub."""
    workplace.entry["hub"]["files"] = dict.fromkeys(workplace.entry["hub"]["files"])
    command = [sys.executable, str(REPOSITORY / "scripts" / "fetch_dataset.py"), "--dataset", "gsm8k"]
    command += ["--table", str(workplace.table()), "--cache", str(workplace.folder / "cache")]
    command += ["--output", str(workplace.folder / "fetched.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_ENDPOINT": workplace.hub.endpoint}
    )
    assert done.returncode == 0, done.stderr
    workplace.hub.stop()
    fetched = json.loads((workplace.folder / "fetched.json").read_text())
    assert workplace.prepare()["source"] == {**fetched, "adapter": "gsm8k"}


def test_of_a_tokenizer_nothing_but_its_file_is_fetched(workplace):
    name = "somebody/model"
    content = b'{"model": {}}'
    workplace.hub.files["model", name] = {"tokenizer.json": content, "model.safetensors": b"w" * 1000}
    table = {
        name: HubModel(
            kind="hub",
            licence="MIT",
            repository=name,
            revision=COMMIT,
            files=dict.fromkeys(["tokenizer.json", "model.safetensors"]),
        )
    }
    output = workplace.folder / "tokenizers" / name / "tokenizer.json"
    import_tokenizer(name, output, table=table, cache=workplace.folder / "cache")
    assert output.read_bytes() == content
    assert list(workplace.hub.sent) == ["tokenizer.json"]


def test_a_model_is_imported_by_its_revision_alone(workplace):
    """As the paper's models, whose checksums the table does not have."""
    name = "somebody/model"
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 1000}
    workplace.hub.files["model", name] = files
    entry = HubModel(kind="hub", licence="MIT", repository=name, revision=COMMIT, files=dict.fromkeys(files))
    folder = workplace.folder / "model"
    cache = workplace.folder / "cache"
    manifest = import_model(name, folder, table={name: entry}, downloads=workplace.folder, cache=cache)
    assert manifest["source"]["pinned"]
    assert {f["name"]: f["verified_by"] for f in manifest["source"]["files"]} == {
        "config.json": "hub git-sha1",
        "tokenizer.json": "hub git-sha1",
        "model.safetensors": "hub sha256",
    }
    assert manifest["files"]["model.safetensors"] == hashlib.sha256(files["model.safetensors"]).hexdigest()
    sent = dict(workplace.hub.sent)
    import_model(name, folder, table={name: entry}, downloads=workplace.folder, cache=cache)
    assert dict(workplace.hub.sent) == sent


def test_a_download_that_breaks_off_fails_and_works_the_next_time(workplace):
    workplace.hub.cut_after = 200
    message = workplace.fails()
    assert "data/train-0.parquet: the download" in message
    assert "broke off" in message
    workplace.hub.cut_after = None
    workplace.prepare()
    assert len(read_dataset(workplace.output)) == 6


def test_a_download_that_fails_keeps_the_files_it_has(workplace):
    name = "data/train-1.parquet"
    whole = workplace.hub.files[TRAIN].pop(name)
    assert name in workplace.fails()
    sent = workplace.hub.sent["data/train-0.parquet"]
    workplace.hub.files[TRAIN][name] = whole
    workplace.prepare()
    assert workplace.hub.sent["data/train-0.parquet"] == sent


def test_a_hub_that_does_not_answer_is_named(workplace):
    endpoint = workplace.hub.endpoint
    workplace.hub.stop()
    message = workplace.fails()
    assert f"{endpoint} cannot be reached" in message
    assert "set paths.real_data" in message


def test_a_preflight_says_of_each_source_whether_it_can_be_had_and_fetches_nothing(workplace, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workplace.folder / "cache"))
    hub = HubFiles(**{key: workplace.entry["hub"][key] for key in ("repository", "revision", "files")})
    prepared = str(workplace.folder / "nothing")

    def line(**changes):
        values = {"name": "gsm8k", "kind": "dataset", "prepared": prepared, "hub": hub} | changes
        (found,) = sources.check([sources.Wanted(**values)]).lines
        assert bool(found.advice) != found.passed
        return found

    assert line().found == "0 files in the hub client's cache, 2 on the hub"
    assert not workplace.hub.sent.total()
    missing = hub.model_copy(update={"files": {**hub.files, "data/train-2.parquet": None}})
    assert "has no file 'data/train-2.parquet'" in line(hub=missing).found
    gone = hub.model_copy(update={"repository": "somebody/gone"})
    assert "no such dataset or revision, or it is not open to you" in line(hub=gone).found
    workplace.prepare()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    assert line().found == "2 files in the hub client's cache"
    unreachable = line(hub=missing)
    assert (
        not unreachable.passed and "cannot be reached and the file is not in the cache" in unreachable.found
    )
    assert line(hub=missing, prepared=str(workplace.output)).found == "prepared"
    assert line(hub=None).found == "a local copy"
