"""The interpreter's half inside the sandbox: runs cells in one namespace and answers each with a line of JSON.

Ours. This file is shown to the sandbox as text and needs nothing of openqwen. Whatever it answers may be forged
by the code it runs, so the other half (kernel.py) bounds and checks every line.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from typing import IO, Any

OUTPUT = "/tmp/.output"
_FOLDER = "/work"
_FONTS = "/tmp/.fonts.conf"
_AXES, _MARKS, _TEXT = 16, 1000, 200  # of a figure told as data


class CellTimeout(BaseException):
    """The cell's time is up. No Exception, so that `except Exception` does not keep it."""


def _alarm(number: int, frame: object) -> None:
    raise CellTimeout


def _show(value: object) -> None:
    if value is not None:
        sys.stdout.write(repr(value) + "\n")


def execute(code: str, names: dict[str, Any], seconds: float) -> str | None:
    """Runs a cell; the value of a last expression is shown. Returns the traceback of what it raised, or None."""
    try:
        tree = ast.parse(code, "<cell>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        signal.setitimer(signal.ITIMER_REAL, seconds)
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            _show(eval(compile(ast.Expression(last.value), "<cell>", "eval"), names))
    except CellTimeout:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # everything here but this process and the sandbox's first
        return f"TimeoutError: the cell ran longer than {seconds:g} s and was stopped"
    except BaseException as error:  # a cell that calls exit() ends itself, not the interpreter
        signal.setitimer(signal.ITIMER_REAL, 0)
        own = error.__traceback__.tb_next if error.__traceback__ else None
        return "".join(traceback.format_exception(type(error), error, own))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def pictures(limit: int, size: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Open matplotlib figures as PNG in base64 and as data, at most `limit` of at most `size` bytes; all are closed."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return [], []
    drawn, figures = [], []
    for number in pyplot.get_fignums()[:limit]:
        image, figure = io.BytesIO(), pyplot.figure(number)
        figure.savefig(image, format="png")
        if image.tell() <= size:
            drawn.append(base64.b64encode(image.getvalue()).decode())
            axes = [describe(one) for one in figure.axes[:_AXES]]
            figures.append({"suptitle": figure.get_suptitle()[:_TEXT], "axes": axes})
    pyplot.close("all")
    return drawn, figures


def describe(axes: Any) -> dict[str, Any]:
    """What is drawn in one pair of axes, as data: texts, lines, bars, points and slices, each cut at a limit."""
    legend = axes.get_legend()
    bars = [c for c in axes.containers if hasattr(c, "orientation") and hasattr(c, "datavalues")]
    points = [c for c in axes.collections if type(c).__name__ == "PathCollection"]
    return {
        "title": axes.get_title()[:_TEXT],
        "xlabel": axes.get_xlabel()[:_TEXT],
        "ylabel": axes.get_ylabel()[:_TEXT],
        "zlabel": axes.get_zlabel()[:_TEXT] if hasattr(axes, "get_zlabel") else "",
        "legend": [text.get_text()[:_TEXT] for text in legend.get_texts()[:_MARKS]] if legend else [],
        "xticks": [label.get_text()[:_TEXT] for label in axes.get_xticklabels()[:_MARKS]],
        "yticks": [label.get_text()[:_TEXT] for label in axes.get_yticklabels()[:_MARKS]],
        "texts": [text.get_text()[:_TEXT] for text in axes.texts[:_MARKS]],
        "lines": [_numbers(line.get_ydata()) for line in axes.get_lines()[:_MARKS]],
        "bars": [_numbers(c.datavalues) for c in bars[:_MARKS]],
        "points": [[_numbers(pair) for pair in c.get_offsets()[:_MARKS]] for c in points[:_AXES]],
        "slices": [(p.theta2 - p.theta1) / 360 for p in axes.patches[:_MARKS] if type(p).__name__ == "Wedge"],
    }


def _numbers(values: Any) -> list[float | None]:
    """Numbers of an array; what is none, or not finite, is None."""
    found: list[float | None] = []
    for value in list(values)[:_MARKS]:
        try:
            found.append(float(value) if float(value) - float(value) == 0 else None)
        except (TypeError, ValueError):
            found.append(None)
    return found


def files() -> dict[str, list[int]]:
    """Size and time of change of the plain files of the folder; links are not followed."""
    found = {}
    with os.scandir(_FOLDER) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                state = entry.stat(follow_symlinks=False)
                found[entry.name] = [state.st_size, state.st_mtime_ns]
    return found


def answer(request: dict[str, Any], names: dict[str, Any], output: IO[bytes]) -> dict[str, Any]:
    """Does one request: run a cell, put a file, get a file."""
    if request["do"] == "put":
        with open(os.path.join(_FOLDER, request["name"]), "wb") as file:
            file.write(base64.b64decode(request["data"]))
        return {}
    if request["do"] == "get":
        path = os.path.join(_FOLDER, request["name"])
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return {"data": base64.b64encode(file.read(request["limit"] + 1)).decode()}
    before = files()
    output.seek(0)
    output.truncate()
    error = execute(request["code"], names, request["seconds"])
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(output.fileno()).st_size
    output.seek(0)
    text = output.read(request["limit"]).decode("utf-8", "replace")
    try:
        drawn, figures = pictures(request["pictures"], request["picture_limit"])
    except Exception as failure:
        drawn, figures, error = [], [], error or f"{type(failure).__name__}: {failure}"
    after = files()
    changed = sorted(name for name, state in after.items() if before.get(name) != state)
    left_out = max(0, size - request["limit"])
    return {
        "text": text,
        "left_out": left_out,
        "error": error,
        "pictures": drawn,
        "figures": figures,
        "files": changed,
    }


def main() -> None:
    """Serves requests until the input ends. Cells print into a file, never into the channel of answers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    output = open(OUTPUT, "w+b")  # noqa: SIM115 - open as long as the interpreter lives
    # O_APPEND, so that what is printed after the file was emptied begins at its beginning.
    writer = os.open(OUTPUT, os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    sys.path.append("/packages")
    with open(
        _FONTS, "w", encoding="utf-8"
    ) as file:  # without one, programs that list fonts complain in the output
        file.write("<fontconfig/>")
    os.environ["FONTCONFIG_FILE"] = _FONTS
    os.environ.update(MPLBACKEND="Agg", MPLCONFIGDIR="/tmp", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    signal.signal(signal.SIGALRM, _alarm)
    names: dict[str, Any] = {"__name__": "__main__"}
    for line in requests:
        try:
            reply = answer(json.loads(line), names, output)
        except CellTimeout:  # the alarm fell between the cell and its end
            reply = {"text": "", "error": "TimeoutError: the cell was stopped"}
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
