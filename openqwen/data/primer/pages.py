"""The primer's pages as text: articles, letters, news, dialogues, textbooks, tutorials, exams, stories, markets.

Ours. Every page draws its facts, things and numbers anew, says them, and says them again further down in other
words or as a table: what stands in the context is worth copying, which is what a small transformer learns and a
count of n-grams cannot.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from openqwen.data.primer import tasks
from openqwen.data.primer.tasks import Asker
from openqwen.data.primer.tools import MAKERS, TOOLS, Call
from openqwen.data.primer.world import (
    ANIMALS,
    CITIES,
    COLOURS,
    FESTIVALS,
    FOODS,
    OBJECTS,
    PEOPLE,
    Fact,
    Lang,
    World,
    mend,
    pronouns,
)

Block = tuple[Literal["p", "h", "pre", "table"], str]


@dataclass(frozen=True)
class Page:
    """A page's main content. A table block holds rows on lines and cells between tabs."""

    source: str
    lang: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """What an extractor should find."""
        return "\n\n".join([self.title, *(text for _, text in self.blocks)])


@dataclass(frozen=True)
class Desk:
    """What a page is written from."""

    world: World
    asker: Asker
    rng: random.Random
    lang: Lang
    used: set[str] = field(default_factory=set)  # colour sentences that the page has already

    def pick(self, en: tuple[str, ...], zh: tuple[str, ...]) -> str:
        """One of the templates of the page's language."""
        return self.rng.choice(en if self.lang == "en" else zh)

    def join(self, *sentences: str) -> str:
        """Sentences as a paragraph."""
        return (" " if self.lang == "en" else "").join(s for s in sentences if s)

    def say(self, template: str, **slots: str | int) -> str:
        """A template filled and its spacing mended."""
        return mend(template.format(**slots), self.lang)

    def state(self, fact: Fact) -> str:
        """The fact in one of its phrasings, the first (the answer's) most often."""
        forms = fact.relation.statements[self.lang]
        return fact.fill(forms[0] if self.rng.random() < 0.4 else self.rng.choice(forms), self.lang)

    def follow(self, fact: Fact) -> str:
        """The fact in a form that leaves the subject to the context."""
        return fact.fill(self.rng.choice(fact.relation.follow[self.lang]), self.lang)

    def filler(self, count: int) -> list[str]:
        """Sentences that only give colour, none twice on a page."""
        fresh = [s for s in FILLER[self.lang] if s not in self.used]
        chosen = self.rng.sample(fresh, count)
        self.used.update(chosen)
        return chosen

    def facts(self, count: int) -> list[Fact]:
        """Different facts of the world."""
        return self.rng.sample(self.world.facts, count)

    def qa(self, fact: Fact) -> tuple[str, str]:
        """A question that is not held out, and its answer."""
        questions = fact.relation.questions[self.lang]
        open_ones = [q for q in questions if tasks.split_of(fact.fill(q, self.lang)) == "train"]
        question = fact.fill(self.rng.choice(open_ones), self.lang) if open_ones else ""
        return question, fact.answer(self.lang)


FILLER: dict[Lang, tuple[str, ...]] = {
    "en": (
        "The morning was quiet and the streets were still wet.", "A cool wind came down from the hills.",
        "Somebody was playing a song behind a window.", "The shops open early and close late.",
        "On a clear day you can see the mountains.", "Old stories are told there in the evening.",
        "It is a good place to rest after a long walk.", "The children know every corner of it.",
        "Nobody was in a hurry.", "The bridge was built by hand.", "In winter the lights come on at four.",
        "Visitors are always welcome.", "We had time for a second cup.", "The road turns twice before the gate.",
        "Some things do not change.", "There is a bench under the big tree.", "The library keeps the old maps.",
        "After the rain everything smelled of grass.", "A bell rings at noon.", "The train was late, but we did not mind.",
        "You hear the water before you see it.", "Every spring the walls are painted.", "People greet each other by name.",
        "The best view is from the tower.",
    ),
    "zh": (
        "早晨很安静，街上还是湿的。", "凉风从山上吹下来。", "有人在窗后唱歌。", "店铺开得早，关得晚。", "天晴的时候可以看见远山。", "晚上人们喜欢讲老故事。",
        "走累了可以在这里休息。", "孩子们熟悉每一个角落。", "没有人着急。", "那座桥是用手工建成的。", "冬天四点就亮灯了。", "这里总是欢迎客人。", "我们又喝了一杯热水。",
        "进门之前路要转两个弯。", "有些事情从来不变。", "大树下有一张长凳。", "图书馆里保存着旧地图。", "雨后到处是青草的味道。", "中午会响起钟声。", "火车晚了，可是大家并不在意。",
        "还没看见水，就听见水声。", "每年春天都要刷墙。", "人们见面都叫得出名字。", "塔上的风景最好。",
    ),
}  # fmt: skip


