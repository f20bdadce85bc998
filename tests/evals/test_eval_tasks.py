"""Tasks: layouts and extraction equal the released scripts'; published and our own files are read; scripted answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st

from openqwen.core.errors import DataError
from openqwen.core.tables import published
from openqwen.evals import choice, sets
from openqwen.evals.languages import SEAM, given
from openqwen.evals.task import constant_guess, examples, records, shots_for
from openqwen.evals.tasks import COLUMNS, TASKS, bbh, ceval, gsm8k, humaneval, math, mbpp, mmlu

ITEM = {
    "id": "1", "subject": "abstract_algebra", "question": "Q?", "choices": ["a", "b", "c", "d"], "answer": "B",
    "split": "test",
}  # fmt: skip


def oracle(shared: Path, name: str) -> list[dict]:
    return json.loads((shared / "oracle" / "eval" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.shared
def test_layouts_equal_the_released(shared: Path) -> None:
    wanted = json.loads((shared / "oracle" / "eval" / "prompt_formats.json").read_text(encoding="utf-8"))
    assert mmlu.header(ITEM) == wanted["mmlu_header"]
    assert mmlu.query(ITEM) == wanted["mmlu_without"]
    assert mmlu.query(ITEM) + mmlu.answer(ITEM) == wanted["mmlu_with"]
    assert ceval.query(ITEM) == wanted["ceval_without"]
    assert ceval.query(ITEM) + ceval.answer(ITEM) == wanted["ceval_with"]
    assert mmlu.chat_query(ITEM) == wanted["chat_mmlu"]
    assert ceval.chat_query(ITEM) == wanted["chat_ceval"]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "lang"), [("chat_mmlu", "en"), ("chat_ceval", "zh")])
def test_letters_equal_the_released(shared: Path, name: str, lang: str) -> None:
    for case in oracle(shared, f"{name}_extraction_oracle"):
        letter, how = choice.find_letter(case["response"], [case["row"][c] for c in "ABCD"], lang)  # type: ignore[arg-type]
        assert (letter if how == "rule" else "FUZZY") == case["choice"], case["response"]


@pytest.mark.shared
def test_gsm8k_numbers_equal_the_released(shared: Path) -> None:
    for case in oracle(shared, "gsm8k_extraction_oracle"):
        item = {"answer": "18"}
        base = gsm8k.base_number(case["text"])
        assert ("[invalid]" if base is None else base) == case["base"], case["text"]
        assert gsm8k.chat_number(case["text"]) == case["chat"], case["text"]
        assert gsm8k.judge_base(case["text"], item) == case["base_correct_vs_18"]
        assert gsm8k.judge_chat(case["text"], item) == case["chat_correct_vs_18"]


@pytest.mark.shared
def test_function_bodies_equal_the_released(shared: Path) -> None:
    for case in oracle(shared, "chat_humaneval_extraction_oracle"):
        assert humaneval.body(case["response"], case["entry_point"]) == case["code"], case["response"]


FILES = {
    "mmlu": "mmlu/dev", "ceval": "ceval/val", "cmmlu": "cmmlu/dev", "gsm8k": "gsm8k/test", "math": "math/math500",
    "bbh": "bbh/bbh", "humaneval": "humaneval/HumanEval", "mbpp": "mbpp/prompt_val_train",
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(FILES))
def test_published_forms_are_read(shared: Path, name: str) -> None:
    task = TASKS[name]
    items = task.read(shared / "data" / "eval" / f"{FILES[name]}.jsonl.gz")
    assert len(items) >= 80 and len({item["id"] for item in items}) == len(items)
    for kind in ("base", "chat"):
        ask = task.ask(kind)  # type: ignore[arg-type]
        judge = ask.judge
        if judge is None:
            continue
        right = [judge(f"So the answer is {item['answer']}.", item) for item in items]
        # The released rule first turns choice texts into letters, which spoils items whose choices are letters.
        assert name in ("gsm8k", "math") or sum(right) >= 0.98 * len(items)
    text = task.base.text(items[0], items[1:3])
    assert text.endswith(task.base.query(items[0])) and task.base.answer(items[1]) in text


@pytest.mark.shared
def test_published_gold_answers_are_right(shared: Path) -> None:
    """A scripted perfect model: the set's own solutions score 100 %."""
    for item in gsm8k.TASK.read(shared / "data" / "eval" / "gsm8k" / "test.jsonl.gz"):
        assert gsm8k.judge_base(gsm8k.answer(item), item) == (not item["answer"].startswith("-"))
        assert gsm8k.judge_chat(gsm8k.chat_answer(item), item)
    for item in math.TASK.read(shared / "data" / "eval" / "math" / "math500.jsonl.gz"):
        assert math.judge(item["working"], item), item["id"]
        assert not math.judge("The answer is nothing.", item)


