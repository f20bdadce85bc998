"""MatPlotBench: plots drawn with the interpreter after an instruction.

Report §3.4 (visualisation, as in Tables 7 and 8); the set is not the report's. Its paper shows a vision model the picture
and a right one; here that is a setting (vision.py). Ours: whether the code ran, whether a picture came of it, and rules
on the figure for what an instruction names word for word: titles, labels, texts in quotes, and the grid of subplots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openqwen.agent.coding import each, executable
from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.interpreter import Interpreter
from openqwen.agent.loop import Conversation, Model
from openqwen.agent.rows import is_file_name, rows, take
from openqwen.agent.vision import Asked, Judge
from openqwen.core.errors import DataError
from openqwen.core.tables import Cell, average, share

PUBLISHED = 100
_FILES = ("matplotbench.jsonl", "matplotbench.jsonl.gz", "benchmark_instructions.json")
_PROMPT = "{instruction}\n\n{files}Write Python that draws this with matplotlib, and run it."


@dataclass(frozen=True)
class Question:
    """An instruction in its two wordings, the files it speaks of, and a right picture if there is one."""

    id: int
    simple: str
    expert: str
    files: Mapping[str, bytes]
    reference: bytes | None = None
    part: str = "all"


def load(folder: Path) -> tuple[list[Question], list[str]]:
    """The instructions of FOLDER/code_interpreter. DataError names file and line of a row that is none."""
    home = folder / "code_interpreter"
    path = next((home / name for name in _FILES if (home / name).is_file()), None)
    if path is None:
        return [], [f"no {' or '.join(_FILES)} in {home}"]
    questions = [_question(row, home, place) for place, row in rows(path)]
    pictures = sum(question.reference is not None for question in questions)
    return questions, [f"{len(questions)} of {PUBLISHED}, {pictures} of them with a right picture"]


def _question(row: Mapping[str, Any], home: Path, place: str) -> Question:
    """A row; its files stand in it ("files"), or in data/ID/ as published."""
    number = take(row, "id", int, place)
    simple, expert = (take(row, f"{name}_instruction", str, place) for name in ("simple", "expert"))
    if "files" in row:
        given = take(row, "files", dict, place)
        if not all(isinstance(text, str) and is_file_name(name) for name, text in given.items()):
            raise DataError('"files" is not an object of names and texts', where=place)
        files = {name: text.encode() for name, text in given.items()}
    else:
        beside = home / "data" / str(number)
        files = {path.name: path.read_bytes() for path in sorted(beside.glob("*")) if path.is_file()}
    right = home / "ground_truth" / f"example_{number}.png"
    return Question(number, simple, expert, files, right.read_bytes() if right.is_file() else None)


# ---- rules -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Named:
    """What an instruction names: texts that are drawn, and how many pairs of axes there are at least."""

    texts: tuple[str, ...] = ()
    axes: int = 0

    def missing(self, figure: Mapping[str, Any]) -> list[str]:
        """What of it a figure (as `inside.describe` tells it) does not show."""
        drawn = [axes for axes in figure.get("axes", []) if isinstance(axes, dict)]
        whole = figure.get("suptitle")
        shown = {_plain(text) for axes in drawn for text in _texts(axes)}
        shown |= {_plain(whole)} if isinstance(whole, str) else set()
        lacking = [text for text in self.texts if _plain(text) not in shown]
        return lacking + ([f"{self.axes} subplots"] if len(drawn) < self.axes else [])


_QUOTED = re.compile(r"'([^'\n]+)'|\"([^\"\n]+)\"|“([^”\n]+)”")
_CUE = re.compile(r"\b(?:titled?|titles|label(?:s|l?ed|l?ing)?|the text)\b", re.IGNORECASE)
# What may stand between such a word and the text it is about; quotes are other texts of the same list.
_BETWEEN = re.compile(
    r"(?:[\s,:]|\b(?:the|a|of|as|is|to|be|should|that|says|and|chart|plot|subplots?|axes|axis|[xyz]-axis|[xyz]|"
    r"whole|entire|overall|main|figure|first|second|third|line|curve|data|sets|clear)\b|'[^'\n]+'|\"[^\"\n]+\"|“[^”\n]+”)*",
    re.IGNORECASE,
)
_UNSEEN = re.compile(r"\bsubtitle\b", re.IGNORECASE)  # in the figure's description there is none
_GRID = re.compile(r"(\w+) ?x ?(\w+) (?:grid|subplots?|mosaic)|(\w+) rows? and (\w+) columns?", re.IGNORECASE)
_COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, **{str(n): n for n in range(1, 10)}}


def named(instruction: str) -> Named:
    """What an instruction names word for word. `named("Title the plot 'Rain'.")` -> Named(("Rain",), 0)"""
    texts = []
    for quoted in _QUOTED.finditer(instruction):
        before = re.split(r"[.;]\s|\n", instruction[: quoted.start()])[-1]
        cued = any(_BETWEEN.fullmatch(before, cue.end()) for cue in _CUE.finditer(before))
        if cued and not _UNSEEN.search(before):
            texts.append(next(group for group in quoted.groups() if group).strip().rstrip(",."))
    grid = _GRID.search(instruction)
    sides = [_COUNTS.get(side.lower(), 0) for side in (grid.groups() if grid else ()) if side]
    return Named(tuple(dict.fromkeys(texts)), sides[0] * sides[1] if sides else 0)


def _texts(axes: Mapping[str, Any]) -> list[str]:
    """All that is written in a pair of axes."""
    single = [axes.get(name) for name in ("title", "xlabel", "ylabel", "zlabel")]
    lists = [axes.get(name) for name in ("legend", "xticks", "yticks", "texts")]
    return [
        text
        for text in [*single, *(t for one in lists if isinstance(one, list) for t in one)]
        if isinstance(text, str)
    ]


def _plain(text: str) -> str:
    return " ".join(text.split()).lower()


# ---- drawing -----------------------------------------------------------------------------------------------------
def prompt(question: Question, wording: str) -> str:
    """What the model is asked; files are named, their contents lie in the interpreter's folder."""
    files = f"Files you can read: {', '.join(question.files)}\n" if question.files else ""
    return _PROMPT.format(instruction=getattr(question, wording), files=files)


