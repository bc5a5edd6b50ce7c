"""Studies of decoding: what is drawn, what is kept, and the estimates against enumeration."""

import itertools
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from ead.verifier.choices import read_choice
from reproduction.config import (
    ConfigurationError,
    Decoder,
    EntropyStudy,
    ForkingStudy,
    InferenceRequest,
    MajorityStudy,
    load_scale,
)
from reproduction.data import make_row, read_dataset, write_dataset
from reproduction.evaluation.responses import describe_samples, write_samples
from reproduction.evaluation.studies import choose_problems, draw_study
from reproduction.figures.inference import InferenceFigure, estimate_study
from reproduction.files import write_json
from reproduction.models.tokenizer import Tokenizer
from reproduction.sampling import entropies
from reproduction.sampling.entropies import token_entropies
from reproduction.sampling.sampler import InProcess
from reproduction.tasks import countdown
from reproduction.tasks.grading import Grader, problems_of
from reproduction.training import warmstart

SUBJECT = {"cell": "model~tiny", "model": "tiny", "algorithm": None, "sampler": None, "n": None}
COMMON = {"model": "tiny", "dataset": "test", "problems": 5, "max_new_tokens": 40, "decoders": ["tau1.0"]}
TAU1 = {"label": "τ = 1.0", "style": {"color": "sky", "marker": "s", "line": "dashed"}}


def forking(**changes):
    values = {"kind": "forking", "samples": 2, "positions": [0, 4, 30], "branches": 3, "sizes": [1, 3]}
    return ForkingStudy(**(COMMON | values | changes))


