"""The typed configuration: shipped files are valid, generated files are current, mistakes are explained."""

import copy

import pytest
import yaml

from reproduction import config, configuration_page
from reproduction.config import REPOSITORY, Configuration, ConfigurationError, Scale, load_configuration
from reproduction.config.runs import RunConfiguration, expand
from reproduction.configuration_page import schemas
from reproduction.data.table import DatasetEntry
from reproduction.figures import Experiments, load_experiments

SHIPPED_SCALES = sorted(path.stem for path in (REPOSITORY / "workflow" / "scales").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED_SCALES)
def test_every_shipped_scale_resolves_every_run(name):
    scale = config.load_scale(name)
    user = Configuration(scale=name, seeds=[0, 1])
    runs = {}
    for experiment in load_experiments().values():
        runs |= expand(user, scale, experiment)
    assert runs
    for run in runs.values():
        assert RunConfiguration.from_json(run.to_json()) == run


def test_generated_files_are_current():
    folder = REPOSITORY / "workflow" / "schemas"
    for name, schema in schemas().items():
        assert yaml.safe_load((folder / name).read_text()) == schema, f"{name}: run `make config`"
    default = (folder / "config.default.yaml").read_text()
    assert default == config.render_configuration(), "config.default.yaml: run `make config`"


def test_the_configuration_page_is_current():
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page.render(), "docs/configuration.md: run `make config`"


def test_every_key_has_a_meaning_and_every_shared_table_is_listed_in_full():
    for _, _, models in configuration_page.FILES.values():
        for model in models:
            for key, _, _, meaning in configuration_page.rows_of(model):
                assert meaning, f"{model.__name__}.{key} has no description"
    for row in configuration_page.schedule_rows():
        assert all(row), row
    samplers = {key for key, *_ in configuration_page.rows_of(config.SharedSampler)}
    assert samplers == set(config.SharedSampler.model_fields)


def test_every_model_that_a_file_may_hold_is_on_the_configuration_page():
    listed = {*configuration_page.ANCHORS, *configuration_page.LISTED_AS}
    for model in (Scale, Experiments, config.Samplers, DatasetEntry):
        assert set(model.model_json_schema()["$defs"]) <= listed, model.__name__


def test_config_yaml_has_every_key_and_comment_of_the_model():
    """The values are the user's; everything else is generated."""
    text = (REPOSITORY / "config.yaml").read_text()
    assert text == config.render_configuration(yaml.safe_load(text)), "config.yaml: run `make config`"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scal": "cpu"}, ["config.yaml", "'scal'", "did you mean 'scale'"]),
        ({"scale": "big"}, ["scale", "'mini', 'cpu', 'gpu24', 'gpu1' or 'paper'", "'big'"]),
        ({"seeds": [0, 0]}, ["seeds", "0 more than once"]),
        ({"seeds": []}, ["seeds", "at least 1"]),
        ({"seeds": "0"}, ["seeds", "list", "'0'"]),
        ({"seeds": [-1]}, ["seeds.0", "greater than or equal to 0", "-1"]),
        ({"root_seed": 1.5}, ["root_seed", "integer", "1.5"]),
        ({"paths": {"result": "x"}}, ["'paths.result'", "did you mean 'results'"]),
        ({"paths": {"results": ""}}, ["paths.results", "at least 1 character"]),
        ({"paths": {"results": "@scratch"}}, ["paths.results", "does not begin with @", "found '@'"]),
        ({"paths": {"results": "a\u2028b"}}, ["paths.results", "no line break"]),
        ({"paths": {"reports": "a/{b}"}}, ["paths.reports", "found '{'"]),
        ({"experiments": ["fig04", "fig04"]}, ["experiments", "'fig04' more than once"]),
        ({"experiments": ["../x"]}, ["experiments.0", "pattern"]),
    ],
)
def test_a_wrong_choice_is_explained(values, words):
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(values)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


