"""The main text of an HTML page: navigation and other boilerplate out, code, lists, tables and formulas readable.

Report §2.1 ("we extract text from HTML"); the method is ours. The page is parsed once and the text of its elements
is measured. The content is the element that says so (microdata, customary class names, article, main), or the
lowest one with nearly all of the page's prose. Below it, what calls itself navigation, sharing, comments and the like is
cut unless most of the prose would go with it: names are hints, sizes decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from lxml import etree

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
_CONTROL_BYTES = bytes(code for code in (*range(32), 127) if code not in b"\t\n\r")
_GAPS = re.compile(r"\n{3,}")
_SPACE = re.compile(r"[ \t\n\r\f\u00a0]{2,}|[\t\n\r\f\u00a0]")  # what is no single space already
_WIDE = "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff60]"
# A line end in the source between two characters of a script without spaces is no space.
_WRAPPED = re.compile(f"(?<={_WIDE})[ \t]*[\r\n][ \t\r\n]*(?={_WIDE})")
_MARKS = re.compile("[.,;:!?。，、；：！？؟،।။]")  # of sentences
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_BREAK = "\v"  # a line end that stays, until the line is written


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_UNSEEN = _set(
    "script style noscript template head title meta link button select option textarea input svg canvas iframe object "
    "embed audio video map datalist dialog"
)
_BLOCKS = _set(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav ol p pre section summary table tbody td tfoot "
    "th thead tr ul"
)
_PARAGRAPHS = _set("article blockquote details dl figure h1 h2 h3 h4 h5 h6 ol p pre section table ul")
_INLINE = _set(
    "a abbr b cite code del dfn em font i ins kbd mark q s samp small span strong sub sup tt u var"
)
_HEADINGS = _set("h1 h2 h3 h4 h5 h6")
_BREAKING = ("br", "div", "p", "li", "tr", "button", "style", "script")  # what changes the layout of code
# Elements whose names count: never body, nor what stands inside a line.
_NAMED = _set(
    "article aside center dl div figure footer form h2 h3 h4 h5 h6 header li main menu nav ol p section table td ul"
)
_SAYING = _NAMED | _set("a span")
_FRAME = _set("nav aside footer menu form")  # boilerplate by their tag
_ATOMS = _set("blockquote dl figure li ol p pre table td tr ul") | _INLINE  # too small for a root
_WHOLE_ROWS = _set("blockquote dl h1 h2 h3 ol pre table ul")  # in a cell: no row of one line

# Words of class names and ids that mark boilerplate, alone or as neighbours.
_BAD = _set(
    "ads adsbygoogle adsense advert advertisement backlinks breadcrumb breadcrumbs comments consent cookie cookies "
    "copyright disqus donate dropdown footer gdpr giscus gitalk gitment gutter licence license lightbox lineno linenos "
    "linenumbers livere masthead menu menubar modal nav navbar navigation navigator newsletter noprint pager pagination "
    "paginator paging popup prevnext promo qrcode recommend recommendations recommended related respond reward "
    "screenreader share sharing sidebar social sponsor sponsored subscribe subscription tableofcontents tagcloud toc "
    "tooltip topbar utterances valine widget widgets"
)
_BAD_PAIRS = frozenset(
    tuple(pair.split("-"))
    for pair in _set(
        "about-author article-footer article-meta author-bio author-info back-top comment-form comment-list edit-page "
        "entry-footer entry-meta last-updated line-number line-numbers local-search more-posts page-footer page-nav "
        "popular-posts post-footer post-info post-intros post-meta post-metas post-nav post-next post-prev post-tag "
        "post-tags prev-next read-more read-next reading-time recent-posts search-box search-form site-header skip-link "
        "skip-to sr-only table-contents visually-hidden word-count"
    )
)
_BAD_PARTS = re.compile("sidebar|breadcrumb|navbar|paginat|advert|toolbar")
# Class names and ids of what holds an article, as content systems write them.
_BODY_NAMES = _set(
    "article-body article-container article-content article-entry article-text article__body article__content "
    "article_content articlebody articlecontent bd-article blog-content blog-post-content e-content entry-content "
    "entrycontent field-name-body markdown-body md-content mw-content-text mw-parser-output node-content post-body "
    "post-content post-entry post-text post__body post__content post_content postbody postcontent rich-text "
    "rich_media_content richtext rst-content story-body story-content td-content theme-doc-markdown wiki-content"
)
_SELDOM = _set("hidden itemprop role style")  # attributes that say it in another way than class and id do
_RANKS = {"article": 2, "main": 1}
_MAIN_NAMES = _set("content document main main-content maincontent page-content primary")

_DEEP = 200  # levels below which the structure no longer matters, only the text
_SENTENCE = 10  # letters of a run of text with a mark of sentences in it: prose
# Shares of the prose, and letters of it.
_KEPT, _KEPT_LETTERS = 0.5, 250  # who has more of both is no boilerplate whatever its name
_ENOUGH = 0.3  # of what is in no boilerplate: what the root of the content must hold
_MOST = 0.7  # of several candidates: where none holds it they are a list, and what holds the list is the root
_NEARLY_ALL = 0.85  # what the root is narrowed to
_PLAIN = 0.5  # and of its text outside of links: an article of tables must not shrink to its introduction
_LINKS = 0.66  # share of links in the text of a list of links
_LONG = 500  # letters of prose: an article, in which a list of links is none of the content


class TooDeep(ValueError):
    """A page's elements are nested more deeply than the parser follows (2,048 levels)."""


