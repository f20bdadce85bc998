"""The code interpreter inside the ReAct loop: code in, output, errors and pictures out."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agent_world import Script

from openqwen.agent.interpreter import NAME, Interpreter
from openqwen.agent.loop import Conversation, run
from openqwen.agent.tools import CallError, Toolbox, read_arguments
from openqwen.chat import react
from openqwen.sandbox import Cell, Kernel, Limits, backend
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


@needs_sandbox
def test_a_cell_that_waits_while_it_is_closed_starts_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        with Interpreter(Kernel(Limits(seconds=20)), tmp_path) as interpreter:
            running = pool.submit(interpreter.run, "while True: pass")
            while not interpreter._one.locked():
                time.sleep(0.01)
            waiting = pool.submit(interpreter.run, "1 + 1")
            time.sleep(0.2)
        assert isinstance(running.exception(), CallError)
        with pytest.raises(CallError, match="has ended"):
            waiting.result()
    assert interpreter.kernel._process.poll() is not None


def test_pictures_of_two_cells_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def slowly(path: Path, data: bytes) -> int:
        time.sleep(0.2)
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", slowly)
    kernel: Any = SimpleNamespace(run=lambda code: Cell("", pictures=(code.encode(),)), kill=lambda: None)
    interpreter = Interpreter(kernel, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(interpreter.run, ["one", "two"]))
    assert sorted(seen) == ["picture: picture_1.png", "picture: picture_2.png"]
    assert sorted(path.read_text() for path in interpreter.pictures) == ["one", "two"]
