"""Questions for tools that no training data of ours knows, and questions that need none: a test set for Table 6.

Report §3.4, Table 6 (unseen tools; its own questions are in-house). Tools, questions and results are ours, in the form of
the primer's records; numbers are numbers here, choices are enumerated and some arguments may be left out.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LANGS = ("en", "zh")
EACH = 6  # questions of a tool in a language
_TEXT, _INT, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
Values = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Kind:
    """A tool with its questions. Texts are (English, Chinese); questions and results have slots for the arguments."""

    name: str
    human: tuple[str, str]
    about: tuple[str, str]
    parameters: tuple[tuple[str, Mapping[str, Any]], ...]  # all required
    asked: tuple[tuple[str, ...], tuple[str, ...]]
    values: tuple[Values, Values]
    result: str
    optional: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def declaration(self, lang: str) -> dict[str, Any]:
        """Qwen's plugin form."""
        which = LANGS.index(lang)
        parts = [(*p, True) for p in self.parameters] + [(*p, False) for p in self.optional]
        return {
            "name_for_human": self.human[which],
            "name_for_model": self.name,
            "description_for_model": self.about[which],
            "parameters": [
                {"name": name, "description": "", "required": required, "schema": dict(schema)}
                for name, schema, required in parts
            ],
        }


def _kind(name: str, human: str, about: str, parameters: Any, asked: Any, values: Any, result: str, optional: Any = ()) -> Kind:  # fmt: skip
    """Texts as "English|Chinese"."""
    en, zh = human.split("|")
    about_en, about_zh = about.split("|")
    return Kind(
        name, (en, zh), (about_en, about_zh), tuple(parameters), asked, values, result, tuple(optional)
    )


