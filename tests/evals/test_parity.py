"""lm-evaluation-harness' own results on the same weights are the oracle of the `harness` protocol, to the question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.evals import formulas, harness
from openqwen.evals.adapter import harness_model
from openqwen.evals.harness import Subject, evaluate
from openqwen.evals.tasks import TASKS
from openqwen.tokenizer import Tokenizer

lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed (pip install lm-eval)"
)

WORDS = ["river", "stone", "light", "copper", "seven", "winter", "engine", "letter", "salt", "window"]


def word(i: int) -> str:
    return WORDS[i % len(WORDS)]


def phrase(i: int) -> str:
    return " ".join(word(i * k + k) for k in range(1, 2 + i % 4))


def labelled(i: int, count: int) -> dict[str, Any]:
    return {
        "id": f"q{i}",
        "question": f"Which {word(i)} goes with {phrase(i + 3)}?",
        "choices": {"text": [phrase(i + 2 * k) for k in range(count)], "label": list("ABCDE"[:count])},
        "answerKey": "ABCDE"[i % count],
    }


def exam(i: int) -> dict[str, Any]:
    """A row of C-Eval's accountant that both read."""
    return {
        "id": str(i), "subject": "accountant", "subject_zh": "注册会计师", "question": f" {phrase(i)}? ",
        **{letter: phrase(i + k) for k, letter in enumerate("ABCD")}, "answer": "ABCD"[i % 4],
    }  # fmt: skip


# Task of ours -> (task of the harness, row i in the hub's form, shots, metrics).
ROWS = {
    "arc_easy": ("arc_easy", lambda i: labelled(i, 4), 0),
    "arc_challenge": ("arc_challenge", lambda i: labelled(i, 3 + i % 3), 2),
    "commonsenseqa": ("commonsense_qa", lambda i: labelled(i, 5), 3),
    "ceval": ("ceval-valid_accountant", exam, 2),
    "mmlu": (
        "mmlu_abstract_algebra",
        lambda i: {
            "id": str(i), "subject": "abstract_algebra", "question": f"{phrase(i)}?\n", "answer": i % 4,
            "choices": [phrase(i + k) for k in range(4)],
        },
        2,
    ),
    "boolq": (
        "boolq",
        lambda i: {"passage": phrase(i) + ".", "question": f"is it {word(i)}", "idx": i, "label": i % 2},
        0,
    ),
    "nq": ("nq_open", lambda i: {"question": f"who is {phrase(i)}", "answer": [phrase(i), word(i)]}, 2),
    "gsm8k": (
        "gsm8k",
        lambda i: {"question": f"How many {word(i)}?", "answer": f"<<{i}*9={9 * i}>>It is so.\n#### {9 * i}"},
        2,
    ),
    "lambada": ("lambada_openai", lambda i: {"text": f"{phrase(i)} and then {phrase(i + 1)}"}, 0),
    "hellaswag": (
        "hellaswag",
        lambda i: {
            "activity_label": word(i).title(), "ctx_a": f"A man [title] has {word(i)}.", "ctx_b": "the man",
            "ctx": "", "endings": [phrase(i + k) + " [substeps]." for k in range(4)], "label": str(i % 4),
        },
        0,
    ),
    "piqa": (
        "piqa",
        lambda i: {"goal": phrase(i), "sol1": phrase(i + 1), "sol2": phrase(i + 2) + " ", "label": i % 2},
        0,
    ),
    "siqa": (
        "social_iqa",
        lambda i: {
            "context": phrase(i) + ".", "question": f"What of {word(i)}?", "answerA": phrase(i + 1),
            "answerB": phrase(i + 2), "answerC": phrase(i + 3), "label": str(1 + i % 3),
        },
        0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> Subject:
    from openqwen.engine import Engine
    from openqwen.model import ModelConfig, Qwen

    tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, max_length=1024
    )
    model = Qwen(shape)
    model.init_weights(3)
    return Subject("m", "base", Engine(model, tokenizer), tokenizer, "w", 1024)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_equal_to_the_question(name: str, subject: Subject, tmp_path: Path) -> None:
    theirs, row, shots = ROWS[name]
    files = {}
    for split, numbers in (("train", range(40, 46)), ("test", range(10))):
        path = files[split] = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row(i)) + "\n" for i in numbers), encoding="utf-8")
    turns = subject.kind == "chat"
    found = simple_evaluate(theirs, files, shots, harness_model(subject), tmp_path, turns)
    task = TASKS[name]
    dev = [{**item, "split": "dev"} for item in task.read(files["train"])]
    ours = evaluate(subject, task, [*dev, *task.read(files["test"])], shots, limit=10, protocol="harness")
    assert ours is not None and len(found) == len(ours.records) == 10
    for i, (sample, record) in enumerate(zip(found, ours.records, strict=True)):
        if "exact_match" in sample:
            assert sample["resps"][0][0] == record["output"], i
            assert bool(sample["exact_match"]) == record["right"], i
            continue
        scores = [response[0] for response in sample["filtered_resps"]]
        assert record["scores"] == pytest.approx(scores, abs=1e-4), i
        assert bool(sample["acc"]) == record["right"], i
        if "acc_norm" in sample:
            assert bool(sample["acc_norm"]) == record["right_by_length"], i


