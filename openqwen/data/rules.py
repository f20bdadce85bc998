"""Rules for quality as data: what is limited, by which setting, where the limit was published, what it suits.

Report §2.1 ("rule-based methods") gives no thresholds. These are the published ones of Gopher (Rae et al. 2021,
appendix A.1.1, table A1), C4 (Raffel et al. 2020, §2.2), FineWeb (Penedo et al. 2024, §3.6) and The Stack (Kocetkov et
al. 2022, §3), and ours for Chinese, where words have no spaces and stop words are characters. The limits in force are
settings (config.py); `published` is what the paper has, whether or not the default is the same.

    >>> [(rule.name, rule.source, rule.published) for rule in RULES][0]
    ('too few words', 'Gopher, A.1.1', 50)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openqwen.data.config import RulesConfig

GOPHER, TABLE_A1, C4, FINEWEB, STACK, OURS = (
    "Gopher, A.1.1",
    "Gopher, table A1",
    "C4, §2.2",
    "FineWeb, §3.6",
    "The Stack, §3",
    "ours",
)
_EN, _ZH, _CODE = ("en",), ("zh",), ("code",)
_PROSE, _PAGES = ("web",), ("web", "primer")
_ANY = ("web", "docs", "code", "primer", "instruction")


@dataclass(frozen=True)
class Rule:
    """Drops a text whose `measure` lies beyond the limit that `setting` names: a least one or a greatest one."""

    name: str
    measure: str
    setting: str  # "gopher.min_words": below quality in config.py; min_ is a least value, max_ a greatest
    source: str
    published: float | None = None  # the paper's limit; None: the rule is ours
    langs: tuple[str, ...] = ()  # none: all
    kinds: tuple[str, ...] = _PROSE

    @property
    def is_least(self) -> bool:
        """Whether values below the limit break the rule, and not those above."""
        return self.setting.rpartition(".")[2].startswith("min_")

    def limit(self, config: RulesConfig) -> float | None:
        """The limit in force; None: the rule is switched off."""
        table, _, name = self.setting.partition(".")
        return getattr(getattr(config, table), name)

    def suits(self, source: str, lang: str) -> bool:
        """Whether documents of this source and language are held to the rule."""
        return kind_of_rules(source) in self.kinds and (not self.langs or lang in self.langs)

    def breaks(self, value: float, limit: float) -> bool:
        """Whether a value lies beyond the limit."""
        return value < limit if self.is_least else value > limit


# Whole paragraphs of documentation are lists, signatures and repeated "Methods inherited from": for "docs" only the
# rules on noise hold. Code has no sentences; its rules are those of code collections. The primer's pages are
# exercises: short questions of one form are their purpose, so the rules on repetition, on short lines and on words
# without letters are not for them, nor for instruction samples.
RULES: tuple[Rule, ...] = (
    Rule("too few words", "words", "gopher.min_words", GOPHER, 50, _EN, _PAGES),
    Rule("too many words", "words", "gopher.max_words", GOPHER, 100_000, _EN),
    Rule("short words", "word_length", "gopher.min_word_length", GOPHER, 3, _EN),
    Rule("long words", "word_length", "gopher.max_word_length", GOPHER, 10, _EN),
    Rule("symbols for words", "symbols", "gopher.max_symbols", GOPHER, 0.1, _EN),
    Rule("bullet lines", "bullets", "gopher.max_bullet_lines", GOPHER, 0.9),
    Rule("ellipsis lines", "ellipses", "gopher.max_ellipsis_lines", GOPHER, 0.3),
    Rule("words without letters", "alphabetic", "gopher.min_words_with_letters", GOPHER, 0.8, _EN),
    Rule("no stop words", "stopwords", "gopher.min_stop_words", GOPHER, 2, _EN),
    Rule("duplicate lines", "duplicate_lines", "gopher.max_duplicate_lines", TABLE_A1, 0.30),
    Rule("duplicate paragraphs", "duplicate_paragraphs", "gopher.max_duplicate_paragraphs", TABLE_A1, 0.30),
    Rule("characters in duplicate lines", "duplicate_line_chars", "gopher.max_duplicate_line_chars", TABLE_A1, 0.20),
    Rule(
        "characters in duplicate paragraphs", "duplicate_paragraph_chars",
        "gopher.max_duplicate_paragraph_chars", TABLE_A1, 0.20,
    ),
    Rule("top 2-gram", "top_2", "gopher.max_top_2", TABLE_A1, 0.20, _EN),
    Rule("top 3-gram", "top_3", "gopher.max_top_3", TABLE_A1, 0.18, _EN),
    Rule("top 4-gram", "top_4", "gopher.max_top_4", TABLE_A1, 0.16, _EN),
    Rule("duplicate 5-grams", "dup_5", "gopher.max_dup_5", TABLE_A1, 0.15, _EN),
    Rule("duplicate 6-grams", "dup_6", "gopher.max_dup_6", TABLE_A1, 0.14, _EN),
    Rule("duplicate 7-grams", "dup_7", "gopher.max_dup_7", TABLE_A1, 0.13, _EN),
    Rule("duplicate 8-grams", "dup_8", "gopher.max_dup_8", TABLE_A1, 0.12, _EN),
    Rule("duplicate 9-grams", "dup_9", "gopher.max_dup_9", TABLE_A1, 0.11, _EN),
    Rule("duplicate 10-grams", "dup_10", "gopher.max_dup_10", TABLE_A1, 0.10, _EN),
    Rule("lorem ipsum", "lorem", "c4.max_lorem", C4, 0, kinds=(*_PAGES, "instruction")),
    Rule("curly brackets", "curly", "c4.max_curly", C4, 0, _EN),
    Rule(
        "placeholder page", "placeholders", "c4.max_placeholders", "ours, after C4's lines on cookies and policies",
        kinds=_PAGES,
    ),
    Rule("lines without end", "line_ends", "fineweb.min_line_ends", FINEWEB, 0.12),
    # Chosen on English pages; of Chinese ones it finds those with listings of code.
    Rule("repeated lines", "duplicate_line_chars", "fineweb.max_duplicate_line_chars", FINEWEB, 0.1, _EN),
    Rule("short lines", "short_lines", "fineweb.max_short_lines", FINEWEB, 0.67, _EN),
    Rule("too few sentences", "sentences", "c4.min_sentences", C4, 3, _EN),
    Rule("too few characters", "han", "chinese.min_characters", OURS, None, _ZH, _PAGES),
    Rule("too many characters", "han", "chinese.max_characters", OURS, None, _ZH),
    Rule("few Chinese characters", "han_share", "chinese.min_share", OURS, None, _ZH),
    Rule("no function characters", "function_chars", "chinese.min_function_characters", OURS, None, _ZH),
    Rule("symbols for characters", "symbol_chars", "chinese.max_symbols", OURS, None, _ZH),
    Rule("short Chinese lines", "short_lines_zh", "chinese.max_short_lines", OURS, None, _ZH),
    Rule("too few Chinese sentences", "sentences", "chinese.min_sentences", OURS, None, _ZH),
    Rule("top character 4-gram", "top_4", "chinese.max_top_4", OURS, None, _ZH),
    Rule("duplicate character 10-grams", "dup_10", "chinese.max_dup_10", OURS, None, _ZH),
    Rule("shouting", "exclamations", "every.max_exclamations", OURS, None, kinds=_PAGES),
    Rule("one long line", "longest_run", "every.max_run", OURS, None, kinds=_ANY),
    Rule("long lines of code", "line_length", "code.max_mean_line", STACK, 100, _CODE, ("code",)),
    Rule("longest line of code", "line_longest", "code.max_line", STACK, 1000, _CODE, ("code",)),
    Rule("little text in code", "letters", "code.min_letters", STACK, 0.25, _CODE, ("code",)),
)  # fmt: skip


def kind_of_rules(source: str) -> str:
    """Which rules a source is held to: its own if there are any, those of web pages otherwise."""
    return source if source in _ANY else "web"


def broken_rule(
    source: str, lang: str, values: Mapping[str, float], config: RulesConfig
) -> tuple[Rule, float, float] | None:
    """The first rule that a document's values break, its value and the limit; None: it passes."""
    for rule in RULES:
        limit = rule.limit(config)
        if limit is not None and rule.suits(source, lang) and rule.breaks(values[rule.measure], limit):
            return rule, values[rule.measure], limit
    return None
