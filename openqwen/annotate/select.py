"""Balanced sampling of prompts by their tags.

Report §3.2.1 asks for an algorithm that considers both diversity and complexity and cites InsTag, where diversity is the
number of different tags and complexity the number of tags a prompt has. Ours: the greedy rule that weighs the two.

    gain of a prompt = diversity x (its tags that the round does not have yet) + complexity x (its tags)

The prompt with the greatest gain is taken, again and again. When no prompt brings the round a new tag, a new round
begins with none: so each tag comes about equally often, however common it is among the prompts.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence

Tags = Sequence[frozenset[str]]  # of each prompt


def balanced(tags: Tags, size: int, seed: int, diversity: float = 1.0, complexity: float = 0.1) -> list[int]:
    """The numbers of `size` prompts (all, if there are fewer), the best first. Equal gains are ordered by the seed.

    A prompt without tags is taken when there is no other.
    """
    order = list(range(len(tags)))
    random.Random(seed).shuffle(order)
    place = {number: rank for rank, number in enumerate(order)}
    left = set(order)
    chosen: list[int] = []
    while left and len(chosen) < size:
        taken = _round(tags, left, size - len(chosen), place, diversity, complexity)
        chosen += taken
        left -= set(taken)
        if not taken:  # only prompts without tags are left
            chosen += [number for number in order if number in left][: size - len(chosen)]
            break
    return chosen


def _round(
    tags: Tags, left: Iterable[int], size: int, place: dict[int, int], diversity: float, complexity: float
) -> list[int]:
    """Prompts until none brings a new tag. Gains only fall, so a gain that is still first when renewed is the greatest."""
    have: set[str] = set()

    def key(number: int) -> tuple[float, int, int]:
        new = len(tags[number] - have)
        return -(diversity * new + complexity * len(tags[number])), place[number], new

    heap = [(*key(number), number) for number in left]
    heapq.heapify(heap)
    taken: list[int] = []
    while heap and len(taken) < size:
        *_, number = heapq.heappop(heap)
        if not tags[number] - have:
            continue  # nothing new: for a later round
        renewed = (*key(number), number)
        if heap and renewed > heap[0]:
            heapq.heappush(heap, renewed)
            continue
        taken.append(number)
        have |= tags[number]
    return taken


def coverage(tags: Tags, chosen: Iterable[int]) -> float:
    """Share of all tags that the chosen prompts have; 0 if there are no tags."""
    every = frozenset().union(*tags)
    return len(frozenset().union(*(tags[number] for number in chosen))) / len(every) if every else 0.0
