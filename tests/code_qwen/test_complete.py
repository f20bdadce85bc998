"""`openqwen complete` and the engine under it: a completion ends where its rule says, and is printed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_artefacts
import torch
from hypothesis import given
from hypothesis import strategies as st

from openqwen.cli import main
from openqwen.code_qwen.stop import StopRule
from openqwen.engine.constraint import Constraint
from openqwen.engine.engine import Engine
from openqwen.engine.sampling import Sampling
from openqwen.engine.text import TextStream
from openqwen.model import Qwen, save_model
from openqwen.model.config import ModelConfig

TOKENIZER = tiny_artefacts.byte_tokenizer()
BEFORE = "def double(x):\n"
BODY = "    # é\n    return 2 * x"
MORE = "\n\n\nprint(double(2))\n"


@pytest.fixture(scope="module")
def model() -> Qwen:
    torch.set_num_threads(1)
    shape = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=32, num_layers=1, num_heads=2, max_length=256
    )
    made = Qwen(shape)
    made.init_weights(3)
    return made.eval()


def test_the_engine_ends_a_reply_where_its_function_ends(model: Qwen) -> None:
    engine = Engine(model, TOKENIZER)
    wanted = Constraint.choice([BODY + MORE])  # what any model then writes
    sampling = Sampling(
        temperature=0, max_tokens=200, constraint=wanted, cutter=StopRule("function", "python", BEFORE)
    )
    first, second = engine.generate([BEFORE, BEFORE], sampling)
    assert first.text == second.text == BODY and first.stop == "function" and first.finish_reason == "stop"
    assert TOKENIZER.decode(first.ids) == BODY + MORE[:4]  # not a token is drawn after the one that shows it
    updates = list(engine.stream(BEFORE, sampling))
    assert "".join(update.text for update in updates) == BODY
    whole = engine.generate([BEFORE], Sampling(temperature=0, max_tokens=200, constraint=wanted))[0]
    assert whole.text == BODY + MORE


@given(
    st.lists(st.sampled_from(["    x", "\n", "y", "é", "#", " ", "STOP"]), max_size=20).map("".join),
    st.sampled_from([(), ("STOP",), ("y\n",)]),
)
def test_stop_strings_and_a_rule_together(text: str, stop: tuple[str, ...]) -> None:
    rule = StopRule("function", "python", "def f():\n")
    stream = TextStream(TOKENIZER, stop, rule)
    passed = ""
    for token in text.encode():
        passed += stream.push(token)
    passed += stream.finish()
    until = min((text.find(s) for s in stop if s in text), default=len(text))
    alone = rule.start()
    assert passed == stream.text == alone.cut(text[:until])
    by = "function" if alone.ended else next((s for s in stop if s in text), None)
    assert stream.stopped == by


@pytest.fixture
def saved(model: Qwen, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_model(model, folder)
    TOKENIZER.save(folder)
    return folder


def test_the_command_prints_the_completion_alone(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "r"
    root.mkdir()
    (root / "a.py").write_text("from b import triple\n" + BEFORE + "    return 2\n", encoding="utf-8")
    (root / "b.py").write_text("def triple(x):\n    return 3 * x\n", encoding="utf-8")
    (root / "c.py").write_text("value = other\n" * 40, encoding="utf-8")
    words = [
        "complete",
        f"{root / 'a.py'}:2",
        "--model",
        str(saved),
        "--max-tokens",
        "20",
        "--compiled=false",
    ]
    assert main([*words, "--repository", str(root), "--show-prompt"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"# b.py\ndef triple(x):\n    return 3 * x\n\n# a.py\nfrom b import triple\n{BEFORE}"
    assert f"prompt: {len(shown.out)} of 236 tokens" in shown.err and "without c.py (no room)" in shown.err
    assert main([*words, "--repository", str(root), "--stop", "line"]) == 0
    completion = capsys.readouterr().out
    prompt = TOKENIZER.encode(shown.out)
    (known,) = Engine(model_of(saved), TOKENIZER).generate([prompt], Sampling(temperature=0, max_tokens=20))
    assert completion.rstrip("\n") == StopRule("line").cut(known.text).rstrip("\n")
    assert main([*words]) == 0
    assert "with b.py" not in capsys.readouterr().err


def model_of(folder: Path) -> Qwen:
    from openqwen.model import load_model

    return load_model(folder)


@pytest.mark.parametrize(
    ("name", "more", "code", "said"),
    [
        ("absent.py", [], 2, "no such file"),
        ("a.py:9", [], 2, "line 9 of 2"),
        ("a.pl", ["--stop", "function"], 2, "not known in perl"),
        ("a.py", ["--max-tokens", "256"], 2, "leave no room"),
        ("a.bin", [], 4, "no known language"),
        ("a.py", ["--repository", "nowhere"], 2, "no folder there"),
    ],
)
def test_what_cannot_be_completed_says_why(
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    more: list[str],
    code: int,
    said: str,
) -> None:
    for file in ("a.py", "a.pl", "a.bin"):
        (tmp_path / file).write_text("x = 1\n", encoding="utf-8")
    assert main(["complete", str(tmp_path / name), "--model", str(saved), *more]) == code
    assert said in capsys.readouterr().err
