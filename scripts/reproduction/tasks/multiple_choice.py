"""Real problems with lettered choices; their rows have the style ``rule`` and this ability."""

from ead.verifier import Verdict
from ead.verifier.choices import read_choice
from reproduction.tasks.problem import Problem, Task

ABILITY = "multiple_choice"


def grade(problem: Problem, response: str, finished: bool) -> Verdict:
    """Grade the letter that a response chooses, whether or not it was cut afterwards."""
    letter = read_choice(response)
    status = "no_answer" if letter is None else "ok"
    return Verdict(correct=letter == problem.answer, status=status, extracted=letter, canonical=letter)


TASK = Task(style=ABILITY, grade=grade)
