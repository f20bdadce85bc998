"""Files of pairs as they are published: each form is read to the same comparison, and faults have their lines."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import letters
import pytest
import tiny_artefacts as tiny

from openqwen.core.errors import DataError
from openqwen.reward.data import problem, read_pairs
from openqwen.reward.forms import comparisons

ASKED = [{"role": "user", "content": "What is 2 + 2?"}]
GOOD, BAD = "4", "I think 5."
STEPS = [
    {"completions": [{"text": "Add them.", "rating": 1, "flagged": False}], "chosen_completion": 0},
    {
        "completions": [
            {"text": "It is 5.", "rating": -1, "flagged": None},
            {"text": "Hm.", "rating": 0, "flagged": None},
            {"text": "Skip.", "rating": None, "flagged": None},
        ],
        "human_completion": {"text": "It is 4.", "rating": None},
        "chosen_completion": None,
    },
    {
        "completions": [
            {"text": "# Answer\n\n4", "rating": 1, "flagged": False},
            {"text": "# Answer\n\n5", "rating": -1, "flagged": False},
        ],
        "human_completion": None,
        "chosen_completion": None,
    },
    {"completions": [{"text": "a", "rating": 1}, {"text": "b", "rating": -1}], "chosen_completion": 0},
]
HUMAN = "\n\nHuman: What is 2 + 2?\n\nAssistant: "
PANDALM = {
    "instruction": "What is 2 + 2?",
    "input": "",
    "response1": BAD,
    "response2": GOOD,
    "annotator1": 2,
    "annotator2": 1,
    "annotator3": 2,
}
FORMS: dict[str, dict[str, Any]] = {
    "ours": {"messages": ASKED, "chosen": GOOD, "rejected": BAD},
    "hh-rlhf": {"chosen": HUMAN + GOOD, "rejected": HUMAN + BAD},
    "SHP": {"history": "What is 2 + 2?", "human_ref_A": BAD, "human_ref_B": GOOD, "labels": 0, "score_A": 2},
    "AlpacaEval": {"prompt": "What is 2 + 2?", "chosen": GOOD, "rejected": BAD, "preference": 1.0},
    "prompt as messages": {
        "prompt": ASKED,
        "chosen": [{"role": "assistant", "content": GOOD}],
        "rejected": [{"role": "assistant", "content": BAD}],
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "What is 2 + 2?"}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "ShareGPT with texts": {
        "conversations": [{"from": "human", "value": "What is 2 + 2?"}],
        "chosen": GOOD,
        "rejected": BAD,
    },
    "PandaLM": PANDALM,
    "ranked": {"instruction": "What is 2 + 2?", "input": "", "output": [GOOD, BAD], "history": []},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_comparison(form: str) -> None:
    (found,) = comparisons(FORMS[form])
    assert (found["messages"], found["chosen"], found["rejected"]) == (ASKED, GOOD, BAD)


def test_the_preferred_side_is_the_labelled_one() -> None:
    shp = {**FORMS["SHP"], "labels": 1}
    assert comparisons(shp)[0]["chosen"] == BAD
    voted = {**PANDALM, "annotator1": 1}
    assert comparisons(voted)[0]["chosen"] == BAD


def test_a_talk_of_several_turns_is_the_query() -> None:
    talk = "\n\nHuman: Hi\n\nAssistant: Hello\nHuman: quoted\n\nHuman: Bye\n\nAssistant:"
    (found,) = comparisons({"chosen": f"{talk} See you.", "rejected": f"{talk} No."})
    assert [(m["role"], m["content"]) for m in found["messages"]] == [
        ("user", "Hi"),
        ("assistant", "Hello\nHuman: quoted"),  # a speaker stands behind an empty line
        ("user", "Bye"),
    ]
    assert (found["chosen"], found["rejected"]) == ("See you.", "No.")


def test_summaries_of_posts_and_of_articles() -> None:
    two = {"summaries": [{"text": "long", "policy": "ref"}, {"text": "short", "policy": "sup1"}], "choice": 1}
    post = {"info": {"id": "t3", "post": "A dog.", "title": "Pets", "subreddit": "r/pets"}, **two}
    article = {"info": {"id": "n1", "article": "A cat.", "site": "cnn"}, **two, "choice": 0}
    (found,), (other,) = comparisons(post), comparisons(article)
    assert (found["chosen"], found["rejected"]) == ("short", "long")
    assert found["messages"][0]["content"] == "Summarise this text.\n\nPets\n\nA dog."
    assert (other["chosen"], other["messages"][0]["content"]) == ("long", "Summarise this text.\n\nA cat.")


def test_a_labelled_solution_gives_a_pair_for_each_step_with_better_and_worse() -> None:
    """The steps before are those that the labeller went on from; where he did not, the solution ends."""
    found = comparisons({"question": {"problem": "What is 2 + 2?"}, "label": {"steps": STEPS}})
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [
        ("Add them.\nIt is 4.", "Add them.\nIt is 5."),
        ("Add them.\nIt is 4.\n# Answer\n\n4", "Add them.\nIt is 4.\n# Answer\n\n5"),
    ]
    assert all(pair["messages"] == ASKED for pair in found)


def test_neighbours_of_a_ranking_are_pairs() -> None:
    record = {"instruction": "And 3?", "input": "", "output": ["a", "b", "c"], "history": [["2?", "4"]]}
    found = comparisons(record)
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [("a", "b"), ("b", "c")]
    assert [m["content"] for m in found[0]["messages"]] == ["2?", "4", "And 3?"]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "hh: no reply": ({"chosen": "\n\nHuman: a", "rejected": HUMAN + BAD}, "without a reply at the end"),
    "hh: different queries": (
        {"chosen": HUMAN + GOOD, "rejected": "\n\nHuman: What?\n\nAssistant: " + BAD},
        "of two different talks",
    ),
    "hh: no talk": ({"chosen": "4", "rejected": "5"}, "that is no talk of Human and Assistant"),
    "hh: the assistant begins": (
        {"chosen": "\n\nAssistant: a\n\nAssistant: b", "rejected": "\n\nAssistant: a\n\nAssistant: c"},
        "with wrong roles",
    ),
    "hh: two queries in turn": (
        {"chosen": "\n\nHuman: a" + HUMAN + GOOD, "rejected": "\n\nHuman: a" + HUMAN + BAD},
        "with wrong roles",
    ),
    "hh: an empty reply": ({"chosen": HUMAN, "rejected": HUMAN + BAD}, "with a missing side"),
    "hh: equal": ({"chosen": HUMAN + GOOD, "rejected": HUMAN + GOOD + " "}, "with equal sides"),
    "summaries: no choice": (
        {"info": {"post": "a"}, "summaries": [{"text": "b"}, {"text": "c"}], "choice": 2},
        "without a preference",
    ),
    "summaries: no text": (
        {"info": {}, "summaries": [], "choice": 0},
        "that is broken (info, summaries, choice)",
    ),
    "SHP: no label": ({**FORMS["SHP"], "labels": 7}, "without a preference"),
    "PRM800K: no steps": ({"question": {"problem": "x"}, "label": {}}, "that is broken (question, label)"),
    "ShareGPT: the assistant asks": (
        {**FORMS["ShareGPT"], "conversations": [{"from": "gpt", "value": "x"}]},
        "with wrong roles",
    ),
    "PandaLM: a tie": ({**PANDALM, "annotator1": 0, "annotator2": 0}, "without a preference"),
    "PandaLM: no majority": ({**PANDALM, "annotator1": 0}, "without a preference"),
    "PandaLM: a number": ({**PANDALM, "response1": True}, "with a missing side"),
    "ranked: one reply": ({"instruction": "x", "output": ["a"]}, "with a missing side"),
    "a single reply": ({"messages": [*ASKED, {"role": "assistant", "content": "4"}]}, "with a missing side"),
    "another form": ({"text": "x"}, "of no known form"),
}


@pytest.mark.fault(
    "training",
    "published pairs are broken, undecided, of two talks, with wrong roles",
    "skipped and counted with their lines",
)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_form_are_counted_with_their_lines(fault: str, tmp_path: Path) -> None:
    record, reason = FAULTS[fault]
    path = letters.write(tmp_path / "pairs.jsonl", [FORMS["ours"], record])
    pairs = read_pairs(path, tiny.byte_tokenizer(), 1000)
    assert pairs.skipped == {reason: [2]} and len(pairs.items) == 1
    assert pairs.summary() == f"1 {reason} (line 2)"


def test_a_folder_is_several_data_sets(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    letters.write(folder / "a.jsonl", [FORMS["hh-rlhf"], {}])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(FORMS["SHP"]).encode()))
    (folder / "c.json").write_text(json.dumps([FORMS["ranked"], PANDALM]))
    (folder / ".hidden").write_text("no pairs")
    pairs = read_pairs(folder, tiny.byte_tokenizer(), 1000)
    assert [(pair.path.name, pair.line) for pair in pairs.items] == [
        ("a.jsonl", 1),
        ("b.jsonl.gz", 1),
        ("c.json", 1),
        ("c.json", 2),
    ]
    assert pairs.summary() == "1 of no known form (line a.jsonl:2)"
    assert len({pair.query for pair in pairs.items}) == 1  # the same question in all


@pytest.mark.fault(
    "training", "any values stand under the keys of preference files", "read, or refused with a reason"
)
def test_any_record_is_read_or_refused_with_a_reason() -> None:
    """Values of any type under the keys of the forms raise nothing else."""
    rng = random.Random(0)
    keys = sorted(
        {key for record in FORMS.values() for key in record} | {"info", "summaries", "choice", "label"}
    )
    keys += ["question"]
    values: list[Any] = [None, True, 0, 1, "", "x", HUMAN, [], ["a", "b"], [[1]], [None], {}, {"text": "x"}]
    values += [ASKED, {"steps": [{}]}, {"problem": 3}, {"from": "gpt", "value": None}]
    outcomes: set[str | None] = set()
    for _ in range(4000):
        record = {key: rng.choice(values) for key in rng.sample(keys, rng.randint(0, 6))}
        try:
            outcomes |= {problem(found) for found in comparisons(record)}
        except DataError as error:
            outcomes.add(error.what)
    assert {None, "without messages", "with wrong roles", "of no known form"} <= outcomes


@pytest.mark.shared
def test_real_files_are_read(shared: Path) -> None:
    tok, folder = tiny.byte_tokenizer(), shared / "data" / "align"
    talks = read_pairs(folder / "pref" / "hh_harmless_base_test.jsonl.gz", tok, 100_000)
    assert len(talks.items) == 1383
    assert talks.skipped == {
        "with a missing side": [53, 307, 662],
        "with wrong roles": [403, 795],
        "of two different talks": [1013, 1170, 1223],
    }
    votes = read_pairs(folder / "pref" / "pandalm_human.jsonl.gz", tok, 100_000)
    assert len(votes.items) == 591
    steps = read_pairs(folder / "prm" / "prm800k_sample6.jsonl", tok, 100_000)
    assert [pair.line for pair in steps.items] == [1, 1, 2, 3, 4, 5]
