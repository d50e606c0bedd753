"""What came in and went out, counted since the start: what prompts and answers are like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Totals; who wants those of some time subtracts."""

    requests: int = 0
    prompt_tokens: int = 0
    """Of the prompts of all requests, in caches or not."""
    prefills: int = 0
    """Prompts computed, those among them that were computed again after a loss."""
    computed_tokens: int = 0
    """Tokens of these that came from no cache."""
    answers: int = 0
    """Requests that are over, however they ended."""
    answer_tokens: int = 0

    def arrived(self, prompt: int) -> None:
        """A request with so many tokens came in."""
        self.requests += 1
        self.prompt_tokens += prompt

    def prefilled(self, computed: int) -> None:
        """So many tokens were computed for a first token."""
        self.prefills += 1
        self.computed_tokens += computed

    def ended(self, answer: int) -> None:
        """A request is over after so many tokens."""
        self.answers += 1
        self.answer_tokens += answer