KINDS: tuple[Kind, ...] = (
    _kind("currency_exchange", "Exchange|汇率换算", "Converts an amount of money into another currency.|把一笔钱换算成另一种货币。",
          [("amount", _NUMBER), ("source", _TEXT), ("target", _TEXT)],
          (("How much is {0} {1} in {2}?", "Change {0} {1} into {2} at today's rate.", "I have {0} {1}. What do I get in {2}?"), ("{0} {1} 能换多少 {2}？", "请按今天的汇率把 {0} {1} 换成 {2}。", "我有 {0} {1}，值多少 {2}？")),
          (((120, "USD", "EUR"), (45.5, "GBP", "JPY")), ((300, "CNY", "USD"), (80, "EUR", "CNY"))), "{0} {1} are 731 {2}"),
    _kind("flight_search", "Flights|航班查询", "Finds flights between two cities on a day.|查询两座城市之间某天的航班。",
          [("origin", _TEXT), ("destination", _TEXT), ("date", _TEXT)],
          (("Which flights go from {0} to {1} on {2}?", "Find me a flight from {0} to {1} on {2}.", "I must fly from {0} to {1} on {2}. What is there?"), ("{2} 从 {0} 到 {1} 有哪些航班？", "帮我查 {2} {0} 飞 {1} 的航班。", "我 {2} 要从 {0} 飞到 {1}，有什么航班？")),
          ((("Lisbon", "Vienna", "2031-04-02"), ("Toronto", "Lima", "2030-11-23")), (("北京", "昆明", "2031-05-06"), ("上海", "成都", "2030-10-01"))), "QX{3} at 09:40"),
    _kind("set_reminder", "Reminders|提醒", "Saves a reminder for a time of day.|在某个时间保存提醒。",
          [("text", _TEXT), ("time", _TEXT)],
          (("Remind me to {0} at {1}.", "At {1} I have to {0}; please remind me.", "Set a reminder for {1}: {0}."), ("{1} 提醒我{0}。", "请在 {1} 提醒我{0}。", "设个 {1} 的提醒：{0}。")),
          ((("call the dentist", "15:30"), ("water the plants", "07:45")), (("给妈妈打电话", "20:15"), ("取快递", "18:00"))), "saved as reminder {3}"),
    _kind("stock_price", "Stocks|股票行情", "Tells the latest price of a share by its symbol.|按代码查询股票的最新价格。",
          [("symbol", _TEXT)],
          (("What does the share {0} cost right now?", "Latest price of {0}, please.", "How is the share {0} trading at the moment?"), ("{0} 这只股票现在多少钱？", "请查 {0} 的最新股价。", "{0} 目前的股价是多少？")),
          ((("QZXA",), ("NORB",)), (("600999",), ("HKVT",))), "{3}.20"),
    _kind("music_player", "Music|音乐播放", "Plays a song or a station in a room.|在房间里播放歌曲或电台。",
          [("title", _TEXT), ("room", {"enum": ["kitchen", "bedroom", "office"]})],
          (("Play '{0}' in the {1}.", "I want to hear '{0}' in the {1}.", "Put on '{0}' in the {1}, please."), ("在 {1} 播放《{0}》。", "我想在 {1} 听《{0}》。", "请在 {1} 放《{0}》。")),
          ((("Blue Harbour", "kitchen"), ("Seven Lanterns", "office")), (("小河边", "bedroom"), ("雨后", "kitchen"))), "playing, track {3}", [("volume", _INT)]),
    _kind("route_planner", "Routes|路线规划", "Plans the way between two places by a means of transport.|规划两地之间的路线。",
          [("start", _TEXT), ("end", _TEXT), ("mode", {"enum": ["walk", "bike", "car", "train"]})],
          (("How do I get from {0} to {1} by {2}?", "Plan the way from {0} to {1} by {2}.", "How long does it take from {0} to {1} by {2}?"), ("从 {0} 到 {1} 用 {2} 方式怎么走？", "请规划从 {0} 到 {1} 的路线，方式为 {2}。", "从 {0} 到 {1}，方式 {2}，要多久？")),
          ((("Mill Street 4", "the harbour", "bike"), ("the museum", "Oak Square", "car")), (("人民路 8 号", "图书馆", "bike"), ("南门", "火车站", "car"))), "{3} minutes"),
    _kind("recipe_finder", "Recipes|菜谱", "Finds recipes with an ingredient that take at most some minutes.|按食材和用时查找菜谱。",
          [("ingredient", _TEXT), ("minutes", _INT)],
          (("What can I cook with {0} in {1} minutes?", "A recipe with {0}, at most {1} minutes, please.", "Find a dish with {0} that is ready in {1} minutes."), ("用 {0} 在 {1} 分钟内能做什么菜？", "找一个用 {0}、不超过 {1} 分钟的菜谱。", "{1} 分钟内用 {0} 能做好哪道菜？")),
          ((("leeks", 25), ("red lentils", 40)), (("豆腐", 20), ("土豆", 35))), "recipe {3}"),
    _kind("parcel_tracker", "Parcels|快递查询", "Tells where a parcel is.|查询包裹的位置。",
          [("number", _TEXT)],
          (("Where is my parcel {0}?", "Track the parcel with the number {0}.", "Has the parcel {0} arrived yet?"), ("我的包裹 {0} 到哪了？", "查询单号 {0} 的快递。", "快递 {0} 到了吗？")),
          ((("PX83311",), ("LM20977",)), (("SF77120",), ("YT45098",))), "at depot {3}"),
    _kind("library_catalogue", "Library|图书馆目录", "Looks up whether the library has a book.|查询图书馆是否有某本书。",
          [("title", _TEXT), ("author", _TEXT)],
          (("Does the library have '{0}' by {1}?", "Is the book '{0}' by {1} on the shelf of the library?", "Look up '{0}' by {1} in the library."), ("图书馆有 {1} 的《{0}》吗？", "请在图书馆目录中查 {1} 写的《{0}》。", "{1} 的《{0}》图书馆里在架吗？")),
          ((("The Salt Road", "M. Verhoef"), ("Night Ferry", "A. Oduya")), (("山城旧事", "林远"), ("海上来信", "周宁"))), "shelf {3}"),
    _kind("air_quality", "Air|空气质量", "Tells the air quality index of a district now.|查询某区域当前的空气质量指数。",
          [("district", _TEXT)],
          (("How clean is the air in {0} now?", "Air quality index of {0}, please.", "Can I go running in {0}, or is the air bad?"), ("{0} 现在空气怎么样？", "请查 {0} 的空气质量指数。", "{0} 今天空气适合跑步吗？")),
          ((("Harbourside",), ("Northfield",)), (("河西区",), ("开发区",))), "index {3}"),
    _kind("light_switch", "Lights|灯光控制", "Turns the lights of a room on or off.|打开或关闭房间的灯。",
          [("room", _TEXT), ("state", {"enum": ["on", "off"]})],
          (("Turn the lights in the {0} {1}.", "Please switch the {0} lights {1}.", "Lights {1} in the {0}."), ("把{0}的灯调到 {1}。", "请将{0}灯光设为 {1}。", "{0}的灯：{1}。")),
          ((("hallway", "off"), ("garage", "on")), (("走廊", "off"), ("客厅", "on"))), "done, {3} watts"),
    _kind("table_booking", "Tables|餐厅订位", "Books a table in a restaurant for a number of people.|在餐厅预订座位。",
          [("restaurant", _TEXT), ("people", _INT), ("time", _TEXT)],
          (("Book a table for {1} at {0} at {2}.", "We are {1} and want to eat at {0} at {2}. Reserve, please.", "Reserve {1} seats at {0} for {2}."), ("在{0}订一张 {1} 人的桌子，{2}。", "我们 {1} 个人 {2} 想去{0}吃饭，请订位。", "请预订{0} {2} 的座位，{1} 位。")),
          ((("Green Anchor", 4, "19:30"), ("Casa Lumi", 2, "12:15")), (("四季小馆", 6, "18:30"), ("老街面馆", 3, "11:45"))), "booking {3}"),
    _kind("tide_table", "Tides|潮汐表", "Tells the times of high water in a port on a day.|查询港口某天的高潮时间。",
          [("port", _TEXT), ("date", _TEXT)],
          (("When is high water in {0} on {1}?", "At what time is the tide highest in {0} on {1}?", "High tide in {0} on {1}, please."), ("{0} {1} 几点涨潮？", "请查 {0} 在 {1} 的高潮时间。", "{1} {0} 的高潮是什么时候？")),
          ((("Brightsea", "2030-08-14"), ("Port Alder", "2031-01-09")), (("青岛港", "2030-07-21"), ("厦门港", "2031-03-15"))), "high water at {3} past six"),
    _kind("phone_book", "Contacts|通讯录", "Looks up somebody's telephone number.|查询某人的电话号码。",
          [("person", _TEXT)],
          (("What is the telephone number of {0}?", "Give me the number of {0} from my contacts.", "How can I reach {0} by telephone?"), ("{0} 的电话是多少？", "从通讯录里找 {0} 的号码。", "怎么打电话联系 {0}？")),
          ((("Greta Holm",), ("Dr. Osei",)), (("陈工",), ("王老师",))), "555-01{3}"),
)  # fmt: skip
_PLAIN: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = (
    (("Who are you?", "I am an assistant."), ("Thank you, that was helpful.", "You are welcome."), ("What is the opposite of 'early'?", "Late."), ("How many legs does a spider have?", "Eight."), ("Name three colours.", "Red, blue, green."), ("What do bees make?", "Honey."), ("Is ice warmer than steam?", "No."), ("Which is larger, the sun or the moon?", "The sun."), ("Write the plural of 'child'.", "Children."), ("How many days does a week have?", "Seven."), ("What is frozen water called?", "Ice."), ("Finish the row: 2, 4, 6, ...", "8."), ("Which season follows spring?", "Summer."), ("What do you call a baby cat?", "A kitten."), ("Spell 'music' backwards.", "cisum"), ("Why do people sleep?", "To rest body and mind."), ("Is a whale a fish?", "No, it is a mammal."), ("What is the first letter of the alphabet?", "A."), ("Say hello in French.", "Bonjour."), ("Which planet do we live on?", "Earth."), ("What colour do blue and yellow give?", "Green."), ("How many sides has a triangle?", "Three."), ("Give me a word that rhymes with 'cat'.", "Hat."), ("What is the past tense of 'go'?", "Went."), ("Which animal barks?", "A dog."), ("Good night!", "Good night."), ("Is 'quickly' a noun?", "No, an adverb."), ("How many months have 31 days?", "Seven."), ("What is snow made of?", "Ice crystals."), ("Tell me one use of paper.", "Writing.")),
    (("你是谁？", "我是一个助手。"), ("谢谢你的帮助。", "不客气。"), ("“早”的反义词是什么？", "晚。"), ("蜘蛛有几条腿？", "八条。"), ("说出三种颜色。", "红、蓝、绿。"), ("蜜蜂酿什么？", "蜂蜜。"), ("冰比蒸汽热吗？", "不。"), ("太阳和月亮哪个大？", "太阳。"), ("“大”字有几画？", "三画。"), ("一周有几天？", "七天。"), ("水结冰以后叫什么？", "冰。"), ("接着数：二、四、六、……", "八。"), ("春天之后是哪个季节？", "夏天。"), ("小猫的妈妈是什么动物？", "猫。"), ("把“上海”倒过来读。", "海上"), ("人为什么要睡觉？", "为了休息。"), ("鲸是鱼吗？", "不是，是哺乳动物。"), ("一年的第一个月是几月？", "一月。"), ("用英语说“你好”。", "Hello."), ("我们住在哪颗行星上？", "地球。"), ("蓝色加黄色是什么颜色？", "绿色。"), ("三角形有几条边？", "三条。"), ("“日”加“月”是什么字？", "明。"), ("“高兴”的近义词是什么？", "快乐。"), ("哪种动物会汪汪叫？", "狗。"), ("晚安！", "晚安。"), ("“跑”是名词吗？", "不是，是动词。"), ("有几个月是 31 天？", "七个。"), ("雪是什么做的？", "冰晶。"), ("说一个纸的用途。", "写字。")),
)  # fmt: skip