def city_article(desk: Desk) -> Page:
    """An encyclopaedia entry: prose, a table of the same facts, people, and the facts once more."""
    city = desk.rng.choice(CITIES)
    facts = desk.world.about(city)
    desk.rng.shuffle(facts)
    lead = desk.join(desk.state(facts[0]), *(desk.follow(f) for f in facts[1:]))
    rows = "\n".join(f"{f.relation.label.of(desk.lang)}\t{f.value.of(desk.lang)}" for f in facts)
    people = [f for f in desk.world.facts if f.relation.name == "home" and f.value == city]
    lives = []
    for home in people:
        known = [f for f in desk.world.about(home.subject) if f is not home]
        lives.append(desk.join(desk.state(home), *(desk.follow(f) for f in desk.rng.sample(known, 2))))
    again = desk.join(*desk.filler(2), *(desk.state(f) for f in desk.rng.sample(facts, 4)))
    table = desk.pick(("Facts about {c}",), ("{c} 的资料",)).format(c=city.of(desk.lang))
    blocks: list[Block] = [
        ("p", lead),
        ("h", table),
        ("table", rows),
        *(("p", life) for life in lives),
        ("p", again),
    ]
    return Page("encyclopaedia", desk.lang, city.of(desk.lang), tuple(blocks))


def person_article(desk: Desk) -> Page:
    """A short life: the person, then the city the person lives in."""
    person = desk.rng.choice(PEOPLE)
    facts = desk.world.about(person)
    desk.rng.shuffle(facts)
    home = next(f.value for f in facts if f.relation.name == "home")
    around = desk.rng.sample(desk.world.about(home), 3)
    title = desk.say(desk.pick(("Who is {p}?", "People we know: {p}", "A visit to {p}"),
                               ("{p} 是谁？", "我们认识的人：{p}", "拜访 {p}")), p=person.of(desk.lang))  # fmt: skip
    first = desk.join(desk.state(facts[0]), *(desk.follow(f) for f in facts[1:]), *desk.filler(1))
    second = desk.join(desk.state(around[0]), *(desk.follow(f) for f in around[1:]), *desk.filler(1))
    third = desk.join(*(desk.state(f) for f in desk.rng.sample(facts, 2) + desk.rng.sample(around, 1)))
    return Page("encyclopaedia", desk.lang, title, (("p", first), ("p", second), ("p", third)))


def letter(desk: Desk) -> Page:
    """A letter from a journey: what was seen, what was bought, what is asked."""
    writer, reader = (p.of(desk.lang) for p in desk.rng.sample(PEOPLE, 2))
    city = desk.rng.choice(CITIES)
    facts = desk.world.about(city)
    desk.rng.shuffle(facts)
    greeting = desk.pick(("Dear {r},", "My dear {r},", "Hello {r},"), ("亲爱的 {r}：", "{r}，你好！")).format(
        r=reader
    )
    arrive = desk.pick(("I am writing to you from {c}.", "Yesterday I came to {c}.", "At last I have seen {c}."),
                       ("我在 {c} 给你写信。", "昨天我到了 {c}。", "我终于看到了 {c}。")).format(c=city.of(desk.lang))  # fmt: skip
    first = desk.join(arrive, *desk.filler(1), *(desk.follow(f) for f in facts[:3]), desk.state(facts[3]))
    owned = tasks.possessions(desk.rng, desk.lang, 3)
    bought = desk.pick(
        ("At the market I met three people.", "In the house I saw these things."),
        ("在市场上我遇到三个人。", "在屋里我看到这些东西。"),
    )
    second = desk.join(bought, *(tasks.has(o, desk.lang) for o in owned))
    third = desk.join(
        desk.pick(("Now I will ask you something.", "Do you remember?"), ("现在考考你。", "你还记得吗？")),
        *_asked(desk, owned, 2),
    )
    closing = desk.pick(
        ("Yours, {w}", "With love, {w}", "Your friend {w}"), ("你的朋友 {w}", "祝好，{w}")
    ).format(w=writer)
    title = desk.pick(("A letter to {r}", "Post from {c}"), ("给 {r} 的信", "{c} 来信")).format(
        r=reader, c=city.of(desk.lang)
    )
    blocks: tuple[Block, ...] = (("p", greeting), ("p", first), ("p", second), ("p", third), ("p", closing))
    return Page("letter", desk.lang, title, blocks)


