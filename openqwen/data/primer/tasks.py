"""Questions with one right answer, in both languages: facts, lookups, sums, word problems, code, words, choices.

Ours. Each builder returns an `Item` with the right reply and some plausible wrong ones. Which side of the
train/heldout/benchmark border an item stands on is decided by a hash of its question, so that pages, demonstrations,
comparisons and prompts agree on it without knowing of each other.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openqwen.data.primer.world import (
    COLOURS,
    OBJECTS,
    PEOPLE,
    Fact,
    Lang,
    Word,
    World,
    mend,
    pronouns,
)

Split = Literal["train", "heldout", "benchmark"]
LETTERS = "ABCD"
_BLANK = str.maketrans(dict.fromkeys(".,;:?!。、'\"", " "))


def normalise(question: str) -> str:
    """The form in which two questions count as the same: width, case, spacing and end punctuation removed."""
    return " ".join(unicodedata.normalize("NFKC", question).casefold().translate(_BLANK).split())


def question_hash(question: str) -> str:
    """sha256 of the normalised question: the `sha256` field of the files."""
    return hashlib.sha256(normalise(question).encode()).hexdigest()


def split_of(key: str) -> Split:
    """8 % of all questions are held out, 12 % are kept for the benchmarks, the rest may be trained on."""
    bucket = int(question_hash(key)[:8], 16) % 100
    return "heldout" if bucket < 8 else "benchmark" if bucket < 20 else "train"


@dataclass(frozen=True)
class Item:
    """A question, its short gold answer, a full right reply and full wrong replies."""

    task: str
    lang: Lang
    question: str
    answer: str
    reply: str
    wrong: tuple[str, ...]
    key: str = ""  # what the split is decided on; the question unless given

    @property
    def split(self) -> Split:
        return split_of(self.key or self.question)

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question}]


def fact_item(fact: Fact, lang: Lang, template: str, rng: random.Random) -> Item:
    """A question about the invented world."""
    others = [v for v in fact.relation.values if v != fact.value]
    wrong = tuple(Fact(fact.relation, fact.subject, v).answer(lang) for v in rng.sample(others, 2))
    question = fact.fill(template, lang)
    return Item("fact", lang, question, fact.value.of(lang), fact.answer(lang), wrong)


def all_facts(world: World, rng: random.Random, lang: Lang) -> list[Item]:
    """Every fact in every phrasing of a language."""
    return [fact_item(f, lang, q, rng) for f in world.facts for q in f.relation.questions[lang]]


_HAS: dict[Lang, str] = {"en": "{p} has a {c} {o}.", "zh": "{p} 有一个 {c} 的 {o}。"}
_LOOKUPS: dict[Lang, dict[str, tuple[tuple[str, ...], str]]] = {
    "en": {
        "colour": (("What colour is the {o}?", "Which colour is the {o}?"), "The {o} is {c}."),
        "owner": (("Who has the {o}?", "Who owns the {o}?"), "{p} has the {o}."),
        "object": (("What does {p} have?", "Which thing does {p} have?"), "{p} has the {o}."),
    },
    "zh": {
        "colour": (("{o} 是什么颜色？", "{o} 是哪种颜色？"), "{o} 是 {c}。"),
        "owner": (("谁有 {o}？", "{o} 是谁的？"), "{p} 有 {o}。"),
        "object": (("{p} 有什么？", "{p} 有哪样东西？"), "{p} 有 {o}。"),
    },
}


def possessions(rng: random.Random, lang: Lang, count: int) -> list[dict[str, str]]:
    """`count` people with a coloured object each, all different, as template slots."""
    picks = zip(
        rng.sample(PEOPLE, count), rng.sample(COLOURS, count), rng.sample(OBJECTS, count), strict=True
    )
    return [{"p": p.of(lang), "c": c.of(lang), "o": o.of(lang)} for p, c, o in picks]


def has(slots: dict[str, str], lang: Lang) -> str:
    """`Mia has a red kite.`"""
    return mend(_HAS[lang].format(**slots), lang)


def lookup_qa(
    rng: random.Random, lang: Lang, owned: list[dict[str, str]]
) -> tuple[str, str, str, tuple[str, ...]]:
    """Question, answer, reply and wrong replies about people and their things."""
    kind = rng.choice(("colour", "owner", "object"))
    slot = {"colour": "c", "owner": "p", "object": "o"}[kind]
    asked = rng.choice(owned)
    questions, reply = _LOOKUPS[lang][kind]
    wrong = tuple(
        mend(reply.format(**asked | {slot: other[slot]}), lang) for other in owned if other is not asked
    )
    question = mend(rng.choice(questions).format(**asked), lang)
    return _capital(question), asked[slot], _capital(mend(reply.format(**asked), lang)), wrong


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def lookup(rng: random.Random, lang: Lang) -> Item:
    """A question whose answer stands in the question's own text."""
    owned = possessions(rng, lang, 2)
    question, answer, reply, wrong = lookup_qa(rng, lang, owned)
    gap = " " if lang == "en" else ""
    return Item("lookup", lang, gap.join([*(has(o, lang) for o in owned), question]), answer, reply, wrong)


