"""The runner: a scripted perfect model scores 100 and a bad one 0 on each task; cells, cards, tables, statistics."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from openqwen import sandbox
from openqwen.chat import chatml
from openqwen.core.artifact import digest
from openqwen.data.primer.benchmarks import all_benchmarks
from openqwen.data.primer.world import World
from openqwen.evals import code, contamination, fill, harness, preference, stats, tables, verify
from openqwen.evals.harness import Subject
from openqwen.evals.task import Item
from openqwen.evals.tasks import TASKS, humaneval
from openqwen.tokenizer import Tokenizer

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
needs_sandbox = pytest.mark.skipif(sandbox.backend() is None, reason="no sandbox on this machine")


EQUAL = "class E:\n    def __eq__(self, other):\n        return True\n"
# Completions of f, whose test is f(1) == 2, that try to pass without it.
CHEATS = [
    "import sys\ndef f(x):\n    sys.exit(0)",
    "import os\ndef f(x):\n    os._exit(0)",
    "def f(x):\n    print(2)",
    "def f(x):\n    raise SystemExit",
    "def f(x):\n    raise SystemExit(0)\nf(1)",
    "import re, sys\ns = open(sys.argv[0]).read()\nprint(re.findall('[0-9a-f]{32}', s)[-1])\nsys.exit()",
    "import re, os\ns = open(__file__).read()\nprint(re.findall('[0-9a-f]{32}', s)[-1], flush=True)\nos._exit(0)",
    "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGKILL)",
    "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGTERM)",
    "def f(x):\n    return 2\n'''",
    "def f(x):\n    while True: pass",
    f"{EQUAL}def f(x):\n    return E()",
    f"{EQUAL}f = lambda x: E()",
    "class E(int):\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return E(3)",
    "class E(list):\n    __eq__ = lambda self, other: True\ndef f(x):\n    return E()",
    "class M(type):\n    def __eq__(self, other):\n        return True\nclass E(metaclass=M): pass\ndef f(x):\n    return E",
    "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x):\n    return 3",
    "import sys\nsys.excepthook = lambda *a: sys.exit(0)\ndef f(x):\n    return 3",
    "import sys\nsys.stderr = None\ndef f(x):\n    return None",
    "import threading, os\nthreading.Timer(0.01, lambda: os._exit(0)).start()\ndef f(x):\n    while True: pass",
    "import os\nif os.fork(): os._exit(0)\ndef f(x):\n    return 3",
    "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(x):\n    return 3",
    "import sys\nsys.settrace(lambda *a: None)\ndef f(x):\n    return None",
    "def check(g):\n    pass\ndef f(x):\n    return 3",
    "__debug__ = False\ndef f(x):\n    return 3",
    "def f(x):\n    exit(0)",
    "def f(x):\n    quit()",
    "import os\ndef f(x):\n    os.execv('/bin/true', ['true'])",
    "import os, sys\ndef f(x):\n    os.execv('/bin/echo', ['echo', '2'])",
    "def f(x):\n    import ctypes\n    ctypes.string_at(0)",
    "raise SystemExit(0)",
    "def f(x):\n    return 3\nimport sys\nsys.exit(0)",
]


class ScriptedEngine:
    """Answers by looking the prompt's last question up; stands where a model would."""

    def __init__(self, reply: Callable[[str], str], letter: Callable[[str], str]) -> None:
        self.reply, self.letter = reply, letter

    def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Any]:
        done = []
        for prompt in prompts:
            text = self.reply(TOKENIZER.decode(prompt))
            for stop in sampling.stop:
                text = text.split(stop)[0]
            done.append(SimpleNamespace(text=text, finish_reason="stop"))
        return done

    def loglikelihood(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        out = []
        for prefix, continuation in pairs:
            right = TOKENIZER.decode(continuation).strip() == self.letter(TOKENIZER.decode(prefix))
            out.append((0.0 if right else -5.0, right))
        return out


def subject(kind: str, engine: Any, max_prompt: int = 4000) -> Subject:
    return Subject("m", kind, engine, TOKENIZER, "w", max_prompt)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """The primer's own item sets, read by the tasks' loaders."""
    folder = tmp_path_factory.mktemp("benchmarks")
    found = {}
    for name, items in all_benchmarks(World(1), random.Random(2)).items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items), encoding="utf-8")
        found[name] = TASKS[name].read(path)
    return found


