"""What was decided in several places, and came apart there, is decided in one.

Others of that kind stand with their subjects: the figures of a run (test_runs), hidden inputs and times (test_layout),
propositions (test_figures), limits of verl (test_verl_configuration), constants of EntropyMech (test_algorithms), what
a training records (test_contract).
"""

import ast
import re
from collections.abc import Iterator

import pytest
from test_layers import MODULES
from test_layout import RULES

from reproduction.algorithms import ALGORITHMS
from reproduction.data import adapters
from reproduction.data.schema import card_facts
from reproduction.figures import KINDS
from reproduction.training.contract import BY_STEP

RULE_OF = {"inference": "plot_study", "hyperparameters": "tabulate_hyperparameters"}


def nodes(
    kind: type[ast.AST], *, outside: tuple[str, ...] = (), inside: str = ""
) -> Iterator[tuple[str, ast.AST]]:
    for name, path in MODULES.items():
        if name.startswith(inside) and not name.startswith(outside):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, kind):
                    yield name, node


def constants(kind: type[ast.AST], *fields: str, **where) -> set[tuple[str, str]]:
    """Return module and text of the strings that ``fields`` of a kind of node hold."""
    return {
        (name, value.value)
        for name, node in nodes(kind, **where)
        for field in fields
        for value in (
            getattr(node, field) if isinstance(getattr(node, field), list) else [getattr(node, field)]
        )
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


def test_where_models_and_data_sets_lie():
    """The report looked below the scale's folder, and the paper scale's crate omitted every imported model."""
    spelt = constants(ast.BinOp, "right", outside=("reproduction.layout",), inside="reproduction.")
    assert not {(name, text) for name, text in spelt if text in ("models", "data")}
    assert ("reproduction.layout", "models") in constants(ast.BinOp, "right")


def test_how_a_data_card_is_read():
    """Report and MLflow each knew its two forms."""
    prepared = {"source": {"origin": "o"}, "rows": {"kept": 3}, "content_sha256": "c", "sha256": "f"}
    assert card_facts(prepared) == {"source": "o", "rows": 3, "sha256": "c", "of": "rows"}
    assert card_facts({"source": "s", "rows": 2, "sha256": "f"})["of"] == "file"
    forms = constants(ast.Compare, "left") | constants(ast.Subscript, "slice")
    readers = {name for name, text in forms if text == "content_sha256"}
    assert readers == {"reproduction.data.schema"}


def test_correct_responses_are_counted_by_one_function():
    """Figures, claims, report and MLflow each counted by problem; what writes a file of samples adds up that file."""
    counted = re.compile(r"""\["correct"\]\s*\.(?:sum|mean|agg)\b|\("correct", "(?:sum|count)"\)""")
    found = {name for name, path in MODULES.items() if counted.search(path.read_text(encoding="utf-8"))}
    assert found == {"reproduction.evaluation.samples", "reproduction.evaluation.responses"}


def test_the_metrics_of_a_step_are_computed_by_one_class():
    """Each engine computed its own."""
    shared = set(BY_STEP[: BY_STEP.index("loss")]) - {"entropy", "entropy_at_sampling_temperature"}
    spelt = constants(ast.Dict, "keys", inside="reproduction.")
    assert {name for name, text in spelt if text == "solved_by_any"} == {"reproduction.training.step_metrics"}
    assert not {(n, text) for n, text in spelt if n.startswith("reproduction.engines") and text in shared}


def test_a_loss_is_named_by_its_file():
    """Configuration, in-process engine, verl's keys and verl's constants each had a list of losses."""
    named = ALGORITHMS.keys() - {"clip"}  # an English word, too
    assert named >= {"clip_cov", "kl_cov", "gspo", "dr_grpo"}
    spelt = {
        (name, node.value)
        for name, node in nodes(ast.Constant, outside=("reproduction.algorithms", "ead.objective"))
        if isinstance(node.value, str) and node.value in named
    }
    assert spelt <= {("reproduction.engines.inprocess", "clip_cov")}  # the name of a random stream


def test_the_last_box_of_a_reference_is_read_as_that_of_a_response(monkeypatch):
    """Each had a grammar of its own."""
    monkeypatch.setattr(adapters.verifier, "last_boxed", lambda text: f"the verifier's of {text}")
    assert (
        adapters.last_boxed(r"so \boxed{1}, or \boxed{\frac{1}{2}}.")
        == r"the verifier's of \boxed{\frac{1}{2}}."
    )


# The report's page of them says it all.
@pytest.mark.parametrize("analysis", sorted(KINDS.keys() - {"deviations"}))
def test_the_report_and_snakemakes_fill_one_caption(analysis):
    rule = RULES[RULE_OF.get(analysis, "plot_figure")]
    assert f'caption="../report/{KINDS[analysis].caption_template}"' in rule
