"""The appendix' benchmarks: published forms, the report's prompts, scores of scripted models, resuming."""

from __future__ import annotations

import json
import math as arithmetic
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openqwen.core.errors import DataError, UsageError
from openqwen.evals import harness, sets
from openqwen.evals.harness import Subject, evaluate
from openqwen.evals.journal import Journal
from openqwen.evals.task import Item
from openqwen.evals.tasks import (
    APPENDIX,
    TASKS,
    agieval,
    boolq,
    gaokao,
    lambada,
    math23k,
    math401,
    nq,
    ocnli,
    siqa,
)
from openqwen.tokenizer import Tokenizer

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
LABELLED = {"text": ["sun", "sea", "ore", "ice"], "label": ["1", "2", "3", "4"]}
CHOOSE = "Please choose the correct answer to the question: "
PLACES = [
    {"text": text, "label": "ABCDE"[i]} for i, text in enumerate(["bank", "church", "sea", "bin", "map"])
]
# Task -> rows in forms it was published in.
ROWS: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {"id": "a", "question": "What melts?", "choices": LABELLED, "answerKey": "4"},
        {
            "id": "b",
            "question": {
                "stem": "What burns?",
                "choices": [{"text": "oil", "label": "A"}, {"text": "tin", "label": "B"}],
            },
            "answerKey": "A",
        },
        {"query": "Question: What is wet?", "choices": ["sand", "sea"], "gold": 1, "id": "c"},
        {
            "instruction": f"{CHOOSE}What is red?\n\nAnswer1: a rose Answer2: the sky\n\nAnswer format: x",
            "answer": "answer1",
        },
    ],
    "boolq": [
        {"passage": "Iron rusts.", "question": "does iron rust", "answer": True},
        {"passage": "Iron rusts.", "question": "is iron wood", "label": 0, "idx": 3},
        {
            "query": "Passage: Iron rusts.\nQuestion: does it float?",
            "choices": ["no", "yes"],
            "gold": 0,
            "id": "q",
        },
    ],
    "commonsenseqa": [
        {"id": "x", "question": {"stem": "Where is a pew?", "choices": PLACES}, "answerKey": "B"},
    ],
    "nq": [{"question": "who wrote it", "answer": ["Bobby Scott", "The Bob"]}],
    "lambada": [
        {"text": "he put down the chains"},
        {"context": "he put down the", "continuation": "chains", "id": "l"},
    ],
    "hellaswag": [
        {"ctx": "Roof: A man sits. he", "label": 3, "endings": ["a.", "b.", "c.", "d."], "id": "h"},
        {
            "activity_label": "Roof",
            "ctx_a": "A man [title] sits.",
            "ctx_b": "he",
            "ctx": "",
            "endings": ["a [x].", "b", "c", "d"],
            "label": "1",
        },
    ],
    "piqa": [{"goal": "dry a cup", "sol1": "use a towel", "sol2": "use a soup", "label": 0}],
    "siqa": [
        {
            "context": "Jo fell.",
            "question": "How is Jo?",
            "answerA": "hurt",
            "answerB": "glad",
            "answerC": "rich",
            "label": "1",
        },
        {
            "instruction": f"{CHOOSE}Jo fell. How is Jo?\n\nAnswer1: glad Answer2: hurt Answer3: rich",
            "answer": "answer2",
            "id": "s",
        },
    ],
    "ocnli": [
        {"sentence1": "身上裹一件棉大衣", "sentence2": "身上至少一件衣服", "label": "entailment", "id": 0},
        {"sentence1": "甲", "sentence2": "乙", "label": 0, "idx": 7},
    ],
    "math401": [{"query": "1+1=", "response": "2"}, {"query": "1/3=", "response": "0.3333"}],
    "math23k": [{"id": "1", "original_text": "一根钢管？", "equation": "x=8/5", "ans": "((8)/(5))"}],
    "agieval": [
        {
            "task": "sat-en",
            "passage": "A text.",
            "question": "Which?",
            "options": ["(A)one", "(B)two"],
            "label": "B",
            "id": "s",
        },
        {
            "task": "jec-qa-ca",
            "passage": None,
            "question": "哪些？",
            "options": ["(A)甲", "(B)乙", "(C)丙"],
            "label": ["A", "C"],
            "id": "j",
        },
        {
            "task": "math",
            "passage": None,
            "question": "Evaluate $2^3$.",
            "options": None,
            "label": None,
            "answer": "8",
            "id": "m",
        },
    ],
    "gaokao": [
        {
            "task": "2010-2022_History_MCQs",
            "question": "问题\nA. 甲 B. 乙",
            "answer": ["B"],
            "score": 4,
            "id": "h",
        },
        {"task": "2010-2022_Physics_MCQs", "question": "多选", "answer": ["AB"], "score": 6, "id": "p"},
        {
            "task": "2010-2022_English_Reading_Comp",
            "question": "读",
            "answer": ["A", "B"],
            "score": 2,
            "id": "r",
        },
    ],
}


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def items(tmp_path: Path) -> dict[str, list[Item]]:
    return {name: TASKS[name].read(write(tmp_path / f"{name}.jsonl", rows)) for name, rows in ROWS.items()}


