"""The child process of extract.py: pages in, their main texts out.

Report §2.1 ("we extract text from HTML"); ours, with trafilatura as an optional second opinion. Requests on stdin and
answers on stdout, with their lengths before them. One starts for every shard, so it imports no more than it needs: no
numpy, no settings.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import struct
from typing import IO, Any

from openqwen.core.errors import MissingTool
from openqwen.data.encoding import decode_page
from openqwen.data.html_text import TooDeep, main_text, tidy


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
    """{"text"} or {"reason"} for one page."""
    page, _ = decode_page(data, charset)
    try:
        text = main_text(page, whole)
    except TooDeep:
        return {"reason": "nested too deeply"}
    if settings["second_opinion"] and len(text) < 200:
        text = max(text, second_opinion(page), key=len)
    if len(text.strip()) < settings["min_characters"]:
        return {"reason": "no text"}
    if text.count("\ufffd") > 0.02 * len(text):
        return {"reason": "undecodable"}
    return {"text": text}


def _read_exactly(stream: IO[bytes], size: int) -> bytes | None:
    data = stream.read(size)
    return data if len(data) == size else None


def serve() -> None:
    """Answers extraction requests until stdin ends."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    gc.set_threshold(1 << 16)  # a page is many objects, none of them in a circle
    settings = json.loads(stdin.readline())
    limit = settings["memory_mb"] << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while head := _read_exactly(stdin, 4):
        meta = json.loads(_read_exactly(stdin, struct.unpack("<I", head)[0]) or b"")
        # The whole request is read before the first answer: two full pipes would wait for each other.
        bodies = [_read_exactly(stdin, size) for size, _, _ in meta]
        for data, (_, charset, whole) in zip(bodies, meta):
            assert data is not None, "request was cut short"
            signal.setitimer(signal.ITIMER_PROF, settings["page_seconds"])  # its signal ends the process
            answer = json.dumps(_guarded(data, charset, whole, settings)).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            stdout.write(struct.pack("<I", len(answer)) + answer)
            stdout.flush()  # each at once: by the first that is missing the bad page is known


def _guarded(data: bytes, charset: str | None, whole: bool, settings: dict[str, Any]) -> dict[str, str]:
    try:
        return extract_page(data, charset, whole, settings)
    except MissingTool as error:
        return {"missing": error.what}
    except (MemoryError, RecursionError) as error:
        return {"reason": "extractor ran out of memory", "detail": repr(error)[:200]}
    except Exception as error:  # any page whatever: what the parser says becomes the reason in the funnel
        return {"reason": "extractor failed", "detail": repr(error)[:200]}


if __name__ == "__main__":
    serve()
