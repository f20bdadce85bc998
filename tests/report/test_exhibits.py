"""Tables and Figures 2 and 4 in every form: what is drawn and written is what was computed."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from openqwen.core.errors import DataError
from openqwen.core.intervals import wilson
from openqwen.core.tables import published
from openqwen.report import charts, exhibits, tables
from openqwen.report.figures import COLOURS, picture, svg_text, themed
from openqwen.report.tables import Sheet, latex, markdown, sheet

VALUES = {"MMLU": 60.0, "C-Eval": 30.0, "GSM8K": 15.0, "PIQA": 80.0}
TABLE_OF = {"MMLU": 2, "C-Eval": 2, "GSM8K": 2, "PIQA": 17}


def cell(value: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - 8, "high": value + 8, "n": 60, "manifest": "m", **more}


def filled(number: int, model: str = "ours: mine", **cells: dict[str, Any]) -> dict[str, Any]:
    data = published(number)
    data["rows"].append({"model": model, "origin": "ours", "cells": cells})
    return data


def two() -> dict[int, dict[str, Any]]:
    """Tables 2 and 17 with a row of ours whose C-Eval (30, chance 25) may be luck, and MMLU (60, chance 25) is not."""
    own: dict[int, dict[str, Any]] = {2: {}, 17: {}}
    for name, value in VALUES.items():
        own[TABLE_OF[name]][name] = cell(value, **({"chance": 25} if name in ("MMLU", "C-Eval") else {}))
    return {number: filled(number, **cells) for number, cells in own.items()}


# ---- Markdown and LaTeX --------------------------------------------------------------------------------------------
def read_markdown(text: str) -> tuple[str, list[list[str]], list[str]]:
    """(title, rows with the head, notes) as a Markdown reader sees them: the text of each, no markup in it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    title, rows, notes, inside = "", [], [], ""
    for token in tokens:
        inside = token.type if token.type in ("table_open", "bullet_list_open") else inside
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            kinds = {child.type for child in token.children or ()}
            assert kinds <= ({"text"} if inside else {"text", "strong_open", "strong_close"}), kinds
            words = "".join(child.content for child in token.children or ())
            if inside == "table_open":
                rows[-1].append(words)
            elif inside:
                notes.append(words)
            else:
                title = words
    return title, rows, notes


WORDS = st.text("ab|*_`[]()<>\\~&$%#{}^-中\n 1!", max_size=12)


@given(WORDS.filter(str.strip), st.lists(st.lists(WORDS, min_size=3, max_size=3), max_size=3), WORDS)
@settings(max_examples=60, deadline=None)
def test_markdown_shows_any_text_as_it_is(title: str, rows: list[list[str]], note: str) -> None:
    made = Sheet(title, ["model", "a|b", "c"], rows, ["note: " + note])
    found = read_markdown(markdown(made))
    plain = [[" ".join(cell.split()) for cell in row] for row in [made.head, *rows]]
    assert [[" ".join(cell.split()) for cell in row] for row in found[1]] == plain
    assert " ".join(found[0].split()) == " ".join(title.split())
    assert " ".join(found[2][0].split()) == " ".join(made.notes[0].split())


NAMED = {r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textbackslash{}": "\\",
         r"\textless{}": "<", r"\textgreater{}": ">"}  # fmt: skip


def read_latex(cells: str) -> list[str]:
    r"""The cells of a row. Whatever LaTeX takes for more than a letter is a command of NAMED, \X, or {} before a cell."""
    parts = re.split(r"(\\text\w+\{\}|\\[&%$#_{}]|&)", cells.removesuffix(r" \\"))
    found = [""]
    for part in parts:
        if part == "&":
            found.append("")
            continue
        text = NAMED.get(part) or (part[1:] if re.fullmatch(r"\\[&%$#_{}]", part) else None)
        if text is None:
            assert not set(part.replace("{}", "")) & set("\\{}%$#_^~&"), part
            text = part.replace("{}", "")
        found[-1] += text
    return [text.strip() for text in found]


@given(st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1, max_size=3))
@example([["*a", "[b", "]"], ["[1]", "*", "c"], [" [", "", ""]])
@settings(max_examples=60, deadline=None)
def test_latex_shows_any_text_as_it_is(rows: list[list[str]]) -> None:
    text = latex(Sheet("t", ["model", "b", "c"], rows))
    lines = text[text.index("\\midrule\n") + 9 : text.index("\\bottomrule")].strip("\n").split("\n")
    assert all(line.endswith(r" \\") for line in lines)
    assert [read_latex(line) for line in lines] == [
        [cell.replace("\n", " ").strip() for cell in row] for row in rows
    ]
    assert not re.search(r"(\\\\|rule)\s*[\[*]", text)  # would be an argument of what stands before it


