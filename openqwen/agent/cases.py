"""Questions for the code interpreter with known answers: sums, simple and planned charts, work with files.

Report §3.4, Tables 7 and 8 (the four kinds; its own questions are in-house). The questions, in English and Chinese, are
ours; each holds the code of a perfect agent, and its answer is computed here, not by that code.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import csv
import io
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

KINDS = ("math", "visual-easy", "visual-hard", "general")
EACH = 26  # questions of a kind
REGIONS = ("North", "South", "East", "West")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug")
_WORDS = ("river", "stone", "bread", "lamp", "garden", "letter", "winter", "music", "bridge", "paper")


@dataclass(frozen=True)
class Case:
    """A question and how its answer is known: a number or text that it ends with, a file, or what is drawn.

    figure: one entry for each pair of axes of one picture: {"title", "bars", "lines", "points", "slices", ...}.
    """

    id: str
    kind: str
    lang: str
    query: str
    code: str
    files: Mapping[str, str] = field(default_factory=dict)
    number: float | None = None
    text: str | None = None
    made: Mapping[str, str] = field(default_factory=dict)
    figure: Sequence[Mapping[str, Any]] = ()

    @property
    def final(self) -> str:
        """The answer of a perfect agent."""
        return f"{self.number:.10g}" if self.number is not None else (self.text or "Done.")


def all_cases(seed: int = 1) -> list[Case]:
    """All questions, `EACH` of each kind, half of them Chinese."""
    makers = {"math": _math, "visual-easy": _easy, "visual-hard": _hard, "general": _general}
    found = []
    for kind in KINDS:
        for i in range(EACH):
            rng = random.Random(f"{seed} {kind} {i}")
            lang = "zh" if i % 2 else "en"
            parts = makers[kind](rng, lang, i // 2)
            found.append(Case(f"{kind}-{i}", kind, lang, **parts))
    return found


# ---- sums --------------------------------------------------------------------------------------------------------
def _primes(n: int) -> list[int]:
    return [k for k in range(2, n) if all(k % d for d in range(2, math.isqrt(k) + 1))]


def _fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


# English, Chinese, code of the value, the value; a < b
_SUMS: tuple[tuple[str, str, str, Callable[[int, int], float]], ...] = (
    ("What is the sum of all primes below {b}?", "{b} 以内所有质数之和是多少？", "sum(k for k in range(2, {b}) if all(k % d for d in range(2, k)))", lambda a, b: sum(_primes(b))),
    ("How many divisors does {b} have?", "{b} 有多少个约数？", "sum({b} % d == 0 for d in range(1, {b} + 1))", lambda a, b: sum(b % d == 0 for d in range(1, b + 1))),
    ("What is the remainder of {a} to the power of {b} divided by 1009?", "{a} 的 {b} 次方除以 1009 的余数是多少？", "pow({a}, {b}, 1009)", lambda a, b: a**b % 1009),
    ("What is the greatest common divisor of {a}! and {b} times 840?", "{a}! 与 {b} 乘以 840 的最大公约数是多少？", "__import__('math').gcd(__import__('math').factorial({a}), {b} * 840)", lambda a, b: math.gcd(math.factorial(a), b * 840)),
    ("What is the digit sum of 2 to the power of {b}?", "2 的 {b} 次方的各位数字之和是多少？", "sum(map(int, str(2 ** {b})))", lambda a, b: sum(map(int, str(2**b)))),
    ("How many numbers from 1 to {b} are divisible by 3 or by 7?", "从 1 到 {b} 有多少个数能被 3 或 7 整除？", "len([k for k in range(1, {b} + 1) if k % 3 == 0 or k % 7 == 0])", lambda a, b: b // 3 + b // 7 - b // 21),
    ("In how many ways can {a} of 30 people be chosen?", "从 30 人中选 {a} 人有多少种选法？", "__import__('math').comb(30, {a})", lambda a, b: math.comb(30, a)),
    ("What is Fibonacci number {a}, if numbers 1 and 2 are 1?", "斐波那契数列第 {a} 项是多少（第 1、2 项为 1）？", "(f := [0, 1]) and [f.append(f[-1] + f[-2]) for _ in range({a})] and f[{a}]", lambda a, b: _fibonacci(a)),
    ("What is the sum of the squares from 1 to {b}?", "从 1 到 {b} 的平方和是多少？", "sum(k * k for k in range({b} + 1))", lambda a, b: b * (b + 1) * (2 * b + 1) // 6),
    ("1000 is saved at {a} percent a year with compound interest. How much is it after 10 years, rounded to cents?", "1000 元按年利率 {a}% 复利存 10 年，本息是多少元（保留两位小数）？", "round(1000 * (1 + {a} / 100) ** 10, 2)", lambda a, b: round(1000 * (1 + a / 100) ** 10, 2)),
    ("How many days lie between 2024-01-{a} and 2031-05-17?", "2024-01-{a} 到 2031-05-17 相隔多少天？", "(__import__('datetime').date(2031, 5, 17) - __import__('datetime').date(2024, 1, {a})).days", lambda a, b: (date(2031, 5, 17) - date(2024, 1, a)).days),
    ("What is the larger root of x*x - {b}x + {a} = 0, rounded to 4 places?", "方程 x*x - {b}x + {a} = 0 的较大根是多少（保留四位小数）？", "round(({b} + ({b} ** 2 - 4 * {a}) ** 0.5) / 2, 4)", lambda a, b: round((b + math.sqrt(b * b - 4 * a)) / 2, 4)),
    ("What is the determinant of the matrix [[{a}, 2, 3], [4, {b}, 6], [7, 8, 9]]?", "矩阵 [[{a}, 2, 3], [4, {b}, 6], [7, 8, 9]] 的行列式是多少？", "{a} * ({b} * 9 - 48) - 2 * (36 - 42) + 3 * (32 - 7 * {b})", lambda a, b: 9 * a * b - 48 * a + 12 + 96 - 21 * b),
)  # fmt: skip


def _math(rng: random.Random, lang: str, i: int) -> dict[str, Any]:
    en, zh, code, value = _SUMS[i % len(_SUMS)]
    a, b = rng.randint(10, 25), rng.randint(60, 240)
    said = (zh if lang == "zh" else en).format(a=a, b=b)
    return {"query": said, "code": f"print({code.format(a=a, b=b)})", "number": float(value(a, b))}


# ---- charts ------------------------------------------------------------------------------------------------------
_CHARTS: dict[str, tuple[str, str]] = {
    "bar": ("Draw a bar chart of {data}.", "画出 {data} 的柱状图。"),
    "line": ("Draw a line through the values {data}.", "用折线画出 {data} 这些数值。"),
    "scatter": ("Draw the points {data} as a scatter plot.", "把 {data} 这些点画成散点图。"),
    "pie": ("Draw a pie chart of {data}.", "画出 {data} 的饼图。"),
    "hist": ("Draw a histogram with 4 bins of {data}.", "画出 {data} 的直方图，分 4 组。"),
}
_TITLED: dict[str, str] = {"en": " The title is '{t}'.", "zh": "标题是 '{t}'。"}
_LABELLED: dict[str, str] = {"en": " The y axis is called '{y}'.", "zh": "纵轴名称是 '{y}'。"}


def _titled(said: str, lang: str, title: str, ylabel: str | None = None) -> str:
    said += _TITLED[lang].format(t=title)
    return said + _LABELLED[lang].format(y=ylabel) if ylabel else said


def _easy(rng: random.Random, lang: str, i: int) -> dict[str, Any]:
    chart = tuple(_CHARTS)[i % len(_CHARTS)]
    title = rng.choice(("Stock", "Visits", "Harvest")) + f" {rng.randint(2001, 2024)}"
    labels, values = rng.sample(_WORDS, 4), [rng.randint(2, 60) for _ in range(4)]
    numbers = [rng.randint(1, 40) for _ in range(8)]
    points = [[rng.randint(0, 30), rng.randint(0, 30)] for _ in range(6)]
    named = ", ".join(f"{label} {value}" for label, value in zip(labels, values))
    plans: dict[str, tuple[str, str, dict[str, Any]]] = {
        "bar": (named, f"plt.bar({labels!r}, {values!r})", {"bars": [values], "xticks": labels}),
        "line": (str(numbers), f"plt.plot({numbers!r})", {"lines": [numbers]}),
        "scatter": (str(points), f"plt.scatter(*zip(*{points!r}))", {"points": [points]}),
        "pie": (
            named,
            f"plt.pie({values!r}, labels={labels!r})",
            {"slices": [v / sum(values) for v in values], "texts": labels},
        ),
        "hist": (str(numbers), f"plt.hist({numbers!r}, bins=4)", {"bars": [_bins(numbers, 4)]}),
    }
    data, code, expected = plans[chart]
    ylabel = None if chart == "pie" else rng.choice(("count", "amount", "weight"))
    said = _titled(_CHARTS[chart][lang == "zh"].format(data=data), lang, title, ylabel)
    code = f"import matplotlib.pyplot as plt\n{code}\nplt.title({title!r})"
    return {
        "query": said,
        "code": f"{code}\nplt.ylabel({ylabel!r})" if ylabel else code,
        "figure": [{"title": title, **expected, **({"ylabel": ylabel} if ylabel else {})}],
    }


def _bins(values: Sequence[float], count: int) -> list[int]:
    """How many values fall into each of `count` equal parts of their range; the last part holds its upper end."""
    low, high = min(values), max(values)
    places = [min(count - 1, int((v - low) * count / (high - low))) for v in values]
    return [places.count(k) for k in range(count)]


_HARD: tuple[tuple[str, str], ...] = (
    ("Read sales.csv (month, region, amount). Draw the total amount of each region as bars, the highest first.", "读取 sales.csv（列为 month、region、amount），用柱状图画出各 region 的 amount 总和，从高到低排列。"),
    ("Read sales.csv (month, region, amount). Draw one line for each region over the months, with a legend of the regions.", "读取 sales.csv（列为 month、region、amount），为每个 region 画一条随 month 变化的折线，并用图例标明 region。"),
    ("Read sales.csv (month, region, amount). Draw each region's share of the total amount as a pie with the regions' names.", "读取 sales.csv（列为 month、region、amount），用饼图画出各 region 占 amount 总和的份额，并标出 region 名称。"),
    ("Read sales.csv (month, region, amount). Draw the running total of all amounts, month after month, as a line.", "读取 sales.csv（列为 month、region、amount），按 month 顺序用折线画出所有 amount 的累计总和。"),
    ("Read sales.csv (month, region, amount). Draw the three months with the highest total amounts as bars, the highest first.", "读取 sales.csv（列为 month、region、amount），用柱状图画出 amount 总和最高的三个 month，从高到低排列。"),
    ("Read sales.csv (month, region, amount). In one picture draw two charts side by side: bars of the regions' totals in the order of the file, and a line of the months' totals. Both have the same title.", "读取 sales.csv（列为 month、region、amount），在一张图里并排画两个子图：按文件顺序画各 region 总和的柱状图，以及各 month 总和的折线图，两个子图标题相同。"),
)  # fmt: skip
_READ = """import csv
import matplotlib.pyplot as plt
rows = list(csv.DictReader(open('sales.csv')))
regions = list(dict.fromkeys(r['region'] for r in rows))
months = list(dict.fromkeys(r['month'] for r in rows))
def total(**want):
    return sum(int(r['amount']) for r in rows if all(r[k] == v for k, v in want.items()))
