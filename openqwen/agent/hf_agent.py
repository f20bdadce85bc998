"""Scores of Table 9: an agent that answers by Python code over tools, once (run) or turn by turn (chat).

Report §3.4, Table 9; the scoring is the benchmark's: for the tools named in the explanation, and for those in the code,
0.25 is lost for each that is missing or too many; code counts 1 for the right result, 0.75 if a variable holds it,
0.3 if it only runs. The wording of the prompt is ours, and the code runs in the sandbox.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from openqwen.agent.hf_problems import TOOLS, Problem, prelude
from openqwen.agent.loop import Model, Refusal
from openqwen.chat import react
from openqwen.sandbox import Kernel, Limits

_FENCE = re.compile(r"```(?:py|python)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_PROMPT = """You solve tasks by writing Python code. You can call these functions:
{tools}

First say in one sentence which functions you will use. Then write the code between ```py and ```. Keep what was asked
for in a variable called result; later code can use all variables of earlier code.

Variables you have: {inputs}
Task: {task}"""
RIGHT, IN_STATE, RUNS = 1.0, 0.75, 0.3


def prompt(problem: Problem) -> str:
    """The first request: tools, variables, task."""
    tools = "\n".join(
        f"- {name}({', '.join(parameters)}): {use}" for name, (parameters, use, _) in TOOLS.items()
    )
    return _PROMPT.format(tools=tools, inputs=", ".join(problem.inputs), task=problem.turns[0])


def play(model: Model, problems: Sequence[Problem], limits: Limits) -> list[dict[str, Any]]:
    """One record a turn, with the three scores. All problems of one number of turns so far go together."""
    talks: list[list[react.Message]] = [[] for _ in problems]
    for number in range(max(len(problem.turns) for problem in problems)):
        going = [i for i, problem in enumerate(problems) if number < len(problem.turns)]
        for i in going:
            asked = prompt(problems[i]) if number == 0 else problems[i].turns[number]
            talks[i].append({"role": "user", "content": asked})
        requests: list[tuple[list[react.Message], str]] = [([dict(m) for m in talks[i]], "") for i in going]
        for i, text in zip(going, model.complete(requests), strict=True):
            said = "" if isinstance(text, Refusal) else text  # a talk that is refused scores 0
            talks[i].append({"role": "assistant", "content": said})
    records = []
    for problem, talk in zip(problems, talks, strict=True):
        with Kernel(limits) as kernel:
            kernel.run(prelude())
            kernel.run("\n".join(f"{name} = {value!r}" for name, value in problem.inputs.items()))
            # before any of the agent's code, which may change variables and functions
            right = [_values(kernel, f"[{', '.join(answers)}]") for answers in problem.answers]
            for number, reply in enumerate(message["content"] for message in talk[1::2]):
                scores = judge(reply, problem.tools[number], right[number], kernel)
                records.append({"id": f"{problem.id}-{number}", "reply": reply, **scores})
    return records


def judge(reply: str, needed: Sequence[str], right: Sequence[str], kernel: Kernel) -> dict[str, float]:
    """The three scores of one reply; its code is run in `kernel`, which keeps the variables of earlier turns."""
    explanation, code = split(reply)
    named = {name for name in TOOLS if re.search(rf"\b{name}\b", explanation)}
    return {
        "tool_selection": tool_score(named, needed),
        "tool_used": tool_score(names_in(code), needed),
        "code": code_score(code, right, kernel),
    }


def split(reply: str) -> tuple[str, str]:
    """(explanation, code) of a reply; without a fence all of it is explanation."""
    found = _FENCE.search(reply)
    return (reply[: found.start()], found[1].rstrip()) if found else (reply, "")


def tool_score(used: Collection[str], needed: Collection[str]) -> float:
    """1, less 0.25 for each tool that is missing or too many. Without any tool it is 0."""
    wrong = len(set(used) ^ set(needed))
    return max(0.0, 1.0 - 0.25 * wrong) if used else 0.0


def names_in(code: str) -> set[str]:
    """The tools that code names; of code that cannot be parsed none."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & TOOLS.keys()


def code_score(code: str, right: Sequence[str], kernel: Kernel) -> float:
    """1: the last thing that was computed is an answer. 0.75: a variable is one. 0.3: it ran. Else 0."""
    if not code or kernel.run(code).error is not None:
        return 0.0
    if set(_values(kernel, f"[{last_value(code)}]")) & set(right):
        return RIGHT
    state = _values(
        kernel, "[v for k, v in globals().items() if not k.startswith('_') and isinstance(v, str)]"
    )
    return IN_STATE if set(state) & set(right) else RUNS


def last_value(code: str) -> str:
    """The expression whose value is a program's result: its last assigned variable, or its last expression."""
    last = ast.parse(code).body[-1:]  # it has run, so it can be parsed
    if last and isinstance(last[0], ast.Assign) and isinstance(last[0].targets[-1], ast.Name):
        return last[0].targets[-1].id
    if last and isinstance(last[0], ast.Expr):
        value = last[0].value
        printed = (
            isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"
        )
        if printed and isinstance(value, ast.Call) and value.args:
            value = value.args[0]
        return f"({ast.unparse(value)})"
    return "globals().get('result')"


def _values(kernel: Kernel, expression: str) -> list[str]:
    """The values of a list of expressions as text; none where the code broke even this."""
    cell = kernel.run(f"import json\nprint(json.dumps([str(v) for v in {expression}]))")
    try:
        return [str(value) for value in json.loads(cell.text.splitlines()[-1])]
    except (ValueError, IndexError):
        return []


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The scores by name, one for each turn."""
    return {name: [r[name] for r in records] for name in ("tool_selection", "tool_used", "code")}
