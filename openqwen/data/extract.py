"""Main text from HTML, in child processes that may hang or crash without harm.

Report §2.1 ("we extract text from HTML"); the extractor is resiliparse, with trafilatura as an optional second
opinion. Encodings are detected, code in <pre> keeps its layout, navigation goes. Every page has a limit of time,
size and memory: parsers take quadratic time on deep nesting, and one page must not stop a corpus.

Run as a module this file is the child: length-prefixed requests on stdin, answers on stdout.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import struct
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from openqwen.core.errors import MissingTool, OpenQwenError
from openqwen.data.config import ExtractConfig
from openqwen.data.documents import Document, Dropped, Raw

# What a page repeats on every other page of its site, by element, role and customary class name. Class names are
# matched in part on div, ul and section only: a body "with-sidebar" must stay.
_FRAME_WORDS = (
    "sidebar", "navbar", "navig", "menu", "breadcrumb", "footer", "toc", "cookie", "advert", "share", "related",
    "pagination", "gutter", "site-header", "newsletter", "comment-form",
)  # fmt: skip
BOILERPLATE = ", ".join(
    [
        "nav, footer, aside, body > header, script, style, noscript, template, form, button, .ad, .ads, .nav",
        ".lineno, .linenos, td.gutter, [role=navigation], [role=banner], [role=contentinfo], [role=search]",
        *(
            f"{tag}[{at}*={word}]"
            for tag in ("div", "ul", "section")
            for word in _FRAME_WORDS
            for at in ("class", "id")
        ),
    ]
)
CONTENT = (
    "main",
    "[role=main]",
    "article",
    "#content, .content, .post-content, .article-body, .entry-content",
)
MAX_DEPTH = 1000  # real pages stay below 100; parsing time grows with the square of the depth
_TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})[^<>]{0,2000}?(/?)>")
_VOID = frozenset(
    b"area base br col embed hr img input link meta param source track wbr p li dd dt tr td th option".split()
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
_TRAILING = re.compile(r"[ \t\u00a0\u3000]+$", re.MULTILINE)
_GAPS = re.compile(r"\n{3,}")
_BATCH_BYTES = 1 << 19
_BATCH_PAGES = 64
_START_SECONDS = 20.0  # more for a batch: the child may have to start, and the machine may be busy


def tidy(text: str) -> str:
    """The form in which text is kept: NFC, no control characters, no trailing blanks, one empty line at most."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ")
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    return _GAPS.sub("\n\n", _TRAILING.sub("", text)).strip("\n")


def depth(page: bytes) -> int:
    """Deepest nesting of elements, roughly: tags without a partner are left out of the count."""
    level = deepest = 0
    for closing, name, empty in _TAG.findall(page):
        if name.lower() in _VOID or empty:
            continue
        level += -1 if closing else 1
        level = max(level, 0)
        deepest = max(deepest, level)
    return deepest


def main_text(page: str, whole: bool = False) -> str:
    """The main text of one page. `whole`: everything visible (pages known to have no boilerplate)."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(page)
    if whole:
        return tidy(extract_plain_text(tree, alt_texts=False))
    main = extract_plain_text(tree, main_content=True, alt_texts=False)
    root = _content_root(tree)
    trimmed = extract_plain_text(root or tree, alt_texts=False, skip_elements=[BOILERPLATE])
    if root and len(trimmed) >= 0.5 * len(main):
        return tidy(trimmed)
    # The heuristics for main content also throw away short lists. Where cutting the known boilerplate leaves
    # little more than they do, or they found next to nothing, that is the better text.
    close = 0.5 * len(main) <= len(trimmed) <= 1.5 * len(main) + 40
    return tidy(trimmed if close or len(main) < 0.1 * len(trimmed) else main)


def _content_root(tree: Any) -> str | None:
    """HTML of the one element that says it holds the content; None if none does, or several do (a list of posts)."""
    for selector in CONTENT:
        found = tree.document.query_selector_all(selector)
        if len(found) == 1:
            return f"<html><body>{found[0].html}</body></html>"
    return None


def second_opinion(page: str) -> str:
    """trafilatura's main text (the `data` extra)."""
    try:
        import trafilatura
    except ImportError as error:
        raise MissingTool(
            f"the second extractor cannot be loaded: {error}", fix='pip install "openqwen[data]"'
        ) from error
    return tidy(trafilatura.extract(page, include_comments=False) or "")