class Scripted:
    """Knows which option and which reply is the right one, or says another."""

    def __init__(self, name: str, items: Sequence[Item], protocol: str, good: bool) -> None:
        self.ask = TASKS[name].ask("base", protocol)  # type: ignore[arg-type]
        self.items, self.good, self.asked = items, good, 0

    def item(self, prompt: str) -> Item:
        return next(i for i in self.items if prompt.rstrip().endswith(self.ask.query(i).rstrip()))

    def loglikelihood(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        done = []
        for before, after in pairs:
            self.asked += 1
            if len(before) == 1:  # the prompt itself, scored for the mean over the whole text
                done.append((-1.0 * len(after), False))
                continue
            item = self.item(TOKENIZER.decode(before))
            texts = self.ask.options(item) if self.ask.options else []
            gold = self.gold(item, texts)
            right = TOKENIZER.decode(after).strip() == gold.strip()
            done.append((-0.001 if right == self.good else -90.0, right == self.good))
        return done

    def gold(self, item: Item, texts: Sequence[str]) -> str:
        return texts[0] if self.ask.by == "greedy" else texts["ABCDE".index(item["answer"][0])]

    def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Any]:
        done = []
        for prompt in prompts:
            self.asked += 1
            text = self.ask.answer(self.item(TOKENIZER.decode(prompt))) if self.good else "?"
            done.append(SimpleNamespace(text=text.strip(), finish_reason="stop"))
        return done


def subject(engine: Any, weights: str = "w") -> Subject:
    return Subject("m", "base", engine, TOKENIZER, weights, 8000)


PROTOCOLS = [
    (name, protocol)
    for name in ROWS
    for protocol in ("report", "harness")
    if protocol == "report" or TASKS[name].harness is not None
]


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS)
@pytest.mark.parametrize("good", [True, False])
def test_perfect_is_100_and_bad_is_0(
    items: dict[str, list[Item]], name: str, protocol: str, good: bool
) -> None:
    engine = Scripted(name, items[name], protocol, good)
    done = evaluate(subject(engine), TASKS[name], items[name], 0, limit=99, protocol=protocol)  # type: ignore[arg-type]
    assert done is not None and done.card["protocol"] == protocol
    assert done.cell["value"] == pytest.approx(100 if good else 0), done.records
    assert done.cell["n"] == len(items[name]) and engine.asked


def test_the_appendix_is_whole() -> None:
    assert set(APPENDIX) | {"mmlu", "ceval", "gsm8k", "math", "humaneval", "mbpp", "bbh"} <= set(TASKS)
    assert set(sets.SETS) == set(TASKS)


