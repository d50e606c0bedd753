"""Stop strings in a stream: text is held back while it may still become one of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text on up to the first stop string, however the text is cut into pieces.

    The first one is that which is complete first; of several complete at the same character, the
    longest. It is what remains of the text when a model stops as soon as it has said one.

    One Knuth-Morris-Pratt automaton a string: a character costs O(strings), amortised.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("an empty stop string would stop everything")
        self._stops = tuple(dict.fromkeys(stops))
        self._fallbacks = tuple(_fallback(stop) for stop in self._stops)
        self._matched = [0] * len(self._stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is certain to stay, whether a stop string was found; then nothing follows)."""
        if not self._stops:
            return text, False
        buffer = self._held + text
        for position in range(len(self._held), len(buffer)):
            longest = self._advance(buffer[position])
            if longest:
                self._held = ""
                return buffer[: position + 1 - longest], True
        certain = len(buffer) - max(self._matched)
        self._held = buffer[certain:]
        return buffer[:certain], False

    def finish(self) -> str:
        """What was held back, when the text has ended without a stop string."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> int:
        """Length of the longest stop string that this character completes, or 0."""
        longest = 0
        for index, stop in enumerate(self._stops):
            matched, fallback = self._matched[index], self._fallbacks[index]
            while matched and stop[matched] != character:
                matched = fallback[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                longest = max(longest, matched)
                matched = fallback[matched - 1]
            self._matched[index] = matched
        return longest


def _fallback(word: str) -> list[int]:
    """For each prefix of `word`, the length of its longest proper suffix that is a prefix too."""
    table = [0] * len(word)
    matched = 0
    for position in range(1, len(word)):
        while matched and word[position] != word[matched]:
            matched = table[matched - 1]
        if word[position] == word[matched]:
            matched += 1
        table[position] = matched
    return table
