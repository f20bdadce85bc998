"""Decides what each step computes: who is admitted, which piece of which prompt, who decodes.

Ours: continuous batching with chunked prefill. No torch here. Running sequences stand in a fixed order, first
those that decode, then those whose prompt is not finished; place i is row i of the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from openqwen.engine.sequence import Sequence

# A waiting request that shares at least this many more tokens with a prompt now being computed waits for it.
SHARE = 32


@dataclass(frozen=True)
class Piece:
    """`count` tokens of a prompt from `start` on, for the sequence at place `row`."""

    row: int
    start: int
    count: int


class Scheduler:
    """Queues and order. Rows of the cache are moved through the two callbacks, so order and rows never differ.

    swap(a, b): exchange two rows. claim(prompt, row): prepare a free row, return how many tokens it reuses.
    shares(a, b): whether a can begin from what will be held of b when b's prompt is computed.
    """

    def __init__(
        self,
        max_batch: int,
        budget: int,
        swap: Callable[[int, int], None],
        claim: Callable[[Sequence, int], int],
        shares: Callable[[Sequence, Sequence], bool],
    ) -> None:
        self.max_batch, self.budget = max_batch, budget
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.decoding = 0  # the first so many of `running` have their whole prompt in the cache
        self._swap_rows, self._claim, self._shares = swap, claim, shares

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def admit(self, share: bool) -> None:
        """Moves waiting requests, oldest first, to free rows. share: let equal prompt beginnings wait."""
        postponed: list[Sequence] = []
        while self.waiting and len(self.running) < self.max_batch:
            sequence = self.waiting.popleft()
            if share and self._worth_waiting(sequence):
                postponed.append(sequence)
                continue
            sequence.fed = sequence.reused = self._claim(sequence, len(self.running))
            self.running.append(sequence)
        self.waiting.extendleft(reversed(postponed))

    def _worth_waiting(self, sequence: Sequence) -> bool:
        """Whether a prompt being computed now will soon offer a long beginning that is not yet in the cache."""
        for other in self.running[self.decoding :]:
            if sequence.extension != other.extension or not self._shares(sequence, other):
                continue
            common = common_prefix(sequence.prompt, other.prompt)
            if min(common, len(sequence.prompt) - 1) - other.fed >= SHARE:
                return True
        return False

    def pieces(self) -> list[Piece]:
        """The prompt tokens of this step: one rectangle of at most `budget` tokens, padding counted."""
        rows = self.running[self.decoding :]
        if not rows:
            return []
        width = max(self.budget // len(rows), min(rows[0].missing, self.budget))
        width = max(1, min(width, max(s.missing for s in rows)))
        taken = rows[: max(1, self.budget // width)]
        return [Piece(self.decoding + i, s.fed, min(s.missing, width)) for i, s in enumerate(taken)]

    def feed(self, pieces: Seq[Piece]) -> list[Sequence]:
        """Marks pieces as computed. Prompts now complete join the decoding ones; they are returned in order."""
        done = []
        for piece in pieces:
            sequence = self.running[piece.row]
            sequence.fed += piece.count
            if not sequence.missing:
                done.append(sequence)
        for sequence in done:
            self._swap(self.running.index(sequence), self.decoding)
            self.decoding += 1
        return done

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out; the last ones of each kind close the gap."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        place = self.running.index(sequence)
        if place < self.decoding:
            self.decoding -= 1
            self._swap(place, self.decoding)
            place = self.decoding
        self._swap(place, len(self.running) - 1)
        self.running.pop()

    def _swap(self, a: int, b: int) -> None:
        if a != b:
            self.running[a], self.running[b] = self.running[b], self.running[a]
            self._swap_rows(a, b)


def common_prefix(a: Seq[int], b: Seq[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # bisection on slices: comparisons run in C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
