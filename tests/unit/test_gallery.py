"""The verdicts in the project's README: what `make gallery` writes, and that it agrees with the gallery's table."""

import json
import sys

import pandas as pd
import pytest

from reproduction.claims import load_claims
from reproduction.config import REPOSITORY

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
    return make_gallery.ruled(pd.DataFrame(table), DECLARED, RUN | {"seeds": list(range(seeds))})


def test_the_summary_names_the_scale_and_counts_every_reading():
    text = make_gallery.summary(RUN, rows(C03_released="inconclusive", C19_printed="not reproduced"))
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
    page = make_gallery.page(RUN | {"seeds": [0]}, found, DECLARED, [])
    changed = sum(row["was"] == "reproduced" and row["verdict"] == "inconclusive" for row in found) + 1
    assert f"It turns {changed} of {len(found)} verdicts to inconclusive" in page
    assert "rule on seeds came after the run" in make_gallery.summary(RUN | {"seeds": [0]}, found)


def test_the_readings_of_a_claim_stand_side_by_side():
    page = make_gallery.page(
        RUN, rows(C03_released="not reproduced", C12_mirrored="inconclusive"), DECLARED, []
    )
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
    found = make_gallery.ruled(pd.read_csv(gallery / "claims.csv"), DECLARED, run)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert make_gallery.put(make_gallery.summary(run, found), readme) == readme
    table = make_gallery.page(run, found, DECLARED, []).partition("## Figures")[0]
    assert (gallery / "README.md").read_text(encoding="utf-8").startswith(table)


def test_text_is_put_between_the_marks_and_nowhere_else():
    first, last = make_gallery.MARKS
    assert make_gallery.put("new", f"a\n{first}\nold\n{last}\nb") == f"a\n{first}\n\nnew\n\n{last}\nb"
    with pytest.raises(ValueError, match="README lacks"):
        make_gallery.put("new", f"a\n{first}\n")


def test_the_schedule_is_drawn_small_enough_to_commit(tmp_path):
    make_gallery.draw_schedule(tmp_path / "schedule.png")
    assert 10_000 < (tmp_path / "schedule.png").stat().st_size < make_gallery.MAX_BYTES


def test_a_picture_of_an_earlier_run_says_so():
    page = make_gallery.page(RUN, rows(), DECLARED, [("fig04", "Curves"), ("real_lm_fig01", "Entropy")])
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
    lines = make_gallery.ranking(
        pd.DataFrame(table, columns=head), {"control": "τ = 1", "rival": "R", "late": "L"}, "control"
    )
    assert "Pass@16 (%)" in lines[0] and lines[1].count("---") == 7
    assert lines[2].startswith("| R | 65.0 | 5.0 [1.0, 9.0], p = 0.012 |")
    assert lines[3] == "| τ = 1 | 60.0 | control | control | 60.0 | control | control |"
    assert "Not run: L." in lines
    page = make_gallery.page(RUN, rows(), DECLARED, [("rivals", "Rivals")], {"rivals": lines})
    assert lines[2] in page and "Not of this run" not in page
    assert "beside an earlier run" in page
    page = make_gallery.page(RUN | {"asked_by_name": ["rivals"]}, rows(), DECLARED, [("rivals", "Rivals")])
    assert "beside the run" in page
    late = pd.DataFrame(table[-1:], columns=head)
    assert make_gallery.ranking(late, {}, "control") == ["Not run: late.", ""]
    alone = pd.DataFrame(table[4:], columns=head).assign(difference=float("nan"))
    assert make_gallery.ranking(alone, {}, "control")[2] == "| rival | 65.0 | – | – | 65.0 | – | – |"
