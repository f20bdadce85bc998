"""How a request is answered: errors as OpenAI's clients get them, streams, and replies that wait for their end.

Ours. Whatever way a request ends, also because its client has gone, what was begun for it is ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from openqwen.core.errors import MissingTool, OpenQwenError
from openqwen.serve import wire
from openqwen.serve.guard import ApiError
from openqwen.serve.worker import EngineFailed, Overloaded

LOG = logging.getLogger("uvicorn.error")
T = TypeVar("T")


def refusal(error: ApiError | OpenQwenError) -> ApiError:
    """An error as clients get it: overload 429, a failed engine 503, anything else about the request 400."""
    if isinstance(error, ApiError):
        return error
    message = f"{error.what}; {error.fix}" if error.fix else error.what
    if isinstance(error, Overloaded):
        return ApiError(
            429, message, kind="rate_limit_error", code="overloaded", headers={"Retry-After": "1"}
        )
    if isinstance(error, EngineFailed):
        return ApiError(
            503, message, kind="server_error", code="engine_failed", headers={"Retry-After": "10"}
        )
    return ApiError(400, message, code="missing_tool" if isinstance(error, MissingTool) else None)


def failure() -> ApiError:
    """The answer to a request that met an error of ours; the log has it. The HTTP server then closes the connection."""
    return ApiError(
        500,
        "the server failed to answer",
        kind="server_error",
        code="internal_error",
        headers={"Connection": "close"},
    )


class _Streamed(StreamingResponse):
    """A stream that calls `end` when it is over, also where it could not begin."""

    def __init__(self, chunks: AsyncIterator[str], end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(chunks, media_type="text/event-stream", headers=headers)
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


def streaming(chunks: AsyncIterator[str], end: Callable[[], None]) -> Response:
    """Server-sent events; an error in the middle is one of them. end: called when nobody reads any longer."""

    async def until_done() -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield chunk
        except (ApiError, OpenQwenError) as error:  # the status is sent already: say it in the stream
            yield wire.sse(refusal(error).content)
        except Exception:  # raised further, it would cut the connection before clients have read the line
            LOG.exception("a streamed reply met an error of the server's")
            yield wire.sse(failure().content)

    return _Streamed(until_done(), end)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T], end: Callable[[], None]) -> T:
    """What `work` returns. ApiError if the client goes away first; `end` is called in every case."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client went away", code="cancelled")
        return working.result()
    finally:
        end()
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
