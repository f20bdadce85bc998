"""Log-probability of given continuations, batched by length, each prefix computed once.

Report §2.6 scores multiple-choice answers this way; the batching is ours. Prefixes are prefilled into cache rows
(a beginning common to all of a batch only once); their continuations run from copies of those rows.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from openqwen.engine.scheduler import common_prefix
from openqwen.model.cache import KVCache
from openqwen.model.config import CacheFormat
from openqwen.model.qwen import Qwen
from openqwen.tokenizer import Tokenizer

Pair = tuple[Seq[int], Seq[int]]
Answer = tuple[float, bool]
SHARE = 16  # a common beginning shorter than this is not worth a call of its own


@torch.no_grad()
def loglikelihood(
    model: Qwen,
    tokenizer: Tokenizer,
    pairs: Seq[Pair],
    max_batch: int,
    held: CacheFormat | None = None,
) -> list[Answer]:
    """For each pair the sum of the continuation's log-probabilities, and whether greedy would produce it.

    held: how the cache holds keys and values; None: in the weights' dtype.
    An empty prefix stands for <|endoftext|>, an empty continuation scores (0.0, True).
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (prefix, _) in enumerate(pairs):
        groups.setdefault(tuple(prefix) or (tokenizer.eos_id,), []).append(i)
    weight = model.embed.weight
    half = max(1, max_batch // 2)  # the other half of the rows is for continuations
    going_on = sum(len(continuation) > 1 for _, continuation in pairs)
    # No more room than these pairs need: to clear memory that nothing uses costs as much as a layer's work.
    rows = max(1, min(half, len(groups))) + min(half, going_on)
    longest = max((len(prefix) + len(continuation) for prefix, continuation in pairs), default=0)
    cache = KVCache(model.config, rows, longest + 1, dtype=weight.dtype, device=weight.device, held=held)
    answers: list[Answer] = [(0.0, True)] * len(pairs)
    # Neighbours in order share beginnings; batches of like length waste no padding.
    order = sorted(groups, key=lambda p: (len(p) // 32, p))
    for start in range(0, len(order), half):
        _score_batch(model, tokenizer.vocab_size, cache, order[start : start + half], groups, pairs, answers)
    return answers


def _score_batch(
    model: Qwen,
    vocab_size: int,
    cache: KVCache,
    prefixes: list[tuple[int, ...]],
    groups: dict[tuple[int, ...], list[int]],
    pairs: Seq[Pair],
    answers: list[Answer],
) -> None:
    for row in range(cache.num_rows):
        cache.free(row)
    last = _prefill(model, cache, prefixes)  # (b, C)
    first = log_probabilities(model, last, vocab_size)  # (b, V)
    jobs: list[tuple[int, int]] = []  # (row, pair) whose continuation goes on after its first token
    for row, prefix in enumerate(prefixes):
        for pair in groups[prefix]:
            continuation = pairs[pair][1]
            if len(continuation):
                answers[pair] = _score(first[row, None], continuation[:1])
                if len(continuation) > 1:
                    jobs.append((row, pair))
    free = list(range(len(prefixes), cache.num_rows))
    jobs.sort(key=lambda job: len(pairs[job[1]][1]))
    for start in range(0, len(jobs), max(1, len(free))):
        part = jobs[start : start + len(free)]
        for (row, _), target in zip(part, free):
            cache.copy(row, target)
        targets = free[: len(part)]
        rests = [list(pairs[pair][1]) for _, pair in part]
        hidden = _feed(model, cache, targets, [rest[:-1] for rest in rests])  # (b, T, C)
        for i, (_, pair) in enumerate(part):
            logp = log_probabilities(model, hidden[i, : len(rests[i]) - 1], vocab_size)  # (T, V)
            answers[pair] = _join(answers[pair], _score(logp, rests[i][1:]))
        for target in targets:
            cache.free(target)


def _prefill(model: Qwen, cache: KVCache, prefixes: list[tuple[int, ...]]) -> Tensor:
    """Fills rows 0.. with the prefixes; hidden states (b, C) of their last tokens."""
    rows = list(range(len(prefixes)))
    common = min(common_prefix(prefixes[0], p) for p in prefixes)
    common = min(common, min(map(len, prefixes)) - 1)
    if len(prefixes) > 1 and common >= SHARE:
        _feed(model, cache, [0], [list(prefixes[0][:common])])
        for row in rows[1:]:
            cache.copy(0, row)
    else:
        common = 0
    rests = [list(p[common:]) for p in prefixes]
    hidden = _feed(model, cache, rows, rests)  # (b, T, C)
    return hidden[rows, [len(rest) - 1 for rest in rests]]


def _feed(model: Qwen, cache: KVCache, rows: list[int], parts: list[list[int]]) -> Tensor:
    """Appends tokens to rows; hidden states (b, T, C), meaningless beyond a part's length."""
    width, device = max(map(len, parts)), cache.device
    ids = torch.tensor([part + [0] * (width - len(part)) for part in parts], device=device)  # (b, T)
    mask = torch.arange(width, device=device) < torch.tensor([[len(part)] for part in parts], device=device)
    return model.hidden(ids, None if bool(mask.all()) else mask, cache=cache.select(rows))


def log_probabilities(model: Qwen, hidden: Tensor, vocab_size: int) -> Tensor:
    """(N, C) -> (N, V), over the ids the tokenizer has."""
    return torch.log_softmax(model.head(hidden)[:, :vocab_size].float(), -1)


def _score(logp: Tensor, ids: Seq[int]) -> Answer:
    """logp (n, V), the n ids -> (sum, greedy)."""
    target = torch.tensor(list(ids), device=logp.device)  # (n,)
    return float(logp.gather(1, target[:, None]).double().sum()), bool((logp.argmax(-1) == target).all())


def _join(a: Answer, b: Answer) -> Answer:
    return a[0] + b[0], a[1] and b[1]