@pytest.mark.shared
def test_released_gsm8k_shots(shared: Path) -> None:
    text = (shared / "data" / "eval" / "gsm8k" / "qwen_8shot_prompt.txt").read_text(encoding="utf-8")
    shots = gsm8k.parse_shots(text)
    assert len(shots) == 8
    built = "".join(gsm8k.query(shot) + gsm8k.answer(shot) for shot in shots)
    assert built.strip() == text.strip()


@pytest.mark.shared
def test_the_released_examples_are_the_reports_and_the_training_rows_the_harness(shared: Path) -> None:
    items = sets.load(gsm8k.TASK, shared / "data" / "eval").items
    for protocol, first in (("report", "shot-0"), ("harness", "train.jsonl.gz:1")):
        ask = gsm8k.TASK.ask("base", protocol)  # type: ignore[arg-type]
        shown = shots_for(items[0], examples(items, ask, protocol), 8)  # type: ignore[arg-type]
        assert len(shown) == 8 and shown[0]["id"] == first and ask.text(items[0], shown)


def test_columns_are_the_reports() -> None:
    for number, columns in COLUMNS.items():
        printed = [column["name"] for column in published(number)["columns"]]
        assert set(columns) <= set(printed)
        shots = {column["name"]: column["shots"] for column in published(number)["columns"]}
        assert all(shots[name] == count for name, (_, count) in columns.items())
        assert all(task in TASKS for task, _ in columns.values())


def test_letter_needs_a_reply() -> None:
    right = choice.judge("en")
    assert not right("", ITEM) and not right("  \n", ITEM)
    assert right("The answer is B.", ITEM) and not right("The answer is C.", ITEM)


@pytest.mark.fault("evaluation", "any text comes as an answer", "a letter or none, never an exception")
@sampled(st.text(), st.lists(st.text(max_size=5), min_size=4, max_size=4))
def test_letters_never_fail(reply: str, choices: list[str]) -> None:
    for lang in ("en", "zh"):
        assert choice.find_letter(reply, choices, lang)[0] in "ABCD"  # type: ignore[arg-type]


@pytest.mark.fault("evaluation", "any text comes as a solution", "judged, never an exception")
@sampled(st.text(alphabet="\\boxed{}frac123/.,$ =answer is\n"))
def test_judges_never_fail(text: str) -> None:
    item = {**ITEM, "answer": "3", "ours": True, "task": "words"}
    for judge in (math.judge, math.judge_chat, gsm8k.judge_base, gsm8k.judge_chat, bbh.judge, bbh.judge_chat):
        assert judge(text, item) in (True, False)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("\\dfrac{1}{2}", "\\frac{1}{2}", True), ("0.5", "\\frac{1}{2}", True), ("1,234", "1234", True),
        ("$3$.", "3", True), ("\\text{east}", "east", True), ("3", "-3", False), ("", "", False), ("1/0", "2/0", False),
    ],
)  # fmt: skip
def test_equal_formulas(a: str, b: str, same: bool) -> None:
    assert math.equal(a, b) == same


