"""The tools that the server itself runs, and the conversations that hold them.

Report §3.4, §A.3 (ReAct with a code interpreter). Ours: each conversation has an interpreter and processes of its own
and is reached only by who knows its id; their number is bounded, idle ones are ended. Tools run beside the event loop
and the engine, and a call is ended when nobody waits for it any longer.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field

from openqwen.agent import interpreter
from openqwen.agent.process import set_apart
from openqwen.agent.tools import Tool, Toolbox
from openqwen.chat import react
from openqwen.serve.body import Body
from openqwen.serve.config import AgentConfig
from openqwen.serve.guard import ApiError
from openqwen.serve.wire import Json

T = TypeVar("T")


class AgentRequest(Body):
    """What makes the server run its own tools for a reply. conversation: who sends the same id keeps its interpreter.

    A field of ours that OpenAI's API does not have. Whoever knows an id can use what the conversation holds, so it
    has to be drawn at random.
    """

    model_config = ConfigDict(extra="forbid")  # a name misspelt would go unnoticed

    conversation: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{16,128}$")


class Agentic(Body):
    """What a request says about the server's tools."""

    agent: AgentRequest | None = None


class Holding:
    """What one conversation holds: its interpreter, its processes, a folder. Made and closed in a thread."""

    def __init__(self, tools: Sequence[Tool], config: AgentConfig, python: bool) -> None:
        self.config, self._shown = config, 0
        with ExitStack() as begun:
            folder = Path(begun.enter_context(tempfile.TemporaryDirectory(prefix="openqwen-agent-")))
            self.tools = set_apart(tools, config.tool_seconds, begun)
            self.interpreter: interpreter.Interpreter | None = None
            if python:
                self.interpreter = begun.enter_context(interpreter.start(config.interpreter, folder))
                self.tools.append(self.interpreter.tool)
            self._stack = begun.pop_all()

    def toolbox(self) -> Toolbox:
        """The tools for one reply: a toolbox that was stopped stays so."""
        return Toolbox(self.tools, self.config.tool_seconds, self.config.max_observation)

    def pictures(self) -> list[Json]:
        """The pictures drawn since this was asked last, as data addresses. They are not kept."""
        if self.interpreter is None:
            return []
        self.interpreter.figures.clear()  # what they show, as data, is for benchmarks
        paths, self._shown = self.interpreter.pictures[self._shown :], len(self.interpreter.pictures)
        found = []
        for path in paths:
            data = base64.b64encode(path.read_bytes()).decode()
            path.unlink()
            found.append({"name": path.name, "url": f"data:image/png;base64,{data}"})
        return found

    def close(self) -> None:
        self._stack.close()


class Session:
    """A conversation's place: one reply at a time uses what it holds."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept  # beyond the reply
        self.holding: Holding | None = None
        self.lock = asyncio.Lock()
        self.users = 0  # replies that use it or wait for it
        self.idle: asyncio.TimerHandle | None = None


class Lease:
    """The use of a conversation's tools for one reply; `end` gives it back, also in the middle of a call."""

    def __init__(self, agents: Agents, holding: Holding, leave: Callable[[], None]) -> None:
        self.holding, self.toolbox = holding, holding.toolbox()
        self._agents, self._leave = agents, leave
        self._work: asyncio.Future[Any] | None = None
        self._ended = False

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function that may call tools beside the event loop."""
        self._work = work = self._agents.in_thread(function, *arguments)
        return await asyncio.shield(work)

    def end(self) -> None:
        """Stops the call that runs; once it has returned, the conversation's next reply may begin."""
        if self._ended:
            return
        self._ended = True
        self.toolbox.stop()
        if self._work is None or self._work.done():
            self._leave()
        else:
            self._work.add_done_callback(lambda _: self._leave())


