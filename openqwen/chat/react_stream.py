"""A ReAct reply read while it is written: content, thought and calls as soon as no later text can change them.

Report §3.4 (the format, react.py). Ours: what OpenAI's API tells apart. Text without labels is content. A thought
before a call is content too, as the released server has it and as clients send it back; before a final answer it is
a thought, and the answer is the content. What was no call after all is content, word for word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from openqwen.chat.react import LABEL, LABELS, drop_partial_stop

_END = re.compile(r"(?m)^(Observation):")


@dataclass(frozen=True)
class Piece:
    """Some text of one kind; "name" begins a call, and what "arguments" hold belongs to the last one begun."""

    kind: Literal["content", "thought", "name", "arguments"]
    text: str


class ReplyStream:
    """Turns text into pieces: the same, joined, however the text is cut. White space around labels is left out.

    opened: the reply goes on after "Thought:". most: calls that count; None: any number in a row. A reply ends
    (`ended`) where an observation begins, or anything else than a further call after a call: it was written
    without knowing what the tool answers.
    """

    def __init__(self, opened: bool = False, most: int | None = None) -> None:
        self.ended, self.calls = False, 0
        self._most = most
        self._state: Literal["text", "thought", "action", "input", "final"] = "thought" if opened else "text"
        self._held = ""  # may still be white space before a label, or the beginning of one
        self._line = not opened  # whether a line begins where `_held` does
        self._thought = self._action = ""
        self._gap = ""  # white space between content and what may become more of it
        self._spoken = self._begun = (
            False  # whether there is content; whether the arguments or answer have begun
        )
        self._pieces: list[Piece] = []

    def push(self, text: str) -> list[Piece]:
        """The pieces that became certain with some more text."""
        self._held += text
        while not self.ended and (label := self._label()):
            body, self._held, self._line = self._held[: label.start()], self._held[label.end() :], False
            self._take(body.rstrip() if self._state != "thought" and self._state != "action" else body)
            if self._state == "text":
                self._gap = body[len(body.rstrip()) :]
            self._turn(label[1])
        if self.ended:
            self._held = ""
        elif certain := self._certain():
            body, self._held, self._line = self._held[:certain], self._held[certain:], False
            self._take(body)
        return self._out()

    def finish(self) -> list[Piece]:
        """What was held back, when no further text will come."""
        held, self._held = self._held, ""
        if not self.ended:
            if self._state == "input":
                held = drop_partial_stop(held)
            self._take(held.rstrip() if self._state in ("input", "final") else held)
            self._rest()
        return self._out()

    def _label(self) -> re.Match[str] | None:
        pattern = _END if self._state == "final" else LABEL
        return pattern.search(self._held, 0 if self._line else 1)

    def _certain(self) -> int:
        """How many of the held characters are neither white space at the end nor a label's beginning."""
        line = self._held.rfind("\n") + 1
        names = ("Observation:",) if self._state == "final" else LABELS
        begins = (line or self._line) and any(name.startswith(self._held[line:]) for name in names)
        return len((self._held[:line] if begins else self._held).rstrip())

    def _take(self, text: str) -> None:
        if self._state == "thought":
            self._thought += text
        elif self._state == "action":
            self._action += text
        elif self._state == "text":
            self._say(text)
        else:
            text = text if self._begun else text.lstrip()
            self._begun = self._begun or bool(text)
            if self._state == "input" and text:
                self._pieces.append(Piece("arguments", text))
            elif self._state == "final":
                self._say(text)

    def _turn(self, label: str) -> None:
        """Goes on behind a label."""
        if self._state == "action" and label == "Action Input" and self._action.strip():
            self._call()
            return
        if self.calls and (self._state == "action" or label != "Action"):
            self.ended = True
            return
        self._no_call()
        if label == "Observation" or (label == "Action" and self.calls == self._most):
            self._rest()
            self.ended = True
        elif label == "Action":
            self._state = "action"
        elif label == "Final Answer":
            if thought := self._thought.strip():
                self._pieces.append(Piece("thought", thought))
            self._thought, self._state, self._begun = "", "final", False
        elif self._state == "text" and label == "Thought":
            self._state = "thought"
        elif self._state == "text":
            self._say(f"{label}:")
        else:
            self._thought += f"{label}:"

    def _call(self) -> None:
        self._say(self._thought.strip())
        self._pieces.append(Piece("name", self._action.strip()))
        self.calls += 1
        self._thought = self._action = ""
        self._state, self._begun = "input", False

    def _no_call(self) -> None:
        """An Action without an Action Input is part of the thought."""
        if self._state == "action":
            self._thought += f"Action:{self._action}"
            self._action, self._state = "", "thought"

    def _rest(self) -> None:
        """A thought after which there is no call and no answer."""
        self._no_call()
        if not self.calls:
            self._say(self._thought.strip())

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Piece("content", (self._gap if self._spoken else "") + text))
            self._gap, self._spoken = "", True

    def _out(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces
