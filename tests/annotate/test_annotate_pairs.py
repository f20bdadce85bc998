"""Replies of several models, their scores, and pairs that say where they are from."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import chat_api
import pytest
import tiny_artefacts as tiny
from hypothesis import given
from hypothesis import strategies as st

from openqwen.annotate import judge, pairs, sample
from openqwen.annotate.config import PairsConfig, SampleConfig
from openqwen.cli import main
from openqwen.core.artifact import find, load, read_jsonl
from openqwen.core.config import Resolved, fields_without_source, resolve
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.reward.data import read_pairs

SMALL = {"max_tokens": 4, "batch_size": 4, "temperatures": [0.0, 1.0], "replies": 2}


def drawing(**flags: object) -> Resolved[SampleConfig]:
    return resolve(SampleConfig, "sample", flags={**SMALL, **flags}, environ={})


def pairing(**flags: object) -> Resolved[PairsConfig]:
    return resolve(PairsConfig, "pairs", flags={"heldout_share": 0.0, **flags}, environ={})


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return path


SYSTEM = {"role": "system", "content": ""}


def question(text: str, **more: object) -> dict[str, Any]:
    return {"messages": [SYSTEM, {"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models with a context of 48 tokens, and prompts of which one is too long for them."""
    folder = tmp_path_factory.mktemp("sample")
    talks = [question(text, id=f"q{i}", answer=i) for i, text in enumerate("abcdef")]
    return {
        "prompts": write(
            folder / "prompts.jsonl", [*talks, question("long " * 20, id="long"), {"prompt": ""}]
        ),
        "model-1": tiny.model_artefact(folder / "one", 0),
        "model-2": tiny.model_artefact(folder / "two", 1),
    }


