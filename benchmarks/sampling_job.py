"""What the samplers that are compared with each other are asked for: the same prompts, lengths and temperatures."""

from dataclasses import dataclass

from ead import seeds
from ead.schedule import Annealed, Fixed, Schedule


@dataclass(frozen=True)
class SamplingJob:
    """``batch`` different prompts of ``prompt_tokens`` tokens, one response of exactly ``tokens`` tokens to each."""

    batch: int
    tokens: int
    prompt_tokens: int = 16
    annealed: bool = False
    temperature: float = 1.0  # where not annealed

    def prompts(self, vocabulary: int) -> list[list[int]]:
        draw = seeds.generator(0, "benchmark", "prompts", self.batch)
        return draw.integers(2, vocabulary, (self.batch, self.prompt_tokens)).tolist()

    @property
    def schedule(self) -> Schedule:
        """The annealed one has another temperature at every position: its smooth part outlasts the response."""
        return Annealed(d0=2.0 * self.tokens, alpha=0, start=0) if self.annealed else Fixed(self.temperature)
