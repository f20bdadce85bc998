"""The published item sets: where their files are, whose they are, how many items they have.

Report §2.6, §3.3, §4.3, §5.2, §A.2. A set is read from a folder the user names: DATA/NAME/*.jsonl, .jsonl.gz or .json in
the form it was published in, or as `fetch` writes it from the hub. Ours: a set with another number of items than the
published one is said to be a part of it or another set, and rows that are none are counted; nothing of either is hidden.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwen.core.artifact import replacing, sha256_file
from openqwen.core.errors import DataError, MissingTool
from openqwen.evals.task import Item, Task

SUFFIXES = (".jsonl", ".jsonl.gz", ".json")


@dataclass(frozen=True)
class Published:
    """A set as its authors give it.

    count: items that are scored. test, shots: names of files without suffix, `*` in them is any text; the first
    that is there counts. hub: `owner/name:config@split` of the scored part, shots_hub of the examples. prompt: the
    released script's file of examples, as it may be called, for protocol report.
    """

    folder: str
    count: int
    licence: str
    test: tuple[str, ...]
    shots: tuple[str, ...] = ()
    hub: str | None = None
    shots_hub: str | None = None
    prompt: tuple[str, ...] = ()


_PACK = "MIT (bigcode-project/octopack)"
SETS: dict[str, Published] = {
    "mmlu": Published(
        "mmlu", 14_042, "MIT (hendrycks/test)", ("test",), ("dev",), "cais/mmlu:all@test", "cais/mmlu:all@dev"
    ),
    "ceval": Published("ceval", 1_346, "CC BY-NC-SA 4.0", ("val",), ("dev",)),
    "cmmlu": Published("cmmlu", 11_582, "CC BY-NC-SA 4.0", ("test",), ("dev",)),
    "agieval": Published("agieval", 8_062, "MIT (ruixiangcui/AGIEval)", ("*",)),
    "gaokao": Published("gaokao", 1_781, "Apache-2.0 (OpenLMLab/GAOKAO-Bench)", ("objective", "20*")),
    "arc_easy": Published(
        "arc", 2_376, "CC BY-SA 4.0", ("easy_test", "ARC-Easy-Test"), ("easy_train", "ARC-Easy-Train"),
        "allenai/ai2_arc:ARC-Easy@test", "allenai/ai2_arc:ARC-Easy@train",
    ),
    "arc_challenge": Published(
        "arc", 1_172, "CC BY-SA 4.0", ("challenge_test", "ARC-Challenge-Test"),
        ("challenge_train", "ARC-Challenge-Train"), "allenai/ai2_arc:ARC-Challenge@test",
        "allenai/ai2_arc:ARC-Challenge@train",
    ),
    "boolq": Published("boolq", 3_270, "CC BY-SA 3.0", ("val", "dev"), (), "google/boolq@validation"),
    "commonsenseqa": Published(
        "commonsenseqa", 1_221, "MIT", ("dev", "dev_rand_split"), ("train", "train_rand_split"),
        "tau/commonsense_qa@validation", "tau/commonsense_qa@train",
    ),
    "nq": Published(
        "nq_open", 3_610, "CC BY-SA 3.0", ("dev", "NQ-open.dev"), (),
        "google-research-datasets/nq_open@validation",
    ),
    "lambada": Published(
        "lambada", 5_153, "CC BY 4.0", ("test_openai", "test"), (), "EleutherAI/lambada_openai:default@test"
    ),
    "hellaswag": Published(
        "hellaswag", 10_042, "MIT (rowanz/hellaswag)", ("val", "hellaswag_val"), (),
        "Rowan/hellaswag@validation",
    ),
    "piqa": Published("piqa", 1_838, "AFL-3.0", ("valid",), (), "baber/piqa@validation"),
    "siqa": Published("siqa", 1_954, "CC BY 4.0", ("val",), (), "lighteval/siqa@validation"),
    "ocnli": Published("ocnli", 2_950, "CC BY-NC 2.0", ("dev",)),
    "gsm8k": Published(
        "gsm8k", 1_319, "MIT (openai/grade-school-math)", ("test",), ("train",), "openai/gsm8k:main@test",
        "openai/gsm8k:main@train", ("gsm8k_prompt.txt", "qwen_8shot_prompt.txt"),
    ),
    "math": Published(
        "math", 500, "MIT (hendrycks/math)", ("math500",), (), "HuggingFaceH4/MATH-500:default@test"
    ),
    "math401": Published("math401", 401, "none stated (GanjinZero/math401-llm)", ("math401",)),
    "math23k": Published("math23k", 1_000, "none stated (Tencent AI Lab)", ("test",)),
    "humaneval": Published(
        "humaneval", 164, "MIT (openai/human-eval)", ("HumanEval",), (), "openai/openai_humaneval@test"
    ),
    "mbpp": Published("mbpp", 500, "CC BY 4.0", ("test",), ("prompt_val_train",)),
    "bbh": Published("bbh", 6_511, "MIT (suzgunmirac/BIG-Bench-Hard)", ("bbh",), ("cot_prompts",)),
    **{
        f"humanevalpack_{language}": Published(
            "humanevalpack", 164, _PACK, (language,), (), f"bigcode/humanevalpack:{language}@test"
        )
        for language in ("python", "js", "java", "go", "cpp", "rust")
    },
}  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """Items of a set and what is known of where they came from; `missing` says why there are none."""

    items: list[Item] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    missing: str | None = None

    @property
    def source(self) -> str:
        """In words, for a table: how much of the published set this is."""
        return str(self.data.get("source", self.missing))


def load(task: Task, folder: Path) -> Loaded:
    """The set of a task from the user's folder. A set that is not there is a line, not an error."""
    published = SETS[task.name]
    home = folder / published.folder
    scored = _files(home, published.test)
    if not scored:
        named = " or ".join(published.test)
        return Loaded(missing=f"{task.title}: no file {named} ({', '.join(SUFFIXES)}) in {home}")
    items, bad, files = [], [], []
    for split, paths in (("test", scored), ("dev", _files(home, published.shots))):
        for path in paths:
            found, wrong = task.read_all(path)
            if split == "dev":  # of a file of examples those rows that say they are, else all
                found = [item for item in found if item["split"] == "dev"] or found
            items += [{**item, "split": split} for item in found]
            bad += wrong
            files.append({"name": path.name, "sha256": sha256_file(path), "items": len(found)})
    for path in [home / name for name in published.prompt if (home / name).is_file()][:1]:
        assert task.prompt is not None
        found = task.prompt(path.read_text(encoding="utf-8"))
        items += [{**item, "split": "dev", "protocol": "report"} for item in found]
        files.append({"name": path.name, "sha256": sha256_file(path), "items": len(found)})
    items = task.join(items) if task.join else items
    count = sum(item["split"] == "test" for item in items)
    words = f"{task.title}, {share_of(count, published.count)}" + (f", {len(bad)} bad rows" if bad else "")
    return Loaded(
        items,
        {
            "source": words,
            "licence": published.licence,
            "files": files,
            "items": count,
            "published": published.count,
            "bad_rows": bad,
        },
    )


