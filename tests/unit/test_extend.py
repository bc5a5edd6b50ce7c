"""A sampler, a figure, a model, a data set and an algorithm are each added in one file, as docs/extend.md says.

The entries are those of the page itself. tests/integration/test_extension_plans.py plans a workflow with all of them.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import yaml

from ead import schedule
from ead.schedule import Annealed
from pages import EXTEND, blocks, extensions
from reproduction.config import Configuration, ConfigurationError, load_scale
from reproduction.config.runs import expand, resolve
from reproduction.data import read_dataset
from reproduction.data.prepare import prepare_dataset
from reproduction.data.table import load_datasets
from reproduction.figures import load_experiments
from reproduction.models.pretrained import load_models

TABLES = ("samplers", "experiments", "models", "datasets", "algorithms")


def test_the_page_shows_one_entry_for_each_table():
    assert set(extensions()) == set(TABLES)


def test_a_sampler_joins_the_figures_that_it_names(tables):
    name = tables.add("samplers")
    experiments = load_experiments(samplers=tables.file("samplers"))
    scale = load_scale("mini")
    tables = {figure: expand(Configuration(scale="mini"), scale, e) for figure, e in experiments.items()}
    showing = {
        figure for figure, table in tables.items() if any(run.sampler == name for run in table.values())
    }
    assert showing == set(yaml.safe_load(extensions()["samplers"])[name]["figures"])
    for figure in showing:
        drawn = experiments[figure].drawing(figure, scale, tables[figure])
        assert list(drawn["samplers"])[-1] == name and drawn["samplers"][name]["label"]
    # What the entry leaves out is the paper's, and is converted to the scale's units like what it says.
    units, here = scale.schedule_units, scale.samplers[name].schedule
    assert (here["tau_max"], here["start"]) == (1.4, units.start)
    assert here["d0"] == pytest.approx(Annealed().d0 * units.length)
    assert here["alpha"] == pytest.approx(Annealed().alpha * units.length / units.steps)


def test_the_other_samplers_of_a_figure_train_as_before(tables):
    before = expand(Configuration(scale="mini"), load_scale("mini"), load_experiments()["fig04"])
    name = tables.add("samplers")
    after = expand(
        Configuration(scale="mini"),
        load_scale("mini"),
        load_experiments(samplers=tables.file("samplers"))["fig04"],
    )
    assert {key: run.hash for key, run in after.items() if run.sampler != name} == {
        key: run.hash for key, run in before.items()
    }


STYLE = "style: {color: blue, marker: o, line: solid}"
SAMPLER = f"mine: {{label: Mine, {STYLE}, schedule: {{kind: fixed, tau: 1.1}}, figures: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SAMPLER + "[fig4]}", ["samplers.yaml: mine.figures", "unknown figure 'fig4'", "did you mean 'fig"]),
        (SAMPLER + "[fig03]}", ["samplers.yaml: mine.figures: fig03 shows no training runs"]),
        (SAMPLER + "[fig04, fig04]}", ["samplers.yaml", "mine.figures", "'fig04' more than once"]),
        (
            "mine: {label: Mine, schedule: {kind: fixed, tau: 1.1}}",
            ["samplers.yaml", "mine.style", "missing"],
        ),
        (
            SAMPLER.replace("tau: 1.1", "tau: -1") + "[fig04]}",
            ["samplers.yaml", "mine.schedule", "tau must be greater than 0"],
        ),
    ],
)
def test_a_mistake_in_a_sampler_names_its_file_and_key(tables, text, words):
    tables.add("samplers", text)
    with pytest.raises(ConfigurationError) as caught:
        load_experiments(samplers=tables.file("samplers"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@dataclass(frozen=True)
class Stretched(schedule.Annealed):
    """A formula of a user's own: EAD that takes three times as many tokens."""

    kind: ClassVar[str] = "stretched"

    def parameters(self, step: int = 0):
        return self._row(sign=-1.0, offset=self.tau_max, scale=3 * self.decay_rate(step))


def test_a_new_formula_is_a_class_and_its_name(tables, monkeypatch):
    monkeypatch.setitem(schedule.KINDS, Stretched.kind, Stretched)
    text = extensions()["samplers"].replace("kind: annealed", "kind: stretched")
    name = tables.add("samplers", text)
    scale = load_scale("mini")
    experiments = load_experiments(samplers=tables.file("samplers"))
    runs = expand(Configuration(scale="mini"), scale, experiments["fig04"])
    drawn = [run.sampler_definition.schedule for run in runs.values() if run.sampler == name]
    assert [values["kind"] for values in drawn] == ["stretched", "stretched"]
    # The row that the in-process engine, transformers, vLLM and verl evaluate.
    values = {key: value for key, value in drawn[0].items() if key != "kind"}
    ours = schedule.from_config(drawn[0]).parameters(step=3)
    usual = schedule.Annealed(**values).parameters(step=3)
    position = np.arange(20)
    later = schedule.annealed_temperature(ours, 3 * position)
    sooner = schedule.annealed_temperature(usual, position)
    assert later[values["start"] :] == pytest.approx(sooner[values["start"] :])


def test_figures_of_a_sampler_belong_to_its_table_and_not_to_a_scale():
    with pytest.raises(ConfigurationError, match=r"unknown key 'samplers.ead.figures'"):
        load_scale("mini", {"samplers": {"ead": {"figures": ["fig08"]}}})


