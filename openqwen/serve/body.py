"""The reading of a request's JSON: strict, bounded in bytes, in time and in what it may cost to parse.

Ours. Parsing holds Python's lock, so its cost is bounded by the bytes before it begins, and long bodies are parsed
beside the event loop.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect

from openqwen.serve.guard import ApiError

MAX_BODY = 4 * 2**20
MAX_NODES = 2**18  # arrays, objects and keys of a body: half a second to read
BODY_SECONDS = 30.0  # for a body to arrive
SMALL = 2**16  # bytes parsed at once in the event loop


class Body(BaseModel):
    """Base of what clients send."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


async def read_body(request: Request, cls: type[B], limit: int, seconds: float = BODY_SECONDS) -> B:
    """The request's JSON as `cls`, or an ApiError: 408 too slow, 413 too large, 415 not JSON, 400 all else."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "compressed bodies are not accepted", code="unsupported_encoding")
    try:
        async with asyncio.timeout(seconds):
            data = await _receive(request, limit)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {seconds:g} s", code="too_slow") from None
    except ClientDisconnect:
        raise ApiError(499, "the client went away", code="cancelled") from None
    if len(data) <= SMALL:
        return _read(data, cls)
    return await asyncio.to_thread(_read, data, cls)


async def _receive(request: Request, limit: int) -> bytes:
    length = request.headers.get("content-length", "")
    too_large = ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large  # before a client that asks "Expect: 100-continue" is told to send it
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise too_large  # the HTTP server reads the rest away, so that the client comes to read this
    return bytes(data)


def _read(data: bytes, cls: type[B]) -> B:
    try:
        return cls.model_validate(parse_json(data))
    except ValidationError as error:
        raise _explain(error) from None


def parse_json(data: bytes, what: str = "the body") -> Any:
    """Strict JSON: UTF-8, no NaN, no key twice, no lone surrogates, bounded depth, digits and number of nodes."""
    if sum(data.count(mark) for mark in (b"[", b"{", b":")) > MAX_NODES:
        raise ApiError(400, f"{what} has more than {MAX_NODES} arrays, objects and keys", code="invalid_json")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_twice)
        if b"\\u" in data:  # only an escape can make half a character
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise ApiError(400, f"{what} is not valid JSON: {reason}", code="invalid_json") from None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _explain(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:200] or None
    where = f"{param}: " if param else ""
    return ApiError(400, f"{where}{first['msg'][:500]}", param=param, code=first["type"])
