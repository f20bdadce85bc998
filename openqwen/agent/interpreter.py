"""The code interpreter as a tool: report §3.4, §A.3 (Tables 7 and 8).

The declaration is Qwen's own form of a tool that takes code; that the interpreter lives in the sandbox, and that
pictures become files of a folder, is ours.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from openqwen.agent.tools import CallError, Tool, ended_by, was_stopped
from openqwen.sandbox import Cell, Kernel, Limits
from openqwen.sandbox.run import required

NAME = "code_interpreter"
LOST = "(a cell was stopped: the interpreter was started anew before this one, its variables are gone)"
DECLARATION: dict[str, Any] = {
    "name_for_human": "Code Interpreter",
    "name_for_model": NAME,
    "description_for_model": "Runs Python code and keeps its variables. Print what you want to see.",
    "parameters": [{"name": "code", "description": "", "required": True, "schema": {"type": "string"}}],
    "args_format": "code",
}


def start(limits: Limits, folder: Path) -> Interpreter:
    """An interpreter of its own, with pictures below `folder`; NoSandbox (exit code 78) where none is proven."""
    return Interpreter(Kernel(limits), folder)


def check() -> None:
    """NoSandbox (exit code 78) where no interpreter could be started; it says what to install."""
    required()


class Interpreter:
    """One conversation's interpreter; its pictures are written below `folder`. Use as a context manager.

    A cell's time limit is `Limits.seconds` alone: the toolbox waits until the interpreter has kept it.
    """

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self.kernel, self.folder = kernel, folder
        self.pictures: list[Path] = []
        self.figures: list[dict[str, Any]] = []  # what the pictures show, as data
        self._lost = False  # variables are gone, and nobody was told
        self._one = threading.Lock()  # the next cell waits until a stopped one has its fresh interpreter
        self._closed = False  # a cell that still waits would start an interpreter that nobody ends

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.kernel.kill()
        with self._one:
            self.kernel.close()

    @property
    def tool(self) -> Tool:
        """The interpreter as the model sees it: arguments are code, not JSON."""
        return Tool(DECLARATION, self.run, self.kernel.patience)

    def run(self, code: str) -> str:
        """What a cell printed, where its pictures lie and which files it made. CallError: what it raised."""
        with self._one:
            if self._closed:
                raise CallError("the interpreter has ended")
            with ended_by(self.kernel.kill):
                cell = self.kernel.run(code)
            if was_stopped():
                self._lost = self._lost or cell.restarted
                raise CallError("the cell was stopped")
            lost, self._lost = LOST if self._lost else "", False
            self.figures += cell.figures
            traces = self._traces(cell)
        report = "\n".join(part for part in (lost, cell.text.rstrip(), *traces) if part)
        if cell.error is not None:
            raise CallError("\n".join(part for part in (report, cell.error.rstrip()) if part))
        return report or "(no output)"

    def fetch(self, name: str) -> Path:
        """Copies a file of the conversation's folder into `folder`; DataError where it cannot come out."""
        with self._one:
            data = self.kernel.get(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / Path(name).name
        path.write_bytes(data)
        return path

    def _traces(self, cell: Cell) -> list[str]:
        lines = [f"({cell.left_out} more bytes of output)"] if cell.left_out else []
        self.folder.mkdir(parents=True, exist_ok=True)
        for picture in cell.pictures:
            path = self.folder / f"picture_{len(self.pictures) + 1}.png"
            path.write_bytes(picture)
            self.pictures.append(path)
            lines.append(f"picture: {path.name}")
        return lines + [f"file: {name}" for name in cell.files]