def _asked(desk: Desk, owned: list[dict[str, str]], count: int) -> list[str]:
    """Questions about people's things, each with its answer."""
    said = []
    for _ in range(count):
        question, _, reply, _ = tasks.lookup_qa(desk.rng, desk.lang, owned)
        said += [question, reply]
    return said


def news(desk: Desk) -> Page:
    """A report about a festival with numbers that come back."""
    city, other = desk.rng.sample(CITIES, 2)
    festival = desk.rng.choice(FESTIVALS).of(desk.lang)
    thing = desk.rng.choice(OBJECTS)
    count, guests = desk.rng.randint(20, 99), desk.rng.randint(200, 990)
    slots: dict[str, str | int] = {
        "c": city.of(desk.lang), "d": other.of(desk.lang), "f": festival, "n": count, "g": guests,
        "o": thing.en + "s" if desk.lang == "en" else thing.zh, "p": desk.rng.choice(PEOPLE).of(desk.lang),
    }  # fmt: skip
    head = desk.pick(("{c} gets ready for {f}", "{g} guests at {f} in {c}", "{n} {o} for {c}"),
                     ("{c} 准备过{f}", "{g} 位客人来 {c} 过{f}", "{c} 收到 {n} 个{o}"))  # fmt: skip
    lead = desk.pick(("{c} has celebrated {f}. {g} guests came, many of them from {d}.", "{g} guests came to {c} for {f}, most of them from {d}."),
                     ("{c} 过了{f}，来了 {g} 位客人，很多人来自 {d}。", "{g} 位客人到 {c} 过{f}，大多来自 {d}。"))  # fmt: skip
    middle = desk.pick(("{p} brought {n} {o} to the square. \"I made all {n} {o} myself\", said {p}.", "In the square {p} showed {n} {o}. The {n} {o} were sold before noon."),
                       ("{p} 把 {n} 个{o} 带到广场。“这 {n} 个{o} 都是我做的。”{p} 说。", "{p} 在广场上展出了 {n} 个{o}。中午以前，这 {n} 个{o} 都卖完了。"))  # fmt: skip
    end = desk.pick(("Next year {c} hopes for more than {g} guests.", "The {g} guests left {c} in the evening."),
                    ("明年 {c} 希望客人超过 {g} 位。", "晚上，{g} 位客人离开了 {c}。"))  # fmt: skip
    home, away = desk.rng.sample(desk.world.about(city), 3), desk.rng.sample(desk.world.about(other), 2)
    background = desk.join(*(desk.state(f) for f in home))
    guests_from = desk.join(*(desk.state(f) for f in away), *desk.filler(1))
    paragraphs = [
        desk.say(lead, **slots), desk.say(middle, **slots), background, guests_from, desk.join(desk.say(end, **slots), *desk.filler(1))
    ]  # fmt: skip
    title = desk.say(head, **slots)
    return Page("news", desk.lang, title[:1].upper() + title[1:], tuple(("p", p) for p in paragraphs))