def test_prompts_are_those_of_the_modes(items: dict[str, list[Item]]) -> None:
    def first(name: str, index: int = 0) -> str:
        item = items[name][index]
        ask = TASKS[name].base
        return ask.text(item, []) + (f"|{ask.options(item)}" if ask.options and ask.options(item) else "")

    assert first("arc_easy") == "Question: What melts?\nA. sun\nB. sea\nC. ore\nD. ice\nAnswer:"
    assert first("boolq") == (
        "Passage: Iron rusts.\nQuestion: does iron rust?\n|['Answer: No', 'Answer: Yes']"
    )
    assert first("siqa") == (
        "Jo fell.\nQuestion: How is Jo?\nA. hurt\nB. glad\nC. rich\n|['Answer: A', 'Answer: B', 'Answer: C']"
    )
    assert items["siqa"][1]["context"] == "Jo fell." and items["siqa"][1]["answer"] == "B"
    assert first("hellaswag") == (
        "Roof: A man sits. he\nQuestion: Which ending makes the most sense?\nA. a.\nB. b.\nC. c.\nD. d.\n"
        "You may choose from 'A', 'B', 'C', 'D'.\nAnswer:"
    )
    assert items["hellaswag"][1]["question"] == "Roof: A man. sits. He"
    assert first("piqa") == "dry a cup\nA. use a towel\nB. use a soup\nAnswer:"
    assert first("ocnli") == (
        "语句一：“身上裹一件棉大衣”\n语句二：“身上至少一件衣服”\n请问这两句话是什么关系？\nA. 蕴含\n B. 矛盾\n C. 无关\n"
        "请从“A”，“B”，“C”中进行选择。\n答："
    )
    assert items["ocnli"][1]["answer"] == "C"
    assert first("lambada") == "Please complete the following sentence:\nhe put down the"
    assert first("nq").endswith("start your answer with the prompt 'The answer is '.\nQ: who wrote it?\nA:")
    assert first("agieval") == (
        "The following is a SAT English question. Please select the correct answer.\nA text.Which?\n(A)one\n(B)two\n"
        "|['The answer is A', 'The answer is B']"
    )
    assert first("agieval", 1).endswith("哪些？\n(A)甲\n(B)乙\n(C)丙\n答案是：")
    assert first("agieval", 2) == (
        "The following is a Math question. Please select the correct answer.\nEvaluate $2^3$.The answer is "
    )
    assert first("gaokao").startswith(
        "请你做一道历史选择题\n请你一步一步思考并将思考过程写在【解析】和<eoe>之间。"
    )
    assert "'\\n【答案】C <eoa>'" in first("gaokao") and first("gaokao", 2).endswith(
        "请你严格按照上述格式作答。\n读"
    )


def test_whole_texts_compare_by_the_mean_of_all_their_tokens() -> None:
    """Beside one forward pass over each whole text."""
    from openqwen.engine import Engine
    from openqwen.model import ModelConfig, Qwen

    shape = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_length=256
    )
    model = Qwen(shape)
    model.init_weights(5)
    with torch.no_grad():  # sharper than a fresh model, whose tokens are all about as likely
        for weight in model.parameters():
            weight.mul_(6)
    task, engine = TASKS["arc_challenge"], subject(Engine(model, TOKENIZER))
    words = ["sea", "a big old leaf", "the first rain of a long year", "tin", "fog on the hill"]
    asked = [
        {"id": str(i), "question": f"What is {word} in autumn?", "choices": [words[i - 1], words[i - 2], word],
         "answer": "A", "split": "test"}
        for i, word in enumerate(words)
    ]  # fmt: skip
    done = evaluate(engine, task, asked, 0, limit=9)
    assert done is not None
    otherwise = 0
    for item, record in zip(asked, done.records, strict=True):
        means = []
        for text in task.base.options(item):  # type: ignore[misc]
            ids = torch.tensor([TOKENIZER.encode(task.base.query(item) + text)])
            logp = model(ids).detach()[0, :-1, : TOKENIZER.vocab_size].log_softmax(-1)
            means.append(float(logp.gather(1, ids[0, 1:, None]).sum()) / ids.shape[1])
        choices = item["choices"]
        assert record["output"] == choices[means.index(max(means))]
        prompt = harness.fit(engine, task.base, item, [])
        pairs = [[harness.pair(engine, task.base, prompt, f" {text}") for text in choices]]
        before = harness.whole_texts(engine, pairs)[0]
        for mean, score, (ids, rest) in zip(means, record["scores"], pairs[0], strict=True):
            assert (before + score) / (len(ids) + len(rest)) == pytest.approx(mean, abs=1e-5)
        alone = [s / (len(p) + len(o)) for s, (p, o) in zip(record["scores"], pairs[0], strict=True)]
        otherwise += alone.index(max(alone)) != means.index(max(means))
    assert otherwise, "the items do not tell this measure from that of the options alone"


