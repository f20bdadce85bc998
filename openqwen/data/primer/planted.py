"""Pages that a corpus should not keep: spam, boilerplate, rude text, other languages; and near-duplicates of good ones.

Ours. Each comes with its label, so that every filter's precision and recall can be counted. The rude words are mild
and partly invented.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

import random

from openqwen.data.primer.pages import FILLER, Block, Page
from openqwen.data.primer.world import CITIES, FOODS, OBJECTS, PEOPLE, RUDE_WORDS, Lang

_SPAM: dict[Lang, tuple[str, ...]] = {
    "en": (
        "BUY {o} NOW!!! Best price {n}% OFF!!!", "Click here click here click here to win {n} coins!", "Cheap {o} cheap {o} cheap {o} online store {n}.",
        "Limited offer!!! Only today {n}% discount on every {o}!", "You have been selected! Claim your FREE {o} at once!",
        "Earn {n} coins a day from home, no work needed!!!", "Order {o} online without asking anybody, fast delivery {n}h.", "100% guaranteed!!! Money back!!! Call {n}-{n}-{n} now!!!",
        "Best casino bonus {n} free spins!!! Sign up now!!!", "Lose {n} kilos in {n} days with this one secret {f}!!!",
    ),
    "zh": (
        "{o} 大促销！！！立减 {n}%！！！", "点击这里领取 {n} 个金币，点击这里，点击这里！", "便宜{o}，便宜{o}，便宜{o}，加微信 {n}{n}。", "恭喜您中奖了！！！马上领取免费{o}！",
        "在家日赚 {n} 元，轻松兼职，加群 {n}{n}{n}！！！", "限时优惠，仅此一天，错过再等一年！！！", "正品代购{o}，货到付款，电话 {n}-{n}-{n}！", "百分之百有效，无效退款！！！", "最高返利 {n}%，注册就送 {n} 元！！！",
    ),
}  # fmt: skip
_RUDE: dict[Lang, tuple[str, ...]] = {
    "en": (
        "{p} is a {w} and always was.", "Only a {w} would live in {c}.", "Shut up, you {w}!", "Everybody in {c} is a {w}, a real {w}.", "Get lost, {p}, you {w}.",
        "What a {w}! I have never met such a {w}.", "Go away, {w}, nobody likes you.", "I hate {c} and every {w} in it.", "{p} talks like a {w} and smells like one.",
    ),
    "zh": (
        "{p} 就是个{w}，一直都是。", "只有{w}才住在 {c}。", "闭嘴，你这个{w}！", "{c} 的人全是{w}，真正的{w}。", "滚开，{p}，你这个{w}。", "真是{w}！我没见过这样的{w}。",
        "走开，{w}，没人喜欢你。", "我讨厌 {c}，讨厌那里的每个{w}。",
    ),
}  # fmt: skip
_EMPTY: dict[Lang, tuple[str, ...]] = {
    "en": (
        "Please log in to see this page.", "Forgot your password?", "Page not found. The page you asked for does not exist.", "Accept all cookies", "Manage cookie settings", "Subscribe to our newsletter",
        "Loading, please wait...", "JavaScript is disabled in your browser.", "Home > Shop > Cart", "Your cart is empty.", "Terms of use | Privacy policy | Imprint", "All rights reserved.", "Share on Mail Print Link",
        "Sort by: newest, oldest, most read", "Previous page | Next page", "No results found.",
    ),
    "zh": (
        "请先登录再查看本页。", "忘记密码？", "页面不存在，您访问的页面已被删除。", "全部接受 Cookie", "管理 Cookie 设置", "订阅我们的邮件", "正在加载，请稍候……", "您的浏览器已禁用脚本。", "首页 > 商店 > 购物车",
        "您的购物车是空的。", "使用条款 | 隐私政策 | 关于我们", "版权所有", "分享 邮件 打印 链接", "排序：最新 最早 最热", "上一页 | 下一页", "没有找到结果。",
    ),
}  # fmt: skip
OTHER_LANGUAGES: dict[str, tuple[str, ...]] = {
    "de": (
        "Die Stadt {c} liegt an einem kleinen Fluss.", "Am Morgen öffnen die Läden sehr früh.", "{p} wohnt seit vielen Jahren in einem alten Haus.", "Auf dem Markt kauft man frisches Brot und Käse.",
        "Die Kinder spielen gern unter dem großen Baum.", "Abends erzählen die Leute alte Geschichten.", "Im Winter ist es hier oft kalt und still.", "Wir haben gestern einen langen Spaziergang gemacht.",
        "Von dem Turm sieht man die Berge.", "Der Zug nach {c} kommt heute etwas später.",
    ),
    "fr": (
        "La ville de {c} se trouve près d'une petite rivière.", "Le matin, les boutiques ouvrent très tôt.", "{p} habite depuis longtemps dans une vieille maison.", "Au marché, on achète du pain frais et du fromage.",
        "Les enfants jouent souvent sous le grand arbre.", "Le soir, on raconte de vieilles histoires.", "En hiver, il fait froid et tout est calme.", "Hier, nous avons fait une longue promenade.",
        "Depuis la tour, on voit les montagnes.", "Le train pour {c} arrive un peu plus tard aujourd'hui.",
    ),
    "es": (
        "La ciudad de {c} está cerca de un río pequeño.", "Por la mañana las tiendas abren muy temprano.", "{p} vive desde hace años en una casa antigua.", "En el mercado se compra pan fresco y queso.",
        "Los niños juegan a menudo bajo el árbol grande.", "Por la noche la gente cuenta historias viejas.", "En invierno hace frío y todo está tranquilo.", "Ayer dimos un paseo muy largo.",
        "Desde la torre se ven las montañas.", "El tren a {c} llega hoy un poco más tarde.",
    ),
    "ru": (
        "Город {c} стоит на берегу маленькой реки.", "Утром магазины открываются очень рано.", "{p} много лет живёт в старом доме.", "На рынке покупают свежий хлеб и сыр.", "Дети часто играют под большим деревом.",
        "Вечером люди рассказывают старые истории.", "Зимой здесь холодно и тихо.", "Вчера мы долго гуляли.", "С башни видны горы.", "Поезд в {c} сегодня немного опаздывает.",
    ),
    "ja": (
        "{c} は小さな川のそばにある町です。", "朝になると店はとても早く開きます。", "{p} さんは長い間、古い家に住んでいます。", "市場では新しいパンとチーズを買うことができます。", "子どもたちは大きな木の下でよく遊びます。",
        "夜になると人々は昔の話をします。", "冬は寒くて、とても静かです。", "きのうは長い散歩をしました。", "塔の上から山が見えます。", "{c} 行きの電車は今日は少し遅れています。",
    ),
}  # fmt: skip


def _slots(rng: random.Random, lang: Lang) -> dict[str, str | int]:
    return {
        "o": rng.choice(OBJECTS).of(lang), "f": rng.choice(FOODS).of(lang), "n": rng.randint(10, 99), "p": rng.choice(PEOPLE).en, "c": rng.choice(CITIES).en,
        "w": rng.choice([w for w in RUDE_WORDS if w.isascii() == (lang == "en")]),
    }  # fmt: skip


def _paragraphs(sentences: list[str], lang: str, per: int) -> tuple[Block, ...]:
    gap = "" if lang in ("zh", "ja") else " "
    return tuple(("p", gap.join(sentences[i : i + per])) for i in range(0, len(sentences), per))


def spam(rng: random.Random, lang: Lang) -> Page:
    """Shouting, repetition, telephone numbers."""
    lines = [rng.choice(_SPAM[lang]).format(**_slots(rng, lang)) for _ in range(rng.randint(9, 14))]
    title = rng.choice(_SPAM[lang]).format(**_slots(rng, lang))
    return Page("shop", lang, title, _paragraphs(lines, lang, 3))


def offensive(rng: random.Random, lang: Lang) -> Page:
    """Ordinary sentences with insults between them."""
    rude = [rng.choice(_RUDE[lang]).format(**_slots(rng, lang)) for _ in range(rng.randint(5, 8))]
    plain = rng.sample(FILLER[lang], 5)
    lines = rude + plain
    rng.shuffle(lines)
    title = {"en": "My opinion about {c}", "zh": "我看 {c}"}[lang].format(c=rng.choice(CITIES).en)
    return Page("forum", lang, title, _paragraphs(lines, lang, 4))


def boilerplate(rng: random.Random, lang: Lang) -> Page:
    """A page that is all frame and no picture."""
    lines = rng.sample(_EMPTY[lang], 8)
    blocks: tuple[Block, ...] = tuple(("p", line) for line in lines)
    return Page("shop", lang, {"en": "Log in", "zh": "登录"}[lang], blocks)


def other_language(rng: random.Random) -> Page:
    """A harmless page in a language the corpus is not meant to hold."""
    lang = rng.choice(sorted(OTHER_LANGUAGES))
    slots = {"c": rng.choice(CITIES).en, "p": rng.choice(PEOPLE).en}
    lines = [s.format(**slots) for s in rng.sample(OTHER_LANGUAGES[lang], 8)]
    return Page("travel", lang, slots["c"], _paragraphs(lines, lang, 4))


def near_duplicate(page: Page, rng: random.Random) -> Page:
    """The same page with a sentence put before or after it, or one of its short paragraphs left out."""
    lang: Lang = "zh" if page.lang == "zh" else "en"
    note: Block = ("p", rng.choice(FILLER[lang]))
    blocks = list(page.blocks)
    shortest = min(range(len(blocks)), key=lambda i: len(blocks[i][1]))
    if rng.random() < 0.4 and len(blocks[shortest][1]) * 16 < len(page.text):
        del blocks[shortest]
    else:
        blocks.insert(rng.choice((0, len(blocks))), note)
    return Page(page.source, page.lang, page.title, tuple(blocks))


def leak(questions: list[str], rng: random.Random, lang: Lang) -> Page:
    """Benchmark items, word for word, between harmless sentences."""
    blocks: list[Block] = [("p", " ".join(rng.sample(FILLER["en"], 3)))]
    blocks += [("p", question) for question in questions]
    blocks.append(("p", " ".join(rng.sample(FILLER["en"], 3))))
    return Page("forum", lang, f"Homework help {rng.randint(1, 999)}", tuple(blocks))
