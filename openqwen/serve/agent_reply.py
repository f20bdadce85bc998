"""A reply for which the server runs its tools: the model writes, a tool answers, until there is a final answer.

Report §3.4, §A.3 (ReAct). Ours: the reply's content is the whole transcript as the model has it, so that a client who
sends it back gives the model the history it was trained on. What tools said is marked beside it (`observations`), with
the pictures, which the model does not see.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from openqwen.agent.loop import Conversation
from openqwen.chat import react
from openqwen.engine.sequence import Completion
from openqwen.serve import wire
from openqwen.serve.agents import Agents, Lease
from openqwen.serve.answers import streaming, unless_gone
from openqwen.serve.guard import ApiError
from openqwen.serve.messages import ToolMessage
from openqwen.serve.schema import ChatRequest
from openqwen.serve.tools import Plan
from openqwen.serve.wire import Json
from openqwen.serve.worker import Job

if TYPE_CHECKING:
    from openqwen.serve.server import Service


async def agent_completion(
    service: Service, agents: Agents | None, request: Request, body: ChatRequest
) -> Response:
    """POST /v1/chat/completions with `agent`. ApiError: no tools here, what cannot be combined, no place free."""
    agents, asked = _there(agents), body.agent
    assert asked is not None
    history = _history(body)
    if body.temperature is None:
        body = body.model_copy(update={"temperature": agents.config.temperature})
    lease = await agents.enter(asked.conversation)
    reply = AgentReply(service, body, lease, history, agents)
    try:
        await reply.begin()
    except BaseException:
        reply.end()
        raise
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if body.stream:
        return streaming(_chunks(reply, body, head), reply.end)
    await unless_gone(request, _exhaust(reply), reply.end)
    choice = {
        "index": 0,
        "message": reply.message,
        "logprobs": reply.logprobs,
        "finish_reason": reply.finish_reason,
        "ended": reply.ended,
    }
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": reply.usage})


def agent_prompt(messages: Sequence[ToolMessage], agents: Agents | None) -> Plan:
    """How a conversation with the server's tools is put to the model."""
    placed = react.place_tools(_plain(messages), _there(agents).declarations)
    return Plan([dict(message) for message in placed])


def _there(agents: Agents | None) -> Agents:
    if agents is None:
        raise ApiError(
            400,
            "this server runs no tools; start it with --interpreter or --tools",
            param="agent",
            code="no_agent",
        )
    return agents


def _plain(messages: Sequence[ToolMessage]) -> list[dict[str, str]]:
    if any(message.tool_calls or message.role == "tool" for message in messages):
        raise ApiError(
            400,
            "calls of the client's own tools cannot be in a conversation for which the server runs tools",
            param="messages",
            code="two_kinds_of_tools",
        )
    return [message.plain() for message in messages]


def _history(body: ChatRequest) -> list[dict[str, str]]:
    """The messages; the last is the question. ApiError for what cannot be combined with `agent`."""
    refused = {
        "tools": body.tools and "give the request's own tools, or use the server's",
        "tool_choice": body.tool_choice not in (None, "auto")
        and "the model chooses among the server's tools",
        "n": (body.n or 1) > 1 and "there is one reply",
        "stop": body.stop and "the reply ends with its final answer",
    }
    for name, why in refused.items():
        if why:
            raise ApiError(
                400, f"{name} cannot be combined with agent: {why}", param=name, code="not_with_agent"
            )
    messages = _plain(body.messages)
    if messages[-1]["role"] != "user":
        raise ApiError(
            400,
            "an agent answers the user, whose message has to be the last",
            param="messages",
            code="invalid_messages",
        )
    return messages