def scripted(name: str, kind: str, items: list[Item], good: bool) -> ScriptedEngine:
    ask = TASKS[name].ask(kind)  # type: ignore[arg-type]
    known = {ask.query(item): item for item in items}

    def find(prompt: str) -> Item:
        text = prompt
        if kind == "chat":
            text = prompt.split("<|im_start|>user\n")[-1].removesuffix("<|im_end|>\n<|im_start|>assistant\n")
            return known[text]
        return next(item for query, item in known.items() if prompt.endswith(query))

    def reply(prompt: str) -> str:
        item = find(prompt)
        if not good:
            return "I will not say."
        return ask.answer(item)

    def letter(prompt: str) -> str:
        answer = str(find(prompt)["answer"])
        return answer if good else "ABCD"[("ABCD".index(answer) + 1) % 4]

    return ScriptedEngine(reply, letter)


@pytest.mark.parametrize("kind", ["base", "chat"])
@pytest.mark.parametrize("name", ["mmlu", "ceval", "gsm8k", "math", "bbh"])
@pytest.mark.parametrize("good", [True, False])
def test_perfect_is_100_and_bad_is_0(sets: dict[str, list[Item]], name: str, kind: str, good: bool) -> None:
    items = sets[name]
    engine = scripted(name, kind, items, good)
    found = harness.evaluate(subject(kind, engine), TASKS[name], items, 3, limit=30, source="primer")
    assert found is not None
    wrong = [r for r in found.records if r["right"] != good]
    if name in ("mmlu", "ceval") and kind == "chat" and not good:
        # A reply that names no letter is given to the likest choice, by the released rule: at most about chance.
        assert found.cell["value"] <= 50
        return
    assert not wrong, wrong[0]
    assert found.cell["value"] == (100 if good else 0) and found.cell["n"] == 30
    assert found.cell["manifest"] == found.manifest == digest(found.card)


@needs_sandbox
@pytest.mark.parametrize("kind", ["base", "chat"])
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
@pytest.mark.parametrize("good", [True, False])
def test_code_perfect_is_100_and_bad_is_0(
    sets: dict[str, list[Item]], name: str, kind: str, good: bool
) -> None:
    engine = scripted(name, kind, sets[name], good)
    found = harness.evaluate(subject(kind, engine), TASKS[name], sets[name], 0, limit=5)
    assert found is not None and found.cell["value"] == (100 if good else 0)
    assert "chance" not in found.cell and found.card["sandbox"] == sandbox.backend()


@pytest.mark.fault("evaluation", "programs fake a pass", "they fail")
@needs_sandbox
def test_faked_passes_fail() -> None:
    item = {"prompt": "", "entry_point": "f", "test": "def check(f):\n    assert f(1) == 2\n"}
    programs = [humaneval.harness_program(f"{cheat}\n", item) for cheat in CHEATS]
    assert len(CHEATS) >= 25
    assert [cheat for cheat, right in zip(CHEATS, code.passes(programs, seconds=2.0)) if right] == []
    honest = {**item, "prompt": "def f(x):\n"}
    assert code.passes([humaneval.program("    return x + 1", honest)]) == [True]
    nested = {**honest, "test": "def check(f):\n    assert f(1) == [(2, {'a': 1.0})]\n"}
    assert code.passes([humaneval.program("    return [(2, {'a': 1})]", nested)]) == [True]