def entropy(**changes):
    return EntropyStudy(**(COMMON | {"kind": "entropy", "samples": 3, "template_tokens": 4} | changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    definition = load_scale("mini").models["tiny"].model_copy(update={"steps": 60})
    problems = countdown.generate_problems(3, "test", root_seed=0, test_share=0.2, limit=8)
    model, _ = warmstart.train(definition, countdown.TASK, problems, root_seed=0)
    (folder / "model").mkdir()
    model.save(folder / "model")
    warmstart.write_tokenizer(folder / "model", countdown.VOCABULARY)
    write_dataset(countdown.dataset_rows(problems, "test", "test"), folder / "test.parquet")
    return folder


def draw(world, output, study):
    tau = Decoder(schedule={"kind": "fixed", "tau": 1.0}, label="τ = 1.0")
    request = InferenceRequest(study=study, decoders={"tau1.0": tau}, root_seed=0)
    records = draw_study(
        request, world / "model", world / "test.parquet", output, label="x", progress=None, workers=1
    )
    write_json(output / "manifest.json", {"files": records})
    return records


def write_study(folder, parts):
    """Write recorded responses by file: name -> (decoder, step, rows)."""
    records = []
    for name, (decoder, step, rows) in parts.items():
        frame = pd.DataFrame(rows).assign(status="ok", finished=True)
        write_samples(frame, folder / name, "identity")
        records.append(describe_samples(folder / name, folder, step, decoder, "test"))
    write_json(folder / "manifest.json", {"files": records})
    return folder / "manifest.json"


def majority_by_enumeration(votes, correct, k):
    """Every subset of k responses; ties are split evenly among the leading answers."""
    verdict = dict(zip(votes, correct, strict=True))
    outcomes = []
    for subset in itertools.combinations(range(len(votes)), k):
        tally = Counter(votes[index] for index in subset if votes[index] is not None)
        leaders = [vote for vote, count in tally.items() if count == max(tally.values())]
        outcomes.append(np.mean([verdict[vote] for vote in leaders]) if leaders else 0.0)
    return np.mean(outcomes)


# --- drawing -----------------------------------------------------------------------------------------------


def test_branches_keep_the_tokens_before_the_fork_and_differ_after_it(world, tmp_path):
    study = forking(branches=8, sizes=[8])
    draw(world, tmp_path, study)
    tokenizer = Tokenizer(world / "model")
    responses = pd.read_parquet(tmp_path / "tau1.0/responses.parquet")
    assert (responses["token_ids"].map(len) == responses["tokens"]).all()
    for position in study.positions:
        forks = pd.read_parquet(tmp_path / f"tau1.0/fork_{position}.parquet")
        assert (forks.groupby(["problem", "parent"]).size() == 8).all()
        assert len(forks) == 8 * len(responses)
        for row in responses.itertuples():
            branches = forks[(forks["problem"] == row.problem) & (forks["parent"] == row.sample)]
            (kept,) = tokenizer.decode([row.token_ids[:position]])
            assert branches["response"].str.startswith(kept).all()
            assert (branches["tokens"] <= study.max_new_tokens).all()
            if row.tokens <= position:  # it had ended: nothing is drawn
                assert not branches["forked"].any() and set(branches["response"]) == {row.response}
            else:
                assert branches["forked"].all() and (branches["tokens"] > position).all()
    from_start = pd.read_parquet(tmp_path / "tau1.0/fork_0.parquet")
    assert (from_start.groupby(["problem", "parent"])["response"].nunique() > 1).all()


def test_a_longer_response_is_never_cut_at_another_limit(world, tmp_path):
    """The limit of new tokens is that of the whole response, wherever it is forked."""
    draw(world, tmp_path, forking(max_new_tokens=12, positions=[0, 8]))
    forks = pd.read_parquet(tmp_path / "tau1.0/fork_8.parquet")
    assert (forks.loc[~forks["finished"], "tokens"] == 12).all() and (~forks["finished"]).any()


def test_what_is_there_is_kept_and_only_what_is_missing_is_drawn(world, tmp_path):
    first = draw(world, tmp_path, forking())
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert draw(world, tmp_path, forking(positions=[0, 4, 10, 30], sizes=[2]))[:3] == first[:3]
    (tmp_path / "tau1.0/fork_4.parquet").write_bytes(b"cut short")
    again = draw(world, tmp_path, forking())
    assert again == first, "what is drawn again is what was drawn before"
    changed = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp}
    assert {path.name for path in changed} == {"fork_4.parquet"}
    draw(world, tmp_path, forking(branches=4))
    assert len(pd.read_parquet(tmp_path / "tau1.0/fork_30.parquet")) == 5 * 2 * 4


def test_recorded_entropies_have_one_value_per_token(world, tmp_path):
    (record,) = draw(world, tmp_path, entropy())
    frame = pd.read_parquet(tmp_path / record["file"])
    assert (frame["entropies"].map(len) == frame["tokens"]).all()
    assert frame["entropies"].map(min).min() >= -1e-6
    assert record["responses"] == 15 and sum(record["statuses"].values()) == 15


def test_entropies_of_drawn_tokens_are_those_that_the_sampler_recorded(world):
    """One forward pass by transformers against the entropies noted while decoding; prompts and lengths differ."""
    problems = problems_of(read_dataset(world / "test.parquet"))
    # Entropies are at 1 all the same.
    decoder = Decoder(schedule={"kind": "fixed", "tau": 1.3}, top_p=0.9, label="x")
    sampler = InProcess(world / "model")
    prompts = [sampler.tokenizer.encode_chat(problem.messages) for problem in problems]
    prompts[0] = prompts[0] + prompts[0][-3:]
    drawn = sampler.draw(prompts, decoder, samples=3, max_new_tokens=40, stream=(0, "x"), entropies=True)
    given = [prompt for prompt in prompts for _ in range(3)]
    assert len({len(row) for row in drawn.tokens}) > 5 and len({len(prompt) for prompt in given}) > 1
    found = token_entropies(world / "model", given, drawn.tokens, device="cpu")
    for ours, recorded, tokens in zip(found, drawn.entropies, drawn.tokens, strict=True):
        assert ours.shape == (len(tokens),) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, recorded, atol=1e-4, rtol=0)
    assert max(map(max, found)) > 1  # there is something to differ in


