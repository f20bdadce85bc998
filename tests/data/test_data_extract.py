"""Main text from HTML: what is kept and cut, encodings, quality on real pages, and pages made to break it."""

from __future__ import annotations

import gc
import gzip
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from openqwen.data.config import ExtractConfig
from openqwen.data.documents import Raw
from openqwen.data.encoding import decode_page
from openqwen.data.extract import extract
from openqwen.data.html_text import TooDeep, main_text
from openqwen.data.text import tokens

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
SENTENCE = "The river begins in the mountains, and it flows past the old mill to the sea."
PROSE = " ".join([SENTENCE] * 6)
FRAME = (
    '<header class="site-header"><h1>Site</h1></header><nav><a href="/">Home</a></nav>{}'
    '<div class="sidebar"><h3>Recent</h3><a href="/a">Another page</a></div><footer>All rights reserved</footer>'
)


def page(body: str, title: str = "") -> str:
    return f"<html><head><title>{title}</title></head><body>{body}</body></html>"


def test_lists_tables_code_and_formulas_can_be_read() -> None:
    text = main_text(
        page(
            "<main><h2>标题</h2><p>汉字\n换行<br>second  line</p><ul><li>one<li>two<ul><li>in <b>bold</b></ul></ul>"
            "<ol start=3><li><p>three</p><li>four</ol><table><tr><th>a<th>b<tr><td>1<td>x &amp; y</table>"
            '<pre><span class="lineno">1</span>def f(x):\n<span class="lineno">2</span>    return "汉"\n</pre>'
            '<p>Where <script type="math/tex">x^2</script> is.</p></main>'
        )
    )
    assert text == (
        "标题\n\n汉字换行\nsecond line\n\n- one\n- two\n  - in bold\n\n3. three\n4. four\n\na | b\n1 | x & y\n\n"
        '1def f(x):\n2    return "汉"\n\nWhere $x^2$ is.'
    ).replace("1def", "def").replace("2    ", "    ")


def test_line_numbers_beside_the_code_go_and_every_line_stays() -> None:
    lines = ["if (a < b) {", "    go();", "", "}"]
    inner = "".join(f'<span class="line">{line.replace("<", "&lt;")}</span><br>' for line in lines)
    text = main_text(
        page(f'<article><p>{PROSE}</p><table><tr><td class="gutter"><pre>1\n2\n3\n4</pre></td>'
             f'<td class="code"><pre>{inner}</pre></td></tr></table></article>')
    )  # fmt: skip
    assert "\n".join(lines) in text and "1\n2" not in text


def test_coloured_code_stays_and_hidden_text_goes() -> None:
    code = '<pre><div><span style="color: #008000">def</span> <span class="nf">f</span>():</div><div>    pass</div></pre>'
    hidden = '<span style="display: none">secret</span><p hidden>secret</p>'
    text = main_text(page(f'<article><p>{PROSE} <i style="color:red">Red.</i></p>{code}{hidden}</article>'))
    assert "def f():\n    pass" in text and "Red." in text and "secret" not in text


@pytest.mark.parametrize(
    "content",
    [
        "<main>{}</main>", "<article>{}</article>", '<div class="post-content">{}</div>',
        '<div itemprop="articleBody">{}</div>',
        '<div role="main">{}</div>', '<div class="x1"><div class="x2">{}</div></div>', '<section id="content">{}</section>',
    ],
)  # fmt: skip
def test_the_frame_of_a_site_goes_whatever_holds_the_content(content: str) -> None:
    inner = f"<p>{PROSE}</p><h2>Part</h2><p>{PROSE}</p>"
    assert main_text(page(FRAME.format(content.format(inner)))) == f"{PROSE}\n\nPart\n\n{PROSE}"


def test_names_are_hints_and_sizes_decide() -> None:
    """A body that has a sidebar is none; a heading called related work stays, and what holds all is kept."""
    for body in (
        f'<div class="with-sidebar"><p>{PROSE}</p></div>',
        f'<div class="share-nav-footer"><p>{PROSE}</p></div>',
        f"<form><p>{PROSE}</p></form>",
        f'<div class="nav-content"><div role="main"><p>{PROSE}</p></div></div>',
    ):
        assert main_text(page(body)) == PROSE
    related = f'<section id="related-work"><h2>Related work</h2><p>{SENTENCE}</p></section>'
    assert "Related work" in main_text(page(f"<main><p>{PROSE}</p>{related}</main>"))
    note = f'<aside class="note"><p>{SENTENCE} Note.</p></aside>'
    assert "Note." in main_text(page(f"<main><p>{PROSE}</p>{note}</main>"))
    assert "Note." not in main_text(page(f"<div><p>{PROSE}</p>{note.replace('note', 'related')}</div>"))


