"""Tasks, a file each: problems, how their answers are graded, and how those of a synthetic task are generated.

``countdown``         chain Countdown, generated
``grid``              paths on a grid with walls, generated
``math``              an answer in mathematical notation, compared by the verifier
``multiple_choice``   the letter of an answer

A file that defines ``TASK`` is one; nothing else lists it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Field

from reproduction.fields import defined_in
from reproduction.tasks.problem import GeneratedData, GeneratedTask, Problem, Task

TASKS: dict[str, Task] = {task.style: task for task in defined_in(__name__, __path__, "TASK")}
"""Style -> task."""
GENERATED: dict[str, GeneratedTask] = {
    style: task for style, task in TASKS.items() if isinstance(task, GeneratedTask)
}
AnyGeneratedData = Annotated[
    Union[tuple(task.data for task in GENERATED.values())],  # noqa: UP007
    Field(discriminator="kind"),
]
"""A data set of any of the generated tasks."""


def is_generated(entry: Any) -> bool:
    """Whether an entry of workflow/datasets.yaml, as it is written, is a generated data set: it has a ``kind``."""
    return isinstance(entry, Mapping) and "kind" in entry
