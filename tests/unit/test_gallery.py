"""The verdicts in the project's README: what `make gallery` writes, and that it agrees with the gallery's table."""

import json
import shutil
import sys

import pandas as pd
import pytest
from PIL import Image

from reproduction.claims import load_claims
from reproduction.config import REPOSITORY
from reproduction.files import put_between
from reproduction.report import gallery as gallery_of_run
from reproduction.report.gallery import pages, pictures

sys.path.insert(0, str(REPOSITORY / "scripts"))
import make_gallery

RUN = {
    **{
        "scale": "cpu",
        "description": "two CPU cores",
        "commit": "abc",
        "state": "clean",
        "seeds": [0, 1, 2],
        "alpha": 0.05,
    },
    **{
        "cores": 2,
        "machine": "m",
        "python": "3.11",
        "configuration": {"overrides": {}, "experiments": ["fig04"]},
        "parameters": {"tiny": 114560},
    },
}
DECLARED = load_claims()


def rows(seeds: int = 3, **verdicts) -> list[dict]:
    """The verdicts of a run, by `C03_released="inconclusive"`; the rest is reproduced."""
    table = [
        {
            **{"id": name, "reading": reading, "unit": "share of problems", "low": 0.01, "high": 0.03},
            **{
                "verdict": verdicts.get(f"{name}_{reading}", "reproduced"),
                "effect": 0.02,
                "boundary": -0.05 if reading == "mirrored" else 0.0,
                "problems": 200,
                "sample_unit": "problems",
            },
            "seeds": seeds if claim.about_trainings else None,
        }
        for name, claim in DECLARED.claims.items()
        for reading in claim.readings
    ]
    return pages.ruled(pd.DataFrame(table), DECLARED, RUN | {"seeds": list(range(seeds))})


def test_the_summary_names_the_scale_and_counts_every_reading():
    text = pages.summary(RUN, rows(C03_released="inconclusive", C19_printed="not reproduced"))
    said = " ".join(text.split())
    assert "`cpu` scale (two CPU cores; 3 training seeds)" in said
    assert "With the formula as printed, C03 and C04 are reproduced." in said
    assert "With the sampler as released, C03 is inconclusive and C04 is reproduced." in said
    assert "| 20 claims, formula as printed | 19 | 1 | 0 | 0 |" in text
    assert "| 11 claims, sampler as released | 10 | 0 | 1 | 0 |" in text
    assert "| 4 claims, greedy re-evaluation | 4 | 0 | 0 | 0 |" in text
    assert "rule on seeds" not in text
    assert "on Llama" not in text and max(map(len, text.splitlines())) <= 120


def test_the_rule_on_seeds_turns_verdicts_on_trainings_to_inconclusive_and_no_others():
    found = rows(seeds=1, C02_printed="inconclusive", C03_printed="not reproduced", C04_printed="not run")
    for row in found:
        if DECLARED.claims[row["id"]].about_trainings and row["was"] != "not run":
            assert (row["verdict"], row["verdict_in_full"]) == (
                "inconclusive",
                "inconclusive (1 seed, 3 needed)",
            )
        else:
            assert row["verdict_in_full"] == row["verdict"] == row["was"]
    assert next(row for row in found if row["id"] == "C03")["was"] == "not reproduced"
    page = pages.page(RUN | {"seeds": [0]}, found, DECLARED, [])
    changed = sum(row["was"] == "reproduced" and row["verdict"] == "inconclusive" for row in found) + 1
    assert f"It turns {changed} of {len(found)} verdicts to inconclusive" in page
    assert "rule on seeds came after the run" in pages.summary(RUN | {"seeds": [0]}, found)


