"""Figure 3's measurement, and other people's tokenizers beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from openqwen.core.errors import DataError, UsageError
from openqwen.tokenizer import Tokenizer, load_tokenizer
from openqwen.tokenizer.compression import measure, table
from openqwen.tokenizer.others import load_encode
from openqwen.tokenizer.ranks import write_ranks

DOCUMENTS = [
    {"text": "the dog and the fox", "lang": "en", "source": "a"},
    {"text": "语言模型", "lang": "zh", "source": "a"},
    {"text": "", "lang": "zh", "source": "b"},
]


def test_counts_by_language_and_source(small: Tokenizer) -> None:
    result = measure({"ours": small.encode_batch}, DOCUMENTS, batch=2)
    rows = {(row["by"], row["name"]): row for row in result["groups"]}
    assert rows["lang", "en"]["bytes"] == 19 and rows["lang", "zh"]["bytes"] == 12
    assert rows["all", "all"]["documents"] == 3
    assert rows["lang", "en"]["tokens"] == {"ours": len(small.encode(DOCUMENTS[0]["text"])), "bytes": 19}
    assert rows["lang", "en"]["rate"]["bytes"] == 1 > rows["lang", "en"]["rate"]["ours"]
    assert rows["source", "b"]["bytes_per_token"] == {}  # no text, no number
    shown = table(result).split("\n")
    assert shown[0].split() == ["lang", "ours", "bytes"] and len(shown) == 4
    with pytest.raises(UsageError, match="Did you mean 'ours'"):
        measure({"ours": small.encode_batch}, DOCUMENTS, base="our")


def test_any_base(small: Tokenizer) -> None:
    result = measure({"ours": small.encode_batch}, DOCUMENTS, base="ours")
    assert all(row["rate"]["ours"] == 1 for row in result["groups"] if row["rate"])


def test_kinds_of_files(small: Tokenizer, tmp_path: Path) -> None:
    small.save(tmp_path)
    texts = [document["text"] for document in DOCUMENTS]
    expected = small.encode_batch(texts)
    assert load_encode(tmp_path)(texts) == expected
    assert load_encode(tmp_path / "tokenizer.json")(texts) == expected  # through the library `tokenizers`
    write_ranks(tmp_path / "cl100k_base.tiktoken", small.ranks)
    assert load_encode(tmp_path / "cl100k_base.tiktoken")(texts) == expected
    assert [len(ids) for ids in load_encode("bytes")(texts)] == [19, 12, 0]
    for name in ("torn.tokenizer.json", "torn.model", "cl100k_base.tiktoken"):
        (tmp_path / name).write_text("{ not this")
        with pytest.raises(DataError, match="not a"):
            load_encode(tmp_path / name)


@pytest.mark.shared
def test_report_order_on_chinese(shared: Path) -> None:
    names = {"qwen": "qwen.tiktoken", "cl100k": "cl100k_base.tiktoken", "llama": "llama.tokenizer.model"}
    pytest.importorskip("sentencepiece")
    engines = {name: load_encode(shared / "vocab" / file) for name, file in names.items()}
    text = "通义千问是阿里云研发的大语言模型系列，可以回答问题、创作文字，还能编写代码。"
    rates = measure(engines, [{"text": text, "lang": "zh"}], base="llama")["groups"][0]["rate"]
    assert rates["qwen"] < rates["cl100k"] and rates["qwen"] < rates["llama"] == 1
    assert load_tokenizer(shared / "vocab/qwen.tiktoken").encode_batch([text]) == engines["qwen"]([text])
