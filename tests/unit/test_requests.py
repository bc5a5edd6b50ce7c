"""What one call asks for with --config."""

import pytest

from reproduction.config import ConfigurationError, read_yaml
from reproduction.config.command_line import read_command_line, selected, take_request

NAMES = [
    f"model~{model}/algorithm~dapo/sampler~{sampler}/n~8/seed~{seed}"
    for model in ("tiny", "small")
    for sampler in ("ead", "ead_tis")
    for seed in (0, 1)
]


def test_a_request_is_taken_out_of_the_configuration():
    values = {"scale": "mini", "targets": "fig04", "gpus": 16}
    request = take_request(values)
    assert (request.targets, request.gpus, request.select) == (["fig04"], 16, None)
    assert values == {"scale": "mini"}
    with pytest.raises(ConfigurationError, match="--config: gpus"):
        take_request({"gpus": 0})


def test_nested_values_of_the_command_line_get_the_types_they_have_in_a_file():
    given = {
        "seeds": ["0", "1"],
        "overrides": {
            "learning_rates": {"4": "5e-4", "8": "1.0e-3"},
            "algorithms": {"dapo": {"label": "a: b"}},
        },
        "tracking": {"stream": "false", "uri": "null"},
        "paths": {"results": "r8"},
        "root_seed": 10,
    }
    assert read_command_line(given) == {
        "seeds": [0, 1],
        "overrides": {"learning_rates": {4: 5e-4, 8: 1e-3}, "algorithms": {"dapo": {"label": "a: b"}}},
        "tracking": {"stream": False, "uri": None},
        "paths": {"results": "r8"},
        "root_seed": 10,
    }


@pytest.mark.parametrize(
    "text", ["0x1f", "0o17", "1e3", "yes", "12:30", "2026-11-29", "~", "a b", "[", "=", "<<"]
)
def test_a_text_means_the_same_in_a_file_and_on_the_command_line(tmp_path, text):
    (path := tmp_path / "config.yaml").write_text(
        f"value: {text}\n" if text not in "[=<<" else f"value: '{text}'\n"
    )
    assert read_command_line({"value": text}) == read_yaml(path)


def test_a_selection_names_whole_parts_in_any_order():
    assert selected(NAMES, "seed~1/sampler~ead/model~tiny") == [NAMES[1]]
    assert len(selected(NAMES, "sampler~ead")) == 4
    assert selected(NAMES, NAMES[3]) == [NAMES[3]]


def test_a_selection_that_finds_nothing_says_why():
    with pytest.raises(
        ConfigurationError, match="no run has the part 'sampler~eda'.*did you mean 'sampler~ead'"
    ):
        selected(NAMES, "sampler~eda")
    with pytest.raises(ConfigurationError, match="all parts"):
        selected(NAMES, "sampler~ead/sampler~ead_tis")
    with pytest.raises(ConfigurationError, match="say which"):
        selected(NAMES, None)