def test_the_readings_of_a_claim_stand_side_by_side():
    page = pages.page(RUN, rows(C03_released="not reproduced", C12_mirrored="inconclusive"), DECLARED, [])
    (line,) = (line for line in page.splitlines() if line.startswith("| C03"))
    number, claim, printed, released, greedy, other = (cell.strip() for cell in line.strip("|").split("|"))
    assert "115k-parameter model (tiny) in the role of Llama-3.2-1B-Instruct" in claim
    assert printed == greedy == "**reproduced**: 2.0 [1.0, 3.0] % of problems, 200 problems"
    assert released.startswith("**not reproduced**") and other == "–"
    (line,) = (line for line in page.splitlines() if line.startswith("| C12"))
    assert (
        "| mirrored (D02): **inconclusive**: 2.0 [1.0, 3.0] % of problems against −5.0, 200 problems" in line
    )
    assert "and the first one counts" not in page and "rule came after" not in page


def test_the_committed_pages_are_those_of_the_committed_verdicts():
    gallery = REPOSITORY / "reports" / "gallery"
    run = json.loads((gallery / "run.json").read_text(encoding="utf-8"))
    found = pages.ruled(pd.read_csv(gallery / "claims.csv"), DECLARED, run)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert put_between(readme, "verdicts", "make gallery", pages.summary(run, found)) == readme
    table = pages.page(run, found, DECLARED, []).partition("## Figures")[0]
    assert (gallery / "README.md").read_text(encoding="utf-8").startswith(table)


def test_the_schedule_is_drawn_small_enough_to_commit(tmp_path):
    pictures.draw_schedule(tmp_path / "schedule.png")
    assert 10_000 < (tmp_path / "schedule.png").stat().st_size < pictures.MAX_BYTES


def test_a_picture_of_an_earlier_run_says_so():
    page = pages.page(RUN, rows(), DECLARED, [("fig04", "Curves"), ("real_lm_fig01", "Entropy")])
    _, drawn, earlier = page.split("\n### ")
    assert drawn.startswith("fig04") and "Not of this run" not in drawn
    assert earlier.startswith("real_lm_fig01") and "Not of this run" in earlier


def test_the_ranking_of_rivals_is_a_table_with_the_best_first():
    head = ["sampler", "cost", "metric", "rank", "value", "difference", "difference_low", "difference_high"]
    head += ["p_holm", "samples", "status"]
    table = [
        [
            *(sampler, cost, metric, rank, value),
            *(difference, difference and low, difference and high),
            p,
            16,
            "finished",
        ]
        for sampler, rank, value, difference, low, high, p in (
            ("control", 2, 0.6, None, None, None, None),
            ("rival", 1, 0.65, 0.05, 0.01, 0.09, 0.012),
        )
        for cost in ("steps", "tokens")
        for metric in ("pass_at_k", "pass_at_1")
    ]
    table.append(["late", *[None] * 9, "not run"])
    lines = pages.ranking(
        pd.DataFrame(table, columns=head), {"control": "τ = 1", "rival": "R", "late": "L"}, "control"
    )
    assert "Pass@16 (%)" in lines[0] and lines[1].count("---") == 7
    assert lines[2].startswith("| R | 65.0 | 5.0 [1.0, 9.0], p = 0.012 |")
    assert lines[3] == "| τ = 1 | 60.0 | control | control | 60.0 | control | control |"
    assert "Not run: L." in lines
    page = pages.page(RUN, rows(), DECLARED, [("rivals", "Rivals")], {"rivals": lines})
    assert lines[2] in page and "Not of this run" not in page
    assert "beside an earlier run" in page
    page = pages.page(RUN | {"asked_by_name": ["rivals"]}, rows(), DECLARED, [("rivals", "Rivals")])
    assert "beside the run" in page
    late = pd.DataFrame(table[-1:], columns=head)
    assert pages.ranking(late, {}, "control") == ["Not run: late.", ""]
    alone = pd.DataFrame(table[4:], columns=head).assign(difference=float("nan"))
    assert pages.ranking(alone, {}, "control")[2] == "| rival | 65.0 | – | – | 65.0 | – | – |"