def dialogue(desk: Desk) -> Page:
    """Two people ask each other about the world."""
    one, two = (p.of(desk.lang) for p in desk.rng.sample(PEOPLE, 2))
    colon = ": " if desk.lang == "en" else "："
    lines = []
    for fact in desk.facts(11):
        question, answer = desk.qa(fact)
        if question and fact.subject.en not in (one, two):  # nobody asks about themselves
            lines += [f"{one}{colon}{question}", f"{two}{colon}{answer}"]
            if desk.rng.random() < 0.3:
                thanks = desk.pick(
                    ("Thank you.", "I did not know that.", "Of course!"),
                    ("谢谢。", "我还不知道呢。", "原来如此！"),
                )
                lines.append(f"{one}{colon}{thanks}")
        if desk.rng.random() < 0.3:
            one, two = two, one
    title = desk.pick(
        ("{a} talks with {b}", "A talk between {a} and {b}"), ("{a} 和 {b} 的谈话", "{a} 问 {b}")
    ).format(a=one, b=two)
    intro = desk.join(*desk.filler(2))
    return Page("dialogue", desk.lang, title, (("p", intro), *(("p", line) for line in lines)))


def textbook(desk: Desk) -> Page:
    """A lesson in plus and minus: sums in rows, then problems with their working."""
    picked = desk.rng.sample(tasks.sum_pairs(), 20)
    sums = [tasks.equation(*p)[0] for p in picked]
    rows = "\n".join("\t".join(sums[i : i + 4]) for i in range(0, 12, 4))
    spoken = desk.join(*(s + tasks.stop(desk.lang) for s in sums[12:]))
    intro = desk.pick(("Read each line aloud, then cover the results and try again.", "Today we add and take away.", "Learn these sums by heart."),
                      ("大声读每一行，再把得数盖住试一次。", "今天我们学习加法和减法。", "请记住这些算式。"))  # fmt: skip
    lesson = desk.rng.randint(1, 80)
    blocks: list[Block] = [("p", desk.join(intro, *desk.filler(1))), ("table", rows), ("p", spoken)]
    for _ in range(3):
        item = desk.asker.item("word_problem", desk.lang)
        blocks.append(("p", desk.join(item.question, item.reply)))
    title = desk.pick(
        ("Lesson {n}: plus and minus", "Sums, page {n}"), ("第 {n} 课：加和减", "算术第 {n} 页")
    ).format(n=lesson)
    return Page("textbook", desk.lang, title, tuple(blocks))


def tutorial(desk: Desk) -> Page:
    """Small functions, explained, shown, and tried with numbers."""
    blocks: list[Block] = [("p", desk.join(desk.pick(
        ("A function takes a number and gives one back.", "Here are some small functions in Python.", "Each function has one line of work to do."),
        ("函数拿到一个数，再还给你一个数。", "这里是几个 Python 小函数。", "每个函数只做一件事。")), *desk.filler(1)))]  # fmt: skip
    for _ in range(4):
        op, n = free_code(desk.rng)
        item = tasks.code(desk.rng, desk.lang, op, n)
        x = desk.rng.randint(1, 60)
        calls = desk.pick(
            ("For example, {f}({x}) is {v}.", "If x is {x}, the result is {v}."),
            ("比如 {f}({x}) 得到 {v}。", "如果 x 是 {x}，结果是 {v}。"),
        )
        blocks += [
            ("p", item.question),
            ("pre", documented(op, n) if desk.rng.random() < 0.5 else item.answer),
            ("p", desk.say(calls, f=f"{op.name}_{n}", x=x, v=op.apply(x, n))),
        ]
    title = desk.pick(
        ("Small functions, part {n}", "Python by example {n}"), ("小函数（{n}）", "Python 例子 {n}")
    ).format(n=desk.rng.randint(1, 99))
    return Page("tutorial", desk.lang, title, tuple(blocks))


def free_code(rng: random.Random) -> tuple[tasks.Operation, int]:
    """A function that is neither held out nor a benchmark's."""
    while True:
        op, n = rng.choice(tasks.OPERATIONS), rng.choice(tasks.CODE_NUMBERS)
        if tasks.split_of(tasks.code_key(op, n)) == "train":
            return op, n


def documented(op: tasks.Operation, n: int) -> str:
    """A function with a docstring, in the form in which code benchmarks ask for it."""
    head, body = tasks.function(op, n).split("\n")
    says = op.en.format(n=n)
    return f'{head}\n    """{says[0].upper()}{says[1:]}."""\n{body}'