def test_boxed_counts_braces() -> None:
    assert math.boxed("so \\boxed{\\frac{1}{2}} and") == "\\frac{1}{2}"
    assert math.boxed("open \\boxed{1") is None and math.boxed("none") is None


def test_bbh_answers() -> None:
    item = {"answer": "(B)", "ours": False}
    assert bbh.judge("... So the answer is (B).", item) and not bbh.judge("So the answer is (C).", item)
    assert not bbh.judge("B", item)
    assert bbh.judge_chat("True.", {"answer": "True", "ours": False})


def test_mbpp_and_humaneval_programs() -> None:
    item = {
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(c):\n    assert c(1) == 2\n",
        "answer": "",
    }
    assert humaneval.program("    return x + 1\n\nprint('more')", item).count("print") == 0
    done = humaneval.chat_program("```python\ndef f(x):\n    return x + 1\n```", item)
    exec(compile(done, "test", "exec"), {})
    task = {
        "question": "q",
        "tests": ["assert g(1) == 2"],
        "setup": "",
        "answer": "def g(x):\n    return x + 1",
    }
    for text in ("def g(x):\n    return x + 1\n[DONE] rest", "[BEGIN]\ndef g(x):\n    return x + 1\n[DONE]"):
        run = mbpp.chat_program(text, task) if "[BEGIN]" in text else mbpp.program(text, task)
        exec(compile(run, "test", "exec"), {})


def test_shots_are_of_the_same_subject_and_never_the_item() -> None:
    dev = [{**ITEM, "id": str(i), "subject": "ab"[i % 2]} for i in range(8)]
    found = shots_for({**ITEM, "subject": "a", "id": "2"}, dev, 5)
    assert [item["id"] for item in found] == ["0", "4", "6"]


def test_constant_guess() -> None:
    assert constant_guess([{"answer": a} for a in "aab"]) == 2 / 3
    assert constant_guess([]) is None


@pytest.mark.fault("evaluation", "rows of a benchmark are malformed", "named by file and line")
def test_malformed_rows_are_located(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text, complaint in (
        ('{"id": 1}\n', "record without"),
        ("{}\n[1]\n", "object"),
        ("{\n", "not a JSON record"),
        (
            '{"id": 1, "subject": "s", "question": "q", "choices": ["a"], "answer": "B"}',
            "none of the choices",
        ),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=complaint) as error:
            list(records(path)) and mmlu.TASK.read(path)
        assert f"{path}:" in str(error.value)
    with pytest.raises(DataError, match="no such item set"):
        mmlu.TASK.read(tmp_path / "none.jsonl")
    with gzip.open(tmp_path / "z.jsonl.gz", "wb") as file:
        file.write(json.dumps(ITEM).encode())
    assert mmlu.TASK.read(tmp_path / "z.jsonl.gz") == [ITEM]
    (tmp_path / "g.jsonl").write_text('{"id": 1, "question": "q", "answer": "no gold"}', encoding="utf-8")
    with pytest.raises(DataError, match="####"):
        gsm8k.TASK.read(tmp_path / "g.jsonl")


def test_tests_get_the_prompts_own_helpers_and_not_those_of_a_completion() -> None:
    prompt = 'import math\n\n\ndef help(x):\n    return x + 1\n\n\ndef f(x):\n    """Text."""\n'
    assert given(prompt, "f") == "import math\ndef help(x):\n    return x + 1"
    assert given("def f(x):\n", "f") == "" == given("def f(x, (:\n", "f")
    item = {"prompt": prompt, "entry_point": "f", "test": "def check(f):\n    assert f(help(1)) == math.pi\n"}
    program, _, tests = humaneval.harness_program("    return math.pi\nhelp = None", item).rpartition(SEAM)
    assert "help = None" in program and "help = None" not in tests and tests.rstrip().endswith("check(f)")
    namespace: dict[str, object] = {"f": lambda x: 3.141592653589793}
    exec(compile(tests, "tests", "exec"), namespace)
