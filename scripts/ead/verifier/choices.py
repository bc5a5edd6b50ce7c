r"""Multiple choice: which letter a response settles on.

math-verify reads a letter as a variable, and finds none outside a box, so letters have rules of their own:

1. the last ``\boxed{...}``: its letter, alone or before its text: ``B``, ``(B)``, ``\text{B}``, ``B) 12``, ``B: 12``;
   behind "answer:" too.
   Several letters (``A, B, C, D``) are no choice, and a last box that does not close is no answer;
2. else the last "answer is B", "answer: (B)", "**Answer:** B", "answer is \text{B}"; "A good question" and "I think"
   hold words, not letters, and "A photosynthesis" cannot be told from the first;
3. else there is no answer. A letter that merely occurs in the text is none.
"""

import re

from ead.verifier.notation import in_latex
from ead.verifier.reading import has_box, joined_boxes

_DRESS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|emph|mathrm|mathbf|mathit|mathsf)\s*\{|\\[()\[\]]|[{}$*\s]"
)
_BOXED = re.compile(
    r"(?:(?i:the)?(?i:final|correct)?(?i:answer)(?:is:?|:))?\(?([A-Za-z])(?:\)?\.?$|[).:,](?!(?:and|or)?\(?[A-Z](?:$|[),.]))[^$])"
)
# Behind the letter A or I, not behind the word. Other words in small letters on the same line make it a word.
_BEHIND = (
    "is|because|since|as|and|or|but|from|due|with|which|where|by|if|not|has|gives|matches|fits|seems|works|in"
)
_BEHIND_A = (
    "for|was|would|will|can|must|should|does|only|alone|then|so|thus|hence|therefore|while|when|whereas|rather|instead"
    "|over|according|after|through|via|that|satisfies|holds|describes|states|represents|shows|makes|follows"
    "|corresponds|contains|equals"
)
_WORD = rf"(?-i:I[^\S\n]+(?!(?:{_BEHIND})\b)[a-z]|A[^\S\n]+(?!(?:{_BEHIND}|{_BEHIND_A})\b)[a-z])"
_STATED = re.compile(
    r"\banswer(?:\s+is)?[\s*_]*+:?[\s*_]*+(?:option\s+(?:[*$({`]|\\text\{|\\\()*+|"
    rf"(?:[*$({{`]|\\text\{{|\\\()*+(?!{_WORD}))([A-Z])(?![A-Za-z'])",
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
