"""What the page makes of a reply's text: Markdown, code, formulas, cards of tools; and that none of it can do harm."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from html import unescape
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest

from tests.serve.page.conftest import events, reply, say, stream

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SHOW = """async ([module, name, arguments]) => {
    const found = (await import(`/page/${module}.js`))[name](...arguments);
    const node = document.createElement("div"); node.append(...[found].flat());
    const bare = (n) => { for (const a of [...n.attributes ?? []]) if (!KEPT.includes(a.name)) n.removeAttribute(a.name);
        [...n.children].forEach(bare); };
    const KEPT = ["href", "src", "start", "class", "checked"];
    bare(node); return node.innerHTML; }"""


@pytest.fixture(scope="module")
def made(browser, site):
    """What a function of one of the page's modules returns, as HTML without most attributes."""
    page = browser.new_page()
    page.goto(site[0])
    yield lambda module, name, *arguments: page.evaluate(SHOW, [module, name, list(arguments)])
    page.close()


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain", "<p>plain</p>"),
        ("a **b** *c* _d_ ~~e~~ `f`", "<p>a <strong>b</strong> <em>c</em> <em>d</em> <del>e</del> <code>f</code></p>"),
        ("***both*** *a **b** c*", "<p><strong><em>both</em></strong> <em>a <strong>b</strong> c</em></p>"),
        ("2 * 3 * 4 and snake_case_name", "<p>2 * 3 * 4 and snake_case_name</p>"),
        ("``a ` b`` and `c", "<p><code>a ` b</code> and `c</p>"),
        (r"\*no\* 3 < 4 & 5", "<p>*no* 3 &lt; 4 &amp; 5</p>"),
        ("# One\n\n### Three #", "<h3>One</h3><h5>Three</h5>"),
        ("a\nb", "<p>a<br>b</p>"),
        ("- a\n- b\n  - c\n\n    more\n- d", "<ul><li>a</li><li>b<ul><li><p>c</p><p>more</p></li></ul></li><li>d</li></ul>"),
        ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
        ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        ("[x](https://a.example/b_(c)", '<p><a href="https://a.example/b_(c">x</a></p>'),
        ("see https://a.example/x_y.", '<p>see <a href="https://a.example/x_y">https://a.example/x_y</a>.</p>'),
        (
            "| a | b |\n|---|--:|\n| 1 | `x` |",
            '<div class="wide"><table><thead><tr><th>a</th><th class="right">b</th></tr></thead>'
            '<tbody><tr><td>1</td><td class="right"><code>x</code></td></tr></tbody></table></div>',
        ),
        ("It is $5 and $6.", "<p>It is $5 and $6.</p>"),
    ],
)  # fmt: skip
def test_markdown(made, text, html):
    assert made("markdown", "markdown", text) == html


def test_code_in_lists_and_unfinished_code(made):
    html = made(
        "markdown", "markdown", "1. do\n   ```python\n   if x:\n       y\n   ```\n2. done\n\n```js\nlet a"
    )
    assert html.count("<li>") == 2 and html.count('class="code"') == 2
    assert '<span class="code-keyword">if</span> x:\n    y' in html
    assert '<span class="code-keyword">let</span> a' in html


@pytest.mark.parametrize(
    ("language", "code", "spans"),
    [
        ("python", 'def f(x):  # why\n    return "a" + 1.5',
         "keyword:def call:f comment:#␣why keyword:return string:'a' number:1.5"),
        ("ts", "const a = `x`; // y", "keyword:const string:`x` comment://␣y"),
        ("json", '{"a": [1, true]}', "string:'a' number:1 keyword:true"),
        ("sql", "SELECT a FROM b -- c", "keyword:SELECT keyword:FROM comment:--␣c"),
        ("bash", 'echo "$x" # y', "keyword:echo string:'$x' comment:#␣y"),
        ("html", '<a href="x">y</a>', "keyword:<a string:'x' keyword:> keyword:</a keyword:>"),
        ("diff", "+a\n-b\n c", "added:+a\n removed:-b\n"),
        ("constructor", "x = 1", ""),
    ],
)  # fmt: skip
def test_highlighting_colours_code_and_keeps_it(made, language, code, spans):
    html = made("highlight", "highlight", code, language)
    found = re.findall(r'<span class="code-(\w+)">(.*?)</span>', html, re.DOTALL)
    shown = " ".join(f"{kind}:{unescape(text).replace(' ', '␣')}" for kind, text in found)
    assert shown == spans.replace("'", '"')
    assert unescape(re.sub(r"</?span[^>]*>", "", html)) == code