def test_entropies_do_not_depend_on_the_batches(world, monkeypatch):
    rng = np.random.default_rng(0)
    prompts, responses = ([rng.integers(3, 20, n).tolist() for n in rng.integers(1, 30, 9)] for _ in range(2))
    whole = token_entropies(world / "model", prompts, responses, device="cpu")
    monkeypatch.setattr(entropies, "BATCH_TOKENS", 1)
    monkeypatch.setattr(entropies, "POSITIONS", 4)
    done = []
    alone = token_entropies(world / "model", prompts, responses, device="cpu", report=done.append)
    for one, other in zip(whole, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert done == list(range(1, 10))


def test_a_study_of_a_model_in_shards_is_drawn_like_that_of_one_file(world, tmp_path):
    weights = load_file(world / "model/model.safetensors")
    shutil.copytree(world / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    names = sorted(weights)
    for number, part in enumerate((names[:5], names[5:]), 1):
        save_file({n: weights[n] for n in part}, tmp_path / f"model/model-0000{number}-of-00002.safetensors")
    (tmp_path / "test.parquet").write_bytes((world / "test.parquet").read_bytes())
    draw(tmp_path, tmp_path / "shards", entropy())
    draw(world, tmp_path / "whole", entropy())
    shards, whole = (pd.read_parquet(tmp_path / name / "tau1.0.parquet") for name in ("shards", "whole"))
    pd.testing.assert_frame_equal(shards, whole)


def test_problems_are_a_random_part_and_a_smaller_study_takes_some_of_them(world):
    problems = problems_of(read_dataset(world / "test.parquet"))
    chosen = [[p.id for p in choose_problems(problems, n, root_seed=1, dataset="test")] for n in (3, 5, 8)]
    assert set(chosen[0]) < set(chosen[1]) < set(chosen[2]) == {p.id for p in problems}
    assert chosen[2] == [p.id for p in problems]
    other = [p.id for p in choose_problems(problems, 5, root_seed=2, dataset="test")]
    assert other != chosen[1]
    with pytest.raises(ValueError, match="test: 9 problems are asked for, it has 8"):
        choose_problems(problems, 9, root_seed=0, dataset="test")


def test_problems_with_longer_prompts_are_left_out(world, tmp_path):
    tokenizer = Tokenizer(world / "model")
    problems = problems_of(read_dataset(world / "test.parquet"))
    lengths = {problem.id: len(tokenizer.encode_chat(problem.messages)) for problem in problems}
    longest = max(lengths.values())
    with pytest.raises(ValueError, match="5 problems are asked for, it has 0"):
        draw(world, tmp_path, entropy(max_prompt_tokens=min(lengths.values()) - 1))
    (record,) = draw(world, tmp_path, entropy(problems=2, max_prompt_tokens=longest))
    drawn = pd.read_parquet(tmp_path / record["file"])["problem"].unique()
    assert all(lengths[problem] <= longest for problem in drawn) and len(drawn) == 2


# --- estimating --------------------------------------------------------------------------------------------


def test_majority_and_its_paired_differences_are_those_of_enumeration(tmp_path):
    rng = np.random.default_rng(0)
    parts, expected = {}, {}
    for decoder in ("tau1.0", "ead"):
        rows = []
        for problem in ("a", "b", "c", "d"):
            votes = rng.choice(["1", "2", "3", None], 7).tolist()
            correct = [vote == "2" for vote in votes]
            rows += [
                {"problem": problem, "vote": v, "correct": c} for v, c in zip(votes, correct, strict=True)
            ]
            for k in (1, 2, 5):
                expected[decoder, problem, k] = majority_by_enumeration(votes, correct, k)
        parts[f"{decoder}.parquet"] = decoder, 0, rows
    values = {"samples": 7, "decoders": ["tau1.0", "ead"], "baselines": ["tau1.0"], "sizes": [1, 2, 5]}
    study = MajorityStudy(**(COMMON | {"kind": "majority"} | values))
    table, scores = estimate_study(study, write_study(tmp_path, parts), SUBJECT, root_seed=0)
    by_problem = scores.set_index(["decoder", "problem", "k"])["maj_at_k"]
    assert by_problem.to_dict() == pytest.approx(expected)
    value = table.set_index(["metric", "decoder", "step"])["value"]
    for k in (1, 2, 5):
        means = {d: np.mean([expected[d, p, k] for p in "abcd"]) for d in ("tau1.0", "ead")}
        assert value["majority_at_n", "ead", k] == pytest.approx(means["ead"])
        assert value["majority_at_n_minus_tau1.0", "ead", k] == pytest.approx(means["ead"] - means["tau1.0"])
    differences = [value["majority_at_n_minus_tau1.0", "ead", k] for k in (1, 2, 5)]
    overall = table[table["metric"] == "majority_minus_tau1.0"]
    assert overall["value"].item() == pytest.approx(np.mean(differences)) and overall["step"].isna().all()
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()


def test_forks_are_compared_on_the_same_responses(tmp_path):
    """Two problems, two responses each, three branches; Majority@3 by hand: the most frequent of three."""
    correct_votes = {  # position -> problem -> parent -> correct branches out of 3
        0: {"a": [3, 2], "b": [0, 2]},
        4: {"a": [2, 1], "b": [0, 0]},
        8: {"a": [0, 1], "b": [0, 0]},
    }
    parts = {
        "responses.parquet": (
            "tau1.0",
            0,
            [{"problem": p, "sample": s, "vote": "x", "correct": False} for p in "ab" for s in (0, 1)],
        )
    }
    for position, problems in correct_votes.items():
        rows = [
            {
                "problem": problem,
                "parent": parent,
                "vote": "right" if branch < right else "wrong",
                "correct": branch < right,
                "forked": not (position == 8 and parent == 1),
            }
            for problem, counts in problems.items()
            for parent, right in enumerate(counts)
            for branch in range(3)
        ]
        parts[f"fork_{position}.parquet"] = "tau1.0", position, rows
    study = forking(positions=[0, 4, 8], sizes=[3])
    table, scores = estimate_study(study, write_study(tmp_path, parts), SUBJECT, root_seed=0)
    value = table.set_index(["metric", "step"])["value"]
    assert [value["majority_at_3", b] for b in (0, 4, 8)] == pytest.approx([0.75, 0.25, 0.0])
    assert [value["majority_at_3_change", b] for b in (4, 8)] == pytest.approx([-0.5, -0.75])
    assert [value["ended_share", b] for b in (0, 4, 8)] == [0, 0, 0.5]
    early_late = table[table["metric"] == "majority_at_3_early_minus_late"]
    assert early_late["value"].item() == pytest.approx(0.75)
    by_problem = scores.pivot(index="branch", columns="problem", values="maj_at_k").to_numpy()
    np.testing.assert_allclose(by_problem, [[1, 0.5], [0.5, 0], [0, 0]], atol=1e-12)


def test_entropy_by_position_weighs_problems_alike_and_counts_who_is_still_there(tmp_path):
    rows = [
        {"problem": "a", "entropies": [0.0, 4.0, 2.0, 1.0], "correct": True},
        {"problem": "a", "entropies": [0.0, 2.0], "correct": True},
        {"problem": "b", "entropies": [0.0, 1.0, 3.0], "correct": True},
    ]
    manifest = write_study(tmp_path, {"tau1.0.parquet": ("tau1.0", 0, rows)})
    table, scores = estimate_study(entropy(template_tokens=1), manifest, SUBJECT, root_seed=0)
    curve = table[table["metric"] == "entropy"].set_index("step")
    assert curve["value"].tolist() == [0.0, 2.0, 2.5], "position 3 is left out: one problem reaches it"
    assert curve["samples"].tolist() == [3, 3, 2]
    change = table[table["metric"] == "entropy_change"]
    assert change["value"].item() == pytest.approx(((1 - 4) + (3 - 1)) / 2), "one token has no halves"
    assert scores[scores["problem"] == "a"]["responses"].tolist() == [2, 2, 1, 1]


def test_every_figure_is_drawn_from_its_estimates(world, tmp_path):
    for study, lines in ((entropy(), 1), (forking(), 2)):
        output = tmp_path / study.kind
        draw(world, output, study)
        asked = {"study": study.model_dump(mode="json"), "subject": SUBJECT, "root_seed": 0}
        files = {"manifest": output / "manifest.json", "problems": output / "problems.parquet"}
        table = InferenceFigure.estimate(**asked, **files)
        again, scores = estimate_study(study, output / "manifest.json", SUBJECT, root_seed=0)
        pd.testing.assert_frame_equal(table, again)
        assert len(pd.read_parquet(files["problems"])) == len(scores)
        words = {"title": "Title", "subject": "model tiny", "decoders": {"tau1.0": TAU1}}
        figure = InferenceFigure.plot(table, {"study": asked["study"], **words})
        assert "model tiny\n5 problems" in figure.get_suptitle()
        curves = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2]
        assert len(curves) == lines


# --- configuration and grading -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "change", "words"),
    [
        ("entropy", {"model": "tiny"}, "either a model or a role"),
        ("forking", {"sampler": None}, "role, algorithm and sampler together"),
        ("forking", {"positions": [4, 0]}, "positions must increase"),
        ("forking", {"sizes": [99]}, "sizes must be at most branches"),
        ("majority", {"sizes": [99]}, "sizes must be at most samples"),
        ("majority", {"baselines": ["greedy"]}, "unknown decoder 'greedy'"),
        ("majority", {"decoders": ["ead", "tau7"], "baselines": ["ead"]}, "unknown decoder 'tau7'"),
        ("majority", {"sises": [1]}, "unknown key 'inference.majority.sises' (did you mean 'sizes'?)"),
    ],
)
def test_a_wrong_study_is_explained(study, change, words):
    with pytest.raises(ConfigurationError) as error:
        load_scale("mini", {"inference": {study: change}})
    assert words in str(error.value)


