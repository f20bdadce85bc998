"""The code interpreter inside the ReAct loop: code in, output, errors and pictures out."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_world import Script

from openqwen.agent.interpreter import NAME, Interpreter
from openqwen.agent.loop import Conversation, run
from openqwen.agent.tools import Toolbox, read_arguments
from openqwen.chat import react
from openqwen.sandbox import Kernel, Limits, backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


@pytest.mark.parametrize(
    "written",
    ["```py\nx = 1\n```", "```\nx = 1\n```", "x = 1", "```python\nx = 1", '{"code": "x = 1"}'],
)
def test_code_is_read_in_and_out_of_a_fence(written: str) -> None:
    declaration = {
        "parameters": [{"name": "code", "required": True, "type": "string"}],
        "args_format": "code",
    }
    assert read_arguments(written, declaration) == {"code": "x = 1"}


@needs_sandbox
def test_a_conversation_computes_mends_and_answers(tmp_path: Path) -> None:
    steps = iter(
        [
            f"Thought: I compute.\nAction: {NAME}\nAction Input: ```py\nx = 6 * 7\nprint(y)\n```\n",
            f" I mend it.\nAction: {NAME}\nAction Input: ```py\nprint(x)\n```\n",
            " I now know the final answer.\nFinal Answer: 42",
        ]
    )
    with Interpreter(Kernel(Limits(seconds=5)), tmp_path) as interpreter:
        talk = Conversation("six times seven?", Toolbox([interpreter.tool], seconds=6))
        run(Script(lambda user, reply: next(steps)), [talk])
    assert talk.answer == "42" and talk.ended == "answered"
    assert "NameError" in str(talk.turns[0].error) and "NameError" in str(talk.turns[0].observation)
    assert (talk.turns[1].observation, talk.turns[1].error) == ("42", None)
    assert "Enclose the code within triple backticks" in react.describe_tool(interpreter.tool.declaration)


@needs_sandbox
def test_pictures_and_files_are_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with Interpreter(Kernel(Limits(seconds=30)), tmp_path) as interpreter:
        code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n_ = open('a.txt', 'w').write('a')"
        seen = interpreter.run(code)
    assert seen.endswith("picture: picture_1.png\nfile: a.txt")
    assert (tmp_path / "picture_1.png").read_bytes().startswith(b"\x89PNG")