@pytest.mark.parametrize(
    ("source", "mathml"),
    [
        (r"x^2", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"a_i^{n+1}", "<msubsup><mi>a</mi><mi>i</mi><mrow><mi>n</mi><mo>+</mo><mn>1</mn></mrow></msubsup>"),
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"\sqrt[3]{b}", "<mroot><mrow><mi>b</mi></mrow><mn>3</mn></mroot>"),
        (r"\mathbb{R}^d", "<msup><mrow><mi>ℝ</mi></mrow><mi>d</mi></msup>"),
        (r"\alpha \le \beta", "<mi>α</mi><mo>≤</mo><mi>β</mi>"),
        (r"\sin x", "<mi>sin</mi><mi>x</mi>"),
        (r"\hat{y}", "<mover><mrow><mi>y</mi></mrow><mo>^</mo></mover>"),
        (r"f'", "<msup><mi>f</mi><mo>′</mo></msup>"),
        (r"\left( x \right]", "<mrow><mo>(</mo><mi>x</mi><mo>]</mo></mrow>"),
        (r"\text{if } x", '<mtext class="text">if\u00a0</mtext><mi>x</mi>'.replace("\u00a0", "&nbsp;")),
        (r"a \\ b", '<mtable class="aligned"><mtr><mtd><mi>a</mi></mtd></mtr><mtr><mtd><mi>b</mi></mtd></mtr></mtable>'),
        (r"{a \over b}", "<mrow><mfrac><mi>a</mi><mi>b</mi></mfrac></mrow>"),
        (r"\begin{cases} 1 & x \end{cases}", '<mrow><mo>{</mo><mtable class="cases"><mtr><mtd><mn>1</mn></mtd>'
         "<mtd><mi>x</mi></mtd></mtr></mtable><mo></mo></mrow>"),
        (r"\unheardof x", '<mtext class="unknown">\\unheardof</mtext><mi>x</mi>'),
        (r"\constructor", '<mtext class="unknown">\\constructor</mtext>'),
    ],
)  # fmt: skip
def test_formulas(made, source, mathml):
    assert f"<semantics><mrow>{mathml}</mrow><annotation>" in made("math", "math", source, False)


FORMULAS = json.loads(Path(__file__).with_name("formulas.json").read_text(encoding="utf-8"))["formulas"]
SHELLS = ("math", "mrow", "mstyle", "mspace")  # what draws nothing by itself
ALIKE = str.maketrans("−∗∣∥⋅\u0304\u0305―", "-*|‖·‾‾‾")
# Whether scripts stand beside or below is a matter of display.
SCRIPTS = {"munder": "msub", "mover": "msup", "munderover": "msubsup"}


def tidy(text: str) -> str:
    """Symbols that look alike as one, no space."""
    return re.sub(r"[\s\u200b\u2061]", "", unicodedata.normalize("NFKD", text).translate(ALIKE))


def outline(node: Element) -> str:
    """A formula's symbols and what holds them, without what two right renderings may differ in."""
    tag = node.tag.split("}")[-1]
    if tag == "annotation":
        return ""
    if tag in ("mi", "mn", "mo", "mtext"):
        return tidy(node.text or "")
    inner = "".join(map(outline, node))
    return inner if tag in (*SHELLS, "semantics") else f"{SCRIPTS.get(tag, tag)}({inner})"