class AgentReply:
    """One reply in rounds. `begin` asks for the first; `deltas` come to `message`; `end` stops whatever runs."""

    def __init__(
        self,
        service: Service,
        body: ChatRequest,
        lease: Lease,
        messages: list[dict[str, str]],
        agents: Agents,
    ) -> None:
        self.service, self.body, self.lease = service, body, lease
        *history, asked = messages
        config = agents.config
        self.talk = Conversation(
            asked["content"], lease.toolbox, config.max_steps, config.max_repeats, list(history)
        )
        self.message: Json = {"role": "assistant", "content": "", "refusal": None, "observations": []}
        self.completions: list[Completion] = []
        self._job: Job | None = None
        self._gap = ""  # what stands between a tool's words and the next round

    async def begin(self) -> None:
        """Asks for the first round. ApiError if its prompt is too long; Overloaded."""
        prompt = await self._prompt()
        context = self.service.reach(self.service.extension(self.body))
        await self._ask(prompt, self.service.room(prompt, self._wanted, None, context))

    async def deltas(self) -> AsyncIterator[tuple[Json, Json | None]]:
        """The pieces of the message, each with the log-probabilities of its tokens if they were asked for."""
        while self.talk.ended is None:
            if self._job is None and not await self._next_round():
                self.talk.cut("")
                return
            async for piece in self._round():
                yield piece

    def end(self) -> None:
        if self._job is not None:
            self._job.cancel()
        self.lease.end()

    @property
    def ended(self) -> str | None:
        """How the agent's loop came to its end (Conversation.ended)."""
        return self.talk.ended

    @property
    def finish_reason(self) -> str:
        return "length" if self.talk.ended == "length" else "stop"

    @property
    def usage(self) -> Json:
        """The sum of the rounds; `context_tokens` is what the last one held."""
        last = self.completions[-1]
        total = wire.usage(self.completions, len(self.completions))
        return {
            **total,
            "rounds": len(self.completions),
            "context_tokens": len(last.prompt_ids) + len(last.ids),
        }

    @property
    def logprobs(self) -> Json | None:
        """Of all that the model wrote, what tools said left out."""
        tokenizer = self.service.tokenizer
        each = [
            wire.chat_logprobs(c.scores, c.stop, tokenizer) for c in self.completions if c.scores is not None
        ]
        if not each:
            return None
        return {"content": [one for scores in each for one in scores["content"]], "refusal": None}

    @property
    def _wanted(self) -> int | None:
        body = self.body
        return body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens

    async def _prompt(self) -> list[int]:
        messages: list[dict[str, Any]] = [dict(message) for message in self.talk.messages]
        if self.talk.reply:
            messages.append({"role": "assistant", "content": self.talk.reply})
        return await asyncio.to_thread(self.service.render, Plan(messages, opened=bool(self.talk.reply)))

    async def _ask(self, prompt: list[int], room: int) -> None:
        sampling = self.body.sampling(room, self.body.alternatives, self.body.constraint())
        sampling = Plan([], react=True).hold(sampling.fork(len(self.completions)))
        self._job = await self.service.submit(self.body, [prompt], [sampling])

    async def _next_round(self) -> bool:
        """Asks for a further round; False if there is no room for one."""
        prompt = await self._prompt()
        room = self.service.reach(self.service.extension(self.body)) - len(prompt)
        if self._wanted is not None:
            room = min(room, self._wanted - sum(len(c.ids) for c in self.completions))
        if room < 1:
            return False
        await self._ask(prompt, room)
        return True

    async def _round(self) -> AsyncIterator[tuple[Json, Json | None]]:
        """What the model writes, then what came of it."""
        job, said, sent = self._job, "", 0
        assert job is not None
        completion: Completion | None = None
        while job.open:
            update = (await job.next()).update
            assert update is not None
            logprobs = None
            if update.scores:
                stop = update.completion.stop if update.completion else None
                logprobs = wire.chat_logprobs(update.scores, stop, self.service.tokenizer)
            completion = update.completion
            said = completion.text if completion else said + update.text
            text = self.talk.counted(said) if completion else self.talk.certain(said)
            if text[sent:] or (logprobs and logprobs["content"]):
                yield self._more(self._gap + text[sent:]), logprobs
                self._gap = ""
            sent = max(sent, len(text))
        assert completion is not None
        self._job = None
        self.completions.append(completion)
        if completion.finish_reason == "length":  # half a call must not run
            self.talk.cut(said)
            return
        pictures = await self.lease.run(self._accept, said)
        turn = self.talk.turns[-1]
        if turn.observation is not None:
            label, words, self._gap = react.observation_parts(turn.observation)
            yield (
                {**self._more(label), "observations": []},
                None,
            )  # nobody may take the tool's time for the model's
            start = len(self.message["content"])
            observation = {
                "start": start,
                "end": start + len(words),
                "error": turn.error is not None,
                "pictures": pictures,
            }
            self.message["observations"].append(observation)
            yield {**self._more(words), "observations": [observation]}, None

    def _accept(self, said: str) -> list[Json]:
        """Runs the call, if there is one. Returns the pictures it drew."""
        self.lease.holding.pictures()  # of a call that was stopped
        self.talk.accept(said)
        return self.lease.holding.pictures()

    def _more(self, text: str) -> Json:
        self.message["content"] += text
        return {"content": text}


async def _exhaust(reply: AgentReply) -> None:
    async for _ in reply.deltas():
        pass


async def _chunks(reply: AgentReply, body: ChatRequest, head: Json) -> AsyncIterator[str]:
    def chunk(delta: Json, logprobs: Json | None = None, **last: str | None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None, **last}
        extra = {"usage": None} if body.include_usage else {}
        return wire.sse({**head, "object": "chat.completion.chunk", "choices": [choice], **extra})

    yield chunk({"role": "assistant", "content": ""})
    async for delta, logprobs in reply.deltas():
        yield chunk(delta, logprobs)
    yield chunk({}, finish_reason=reply.finish_reason, ended=reply.ended)
    if body.include_usage:
        yield wire.sse({**head, "object": "chat.completion.chunk", "choices": [], "usage": reply.usage})
    yield wire.DONE
