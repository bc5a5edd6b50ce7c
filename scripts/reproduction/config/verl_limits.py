"""What verl cannot do: the configuration asks before the first job, and the engine when it is told a run."""

from ead.schedule import Fixed, HeldEntropy, from_config
from reproduction.config.methods import SamplerDefinition


def learning_rate(decay: str) -> str | None:
    """Return why verl cannot follow the learning rate; None where it can."""
    if decay == "constant":
        return None
    return (
        "the verl engine keeps the learning rate constant after its warm-up; allowed: decay = 'constant', found "
        f"decay = {decay!r}"
    )


def shares(mini_batch_prompts: int, rollouts: int, gpus: int) -> str | None:
    """Return why the GPUs cannot share a mini-batch of ``rollouts`` responses per prompt evenly, or None."""
    responses = mini_batch_prompts * rollouts
    if responses % gpus == 0:
        return None
    return (
        f"a mini-batch of {responses} responses ({rollouts} rollouts per prompt) does not divide among {gpus} GPUs "
        "(verl.nodes x verl.gpus_per_node)"
    )


def temperature(sampler: SamplerDefinition) -> float | None:
    """Return what verl divides logits by, the sampler's and the trainer's alike (D15); None where no number would do.

    verl knows one temperature. A fixed one at which the trainer's log-probabilities are taken too is verl's own; with
    every other sampler it is 1, and the logits processor does the rest. Where the trainer's temperature would have to
    follow the position, verl has none, and none where the temperature follows what the trainer has recorded.
    """
    schedule = from_config(sampler.schedule)
    if isinstance(schedule, HeldEntropy):
        return None
    if sampler.logprob_temperature == "one":
        return 1.0
    return schedule.tau if isinstance(schedule, Fixed) else None
