"""Real problems with an answer in mathematical notation: the last box, or the last expression, is compared."""

from reproduction.tasks.problem import Task

TASK = Task(style="rule", grade=None)