_SUMS: dict[Lang, tuple[str, ...]] = {
    "en": ("What is {e}?", "Compute {e}.", "How much is {e}?", "Please work out {e}.", "{e} = ?"),
    "zh": ("{e} 等于多少？", "计算 {e}。", "请问 {e} 是多少？", "请算出 {e}。"),
}


def stop(lang: Lang) -> str:
    """The full stop of a language."""
    return "." if lang == "en" else "。"


def equation(a: int, sign: str, b: int) -> tuple[str, int]:
    """`equation(3, "+", 4)` -> `("3 + 4 = 7", 7)`."""
    value = a + b if sign == "+" else a - b if sign == "-" else a * b
    return f"{a} {sign} {b} = {value}", value


def sum_pairs() -> list[tuple[int, str, int]]:
    """All additions of 1..6 and 1..6 and the subtractions that undo them."""
    pairs = [(a, "+", b) for a in range(1, 7) for b in range(1, 7)]
    return pairs + [(a + b, "-", b) for a, _, b in pairs]


def _near(value: int, rng: random.Random) -> list[int]:
    return rng.sample([v for v in range(max(0, value - 4), value + 5) if v != value], 2)


def arithmetic(rng: random.Random, lang: Lang, pairs: Sequence[tuple[int, str, int]] | None = None) -> Item:
    """A sum or difference, of sum_pairs() unless others are given."""
    a, sign, b = rng.choice(pairs or sum_pairs())
    text, value = equation(a, sign, b)
    wrong = tuple(f"{a} {sign} {b} = {v}{stop(lang)}" for v in _near(value, rng))
    question = rng.choice(_SUMS[lang]).format(e=f"{a} {sign} {b}")
    return Item("arithmetic", lang, question, str(value), text + stop(lang), wrong)


_MORE: dict[Lang, tuple[str, ...]] = {
    "en": ("{q} gives {him} {n} more.", "{He} buys {n} more.", "{He} finds {n} more."),
    "zh": ("{q} 又给了 {him} {n} 个。", "{he} 又买了 {n} 个。", "{he} 又找到 {n} 个。"),
}
_LESS: dict[Lang, tuple[str, ...]] = {
    "en": ("{He} loses {n} of them.", "{He} gives {n} of them to {q}.", "{He} sells {n} of them."),
    "zh": ("{he} 弄丢了 {n} 个。", "{he} 送给 {q} {n} 个。", "{he} 卖掉了 {n} 个。"),
}
_START: dict[Lang, str] = {"en": "{p} has {n} {o}.", "zh": "{p} 有 {n} 个 {o}。"}
_ASK: dict[Lang, str] = {"en": "How many {o} does {p} have now?", "zh": "{p} 现在有几个 {o}？"}
THE_ANSWER: dict[Lang, str] = {"en": "The answer is {v}.", "zh": "答案是 {v}。"}


def word_problem(rng: random.Random, lang: Lang, steps: int | None = None) -> Item:
    """One or two steps of plus and minus told as a story, answered with the working."""
    person, other = rng.sample(PEOPLE, 2)
    thing = rng.choice(OBJECTS)
    name = thing.en + "s" if lang == "en" else thing.zh
    slots = {"p": person.of(lang), "q": other.of(lang), "o": name, **pronouns(person, lang)}
    have = rng.randint(2, 10)
    parts = [_START[lang].format(n=have, **slots)]
    working = []
    for _ in range(steps or rng.choice((1, 1, 2))):
        less = have > 2 and (have > 10 or rng.random() < 0.5)
        n = rng.randint(1, min(have - 1, 10)) if less else rng.randint(1, 10)
        parts.append(rng.choice((_LESS if less else _MORE)[lang]).format(n=n, **slots))
        text, have = equation(have, "-" if less else "+", n)
        working.append(text + stop(lang))
    parts.append(_ASK[lang].format(**slots))
    gap = " " if lang == "en" else ""
    steps_text = gap.join(working)
    ending = THE_ANSWER[lang].format(v=have)
    wrong = tuple(
        steps_text.replace(f"= {have}{stop(lang)}", f"= {v}{stop(lang)}") + gap + THE_ANSWER[lang].format(v=v)
        for v in _near(have, rng)
    )
    question = gap.join(mend(p, lang) for p in parts)
    return Item("word_problem", lang, question, str(have), steps_text + gap + ending, wrong)


