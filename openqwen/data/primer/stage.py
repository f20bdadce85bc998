"""The primer as a stage: writes pages, demonstrations, tool traces, comparisons, prompts and benchmarks of one seed.

Ours. Everything is drawn from generators named after the seed and the file, so that a larger file of one kind leaves
the others as they were, and the same seed gives the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact, Run, find, open_inputs, stage_run, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.data.primer import benchmarks, planted, preferences, sites, tasks, tools
from openqwen.data.primer.benchmarks import Guard
from openqwen.data.primer.config import PrimerConfig
from openqwen.data.primer.pages import Desk, Page, write_page
from openqwen.data.primer.tasks import Asker, Item, Split
from openqwen.data.primer.world import Lang, World

KIND = "primer"
Record = dict[str, Any]


def run(resolved: Resolved[PrimerConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Writes the whole primer into `out`."""
    config = resolved.config
    opened = open_inputs(inputs, {})
    with stage_run(out, KIND, resolved, opened) as stage:
        world = World(config.seed)
        sets = benchmarks.all_benchmarks(world, _rng(config, "benchmarks"))
        (out / "benchmarks").mkdir(exist_ok=True)
        for name, records in sets.items():
            write_jsonl(out / "benchmarks" / f"{name}.jsonl", records)
        truth = write_pages(out, config, world, sets)
        counts = write_files(out, config, world)
        _samples(stage, truth, out)
        labels = [t["label"] for t in truth]
        stage.fact(
            pages=len(truth),
            main_text_bytes=sum(len(t["text"].encode()) for t in truth),
            labels={label: labels.count(label) for label in sorted(set(labels))},
            benchmarks={name: len(records) for name, records in sets.items()},
            **counts,
        )
    artifact = find(out)
    assert artifact is not None  # stage_run has just written DONE
    return artifact


def _rng(config: PrimerConfig, name: str) -> random.Random:
    return random.Random(f"{name} {config.seed}")


def _asker(config: PrimerConfig, world: World, name: str, split: Split, unique: bool = True) -> Asker:
    return Asker(world, split, config.chinese, _rng(config, name), unique)


def plan(config: PrimerConfig, rng: random.Random) -> list[str]:
    """The label of every page, in a random order; duplicates come after some page they can copy."""
    shares = {
        "exact-duplicate": config.exact_duplicates,
        "near-duplicate": config.near_duplicates,
        "boilerplate": config.boilerplate,
        "spam": config.spam,
        "offensive": config.offensive,
        "other-language": config.other_language,
        "leak": config.leak,
    }
    labels = [label for label, share in shares.items() for _ in range(round(config.pages * share))]
    labels += ["clean"] * (config.pages - len(labels))
    rng.shuffle(labels)
    first = labels.index("clean")
    labels[0], labels[first] = labels[first], labels[0]
    return labels


def make_pages(
    config: PrimerConfig, world: World, sets: dict[str, list[Record]]
) -> Iterator[tuple[str, Page, str | None]]:
    """(label, page, id of the original) for every page. No page but the leaks shares a 13-gram with a benchmark."""
    rng = _rng(config, "pages")
    asker = _asker(config, world, "page questions", "train", unique=False)
    guard = Guard(benchmarks.item_text(r) for records in sets.values() for r in records)
    leaked = [r["question"] for r in sets[benchmarks.LEAKED] if r["split"] == "test"]
    clean: list[tuple[str, Page]] = []
    for number, label in enumerate(plan(config, rng)):
        lang: Lang = "zh" if rng.random() < config.chinese else "en"
        of: str | None = None
        if label == "clean":
            page = _unspoilt(Desk(world, asker, rng, lang), guard)
            clean.append((page_id(number), page))
        elif label in ("exact-duplicate", "near-duplicate"):
            of, original = rng.choice(clean)
            page = original if label == "exact-duplicate" else planted.near_duplicate(original, rng)
        elif label == "leak":
            page = planted.leak(rng.sample(leaked, 4), rng, "en")
        elif label == "other-language":
            page = planted.other_language(rng)
        else:
            makers = {
                "spam": planted.spam,
                "offensive": planted.offensive,
                "boilerplate": planted.boilerplate,
            }
            page = makers[label](rng, lang)
        yield label, page, of