class _Element:
    """One visible element: its text and children in order, and how much text it holds."""

    __slots__ = (
        "bad", "element", "holds", "letters", "linked", "parts", "prose", "rank", "tag",
    )  # fmt: skip

    def __init__(self, element: Any, tag: str) -> None:
        self.element, self.tag = element, tag
        self.parts: list[str | _Element] = []
        self.letters = 0  # characters that are not space
        self.linked = 0  # those of them inside links
        self.prose = 0  # those of them outside of links, in what looks like sentences
        self.rank = _RANKS.get(tag, 0)  # how clearly it says that it holds the content: 3, 2, 1 or not
        self.bad = False  # it says that it is boilerplate
        self.holds = tag == "main"  # it is the main element of the page, or above it

    def children(self) -> Iterator[_Element]:
        return (part for part in self.parts if not isinstance(part, str))


class _Placed(NamedTuple):
    """An element and those above it from the body down.

    No element knows its parent: without circles a page is freed at once, and not by the garbage collector.
    """

    node: _Element
    above: tuple[_Element, ...]


class _Signs:
    """The elements of a page that say something about where its content is, in their order."""

    def __init__(self) -> None:
        self.path: list[_Element] = []  # to what is being measured
        self.content: list[_Placed] = []  # say that they hold it
        self.boilerplate: list[_Placed] = []  # that they are none of it

    def bad(self, prose: int) -> set[_Element]:
        """What is boilerplate where the whole has so much prose."""
        return {node for node, above in self.boilerplate if _is_bad(node, above, prose)}


@dataclass(frozen=True)
class _Cut:
    """What is cut below the root of the content."""

    bad: set[_Element]
    letters: int  # of the root
    lists: bool  # lists of links as well


