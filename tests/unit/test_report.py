"""The report: numbers as a reader sees them, and pages with parts missing."""

import json

import pytest

from reproduction import config, report
from reproduction.claims.words import what_would_change
from reproduction.config import Configuration
from reproduction.figures import load_experiments
from reproduction.training import warmstart

EXPERIMENTS = load_experiments()


def collect(tmp_path):
    configuration = Configuration(scale="mini", experiments=["fig04"])
    scale = config.load_scale("mini")
    return report.collect(
        configuration,
        scale,
        EXPERIMENTS,
        results=tmp_path / "results" / "mini",
        reports=tmp_path / "reports",
        ingested=tmp_path / "ingested.json",
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (19.0, "19"), (-0.5, "−0.5"), (800000, "800,000"), (1.12855, "1.13")],
)
def test_numbers_are_written_for_a_reader(value, text):
    assert report.number(value) == text


def test_percentage_points_are_recorded_as_shares():
    assert report.amount(-0.0123, "percentage points") == "−1.2"
    assert report.amount(0.0123, "nats") == "0.0123"
    assert (report.amount(0.0617, "share of problems"), report.unit_label("share of problems")) == (
        "6.2",
        "% of problems",
    )
    assert report.amount(float("inf"), "tokens") == "never"


def test_figures_have_the_papers_names():
    names = ["fig04", "fig11b", "table1", "propositions", "real_lm_fig01"]
    labels = ["Figure 4", "Figure 11b", "Table 1", "propositions", "real_lm_fig01"]
    assert [report.figure_label(name) for name in names] == labels


def test_nothing_has_run_and_the_page_says_so_everywhere(tmp_path):
    values = collect(tmp_path)
    assert {row["status"] for row in values["runs"]} == {"not run"}
    page = report.render("report.html", **values)
    for figure, experiment in EXPERIMENTS.items():
        if experiment.section in report.SECTIONS:
            assert f"<b>{figure}</b> has not been drawn" in page
    for words in (
        "The claims have not been judged",
        "The deviations have not been computed",
        "<b>table1</b>",
        "How cost grows has not been drawn",
    ):
        assert words in page


def test_every_experiment_has_a_place_on_the_page(tmp_path):
    shown = {figure["name"] for section in collect(tmp_path)["sections"] for figure in section["figures"]}
    assert shown | {"deviations"} == set(EXPERIMENTS)


