"""What a training records: the columns of its tables, by engine.

Each engine holds every step against this (:func:`check`), and a plan holds against it what figures, claims and
deviations ask for, before the first job.
"""

from collections.abc import Iterable, Mapping

BY_PROMPT = (
    *("reward_mean", "response_length_mean", "truncated_share"),
    # Null where an engine knows entropies at another temperature only.
    *("entropy", "entropy_at_sampling_temperature"),
)
"""Columns of groups.parquet, a row per step and prompt; metrics.parquet has their means."""
BY_STEP = (
    *BY_PROMPT,
    *("solved_by_any", "solved_by_all", "equal_reward_groups"),
    *("verdicts_no_answer", "verdicts_timeout", "verdicts_error", "response_length_max"),
    *("importance_ratio_mean", "importance_ratio_max", "importance_weight_mean", "importance_share_capped"),
    *("importance_effective_sample_share", "importance_behaviour_kl"),
    *("loss", "gradient_norm", "learning_rate", "approximate_kl", "dual_clip_share"),
)
"""Columns of metrics.parquet, a row per step, whichever engine trains."""
OWN = {
    "inprocess": ("policy_ratio_max", "clip_low_share", "clip_high_share", "covariance_share"),
    # verl counts the tokens that either bound clipped together. Null where verl does not report the share of a loss.
    "verl": ("clip_share", "covariance_share"),
}
"""Engine -> further columns of metrics.parquet."""
CPU_SECONDS = ("inprocess",)
"""Engines whose timings.parquet has CPU seconds of the parts of a step."""
PER_TOKEN = "sampling_cpu_seconds_per_token"
"""What claims compute from timings.parquet and metrics.parquet."""
RECORDED = tuple(dict.fromkeys([*BY_STEP, *(name for names in OWN.values() for name in names)]))
"""Every column of metrics.parquet that some engine records."""


def columns(engine: str) -> tuple[str, ...]:
    """Return the columns of metrics.parquet besides ``step``."""
    return (*BY_STEP, *OWN[engine])


def lacking(engine: str, metrics: Iterable[str]) -> list[str]:
    """Return those of ``metrics`` that some engine records, and ``engine`` does not."""
    known = columns(engine)
    return [
        name
        for name in metrics
        if (name in RECORDED and name not in known) or (name == PER_TOKEN and engine not in CPU_SECONDS)
    ]


def check(engine: str, values: Mapping[str, float]) -> None:
    """Raise RuntimeError where a step's record, ``step`` included, is not what ``engine`` promises."""
    expected = {"step", *columns(engine)}
    if values.keys() != expected:
        raise RuntimeError(
            f"the engine {engine} recorded {sorted(values.keys() - expected)}, which its contract lacks, and did not "
            f"record {sorted(expected - values.keys())} (reproduction.training.contract)"
        )