@pytest.fixture(scope="module")
def drawn(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.run(drawing(max_bad_share=0.2), inputs, tmp_path_factory.mktemp("drawn") / "replies").path


# ---- replies -----------------------------------------------------------------------------------------------------
def test_each_prompt_by_each_model_with_each_setting(drawn: Path, inputs: dict[str, Path]) -> None:
    records = list(read_jsonl(drawn / "replies.jsonl"))
    whole = [record for record in records if "text" in record]
    facts = load(drawn, "replies").manifest["facts"]
    assert facts["by_model"] == {"one": 18, "two": 18} and facts["replies"] == len(whole) == 36
    assert facts["problems"] == {"longer with its reply than the context of 48": 6} and facts["skipped"] == 1
    assert {record["line"] for record in records if "problem" in record} == {7}  # found again in the file
    asked = Counter((r["prompt"], r["from"]["model"], r["from"]["temperature"]) for r in whole)
    assert set(asked.values()) == {1, 2} and all(
        (count == 1) == (key[2] == 0) for key, count in asked.items()
    )
    assert len({r["id"] for r in records}) == len({r["from"]["seed"] for r in records}) == len(records)
    assert {r["from"]["content"] for r in whole} == {
        load(inputs[f"model-{n}"], "model").content for n in (1, 2)
    }
    texts = {name: [r["text"] for r in whole if r["from"]["model"] == name] for name in ("one", "two")}
    assert texts["one"] != texts["two"]
    drawn_twice = [r["text"] for r in whole if r["from"]["temperature"] > 0]
    assert all(
        a != b for a, b in zip(drawn_twice[::2], drawn_twice[1::2])
    )  # each reply has a seed of its own


@pytest.mark.fault("annotation", "sampling replies is killed", "the same file after a restart")
def test_killed_and_restarted_it_ends_with_the_same_file(
    drawn: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    out, whole = tmp_path / "replies", (drawn / "replies.jsonl").read_bytes()
    settings = drawing(max_bad_share=0.2)
    lines = whole.splitlines(keepends=True)
    for cut in (6, 30):  # lines of a batch that is not whole, and half a line
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sample, "report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                sample.run(settings, inputs, out)
        assert find(out) is None
        (out / "replies.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        real = sample.answered
        patch.setattr(sample, "answered", lambda *a: asked.append(a[2]) or real(*a))
        loads, local = [], sample.Local
        patch.setattr(sample, "Local", lambda *a: loads.append(a[0].name) or local(*a))
        made = sample.run(settings, inputs, out)
    assert (out / "replies.jsonl").read_bytes() == whole and made.content == load(drawn, "replies").content
    assert loads == ["two"]  # the first model had answered all
    assert sum(map(len, asked)) == 13  # the 29 lines of whole batches stood


def test_models_of_one_name_and_fewer_prompts(inputs: dict[str, Path], tmp_path: Path) -> None:
    assert sample.unique(["a", "b", "a", "a-2", "a"]) == ["a", "b", "a-2", "a-2-2", "a-3"]
    same = {"prompts": inputs["prompts"], "model-1": inputs["model-1"], "model-2": inputs["model-1"]}
    made = sample.run(drawing(max_bad_share=0.2, max_prompts=2), same, tmp_path / "x")
    assert made.manifest["facts"]["prompts"] == 2
    assert set(made.manifest["facts"]["by_model"]) <= {"one", "one-2"}


def test_models_behind_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: Counter[str] = Counter()

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        tries[text] += 1
        if text == "busy" and tries[text] == 1:
            return 503, {"error": {"message": "wait"}}
        if text == "long":
            return 400, {"error": {"message": "too many tokens"}}
        return 200, f"{text} {body['seed'] % 2}"

    monkeypatch.setenv("MY_KEY", "secret")
    path = write(tmp_path / "p.jsonl", [question(text) for text in ("busy", "long", "fine")])
    with chat_api.serving(reply) as server:
        flags = {"addresses": [f"{server.address}#qwen"], "remote.key_variable": "MY_KEY"}
        made = sample.run(drawing(**flags), {"prompts": path}, tmp_path / "out")
        assert set(server.keys) == {"Bearer secret"} and server.bodies[0]["model"] == "qwen"
        assert {body["temperature"] for body in server.bodies} == {0.0, 1.0} and tries["long"] == 3
    seeds = {r["from"]["seed"] for r in read_jsonl(made.path / "replies.jsonl")}
    assert {body["seed"] for body in server.bodies} == seeds and len(seeds) == 9
    facts = made.manifest["facts"]
    assert facts["by_model"] == {"qwen": 6} and list(facts["problems"].values()) == [3]
    assert "too many tokens" in str(facts["problems"])
    assert not [f for f in made.path.rglob("*") if f.is_file() and b"secret" in f.read_bytes()]
    gone = drawing(**{"addresses": [f"{server.address}#qwen"], "remote.retries": 0})
    with pytest.raises(OpenQwenError, match="no reply from qwen"):
        sample.run(gone, {"prompts": path}, tmp_path / "gone")


def test_what_cannot_be_asked(inputs: dict[str, Path], tmp_path: Path) -> None:
    for flags in ({"temperatures": [-1.0]}, {"top_ps": [0.0]}, {"temperatures": []}, {"addresses": ["here"]}):
        with pytest.raises(UsageError):
            drawing(**flags)
    with pytest.raises(UsageError, match="no model"):
        sample.run(drawing(), {"prompts": inputs["prompts"]}, tmp_path / "a")
    long = write(tmp_path / "long.jsonl", [question("long " * 20)])
    with pytest.raises(DataError, match="no prompt has a reply: longer"):
        sample.run(drawing(), {**inputs, "prompts": long}, tmp_path / "b")
    assert not fields_without_source(SampleConfig) and not fields_without_source(PairsConfig)


# ---- scores ------------------------------------------------------------------------------------------------------
def replies_artefact(path: Path, texts: dict[str, list[str]], prompts: list[dict[str, Any]]) -> Path:
    """A replies artefact whose texts are given, by prompt: drawn by a model behind an address."""
    left = {name: list(found) for name, found in texts.items()}

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        text = left[body["messages"][-1]["content"]].pop(0)
        finish = "length" if text.endswith("...") else "stop"
        return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish}]}

    count = len(next(iter(texts.values())))
    with chat_api.serving(reply) as server:
        flags = {
            "address": f"{server.address}#qwen",
            "remote.parallel": 1,
            "temperatures": [1.0],
            "replies": count,
        }
        file = write(path.parent / "given.jsonl", prompts)
        return sample.run(drawing(**flags), {"prompts": file}, path).path


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, list[str]]:
    """Three replies to two prompts, and the replies' names."""
    texts = {"2+2": ["It is 4", "5", "It is 4"], "3+3": ["7", "6, or 7...", ""]}
    prompts = [question("2+2", id="a", answer="4", task="sum"), question("3+3", id="b", answer=6)]
    path = replies_artefact(tmp_path / "replies", texts, prompts)
    return path, [record["id"] for record in read_jsonl(path / "replies.jsonl")]


