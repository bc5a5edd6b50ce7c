"""Algorithms, a file each: configuration, advantages and loss, and the keys that verl is told.

``clip``       PPO's clipped loss: GRPO, DAPO
``clip_cov``   EntropyMech's Clip-Cov
``micro_batch_mean``  the release's mean of micro-batches' means (D20)
``clip_cov_released``  Clip-Cov with the release's mask (D19)
``kl_cov``     EntropyMech's KL-Cov
``gspo``       GSPO's ratio of a whole response
``dr_grpo``    Dr. GRPO, without normalisation by length and by standard deviation

A file that defines ``ALGORITHM`` is one; nothing else lists it. workflow/algorithms.yaml has an entry for each; its
``loss`` is the key here.
"""

from typing import Annotated, Union

from pydantic import Field, create_model

from reproduction.algorithms.algorithm import Algorithm, MiniBatch
from reproduction.fields import defined_in

ALGORITHMS: dict[str, type[Algorithm]] = {
    kind.model_fields["loss"].annotation.__args__[0]: kind
    for kind in defined_in(__name__, __path__, "ALGORITHM")
}
"""``loss`` -> the model of its configuration."""
NAMED: dict[str, type[Algorithm]] = {
    loss: create_model(
        kind.__name__,
        __base__=kind,
        __doc__=kind.__doc__,
        label=(str, Field(min_length=1, description="its name in figures and tables")),
    )
    for loss, kind in ALGORITHMS.items()
}
"""The same as the tables of a scale hold them, each with its ``label``; a run does not depend on that."""
AnyAlgorithm = Annotated[Union[tuple(ALGORITHMS.values())], Field(discriminator="loss")]  # noqa: UP007
AnyNamedAlgorithm = Annotated[Union[tuple(NAMED.values())], Field(discriminator="loss")]  # noqa: UP007
VERL_CONSTANTS = {key: value for kind in ALGORITHMS.values() for key, value in kind.verl_constants.items()}
"""What verl is told in every run, whichever algorithm it trains with."""


def without_label(named: Algorithm) -> Algorithm:
    """Return an algorithm of a scale's tables as a run depends on it."""
    return ALGORITHMS[named.loss](**named.model_dump(exclude={"label"}))
