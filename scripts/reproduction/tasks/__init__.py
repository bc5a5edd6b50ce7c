"""Tasks, a file each: problems, how their answers are graded, and how those of a synthetic task are generated.

``countdown``         chain Countdown, generated
``grid``              paths on a grid with walls, generated
``math``              an answer in mathematical notation, compared by the verifier
``multiple_choice``   the letter of an answer
"""

from typing import Annotated, Union

from pydantic import Field

from reproduction.tasks import countdown, grid, math, multiple_choice
from reproduction.tasks.problem import GeneratedData, GeneratedTask, Problem, Task

TASKS: dict[str, Task] = {
    task.style: task for task in (countdown.TASK, grid.TASK, math.TASK, multiple_choice.TASK)
}
"""Style -> task."""
GENERATED: dict[str, GeneratedTask] = {
    style: task for style, task in TASKS.items() if isinstance(task, GeneratedTask)
}
AnyGeneratedData = Annotated[
    Union[tuple(task.data for task in GENERATED.values())],  # noqa: UP007
    Field(discriminator="kind"),
]
"""A data set of any of the generated tasks."""

__all__ = ["GENERATED", "TASKS", "AnyGeneratedData", "GeneratedData", "GeneratedTask", "Problem", "Task"]
