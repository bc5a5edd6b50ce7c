"""The verdicts in the project's README: what `make gallery` writes, and that it agrees with the gallery's table."""

import re
import sys

import pytest

from reproduction.claims import load_claims
from reproduction.config import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
import make_gallery


def judged(**verdicts) -> dict:
    """claims.json as far as the summary reads it: ``C03_released="inconclusive"``; the rest is reproduced."""
    declared = load_claims()
    rows = [
        {
            "id": name,
            "reading": reading,
            "primary": declared.is_primary(name, reading),
            "verdict": verdicts.get(f"{name}_{reading}", "reproduced"),
            "seeds": None if claim.numeric else 1,
        }
        for name, claim in declared.claims.items()
        for reading in claim.readings
    ]
    return {"scale": "cpu", "description": "two CPU cores", "verdicts": rows}


def test_the_summary_names_the_scale_and_counts_both_readings():
    text = make_gallery.summary(judged(C03_released="inconclusive", C19_printed="not reproduced"))
    said = " ".join(text.split())
    assert "`cpu` scale (two CPU cores; 1 training seed)" in said
    assert "With the formula as printed, C03 and C04 are reproduced." in said
    assert "With the sampler as released, C03 is inconclusive and C04 is reproduced." in said
    assert "| 20 claims, formula as printed | 19 | 1 | 0 | 0 |" in text
    assert re.search(r"\| 11 claims, sampler as released \| 10 \| 0 \| 1 \| 0 \|", text)
    assert "on Llama" not in text and max(map(len, text.splitlines())) <= 120


def test_the_readme_shows_the_counts_of_the_committed_gallery():
    table = (REPOSITORY / "reports" / "gallery" / "README.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| C")
    ]
    known = {claim.claim for claim in load_claims().claims.values()}
    released = load_claims().readings["released"].label
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for reading, chosen in (
        ("formula as printed", [row for row in rows if row[1] in known]),
        ("sampler as released", [row for row in rows if row[1] == released]),
    ):
        verdicts = [row[3] for row in chosen]
        counts = " | ".join(str(verdicts.count(verdict)) for verdict in make_gallery.VERDICTS)
        assert f"| {len(chosen)} claims, {reading} | {counts} |" in readme


def test_text_is_put_between_the_marks_and_nowhere_else():
    first, last = make_gallery.MARKS
    assert make_gallery.put("new", f"a\n{first}\nold\n{last}\nb") == f"a\n{first}\n\nnew\n\n{last}\nb"
    with pytest.raises(ValueError, match="README lacks"):
        make_gallery.put("new", f"a\n{first}\n")


def test_the_schedule_is_drawn_small_enough_to_commit(tmp_path):
    make_gallery.draw_schedule(tmp_path / "schedule.png")
    assert 10_000 < (tmp_path / "schedule.png").stat().st_size < make_gallery.MAX_BYTES
