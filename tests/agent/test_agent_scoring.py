"""Table 6's scores: equal to the released scorer, 100 for a perfect model, 0 for a bad one."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from agent_world import Script, make_items, perfect
from hypothesis import given
from hypothesis import strategies as st

from openqwen.agent import scoring, stage
from openqwen.agent.config import AgentEvalConfig
from openqwen.chat import react
from openqwen.tokenizer import load_tokenizer

CONFIG = AgentEvalConfig()


@pytest.mark.shared
def test_equal_to_the_released_scorer(shared: Path) -> None:
    tokenize = scoring.words_of(load_tokenizer(shared / "vocab" / "qwen.tiktoken"))
    cases = json.loads(
        (shared / "oracle" / "eval" / "plugin_scoring_oracle.json").read_text(encoding="utf-8")
    )
    assert cases
    for case in cases:
        gold, given_ = case["job"]["response"], case["job"]["gen"][0]
        assert scoring.right_tool(gold, given_) == case["action_right"]
        assert scoring.input_score(gold, given_, tokenize) == pytest.approx(case["rougeL"], abs=1e-12)
        assert scoring.calls_tool(given_) == case["counts_as_false_positive"]


def slow_common(a: list[int], b: list[int]) -> int:
    for size in range(len(a), 0, -1):
        for kept in itertools.combinations(a, size):
            rest = iter(b)
            if all(x in rest for x in kept):
                return size
    return 0


@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=7))
def test_longest_common_subsequence(a: list[int], b: list[int]) -> None:
    assert scoring.longest_common(a, b) == slow_common(a, b)


def scores(model: Any, byte_tokenizer: Any) -> dict[str, float]:
    records = stage.play(model, make_items(), CONFIG, scoring.words_of(byte_tokenizer))
    return {name: cell["value"] for name, cell in stage.summarise(records, CONFIG).items()}


def test_a_perfect_model_scores_100(byte_tokenizer: Any) -> None:
    found = scores(perfect(make_items()), byte_tokenizer)
    assert found.pop("false_positive") == 0
    assert found == {"tool_selection": 100, "rouge_l": 100, "same_arguments": 100, "same_answer": 100}


def test_a_bad_model_scores_0(byte_tokenizer: Any) -> None:
    """It calls where it should not and keeps silent where it should call; arguments share no token."""

    def speak(user: str, reply: str) -> str:
        if user.endswith(("question 3", "question 7")) and not reply:
            return react.call_text("x", "add", {"a": 1, "b": 1})
        return " x\nFinal Answer: wrong" if reply else "Thought: x\nAction: weather\nAction Input: ?"

    found = scores(Script(speak), byte_tokenizer)
    assert found.pop("false_positive") == 100
    assert found == {"tool_selection": 0, "rouge_l": 0, "same_arguments": 0, "same_answer": 0}


def test_table_shows_ours_beside_the_published(byte_tokenizer: Any) -> None:
    records = stage.play(perfect(make_items()), make_items(), CONFIG, scoring.words_of(byte_tokenizer))
    table = stage.table(stage.summarise(records, CONFIG), "abc")
    ours = [row for row in table["rows"] if row["origin"] == "ours"]
    assert len(table["rows"]) == 6 and len(ours) == 1
    cell = ours[0]["cells"]["Tool Selection"]
    assert cell["value"] == 100 and cell["chance"] == 50 and cell["low"] < 100 and cell["n"] == 6
    assert cell["manifest"] == "abc"


def test_no_negatives_means_no_false_positive_cell(byte_tokenizer: Any) -> None:
    items = [item for item in make_items() if item["gold"]]
    records = stage.play(perfect(items), items, CONFIG, scoring.words_of(byte_tokenizer))
    cells = stage.summarise(records, CONFIG)
    assert "false_positive" not in cells
    ours = stage.table(cells, "abc")["rows"][-1]
    assert "False Positive Error" not in ours["cells"]


def test_samples_show_one_of_each_kind_first(byte_tokenizer: Any) -> None:
    records = stage.play(perfect(make_items()), make_items(), CONFIG, scoring.words_of(byte_tokenizer))
    picked = stage.pick(records)
    assert [r["id"] for r in picked[:2]] == ["t0", "t3"] and len(picked) == len(records)
    assert stage.sample(picked[0])["label"] == "uses a tool, as recorded"


def test_limit_is_seeded() -> None:
    config = AgentEvalConfig(limit=3)
    chosen = stage.choose(make_items(), config)
    assert len(chosen) == 3 and chosen == stage.choose(make_items(), config)


def test_a_perfect_model_scores_100_on_the_primers_own_questions(byte_tokenizer: Any) -> None:
    from openqwen.data.primer.tasks import Asker
    from openqwen.data.primer.tools import tool_items
    from openqwen.data.primer.world import World

    world, rng = World(1), random.Random(1)
    items = tool_items(world, Asker(world, "heldout", 0.4, rng, True), 40, 0.25, rng)
    items = [{**item, "id": str(i)} for i, item in enumerate(items)]
    records = stage.play(perfect(items), items, CONFIG, scoring.words_of(byte_tokenizer))
    cells = stage.summarise(records, CONFIG)
    assert (
        cells["tool_selection"]["value"] == cells["same_answer"]["value"] == cells["rouge_l"]["value"] == 100
    )
    assert cells["false_positive"]["value"] == 0 and cells["false_positive"]["n"] == 10
    assert 20 < cells["tool_selection"]["chance"] < 50
    assert all(r["trace"]["ended"] == "answered" for r in records)
