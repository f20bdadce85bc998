"""What lm-evaluation-harness asked and how it scored the same answers, recorded by record_harness.py, is what ours does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openqwen import sandbox
from openqwen.evals import algebra, code, formulas, harness, sets
from openqwen.evals.harness import Subject, evaluate
from openqwen.evals.languages import SEAM
from openqwen.evals.task import Item, shots_for
from openqwen.evals.tasks import TASKS, bbh, mbpp
from openqwen.tokenizer import Tokenizer

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
RECORDED = json.loads((Path(__file__).parent / "recorded_harness.json").read_text(encoding="utf-8"))
NAMES = [f"{made['task']}-{i}" for i, made in enumerate(RECORDED["tasks"])]


class Replay:
    """Gives the recorded answer to each recorded prompt; KeyError for any other."""

    def __init__(self, made: dict[str, Any]) -> None:
        questions = made["questions"]
        self.said: dict[str, list[tuple[dict[str, Any], str]]] = {}
        for q in questions:
            if "context" in q:
                self.said.setdefault(made["start"] + q["context"], []).append((q["settings"], q["said"]))
        self.values = {before + after: v for q in questions for before, after, v in q.get("pairs", ())}

    def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Any]:
        done = []
        for prompt in prompts:
            settings, text = self.said[TOKENIZER.decode(prompt)].pop(0)
            assert list(sampling.stop) == settings["until"]
            assert sampling.max_tokens == settings.get("max_gen_toks", 256)
            done.append(SimpleNamespace(text=text, finish_reason="stop"))
        return done

    def loglikelihood(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        return [(self.values[TOKENIZER.decode(before + after)], False) for before, after in pairs]


def items_of(made: dict[str, Any]) -> tuple[list[Item], list[Item]]:
    """(examples, questions) as our readers make them of the recorded rows."""
    task = TASKS[made["task"]]
    rows = [(row, "dev") for row in made["examples"]] + [(q["row"], "test") for q in made["questions"]]
    items: list[Item] = []
    for number, (row, split) in enumerate(rows):
        found = task.parse(row, f"rows.jsonl:{number}")
        items += [
            {**item, "id": f"{number}/{i}", "split": split}
            for i, item in enumerate(found if isinstance(found, list) else [found])
        ]
    items = task.join(items) if task.join else items
    return [i for i in items if i["split"] == "dev"], [i for i in items if i["split"] == "test"]


@pytest.mark.parametrize("made", RECORDED["tasks"], ids=NAMES)
def test_equal_prompts_and_scores(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole runner. Without a sandbox, or what algebra needs, the recorded verdicts stand in for them."""
    questions = made["questions"]
    programs: list[str] = []
    decide = code.passes

    def passes(found: Sequence[str], language: str) -> list[bool]:
        programs.extend(found)
        return decide(found, 10, language) if sandbox.backend() else [bool(q["right"]) for q in questions]

    monkeypatch.setattr(code, "passes", passes)
    monkeypatch.setattr(harness, "obstacle", lambda subject, ask: None)
    if find_spec("antlr4") is None:
        known = {tuple(q["forms"]): bool(q["right"]) for q in questions if "forms" in q}
        monkeypatch.setattr(algebra, "same", lambda a, b: known[a, b])
    dev, items = items_of(made)
    subject = Subject("m", "base", Replay(made), TOKENIZER, "w", 100_000)
    found = evaluate(
        subject, TASKS[made["task"]], [*dev, *items], made["shots"], limit=999, protocol="harness"
    )
    assert found is not None
    wrong = [(q, r) for q, r in zip(questions, found.records, strict=True) if float(r["right"]) != q["right"]]
    assert not wrong, wrong[0]
    assert found.cell["value"] == pytest.approx(100 * sum(q["right"] for q in questions) / len(questions))
    for text, question in zip(programs, questions):
        assert lines(text) == lines(question["program"])


def lines(program: str) -> list[str]:
    """A program's lines without ours that divides it from its tests."""
    return [line for line in program.splitlines() if line and line != SEAM]


def test_minerva_forms() -> None:
    (made,) = [made for made in RECORDED["tasks"] if made["task"] == "math"]
    for question, item in zip(made["questions"], items_of(made)[1], strict=True):
        ours = [formulas.minerva_answer(question["said"]), formulas.minerva_form(item["answer"])]
        assert ours == question["forms"]


def test_recorded_answers_are_right_and_wrong() -> None:
    """So that a judge that always says the same is seen."""
    for name in ("agieval", "math", "bbh", "humaneval", "mbpp", "cmmlu"):
        rights = {q["right"] for made in RECORDED["tasks"] if made["task"] == name for q in made["questions"]}
        assert rights == {0.0, 1.0}, name


def test_a_planted_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = [made for made in RECORDED["tasks"] if made["task"] == "bbh"]
    monkeypatch.setattr(bbh, "worked", lambda item: "So the answer is.")
    with pytest.raises(KeyError):
        test_equal_prompts_and_scores(made, monkeypatch)


@pytest.mark.shared
def test_the_published_prompts_of_bbh_make_the_harness_prompts(shared: Path) -> None:
    loaded = sets.load(TASKS["bbh"], shared / "data" / "eval").items
    dev = [item for item in loaded if item["split"] == "dev"]
    ask = TASKS["bbh"].ask("base", "harness")
    hashes = {}
    for task in RECORDED["bbh"]:
        item = {**next(i for i in loaded if i["task"] == task and i["split"] == "test"), "question": "Q?"}
        text = ask.text(item, shots_for(item, dev, 3))
        hashes[task] = hashlib.sha256(text.encode()).hexdigest()
    assert len(hashes) == 27 and hashes == RECORDED["bbh"]


@pytest.mark.shared
def test_the_published_examples_of_mbpp_are_its_tasks_2_3_and_4(shared: Path) -> None:
    loaded = sets.load(TASKS["mbpp"], shared / "data" / "eval").items
    dev = [item for item in loaded if item["split"] == "dev"]
    assert [item["id"] for item in dev] == ["2", "3", "4"]
    assert mbpp.harness_answer(dev[0]).count("\r\n") == 2
