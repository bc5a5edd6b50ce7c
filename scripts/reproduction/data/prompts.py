r"""The messages a problem is asked with. Which template a data set uses is a named choice in its table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptTemplate:
    """An optional system line, and the user's text before and after the problem."""

    system: str | None
    before: str
    after: str

    def messages(self, problem: str) -> list[dict[str, str]]:
        """Return the messages that ask for ``problem``."""
        user = {"role": "user", "content": f"{self.before}{problem}{self.after}"}
        return [user] if self.system is None else [{"role": "system", "content": self.system}, user]


_STEP_BY_STEP = r"Please reason step by step, and put your final answer within \boxed{}."

PROMPTS: dict[str, PromptTemplate] = {
    # The public recipe that the paper follows (Minimal-RL).
    "minimal_rl": PromptTemplate(
        system=_STEP_BY_STEP,
        before="",
        after=r" Let's think step by step and output the final answer within \boxed{}.",
    ),
    # DAPO's own: a last line `Answer: ...`, no box and no system line.
    "dapo": PromptTemplate(
        system=None,
        before=(
            "Solve the following math problem step by step. The last line of your response should be of the "
            "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
        ),
        after='\n\nRemember to put your answer on its own line after "Answer:".',
    ),
    # MMLU with a chain of thought.
    "multiple_choice": PromptTemplate(
        system=_STEP_BY_STEP,
        before="",
        after="\n\nLet's think step by step and output the letter of the final answer within \\boxed{}.",
    ),
}
"""Every prompt template by name."""