@pytest.mark.parametrize(
    ("judge", "item", "reply", "right"),
    [
        (nq.judge, {"answer": ["The Bob", "x"]}, "The answer is Bob. More", True),
        (nq.judge, {"answer": ["Bob"]}, "The answer is Bobby", False),
        (nq.judge, {"answer": ["a"]}, "the", False),
        (nq.harness_judge, {"answer": ["The Bob!"]}, " bob", True),
        (lambada.judge, {"answer": "chains"}, " chains, he", True),
        (lambada.judge, {"answer": "chains"}, "chain", False),
        (boolq.judge, {"answer": "B"}, "Yes, it does.", True),
        (boolq.judge, {"answer": "B"}, "No", False),
        (boolq.judge, {"answer": "B"}, "", False),
        (ocnli.judge, {"answer": "C"}, "答案是C。A不对", True),
        (ocnli.judge, {"answer": "C"}, "无关", False),
        (math401.judge, {"answer": "0.3333"}, "it is 0.333", True),
        (math401.judge, {"answer": "0.3333"}, "0.335", False),
        (math401.judge, {"answer": "-1234.5"}, "so −1,234.5", True),
        (math401.judge, {"answer": "2"}, "none", False),
        (math23k.judge, {"answer": "((8)/(5))"}, "答案是 1.6。", True),
        (math23k.judge, {"answer": "((8)/(5))"}, "x = \\frac{8}{5}", True),
        (math23k.judge, {"answer": "1(3/5)"}, "160%", True),
        (math23k.judge, {"answer": "24"}, "24 本", True),
        (math23k.judge, {"answer": "24"}, "= -24", False),
        (math23k.judge, {"answer": "60%"}, "0.61", False),
        (math23k.judge, {"answer": "2"}, "1/0", False),
    ],
)
def test_judges(judge: Any, item: Item, reply: str, right: bool) -> None:
    assert judge(reply, item) is right


def test_points_of_gaokao(items: dict[str, list[Item]]) -> None:
    history, physics, reading = items["gaokao"]
    assert gaokao.judge("【解析】A 不对【答案】B <eoa>", history) == 1
    assert [gaokao.judge(f"【答案】 {said} <eoa>", physics) for said in ("AB", "A", "AC", "")] == [
        1,
        0.5,
        0,
        0,
    ]
    assert gaokao.judge("（1）【答案】 A <eoa>\n（2）【答案】 C <eoa>", reading) == 0.5
    assert gaokao.judge("A", reading) == 0
    assert gaokao.points(items["gaokao"]) == [4, 6, 4]
    records = [{"right": 1.0}, {"right": 0.5}, {"right": 0.5}]
    cell = harness.score(records, gaokao.points(items["gaokao"]), 1)
    assert (
        cell["value"] == pytest.approx(100 * (4 + 3 + 2) / 14)
        and cell["low"] <= cell["value"] <= cell["high"]
    )


def test_exams_count_the_same() -> None:
    records = [{"right": True}] * 3 + [{"right": False}]
    exams = [{"subject": "a"}] * 3 + [{"subject": "b"}]
    assert harness.score(records, agieval.by_subject(exams), 1)["value"] == pytest.approx(50)


@given(
    st.text(), st.sampled_from(["math401", "math23k", "nq", "lambada", "boolq", "ocnli", "gaokao", "agieval"])
)
def test_judges_take_any_text(text: str, name: str) -> None:
    for row in ROWS[name]:
        item = TASKS[name].parse(row, "file.jsonl:1")
        assert item is not None
        for ask in (TASKS[name].base, TASKS[name].chat):
            if ask.judge is not None:
                assert 0 <= ask.judge(text, item) <= 1


@given(
    st.fractions(max_denominator=400), st.sampled_from(["{n}/{d}", "\\frac{{{n}}}{{{d}}}", "(({n})/({d}))"])
)
def test_math23k_reads_its_fractions(value: Any, form: str) -> None:
    n, d = abs(value.numerator), value.denominator
    assert math23k.value("共 " + form.format(n=n, d=d)) == abs(value)


