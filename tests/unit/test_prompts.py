"""Prompts are measured before a training starts; longer ones are left out and counted."""

import json
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reproduction.config import WORKFLOW, load_configuration, load_scale, read_yaml
from reproduction.config.runs import resolve
from reproduction.data import read_dataset, write_dataset
from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import load_datasets
from reproduction.engines import verl
from reproduction.models.tokenizer import Tokenizer
from reproduction.tasks import countdown
from reproduction.training import warmstart
from reproduction.training.prompt_lengths import fitting


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 50))
def test_what_is_longer_is_left_out_and_counted(lengths, limit):
    ids = [f"p/{place}" for place in range(len(lengths))]
    kept, facts = fitting(ids, lengths, limit, name="d", least=0)
    assert [lengths[place] for place in kept] == [length for length in lengths if length <= limit]
    assert facts["left_out"] == {ids[i]: n for i, n in enumerate(lengths) if n > limit}
    assert (facts["prompts"], facts["longest_tokens"]) == (len(lengths), max(lengths))
    assert len(kept) + len(facts["left_out"]) == len(lengths)


def test_too_few_that_fit_is_one_error_that_names_the_longest():
    with pytest.raises(
        ValueError, match=r"d: 1 of 3 prompts can be used, 2 are asked for; 2 have more than 8 .*'c' has 20"
    ):
        fitting(["a", "b", "c"], [5, 9, 20], 8, name="d", least=2)
    with pytest.raises(ValueError, match=r"d: 3 of 3 prompts can be used, 4 are asked for$"):
        fitting(["a", "b", "c"], [5, 9, 20], 20, name="d", least=4)


# --- both engines --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model's tokenizer and 40 problems of Countdown, of which two have prompts of 200 words."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "model").mkdir()
    warmstart.write_tokenizer(folder / "model", countdown.VOCABULARY)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").touch()
    problems = countdown.generate_problems(3, "train", root_seed=0, test_share=0.2, limit=40)
    rows = list(countdown.dataset_rows(problems, "train", "train"))
    for place in (3, 30):
        words = rows[place]["prompt"][-1]["content"]
        rows[place]["prompt"][-1]["content"] = " ".join([words] * (200 // len(words.split()) + 1))
    for name in ("train", "validation"):
        write_dataset(rows if name == "train" else rows[:5], folder / f"{name}.parquet")
    scale = load_scale("mini", read_yaml(WORKFLOW / "verl_smoke.yaml"))
    run = resolve(
        load_configuration({"scale": "mini"}),
        scale,
        role="llama_1b",
        algorithm="dapo",
        sampler="ead_tis",
        rollouts=None,
        seed=0,
    )
    return SimpleNamespace(folder=folder, rows=rows, run=run, machine=scale.verl)


def start(world, state, monkeypatch, **machine):
    """Start a training with verl whose first process would be the one of verl; return what that was to read."""

    class Started(Exception):
        pass

    def launched(*_):
        raise Started

    monkeypatch.setattr(verl, "version", lambda package: "0")
    monkeypatch.setattr(verl, "_launch", launched)
    with pytest.raises(Started):
        verl.train(
            world.run,
            world.machine.model_copy(update=machine),
            model=world.folder / "model",
            dataset=world.folder / "train.parquet",
            validation=world.folder / "validation.parquet",
            state=state,
            progress=None,
        )
    return yaml.safe_load((state / "verl" / "verl.yaml").read_text())["data"]


def test_verl_reads_data_sets_whose_prompts_all_fit(world, tmp_path, monkeypatch):
    data = start(world, tmp_path / "state", monkeypatch)
    ids = [row["extra_info"]["id"] for row in world.rows]
    read = [
        [extra["id"] for extra in read_dataset(data[key]).extra_info] for key in ("train_files", "val_files")
    ]
    assert read == [[name for i, name in enumerate(ids) if i not in (3, 30)], [*ids[:3], ids[4]]]
    measured = json.loads((tmp_path / "state" / "prompts.json").read_text())
    assert list(measured["training"]["left_out"]) == [ids[3], ids[30]]
    assert list(measured["validation"]["left_out"]) == [ids[3]]
    tokenizer = Tokenizer(world.folder / "model")
    lengths = [len(tokenizer.encode_chat(row["prompt"])) for row in world.rows]
    assert measured["training"]["longest_tokens"] == max(lengths)


def test_data_sets_that_fit_are_read_as_they_are(world, tmp_path, monkeypatch):
    data = start(world, tmp_path / "state", monkeypatch, max_prompt_tokens=1000)
    assert data["train_files"] == str(world.folder / "train.parquet")
    assert data["val_files"] == str(world.folder / "validation.parquet")


def test_too_few_prompts_end_the_job_before_verl_starts(world, tmp_path, monkeypatch):
    monkeypatch.setattr(verl, "version", lambda package: "0")
    monkeypatch.setattr(verl, "_launch", lambda *_: pytest.fail("verl was started"))
    with pytest.raises(
        ValueError, match="train.parquet: 0 of 40 prompts can be used, 8 are asked for; 40 have more"
    ):
        verl.train(
            world.run,
            world.machine.model_copy(update={"max_prompt_tokens": 2}),
            model=world.folder / "model",
            dataset=world.folder / "train.parquet",
            validation=world.folder / "validation.parquet",
            state=tmp_path / "state",
            progress=None,
        )


# --- the real tokenizer on the real training sets ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "limit", "over", "longest"), [("math_train", 1024, 7, 1697), ("dapo_math_17k", 1024, 10, 1569)]
)
def test_prompts_of_the_paper_scale_that_are_too_long(
    real_data, qwen_tokenizer, tmp_path, name, limit, over, longest
):
    """Of the whole sets; the recipe's 700 tokens leave none of them."""
    entry = load_datasets()[name]
    tokenizer = Tokenizer(qwen_tokenizer)
    lengths = {}
    for label, options in (("any", {"any_length": True}), ("filtered", {"tokenizer": qwen_tokenizer})):
        path = tmp_path / f"{label}.parquet"
        card = prepare_dataset(name, entry, path, tmp_path / "card.json", real_data=real_data, **options)
        lengths[label] = tokenizer.chat_lengths(read_dataset(path).prompt)
    assert sum(length > limit for length in lengths["any"]) == over and max(lengths["any"]) == longest
    assert max(lengths["filtered"]) <= limit
    assert card["length_filter"]["left_out"] == card["dropped"]["too_long"]["count"] > over
    print(f"{name}: {card['length_filter']['left_out']} problems of more than 700 tokens")