def test_a_figure_is_estimated_and_drawn_from_its_entry_alone(tables):
    name = tables.add("experiments")
    experiment = load_experiments(tables.file("experiments"))[name]
    scale = load_scale("mini")
    table = expand(Configuration(scale="mini"), scale, experiment)
    assert table
    asked = experiment.estimation(scale, table, root_seed=0)
    drawn = experiment.drawing(name, scale, table)
    assert asked["names"] == list(table) and drawn["title"] == experiment.title
    assert set(drawn["samplers"]) == {run.sampler for run in table.values()}


def test_a_model_is_used_by_its_name_in_the_table(tables):
    name = tables.add("models")
    assert name in load_models(tables.file("models"))
    for used in ({"roles": {"qwen_1_5b": {"model": name}}}, {"real_lm": {"model": name}}):
        assert load_scale("mini", used).models[name].source == name
    scale = load_scale("mini", {"roles": {"qwen_1_5b": {"model": name}}})
    runs = expand(Configuration(scale="mini"), scale, load_experiments()["fig05"])
    assert name not in {run.model for run in runs.values()}  # another role's figure
    runs = expand(Configuration(scale="mini"), scale, load_experiments()["fig08"])
    assert {run.model for run in runs.values()} == {name}


def test_a_data_set_is_used_by_its_name_in_the_table(tables):
    name = tables.add("datasets")
    assert name in load_datasets(tables.file("datasets"))
    scale = load_scale("mini", {"training": {"dataset": name}, "evaluation": {"dataset": name}})
    assert scale.datasets[name].source == name
    runs = expand(Configuration(scale="mini"), scale, load_experiments()["fig04"])
    assert {run.training.dataset for run in runs.values()} == {name}


def test_the_data_set_of_the_page_is_prepared_from_the_lines_of_the_page(tables, tmp_path):
    name = tables.add("datasets")
    entry = load_datasets(tables.file("datasets"))[name]
    (lines,) = blocks(EXTEND, "json")
    (tmp_path / entry.local.file).write_text(lines, encoding="utf-8")
    output = tmp_path / "out.parquet"
    card = prepare_dataset(name, entry, output, tmp_path / "card.json", real_data=tmp_path)
    assert card["rows"] == {"read": 2, "kept": 2, "dropped": 0}
    assert [row["ground_truth"] for row in read_dataset(output)["reward_model"]] == ["360", "3/10"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("columns: {problem: question, answer: answer}, adapter: gsm8k", "give either an adapter or columns"),
        ("columns: {problem: question}", "'datasets.my_problems.local.columns.answer' is missing"),
        (
            "columns: {problem: q, answer: a, take: lastboxed}",
            "'as_given', 'integer', 'number', 'only_element', 'last_boxed'",
        ),
    ],
)
def test_a_mistake_in_the_columns_of_a_data_set_is_explained(tables, columns, words):
    tables.add("datasets", _with_columns(columns))
    with pytest.raises(ConfigurationError) as caught:
        load_datasets(tables.file("datasets"))
    assert words in str(caught.value)


def _with_columns(columns: str) -> str:
    entry = yaml.safe_load(extensions()["datasets"])
    (values,) = entry.values()
    del values["local"]["columns"]
    values["local"] |= yaml.safe_load("{" + columns + "}")
    return yaml.safe_dump(entry)


def test_a_generated_data_set_is_an_entry_that_a_scale_takes_as_its_own(tables):
    name = tables.add("datasets", "small_grid: {kind: grid, split: train, size: 4, walls: 3}")
    assert name not in load_datasets(tables.file("datasets"))  # of the real ones
    scale = load_scale("mini", {"models": {"tiny": {"dataset": name}}, "training": {"dataset": name}})
    assert scale.datasets[name].size == 4
    runs = expand(Configuration(scale="mini"), scale, load_experiments()["fig04"])
    run = next(run for run in runs.values() if run.model == "tiny")
    assert run.dataset_definition == run.model_dataset == scale.datasets[name]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            "{kind: gird, split: train}",
            "datasets.yaml: datasets.mine.kind: Input should be 'countdown' or 'grid'",
        ),
        ("{kind: grid, split: train, sise: 4}", "unknown key 'datasets.mine.sise' (did you mean 'size'?)"),
        ("{kind: grid, split: train, size: 4, walls: 9}", "walls (9) must be at most half of the 16 cells"),
    ],
)
def test_a_mistake_in_a_generated_data_set_is_explained(tables, entry, words):
    tables.add("datasets", f"mine: {entry}")
    with pytest.raises(ConfigurationError) as caught:
        load_datasets(tables.file("datasets"))
    assert words in str(caught.value)


def test_an_algorithm_is_an_entry(tables):
    name = tables.add("algorithms")
    scale = load_scale("mini")
    run = resolve(
        Configuration(scale="mini"),
        scale,
        role=next(iter(scale.roles)),
        algorithm=name,
        sampler="ead_tis",
        rollouts=None,
        seed=0,
    )
    assert f"algorithm~{name}" in run.name and run.algorithm_definition.clip_high == 0.3


def test_only_what_is_named_is_taken_from_the_tables():
    shipped = load_scale("mini")
    assert "math500" not in shipped.datasets and "Qwen/Qwen2.5-Math-1.5B" not in shipped.models
    assert "math500" in load_scale("mini", {"evaluation": {"dataset": "math500"}}).datasets


def test_a_name_that_is_nowhere_is_still_explained():
    with pytest.raises(ConfigurationError, match="unknown dataset 'gsm8k_tset' .did you mean 'gsm8k_test'"):
        load_scale("mini", {"evaluation": {"dataset": "gsm8k_tset"}})