def test_every_form_has_the_same_numbers() -> None:
    data = two()[2]
    made = sheet(data)
    title, rows, notes = read_markdown(markdown(made))
    assert title == f"Table 2. {data['title']}" and rows[0] == [
        "model",
        *(c["name"] for c in data["columns"]),
    ]
    ours = ["ours: mine", "60 [52, 68]", "~30 [22, 38]", "15 [7, 23]", "-", "-", "-", "-"]
    assert rows[-1] == ours and notes[0] == tables.LUCKY and notes[1:] == data["notes"]
    text = latex(made)
    assert rf"\caption{{{data['title']} (Table 2 of the Qwen report)}}" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].split("\n")[1:-1]
    assert [read_latex(line) for line in body] == rows[1:]


def test_a_row_of_ours_is_not_taken_for_a_published_one() -> None:
    data = filled(4, model="RM", **{"OpenAI Summ.": cell(61.0)})
    names = [row[0] for row in sheet(data).rows]
    assert names == ["PMP", "RM", "ours: RM"]
    assert "ours: RM" in svg_text(charts.scores(data))


def test_a_cell_without_a_manifest_is_in_no_form() -> None:
    data = two()[2]
    del data["rows"][-1]["cells"]["MMLU"]["manifest"]
    made = exhibits.of_table(data)
    assert made.sheets[0].rows[-1][1] == "-"
    assert len(solid(svg_text(made.picture), OURS)) == 1  # GSM8K; C-Eval is faint


# ---- bars ----------------------------------------------------------------------------------------------------------
OURS = COLOURS[0]


def corners(svg: str, style: str) -> list[list[tuple[float, float]]]:
    """Points (x, y) of shapes inside the axes that have a style; y grows downwards."""
    found = re.findall(rf'<path d="([^"]+)" clip-path="[^"]+" style="{style}"', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)] for path in found]


def boxes(svg: str, style: str) -> list[tuple[float, float]]:
    """Widths and heights of such shapes in points."""
    sides = [tuple(zip(*points)) for points in corners(svg, style)]
    return [(max(x) - min(x), max(y) - min(y)) for x, y in sides]


def solid(svg: str, colour: str) -> list[tuple[float, float]]:
    return boxes(svg, f"fill: {colour}")


def faint(svg: str, colour: str) -> list[tuple[float, float]]:
    return boxes(svg, f"fill: {colour}; opacity: {charts.FAINT}")


CHANCE_LINE = "fill: none; stroke: #000000; stroke-width: 1.6"


def test_bars_are_as_tall_as_scores_and_faint_beside_chance_where_luck_explains_them() -> None:
    svg = svg_text(charts.scores(two()[2]))
    (_, mmlu), (_, gsm8k) = solid(svg, OURS)
    ((wide, ceval),) = faint(svg, OURS)
    assert mmlu / ceval == pytest.approx(60 / 30, rel=1e-4) and mmlu / gsm8k == pytest.approx(
        60 / 15, rel=1e-4
    )
    ((chance, level),) = boxes(svg, CHANCE_LINE)  # C-Eval's; MMLU's 25 % is not drawn
    assert level == 0 and chance > wide
    ((_, base), (_, top)) = (
        pick(corners(svg, f"fill: {OURS}")[0], key=lambda p: p[1]) for pick in (max, min)
    )
    height = base - corners(svg, CHANCE_LINE)[0][0][1]
    assert height / (base - top) == pytest.approx(25 / 60, rel=1e-4)
    assert charts.CHANCE in svg
    sure = two()[2]
    del sure["rows"][-1]["cells"]["C-Eval"]
    svg = svg_text(charts.scores(sure))
    assert not boxes(svg, CHANCE_LINE) and charts.CHANCE not in svg


def test_perplexities_stand_on_a_scale_without_zero() -> None:
    svg = svg_text(charts.scores(published(3)))
    assert not re.search(r"fill: #[0-9a-f]{6}; opacity|hatch", svg)
    words = "".join(ET.fromstring(svg).itertext())
    assert "perplexity" in words and "Qwen-7B + dynamic_ntk + logn + window_attn" in words


# ---- Figure 2 ------------------------------------------------------------------------------------------------------
def test_figure_2_has_ours_beside_what_is_printed() -> None:
    made = exhibits.figure_2(two())
    assert made is not None
    head, rows = (
        made.sheets[0].head,
        {row[0]: dict(zip(made.sheets[0].head, row)) for row in made.sheets[0].rows},
    )
    assert len(head) == 13 and list(rows) == ["ours: mine", "Qwen 14B", exhibits.BEST, "GPT-3.5", "GPT-4"]
    assert {name: rows["ours: mine"][name] for name in VALUES} == {
        "MMLU": "60 [52, 68]", "C-Eval": "~30 [22, 38]", "GSM8K": "15 [7, 23]", "PIQA": "80 [72, 88]",
    }  # fmt: skip
    # read off the report's Tables 2, 5, 15 and 17
    assert (rows["Qwen 14B"]["MMLU"], rows["Qwen 14B"]["PIQA"], rows["Qwen 14B"]["CMMLU"]) == (
        "66.3",
        "79.9",
        "71",
    )
    best = rows[exhibits.BEST]
    assert (best["MMLU"], best["HumanEval"], best["PIQA"]) == ("59.5", "18.9", "80.5")
    assert (rows["GPT-4"]["MMLU"], rows["GPT-3.5"]["BBH"], rows["GPT-4"]["PIQA"]) == ("83", "70.1", "-")
    svg = svg_text(made.picture)
    (mmlu, _), (gsm8k, _), (piqa, _) = solid(svg, OURS)
    assert mmlu / piqa == pytest.approx(60 / 80, rel=1e-4) and gsm8k / piqa == pytest.approx(
        15 / 80, rel=1e-4
    )
    assert len(faint(svg, OURS)) == len(boxes(svg, CHANCE_LINE)) == 1
    start = min(x for x, _ in corners(svg, f"fill: {OURS}")[0])
    assert (corners(svg, CHANCE_LINE)[0][0][0] - start) / piqa == pytest.approx(25 / 80, rel=1e-4)
    words = "".join(ET.fromstring(svg).itertext())
    assert all(
        words.count(name) == 2 for name in ("C-Eval", "NaturalQuestions")
    )  # on the radar and beside the bars


