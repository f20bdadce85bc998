"""What a person sees of a loss mask, and that no file drives the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openqwen.chat import chatml
from openqwen.chat.colour import BAD_SHOWN, colour, show_chat, visible
from openqwen.core.errors import DataError
from openqwen.tokenizer import Tokenizer
from openqwen.tokenizer.train import byte_ranks

TOK = Tokenizer(byte_ranks())
TALK = [
    {"role": "user", "content": "[bold]hi[/] :smile: <|im_end|>\tx"},
    {"role": "assistant", "content": "你好 <|im_end|>\n"},
]


def shown(path: Path, *, colours: bool = False, no_color: bool = False, **options: object) -> str:
    """What a console, by default one without colours, gets to see."""
    file = io.StringIO()
    system: Literal["standard"] | None = "standard" if colours else None
    out = Console(file=file, force_terminal=colours, color_system=system, no_color=no_color, soft_wrap=True)
    show_chat(path, TOK, out=out, **options)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("mask", ["report", "released-script"])
def test_brackets_hold_what_is_trained_and_the_rest_is_the_conversation(mask: chatml.Mask) -> None:
    ids, trained = chatml.render(TALK, TOK, mask=mask)
    plain = colour(ids, trained, TOK, brackets=True).plain
    assert plain.replace("«", "").replace("»", "") == chatml.as_text(TALK)
    inside = "".join(part.partition("»")[0] for part in plain.split("«")[1:])
    assert inside == TOK.decode([i for i, is_trained in zip(ids, trained) if is_trained])
    assert colour(ids, trained, TOK).plain == chatml.as_text(TALK)


def test_colours_tell_trained_from_masked_and_control_from_text() -> None:
    ids, trained = chatml.render(TALK, TOK)
    text = colour(ids, trained, TOK)
    styled = [(text.plain[s.start : s.end], str(s.style).split()) for s in text.spans]
    for part, style in styled:
        assert ("green" in style) == ("你好" in part or (part, style) == styled[-2])
        assert ("underline" in style) == (part in ("<|im_start|>", "<|im_end|>"))
    assert sum(part.count("<|im_end|>") for part, style in styled if "underline" not in style) == 2


def test_text_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "[red]talk.jsonl"
    path.write_text(json.dumps({"messages": TALK}) + "\n", encoding="utf-8")
    ids, trained = chatml.render(TALK, TOK)
    text = shown(path)
    assert f"{path}:1: {sum(trained)} of {len(ids)} tokens trained\n" in text
    assert text.endswith(colour(ids, trained, TOK, brackets=True).plain + "\n")
    coloured = shown(path, colours=True)
    assert "\x1b[" in coloured and "«" not in coloured and "[bold]hi[/] :smile: <|im_end|>\tx" in coloured
    assert "«" in shown(path, colours=True, no_color=True)  # bold alone could not be told from dim


@pytest.mark.fault("tokenizer", "a conversation holds terminal escape sequences", "shown, not obeyed")
@given(st.text())
def test_no_text_drives_the_terminal(text: str) -> None:
    safe = visible(text)
    assert all(c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) for c in safe)
    if text.isprintable():
        assert safe == text


def test_escapes_and_reordering_marks_are_shown(tmp_path: Path) -> None:
    content = "\x1b[2J\x1b]0;title\x07 a\rb \x9b31m \u202egnp.exe \x00"
    written = r"\x1b[2J\x1b]0;title\x07 a\rb \x9b31m \u202egnp.exe \x00"
    path = tmp_path / "evil\x1b.jsonl"
    record = {"messages": [{"role": "user", "content": content}]}
    path.write_text(json.dumps(record) + '\n{"messages": [{"role": "\\u001b[2J", "content": ""}]}\n')
    file = io.StringIO()
    with pytest.raises(DataError) as caught:
        show_chat(path, TOK, out=Console(file=file, soft_wrap=True))
    assert written in file.getvalue() and r"unknown role '\x1b[2J'" in file.getvalue()
    assert not set(file.getvalue() + str(caught.value)) & {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\0"}


def test_bad_records_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    good = json.dumps({"messages": TALK})
    path.write_text("\n".join([good, "{", "", '{"text": 1}', good]) + "\n")
    file = io.StringIO()
    with pytest.raises(DataError) as caught:
        show_chat(path, TOK, out=Console(file=file, soft_wrap=True))
    text = file.getvalue()
    wanted = ((1, "19 of"), (2, "skipped: not JSON"), (4, "skipped: none of"), (5, "19 of"))
    places = [text.index(f"{path}:{line}: {what}") for line, what in wanted]
    assert places == sorted(places)
    assert "2 of 4 records" in caught.value.what and caught.value.where == f"{path}:2"


def test_a_file_of_something_else_does_not_flood(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"text": 1}\n' * 1000)
    file = io.StringIO()
    with pytest.raises(DataError, match="1000 of 1000 records"):
        show_chat(path, TOK, out=Console(file=file, soft_wrap=True))
    assert file.getvalue().count("skipped") == BAD_SHOWN


def test_limit_counts_conversations_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text((json.dumps({"messages": TALK}) + "\n") * 3 + "broken\n")
    assert shown(path, limit=2).count("tokens trained") == 2
    with pytest.raises(DataError, match="1 of 4"):
        shown(path)
