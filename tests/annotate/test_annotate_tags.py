"""Tags, and prompts chosen by them: the fast rule equals a slow one, and covers more than chance."""

from __future__ import annotations

import json
import random
from pathlib import Path

import chat_api
import pytest
import tiny_artefacts as tiny
from hypothesis import given
from hypothesis import strategies as st

from openqwen.annotate.config import TagsConfig
from openqwen.annotate.prompts import read_prompts, to_prompt
from openqwen.annotate.select import balanced, coverage
from openqwen.annotate.tag_stage import run
from openqwen.annotate.tags import by_rules, by_terms, keep_frequent, normalise, parse_tags
from openqwen.cli import main
from openqwen.core.artifact import load, read_jsonl
from openqwen.core.config import Resolved, resolve
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.rlhf.prompts import read_prompts as read_ppo_prompts

TAGS = st.lists(st.frozensets(st.sampled_from("abcdefg"), max_size=4), max_size=14)


def config(**flags: object) -> Resolved[TagsConfig]:
    return resolve(TagsConfig, "tags", flags=flags, environ={})


# ---- the choice --------------------------------------------------------------------------------------------------
def slowly(
    tags: list[frozenset[str]], size: int, seed: int, diversity: float, complexity: float
) -> list[int]:
    """The rule as its docstring says it: every gain anew at every step."""
    order = list(range(len(tags)))
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    have: frozenset[str] = frozenset()
    while len(chosen) < min(size, len(tags)):
        left = [i for i in order if i not in chosen]
        new = [i for i in left if tags[i] - have]
        if not new and have:
            have = frozenset()
            continue
        best = max(new or left[:1], key=lambda i: diversity * len(tags[i] - have) + complexity * len(tags[i]))
        chosen.append(best)
        have |= tags[best]
    return chosen


@given(TAGS, st.integers(0, 16), st.integers(0, 3), st.sampled_from([0.0, 0.125, 4.0]))
def test_the_choice_is_the_rules(tags: list[frozenset[str]], size: int, seed: int, complexity: float) -> None:
    found = balanced(tags, size, seed, complexity=complexity)
    assert found == slowly(tags, size, seed, 1.0, complexity)
    assert len(set(found)) == len(found) == min(size, len(tags))


def test_rare_tags_come_as_often_as_common_ones() -> None:
    tags = [frozenset("a")] * 90 + [frozenset("b")] * 5 + [frozenset("c")] * 5
    found = balanced(tags, 15, seed=1)
    assert sorted(next(iter(tags[i])) for i in found) == list("aaaaabbbbbccccc")
    assert (
        coverage(tags, found[:3]) == 1.0 and coverage(tags, []) == 0.0 and coverage([frozenset()], [0]) == 0.0
    )


def test_complexity_is_weighed() -> None:
    """Four old tags and one new against two new ones."""
    tags = [frozenset("abcd"), frozenset("abcde"), frozenset("xy")]
    assert balanced(tags, 2, 0, complexity=0.0)[:2] == [1, 2]
    rich = [frozenset("abcdef"), frozenset("abcdeg"), frozenset("xy")]
    first = balanced(rich, 1, 0)[0]
    assert balanced(rich, 2, 0, complexity=0.1)[1] == 2
    assert balanced(rich, 2, 0, complexity=1.0)[1] == 1 - first


