"""Families of problems: what is drawn, what is asked in each language, the working, and a program for the answer.

Ours. The working is written from the same numbers by other means than the program, and check.py recomputes each of its
equations, so a slip in either shows. Slots of the texts are in {braces}; an equation in a working is computed when the
problem is made: [a + b] becomes "3 + 4 = 7".
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb, gcd, lcm

Numbers = dict[str, int]
Value = int | Fraction


@dataclass(frozen=True)
class Family:
    """draw: numbers of a new problem. program: its answer. texts: language -> (question, working)."""

    name: str
    draw: Callable[[random.Random], Numbers]
    program: Callable[[Mapping[str, int]], Value]
    texts: Mapping[str, tuple[str, str]]


def _draw(**ranges: tuple[int, int]) -> Callable[[random.Random], Numbers]:
    return lambda rng: {name: rng.randint(low, high) for name, (low, high) in ranges.items()}


def _shared(rng: random.Random) -> Numbers:
    people, each = rng.randint(2, 9), rng.randint(3, 20)
    left = rng.randint(0, people - 1)
    return {"people": people, "all": people * each + left, "left": left}


def _discount(rng: random.Random) -> Numbers:
    return {
        "price": rng.randint(2, 60) * 20,
        "off": rng.choice((5, 10, 15, 20, 25, 30, 40, 50)),
        "n": rng.randint(1, 6),
    }


def _journey(rng: random.Random) -> Numbers:
    speed, hours = rng.randint(20, 120), rng.randint(2, 9)
    return {"speed": speed, "hours": hours, "more": rng.randint(1, 4), "faster": rng.randint(5, 30)}


def _work(rng: random.Random) -> Numbers:
    a = rng.choice((3, 4, 6, 10, 12, 15, 20, 24, 30))
    return {"a": a, "b": rng.choice([b for b in (4, 6, 12, 15, 20, 24, 30, 36, 60) if b != a])}


def _ages(rng: random.Random) -> Numbers:
    child, times = rng.randint(4, 15), rng.randint(2, 5)
    return {"child": child, "times": times, "years": rng.randint(2, 20)}


def _equation(rng: random.Random) -> Numbers:
    a, x, b = rng.randint(2, 12), rng.randint(2, 30), rng.randint(1, 50)
    return {"a": a, "b": b, "c": a * x + b}


def _legs(rng: random.Random) -> Numbers:
    hens, rabbits = rng.randint(2, 30), rng.randint(2, 30)
    return {"heads": hens + rabbits, "legs": 2 * hens + 4 * rabbits}


def _ratio(rng: random.Random) -> Numbers:
    a, b = rng.randint(1, 8), rng.randint(2, 9)
    return {"a": a, "b": b, "all": (a + b) * rng.randint(3, 20)}


def _average(rng: random.Random) -> Numbers:
    a, b, c = (rng.randint(40, 100) for _ in range(3))
    fourth = rng.choice([d for d in range(40, 101) if (a + b + c + d) % 4 == 0])
    return {"a": a, "b": b, "c": c, "wanted": (a + b + c + fourth) // 4}


def _fence(rng: random.Random) -> Numbers:
    return {"wide": rng.randint(3, 40), "long": rng.randint(5, 60), "cost": rng.randint(2, 25)}


def _tank(rng: random.Random) -> Numbers:
    inflow, out = rng.randint(8, 30), rng.randint(1, 7)
    return {"in": inflow, "out": out, "litres": (inflow - out) * rng.randint(4, 30)}


FAMILIES = (
    Family(
        "shopping",
        _draw(n=(2, 9), price=(3, 40), m=(2, 9), other=(3, 40), paid=(700, 900)),
        lambda v: v["paid"] - v["n"] * v["price"] - v["m"] * v["other"],
        {
            "en": (
                "A shopkeeper sells {n} lamps at ${price} each and {m} chairs at ${other} each to one customer, who pays with ${paid}. How much change does the customer get?",
                "The lamps cost [n * price] dollars. The chairs cost [m * other] dollars. Together that is [(n * price) + (m * other)] dollars. The change is [paid - (n * price + m * other)] dollars.",
            ),
            "zh": (
                "一位顾客买了{n}盏台灯，每盏{price}元，又买了{m}把椅子，每把{other}元，付了{paid}元。应找回多少元？",
                "台灯共[n * price]元，椅子共[m * other]元，合计[(n * price) + (m * other)]元，应找回[paid - (n * price + m * other)]元。",
            ),
        },
    ),
    Family(
        "sharing",
        _shared,
        lambda v: v["all"] // v["people"],
        {
            "en": (
                "{all} stickers are shared equally among {people} children, and {left} stickers are left over. How many does each child get?",
                "Without those left over there are [all - left] stickers. Each child gets [(all - left) / people] stickers.",
            ),
            "zh": (
                "把{all}张贴纸平均分给{people}个孩子，还剩{left}张。每个孩子分到多少张？",
                "去掉剩下的，还有[all - left]张。每个孩子分到[(all - left) / people]张。",
            ),
        },
    ),
    Family(
        "discount",
        _discount,
        lambda v: Fraction(v["n"] * v["price"] * (100 - v["off"]), 100),
        {
            "en": (
                "A coat costs ${price}. In a sale it is {off}% cheaper. What do {n} of them cost in the sale, in dollars?",
                "The reduction is [price * off / 100] dollars for each. One coat then costs [price - (price * off / 100)] dollars. In all that is [n * (price - price * off / 100)] dollars.",
            ),
            "zh": (
                "一件大衣原价{price}元，打折后便宜了{off}%。打折时买{n}件要多少元？",
                "每件便宜[price * off / 100]元，现价是[price - (price * off / 100)]元，一共[n * (price - price * off / 100)]元。",
            ),
        },
    ),
    Family(
        "journey",
        _journey,
        lambda v: v["speed"] * v["hours"] + (v["speed"] + v["faster"]) * v["more"],
        {
            "en": (
                "A train runs for {hours} hours at {speed} km/h and then for {more} more hours, {faster} km/h faster. How many kilometres does it cover?",
                "In the first part it covers [speed * hours] km. Then its speed is [speed + faster] km/h, which gives [(speed + faster) * more] km. In all it covers [(speed * hours) + (speed + faster) * more] km.",
            ),
            "zh": (
                "一列火车先以每小时{speed}千米的速度行驶{hours}小时，然后每小时加快{faster}千米，再行驶{more}小时。一共行驶了多少千米？",
                "前一段行驶[speed * hours]千米。之后的速度是每小时[speed + faster]千米，行驶[(speed + faster) * more]千米。一共[(speed * hours) + (speed + faster) * more]千米。",
            ),
        },
    ),
    Family(
        "work",
        _work,
        lambda v: Fraction(v["a"] * v["b"], v["a"] + v["b"]),
        {
            "en": (
                "One machine finishes a job in {a} hours, another in {b} hours. How many hours do both need together? Give a fraction if it is not whole.",
                "Together they do 1/{a} + 1/{b} of the job in an hour. The time is the product over the sum: [a * b] over [a + b], so the answer is [(a * b) / (a + b)] hours.",
            ),
            "zh": (
                "甲机器单独完成一项工作要{a}小时，乙机器要{b}小时。两台机器一起做要多少小时？若不是整数，用分数表示。",
                "两台机器每小时完成1/{a} + 1/{b}。所需时间是积除以和：积为[a * b]，和为[a + b]，所以是[(a * b) / (a + b)]小时。",
            ),
        },
    ),
    Family(
        "ages",
        _ages,
        lambda v: v["child"] * v["times"] + v["years"],
        {
            "en": (
                "Mei is {child} years old. Her father is {times} times as old as she is. How old will he be in {years} years?",
                "Her father is [child * times] years old now. In {years} years he will be [(child * times) + years].",
            ),
            "zh": (
                "小梅今年{child}岁，爸爸的年龄是她的{times}倍。{years}年后爸爸多少岁？",
                "爸爸今年[child * times]岁，{years}年后是[(child * times) + years]岁。",
            ),
        },
    ),
    Family(
        "equation",
        _equation,
        lambda v: Fraction(v["c"] - v["b"], v["a"]),
        {
            "en": (
                "Solve for x: {a}x + {b} = {c}",
                "Taking {b} from both sides leaves [c - b] for {a} times x. Dividing by {a} gives [(c - b) / a].",
            ),
            "zh": (
                "解方程：{a}x + {b} = {c}",
                "两边同时减去{b}，右边是[c - b]。再除以{a}，得[(c - b) / a]。",
            ),
        },
    ),
    Family(
        "hens and rabbits",
        _legs,
        lambda v: (v["legs"] - 2 * v["heads"]) // 2,
        {
            "en": (
                "Hens and rabbits in a yard have {heads} heads and {legs} legs together. How many rabbits are there?",
                "If all were hens, there would be [2 * heads] legs. That is [legs - (2 * heads)] too few. Each rabbit has 2 legs more, so there are [(legs - 2 * heads) / 2] rabbits.",
            ),
            "zh": (
                "鸡兔同笼，共有{heads}个头，{legs}条腿。兔子有多少只？",
                "假设全是鸡，应有[2 * heads]条腿，少了[legs - (2 * heads)]条。每只兔子多2条腿，所以兔子有[(legs - 2 * heads) / 2]只。",
            ),
        },
    ),
    Family(
        "ratio",
        _ratio,
        lambda v: v["all"] * v["a"] // (v["a"] + v["b"]),
        {
            "en": (
                "Paint is mixed from blue and white in the ratio {a}:{b}. How many litres of blue are in {all} litres of the mixture?",
                "There are [a + b] parts. One part is [all / (a + b)] litres. Blue takes [a * (all / (a + b))] litres.",
            ),
            "zh": (
                "蓝漆和白漆按{a}:{b}的比例混合。{all}升混合漆里有多少升蓝漆？",
                "一共[a + b]份，每份[all / (a + b)]升，蓝漆有[a * (all / (a + b))]升。",
            ),
        },
    ),
    Family(
        "average",
        _average,
        lambda v: 4 * v["wanted"] - v["a"] - v["b"] - v["c"],
        {
            "en": (
                "Three tests gave {a}, {b} and {c} points. How many points must the fourth test give for an average of {wanted}?",
                "Four tests of that average are [4 * wanted] points. Three of them gave [a + b + c] points. The fourth must give [(4 * wanted) - (a + b + c)].",
            ),
            "zh": (
                "前三次测验的成绩是{a}分、{b}分和{c}分。第四次要得多少分，平均分才是{wanted}分？",
                "四次的总分是[4 * wanted]分，前三次共[a + b + c]分，第四次要得[(4 * wanted) - (a + b + c)]分。",
            ),
        },
    ),
    Family(
        "fence",
        _fence,
        lambda v: 2 * (v["wide"] + v["long"]) * v["cost"],
        {
            "en": (
                "A field is {wide} m wide and {long} m long. A fence around it costs ${cost} a metre. What does the fence cost in dollars?",
                "Half the way round is [wide + long] m, the whole way [2 * (wide + long)] m. The fence costs [2 * (wide + long) * cost] dollars.",
            ),
            "zh": (
                "一块长方形的地宽{wide}米，长{long}米。围栏每米{cost}元，围一圈要多少元？",
                "宽与长的和是[wide + long]米，周长是[2 * (wide + long)]米，围栏要[2 * (wide + long) * cost]元。",
            ),
        },
    ),
    Family(
        "tank",
        _tank,
        lambda v: Fraction(v["litres"], v["in"] - v["out"]),
        {
            "en": (
                "{in} litres a minute flow into a tank and {out} litres a minute flow out. After how many minutes are there {litres} litres in the empty tank?",
                "Each minute there are [in - out] litres more. That takes [litres / (in - out)] minutes.",
            ),
            "zh": (
                "一个空水箱每分钟流入{in}升水，流出{out}升水。多少分钟后水箱里有{litres}升水？",
                "每分钟增加[in - out]升，需要[litres / (in - out)]分钟。",
            ),
        },
    ),
    Family(
        "seats",
        _draw(first=(8, 30), step=(1, 4), rows=(5, 20)),
        lambda v: sum(v["first"] + v["step"] * row for row in range(v["rows"])),
        {
            "en": (
                "The first row of a hall has {first} seats, and each further row has {step} more than the one before. How many seats do {rows} rows have?",
                "The last row has [first + step * (rows - 1)] seats. First and last have [first + (first + step * (rows - 1))] together. All rows have [rows * (first + first + step * (rows - 1)) / 2] seats.",
            ),
            "zh": (
                "礼堂第一排有{first}个座位，以后每排比前一排多{step}个。{rows}排一共有多少个座位？",
                "最后一排有[first + step * (rows - 1)]个座位，首尾两排共[first + (first + step * (rows - 1))]个，一共[rows * (first + first + step * (rows - 1)) / 2]个。",
            ),
        },
    ),
    Family(
        "handshakes",
        _draw(n=(4, 60)),
        lambda v: comb(v["n"], 2),
        {
            "en": (
                "{n} people shake hands, each with each once. How many handshakes are there?",
                "Each of them gives [n - 1] hands. That counts every handshake twice, so there are [n * (n - 1) / 2].",
            ),
            "zh": (
                "{n}个人两两握手一次，一共握手多少次？",
                "每人握[n - 1]次手，每次都数了两遍，所以一共[n * (n - 1) / 2]次。",
            ),
        },
    ),
    Family(
        "buses",
        _draw(a=(4, 30), b=(4, 30)),
        lambda v: lcm(v["a"], v["b"]),
        {
            "en": (
                "Two buses leave together. One leaves every {a} minutes, the other every {b} minutes. After how many minutes do they leave together again?",
                "The greatest common divisor of {a} and {b} is {gcd}. The least common multiple is their product over it: [a * b / gcd] minutes.",
            ),
            "zh": (
                "两路公交车同时发车，一路每{a}分钟一班，另一路每{b}分钟一班。多少分钟后再次同时发车？",
                "{a}和{b}的最大公约数是{gcd}，最小公倍数是积除以它：[a * b / gcd]分钟。",
            ),
        },
    ),
    Family(
        "remainder",
        _draw(n=(100, 999), d=(3, 19)),
        lambda v: v["n"] % v["d"],
        {
            "en": (
                "What is the remainder when {n} is divided by {d}?",
                "{d} goes into {n} {quotient} times, which makes [d * quotient]. What is left is [n - d * quotient].",
            ),
            "zh": (
                "{n}除以{d}，余数是多少？",
                "商是{quotient}，[d * quotient]，余数是[n - d * quotient]。",
            ),
        },
    ),
)


def more(family: str, numbers: Numbers) -> Numbers:
    """Numbers that a working names besides those drawn."""
    if family == "buses":
        return {**numbers, "gcd": gcd(numbers["a"], numbers["b"])}
    if family == "remainder":
        return {**numbers, "quotient": numbers["n"] // numbers["d"]}
    return numbers