def extract_page(data: bytes, charset: str | None, whole: bool, settings: dict[str, Any]) -> dict[str, str]:
    """{"text"} or {"reason"} for one page. Runs in the child."""
    from openqwen.data.sources import binary_reason, decode

    if len(data) > settings["max_page_bytes"]:
        return {"reason": "page too large"}
    if reason := binary_reason(data):
        return {"reason": reason.split(":")[0]}
    if data.count(b"<") > MAX_DEPTH and depth(data) > MAX_DEPTH:
        return {"reason": "nested too deeply"}
    page = decode(data, charset)
    text = main_text(page, whole)
    if settings["second_opinion"] and len(text) < 200:
        text = max(text, second_opinion(page), key=len)
    if len(text.strip()) < settings["min_characters"]:
        return {"reason": "no text"}
    if text.count("\ufffd") > 0.02 * len(text):
        return {"reason": "undecodable"}
    return {"text": text}


# --- the child ---------------------------------------------------------------------------------------------------


def _read_exactly(stream: IO[bytes], size: int) -> bytes | None:
    data = stream.read(size)
    return data if len(data) == size else None


def serve() -> None:
    """Answers extraction requests until stdin ends."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    settings = json.loads(stdin.readline())
    limit = settings["memory_mb"] << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while head := _read_exactly(stdin, 4):
        meta = json.loads(_read_exactly(stdin, struct.unpack("<I", head)[0]) or b"")
        # The whole request is read before the first answer: two full pipes would wait for each other.
        bodies = [_read_exactly(stdin, size) for size, _, _ in meta]
        for data, (_, charset, whole) in zip(bodies, meta):
            assert data is not None, "request was cut short"
            answer = json.dumps(_guarded(data, charset, whole, settings)).encode()
            stdout.write(struct.pack("<I", len(answer)) + answer)
        stdout.flush()


def _guarded(data: bytes, charset: str | None, whole: bool, settings: dict[str, Any]) -> dict[str, str]:
    try:
        return extract_page(data, charset, whole, settings)
    except MissingTool as error:
        return {"missing": error.what}
    except (MemoryError, RecursionError) as error:
        return {"reason": "extractor ran out of memory", "detail": repr(error)[:200]}
    except Exception as error:  # any page whatever: what the parser says becomes the reason in the funnel
        return {"reason": "extractor failed", "detail": repr(error)[:200]}


# --- the parent --------------------------------------------------------------------------------------------------


class _Hung(Exception):
    """The child did not answer in time."""


class _Died(Exception):
    """The child ended without an answer."""


class Child:
    """One extraction process; started on first use and again after it had to be killed."""

    def __init__(self, config: ExtractConfig) -> None:
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self._pending = bytearray()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-m", "openqwen.data.extract"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.config.model_dump(mode="json")).encode() + b"\n")
        process.stdin.flush()
        self._pending = bytearray()
        return process

    def stop(self) -> None:
        """Kills the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:  # what was still buffered for the killed child
                        continue
            self.process = None

    def ask(self, pages: Sequence[Raw], seconds: float) -> list[dict[str, str]]:
        """One answer a page within `seconds` for all of them, else _Hung or _Died and the child is gone."""
        try:
            if self.process is None:
                self.process = self._start()
            stdin = self.process.stdin
            assert stdin is not None
            bodies = [page.html or b"" for page in pages]
            meta = [[len(b), p.charset, p.source == "docs"] for b, p in zip(bodies, pages)]
            head = json.dumps(meta).encode()
            stdin.write(struct.pack("<I", len(head)) + head + b"".join(bodies))
            stdin.flush()
            end = time.monotonic() + seconds
            return [self._answer(end) for _ in pages]
        except BrokenPipeError as error:
            self.stop()
            raise _Died from error
        except (_Hung, _Died):
            self.stop()
            raise

    def _answer(self, end: float) -> dict[str, str]:
        size = struct.unpack("<I", self._take(4, end))[0]
        return json.loads(self._take(size, end))

    def _take(self, size: int, end: float) -> bytes:
        assert self.process is not None and self.process.stdout is not None
        stream = self.process.stdout.fileno()
        while len(self._pending) < size:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise _Hung
            data = os.read(stream, 1 << 18)
            if not data:
                raise _Died
            self._pending += data
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