@pytest.mark.fault("evaluation", "no sandbox for generated code", "no number, and why")
def test_without_a_sandbox_there_is_no_number(
    sets: dict[str, list[Item]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "backend", lambda: None)
    ran: list[str] = []
    monkeypatch.setattr(sandbox, "run_program", lambda *a, **k: ran.append("ran"))
    engine = scripted("humaneval", "base", sets["humaneval"], True)
    assert (
        harness.evaluate(subject("base", engine), TASKS["humaneval"], sets["humaneval"], 0, limit=5) is None
    )
    assert not ran


def test_examples_are_dropped_until_the_prompt_fits(sets: dict[str, list[Item]]) -> None:
    items = sets["mmlu"]
    engine = scripted("mmlu", "base", items, True)
    whole = harness.evaluate(subject("base", engine), TASKS["mmlu"], items, 5, limit=10)
    tight = harness.evaluate(subject("base", engine, 420), TASKS["mmlu"], items, 5, limit=10)
    assert whole is not None and tight is not None
    assert whole.card["shots"]["fitted"] == 5 > tight.card["shots"]["fitted"] > 0
    assert tight.cell["value"] == 100 and tight.manifest != whole.manifest
    ask, item = TASKS["mmlu"].base, items[-1]
    short = harness.fit(subject("base", engine, 20), ask, item, items[:2])
    assert short.cut and len(short.ids) == 20 and TOKENIZER.decode(short.ids).endswith("Answer:")


def test_the_card_says_which_examples_were_shown(sets: dict[str, list[Item]]) -> None:
    items = sets["mmlu"]
    engine = scripted("mmlu", "base", items, True)
    for room, most in ((4000, 2), (260, 1)):
        done = harness.evaluate(subject("base", engine, room), TASKS["mmlu"], items, 2, limit=40)
        assert done is not None
        rows, subjects = done.card["shots"]["rows"], {item["id"]: item["subject"] for item in items}
        assert sum(row["prompts"] for row in rows) == 40 and max(len(row["ids"]) for row in rows) == most
        for row in filter(lambda row: row["ids"], rows):
            dev = [i["id"] for i in items if i["split"] == "dev" and i["subject"] == subjects[row["ids"][0]]]
            assert row["ids"] == dev[:2][-len(row["ids"]) :]


def test_a_model_without_log_probabilities_or_a_missing_package_is_an_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str, protocol: str, **changes: Any) -> str | None:
        found = replace(subject("chat", None), **changes)
        return fill.why_not(found, name, protocol)  # type: ignore[arg-type]

    monkeypatch.setattr(sandbox, "backend", lambda: "bwrap")
    monkeypatch.setattr(sandbox, "missing_tool", lambda language: f"{language} is not installed")
    monkeypatch.setattr(harness, "find_spec", lambda name: None if name == "antlr4" else True)
    assert missing("mmlu", "harness") is None and missing("mmlu", "report", scores=False) is None
    assert "log-probability" in str(missing("mmlu", "harness", scores=False))
    assert "log-probability" in str(missing("mmlu", "report", scores=False, kind="base"))
    assert "antlr4, which is not installed (pip install" in str(missing("math", "harness"))
    assert missing("math", "report") is None
    assert missing("ocnli", "harness") == "lm-evaluation-harness has no task for it"
    go = subject("chat", None)
    assert fill.dashes([(go, ("humanevalpack_go", 0))], {"humanevalpack_go": []}, "report") == [
        "Not asked, HumanEvalPack Go (m): go is not installed."
    ]


def test_the_harness_asks_a_chat_model_in_turns(sets: dict[str, list[Item]]) -> None:
    """The header is the system message, examples are turns, and an option follows the line end that opens a turn."""
    ask, found = TASKS["mmlu"].ask("chat", "harness"), subject("chat", None)
    item, shot = sets["mmlu"][-1], sets["mmlu"][0]
    prompt = harness.fit(found, ask, item, [shot])
    system, user, reply, _ = chatml.parse(prompt.ids, TOKENIZER)[:4]
    assert system["content"] == ask.header(item) and user["content"].endswith("\nAnswer:")
    assert reply["content"] == shot["answer"]
    before, rest = harness.pair(found, ask, prompt, " B")
    assert TOKENIZER.decode(rest) == "\nB" and TOKENIZER.decode(before).endswith("<|im_start|>assistant")
    assert before + rest[:1] == prompt.ids


