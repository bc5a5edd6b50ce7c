r"""Multiple choice: which letter a response settles on.

math-verify reads a letter as a variable, and finds none outside a box, so letters have rules of their own:

1. the last ``\boxed{...}``: its letter, alone or before its text: ``B``, ``(B)``, ``\text{B}``, ``B) 12``, ``B: 12``;
2. else the last "answer is B", "answer: (B)", "answer is \text{B}";
3. else there is no answer. A letter that merely occurs in the text is none.
"""

import re

from ead.verifier.text import last_boxed

_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{|\\[()\[\]]|[{}$*\s]")
_BOXED = re.compile(r"\(?([A-Za-z])(?:$|[).:,])")
_STATED = re.compile(
    r"\banswer(?:\s+is)?\s*:?\s*(?:option\s+)?(?:[*$({]|\\text\{|\\\()*([A-Z])(?![A-Za-z'])", re.IGNORECASE
)
_TAIL_CHARACTERS = 1_000


def read_choice(response: str) -> str | None:
    """Return the capital letter that ``response`` settles on, or None."""
    boxed = last_boxed(response)
    if boxed is not None:
        letter = _BOXED.match(_DRESS.sub("", boxed[:_TAIL_CHARACTERS]))
        return letter[1].upper() if letter else None
    stated = [match for match in _STATED.finditer(response[-_TAIL_CHARACTERS:]) if match[1].isupper()]
    return stated[-1][1] if stated else None
