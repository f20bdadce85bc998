"""Chat in the terminal: streams the reply; also reads questions from a pipe.

Ours; the chat format is the report's (§3.1, A.1.1). Commands: /system TEXT, /reset, /help, /quit. Ctrl-C stops a
reply and keeps what there is of it, Ctrl-D ends the chat.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from openqwen.chat import chatml
from openqwen.core.errors import OpenQwenError
from openqwen.engine.engine import Engine
from openqwen.engine.sampling import Sampling
from openqwen.model import load_model
from openqwen.model.config import CacheFormat, WeightBits
from openqwen.serve.decoding import use_bits, use_compiled
from openqwen.tokenizer import load_tokenizer

HELP = (
    "/system TEXT sets the system message, /reset forgets the conversation, /quit ends. Ctrl-C stops a reply."
)


class Conversation:
    """Messages so far, and the next reply to them."""

    def __init__(self, engine: Engine, sampling: Sampling, system: str | None = None) -> None:
        self.engine, self.sampling, self.system = engine, sampling, system
        self.messages: list[dict[str, str]] = []
        self._turn = 0

    def reset(self, system: str | None = None) -> None:
        """Forgets everything; `system` replaces the system message."""
        self.messages, self.system = [], system if system is not None else self.system

    def reply(self, text: str, show: Callable[[str], None]) -> str:
        """The answer to a user's text, shown piece by piece. KeyboardInterrupt keeps what was said."""
        self.messages.append({"role": "user", "content": text})
        prompt = self._prompt()
        said: list[str] = []
        stream = self.engine.stream(prompt, self.sampling.fork(self._turn), remember=True)
        self._turn += 1
        try:
            for update in stream:
                piece = printable(update.text)
                said.append(piece)
                show(piece)
        except KeyboardInterrupt:
            stream.close()  # type: ignore[attr-defined]
            show(" [stopped]")
        self.messages.append({"role": "assistant", "content": "".join(said)})
        return "".join(said)

    def _prompt(self) -> list[int]:
        """The conversation as ids; the oldest turns go when the context is full."""
        tokenizer, room = self.engine.tokenizer, self.engine.max_length
        while True:
            head = [{"role": "system", "content": self.system}] if self.system is not None else []
            ids = chatml.render_prompt([*head, *self.messages], tokenizer)
            if room is None or len(ids) + self.sampling.max_tokens <= room or len(self.messages) < 3:
                return ids
            self.messages = self.messages[2:]


def printable(text: str) -> str:
    """Text without the control characters that a terminal obeys; newline and tab stay."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def converse(conversation: Conversation, source: TextIO, target: TextIO) -> None:
    """Reads lines from `source` until it ends or /quit; writes replies to `target`."""
    interactive = source.isatty()

    def show(text: str) -> None:
        target.write(text)
        target.flush()

    if interactive:
        show(HELP + "\n")
    while True:
        try:
            line = _ask(source, show, interactive)
            if line is None:
                return
            if not _answer(conversation, line, show):
                return
        except KeyboardInterrupt:  # at the prompt: a fresh line, as shells do
            show("\n")


def _ask(source: TextIO, show: Callable[[str], None], interactive: bool) -> str | None:
    """The next line without its end; None at the end of the input."""
    if interactive and source is sys.stdin:
        try:
            return input("\n> ")  # line editing and history where readline exists
        except EOFError:
            show("\n")
            return None
    line = source.readline()
    return line.rstrip("\r\n") if line else None


def _answer(conversation: Conversation, line: str, show: Callable[[str], None]) -> bool:
    """Does what a line says; False ends the chat."""
    command, _, rest = line.strip().partition(" ")
    if command in ("/quit", "/exit"):
        return False
    if command == "/reset":
        conversation.reset()
        show("(the conversation is empty)\n")
    elif command == "/system":
        conversation.reset(rest)
        show("(new system message; the conversation is empty)\n")
    elif command == "/help":
        show(HELP + "\n")
    elif line.strip():
        try:
            conversation.reply(line, show)
        except OpenQwenError as error:
            conversation.messages.pop()
            show(str(error))
        show("\n")
    return True


def chat(
    model_path: str | Path,
    *,
    system: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.9,
    repetition_penalty: float = 1.0,
    max_tokens: int = 512,
    seed: int = 0,
    max_length: int | None = None,
    compiled: bool | None = None,
    quantise: WeightBits | None = None,
    cache: CacheFormat | None = None,
    source: TextIO | None = None,
    target: TextIO | None = None,
) -> None:
    """Chats with a model until the input ends. max_length: context; None takes the model's own, extended if it can.

    compiled: decode by compiled code; None: where that is possible, saying so where it is not. quantise: hold the
    weights in so many bits; cache: and what was read. None: as the checkpoint says.
    """
    model = load_model(model_path)
    use_bits(model, quantise)
    config = model.config
    room = max_length or config.max_length * (4 if config.dynamic_ntk else 1)
    engine = Engine(
        model,
        load_tokenizer(model_path),
        max_batch=1,
        max_length=room,
        compiled=use_compiled(model, compiled, cache),
        cache=cache,
    )
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_tokens=min(max_tokens, max(1, room // 2)),
        seed=seed,
    )
    conversation = Conversation(engine, sampling, system)
    source, target = source or sys.stdin, target or sys.stdout
    if source.isatty():
        with contextlib.suppress(ImportError):  # on Windows input() edits by itself
            import readline  # noqa: F401
    converse(conversation, source, target)