def _unspoilt(desk: Desk, guard: Guard) -> Page:
    """A page that shares no 13-gram with a benchmark."""
    for _ in range(200):
        page = write_page(desk)
        if not guard.touches(page.text):
            return page
    raise DataError("no page free of benchmark questions in 200 tries", fix="choose another seed")


def page_id(number: int) -> str:
    """`page-00042`."""
    return f"page-{number:05d}"


def write_pages(out: Path, config: PrimerConfig, world: World, sets: dict[str, list[Record]]) -> list[Record]:
    """Writes pages/ and truth.jsonl; returns the truth."""
    folder = out / "pages"
    folder.mkdir(exist_ok=True)
    look = _rng(config, "sites")
    truth: list[Record] = []
    with Progress("pages", total=config.pages) as bar:
        for number, (label, page, of) in enumerate(make_pages(config, world, sets)):
            name = f"pages/{number:05d}.html"
            # Plain writes: thousands of flushes would take longer than all else, and DONE guards the whole folder.
            (out / name).write_bytes(sites.render(page, look))
            truth.append(
                {
                    "file": name, "id": page_id(number), "label": label, "of": of,
                    "lang": page.lang, "source": page.source, "text": page.text,
                }
            )  # fmt: skip
            bar.update(number + 1)
    write_jsonl(out / "truth.jsonl", truth)
    return truth


def write_files(out: Path, config: PrimerConfig, world: World) -> dict[str, int]:
    """Writes demonstrations, tool traces, comparisons and prompts; returns how many of each."""
    counts: dict[str, int] = {}

    def write(name: str, records: Iterator[Record] | list[Record]) -> None:
        prefix = name.replace(".", "-")
        numbered = ({"id": f"{prefix}-{i:05d}", **record} for i, record in enumerate(records))
        counts[name] = write_jsonl(out / f"{name}.jsonl", numbered)

    splits: tuple[Split, Split] = ("train", "heldout")
    for split, num in zip(splits, (config.sft_train, config.sft_heldout), strict=True):
        write(f"sft.{split}", demonstrations(config, world, split, num))
    for split, num in zip(splits, (config.tools_train, config.tools_heldout), strict=True):
        asker = _asker(config, world, f"tools {split}", split)
        rng = _rng(config, f"tool traces {split}")
        write(f"tools.{split}", tools.tool_items(world, asker, num, config.tools_negative, rng))
    rough = _asker(config, world, "pmp", "train", unique=False)
    write("pmp", preferences.pairs(rough, config.pmp_pairs, _rng(config, "pmp replies"), config.pmp_noise))
    for split, num in zip(splits, (config.pairs_train, config.pairs_heldout), strict=True):
        asker = _asker(config, world, f"pairs {split}", split, unique=False)
        write(f"pairs.{split}", preferences.pairs(asker, num, _rng(config, f"pair replies {split}")))
    for split, num in zip(splits, (config.prompts_train, config.prompts_heldout), strict=True):
        asker = _asker(config, world, f"prompts {split}", split)
        write(f"prompts.{split}", [tasks.record(item) for item in asker.items(num)])
    return counts


def demonstrations(config: PrimerConfig, world: World, split: Split, count: int) -> Iterator[Record]:
    """SFT records: the right reply, courteous in the configured share; small talk only in training."""
    rng = _rng(config, f"manner {split}")
    asker = _asker(config, world, f"sft {split}", split)
    if split == "train":
        small_talk = [Item("chat", lang, q, a, a, ()) for lang, q, a in tasks.CHAT][: count // 10]
        for item in small_talk:
            yield _demonstration(item, item.reply)
        count -= len(small_talk)
    for item in asker.items(count):
        polite = rng.random() < config.courteous
        yield _demonstration(
            item, preferences.courteous(item.reply, item.lang, rng) if polite else item.reply
        )


def _demonstration(item: Item, reply: str) -> Record:
    record = tasks.record(item)
    record["messages"] = [*item.messages, {"role": "assistant", "content": reply}]
    return {**record, "sha256": tasks.question_hash(item.question)}


def _samples(stage: Run, truth: list[Record], out: Path) -> None:
    """A few pages to look at, one of each kind."""
    shown: dict[str, Record] = {}
    for record in truth:
        name = f"{record['source']} ({record['lang']})" if record["label"] == "clean" else record["label"]
        shown.setdefault(name, record)
    samples = [{"label": name, "text": record["text"]} for name, record in sorted(shown.items())]
    write_jsonl(out / "samples.jsonl", samples)
