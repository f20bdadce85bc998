"""Every command of README.md is run here, as it is written there; what cannot be run here says why."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_hub
import pytest

from openqwen.cli import COMMANDS
from openqwen.tour import STEPS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import run  # noqa: E402

PATIENCE = 120  # seconds until a command that says nothing is taken for hanging
_COMMAND = re.compile(r"(?:openqwen|python3?|pip|git|cd|source|export|torchrun|curl)\s")
# command -> why it is not run: these two install the environment and start the very tests that stand here
FORM_ONLY = {
    "python3 run.py tour": "takes minutes; tests/tour runs the same stages at their smallest",
    "python3 run.py test": "is what runs this test",
}
SCORED = "openqwen data build --input PATH --out out/scored --quality.drop false"
PAGES = (
    "The old bridge was closed on Monday after an engineer found cracks in two of its arches. Traffic now goes "
    "around by the mill, which takes ten minutes longer, and the baker says that fewer people stop at her shop. "
    "The council wants to repair the stones before winter; it has asked three firms what that would cost. Until "
    "they answer, walkers may still cross on the northern side, where a wooden path has been laid.",
    "Bread needs four things: flour, water, salt and time. Mix them in a bowl with your hand, cover the dough with "
    "a cloth, and leave it overnight in a cool room. In the morning it will have doubled. Fold it twice, let it "
    "rest while the oven gets hot, then bake it in an iron pot with the lid on. After half an hour take the lid "
    "off, so that the crust can turn brown. Wait until the loaf is cold before you cut it, although nobody does.",
    "A thermometer of glass works because liquids grow when they are warmed. The bulb at the bottom holds most of "
    "the alcohol, and the only way out is a tube as thin as a hair, so a small change of volume becomes a long "
    "way on the scale. Early makers marked two points, melting ice and boiling water, and divided what lay "
    "between. They did not know that pressure moves the second point, which is why their instruments disagreed.",
)


def commands(text: str) -> list[str]:
    """Each command of a Markdown text once: lines of code blocks, code in tables and in sentences."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}(.*)$", rest, re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", rest)
    lines = [line for block in blocks for line in block.split("\n")] + indented + spans
    bare = (re.sub(r"\s+#.*", "", line).strip() for line in lines)
    return list(dict.fromkeys(line for line in bare if _COMMAND.match(line)))


