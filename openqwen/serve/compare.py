"""What the chat page compares replies with: the reward model's score, and a file of what people preferred.

Report §3.2.1: two replies to one query, a person's choice, a model that learns it. Ours: the routes. A stored choice
is a record of reward/data.py, so the file trains a reward model as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from fastapi import FastAPI, Request
from pydantic import Field

from openqwen.core.errors import UsageError
from openqwen.reward.data import problem, prompt_problem, render_pair_side
from openqwen.reward.loop import score
from openqwen.serve.body import Body
from openqwen.serve.guard import ApiError
from openqwen.serve.messages import ChatMessage
from openqwen.serve.worker import Overloaded

if TYPE_CHECKING:
    from openqwen.model.heads import ScalarModel
    from openqwen.tokenizer import Tokenizer

FILE = "preferences.jsonl"
MAX_REPLIES = 16
MAX_SCORING = 32  # requests that wait for the reward model
Reply = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(max_length=1000)]


class Conversation(Body):
    """A conversation that ends with the user's turn."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)

    def plain(self) -> list[dict[str, str]]:
        """The messages as ChatML knows them. ApiError if a reply to them would answer nobody."""
        messages = [message.plain() for message in self.messages]
        if wrong := prompt_problem(messages):
            raise ApiError(400, f"a conversation {wrong}: it must end with the user's turn", param="messages")
        return messages


class ScoreRequest(Conversation):
    """POST /score"""

    replies: list[Reply] = Field(min_length=1, max_length=MAX_REPLIES)


class PreferenceRequest(Conversation):
    """POST /preferences: which of two replies is better, who wrote them, how the reward model saw them."""

    chosen: Reply
    rejected: Reply
    chosen_model: Name | None = None
    rejected_model: Name | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None
    blind: bool = False  # whether the person chose without seeing names and scores


class Reward:
    """A reward model that answers requests one after another, in a thread of its own."""

    def __init__(self, model: ScalarModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self._waiting = 0

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def scores(self, messages: list[dict[str, str]], replies: Sequence[str]) -> list[float]:
        """The reward of each reply. ApiError for one too long; Overloaded when too many requests wait."""
        if self._waiting >= MAX_SCORING:
            raise Overloaded("too many replies wait for the reward model", fix="try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._score, messages, replies
            )
        finally:
            self._waiting -= 1

    @torch.inference_mode()
    def _score(self, messages: list[dict[str, str]], replies: Sequence[str]) -> list[float]:
        rows = [render_pair_side(messages, reply, self.tokenizer) for reply in replies]
        longest, room = max(map(len, rows)), self.model.config.max_length
        if longest > room:
            raise ApiError(
                400,
                f"the reward model reads {room} tokens, conversation and reply have {longest}",
                param="replies",
                code="context_length_exceeded",
            )
        device = self.model.scalar.weight.device
        return [float(score(self.model, [row], device)) for row in rows]  # alone: the same in any company


class Preferences:
    """The file that choices are appended to, one line each, on disk before the page hears of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A line that a crash cut short is ended here, so that it spoils no other.
            lines = self.path.read_bytes() if self.path.exists() else b""
            with self.path.open("ab") as file:
                file.write(b"" if not lines or lines.endswith(b"\n") else b"\n")
        except OSError as error:
            raise UsageError(
                f"preferences cannot be kept here: {error.strerror or error}",
                where=str(self.path),
                fix="give --preferences a folder that can be written",
            ) from error
        self.count = sum(1 for line in lines.splitlines() if line.strip())

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record."""
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with self._lock, self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self.count += 1


def add_compare_routes(
    app: FastAPI,
    read: Callable[[Request, Any], Awaitable[Any]],
    describe: Callable[[type[Body]], dict[str, Any]],
    reward: Reward | None,
    preferences: Preferences | None,
) -> None:
    """GET /compare says what there is; POST /score and /preferences are there when it is.

    read: a request's body as a class. describe: that class in the OpenAPI document.
    """

    @app.get("/compare")
    async def compare() -> dict[str, Any]:
        stored = None if preferences is None else preferences.count
        return {"reward": reward is not None, "preferences": preferences is not None, "stored": stored}

    if reward is not None:

        @app.post("/score", openapi_extra=describe(ScoreRequest))
        async def score_replies(request: Request) -> dict[str, Any]:
            body: ScoreRequest = await read(request, ScoreRequest)
            return {"scores": await reward.scores(body.plain(), body.replies)}

    if preferences is not None:

        @app.post("/preferences", openapi_extra=describe(PreferenceRequest))
        async def prefer(request: Request) -> dict[str, Any]:
            body: PreferenceRequest = await read(request, PreferenceRequest)
            record = {
                "id": uuid.uuid4().hex,
                "task": "chat page",
                "time": int(time.time()),
                **body.model_dump(exclude={"messages"}, exclude_none=True),
                "messages": body.plain(),
            }
            if wrong := problem(record):
                raise ApiError(400, f"this is no comparison: a pair {wrong}", code="invalid_pair")
            await asyncio.to_thread(preferences.append, record)
            return {"id": record["id"], "stored": preferences.count}
