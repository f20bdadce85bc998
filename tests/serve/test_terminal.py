"""The terminal chat through a pipe and interrupted."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from openqwen.engine import Engine, Sampling
from openqwen.serve.terminal import Conversation, converse, printable


@pytest.fixture
def conversation(model, tokenizer):
    return Conversation(
        Engine(model, tokenizer, max_batch=1, max_length=500), Sampling(max_tokens=12, seed=2)
    )


def talk(conversation: Conversation, text: str) -> str:
    out = io.StringIO()
    converse(conversation, io.StringIO(text), out)
    return out.getvalue()


def test_questions_from_a_pipe_are_answered_in_order(conversation):
    out = talk(conversation, "hello\n\nagain")
    said = [m["content"] for m in conversation.messages if m["role"] == "assistant"]
    assert len(said) == 2 and out == "".join(s + "\n" for s in said)
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 2


def test_commands(conversation):
    out = talk(conversation, "hello\n/system Be brief.\n/help\nhi\n/quit\nnever read\n")
    assert conversation.system == "Be brief." and len(conversation.messages) == 2
    assert "/reset" in out
    talk(conversation, "/reset\n")
    assert conversation.messages == [] and conversation.system == "Be brief."


def test_interrupt_stops_the_reply_and_keeps_it(conversation):
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 4:
            raise KeyboardInterrupt

    conversation.reply("hello", show)
    assert shown[-1] == " [stopped]" and len(shown) == 5
    assert conversation.messages[-1]["content"] == "".join(shown[:-1])
    assert len(conversation.engine.scheduler) == 0
    assert conversation.reply("and now?", lambda _: None)


def test_old_turns_go_when_the_context_is_full(conversation):
    for i in range(14):
        talk(conversation, f"question {i} " * 3)
    assert 2 < len(conversation.messages) < 20
    assert conversation.messages[0]["role"] == "user"


def test_too_long_a_question_is_an_error_and_the_chat_goes_on(conversation):
    out = talk(conversation, "x" * 1000 + "\nshort\n")
    assert "exceed the context" in out
    assert conversation.messages[0]["content"] == "short"


@pytest.mark.fault("server", "a reply holds escape sequences", "they do not reach the terminal")
def test_escape_sequences_do_not_reach_the_terminal():
    assert printable("a\x1b[31mb\n\tc\x07\x9bd\x7f") == "a[31mb\n\tcd"


def test_importing_serve_and_engine_imports_no_torch():
    code = "import sys, openqwen.serve, openqwen.engine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_chat_with_a_saved_model(model, tokenizer, tmp_path):
    from openqwen.model import save_model
    from openqwen.serve import chat

    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    out = io.StringIO()
    chat(tmp_path, max_tokens=5, source=io.StringIO("hello\n"), target=out)
    assert out.getvalue().endswith("\n") and len(out.getvalue()) > 1