def test_a_list_of_articles_keeps_them_all() -> None:
    items = "".join(f"<article><h2>Title {i}</h2><p>{SENTENCE} Number {i}.</p></article>" for i in range(3))
    text = main_text(page(FRAME.format(f'<div id="posts">{items}</div>')))
    assert all(f"Title {i}" in text and f"Number {i}." in text for i in range(3))
    assert "Home" not in text and "Another" not in text


def test_without_any_names_the_prose_is_found() -> None:
    teasers = "".join(f"<div><b>Story {i}</b><span>It is short, too.</span></div>" for i in range(4))
    body = f"<div><div>{teasers}</div><div><p>{PROSE}</p><p>{PROSE}</p><p>{PROSE}</p></div></div>"
    assert main_text(page(body)) == "\n\n".join([PROSE] * 3)


def test_a_title_outside_of_the_content_is_put_before_it() -> None:
    body = f'<div class="top"><h1>A mill</h1></div><div class="post-body"><p>{PROSE}</p></div>'
    assert main_text(page(body, "A mill - Site")) == f"A mill\n\n{PROSE}"
    assert main_text(page(body, "Site")) == PROSE


def test_contents_and_links_to_elsewhere_are_no_content() -> None:
    own = "<ul>" + "".join(f'<li><a href="#s{i}">Section {i}</a></li>' for i in range(5)) + "</ul>"
    text = main_text(page(f"<main>{own}<p>{PROSE}</p></main>"))
    assert text == PROSE
    links = "<div>" + "".join(f'<a href="/p{i}">Some other story {i}</a> ' for i in range(5)) + "</div>"
    assert main_text(page(f"<article><p>{PROSE}</p>{links}<p>{PROSE}</p></article>")) == f"{PROSE}\n\n{PROSE}"
    # in a sentence they belong to it
    inside = "<p>See " + ", ".join(f'<a href="/p{i}">the story {i}</a>' for i in range(5)) + ".</p>"
    assert "the story 3" in main_text(page(f"<article><p>{PROSE}</p>{inside}</article>"))


def test_whole_pages_lose_nothing() -> None:
    body = FRAME.format(f"<p>{PROSE}</p>")
    assert all(
        word in main_text(page(body), whole=True) for word in ("Home", "Recent", "All rights", SENTENCE)
    )