class Agents:
    """The server's tools and the conversations that hold them. Used in the event loop, but for its making."""

    def __init__(
        self, tools: Sequence[Tool], config: AgentConfig | None = None, python: bool = False
    ) -> None:
        """python: every conversation also has an interpreter; NoSandbox (exit code 78) where none is proven."""
        self.config = config or AgentConfig()
        self._tools, self._python = list(tools), python
        if python:
            interpreter.check()
        self.declarations = [tool.declaration for tool in tools]
        self.declarations += [interpreter.DECLARATION] if python else []
        self._sessions: dict[str, Session] = {}  # the one used last comes last
        self._leases: set[Lease] = set()
        self._closed = False
        # A thread for each conversation's call, and some for what is made and closed meanwhile.
        self._threads = ThreadPoolExecutor(self.config.conversations + 4, thread_name_prefix="tool")

    def described(self) -> list[dict[str, str]]:
        """Name and use of each tool, for people."""
        return [
            {
                "name": react.tool_name(declaration),
                "description": str(
                    declaration.get("description_for_model") or declaration.get("description") or ""
                ),
            }
            for declaration in self.declarations
        ]

    async def enter(self, key: str | None) -> Lease:
        """The tools of a conversation; without a key, of one that ends with the reply.

        ApiError: 409 while an earlier reply still uses them, 429 where all places are in use.
        """
        name = key or secrets.token_urlsafe()
        session = self._sessions.get(name) or self._place(name, kept=key is not None)
        session.users += 1
        if session.idle is not None:
            session.idle.cancel()
            session.idle = None
        try:
            await self._acquire(session)
        except BaseException:
            self._left(name, session)
            raise
        try:
            if session.holding is None:
                session.holding = await self._make()
        except BaseException:
            session.lock.release()
            self._left(name, session)
            raise

        def leave() -> None:
            self._leases.discard(lease)
            session.lock.release()
            self._left(name, session)

        lease = Lease(self, session.holding, leave)
        self._leases.add(lease)
        return lease

    def in_thread(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def close(self) -> None:
        """Ends all calls and all that conversations hold."""
        self._closed = True
        for lease in list(self._leases):
            lease.end()
        await asyncio.to_thread(self._threads.shutdown)
        for session in self._sessions.values():
            if session.idle is not None:
                session.idle.cancel()
            if session.holding is not None:
                await asyncio.to_thread(session.holding.close)

    def _place(self, name: str, kept: bool) -> Session:
        """A new conversation's place; where there is none, that of the one idle for longest."""
        if len(self._sessions) >= self.config.conversations:
            idle = next((other for other, session in self._sessions.items() if not session.users), None)
            if idle is None:
                raise ApiError(
                    429,
                    f"{self.config.conversations} conversations are using tools; try again in a moment",
                    kind="rate_limit_error",
                    code="overloaded",
                    headers={"Retry-After": "1"},
                )
            self._drop(idle)
        self._sessions[name] = session = Session(kept)
        return session

    async def _acquire(self, session: Session) -> None:
        try:
            async with asyncio.timeout(self.config.busy_seconds):
                await session.lock.acquire()
        except TimeoutError:
            raise ApiError(
                409,
                "another reply of this conversation is still using its tools",
                param="agent.conversation",
                code="conversation_busy",
            ) from None

    async def _make(self) -> Holding:
        making = self.in_thread(Holding, self._tools, self.config, self._python)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:  # the client has gone; the thread goes on
            making.add_done_callback(_close_made)
            raise

    def _left(self, name: str, session: Session) -> None:
        """One reply less uses a conversation."""
        session.users -= 1
        if session.users or self._closed:
            return
        if not session.kept or session.holding is None:
            self._drop(name)
            return
        self._sessions[name] = self._sessions.pop(name)
        loop = asyncio.get_running_loop()
        session.idle = loop.call_later(self.config.idle_seconds, self._drop, name)

    def _drop(self, name: str) -> None:
        """Ends what a conversation holds that nobody uses."""
        session = self._sessions.pop(name)
        if session.idle is not None:
            session.idle.cancel()
        if session.holding is not None:
            self.in_thread(session.holding.close)


def _close_made(making: asyncio.Future[Holding]) -> None:
    if making.exception() is None:
        making.result().close()
