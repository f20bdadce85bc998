"""A tool world for tests: two tools, questions that need one or none, and scripted models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from openqwen.agent import tools
from openqwen.chat import react


def add(a: int, b: int) -> int:
    """Adds two whole numbers."""
    return a + b


def weather(city: str, unit: str = "celsius") -> str:
    """Tells the weather."""
    return f"sun in {city}, {unit}"


def make_items(count: int = 8) -> list[dict[str, Any]]:
    declarations = [dict(tools.from_function(f).declaration) for f in (add, weather)]
    items: list[dict[str, Any]] = []
    for i in range(count):
        if i % 4 == 3:
            gold, steps, final = None, [], f"Hello {i}."
        else:
            gold = {"name": "add", "arguments": {"a": i, "b": 2}}
            steps = [
                {
                    "thought": "I add.",
                    "action": "add",
                    "action_input": gold["arguments"],
                    "observation": str(i + 2),
                }
            ]
            final = f"It is {i + 2}."
        items.append(
            {"id": f"t{i}", "lang": "en", "query": f"question {i}", "tools": declarations, "gold": gold,
             "steps": steps, "final": final}
        )  # fmt: skip
    return items


class Script:
    """A model that answers from a function of (user turn, reply so far)."""

    def __init__(self, speak: Callable[[str, str], str]) -> None:
        self.speak = speak
        self.asked: list[tuple[str, str]] = []

    def complete(self, requests: Sequence[tuple[list[react.Message], str]]) -> list[str]:
        self.asked += [(messages[-1]["content"], reply) for messages, reply in requests]
        return [self.speak(messages[-1]["content"], reply) for messages, reply in requests]


def perfect(items: Sequence[dict[str, Any]]) -> Script:
    """Writes each recorded reply up to the stop string, as a greedy model trained to the end would."""
    known = {m[0]["content"]: m[1]["content"] for m in map(react.training_messages, items)}

    def speak(user: str, reply: str) -> str:
        assert known[user].startswith(reply), "inference left the trained text"
        return known[user][len(reply) :].split("Observation:")[0]

    return Script(speak)
