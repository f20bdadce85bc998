"""Stage "long_code": perplexity of long files of code by position, alone and with files of their repository before them.

Ours; the report trains Code-Qwen at 8192 for such texts (§4.1) and shows no figure of it. Every way reads the same tokens
of the same files. Files of another repository, as many tokens and of the same language where one has such, are the
control: what they change is length and form, not knowledge. Intervals are bootstrapped over repositories, whose files
resemble each other.
"""

from __future__ import annotations

import io
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openqwen.code_qwen.config import LongCodeConfig
from openqwen.code_qwen.find import repositories
from openqwen.code_qwen.languages import comment
from openqwen.code_qwen.prompt import CONFIG, Target, choose_files, joined, ordered
from openqwen.code_qwen.stage import File, read_repository
from openqwen.core.artifact import (
    Artifact,
    find,
    open_inputs,
    stage_run,
    write_atomic,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.data.documents import Bad
from openqwen.model.extend import perplexity, token_losses
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model
from openqwen.tokenizer import Tokenizer, load_tokenizer

ALONE, OWN, OTHER = "alone", "with its repository", "with another repository"
_COLOURS = {ALONE: "#7a7a7a", OWN: "#2b8a6f", OTHER: "#d9822b"}
_FEWEST = 3  # repositories from which on they are what intervals are drawn over


@dataclass(frozen=True)
class LongFile:
    """A file to read, and what stands before it in each way. ids begin with the line that names it."""

    repository: str
    path: str
    ids: np.ndarray  # (length + 1,) int64
    before: Mapping[str, np.ndarray]  # way -> (tokens,) int64; the two have one length
    alike: bool = True  # the other repository's files are of its language


def run(resolved: Resolved[LongCodeConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Reads long files of "input" (a checkout, or a folder of them) with "model"; long_code.json, .svg, samples.jsonl."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": "model"})
    model = load_model(inputs["model"], dtype=getattr(torch, config.dtype), device=config.device)
    tokenizer = load_tokenizer(inputs["model"])
    length = config.length or model.config.max_length
    with stage_run(out, "long_code", resolved, opened) as stage:
        bad = Bad(CONFIG.bad_fraction)
        trees = {
            each.name: {file.path: file for file in read_repository(each, CONFIG, bad) if not file.reason}
            for each in repositories(inputs["input"])
        }
        bad.check()
        files = list(choose(trees, tokenizer, length, config))
        if not files:
            raise DataError(
                f"no file has the {length + 1} tokens that are read, and others of its repository and of another one "
                "to stand before it",
                where=str(inputs["input"]),
                fix="give two repositories or more with long files, or a smaller --length",
            )
        edges = bounds(length, config.buckets)
        read, metrics = [], stage.open_metrics()
        with Progress("long code", len(files)) as bar:
            for number, file in enumerate(files, 1):
                losses = {
                    way: means(found, edges) for way, found in readings(model, file, length, config.share)
                }
                read.append(losses)
                for way, columns in losses.items():
                    metrics.write(number, way=way, file=f"{file.repository}:{file.path}", loss=columns)
                bar.update(number, tokens=3 * length)
        table = make_table(files, read, edges, config)
        write_json(out / "long_code.json", table)
        write_atomic(out / "long_code.svg", draw(table))
        write_jsonl(out / "samples.jsonl", _samples(table))
        stage.fact(
            files=len(files),
            repositories=len({file.repository for file in files}),
            skipped=bad.reasons,
            perplexity={row["model"]: row["cells"] for row in table["rows"]},
        )
    done = find(out)
    assert done is not None
    return done


def bounds(length: int, buckets: int) -> list[int]:
    """Edges of columns that double in width: `bounds(256, 4)` -> [0, 32, 64, 128, 256]."""
    return [0, *(length >> step for step in range(buckets - 1, -1, -1))]


def choose(
    trees: Mapping[str, Mapping[str, File]], tokenizer: Tokenizer, length: int, config: LongCodeConfig
) -> Iterator[LongFile]:
    """Files of more than `length` tokens, repositories in turns, each with what stands before it."""
    chance = random.Random(config.seed)
    room = round(length * config.share)
    queues = {name: sorted(tree) for name, tree in trees.items()}
    for paths in queues.values():
        chance.shuffle(paths)
    taken = dict.fromkeys(queues, 0)
    left = config.files
    while left and any(queues.values()):
        for name, paths in queues.items():
            if taken[name] >= config.per_repository:
                paths.clear()
            while paths and left:
                found = _long_file(trees, name, paths.pop(), tokenizer, length, room)
                if found is not None:
                    taken[name] += 1
                    left -= 1
                    yield found
                    break


def _long_file(
    trees: Mapping[str, Mapping[str, File]],
    name: str,
    path: str,
    tokenizer: Tokenizer,
    length: int,
    room: int,
) -> LongFile | None:
    """A file with what stands before it; None if it is short, or nothing fits there."""
    file = trees[name][path]
    ids = tokenizer.encode(f"{comment(file.language, path)}\n{file.text}")[: length + 1]
    if len(ids) <= length:
        return None
    own = _context(Target(path, file.language, file.text), trees[name], tokenizer, room)
    names = sorted(trees)
    place = names.index(name)
    others = [trees[each] for each in names[place + 1 :] + names[:place]]
    for language in (file.language, None):
        for tree in others:
            fit = {p: each for p, each in tree.items() if language in (each.language, None)}
            other = _context(Target(path, file.language, ""), fit, tokenizer, room)
            size = min(len(own), len(other))
            if size >= room // 4:
                before = {OWN: np.array(own[-size:]), OTHER: np.array(other[-size:])}
                return LongFile(name, path, np.array(ids), before, alike=language is not None)
    return None


def _context(target: Target, others: Mapping[str, File], tokenizer: Tokenizer, room: int) -> list[int]:
    """At most `room` ids: the files that a prompt for the target has before it, or the beginning of the one that matters
    most where none fits whole."""
    chosen, left_out = choose_files(target, others, room, lambda text: len(tokenizer.encode(text)))
    paths = ordered(chosen, others) or list(left_out)[:1]
    return tokenizer.encode(joined(paths, others))[:room]


def readings(model: Qwen, file: LongFile, length: int, share: float) -> Iterator[tuple[str, np.ndarray]]:
    """(way, losses in nats of the file's first tokens). Alone it is read to `length`, else as far as there is room."""
    room = round(length * share)
    for way, before in ((ALONE, np.empty(0, np.int64)), *file.before.items()):
        own = length if way == ALONE else length - room
        ids = torch.from_numpy(np.concatenate([before, file.ids[: own + 1]])).to(model.head.weight.device)
        losses = token_losses(model, ids, len(ids) - 1, model.config.extension)[0]  # (before + own,)
        yield way, losses[-own:].numpy()


def means(losses: np.ndarray, edges: Sequence[int]) -> list[float]:
    """The mean loss of each column that (n,) losses fill."""
    return [float(losses[a:b].mean()) for a, b in pairwise(edges) if b <= len(losses)]


def make_table(
    files: Sequence[LongFile],
    read: Sequence[Mapping[str, list[float]]],
    edges: Sequence[int],
    config: LongCodeConfig,
) -> dict[str, Any]:
    """Rows by way, columns by position; changes are paired file by file."""
    names = [f"{a}-{b}" for a, b in pairwise(edges)]
    repository = [file.repository for file in files]

    def cells(columns: Sequence[Sequence[float]]) -> dict[str, Any]:
        units = [_units(column, repository) for column in zip(*columns)]
        return {name: perplexity(unit, config.seed) for name, unit in zip(names, units)}

    rows = [
        {"model": way, "origin": "ours", "cells": cells([losses[way] for losses in read])}
        for way in (ALONE, OWN, OTHER)
    ]
    changes = [
        {
            "change": f"{new} over {old}",
            "of": new,
            "over": old,
            "cells": cells([[b - a for a, b in zip(losses[old], losses[new])] for losses in read]),
        }
        for old, new in ((ALONE, OWN), (ALONE, OTHER), (OTHER, OWN))
    ]
    before = [len(file.before[OWN]) for file in files]
    over = "repositories" if len(set(repository)) >= _FEWEST else "files: there are too few repositories"
    return {
        "title": "Perplexity of long files of code by position",
        "columns": [{"name": name, "metric": "perplexity", "shots": None} for name in names],
        "rows": rows,
        "changes": changes,
        "notes": [
            f"{len(files)} files of {len(set(repository))} repositories; columns are tokens from the file's beginning.",
            f"Before a file stand {sum(before) / len(before):.0f} tokens in the mean, of both kinds of repository alike.",
            f"The other repository has the file's language for {sum(f.alike for f in files)} of {len(files)} files.",
            f"Intervals are 95 % bootstrap over {over}.",
        ],
    }


def _units(values: Sequence[float], repository: Sequence[str]) -> list[float]:
    """What is drawn for intervals: the mean of each repository's files, or the files where repositories are few."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(repository, values):
        groups[name].append(value)
    return [sum(g) / len(g) for g in groups.values()] if len(groups) >= _FEWEST else list(values)


def _samples(table: Mapping[str, Any]) -> list[dict[str, str]]:
    """One line a way for whoever watches."""
    return [
        {
            "label": row["model"],
            "text": "  ".join(f"{name}: {cell['value']:.4g}" for name, cell in row["cells"].items()),
        }
        for row in table["rows"]
    ]


def draw(table: Mapping[str, Any]) -> str:
    """The table as curves with intervals (SVG), and the changes by the repository on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [column["name"] for column in table["columns"]]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "openqwen", "font.size": 9}):
        figure, panels = pyplot.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
        for axes, rows, label in zip(
            panels, (table["rows"], table["changes"]), ("perplexity", "perplexity / perplexity")
        ):
            for row in rows:
                cells = row["cells"]
                colour = _COLOURS[row.get("of", row.get("model"))]
                style = "o--" if row.get("over") == OTHER else "o-"
                name = row.get("model", row.get("change"))
                places = [names.index(column) for column in cells]
                values = [cell["value"] for cell in cells.values()]
                axes.plot(places, values, style, color=colour, label=name, linewidth=1, markersize=3)
                if all("low" in cell for cell in cells.values()):
                    low, high = ([cell[end] for cell in cells.values()] for end in ("low", "high"))
                    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set(xlabel="tokens from the file's beginning", ylabel=label)
            axes.set_xticks(range(len(names)), names)
            axes.grid(alpha=0.25)
            axes.legend(fontsize=6, frameon=False)
        figure.suptitle(table["title"], fontsize=9)
        panels[1].axhline(1, color="#7a7a7a", linewidth=0.5)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
