"""The rivals' tuning and ranking against hand computation, from made-up results."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ead import statistics
from evaluations import write_evaluation
from reproduction.config import REPOSITORY, WORKFLOW, Configuration, load_scale
from reproduction.config.runs import expand
from reproduction.evaluation.samples import correct_counts
from reproduction.figures import KINDS, load_experiments
from reproduction.figures.tuning import of_problems
from reproduction.files import write_json, write_parquet

PROBLEMS, SAMPLES, STEPS = 20, 4, 4
RIVALS = {"fixed": ["tau0.6", "tau1.2"], "ead": ["ead", "ead_released"]}


def write_run(folder, lengths):
    columns = {
        "step": np.arange(1, STEPS + 1),
        "response_length_mean": lengths,
        "entropy": np.linspace(1.0, 0.4, STEPS),
        "entropy_at_sampling_temperature": 0.5,
        "equal_reward_groups": 0.25,
        "importance_effective_sample_share": 0.9,
        "gradient_norm": 1.0,
    }
    write_parquet(pd.DataFrame(columns), folder / "metrics.parquet")
    write_json(folder / "manifest.json", {"status": "finished"})


class World:
    def __init__(self, folder):
        experiments = load_experiments()
        self.runs, self.evaluations = folder / "runs", folder / "evaluations"
        self.scale = load_scale("mini")
        self.tuning = experiments["rivals_tuning"].model_copy(update={"rivals": RIVALS})
        chosen = {"fixed": "tau0.6", "ead": "ead"}
        self.rivals = experiments["rivals"].model_copy(update={"chosen": chosen})
        self.seeds = Configuration(scale="mini", seeds=[0, 1, 2])
        rng = np.random.default_rng(0)
        self.correct = {}
        write_evaluation(self.evaluations / "model~small", {0: rng.random((PROBLEMS, SAMPLES)) < 0.2})
        better = {"tau0.6": 0.3, "tau1.0": 0.4, "tau1.2": 0.45, "ead": 0.9, "ead_released": 0.6}
        for figure in (self.tuning, self.rivals):
            for name, run in expand(self.seeds, self.scale, figure).items():
                self.correct[name] = {
                    step: rng.random((PROBLEMS, SAMPLES)) < better[run.sampler] * step / 4 for step in (2, 4)
                }
                write_evaluation(self.evaluations / name, self.correct[name])
                # EAD's responses are twice as long, so at equal tokens it has taken half of its steps.
                write_run(self.runs / name, np.full(STEPS, 20.0 if run.sampler == "ead" else 10.0))

    def estimate(self, figure, partial=False):
        request = figure.estimation(self.scale, expand(self.seeds, self.scale, figure), 0)
        kind = KINDS[request.pop("analysis")]
        return kind.estimate(**request, runs=self.runs, evaluations=self.evaluations, partial=partial)

    def drawn(self, figure, table):
        return figure.plot(table, figure.drawing("x", self.scale, expand(self.seeds, self.scale, figure)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def only(table, **values):
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def test_the_problems_that_tune_and_those_that_rank_are_two_halves(world):
    counts = correct_counts(world.evaluations / "model~small" / "manifest.json")
    halves = [of_problems(counts, tuning=tuning)["pass_at_1"] for tuning in (True, False)]
    expected = counts.set_index("problem").sort_index()["correct"] / SAMPLES
    assert np.array_equal(halves[0], expected.iloc[0::2]) and np.array_equal(halves[1], expected.iloc[1::2])
    shuffled = counts.sample(frac=1, random_state=0)
    assert np.array_equal(of_problems(shuffled, tuning=True)["pass_at_1"], halves[0])


def test_the_rule_takes_the_highest_pass_at_k_on_the_tuning_problems(world):
    table = world.estimate(world.tuning)
    names = {run.sampler: name for name, run in expand(world.seeds, world.scale, world.tuning).items()}
    assert {name.rpartition("~")[2] for name in names.values()} == {"0"}  # one seed tunes
    for rival, settings in RIVALS.items():
        scores = [world.correct[names[each]][4][0::2].any(axis=1).mean() for each in settings]
        rows = only(table, rival=rival, metric="pass_at_k")
        assert rows["value"].tolist() == pytest.approx(scores)
        assert rows.loc[rows["chosen"], "sampler"].tolist() == [settings[int(np.argmax(scores))]]
        assert (rows["problems"] == PROBLEMS / 2).all()
    figure = world.drawn(world.tuning, table)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][2] == "EAD"


def test_differences_are_paired_on_the_other_problems_and_seeds(world):
    table = world.estimate(world.rivals)
    runs = {(run.sampler, run.seed): n for n, run in expand(world.seeds, world.scale, world.rivals).items()}
    at_end = {
        sampler: np.stack([world.correct[runs[sampler, seed]][4][1::2].mean(axis=1) for seed in (1, 2)])
        for sampler in ("tau0.6", "tau1.0", "ead")
    }
    here = only(table, cost="steps", metric="pass_at_1").set_index("sampler")
    for sampler, scores in at_end.items():
        assert here.loc[sampler, "value"] == pytest.approx(scores.mean())
        assert here.loc[sampler, "seeds"] == 2 and here.loc[sampler, "problems"] == PROBLEMS / 2
    assert here.loc["ead", "difference"] == pytest.approx((at_end["ead"] - at_end["tau1.0"]).mean())
    assert here["rank"].to_dict() == {"ead": 1, "tau1.0": 2, "tau0.6": 3}
    assert np.isnan(here.loc["tau1.0", "difference"])
    found = statistics.against_control(np.stack([at_end[name] for name in here.index]), 0)
    assert here.index[0] == "tau1.0"
    for column, values in (("difference_low", found.low), ("p_holm", found.p_value)):
        assert here[column].iloc[1:].tolist() == pytest.approx(values)


def test_at_equal_tokens_a_longer_winded_run_counts_as_far_as_the_others_sampled(world):
    """EAD samples as many tokens in 2 steps as the others in 4: its score is that of its second step."""
    table = world.estimate(world.rivals)
    runs = {(run.sampler, run.seed): n for n, run in expand(world.seeds, world.scale, world.rivals).items()}
    for sampler, step in (("ead", 2), ("tau0.6", 4)):
        expected = np.mean([world.correct[runs[sampler, seed]][step][1::2] for seed in (1, 2)])
        row = only(table, cost="tokens", metric="pass_at_1", sampler=sampler)
        assert row["value"].item() == pytest.approx(expected)
    explained = only(table, cost="training", sampler="ead").set_index("metric")["value"]
    assert explained["learning_signal"] == 0.75 and explained["entropy_first"] == 1.0
    assert explained["tokens"] == 20 * STEPS * 8 * 4  # length x steps x prompts x rollouts


def test_an_entropy_that_the_engine_does_not_know_is_a_dash(world):
    table = world.estimate(world.rivals)
    unknown = (table["sampler"] == "ead") & (table["metric"] == "sampling_entropy_last")
    table.loc[unknown, "value"] = np.nan
    (explained,) = [table for axis in world.drawn(world.rivals, table).axes for table in axis.tables]
    texts = [cell.get_text().get_text() for cell in explained.get_celld().values()]
    assert texts.count("–") == 1 and "nan" not in texts


def test_between_checkpoints_a_score_lies_on_the_line(world):
    from reproduction.figures.rivals import _at, _Training

    scores = {"pass_at_1": np.array([[0.0], [0.4], [1.0]])}
    run = _Training(0, np.array([0, 2, 4]), np.array([0.0, 100.0, 300.0]), scores, 4, {})
    found = [float(_at(run, "pass_at_1", "tokens", budget)[0]) for budget in (0, 50, 100, 150, 300)]
    assert found == pytest.approx([0.0, 0.2, 0.4, 0.55, 1.0])


def test_a_run_that_left_no_checkpoint_counts_as_none_and_is_said_to_have_diverged(world, tmp_path):
    shutil.copytree(world.evaluations, tmp_path / "some")
    lost = World.__new__(World)
    lost.__dict__ = {**world.__dict__, "evaluations": tmp_path / "some"}
    for name in world.correct:
        if "sampler~ead/" in name:
            write_evaluation(lost.evaluations / name, {})
    table = lost.estimate(world.rivals)
    assert only(table, sampler="ead")["status"].tolist() == ["diverged"]
    assert "diverged before the first checkpoint: EAD" in world.drawn(world.rivals, table).get_suptitle()
    tuned = lost.estimate(world.tuning)
    assert set(only(tuned, sampler="ead")["status"]) == {"diverged"}
    assert only(tuned, rival="ead", metric="pass_at_k", chosen=True)["sampler"].tolist() == ["ead_released"]
    assert world.drawn(world.tuning, tuned).axes


def test_what_has_not_run_is_marked(world, tmp_path):
    empty = World.__new__(World)
    empty.__dict__ = {**world.__dict__, "runs": tmp_path / "none", "evaluations": tmp_path / "none"}
    for figure in (world.tuning, world.rivals):
        with pytest.raises(FileNotFoundError):
            empty.estimate(figure)
        table = empty.estimate(figure, partial=True)
        assert (table["status"] == "not run").all() and set(table["sampler"]) >= {"tau0.6", "ead"}
        assert empty.drawn(figure, table).axes
    shutil.copytree(world.evaluations, tmp_path / "some")
    shutil.rmtree(tmp_path / "some" / "model~small" / "algorithm~dapo" / "sampler~ead")
    (tmp_path / "some" / "model~small" / "manifest.json").unlink()
    empty.runs, empty.evaluations = world.runs, tmp_path / "some"
    table = empty.estimate(world.rivals, partial=True).set_index(["sampler", "cost"]).sort_index()
    assert table.loc["ead", "status"].tolist() == ["not run"]
    assert table.loc[("tau0.6", "tokens"), "difference"].notna().all()
    whole = world.estimate(world.rivals)
    lacking = pd.concat([whole, pd.DataFrame([{"sampler": "tau0.6", "status": "not run"}])])
    lacking = lacking[(lacking["sampler"] != "tau0.6") | (lacking["status"] == "not run")]
    assert "not run: τ = 0.6" in world.drawn(world.rivals, lacking).get_suptitle()


def test_verl_has_no_runs_of_what_it_cannot_follow():
    scale = load_scale("gpu24")
    figure = load_experiments()["rivals_tuning"]
    table = expand(Configuration(scale="gpu24"), scale, figure)
    assert figure.absent(table) == ["held_entropy_0.8", "held_entropy_1.0", "held_entropy_1.2"]
    assert "E3, from τ = 1.0" in figure.caption(scale, table)["words"]


def test_the_chosen_settings_are_settings_of_their_rivals():
    experiments = load_experiments()
    tuned = experiments[experiments["rivals"].tuned_by].rivals
    assert tuned.keys() == experiments["rivals"].chosen.keys()
    assert all(setting in tuned[rival] for rival, setting in experiments["rivals"].chosen.items())


def test_a_rival_with_more_trials_is_refused():
    figure = load_experiments()["rivals_tuning"]
    values = figure.model_dump() | {"rivals": {"a": ["tau0.6", "ead"], "b": ["tau1.0", "tau1.2", "ead_tis"]}}
    with pytest.raises(ValueError, match=r"rivals\.a has 2 settings, others 3"):
        type(figure).model_validate(values)


def test_the_choice_is_written_by_a_command(world, tmp_path):
    tuned = load_experiments()["rivals_tuning"].rivals
    rows = [
        {"rival": rival, "sampler": setting, "metric": "pass_at_k", "status": "finished"}
        | {"chosen": setting == settings[-1], "value": 0.5 if setting == settings[-1] else 0.4}
        for rival, settings in tuned.items()
        for setting in settings
        if rival != "reft"
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "tuning.csv", index=False)
    experiments = tmp_path / "experiments.yaml"
    before = (WORKFLOW / "experiments.yaml").read_text(encoding="utf-8")
    experiments.write_text(before, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "choose_rivals.py", tmp_path / "tuning.csv"]
        + ["--experiments", experiments],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "reft: reft_8 stays" in done.stdout and "ead: ead_released (before: " in done.stdout
    committed = load_experiments()["rivals"].chosen
    chosen = load_experiments(experiments)["rivals"].chosen
    assert chosen == {rival: "reft_8" if rival == "reft" else each[-1] for rival, each in tuned.items()}
    changed = [line for line in experiments.read_text().splitlines() if line not in before.splitlines()]
    assert len(changed) == sum(chosen[rival] != committed[rival] for rival in chosen) > 5


def table_of_reft(best: int, finished: bool) -> str:
    lines = ["rival,sampler,metric,chosen,value,status"]
    for cells in (4, 8, 20):
        status = "finished" if finished or cells != 20 else "not run"
        lines.append(f"reft,reft_{cells},pass_at_k,{cells == 4},{0.7 if cells == best else 0.6},{status}")
    return "\n".join([*lines, ""])


def test_a_choice_that_cannot_be_written_line_by_line_changes_nothing(world, tmp_path):
    text = (
        (WORKFLOW / "experiments.yaml")
        .read_text(encoding="utf-8")
        .replace("    reft: reft_8", '    "reft": reft_8')
    )
    (tmp_path / "experiments.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "tuning.csv").write_text(table_of_reft(4, finished=True))
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "choose_rivals.py", tmp_path / "tuning.csv"]
        + ["--experiments", tmp_path / "experiments.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "rivals.chosen must have one line per rival" in done.stderr
    assert (tmp_path / "experiments.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("planned", "ranked"),
    [([0], [0]), ([0, 1, 2], [1, 2]), ([1, 2, 3], [1, 2, 3]), ([3, 0], [3])],
)
def test_the_seed_that_tuned_ranks_nothing_where_there_is_another(world, planned, ranked):
    runs = expand(Configuration(scale="mini", seeds=planned), world.scale, world.rivals)
    assert world.rivals.estimation(world.scale, runs, 0)["seeds"] == ranked


def test_seeds_that_only_some_samplers_have_rank_nothing(world):
    runs = expand(world.seeds, world.scale, world.rivals)
    some = {name: run for name, run in runs.items() if run.seed != 2 or run.sampler != "ead"}
    assert world.rivals.estimation(world.scale, some, 0)["seeds"] == [1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "tuning.csv: no such file"),
        ("", "tuning.csv: an empty file; expected: a table of rivals_tuning"),
        ("rival,sampler,metric,chosen,value,status\n", "tuning.csv: no row"),
        ("rival,sampler,metric\nedt_tis,edt_0.01_tis,pass_at_k\n", "the column 'chosen' is missing"),
        (
            "rival,sampler,metric,chosen,value,status\nedt_tis,edt_0.01_tis,pass_at_k,yes,0.5,finished\n",
            "line 2: chosen: Input should be 'True' or 'False', found 'yes'",
        ),
        (
            "rival,sampler,metric,chosen,value,status\nedt_tis,tau1.0,pass_at_k,True,0.5,finished\n",
            "'tau1.0' is no setting of the rival 'edt_tis'",
        ),
        (
            "rival,sampler,metric,chosen,value,status\nedt_tis,,pass_at_k,True,0.5,finished\n",
            "line 2: sampler: Input should be a valid string, found None",
        ),
        (
            "rival,sampler,metric,chosen,value,status\nedt_tis,edt_0.01_tis,pass_at_k,Tr",
            "line 2: 4 values for 6 columns",
        ),
        (
            "rival,sampler,metric,chosen,value,status\n"
            + 2 * "edt_tis,edt_0.01_tis,pass_at_k,True,0.5,finished\n",
            "'edt_tis' is chosen more than once",
        ),
        (table_of_reft(8, finished=True), "another setting of 'reft' has a higher score"),
        (table_of_reft(4, finished=False), "the settings of 'reft' have not all run"),
    ],
)
def test_a_table_that_is_none_of_the_tuning_writes_nothing(tmp_path, content, words):
    table, experiments = tmp_path / "tuning.csv", tmp_path / "experiments.yaml"
    if content is not None:
        table.write_text(content, encoding="utf-8")
    before = (WORKFLOW / "experiments.yaml").read_text(encoding="utf-8")
    experiments.write_text(before, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "choose_rivals.py", table, "--experiments", experiments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert experiments.read_text(encoding="utf-8") == before


def test_experiments_that_cannot_be_read_are_named_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "choose_rivals.py", tmp_path / "tuning.csv"]
        + ["--experiments", tmp_path / "none.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode and done.stderr == f"{tmp_path / 'none.yaml'}: no such file\n"
