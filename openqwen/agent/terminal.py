"""The agent in the terminal: thoughts, calls, code, results and pictures as they come.

Report §3.4 and §A.3 (the conversations printed there). Ours: what a tool said stands behind a bar, so that it cannot
pass for the model's words, and nothing that is printed can drive the terminal. Ctrl-C stops an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TextIO

from openqwen.agent.interpreter import Interpreter
from openqwen.agent.loop import Conversation
from openqwen.agent.tools import Toolbox
from openqwen.chat.react import Message
from openqwen.core.errors import OpenQwenError

HELP = (
    "/tools lists the tools, /put FILE gives a file to the interpreter, /get NAME fetches one, /reset forgets the "
    "conversation, /quit ends. Ctrl-C stops an answer."
)
ENDS = {
    "unfinished": "the model stopped before a call or an answer",
    "invented": "the model wrote a tool's result itself; it was cut off",
    "loop": "the model made the same call again and again",
    "steps": "no answer after so many calls",
    "stopped": "stopped",
}
Show = Callable[[str], None]


class Speaker(Protocol):
    """A model that continues one reply piece by piece."""

    def stream(self, messages: list[Message], reply: str) -> Iterator[str]: ...


class Session:
    """A talk with an agent. trace: file that grows by a line for each question, with all that happened."""

    def __init__(
        self,
        model: Speaker,
        toolbox: Toolbox,
        interpreter: Interpreter | None = None,
        max_steps: int = 8,
        max_repeats: int = 2,
        trace: Path | None = None,
    ) -> None:
        self.model, self.toolbox, self.interpreter = model, toolbox, interpreter
        self.max_steps, self.max_repeats, self.trace = max_steps, max_repeats, trace
        self.history: list[Message] = []

    def answer(self, query: str, show: Show) -> Conversation:
        """Runs one question to its end and shows each step. What was said becomes part of the conversation."""
        talk = Conversation(query, self.toolbox, self.max_steps, self.max_repeats, list(self.history))
        try:
            while talk.ended is None:
                self._step(talk, show)
        except KeyboardInterrupt:
            talk.ended = "stopped"
        if talk.ended in ENDS:
            show(f"\n({ENDS[talk.ended]})")
        show("\n")
        if talk.answer is not None:
            self.history += [
                {"role": "user", "content": query},
                {"role": "assistant", "content": talk.reply},
            ]
        if self.trace is not None:
            with self.trace.open("a", encoding="utf-8") as file:
                file.write(json.dumps(talk.trace(), ensure_ascii=False) + "\n")
        return talk

    def _step(self, talk: Conversation, show: Show) -> None:
        """Shows what the model writes next, takes it, and shows what came of it."""
        drawn = len(self.interpreter.pictures) if self.interpreter else 0
        said = []
        show("Thought:" if talk.turns else "")
        for piece in self.model.stream(talk.messages, talk.reply):
            said.append(piece)
            show(printable(piece))
        talk.accept("".join(said))
        turn = talk.turns[-1]
        if turn.invented is not None:
            show("\n  (the model wrote a result itself; the tool's own follows)")
        if turn.observation is None:
            return
        lines = turn.observation.splitlines() or [""]
        show(("" if "".join(said).endswith("\n") else "\n") + "Observation:\n")
        show("".join(f"  │ {printable(line)}\n" for line in lines))
        for path in self.interpreter.pictures[drawn:] if self.interpreter else []:
            show(f"  picture: {path}\n")


def printable(text: str) -> str:
    """Text without the characters that a terminal obeys; newline and tab stay."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def talk(session: Session, source: TextIO, target: TextIO) -> None:
    """Reads questions from `source` until it ends or /quit; writes to `target`."""

    def show(text: str) -> None:
        target.write(text)
        target.flush()

    interactive = source.isatty()
    if interactive:
        show(HELP + "\n")
    while True:
        try:
            show("\n> " if interactive else "")
            line = source.readline()
            if not line or not obey(session, line.strip(), show):
                return
        except KeyboardInterrupt:  # at the prompt: a fresh line, as shells do
            show("\n")


def obey(session: Session, line: str, show: Show) -> bool:
    """Does what a line says; False ends the talk. What a person can mend is shown, not raised."""
    command, _, rest = line.partition(" ")
    try:
        if command in ("/quit", "/exit"):
            return False
        if command == "/help":
            show(HELP + "\n")
        elif command == "/tools":
            show("".join(f"{_about(tool.declaration)}\n" for tool in session.toolbox.tools.values()))
        elif command == "/reset":
            session.history.clear()
            show("(the conversation is empty)\n")
        elif command in ("/put", "/get"):
            show(_move(session.interpreter, command, rest.strip()))
        elif line:
            session.answer(line, show)
    except OpenQwenError as error:
        show(f"{error}\n")
    return True


def _about(declaration: object) -> str:
    """Name and first line of what a tool is for."""
    assert isinstance(declaration, dict)
    name = declaration.get("name_for_model") or declaration["name"]
    use = declaration.get("description_for_model") or declaration.get("description") or ""
    return printable(f"{name}: {use.strip().splitlines()[0] if use.strip() else ''}")


def _move(interpreter: Interpreter | None, command: str, name: str) -> str:
    """A file into the interpreter's folder, or out of it into the folder of the pictures."""
    if interpreter is None:
        raise OpenQwenError("there is no interpreter", fix="start with --interpreter")
    if command == "/put":
        path = Path(name).expanduser()
        try:
            interpreter.kernel.put(path.name, path.read_bytes())
        except OSError as error:
            raise OpenQwenError(f"the file cannot be read: {error}", where=name) from error
        return f"(the interpreter has {path.name})\n"
    return f"({interpreter.fetch(name)})\n"
