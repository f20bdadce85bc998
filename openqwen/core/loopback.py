"""Pages for people on this machine: an application served on the loopback, and what its replies forbid a browser.

Ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from socket import create_server
from typing import Any

from openqwen.core.console import note
from openqwen.core.errors import UsageError

HOSTS = ["127.0.0.1", "localhost"]
# A page may run and load nothing but its own files.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve(app: Any, port: int, about: Iterable[str], kept: str) -> None:
    """Serves an ASGI application until interrupted. UsageError if the port is taken.

    port: 0 takes a free one. about: lines said before the address, read once the port is held. kept: what goes where.
    """
    import uvicorn

    try:
        sock = create_server(("127.0.0.1", port), backlog=128)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot serve on port {port}: {error}", fix="choose another with --port, 0 takes a free one"
        ) from error
    with closing(sock):
        for line in about:
            note(line)
        note(f"open http://127.0.0.1:{sock.getsockname()[1]}/")
        note(f"{kept}; Ctrl-C ends")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        with suppress(KeyboardInterrupt):  # uvicorn has shut down in order and passes it on
            uvicorn.Server(config).run(sockets=[sock])
