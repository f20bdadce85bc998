"""Tags of prompts: by rules, from a model's words, or as given; brought to one form and cut to a vocabulary.

Report §3.2.1: a classification system of around 6600 detailed tags; how it was made is in InsTag, which asks a model for
tags, drops rare ones and joins those that mean the same. Ours: the rules, the terms, and joining by form only (case, width,
punctuation), not by meaning.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from openqwen.annotate.rules import LONGEST, RULES, SHORTEST
from openqwen.annotate.select import Tags

MAX_TAG = 60  # characters; what is longer is a sentence, not a tag
ASK = """Read the request below and name its intentions and topics as tags: short, specific, lower-case English phrases, \
most telling first, at most eight. Answer with a JSON list of strings and nothing else, such as ["write poem", "nature"].

Request:
{text}"""
_WORD = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")
LONG = 800  # characters


def normalise(tag: str) -> str:
    """`" Write-Poem. "` -> `"write poem"`: the form in which two tags count as the same; empty if it is none."""
    text = unicodedata.normalize("NFKC", tag).casefold()
    text = " ".join(re.sub(r"[^\w/+#]+|_", " ", text).split())
    return text if len(text) <= MAX_TAG else ""


def parse_tags(reply: str) -> frozenset[str]:
    """The tags in a model's reply: its first JSON list, else its lines or what stands between commas. Never fails."""
    found = re.search(r"\[.*?\]", reply, re.DOTALL)
    words: list[str] = []
    if found:
        try:
            words = [word for word in json.loads(found[0]) if isinstance(word, str)]
        except ValueError:
            words = found[0].strip("[]").split(",")
    elif len(lines := [_BULLET.sub("", line) for line in reply.splitlines() if line.strip()]) > 1:
        words = lines
    else:
        words = re.split(r"[,;，、；]", reply)
    return frozenset(filter(None, map(normalise, words)))


def by_rules(text: str) -> frozenset[str]:
    """The tags whose words a text has, and those of its language and length."""
    low = text.casefold()
    words = _WORD.findall(low)
    line = f" {' '.join(words)} "
    found: set[str] = set()
    for word in set(words):
        found |= RULES.words.get(word, set())
        for length in range(SHORTEST, min(LONGEST, len(word)) + 1):
            found |= RULES.beginnings.get(word[:length], set())
    for phrase, tags in RULES.phrases.items():
        found |= tags if phrase in line else set()
    for pattern, tags in RULES.patterns.items():
        found |= tags if pattern.search(low) else set()
    han = len(_HAN.findall(text))
    if han:
        for sign, tags in RULES.signs.items():
            found |= tags if sign in text else set()
    chinese = han > sum(word.isascii() for word in words) * 2
    found.add("language/chinese" if chinese else "language/other")
    return frozenset(found | ({"length/long"} if len(text) > LONG else set()))


def by_terms(texts: Sequence[str], per_text: int, max_share: float) -> list[frozenset[str]]:
    """The rarest words of each text (pairs of signs in Chinese), of those that occur in two texts and not in too many."""
    terms = [_terms(text) for text in texts]
    count = Counter(term for found in terms for term in found)
    limit = max(2, max_share * len(texts))
    known = {term for term, number in count.items() if 2 <= number <= limit}
    return [
        frozenset(
            f"term/{term}" for term in sorted(found & known, key=lambda term: (count[term], term))[:per_text]
        )
        for found in terms
    ]


def _terms(text: str) -> set[str]:
    words = {word for word in _WORD.findall(text.casefold()) if len(word) > 3 and word.isascii()}
    runs = re.findall(r"[\u4e00-\u9fff]{2,}", text)
    return words | {run[i : i + 2] for run in runs for i in range(len(run) - 1)}


def keep_frequent(tags: Tags, min_count: int, max_tags: int) -> list[frozenset[str]]:
    """The same prompts with the most frequent tags only, none that fewer than `min_count` prompts have."""
    count = Counter(tag for found in tags for tag in found)
    frequent = sorted((tag for tag in count if count[tag] >= min_count), key=lambda tag: (-count[tag], tag))
    known = frozenset(frequent[:max_tags])
    return [found & known for found in tags]
