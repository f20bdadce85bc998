"""Errors, files and edges of the tokenizer."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openqwen.core.errors import DataError, MissingTool, UsageError
from openqwen.tokenizer import Tokenizer, bpe, encoders, load_tokenizer, runs
from openqwen.tokenizer.encoders import GigatokenEncoder, disagreement, make_encoder
from openqwen.tokenizer.pattern import normalise
from openqwen.tokenizer.train import byte_ranks


def test_layout_of_ids(small: Tokenizer) -> None:
    ranks = len(small.ranks)
    assert small.vocab_size == ranks + 208
    assert (small.eos_id, small.im_start_id, small.im_end_id) == (ranks, ranks + 1, ranks + 2)
    assert small.special["<|extra_0|>"] == ranks + 3 and small.special["<|extra_204|>"] == ranks + 207


@pytest.mark.parametrize("text", ["", "\x00", "\x00\x01", "\ufffe", "e\u0301", "a\r\nb", "\U0010ffff"])
def test_edges_round_trip(small: Tokenizer, text: str) -> None:
    assert small.decode(small.encode(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.fault("tokenizer", "text holds lone surrogates", "replaced, as in the release")
def test_lone_surrogates_become_the_replacement_character(small: Tokenizer) -> None:
    assert small.decode(small.encode("a\ud800b")) == "a\ufffdb"
    assert small.decode(small.encode("\ud83d\ude00")) == "😀"  # two halves that belong together


def test_bytes_are_refused_with_advice(small: Tokenizer) -> None:
    with pytest.raises(DataError, match="must be str, not bytes"):
        small.encode(b"caf\xe9")  # type: ignore[arg-type]


@pytest.mark.fault("tokenizer", "ids are negative or too large", "named in an error")
@pytest.mark.parametrize("bad", [-1, 10**6, 3.5, None, "a", [1]])
def test_ids_outside_the_vocabulary_are_named(small: Tokenizer, bad: object) -> None:
    with pytest.raises(DataError, match="is outside the vocabulary") as error:
        small.decode([1, 2, bad])  # type: ignore[list-item]
    assert repr(bad) in error.value.what and error.value.where == "position 2 of 3"


def test_ids_may_come_from_arrays(small: Tokenizer) -> None:
    ids = small.encode("the dog")
    assert small.decode(np.array(ids, np.uint16)) == "the dog" == small.decode(iter(ids))


def test_error_modes(small: Tokenizer) -> None:
    ids = [small.ranks[b"\xe4"], small.ranks[b"a"]]
    assert small.decode(ids) == "\ufffda" and small.decode(ids, errors="ignore") == "a"
    with pytest.raises(DataError, match="not valid UTF-8"):
        small.decode(ids, errors="strict")
    with pytest.raises(UsageError, match="unknown"):
        small.decode(ids, errors="loose")


def test_special_names_are_checked(small: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"Did you mean '<\|im_end\|>'"):
        small.encode("x", allowed_special={"<|im_ent|>"})
    with pytest.raises(UsageError, match="'all' or a set"):
        small.encode("x", allowed_special="<|im_end|>")
    assert small.encode("<|im_end|>", {"<|im_end|>"}) == [small.im_end_id]


def test_layouts_that_cannot_be_are_refused(small: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"lack <\|im_end\|>"):
        Tokenizer(byte_ranks(), {"<|endoftext|>": 256, "<|im_start|>": 257})
    with pytest.raises(DataError, match="do not fill"):
        Tokenizer(byte_ranks(), {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 300})


def test_saved_files_are_readable(small: Tokenizer, tmp_path: Path) -> None:
    small.save(tmp_path)
    names = {"vocab.tiktoken", "special.json", "tokenizer.json", "tokenizer_config.json", "merges.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    listing = (tmp_path / "merges.txt").read_text().split("\n")
    assert len(listing) == len(small.ranks) - 256 + 2 and '= " the"' in "\n".join(listing)
    again = load_tokenizer(tmp_path)
    assert again.content == small.content and again.special == small.special
    for name in ("vocab.tiktoken", "tokenizer.json"):
        assert load_tokenizer(tmp_path / name).content == small.content


@pytest.mark.fault("tokenizer", "a saved tokenizer is damaged", "said which file and why")
def test_load_says_what_is_wrong(small: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    small.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}"
    (tmp_path / "other.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="does not cut text as Qwen does"):
        load_tokenizer(tmp_path / "other.json")
    (tmp_path / "torn.json").write_text('{"model": {')
    with pytest.raises(DataError, match="not readable JSON"):
        load_tokenizer(tmp_path / "torn.json")


@pytest.mark.fault("tokenizer", "an encoding library disagrees with another", "it is not used")
def test_engine_is_chosen_by_proof(small: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gigatoken")
    assert make_encoder(small.ranks).name == "gigatoken"
    monkeypatch.setattr(GigatokenEncoder, "encode", lambda self, text: [0])
    broken = GigatokenEncoder(small.ranks)
    assert disagreement(broken, small.ranks) is not None
    assert make_encoder(small.ranks).name == "tiktoken"
    with pytest.raises(UsageError, match="no encoder called"):
        make_encoder(small.ranks, "other")  # type: ignore[arg-type]


def test_engine_that_cannot_take_a_vocabulary(small: Tokenizer) -> None:
    pytest.importorskip("gigatoken")
    ranks = {**small.ranks, b"qxzj": len(small.ranks)}  # no merge leads to it
    with pytest.raises(UsageError, match="no merge leads to some token"):
        make_encoder(ranks, "gigatoken")
    encoder = make_encoder(ranks)
    assert encoder.name == "tiktoken" and encoder.encode("qxzj") == [len(small.ranks)]


def test_odd_texts_of_a_batch_change_nothing(small: Tokenizer) -> None:
    pytest.importorskip("gigatoken")
    texts = ["the dog", "a" * 5000, "", "语言模型", "new \U0001fae9 x", "the end"]
    tok = Tokenizer(small.ranks, encoder="gigatoken")
    expected = [tok.encode(text) for text in texts]
    flat, lengths = tok.encode_flat(texts)
    assert tok.encode_batch(texts) == expected
    assert flat.tolist() == [i for ids in expected for i in ids]
    assert lengths.tolist() == list(map(len, expected))
    assert tok._encoder._odd(texts) == {1, 4}  # type: ignore[attr-defined]


def test_threads_start_when_they_pay_and_change_nothing(
    small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken")
    tok = Tokenizer(small.ranks, encoder="gigatoken")
    texts = [f"the dog {i} and 语言模型 " * 2000 for i in range(100)]  # 6 MB: enough to be shared out
    alone = tok.encode_batch(texts)
    assert tok._encoder._engine(0)[1] is False  # type: ignore[attr-defined]
    monkeypatch.setattr(encoders, "ALONE_CHARACTERS", 1_000_000)
    assert tok.encode_batch(texts) == alone
    assert tok._encoder._engine(0)[1] is None  # type: ignore[attr-defined]


def test_engine_forgets(small: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gigatoken")
    tok = Tokenizer(small.ranks, encoder="gigatoken")
    expected = tok.encode_batch(["the dog", "语言模型"])
    first = tok._encoder._core  # type: ignore[attr-defined]
    monkeypatch.setattr(encoders, "FORGET_CHARACTERS", 20)
    assert all(tok.encode_batch(["the dog", "语言模型"]) == expected for _ in range(5))
    assert tok._encoder._core is not first  # type: ignore[attr-defined]


def test_engine_that_is_not_installed(small: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gigatoken", None)
    assert make_encoder(small.ranks).name == "tiktoken"
    with pytest.raises(MissingTool, match="gigatoken is not installed"):
        make_encoder(small.ranks, "gigatoken")


LONG: dict[str, Callable[[int], str]] = {
    "letter": lambda n: "a" * n,
    "spaces": lambda n: " " * n,
    "spaces and a word": lambda n: " " * n + "x",
    "spaces and tabs": lambda n: " \t" * (n // 2),
    "line ends": lambda n: "\n" * n,
    "marks": lambda n: "\u0301" * (n // 2),
    "marks out of order": lambda n: "a" + "\u0301\u0316" * (n // 4),
    "han": lambda n: "中" * (n // 3),
    "digits": lambda n: "1" * n,
    "punctuation": lambda n: "!" * n,
    "halves of control tokens": lambda n: "<|im_" * (n // 5),
}


@pytest.mark.fault(
    "tokenizer", "long runs of one character of every kind", "encoded, in time that grows with length only"
)
@pytest.mark.parametrize("engine", ["gigatoken", "tiktoken"])
@pytest.mark.parametrize("name", LONG)
def test_no_input_is_slow_or_refused(small: Tokenizer, name: str, engine: encoders.Name) -> None:
    if engine == "gigatoken":
        pytest.importorskip("gigatoken")
    tok = Tokenizer(small.ranks, encoder=engine)
    text = LONG[name](400_000)
    began = time.monotonic()
    ids = tok.encode(text)
    assert time.monotonic() - began < 4  # quadratic work would take minutes
    assert tok.decode(ids) == normalise(text)


@pytest.mark.parametrize("engine", ["gigatoken", "tiktoken"])
@pytest.mark.parametrize("name", LONG)
def test_long_runs_have_the_right_ids(
    small: Tokenizer, name: str, engine: encoders.Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "gigatoken":
        pytest.importorskip("gigatoken")
    monkeypatch.setattr(runs, "_WINDOW", 64)
    monkeypatch.setattr(runs, "_PART", 100)
    text = "so, " + normalise(LONG[name](1200)) + " end"
    expected = bpe.encode(text, small.ranks)
    tok = Tokenizer(small.ranks, encoder=engine)
    assert tok.encode(text) == tok.encode_batch([text])[0] == tok.encode_flat([text])[0].tolist() == expected


def test_normalising_equals_the_standard_library() -> None:
    marks = "\u0301\u0316\u0345\u0344\u0f71\u0f74\u05b0\u0323\u0338\u3099"
    for run in ("".join(marks[(i * 7) % len(marks)] for i in range(n)) for n in (0, 1, 63, 64, 65, 300)):
        for text in ("e" + run + "x", run, "é" + run, "か" + run + "が"):
            assert normalise(text) == unicodedata.normalize("NFC", text)