def share_of(count: int, published: int) -> str:
    """`all 401 items`, `206 of 401 items`, or that this is another set."""
    if count == published:
        return f"all {count} items"
    if count < published:
        return f"{count} of {published} items"
    return f"{count} items, which are not the {published} of the published set"


def _files(home: Path, names: Sequence[str]) -> list[Path]:
    """The files of the first name that has any."""
    for name in names:
        if found := [path for suffix in SUFFIXES for path in sorted(home.glob(name + suffix))]:
            return found
    return []


def fetch(task: Task, folder: Path) -> list[Path]:
    """Writes a set's parts of the hub into the folder, where `load` finds them. Returns the files.

    DataError for a set that is not on the hub in a readable form, and without a network; MissingTool without `datasets`.
    """
    published = SETS[task.name]
    if published.hub is None:
        raise DataError(
            f"{task.title} is not fetched from the hub",
            fix=f"put its published files into {folder / published.folder}",
        )
    parts = [(published.hub, published.test[0])]
    if published.shots_hub and published.shots:
        parts.append((published.shots_hub, published.shots[0]))
    written = []
    for spec, name in parts:
        path = folder / published.folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for row in _rows(spec):
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        written.append(path)
    return written


def _rows(spec: str) -> Iterable[dict[str, Any]]:
    name, _, split = spec.partition("@")
    name, _, config = name.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise MissingTool(
            f"data sets of the hub need {error.name}", fix='pip install "openqwen[hub]"'
        ) from error
    try:
        yield from datasets.load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # offline, no route, no such name, no rights: each library version has its own
        raise DataError(
            f"the hub did not give this set: {type(error).__name__}: {error}",
            where=spec,
            fix="check the network, or put the published files into the folder",
        ) from error