RIVALS = (
    "sampler,cost,metric,rank,value,low,high,difference,difference_low,difference_high,p_holm,seeds,problems,samples,"
    "status\n"
) + "".join(
    f"{sampler},{cost},{metric},{rank},0.5,0.4,0.6,{difference},3,250,16,finished\n"
    for sampler, rank, difference in (("tau1.0", 1, ",,,"), ("tau0.6", 2, "-0.1,-0.2,0.1,1"))
    for cost in ("steps", "tokens")
    for metric in ("pass_at_k", "pass_at_1")
)
TUNING = "rival,sampler,metric,chosen,value,status\nfixed,tau0.6,pass_at_k,True,0.7,finished\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Reports of a run in a folder, as far as the gallery reads them, and a gallery that is made of them."""
    folder = tmp_path_factory.mktemp("made")
    reports, gallery = folder / "reports", folder / "gallery"
    (reports / "figures").mkdir(parents=True)
    nested = {
        "components": [{"label": "a − b", "decisive": True}],
        "gates": [],
        "missing": [],
        "evidence": [],
    }
    sign = {"run": "model~tiny/algorithm~dapo/sampler~ead/n~4/seed~0", "sign": "low_entropy", "first_step": 3}
    judged = {key: RUN[key] for key in ("scale", "description", "seeds", "alpha", "parameters")}
    judged |= {"confidence": 0.95, "seeds_by_experiment": {}}
    judged["verdicts"] = [row | nested | {"signs": [sign]} for row in rows()]
    (reports / "claims.json").write_text(json.dumps(judged))
    value = json.dumps(RUN["configuration"])
    crate = [{"@id": "#code", "version": "abc", "description": "as committed"}]
    crate.append({"@id": "#configuration", "value": value})
    (reports / "ro-crate-metadata.json").write_text(json.dumps({"@graph": crate}))
    (reports / "figures" / "rivals.csv").write_text(RIVALS)
    (reports / "figures" / "rivals_tuning.csv").write_text(TUNING)
    for name in ("fig04.png", "rivals.png"):
        Image.new("RGB", (9, 9)).save(reports / "figures" / name)
    gallery_of_run.make(reports, gallery, None)
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A copy to break."""
    return shutil.copytree(made, tmp_path / "world")


def test_a_gallery_that_is_made_again_is_the_same(world):
    page = (world / "gallery" / "README.md").read_text()
    for words in ("low entropy from step 3 on (ead of tiny", "| sampler | Pass@16 (%)", "### fig04"):
        assert words in page
    run = json.loads((world / "gallery" / "run.json").read_text())
    assert run["commit"] == "abc" and run["asked_by_name"] == ["rivals_tuning", "rivals"]
    gallery_of_run.make(None, world / "gallery", None)
    assert (world / "gallery" / "README.md").read_text() == page


def without(column):
    def change(text):
        lines = text.splitlines()
        place = lines[0].split(",").index(column)
        return "".join(
            ",".join(line.split(",")[:place] + line.split(",")[place + 1 :]) + "\n" for line in lines
        )

    return change


def put_in(text, **values):
    return json.dumps(json.loads(text) | values)


BROKEN = [
    ("reports/claims.json", lambda text: "", "claims.json: not JSON: Expecting value: line 1 column 1"),
    ("reports/claims.json", lambda text: text[:-90], "claims.json: not JSON"),
    ("reports/claims.json", lambda text: "[1]", "claims.json: (top level): Input should be a mapping"),
    (
        "reports/claims.json",
        lambda text: put_in(text, alpha="x"),
        "claims.json: alpha: Input should be a valid",
    ),
    (
        "reports/claims.json",
        lambda text: put_in(text, verdicts=[]),
        "claims.json: verdicts: List should have",
    ),
    (
        "reports/claims.json",
        lambda text: text.replace('"unit"', '"unti"', 1),
        "claims.json: the key 'verdicts.0.unit' is missing",
    ),
    ("reports/claims.json", lambda text: text.replace('"C03"', '"C33"'), "unknown claim 'C33' (did you mean"),
    (
        "reports/ro-crate-metadata.json",
        lambda text: text.replace("#code", "code"),
        "metadata.json: @graph: the key '#code' is missing",
    ),
    ("reports/figures/rivals.csv", lambda text: "", "rivals.csv: an empty file"),
    ("reports/figures/rivals.csv", without("difference"), "rivals.csv: the column 'difference' is missing"),
    (
        "reports/figures/rivals.csv",
        lambda text: text[: text.index("tau0.6") + 20],
        "rivals.csv: line 6: 3 values",
    ),
    ("reports/figures/rivals.csv", lambda text: text[:-1], "rivals.csv: line 9: cut short"),
    ("reports/figures/rivals.csv", lambda text: text + '"', "not CSV: unexpected end of data"),
    (
        "reports/figures/rivals.csv",
        lambda text: text.replace(",0.5,", ",O.5,", 1),
        "rivals.csv: line 2: value: Input should be a valid number, unable to parse",
    ),
    (
        "reports/figures/rivals.csv",
        lambda text: text.replace("tau0.6,tokens", "tau0.6,token", 1),
        "rivals.csv: 0 rows have a value of pass_at_k at equal tokens for the sampler 'tau0.6'",
    ),
    (
        "reports/figures/rivals_tuning.csv",
        without("chosen"),
        "rivals_tuning.csv: the column 'chosen' is missing",
    ),
    ("reports/figures/rivals_tuning.csv", lambda text: "\x89PNG", "rivals_tuning.csv: not UTF-8 text"),
    ("reports/figures/fig04.png", lambda text: "no picture", "fig04.png: no whole picture"),
    ("gallery/claims.csv", lambda text: text[:3000], "claims.csv: line"),
    ("gallery/claims.csv", without("id"), "claims.csv: the column 'id' is missing"),
    (
        "gallery/claims.csv",
        lambda text: text.replace(",reproduced", ",repro", 1),
        "line 2: verdict: Input should be",
    ),
    (
        "gallery/run.json",
        lambda text: put_in(text, configuration={}),
        "the key 'configuration.overrides' is missing",
    ),
]


@pytest.mark.parametrize(("name", "change", "words"), BROKEN, ids=[words for _, _, words in BROKEN])
def test_a_broken_file_is_named_before_anything_is_written(world, monkeypatch, capsys, name, change, words):
    (world / name).write_text(change((world / name).read_text("latin-1")), "latin-1")
    given = ["--reports", str(world / "reports")] if name.startswith("reports") else []
    monkeypatch.setattr(sys, "argv", ["make_gallery.py", *given, "--gallery", str(world / "gallery")])
    before = {path: path.read_bytes() for path in (world / "gallery").iterdir()}
    assert make_gallery.main() == 1
    said = capsys.readouterr().err
    assert words in said and str(world / name) in said and "Nothing was written. `" in said
    assert {path: path.read_bytes() for path in (world / "gallery").iterdir()} == before


def test_a_missing_file_and_a_readme_without_marks_are_named_before_anything_is_written(
    world, monkeypatch, capsys
):
    (world / "README.md").write_text("no marks")
    before = {path: path.stat().st_mtime_ns for path in (world / "gallery").iterdir()}
    given = ["--reports", str(world / "reports"), "--gallery", str(world / "gallery")]
    monkeypatch.setattr(sys, "argv", ["make_gallery.py", *given, "--readme", str(world / "README.md")])
    assert make_gallery.main() == 1
    assert "the page lacks" in capsys.readouterr().err
    (world / "reports" / "claims.json").unlink()
    assert make_gallery.main() == 1
    assert "claims.json: no such file\nNothing was written. `make reproduce`" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (world / "gallery").iterdir()} == before
