"""Stop strings in a text that comes in pieces: nothing of a stop string is ever given out. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence


class StopChecker:
    """Looks for stop strings across the borders of tokens.

    The stop is the one that is complete first; of two that are complete at the same character, the longer. Text that
    could be the beginning of one is held back until the next characters tell. So neither what is given out nor where
    the text ends depends on how it was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.stop: str | None = None
        """The stop string that was found; after it every text is swallowed."""

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """The text that is certain now. A stop string that is complete while not `may_stop` is plain text."""
        if self.stop is not None or not (text or self._held):
            return ""
        if not self._stops:
            return text
        before, text = len(self._held), self._held + text
        if may_stop and (found := self._first(text, before)) is not None:
            start, self.stop = found
            self._held = ""
            return text[:start]
        certain = self._certain(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What is still held back: nothing comes that could complete it."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str, before: int) -> tuple[int, str] | None:
        """Start and name of the stop that ends first, among those that end after the first `before` characters."""
        starts = ((text.find(stop, max(0, before - len(stop) + 1)), stop) for stop in self._stops)
        found = [(start + len(stop), start, stop) for start, stop in starts if start >= 0]
        return min(found)[1:] if found else None

    def _certain(self, text: str) -> int:
        """The length of `text` less its longest end that is a proper beginning of a stop."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            rest = len(text) - start
            if any(len(stop) > rest and stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