def test_formulas_are_those_of_another_renderer(browser, site):
    page = browser.new_page()
    page.goto(site[0])
    ours = page.evaluate(
        """async (sources) => { const { math } = await import("/page/math.js");
        return sources.map((source) => new XMLSerializer().serializeToString(math(source, false))); }""",
        list(FORMULAS),
    )
    page.close()
    found = {source: outline(fromstring(text)) for source, text in zip(FORMULAS, ours)}
    assert found == {source: tidy(text) for source, text in FORMULAS.items()} and len(found) > 50


def test_deep_broken_and_long_formulas_end(made):
    for source in (
        "{" * 5000,
        "\\frac" * 3000,
        "\\left(" * 3000,
        "x^" * 4000,
        "}" * 5000,
        "\\begin{matrix}" * 500,
        "&\\\\" * 3000,
    ):
        assert made("math", "math", source, True)
    assert made("math", "math", "x" * 20_000, True).startswith("<code>")


HOSTILE = """<script>window.hit = 1</script><img src=x onerror="window.hit = 2"><svg onload="window.hit = 3">
[a](javascript:window.hit=4) [b](JaVaScRiPt:window.hit=5) [c](data:text/html,<script>window.hit=6</script>) <b>bold</b>
![d](https://tracker.invalid/pixel.png) ![e](data:image/svg+xml,<svg/onload=window.hit=7>) [f](//tracker.invalid)
[g](https://a.invalid/"onmouseover="window.hit=8) <iframe src="https://tracker.invalid"></iframe> &lt;script&gt;
`<script>window.hit = 9</script>` **<i onclick=window.hit=10>**
$\\href{javascript:window.hit=11}{x}$ $</math><script>window.hit=12</script>$

```html"><script>window.hit = 13</script>
<script>window.hit = 14</script>
```

| <script>window.hit = 15</script> | b |
|---|---|
| <img src=x onerror=window.hit=16> | [h](vbscript:x) |

<style>body { display: none }</style><base href="https://tracker.invalid/"><meta http-equiv="refresh" content="0; url=https://tracker.invalid">
"""


@pytest.mark.fault("server", "a reply holds scripts and markup", "shown as text")
def test_hostile_text_is_text(scripted):
    page = scripted(events(HOSTILE), events(f"Thought: x\nAction: {HOSTILE[:60]}\nAction Input: {HOSTILE}"))
    say(page, HOSTILE)
    first = reply(page)
    say(page, "again")
    reply(page)
    page.locator("#log .text [class]").first.hover()
    assert page.evaluate("() => window.hit") is None
    inside = "#log script, #log iframe, #log style, #log base, #log meta, #log b, #log i, #log svg[onload], #log img"
    assert page.locator(inside).count() == 0
    hrefs = page.evaluate("() => [...document.querySelectorAll('#log a')].map((a) => a.getAttribute('href'))")
    assert hrefs and all(href.startswith("https://") for href in hrefs)
    handlers = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((n) =>
        [...n.attributes].some((a) => a.name.startsWith("on") || a.name === "style" && n.closest("#log"))).length"""
    )
    assert handlers == 0
    assert "<script>window.hit = 1</script>" in first.inner_text()
    assert page.title().startswith("<script>window.hit = 1") and page.locator("#list").inner_text()


@pytest.mark.fault("server", "a reply is made to be slow to render", "bounded time")
@pytest.mark.parametrize(
    "text",
    ["*a " * 30_000, "[" * 60_000, "`" * 50_001, "` `` " * 15_000, "$a" * 30_000, "_a" * 30_000, "> " * 20_000,
     "- " * 20_000, "|a" * 20_000 + "\n|-", "```js\n" + "a" * 80_000, "```py\n" + '"""' * 20_000,
     "```html\n" + "<!--" * 20_000,
     "![](" * 15_000, "**" * 30_000, "http://" * 10_000, "\n" * 50_000, "Thought:\n" * 8_000],
)  # fmt: skip
def test_hostile_text_costs_little_time(made, text):
    begun = time.perf_counter()
    made("markdown", "markdown", text)
    assert time.perf_counter() - begun < 2


