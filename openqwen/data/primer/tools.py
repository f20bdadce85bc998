"""Questions for tools, with declarations, computed outcomes and traces; a part of them needs no tool.

Report §3.4 (tool use by ReAct, Table 6). The declarations have the fields of Qwen's plugin form; the text format of
the traces is made elsewhere. The tools, their results and the world they ask about are ours.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openqwen.data.primer import tasks
from openqwen.data.primer.tasks import Asker, Item
from openqwen.data.primer.world import CITIES, OBJECTS, PEOPLE, Lang, Word, World, mend

MEANINGS: dict[str, Word] = {
    "kite": Word("a toy that flies in the wind", "在风里飞的玩具"), "lamp": Word("a thing that gives light", "发光的东西"), "cup": Word("a thing to drink from", "喝水用的东西"),
    "book": Word("pages with words on them", "写着字的纸页"), "ball": Word("a round toy", "圆圆的玩具"), "drum": Word("a thing that you beat to make music", "敲打出音乐的东西"),
    "boat": Word("a small ship", "小小的船"), "hat": Word("a thing for the head", "戴在头上的东西"), "coat": Word("warm clothes for winter", "冬天穿的衣服"),
    "chair": Word("a thing to sit on", "坐的东西"), "bell": Word("a thing that rings", "会响的东西"), "ring": Word("a thing for the finger", "戴在手指上的东西"),
    "clock": Word("a thing that tells the time", "报时的东西"), "map": Word("a picture of the land", "大地的图"), "basket": Word("a thing to carry bread in", "装面包的东西"),
    "ladder": Word("a thing to climb on", "爬高用的东西"), "mirror": Word("a glass that shows your face", "照脸的玻璃"), "candle": Word("a light made of wax", "蜡做的灯"),
    "button": Word("a thing that closes a coat", "扣外套的东西"), "bottle": Word("a glass for water", "装水的玻璃"), "spoon": Word("a thing to eat soup with", "喝汤的东西"),
    "key": Word("a thing that opens a door", "开门的东西"), "pencil": Word("a thing to write with", "写字的东西"), "blanket": Word("a warm cover for the bed", "床上的暖东西"),
}  # fmt: skip
_METRES = {"km": 1000, "m": 1, "kg": 1000, "g": 1, "hours": 60, "minutes": 1}
_PAIRS = (("km", "m"), ("kg", "g"), ("hours", "minutes"))
_THOUGHT: dict[Lang, str] = {"en": "I should use the {t} tool.", "zh": "我应该使用 {t} 工具。"}


@dataclass(frozen=True)
class Tool:
    """A tool: names, description, and its parameters with their descriptions."""

    name: str
    human: Word
    about: Word
    parameters: tuple[tuple[str, Word], ...]

    def declaration(self, lang: Lang) -> dict[str, Any]:
        """The plugin form that goes into prompts."""
        return {
            "name_for_human": self.human.of(lang),
            "name_for_model": self.name,
            "description_for_model": self.about.of(lang),
            "parameters": [
                {"name": name, "description": word.of(lang), "required": True, "schema": {"type": "string"}}
                for name, word in self.parameters
            ],
        }


TOOLS: dict[str, Tool] = {
    t.name: t
    for t in (
        Tool("calculator", Word("calculator", "计算器"), Word("Computes with large numbers.", "计算大数。"), (("expression", Word("what to compute", "算式")),)),
        Tool("weather", Word("weather", "天气"), Word("Tells the weather of a city today.", "查询城市今天的天气。"), (("city", Word("the city", "城市")),)),
        Tool("dictionary", Word("dictionary", "词典"), Word("Explains what a word means.", "解释词语的意思。"), (("word", Word("the word", "词语")),)),
        Tool("calendar", Word("calendar", "日历"), Word("Tells the date of a festival.", "查询节日的日期。"), (("event", Word("the festival", "节日")),)),
        Tool("search", Word("search", "搜索"), Word("Finds the latest news about a person.", "搜索人物的最新消息。"), (("query", Word("whom to search for", "搜索词")),)),
        Tool("unit", Word("unit", "单位换算"), Word("Converts a quantity to another unit.", "换算单位。"), (("value", Word("the quantity", "数量")), ("to", Word("the new unit", "新单位")))),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A question for one tool: arguments, what the tool returns, the final answer."""

    tool: str
    query: str
    arguments: dict[str, str]
    observation: str
    final: str