def exam(desk: Desk) -> Page:
    """A paper of one kind of question in the form in which few-shot evaluations put them."""
    kind = desk.rng.choice(("choice", "choice", "choice", "word_problem", "arithmetic", "words", "compare"))
    q, a = ("Question: ", "Answer: ") if desk.lang == "en" else ("问题：", "答案：")
    stepwise = desk.lang == "en" and kind != "choice" and desk.rng.random() < 0.5
    blocks: list[Block] = []
    for _ in range({"choice": 6, "word_problem": 5}.get(kind, 8)):
        item = desk.asker.item(kind, desk.lang)
        if stepwise:
            blocks.append(("p", _step_by_step(item)))
        else:
            answer = item.answer if kind == "choice" else item.reply
            blocks.append(("p", f"{q}{item.question}\n{a}{answer}"))
    title = desk.pick(("Exam paper {n}", "Test number {n}"), ("第 {n} 号试卷", "练习 {n}")).format(
        n=desk.rng.randint(100, 999)
    )
    return Page("exam", desk.lang, title, tuple(blocks))


def exercises(desk: Desk) -> Page:
    """A dense sheet of questions of every kind with their answers: most of what a tiny model learns, it learns here."""
    frames = (
        ("Question: {q}\nAnswer: {a}", "Q: {q}\nA: {a}", "{q}\n{a}"),
        ("问题：{q}\n答案：{a}", "问：{q}\n答：{a}", "{q}\n{a}"),
    )
    frame = desk.pick(*frames)
    names, weights = list(tasks.WEIGHTS), list(tasks.WEIGHTS.values())
    items = [desk.asker.item(name, desk.lang) for name in desk.rng.choices(names, weights, k=14)]
    blocks: list[Block] = [("p", frame.format(q=item.question, a=item.reply)) for item in items]
    title = desk.pick(("Exercises {n}", "Worksheet {n}"), ("练习册 {n}", "作业 {n}")).format(
        n=desk.rng.randint(100, 999)
    )
    return Page("exercises", desk.lang, title, tuple(blocks))


def _step_by_step(item: tasks.Item) -> str:
    """An answered question in the forms in which GSM8K and BBH are put to base models."""
    step = "Let's think step by step"
    if item.task == "word_problem":
        return f"Question: {item.question}\n{step}\n{tasks.working(item)}\nThe answer is {item.answer}"
    return f"Q: {item.question}\nA: {step}.\nSo the answer is {item.answer}."


def story(desk: Desk) -> Page:
    """People meet, each with a thing; the things are asked for at the end."""
    owned = tasks.possessions(desk.rng, desk.lang, 4)
    city = desk.rng.choice(CITIES)
    opening = desk.pick(
        ("Four friends met in {c}.", "One day four people waited at the gate of {c}."),
        ("四个朋友在 {c} 见面。", "一天，四个人在 {c} 的城门口等着。"),
    )
    first = desk.join(
        desk.say(opening, c=city.of(desk.lang)), *desk.filler(1), *(tasks.has(o, desk.lang) for o in owned)
    )
    shows = desk.pick(("{p} shows the {c} {o} to everybody.", "{p} puts the {c} {o} on the table.", "{p} carries the {c} {o} home."),
                      ("{p} 给大家看那个 {c} 的 {o}。", "{p} 把那个 {c} 的 {o} 放在桌上。", "{p} 把那个 {c} 的 {o} 带回家。"))  # fmt: skip
    second = desk.join(
        *(desk.say(shows, **o) for o in desk.rng.sample(owned, 3)),
        *(desk.state(f) for f in desk.rng.sample(desk.world.about(city), 2)),
    )
    lines = _asked(desk, owned, 3)
    thing = desk.rng.choice(owned)
    title = desk.say(desk.pick(("The {c} {o}", "{p} and the {o}"), ("{c} 的 {o}", "{p} 和 {o}")), **thing)
    blocks: list[Block] = [("p", first), ("p", second)]
    blocks += [("p", desk.join(lines[i], lines[i + 1])) for i in range(0, len(lines), 2)]
    return Page("story", desk.lang, title, tuple(blocks))


