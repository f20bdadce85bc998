"""Scores of Tables 7 and 8: does the code that the model writes run, and is what comes of it right?

Report §3.4, Tables 7 and 8. Executable: code was run, and no cell of the conversation failed. Correct: the answer's last
number or its text, the file that was made, or what was drawn; pictures are judged by rules on the figure, where the
report asks a vision model, so our cells do not compare with its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from openqwen.agent.arithmetic import last_number
from openqwen.agent.cases import Case
from openqwen.agent.config import SetsConfig
from openqwen.agent.interpreter import Interpreter
from openqwen.agent.loop import Conversation, Model, run
from openqwen.agent.tools import Toolbox
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.sandbox import Kernel, Limits

_CLOSE = 1e-6  # relative; what is drawn passes through floats


Opening = tuple[str, str, Mapping[str, bytes]]  # of a conversation: id, query, files


def play(
    model: Model,
    cases: Sequence[Case],
    folder: Path,
    limits: Limits,
    max_steps: int,
    max_repeats: int = 2,
    max_observation: int = 2000,
) -> list[dict[str, Any]]:
    """Each case with an interpreter of its own, all at once; pictures lie below `folder`. NoSandbox where none works."""
    asked = [
        (case.id, case.query, {name: text.encode() for name, text in case.files.items()}) for case in cases
    ]
    with interpreted(model, asked, folder, limits, max_steps, max_repeats, max_observation) as ended:
        return [
            {
                "id": case.id,
                "kind": case.kind,
                "lang": case.lang,
                "executable": executable(talk),
                "correct": correct(case, talk, python),
                "picture": str(python.pictures[-1].relative_to(folder)) if python.pictures else None,
                "trace": talk.trace(),
            }
            for case, (talk, python) in zip(cases, ended, strict=True)
        ]


@contextmanager
def interpreted(
    model: Model,
    asked: Sequence[Opening],
    folder: Path,
    limits: Limits,
    max_steps: int,
    max_repeats: int,
    max_observation: int,
) -> Iterator[list[tuple[Conversation, Interpreter]]]:
    """Each conversation at its end, with its interpreter still open. Pictures lie in FOLDER/ID."""
    with ExitStack() as stack:
        ended = []
        for name, query, files in asked:
            python = stack.enter_context(Interpreter(Kernel(limits), folder / name))
            for file, data in files.items():
                python.kernel.put(file, data)
            box = Toolbox([python.tool], max_observation=max_observation)
            ended.append((Conversation(query, box, max_steps, max_repeats), python))
        run(model, [talk for talk, _ in ended])
        yield ended


def each(
    model: Model, title: str, asked: Sequence[Opening], folder: Path, config: SetsConfig
) -> Iterator[tuple[Conversation, Interpreter]]:
    """The conversations of a published set at their ends, in batches; the interpreters of a batch are open together."""
    with Progress(title, total=len(asked)) as bar:
        for start in range(0, len(asked), config.batch_size):
            part = asked[start : start + config.batch_size]
            with interpreted(
                model,
                part,
                folder,
                config.interpreter,
                config.max_steps,
                config.max_repeats,
                config.max_observation,
            ) as ended:
                yield from ended
            bar.update(start + len(part))


def executable(talk: Conversation) -> bool:
    """Whether code was run and all of it ran without an error."""
    calls = [turn for turn in talk.turns if turn.observation is not None]
    return bool(calls) and all(turn.error is None for turn in calls)


def correct(case: Case, talk: Conversation, python: Interpreter) -> bool:
    """Whether what the case asks for is there."""
    answer = (talk.answer or "").strip()
    if case.number is not None:
        found = last_number(answer)
        return found is not None and math.isclose(found, case.number, rel_tol=_CLOSE, abs_tol=1e-9)
    if case.text is not None:
        return case.text.lower() in answer.lower()
    if case.made:
        return all(_same_file(python.kernel, name, text) for name, text in case.made.items())
    return any(shows(figure, case.figure) for figure in python.figures)


def _same_file(kernel: Kernel, name: str, text: str) -> bool:
    """A file as asked: JSON by its value, other text without white space at its ends."""
    try:
        found = kernel.get(name).decode("utf-8", "replace")
    except DataError:
        return False
    if name.endswith(".json"):
        try:
            return bool(json.loads(found) == json.loads(text))
        except ValueError:
            return False
    return found.strip() == text.strip()


def shows(figure: Mapping[str, Any], expected: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a figure (as `inside.describe` tells it) has, for each expected pair of axes, one that fits."""
    left = [axes for axes in figure.get("axes", []) if isinstance(axes, dict)]
    for wanted in expected:
        fitting = next((axes for axes in left if _fits(axes, wanted)), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return True


def _fits(axes: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(_part(name, axes.get(name), value) for name, value in wanted.items())


def _part(name: str, found: Any, wanted: Any) -> bool:
    """One property of what is drawn: texts by their words, series in any order among others, names as a part."""
    if isinstance(wanted, str):
        return isinstance(found, str) and found.strip().lower() == wanted.strip().lower()
    if not isinstance(found, list):
        return False
    if name == "slices":
        return _near(sorted(_flat(found)), sorted(wanted))
    if name in ("legend", "texts", "xticks"):
        return [text for text in found if text in wanted] == list(wanted)
    if name == "points":
        drawn = sorted(map(_flat, (pair for group in found for pair in group)))
        points = sorted(list(map(float, pair)) for pair in (pair for group in wanted for pair in group))
        return len(drawn) == len(points) and all(map(_near, drawn, points))
    return all(any(_near(_flat(series), values) for series in found) for values in wanted)


def _flat(values: Any) -> list[float]:
    """Numbers of a list; what is none counts as none that fits."""
    if not isinstance(values, list):
        return []
    return [v if isinstance(v, (int, float)) else math.nan for v in values]


def _near(found: Sequence[float], wanted: Sequence[float]) -> bool:
    return len(found) == len(wanted) and all(
        math.isclose(a, b, rel_tol=_CLOSE, abs_tol=1e-9) for a, b in zip(found, wanted)
    )