def tidy(text: str) -> str:
    """The form in which text is kept: NFC, no control characters, no trailing blanks, one empty line at most."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    text = "\n".join([line.rstrip(" \t\u3000") for line in text.split("\n")])
    return _GAPS.sub("\n\n", text).strip("\n")


def main_text(page: str, whole: bool = False) -> str:
    """The main text of one page; TooDeep if it cannot be parsed.

    `whole`: everything visible (pages known to have no boilerplate). Paragraphs and headings stand apart by an empty
    line, items of lists begin with "- " or a number, cells of a table row are divided by " | ", code keeps its layout.
    """
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    data = _encoded(page)
    root = etree.fromstring(data, parser) if data.strip() else None
    if any("Excessive depth" in entry.message for entry in parser.error_log):
        raise TooDeep("elements are nested too deeply")
    body = None if root is None else root.find("body")
    if body is None:
        return ""
    signs = _Signs()
    tree = _measured(body, "body", False, 0, signs)
    if whole:
        return tidy(_written(tree, None))
    chosen = _root(tree, signs)
    lists = chosen.rank < 3 and not chosen.holds and chosen.prose >= _LONG
    text = _written(chosen, _Cut(signs.bad(chosen.prose), chosen.letters, lists))
    title = _title(root, chosen)
    return tidy(f"{title}\n\n{text}" if title else text)


def _encoded(page: str) -> bytes:
    """The page in UTF-8 without control characters."""
    if any(mark in page for mark in "\ufeff\ufffe\uffff"):  # seldom, and those of one byte go faster as bytes
        page = _CONTROL.sub("", page)
    return page.encode("utf-8", "ignore").translate(None, _CONTROL_BYTES)  # ignores lone surrogates


# --- measuring ----------------------------------------------------------------------------------------------------


def _measured(element: Any, tag: str, linked: bool, depth: int, signs: _Signs) -> _Element:
    """The element and all visible ones below it. `linked`: it stands inside a link."""
    own = _Element(element, tag)
    if names := element.keys():
        _look_at_attributes(own, names)
    if own.rank:
        signs.content.append(_Placed(own, tuple(signs.path)))
    if own.bad or tag in _FRAME:
        signs.boilerplate.append(_Placed(own, tuple(signs.path)))
    if tag == "pre":
        code = _laid_out(element)
        own.parts, own.letters, own.prose = [code], len(code), len(code)
        return own
    linked = linked or tag == "a"
    if depth > _DEEP:
        etree.strip_elements(element, *_UNSEEN, with_tail=False)
        _add_text(own, " ".join(element.itertext()), linked)
        return own
    signs.path.append(own)
    if text := element.text:
        _add_text(own, text, linked)
    for child in element:
        name = child.tag
        if name in _INLINE and not len(child) and not _may_go(child):
            if text := child.text:
                _add_text(own, text, linked or name == "a")
        elif name == "br":
            own.parts.append(_BREAK)
        elif name not in _UNSEEN:
            below = _measured(child, name, linked, depth + 1, signs)
            if below.parts:
                own.parts.append(below)
                own.letters += below.letters
                own.linked += below.linked
                own.prose += below.prose
                own.holds |= below.holds
        elif name == "script" and (child.get("type") or "").startswith("math/tex"):
            own.parts.append(f"${child.text or ''}$")  # MathJax shows the formula in its place
        if text := child.tail:
            _add_text(own, text, linked)
    signs.path.pop()
    return own


def _may_go(element: Any) -> bool:
    """Whether something inside a line may have to go: hidden, a line number, a mark that links to its heading."""
    names = element.keys()
    if "class" in names and _said(element.tag, element.get("class")[:300], "", "")[1]:
        return True
    return not _SELDOM.isdisjoint(names) and _is_hidden(element)


def _is_hidden(element: Any) -> bool:
    return "display:none" in element.get("style", "").replace(" ", "") or element.get("hidden") is not None


def _add_text(own: _Element, text: str, linked: bool) -> None:
    if text.isspace():
        own.parts.append("\n" if "\n" in text else " ")
        return
    own.parts.append(text)
    size = len(text) - text.count(" ") - text.count("\n")
    own.letters += size
    if linked:
        own.linked += size
    elif size >= _SENTENCE and _MARKS.search(text):
        own.prose += size


def _look_at_attributes(own: _Element, names: Sequence[str]) -> None:
    """Sets what the attributes of these names say: that this holds the content, or that it is boilerplate."""
    tag, element = own.tag, own.element
    seldom = not _SELDOM.isdisjoint(names)
    role = element.get("role", "") if seldom else ""
    if tag in _SAYING:
        ids = element.get("id", "")
        if ids and (tag in _HEADINGS or any(child.tag in _HEADINGS for child in element[:2])):
            ids = ""  # made of a heading, which may be "Related work"
        rank, own.bad = _said(tag, element.get("class", "")[:300], ids[:100], role[:20])
        own.rank = max(own.rank, rank)
    if seldom:
        if role == "main":
            own.holds = True
        if element.get("itemprop") == "articleBody":
            own.rank, own.bad, own.holds = 3, False, True
        elif _is_hidden(element):
            own.bad = True


@lru_cache(maxsize=1 << 14)
def _said(tag: str, names: str, ids: str, role: str) -> tuple[int, bool]:
    """What class, id and role say: (rank as what holds the content, whether it is boilerplate)."""
    if tag == "a":
        return 0, "headerlink" in names or "header-anchor" in names
    if tag == "span":
        return 0, names.partition(" ")[0] in ("lineno", "linenos", "linenumber", "ln")
    if tag not in _SAYING:
        return 0, False
    each = f"{names} {ids}".lower()
    if not _BODY_NAMES.isdisjoint(each.split()):
        return 3, False
    if tag in _RANKS:
        return _RANKS[tag], False
    if role == "main" or not _MAIN_NAMES.isdisjoint(each.split()):
        return 1, False
    if role in ("navigation", "banner", "contentinfo", "search", "complementary", "dialog"):
        return 0, True
    words = [word.lower() for word in _WORDS.findall(f"{names} {ids}")]
    bad = not _BAD.isdisjoint(words) or not _BAD_PAIRS.isdisjoint(pairwise(words))
    return 0, bad or _BAD_PARTS.search(each) is not None


# --- choosing -----------------------------------------------------------------------------------------------------


def _is_bad(node: _Element, above: Sequence[_Element], prose: int) -> bool:
    """Whether one of what says that it is boilerplate is, where the whole has so much prose."""
    if node.holds:
        return False
    if (
        node.tag == "aside"
        and not node.bad
        and node.linked < 0.5 * node.letters
        and any(each.rank for each in above)
    ):
        return False  # a note inside the content
    return node.prose < _KEPT_LETTERS or node.prose < _KEPT * prose


def _root(body: _Element, signs: _Signs) -> _Element:
    """The element that holds the content."""
    bad = signs.bad(body.prose) - {body}
    candidates = [
        each
        for each in signs.content
        if each.above and each.node.parts and bad.isdisjoint((each.node, *each.above))
    ]
    # The outermost boilerplate.
    cut = [each for each in signs.boilerplate if each.node in bad and bad.isdisjoint(each.above)]
    whole = _Placed(body, ())
    enough = _ENOUGH * _left(whole, cut)
    for rank in (3, 2, 1):
        found = [each for each in candidates if each.node.rank == rank]
        inside = {each.node for each in found}
        outer = [each for each in found if inside.isdisjoint(each.above)]
        if not outer:
            continue
        most = max(outer, key=lambda each: (each.node.prose, each.node.letters))
        if most.node.prose < _MOST * sum(each.node.prose for each in outer):
            most = _common(outer)
        if most.node.prose >= enough:
            return most.node if rank == 3 else _narrowed(most, bad, cut)
    return _narrowed(whole, bad, cut)


def _left(place: _Placed, cut: Sequence[_Placed]) -> int:
    """Prose of an element that is in no boilerplate; `cut`: the outermost of that, of the whole page."""
    node, depth = place.node, len(place.above)
    return node.prose - sum(each.node.prose for each in cut if each.above[depth : depth + 1] == (node,))


def _common(places: Sequence[_Placed]) -> _Placed:
    """The lowest element above all of them."""
    levels = zip(*(each.above for each in places))
    shared = [nodes[0] for nodes in levels if len(set(nodes)) == 1]
    return _Placed(shared[-1], tuple(shared[:-1]))


def _narrowed(place: _Placed, bad: set[_Element], cut: Sequence[_Placed]) -> _Element:
    """The lowest element below that has nearly all of the prose that is in no boilerplate."""
    enough = _NEARLY_ALL * _left(place, cut)
    node = place.node
    while enough:
        below = [child for child in node.children() if child.tag not in _ATOMS and child not in bad]
        best = max(below, key=lambda child: child.prose, default=None)
        if best is None:
            break
        place = _Placed(best, (*place.above, node))
        if _left(place, cut) < enough or best.letters - best.linked < _PLAIN * (node.letters - node.linked):
            break
        node = best
    return node


def _title(root: Any, chosen: _Element) -> str:
    """The page's heading where it stands outside of the content: what the document's title begins with."""
    if next(chosen.element.iter("h1"), None) is not None:
        return ""
    title = _SPACE.sub(" ", root.findtext("head/title") or "").strip()
    for heading in root.iter("h1"):
        text = _SPACE.sub(" ", "".join(heading.itertext())).strip()
        if len(text) > 1 and title.startswith(text):
            return text
    return ""


# --- writing ------------------------------------------------------------------------------------------------------


class _Writer:
    """Text in blocks: spaces collapse inside a line, blocks stand apart by one line end or two."""

    def __init__(self) -> None:
        self.line: list[str] = []
        self.marker = ""  # of a list item, before its first line
        self._out: list[str] = []
        self._breaks = 0

    def end(self, breaks: int) -> None:
        """Ends the line; at least so many line ends follow."""
        if self.line:
            text = "".join(self.line)
            self.line.clear()
            if not text.isspace():
                self.put(_one_line(text))
        self._breaks = max(self._breaks, breaks)

    def put(self, text: str) -> None:
        """Adds a block as it is."""
        if text:
            self._out += ["\n" * (self._breaks or 1) if self._out else "", self.marker, text]
            self.marker, self._breaks = "", 0

    def text(self) -> str:
        self.end(0)
        return "".join(self._out)


def _one_line(text: str) -> str:
    """Text without the line ends and spaces of the source: only breaks are left."""
    if not text.isascii():
        text = _WRAPPED.sub("", text)
    text = _SPACE.sub(" ", text)
    return "\n".join([part.strip() for part in text.split(_BREAK)]).strip("\n")


def _written(root: _Element, cut: _Cut | None) -> str:
    writer = _Writer()
    _write(root, writer, cut, 0)
    return writer.text()


def _write(node: _Element, writer: _Writer, cut: _Cut | None, depth: int) -> None:
    """Writes an element; `depth` counts the lists around it."""
    tag = node.tag
    if tag == "pre":
        writer.end(2)
        writer.put(str(node.parts[0]).strip("\n").rstrip())
        writer.end(2)
        return
    if tag == "tr" and _is_row(node):
        writer.end(1)
        writer.put(" | ".join(" ".join(_written(cell, cut).split()) for cell in node.children()).strip())
        writer.end(1)
        return
    breaks = 2 if tag in _PARAGRAPHS and not depth else int(tag in _BLOCKS)
    if breaks:
        writer.end(breaks)
    below = depth + (tag in ("ul", "ol"))
    number = _first_number(node.element) if tag == "ol" else None
    for part in node.parts:
        if isinstance(part, str):
            writer.line.append(part)
        elif cut is None or not (part in cut.bad or _is_list_of_links(part, cut)):
            if part.tag == "li":
                writer.end(1)
                writer.marker = "  " * depth + ("- " if number is None else f"{number}. ")
                number = None if number is None else number + 1
            _write(part, writer, cut, below)
            if part.tag == "li":
                writer.marker = ""
    if breaks:
        writer.end(breaks)


def _first_number(element: Any) -> int:
    start = element.get("start", "1")
    return int(start) if start.isascii() and start.isdigit() and len(start) < 7 else 1


def _is_list_of_links(node: _Element, cut: _Cut) -> bool:
    """Whether a block is a table of contents, or links to other articles in the midst of one."""
    if (
        node.letters < 20
        or node.linked < _LINKS * node.letters
        or node.tag not in ("ul", "ol", "div", "section")
    ):
        return False
    links = [link.get("href", "") for link in node.element.iter("a")]
    if len(links) < 3:
        return False
    if node.linked >= 0.8 * node.letters and sum(link.startswith("#") for link in links) >= 0.8 * len(links):
        return True
    if not cut.lists or node.prose or node.letters >= 0.3 * cut.letters:
        return False
    return next(node.element.iterancestors("p", "li", "td", "blockquote", "dd"), None) is None


def _is_row(row: _Element) -> bool:
    """Whether the cells of a table row fit into one line: no code, lists or tables in them."""
    if row.letters > 600 or sum(1 for _ in row.children()) < 2:
        return False
    return next(row.element.iter(*_WHOLE_ROWS), None) is None


def _laid_out(code: Any) -> str:
    """The text of preformatted code in its layout, without line numbers."""
    if not any(child.tag in _BREAKING or child.get("class") for child in code.iter(*_BREAKING, "span")):
        return "".join(code.itertext())
    out: list[str] = []
    _lay_out(code, out, 0)
    return "".join(out)


def _lay_out(element: Any, out: list[str], depth: int) -> None:
    if element.text:
        out.append(element.text)
    for child in element:
        tag = child.tag
        block = tag in _BLOCKS and tag != "td"
        if block and out and not out[-1].endswith("\n"):
            out.append("\n")
        if tag == "br":
            out.append("\n")
        elif tag not in _UNSEEN and not _may_go(child):
            if depth > _DEEP:
                out.append("".join(child.itertext()))
            else:
                _lay_out(child, out, depth + 1)
        if block and out and not out[-1].endswith("\n"):
            out.append("\n")
        if child.tail:
            out.append(child.tail)
