"""Problems are right by two ways of computing them; solutions are kept if they are right and new."""

from __future__ import annotations

import ast
import json
import random
import re
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.cli import main
from openqwen.core.artifact import load, write_jsonl
from openqwen.core.errors import DataError
from openqwen.data.documents import Bad
from openqwen.math_qwen import check, problems
from openqwen.math_qwen.families import FAMILIES, Family
from openqwen.math_qwen.problems import Problem, make, one, written
from openqwen.math_qwen.stage import apart, judge, read_problems, with_paths

EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-({text})"),
    ),
    max_leaves=8,
)


def by_python(text: str) -> Fraction | None:
    """The value by Python's own grammar, in fractions."""

    def of(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant():
                return Fraction(node.value)
            case ast.UnaryOp():
                return -of(node.operand)
            case ast.BinOp():
                a, b = of(node.left), of(node.right)
                return {ast.Add: a.__add__, ast.Sub: a.__sub__, ast.Mult: a.__mul__, ast.Div: a.__truediv__}[
                    type(node.op)
                ](b)
        raise AssertionError(node)

    try:
        return of(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        return None


@given(EXPRESSIONS)
def test_values_are_those_of_pythons_grammar(text: str) -> None:
    expected = by_python(text)
    if expected is None:
        with pytest.raises(check.NoArithmetic):
            check.value(text)
    else:
        assert check.value(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 + 4 = 7", [("3+4=7", True)]),
        ("共9 × 21 = 189元", [("9*21=189", True)]),
        ("so 0.1 + 0.2 = 0.3 exactly", [("0.1+0.2=0.3", True)]),
        ("12 / 4 = 3 = 2 + 1", [("12/4=3", True), ("3=2+1", True)]),
        ("1,200 * 2 = 2,400", [("1200*2=2400", True)]),
        ("30% = 0.3", [("30%=0.3", True)]),
        ("2 + 2 = 5", [("2+2=5", False)]),
        ("x = 7 and 2x + 3 = 7", []),
        ("9 + 2 = 12. 12 - 2 = 9.", [("9+2=12", False), ("12-2=9", False)]),
        ("1 + 2 = 3, 3 + 1 = 4.", [("1+2=3", True), ("3+1=4", True)]),
        ("36 seagulls / 4 = 9 seagulls", [("36/4=9", True)]),
        ("5 bags * $2.50 = $12.50", [("5*2.50=12.50", True)]),
        ("64 stairs/run × 2 runs = 127 stairs", [("64*2=127", False)]),
        ("200 – 96 = 104", [("200-96=104", True)]),
        ("3 / 4 * 100 = 75%", [("3/4*100=75%", True)]),
        ("S + 143 = 200 - 16, 79 - B - 26 = 8 and 4*b*8=24", []),
        ("1 foot = 12 inches, from 9:00-6:00 = 3 hours", []),
        ("a1 = 4", []),
        ("5 / 0 = 0", []),
        ("no equation", []),
    ],
)
def test_equations_of_a_text(text: str, found: list[tuple[str, bool]]) -> None:
    assert check.equations(text) == found


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 42", Fraction(42)),
        ("so\n#### 1,234.50\n", Fraction("1234.5")),
        ("#### 3\n#### 4", Fraction(4)),
        ("#### 20/7", Fraction(20, 7)),
        ("#### $18.", Fraction(18)),
        ("42", None),
        ("#### many", None),
        ("#### 1/0", None),
    ],
)
def test_the_answer_is_the_last_one_named(text: str, answer: Fraction | None) -> None:
    assert check.answer_of(text) == answer


@pytest.mark.shared
def test_workings_that_people_wrote_hold(shared: Path) -> None:
    """GSM8K's training part: what is called wrong there are people's slips, roundings and algebra, few of all."""
    bad = Bad(0.0)
    made = list(read_problems(shared / "data/eval/gsm8k/train.jsonl.gz", bad))
    assert bad.seen == len(made) > 7000
    wrong = [p for p in made if not check.is_right(p.solutions[0], p.answer)]
    assert len(wrong) < 0.025 * len(made)
    assert sum(not check.equations(p.solutions[0]) for p in made) < 0.05 * len(made)


@pytest.mark.fault("evaluation", "any text comes as a worked solution", "an answer or none, in bounded time")
@given(st.text(max_size=300))
def test_checking_never_fails(text: str) -> None:
    check.is_right(text, Fraction(1))


