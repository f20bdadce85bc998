"""What every request passes before a route sees it: host, key, and room for its body.

Ours. Refused by default: with a key set, every path but the page and /health needs it. The Host header must name
this server, so that a web page elsewhere cannot reach a server on the loopback through its own name.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openqwen.serve import wire
from openqwen.serve.metrics import ServerMetrics

OPEN_PATHS = ("/", "/health", "/favicon.ico")
PAGE = "/page/"
# The page runs only its own script and style and talks only to its own server; no text of its can become markup.
CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"  # noqa: E501
_HEADERS = {
    b"content-security-policy": CSP.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class ApiError(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.content = wire.error(message, kind, param, code)

    def response(self) -> JSONResponse:
        return JSONResponse(self.content, self.status, self.headers)


class Guard:
    """ASGI middleware. hosts: allowed Host names; None allows any (when bound to other interfaces).

    max_held: bytes of the bodies of all requests that are not yet answered to the end; who sends more gets 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        api_key: str | None,
        hosts: Collection[str] | None,
        max_held: int,
        metrics: ServerMetrics,
    ) -> None:
        self.app, self.api_key, self.hosts, self.metrics = app, api_key, hosts, metrics
        self.max_held, self.held = max_held, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message)
            await send(message)

        own = 0

        async def receive_counted() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            if self.held + size > self.max_held:
                raise ApiError(
                    503,
                    "the server holds all the requests it has memory for; try again in a moment",
                    kind="server_error",
                    code="overloaded",
                    headers={"Retry-After": "1"},
                )
            own += size
            self.held += size
            return message

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        try:
            await (refusal.response() if refusal else self.app)(scope, receive_counted, send_noted)
        finally:
            self.held -= own

    def _note(self, scope: Scope, message: Message) -> None:
        message["headers"] = [*message.get("headers", []), *_HEADERS.items()]
        route = scope.get("route")  # the pattern, not the path: clients must not be able to invent labels
        self.metrics.responses.labels(getattr(route, "path", "other"), str(message["status"])).inc()

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        host = headers.get("host", "").rsplit(":", 1)[0] if headers.get("host") else ""
        if self.hosts is not None and host not in self.hosts:
            return ApiError(421, "this server does not answer to that host name", code="host_not_allowed")
        if "content-length" in headers and "transfer-encoding" in headers:
            return ApiError(
                400,
                "the body's length is said in two ways",  # a proxy may have read the other, and hides a request so
                code="invalid_http",
                headers={"Connection": "close"},
            )
        if self.api_key is None or path in OPEN_PATHS or path.startswith(PAGE):
            return None
        given = headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self.api_key}".encode()):
            return None
        return ApiError(
            401,
            "incorrect API key, or none: send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
