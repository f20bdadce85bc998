"""Refusing, masking and packing conversations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny_artefacts as tiny
import torch

from openqwen.chat import chatml
from openqwen.core.errors import DataError
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.sft.data import (
    Sample,
    check_share,
    make_batch,
    of_replies,
    pack,
    read_samples,
    rows_at,
    split_heldout,
)
from openqwen.sft.loop import summed_loss
from openqwen.train.loss import IGNORE

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


BAD = {
    "[1]": "not an object",
    '{"text": "x"}': "none of",
    '{"messages": "x"}': "not a list",
    '{"messages": []}': "at least one message",
    '{"messages": [{"role": "user"}]}': "a message is",
    '{"messages": [{"role": "usr", "content": "x"}]}': "unknown role 'usr'. Did you mean 'user'",
    '{"messages": [{"role": "user", "content": 3}]}': "content must be text",
    '{"messages": [{"role": "user", "content": "x"}]}': "no reply at its end",
    '{"messages": [{"role": "assistant", "content": "x"}]}': "user should speak here",
    '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}': "a reply is empty",
    '{"conversations": [{"from": "human"}]}': "a turn is",
    '{"instruction": "x", "output": 3}': "must be text",
    '{"instruction": "x", "output": "y", "history": ["a"]}': "pairs",
    '{"messages": ': "not JSON",
    "[" * 100_000: "not JSON",
    '{"instruction": "' + "x" * 200 + '", "output": "y"}': "longer than max_length 100",
}


@pytest.mark.fault(
    "training",
    "conversations without a reply, with wrong roles, too long",
    "skipped and counted with their lines",
)
def test_bad_records_are_counted_with_line_and_reason(tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, REPLY]})
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([good, "", *BAD, good]) + "\n", encoding="utf-8")
    samples, skipped = read_samples(path, "data", tiny.byte_tokenizer(), 100, "report")
    assert [s.line for s in samples] == [1, len(BAD) + 3]
    assert [s.line for s in skipped] == list(range(3, len(BAD) + 3))
    for record, reason in zip(skipped, BAD.values()):
        assert reason in record.reason and record.source == "data"
    with pytest.raises(DataError, match=f"{len(BAD)} of {len(BAD) + 2} records") as caught:
        check_share(samples, skipped, path, 0.5)
    assert f"{path}:3" in str(caught.value)
    check_share(samples, skipped, path, 1.0)


def test_no_conversation_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    samples, skipped = read_samples(tmp_path / "empty.jsonl", "data", tiny.byte_tokenizer(), 99, "report")
    with pytest.raises(DataError, match="holds no conversation"):
        check_share(samples, skipped, tmp_path / "empty.jsonl", 0.5)


def test_tool_conversations_become_react(tmp_path: Path) -> None:
    tool = {
        "name_for_human": "clock",
        "name_for_model": "clock",
        "description_for_model": "tells the time",
        "parameters": [],
    }
    step = {"thought": "look", "action": "clock", "action_input": {}, "observation": "noon"}
    path = tmp_path / "tools.jsonl"
    good = {"query": "time?", "tools": [tool], "steps": [step], "final": "It is noon."}
    path.write_text(json.dumps(good) + "\n" + json.dumps({"query": "time?", "tools": []}) + "\n")
    samples, skipped = read_samples(path, "tools", tiny.byte_tokenizer(), 4000, "report")
    assert [r.line for r in skipped] == [2] and "not a tool conversation" in skipped[0].reason
    reply = samples[0].messages[-1]["content"]
    assert "Action: clock" in reply and reply.endswith("Final Answer: It is noon.")


def test_packing_uses_each_sample_once_and_fills_rows() -> None:
    lengths = np.random.default_rng(0).integers(5, 40, 500).tolist()
    rows = pack(lengths, 128, seed=1)
    assert sorted(n for row in rows for n in row) == list(range(500))
    assert all(sum(lengths[n] for n in row) <= 128 for row in rows)
    assert sum(lengths) / (128 * len(rows)) > 0.95
    assert rows == pack(lengths, 128, seed=1) != pack(lengths, 128, seed=2)


def test_rows_are_a_pure_function_of_the_step() -> None:
    seen = [row for step in range(10) for row in rows_at(25, step, 5, seed=3)]
    assert all(Counter(seen)[row] == 2 for row in range(25))
    assert sorted(seen[:25]) == list(range(25)) and seen[:25] != seen[25:]
    assert rows_at(25, 7, 5, seed=3) == seen[35:40]
    assert (
        rows_at(2, 0, 5, seed=3)[:2] != [] and len(rows_at(2, 0, 5, seed=3)) == 5
    )  # fewer rows than a batch


def rendered(*texts: str) -> list[Sample]:
    tok = tiny.byte_tokenizer()
    found = []
    for number, text in enumerate(texts):
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text.upper()}]
        found.append(Sample("data", number, messages, *chatml.render(messages, tok)))
    return found


def test_labels_follow_the_reports_mask() -> None:
    tok = tiny.byte_tokenizer()
    samples = rendered("a", "bcd")
    batch = make_batch(samples, [[1, 0]], tok.eos_id)
    for segment, sample in ((1, samples[1]), (2, samples[0])):
        here = batch.segments[0] == segment
        assert batch.ids[0, here].tolist() == sample.ids
        trained = [i for i, label in zip(batch.labels[0, here].tolist(), sample.ids) if i != IGNORE]
        assert tok.decode(trained) == sample.messages[1]["content"] + "<|im_end|>"
        assert batch.labels[0, here][-1] == IGNORE  # what follows belongs to another sample


@pytest.mark.fault("training", "several conversations share a row", "none sees another")
def test_packed_samples_do_not_see_each_other() -> None:
    """The loss of packed rows is the sum of the losses of each sample alone, exactly in fp64."""
    model = (
        Qwen(ModelConfig(vocab_size=464, hidden_size=16, num_layers=2, num_heads=2, ffn_size=24))
        .double()
        .eval()
    )
    samples = rendered("one", "two plus two", "x", "a longer one of these")
    packed = make_batch(samples, [[2, 0, 1], [3]], pad_id=256)
    together = summed_loss(model, packed.ids, packed.labels, packed.segments)
    alone = 0.0
    for number in range(4):
        batch = make_batch(samples, [[number]], pad_id=256)
        alone += float(summed_loss(model, batch.ids, batch.labels, batch.segments))
    assert float(together) == pytest.approx(alone, rel=1e-13)
    blind = summed_loss(model, packed.ids, packed.labels, torch.ones_like(packed.segments))
    assert abs(float(blind) - alone) > 1e-6  # without segments it would not be


def test_changing_a_sample_leaves_its_neighbours_logits_in_the_same_bits() -> None:
    model = Qwen(ModelConfig(vocab_size=464, hidden_size=16, num_layers=2, num_heads=2, ffn_size=24)).eval()
    samples = rendered("before", "changed", "after")
    other = rendered("before", "CHANGED", "after")  # as long

    @torch.no_grad()
    def logits(of: list[Sample], blind: bool = False) -> torch.Tensor:
        batch = make_batch(of, [[0, 1, 2]], pad_id=256)
        segments = torch.ones_like(batch.segments) if blind else batch.segments
        return model.head(model.hidden(batch.ids, segments=segments))[0]

    changed = make_batch(samples, [[0, 1, 2]], pad_id=256).segments[0] == 2
    assert torch.equal(logits(samples)[~changed], logits(other)[~changed])
    assert not torch.equal(logits(samples)[changed], logits(other)[changed])
    assert not torch.equal(logits(samples, blind=True)[~changed], logits(other, blind=True)[~changed])


@pytest.mark.fault(
    "training", "a held-out conversation also stands in the training files", "left out of training"
)
def test_held_out_samples_are_never_trained_on() -> None:
    samples = rendered(*(f"q{i}" for i in range(50)))
    training, heldout = split_heldout(samples, 256, seed=0)
    assert len(heldout) == 5 and len(training) == 45
    assert {s.line for s in training} | {s.line for s in heldout} == set(range(50))
    with pytest.raises(DataError, match="must be held out"):
        split_heldout(samples[:1], 4, seed=0)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["sharegpt_zh_1k", "lima", "dummy_conversation"])
def test_real_files(shared: Path, name: str) -> None:
    path = shared / "data" / "align" / "sft" / f"{name}.jsonl.gz"
    samples, skipped = read_samples(path, "data", tiny.byte_tokenizer(), 100_000, "report")
    assert len(samples) > 100 and len(skipped) < 0.05 * len(samples), Counter(r.reason for r in skipped)


def test_held_out_loss_is_of_replies_whatever_is_trained(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": [USER, REPLY]}) + "\n", encoding="utf-8")
    tok = tiny.byte_tokenizer()
    found = {}
    for mask in ("report", "released-script", "everything"):
        (sample,), _ = read_samples(file, "data", tok, 500, mask)
        found[mask] = sum(sample.trained)
        assert of_replies(sample, tok).trained == read_samples(file, "data", tok, 500, "report")[0][0].trained
        assert (sum(sample.trained) == len(sample.ids)) == (mask == "everything")
    assert found["report"] < found["released-script"] < found["everything"]