@pytest.mark.fault("evaluation", "replies are empty, rows malformed", "counted, never right")
def test_an_empty_reply_and_a_malformed_row_are_counted_and_never_right(tmp_path: Path) -> None:
    rows = [*ROWS["math401"], {"query": "1+2="}, {"query": "x", "response": "none"}, 7]
    path = write(tmp_path / "math401" / "math401.jsonl", rows)
    path.write_bytes(path.read_bytes() + b"{broken\n")
    loaded = sets.load(TASKS["math401"], tmp_path)
    assert len(loaded.items) == 2 and len(loaded.data["bad_rows"]) == 4
    assert loaded.source == "Math401, 2 of 401 items, 4 bad rows" and "none stated" in loaded.data["licence"]
    engine = SimpleNamespace(
        generate=lambda prompts, _: [SimpleNamespace(text=" \n", finish_reason="stop") for _ in prompts]
    )
    task = TASKS["math401"]
    generous = replace(task, base=replace(task.base, judge=lambda text, item: True))
    done = evaluate(subject(engine), generous, loaded.items, 0, limit=9, data=loaded.data)
    assert done is not None and done.cell["value"] == 0 and done.card["empty"] == 2
    assert done.card["data"]["files"][0]["sha256"] and len(done.card["data"]["bad_rows"]) == 4
    with pytest.raises(DataError, match="response"):
        TASKS["math401"].read(path)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("arc_easy", {"question": "q", "choices": LABELLED, "answerKey": "9"}),
        ("hellaswag", {"ctx": "c", "endings": ["a", "b"], "label": 2}),
        ("hellaswag", {"ctx": "c", "endings": ["a", "b"], "label": ""}),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}),
        ("siqa", {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "0"}),
        ("boolq", {"passage": "p", "question": 3, "answer": True}),
        ("nq", {"question": "q", "answer": "text"}),
        ("lambada", {"text": "word"}),
        ("ocnli", {"sentence1": "a", "sentence2": "b", "label": "maybe"}),
        ("agieval", {"task": "sat-en", "question": "q", "options": ["(A)x"], "label": "B"}),
        ("agieval", {"task": "unknown", "question": "q", "options": [], "answer": "1"}),
        ("gaokao", {"task": "2010-2022_History_MCQs", "question": "q", "answer": "A", "score": 1}),
        ("math23k", {"id": "1", "original_text": "q", "ans": "?"}),
    ],
)  # fmt: skip
def test_rows_outside_the_form_are_refused_with_their_place(name: str, row: Item, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError) as error:
        TASKS[name].read(path)
    assert f"{path}:1" in str(error.value)


def test_rows_that_ocnli_leaves_out(tmp_path: Path) -> None:
    rows = [*ROWS["ocnli"], {"sentence1": "a", "sentence2": "b", "label": "-"}]
    assert len(TASKS["ocnli"].read(write(tmp_path / "dev.json", rows))) == 2


def test_sets_by_size_and_missing_ones(tmp_path: Path) -> None:
    assert sets.load(TASKS["piqa"], tmp_path).missing == (
        f"PIQA: no file valid (.jsonl, .jsonl.gz, .json) in {tmp_path / 'piqa'}"
    )
    write(tmp_path / "arc" / "ARC-Easy-Test.jsonl", ROWS["arc_easy"][:2])
    write(tmp_path / "arc" / "ARC-Easy-Train.jsonl", ROWS["arc_easy"][2:])
    loaded = sets.load(TASKS["arc_easy"], tmp_path)
    assert [item["split"] for item in loaded.items] == ["test", "test", "dev", "dev"]
    assert [sets.share_of(n, 4) for n in (4, 2, 5)] == [
        "all 4 items", "2 of 4 items", "5 items, which are not the 4 of the published set",
    ]  # fmt: skip
    (tmp_path / "gaokao").mkdir()
    whole = {"keywords": "k", "example": [{k: v for k, v in ROWS["gaokao"][0].items() if k != "task"}]}
    (tmp_path / "gaokao" / "2010-2022_History_MCQs.json").write_text(json.dumps(whole), encoding="utf-8")
    assert sets.load(TASKS["gaokao"], tmp_path).items[0]["subject"] == "2010-2022_History_MCQs"