def play(
    model: Model, questions: Sequence[Question], config: AgentEvalConfig, folder: Path
) -> list[dict[str, Any]]:
    """Every instruction with an interpreter of its own; one record each. Pictures lie in FOLDER/pictures/matplotbench-ID."""
    wording, judge = config.sets.instruction, config.sets.judge
    asked = [(f"matplotbench-{q.id}", prompt(q, wording), q.files) for q in questions]
    records = [
        {"id": question.id, **outcome(named(getattr(question, wording)), talk, python, folder)}
        for question, (talk, python) in zip(
            questions, each(model, "MatPlotBench", asked, folder / "pictures", config.sets), strict=True
        )
    ]
    if judge.address is not None:
        pictures = [
            Asked(getattr(question, wording), (folder / record["picture"]).read_bytes(), question.reference)
            if record["drawn"]
            else None
            for question, record in zip(questions, records, strict=True)
        ]
        for record, verdict in zip(records, Judge(judge).judge(pictures), strict=True):
            record["verdict"] = asdict(verdict)
    return records


def outcome(wanted: Named, talk: Conversation, python: Interpreter, folder: Path) -> dict[str, Any]:
    """What came of one instruction. missing: what the figure that fits best does not show of what is named.

    picture: the last one, below `folder`.
    """
    missing = min((wanted.missing(figure) for figure in python.figures), key=len, default=wanted.missing({}))
    return {
        "executable": executable(talk),
        "drawn": bool(python.pictures),
        "named": len(wanted.texts) + bool(wanted.axes),
        "missing": missing,
        "picture": str(python.pictures[-1].relative_to(folder)) if python.pictures else None,
        "trace": talk.trace(),
    }


def cells(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Cell]:
    """Shares of conversations whose code all ran, that drew a picture, and whose picture shows all that is named.

    With a judge also the mean of its scores, and the share of verdicts without one, which count nowhere else.
    """
    ruled = [not record["missing"] for record in records if record["named"]]
    found = {
        "matplotbench_executable": share([record["executable"] for record in records]),
        "matplotbench_drawn": share([record["drawn"] for record in records]),
    }
    if ruled:
        found["matplotbench_rules"] = share(ruled)
    if verdicts := [record["verdict"] for record in records if "verdict" in record]:
        scores = [verdict["score"] / 100 for verdict in verdicts if verdict["score"] is not None]
        if scores:
            found["matplotbench_judged"] = average(scores, seed)
        found["matplotbench_unparsed"] = share([verdict["score"] is None for verdict in verdicts])
    return found
