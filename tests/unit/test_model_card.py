"""Model cards: the hub reads their metadata, and publishing twice gives the same bytes."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from reproduction.config import Configuration, load_scale
from reproduction.config.runs import expand
from reproduction.data.table import load_datasets
from reproduction.figures import load_experiments
from reproduction.files import sha256_of_model
from reproduction.models.pretrained import load_models
from reproduction.training import records, warmstart
from reproduction.training.model_card import model_card
from reproduction.training.run_folder import publish

METRICS = {"reward_mean": 0.25, "entropy": 1 / 3}
HEALTHY = {"loss": 0.5, "gradient_norm": 1.0, "equal_reward_groups": 0.5, "response_length_mean": 9.0}
SCRATCH = {"source": warmstart.PUBLISHED}


def run_of(scale="mini"):
    runs = expand(Configuration(scale=scale, seeds=[0]), load_scale(scale), load_experiments()["fig04"])
    return next(run for run in runs.values() if run.sampler == "ead_tis")


def imported(source):
    """The manifest that reproduction.models.pretrained writes of a model of the table."""
    entry = load_models()[source]
    origin = (
        {"kind": "hub", "repository": entry.repository}
        if entry.kind == "hub"
        else {"kind": "package", "original": entry.original}
    )
    return {"model": source, "licence": entry.licence, "source": origin, "differences": ["a difference"]}


def test_a_model_of_the_hub_is_the_base_model_and_its_licence_that_of_the_checkpoint():
    run = run_of("paper")
    card = ModelCard(model_card(run, imported(run.model_definition.source), 40, METRICS))
    metadata = card.data.to_dict()
    assert metadata["base_model"] == run.model_definition.source
    assert metadata["base_model_relation"] == "finetune"
    assert metadata["datasets"] == [load_datasets()[run.dataset_definition.source].hub.repository]
    assert {"exploratory-annealed-decoding", "dapo", "ead_tis"} <= set(metadata["tags"])
    assert "model-index" not in metadata, "nothing was evaluated yet"
    for said in (
        run.hash,
        "a difference",
        "| `reward_mean` | 0.25 |",
        "| `entropy` | 0.333333 |",
        "no evaluation",
    ):
        assert said in card.text


@pytest.mark.parametrize("source", load_models())
def test_every_licence_of_the_table_is_one_that_the_hub_knows_or_is_named(source):
    data = ModelCard(model_card(run_of(), imported(source), 2, METRICS)).data.to_dict()
    known = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Llama 3.2 Community License": "llama3.2"}
    licence = load_models()[source].licence
    assert data["license"] == known.get(licence, "other")
    assert data.get("license_name") == (None if licence in known else licence)


def test_a_model_from_scratch_or_a_stand_in_claims_no_base_model():
    for base in (SCRATCH, {"model": "Qwen/Qwen2.5-Math-7B", "stand_in": {}, "source": {"kind": "hub"}}):
        card = ModelCard(model_card(run_of(), base, 2, METRICS))
        assert not {"base_model", "datasets", "license_name"} & set(card.data.to_dict())
        assert card.data.license == "apache-2.0"
        assert "stand_in" in base or "published with the project; trained from scratch" in card.text
    assert "stand-in for Qwen/Qwen2.5-Math-7B" in card.text


@pytest.mark.parametrize("base", [SCRATCH, imported("HuggingFaceTB/SmolLM2-135M-Instruct")], ids=str)
def test_publishing_again_gives_the_same_card_and_leaves_weights_and_state_alone(tmp_path, base):
    run, state = run_of(), tmp_path / "state"
    for name in ("metrics", "timings", "groups"):
        row = {"problem": ["a", "b"], "reward_mean": [0, 1]} if name == "groups" else {**METRICS, **HEALTHY}
        for step in (1, 2):
            records.append(state / f"{name}.jsonl", {"step": step, **row})
    (state / "prompts.json").write_text("{}")
    for step in (1, 2):
        folder = state / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True)
        save_file({"w": torch.full((2,), float(step))}, folder / "model.safetensors")
    (state / "checkpoints" / "step_1" / "model.safetensors").unlink()  # evaluated and pruned
    (state / "checkpoints" / "step_1" / "deleted.json").write_text("{}")
    before = sha256_of_model(state / "checkpoints" / "step_2")

    cards = []
    for started in (0.0, 1e9):
        result = SimpleNamespace(status="finished", steps=2, checkpoints=[1, 2])
        options = {
            "started": started,
            "sources": {},
            "tracking": {"tags": {}},
            "card": partial(model_card, run, base),
        }
        publish(run, state, tmp_path / "run", result, **options)
        cards.append((tmp_path / "run/checkpoints/step_2/README.md").read_bytes())
    assert cards[0] == cards[1]
    assert sha256_of_model(tmp_path / "run/checkpoints/step_2") == before
    assert not (tmp_path / "run/checkpoints/step_1/README.md").exists(), "it has no weights"
    assert {path.name for path in (state / "checkpoints").rglob("*.*")} == {
        "model.safetensors",
        "deleted.json",
    }
    assert json.loads((tmp_path / "run/manifest.json").read_text())["configuration_hash"] == run.hash
    _, front, _ = cards[0].decode().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
