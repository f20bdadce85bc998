"""Rules for quality: what is measured of a text, the published thresholds as data, and which sources they suit.

Report §2.1 ("a combination of rule-based and machine-learning-based methods") gives no thresholds. These are the
published ones of Gopher (Rae et al. 2021, appendix A.1.1, table A1), C4 (Raffel et al. 2020, §2.2) and FineWeb
(Penedo et al. 2024, §3.6), and ours for Chinese, where words have no spaces and stop words are characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from openqwen.data.documents import Document, Dropped
from openqwen.data.text import TokenStream, batches, grams, token_stream

GOPHER, C4, FINEWEB, OURS = "Gopher, table A1 and A.1.1", "C4, §2.2", "FineWeb, §3.6", "ours"


@dataclass(frozen=True)
class Rule:
    """Drops a text whose `measure` is below `low` or above `high`."""

    name: str
    measure: str
    low: float = float("-inf")
    high: float = float("inf")
    source: str = OURS
    langs: tuple[str, ...] = ("en", "zh")
    kinds: tuple[str, ...] = ("web", "text")


_EN, _ZH = ("en",), ("zh",)
_PROSE, _PAGES = ("web", "text"), ("web", "text", "primer")
_ANY = ("web", "text", "docs", "code", "primer")
# Whole paragraphs of documentation are lists, signatures and repeated "Methods inherited from": for "docs" only the
# rules on length and on noise hold. Code has no sentences; its rules are those of code collections. The primer's
# pages are exercises: short questions of one form are their purpose, so the rules on repetition, on short lines and
# on words without letters are not for them.
RULES: tuple[Rule, ...] = (
    # Gopher, quality. The least length is ours: its 50 words throw away a page with two good paragraphs.
    Rule("too few words", "words", 20, source="ours (Gopher: 50)", langs=_EN, kinds=_PAGES),
    Rule("too many words", "words", high=100_000, source=GOPHER, langs=_EN),
    Rule("mean word length", "word_length", 3, 10, GOPHER, _EN),
    Rule("symbols for words", "symbols", high=0.1, source=GOPHER),
    Rule("bullet lines", "bullets", high=0.9, source=GOPHER),
    Rule("ellipsis lines", "ellipses", high=0.3, source=GOPHER),
    Rule(
        "words without letters",
        "alphabetic",
        0.6,
        source="ours (Gopher: 0.8; arithmetic is welcome)",
        langs=_EN,
    ),
    Rule("no stop words", "stopwords", 2, source=GOPHER, langs=_EN),
    # Gopher, repetition.
    Rule("duplicate lines", "duplicate_lines", high=0.30, source=GOPHER),
    Rule("duplicate paragraphs", "duplicate_paragraphs", high=0.30, source=GOPHER),
    Rule("characters in duplicate lines", "duplicate_line_chars", high=0.20, source=GOPHER),
    Rule("characters in duplicate paragraphs", "duplicate_paragraph_chars", high=0.20, source=GOPHER),
    Rule("top 2-gram", "top_2", high=0.20, source=GOPHER, langs=_EN),
    Rule("top 3-gram", "top_3", high=0.18, source=GOPHER, langs=_EN),
    Rule("top 4-gram", "top_4", high=0.16, source=GOPHER, langs=_EN),
    Rule("duplicate 5-grams", "dup_5", high=0.15, source=GOPHER, langs=_EN),
    Rule("duplicate 7-grams", "dup_7", high=0.13, source=GOPHER, langs=_EN),
    Rule("duplicate 10-grams", "dup_10", high=0.10, source=GOPHER, langs=_EN),
    # C4.
    Rule("lorem ipsum", "lorem", high=0, source=C4, kinds=_PAGES),
    Rule(
        "placeholder page",
        "placeholders",
        high=0.25,
        source="ours, after C4's javascript and policy lines",
        kinds=_PAGES,
    ),
    # FineWeb.
    Rule("lines without end", "line_ends", 0.12, source=FINEWEB),
    Rule("short lines", "short_lines", high=0.67, source=FINEWEB, langs=_EN),
    # Chinese: characters for words, and limits on runs of characters where English has runs of words.
    Rule("too few characters", "han", 30, langs=_ZH, kinds=_PAGES),
    Rule("few Chinese characters", "han_share", 0.25, langs=_ZH),
    Rule("no function characters", "function_chars", 2, langs=_ZH),
    Rule("top character 4-gram", "top_4", high=0.20, langs=_ZH),
    Rule("duplicate character 10-grams", "dup_10", high=0.25, langs=_ZH),
    # Any language and source.
    Rule("shouting", "exclamations", high=0.02, kinds=_PAGES),
    Rule("one long line", "longest_run", high=1000, kinds=_ANY, langs=("en", "zh", "code")),
    # Code: The Stack's filters for generated and minified files (Kocetkov et al. 2022, §3).
    Rule("long lines of code", "line_length", high=100, source="The Stack", langs=("code",), kinds=("code",)),
    Rule(
        "longest line of code",
        "line_longest",
        high=1000,
        source="The Stack",
        langs=("code",),
        kinds=("code",),
    ),
    Rule("little text in code", "letters", 0.25, source="The Stack", langs=("code",), kinds=("code",)),
)

_WORD = re.compile(r"\S+")
_STOP = re.compile(r"\b(?:the|be|to|of|and|that|have|with|is|in|a|it|for|on|are|was)\b", re.IGNORECASE)
_HAN = re.compile(r"[\u3400-\u9fff]")
_FUNCTION = "的了是在和有不我这就也都与为中上"
_END = tuple(".!?:;\"'”’)。！？：；…》」』）~")
_BULLET = ("•", "-", "*", "–", "·", "●", "‣")
_LOREM = "lorem ipsum"
_PLACEHOLDER = re.compile(
    r"log ?in|sign ?in|sign ?up|password|cookie|javascript|not found|page you (?:asked|requested)|subscribe|newsletter|"
    r"privacy policy|terms of (?:use|service)|all rights reserved|loading|your cart|previous page|next page|"
    r"no results|share (?:on|this)|sort by|copyright|登录|密码|注册|页面不存在|已被删除|订阅|正在加载|请稍候|"
    r"禁用脚本|"
    r"购物车|使用条款|隐私政策|版权所有|分享|上一页|下一页|"
    r"没有找到|排序",
    re.IGNORECASE,
)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _duplicates(parts: Sequence[str]) -> tuple[float, float]:
    """Share of repeated parts, and of the characters they hold."""
    if not parts:
        return 0.0, 0.0
    again = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
    return len(again) / len(parts), sum(map(len, again)) / max(1, sum(map(len, parts)))


def measure(text: str) -> dict[str, float]:
    """Every number the rules speak of that does not need n-grams."""
    lines, words = _lines(text), _WORD.findall(text)
    num_lines, num_words, length = max(1, len(lines)), max(1, len(words)), max(1, len(text))
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    line_share, line_chars = _duplicates(lines)
    paragraph_share, paragraph_chars = _duplicates(paragraphs)
    han = len(_HAN.findall(text))
    visible = max(1, sum(map(len, words)))
    line_lengths = [len(line) for line in text.split("\n")]
    return {
        "words": len(words),
        "word_length": visible / num_words,
        "symbols": (text.count("#") + text.count("...") + text.count("…")) / num_words,
        "bullets": sum(line.startswith(_BULLET) for line in lines) / num_lines,
        "ellipses": sum(line.endswith(("...", "…")) for line in lines) / num_lines,
        "alphabetic": sum(any(map(str.isalpha, word)) for word in words) / num_words,
        "stopwords": len({m.lower() for m in _STOP.findall(text)}),
        "duplicate_lines": line_share,
        "duplicate_line_chars": line_chars,
        "duplicate_paragraphs": paragraph_share,
        "duplicate_paragraph_chars": paragraph_chars,
        "lorem": float(_LOREM in text.lower()),
        "placeholders": sum(len(m) for m in _PLACEHOLDER.findall(text)) / visible,
        "line_ends": sum(line.endswith(_END) for line in lines) / num_lines,
        "short_lines": sum(len(line) <= 30 for line in lines) / num_lines if len(lines) > 3 else 0.0,
        "han": han,
        "han_share": han / visible,
        "function_chars": len(set(_FUNCTION).intersection(text)),
        "exclamations": (text.count("!") + text.count("！")) / length,
        "longest_run": max(map(len, words), default=0) if not han else 0,
        "line_length": sum(line_lengths) / max(1, len(line_lengths)),
        "line_longest": max(line_lengths, default=0),
        "letters": sum(map(str.isalpha, text)) / length,
    }


def repetition(texts: Sequence[str]) -> list[dict[str, float]]:
    """Shares of the tokens that stand in the commonest n-gram (n = 2..4) and in repeated ones (n = 5, 7, 10)."""
    out: list[dict[str, float]] = []
    for start, stop in batches(texts):
        stream = token_stream(texts[start:stop])
        columns = {f"top_{n}": _top_share(stream, n) for n in (2, 3, 4)}
        columns |= {f"dup_{n}": _duplicate_share(stream, n) for n in (5, 7, 10)}
        out += [{k: float(v[i]) for k, v in columns.items()} for i in range(stop - start)]
    return out


def _gram_counts(stream: TokenStream, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per position: document, how often its n-gram occurs in that document, and whether it is not the first."""
    runs = grams(stream, n)
    document = np.repeat(np.arange(len(runs.bounds) - 1), np.diff(runs.bounds))
    order = np.lexsort((runs.positions, runs.hashes, document))
    d, h = document[order], runs.hashes[order]
    new = np.concatenate([[True], (d[1:] != d[:-1]) | (h[1:] != h[:-1])]) if len(d) else np.empty(0, bool)
    group = np.cumsum(new) - 1
    counts = np.bincount(group, minlength=1)[group] if len(d) else np.empty(0, np.int64)
    again = np.empty(len(d), bool)
    count = np.empty(len(d), np.int64)
    again[order], count[order] = ~new, counts
    return document, count, again