def test_a_claim_stands_in_the_table_with_its_reason_and_is_escaped(tmp_path):
    row = dict.fromkeys(("margin", "margin_reason", "minimum_detectable_effect"))
    row |= {
        **{
            "id": "C03",
            "claim": "a < b",
            "figure": "fig04",
            "reading": "printed",
            "reading_label": "as printed",
        },
        **{
            "models": "115k-parameter model (tiny) in the role of Llama-3.2-1B-Instruct",
            "verdict": "inconclusive",
            "verdict_in_full": "inconclusive",
            "reason": "a gate & more",
            "quantity": "q",
            "test": "t",
        },
        **{"unit": "percentage points", "components": [], "gates": [], "missing": ["x"], "evidence": []},
    }
    row |= {"effect": 0.012, "low": -0.01, "high": 0.03, "problems": 200, "seeds": 1}
    row |= {"p_adjusted": 0.2, "p_against_adjusted": 0.9, "seeds_needed": 1}
    row |= {"seeds_alone": 5, "seeds_corrected": None, "spread": "assumed"}
    released = row | {"reading": "released", "reading_label": "released sampler"}
    released |= {
        "verdict": "not reproduced",
        "verdict_in_full": "not reproduced",
        "effect": -0.07,
        "low": None,
    }
    few = {"verdict": "inconclusive", "verdict_in_full": "inconclusive (1 seed, 3 needed)", "seeds_needed": 3}
    other = row | few | {"reading": "mirrored", "reading_label": "mirrored (D02)"}
    claims = {
        "alpha": 0.05,
        "power": 0.8,
        "between_seeds": "a <source>",
        "gates": {},
        "verdicts": [row, released, other],
    }
    claims["family"] = {"correction": "Holm", "sizes": {"printed": 18}}
    readings = ("printed", "released", "mirrored")
    claims["counts"] = {name: dict.fromkeys(report.VERDICTS, 1) for name in readings}
    claims["readings"] = {name: {"label": name, "about": f"about {name}"} for name in readings}
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "claims.json").write_text(json.dumps(claims))
    page = report.render("report.html", **collect(tmp_path))
    assert "a &lt; b" in page and "a gate &amp; more" in page
    assert 'href="#C03"' in page and 'id="C03"' in page and 'href="#fig04"' in page
    (line, *_) = [line for line in page.split("<tr>") if 'href="#C03">C03' in line]
    assert "in the role of Llama-3.2-1B-Instruct" in line
    assert line.index("1.2 [−1.0, 3.0]") < line.index("−7.0")  # both readings in one row
    assert line.index("−7.0") < line.index("mirrored (D02)") < line.index("inconclusive (1 seed, 3 needed)")
    power = page.partition('<section id="power"')[2].partition("</section>")[0]
    assert (
        power.count('<td class="n">5</td><td class="n">–</td><td>assumed</td>') == 3
        and "a &lt;source&gt;" in power
    )
    assert "primary" not in page and "about released" in page
    assert page.count("What would change it:") == 3 and "Training seeds: 3 at least" in page
    assert "are 0.2 for it and 0.9 against it" in page
    # `claims_so_far` writes under a name of its own, which the report shows where there is nothing else.
    (tmp_path / "reports" / "claims.json").rename(tmp_path / "reports" / "claims_so_far.json")
    assert 'id="C03"' in report.render("report.html", **collect(tmp_path))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"verdict": "not run"}, "missing runs"),
        ({"gates": [{"gate": "timeouts"}]}, "Healthy runs"),
        ({"p_adjusted": None}, "distribution on which the proposition fails"),
        ({"verdict": "reproduced"}, "rises above 0.05"),
        ({"verdict": "inconclusive", "seeds": 1}, "Training seeds: 3 at least"),
        ({"verdict": "not reproduced"}, "on the claimed side"),
        ({"verdict": "inconclusive"}, "narrow the interval"),
    ],
)
def test_a_reviewer_reads_what_would_change_a_verdict(row, words):
    row = {
        "verdict": "reproduced",
        "gates": [],
        "p_adjusted": 0.01,
        "p_against_adjusted": 1.0,
        "seeds": 3,
        "seeds_needed": 3,
    } | row
    assert words in what_would_change(row, {"alpha": 0.05})


def test_a_template_that_names_what_is_not_there_is_an_error(tmp_path):
    values = collect(tmp_path)
    del values["health"]
    with pytest.raises(Exception, match="'health' is undefined"):
        report.render("report.html", **values)


def test_cards_of_generated_and_of_prepared_data_are_shown(tmp_path):
    """Two forms: reproduction.tasks.countdown's, and reproduction.data.prepare's, which counts what it dropped."""
    generated = {"rows": 20, "source": "generated", "sha256": "ab" * 32}
    prepared = {"rows": {"read": 9, "kept": 7, "dropped": 2}, "source": {"origin": "a < b"}}
    prepared["content_sha256"] = "cd" * 32
    for folder, name, card in (("mini/data", "countdown_test", generated), ("data", "gsm8k_test", prepared)):
        (tmp_path / "results" / folder).mkdir(parents=True)
        (tmp_path / "results" / folder / f"{name}.card.json").write_text(json.dumps(card))
    page = report.render("report.html", **collect(tmp_path))
    assert "ab" * 32 + "</code> (file)" in page and "cd" * 32 + "</code> (rows)" in page
    assert '<td class="n">7</td><td>a &lt; b</td>' in page


def test_a_model_is_shown_with_where_it_comes_from(tmp_path):
    manifest = tmp_path / "results" / "mini" / "models" / "tiny" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"parameters": 7, "source": warmstart.PUBLISHED, "sha256": "ef" * 32}))
    page = report.render("report.html", **collect(tmp_path))
    assert f"<td>{warmstart.PUBLISHED}" in page and "ef" * 32 in page


def test_the_papers_own_curves_stand_beside_a_figure_that_is_drawn(tmp_path):
    (tmp_path / "reports" / "figures").mkdir(parents=True)
    (tmp_path / "reports" / "figures" / "fig08.png").write_bytes(b"ours")
    (tmp_path / "reports" / "figures" / "fig08.csv").write_text("problems\n20\n")
    page = report.render("report.html", **collect(tmp_path))
    assert page.count("The paper's own curves of") == 1 and "The paper's own curves of Figure 8" in page
