"""Text of a reply while it grows: whole characters only, nothing that may still turn out to be a stop string.

Ours. Stop strings are found in the text, so it does not matter how they are cut into tokens; the longest end of
the text that could begin one is held back until the next token decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openqwen.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    from openqwen.tokenizer import Tokenizer


class TextStream:
    """Turns ids into text deltas. `stopped` is the stop string found, if any; `text` all that was released."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._special = frozenset(tokenizer.special.values())
        self._stop = tuple(stop)
        self._held = ""
        self._parts: list[str] = []
        self.stopped: str | None = None

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def push(self, token: int) -> str:
        """The text that became certain with this token. Control tokens have no text."""
        if token in self._special or self.stopped is not None:
            return ""
        return self._take(self._decoder.push(token))

    def finish(self) -> str:
        """What was held back, when no further token will come."""
        if self.stopped is not None:
            return ""
        delta = self._take(self._decoder.finish())
        if self.stopped is None:
            self._parts.append(self._held)
            delta, self._held = delta + self._held, ""
        return delta

    def _take(self, new: str) -> str:
        if not new:
            return ""
        text = self._held + new
        found = first_stop(text, self._stop)
        if found is not None:
            at, self.stopped = found
            release, self._held = text[:at], ""
        else:
            cut = len(text) - held_back(text, self._stop)
            release, self._held = text[:cut], text[cut:]
        self._parts.append(release)
        return release


def first_stop(text: str, stop: Sequence[str]) -> tuple[int, str] | None:
    """Where the earliest stop string begins, and which; the longest if several begin there."""
    hits = [(text.find(s), -len(s), s) for s in stop if s in text]
    return (min(hits)[0], min(hits)[2]) if hits else None


def held_back(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of text that is a proper beginning of a stop string."""
    longest = 0
    for s in stop:
        for size in range(min(len(s) - 1, len(text)), longest, -1):
            if text.endswith(s[:size]):
                longest = size
                break
    return longest