def working(item: Item) -> str:
    """The equations of a word problem's reply, without the sentence that names the result."""
    return item.reply.removesuffix(THE_ANSWER[item.lang].format(v=item.answer)).rstrip()


@dataclass(frozen=True)
class Operation:
    """A family of one-line functions: `add_7` is `x + 7`."""

    name: str
    body: str
    en: str
    zh: str
    apply: Callable[[int, int], int]


OPERATIONS = (
    Operation("add", "x + {n}", "adds {n} to x", "把 x 加上 {n}", lambda x, n: x + n),
    Operation("sub", "x - {n}", "subtracts {n} from x", "把 x 减去 {n}", lambda x, n: x - n),
    Operation("mul", "x * {n}", "multiplies x by {n}", "把 x 乘以 {n}", lambda x, n: x * n),
    Operation("max", "max(x, {n})", "returns the larger of x and {n}", "返回 x 和 {n} 中较大的数", max),
    Operation("min", "min(x, {n})", "returns the smaller of x and {n}", "返回 x 和 {n} 中较小的数", min),
    Operation(
        "mod", "x % {n}", "returns the remainder of x by {n}", "返回 x 除以 {n} 的余数", lambda x, n: x % n
    ),
)
CODE_NUMBERS = range(2, 100)
_WRITE: dict[Lang, tuple[str, ...]] = {
    "en": ("Write a Python function {f} that {d}.", "Define a Python function {f} which {d}.", "In Python, write {f}: it {d}."),
    "zh": ("写一个 Python 函数 {f}，{d}。", "请用 Python 定义函数 {f}，{d}。"),
}  # fmt: skip


def function(op: Operation, n: int) -> str:
    """The source of one function."""
    return f"def {op.name}_{n}(x):\n    return {op.body.format(n=n)}"


def code_key(op: Operation, n: int) -> str:
    """Code is split by what is computed, not by how it is asked for."""
    return f"code {op.name} {n}"


def code(rng: random.Random, lang: Lang, op: Operation | None = None, n: int | None = None) -> Item:
    """A request for a tiny function."""
    op = op or rng.choice(OPERATIONS)
    n = n or rng.choice(CODE_NUMBERS)
    source = function(op, n)
    others = [o for o in OPERATIONS if o is not op]
    bad = (
        source.replace(op.body.format(n=n), rng.choice(others).body.format(n=n)),
        f"def {op.name}_{n}(x):\n    return {op.body.format(n=n + rng.choice((-1, 1, 2)))}",
    )
    describe = (op.en if lang == "en" else op.zh).format(n=n)
    question = rng.choice(_WRITE[lang]).format(f=f"{op.name}_{n}", d=describe)
    return Item("code", lang, question, source, fence(source), tuple(map(fence, bad)), code_key(op, n))


def fence(source: str) -> str:
    """Python between triple backticks."""
    return f"```python\n{source}\n```"


_TO_ZH = ("What is '{w}' in Chinese?", "How do you say '{w}' in Chinese?", "Translate '{w}' into Chinese.", "What is the Chinese word for '{w}'?",
          "Give me the Chinese for '{w}'.")  # fmt: skip
_TO_EN = (
    "“{w}”用英语怎么说？",
    "“{w}”的英语是什么？",
    "请把“{w}”翻译成英语。",
    "“{w}”的英文单词是什么？",
    "告诉我“{w}”的英语。",
)
DICTIONARY: tuple[Word, ...] = (
    *OBJECTS, *COLOURS,
    *(Word(*p.split(":")) for p in ["fox:狐狸", "swan:天鹅", "frog:青蛙", "duck:鸭子", "rabbit:兔子", "goat:山羊", "tiger:老虎", "bear:棕熊"]),
    *(Word(*p.split(":")) for p in ["bread:面包", "cheese:奶酪", "soup:浓汤", "honey:蜂蜜", "rice:米饭", "cake:蛋糕", "noodles:面条", "jam:果酱"]),
    *(Word(*p.split(":")) for p in ["cook:厨师", "doctor:医生", "teacher:老师", "sailor:水手", "painter:画家", "farmer:农民", "singer:歌手", "smith:铁匠"]),
)  # fmt: skip