# ---- tags --------------------------------------------------------------------------------------------------------
@given(st.text())
def test_tags_have_one_form_and_any_reply_is_read(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert all(tag and tag == normalise(tag) for tag in parse_tags(text))
    assert by_rules(text)


@pytest.mark.parametrize(
    "reply",
    [
        '["Write-Poem", "nature"]',
        'Tags: ["write poem", "nature", 3]\nAnything else?',
        "write poem, Nature",
        "- write poem\n- nature.\n",
        "1. write_poem\n\n2) nature",
        "[write poem, nature]",
        "写诗".replace("写诗", "write poem") + "、nature",
    ],
)
def test_replies_of_tagging_models(reply: str) -> None:
    assert parse_tags(reply) == {"write poem", "nature"}


def test_rules_in_both_languages() -> None:
    assert {"task/translate", "topic/language", "language/other"} <= by_rules("Translate this sentence.")
    assert {"task/translate", "language/chinese"} <= by_rules("把这句话翻译成英文")
    assert "maths/arithmetic" in by_rules("12 × 3 = ?") and "code/c" in by_rules("in C++ please")
    assert "task/how-to" in by_rules("How do I swim?") and "topic/art" not in by_rules("start")
    assert "length/long" in by_rules("x " * 500) and by_rules("") == {"language/other"}


def test_terms_are_words_of_some_prompts() -> None:
    texts = ["zebra crossing", "zebra stripes", "the crossing", "nothing shared here"]
    assert by_terms(texts, 1, 0.5) == [{"term/crossing"}, {"term/zebra"}, {"term/crossing"}, frozenset()]
    assert by_terms(["猫和狗", "猫和鸟"], 2, 1.0) == [{"term/猫和"}] * 2
    assert keep_frequent([frozenset("ab"), frozenset("bc"), frozenset("b")], 1, 2) == [
        {"a", "b"},
        {"b"},
        {"b"},
    ]
    assert keep_frequent([frozenset("ab"), frozenset("bc")], 2, 9) == [{"b"}, {"b"}]


# ---- files -------------------------------------------------------------------------------------------------------
USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER], "answer": "x"},
        {"messages": [USER, REPLY], "answer": "x"},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}], "answer": "x"},
        {"prompt": "hi", "answer": "x"},
        {"question": "hi", "answer": "x", "messages": None},
        {"instruction": "hi", "input": "", "answer": "x"},
    ],
)
def test_the_forms_of_prompts(record: dict[str, object]) -> None:
    found = to_prompt(record, 7)
    assert found.messages == [USER] and found.text == "hi" and found.id == "line-7"
    assert {key: found.record()[key] for key in ("id", "messages", "answer")} == {
        "id": "line-7",
        "messages": [USER],
        "answer": "x",
    }


BAD = {
    '{"messages": []}': "at least one message",
    '{"messages": [{"role": "assistant", "content": "x"}]}': "no question",
    '{"messages": [{"role": "system", "content": "x"}]}': "does not end with a question",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}': "should speak here",
    '{"prompt": " "}': "does not end with a question",
    '{"prompt": 3}': "must be text",
    '{"text": "x"}': "none of",
    "[1]": "not an object",
    "{": "not JSON",
}


@pytest.mark.fault("annotation", "records without a prompt", "skipped and counted with their lines")
def test_records_without_a_prompt_are_counted_with_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "\n".join([*BAD, '{"prompt": "a", "id": 1}', '{"prompt": "a"}', '{"prompt": "b", "id": 1}'])
    )
    prompts, skipped = read_prompts(path, 1.0)
    assert [p.id for p in prompts] == ["1", f"1-line-{len(BAD) + 3}"]  # one question once, an id once
    assert [s.line for s in skipped] == list(range(1, len(BAD) + 1))
    assert all(reason in s.reason for s, reason in zip(skipped, BAD.values()))
    with pytest.raises(DataError, match=f"{len(BAD)} of {len(BAD) + 3} records") as caught:
        read_prompts(path, 0.5)
    assert caught.value.where == f"{path}:1"
    path.write_text("")
    with pytest.raises(DataError, match="no prompt"):
        read_prompts(path, 0.5)


# ---- the stage ---------------------------------------------------------------------------------------------------
@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    kinds = ["Write a poem about {}", "Translate {} into French", "What is {}?", "Debug my python {}"]
    things = ["a river", "the moon", "my dog", "old music", "the law", "a bank"]
    lines = [
        {"question": kind.format(thing), "kind": kind[:5], "thing": [thing]}
        for kind in kinds
        for thing in things
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"question": ""}\n')
    return path


