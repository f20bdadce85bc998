"""The report page: figures are valid SVG, numbers come from manifests, text from artefacts stays text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from openqwen.core.artifact import Artifact, load, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError
from openqwen.core.intervals import wilson
from openqwen.core.tables import published
from openqwen.report import charts, exhibits, figures, stage, summary
from openqwen.report.config import ReportConfig


def parse(svg: str) -> ET.Element:
    return ET.fromstring(
        svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) if "xmlns" not in svg else svg
    )


def test_figures_are_svg_with_their_labels() -> None:
    drawn = [
        (
            figures.curves([figures.Series("loss", [1, 2], [3.0, 2.0], [2, 1], [4, 3])], "step", "nats"),
            "step",
        ),
        (
            figures.curves(
                [figures.Series("a", [1], [3.0])], "x", "y", log_x=True, log_y=True, level=("5-gram", 2)
            ),
            "5-gram",
        ),
        (figures.bars(["中文", "en"], {"ours": [1.0, 2.0], "bytes": [1.0, 1.0]}, "bytes per token"), "中文"),
        (figures.compression(["中文"], {"ours": [0.87]}, "XLM-R", {"ours": [False]}), "XLM-R = 1"),
        (figures.lineage({"a<b": ("model", "12")}, []), "a<b"),
    ]
    for svg, word in drawn:
        assert word in " ".join(parse(svg).itertext())


def heights(svg: str) -> list[float]:
    """Heights of the filled bars in points."""
    paths = re.findall(r'<path d="M ([^"]+)" clip-path[^>]+style="fill: #[^"]+"/>', svg)
    return [max(y) - min(y) for y in ([float(v) for v in re.findall(r" ([\d.]+) \n", p)] for p in paths)]


@pytest.mark.parametrize(("languages", "tokenizers"), [(1, 1), (3, 8), (60, 2)])
def test_compression_grows_with_its_bars(languages: int, tokenizers: int) -> None:
    names = [f"l{i}" for i in range(languages)]
    rates = {f"t{k}": [1 + k / 10] * languages for k in range(tokenizers)}
    svg = figures.compression(names, rates, "base", {name: [False] * languages for name in rates})
    words = " ".join(parse(svg).itertext()).split()
    assert set(names) | set(rates) <= set(words)
    assert words.count("1.00") >= languages and words.count("1.70") == (languages if tokenizers == 8 else 0)
    bars = heights(svg)
    assert len(bars) == languages * tokenizers and min(bars) > 5, "a bar of at least five points can be read"


def test_compression_shows_gaps_and_doubt() -> None:
    rates = {"a": [0.5, 2.25], "b": [None, 3.0]}
    sure, unsure = (
        figures.compression(["en", "ta"], rates, "base", {"a": [False, False], "b": [False, doubt]})
        for doubt in (False, True)
    )
    assert "3.00" in sure and "hollow" not in sure and "hollow" in unsure and "None" not in sure
    odd = figures.compression(["$x$"], {"a" * 40: [1.0]}, "b", {"a" * 40: [False]})
    assert "$x$" in "".join(parse(odd).itertext()) and "a" * 29 + "…" in odd and "a" * 30 not in odd
    assert sure.count("fill: none; stroke: #d9822b") == 0 < unsure.count("fill: none; stroke: #d9822b")


def test_a_figure_of_its_own_is_legible_on_a_dark_page() -> None:
    svg = figures.standalone(figures.bars(["a"], {"x": [1.0]}, "y"))
    assert ET.fromstring(svg.encode()).get("style") == "background:#fff"


def test_the_same_data_gives_the_same_bytes() -> None:
    one, two = (figures.bars(["a"], {"x": [1.0]}, "y") for _ in range(2))
    assert one == two


def test_lineage_goes_from_left_to_right() -> None:
    nodes = dict.fromkeys(("report", "base", "corpus"), ("k", "0"))
    svg = figures.lineage(nodes, [("corpus", "base"), ("base", "report"), ("corpus", "report")])
    x = {m[2]: float(m[1]) for m in re.finditer(r'<text x="([0-9.]+)" y="[0-9.]+" class="name">(\w+)<', svg)}
    assert x["corpus"] < x["base"] < x["report"] and svg.count("<path") == 3


def make(path: Path, kind: str, facts: dict, files: dict, metrics: list[dict] | None = None) -> Artifact:
    with stage_run(path, kind, Resolved(ReportConfig(), {}), {}) as run:
        for name, value in files.items():
            (write_jsonl if name.endswith("l") else write_json)(run.path / name, value)
        if metrics:
            writer = run.open_metrics()
            for record in metrics:
                writer.write(**record)
        run.fact(**facts)
    return load(path, kind)


TABLE = {
    "table": 6,
    "title": "Tool use",
    "columns": [{"name": "selection", "metric": "%", "shots": 0}, {"name": "rouge"}],
    "rows": [
        {"model": "Qwen-7B", "origin": "published", "cells": {"selection": {"value": 98.0}}},
        {
            "model": "<b>ours</b>",
            "origin": "ours",
            "cells": {"selection": {"value": 81.5, "low": 76, "high": 86, "n": 240, "chance": 25}},
        },
    ],
    "notes": ["a & b"],
}


def test_page_shows_tables_and_escapes_text(tmp_path: Path) -> None:
    samples = [{"label": "after", "prompt": "<script>alert(1)</script>", "text": "x" * 5000}]
    made = make(
        tmp_path / "agent",
        "agent-eval",
        {"tool_selection": 0.815, "false_positive": 0.05},
        {"table_06.json": TABLE, "samples.jsonl": samples},
    )
    page = stage.render(ReportConfig(), {"agent": made})
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;ours" in page
    assert "76 to 86, n 240, chance 25" in page and "81.5% (5.0%)" in page and "a &amp; b" in page
    assert "x" * 1000 not in page
    assert not re.search(r'(src|href)="https?:', page), "the page must open without a network"
    assert "<td>-</td>" in page, "a cell that was not computed is a dash"


def test_curves_of_a_run_are_drawn(tmp_path: Path) -> None:
    metrics = [{"step": s, "loss": 5.0 - s / 10} for s in range(20)] + [
        {"step": 20, "valid_bits_per_byte": 1.2}
    ]
    facts = {"bits_per_byte": 1.2, "ngram_bits_per_byte": 1.9, "parameters": 1000, "tokens_seen": 99}
    page = stage.render(ReportConfig(), {"base": make(tmp_path / "base", "model", facts, {}, metrics)})
    assert "1.200 (1.900)" in page and "5-gram on the same text" in page and "1,000 parameters" in page


def test_stage_writes_one_self_contained_file(tmp_path: Path) -> None:
    make(
        tmp_path / "agent",
        "agent-eval",
        {"tool_selection": 1.0, "false_positive": 0.0},
        {"table_06.json": TABLE},
    )
    done = stage.run(Resolved(ReportConfig(), {}), {"agent": tmp_path / "agent"}, tmp_path / "report")
    assert (done.path / "report.html").stat().st_size < 200_000
    assert done.manifest["facts"]["parts"] == 2


def ours(number: int, **cells: dict) -> dict:
    data = published(number)
    data["rows"].append({"model": "ours: base", "origin": "ours", "cells": cells})
    return data


def test_figures_2_and_4_and_every_table_of_an_evaluation_are_on_the_page_and_beside_it(
    tmp_path: Path,
) -> None:
    """Scores that guessing may explain are marked on the page as in the files."""
    facts = dict.fromkeys(("sft_accuracy", "sft_stops", "wins", "ties", "losses"), 0.5)
    lucky = {"value": 31.0, "low": 22.0, "high": 41.5, "n": 80, "chance": 25}
    bars = [
        {"model": "chat model (RLHF)", "against": "chat model (SFT)", "judge": judge, "n": 20, **shares}
        for judge, shares in (
            ("known true score", {"win": 0.75, "tie": 0.15, "loss": 0.1}),
            ("reward model", {"win": 0.35, "tie": 0.2, "loss": 0.45}),
        )
    ]
    files = {
        "figure_04.json": {"rows": bars, "notes": ["a note on bars"]},
        "table_02.json": ours(2, MMLU=lucky, BBH={**lucky, "low": 26.0}),
        "table_17.json": ours(17, PIQA={**lucky, "value": 64.5, "low": 60.0, "high": 69.0, "chance": 50}),
    }
    made = make(tmp_path / "evals", "evals", facts, files)
    done = stage.run(Resolved(ReportConfig(), {}), {"evals": made.path}, tmp_path / "page")
    page = (done.path / "report.html").read_text(encoding="utf-8")
    assert "Table 2. Performance of base models" in page and "Table 17. " in page
    assert "~31<small>22 to 41.5, n 80, chance 25" in page and ">31<small>26 to 41.5" in page
    assert "judge: known true score" in page and ">75<" in page and "against chat model (SFT)" in page
    assert exhibits.BEST in page and charts.CHANCE in page
    names = ["figure_04", "table_02", "table_17", "figure_02"]
    assert done.manifest["facts"]["exhibits"] == names
    assert all(f"exhibits/{name}" in page for name in names)
    assert {path.name for path in (done.path / "exhibits").iterdir()} == {
        f"{name}.{form}" for name in names for form in ("md", "tex", "png", "svg")
    }
    text = (done.path / "exhibits" / "figure_02.tex").read_text(encoding="utf-8")
    assert r"ours: base & \textasciitilde{}31 [22, 41.5] & - " in text and "64.5 [60, 69]" in text
    text = (done.path / "exhibits" / "figure_04.md").read_text(encoding="utf-8")
    low, high = wilson(0.825 * 20, 20)
    assert (
        f"| 82.5% | {low:.1%} to {high:.1%} |" in text and "| ~45.0% |" in text and "- a note on bars" in text
    )


def test_tables_7_to_9_have_a_place(tmp_path: Path) -> None:
    cell = {"value": 50.0, "low": 40.0, "high": 60.0, "n": 90}
    columns = {7: "Math", 8: "Math", 9: "Run: Tool Used"}
    files = {f"table_{n:02d}.json": ours(n, **{name: cell}) for n, name in columns.items()}
    page = stage.render(ReportConfig(), {"agentbench": make(tmp_path / "bench", "agent-bench", {}, files)})
    assert 'id="interpreter"' in page and page.count("40 to 60, n 90") == 3
    assert all(f"Table {number}. " in page for number in columns)


def test_unfinished_input_is_named(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    with pytest.raises(DataError, match="agent"):
        stage.run(Resolved(ReportConfig(), {}), {"agent": tmp_path / "agent"}, tmp_path / "report")


def test_missing_fact_is_an_error_not_a_blank(tmp_path: Path) -> None:
    made = make(tmp_path / "agent", "agent-eval", {"tool_selection": 1.0}, {})
    with pytest.raises(DataError, match="false_positive"):
        list(summary.numbers({"agent": made}))
    assert json.loads((made.path / "manifest.json").read_text())["facts"] == {"tool_selection": 1.0}
