"""The annotation page: replies side by side without names, and what annotators say of them.

Report §3.3. Bound to the loopback. The page never learns which model wrote what: it has texts and names of cards, and what
it sends is turned into replies here. Replies reach it as JSON and are shown as text by the chat page's renderer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse, JSONResponse, Response

import openqwen
from openqwen.annotate.ballots import Answer, Ballots, Conflict, Mark
from openqwen.annotate.items import MOST, Card, Item
from openqwen.core import loopback
from openqwen.core.artifact import digest
from openqwen.core.errors import OpenQwenError
from openqwen.core.loopback import HEADERS, HOSTS
from openqwen.data.review.server import Reviewer

PAGE = Path(__file__).parent / "page"
CHAT_PAGE = Path(openqwen.__file__).parent / "serve" / "page"
# How the chat page shows replies; the other files of that page are not for here.
SHARED = (
    "dom.js",
    "markdown.js",
    "highlight.js",
    "math.js",
    "mathml.js",
    "commands.js",
    "symbols.js",
    "text.css",
)
LONGEST = 200_000  # bytes of a request
CSP = HEADERS["Content-Security-Policy"].replace("img-src 'self'", "img-src 'self' data:")
TRUSTED = f"{CSP}; require-trusted-types-for 'script'; trusted-types 'none'"
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Said(_Body):
    """What is said of a card."""

    place: int = Field(ge=1, le=MOST)
    score: int | None = Field(None, ge=1, le=10)
    flags: list[Literal["broken", "unsafe"]] = Field([], max_length=2)


class Given(_Body):
    """An answer. key: chosen by the page, other for each answer, the same when it is sent again."""

    study: Name
    key: str = Field(pattern=r"^[0-9a-zA-Z-]{16,64}$")
    annotator: Reviewer
    item: Name
    cards: dict[str, Said] = Field(min_length=2, max_length=MOST)
    comment: str = Field("", max_length=4000)


@dataclass(frozen=True)
class Booth:
    """What annotators share. judges: how many are to answer each item."""

    ballots: Ballots
    judges: int

    def next(self, annotator: str, wanted: str | None = None) -> dict[str, Any]:
        """The item asked for, or the first that this annotator has not answered and that needs one; None at the end.

        All go through the items in the same random order, so that items are whole early on.
        """
        study, counts = self.ballots.study, self.ballots.counts()
        mine = [answer.item for answer in self.ballots.answers(annotator)]
        own = set(mine)
        left = [i for i in study.items if i.id not in own and counts.get(i.id, 0) < self.judges]
        item = self.ballots.item(wanted) if wanted else None
        if item is None and left:
            item = min(left, key=lambda i: digest([study.seed, i.id]))
        shown = item.id if item else None
        before = mine[: mine.index(shown)] if shown in own else mine
        return {
            "study": study.content,
            "item": item and self.view(item, annotator),
            "before": before[-1] if before else None,
            "done": len(mine),
            "total": len(mine) + len(left),
        }

    def view(self, item: Item, annotator: str) -> dict[str, Any]:
        """An item as this annotator sees it, with what was said before."""
        cards = item.cards(self.ballots.study.seed, annotator)
        given = next((a for a in self.ballots.answers(annotator) if a.item == item.id), None)
        return {
            "id": item.id,
            "topic": item.topic,
            "messages": [{"role": m["role"], "content": m["content"]} for m in item.prompt["messages"]],
            "cards": [{"name": card.name, "text": card.text} for card in cards],
            "answer": given
            and {
                "comment": given.comment,
                "cards": {c.name: _said(given.marks[c.replies[0]]) for c in cards},
            },
        }

    def take(self, given: Given) -> None:
        """Stores an answer. HTTPException 404 or 409 if it is not about what is here."""
        if given.study != self.ballots.study.content:
            raise HTTPException(409, "this answer belongs to other instructions")
        item = self.ballots.item(given.item)
        if item is None:
            raise HTTPException(404, "that instruction is not here")
        cards = item.cards(0, "")
        if {card.name for card in cards} != set(given.cards):
            raise HTTPException(422, "an answer is about every reply of the instruction")
        try:
            answer = Answer(given.item, given.annotator, marks(cards, given.cards), given.comment)
            self.ballots.add(given.key, answer)
        except Conflict as error:
            raise HTTPException(409, error.what) from error


def marks(cards: list[Card], said: Mapping[str, Said]) -> dict[str, Mark]:
    """What was said of cards as marks of their replies."""
    return {
        reply: Mark(own.place, own.score, "broken" in own.flags, "unsafe" in own.flags)
        for card in cards
        for own in [said[card.name]]
        for reply in card.replies
    }


def _said(mark: Mark) -> dict[str, Any]:
    flags = [name for name in ("broken", "unsafe") if getattr(mark, name)]
    return {"place": mark.place, "score": mark.score, "flags": flags}


def create_app(booth: Booth) -> FastAPI:
    """The page and what it asks for."""
    app = FastAPI(title="openqwen annotate", docs_url=None, redoc_url=None, openapi_url=None)
    files = {path.name: path for path in PAGE.iterdir()} | {name: CHAT_PAGE / name for name in SHARED}

    @app.middleware("http")
    async def guarded(request: Request, call: Any) -> Response:
        wrong = refusal(request)
        response: Response = JSONResponse({"detail": wrong[1]}, wrong[0]) if wrong else await call(request)
        response.headers.update({**HEADERS, "Content-Security-Policy": TRUSTED})
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)

    @app.exception_handler(OpenQwenError)
    async def failed(_: Request, error: OpenQwenError) -> Response:
        return JSONResponse({"detail": str(error)}, 500)

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        """What is wrong, without what was sent: that may be no text that can be sent back."""
        parts = [f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()]
        return JSONResponse({"detail": "; ".join(parts).encode("utf-8", "replace").decode()}, 422)

    @app.get("/")
    def index() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}")
    def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return FileResponse(files[name])

    @app.get("/next")
    def next_item(annotator: Reviewer, item: Annotated[str | None, Query(max_length=1000)] = None) -> Any:
        if item is not None and booth.ballots.item(item) is None:
            raise HTTPException(404, "that instruction is not here")
        return booth.next(annotator, item)

    @app.post("/answer")
    def answer(given: Given) -> Any:
        booth.take(given)
        return {"stored": given.key}

    return app


def refusal(request: Request) -> tuple[int, str] | None:
    """Status and reason if a request comes from a page elsewhere, or is larger than any answer."""
    origin, host = request.headers.get("origin"), request.headers.get("host")
    site = request.headers.get("sec-fetch-site", "none")
    foreign = (
        site not in ("none", "same-origin") and request.url.path != "/"
    )  # a link elsewhere may lead here
    if foreign or origin not in (None, f"http://{host}"):
        return 403, "requests come from this page only"
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "a request says how long it is"
        if int(length) > LONGEST:
            return 413, f"a request has at most {LONGEST} bytes"
    return None


def serve(booth: Booth, port: int) -> None:
    """Serves the page on the loopback until interrupted. UsageError if the port is taken."""
    study = booth.ballots.study
    about = [f"{len(study.items)} instructions, {booth.judges} annotators each"]
    about += [f"  left out: {count} {reason}" for reason, count in study.left_out.items()]
    loopback.serve(create_app(booth), port, about, f"answers go to {booth.ballots.path}")