def test_a_study_of_a_role_that_the_scale_lacks_is_no_part_of_it():
    assert load_scale("mini", {"roles": {"qwen_1_5b": None}}).study("entropy") is None
    assert load_scale("mini").study("entropy").samples == 4


def test_studies_at_the_scales_with_gpus_are_as_published_and_smaller():
    paper, gpu1 = load_scale("paper"), load_scale("gpu1")
    assert [paper.study(name).model for name in ("entropy", "forking", "majority")] == [
        *("llama-3-8b-instruct", "deepseek-r1-distill-llama-8b", "qwen2.5-7b-instruct")
    ]
    assert {paper.study(name).dataset for name in ("entropy", "forking")} == {"mmlu_test"}
    majority = paper.study("majority")  # the release's protocol
    assert (majority.problems, majority.samples, majority.max_new_tokens) == (200, 64, 3072)
    assert majority.sizes == [1, 3, 8, 16, 24, 32]
    schedule = paper.decoders["ead"].schedule
    assert [schedule[key] for key in ("tau_max", "tau_min", "d0", "alpha")] == [1.2, 0.1, 25, 0]
    for name in paper.inference:
        study = gpu1.study(name)
        assert study.model is None and study.role == "qwen_1_5b"
        assert study.max_new_tokens <= paper.study(name).max_new_tokens or name == "entropy"
        # vLLM is started for so much, and the model has to have the positions.
        assert gpu1.verl.max_prompt_tokens + study.max_new_tokens <= 4096
    assert gpu1.study("forking").sampler == "tau1.0" and paper.study("forking").sampler is None


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"so it is \boxed{B}", "B"),
        (r"\boxed{\text{(c)}}", "C"),
        (r"\boxed{B) 12}", "B"),
        (r"\boxed{D. All of them}", "D"),
        (r"first \boxed{A}, no: \boxed{C}", "C"),
        (r"\boxed{12}", None),
        (r"\boxed{Both}", None),
        (r"\boxed{}", None),
        ("The answer is (D).", "D"),
        ("The final answer is: **A**", "A"),
        ("Answer: B) foo. On reflection, the answer is C", "C"),
        ("The answer is a number.", None),
        ("The answer is Adam.", None),
        ("A is right", None),
        ("Answer: I think it is (B).", None),
        ("Answer: A good question. I choose B", None),
        ("The answer is I believe C.", None),
        ("Answer: A is correct", "A"),
        ("The answer is A because it falls.", "A"),
        ("Answer: A, since it falls", "A"),
        ("The answer is I since it falls", "I"),
        ("Answer: A\nthe reason is plain", "A"),
        ("Answer: B good", "B"),
        ("The answer is option A text", "A"),
        ("Answer: A while B is wrong", "A"),
        ("Answer: A rather than B", "A"),
        ("Answer: A satisfies both", "A"),
        ("Answer: I therefore choose B", None),
        ("answer " + "*" * 900, None),  # in time that does not grow with the cube of them
        (r"\boxed{\textit{C}}", "C"),
        (r"\boxed{Answer: C}", "C"),
        (r"\boxed{\text{The answer is } C}", "C"),
        (r"\boxed{Answers: A, B}", None),
        ("", None),
    ],
)
def test_the_letter_that_a_response_settles_on(response, letter):
    assert read_choice(response) == letter


def test_multiple_choice_is_graded_by_the_letter(tmp_path):
    row = make_row(
        data_source="mmlu",
        prompt=[{"role": "user", "content": "?"}],
        ground_truth="B",
        id="mmlu/0",
        index=0,
        split="test",
        ability="multiple_choice",
    )
    write_dataset([row], tmp_path / "mmlu.parquet")
    (problem,) = problems_of(read_dataset(tmp_path / "mmlu.parquet"))
    responses = [r"\boxed{B}", "the answer is C", "no idea"]
    with Grader(timeout_s=1, workers=1) as grader:
        verdicts = grader.grade([problem] * 3, responses, [True] * 3)
    assert [(v.correct, v.status, v.canonical) for v in verdicts] == [
        (True, "ok", "B"),
        (False, "ok", "C"),
        (False, "no_answer", None),
    ]