def _ask(rng: random.Random, lang: Lang, en: tuple[str, ...], zh: tuple[str, ...], **slots: str | int) -> str:
    return mend(rng.choice(en if lang == "en" else zh).format(**slots), lang)


def calculator(rng: random.Random, lang: Lang, world: World) -> Call:
    a, b, sign = rng.randint(21, 99), rng.randint(21, 99), rng.choice("+-*")
    text, value = tasks.equation(a, sign, b)
    query = _ask(rng, lang, ("Calculate {e}.", "What is {e} exactly?", "Please calculate {e} for me."),
                 ("请计算 {e}。", "{e} 的结果是多少？", "帮我算 {e}。"), e=f"{a} {sign} {b}")  # fmt: skip
    return Call("calculator", query, {"expression": f"{a} {sign} {b}"}, str(value), text + tasks.stop(lang))


def weather(rng: random.Random, lang: Lang, world: World) -> Call:
    city = rng.choice(CITIES).of(lang)
    sky, degrees = world.weather[city]
    query = _ask(rng, lang, ("What is the weather in {c} today?", "Is it raining in {c} now?", "How warm is it in {c} today?", "Do I need a coat in {c} today?"),
                 ("{c} 今天天气怎么样？", "{c} 现在下雨吗？", "{c} 今天多少度？", "今天去 {c} 要穿外套吗？"), c=city)  # fmt: skip
    said = _ask(rng, lang, ("{s}, {n} degrees",), ("{s}，{n} 度",), s=sky.of(lang), n=degrees)
    final = _ask(
        rng,
        lang,
        ("It is {s} in {c} today, {n} degrees.",),
        ("{c} 今天 {s}，{n} 度。",),
        s=sky.of(lang),
        n=degrees,
        c=city,
    )
    return Call("weather", query, {"city": city}, said, final)


def dictionary(rng: random.Random, lang: Lang, world: World) -> Call:
    word = rng.choice(OBJECTS)
    meaning = MEANINGS[word.en].of(lang)
    query = _ask(rng, lang, ("What does the word '{w}' mean?", "Explain the word '{w}'.", "What is the meaning of '{w}'?"),
                 ("“{w}”是什么意思？", "请解释“{w}”这个词。", "“{w}”这个词怎么理解？"), w=word.of(lang))  # fmt: skip
    final = _ask(rng, lang, ("'{w}' means: {m}.",), ("“{w}”的意思是：{m}。",), w=word.of(lang), m=meaning)
    return Call("dictionary", query, {"word": word.of(lang)}, meaning, final)


def calendar(rng: random.Random, lang: Lang, world: World) -> Call:
    name, month, day = world.festivals[rng.choice(sorted(world.festivals))]
    year = rng.randint(2024, 2039)
    query = _ask(rng, lang, ("When is {f} in {y}?", "On which date is {f} in {y}?", "What is the date of {f} {y}?"),
                 ("{y} 年的{f} 是哪天？", "{f} 在 {y} 年几月几日？", "请查 {y} 年{f} 的日期。"), f=name.of(lang), y=year)  # fmt: skip
    date = f"{year}-{month:02d}-{day:02d}"
    final = _ask(rng, lang, ("The date of {f} is {d}.",), ("{f} 的日期是 {d}。",), f=name.of(lang), d=date)
    return Call("calendar", query, {"event": f"{name.of(lang)} {year}"}, date, final)


_NEWS = (Word("won a prize", "得了奖"), Word("opened a shop", "开了一家店"), Word("wrote a song", "写了一首歌"), Word("found an old map", "找到一张旧地图"), Word("built a bridge", "修了一座桥"))  # fmt: skip


