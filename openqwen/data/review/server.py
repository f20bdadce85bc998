"""The review page: one document after the other, and what people say of it.

Ours. Bound to the loopback. Documents are whatever the web wrote: they reach the page as JSON, are shown as text and
never as HTML, and the page may run and load nothing but its own files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, JSONResponse, Response

from openqwen.core import loopback
from openqwen.core.errors import OpenQwenError
from openqwen.core.loopback import HEADERS, HOSTS
from openqwen.data.account import COPIES, Account, Place
from openqwen.data.items import read_benchmarks
from openqwen.data.review.compare import Piece, compare
from openqwen.data.review.estimate import summary
from openqwen.data.review.judgements import Judgements, Verdict
from openqwen.data.review.sample import Stratum, queue

PAGE = Path(__file__).parent / "page"
SHOWN = 60_000  # characters of a text that are sent
Reviewer = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^\S(.*\S)?$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class By(_Body):
    """Whose last judgement is undone."""

    reviewer: Reviewer


class Said(By):
    """A judgement."""

    place: str
    verdict: Verdict


@dataclass(frozen=True)
class Desk:
    """What reviewers share: the corpus, the sample of it, what was said so far."""

    account: Account
    strata: Sequence[Stratum]
    judgements: Judgements

    @cached_property
    def queue(self) -> list[Place]:
        return queue(list(self.strata))

    @cached_property
    def sampled(self) -> dict[str, Place]:
        """The queue by the names that the page has for places."""
        return {str(place): place for place in self.queue}

    @cached_property
    def originals(self) -> dict[str, Place]:
        """Where the documents stand that sampled ones are copies of: one pass over the corpus for all."""
        rows = [self.account.verdict(p) for s in self.strata if s.step in COPIES for p in sorted(s.sample)]
        return self.account.find({row["of"] for row in rows})

    @cached_property
    def items(self) -> dict[str, str]:
        """Texts of benchmark items as far as the files are still there, by the name that verdicts give them."""
        texts: dict[str, list[str]] = {}
        for item in read_benchmarks(path for path in self.account.benchmarks() if path.exists()):
            texts.setdefault(f"{item.benchmark}:{item.id}", []).append(item.text)
        return {name: "\n\n".join(own) for name, own in texts.items()}

    def next(self, reviewer: str, place: Place | None = None) -> dict[str, Any]:
        """What a reviewer sees: the document asked for, or the first of the queue that is not judged, and how far it is."""
        judged = {j.place for j in self.judgements.all() if j.reviewer == reviewer}
        done = judged.intersection(self.queue)
        place = place or next((p for p in self.queue if p not in done), None)
        return {
            "document": self.document(place) if place else None,
            "done": len(done),
            "total": len(self.queue),
        }

    def document(self, place: Place) -> dict[str, Any]:
        """A document with its verdict and, beside it, what it duplicates or overlaps with."""
        row = self.account.verdict(place)
        text, other = self.account.text(place), self._other(row)
        own, theirs = compare(text, other["text"]) if other else ([(text, False)], [])
        return {
            **row,
            "place": str(place),
            "pieces": shortened(own),
            "length": len(text),
            "other": other
            and {"name": row["of"], "about": other["about"], "length": len(other["text"]), "pieces": shortened(theirs)},
        }  # fmt: skip

    def _other(self, row: dict[str, Any]) -> dict[str, str] | None:
        if row["of"] is None:
            return None
        if row["step"] not in COPIES:
            text = self.items.get(row["of"])
            return None if text is None else {"text": text, "about": "item of a benchmark"}
        place = self.originals[row["of"]]
        step = self.account.verdict(place)["step"]
        about = (
            "stayed in its place" if step is None else f"stayed in its place, and was dropped by {step} later"
        )
        return {"text": self.account.text(place), "about": about}


def shortened(pieces: Sequence[Piece], limit: int = SHOWN) -> list[Piece]:
    """The first `limit` characters."""
    out: list[Piece] = []
    for text, marked in pieces:
        if limit > 0:
            out.append((text[:limit], marked))
        limit -= len(text)
    return out


def create_app(desk: Desk) -> FastAPI:
    """The page and what it asks for."""
    app = FastAPI(title="openqwen review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)

    @app.middleware("http")
    async def guarded(request: Request, call: Any) -> Response:
        response: Response = await call(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(OpenQwenError)
    async def failed(_: Request, error: OpenQwenError) -> Response:
        return JSONResponse({"detail": str(error)}, 500)

    @app.get("/")
    def index() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}")
    def file(name: str) -> Response:
        files = {path.name: path for path in PAGE.iterdir()}
        if name not in files:
            raise HTTPException(404)
        return FileResponse(files[name])

    @app.get("/next")
    def next_document(reviewer: Reviewer) -> dict[str, Any]:
        return desk.next(reviewer)

    @app.post("/judge")
    def judge(said: Said) -> dict[str, Any]:
        place = desk.sampled.get(said.place)
        if place is None:
            raise HTTPException(404, "that document is not in the sample")
        desk.judgements.judge(place, said.reviewer, said.verdict)
        return desk.next(said.reviewer)

    @app.post("/undo")
    def undo(by: By) -> dict[str, Any]:
        place = desk.judgements.undo(by.reviewer)
        return desk.next(by.reviewer, desk.sampled.get(str(place)))

    @app.get("/summary")
    def results() -> dict[str, Any]:
        return summary(desk.account, desk.strata, desk.judgements.all())

    return app


def serve(desk: Desk, port: int) -> None:
    """Serves the page on the loopback until interrupted. UsageError if the port is taken."""
    loopback.serve(create_app(desk), port, _about(desk), f"judgements go to {desk.judgements.path}")


def _about(desk: Desk) -> Iterator[str]:
    """Finding the originals reads the corpus, so it is not done before the port is held."""
    yield f"{len(desk.queue)} documents to review, beside {len(desk.originals)} originals of copies"