def test_figure_2_needs_a_score_of_ours() -> None:
    assert exhibits.figure_2({2: published(2)}) is None
    assert exhibits.figure_2({5: filled(5, **{"MMLU 5-shot": cell(50.0)})}) is None


# ---- Figure 4 ------------------------------------------------------------------------------------------------------
def fought(model: str, win: float, tie: float, loss: float, n: int) -> dict[str, Any]:
    low, high = wilson((win + tie / 2) * n, n)
    return {"model": model, "instructions": n, "win": win, "tie": tie, "loss": loss, "low": low, "high": high}


GROUPS = {
    "all": [fought("a", 0.7, 0.2, 0.1, 100), fought("b", 0.45, 0.15, 0.4, 100)],
    "coding": [fought("a", 0.5, 0.5, 0.0, 8)],
}


def test_figure_4_s_bars_are_the_shares_from_bottom_to_top() -> None:
    svg = svg_text(charts.wins(GROUPS, "c"))
    colours = {"win": "#2b8a6f", "tie": "#c9c9d6", "loss": "#b8336a"}
    heights = {part: [tall for _, tall in solid(svg, colour)] for part, colour in colours.items()}
    whole = sum(heights[part][0] for part in heights)
    for part in heights:
        shares = [row[part] for rows in GROUPS.values() for row in rows]
        assert [tall / whole for tall in heights[part]] == pytest.approx(shares, abs=1e-4)
    win, tie, loss = (min(y for _, y in corners(svg, f"fill: {c}")[0]) for c in colours.values())
    assert win > tie > loss
    words = "".join(ET.fromstring(svg).itertext())
    assert "against c" in words and "n = 100" in words and "coding" in words


def test_figure_4_as_text_says_where_no_difference_is_shown() -> None:
    made = exhibits.figure_4(GROUPS, "c", ["said by three"])
    _, rows, notes = read_markdown(markdown(*made.sheets))
    assert rows[1][:7] == ["all", "a", "100", "70.0%", "20.0%", "10.0%", "80.0%"]
    assert rows[2][6] == "~52.5%" and rows[3][:3] == ["coding", "a", "8"] and rows[3][6] == "~75.0%"
    assert notes == [exhibits.LEVEL, "said by three"]
    with pytest.raises(DataError, match="no model was compared with c"):
        exhibits.figure_4({"all": []}, "c")


# ---- files ---------------------------------------------------------------------------------------------------------
def test_an_exhibit_is_four_files_and_the_same_bytes_again(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        exhibits.of_table(two()[2]).write(tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["table_02.md", "table_02.png", "table_02.svg", "table_02.tex"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "table_02.png").read_bytes().startswith(b"\x89PNG")
    ET.parse(tmp_path / "one" / "table_02.svg")
    assert picture(charts.wins(GROUPS, "c"), "pdf").startswith(b"%PDF")


def test_characters_that_no_font_has_are_told_for_a_png(capsys: pytest.CaptureFixture[str]) -> None:
    """A private character, which no font has, stands in the SVG for the reader's fonts; the PNG can only have a box."""
    figure = charts.wins({"all": [fought("model \ue0a5", 0.5, 0.3, 0.2, 10)]}, "c")
    assert "model \ue0a5" in picture(figure, "svg").decode() and capsys.readouterr().out == ""
    picture(figure, "png")
    assert "no font here has \ue0a5: boxes in the png" in capsys.readouterr().out


def test_no_colour_of_a_picture_stays_as_it_is_on_a_dark_page() -> None:
    made = exhibits.figure_2(two())
    assert made is not None
    for svg in (svg_text(made.picture), svg_text(charts.wins(GROUPS, "c"))):
        left = set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", themed(svg)))
        # the grid's grey, which is seen on both, and what would fill the caps of intervals if they were no lines
        assert left <= {"#b0b0b0", "#1f77b4"}


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"model": "x"}]}', '{"rows": 1}'])
def test_what_is_no_table_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "table_02.json").write_text(text)
    with pytest.raises(DataError, match="no table"):
        tables.read(tmp_path / "table_02.json")
    (tmp_path / "table_02.json").write_text(json.dumps(two()[2]))
    assert tables.read(tmp_path / "table_02.json")["table"] == 2
