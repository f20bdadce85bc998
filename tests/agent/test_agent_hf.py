"""Table 9: a perfect agent scores 100 in both modes, a bad one 0, and the parts of a score are the benchmark's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from agent_world import Script

from openqwen.agent import hf_agent
from openqwen.agent.hf_problems import TOOLS, Problem, chat_problems, read_problems, run_problems
from openqwen.core.errors import DataError
from openqwen.sandbox import Kernel, Limits, backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


def perfect(problems: Sequence[Problem]) -> Script:
    known = {problem.turns[number] if number else hf_agent.prompt(problem): (problem, number)
             for problem in problems for number in range(len(problem.turns))}  # fmt: skip

    def speak(user: str, reply: str) -> str:
        problem, number = known[user]
        tools = ", ".join(f"`{tool}`" for tool in problem.tools[number])
        return f"I will use {tools}.\n```py\nresult = {shortest(problem, number)}\nprint(result)\n```"

    return Script(speak)


def shortest(problem: Problem, number: int) -> str:
    """This turn's answer, from the result of the turn before where there is one."""
    answer = problem.answers[number][0]
    return answer.replace(problem.answers[number - 1][0], "result") if number else answer


def scores(model: Script, problems: Sequence[Problem]) -> dict[str, float]:
    found = hf_agent.summarise(hf_agent.play(model, problems, Limits()))
    return {name: sum(values) / len(values) for name, values in found.items()}


@needs_sandbox
@pytest.mark.parametrize("mode", [run_problems, chat_problems])
def test_a_perfect_agent_scores_100_and_a_bad_one_0(mode: object) -> None:
    problems = mode()  # type: ignore[operator]
    problems = problems[::2] if mode is run_problems else problems  # one wording of each
    assert scores(perfect(problems), problems) == {"tool_selection": 1, "tool_used": 1, "code": 1}
    every = ", ".join(TOOLS)
    bad = Script(lambda user, reply: f"I use {every}.\n```py\nresult = unknown({every})\n```")
    assert scores(bad, problems) == {"tool_selection": 0, "tool_used": 0, "code": 0}


def test_problems_use_known_tools_and_read_as_tasks() -> None:
    problems = [*run_problems(), *chat_problems()]
    assert len(run_problems()) == 22 and len({p.id for p in problems}) == len(problems)
    assert {tool for p in problems for turn in p.tools for tool in turn} >= TOOLS.keys() - {"text_qa"}
    for problem in problems:
        assert len(problem.turns) == len(problem.tools) == len(problem.answers)
        assert all(f"`{name}`" in " ".join(problem.turns) for name in problem.inputs)


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "score"),
    [
        ("text_reader(image_captioner(image))", 1.0),
        ("print(text_reader(image_captioner(image)))", 1.0),
        ("x = image_captioner(image)\ny = text_reader(x)", 1.0),
        ("y = text_reader(image_captioner(image))\nz = 1", 0.75),
        ("y = image_captioner(image)", 0.3),
        ("y = image_captioner('no picture')", 0.0),
        ("def f(:", 0.0),
        ("", 0.0),
        ("image = image_captioner = 1", 0.3),
        ("import json; json.dumps = None", 0.0),  # the interpreter itself is lost
        ("str = None", 0.3),
    ],
)
def test_code_is_scored_by_what_comes_of_it(code: str, score: float) -> None:
    [problem] = [p for p in run_problems() if p.id == "run-1-0"]
    model = Script(lambda user, reply: f"x\n```py\n{code}\n```")
    [record] = hf_agent.play(model, [problem], Limits())
    assert record["code"] == score


def test_tools_are_counted_by_name() -> None:
    assert hf_agent.split("Use `summarizer`.\n```python\nx = 1\n```\nbye") == ("Use `summarizer`.\n", "x = 1")
    assert hf_agent.split("no code") == ("no code", "")
    assert hf_agent.names_in("summarizer(text_reader_x, 'translator')") == {"summarizer"}
    assert (
        hf_agent.tool_score({"a", "b"}, {"a", "b"}) == 1
        and hf_agent.tool_score({"a", "c"}, {"a", "b"}) == 0.5
    )
    assert hf_agent.tool_score(set(), {"a"}) == 0


@pytest.mark.shared
@needs_sandbox
def test_the_published_form_is_read(shared: Path) -> None:
    problems = read_problems(shared / "data" / "eval" / "hf_agent" / "tasks.jsonl")
    assert len(problems) == 16
    assert scores(perfect(problems[::3]), problems[::3]) == {"tool_selection": 1, "tool_used": 1, "code": 1}


def test_what_is_no_problem_is_located(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    good = {"task": "x", "tools": ["summarizer"], "inputs": ["text"], "answer_expr": ["summarizer(text)"]}
    for record, said in (({**good, "tools": ["oven"]}, "oven"), ({"task": "x"}, "answer_expr")):
        file.write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
        with pytest.raises(DataError, match=said) as error:
            read_problems(file)
        assert "record 2" in str(error.value)


@needs_sandbox
def test_the_prelude_makes_tools_that_tell_their_story() -> None:
    from openqwen.agent.hf_problems import prelude

    with Kernel() as kernel:
        kernel.run(prelude())
        told = kernel.run("text_reader(summarizer('x'))").text
        assert "a sound by text_reader" in told and "a text by summarizer of text=x" in told
        assert "needs image" in str(kernel.run("image_captioner('x')").error)
