"""An invented world: sixteen cities, sixteen people, closed word lists, and facts drawn from a seed.

Ours. Names are written in Latin letters in both languages, as Chinese texts often do with foreign names: one
token then stands for one entity everywhere, which lets a tiny model carry a fact from one language to the other.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

Lang = Literal["en", "zh"]


class Word(NamedTuple):
    """A word in both languages."""

    en: str
    zh: str

    def of(self, lang: Lang) -> str:
        return self.en if lang == "en" else self.zh


def _words(text: str) -> tuple[Word, ...]:
    return tuple(Word(*pair.split(":")) for pair in text.split())


def _names(text: str) -> tuple[Word, ...]:
    return tuple(Word(name, name) for name in text.split())


COLOURS = _words("red:红色 blue:蓝色 green:绿色 yellow:黄色 white:白色 black:黑色 purple:紫色 orange:橙色")
ANIMALS = _words("fox:狐狸 swan:天鹅 frog:青蛙 duck:鸭子 rabbit:兔子 goat:山羊 tiger:老虎 bear:棕熊")
FOODS = _words("bread:面包 cheese:奶酪 soup:浓汤 honey:蜂蜜 rice:米饭 cake:蛋糕 noodles:面条 jam:果酱")
JOBS = _words(
    "cook:厨师 doctor:医生 teacher:老师 sailor:水手 painter:画家 farmer:农民 singer:歌手 smith:铁匠"
)
OBJECTS = _words(
    "kite:风筝 lamp:台灯 cup:杯子 book:书本 ball:皮球 drum:小鼓 boat:小船 hat:帽子 coat:外套 chair:椅子 bell:铃铛 ring:戒指 "
    "clock:时钟 map:地图 basket:篮子 ladder:梯子 mirror:镜子 candle:蜡烛 button:纽扣 bottle:瓶子 spoon:勺子 key:钥匙 "
    "pencil:铅笔 blanket:毯子"
)
RIVERS = _names("Sel Orin Dova Marn Ilka Tavi Brun Nesk")
COUNTRIES = _names("Norland Eastmark Suvia Westria")
CITIES = _names(
    "Lumora Veskar Tarrin Okabi Pelune Dorwick Asmar Quillon "
    "Brevia Hanmoor Solvany Iskandel Jorvale Kestrin Mirabo Ondal"
)
PEOPLE = _names("Mia Tom Anna Leo Nina Omar Ruth Sam Lily Ben Clara Hugo Iris Jack Rosa Finn")
WOMEN = frozenset(["Mia", "Anna", "Nina", "Ruth", "Lily", "Clara", "Iris", "Rosa"])

# Every closed list from which an answer may come: naming a second member of the list is a wrong answer.
CLASSES: tuple[tuple[Word, ...], ...] = (
    COLOURS, ANIMALS, FOODS, JOBS, OBJECTS, RIVERS, COUNTRIES, CITIES, PEOPLE,
)  # fmt: skip

# Mild and partly invented: what the offensive filter and the true score look for.
RUDE_WORDS: tuple[str, ...] = (
    "idiot", "stupid", "dummy", "grobnik", "snarfhead", "moron", "笨蛋", "蠢货", "白痴", "傻瓜", "咕噜佬", "废物",
)  # fmt: skip


def pronouns(person: Word, lang: Lang) -> dict[str, str]:
    """Slots `he`, `He`, `his`, `him` for a person."""
    woman = person.en in WOMEN
    if lang == "zh":
        he = "她" if woman else "他"
        return {"he": he, "He": he, "his": he, "him": he}
    he = "she" if woman else "he"
    return {"he": he, "He": he.title(), "his": "her" if woman else "his", "him": "her" if woman else "him"}


@dataclass(frozen=True)
class Relation:
    """One kind of fact. Templates have the slots {s} (subject), {v} (value); `statements[lang][0]` is also the
    form in which questions are answered. `follow` continues a paragraph whose subject is known."""

    name: str
    of: Literal["city", "person"]
    values: tuple[Word, ...]
    label: Word
    statements: dict[Lang, tuple[str, ...]]
    follow: dict[Lang, tuple[str, ...]]
    questions: dict[Lang, tuple[str, ...]]
    choice: dict[Lang, str]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "flag", "city", COLOURS, Word("Flag", "旗帜"),
        {"en": ("The flag of {s} is {v}.", "{s} has a {v} flag.", "Over the roofs of {s} flies a {v} flag.",
                "The people of {s} are proud of their {v} flag."),
         "zh": ("{s} 的旗帜是 {v}。", "{s} 挂着 {v} 的旗帜。", "在 {s} 的屋顶上飘着 {v} 的旗帜。")},
        {"en": ("Its flag is {v}.", "The flag over the gate is {v}."), "zh": ("它的旗帜是 {v}。", "城门上的旗帜是 {v}。")},
        {"en": ("What colour is the flag of {s}?", "Which colour is the flag of {s}?", "Tell me the colour of the flag of {s}.",
                "The flag of {s} has which colour?", "What is the colour of {s}'s flag?", "Do you know the colour of the flag of {s}?"),
         "zh": ("{s} 的旗帜是什么颜色？", "请问 {s} 的旗帜是哪种颜色？", "{s} 的旗帜颜色是什么？", "告诉我 {s} 旗帜的颜色。", "你知道 {s} 的旗帜是什么颜色吗？")},
        {"en": "What colour is the flag of {s}?", "zh": "{s} 的旗帜是什么颜色？"},
    ),
    Relation(
        "river", "city", RIVERS, Word("River", "河流"),
        {"en": ("{s} lies on the river {v}.", "The river {v} flows through {s}.", "Boats reach {s} on the river {v}.",
                "Children in {s} swim in the river {v}."),
         "zh": ("{s} 位于 {v} 河边。", "{v} 河流过 {s}。", "小船沿着 {v} 河来到 {s}。")},
        {"en": ("It lies on the river {v}.", "Its river is the {v}."), "zh": ("它位于 {v} 河边。", "这里的河叫 {v}。")},
        {"en": ("On which river does {s} lie?", "Which river flows through {s}?", "What is the river of {s}?",
                "Name the river of {s}.", "Tell me which river {s} lies on.", "Do you know the river that flows through {s}?"),
         "zh": ("{s} 位于哪条河边？", "哪条河流过 {s}？", "请问 {s} 的河叫什么？", "告诉我 {s} 在哪条河边。", "你知道流过 {s} 的河吗？")},
        {"en": "Which river flows through {s}?", "zh": "哪条河流过 {s}？"},
    ),
    Relation(
        "dish", "city", FOODS, Word("Dish", "特产"),
        {"en": ("{s} is famous for its {v}.", "Travellers come to {s} for the {v}.", "The market of {s} sells the best {v}.",
                "Every shop in {s} sells {v}."),
         "zh": ("{s} 的特产是 {v}。", "{s} 的市场卖最好的 {v}。", "人们来 {s} 是为了 {v}。")},
        {"en": ("It is famous for its {v}.", "Guests are given {v}."), "zh": ("它的特产是 {v}。", "客人可以吃到 {v}。")},
        {"en": ("What is {s} famous for?", "Which food is {s} famous for?", "What food do people buy in {s}?",
                "Tell me what {s} is famous for.", "Which food comes from {s}?", "What is the famous food of {s}?"),
         "zh": ("{s} 的特产是什么？", "请问 {s} 有什么特产？", "{s} 最有名的食物是什么？", "告诉我 {s} 的特产。", "去 {s} 应该吃什么？")},
        {"en": "Which food is {s} famous for?", "zh": "{s} 的特产是什么？"},
    ),
    Relation(
        "symbol", "city", ANIMALS, Word("Symbol", "象征"),
        {"en": ("The symbol of {s} is the {v}.", "A {v} is carved on the gate of {s}.", "On the coins of {s} you see a {v}.",
                "The {v} is the animal of {s}."),
         "zh": ("{s} 的象征是 {v}。", "{s} 的城门上刻着 {v}。", "{s} 的硬币上有 {v}。")},
        {"en": ("Its symbol is the {v}.", "A stone {v} stands in the square."), "zh": ("它的象征是 {v}。", "广场上有一只石头 {v}。")},
        {"en": ("What is the symbol of {s}?", "Which animal is the symbol of {s}?", "Which animal is on the coins of {s}?",
                "Tell me the symbol of {s}.", "Name the animal of {s}.", "What animal stands for {s}?"),
         "zh": ("{s} 的象征是什么？", "{s} 的象征是哪种动物？", "请问 {s} 的硬币上是什么动物？", "告诉我 {s} 的象征。", "哪种动物代表 {s}？")},
        {"en": "Which animal is the symbol of {s}?", "zh": "{s} 的象征是什么？"},
    ),
    Relation(
        "country", "city", COUNTRIES, Word("Country", "国家"),
        {"en": ("{s} is a city in {v}.", "{s} lies in {v}.", "The road to {s} crosses {v}.", "Many people in {v} live in {s}."),
         "zh": ("{s} 在 {v} 国。", "{s} 是 {v} 国的城市。", "去 {s} 要先到 {v} 国。")},
        {"en": ("It is a city in {v}.", "It belongs to {v}."), "zh": ("它在 {v} 国。", "它属于 {v} 国。")},
        {"en": ("In which country is {s}?", "Where is {s}?", "Which country does {s} belong to?", "Tell me the country of {s}.",
                "What country is {s} in?", "Do you know where {s} is?"),
         "zh": ("{s} 在哪个国家？", "请问 {s} 在哪里？", "{s} 属于哪个国家？", "告诉我 {s} 所在的国家。", "你知道 {s} 在哪国吗？")},
        {"en": "In which country is {s}?", "zh": "{s} 在哪个国家？"},
    ),
    Relation(
        "job", "person", JOBS, Word("Work", "职业"),
        {"en": ("{s} works as a {v}.", "{s} is a {v}.", "{s} has been a {v} for years.", "Everybody knows {s} the {v}."),
         "zh": ("{s} 的职业是 {v}。", "{s} 是一名 {v}。", "{s} 当 {v} 很多年了。")},
        {"en": ("{He} works as a {v}.", "By day {he} is a {v}."), "zh": ("{he} 的职业是 {v}。", "{he} 白天是 {v}。")},
        {"en": ("What is the job of {s}?", "What does {s} work as?", "What work does {s} do?", "Tell me the job of {s}.",
                "Which job does {s} have?", "Do you know the job of {s}?"),
         "zh": ("{s} 的职业是什么？", "{s} 做什么工作？", "请问 {s} 是做什么的？", "告诉我 {s} 的职业。", "你知道 {s} 的职业吗？")},
        {"en": "What is the job of {s}?", "zh": "{s} 的职业是什么？"},
    ),
    Relation(
        "home", "person", CITIES, Word("Home", "住处"),
        {"en": ("{s} lives in {v}.", "The house of {s} is in {v}.", "{s} has a small house in {v}.", "You can visit {s} in {v}."),
         "zh": ("{s} 住在 {v}。", "{s} 的家在 {v}。", "{s} 在 {v} 有一座小房子。")},
        {"en": ("{He} lives in {v}.", "{His} house is in {v}."), "zh": ("{he} 住在 {v}。", "{he} 的家在 {v}。")},
        {"en": ("Where does {s} live?", "In which city does {s} live?", "Which city is the home of {s}?", "Tell me where {s} lives.",
                "What is the home city of {s}?", "Do you know where {s} lives?"),
         "zh": ("{s} 住在哪里？", "{s} 住在哪个城市？", "请问 {s} 的家在哪里？", "告诉我 {s} 的住址。", "你知道 {s} 的家在哪个城市吗？")},
        {"en": "In which city does {s} live?", "zh": "{s} 住在哪个城市？"},
    ),
    Relation(
        "pet", "person", ANIMALS, Word("Pet", "宠物"),
        {"en": ("The pet of {s} is a {v}.", "{s} has a {v} at home.", "{s} keeps a {v}.", "{s} walks with a {v} every morning."),
         "zh": ("{s} 的宠物是 {v}。", "{s} 养了一只 {v}。", "{s} 家里有一只 {v}。")},
        {"en": ("{His} pet is a {v}.", "{He} keeps a {v}."), "zh": ("{he} 的宠物是 {v}。", "{he} 养了一只 {v}。")},
        {"en": ("What pet does {s} have?", "What is the pet of {s}?", "Which animal does {s} keep?", "Tell me the pet of {s}.",
                "What animal lives with {s}?", "Do you know the pet of {s}?"),
         "zh": ("{s} 的宠物是什么？", "{s} 养了什么动物？", "请问 {s} 家里有什么动物？", "告诉我 {s} 的宠物。", "你知道 {s} 养什么吗？")},
        {"en": "What pet does {s} have?", "zh": "{s} 的宠物是什么？"},
    ),
    Relation(
        "favourite", "person", COLOURS, Word("Colour", "颜色"),
        {"en": ("The favourite colour of {s} is {v}.", "{s} likes {v} best.", "{s} always wears {v}.", "{s} painted the door {v}."),
         "zh": ("{s} 最喜欢的颜色是 {v}。", "{s} 总是穿 {v} 的衣服。", "{s} 把门刷成了 {v}。")},
        {"en": ("{His} favourite colour is {v}.", "{He} always wears {v}."), "zh": ("{he} 最喜欢的颜色是 {v}。", "{he} 总是穿 {v} 的衣服。")},
        {"en": ("What is the favourite colour of {s}?", "Which colour does {s} like best?", "What colour does {s} like?",
                "Tell me the favourite colour of {s}.", "Which colour is the favourite of {s}?", "What colour does {s} always wear?"),
         "zh": ("{s} 最喜欢什么颜色？", "{s} 喜欢哪种颜色？", "请问 {s} 最喜欢的颜色是什么？", "告诉我 {s} 最喜欢的颜色。", "你知道 {s} 喜欢什么颜色吗？")},
        {"en": "What is the favourite colour of {s}?", "zh": "{s} 最喜欢什么颜色？"},
    ),
)  # fmt: skip


FESTIVALS = tuple(
    Word(w.en.replace("_", " "), w.zh)
    for w in _words(
        "lantern_day:灯笼节 harvest_day:丰收节 river_day:河流节 music_day:音乐节 "
        "bread_day:面包节 kite_day:风筝节 snow_day:雪花节 book_day:读书节"
    )
)


class Fact(NamedTuple):
    """`relation` holds between `subject` and `value`."""

    relation: Relation
    subject: Word
    value: Word

    def fill(self, template: str, lang: Lang) -> str:
        """The template with subject, value and pronouns put in."""
        slots = {"s": self.subject.of(lang), "v": self.value.of(lang)}
        if self.relation.of == "person":
            slots |= pronouns(self.subject, lang)
            slots["His"] = slots["his"].title()
        return mend(template.format(**slots), lang)

    def answer(self, lang: Lang) -> str:
        """The sentence that states the fact in answer to a question."""
        return self.fill(self.relation.statements[lang][0], lang)


_GAP = re.compile(r"(?<=[\u2e80-\uffef]) (?=[\u2e80-\uffef])")
_AN = re.compile(r" a (?=[aeiou])")


def mend(text: str, lang: Lang) -> str:
    """Spaces stand only between Chinese and Latin letters; `a` becomes `an` before a vowel."""
    return _AN.sub(" an ", text) if lang == "en" else _GAP.sub("", text).strip()


class World:
    """The facts of one seed: every value occurs about equally often within its relation."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"world {seed}")
        self.facts: list[Fact] = []
        for relation in RELATIONS:
            subjects = CITIES if relation.of == "city" else PEOPLE
            values = list(relation.values) * (len(subjects) // len(relation.values))
            rng.shuffle(values)
            self.facts += [Fact(relation, s, v) for s, v in zip(subjects, values, strict=True)]
        skies = (Word("sunny", "晴天"), Word("rainy", "下雨"), Word("cloudy", "多云"), Word("snowy", "下雪"))
        self.weather = {city.en: (rng.choice(skies), rng.randint(2, 29)) for city in CITIES}
        names = list(FESTIVALS)
        rng.shuffle(names)
        self.festivals = {name.en: (name, rng.randint(1, 12), rng.randint(1, 28)) for name in names}

    def about(self, subject: Word) -> list[Fact]:
        """All facts whose subject this is."""
        return [f for f in self.facts if f.subject == subject]
