"""The tour from end to end at its smallest size: all rooms, restart, interruption, what a newcomer sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openqwen.core import artifact
from openqwen.tour import RECIPES, STEPS, resolve_all

SMOKE = Path(__file__).with_name("smoke.toml")


def command(out: Path, *more: str, recipe: Path = SMOKE) -> list[str]:
    return [
        sys.executable,
        "-m",
        "openqwen",
        "tour",
        "--out",
        str(out),
        "--recipe",
        str(recipe),
        "--no-chat",
        *more,
    ]


def plan(out: Path, recipe: Path = SMOKE) -> dict[str, str]:
    """Step -> "up to date" or "would run"."""
    done = subprocess.run(command(out, "--plan", recipe=recipe), capture_output=True, text=True, check=True)
    return {line.split()[1]: " ".join(line.split()[2:]) for line in done.stdout.strip().split("\n")}


def up_to_date(out: Path, recipe: Path = SMOKE) -> list[str]:
    return [name for name, state in plan(out, recipe).items() if state.startswith("up to date")]


def test_every_step_is_an_artefact_with_its_story(finished_tour: Path) -> None:
    for step in STEPS:
        found = artifact.find(finished_tour / step.name)
        assert found is not None, step.name
        manifest = found.manifest
        assert (
            set(manifest["inputs"]) == set(step.inputs)
            and manifest["outputs"]
            and manifest["environment"]["python"]
        )
        assert (found.path / "config.toml").is_file() and (found.path / "origin.json").is_file()
        for name, digest in manifest["outputs"].items():
            assert artifact.sha256_file(found.path / name) == digest, (step.name, name)


def test_log_shows_headers_samples_and_closing_numbers(finished_tour: Path) -> None:
    log = (finished_tour / "log.txt").read_text(encoding="utf-8")
    for number, step in enumerate(STEPS, 1):
        assert f"[{number}/{len(STEPS)}] {step.title}" in log and step.why in log
    assert "tok/s" in log and "before: " in log and "after: " in log
    for label in (
        "bits per byte (5-gram)",
        "true preference score",
        "right tool chosen",
        "reward model on held-out pairs",
    ):
        assert label in log
    assert "report.html" in log and "openqwen serve" in log


def test_report_page_has_every_part(finished_tour: Path) -> None:
    page = (finished_tour / "report" / "report.html").read_text(encoding="utf-8")
    anchors = (
        "lineage",
        "corpus",
        "vocabulary",
        "base",
        "context",
        "chat",
        "reward",
        "rlhf",
        "preference",
        "tools",
        "tables",
    )
    for anchor in anchors:
        assert f'id="{anchor}"' in page
    for number in (2, 3, 4, 5, 6, 10, 12):
        assert f"Table {number}." in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_every_cell_of_ours_has_a_manifest(finished_tour: Path) -> None:
    for path in (finished_tour / "evals").glob("table_*.json"):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            if row["origin"] == "ours":
                assert all(
                    cell["manifest"] and cell["low"] <= cell["value"] <= cell["high"]
                    for cell in row["cells"].values()
                )


def test_finished_tour_restarts_at_once_without_torch(finished_tour: Path) -> None:
    begun = time.monotonic()
    done = subprocess.run(command(finished_tour), capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begun
    assert done.stdout.count("already made") == len(STEPS)
    assert seconds < 4, f"{seconds:.1f} s"  # under one on an idle machine; tests share theirs
    code = f"import sys; from openqwen.cli import main; main({command(finished_tour)[3:]!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def changed(tmp_path: Path, text: str) -> Path:
    """The smoke recipe with something appended."""
    path = tmp_path / "changed.toml"
    path.write_text(SMOKE.read_text(encoding="utf-8").replace(*text.split(" -> ")), encoding="utf-8")
    return path


def test_a_changed_setting_reruns_only_what_depends_on_it(finished_tour: Path, tmp_path: Path) -> None:
    stale = set(plan(finished_tour)) - set(
        up_to_date(finished_tour, changed(tmp_path, "limit = 6 -> limit = 5"))
    )
    assert stale == {"agent", "report"}
    everything = up_to_date(finished_tour, changed(tmp_path, "vocab_size = 1024 -> vocab_size = 1023"))
    assert everything == ["primer", "corpus"]


@pytest.fixture
def half(finished_tour: Path, tmp_path: Path) -> Path:
    """A tour whose base model is still to be made."""
    out = tmp_path / "half"
    for step in STEPS[:4]:
        shutil.copytree(finished_tour / step.name, out / step.name)
    return out


def start_until(out: Path, mark: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 60
    while not mark.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    assert mark.exists()
    return process


@pytest.mark.fault("artefacts", "a whole recipe is killed", "continues at the stage it had reached")
def test_killed_tour_continues_at_the_stage_reached(half: Path) -> None:
    process = start_until(half, half / "base" / "STARTED")
    process.kill()
    process.communicate()
    assert artifact.find(half / "base") is None
    assert up_to_date(half) == ["primer", "corpus", "tokenizer", "tokens"]


@pytest.mark.fault("artefacts", "Ctrl-C in a recipe", "said, exit code 130")
def test_interrupted_tour_says_so_and_exits_130(half: Path) -> None:
    process = start_until(half, half / "base" / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert artifact.find(half / "base") is None


@pytest.mark.fault("artefacts", "two recipes in one folder", "the second is refused")
def test_two_tours_in_one_folder_refuse_each_other(half: Path) -> None:
    process = start_until(half, half / "base" / "STARTED")
    try:
        second = subprocess.run(command(half), capture_output=True, text=True)
        assert second.returncode == 2 and "another process" in second.stderr
    finally:
        process.kill()
        process.communicate()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = subprocess.run(command(tmp_path / "file" / "out"), capture_output=True, text=True)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr


def test_sizes_scale_up() -> None:
    sizes = [resolve_all(RECIPES[size]) for size in ("small", "laptop", "gpu")]
    widths = [s["pretrain"].config.model.hidden_size for s in sizes]
    assert widths == sorted(set(widths)), "each size is wider than the one before"


def test_the_official_client_chats_with_the_result(finished_tour: Path) -> None:
    from openai import OpenAI

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["serve", str(finished_tour / "rlhf"), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "openqwen", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=20, timeout=60)
        name = client.models.list().data[0].id
        message = [{"role": "user", "content": "What is 3 + 4?"}]
        whole = client.chat.completions.create(model=name, messages=message, max_tokens=8, temperature=0)
        stream = client.chat.completions.create(
            model=name, messages=message, max_tokens=8, temperature=0, stream=True
        )
        parts = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert whole.choices[0].message.content == parts
        assert whole.usage.completion_tokens <= 8
    finally:
        process.terminate()
        assert process.wait(20) is not None