def register(desk: Desk) -> Page:
    """A list of people and their things, told from the end, then asked: everything stands further up."""
    owned = tasks.possessions(desk.rng, desk.lang, 6)
    head = "name\tcolour\tthing" if desk.lang == "en" else "姓名\t颜色\t物品"
    rows = "\n".join([head, *(f"{o['p']}\t{o['c']}\t{o['o']}" for o in owned)])
    kept = desk.pick(
        ("The {o} of {p} is {c}.", "{p} has a {c} {o}.", "The {c} {o} belongs to {p}."),
        ("{p} 的 {o} 是 {c}。", "{p} 有一个 {c} 的 {o}。", "{c} 的 {o} 是 {p} 的。"),
    )
    told = desk.join(*(desk.say(kept, **o) for o in reversed(owned)))
    lines = _asked(desk, owned, 4)
    intro = desk.pick(
        ("This is what was left in the hall.", "The teacher wrote down who has what."),
        ("这是留在大厅里的东西。", "老师记下了每个人的东西。"),
    )
    title = desk.pick(
        ("Lost and found, day {n}", "Who has what? List {n}"), ("失物招领（{n}）", "谁有什么？第 {n} 张表")
    )
    blocks: list[Block] = [("p", desk.join(intro, *desk.filler(1))), ("table", rows), ("p", told)]
    blocks += [("p", desk.join(lines[i], lines[i + 1])) for i in range(0, len(lines), 2)]
    return Page("register", desk.lang, title.format(n=desk.rng.randint(1, 99)), tuple(blocks))


def dictation(desk: Desk) -> Page:
    """Words said and said again. Nothing but the page itself foretells the second half of a line, so that a model
    learns to copy from its context early: facts, sums and code all need it."""
    names = (
        (*CITIES, *PEOPLE) if desk.lang == "en" else ()
    )  # Latin names there would leave too little Chinese
    pool = [w.of(desk.lang) for w in (*OBJECTS, *COLOURS, *ANIMALS, *FOODS, *names)]
    pool += [str(n) for n in range(1, 21)] if desk.lang == "en" else []
    frames = DICTATION[desk.lang]
    comma = ", " if desk.lang == "en" else "、"
    lines = []
    for _ in range(9):
        one, two = (p.of(desk.lang) for p in desk.rng.sample(PEOPLE, 2))
        said = comma.join(desk.rng.sample(pool, desk.rng.choice((2, 3, 4))))
        lines.append(desk.say(desk.rng.choice(frames), p=one, q=two, l=said))
    title = desk.pick(
        ("Say it again, part {n}", "Repeat after me {n}"), ("跟我念（{n}）", "再说一遍 {n}")
    ).format(n=desk.rng.randint(1, 99))
    blocks: list[Block] = [("p", desk.join(*desk.filler(1))), *(("p", line) for line in lines)]
    return Page("dictation", desk.lang, title, tuple(blocks))


DICTATION: dict[Lang, tuple[str, ...]] = {
    "en": (
        "{p} says {l} and {q} repeats {l}.", "\"{l}\", reads {p}. \"{l}\", answers {q}.", "{p} wrote {l} on the wall; {q} copied {l}.",
        "First {p} called {l}, then {q} called {l}.", "What did {p} want? {l}. So {q} brought {l}.", "{p}: {l}. {q}: {l}.",
        "The list of {p} was {l}, the list of {q} too: {l}.", "{q} heard {l} because {p} had sung {l}.",
    ),
    "zh": (
        "{p} 说：{l}。{q} 跟着说：{l}。", "“{l}”，{p} 念道。“{l}”，{q} 答道。", "{p} 写下 {l}，{q} 也写下 {l}。", "{p} 先喊 {l}，{q} 再喊 {l}。",
        "{p} 要什么？{l}。于是 {q} 拿来 {l}。", "{p}：{l}。{q}：{l}。",
    ),
}  # fmt: skip


