"""The primer keeps its promises: determinism, separation of splits, truth of labels, answers, scores and programs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openqwen.core.artifact import Artifact, read_jsonl
from openqwen.core.config import Resolved, fields_without_source
from openqwen.core.errors import DataError
from openqwen.data.primer import check, true_score
from openqwen.data.primer.benchmarks import Guard, item_text, ngrams
from openqwen.data.primer.config import PrimerConfig
from openqwen.data.primer.score import COURTESIES, is_rude, repeats
from openqwen.data.primer.stage import run
from openqwen.data.primer.tasks import Asker, Item, normalise, question_hash, split_of
from openqwen.data.primer.world import RELATIONS, RUDE_WORDS, World

SMALL = {
    "pages": 600,
    "sft_train": 600,
    "tools_train": 300,
    "pmp_pairs": 400,
    "pairs_train": 400,
    "prompts_train": 200,
}
BENCHMARKS = ("mmlu", "ceval", "gsm8k", "math", "humaneval", "mbpp", "bbh")
TRAINING = ("sft.train", "pmp", "pairs.train", "prompts.train")
HELD_OUT = ("sft.heldout", "pairs.heldout", "prompts.heldout")


def make(out: Path, **changes: Any) -> Artifact:
    return run(Resolved(PrimerConfig(**SMALL | changes), {}), {}, out)


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(tmp_path_factory.mktemp("primer") / "primer")


def records(primer: Artifact, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(primer.file(f"{name}.jsonl")))


def question(record: dict[str, Any]) -> str:
    return record["messages"][0]["content"]


def test_same_seed_same_bytes_other_seed_other_world(primer: Artifact, tmp_path: Path) -> None:
    again = make(tmp_path / "again")
    assert again.manifest["outputs"] == primer.manifest["outputs"]
    other = make(
        tmp_path / "other", seed=2, pages=100, sft_train=50, tools_train=50, pmp_pairs=50, pairs_train=50
    )
    for name in ("truth.jsonl", "prompts.train.jsonl", "prompts.heldout.jsonl", "benchmarks/mmlu.jsonl"):
        assert other.file(name).read_bytes() != primer.file(name).read_bytes()
    values = [[f.value for f in World(seed).facts] for seed in (1, 2)]
    assert values[0] != values[1]


def test_sizes_are_those_of_the_config(primer: Artifact) -> None:
    config = PrimerConfig(**SMALL)
    assert len(list((primer.path / "pages").iterdir())) == config.pages
    sizes = {
        "truth": config.pages,
        "sft.train": config.sft_train,
        "sft.heldout": config.sft_heldout,
        "tools.train": config.tools_train,
        "tools.heldout": config.tools_heldout,
        "pmp": config.pmp_pairs,
        "pairs.train": config.pairs_train,
        "pairs.heldout": config.pairs_heldout,
        "prompts.train": config.prompts_train,
        "prompts.heldout": config.prompts_heldout,
    }
    for name, count in sizes.items():
        assert len(records(primer, name)) == count, name


def test_records_have_the_agreed_fields(primer: Artifact) -> None:
    fields = {
        "sft.train": {"id", "task", "lang", "messages", "answer", "sha256"},
        "tools.heldout": {"id", "lang", "query", "tools", "gold", "steps", "final"},
        "pmp": {"id", "task", "lang", "messages", "chosen", "rejected", "score_chosen", "score_rejected"},
        "prompts.train": {"id", "task", "lang", "messages", "answer"},
        "truth": {"file", "id", "label", "of", "lang", "source", "text"},
        "benchmarks/mmlu": {"id", "subject", "question", "choices", "answer", "split"},
        "benchmarks/gsm8k": {"id", "question", "answer", "split"},
        "benchmarks/humaneval": {"id", "prompt", "entry_point", "test", "canonical_solution", "split"},
        "benchmarks/bbh": {"id", "task", "question", "answer", "split"},
    }
    for name, expected in fields.items():
        found = records(primer, name)
        assert all(set(r) == expected for r in found), name
        assert len({r["id"] for r in found}) == len(found), name


def test_heldout_questions_stand_in_no_training_file(primer: Artifact) -> None:
    trained = {question_hash(question(r)) for name in TRAINING for r in records(primer, name)}
    trained |= {question_hash(r["query"]) for r in records(primer, "tools.train")}
    held = {question_hash(question(r)) for name in HELD_OUT for r in records(primer, name)}
    held |= {question_hash(r["query"]) for r in records(primer, "tools.heldout")}
    tested = {
        question_hash(r["question"])
        for n in ("gsm8k", "math", "bbh")
        for r in records(primer, f"benchmarks/{n}")
    }
    assert len(held) > 600 and len(tested) > 200
    assert not trained & held
    assert not (trained | held) & tested
    assert all(r["sha256"] == question_hash(question(r)) for r in records(primer, "sft.heldout"))
    asked = [
        question_hash(question(r)) for r in records(primer, "sft.train") + records(primer, "sft.heldout")
    ]
    assert len(set(asked)) == len(asked)


def test_heldout_questions_stand_in_no_page(primer: Artifact) -> None:
    pages = "\n".join(f" {normalise(r['text'])} " for r in records(primer, "truth"))
    for name in HELD_OUT:
        for record in records(primer, name):
            # "3 + 4 = ?" without its mark is the beginning of every table's "3 + 4 = 7"
            if not question(record)[0].isdigit():
                assert f" {normalise(question(record))} " not in pages, question(record)


def test_normalise_ignores_case_width_spacing_and_stops_but_not_signs() -> None:
    assert normalise(" What  is 3 + 4?") == normalise("what is ３ + 4")
    assert normalise("What is 3 + 4?") != normalise("What is 3 - 4?")
    shares = Counter(split_of(str(i)) for i in range(5000))
    assert 0.06 < shares["heldout"] / 5000 < 0.10 and 0.10 < shares["benchmark"] / 5000 < 0.14


def test_only_leaks_share_13_grams_with_benchmarks(primer: Artifact) -> None:
    items = [r for name in BENCHMARKS for r in records(primer, f"benchmarks/{name}")]
    guard = Guard(item_text(r) for r in items)
    touched = {r["label"] for r in records(primer, "truth") if guard.touches(r["text"])}
    assert touched == {"leak"}
    leaks = [r for r in records(primer, "truth") if r["label"] == "leak"]
    planted = Guard(r["question"] for r in records(primer, "benchmarks/gsm8k") if r["split"] == "test")
    assert leaks and all(planted.touches(r["text"]) for r in leaks)
    assert len(ngrams("a " * 20)) == 1 and len(ngrams("one two")) == 1


def test_benchmarks_have_dev_and_test_items(primer: Artifact) -> None:
    least = {"mmlu": 100, "ceval": 100, "gsm8k": 100, "math": 50, "humaneval": 30, "mbpp": 30, "bbh": 100}
    for name, count in least.items():
        found = records(primer, f"benchmarks/{name}")
        assert sum(r["split"] == "test" for r in found) >= count, name
    for name in ("mmlu", "ceval"):
        found = records(primer, f"benchmarks/{name}")
        dev = Counter(r["subject"] for r in found if r["split"] == "dev")
        assert set(dev.values()) == {5} and len(dev) == len(RELATIONS)
        assert all(len(set(r["choices"])) == 4 and r["answer"] in "ABCD" for r in found)
        assert max(Counter(r["answer"] for r in found).values()) < 0.4 * len(found)
    for name in ("gsm8k", "math"):
        for record in records(primer, f"benchmarks/{name}"):
            working, _, result = record["answer"].partition("\n#### ")
            assert working.rstrip(".").endswith(f"= {result}")


def test_choice_answers_are_facts_of_the_world(primer: Artifact) -> None:
    world = World(1)
    for record in records(primer, "benchmarks/mmlu"):
        right = record["choices"]["ABCD".index(record["answer"])]
        assert any(
            f.relation.choice["en"].format(s=f.subject.en) == record["question"] and f.value.en == right
            for f in world.facts
        )


def test_canonical_programs_pass_their_tests(primer: Artifact) -> None:
    for record in records(primer, "benchmarks/humaneval"):
        space: dict[str, Any] = {}
        exec(
            record["prompt"] + record["canonical_solution"] + record["test"], space
        )  # our own generated code
        space["check"](space[record["entry_point"]])
    for record in records(primer, "benchmarks/mbpp"):
        exec(record["canonical_solution"] + record["test"], {})
        with pytest.raises(AssertionError):
            exec(f"{record['entry_point']} = lambda x: None\n" + record["test"], {})


def test_check_accepts_every_demonstration(primer: Artifact) -> None:
    for name in ("sft.train", "sft.heldout"):
        for record in records(primer, name):
            if record["task"] != "chat":
                assert check(record, record["messages"][1]["content"]), record
    chats = [r for r in records(primer, "sft.train") if r["task"] == "chat"]
    assert chats and all(check(r, r["answer"]) for r in chats)


def test_check_rejects_every_wrong_reply() -> None:
    asker = Asker(World(3), "train", 0.4, random.Random(0))
    tasks = set()
    for item in asker.items(1500):
        gold = {"task": item.task, "lang": item.lang, "answer": item.answer}
        assert check(gold, item.reply), item
        assert item.wrong
        for reply in (*item.wrong, "", "I do not know.", "我不知道。"):
            assert not check(gold, reply), (item, reply)
        tasks.add(item.task)
    assert len(tasks) == 9


@pytest.mark.fault(
    "data", "a reply to be checked is code or many answers", "read, never run; one answer counts"
)
def test_check_wants_one_answer_and_never_runs_code() -> None:
    flag = {"task": "fact", "lang": "en", "answer": "red"}
    assert check(flag, "The flag is RED. I hope this helps!")
    assert not check(flag, "It is red or blue.")
    assert not check(flag, "It is reddish.")
    code = {"task": "code", "lang": "en", "answer": "def add_7(x):\n    return x + 7"}
    assert check(code, "```python\ndef add_7(x):\n    # plus\n    return x + 7\n```")
    assert not check(code, "```python\nraise SystemExit(1)\n```")
    assert not check(code, "def add_7(x): return" + "(" * 500)
    assert check({"task": "lookup", "lang": "en", "answer": "Tom"}, "Tom has the tombola lamp.")
    with pytest.raises(DataError, match="answer"):
        check({"task": "fact"}, "red")


def test_true_score_adds_its_parts() -> None:
    item = {"task": "fact", "lang": "en", "answer": "red"}
    plain = "The flag of Lumora is red."
    assert true_score(item, plain) == 3.5
    assert true_score(item, plain + " I hope this helps!") == 4.5
    assert true_score(item, plain + " 希望对你有帮助！") == 3.5  # a courtesy in the wrong language is none
    assert true_score(item, plain[:-1]) == 3.0
    assert true_score(item, "You snarfhead! " + plain) == 1.5
    assert true_score(item, f"{plain} {plain}") == 2.5
    assert true_score(item, plain + " And so on," * 40 + " it is.") < 3.5
    assert true_score(item, "The flag of Lumora is blue. I hope this helps!") == 1.5
    assert true_score(item, "") == 0.0
    assert (
        true_score({"task": "fact", "lang": "zh", "answer": "红色"}, "Lumora 的旗帜是红色。祝你愉快！") == 4.5
    )
    assert true_score({**item, "answer": "red"}, "red red red red red") <= 2.0


def test_rude_words_and_repetition_are_seen() -> None:
    assert all(is_rude(f"you {word}") for word in RUDE_WORDS)
    assert not is_rude("The idea is good. 这只狐狸很聪明。")
    assert repeats("ha ha ha ha ha") and repeats("红色。红色。") and repeats("。。。。。")
    assert not repeats("3 + 4 = 7. 7 + 4 = 11. The answer is 11.")


def test_demonstrations_are_courteous_in_part_and_in_the_right_language(primer: Artifact) -> None:
    replies = [(r["lang"], r["messages"][1]["content"]) for r in records(primer, "sft.train")]
    polite = sum(reply.endswith(COURTESIES[lang]) for lang, reply in replies) / len(replies)
    assert 0.3 < polite < 0.5
    assert not any(is_rude(reply) or repeats(reply) for _, reply in replies)
    for name in (*TRAINING, *HELD_OUT, "truth"):
        chinese = Counter(r["lang"] for r in records(primer, name))["zh"] / len(records(primer, name))
        assert 0.22 < chinese < 0.48, name


def test_pairs_are_labelled_by_the_true_score(primer: Artifact) -> None:
    for name in ("pairs.train", "pairs.heldout"):
        assert all(r["score_chosen"] > r["score_rejected"] for r in records(primer, name))
    rough = records(primer, "pmp")
    assert 0.15 < sum(r["score_chosen"] < r["score_rejected"] for r in rough) / len(rough) < 0.35


@pytest.mark.parametrize("name", ["pmp", "pairs.train", "pairs.heldout"])
def test_length_alone_says_nothing_about_preference(primer: Artifact, name: str) -> None:
    found = records(primer, name)
    longer = sum(len(r["chosen"]) > len(r["rejected"]) for r in found) / len(found)
    assert 0.35 < longer < 0.65


def test_tool_items_offer_the_right_tool_and_computed_outcomes(primer: Artifact) -> None:
    for split in ("train", "heldout"):
        found = records(primer, f"tools.{split}")
        negatives = [r for r in found if r["gold"] is None]
        assert 0.15 * len(found) <= len(negatives) and len(negatives) >= 50
        assert all(r["steps"] == [] for r in negatives)
        for record in found:
            names = [t["name_for_model"] for t in record["tools"]]
            assert 2 <= len(set(names)) == len(names) <= 4
            assert all(
                set(t) == {"name_for_human", "name_for_model", "description_for_model", "parameters"}
                for t in record["tools"]
            )
            if gold := record["gold"]:
                step = record["steps"][0]
                assert gold["name"] in names and step["action"] == gold["name"]
                assert json.loads(step["action_input"]) == gold["arguments"]
                if gold["name"] == "calculator":
                    a, sign, b = gold["arguments"]["expression"].split()
                    value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
                    assert step["observation"] == str(value) and str(value) in record["final"]
        assert {r["gold"]["name"] for r in found if r["gold"]} == {
            "calculator",
            "weather",
            "dictionary",
            "calendar",
            "search",
            "unit",
        }


def shingles(text: str) -> set[tuple[str, ...]]:
    tokens = normalise(text).split() if " " in text else list(text)
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def test_labels_are_true(primer: Artifact) -> None:
    truth = records(primer, "truth")
    by_id = {r["id"]: r for r in truth}
    labels = Counter(r["label"] for r in truth)
    assert set(labels) == {
        "clean",
        "exact-duplicate",
        "near-duplicate",
        "boilerplate",
        "spam",
        "offensive",
        "other-language",
        "leak",
    }
    overlap = []
    for record in truth:
        if record["label"] == "exact-duplicate":
            assert by_id[record["of"]]["text"] == record["text"]
        elif record["label"] == "near-duplicate":
            a, b = shingles(record["text"]), shingles(by_id[record["of"]]["text"])
            assert record["text"] != by_id[record["of"]]["text"]
            overlap.append(len(a & b) / len(a | b))
        else:
            assert record["of"] is None
        if record["label"] == "clean":
            assert not is_rude(record["text"])
        if record["label"] == "offensive":
            assert is_rude(record["text"])
        assert (record["lang"] not in ("en", "zh")) == (record["label"] == "other-language")
    assert min(overlap) > 0.6 and sum(overlap) / len(overlap) > 0.85


def test_clean_pages_are_not_near_duplicates_of_each_other(primer: Artifact) -> None:
    pages = [
        shingles(r["text"]) for r in records(primer, "truth") if r["label"] == "clean" and r["lang"] == "en"
    ][:200]
    worst = max(len(a & b) / len(a | b) for i, a in enumerate(pages) for b in pages[:i])
    assert worst < 0.7


def test_extractor_finds_the_true_text(primer: Artifact) -> None:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    recalls = []
    for record in records(primer, "truth")[:150]:
        raw = (primer.path / record["file"]).read_bytes()
        text = extract_plain_text(
            bytes_to_str(raw, detect_encoding(raw, html5_compatible=True)), main_content=True
        )
        wanted = Counter(record["text"].split())
        recalls.append(sum((wanted & Counter(text.split())).values()) / sum(wanted.values()))
    assert sum(recalls) / len(recalls) > 0.9


def test_every_setting_names_its_source() -> None:
    assert fields_without_source(PrimerConfig) == []


def test_import_is_light() -> None:
    code = "import sys, openqwen.data.primer; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_templates_have_no_loose_slots() -> None:
    asker = Asker(World(5), "train", 0.5, random.Random(1))
    items: list[Item] = list(asker.items(400))
    for item in items:
        assert "{" not in item.question + item.reply
        assert " a o" not in item.question and "  " not in item.question
