"""MatPlotBench: what instructions name, what was drawn, and the judge's scores beside the rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import chat_api
import pytest
from agent_world import Script

from openqwen.agent import benchmarks, coding, interpreter, matplotbench
from openqwen.agent.config import AgentEvalConfig, JudgeConfig, SetsConfig
from openqwen.agent.interpreter import NAME
from openqwen.agent.matplotbench import Named, named
from openqwen.chat import react
from openqwen.core.errors import DataError
from openqwen.sandbox import Limits, backend
from openqwen.sandbox.run import failures

needs_sandbox = pytest.mark.skipif(backend() is None, reason=f"no working sandbox: {'; '.join(failures())}")


@pytest.mark.parametrize(
    ("instruction", "texts", "axes"),
    [
        ("Draw a chart titled 'Rain in May'.", ["Rain in May"], 0),
        ("The title of the plot should be 'Rain'.", ["Rain"], 0),
        ("Label the x-axis as 'day' and the y-axis as \"mm\".", ["day", "mm"], 0),
        ("The subplots should be titled 'a', 'b', and 'c' and stand in a 2x2 grid.", ["a", "b", "c"], 4),
        ("Title the plot as \"'old' style\", in two rows and three columns.", ["'old' style"], 6),
        ("Label the second line as 'oscillating' and the third line as 'damped'.", ["oscillating", "damped"], 0),
        ("Add a title that says 'Votes', set the x-axis label to 'Year'.", ["Votes", "Year"], 0),
        ("A chart titled \"Market Share,\" with values.", ["Market Share"], 0),
        ("Write the text 'here' at 0, 0.", ["here"], 0),
        ("Title it well. Use the column 'price' of 'data.csv'.", [], 0),
        ("The overall title of the figure should be 'All'.", ["All"], 0),
        ("The figure should have a title 'All'.", ["All"], 0),
        ("Label the x, y, and z axes as \"X label\", \"Y\", and \"Z\".", ["X label", "Y", "Z"], 0),
        ("A chart titled 'Top' with a subtitle 'below'.", ["Top"], 0),
        ("The contours should be labeled with a format of '%2.1f'.", [], 0),
        ("Title the chart to reflect its content, such as 'Rain'.", [], 0),
        ("Draw nothing.", [], 0),
    ],
)  # fmt: skip
def test_what_an_instruction_names(instruction: str, texts: list[str], axes: int) -> None:
    assert named(instruction) == Named(tuple(texts), axes)


def test_a_figure_shows_what_is_named() -> None:
    wanted = Named(("Rain", "day", "a  b"), 2)
    full = {"title": "rain", "xlabel": "Day", "legend": ["A b"]}
    assert wanted.missing({"axes": [full, {}]}) == []
    assert wanted.missing({"axes": [{"title": "rain"}, {"xlabel": "day", "texts": ["a b"]}]}) == []
    assert wanted.missing({"axes": [full]}) == ["2 subplots"]
    assert wanted.missing({"axes": [{**full, "title": "Rainy"}, {}]}) == ["Rain"]
    assert Named(("All", "up")).missing({"suptitle": "all", "axes": [{"zlabel": "Up"}]}) == []
    assert wanted.missing({"suptitle": 5, "axes": ["forged", {"title": 3, "legend": 4}]}) == wanted.missing(
        {}
    )
    assert wanted.missing({"axes": [{"texts": [5]}]}) == ["Rain", "day", "a  b", "2 subplots"]


@needs_sandbox
def test_a_real_figure_shows_its_whole_title_and_its_third_axis(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code = (
        IMPORT + "figure, (flat, deep) = plt.subplots(1, 2, subplot_kw={'projection': '3d'})\n"
        "figure.suptitle('Heights of hills')\ndeep.set_zlabel('metres')\nflat.set_title('left')"
    )
    with interpreter.start(Limits(seconds=30.0), tmp_path) as python:
        said = python.run(code)
        assert said.splitlines()[-1] == "picture: picture_1.png" and "Fontconfig" not in said
        (figure,) = python.figures
    wanted = named("Title the whole figure 'Heights of hills', label the z-axis 'metres', in a 1x2 grid.")
    assert wanted == Named(("Heights of hills", "metres"), 2) and wanted.missing(figure) == []
    assert coding.shows(figure, [{"zlabel": "metres"}, {"title": "left", "zlabel": ""}])
    assert not coding.shows(figure, [{"zlabel": "feet"}])


# ---- whole sets --------------------------------------------------------------------------------------------------
def row(number: int, simple: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": number,
        "simple_instruction": simple,
        "expert_instruction": f"Use {number}.",
        "files": files,
    }


ROWS = [
    row(1, "Draw data.csv as bars titled 'Rain'.", {"data.csv": "1,2,3"}),
    row(2, "Draw a line in a 1x2 grid.", {}),
    row(3, "Draw a surface.", {}),
]
IMPORT = "import matplotlib.pyplot as plt\n"
BARS = "v = [int(v) for v in open('data.csv').read().split(',')]\nplt.bar(v, v)\nplt.title('Rain')"
GOOD = {
    1: IMPORT + "plt.plot([1])\nplt.figure()\n" + BARS,
    2: IMPORT + "plt.subplots(1, 2)[1][0].plot([1, 2])",
    3: IMPORT + "plt.figure().add_subplot(projection='3d')",
}


def write(folder: Path, *found: Mapping[str, Any]) -> Path:
    path = folder / "code_interpreter" / "matplotbench.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def agent(code: Callable[[int], str]) -> Script:
    def speak(user: str, reply: str) -> str:
        number = next(row["id"] for row in ROWS if row["simple_instruction"] in user)
        if reply:
            return f" {react.KNOWN}\nFinal Answer: Drawn."
        return react.call_text("I draw.", NAME, code(number))

    return Script(speak)


def score(script: Script, folder: Path, judge: JudgeConfig | None = None) -> dict[str, float]:
    sets = SetsConfig(names=("matplotbench",), judge=judge or JudgeConfig())
    loaded = benchmarks.load(folder, sets)
    found = benchmarks.measure(script, loaded, AgentEvalConfig(sets=sets), folder)
    return {name.removeprefix("matplotbench_"): cell["value"] for name, cell in found.items()}


@needs_sandbox
def test_a_perfect_agent_scores_100_and_a_bad_one_0(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, *ROWS)
    good = agent(GOOD.__getitem__)

    def full(body: dict[str, Any]) -> tuple[int, str]:
        return 200, "[FINAL SCORE]: 100"

    with chat_api.serving(full) as server:
        judge = JudgeConfig(address=f"{server.address}#eyes")
        found = score(good, tmp_path, judge)
        assert found == {"executable": 100, "drawn": 100, "rules": 100, "judged": 100, "unparsed": 0}
        assert len(server.bodies) == 3 and "data.csv" in good.asked[0][0]
        bad = agent(lambda number: "import matplotlib.pyplot as plt\nplt.bar(")
        found = score(bad, tmp_path, judge)
        assert found == {"executable": 0, "drawn": 0, "rules": 0, "judged": 0, "unparsed": 0}
        assert len(server.bodies) == 3, "where nothing was drawn nobody is asked"


@needs_sandbox
def test_rules_look_at_the_figure_and_an_unclear_verdict_is_never_scored(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path, *ROWS)

    def unsure(body: dict[str, Any]) -> tuple[int, str]:
        asked = body["messages"][0]["content"][0]["text"]
        return 200, "[FINAL SCORE]: 60" if "surface" in asked else "Perhaps 90."

    with chat_api.serving(unsure) as server:
        untitled = {**GOOD, 1: GOOD[1].replace("'Rain'", "'Snow'")}
        judge = JudgeConfig(address=f"{server.address}#eyes")
        found = score(agent(untitled.__getitem__), tmp_path, judge)
    assert found.pop("unparsed") == pytest.approx(66.6667)
    assert found == {"executable": 100, "drawn": 100, "rules": 50, "judged": 60}
    lines = (tmp_path / "matplotbench.jsonl").read_text("utf-8").split("\n")[:-1]
    verdicts = [json.loads(line)["verdict"] for line in lines]
    assert [v["score"] for v in verdicts] == [None, None, 60] and verdicts[0]["text"] == "Perhaps 90."


def test_files_and_right_pictures_as_published(tmp_path: Path) -> None:
    home = write(tmp_path).parent
    (home / "matplotbench.jsonl").unlink()
    rows = [{key: row[key] for key in ("id", "simple_instruction", "expert_instruction")} for row in ROWS[:2]]
    (home / "benchmark_instructions.json").write_text(json.dumps(rows), encoding="utf-8")
    (home / "data" / "1").mkdir(parents=True)
    (home / "data" / "1" / "data.csv").write_text("7")
    (home / "ground_truth").mkdir()
    (home / "ground_truth" / "example_2.png").write_bytes(b"right")
    [one, two], notes = matplotbench.load(tmp_path)
    assert one.files == {"data.csv": b"7"} and two.files == {} and two.reference == b"right"
    assert one.reference is None and notes == ["2 of 100, 1 of them with a right picture"]
    assert "Files you can read: data.csv" in matplotbench.prompt(one, "expert")
    assert matplotbench.prompt(two, "expert").startswith("Use 2.\n\nWrite Python")


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ('"id" of a row', {"id": "1"}),
        ('"simple_instruction" of a row', {"simple_instruction": 5}),
        ('"expert_instruction" of a row', {"expert_instruction": None}),
        ("names and texts", {"files": {"../x": "1"}}),
        ("names and texts", {"files": {"x": 1}}),
        ("names and texts", {"files": {"..": "1"}}),
        ("names and texts", {"files": {"": "1"}}),
        ('"files" of a row', {"files": []}),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, said: str, change: dict[str, Any]) -> None:
    path = write(tmp_path, ROWS[0], {**ROWS[0], **change})
    with pytest.raises(DataError, match=said) as error:
        matplotbench.load(tmp_path)
    assert f"{path}:2" in str(error.value)


@pytest.mark.shared
def test_the_published_rows_are_read_and_can_be_right(shared: Path) -> None:
    questions, notes = matplotbench.load(shared / "data" / "eval")
    assert len(questions) == 53 and notes[0].startswith("53 of 100")
    ruled = [wanted for q in questions if (wanted := named(q.simple)) != Named()]
    assert len(ruled) == 27
    for wanted in ruled:
        assert wanted.missing({"axes": [{"texts": list(wanted.texts)}] * max(1, wanted.axes)}) == []
        assert wanted.missing({"axes": []})
    assert sum(bool(q.files) for q in questions) == 11
