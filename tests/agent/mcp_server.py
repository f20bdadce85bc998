"""A real MCP server for tests: `python mcp_server.py` talks over its pipes, with a port over HTTP."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, Literal

from mcp.server.mcpserver import Image, MCPServer
from pydantic import Field

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two whole numbers."""
    return str(a + b)


@server.tool()
def repeat(text: str, times: Annotated[int, Field(ge=1, le=9)]) -> str:
    """Says a text several times."""
    return " ".join([text] * times)


@server.tool()
def misbehave(how: Literal["raise", "hang", "long", "picture", "die", "secret"]) -> object:
    """Goes wrong in the way asked for."""
    if how == "raise":
        raise ValueError("by intent")
    if how == "hang":
        time.sleep(60)
    if how == "die":
        os._exit(3)
    if how == "picture":
        return Image(data=b"\x89PNG\r\n\x1a\n" + bytes(992), format="png")
    return str(os.environ.get("OPENQWEN_SECRET")) if how == "secret" else "x" * (3 << 20)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