@given(st.text(alphabet=st.sampled_from("<>/=\"' abdivpretlsc&#;x\n!-\0\ud800汉"), max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_soup_gives_clean_text(soup: str) -> None:
    for whole in (False, True):
        text = main_text(soup, whole)
        assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]|[ \t]$|\n\n\n", text, re.MULTILINE)


def test_control_characters_go_wherever_they_stand() -> None:
    marks = "\0\x08\x0b\x0c\x1f\x7f\ufeff\ufffe\uffff\ud800"
    for mark in marks:
        assert main_text(f"<p>One{mark} word</p><s{mark}cript>x</s{mark}cript>", whole=True) == "One word"
    assert main_text(marks) == ""


def test_a_page_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        main_text(page(FRAME.format(f"<article><p>{PROSE}</p></article>" * 20)))
        assert gc.collect() < 20  # objects of a page that hold each other: hundreds
    finally:
        gc.enable()


def test_the_child_imports_little() -> None:
    code = "import sys, openqwen.data.extractor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"lxml.etree", "openqwen.data.extractor"} <= set(loaded)
    assert {"numpy", "pydantic", "pyarrow"}.isdisjoint(loaded)


# --- encodings ----------------------------------------------------------------------------------------------------

SAMPLES = {
    "zh": "这是一个关于河流和山脉的网页，水从山里流出来，最后流进大海，很多人在这里生活。",
    "hant": "這是一個關於河流和山脈的網頁，水從山裡流出來，最後流進大海，很多人在這裡生活。",
    "ja": "これは川と山についてのページです。水は山から流れ出て、最後に海に注ぎます。",
    "ko": "이것은 강과 산에 관한 페이지입니다. 물은 산에서 흘러나와 마지막에 바다로 들어갑니다.",
    "fr": "C'est une page sur la rivière et les montagnes, où l'été dure déjà très longtemps à côté.",
    "ru": "Это страница о реке и горах: вода течёт из гор и в конце концов впадает в море.",
}
ENCODED = [
    ("gb18030", "zh"), ("big5", "hant"), ("shift_jis", "ja"), ("euc_jp", "ja"), ("iso2022_jp", "ja"), ("cp949", "ko"),
    ("cp1252", "fr"), ("cp1251", "ru"), ("koi8_r", "ru"), ("utf-16", "zh"), ("utf-16-le", "fr"), ("utf-8-sig", "ko"),
    ("utf-8", "zh"), ("utf-32", "ja"),
]  # fmt: skip


@pytest.mark.parametrize("said", ["right", "", "utf-8", "iso-8859-1", "big5", "no-such-charset", "base64"])
@pytest.mark.parametrize("encoding, lang", ENCODED)
def test_encodings_are_found_whatever_the_page_says(encoding: str, lang: str, said: str) -> None:
    label = encoding.replace("_", "-") if said == "right" else said
    meta = f'<meta charset="{label}">' if label else ""
    text = page(f"{meta}<p>{SAMPLES[lang]}</p>" * 3)
    assert decode_page(text.encode(encoding))[0].lstrip("\ufeff") == text
    assert decode_page(text.encode(encoding), label or None)[0].lstrip("\ufeff") == text


def test_damaged_utf8_stays_utf8() -> None:
    data = page(f"<p>{SAMPLES['zh'] * 20}</p>").encode()
    for broken in (data[:400] + b"\xff" + data[400:], data[:-17], data[:1000] + data[1001:]):
        text, encoding = decode_page(broken)
        assert encoding == "utf-8" and text.count("\ufffd") <= 3


@pytest.mark.fault("data", "any bytes at all come as a page", "text, never an exception")
@given(st.binary(max_size=400), st.one_of(st.none(), st.text(max_size=20)))
@settings(max_examples=150, deadline=None)
def test_any_bytes_become_text(data: bytes, declared: str | None) -> None:
    text, encoding = decode_page(data, declared)
    assert text == data.decode(encoding, "replace")


# --- hostile pages ------------------------------------------------------------------------------------------------

MANY = " ".join(f"a{i}=1" for i in range(200_000))
BOMBS: dict[str, tuple[bytes, set[str]]] = {
    "nested": (b"<div>" * 100_000 + b"deep" + b"</div>" * 100_000, {"nested too deeply"}),
    "nested inline": (b"<b><i>" * 100_000 + b"deep", {"nested too deeply"}),
    "one tag": (b"<p>" * 6_600_000, {"no text", "extractor ran out of memory", "extractor hung"}),
    "attributes": (f"<p {MANY}>text of some length</p>".encode(), {"extractor hung"}),
    "one attribute": (b"<p " + b"a=1 " * 1_000_000 + b">the text after it</p>", {""}),
    "open brackets": (b"<" * 3_000_000, {"", "no text"}),
    "comment": (f"<p>{SENTENCE}</p><!--".encode() + b"x" * 3_000_000, {""}),
    "script": (f"<p>{SENTENCE}</p><script>".encode() + b"<p>" * 1_000_000, {""}),
    "entities": (b"<p>" + b"&amp;&#x4e2d;&nosuch;" * 200_000, {""}),
    "nul": (f"<p>{SENTENCE}</p>{' ' * 200}".replace(" ", " \0", 1).encode(), {""}),
    "all nul": (b"\0" * 100_000, {"binary file"}),
    "surrogates": (f"<p>{PROSE} &#xD800; &#xDFFF;</p>".encode() + b"\xed\xa0\x80", {""}),
    "truncated": (f"<p>{SENTENCE} 汉字".encode()[:-1], {""}),
    "ordered list": (b"<ol>" + b"<li>a" * 100_000, {""}),
    "links": (b"<div><a href=#x>link</a>" * 1000 + SENTENCE.encode(), {"", "no text"}),
    "tables": (b"<table><tr><td>x<td>" * 600 + SENTENCE.encode(), {""}),
    "long class": (f"<div class='{'nav ' * 500_000}'>".encode() + SENTENCE.encode(), {"no text"}),
    "huge": (b"<p>" + b"word " * 6_000_000, {"page too large"}),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, {"binary file"}),
    "empty": (b"", {"no text"}),
}