def test_a_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> list[Item]:
        asked.append((name, config, split))
        if name == "baber/piqa":
            raise ConnectionError("no route")
        return [{"question": "What melts?", "choices": LABELLED, "answerKey": "4", "id": f"{split}1"}]

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    sets.fetch(TASKS["arc_easy"], tmp_path)
    assert asked == [("allenai/ai2_arc", "ARC-Easy", split) for split in ("test", "train")]
    assert [item["split"] for item in sets.load(TASKS["arc_easy"], tmp_path).items] == ["test", "dev"]
    with pytest.raises(DataError, match="no route"):
        sets.fetch(TASKS["piqa"], tmp_path)
    assert not list((tmp_path / "piqa").iterdir())
    with pytest.raises(DataError, match="not fetched"):
        sets.fetch(TASKS["math401"], tmp_path)


class Dying(Scripted):
    """Dies at the n-th call."""

    calls = 2

    def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Any]:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().generate(prompts, sampling)


@pytest.mark.fault("evaluation", "an evaluation is interrupted", "goes on, no item is asked twice")
def test_an_interrupted_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "BLOCK", 2)
    rows = [{"query": f"{i}+1=", "response": str(i + 1)} for i in range(9)]
    task, journal = TASKS["math401"], tmp_path / "journal.jsonl"
    items = task.read(write(tmp_path / "m.jsonl", rows))
    with pytest.raises(KeyboardInterrupt):
        evaluate(subject(Dying("math401", items, "report", True)), task, items, 0, limit=9, journal=journal)
    with journal.open("ab") as file:
        file.write(b'{"key": "torn, "record"')
    again = Scripted("math401", items, "report", True)
    done = evaluate(subject(again), task, items, 0, limit=9, journal=journal)
    whole = evaluate(subject(Scripted("math401", items, "report", True)), task, items, 0, limit=9)
    assert again.asked == 5 and done == whole
    other = Scripted("math401", items, "report", True)
    evaluate(subject(other, "other weights"), task, items, 0, limit=9, journal=journal)
    assert other.asked == 9
    journal.write_bytes(b"damaged\n" + journal.read_bytes())
    with pytest.raises(DataError, match="journal"):
        Journal(journal)


def test_no_protocol_no_number(items: dict[str, list[Item]]) -> None:
    with pytest.raises(UsageError, match="no task for OCNLI"):
        evaluate(subject(None), TASKS["ocnli"], items["ocnli"], 0, limit=1, protocol="harness")


COUNTS = {
    "arc_easy": 1196, "arc_challenge": 576, "boolq": 1666, "commonsenseqa": 609, "nq": 1789, "lambada": 2585,
    "hellaswag": 4988, "piqa": 951, "siqa": 984, "ocnli": 1469, "math401": 206, "math23k": 1188, "gaokao": 878,
    "agieval": 4103,
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_published_files_are_read_whole(shared: Path, name: str) -> None:
    task = TASKS[name]
    loaded = sets.load(task, shared / "data" / "eval")
    tested = [item for item in loaded.items if item["split"] == "test"]
    assert len(tested) == COUNTS[name] and len(loaded.data["bad_rows"]) == (2 if name == "agieval" else 0)
    assert len({item["id"] for item in tested}) == len(tested)
    judged = [item for item in tested if task.chat.judge and item["answer"]]
    right = sum(task.chat.judge(task.chat.answer(item), item) == 1 for item in judged)  # type: ignore[misc]
    assert right >= 0.97 * len(judged), [
        i["id"] for i in judged if task.chat.judge(task.chat.answer(i), i) != 1
    ][:5]  # type: ignore[misc]
    if name == "siqa":
        assert sum(item["context"] == "" for item in tested) <= 20
    chance = task.chance(tested)
    assert chance is None or (arithmetic.isfinite(chance) and 0 < chance < 1)
    assert siqa.TASK.harness is not None