README = commands((ROOT / "README.md").read_text(encoding="utf-8"))


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """`openqwen ...` in this interpreter, as a process of its own."""
    words = shlex.split(command)
    assert words[0] == "openqwen"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENQWEN_")}
    return subprocess.Popen(
        [sys.executable, "-m", "openqwen", *words[1:]],
        cwd=folder,
        env={**environment, "COLUMNS": "200"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def output(command: str, folder: Path, typed: str = "") -> str:
    """What the command prints. It must end well and have nothing to complain about."""
    process = start(command, folder)
    try:
        out, err = process.communicate(typed, timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0 and "error:" not in err and "Traceback" not in err, out + err
    return out


def every_command_is_listed(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert all(re.search(rf"^\W*{name}\s", shown, re.MULTILINE) for name, _, _ in COMMANDS)


def plan_names_every_step(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert len(re.findall("would run", shown)) == len(STEPS)
    assert all(step.title in shown for step in STEPS) and list(folder.iterdir()) == []


def settings_have_sources(command: str, folder: Path) -> None:
    shown = output(command, folder)
    row = next(line for line in shown.split("\n") if line.startswith("kl_coef"))
    assert "0.04" in row and "report §3.2.2" in row
    assert re.search(r"recipe tour, line \d+\s*$", shown, re.MULTILINE)  # and who set what is not the default


def recipe_has_sources(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert re.search(r"^optim\.lr +0\.0003 +report Table 1 ", shown, re.MULTILINE)
    assert re.search(r"^model\.hidden_size +4096 +report", shown, re.MULTILINE)


def funnel_of_pages(command: str, folder: Path) -> list[dict[str, int]]:
    """The funnel of a corpus that the command builds of the pages above."""
    pages = folder / "pages"
    pages.mkdir()
    for number, text in enumerate(PAGES):
        page = f"<html><head><title>{number}</title></head><body><main><p>{text}</p></main></body></html>"
        (pages / f"{number}.html").write_text(page, encoding="utf-8")
    output(command.replace("PATH", "pages"), folder)
    corpus = folder / command.partition("--out ")[2].split()[0]
    assert (corpus / "DONE").is_file()
    funnel: list[dict[str, int]] = json.loads((corpus / "stats.json").read_text(encoding="utf-8"))["funnel"]
    assert funnel[0]["in"] == len(PAGES)
    return funnel


def documents_become_a_corpus(command: str, folder: Path) -> None:
    assert funnel_of_pages(command, folder)[-1]["out"] >= 1


def documents_are_scored(command: str, folder: Path) -> None:
    assert funnel_of_pages(command, folder)[-1]["out"] == len(PAGES)


def thresholds_are_previewed(command: str, folder: Path) -> None:
    documents_are_scored(SCORED, folder)
    output(command, folder)
    page = (folder / "out" / "scored.preview.html").read_text(encoding="utf-8")
    assert "quality.spam" in page and "<svg" in page


def model_scores_documents(command: str, folder: Path) -> None:
    documents_are_scored(SCORED, folder)
    output(command, folder)
    facts = json.loads((folder / "out" / "scores" / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["documents"] == len(PAGES)


def code_is_taken(command: str, folder: Path) -> None:
    checkout = folder / "checkout"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "tool.py").write_text(
        "# SPDX-License-Identifier: MIT\ndef twice(number):\n    return 2 * number\n"
    )
    (checkout / "closed.py").write_text("def secret():\n    return 'nobody may take this'\n")
    output(command.replace("PATH", "checkout"), folder)
    lines = (folder / "out" / "code" / "files.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("reason") for line in lines] == ["licence", None]


def problems_are_made(command: str, folder: Path) -> None:
    output(command, folder)
    lines = (folder / "out" / "math" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 4000 and "####" in json.loads(lines[0])["messages"][1]["content"]


def vocabulary_is_learnt(command: str, folder: Path) -> None:
    (folder / "pages.txt").write_text("\n".join(PAGES), encoding="utf-8")
    output(command.replace("PATH", "pages.txt"), folder)
    ranks = (folder / "out" / "tokenizer" / "vocab.tiktoken").read_text(encoding="utf-8")
    assert ranks.count("\n") > 300  # the 256 bytes and what the pages taught


def machine_is_described(command: str, folder: Path) -> None:
    shown = output(command, folder)
    found = {line.split()[0] for line in shown.split("\n") if line.strip()}
    assert {"python", "processors", "openqwen", "torch", "accelerator", "sandbox"} <= found


def every_check_holds(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert "FAILED" not in shown and re.search(r"\b1[0-9] ok\b", shown)


def needs_are_shown(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert "7,721,324,544" in shown and "checkpoint" in shown and "FLOPs" in shown


def prompts_are_chosen(command: str, folder: Path) -> None:
    asked = [
        {"prompt": f"{verb} a {noun}"} for verb in ("Draw", "Translate") for noun in PAGES[0].split()[:9]
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    assert "tags covered" in output(command.replace("PATH", "prompts.jsonl"), folder)
    assert (folder / "out" / "prompts" / "prompts.jsonl").read_text(encoding="utf-8").count("\n") == 8


def replies_are_drawn(command: str, folder: Path) -> None:
    asked = [{"prompt": f"What is {number} + 3?"} for number in range(4)]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    output(command.replace("PATH", "p.jsonl") + " --max_tokens 8", folder)
    replies = (folder / "out" / "replies" / "replies.jsonl").read_text(encoding="utf-8")
    assert replies.count('"text"') == 8


def pairs_are_made(command: str, folder: Path) -> None:
    replies_are_drawn("openqwen sample --prompts PATH --model out/tour/chat --out out/replies", folder)
    lines = (folder / "out" / "replies" / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    scores = [{"reply": json.loads(line)["id"], "score": number} for number, line in enumerate(lines)]
    (folder / "scores.jsonl").write_text("\n".join(map(json.dumps, scores)), encoding="utf-8")
    output(command.replace("PATH", "scores.jsonl"), folder)
    assert (folder / "out" / "pairs" / "DONE").is_file()


def family_tree_is_shown(command: str, folder: Path) -> None:
    shown = output(command, folder)
    for kind in ("reward", "tokens", "tokenizer", "corpus", "primer"):
        assert re.search(rf"\b{kind} [0-9a-f]{{12}}\b", shown), kind
    assert "(gone)" not in shown and "changed since" not in shown


def table_has_both_origins(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert "published" in shown and "ours" in shown and "74.78" in shown


def alternatives_stand_on_one_table(command: str, folder: Path) -> None:
    shown = output(command, folder)
    assert all(name in shown for name in ("chat", "ppo", "best of 16", "true reward"))


def table_is_filled(command: str, folder: Path) -> None:
    assert "ours: base" in output(command.replace("PATH", "out/tour/primer/benchmarks"), folder)


def numbers_are_verified(command: str, folder: Path) -> None:
    table_is_filled("openqwen table 2 --model out/tour/base --data PATH --out out/table2", folder)
    told = re.search(r"\b(\d+) of (\d+) numbers are the same", output(command, folder))
    assert told and told[1] == told[2] and int(told[1]) >= 5  # two more where programs may run


def lengths_are_read(command: str, folder: Path) -> None:
    (folder / "long.txt").write_text("\n\n".join(PAGES * 40), encoding="utf-8")
    output(command.replace("PATH", "long.txt"), folder)
    table = json.loads((folder / "out/context/table_03.json").read_text(encoding="utf-8"))
    ours = [row for row in table["rows"] if row["origin"] == "ours"]
    assert len(ours) == 4 and len(table["columns"]) > 2
    assert all(row["cells"][column["name"]]["value"] > 1 for row in ours for column in table["columns"])


def instructions_are_written(command: str, folder: Path) -> None:
    output(command, folder)
    assert (folder / "instructions.jsonl").read_text(encoding="utf-8").count("\n") == 150


def agent_has_tools(command: str, folder: Path) -> None:
    (folder / "tools.py").write_text(
        'def twice(number: int) -> int:\n    """Doubles a number."""\n    return 2 * number\n',
        encoding="utf-8",
    )
    assert "twice" in output(command.replace("PATH", "tools.py"), folder, "/tools\nhello\n/quit\n")


def server_has_tools(command: str, folder: Path) -> None:
    (folder / "tools.py").write_text(
        'def twice(number: int) -> int:\n    """Doubles a number."""\n    return 2 * number\n',
        encoding="utf-8",
    )
    with served(command.replace("PATH", "tools.py"), folder, "/health") as address:
        assert "twice" in urllib.request.urlopen(f"{address}/v1/models", timeout=10).read().decode()


def code_is_completed(command: str, folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "sums.py").write_text("def add_two(a, b):\n    return a + b\n", encoding="utf-8")
    file = folder / "code" / "main.py"
    file.write_text("from sums import add_two\n\ndef add_three(a, b, c):\n", encoding="utf-8")
    command = command.replace("FILE:LINE", "code/main.py:4").replace("FOLDER", "code")
    output(command, folder)
    assert "def add_two" in output(f"{command} --show-prompt", folder)


def curves_are_drawn(command: str, folder: Path) -> None:
    output(command, folder)
    page = (folder / "out" / "page" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") > 5 and "tokens" in page


def chat_answers(command: str, folder: Path) -> None:
    assert output(command, folder, "hello\n/help\n/quit\nnever read\n").count("/reset forgets") == 1
    assert "the conversation is empty" in output(command, folder, "hello\n/reset\n/quit\n")


def documents_are_reviewed(command: str, folder: Path) -> None:
    with served(command, folder, "/") as address:
        page = urllib.request.urlopen(address, timeout=10)
        assert "default-src 'none'" in page.headers["Content-Security-Policy"] and b"<script" in page.read()


def text_has_an_account(command: str, folder: Path) -> None:
    first = (folder / "out" / "tour" / "tokens" / "documents.train.jsonl").read_text(encoding="utf-8")
    ident = json.loads(first.split("\n", 1)[0])["id"]
    shown = output(command.replace('"TEXT"', shlex.quote(ident)), folder)
    assert "in the corpus" in shown and "(pretrain)" in shown


def benchmark_is_certified(command: str, folder: Path) -> None:
    output(command.replace("PATH", "out/tour/primer/benchmarks"), folder)
    assert "as they were" in output("openqwen data verify cert.json", folder)


def model_is_exported(command: str, folder: Path) -> None:
    output(command, folder)
    config = json.loads((folder / "qwen2" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert (folder / "qwen2" / "model.safetensors").stat().st_size > 1000


@contextmanager
def hub(name: str, folder: Path) -> Iterator[None]:
    """A hub on this machine that holds a tiny model of a name, for the commands that run meanwhile."""
    found = fake_hub.Hub({name: fake_hub.tiny_repository(folder / "repository")})
    with fake_hub.serving(found) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", address)
        patch.setenv("HF_HOME", str(folder / "cache"))
        yield


def released_model_answers(command: str, folder: Path) -> None:
    with hub(shlex.split(command)[2], folder):
        assert "/reset forgets" in output(command, folder, "hello\n/help\n/quit\n")


def released_model_is_imported(command: str, folder: Path) -> None:
    with hub(shlex.split(command)[2], folder):
        assert "layout = qwen1" in output(command, folder)
    assert (folder / "out" / "qwen" / "DONE").is_file()


def server_answers(command: str, folder: Path) -> None:
    with served(command, folder, "/health") as address:
        models = json.load(urllib.request.urlopen(f"{address}/v1/models", timeout=10))
        assert len(models["data"]) == 1


def models_are_compared(command: str, folder: Path) -> None:
    with served(command, folder, "/health") as address:
        models = json.load(urllib.request.urlopen(f"{address}/v1/models", timeout=10))
        assert [model["id"] for model in models["data"]] == ["rlhf", "sft"]
        what = json.load(urllib.request.urlopen(f"{address}/compare", timeout=10))
        assert what == {"reward": True, "preferences": True, "stored": 0}


def sandbox_is_proven(command: str, folder: Path) -> None:
    """Or refused: exit code 78 and what to install."""
    process = start(command, folder)
    out, err = process.communicate(timeout=PATIENCE)
    if process.returncode == 78:
        assert "fix:" in err and "Traceback" not in err
    else:
        assert process.returncode == 0 and out.startswith("backend "), out + err


@contextmanager
def served(command: str, folder: Path, path: str) -> Iterator[str]:
    """The address of a server that the command starts, once it answers at a path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(f"{command} --port {port}", folder)
    try:
        assert healthy(f"http://127.0.0.1:{port}{path}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()


def healthy(url: str, process: subprocess.Popen[str]) -> bool:
    """Asks until the server answers; False if it ended instead."""
    for _ in range(10 * PATIENCE):
        if process.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    return False


Check = Callable[[str, Path], None]
COMPARED = (
    "openqwen serve out/tour/rlhf --also sft=out/tour/chat --reward out/tour/reward --preferences out/chosen"
)
ALTERNATIVES = (
    "openqwen compare --model chat=out/tour/chat --model ppo=out/tour/rlhf --prompts "
    "out/tour/primer/prompts.heldout.jsonl --reward out/tour/reward --tokens out/tour/tokens --out out/compared "
    "--recipe tour"
)
ALONE: dict[str, Check] = {
    "openqwen --help": every_command_is_listed,
    "openqwen tour --plan": plan_names_every_step,
    "openqwen config show ppo --recipe tour": settings_have_sources,
    "openqwen show qwen-7b": recipe_has_sources,
    "openqwen data build --input PATH --out out/corpus": documents_become_a_corpus,
    SCORED: documents_are_scored,
    "openqwen data preview out/scored": thresholds_are_previewed,
    "openqwen data code --input PATH --out out/code": code_is_taken,
    "openqwen data math --out out/math": problems_are_made,
    "openqwen tokenizer train --text PATH --out out/tokenizer": vocabulary_is_learnt,
    "openqwen doctor": machine_is_described,
    "openqwen plan qwen-7b": needs_are_shown,
    "openqwen chat Qwen/Qwen-1_8B-Chat": released_model_answers,
    "openqwen import Qwen/Qwen-1_8B --out out/qwen": released_model_is_imported,
    "openqwen tags --prompts PATH --size 8 --out out/prompts": prompts_are_chosen,
    "openqwen annotate instructions --out instructions.jsonl": instructions_are_written,
    "openqwen selfcheck": every_check_holds,
    "openqwen sandbox doctor": sandbox_is_proven,
}
AFTER_A_TOUR: dict[str, Check] = {
    "openqwen sample --prompts PATH --model out/tour/chat --out out/replies": replies_are_drawn,
    "openqwen pairs --replies out/replies --scores PATH --out out/pairs": pairs_are_made,
    "openqwen show out/tour/rlhf": family_tree_is_shown,
    "openqwen data score --corpus out/scored --model out/tour/base --out out/scores": model_scores_documents,
    "openqwen data review out/tour/corpus": documents_are_reviewed,
    'openqwen data why out/tour/corpus "TEXT" --model out/tour/rlhf': text_has_an_account,
    "openqwen data certificate out/tour/corpus --benchmark PATH --out cert.json": benchmark_is_certified,
    "openqwen table 4": table_has_both_origins,
    "openqwen table 2 --model out/tour/base --data PATH --out out/table2": table_is_filled,
    "openqwen eval verify out/table2": numbers_are_verified,
    "openqwen extend --model out/tour/base --documents PATH --out out/context": lengths_are_read,
    "openqwen agent out/tour/rlhf --tools PATH": agent_has_tools,
    "openqwen serve out/tour/rlhf --tools PATH": server_has_tools,
    "openqwen complete FILE:LINE --model out/tour/base --repository FOLDER --stop function": code_is_completed,
    ALTERNATIVES: alternatives_stand_on_one_table,
    "openqwen report out/tour --out out/page": curves_are_drawn,
    "openqwen export out/tour/rlhf --format qwen2 --out qwen2": model_is_exported,
    "openqwen chat out/tour/rlhf": chat_answers,
    "openqwen serve out/tour/rlhf": server_answers,
    COMPARED: models_are_compared,
}


def test_every_command_is_run_or_excused() -> None:
    assert set(README) == {*FORM_ONLY, *ALONE, *AFTER_A_TOUR}


def test_commands_are_found_wherever_they_stand() -> None:
    block, row = "```\nopenqwen a  # why\n# no\n```\n", "| b | `openqwen b` |\n\n"
    text = f"{block}{row}Say `openqwen c --x`, not `openqwen`.\n\n    openqwen d\n    openqwen/\n"
    assert commands(text) == ["openqwen a", "openqwen d", "openqwen b", "openqwen c --x"]


@pytest.mark.parametrize("command", FORM_ONLY)
def test_form(command: str) -> None:
    _, script, *words = shlex.split(command)
    assert (ROOT / script).is_file()
    torch, rest = run.take_torch(words)
    assert torch is None and len(rest) == 1 and rest[0] in run.EXTRAS
    assert command in str(run.__doc__)


@pytest.mark.parametrize("command", ALONE)
def test_command(command: str, tmp_path: Path) -> None:
    ALONE[command](command, tmp_path)


@pytest.mark.parametrize("command", AFTER_A_TOUR)
def test_command_after_a_tour(command: str, finished_tour: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tour").symlink_to(finished_tour.resolve(), target_is_directory=True)
    AFTER_A_TOUR[command](command, tmp_path)
