"""Small benchmarks of our own content in the shapes of the published ones: mmlu, ceval, gsm8k, math, humaneval, mbpp, bbh.

Report §2.6, Table 2 (the sets it names). Only the record shapes follow the published sets; questions are ours. Each set has
`dev` items for few-shot prompts and `test` items; none of them occurs in a page or a training file, except the
gsm8k items that the leak plants on purpose.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from openqwen.data.primer import pages, tasks
from openqwen.data.primer.tasks import LETTERS, Split
from openqwen.data.primer.world import RELATIONS, Lang, World

NGRAM = 13
LEAKED = "gsm8k"
_TOKEN = re.compile(r"[a-z0-9_]+|[\u3400-\u9fff]")


def ngrams(text: str) -> set[tuple[str, ...]]:
    """The 13-grams of a text over words and single Chinese characters; a shorter text is one gram."""
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    return {tuple(tokens[i : i + NGRAM]) for i in range(max(1, len(tokens) - NGRAM + 1))}


class Guard:
    """Knows the benchmarks' 13-grams and says whether a text shares one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: set[tuple[str, ...]] = set()
        for text in texts:
            self._grams |= ngrams(text)

    def touches(self, text: str) -> bool:
        return not self._grams.isdisjoint(ngrams(text))


def item_text(record: dict[str, Any]) -> str:
    """What must not be found in a page: question and options, or prompt and solution."""
    if "prompt" in record:
        return record["prompt"] + "\n" + record["canonical_solution"]
    return "\n".join([record["question"], *record.get("choices", [])])


def _draw(
    make: Callable[[], Any], key: Callable[[Any], str], count: int, split: Split = "benchmark"
) -> list[Any]:
    """`count` different values whose key belongs to the split."""
    found: dict[str, Any] = {}
    for _ in range(1000 * count):
        value = make()
        mark = key(value)
        if mark not in found and tasks.split_of(mark) == split:
            found[mark] = value
        if len(found) == count:
            return list(found.values())
    raise AssertionError(f"only {len(found)} of {count} {split} questions exist")


def _number(name: str, dev: int, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"id": f"{name}-{i:04d}", **record, "split": "dev" if i < dev else "test"}
        for i, record in enumerate(records)
    ]


def choices(name: str, lang: Lang, world: World, rng: random.Random, each: int) -> list[dict[str, Any]]:
    """Choice questions, one subject for each relation of the world: 5 dev and `each` test items."""
    records = []
    for relation in RELATIONS:
        facts = [f for f in world.facts if f.relation is relation]

        def make(facts: list[Any] = facts) -> dict[str, Any]:
            fact = rng.choice(facts)
            values, place = tasks.options(fact, lang, rng)
            question = fact.fill(fact.relation.choice[lang], lang)
            return {
                "subject": fact.relation.name,
                "question": question,
                "choices": values,
                "answer": LETTERS[place],
            }

        drawn = _draw(make, lambda r: tasks.choice_text(r["question"], r["choices"]), 5 + each)
        records += [{**r, "split": "dev" if i < 5 else "test"} for i, r in enumerate(drawn)]
    return [{"id": f"{name}-{i:04d}", **r} for i, r in enumerate(records)]


def gsm8k(rng: random.Random, count: int, split: Split = "benchmark") -> list[dict[str, Any]]:
    """Stories with working; the answer ends in `#### n`."""
    items = _draw(lambda: tasks.word_problem(rng, "en"), lambda i: i.question, 8 + count, split)
    return _number(
        "gsm8k",
        8,
        [{"question": i.question, "answer": f"{tasks.working(i)}\n#### {i.answer}"} for i in items],
    )


def math(rng: random.Random, count: int, split: Split = "benchmark") -> list[dict[str, Any]]:
    """Chains of plus and minus, worked from left to right."""

    def make() -> dict[str, Any]:
        a, b = rng.randint(1, 10), rng.randint(1, 10)
        first, value = tasks.equation(a, "+", b)
        c = rng.randint(1, min(10, value))
        second, value = tasks.equation(value, "-", c)
        return {"question": f"Compute {a} + {b} - {c}.", "answer": f"{first}. {second}.\n#### {value}"}

    return _number("math", 4, _draw(make, lambda r: r["question"], 4 + count, split))


def programs(rng: random.Random, split: Split = "benchmark") -> list[tuple[tasks.Operation, int]]:
    """Functions that stand in no page and no demonstration."""
    free = [(op, n) for op in tasks.OPERATIONS for n in tasks.CODE_NUMBERS]
    kept = [p for p in free if tasks.split_of(tasks.code_key(*p)) == split]
    rng.shuffle(kept)
    return kept


def _tests(op: tasks.Operation, n: int, rng: random.Random) -> list[tuple[int, int]]:
    return [(x, op.apply(x, n)) for x in [0, *rng.sample(range(1, 100), 3)]]


def humaneval(functions: list[tuple[tasks.Operation, int]], rng: random.Random) -> list[dict[str, Any]]:
    """A signature with a docstring to complete, and a `check` function."""
    records = []
    for op, n in functions:
        *head, body = pages.documented(op, n).split("\n")
        asserts = "".join(f"    assert candidate({x}) == {y}\n" for x, y in _tests(op, n, rng))
        records.append(
            {
                "prompt": "\n".join(head) + "\n",
                "entry_point": f"{op.name}_{n}",
                "test": f"def check(candidate):\n{asserts}",
                "canonical_solution": body + "\n",
            }
        )
    return _number("humaneval", 0, records)


def mbpp(functions: list[tuple[tasks.Operation, int]], rng: random.Random) -> list[dict[str, Any]]:
    """A sentence to turn into a function, with plain assertions."""
    records = []
    for op, n in functions:
        name = f"{op.name}_{n}"
        records.append(
            {
                "prompt": f"Write a Python function {name} that {op.en.format(n=n)}.",
                "entry_point": name,
                "test": "".join(f"assert {name}({x}) == {y}\n" for x, y in _tests(op, n, rng)),
                "canonical_solution": tasks.function(op, n) + "\n",
            }
        )
    return _number("mbpp", 3, records)


def bbh(rng: random.Random, each: int, split: Split = "benchmark") -> list[dict[str, Any]]:
    """Word lists read backwards, first and last words, larger numbers."""
    makers: dict[str, Callable[[], tasks.Item]] = {
        "reverse": lambda: tasks.words(rng, "en", "reverse"),
        "first_last": lambda: tasks.words(rng, "en", rng.choice(("first", "last"))),
        "compare": lambda: tasks.compare(rng, "en"),
        "lookup": lambda: tasks.lookup(rng, "en"),
    }
    records = []
    for task, make in makers.items():
        items = _draw(make, lambda i: i.question, 3 + each, split)
        records += [
            {
                "task": task,
                "question": item.question,
                "answer": item.answer,
                "split": "dev" if i < 3 else "test",
            }
            for i, item in enumerate(items)
        ]
    return [{"id": f"bbh-{i:04d}", **r} for i, r in enumerate(records)]


def all_benchmarks(world: World, rng: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Every set by its file name."""
    functions = programs(rng)
    half = len(functions) // 2
    return {
        "mmlu": choices("mmlu", "en", world, rng, 14),
        "ceval": choices("ceval", "zh", world, rng, 14),
        "gsm8k": gsm8k(rng, 120),
        "math": math(rng, 60),
        "humaneval": humaneval(functions[:half], rng),
        "mbpp": mbpp(functions[half:], rng),
        "bbh": bbh(rng, 30),
    }
