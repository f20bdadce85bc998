"""Text of a reply while it grows: whole characters only, nothing that may still turn out to be a stop string.

Ours. Stop strings are found in the text, so it does not matter how they are cut into tokens; the longest end of
the text that could begin one is held back until the next token decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from openqwen.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    from openqwen.tokenizer import Tokenizer


class Cutter(Protocol):
    """A rule that ends a reply by what its text says, such as the end of a function (code_qwen/stop.py)."""

    @property
    def name(self) -> str: ...

    @property
    def ended(self) -> bool: ...

    def start(self) -> Cutter:
        """A fresh one, for one reply."""

    def push(self, text: str) -> str:
        """The text that has become certain; from the end on nothing."""

    def finish(self) -> str:
        """What was held back, when no further text will come."""


class TextStream:
    """Turns ids into text deltas. `stopped` is the stop string found or the cutter's name; `text` all released."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), cutter: Cutter | None = None) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._special = frozenset(tokenizer.special.values())
        self._stop = tuple(stop)
        self._cutter = cutter.start() if cutter is not None else None
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
            held, self._held = self._held, ""
            delta += self._release(held, last=True)
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
        return self._release(release, last=found is not None)

    def _release(self, text: str, last: bool = False) -> str:
        """Passes on what no stop string holds back, as far as the cutter lets it."""
        if self._cutter is not None:
            text = self._cutter.push(text)
            if last and not self._cutter.ended:
                text += self._cutter.finish()
            if self._cutter.ended:
                self.stopped = self._cutter.name
        self._parts.append(text)
        return text


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
