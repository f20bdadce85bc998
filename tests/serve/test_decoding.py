"""Compiled decoding behind serve and chat: taken where it can be, and a line where it cannot."""

from __future__ import annotations

import io
import shutil

import pytest
import torch

from openqwen.core.errors import MissingTool, UsageError
from openqwen.engine import native
from openqwen.model import save_model
from openqwen.model.quantise import is_quantised
from openqwen.serve import chat
from openqwen.serve.decoding import use_compiled
from openqwen.serve.terminal import Engine as TerminalEngine

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    native.library.cache_clear()


@needs_compiler
def test_it_is_taken_where_it_can_be_and_not_where_it_is_not_wanted(model, capsys):
    assert use_compiled(model, None) and use_compiled(model, True)
    assert not use_compiled(model, False)
    assert capsys.readouterr() == ("", "")


def test_without_a_compiler_a_line_says_so_or_it_is_an_error(model, no_compiler, capsys):
    assert not use_compiled(model, None)
    out, err = capsys.readouterr()
    assert (
        out == ""
        and "without compiled code" in err
        and "needs a C++ compiler" in err
        and "apt install" in err
    )
    with pytest.raises(MissingTool, match="C\\+\\+ compiler"):
        use_compiled(model, True)
    assert not use_compiled(model, False) and capsys.readouterr().err == ""


@needs_compiler
def test_half_precision_and_a_folder_that_cannot_be_written(model, monkeypatch, tmp_path, capsys):
    half = type(model)(model.config).to(torch.float16)
    assert not use_compiled(half, None) and "float16" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    native.library.cache_clear()
    assert not use_compiled(model, None) and "XDG_CACHE_HOME" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no place"):
        use_compiled(model, True)


@needs_compiler
def test_chat_decodes_compiled_and_says_the_same(model, tokenizer, tmp_path, monkeypatch):
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    made = []

    class Spy(TerminalEngine):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append(self.compiled)

    monkeypatch.setattr("openqwen.serve.terminal.Engine", Spy)
    said = []
    for compiled in (None, False):
        out = io.StringIO()
        chat(
            tmp_path,
            temperature=0,
            max_tokens=20,
            compiled=compiled,
            source=io.StringIO("hello\n"),
            target=out,
        )
        said.append(out.getvalue())
    assert made == [True, False] and said[0] == said[1] != "\n"


@needs_compiler
def test_chat_with_fewer_bits(model, tokenizer, tmp_path, monkeypatch, capsys):
    """The flags reach the engine, what they save is said, and that there is no compiled code for them."""
    pytest.importorskip("torchao")
    save_model(model, tmp_path)
    tokenizer.save(tmp_path)
    made = []

    class Spy(TerminalEngine):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append((is_quantised(self.model), self.held, self.compiled))

    monkeypatch.setattr("openqwen.serve.terminal.Engine", Spy)
    for bits in ({"quantise": "int8"}, {"quantise": "int4"}, {"cache": "int8"}):
        source, target = io.StringIO("hello\n"), io.StringIO()
        chat(tmp_path, temperature=0, max_tokens=5, source=source, target=target, **bits)
        assert target.getvalue()
    assert made == [(True, None, True), (True, None, False), (False, "int8", False)]
    out, err = capsys.readouterr()
    assert "weights in int8" in out and "MiB instead of" in out
    assert "no int4 weights" in err and "no int8 cache" in err