@dataclass
class _Work:
    """Batches still to do and answers so far, shared by the threads that drive the children."""

    batches: list[list[int]]
    answers: dict[int, dict[str, str]]
    lock: threading.Lock
    error: BaseException | None = None

    def take(self) -> list[int] | None:
        with self.lock:
            return self.batches.pop(0) if self.batches and self.error is None else None


def _batches(pages: Sequence[Raw]) -> list[list[int]]:
    out: list[list[int]] = []
    size = _BATCH_BYTES
    for i, page in enumerate(pages):
        length = len(page.html or b"")
        if size + length > _BATCH_BYTES or len(out[-1]) >= _BATCH_PAGES:
            out.append([])
            size = 0
        out[-1].append(i)
        size += length
    return out


def _drive(work: _Work, pages: Sequence[Raw], config: ExtractConfig) -> None:
    """One thread: feeds one child. A batch that hangs or kills it is done again page by page."""
    try:
        with Child(config) as child:
            while (batch := work.take()) is not None:
                try:
                    found = child.ask([pages[i] for i in batch], config.page_seconds + _START_SECONDS)
                except (_Hung, _Died):
                    found = [_alone(child, pages[i], config.page_seconds) for i in batch]
                work.answers.update(zip(batch, found))
    except BaseException as error:  # handed to the main thread, which raises it
        work.error = error


def _alone(child: Child, page: Raw, seconds: float) -> dict[str, str]:
    try:
        if child.process is None:
            child.ask([Raw("", "web", html=b"<p>ready</p>")], 60)  # starting up is not the page's time
        return child.ask([page], seconds)[0]
    except _Hung:
        return {"reason": "extractor hung"}
    except _Died:
        return {"reason": "extractor crashed"}


def extract(
    pages: Sequence[Raw], config: ExtractConfig, show: Callable[[int], None] = lambda done: None
) -> tuple[list[Document], list[Dropped]]:
    """Texts of all HTML pages in the order given; pages without a text are dropped with a reason."""
    work = _Work(_batches(pages), {}, threading.Lock())
    count = min(config.workers, len(work.batches))
    threads = [threading.Thread(target=_drive, args=(work, pages, config), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.2)
        for thread in threads[1:]:
            thread.join(0.05)
        show(len(work.answers))
    if work.error is not None:
        raise work.error
    if missing := next((a["missing"] for a in work.answers.values() if "missing" in a), None):
        raise MissingTool(missing, where="extract.second_opinion", fix='pip install "openqwen[data]"')
    return _sorted_out(pages, work.answers)


def _sorted_out(
    pages: Sequence[Raw], answers: dict[int, dict[str, str]]
) -> tuple[list[Document], list[Dropped]]:
    kept, dropped = [], []
    for i, page in enumerate(pages):
        if i not in answers:
            raise OpenQwenError("an extraction process gave no answer", where=page.id)
        answer = answers[i]
        document = Document(page.id, answer.get("text", ""), page.source, page.lang, page.file)
        if "text" in answer:
            kept.append(document)
        else:
            dropped.append(Dropped(document, answer["reason"], detail=answer.get("detail", "")))
    return kept, dropped


if __name__ == "__main__":
    serve()