@pytest.mark.parametrize("name", ["arc_challenge", "commonsenseqa", "nq", "gsm8k", "ceval"])
def test_a_chat_model_is_asked_in_turns_as_with_its_template(
    name: str, subject: Subject, tmp_path: Path
) -> None:
    test_equal_to_the_question(name, replace(subject, kind="chat"), tmp_path)


LATEX = st.text(alphabet="\\{}$=. \n/01a", max_size=12) | st.lists(
    st.sampled_from(
        [
            "\\frac",
            "\\sqrt",
            "\\boxed{",
            "\\text{ ",
            "{",
            "}",
            "$",
            "=",
            "1",
            "23",
            "x",
            "/",
            "\\left(",
            "cm",
            " ",
        ]
    )
).map("".join)


@settings(deadline=None)
@given(LATEX, LATEX)
def test_formulas_are_compared_as_agieval_does(a: str, b: str) -> None:
    utils = pytest.importorskip("lm_eval.tasks.agieval.utils")
    for other in (b, a, a.replace(" ", ""), a.replace("$", "")):
        assert formulas.agieval_equal(a, other) == utils.is_equiv(a, other)


@settings(deadline=None)
@given(LATEX)
def test_formulas_have_minervas_form(text: str) -> None:
    utils = pytest.importorskip("lm_eval.tasks.minerva_math.utils", exc_type=ImportError)
    assert formulas.minerva_form(text) == utils.normalize_final_answer(text)


def simple_evaluate(
    name: str, files: dict[str, Path], shots: int, model: Any, folder: Path, turns: bool = False
) -> list[dict[str, Any]]:
    """The harness' samples in the order of the rows, its own task reading our file instead of the hub."""
    from lm_eval.tasks import TaskManager

    source = next(Path(lm_eval.__file__).parent.joinpath("tasks").rglob(f"{HOMES[name]}.yaml"))
    head = f"include: {source}\ntask: ours_{name}\ndataset_path: json\ndataset_name: null\n"
    data = json.dumps({key: str(path) for key, path in files.items()})
    splits = "training_split: train\nfewshot_split: train\nvalidation_split: null\ntest_split: test\n"
    first = "fewshot_config:\n  sampler: first_n\n"
    config = folder / f"ours_{name}.yaml"
    config.write_text(f"{head}dataset_kwargs:\n  data_files: {data}\n{splits}{first}", encoding="utf-8")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    done = lm_eval.simple_evaluate(
        model=model, tasks=[f"ours_{name}"], num_fewshot=shots, task_manager=manager, bootstrap_iters=0,
        log_samples=True, apply_chat_template=turns,
    )  # fmt: skip
    samples = [s for s in done["samples"][f"ours_{name}"] if s.get("filter") != "flexible-extract"]
    return sorted(samples, key=lambda sample: sample["doc_id"])


HOMES = {
    "arc_easy": "arc/arc_easy", "arc_challenge": "arc/arc_challenge", "commonsense_qa": "commonsense_qa/default",
    "boolq": "super_glue/boolq/default", "nq_open": "nq_open/nq_open", "lambada_openai": "lambada/lambada_openai",
    "mmlu_abstract_algebra": "mmlu/default/mmlu_abstract_algebra",
    "ceval-valid_accountant": "ceval/ceval-valid_accountant",
    "gsm8k": "gsm8k/gsm8k", "hellaswag": "hellaswag/hellaswag", "piqa": "piqa/piqa", "social_iqa": "siqa/siqa",
}  # fmt: skip


def test_a_planted_difference_is_seen(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        harness, "option_texts", lambda ask, item: [text.strip() for text in ask.options(item)]
    )
    with pytest.raises(AssertionError):
        test_equal_to_the_question("arc_easy", subject, tmp_path)
