"""Figures 1, 2 and 9 at the mini scale: from models to pictures, and what a change draws again."""

import json

import pandas as pd
import pytest

from reproduction.files import sha256_of_file

FIGURES = {"fig01": "entropy", "fig02": "forking", "fig09": "majority"}
WITH_ROLE = {"roles": {"qwen_1_5b": {"model": "small"}}}  # the tests' workflow leaves it out by default


def test_inference_figures_from_models_to_pictures(fresh):
    """One test, because all of it looks at the same run of the workflow."""
    fresh.configure(experiments=["fig01"], overrides=WITH_ROLE)
    fresh.run(*FIGURES)
    results, figures = fresh.folder / "results/mini", fresh.folder / "reports/mini/figures"
    manifests = {}
    for figure, study in FIGURES.items():
        assert all((figures / f"{figure}.{suffix}").stat().st_size for suffix in ("pdf", "png"))
        table = pd.read_csv(figures / f"{figure}.csv")
        assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
        manifests[study] = json.loads((results / f"inference/{study}/manifest.json").read_text())
        for record in manifests[study]["files"]:
            assert sum(record["statuses"].values()) == record["responses"]

    # The numbers are those of the recorded responses.
    table = pd.read_csv(figures / "fig09.csv")
    at_one = table[(table["metric"] == "majority_at_n") & (table["step"] == 1)].set_index("decoder")["value"]
    for decoder, value in at_one.items():
        samples = pd.read_parquet(results / f"inference/majority/{decoder}.parquet")
        assert value == pytest.approx(samples["correct"].mean(), abs=1e-5)

    # A forking study looks at the last checkpoint of its run.
    run = results / "runs" / manifests["forking"]["subject"]
    assert "model~small/algorithm~dapo/sampler~tau1.0" in manifests["forking"]["subject"]
    weights = run / "checkpoints/step_4/model.safetensors"
    assert manifests["forking"]["model_sha256"] == sha256_of_file(weights)

    # A second run has nothing to do; other sizes of the vote need no other responses.
    assert fresh.planned("--", *FIGURES) == {}
    change = {**WITH_ROLE, "inference": {"majority": {"sizes": [1, 4]}}}
    planned = fresh.planned("--", *FIGURES, overrides=change)
    jobs = ("draw_study", "estimate_study", "plot_study")
    assert {name: planned.get(name) for name in jobs} == dict.fromkeys(jobs, 1)
    samples = results / "inference/majority/ead.parquet"
    stamp = samples.stat().st_mtime_ns
    fresh.configure(experiments=["fig01"], overrides=change)
    fresh.run("fig09")
    assert samples.stat().st_mtime_ns == stamp
    table = pd.read_csv(figures / "fig09.csv")
    assert set(table.loc[table["metric"] == "majority_at_n", "step"]) == {1, 4}
