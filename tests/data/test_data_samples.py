"""Instruction samples become pretraining text of their own source, as finetuning reads them, and leave a corpus whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from shard_bench import resolved

from openqwen.chat.records import to_messages
from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_corpus
from openqwen.data.config import DataConfig
from openqwen.data.items import item_texts
from openqwen.data.sources.samples import is_sample, sample_text
from openqwen.data.stage import run

ASKED, REPLY = "Which river runs through the old town?", "The Aller, which rises far in the east. 阿勒尔河。"
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "alpaca": ({"instruction": "Add.", "input": "2 and 3", "output": "5"}, "Add.\n2 and 3\n\n5"),
    "no input": ({"instruction": ASKED, "input": "", "output": REPLY}, f"{ASKED}\n\n{REPLY}"),
    "history": (
        {"instruction": "And 4?", "output": "9", "history": [["2 and 3?", "5"]], "system": "Add."},
        "Add.\n\n2 and 3?\n\n5\n\nAnd 4?\n\n9",
    ),
    "openai": (
        {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": REPLY}]},
        f"{ASKED}\n\n{REPLY}",
    ),
    "parts": (
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c"},
            ]
        },
        "Be short.\n\nab\n\nc",
    ),
    "sharegpt": (
        {"system": "", "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": REPLY}]},
        f"{ASKED}\n\n{REPLY}",
    ),
    "control tokens": (
        {"instruction": "What does <|im_end|> do?", "output": "<|im_start|>user ends it.<|endoftext|>"},
        "What does <|im_end|> do?\n\n<|im_start|>user ends it.<|endoftext|>",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_template(name: str) -> None:
    record, text = FORMS[name]
    assert is_sample(record) and sample_text(record) == text


def joined(record: dict[str, Any]) -> str:
    """What finetuning reads of a record."""
    return "\n\n".join(text for m in to_messages(record) if (text := m["content"].strip()))


WORDS = st.text(min_size=1).filter(lambda text: bool(text.strip()))
TURNS = st.lists(WORDS, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0)


@given(TURNS, st.none() | WORDS, st.sampled_from(["openai", "sharegpt", "alpaca"]))
def test_samples_are_read_as_finetuning_reads_them(turns: list[str], system: str | None, form: str) -> None:
    """One form in, the same words out of both readers."""
    names = ("user", "assistant") if form == "openai" else ("human", "gpt")
    pairs = [(names[i % 2], text) for i, text in enumerate(turns)]
    record: dict[str, Any]
    if form == "openai":
        told = [{"role": "system", "content": system}] if system else []
        record = {"messages": [*told, *({"role": who, "content": text} for who, text in pairs)]}
    elif form == "sharegpt":
        record = {"conversations": [{"from": who, "value": text} for who, text in pairs], "system": system}
    else:
        history = [[turns[i], turns[i + 1]] for i in range(0, len(turns) - 2, 2)]
        record = {"instruction": turns[-2], "output": turns[-1], "history": history, "system": system}
    assert is_sample(record) and sample_text(record) == joined(record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "conversations", "instruction", "input", "output", "history", "system"]),
        JSON | st.lists(st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), JSON)),
    )
)
def test_any_record_gives_text_or_a_reason(record: dict[str, Any]) -> None:
    if is_sample(record):
        try:
            assert sample_text(record).strip()
        except DataError as error:
            assert error.what


PAGE = (
    "A thermometer of glass works because liquids grow when they are warmed, and the only way out is a narrow tube. "
    "Early makers marked two points, melting ice and boiling water, and divided what lay between into parts. "
    "They did not know that pressure moves the second point, which is why their instruments disagreed so often. "
)
ITEM = (
    "Mira has nineteen blue marbles and gives seven of them to her brother before supper; how many are left in "
    "the jar beside the window when he returns two of them at night?"
)


def test_samples_from_file_to_corpus(tmp_path: Path) -> None:
    """Their source is theirs whatever they say, a broken one is skipped, overlap takes them whole where pages are cut."""
    told = [record for record, _ in FORMS.values()]
    lines = [{**told[0], "source": "flan", "text": "below is an instruction"}, *told[1:]]
    broken = [{"instruction": "Say.", "output": ""}, {"messages": [{"role": "tool", "content": "x"}] * 2}]
    leaks = [
        {"instruction": ITEM, "output": PAGE * 3, "id": "leak"},
        {"text": f"{PAGE * 3}\n{ITEM}\n{PAGE * 3}"},
    ]
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [*lines, *broken, *leaks]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = [
        {**dict.fromkeys(["messages", "conversations", "text"]), **r} for r in (told[3], told[5], leaks[1])
    ]
    parquet.write_table(pa.Table.from_pylist(table), folder / "table.parquet")
    (tmp_path / "test.jsonl").write_text(json.dumps({"id": "q", "question": ITEM}) + "\n", encoding="utf-8")
    assert [text for text, _ in item_texts({"question": ITEM})] == [ITEM]
    settings: dict[str, Any] = {
        "language__keep": [], "quality__drop": False, "dedup__exact": False, "dedup__fuzzy": False, "bad_fraction": 1,
        "valid_fraction": 0, "runner__how": "in-process", "sources__labels": {"*": "forum"},
        "decontaminate__benchmarks": [str(tmp_path / "test.jsonl")], "decontaminate__overlap": "cut",
    }  # fmt: skip
    made = run(resolved(DataConfig, "data", **settings), {"input": folder}, tmp_path / "out")
    found = {record["id"]: record for record in read_corpus(made.path)}
    texts = [text for _, text in FORMS.values()]
    assert {i: (r["source"], r["text"]) for i, r in found.items() if r["source"] == "instruction"} == {
        **{f"rows.jsonl/{i}": ("instruction", text) for i, text in enumerate(texts, 1)},
        "table.parquet/1": ("instruction", texts[3]),
        "table.parquet/2": ("instruction", texts[5]),
    }
    for ident in (f"rows.jsonl/{len(rows)}", "table.parquet/3"):
        page = found[ident]
        assert page["source"] == "forum" and page["scores"]["cut"] > 0 and "marbles" not in page["text"]
    stats = json.loads(made.file("stats.json").read_text())
    assert stats["skipped"] == {"not an instruction sample": 2}
    assert stats["funnel"][-1]["dropped"] == {"overlap with test": 1}  # the sample
