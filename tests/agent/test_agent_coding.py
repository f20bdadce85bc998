"""Tables 7 and 8: a perfect agent scores 100 on every kind, a bad one 0, and near misses are misses."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from agent_world import Script

from openqwen.agent import coding
from openqwen.agent.cases import EACH, KINDS, Case, all_cases
from openqwen.agent.interpreter import NAME
from openqwen.chat import react
from openqwen.sandbox import Limits, backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")
LIMITS = Limits(seconds=30)


def by_code(cases: Sequence[Case], final: str | None = None) -> Script:
    """Runs each case's code once and gives its answer, or always the same one."""
    known = {case.query: case for case in cases}

    def speak(user: str, reply: str) -> str:
        case = known[user.rsplit("\n\nQuestion: ", 1)[1]]
        if reply:
            return f" {react.KNOWN}\nFinal Answer: {final or case.final}"
        return react.call_text("I compute.", NAME, f"```py\n{case.code}\n```")

    return Script(speak)


def spread(every: int) -> list[Case]:
    """All sums and work with files, and some charts, each query once."""
    cases = [c for i, c in enumerate(all_cases()) if not c.kind.startswith("visual") or i % every == 0]
    return list({case.query: case for case in cases}.values())


def test_there_are_enough_questions_of_each_kind_in_both_languages() -> None:
    cases = all_cases()
    assert len({case.id for case in cases}) == len(cases) == 4 * EACH >= 100
    assert Counter(case.kind for case in cases) == dict.fromkeys(KINDS, EACH)
    assert Counter(case.lang for case in cases) == {"en": 2 * EACH, "zh": 2 * EACH}
    assert all_cases() == cases
    asked = [c for c in cases if c.number is not None or c.text or c.made or c.figure]
    assert len(asked) == len(cases), "a question without an answer"


@needs_sandbox
def test_a_perfect_agent_is_right_and_a_bad_one_never(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cases = spread(17)
    records = coding.play(by_code(cases), cases, tmp_path / "good", LIMITS, 3)
    assert [r["id"] for r in records if not (r["executable"] and r["correct"])] == []
    broken = [dataclasses.replace(case, code="print(undefined)") for case in cases]
    records = coding.play(by_code(broken, "I do not know."), broken, tmp_path / "bad", LIMITS, 3)
    assert [r["id"] for r in records if r["executable"] or r["correct"]] == []


@pytest.mark.long
@needs_sandbox
def test_every_question_has_a_perfect_answer(tmp_path: Path) -> None:
    for case in all_cases():
        [record] = coding.play(by_code([case]), [case], tmp_path, LIMITS, 3)
        assert record["executable"] and record["correct"], case.id


@needs_sandbox
def test_code_that_never_ran_is_not_executable(tmp_path: Path) -> None:
    [case] = [case for case in all_cases() if case.id == "math-0"]
    silent = Script(lambda user, reply: f"Thought: x\nFinal Answer: {case.final}")
    [record] = coding.play(silent, [case], tmp_path, LIMITS, 3)
    assert not record["executable"] and record["correct"]


AXES = {
    "title": "Stock 2001", "xlabel": "", "ylabel": "count", "legend": ["a", "b"], "xticks": ["x", "y"],
    "texts": [], "lines": [[1.0, 2.0], [3.0, None]], "bars": [[3.0, 4.0]], "points": [[[1.0, 2.0], [0.0, 5.0]]],
    "slices": [0.25, 0.75],
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"title": "stock 2001", "ylabel": "count"}, True),
        ({"title": "Stock"}, False),
        ({"bars": [[3, 4]]}, True),
        ({"bars": [[4, 3]]}, False),
        ({"bars": [[3, 4, 5]]}, False),
        ({"lines": [[1, 2]]}, True),
        ({"lines": [[3, 4]]}, False),
        ({"points": [[[0, 5], [1, 2]]]}, True),
        ({"points": [[[5, 0], [1, 2]]]}, False),
        ({"slices": [0.75, 0.25]}, True),
        ({"slices": [0.5, 0.5]}, False),
        ({"legend": ["a", "b"], "xticks": ["x", "y"]}, True),
        ({"xticks": ["y", "x"]}, False),
        ({"texts": ["a"]}, False),
    ],
)
def test_what_is_drawn_is_judged_by_rules(wanted: dict[str, object], fits: bool) -> None:
    assert coding.shows({"axes": [{}, AXES]}, [wanted]) == fits


def test_each_pair_of_axes_answers_for_one() -> None:
    one = {"title": "Stock 2001"}
    assert not coding.shows({"axes": [AXES]}, [one, one])
    assert coding.shows({"axes": [AXES, dict(AXES)]}, [one, one])
    assert not coding.shows({"axes": ["forged", {"bars": 7}]}, [{"bars": [[1]]}])
