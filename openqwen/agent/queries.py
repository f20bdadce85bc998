"""New queries for tools: asked of a model with examples, or a seed's query with another seed's arguments.

Report §3.4 (self-instruct for tool use). The wording of the request and the rule are ours.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwen.chat import react
from openqwen.chat.messages import Message

Item = Mapping[str, Any]
_HAN = re.compile(r"[\u4e00-\u9fff]")
_NUMBERED = re.compile(r"^\s*(?:\d+\s*[.)、:：](?!\d)|[-*•])\s*")
_QUOTED = re.compile(r"^[\"'“‘「](.*)[\"'”’」]$")
_ASK = {
    "en": (
        "An assistant has these tools:\n{tools}\n\nQuestions of its users:\n{examples}\n\nWrite one more question, unlike "
        "those above, {need}. Write the question only.",
        "for which it needs the tool {tool}",
        "for which it needs none of its tools",
    ),
    "zh": (
        "一个助手有这些工具：\n{tools}\n\n用户提过的问题：\n{examples}\n\n请再写一个与上面不同的问题，{need}。只写问题本身。",
        "回答它需要使用工具 {tool}",
        "回答它不需要任何工具",
    ),
}


@dataclass(frozen=True)
class Wanted:
    """What a new query is to be: for one tool (None: for none) of those offered, in a language.

    arguments: what the call must hold, where a rule wrote the query.
    """

    tools: Sequence[Mapping[str, Any]]
    tool: str | None
    lang: str
    examples: Sequence[str]
    arguments: Mapping[str, Any] | None = None

    def request(self) -> list[Message]:
        """The conversation that asks a model for it."""
        asked, with_tool, without = _ASK[self.lang]
        need = without if self.tool is None else with_tool.format(tool=self.tool)
        return [
            {
                "role": "user",
                "content": asked.format(
                    tools="\n".join(f"- {_about(tool)}" for tool in self.tools),
                    examples="\n".join(f"{i}. {text}" for i, text in enumerate(self.examples, 1)),
                    need=need,
                ),
            }
        ]


def _about(tool: Mapping[str, Any]) -> str:
    use = tool.get("description_for_model") or tool.get("description") or ""
    return f"{react.tool_name(tool)}: {use}"


def language(text: str) -> str:
    """ "zh" for a text with Chinese characters, else "en"."""
    return "zh" if _HAN.search(text) else "en"


def read_query(text: str) -> str:
    """The question in a model's reply: its first line, without a number or quotes around it."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = _NUMBERED.sub("", line).strip()
    quoted = _QUOTED.match(line)
    return quoted[1].strip() if quoted else line


def recombine(seeds: Sequence[Item], rng: random.Random) -> tuple[str, Item, Mapping[str, Any]] | None:
    """A seed's query with the arguments of another seed of the same tool and language; that seed; those arguments.

    None where the drawn seed does not quote its arguments, or no other seed has other ones.
    """
    seed = rng.choice(seeds)
    other = rng.choice([s for s in seeds if _place(s) == _place(seed)])
    old, new = seed["gold"]["arguments"], other["gold"]["arguments"]
    if old == new or old.keys() != new.keys():
        return None
    query = seed["query"]
    for number, (name, value) in enumerate(old.items()):
        if query.count(str(value)) != 1 or not str(value):
            return None
        query = query.replace(str(value), f"\0{number}\0")  # first all out, then all in: one may hold another
        if not isinstance(new[name], (str, int, float)):
            return None
    for number, name in enumerate(old):
        query = query.replace(f"\0{number}\0", str(new[name]))
    return query, seed, new


def _place(seed: Item) -> tuple[str, str]:
    return str(seed["gold"]["name"]), language(seed["query"])


def with_arguments(seeds: Sequence[Item]) -> list[Item]:
    """The seeds that call a tool; arguments as an object."""
    found: list[Item] = []
    for seed in seeds:
        if seed.get("gold"):
            arguments = seed["gold"]["arguments"]
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
            found.append({**seed, "gold": {**seed["gold"], "arguments": arguments}})
    return found