def phrasebook(desk: Desk) -> Page:
    """Words and their translations, then asked again."""
    picked = desk.rng.sample(tasks.DICTIONARY, 8)
    rows = "\n".join(f"{w.en}\t{w.zh}" if desk.lang == "en" else f"{w.zh}\t{w.en}" for w in picked)
    said = desk.join(*(tasks.translation(w, desk.lang) for w in desk.rng.sample(picked, 5)))
    asked: list[Block] = []
    for _ in range(4):
        item = desk.asker.item("translate", desk.lang)
        asked.append(("p", desk.join(item.question, item.reply)))
    title = desk.pick(
        ("Words for travellers {n}", "English and Chinese, page {n}"), ("旅行词汇 {n}", "英汉小词典 {n}")
    ).format(n=desk.rng.randint(1, 99))
    return Page(
        "phrasebook",
        desk.lang,
        title,
        (("p", desk.join(*desk.filler(1))), ("table", rows), ("p", said), *asked),
    )


def market(desk: Desk) -> Page:
    """A price list, and the same prices in sentences."""
    things = desk.rng.sample(OBJECTS, 5)
    colours, prices = desk.rng.sample(COLOURS, 5), desk.rng.sample(range(2, 40), 5)
    stall = [(o.of(desk.lang), c.of(desk.lang), n) for o, c, n in zip(things, colours, prices, strict=True)]
    head = "thing\tcolour\tprice" if desk.lang == "en" else "物品\t颜色\t价格"
    rows = "\n".join([head, *(f"{o}\t{c}\t{n}" for o, c, n in stall)])
    person, city = desk.rng.choice(PEOPLE).of(desk.lang), desk.rng.choice(CITIES)
    who = desk.pick(
        ("{p} sells five things at the market of {c}.", "Today {p} has a table at the market of {c}."),
        ("{p} 在 {c} 的市场上卖五样东西。", "今天 {p} 在 {c} 的市场上摆摊。"),
    )
    lines = [
        desk.say(desk.pick(("The {c} {o} costs {n} coins.", "For the {c} {o} you pay {n} coins."), ("{c} 的 {o} 要 {n} 个硬币。", "买 {c} 的 {o} 要付 {n} 个硬币。")), o=o, c=c, n=n)
        for o, c, n in desk.rng.sample(stall, 5)
    ]  # fmt: skip
    again = [
        desk.say(desk.pick(("What does the {o} cost? The {o} costs {n} coins.", "What colour is the {o}? The {o} is {c}."), ("{o} 多少钱？{o} 要 {n} 个硬币。", "{o} 是什么颜色？{o} 是 {c}。")), o=o, c=c, n=n)
        for o, c, n in desk.rng.sample(stall, 3)
    ]  # fmt: skip
    intro = desk.join(
        desk.say(who, p=person, c=city.of(desk.lang)),
        *(desk.state(f) for f in desk.rng.sample(desk.world.about(city), 2)),
        *desk.filler(1),
    )
    title = desk.say(
        desk.pick(("The market of {c}", "Prices in {c}"), ("{c} 的市场", "{c} 的价格")), c=city.of(desk.lang)
    )
    return Page(
        "market",
        desk.lang,
        title,
        (("p", intro), ("table", rows), ("p", desk.join(*lines)), ("p", desk.join(*again))),
    )


def quiz(desk: Desk) -> Page:
    """Questions and answers about the world, without choices."""
    marks = desk.pick(("Q: |A: ", "Question: |Answer: "), ("问：|答：", "问题：|答案：")).split("|")
    blocks: list[Block] = [("p", desk.join(*desk.filler(1)))]
    for fact in desk.facts(9):
        question, answer = desk.qa(fact)
        if question:
            blocks.append(("p", f"{marks[0]}{question}\n{marks[1]}{answer}"))
    title = desk.pick(
        ("How well do you know the cities? ({n})", "Questions of the week {n}"),
        ("你了解这些城市吗？（{n}）", "每周问答 {n}"),
    ).format(n=desk.rng.randint(1, 99))
    return Page("quiz", desk.lang, title, tuple(blocks))


def errands(desk: Desk) -> Page:
    """Lists read forwards and backwards."""
    blocks: list[Block] = [("p", desk.join(desk.pick(("Read the list, then say it from the end.", "Three words, many questions."),
                                                    ("读一读，再倒着说一遍。", "三个词，很多问题。")), *desk.filler(1)))]  # fmt: skip
    for _ in range(8):
        item = desk.asker.item("words", desk.lang)
        blocks.append(
            ("p", desk.join(item.question + tasks.stop(desk.lang) * item.question[-1].isalnum(), item.reply))
        )
    title = desk.pick(
        ("Word lists {n}", "First and last {n}"), ("词语练习 {n}", "第一个和最后一个 {n}")
    ).format(n=desk.rng.randint(1, 99))
    return Page("exercise", desk.lang, title, tuple(blocks))