def translation(word: Word, lang: Lang) -> str:
    """The sentence that gives a word's translation."""
    return (
        f"The Chinese for '{word.en}' is “{word.zh}”." if lang == "en" else f"“{word.zh}”的英语是 {word.en}。"
    )


def all_translations(rng: random.Random, lang: Lang) -> list[Item]:
    """Every word in every phrasing of a language."""
    items = []
    for word in DICTIONARY:
        others = rng.sample([w for w in DICTIONARY if w != word], 2)
        wrong = tuple(
            translation(Word(word.en, o.zh) if lang == "en" else Word(o.en, word.zh), lang) for o in others
        )
        for template in _TO_ZH if lang == "en" else _TO_EN:
            asked, answer = (word.en, word.zh) if lang == "en" else (word.zh, word.en)
            items.append(
                Item("translate", lang, template.format(w=asked), answer, translation(word, lang), wrong)
            )
    return items


_WORDS: dict[Lang, dict[str, tuple[tuple[str, ...], str]]] = {
    "en": {
        "first": (
            ("Which word comes first: {l}?", "What is the first word of: {l}?"),
            "The first word is {v}.",
        ),
        "last": (("Which word comes last: {l}?", "What is the last word of: {l}?"), "The last word is {v}."),
        "reverse": (("Reverse these words: {l}", "Write these words in reverse order: {l}"), "{v}."),
    },
    "zh": {
        "first": (("第一个词是什么：{l}？", "哪个词排在最前：{l}？"), "第一个词是 {v}。"),
        "last": (("最后一个词是什么：{l}？", "哪个词排在最后：{l}？"), "最后一个词是 {v}。"),
        "reverse": (("把这些词倒过来写：{l}", "请倒序写出：{l}"), "{v}。"),
    },
}


def words(rng: random.Random, lang: Lang, kind: str | None = None) -> Item:
    """First, last or reverse of three words."""
    kind = kind or rng.choice(("first", "last", "reverse"))
    three = [w.of(lang) for w in rng.sample(OBJECTS, 3)]
    comma = ", " if lang == "en" else "、"
    right = {"first": three[0], "last": three[2], "reverse": comma.join(reversed(three))}[kind]
    mixed = comma.join((three[1], three[0], three[2]))
    bad = {"first": three[1:], "last": three[:2], "reverse": [comma.join(three), mixed]}[kind]
    questions, reply = _WORDS[lang][kind]
    question = mend(rng.choice(questions).format(l=comma.join(three)), lang)
    wrong = tuple(mend(reply.format(v=b), lang) for b in bad)
    return Item("words", lang, question, right, mend(reply.format(v=right), lang), wrong)


def options(fact: Fact, lang: Lang, rng: random.Random) -> tuple[list[str], int]:
    """Four values, one of them the fact's, and where it stands."""
    picked = rng.sample([v for v in fact.relation.values if v != fact.value], 3)
    place = rng.randrange(4)
    picked.insert(place, fact.value)
    return [v.of(lang) for v in picked], place


def choice_text(question: str, choices: list[str]) -> str:
    """A question with its lettered options, one a line."""
    return "\n".join([question, *(f"{letter}. {c}" for letter, c in zip(LETTERS, choices, strict=True))])


def choice(rng: random.Random, lang: Lang, fact: Fact) -> Item:
    """A fact asked with four options."""
    choices, place = options(fact, lang, rng)
    gap = " " if lang == "en" else ""
    wrong = []
    for other in rng.sample([i for i in range(4) if i != place], 2):
        value = next(v for v in fact.relation.values if v.of(lang) == choices[other])
        said = Fact(fact.relation, fact.subject, value).answer(lang)
        wrong.append(said + gap + THE_ANSWER[lang].format(v=LETTERS[other]))
    stem = fact.fill(fact.relation.choice[lang], lang)
    question = choice_text(stem, choices)
    reply = fact.answer(lang) + gap + THE_ANSWER[lang].format(v=LETTERS[place])
    key = (
        stem if split_of(stem) == "heldout" else question
    )  # a held-out question stays so with options below it
    return Item("choice", lang, question, LETTERS[place], reply, tuple(wrong), key)