@pytest.mark.fault(
    "data", "hostile pages stand between good ones", "each ends within its limit, the good ones are kept"
)
@pytest.mark.slow
def test_no_page_stops_the_others() -> None:
    """Each hostile page between two good ones: it ends within its limit, with a reason, and they are kept."""
    good = page(f"<p>{SENTENCE}</p>").encode()
    raws = []
    for name, (data, _) in BOMBS.items():
        raws += [Raw(name, "web", html=data), Raw(f"after {name}", "web", html=good)]
    began = time.monotonic()
    config = ExtractConfig(workers=1, page_seconds=2.0, max_page_bytes=25_000_000, memory_mb=1024)
    kept, dropped = extract(raws, config)
    assert time.monotonic() - began < 60
    texts, reasons = {d.id: d.text for d in kept}, {d.document.id: d.reason for d in dropped}
    assert all(texts[f"after {name}"] == SENTENCE for name in BOMBS)
    for name, (_, allowed) in BOMBS.items():
        assert reasons.get(name, "") in allowed, (name, reasons.get(name))
    assert texts["nul"] == SENTENCE and texts["comment"] == SENTENCE and texts["script"] == SENTENCE


@pytest.mark.fault(
    "data", "a page hangs in the middle of a batch", "pages before it are not read again, those after go on"
)
def test_a_hung_page_costs_its_own_time_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pages before it in the batch are not read again, and those after it go on at once."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(
        "import openqwen.data.encoding as m\nreal = m.decode_page\n"
        "def watched(data, declared=None):\n"
        f"    open({str(seen)!r}, 'ab').write(data[:9] + b'\\n')\n"
        "    while b'spin' in data: pass\n"
        "    return real(data, declared)\n"
        "m.decode_page = watched\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    raws = [Raw(str(i), "web", html=f"<p>page {i} {SENTENCE}</p>".encode()) for i in range(6)]
    raws[3].html = b"<p>spin 3 and nothing else</p>"
    began = time.monotonic()
    kept, dropped = extract(raws, ExtractConfig(workers=1, page_seconds=0.5))
    assert time.monotonic() - began < 15  # the limit by the clock alone is 20 seconds
    assert [d.id for d in kept] == ["0", "1", "2", "4", "5"]
    assert [(d.document.id, d.reason) for d in dropped] == [("3", "extractor hung")]
    assert Counter(seen.read_text().splitlines()) == Counter(
        [*(f"<p>page {i}" for i in (0, 1, 2, 4, 5)), "<p>spin 3"]
    )


@pytest.mark.fault("data", "a page is nested deeper than a parser reads", "refused, not silently cut")
def test_deep_pages_are_refused_and_less_deep_ones_read() -> None:
    with pytest.raises(TooDeep):
        main_text("<div>" * 5000 + "deep")
    assert main_text("<div>" * 1500 + SENTENCE + "</div>" * 1500) == SENTENCE


# --- real pages ---------------------------------------------------------------------------------------------------


def real_pages() -> list[dict[str, Any]]:
    path = SHARED / "html/pages.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.shared
def test_pages_give_back_the_markdown_they_were_made_from() -> None:
    """Mean token F1 of 0.99 at least (the best library has 0.993), and every line of code as it was."""
    scores, code, kept = [], 0, 0
    for record in real_pages():
        markdown = record.get("source_md")
        if not markdown or "{{#" in markdown:
            continue
        markdown = re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL)
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
        gold = Counter(tokens(re.sub(r"<[^>]+>", " ", rendered)))
        text = main_text(record["html"])
        found = Counter(tokens(text))
        scores.append(2 * sum((found & gold).values()) / (sum(found.values()) + sum(gold.values())))
        lines = {line.rstrip() for line in text.split("\n")}
        for block in re.findall(r"^```[^\n]*\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE):
            for line in block.split("\n"):
                if len(line.strip()) < 4:  # also the marks of hidden empty lines
                    continue
                code += 1
                kept += re.sub("^# ", "", line.rstrip()) in lines
    assert len(scores) >= 40 and sum(scores) / len(scores) >= 0.99
    assert code > 1000 and kept == code


@pytest.mark.shared
def test_real_pages_are_read_in_other_encodings() -> None:
    """Re-encoded pages, without their declaration and with a wrong one, come back as they were: 99 %."""
    rng = random.Random(0)
    pages = {lang: [r["html"] for r in real_pages() if r["lang"] == lang] for lang in ("zh", "ja", "en")}
    right = total = 0
    for encoding, lang in [("gb18030", "zh"), ("shift_jis", "ja"), ("euc_jp", "ja"), ("utf-16", "en")]:
        for html in rng.sample(pages[lang], 15):
            bare = re.sub(r"<meta[^>]*charset[^>]*>", "", html)
            for text in (bare, bare.replace("<head>", '<head><meta charset="iso-8859-1">')):
                data = text.encode(encoding, "ignore")
                right += decode_page(data)[0].lstrip("\ufeff") == data.decode(encoding)
                total += 1
    assert right >= 0.99 * total
