r"""Multiple choice: which letter a response settles on.

math-verify reads a letter as a variable, and finds none outside a box, so letters have rules of their own:

1. the last ``\boxed{...}``: its letter, alone or before its text: ``B``, ``(B)``, ``\text{B}``, ``B) 12``, ``B: 12``.
   Several letters (``A, B, C, D``) are no choice, and a last box that does not close is no answer;
2. else the last "answer is B", "answer: (B)", "**Answer:** B", "answer is \text{B}";
3. else there is no answer. A letter that merely occurs in the text is none.
"""

import re

from ead.verifier.notation import in_latex
from ead.verifier.reading import has_box, joined_boxes

_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{|\\[()\[\]]|[{}$*\s]")
_BOXED = re.compile(r"\(?([A-Za-z])(?:\)?\.?$|[).:,](?!(?:and|or)?\(?[A-Z](?:$|[),.]))[^$])")
_STATED = re.compile(
    r"\banswer(?:\s+is)?[\s*_]*:?[\s*_]*(?:option\s+)?(?:[*$({`]|\\text\{|\\\()*([A-Z])(?![A-Za-z'])",
    re.IGNORECASE,
)
_TAIL_CHARACTERS = 1_000
_LONGEST = 100_000


def read_choice(response: str) -> str | None:
    """Return the capital letter that ``response`` settles on, or None."""
    response = in_latex(response[-_LONGEST:])
    if has_box(response):
        boxed = joined_boxes(response) or ""
        letter = _BOXED.match(_DRESS.sub("", boxed[:_TAIL_CHARACTERS]))
        return letter[1].upper() if letter else None
    stated = [match for match in _STATED.finditer(response[-_TAIL_CHARACTERS:]) if match[1].isupper()]
    return stated[-1][1] if stated else None