def _top_share(stream: TokenStream, n: int) -> np.ndarray:
    document, count, _ = _gram_counts(stream, n)
    top = np.zeros(len(stream.lengths))
    np.maximum.at(top, document, np.where(count > 1, count * n, 0))
    return top / np.maximum(stream.lengths, 1)


def _duplicate_share(stream: TokenStream, n: int) -> np.ndarray:
    """Share of tokens covered by n-grams that occurred before in the document."""
    _, _, again = _gram_counts(stream, n)
    positions = grams(stream, n).positions[again]
    cover = np.zeros(len(stream.hashes) + 1, np.int64)
    np.add.at(cover, positions, 1)
    np.add.at(cover, positions + n, -1)
    covered = np.concatenate([[0], np.cumsum(np.cumsum(cover[:-1]) > 0)])
    return (covered[stream.bounds[1:]] - covered[stream.bounds[:-1]]) / np.maximum(stream.lengths, 1)


def kind_of_rules(source: str) -> str:
    """Which rules a source is held to: its own if there are any, those of web pages otherwise."""
    return source if source in _ANY else "web"


def broken_rule(document: Document, values: dict[str, float]) -> tuple[Rule, float] | None:
    """The first rule a document breaks and the value that broke it."""
    kind = kind_of_rules(document.source)
    for rule in RULES:
        if kind in rule.kinds and (document.lang in rule.langs or document.lang not in ("en", "zh", "code")):
            if document.lang not in rule.langs and len(rule.langs) == 1:
                continue  # a rule for one language only
            value = values[rule.measure]
            if not rule.low <= value <= rule.high:
                return rule, value
    return None


def filter_rules(
    documents: Sequence[Document], show: Callable[[int], None] = lambda done: None
) -> tuple[list[Document], list[Dropped]]:
    """Applies every rule that suits a document's language and source."""
    kept, dropped = [], []
    repeated = repetition([d.text for d in documents])
    for i, (document, more) in enumerate(zip(documents, repeated)):
        broken = broken_rule(document, {**measure(document.text), **more})
        if broken is None:
            kept.append(document)
        else:
            rule, value = broken
            dropped.append(
                Dropped(document, rule.name, detail=f"{rule.measure} = {value:.4g} ({rule.source})")
            )
        if i % 200 == 0:
            show(i)
    show(len(documents))
    return kept, dropped