@pytest.fixture(scope="module")
def cpu():
    return config.scale_values("cpu")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.step", 3, ["unknown key 'training.step'", "'steps'"]),
        ("training.steps", "60", ["training.steps", "integer", "'60'"]),
        ("training.steps", 55, ["steps (55)", "checkpoint_every (25)"]),
        ("training.prompts", 33, ["prompts (33)", "mini_batch_prompts (16)"]),
        ("training.dataset", "countdown", ["training.dataset", "unknown dataset 'countdown'"]),
        ("training.betas", [0.9], ["training.betas.1", "missing"]),
        ("rollouts", 5, ["learning_rates", "rollouts = 5"]),
        ("roles.llama_1b.model", "tinny", ["roles.llama_1b", "unknown model 'tinny'", "did you mean 'tiny'"]),
        ("roles.llama_2b", {"model": "tiny"}, ["roles.llama_2b", "'llama_1b', 'qwen_1_5b'"]),
        (
            "roles.llama_1b.model",
            "small",
            ["roles.qwen_1_5b.model", "'small' already stands for another role"],
        ),
        ("roles.llama_1b.recipe", "hard", ["roles.llama_1b.recipe", "unknown recipe 'hard'"]),
        ("roles.qwen_7b.annealed", {"tau_min": 2.0}, ["roles.qwen_7b.annealed", "tau_max", "tau_min = 2.0"]),
        ("roles.qwen_7b.annealed", {"tau_mim": 0.8}, ["roles.qwen_7b.annealed", "unknown key 'tau_mim'"]),
        ("samplers.ead.style.color", "red", ["samplers.ead.style.color", "'vermilion'", "'red'"]),
        ("models.tiny.dataset", "gsm8k_test", ["models.tiny.dataset", "generated problems only"]),
        ("models.tiny.skill", 1.5, ["models.tiny.skill", "less than 1", "1.5"]),
        ("samplers.ead.schedule.tau_min", 1.5, ["samplers.ead.schedule", "tau_max", "tau_min = 1.5"]),
        ("samplers.ead.schedule.tau_min", 0, ["samplers.ead.schedule", "tau_min", "greater than 0"]),
        ("samplers.ead.schedule.kind", "zigzag", ["samplers.ead.schedule", "'zigzag'", "annealed"]),
        ("samplers.ead_tis.importance.cap", -2.0, ["samplers.ead_tis.importance.cap", "greater than 0"]),
        (
            "samplers.ead_tis.importance.level",
            "word",
            ["importance.level", "'token' or 'sequence'", "'word'"],
        ),
        ("algorithms.dapo.clip_low", -0.1, ["algorithms.dapo.clip_low", "greater than 0"]),
        ("evaluation.decoders", ["tau2"], ["evaluation.decoders", "unknown decoder 'tau2'"]),
        ("evaluation.final_decoders", ["tau2"], ["evaluation.final_decoders", "unknown decoder 'tau2'"]),
        ("evaluation.samples", 0, ["evaluation.samples", "greater than 0"]),
        ("datasets.grid_test.size", 9, ["datasets.grid_test.size", "less than or equal to 8", "9"]),
        ("engine", "trl", ["engine", "'inprocess' or 'verl'", "'trl'"]),
    ],
)
def test_a_wrong_scale_is_explained(cpu, path, value, words):
    values = copy.deepcopy(cpu)
    *parents, key = path.split(".")
    table = values
    for parent in parents:
        # "tau0.6" and its like hold a dot; none of the paths above goes through one.
        table = table[parent]
    table[key] = value
    with pytest.raises(ConfigurationError) as caught:
        config.validate(Scale, values, "cpu.yaml")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_repeated_key_is_an_error(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nb: {c: 1, c: 2}\n")
    with pytest.raises(ConfigurationError, match="'c' appears twice"):
        config.read_yaml(path)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(ConfigurationError, match=r"x\.yaml: not valid YAML"):
        config.read_yaml(path)
    with pytest.raises(ConfigurationError, match="no such file"):
        config.read_yaml(tmp_path / "absent.yaml")
