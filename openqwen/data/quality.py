"""What the rules for quality measure of a text, and the step that applies them.

Report §2.1 ("rule-based methods"); the rules themselves, with their papers, are in rules.py. A word is what stands
between spaces, so measures of words are for languages that have them; Chinese has its own, in characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from openqwen.data.config import RulesConfig
from openqwen.data.documents import MEASURE, Document, Dropped
from openqwen.data.rules import broken_rule
from openqwen.data.shards import num_bytes
from openqwen.data.text import UNSPACED_BLOCKS, Spans, batches, code_points, crowded, mix, run_hashes

# Gopher, A.1.1. What is searched for begins with a letter: an expression that begins with \b is tried at each place.
_STOP_WORDS = [
    re.compile(rf"{word}(?<=\b{word})\b") for word in ["the", "be", "to", "of", "and", "that", "have", "with"]
]
_FUNCTION = "的了是在和有不我这就也都与为中上"
_END = tuple(".!?:;\"'”’)。！？：；…》」』）~")
_SENTENCE = re.compile(r"[.!?。！？](?:(?<=[。！？])|(?=[\s\"'”’)]|$))")
_BULLET = ("•", "-", "*", "–", "·", "●", "‣")
_LOREM = "lorem ipsum"
_PLACEHOLDERS = [
    "log in", "login", "sign in", "sign up", "password", "cookie", "javascript", "not found",
    "page you asked", "page you requested", "subscribe", "newsletter", "privacy policy", "terms of use",
    "terms of service", "all rights reserved", "loading", "your cart", "previous page", "next page",
    "no results", "share on", "share this", "sort by", "copyright",
]  # fmt: skip
_CHINESE_PLACEHOLDERS = [
    "登录", "密码", "注册", "页面不存在", "已被删除", "订阅", "正在加载", "请稍候", "禁用脚本", "购物车", "使用条款",
    "隐私政策", "版权所有", "分享", "上一页", "下一页", "没有找到", "排序",
]  # fmt: skip
_FEW = 3  # lines; shares of fewer lines say nothing


def _duplicates(parts: Sequence[str]) -> tuple[float, float]:
    """Share of repeated parts, and of the characters they hold."""
    if not parts:
        return 0.0, 0.0
    again = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
    return len(again) / len(parts), sum(map(len, again)) / max(1, sum(map(len, parts)))


def measure(text: str) -> dict[str, float]:
    """Every number the rules speak of that does not need n-grams."""
    lower, codes = text.lower(), code_points(text)
    borders = np.flatnonzero(np.diff(_classes().take(codes) > 0, prepend=False, append=False))
    words, sizes = borders[::2], borders[1::2] - borders[::2]  # where each begins
    letters = _letters().take(codes)
    with_letters = int(np.count_nonzero(np.logical_or.reduceat(letters, words))) if len(words) else 0
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    num_lines, num_words, length = max(1, len(lines)), max(1, len(words)), max(1, len(text))
    line_share, line_chars = _duplicates([line for line in lines if any(map(str.isalnum, line))])
    paragraph_share, paragraph_chars = _duplicates([p.strip() for p in text.split("\n\n") if p.strip()])
    han = int(np.count_nonzero((codes >= 0x3400) & (codes <= 0x9FFF)))
    visible = max(1, int(sizes.sum()))
    placeholders = [*_PLACEHOLDERS, *(_CHINESE_PLACEHOLDERS if han else ())]
    symbols = max(text.count("#"), text.count("...") + text.count("…"))
    line_lengths = [len(line) for line in text.split("\n")]
    return {
        "words": len(words),
        "word_length": visible / num_words,
        "symbols": symbols / num_words,
        "bullets": sum(line.startswith(_BULLET) for line in lines) / num_lines,
        "ellipses": sum(line.endswith(("...", "…")) for line in lines) / num_lines,
        "alphabetic": with_letters / num_words,
        "stopwords": sum(word.search(lower) is not None for word in _STOP_WORDS),
        "duplicate_lines": line_share,
        "duplicate_line_chars": line_chars,
        "duplicate_paragraphs": paragraph_share,
        "duplicate_paragraph_chars": paragraph_chars,
        "lorem": lower.count(_LOREM),
        "curly": text.count("{") + text.count("}"),
        "sentences": len(_SENTENCE.findall(text)),
        "placeholders": sum(len(phrase) * lower.count(phrase) for phrase in placeholders) / visible,
        "line_ends": sum(line.endswith(_END) for line in lines) / num_lines if len(lines) > _FEW else 1.0,
        "short_lines": sum(len(line) < 30 for line in lines) / num_lines if len(lines) > _FEW else 0.0,
        "short_lines_zh": sum(len(line) < 10 for line in lines) / num_lines if len(lines) > _FEW else 0.0,
        "han": han,
        "han_share": han / visible,
        "function_chars": sum(character in text for character in _FUNCTION),
        "symbol_chars": symbols / visible,
        "exclamations": (text.count("!") + text.count("！")) / max(1, num_bytes(text)),
        "longest_run": int(sizes.max(initial=0)) if not han else 0,
        "line_length": sum(line_lengths) / max(1, len(line_lengths)),
        "line_longest": max(line_lengths, default=0),
        "letters": int(np.count_nonzero(letters)) / length,
    }


@cache
def _letters() -> np.ndarray:
    """Which code points are letters, (0x110000,) bool."""
    table = np.zeros(0x110000, bool)
    table[:0x40000] = [chr(code).isalpha() for code in range(0x40000)]  # no letters in the planes beyond
    return table


@dataclass(frozen=True)
class _Words:
    """Words of several texts end to end; a character of a script written without spaces is a word."""

    hashes: np.ndarray  # (words,) uint64
    starts: np.ndarray  # (words,) int64: where each begins among the characters of all texts
    stops: np.ndarray  # (words,) int64
    document: np.ndarray  # (words,) int64: which text it is of
    ends: np.ndarray  # (documents,) int64: the number of the word after each text


@cache
def _classes() -> np.ndarray:
    """0 for what separates words, 1 for what they are made of, 2 for what is one alone, (0x110000,) uint8."""
    table = np.ones(0x110000, np.uint8)
    table[[code for code in range(0x3001) if chr(code).isspace()]] = 0
    for first, last in UNSPACED_BLOCKS:
        table[first : last + 1] = 2
    return table


def _words(texts: Sequence[str]) -> _Words:
    codes = code_points("\n".join([*texts, ""]))
    kinds = _classes().take(codes)
    begins, ends = kinds > 0, kinds > 0
    begins[1:] &= (kinds[1:] == 2) | (kinds[:-1] != 1)
    ends[:-1] &= (kinds[:-1] == 2) | (kinds[1:] != 1)
    starts, stops = np.flatnonzero(begins), np.flatnonzero(ends) + 1
    hashes = Spans(mix(codes.astype(np.uint64) + np.uint64(1))).hashes(starts, stops)
    borders = np.searchsorted(starts, np.cumsum([len(text) + 1 for text in texts]))
    document = np.repeat(np.arange(len(texts)), np.diff(borders, prepend=0))
    return _Words(hashes, starts, stops, document, borders)


def repetition(texts: Sequence[str]) -> list[dict[str, float]]:
    """Shares of the characters that stand in the commonest n-gram (n = 2..4) and in repeated ones (n = 5..10)."""
    out: list[dict[str, float]] = []
    for start, stop in batches(texts):
        lengths = np.array([max(1, len(text)) for text in texts[start:stop]])
        columns = _repeated(_words(texts[start:stop]), stop - start)
        out += [{k: float(v[i] / lengths[i]) for k, v in columns.items()} for i in range(stop - start)]
    return out


def _repeated(words: _Words, num_documents: int) -> dict[str, np.ndarray]:
    """Characters in the commonest n-gram and in repeated ones, (documents,) by name of the measure.

    Where an n-gram is repeated, so is the shorter one that begins it: each n looks only at what n - 1 found.
    """
    # Equal n-grams of two documents are no repetition.
    apart = mix(np.arange(1, num_documents + 1, dtype=np.uint64))
    places = np.arange(len(words.hashes))
    columns: dict[str, np.ndarray] = {}
    for n in range(2, 11):
        places = places[places + n <= words.ends[words.document[places]]]
        keys = run_hashes(words.hashes, n)[places] + apart[words.document[places]]
        shared = crowded(keys)  # most n-grams occur once and need no sorting
        places = places[shared]
        _, first, group, counts = np.unique(
            keys[shared], return_index=True, return_inverse=True, return_counts=True
        )
        if n > 4:
            columns[f"dup_{n}"] = _covered(words, np.delete(places, first), n, num_documents)
        times = counts[group]
        places, times = places[times > 1], times[times > 1]
        if n <= 4:
            sizes = (words.stops[places + n - 1] - words.starts[places]) * times
            columns[f"top_{n}"] = _largest(sizes, words.document[places], num_documents)
    return columns


def _largest(values: np.ndarray, document: np.ndarray, num_documents: int) -> np.ndarray:
    """The largest value of each document, (documents,), 0 where it has none; document (values,) ascends."""
    out = np.zeros(num_documents)
    first = np.flatnonzero(np.diff(document, prepend=-1))
    if len(first):
        out[document[first]] = np.maximum.reduceat(values, first)
    return out


def _covered(words: _Words, places: np.ndarray, n: int, num_documents: int) -> np.ndarray:
    """Characters of words in a run of n from one of these places, each counted once, (documents,)."""
    change = np.zeros(len(words.hashes) + 1, np.int64)
    change[places] += 1
    change[places + n] -= 1
    sizes = np.where(np.cumsum(change[:-1]) > 0, words.stops - words.starts, 0)
    return np.bincount(words.document, weights=sizes, minlength=num_documents)


def filter_rules(documents: Sequence[Document], config: RulesConfig) -> tuple[list[Document], list[Dropped]]:
    """Applies every rule that suits a document's language and source; all that is measured is kept with it."""
    kept, dropped = [], []
    for document, repeated in zip(documents, repetition([d.text for d in documents])):
        # What is kept is what is judged.
        values = {name: round(value, 6) for name, value in {**measure(document.text), **repeated}.items()}
        document.scores |= {f"{MEASURE}{name}": value for name, value in values.items()}
        broken = broken_rule(document.source, document.lang, values, config)
        if broken is None:
            kept.append(document)
        else:
            rule, value, limit = broken
            sign = "<" if rule.is_least else ">"
            detail = f"{rule.measure} = {value:.4g} {sign} {limit:g} ({rule.setting}; {rule.source})"
            dropped.append(Dropped(document, rule.name, detail=detail))
    return kept, dropped
