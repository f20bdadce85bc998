"""Texts made to be slow for an expression or a measure: time grows with their length, never with its square."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from openqwen.code_qwen import licences, secrets
from openqwen.data import decontaminate, html_text, language, quality, text
from openqwen.data.config import LanguageConfig
from openqwen.data.documents import Document
from openqwen.data.encoding import decode_page
from openqwen.math_qwen import check

SIZE = 50_000
PIECES = (
    "a", "a ", "a.", "1", "1,", "1=", "1+", "1+1=", "(", "( 1", "- ", "_", "!", "> ", "\n>", "\n", "\n ", "\r\n", " ",
    "\t", "&", "&#1", "&amp;", "<", "<<", "<meta ", '<meta charset="', "/*", '"', "'", "\\", "...", ".", "。", "你",
    "\u200b", "\u0301", "ａ", "the ", "import ", "from a import ", "def ", "SPDX-License-Identifier: a AND ", "####",
)  # fmt: skip
FILTERS: dict[str, Callable[[str], object]] = {
    "rules": quality.measure,
    "repetition": lambda found: quality.repetition([found]),
    "language": lambda found: language.identify([Document("x", found, "web", "", "f")], LanguageConfig()),
    "encoding": lambda found: decode_page(found.encode() + b"\xff"),
    "tidying": html_text.tidy,
    "normal form": text.normal_form,
    "normal forms": lambda found: text.normal_forms([found]),
    "sentences of decontamination": lambda found: decontaminate._SENTENCE_END.split(found),
    "secrets": secrets.clean,
    "licences": licences.licence_of_text,
    "equations": check.equations,
    "answers": check.answer_of,
}


@pytest.mark.fault(
    "data", "a text is made to be slow for a filter: 50,000 times a piece, then the wrong end", "linear time"
)
@pytest.mark.parametrize("name", FILTERS)
def test_no_text_is_slow_to_filter(name: str) -> None:
    """At a nanosecond a step the square of the length takes 2.5 s."""
    run = FILTERS[name]
    run("The first call may read tables.")
    slow = {}
    for piece in PIECES:
        hostile = (piece * SIZE)[:SIZE] + "!"
        began = time.process_time()
        run(hostile)
        slow[piece] = time.process_time() - began
    assert {piece: seconds for piece, seconds in slow.items() if seconds > 1.5} == {}
