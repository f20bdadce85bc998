"""Curves of a run: what was recorded is what is drawn; skipped steps and spikes are marked; old runs are drawn too."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.core.artifact import Artifact, load, stage_run
from openqwen.core.config import Resolved
from openqwen.report import figures, stage, training
from openqwen.report.config import ReportConfig
from openqwen.report.training import NORM, RATE, Curve, Unit

LOSS = Unit("loss, nats", (Curve("loss", "training"), Curve("held", "held out")), log=True)
STEPS = 60


def run(path: Path, steps: int = STEPS, kind: str = "model", **files: list[dict[str, Any]]) -> Artifact:
    with stage_run(path, kind, Resolved(ReportConfig(), {}), {}) as stage_:
        metrics = stage_.open_metrics()
        for step in range(1, steps + 1):
            metrics.write(step, loss=4 / step**0.5, lr=1e-3 / step, grad_norm=2.0, skipped=0)
            if step % 20 == 0:
                metrics.write(step, held=4.2 / step**0.5)
        for name, records in files.items():
            (stage_.path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        stage_.fact(bits_per_byte=1.2, parameters=1000, tokens_seen=99)
    return load(path, kind)


def speed(mfu: float | None = 1e-5, memory: int | None = 3 << 30) -> list[dict[str, Any]]:
    return [
        {"step": s, "tokens_per_second": 9000.0 + s, "mfu": mfu and mfu * (9000 + s), "memory": memory}
        for s in range(1, STEPS + 1)
    ]


INCIDENTS = [
    {"step": 7, "kind": "not finite", "loss": None, "grad_norm": None, "documents": list("abcdefg")},
    {"step": 8, "kind": "not finite", "loss": None, "grad_norm": None, "documents": ["<i>"]},
    {"step": 40, "kind": "spike", "loss": 9.5, "grad_norm": 120.0, "documents": [12, 13]},
]


def words(svg: str) -> list[str]:
    return [text.strip() for text in ET.fromstring(svg).itertext() if text.strip()]


def test_every_panel_says_what_it_shows(tmp_path: Path) -> None:
    made = run(tmp_path / "a", throughput=speed(), incidents=INCIDENTS)
    svg = training.figure(made, [LOSS, RATE, NORM], 9)
    assert svg is not None
    said = words(svg)
    labels = ["loss, nats", "learning rate", "gradient norm", "MFU, %", "tokens a second", "memory, GiB"]
    assert [word for word in said if word in labels] == labels
    assert {"training", "held out", "skipped: not finite (2)", "loss spike (1)"} <= set(said)
    assert said.count("step") == 5, "every panel has its axis named"


def test_old_runs_have_no_speed_and_no_incidents(tmp_path: Path) -> None:
    svg = training.figure(run(tmp_path / "a"), [LOSS, NORM], 9)
    assert svg is not None
    said = words(svg)
    assert said.count("step") == 2 and not any("tokens" in word or "skipped" in word for word in said)


@pytest.mark.parametrize(
    ("mfu", "memory", "absent"), [(None, 3 << 30, "MFU, %"), (1e-5, None, "memory, GiB")]
)
def test_what_was_not_measured_is_left_out(
    tmp_path: Path, mfu: float | None, memory: int | None, absent: str
) -> None:
    svg = training.figure(run(tmp_path / "a", throughput=speed(mfu, memory)), [LOSS], 9)
    assert svg is not None and absent not in words(svg) and "tokens a second" in words(svg)


def test_nothing_recorded_is_nothing_drawn(tmp_path: Path) -> None:
    assert training.figure(run(tmp_path / "a", steps=0), [LOSS, RATE], 9) is None
    made = run(tmp_path / "b")
    (made.path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n')
    assert training.figure(made, [LOSS], 9) is None


@given(
    st.lists(st.floats(-1e3, 1e3) | st.none(), max_size=2000),
    st.integers(1, 20),
)
def test_a_curve_is_bounded_and_hides_nothing(values: list[float | None], smooth: int) -> None:
    records = [{"step": i + 1, "loss": value} for i, value in enumerate(values)]
    one = training.series(records, "loss", "x", smooth)
    known = [(r["step"], r["loss"]) for r in records if r["loss"] is not None]
    assert len(one.x) == len(one.y) <= training.POINTS
    if known:
        lows, highs = one.low or one.y, one.high or one.y
        assert min(lows) == min(v for _, v in known) and max(highs) == max(v for _, v in known)
        assert all(low - 1e-9 <= y <= high + 1e-9 for low, y, high in zip(lows, one.y, highs))
        assert known[0][0] <= min(one.x) and max(one.x) <= known[-1][0]
    else:
        assert not one.x


@pytest.mark.parametrize("smooth", [1, 9])
def test_the_band_reaches_every_spike(smooth: int) -> None:
    records = [
        {"step": step, "loss": 2.0 + (step == 333) * 7 - (step == 500) * 1.5} for step in range(1, 1001)
    ]
    one = training.series(records, "loss", "x", smooth)
    assert one.low is not None and one.high is not None
    assert [max(one.high), min(one.low)] == [9.0, 0.5] and max(one.y) < 4
    assert abs(one.x[list(one.high).index(9.0)] - 333) < 10 and len(one.x) <= training.POINTS


def test_a_curve_of_few_points_is_drawn_as_it_is() -> None:
    records = [{"step": i, "loss": float(i)} for i in range(5)]
    one = training.series(records, "loss", "x", 9)
    assert (list(one.x), list(one.y), one.low) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], None)


@pytest.mark.parametrize(
    ("low", "high"), [(2.1, 6.9), (0.5, 1.6), (2.44, 2.51), (1e-6, 3e2), (3.0, 3.0), (0.99, 1.01)]
)
def test_a_logarithmic_axis_has_plain_numbers_and_not_too_many(low: float, high: float) -> None:
    figure, axes = figures.canvas(3, 2)
    axes.plot([0, 1], [low, high])
    figures.log_scale(axes, low, high)
    inside = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert 1 <= len(inside) <= 10
    assert [float(text.get_text()) for text in axes.get_yticklabels()] == pytest.approx(
        axes.get_yticks(), rel=6e-3
    )
    figures.svg_text(figure)


@pytest.mark.parametrize(
    ("value", "text"), [(12_000, "12k"), (4_194_304, "4.194M"), (0.0002, "2e-4"), (0, "0"), (-1.5, "-1.5")]
)
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert figures._short_number(value) == text


def test_the_page_shows_curves_incidents_and_documents(tmp_path: Path) -> None:
    made = run(tmp_path / "base", throughput=speed(), incidents=INCIDENTS)
    page = stage.render(ReportConfig(), {"base": made})
    assert "tokens a second" in page and "loss spike (1)" in page and "1.200" in page
    assert "a, b, c, d, e and 2 more" in page and "&lt;i&gt;" in page and "12, 13" in page
    many = [{**INCIDENTS[0], "step": step} for step in range(1, 31)]
    page = stage.render(ReportConfig(), {"base": run(tmp_path / "many", incidents=many)})
    assert "18 more stand in incidents.jsonl" in page and page.count("a, b, c, d, e and 2 more") == 12


def test_first_and_last_samples_are_shown(tmp_path: Path) -> None:
    samples = [
        {"label": label, "text": f"{label} {i}"} for label in ("before", "mid", "after") for i in range(6)
    ]
    page = stage.render(ReportConfig(samples=2), {"base": run(tmp_path / "base", samples=samples)})
    shown = re.findall(r"<dd>\s*(.*?)</dd>", page)
    assert shown == ["before 0", "before 1", "after 4", "after 5"]


def test_a_theme_may_set_every_ink(tmp_path: Path) -> None:
    svg = training.figure(run(tmp_path / "a", throughput=speed(), incidents=INCIDENTS), [LOSS, RATE], 9)
    assert svg is not None
    page = figures.themed(svg)
    assert "#000000" in svg and "#000000" not in page and "currentColor" in page
    assert "var(--c0, #5b4ccc)" in page and not re.search(
        r"[: ]#5b4ccc", page.replace("var(--c0, #5b4ccc)", "")
    )
    style = (Path(stage.__file__).parent / "page.html").read_text(encoding="utf-8")
    dark = style[style.index("prefers-color-scheme: dark") :]
    assert {f"--c{number}:" for number in range(len(figures.COLOURS))} <= set(
        dark.split()
    ) and "--tie:" in dark


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    made = run(tmp_path / "a", throughput=speed(), incidents=INCIDENTS)
    assert len({training.figure(made, [LOSS, RATE, NORM], 9) for _ in range(2)}) == 1