@pytest.mark.parametrize("piece", ["1+", "(", "1 = ", "-", "#### ", "9" * 50])
def test_no_text_is_slow_to_check(piece: str) -> None:
    began = time.process_time()
    check.is_right(piece * (100_000 // len(piece)), Fraction(1))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_program_and_working_agree(family: Family, lang: str) -> None:
    for seed in range(50):
        problem = one(family, lang, random.Random(seed))
        assert check.is_right(problem.solutions[0], problem.answer)
        assert "{" not in problem.question + problem.solutions[0] and "[" not in problem.solutions[0]
        assert check.equations(problem.solutions[0]) and problem.answer >= 0


def test_a_slip_in_a_working_is_seen() -> None:
    wrong = Family(
        "wrong", lambda rng: {"a": 3, "b": 4}, lambda v: v["a"] + v["b"], {"en": ("{a}?", "[a * b]")}
    )
    with pytest.raises(DataError, match="the working of a problem is wrong"):
        one(wrong, "en", random.Random(0))


def test_problems_differ_and_are_the_seeds() -> None:
    made = make(600, ("en", "zh"), 3, 20)
    assert len({p.question for p in made}) == len({p.id for p in made}) == 600
    assert made == make(600, ("en", "zh"), 3, 20) != make(600, ("en", "zh"), 4, 20)
    assert {p.extra["family"] for p in made} == {family.name for family in FAMILIES}
    assert set(Counter(p.lang for p in made)) == {"en", "zh"}


@pytest.mark.parametrize("largest", [20, 75, 300])
def test_no_number_is_above_the_largest(largest: int) -> None:
    made = make(60, ("en", "zh"), largest, 20, largest)
    assert len({p.question for p in made}) == 60
    texts = [text for p in made for text in (p.question, *p.solutions)]
    assert max(int(digits) for text in texts for digits in re.findall(r"\d+", text)) <= largest


def test_what_is_worked_like_a_held_out_problem_is_left_out() -> None:
    made = make(120, ("en", "zh"), 1, 30, 30)
    heldout, bare = made[-40:], Problem("bare", "?", Fraction(1), ("#### 1",))
    kept = apart([bare, *made], [bare, *heldout])
    numbers = {tuple(re.findall(r"\d+", p.solutions[0])) for p in heldout}
    assert 50 < len(kept) < 80 and not {p.id for p in kept} & {p.id for p in heldout}
    assert not numbers & {tuple(re.findall(r"\d+", p.solutions[0])) for p in kept}
    assert [p.question for p in apart([replace(bare, id="other")], [bare])] == [
        "?"
    ]  # no equations, no likeness


def test_families_that_are_exhausted_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    few = next(family for family in FAMILIES if family.name == "handshakes")  # 57 numbers of people
    monkeypatch.setattr(problems, "FAMILIES", (few,))
    with pytest.raises(DataError, match="no more than about 57 different problems"):
        make(1000, ("en",), 0, 1000)


@pytest.mark.parametrize(
    ("value", "text"),
    [(Fraction(12), "12"), (Fraction(15, 2), "7.5"), (Fraction(20, 7), "20/7"), (Fraction(-3, 4), "-0.75")],
)
def test_numbers_as_they_are_written(value: Fraction, text: str) -> None:
    assert written(value) == text and check.number(text) == value


def test_paths_are_kept_if_right_and_new() -> None:
    known = {check.path_of("2 * 3 = 6\n#### 6")}
    answer = Fraction(6)
    assert judge("3 + 3 = 6\n#### 6", answer, known) == "kept"
    assert judge("Twice three: 2*3 = 6.\n#### 6", answer, known) == "known path"
    assert judge("2 * 3 = 6", answer, known) == "no answer"
    assert judge("2 + 3 = 5\n#### 5", answer, known) == "wrong answer"
    assert judge("2 + 3 = 6\n#### 6", answer, known) == "wrong equation"


# ---- the stage ------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_stage_mixes_both_and_holds_some_out(tmp_path: Path) -> None:
    given_file = tmp_path / "gsm.jsonl"
    records = [
        {"question": "Tom has 2 apples and buys 3. How many?", "answer": "2 + 3 = <<2+3=5>>5 apples\n#### 5"},
        {"question": "Tom has 2 apples and buys 3. How many?", "answer": "He has 5.\n#### 5"},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records) + '{"question": "?"}\n[1]\nnot json\n'
    given_file.write_text(text, encoding="utf-8")
    out = tmp_path / "math"
    command = [
        "data",
        "math",
        "--problems",
        str(given_file),
        "--out",
        str(out),
        "--count",
        "100",
        "--heldout",
        "0.1",
    ]
    assert main([*command, "--max-bad-share", "0.9"]) == 0
    train, heldout = lines(out / "train.jsonl"), lines(out / "heldout.jsonl")
    assert [t["messages"][1]["content"] for t in train[:2]] == [
        "2 + 3 = 5 apples\n#### 5",
        "He has 5.\n#### 5",
    ]
    assert len(train) == 92 and len(heldout) == 10
    asked = {t["messages"][0]["content"] for t in train}
    assert not asked & {h["messages"][0]["content"] for h in heldout}
    assert len(lines(out / "skipped.jsonl")) == 3
    facts = load(out, "math").manifest["facts"]
    assert facts["by_source"] == {"given": 1, "template": 90} and sum(facts["skipped"].values()) == 3


def test_benchmark_problems_are_dropped(tmp_path: Path) -> None:
    question = (
        "A farmer has seventeen brown cows and twenty three white cows in his barn, how many cows has he got?"
    )
    given_file, bench = tmp_path / "train.jsonl", tmp_path / "gsm8k.jsonl"
    given_file.write_text(
        json.dumps({"question": question, "answer": "17 + 23 = 40\n#### 40"}) + "\n", encoding="utf-8"
    )
    bench.write_text(json.dumps({"question": question, "answer": "#### 40"}) + "\n", encoding="utf-8")
    words = ["data", "math", "--problems", str(given_file), "--out", str(tmp_path / "math"), "--count", "20"]
    assert main([*words, "--decontaminate.benchmarks", json.dumps([str(bench)])]) == 0
    assert question not in (tmp_path / "math" / "train.jsonl").read_text(encoding="utf-8")
    assert "overlap with gsm8k" in (tmp_path / "math" / "skipped.jsonl").read_text(encoding="utf-8")


def test_sampled_paths_join_the_solutions(tmp_path: Path) -> None:
    """Replies in the files that `openqwen sample` writes."""
    from openqwen.annotate.config import SampleConfig
    from openqwen.core.artifact import stage_run
    from openqwen.core.config import resolve

    first = make(20, ("en",), 0, 20)[0]
    with stage_run(tmp_path / "replies", "replies", resolve(SampleConfig, "sample"), {}):
        question = [{"role": "user", "content": first.question}]
        write_jsonl(tmp_path / "replies" / "prompts.jsonl", [{"id": "p", "messages": question}])
        answer = written(first.answer)
        texts = [
            f"It is {answer} + 0 = {answer}.\n#### {answer}",
            f"{answer} = {answer}\n#### 1",
            "I do not know.",
        ]
        records = [
            {"step": i, "prompt": "p", "text": text, "from": {}} for i, text in enumerate([*texts, texts[0]])
        ]
        write_jsonl(
            tmp_path / "replies" / "replies.jsonl", [*records, {"step": 9, "prompt": "p", "problem": "lost"}]
        )
    command = [
        "data",
        "math",
        "--replies",
        str(tmp_path / "replies"),
        "--out",
        str(tmp_path / "math"),
        "--count",
        "20",
    ]
    assert main([*command, "--langs", '["en"]', "--heldout", "0"]) == 0
    train = [
        t for t in lines(tmp_path / "math" / "train.jsonl") if t["messages"][0]["content"] == first.question
    ]
    assert [t["messages"][1]["content"] for t in train] == [first.solutions[0], texts[0]]
    paths = load(tmp_path / "math", "math").manifest["facts"]["paths"]
    assert paths == {"kept": 1, "known path": 1, "wrong answer": 1, "no answer": 1, "no such problem": 0}


def test_no_more_paths_than_asked_the_shortest_first(tmp_path: Path) -> None:
    problem = make(1, ("en",), 0, 20)[0]
    answer = written(problem.answer)
    texts = [f"{answer} + {n} - {n} = {answer}, so it is.\n#### {answer}" for n in (1, 10, 100, 1000)]
    write_jsonl(
        tmp_path / "prompts.jsonl", [{"id": "p", "messages": [{"role": "user", "content": problem.question}]}]
    )
    write_jsonl(
        tmp_path / "replies.jsonl", [{"step": n, "prompt": "p", "text": t} for n, t in enumerate(texts[::-1])]
    )
    verdicts: Counter[str] = Counter()
    (found,) = with_paths([problem], tmp_path, 2, verdicts)
    assert found.solutions == (problem.solutions[0], *texts[:2])
    assert verdicts["kept"] == verdicts["enough"] == 2


def test_nothing_is_refused(tmp_path: Path) -> None:
    assert main(["data", "math", "--out", str(tmp_path / "math"), "--count", "0"]) == 4


@pytest.mark.shared
def test_real_problems_are_read_and_held_against_their_test(shared: Path, tmp_path: Path) -> None:
    """GSM8K's training part: its answers are read; none of it stands in its test part."""
    folder = shared / "data" / "eval" / "gsm8k"
    words = [
        "data",
        "math",
        "--problems",
        str(folder / "train.jsonl.gz"),
        "--out",
        str(tmp_path / "math"),
        "--count",
        "0",
    ]
    assert main([*words, "--decontaminate.benchmarks", json.dumps([str(folder / "test.jsonl.gz")])]) == 0
    facts = load(tmp_path / "math", "math").manifest["facts"]
    assert facts["problems"] > 50 and sum(facts["skipped"].values()) < 0.01 * facts["problems"]
