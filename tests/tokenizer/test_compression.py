"""Figure 3's measurement, and other people's tokenizers beside ours."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import tiktoken
import tokenizers
from rich.console import Console
from tokenizers import models, pre_tokenizers, processors

from openqwen.core.errors import DataError, UsageError
from openqwen.tokenizer import Tokenizer, compression, load_tokenizer, others
from openqwen.tokenizer.compression import measure, table
from openqwen.tokenizer.others import PATTERNS, load_other
from openqwen.tokenizer.ranks import write_ranks

DOCUMENTS = [
    {"text": "the dog and the fox", "lang": "en", "source": "a"},
    {"text": "语言模型", "lang": "zh", "source": "a"},
    {"text": "", "lang": "zh", "source": "b"},
]
TEXTS = [document["text"] for document in DOCUMENTS]
Rows = dict[tuple[str, str], dict[str, Any]]


def rows(result: dict[str, Any]) -> Rows:
    return {(row["by"], row["name"]): row for row in result["groups"]}


def printed(result: dict[str, Any], kind: str = "lang") -> list[list[str]]:
    """The words of each line of the table, rules and blank lines left out."""
    out = io.StringIO()
    Console(file=out, width=200).print(table(result, kind))
    return [line.split() for line in out.getvalue().split("\n") if line.strip() and "─" not in line]


def test_counts_by_language_and_source(small: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure({"ours": small.encode_batch}, DOCUMENTS)
    monkeypatch.setattr(compression, "BATCH_DOCUMENTS", 2)
    result = measure({"ours": small.encode_batch}, DOCUMENTS)
    assert result == whole
    found = rows(result)
    assert found["lang", "en"]["bytes"] == 19 and found["lang", "zh"]["bytes"] == 12
    assert found["all", "all"]["documents"] == 3
    tokens = len(small.encode(DOCUMENTS[0]["text"]))
    assert found["lang", "en"]["tokens"] == {"ours": tokens, "bytes": 19}
    assert found["lang", "en"]["rate"] == {"ours": round(tokens / 19, 4), "bytes": 1}
    assert found["lang", "en"]["bytes_per_token"]["ours"] == round(19 / tokens, 4)
    assert found["source", "b"]["bytes_per_token"] == {}  # no text, no number
    assert ["b", "0.0", "-", "-"] in printed(result, "source")


def test_table_has_a_row_a_language_and_the_base_no_rate(small: Tokenizer) -> None:
    engines = {"[b]ours": small.encode_batch, "half": lambda texts: [text.encode()[::2] for text in texts]}
    result = measure(engines, DOCUMENTS, base="half")
    heads, columns, *body = printed(result)
    assert heads == ["[b]ours", "half"] and columns == ["lang", "kB", "B/token", "rate", "B/token"]
    assert [line[0] for line in body] == ["all", "en", "zh"]
    row = rows(result)["lang", "zh"]
    assert body[2][2:] == [
        f"{row['bytes_per_token']['[b]ours']:.2f}",
        f"{row['rate']['[b]ours']:.3f}",
        "2.00",
    ]
    assert all(row["rate"]["half"] == 1 for row in result["groups"] if row["rate"])


def test_unknown_base_is_refused(small: Tokenizer) -> None:
    with pytest.raises(UsageError, match="Did you mean 'ours'"):
        measure({"ours": small.encode_batch}, DOCUMENTS, base="our")


def test_batches_are_bounded_in_size_and_no_document_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(texts: Sequence[str]) -> list[np.ndarray]:
        sizes.append(len(texts))
        return [np.zeros(len(text), np.uint32) for text in texts]  # arrays are as good as lists

    monkeypatch.setattr(compression, "BATCH_CHARACTERS", 1000)
    lengths = [400, 400, 400, 50_000, 1, 1]
    result = measure({"spy": spy}, ({"text": "a" * n} for n in lengths), unknown={"spy": 1})
    assert sizes == [3, 1, 2] and result["groups"][0]["tokens"]["spy"] == sum(lengths)


def test_odd_documents_are_counted() -> None:
    odd = [{"text": "a\ud800b", "lang": None}, {"text": "\ud83d\ude00", "lang": ""}, {"text": "x", "lang": 5}]
    found = rows(measure({}, odd, by=("lang",)))
    assert found["lang", "unknown"]["bytes"] == len("a\ufffdb\U0001f600".encode())
    assert found["lang", "5"]["documents"] == 1


def test_small_groups_are_left_out_but_counted() -> None:
    result = measure({}, DOCUMENTS, by=("lang",), min_bytes=15)
    assert list(rows(result)) == [("all", "all"), ("lang", "en")] and result["left_out"] == 1
    assert result["groups"][0]["bytes"] == 31


def test_text_that_is_lost_is_marked() -> None:
    """One unknown token for a whole text would be the tightest of all."""
    engines = {"blind": lambda texts: [[0] for _ in texts], "sound": lambda texts: [[1, 2] for _ in texts]}
    result = measure(engines, DOCUMENTS[:1], by=("lang",), base="sound", unknown={"blind": 0, "sound": None})
    row = rows(result)["lang", "en"]
    assert row["unknown"] == {"blind": 1}
    assert compression.doubtful(row, "blind") and not compression.doubtful(row, "sound")
    assert printed(result)[3] == ["en", "0.0", "19.00?", "0.500?", "9.50"]
    turned = measure(engines, DOCUMENTS[:1], by=("lang",), base="blind", unknown={"blind": 0})
    assert printed(turned)[3] == [
        "en",
        "0.0",
        "19.00?",
        "9.50",
        "2.000?",
    ]  # nothing is sure beside such a base


def test_our_own_files(small: Tokenizer, tmp_path: Path) -> None:
    small.save(tmp_path)
    expected = small.encode_batch(TEXTS)
    ours, hugging = load_other(tmp_path), load_other(tmp_path / "tokenizer.json")
    assert (
        ours.encode(TEXTS) == expected == hugging.encode(TEXTS)
    )  # the second through the library `tokenizers`
    assert ours.file == tmp_path / "vocab.tiktoken" and not ours.guessed
    assert ours.vocab_size == hugging.vocab_size == small.vocab_size
    assert set(ours.record()) == {"kind", "vocab_size", "file", "sha256", "pattern"}
    assert [len(ids) for ids in load_other("bytes").encode(TEXTS)] == [19, 12, 0]


def test_ranks_are_read_with_the_pattern_that_is_named(small: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"  # as Llama 3 has it
    write_ranks(path, small.ranks)
    guessed, named = load_other(path), load_other(path, "gpt2")
    assert guessed.guessed and guessed.pattern == "qwen" and not named.guessed
    assert guessed.encode(TEXTS) == named.encode(TEXTS) == small.encode_batch(TEXTS)
    assert len(named.encode(["\n\nx"])[0]) == 3 and named.vocab_size == len(small.ranks)
    with pytest.raises(UsageError, match="Did you mean 'cl100k'"):
        load_other(path, "cl10k")
    small.save(tmp_path)
    with pytest.raises(UsageError, match="for ranks files only"):
        load_other(tmp_path / "tokenizer.json", "gpt2")


@pytest.mark.parametrize("name", PATTERNS)
def test_long_white_space_is_encoded_as_tiktoken_would(
    name: str, small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a  b \n\n  c\t\t", "It's 1234  TeST\r\n\r\n ", " ", "中文  \u3000\u3000x!?\n\n", "über  Éa"]
    core = tiktoken.Encoding("x", pat_str=PATTERNS[name], mergeable_ranks=small.ranks, special_tokens={})
    monkeypatch.setattr(others, "_LONG_SPACE", regex.compile(r"\s{2,}"))
    encode = others._tiktoken(small.ranks, PATTERNS[name])
    assert encode(texts) == [core.encode_ordinary(text) for text in texts]
    monkeypatch.undo()
    assert sum(map(len, encode([" " * 300_000 + "x"]))) > 1000  # tiktoken alone ends in a panic


def test_hugging_face_counts_text_only(tmp_path: Path) -> None:
    words = {"<s>": 0, "<unk>": 1, "the": 2, "dog": 3}
    core = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<s>"])
    core.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 0)])
    core.enable_truncation(2)
    core.enable_padding(length=9)
    core.save(str(tmp_path / "tokenizer.json"))
    other = load_other(tmp_path)
    assert other.unknown == 1 and other.vocab_size == 4
    assert other.encode(["the dog the fox", "<s> dog"]) == [[2, 3, 2, 1], [0, 3]]
    assert core.encode("the dog the fox").ids != other.encode(["the dog the fox"])[0]


def test_sentencepiece_in_a_folder(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(["the dog and the fox " * 20]),
        model_writer=model,
        vocab_size=15,
        minloglevel=2,
    )
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    other = load_other(tmp_path)
    core = library.SentencePieceProcessor(model_proto=model.getvalue())
    assert other.kind == "sentencepiece" and other.vocab_size == 15
    assert other.encode(TEXTS) == [core.encode(text) for text in TEXTS] and other.encode(TEXTS)[2] == []
    assert other.unknown in other.encode(["the 语言"])[0]


WRONG = {
    "torn.tokenizer.json": (b"{ not this", "not a tokenizer.json"),
    "torn.model": (b"{ not this", "not a tokenizer.json"),
    "noise.model": (b"\x00\x01noise", "not a sentencepiece model"),
    "torn.tiktoken": (b"{ not this\n", "not 'base64 rank'"),
    "empty.model": (b"", "empty"),
}


@pytest.mark.fault(
    "tokenizer", "tokenizers of others are damaged", "named, the comparison of the rest stands"
)
@pytest.mark.parametrize("name", WRONG)
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    data, message = WRONG[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_other(tmp_path / name)
    assert str(tmp_path / name) in (caught.value.where or "")


def test_paths_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_other(tmp_path)
    (tmp_path / "qwen.tiktoken").write_bytes(b"")
    with pytest.raises(DataError, match=r"Did you mean 'qwen\.tiktoken'"):
        load_other(tmp_path / "qwn.tiktoken")
    with pytest.raises(DataError, match="no tokenizer there"):
        load_other(tmp_path / "no" / "folder")


def multilingual(shared: Path) -> list[dict[str, Any]]:
    """A document of each of some languages, and runs of digits and capitals, on which patterns differ."""
    with gzip.open(shared / "data/text/multilingual.jsonl.gz", "rb") as file:
        found = [json.loads(line) for line in islice(file, 0, None, 30)]
    more = "HTTPServer's 1234567 ifDEF  \r\n\r\n\t x = {'a': 1}\n   </div>\n§ 3½ ǅ e\u0301 " * 20
    return [*({"text": d["text"][:2000], "lang": d["lang"]} for d in found), {"text": more, "lang": "code"}]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base", "p50k_base", "r50k_base"])
def test_published_ranks_as_the_library_reads_them(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiktoken's own definitions hold the patterns; only its download is replaced."""
    openai = pytest.importorskip("tiktoken_ext.openai_public")
    path = shared / f"vocab/{name}.tiktoken"
    monkeypatch.setattr(openai, "load_tiktoken_bpe", lambda *_, **__: others._any_ranks(path))
    core = tiktoken.Encoding(**getattr(openai, name)())
    texts = [document["text"] for document in multilingual(shared)]
    other = load_other(path)
    assert other.encode(texts) == core.encode_ordinary_batch(texts) and not other.guessed


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["llama.tokenizer", "chinese-llama2.tokenizer", "internlm-7b.V7_sft", "chinese_sp"]
)
def test_sentencepiece_as_the_library_counts(name: str, shared: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    path = shared / f"vocab/{name}.model"
    core = library.SentencePieceProcessor(model_file=str(path))
    documents = multilingual(shared)
    other = load_other(path)
    row = measure({name: other.encode}, documents, (), unknown={name: other.unknown})["groups"][0]
    pieces = [piece for document in documents for piece in core.encode_as_pieces(document["text"])]
    assert row["tokens"][name] == len(pieces) and other.vocab_size == core.get_piece_size()
    assert compression.doubtful(row, name) == (
        name == "chinese_sp"
    )  # the only one without bytes to fall back on


@pytest.mark.shared
def test_hugging_face_file_of_others(shared: Path) -> None:
    path = shared / "vocab/minimind.tokenizer.json"
    texts = [document["text"] for document in multilingual(shared)]
    core = tokenizers.Tokenizer.from_file(str(path))
    other = load_other(path)
    assert other.encode(texts) == [core.encode(text, add_special_tokens=False).ids for text in texts]
    assert [core.decode(ids) for ids in other.encode(texts)] == texts and other.vocab_size == 6400


@pytest.mark.shared
def test_the_report_holds(shared: Path) -> None:
    """Figure 3: Qwen's is tighter than cl100k_base and LLaMA in the languages that the report names."""
    pytest.importorskip("sentencepiece")
    files = {"qwen": "qwen.tiktoken", "cl100k": "cl100k_base.tiktoken", "llama": "llama.tokenizer.model"}
    engines = {name: load_other(shared / "vocab" / file).encode for name, file in files.items()}
    documents = multilingual(shared)
    with gzip.open(shared / "data/text/zh.jsonl.gz", "rb") as file:
        documents += [{"text": json.loads(line)["text"][:4000], "lang": "zh"} for line in islice(file, 5)]
    found = rows(measure(engines, documents, ("lang",), base="cl100k"))
    for lang in ("zh", "ja", "ko", "ar", "th", "ru"):
        rate = found["lang", lang]["rate"]
        assert rate["cl100k"] == 1 > rate["qwen"] and rate["llama"] > rate["qwen"], lang
    assert load_tokenizer(shared / "vocab/qwen.tiktoken").encode_batch(TEXTS) == engines["qwen"](TEXTS)