"""
_DRAW = (
    "order = sorted(regions, key=lambda r: -total(region=r))\nplt.bar(order, [total(region=r) for r in order])",
    "for r in regions:\n    plt.plot([total(region=r, month=m) for m in months], label=r)\nplt.legend()",
    "plt.pie([total(region=r) for r in regions], labels=regions)",
    "import itertools\nplt.plot(list(itertools.accumulate(total(month=m) for m in months)))",
    "best = sorted(months, key=lambda m: -total(month=m))[:3]\nplt.bar(best, [total(month=m) for m in best])",
    "plt.subplot(1, 2, 1)\nplt.bar(regions, [total(region=r) for r in regions])\nplt.title({t!r})\n"
    "plt.subplot(1, 2, 2)\nplt.plot([total(month=m) for m in months])",
)


def _hard(rng: random.Random, lang: str, i: int) -> dict[str, Any]:
    regions, months = REGIONS[: rng.randint(3, 4)], MONTHS[: rng.randint(5, 8)]
    amounts = {(m, r): 10 * k + rng.randint(0, 9) for k, (m, r) in enumerate(_shuffled(rng, months, regions))}
    by_region = {r: sum(amounts[m, r] for m in months) for r in regions}
    by_month = {m: sum(amounts[m, r] for r in regions) for m in months}
    running = [sum(list(by_month.values())[: k + 1]) for k in range(len(months))]
    top = sorted(months, key=lambda m: -by_month[m])[:3]
    order = sorted(regions, key=lambda r: -by_region[r])
    title = f"Sales {rng.randint(2001, 2024)}"
    all_amounts = sum(by_region.values())
    plans: tuple[list[dict[str, Any]], ...] = (
        [{"bars": [[by_region[r] for r in order]], "xticks": list(order)}],
        [{"lines": [[amounts[m, r] for m in months] for r in regions], "legend": list(regions)}],
        [{"slices": [by_region[r] / all_amounts for r in regions], "texts": list(regions)}],
        [{"lines": [running]}],
        [{"bars": [[by_month[m] for m in top]], "xticks": top}],
        [
            {"bars": [[by_region[r] for r in regions]], "xticks": list(regions)},
            {"lines": [list(by_month.values())]},
        ],
    )
    number = i % len(plans)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(
        [("month", "region", "amount"), *((m, r, amounts[m, r]) for m in months for r in regions)]
    )
    draw = _DRAW[number].replace("{t!r}", repr(title))
    return {
        "query": _titled(_HARD[number][lang == "zh"], lang, title),
        "code": f"{_READ}{draw}\nplt.title({title!r})",
        "files": {"sales.csv": text.getvalue()},
        "figure": [{"title": title, **axes} for axes in plans[number]],
    }


def _shuffled(rng: random.Random, months: Sequence[str], regions: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [(m, r) for m in months for r in regions]
    rng.shuffle(pairs)
    return pairs


# ---- files -------------------------------------------------------------------------------------------------------
def _general(rng: random.Random, lang: str, i: int) -> dict[str, Any]:
    names = rng.sample(_WORDS, 6)
    rows = [(name, price) for name, price in zip(names, rng.sample(range(3, 90), 6))]
    table = "name,price\n" + "".join(f"{name},{price}\n" for name, price in rows)
    words = [rng.choice(names[:3]) for _ in range(20)] + [names[0]] * 20 + [names[3]]
    rng.shuffle(words)
    text, limit = " ".join(words), rng.randint(20, 60)
    prices = [price for _, price in rows]
    dearest = max(rows, key=lambda row: row[1])[0]
    ordered = "\n".join(sorted(names)) + "\n"
    read = "import csv\nrows = list(csv.DictReader(open('list.csv')))\n"
    plans: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("How many rows of list.csv have a price above {n}?", "list.csv 中有多少行的 price 大于 {n}？", read + f"print(sum(int(r['price']) > {limit} for r in rows))", {"number": float(sum(p > limit for p in prices))}),
        ("What is the mean price in list.csv, rounded to two places?", "list.csv 中 price 的平均值是多少（保留两位小数）？", read + "print(round(sum(int(r['price']) for r in rows) / len(rows), 2))", {"number": round(statistics.fmean(prices), 2)}),
        ("Which name in list.csv has the highest price?", "list.csv 中 price 最高的 name 是哪个？", read + "print(max(rows, key=lambda r: int(r['price']))['name'])", {"text": dearest}),
        ("Write the names of list.csv to names.txt, sorted, one a line.", "把 list.csv 中的 name 排序后写入 names.txt，每行一个。", read + "_ = open('names.txt', 'w').write('\\n'.join(sorted(r['name'] for r in rows)) + '\\n')", {"made": {"names.txt": ordered}}),
        ("Write list.csv as a JSON object from name to price (a number) to list.json.", "把 list.csv 写成 JSON 对象存入 list.json，键为 name，值为 price（数字）。", read + "import json\njson.dump({r['name']: int(r['price']) for r in rows}, open('list.json', 'w'))", {"made": {"list.json": json.dumps(dict(rows))}}),
        ("Which word is most frequent in note.txt?", "note.txt 中出现最多的词是哪个？", "import collections\nprint(collections.Counter(open('note.txt').read().split()).most_common(1)[0][0])", {"text": names[0]}),
        ("How many different words does note.txt hold?", "note.txt 中有多少个不同的词？", "print(len(set(open('note.txt').read().split())))", {"number": float(len(set(words)))}),
    )  # fmt: skip
    en, zh, code, check = plans[i % len(plans)]
    said = (zh if lang == "zh" else en).format(n=limit)
    return {"query": said, "code": code, "files": {"list.csv": table, "note.txt": text}, **check}
