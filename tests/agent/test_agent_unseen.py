"""Our own test set of unseen tools: its size, its soundness, and what a perfect and a bad agent score on it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from agent_world import Script, perfect

from openqwen.agent import scoring, stage, tools, unseen
from openqwen.agent.config import AgentEvalConfig
from openqwen.chat import react
from openqwen.data.primer.tools import TOOLS

CONFIG = AgentEvalConfig()


def test_there_are_enough_questions_in_both_languages() -> None:
    items = unseen.items()
    assert items == unseen.items() and len({item["id"] for item in items}) == len(items) == 228
    assert len({item["query"] for item in items}) == len(items)
    needless = [item for item in items if item["gold"] is None]
    assert len(needless) == 60 and Counter(i["lang"] for i in needless) == {"en": 30, "zh": 30}
    assert Counter(i["lang"] for i in items) == {"en": 114, "zh": 114}
    assert not {kind.name for kind in unseen.KINDS} & TOOLS.keys(), (
        "a tool that models of ours are trained on"
    )


def test_every_gold_call_obeys_its_schema_and_is_asked_for() -> None:
    for item in unseen.items():
        assert len(item["tools"]) == 3
        if item["gold"] is None:
            continue
        [declaration] = [t for t in item["tools"] if react.tool_name(t) == item["gold"]["name"]]
        arguments = tools.read_arguments(json.dumps(item["gold"]["arguments"]), declaration)
        assert all(str(value) in item["query"] for value in arguments.values()), item["id"]
        assert not any(slot in item["query"] + item["final"] for slot in "{}"), item["id"]
        result = item["steps"][0]["observation"]
        assert result not in item["query"]


def scores(model: Any, items: list[dict[str, Any]], tokenizer: Any) -> dict[str, float]:
    records = stage.play(model, items, CONFIG, scoring.words_of(tokenizer))
    return {name: cell["value"] for name, cell in stage.summarise(records, CONFIG).items()}


def test_a_perfect_agent_scores_100_and_a_bad_one_0(byte_tokenizer: Any) -> None:
    items = unseen.items()
    right = {"tool_selection": 100, "rouge_l": 100, "same_arguments": 100, "same_answer": 100}
    assert scores(perfect(items), items, byte_tokenizer) == {**right, "false_positive": 0}
    plain = {react.build_prompt(i["query"], i["tools"]) for i in items if i["gold"] is None}

    def speak(user: str, reply: str) -> str:
        if user in plain and not reply:
            return react.call_text("x", "tide_table", {})
        return " x\nFinal Answer: wrong" if reply else "Thought: x\nAction: other\nAction Input: ?"

    wrong = dict.fromkeys(right, 0)
    assert scores(Script(speak), items, byte_tokenizer) == {**wrong, "false_positive": 100}


def test_the_table_says_which_questions_were_asked(byte_tokenizer: Any) -> None:
    items = unseen.items()[:20]
    records = stage.play(perfect(items), items, CONFIG, scoring.words_of(byte_tokenizer))
    table = stage.table(stage.summarise(records, CONFIG), "abc", recorded=False)
    assert "never seen" in table["rows"][-1]["model"] and any(
        "in no training data" in n for n in table["notes"]
    )