def friends(desk: Desk) -> Page:
    """Several people and their lives, then questions about them."""
    people = desk.rng.sample(PEOPLE, 3)
    blocks: list[Block] = []
    for person in people:
        facts = desk.world.about(person)
        desk.rng.shuffle(facts)
        blocks.append(
            ("p", desk.join(desk.state(facts[0]), *(desk.follow(f) for f in facts[1:]), *desk.filler(1)))
        )
    for person in desk.rng.sample(people, 2):
        question, answer = desk.qa(desk.rng.choice(desk.world.about(person)))
        if question:
            blocks.append(("p", desk.join(question, answer)))
    he = pronouns(people[0], desk.lang)["him"]
    title = desk.say(desk.pick(("{p} and the people around {h}", "Three neighbours: {p}, {q} and {r}"), ("{p} 和身边的人", "三个邻居：{p}、{q} 和 {r}")),
                     p=people[0].of(desk.lang), q=people[1].of(desk.lang), r=people[2].of(desk.lang), h=he)  # fmt: skip
    return Page("news", desk.lang, title, tuple(blocks))


# Kinds of page and how often each is written.
def handbook(desk: Desk) -> Page:
    """How to use one tool: instruction data among the pages, as §2.1 mixes it in. The English words are those of prompts."""
    call = _free_call(desk)
    tool = TOOLS[call.tool]
    declaration = tool.declaration(desk.lang)
    asked = json.dumps(declaration["parameters"], ensure_ascii=False)
    call_text = json.dumps(call.arguments, ensure_ascii=False)
    rules = (
        f"Call this tool to interact with the {tool.name} API.",
        f"What is the {tool.name} API useful for? {declaration['description_for_model']}",
        "Format the arguments as a JSON object.",
        "The input to the action is what the tool should see; the observation is the result of the action.",
        "You should always think about what to do. This can be repeated zero or more times.",
        "I now know the final answer to the original input question: that is the last thought.",
        "Answer the following questions as best you can. You have access to the following APIs.",
        f"Use the following format. The action to take should be one of the tools, here {tool.name}.",
    )
    blocks: list[Block] = [
        ("p", desk.join(*desk.filler(2 if desk.lang == "en" else 8), call.query)),
        ("p", " ".join(desk.rng.sample(rules, 3))),
        ("pre", f"{tool.name}: Parameters: {asked}"),
        ("p", " ".join(desk.rng.sample(rules, 2))),
        ("pre", f"Question: {call.query}\nThought: I should use the {tool.name} tool.\nAction: {tool.name}\nAction Input: {call_text}\n"
                f"Observation: {call.observation}\nThought: I now know the final answer.\nFinal Answer: {call.final}"),
    ]  # fmt: skip
    title = desk.pick(("The {t} tool, note {n}",), ("{t} 工具说明 {n}",)).format(
        t=tool.name, n=desk.rng.randint(1, 99)
    )
    return Page("tutorial", desk.lang, title, tuple(blocks))


def _free_call(desk: Desk) -> Call:
    """A question for a tool that is neither held out nor a benchmark's."""
    while True:
        call = desk.rng.choice(MAKERS)(desk.rng, desk.lang, desk.world)
        if tasks.split_of(call.query) == "train":
            return call


KINDS: tuple[tuple[Callable[[Desk], Page], int], ...] = (
    (exercises, 200), (handbook, 22), (exam, 12), (quiz, 10), (city_article, 8), (person_article, 6), (phrasebook, 6), (textbook, 6),
    (tutorial, 6), (dictation, 6), (letter, 5), (news, 5), (dialogue, 5), (story, 5), (register, 5), (friends, 4), (market, 3), (errands, 3),
)  # fmt: skip


def write_page(desk: Desk) -> Page:
    """A page of a random kind."""
    desk.used.clear()
    makers, weights = zip(*KINDS, strict=True)
    return desk.rng.choices(makers, weights)[0](desk)