def test_one_right_letter_of_several_is_enough_for_the_harness_and_all_questions_count_the_same() -> None:
    task = TASKS["agieval"]
    items = [
        task.parse(
            {"task": exam, "question": "q", "options": list("wxyz"), "label": label, "id": f"{i}"}, "f:1"
        )
        for i, (exam, label) in enumerate([("jec-qa-kd", ["B", "D"]), ("sat-en", "A"), ("sat-en", "A")])
    ]

    class Last(ScriptedEngine):
        def loglikelihood(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
            return [(float(TOKENIZER.decode(after) == " z"), False) for _, after in pairs]

    engine = Last(str, str)
    done = harness.evaluate(subject("base", engine), task, items, 0, limit=9, protocol="harness")
    assert done is not None and [record["right"] for record in done.records] == [True, False, False]
    assert done.cell["value"] == pytest.approx(100 / 3) and done.cell["chance"] == pytest.approx(100 / 3)
    made = tables.cell(done, items)
    assert made is not None and made["value"] == pytest.approx(100 / 3) and made["clusters"] == 2
    ask = task.ask("base", "harness")
    assert verify.rescore(ask, done.records, items) == [True, False, False]


def test_chat_prompts_are_chatml(sets: dict[str, list[Item]]) -> None:
    item, shot = sets["ceval"][-1], sets["ceval"][0]
    ids = harness.encode(subject("chat", None), TASKS["ceval"].chat, item, [shot])
    roles = [m["role"] for m in chatml.parse(ids, TOKENIZER)]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_subset_is_seeded() -> None:
    items = [{"id": i} for i in range(50)]
    assert harness.subset(items, 5, 1) == harness.subset(items, 5, 1) != harness.subset(items, 5, 2)
    assert harness.subset(items, 60, 1) == items


@pytest.mark.fault("evaluation", "a number without a manifest", "shown as a dash")
def test_tables_show_ours_only_with_a_manifest(sets: dict[str, list[Item]]) -> None:
    engine = scripted("mmlu", "base", sets["mmlu"], True)
    done = harness.evaluate(subject("base", engine), TASKS["mmlu"], sets["mmlu"], 5, limit=9)
    assert done is not None
    data = tables.build(2, {"base": {("mmlu", 5): done}, "empty": {}}, sets, ["a note"])
    ours = [row for row in data["rows"] if row["origin"] == "ours"]
    assert [row["model"] for row in ours] == ["ours: base"] and list(ours[0]["cells"]) == ["MMLU"]
    assert ours[0]["cells"]["MMLU"]["manifest"] == done.manifest and "a note" in data["notes"]


def test_preference_bar() -> None:
    bar = preference.bar([1, 2, 3, 3], [0, 2, 4, 3.1], margin=0.25)
    assert (bar["win"], bar["tie"], bar["loss"], bar["n"]) == (0.25, 0.5, 0.25, 4)
    data = preference.figure_4([{"model": "a", **bar}], "m")
    assert data["rows"][0]["manifest"] == "m" and data["published"]["instructions"] == 300
    assert preference.bar([1] * 5, [0] * 5, 0)["win"] == 1


def test_mcnemar_and_paired() -> None:
    a, b = [True] * 10 + [False] * 5, [False] * 10 + [False] * 5
    assert stats.mcnemar(a, b) == pytest.approx(2 / 2**10)
    assert stats.mcnemar(a, a) == 1.0
    gain, low, high = stats.paired(a, b, seed=1)
    assert gain == pytest.approx(2 / 3) and 0.3 < low < gain < high < 1
    rng = random.Random(5)
    false = 0
    for _ in range(300):  # two equal models must rarely look different
        x, y = ([rng.random() < 0.6 for _ in range(60)] for _ in range(2))
        false += stats.mcnemar(x, y) < 0.05
    assert false <= 25


def test_contamination_finds_what_was_copied() -> None:
    words = [f"word{i}" for i in range(14)]
    item = {"question": " ".join(words)}
    other = {"question": " ".join(reversed(words))}
    short = {"question": "too short"}
    document = "before, " + " ".join(words).upper().replace(" ", ",\n ") + " after"
    found = contamination.overlap({"a": [item, other], "b": [short]}, ["nothing here", document])
    assert found == {"a": (1, 2), "b": (0, 0)}
    zh = {"question": "关于传输层的面向连接的服务的特性是什么"}
    assert contamination.overlap({"z": [zh]}, ["：" + zh["question"].replace("的", " 的") + "。"]) == {
        "z": (1, 1)
    }
