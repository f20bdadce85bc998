"""Languages of texts: scripts, telling words, code, mixtures, and real paragraphs."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.data.config import LanguageConfig
from openqwen.data.documents import Document
from openqwen.data.language import CODE, UNKNOWN, LiteModel, by_script, identify, prose, traditional_share
from openqwen.data.text import code_points

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
ENGLISH = "The river begins in the mountains and flows past the old mill to the sea, as everyone here knows."
CHINESE = "这条河从山里流出来，经过古老的磨坊，最后流进大海，这里的人都知道。"


@pytest.fixture(scope="module")
def model() -> LiteModel:
    return LiteModel()


@pytest.mark.parametrize(
    "text, lang",
    [
        ("გამარჯობა მსოფლიო", "ka"), ("Բարեւ աշխարհ", "hy"), ("ᐃᓄᒃᑎᑐᑦ ᐅᖃᐅᓯᖅ", "iu"), ("བོད་སྐད", "bo"), ("ಕನ್ನಡ ಭಾಷೆ", "kn"),
        ("ሰላም ለዓለም", "am"), ("ສະບາຍດີ", "lo"), ("한국어", "ko"), ("かな", "ja"), ("漢字", "zh"),
    ],
)  # fmt: skip
def test_scripts_decide_alone(text: str, lang: str, model: LiteModel) -> None:
    found = by_script(code_points(text))
    assert found is not None and found[0] == lang and found[1] > 0.9
    assert model(text) == found


def test_chinese_japanese_and_korean_are_told_apart(model: LiteModel) -> None:
    assert model("東京都の人口は約千四百万人であり、日本国内最大の都市である。")[0] == "ja"
    assert (
        model(
            "東京是日本的首都，人口約一千四百萬，片假名寫作トウキョウ，是世界最大的都市之一，也是經濟中心。"
        )[0]
        == "zh"
    )
    assert model("서울특별시(서울特別市)는 대한민국의 수도이자 최대 도시이다.")[0] == "ko"


def test_a_chinese_page_with_much_english_is_chinese(model: LiteModel) -> None:
    mixed = f"{CHINESE}\n" + ENGLISH[:80]
    assert model(mixed)[0] == "zh"
    assert model(f"{CHINESE}\n" + f"{ENGLISH}\n" * 6)[0] == "en"


def test_traditional_and_simplified() -> None:
    assert traditional_share("這個國家的人們說話時會學習") == 1.0
    assert traditional_share("这个国家的人们说话时会学习") == 0.0
    assert traditional_share("山水人口") is None
    document = Document("x", "這個國家的人們說話時會學習歷史與藝術，并且热爱自然。", "web")
    identify([document], LanguageConfig())
    assert document.lang == "zh" and 0.5 < document.scores["lang.traditional"] < 1


def test_what_the_model_takes_for_a_neighbour(model: LiteModel) -> None:
    malay = "Projek ini percuma kerana komuniti mahu berkongsi perisian dan maklumat, walaupun syarikat tidak membayar wang."
    indonesian = (
        "Proyek ini gratis karena komunitas mau berbagi informasi, namun perusahaan tidak memberi uang."
    )
    swahili = "Mradi huu ni wa watu wote ambao wanataka kufanya kazi katika jamii yako, kwa hiyo kila mtu anakaribishwa pia."
    assert [model(text)[0] for text in (malay, indonesian, swahili)] == ["ms", "id", "sw"]


PROGRAM = '''
"""A docstring in plain English that says what the module is for."""
import os


def area(width: int, height: int) -> int:
    if width < 0 or height < 0:
        raise ValueError(f"negative: {width}, {height}")
    return width * height


class Box:
    def __init__(self, sides):
        self.sides = {name: sides[i] for i, name in enumerate("abc")}
'''


def test_code_is_no_language_and_says_nothing_about_one(model: LiteModel) -> None:
    assert model(PROGRAM)[0] == CODE
    assert model(f"{CHINESE}{PROGRAM}{PROGRAM}")[0] == "zh"
    assert (
        model(
            f"{PROGRAM}\n" + "Die Funktion gibt die Fläche zurück, und die Klasse speichert die Seiten. " * 9
        )[0]
        == "de"
    )
    left, share = prose(f"{ENGLISH}\nint main() {{ return f(x) + g[y]; }}\n{ENGLISH}")
    assert left == f"{ENGLISH}\n{ENGLISH}" and 0.1 < share < 0.3
    assert prose(ENGLISH) == (ENGLISH, 0.0)
    assert model("for (i = 0; i < n; i++)")[1] < 0.9  # one line is no program yet


def test_the_whole_of_a_long_text_is_looked_at(model: LiteModel) -> None:
    """Not its beginning, which may be anything: the model alone would look at 80 characters."""
    german = "Die Stadt liegt an einem kleinen Fluss, und am Morgen öffnen die Läden sehr früh. "
    assert model(f"{ENGLISH}\n" + german * 60)[0] == "de"
    assert model("title: translation of the manual\n" + german * 3)[0] == "de"


@given(st.text(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_text_gets_a_language_and_a_probability(model: LiteModel, text: str) -> None:
    language, confidence = model(text)
    assert language and 0 <= confidence <= 1
    assert language != UNKNOWN or confidence == 0


ENGLISH_WORDS = frozenset(
    ["the", "of", "and", "to", "is", "you", "that", "it", "for", "with", "be", "your", "have", "or"]
)


def is_prose(text: str, lang: str) -> bool:
    found = re.findall(r"[^\W\d_]+", text.lower())
    english = sum(word in ENGLISH_WORDS for word in found)
    latin = sum(word.isascii() for word in found)
    if (
        "](" in text
        or text.startswith("---")
        or (lang in ("bn", "hi", "ta", "zh") and latin > 0.5 * len(found))
    ):
        return False
    return lang == "en" or english <= 0.12 * len(found)


def paragraphs(least: int, most: int, count: int) -> list[tuple[str, str]]:
    """Paragraphs by language, without those left in English and without lists of links."""
    path = SHARED / "text/multilingual.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    found = defaultdict(list)
    for name in ("multilingual", "zh", "en"):
        with gzip.open(SHARED / f"text/{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            for record in map(json.loads, file):
                lang = record["lang"].split("-")[0]
                if record["domain"] in ("guide", "news", "law", "wikipedia", "speech"):
                    text = re.sub(r"`[^`]*`|https?://\S+|<[^>]+>", " ", record["text"])
                    parts = [part.strip() for part in text.split("\n\n")]
                    found[lang] += [p for p in parts if least <= len(p) <= most and is_prose(p, lang)]
    rng = random.Random(0)
    return [
        (lang, p) for lang, parts in sorted(found.items()) for p in rng.sample(parts, min(count, len(parts)))
    ]


@pytest.mark.shared
def test_paragraphs_of_many_languages(model: LiteModel) -> None:
    """98 % of paragraphs, languages weighing alike, and a confidence that means what it says."""
    right, sure = defaultdict(list), []
    for lang, text in paragraphs(100, 500, 60):
        found, confidence = model(text)
        right[lang].append(found == lang)
        sure.append((confidence, found == lang))
    assert len(right) >= 20
    assert np.mean([np.mean(hits) for hits in right.values()]) >= 0.98
    high = [hit for confidence, hit in sure if confidence >= 0.95]
    low = [hit for confidence, hit in sure if confidence < 0.8]
    assert len(high) > 0.8 * len(sure) and np.mean(high) >= 0.985
    assert np.mean(low) < np.mean(high)
