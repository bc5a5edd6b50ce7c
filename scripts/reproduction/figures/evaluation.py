"""A table of one evaluation: accuracy with intervals, and what a health check needs, by decoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from ead import metrics, seeds, statistics
from reproduction.config import Scale
from reproduction.config.runs import RunConfiguration
from reproduction.evaluation.samples import correct_counts, read_samples
from reproduction.figures.figure import Figure
from reproduction.files import write_text

STYLE = (
    "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
    "th,td{border-bottom:1px solid #ccc;padding:.35rem .8rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}</style>"
)


class EvaluationTable(Figure):
    """No entry of workflow/experiments.yaml: it shows the published language model of a scale that has one."""

    folder: ClassVar[str] = "tables"
    suffixes: ClassVar[tuple[str, ...]] = ("csv", "html")
    caption_template: ClassVar[str] = "real_lm.rst"

    analysis: Literal["evaluation"] = "evaluation"

    def estimation(
        self, scale: Scale, runs: Mapping[str, RunConfiguration], root_seed: int
    ) -> dict[str, Any]:
        """See :class:`Figure`."""
        return {"analysis": self.analysis, "k": scale.real_lm.samples, "root_seed": root_seed}

    @staticmethod
    def estimate(*, manifest: Path, k: int, root_seed: int, **_) -> pd.DataFrame:
        """Return one row per decoder: Pass@1, Pass@k, Worst@k with intervals, and health counts.

        ``manifest`` is the evaluation's.
        """
        samples, counted = read_samples(manifest), correct_counts(manifest)
        rows = []
        for decoder, part in samples.groupby("decoder", sort=False):
            counts = counted[counted["decoder"] == decoder]
            n, c = counts["responses"].to_numpy(), counts["correct"].to_numpy()
            row = {"decoder": decoder, "problems": len(counts), "samples": int(n.min())}
            for name, scores in (
                ("Pass@1", metrics.pass_at_k(n, c, 1)),
                (f"Pass@{k}", metrics.pass_at_k(n, c, k)),
                (f"Worst@{k}", metrics.worst_at_k(n, c, k)),
            ):
                estimate = statistics.bootstrap(
                    np.atleast_2d(scores),
                    generator=seeds.generator(root_seed, "bootstrap", "summary", decoder, name),
                )
                row |= {name: estimate.value, f"{name} low": estimate.low, f"{name} high": estimate.high}
            row |= {
                "tokens per response": part["tokens"].mean(),
                "truncated share": float((~part["finished"]).mean()),
                "no answer": int((part["status"] == "no_answer").sum()),
                "timeouts": int((part["status"] == "timeout").sum()),
                "errors": int((part["status"] == "error").sum()),
            }
            rows.append(row)
        return pd.DataFrame(rows)

    def drawing(self, name: str, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """See :class:`Figure`; ``decoders`` are their names in tables."""
        labels = {key: decoder.label for key, decoder in scale.decoders.items()}
        return super().drawing(name, scale, runs) | {"decoders": labels}

    @classmethod
    def write(cls, estimates: Path, request: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """See :class:`Figure`."""
        table = pd.read_parquet(estimates)
        table["decoder"] = table["decoder"].map(request["decoders"])
        write_text(files["csv"], table.to_csv(index=False, float_format="%.6g"))
        write_text(files["html"], _page(table))

    def caption(self, scale: Scale, runs: Mapping[str, RunConfiguration]) -> dict[str, Any]:
        """Return what was evaluated, and how."""
        return scale.real_lm.model_dump(include={"model", "dataset", "samples", "max_new_tokens"})


REAL_LM = EvaluationTable(title="A published language model on real problems", section="")


def _page(table: pd.DataFrame) -> str:
    """The table for a reader: percentages with their intervals in one cell."""
    shown = table[["decoder", "problems", "samples"]].copy()
    for name in [column for column in table if "@" in column and not column.endswith(("low", "high"))]:
        shown[f"{name} (%) [95% interval]"] = [
            f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            for value, low, high in zip(table[name], table[f"{name} low"], table[f"{name} high"], strict=True)
        ]
    shown["tokens per response"] = table["tokens per response"].map("{:.0f}".format)
    shown["truncated (%)"] = table["truncated share"].map(lambda share: f"{100 * share:.1f}")
    for column in ("no answer", "timeouts", "errors"):
        shown[column] = table[column]
    body = shown.to_html(index=False, border=0)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>{STYLE}{body}</html>\n'
