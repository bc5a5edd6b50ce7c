"""Evidence that can be checked without running: what is exported judges as results do, and is refused if changed."""

import json
import sys

import pandas as pd
import pytest
import yaml
from test_claims import World, right_chances, right_training, write_inference

from reproduction.claims import Exported, ResultsFolder, export, judge, load_claims
from reproduction.config import REPOSITORY
from reproduction.files import sha256_of_file, write_json, write_parquet

sys.path.insert(0, str(REPOSITORY / "scripts"))
import export_evidence
import judge_evidence

# The stress test's claim, those of the larger model, and one that reads an inference analysis: all kinds of evidence.
NAMES = ("C01", "C06", "C11", "C15", "C17", "C18")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two seeds of a planted world; the runs of C18 are missing."""
    world = World(
        tmp_path_factory.mktemp("evidence"),
        right_chances,
        right_training,
        seeds=(0, 1),
        only=lambda run: run.model in ("hard", "medium") and run.n == 4 and run.algorithm == "dapo",
    )
    write_inference(world.folder / "analyses", 1)
    # EAD's Majority@N three points below that of the fixed temperature: at least as good by some margins only.
    path = world.folder / "analyses" / "fig09_problems.parquet"
    scores = pd.read_parquet(path)
    scores.loc[scores["decoder"] == "ead", "maj_at_k"] -= 0.13
    write_parquet(scores, path)
    write_json(world.folder / "models/medium/manifest.json", {"parameters": 371712, "sha256": "0" * 64})
    return world


@pytest.fixture(scope="module")
def judged(world):
    return judge(declared(), ResultsFolder(world.folder), world.configuration, world.scale)


@pytest.fixture
def evidence(world, judged, tmp_path):
    folder = tmp_path / "reports/evidence/mini"
    export(declared(), judged, ResultsFolder(world.folder), world.configuration, folder)
    return folder


def declared(**changes):
    claims = load_claims(changes={"replicates": 2000, **changes})
    return claims.model_copy(update={"claims": {name: claims.claims[name] for name in NAMES}})


def test_what_is_exported_gives_claims_json_to_the_last_digit(world, judged, evidence):
    kinds = {row["id"]: row["verdict_in_full"] for row in judged["verdicts"]}
    assert kinds["C01"] == "reproduced" and kinds["C18"] == "not run"
    assert kinds["C15"] == "inconclusive (2 seeds, 3 needed)"
    again = judge(declared(), Exported(evidence), Exported(evidence).configuration, world.scale)
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(judged))
    assert sum(path.stat().st_size for path in evidence.iterdir()) < 3_000_000


def test_counts_are_those_of_the_samples(world, evidence):
    counts = pd.read_parquet(evidence / "counts.parquet")
    run = world.run("ead_d0_500_alpha_50", model="hard").name
    samples = pd.read_parquet(world.folder / f"evaluations/{run}/step_40/tau1.0/countdown_test.parquet")
    chosen = counts[(counts.subject == run) & (counts.decoder == "tau1.0") & (counts.step == 40)]
    assert chosen.set_index("problem").correct.to_dict() == samples.groupby("problem").correct.sum().to_dict()


@pytest.mark.parametrize("name", ["counts.parquet", "records.json", "claims.json", "fig01_problems.parquet"])
def test_a_changed_byte_and_a_lost_file_are_refused_by_name(evidence, name):
    content = bytearray((evidence / name).read_bytes())
    content[len(content) // 2] ^= 1
    (evidence / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: missing or changed"):
        Exported(evidence)
    (evidence / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: missing or changed"):
        Exported(evidence)


def test_a_sample_file_that_changed_is_not_exported(world, judged, tmp_path):
    file = next((world.folder / "evaluations").rglob("step_40/greedy/*.parquet"))
    content = file.read_bytes()
    try:
        file.write_bytes(content + b" ")
        with pytest.raises(ValueError, match="missing or changed"):
            export(
                declared(), judged, ResultsFolder(world.folder), world.configuration, tmp_path / "evidence"
            )
    finally:
        file.write_bytes(content)
    assert not (tmp_path / "evidence").exists()


def test_results_of_another_run_are_refused_and_the_evidence_stays(
    evidence, judged, tmp_path, monkeypatch, capsys
):
    """A folder without what the verdicts rest on would replace good evidence by an empty set."""
    reports, results = tmp_path / "reports/mini", tmp_path / "results/other"
    write_json(reports / "claims.json", judged)
    before = {path.name: path.read_bytes() for path in evidence.iterdir()}
    given = {"--results": results, "--reports": reports, "--evidence": evidence}
    monkeypatch.setattr(
        sys, "argv", ["export_evidence.py", *(str(part) for pair in given.items() for part in pair)]
    )
    assert export_evidence.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    first = next(each["path"] for row in judged["verdicts"] for each in row["evidence"])
    assert line.startswith(f"{results}: no {first}") and "--results" in line
    assert {path.name: path.read_bytes() for path in evidence.iterdir()} == before


def run_script(monkeypatch, capsys, evidence, changes=""):
    monkeypatch.setattr(sys, "argv", ["judge_evidence.py", "--evidence", str(evidence), "--changes", changes])
    status = judge_evidence.main()
    return status, *capsys.readouterr()


def test_another_margin_or_number_of_seeds_changes_the_verdicts_that_hang_on_it(
    evidence, monkeypatch, capsys
):
    monkeypatch.setattr(judge_evidence, "load_claims", lambda changes: declared(**(changes or {})))
    status, out, _ = run_script(monkeypatch, capsys, evidence)
    assert status == 0 and ", 0 differ from the run" in out
    for changes, name, verdicts in (
        ({"seeds": 2}, "C15", "reproduced   (of the run: inconclusive (2 seeds, 3 needed))"),
        (
            {"margins": {"pass_gain": {"scales": {"mini": 0.1}}}},
            "C11",
            "reproduced   (of the run: inconclusive)",
        ),
    ):
        status, out, _ = run_script(monkeypatch, capsys, evidence, yaml.safe_dump(changes))
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} printed")]
        assert status == 0 and line.split(maxsplit=2)[2] == verdicts
    status, _, err = run_script(monkeypatch, capsys, evidence, "{margins: {pass_gian: 1}}")
    assert status == 1 and "pass_gian" in err


def test_a_verdict_that_the_evidence_does_not_give_is_an_error(evidence, monkeypatch, capsys):
    monkeypatch.setattr(judge_evidence, "load_claims", lambda changes: declared(**(changes or {})))
    claims = json.loads((evidence / "claims.json").read_text(encoding="utf-8"))
    claims["verdicts"][0]["verdict_in_full"] = "not reproduced"
    write_json(evidence / "claims.json", claims)
    hashes = json.loads((evidence / "manifest.json").read_text(encoding="utf-8"))
    write_json(evidence / "manifest.json", hashes | {"claims.json": sha256_of_file(evidence / "claims.json")})
    status, out, _ = run_script(monkeypatch, capsys, evidence)
    assert status == 1 and "(of the run: not reproduced)" in out


def test_where_there_is_no_evidence_the_script_says_what_makes_it(tmp_path, monkeypatch, capsys):
    status, _, err = run_script(monkeypatch, capsys, tmp_path)
    assert status == 1 and "`make evidence`, makes it in reports" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("abc", "--changes: expected a mapping (key: value)"),
        ("[1, 2]", "--changes: expected a mapping (key: value)"),
        ("{seeds: [", "--changes: not valid YAML"),
        ("{seeds: 1, seeds: 2}", "--changes: not valid YAML"),
        ("{margin: {}}", "did you mean 'margins'?"),
    ],
)
def test_changes_that_cannot_be_read_are_one_line(tmp_path, monkeypatch, capsys, changes, said):
    status, _, err = run_script(monkeypatch, capsys, tmp_path, changes)
    (line,) = err.splitlines()
    assert status == 1 and said in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            "{readings: {printed: {samplers: {ead: aed}}}}",
            "claims.yaml: readings.printed.samplers: unknown sampler 'aed'",
        ),
        (
            "{readings: {printed: {decoder: tau9}}}",
            "claims.yaml: readings.printed.decoder: unknown decoder 'tau9'",
        ),
        (
            "{readings: {printed: {metrics: {entropy: entropi}}}}",
            "claims.yaml: readings.printed.metrics: unknown metric 'entropi'",
        ),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_changes_that_name_what_nothing_defines_are_one_line(monkeypatch, capsys, changes, said, beside):
    folder = str(REPOSITORY / "reports/evidence/cpu")
    further = ["--beside", folder] if beside else []
    monkeypatch.setattr(
        sys, "argv", ["judge_evidence.py", "--evidence", folder, "--changes", changes, *further]
    )
    assert judge_evidence.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