def test_people_score_in_json_lines_and_in_sqlite(scored: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, names = scored
    said = [
        {"reply": names[0], "annotator": "x", "score": 1},
        {"reply": names[0], "annotator": "x", "score": 5},  # a second thought
        {"reply": names[0], "annotator": "y", "score": 4},
        {"reply": names[1], "annotator": "x", "score": 2},
        {"reply": names[1], "annotator": "y", "score": 3},
        {"reply": names[2], "annotator": "y", "score": 1},
        {"reply": names[3], "annotator": "x", "score": 1},
        {"reply": names[4], "annotator": "x", "score": 2.5},
        {"reply": names[5], "annotator": "x", "score": 5},
    ]
    file, base = write(tmp_path / "scores.jsonl", said), tmp_path / "scores.db"
    with closing(sqlite3.connect(base)) as table:
        table.execute("create table scores (reply text, annotator text, score real)")
        table.executemany("insert into scores values (:reply, :annotator, :score)", said)
        table.commit()
    made = pairs.run(pairing(), {"replies": path, "scores": file}, tmp_path / "pairs")
    again = pairs.run(pairing(), {"replies": path, "scores": base}, tmp_path / "again")
    assert (made.path / "pairs.jsonl").read_bytes() == (again.path / "pairs.jsonl").read_bytes()
    found = list(read_jsonl(made.path / "pairs.jsonl"))
    assert [(p["chosen"], p["rejected"], p["gap"]) for p in found] == [
        ("It is 4", "5", 2.0),
        ("6, or 7...", "7", 1.5),
    ]
    facts = made.manifest["facts"]
    assert facts["left_out"] == {"equal sides": 1, "the same texts again": 1, "an empty side": 2}
    assert facts["agreement"] == 1.0 and facts["pairs"] == 2 and facts["scored"] == 6
    first = found[0]
    assert first["task"] == "sum" and first["judge"] == {"kind": "people", "who": ["x", "y"]}
    assert first["chosen_from"]["score"] == 4.5 and first["chosen_from"]["model"] == "qwen"
    assert {"address", "temperature", "top_p", "seed", "finished"} <= first["rejected_from"].keys()
    read = read_pairs(made.path / "pairs.jsonl", tiny.byte_tokenizer(), 200)
    assert len(read.items) == 2 and not read.skipped


BAD = {
    '{"reply": 3, "score": 1}': "names no reply",
    '{"reply": "nobody", "score": 1}': "not there",
    '{"reply": "A", "score": "high"}': "no number",
    '{"reply": "A", "score": true}': "no number",
    '{"reply": "A", "score": NaN}': "no number",
    "[]": "names no reply",
    "{": "not JSON",
}


@pytest.mark.fault(
    "annotation", "scores of people are malformed or of other replies", "skipped and counted with their lines"
)
def test_scores_that_cannot_be_used(scored: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, names = scored
    file = tmp_path / "scores.jsonl"
    good = [json.dumps({"reply": name, "score": n}) for n, name in enumerate(names)]
    file.write_text("\n".join(good + [line.replace('"A"', json.dumps(names[0])) for line in BAD]))
    inputs = {"replies": path, "scores": file}
    with pytest.raises(DataError, match=rf"{len(BAD)} of {len(BAD) + 6} scores"):
        pairs.run(pairing(), inputs, tmp_path / "x")
    made = pairs.run(pairing(max_bad_share=0.9), inputs, tmp_path / "y")
    skipped = json.loads((made.path / "skipped.json").read_text())
    lines = sorted((line, reason) for reason, found in skipped.items() for line in found)
    assert [line for line, _ in lines] == list(range(7, 7 + len(BAD)))
    assert all(word in reason for (_, reason), word in zip(lines, BAD.values()))
    file.write_text("\n".join(json.dumps({"reply": name, "score": 1}) for name in names))
    with pytest.raises(DataError, match="no two replies"):
        pairs.run(pairing(), inputs, tmp_path / "z")
    file.write_bytes(judge.SQLITE + b"x" * 100)
    with pytest.raises(DataError, match="no table of scores"):
        pairs.run(pairing(), inputs, tmp_path / "z")
    for flags, more in (
        ({}, {}),
        ({"judge": "rules"}, {"scores": file}),
        ({"address": "http://h#m"}, {"scores": file}),
    ):
        with pytest.raises(UsageError, match=r"scores|no model"):
            pairs.run(pairing(**flags), {"replies": path, **more}, tmp_path / "z")


def test_a_rule_scores(scored: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, _ = scored
    assert main(["pairs", "--replies", str(path), "--judge", "rules", "--out", str(tmp_path / "pairs")]) == 0
    made = load(tmp_path / "pairs", "pairs")
    found = [p for name in ("pairs", "heldout") for p in read_jsonl(made.path / f"{name}.jsonl")]
    # 3+3: the reply that was cut off has one less than the wrong one, and ends with a wrong number itself.
    assert {(p["chosen"], p["rejected"]) for p in found} == {("It is 4", "5"), ("7", "6, or 7...")}
    assert {who for p in found for who in p["judge"]["who"]} == {"rule answer"}
    with pytest.raises(DataError, match="3 of 6 scores cannot be used"):  # no item of the primer
        pairs.run(pairing(judge="rules", rule="primer"), {"replies": path}, tmp_path / "x")


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("1,200", "So: 1200.", 1.0),
        (12, "first 3, then 12", 1.0),
        ("12", "12, or 13", 0.0),
        ("Paris", "The capital is paris!", 1.0),
        ("Paris", "Paris is nice", 0.0),
        ("12", "", 0.0),
    ],
)
def test_the_rule_of_the_answer(answer: object, reply: str, right: float) -> None:
    assert judge.right_answer({"answer": answer}, reply) == right


def test_a_model_judges(scored: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, _ = scored

    def verdict(body: dict[str, Any]) -> tuple[int, Any]:
        reply = body["messages"][-1]["content"].split("[Reply]\n")[1].split("\n\n[End")[0]
        return 200, {"It is 4": "Right. Score: 9", "5": "**Score:** 2 of 10", "7": "Wrong.\nScore: 3"}.get(
            reply, "?"
        )

    with chat_api.serving(verdict) as server:
        settings = pairing(judge="model", address=f"{server.address}#judge", max_bad_share=0.5)
        made = pairs.run(settings, {"replies": path}, tmp_path / "pairs")
        assert {body["temperature"] for body in server.bodies} == {0.0} and len(server.bodies) == 6
    (found,) = read_jsonl(made.path / "pairs.jsonl")
    assert (found["chosen"], found["rejected"], found["gap"]) == ("It is 4", "5", 7.0)
    assert found["judge"] == {"kind": "model", "who": ["judge"]}
    assert made.manifest["facts"]["skipped"] == {"the verdict holds no score": 2}


@pytest.mark.fault("annotation", "a judge model answers anything", "a verdict or none, counted")
@pytest.mark.parametrize(
    ("verdict", "score"),
    [
        ("Score: 7", 7.0),
        ("score 3\nScore: 8.5", 8.5),
        ("Score: 11", None),
        ("Score: 0", None),
        ("good", None),
    ],
)
def test_verdicts(verdict: str, score: float | None) -> None:
    assert judge.parse_score(verdict) == score


@given(st.dictionaries(st.tuples(st.integers(0, 3), st.sampled_from("xyz")), st.integers(0, 3), max_size=10))
def test_agreement_counts_what_it_says(opinions: dict[tuple[int, str], int]) -> None:
    """Against all pairs of replies and of annotators, one by one. Replies 0, 1 and 2, 3 belong together."""
    by_reply: dict[str, dict[str, float]] = {}
    for (reply, annotator), score in opinions.items():
        by_reply.setdefault(str(reply), {})[annotator] = score
    said = []
    for a, b in (("0", "1"), ("2", "3")):
        for x, y in combinations("xyz", 2):
            scores = [by_reply.get(r, {}).get(p) for p in (x, y) for r in (a, b)]
            if None not in scores and scores[0] != scores[1] and scores[2] != scores[3]:  # type: ignore[comparison-overlap]
                said.append((scores[0] > scores[1]) == (scores[2] > scores[3]))  # type: ignore[operator]
    expected = sum(said) / len(said) if said else None
    assert judge.agreement(by_reply, {r: "ab"[int(r) > 1] for r in "0123"}) == expected


def test_a_prompts_pairs_stay_on_one_side(tmp_path: Path) -> None:
    rng = random.Random(1)
    prompts = [question(f"n{i}", id=str(i)) for i in range(60)]
    texts = {f"n{i}": [f"{i} {n}" for n in range(3)] for i in range(60)}
    path = replies_artefact(tmp_path / "replies", texts, prompts)
    names = [record["id"] for record in read_jsonl(path / "replies.jsonl")]
    scores = write(tmp_path / "s.jsonl", [{"reply": name, "score": rng.random()} for name in names])
    made = pairs.run(
        pairing(heldout_share=0.3, max_pairs=2), {"replies": path, "scores": scores}, tmp_path / "pairs"
    )
    sides = [
        {p["messages"][-1]["content"] for p in read_jsonl(made.path / f"{name}.jsonl")}
        for name in ("pairs", "heldout")
    ]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 60 and 8 <= len(sides[1]) <= 28
    found = [p for name in ("pairs", "heldout") for p in read_jsonl(made.path / f"{name}.jsonl")]
    given = {record["reply"]: record["score"] for record in read_jsonl(scores)}
    of_first = sorted(score for reply, score in given.items() if reply.startswith("0/"))
    gaps = sorted(p["gap"] for p in found if p["messages"][-1]["content"] == "n0")
    near, far = sorted((of_first[1] - of_first[0], of_first[2] - of_first[1]))
    assert gaps == [far, of_first[2] - of_first[0]] and near < far  # the nearest two of three make no pair
    facts = made.manifest["facts"]
    assert facts["pairs"] + facts["heldout"] == 120 and facts["left_out"] == {"beyond max_pairs": 60}
