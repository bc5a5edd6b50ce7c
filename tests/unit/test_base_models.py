"""The base models that the project carries are those that the scales define; any other is trained here."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from reproduction.config import REPOSITORY, Configuration, load_scale
from reproduction.models import published
from reproduction.training import warmstart

sys.path.insert(0, str(REPOSITORY / "scripts"))
import train  # noqa: E402

CARRIED = sorted(published.folder_of("*").parent.glob("*/*/manifest.json"))
ROOT_SEED = 2025


def _dataset(scale: str, model: str):
    resolved = load_scale(scale)
    return resolved.datasets[resolved.models[model].dataset]


@pytest.mark.parametrize("manifest", CARRIED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_each_is_what_its_scale_defines(manifest):
    scale, name = manifest.parts[-3:-1]
    definition = load_scale(scale).models[name]
    prompts = [problem.prompt for problem in _dataset(scale, name).problems(ROOT_SEED, None)]
    assert published.is_of(published.recipe_sha256(definition, ROOT_SEED, prompts), manifest), (
        "publish the base model anew: train it with `--config base_models=trained`, copy its folder here"
    )


def test_a_changed_recipe_is_another_one():
    definition = load_scale("cpu").models["tiny"]
    recipes = {
        published.recipe_sha256(definition, ROOT_SEED, ["a", "b"]),
        published.recipe_sha256(definition, ROOT_SEED + 1, ["a", "b"]),
        published.recipe_sha256(definition, ROOT_SEED, ["b", "a"]),
        published.recipe_sha256(definition.model_copy(update={"steps": 999}), ROOT_SEED, ["a", "b"]),
    }
    assert len(recipes) == 4


def _append(path):
    with path.open("ab") as file:
        file.write(b" ")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (published.WEIGHTS, _append),
        ("tokenizer.json", _append),
        ("config.json", lambda path: path.unlink()),
        ("added.bin", lambda path: path.write_bytes(b"x")),
        ("manifest.json", lambda path: path.write_text("{}")),
        ("manifest.json", lambda path: path.write_text('{"recipe')),
    ],
    ids=["weights", "tokenizer", "lost", "added", "empty-manifest", "cut-manifest"],
)
def test_files_that_are_not_as_stated_are_refused_by_name(tmp_path, name, harm):
    carried = shutil.copytree(CARRIED[0].parent, tmp_path / "model")
    recipe = json.loads((carried / "manifest.json").read_text())["recipe_sha256"]
    assert published.is_of(recipe, carried / "manifest.json")
    harm(carried / name)
    with pytest.raises(ValueError, match=rf"{name} .*git checkout.*base_models=trained"):
        published.is_of(recipe, carried / "manifest.json")


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Few problems of the mini scale."""
    folder = tmp_path_factory.mktemp("problems")
    dataset = folder / "problems.parquet"
    definition = _dataset("mini", "tiny").model_copy(update={"limit": 20}).model_dump_json()
    _script("generate_problems", name="few", definition=definition, output=dataset, card=folder / "card.json")
    return dataset


def _script(script: str, **options):
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command = [
        sys.executable,
        str(REPOSITORY / f"scripts/{script}.py"),
        "--root-seed",
        str(ROOT_SEED),
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_published_one_is_taken_and_another_definition_is_trained(problems, tmp_path):
    def make(folder, *, published_in=None, **changes):
        definition = load_scale("mini").models["tiny"].model_copy(update={"steps": 40, **changes})
        output = tmp_path / folder / "tiny" / "manifest.json"
        given = {
            "name": "tiny",
            "definition": definition.model_dump_json(),
            "dataset": problems,
            "output": output,
        }
        if published_in:
            given["published"] = tmp_path / published_in
        said = _script("train_base_model", **given)
        return said, json.loads(output.read_text())

    said, first = make("first", published_in="nothing")
    assert "trained here" in said and first["source"] == warmstart.SOURCE
    said, taken = make("taken", published_in="first")
    assert "the published one" in said and taken == first | {"source": warmstart.PUBLISHED}

    def files(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}

    assert files(tmp_path / "first/tiny") == files(tmp_path / "taken/tiny")
    said, other = make("other", published_in="first", steps=41)
    assert "trained here" in said and other["source"] == warmstart.SOURCE
    assert other["sha256"] != first["sha256"]


@pytest.mark.parametrize("asked", ["published", "trained"])
def test_a_training_by_name_makes_the_base_model_anew_where_it_is_not_the_one_asked_for(
    asked, tmp_path, monkeypatch
):
    carried = json.loads(CARRIED[0].read_text())
    scale, name = CARRIED[0].parts[-3:-1]
    monkeypatch.setattr(train, "_dataset", lambda dataset, plan: tmp_path)
    monkeypatch.setattr(train, "sha256_of_file", lambda path: carried["dataset_sha256"])
    calls = []
    monkeypatch.setattr(train, "_call", lambda script, options: calls.append(options))
    choices = Configuration(scale=scale, base_models=asked, paths={"results": str(tmp_path)})
    plan = SimpleNamespace(configuration=choices, scale=load_scale(scale))
    manifest = train._model(name, plan)
    assert ("published" in calls.pop()) == (asked == "published") and manifest.is_relative_to(tmp_path)
    manifest.parent.mkdir(parents=True)
    taken = {**carried, "source": warmstart.PUBLISHED}
    trained = {**carried, "source": warmstart.SOURCE, "sha256": "another"}
    for there, right in ((taken, asked == "published"), (trained, asked == "trained")):
        manifest.write_text(json.dumps(there))
        train._model(name, plan)
        assert bool(calls) != right
        calls.clear()
