"""Hand-made evaluations: recorded responses whose verdicts a test chooses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from reproduction.evaluation.responses import describe_samples, write_samples
from reproduction.files import write_json


def write_evaluation(
    folder: Path, correct: Mapping[int, np.ndarray], decoders: Sequence[str] = ("tau1.0",), **manifest
) -> Path:
    """Write step -> verdicts ``[problems, samples]``, the same for each decoder; return the manifest.

    ``manifest`` is what it holds beside the sample files.
    """
    records = []
    for step, verdicts in correct.items():
        problems, samples = verdicts.shape
        frame = pd.DataFrame(
            {
                "problem": np.repeat([f"p{i:02}" for i in range(problems)], samples),
                "sample": np.tile(np.arange(samples), problems),
                "response": "",
                "extracted": None,
                "vote": None,
                "correct": verdicts.ravel(),
                "status": "ok",
                "tokens": 5,
                "finished": True,
            }
        )
        for decoder in decoders:
            path = folder / f"step_{step}" / decoder / "test.parquet"
            write_samples(frame, path, "identity")
            records.append(describe_samples(path, folder, step, decoder, "test"))
    write_json(folder / "manifest.json", {**manifest, "files": records})
    return folder / "manifest.json"