def search(rng: random.Random, lang: Lang, world: World) -> Call:
    person, city = rng.choice(PEOPLE).of(lang), rng.choice(CITIES).of(lang)
    did = _NEWS[(PEOPLE.index(Word(person, person)) + CITIES.index(Word(city, city))) % len(_NEWS)].of(lang)
    query = _ask(rng, lang, ("What is the latest news about {p} in {c}?", "Search for news about {p} in {c}.", "What has {p} done in {c} this week?"),
                 ("{p} 在 {c} 有什么最新消息？", "搜索 {p} 在 {c} 的新闻。", "{p} 这周在 {c} 做了什么？"), p=person, c=city)  # fmt: skip
    said = _ask(rng, lang, ("{p} {d} in {c}",), ("{p} 在 {c} {d}",), p=person, d=did, c=city)
    return Call("search", query, {"query": f"{person} {city}"}, said, said + tasks.stop(lang))


def unit(rng: random.Random, lang: Lang, world: World) -> Call:
    source, target = rng.choice(_PAIRS)
    n = rng.randint(2, 60)
    value = n * _METRES[source] // _METRES[target]
    query = _ask(rng, lang, ("Convert {n} {a} to {b}.", "How many {b} are {n} {a}?", "Change {n} {a} into {b}."),
                 ("把 {n} {a} 换算成 {b}。", "{n} {a} 是多少 {b}？", "{n} {a} 等于几 {b}？"), n=n, a=source, b=target)  # fmt: skip
    final = _ask(
        rng, lang, ("{n} {a} are {v} {b}.",), ("{n} {a} 是 {v} {b}。",), n=n, a=source, b=target, v=value
    )
    return Call("unit", query, {"value": f"{n} {source}", "to": target}, f"{value} {target}", final)


MAKERS: tuple[Callable[[random.Random, Lang, World], Call], ...] = (
    calculator,
    weather,
    dictionary,
    calendar,
    search,
    unit,
)
# What a question that needs no tool must not be offered, because the tool would be a fair choice.
_TEMPTING = {
    "arithmetic": {"calculator"},
    "word_problem": {"calculator"},
    "translate": {"dictionary"},
    "fact": {"search"},
}


def _offer(rng: random.Random, right: str | None, forbidden: set[str]) -> list[Tool]:
    others = [n for n in TOOLS if n != right and n not in forbidden]
    names = rng.sample(others, rng.randint(1, 2) if right else rng.randint(2, 3)) + ([right] if right else [])
    rng.shuffle(names)
    return [TOOLS[n] for n in names]


def positive(call: Call, rng: random.Random, lang: Lang) -> dict[str, Any]:
    """The record of a question that one tool answers."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    step = {
        "thought": _THOUGHT[lang].format(t=call.tool),
        "action": call.tool,
        "action_input": arguments,
        "observation": call.observation,
    }
    return {
        "lang": lang,
        "query": call.query,
        "tools": [t.declaration(lang) for t in _offer(rng, call.tool, set())],
        "gold": {"name": call.tool, "arguments": call.arguments},
        "steps": [step],
        "final": call.final,
    }


def negative(item: Item, rng: random.Random) -> dict[str, Any]:
    """The record of a question that is answered directly although tools are offered."""
    offered = _offer(rng, None, _TEMPTING.get(item.task, set()))
    return {
        "lang": item.lang,
        "query": item.question,
        "tools": [t.declaration(item.lang) for t in offered],
        "gold": None,
        "steps": [],
        "final": item.reply,
    }


def tool_items(
    world: World, asker: Asker, count: int, negatives: float, rng: random.Random
) -> list[dict[str, Any]]:
    """`count` records of the asker's split, no query twice; the share `negatives` needs no tool."""
    records: list[dict[str, Any]] = []
    seen: set[str] = set()
    plain = ("fact", "arithmetic", "translate", "compare", "words")
    num_negative = round(count * negatives)
    for _ in range(1000 * count):
        if len(records) == count:
            break
        lang = asker.lang()
        if len(records) < num_negative:
            records.append(negative(asker.item(rng.choice(plain), lang), rng))
            continue
        call = rng.choice(MAKERS)(rng, lang, world)
        if tasks.split_of(call.query) == asker.split and call.query not in seen:
            seen.add(call.query)
            records.append(positive(call, rng, lang))
    assert len(records) == count, f"only {len(records)} of {count} tool questions exist"
    rng.shuffle(records)
    return records
