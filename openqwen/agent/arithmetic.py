"""Arithmetic with the interpreter and without: the same questions, once with Python at hand, once from the head.

Report §3.4 (a code interpreter helps with calculations). Ours: the questions are recorded ones for a calculator, whose
expressions are run as Python in the sandbox; an answer is right if its last number is the recorded result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.loop import Conversation, Model, run
from openqwen.agent.tools import CallError, Tool, Toolbox, tools_for
from openqwen.chat import react
from openqwen.core.tables import share
from openqwen.sandbox import Kernel, Limits

TOOL = "calculator"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def questions(items: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """The first items whose one call is the calculator's and gave a number."""
    fitting = (
        item
        for item in items
        if item["gold"] is not None
        and item["gold"]["name"] == TOOL
        and last_number(item["steps"][0]["observation"]) is not None
    )
    return [item for item, _ in zip(fitting, range(limit))]


def last_number(text: str | None) -> float | None:
    """The last number in a text. `last_number("7 * 3 = 21.")` -> 21.0"""
    found = _NUMBER.findall((text or "").replace(",", ""))
    return float(found[-1]) if found else None


def evaluate(expression: str, limits: Limits) -> str:
    """The value of a Python expression in a fresh interpreter. CallError: what it raised."""
    with Kernel(limits) as kernel:
        cell = kernel.run(expression)
        if cell.error is not None:
            raise CallError(cell.error.strip().splitlines()[-1])
        return cell.text.strip()


def measure(model: Model, items: Sequence[Mapping[str, Any]], config: AgentEvalConfig) -> dict[str, Any]:
    """Cells `arithmetic_interpreter` and `arithmetic_own` in percent, and what was answered. NoSandbox where none works."""
    limits = config.interpreter

    def with_python(item: Mapping[str, Any]) -> Toolbox:
        tools = [
            Tool(tool.declaration, lambda expression: evaluate(expression, limits), limits.seconds + 30)
            if tool.name == TOOL
            else tool
            for tool in tools_for(item)
        ]
        return Toolbox(tools, config.tool_seconds, config.max_observation)

    talks = {
        "arithmetic_interpreter": [
            Conversation(item["query"], with_python(item), config.max_steps, config.max_repeats)
            for item in items
        ],
        "arithmetic_own": [Conversation(item["query"], Toolbox([]), 1) for item in items],
    }
    cells, records = {}, []
    for name, conversations in talks.items():
        run(model, conversations)
        right = [_right(item, talk) for item, talk in zip(items, conversations, strict=True)]
        cells[name] = share(right)
        for item, talk, good in zip(items, conversations, right, strict=True):
            records.append({"id": item["id"], "how": name, "right": good, "trace": talk.trace()})
    return {"cells": cells, "records": records}


def _right(item: Mapping[str, Any], talk: Conversation) -> bool:
    """Whether the answer's last number is the recorded result; without a call it must be the model's own words."""
    if talk.toolbox.tools and not any(turn.action == TOOL and turn.error is None for turn in talk.turns):
        return False
    return last_number(react.clean(talk.answer or "")) == last_number(item["steps"][0]["observation"])
