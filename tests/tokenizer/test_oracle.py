"""Ids and texts equal those of the released tokenizer, line by line, for every engine and for the exported files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError
from openqwen.tokenizer import Tokenizer, bpe, load_tokenizer
from openqwen.tokenizer.pattern import normalise

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[dict[str, Any]]:
    found = list(read_jsonl(shared / "oracle/tokenizer/tokenizer_oracle.jsonl"))
    assert len(found) == 383
    return found


@pytest.mark.parametrize("engine", ["gigatoken", "tiktoken"])
def test_encoding_equals_the_release(qwen_file: Path, cases: list[dict[str, Any]], engine: Any) -> None:
    if engine == "gigatoken":
        pytest.importorskip("gigatoken")
    tok = load_tokenizer(qwen_file, encoder=engine)
    assert tok.encoder == engine and tok.vocab_size == 151_851
    for case in cases:
        assert tok.encode(case["text"], allowed_special="all") == case["ids"], case["text"]
        if "ids_no_special" in case:
            assert tok.encode(case["text"]) == case["ids_no_special"], case["text"]
        if "decoded" in case:
            assert tok.decode(case["ids"]) == case["decoded"]
    ordinary = [c for c in cases if c.get("ids_no_special", c["ids"]) == c["ids"] and "<|" not in c["text"]]
    assert tok.encode_batch([c["text"] for c in ordinary]) == [c["ids"] for c in ordinary]


def test_readable_twin_equals_the_release(qwen: Tokenizer, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        if "<|" not in case["text"]:
            assert bpe.encode(case["text"], qwen.ranks) == case["ids"], case["text"]


def test_decoding_equals_the_release_under_each_error_mode(qwen: Tokenizer, shared: Path) -> None:
    cases = list(read_jsonl(shared / "oracle/tokenizer/decode_oracle.jsonl"))
    assert len(cases) == 76
    for case in cases:
        ids = case["ids"]
        assert qwen.decode(ids) == case["replace"]
        assert qwen.decode(ids, errors="ignore") == case["ignore"]
        assert qwen.decode(ids, skip_special_tokens=True) == case["skip_special"]
        if case["strict"] is None:
            with pytest.raises(DataError, match="not valid UTF-8"):
                qwen.decode(ids, errors="strict")
        else:
            assert qwen.decode(ids, errors="strict") == case["strict"]


def test_special_token_policy(qwen: Tokenizer, shared: Path) -> None:
    for case in json.loads((shared / "oracle/tokenizer/special_policy.json").read_text()):
        allowed, disallowed = case["allowed_special"], case["disallowed_special"]
        if isinstance(case["result"], str):
            with pytest.raises(DataError, match="not allowed here"):
                qwen.encode(case["text"], allowed, disallowed)
        else:
            assert qwen.encode(case["text"], allowed, disallowed) == case["result"]


def test_special_ids(qwen: Tokenizer) -> None:
    assert (qwen.eos_id, qwen.im_start_id, qwen.im_end_id) == (151643, 151644, 151645)
    assert qwen.special["<|extra_0|>"] == 151646 and qwen.special["<|extra_204|>"] == 151850


@pytest.fixture(scope="module")
def exported(qwen: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    qwen.save(folder)
    return folder


def test_exported_layout_gives_the_same_ids(
    qwen: Tokenizer, cases: list[dict[str, Any]], exported: Path
) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    assert theirs.get_vocab_size() == qwen.vocab_size
    for case in cases:
        text = case["text"]
        if any("\ud800" <= char <= "\udfff" for char in text):
            text = normalise(text)  # `tokenizers` refuses lone surrogates outright
        assert theirs.encode(text).ids == case["ids"], text
    assert load_tokenizer(exported).content == qwen.content
    assert load_tokenizer(exported / "tokenizer.json").content == qwen.content


def test_exported_layout_in_transformers(
    qwen: Tokenizer, cases: list[dict[str, Any]], exported: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(exported)
    assert theirs.eos_token_id == qwen.eos_id
    for case in cases:
        text = normalise(case["text"])
        assert theirs.encode(text) == case["ids"], text
        if "decoded" in case:
            assert theirs.decode(case["ids"]) == case["decoded"]