def items(seed: int = 1) -> list[dict[str, Any]]:
    """All questions in the form of the primer's tool records: 168 that need a tool and 60 that need none."""
    rng = random.Random(seed)
    found = [_positive(kind, lang, number, rng) for kind in KINDS for lang in LANGS for number in range(EACH)]
    for lang, plain in zip(LANGS, _PLAIN):
        for number, (query, final) in enumerate(plain):
            offered = rng.sample(KINDS, 3)
            found.append(_item(f"plain-{lang}-{number}", lang, query, offered, None, [], final))
    rng.shuffle(found)
    return found


def _positive(kind: Kind, lang: str, number: int, rng: random.Random) -> dict[str, Any]:
    which = LANGS.index(lang)
    wordings, values = kind.asked[which], kind.values[which]
    drawn = values[number // len(wordings)]
    # a fourth slot for results: a number that only the tool knows
    query = wordings[number % len(wordings)].format(*drawn)
    slots = (*drawn, "", "", "")[:3]
    result = kind.result.format(*slots, rng.randint(101, 989))
    arguments = dict(zip((name for name, _ in kind.parameters), drawn))
    offered = [kind, *rng.sample([other for other in KINDS if other is not kind], 2)]
    rng.shuffle(offered)
    step = {
        "thought": f"I should use {kind.name}." if lang == "en" else f"我应该使用 {kind.name}。",
        "action": kind.name,
        "action_input": json.dumps(arguments, ensure_ascii=False),
        "observation": result,
    }
    gold = {"name": kind.name, "arguments": arguments}
    return _item(f"{kind.name}-{lang}-{number}", lang, query, offered, gold, [step], result)


def _item(
    name: str, lang: str, query: str, offered: Sequence[Kind], gold: Any, steps: list[Any], final: str
) -> dict[str, Any]:
    return {
        "id": name,
        "lang": lang,
        "query": query,
        "tools": [kind.declaration(lang) for kind in offered],
        "gold": gold,
        "steps": steps,
        "final": final,
    }