def test_a_growing_reply_keeps_the_blocks_that_are_done(browser, site):
    page = browser.new_page()
    page.goto(site[0])
    same, html, whole = page.evaluate(
        """async () => { const { grow, markdown } = await import("/page/markdown.js");
        const text = "# A\\n\\npara **b**\\n\\n```py\\nx = 1\\ny = 2\\n```\\n\\n- a\\n- b\\n\\n| a |\\n|---|\\n| 1 |\\n";
        const box = document.createElement("div"), other = document.createElement("div");
        let first = null, same = true;
        for (let i = 1; i <= text.length; i++) { grow(box, text.slice(0, i));
            if (i === 10) first = box.firstChild; if (i > 10) same &&= box.firstChild === first; }
        other.append(...markdown(text)); return [same, box.innerHTML, other.innerHTML]; }"""
    )
    page.close()
    assert same and html == whole and "<td>1</td>" in html


def test_react_steps_are_cards(scripted):
    text = f"""Thought: I compute.
Action: code_interpreter
Action Input: ```python
print(1)
```
Observation: ![plot]({PNG})
Thought: I now know the final answer.
Final Answer: It is **1**."""
    page = scripted(events(*text.splitlines(keepends=True)))
    say(page, "compute")
    shown = reply(page)
    assert page.locator(".card strong").inner_text() == "code_interpreter"
    assert page.locator(".card .code-call").inner_text() == "print"
    assert page.locator(".card img").evaluate("(n) => n.complete && n.naturalWidth") == 1
    assert page.locator(".thought").first.inner_text() == "I compute."
    assert shown.locator("strong").last.inner_text() == "1" and "Final Answer" not in shown.inner_text()


def test_tool_calls_stream_into_a_card_and_take_a_result(scripted):
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": part}} for part in ('{"city": ', '"Hangzhou"}')]
    first = stream(*({"tool_calls": [piece]} for piece in (call, *pieces)), finish="tool_calls")
    page = scripted(first, events("It is mild."))
    sent = []
    page.on("request", lambda r: sent.append(r.post_data_json) if "completions" in r.url else None)
    say(page, "How is the weather?")
    reply(page)
    card = page.locator(".card")
    assert card.locator("strong").inner_text() == "weather" and '"Hangzhou"' in card.inner_text()
    card.get_by_label("Result of the tool").fill("21 degrees")
    card.get_by_role("button", name="Give result").click()
    page.get_by_text("It is mild.").wait_for()
    assert "answered" in card.inner_text() and "21 degrees" in card.inner_text()
    function = {"name": "weather", "arguments": '{"city": "Hangzhou"}'}
    assert sent[-1]["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "21 degrees", "tool_call_id": "call_1"},
    ]


@pytest.mark.fault("server", "a reply links a picture elsewhere", "not fetched")
def test_pictures_of_tools_are_shown_and_others_not_fetched(made):
    parts = [{"type": "text", "text": "plot"}, {"type": "image_url", "image_url": {"url": PNG}}]
    parts.append({"type": "image_url", "image_url": {"url": "https://tracker.invalid/x.png"}})
    html = made("tools", "contentNodes", parts)
    assert html.count("<img") == 1 and f'src="{PNG}"' in html
    assert "not fetched" in html and "<code>https://tracker.invalid/x.png</code>" in html


def test_copying(scripted):
    page = scripted(events("```py\nx = 1\n```"))
    say(page, "code")
    reply(page)
    page.get_by_role("button", name="Copy code").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == "x = 1"
    page.locator("#log .assistant").get_by_role("button", name="Copy message").click()
    page.wait_for_timeout(50)
    assert page.evaluate("() => navigator.clipboard.readText()") == "```py\nx = 1\n```"