def test_chosen_prompts_cover_more_than_chance_and_are_what_ppo_reads(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tags"
    words = ["tags", "--prompts", str(prompts), "--size", "8", "--terms", "0", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "tags covered" in printed and "task/poem" in printed
    facts = load(out, "prompts").manifest["facts"]
    assert facts["coverage"] == 1.0 > facts["coverage_random"] and facts["tags_per_chosen"] >= 1
    assert (facts["prompts"], facts["skipped"], facts["chosen"]) == (24, 1, 8)
    assert facts["skipped_reasons"] == {"the conversation does not end with a question": 1}
    chosen = list(read_jsonl(out / "prompts.jsonl"))
    assert len(chosen) == 8 and all(record["tags"] and record["kind"] for record in chosen)
    read = read_ppo_prompts(out / "prompts.jsonl", tiny.byte_tokenizer(), 500, heldout=2)
    assert len(read.train) == 6 and not read.skipped
    point = json.loads((out / "coverage.json").read_text())["curve"][-1]
    tags = [frozenset(record["tags"]) for record in read_jsonl(out / "tagged.jsonl")]
    ids = [record["id"] for record in read_jsonl(out / "tagged.jsonl")]
    assert point["balanced"] == coverage(tags, [ids.index(record["id"]) for record in chosen])
    assert (out / "coverage.svg").read_text().startswith("<?xml")


def test_tags_that_are_given(prompts: Path, tmp_path: Path) -> None:
    made = run(
        config(tagger="given", fields=["kind", "thing"], size=6), {"prompts": prompts}, tmp_path / "given"
    )
    assert made.manifest["facts"]["tags"] == 10 and made.manifest["facts"]["coverage"] == 1.0
    with pytest.raises(DataError, match="no prompt has a tag"):
        run(config(tagger="given"), {"prompts": prompts}, tmp_path / "none")
    prompts.write_text('{"prompt": "a", "tags": 3}\n')
    with pytest.raises(DataError, match='"tags" is neither'):
        run(config(tagger="given"), {"prompts": prompts}, tmp_path / "bad")


def test_a_model_tags(prompts: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, object]) -> tuple[int, object]:
        text = body["messages"][-1]["content"]  # type: ignore[index]
        return 200, '["Poem"]' if "poem" in text.split("Request:")[1] else "none, other"

    with chat_api.serving(reply) as server:
        made = run(
            config(tagger="model", address=f"{server.address}#judge", min_count=1),
            {"prompts": prompts},
            tmp_path / "t",
        )
        assert len(server.bodies) == 24 and server.bodies[0]["model"] == "judge"
    said = [record["text"] for record in read_jsonl(made.path / "answers.jsonl")]
    assert said.count('["Poem"]') == 6 and len(said) == 24  # the model's own words are kept
    tags = json.loads((made.path / "coverage.json").read_text())["tags"]
    assert {t["tag"]: t["prompts"] for t in tags} == {"none": 18, "other": 18, "poem": 6}
    model = tiny.model_artefact(
        tmp_path / "model"
    )  # cannot tag, and its context is shorter than the question
    with pytest.raises(DataError, match="no prompt has a tag"):
        run(config(tagger="model"), {"prompts": prompts, "model": model}, tmp_path / "u")
    for flags, inputs in (({"tagger": "model"}, {}), ({}, {"model": model})):
        with pytest.raises(UsageError, match="model"):
            run(config(**flags), {"prompts": prompts, **inputs}, tmp_path / "v")


@pytest.mark.fault("annotation", "a tagging model fails halfway", "continues with what it has said")
def test_a_model_that_fails_is_not_asked_again_for_what_it_has_said(prompts: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(body: dict[str, object]) -> tuple[int, object]:
        asked.append(body["messages"][-1]["content"])  # type: ignore[index]
        return (403, {"error": "quota"}) if len(asked) == 11 else (200, f"tag {len(asked) % 3}, all")

    with chat_api.serving(reply) as server:
        flags = {"address": f"{server.address}#m", "batch_size": 4, "remote.parallel": 1, "remote.retries": 3}
        settings = config(tagger="model", **flags)
        with pytest.raises(OpenQwenError, match="quota"):
            run(settings, {"prompts": prompts}, tmp_path / "t")
        first = len(asked)
        made = run(settings, {"prompts": prompts}, tmp_path / "t")
    # Of two whole batches the second is asked for again, since it could have been cut.
    assert first in (11, 12) and len(asked) - first == 20
    assert len({*asked}) == 24 and made.manifest["facts"]["untagged"] == 0


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "size"), [("sft/sharegpt_zh_1k", 100), ("sft/belle_dev1k", 100), ("safety/harmfulqa", 50)]
)
def test_real_prompts_are_covered_better_than_by_chance(
    shared: Path, tmp_path: Path, name: str, size: int
) -> None:
    path = shared / "data" / "align" / f"{name}.jsonl.gz"
    facts = run(config(size=size), {"prompts": path}, tmp_path / "out").manifest["facts"]
    assert facts["coverage"] > 1.15 * facts["coverage_random_high"]
