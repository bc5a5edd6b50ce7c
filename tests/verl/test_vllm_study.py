"""Studies of decoding drawn with the real vLLM on the CPU, through the same function as in process."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import entr, softmax

pytest.importorskip("verl")  # its environment is where the vllm settings of the engine hold

from reproduction.config import Decoder, EntropyStudy, ForkingStudy, InferenceRequest, Verl
from reproduction.data import make_row, write_dataset
from reproduction.evaluation import studies
from reproduction.sampling.vllm import Vllm

MACHINE = Verl(device="cpu", max_prompt_tokens=96)
COMMON = {"model": "tiny", "dataset": "test", "problems": 6, "max_new_tokens": 24}
# At temperature 1 before position 8, all but greedy from there on: a schedule that began anew at a fork would show.
COOLS = Decoder(
    schedule={"kind": "annealed", "tau_max": 1.2, "tau_min": 0.01, "d0": 0.5, "alpha": 0, "start": 8},
    label="x",
)
TAU1 = Decoder(schedule={"kind": "fixed", "tau": 1.0}, top_p=0.9, label="x")


@pytest.fixture(scope="module")
def draw(tiny_model, tmp_path_factory):
    """draw(study, decoders, folder): a study of the tiny model. One engine serves the module, as its start is dear."""
    folder = tmp_path_factory.mktemp("study")
    rows = [
        make_row(
            data_source="mmlu",
            prompt=[{"role": "user", "content": "?" * (1 + index)}],
            ground_truth="A",
            id=f"test/{index}",
            index=index,
            split="test",
            ability="multiple_choice",
        )
        for index in range(6)
    ]
    write_dataset(rows, folder / "test.parquet")
    with Vllm(tiny_model, MACHINE, max_new_tokens=24) as sampler, pytest.MonkeyPatch.context() as patch:
        opened, drawn, sample_responses = [], [], studies.sample_responses

        def loaded(model, vllm, *, max_new_tokens):
            opened.append((model, vllm, max_new_tokens))
            return contextlib.nullcontext(sampler)

        def with_tokens(*arguments, keep, **options):
            drawn.append(sample_responses(*arguments, keep={*keep, "token_ids"}, **options))
            return drawn[-1]

        patch.setattr(studies, "loaded", loaded)
        patch.setattr(studies, "sample_responses", with_tokens)

        def draw(study, decoders, output):
            request = InferenceRequest(study=study, decoders=decoders, root_seed=0)
            files = folder / "test.parquet"
            drawn.clear()
            return studies.draw_study(
                request, tiny_model, files, output, label="x", progress=None, workers=1, vllm=MACHINE
            )

        yield SimpleNamespace(study=draw, opened=opened, drawn=drawn, sampler=sampler)
    assert sampler._llm is None


def logits_of(draw, reference, row):
    """Logits [T, V] before every token of a drawn response, by transformers."""
    question = "?" * (1 + int(row.problem.split("/")[1]))
    prompt = draw.sampler.tokenizer.encode_chat([{"role": "user", "content": question}])
    return reference.logits(prompt, [row.token_ids.tolist()])[0]


def test_branches_go_on_at_the_position_of_the_fork(draw, tiny_reference, tmp_path):
    study = ForkingStudy(
        **COMMON, kind="forking", samples=2, decoders=["cools"], positions=[0, 12], branches=4, sizes=[4]
    )
    draw.study(study, {"cools": COOLS}, tmp_path)
    assert draw.opened[-1][1:] == (MACHINE, 24)
    responses, start, late = draw.drawn
    assert len(responses) == 12 and len(start) == 48 and len(late) > 12
    for frame in draw.drawn:
        assert frame["tokens"].max() == 24 and (frame.loc[~frame["finished"], "tokens"] == 24).all()
        warm = []
        for row in frame.itertuples():
            logits = logits_of(draw, tiny_reference, row)
            short_of_best = logits.max(-1) - logits[np.arange(row.tokens), row.token_ids]
            # At temperature 0.01, 0.2 nats below the best token are 20.
            assert (short_of_best[8:] < 0.2).all(), "the schedule goes on from the fork"
            warm.extend(short_of_best[:8])
        assert np.mean(np.array(warm) < 0.2) < 0.6, "before position 8 the temperature is 1"
    heads = {tuple(tokens[:12]) for tokens in responses["token_ids"]}
    assert {tuple(tokens[:12]) for tokens in late["token_ids"]} <= heads
    written = pd.read_parquet(tmp_path / "cools/fork_12.parquet")
    assert written["forked"].sum() == len(late) and len(written) == 48


def test_what_is_missing_is_drawn_again_as_it_was(draw, tmp_path):
    study = ForkingStudy(
        **COMMON, kind="forking", samples=1, decoders=["tau1.0"], positions=[0, 3], branches=2, sizes=[2]
    )
    first = draw.study(study, {"tau1.0": TAU1}, tmp_path)
    (tmp_path / "tau1.0/fork_3.parquet").unlink()
    count = len(draw.opened)
    assert draw.study(study, {"tau1.0": TAU1}, tmp_path) == first
    assert len(draw.opened) == count + 1
    assert draw.study(study, {"tau1.0": TAU1}, tmp_path) == first and len(draw.opened) == count + 1


def test_a_longer_prompt_than_the_machine_allows_is_an_error(draw):
    with pytest.raises(ValueError, match="a prompt has 97 tokens; verl.max_prompt_tokens allows 96"):
        draw.sampler.draw([[5] * 97], TAU1, samples=1, max_new_tokens=2, stream=(0, "x"))


def test_entropies_are_those_of_the_whole_distribution_at_temperature_one(draw, tiny_reference, tmp_path):
    """The last test: the engine ends before the forward pass that entropies take."""
    study = EntropyStudy(**COMMON, kind="entropy", samples=3, decoders=["tau1.0"])
    draw.study(study, {"tau1.0": TAU1}, tmp_path)
    assert draw.sampler._llm is None
    written = pd.read_parquet(tmp_path / "tau1.0.parquet")
    assert len(written) == 18 and (written["entropies"].map(len) == written["tokens"]).all()
    for row in draw.drawn[0].itertuples():
        expected = entr(softmax(logits_of(draw, tiny_reference, row), -1)).sum(-1)
        np.testing.assert_allclose(row.entropies, expected, atol=1e-4, rtol=0)
