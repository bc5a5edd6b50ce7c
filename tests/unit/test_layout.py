"""Where results lie, and that a rule declares what its script reads."""

import re
from pathlib import Path

import pytest

from reproduction.config import REPOSITORY, load_scale
from reproduction.layout import model_manifest

RULES = {
    match["name"]: match["body"]
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
    for match in re.finditer(
        r"^( *)(?:use rule \w+ as|rule) (?P<name>\w+)(?: with)?:\n(?P<body>(?:\1 +.*\n|\n)+)",
        path.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


@pytest.mark.parametrize(
    ("scale", "model", "path"),
    [
        ("cpu", "tiny", "cpu/models/tiny/manifest.json"),
        ("paper", "qwen2.5-math-1.5b", "models/qwen2.5-math-1.5b/manifest.json"),
    ],
)
def test_a_model_lies_with_its_scale_or_with_all(scale, model, path):
    assert model_manifest(Path("results"), scale, load_scale(scale), model) == Path("results") / path


def test_a_script_that_resolves_the_choices_again_has_its_tables_as_inputs():
    """Else an edited label in workflow/samplers.yaml leaves verdicts and report as they were."""
    resolving = {name: body for name, body in RULES.items() if "=CHOICES" in body and "output:" in body}
    assert {"judge_claims", "tabulate_deviations", "write_report", "export_provenance"} <= resolving.keys()
    assert {name for name, body in resolving.items() if "TABLES" not in body} == set()


def test_no_rule_plays_with_times():
    """What a job reads where it exists is a parameter by its content, and no file is dated back."""
    for path in (REPOSITORY / "workflow/rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        assert "st_mtime" not in text and "touch " not in text, path.name