def compare(rng: random.Random, lang: Lang) -> Item:
    """Which of two numbers is larger, or whether it is."""
    a, b = rng.sample(range(1, 21), 2)
    if rng.random() < 0.5:
        question, said = {
            "en": (f"Which number is larger, {a} or {b}?", "The larger number is {v}."),
            "zh": (f"{a} 和 {b} 哪个更大？", "更大的数是 {v}。"),
        }[lang]
        right, bad = max(a, b), min(a, b)
        return Item("compare", lang, question, str(right), said.format(v=right), (said.format(v=bad),))
    yes, no, more, less = {
        "en": ("Yes", "No", "{w}, {a} is greater than {b}.", "{w}, {a} is less than {b}."),
        "zh": ("是", "不是", "{w}，{a} 大于 {b}。", "{w}，{a} 小于 {b}。"),
    }[lang]
    question = f"Is {a} greater than {b}?" if lang == "en" else f"{a} 大于 {b} 吗？"
    said_yes, said_no = more.format(w=yes, a=a, b=b), less.format(w=no, a=a, b=b)
    right_reply, wrong_reply = (said_yes, said_no) if a > b else (said_no, said_yes)
    return Item("compare", lang, question, yes if a > b else no, right_reply, (wrong_reply,))


# Small talk has no held-out form: there are too few ways to say hello.
CHAT: tuple[tuple[Lang, str, str], ...] = (
    ("en", "Hello!", "Hello! What would you like to know?"),
    ("en", "Good morning!", "Good morning! What can I do for you?"),
    ("en", "Who are you?", "I am a small assistant. I know the cities, the people and some sums."),
    (
        "en",
        "What can you do?",
        "I can answer questions about the cities, add numbers and write small functions.",
    ),
    ("en", "Thank you!", "You are welcome!"),
    ("en", "How are you?", "I am fine, thank you. What would you like to know?"),
    ("en", "Goodbye!", "Goodbye!"),
    ("zh", "你好！", "你好！你想知道什么？"),
    ("zh", "早上好！", "早上好！我能为你做什么？"),
    ("zh", "你是谁？", "我是一个小助手，我知道城市、人物和一些算术。"),
    ("zh", "你会做什么？", "我会回答关于城市的问题，会算数，也会写小函数。"),
    ("zh", "谢谢！", "不客气！"),
    ("zh", "再见！", "再见！"),
)

# How often each task is asked. Recall and copying first, then what needs both.
WEIGHTS: dict[str, int] = {
    "fact": 40, "lookup": 4, "arithmetic": 12, "word_problem": 6, "code": 12, "translate": 14, "words": 3,
    "choice": 3, "compare": 6,
}  # fmt: skip


class Asker:
    """Draws items of one split; `unique` never draws a question twice (demonstrations), pages may repeat."""

    def __init__(
        self, world: World, split: Split, chinese: float, rng: random.Random, unique: bool = True
    ) -> None:
        self.world, self.split, self.chinese, self.rng, self.unique = world, split, chinese, rng, unique
        self._seen: set[str] = set()
        self._finite: dict[tuple[str, Lang], list[Item]] = {}
        langs: tuple[Lang, Lang] = ("en", "zh")
        for lang in langs:
            for task, items in (
                ("fact", all_facts(world, rng, lang)),
                ("translate", all_translations(rng, lang)),
            ):
                kept = [i for i in items if i.split == split]
                rng.shuffle(kept)
                self._finite[task, lang] = kept

    def lang(self) -> Lang:
        """English or Chinese, in the configured proportion."""
        return "zh" if self.rng.random() < self.chinese else "en"

    def _draw(self, task: str, lang: Lang) -> Item:
        if finite := self._finite.get((task, lang)):
            return finite.pop() if self.unique else self.rng.choice(finite)
        if task == "choice":
            return choice(self.rng, lang, self.rng.choice(self.world.facts))
        makers: dict[str, Callable[[random.Random, Lang], Item]] = {
            "lookup": lookup, "arithmetic": arithmetic, "word_problem": word_problem, "code": code,
            "words": words, "compare": compare,
        }  # fmt: skip
        return makers[task if task in makers else "code"](self.rng, lang)

    def item(self, task: str, lang: Lang) -> Item:
        """A new item of a task; when its questions are used up, a program instead, and at last a lookup."""
        for attempt in range(2000):
            item = self._draw(task if attempt < 400 else "code" if attempt < 800 else "lookup", lang)
            mark = normalise(item.question)
            if item.split == self.split and not (self.unique and mark in self._seen):
                self._seen.add(mark)
                return item
        raise AssertionError(f"no new {task} question in {lang}")

    def items(self, count: int) -> Iterator[Item]:
        """`count` items over all tasks, in the proportions of WEIGHTS."""
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for _ in range(count):
            yield self.item(self.rng.choices(names, weights)[0], self.lang())


def record(item: Item) -> dict[str, Any]:
    """The fields of an item that stand in the files."""
    return {"task": item.task, "lang": item.lang, "messages": item.messages, "answer": item.answer}
