"""Table 3 with a model of your own: perplexity against length, plain and with each technique added.

Report §2.5, Table 3. The report's: the techniques, their order, the published rows. Ours: every length reads the same
text (blocks of the greatest length, cut into pieces), so columns differ in context alone; intervals are bootstrapped
over blocks; columns are multiples of the training length, which is 2048 in the report's rows; what each technique
changes is measured in pairs, block by block, since it is smaller than what texts differ by; and entropy.py says why.
"""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import exp, inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openqwen.core.artifact import (
    Artifact,
    Run,
    find,
    open_inputs,
    stage_run,
    write_atomic,
    write_json,
    write_jsonl,
)
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError, UsageError
from openqwen.core.intervals import bootstrap
from openqwen.core.shards import Tokens, open_tokens
from openqwen.core.tables import published
from openqwen.model import entropy
from openqwen.model.config import ExtendConfig, Extension, ModelConfig, layer_windows
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model

KIND = "context"
TECHNIQUES = ("plain", "+ dynamic_ntk", "+ dynamic_ntk + logn", "+ dynamic_ntk + logn + window_attn")
# Report, Table 3 (arXiv text), trained at 2048: multiples of that length -> perplexity.
PUBLISHED = {
    row["model"]: {int(length) / 2048: cell["value"] for length, cell in row["cells"].items()}
    for row in published(3)["rows"]
}


@dataclass(frozen=True)
class Block:
    """A stretch of text as long as the longest context, and what it was cut from."""

    ids: np.ndarray  # (N + 1,) int64
    source: str
    joined: bool  # several documents of one source, because single ones are too short


def extensions(config: ModelConfig, windows: Sequence[int] | None) -> dict[str, Extension]:
    """The four rows of the table as values."""
    chosen = tuple(windows or layer_windows(config.max_length, config.num_layers))
    flags = ((False, False, None), (True, False, None), (True, True, None), (True, True, chosen))
    return {
        name: Extension(dynamic_ntk=ntk, logn=logn, windows=w)
        for name, (ntk, logn, w) in zip(TECHNIQUES, flags)
    }


def cut_blocks(tokens: Tokens, sources: Sequence[str], size: int, limit: int) -> list[Block]:
    """Up to `limit` blocks of size + 1 tokens: from long documents first, else from documents of one source joined.

    Sources take turns, so that a small limit still sees all of them.
    """
    by_source: dict[str, list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        by_source[source].append(number)
    streams = [_blocks_of(tokens, source, numbers, size) for source, numbers in sorted(by_source.items())]
    blocks: list[Block] = []
    while streams and len(blocks) < limit:
        running = []
        for stream in streams:
            block = next(stream, None)
            if block is not None:
                blocks.append(block)
                running.append(stream)
        streams = running
    return blocks[:limit]


def _blocks_of(tokens: Tokens, source: str, numbers: Sequence[int], size: int) -> Iterator[Block]:
    short: list[np.ndarray] = []
    for number in numbers:
        document = tokens.document(number)
        whole = len(document) // (size + 1) * (size + 1)
        for start in range(0, whole, size + 1):
            yield Block(document[start : start + size + 1], source, joined=False)
        short.append(document[whole:])
    rest = np.concatenate(short) if short else np.empty(0, np.int64)
    for start in range(0, len(rest) - size, size + 1):
        yield Block(rest[start : start + size + 1], source, joined=True)


@torch.inference_mode()
def token_losses(model: Qwen, ids: Tensor, length: int, extension: Extension) -> Tensor:
    """Loss in nats of each token of ids (N + 1,), read in P pieces of `length` that know nothing of each other.

    (P, length) float64 on the CPU; a rest that fills no piece is not read.
    """
    pieces = (len(ids) - 1) // length
    inputs = ids[: pieces * length].view(pieces, length)
    labels = ids[1 : pieces * length + 1]  # (P * length,)
    hidden = model.hidden(inputs, extension=extension).flatten(0, 1)  # (P * length, C)
    parts = []
    for logits in entropy.logits_in_pieces(model, hidden):
        asked, labels = labels.tensor_split([len(logits)])
        parts.append(F.cross_entropy(logits, asked, reduction="none"))
    return torch.cat(parts).view(pieces, length).cpu().double()


def run(resolved: Resolved[ExtendConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Reads the valid split at every length with every technique; writes table_03.json, context.svg and analyses."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": "model", "tokens": "tokens"})
    model = load_model(inputs["model"], dtype=getattr(torch, config.dtype), device=config.device)
    shape = model.config
    if config.windows is not None and len(config.windows) != shape.num_layers:
        raise UsageError(
            f"{len(config.windows)} windows for a model of {shape.num_layers} layers", where="windows"
        )
    lengths = {multiple: round(multiple * shape.max_length) for multiple in config.multiples}
    tokens = open_tokens(inputs["tokens"], "valid")
    if tokens.meta["vocab_size"] > shape.vocab_size:
        raise DataError(
            f"the tokens use {tokens.meta['vocab_size']} ids, the model knows {shape.vocab_size}",
            where=str(inputs["tokens"]),
            fix="pack the text with the model's own tokenizer",
        )
    sources = [r["source"] for r in _records(inputs["tokens"] / "documents.valid.jsonl")]
    lengths, blocks = _fitting(tokens, sources, lengths, config.blocks)
    with stage_run(out, KIND, resolved, opened) as stage:
        readings = _sweep(model, blocks, lengths, config, stage)
        table = make_table(shape, lengths, readings.losses, blocks, config)
        analyses = _analyse(model, blocks, lengths, readings, config)
        table["notes"] += [line for analysis in analyses for line in entropy.limits(analysis)]
        write_json(out / "table_03.json", table)
        write_atomic(out / "context.svg", draw(table, lengths))
        for analysis in analyses:
            name = f"entropy_{analysis['multiple']:g}x"
            write_json(out / f"{name}.json", {**analysis, "in_words": entropy.describe(analysis)})
            write_atomic(out / f"{name}.svg", entropy.draw(analysis))
        write_jsonl(out / "samples.jsonl", _samples(table, lengths))
        ours = [row for row in table["rows"] if row["origin"] == "ours"]
        stage.fact(perplexity={row["model"]: row["cells"] for row in ours})
        longest = table["columns"][-1]["name"]
        plain, extended = ours[0]["cells"].get(longest), ours[-1]["cells"].get(longest)
        if plain and extended:
            stage.fact(longest=longest, longest_plain=plain["value"], longest_extended=extended["value"])
    artifact = find(out)
    assert artifact is not None
    return artifact


def _records(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


def _fitting(
    tokens: Tokens, sources: Sequence[str], lengths: dict[float, int], limit: int
) -> tuple[dict[float, int], list[Block]]:
    """The lengths for which the split has text, and blocks of the greatest of them."""
    while lengths:
        blocks = cut_blocks(tokens, sources, max(lengths.values()), limit)
        if blocks and 1 in lengths:
            return lengths, blocks
        lengths = dict(list(lengths.items())[:-1])
    raise DataError(
        "no source of the valid split holds enough text for one sequence of the training length",
        where=f"{len(tokens)} tokens in {tokens.num_documents} documents",
        fix="hold out more text when the corpus is made",
    )


@dataclass(frozen=True)
class Readings:
    """What the sweep measured, by (technique, multiple of the training length)."""

    losses: dict[tuple[str, float], list[float]]  # mean loss of each block, nats a token
    by_position: dict[tuple[str, float], np.ndarray]  # (length,) summed over the blocks


def _sweep(
    model: Qwen, blocks: Sequence[Block], lengths: Mapping[float, int], config: ExtendConfig, stage: Run
) -> Readings:
    """Reads each block in every way. Within the training length all techniques are the plain model."""
    ways = extensions(model.config, config.windows)
    readings = Readings(defaultdict(list), {})
    metrics, began = stage.open_metrics(), time.monotonic()
    with Progress("extend", len(blocks)) as bar:
        for number, block in enumerate(blocks, 1):
            if number > 1 and config.seconds is not None and time.monotonic() - began > config.seconds:
                stage.log(
                    f"stopped after {number - 1} of {len(blocks)} blocks: {config.seconds:g} s are over"
                )
                break
            ids = torch.from_numpy(block.ids).to(model.head.weight.device)
            for multiple, length in lengths.items():
                for way, extension in ways.items():
                    if way == "plain" or length > model.config.max_length:
                        positions = token_losses(model, ids, length, extension).mean(0).numpy()  # (length,)
                    loss = float(positions.mean())
                    readings.losses[way, multiple].append(loss)
                    key = (way, multiple)
                    readings.by_position[key] = readings.by_position.get(key, 0) + positions
                    metrics.write(number, technique=way, length=length, loss=loss, source=block.source)
            bar.update(number, tokens=sum(len(ways) * len(block.ids) for _ in lengths))
    return readings


def _analyse(
    model: Qwen,
    blocks: Sequence[Block],
    lengths: Mapping[float, int],
    readings: Readings,
    config: ExtendConfig,
) -> list[dict[str, Any]]:
    """Why, at each length asked for that there is text for: losses over all blocks read, attention over the first."""
    ways = extensions(model.config, config.windows)
    ids = [block.ids for block in blocks[: len(readings.losses["plain", 1])]]
    first = ids[: config.analysis_blocks]
    found = []
    for multiple in [m for m in config.analysis if m in lengths]:
        losses = {way: readings.by_position[way, multiple] / len(ids) for way in ways}
        with Progress("attention", len(ways) * len(first)) as bar:
            analysis = entropy.analyse(model, first, lengths[multiple], ways, losses, bar.update)
        analysis["one_token_loss"] = float(_loss_by_position(model, ids, 1, Extension())[0])
        if lengths[multiple] > model.config.max_length:
            read = partial(_loss_by_position, model, ids, lengths[multiple], ways["+ dynamic_ntk"])
            with Progress("query scales", len(entropy.SCALES)) as bar:
                analysis["query_scale"] = entropy.scale_response(model, "+ dynamic_ntk", read, bar.update)
        found.append({"multiple": multiple, **analysis})
    return found


def _loss_by_position(
    model: Qwen, blocks: Sequence[np.ndarray], length: int, extension: Extension
) -> np.ndarray:
    """(length,) nats a token, the mean over all pieces of all blocks."""
    device = model.head.weight.device
    read = [
        token_losses(model, torch.from_numpy(ids).to(device), length, extension).mean(0) for ids in blocks
    ]
    return torch.stack(read).mean(0).numpy()


def make_table(
    shape: ModelConfig,
    lengths: dict[float, int],
    losses: dict[tuple[str, float], list[float]],
    blocks: Sequence[Block],
    config: ExtendConfig,
) -> dict[str, Any]:
    """The table file: the report's rows, then ours, columns by multiples of the training length."""
    names = {multiple: f"{multiple:g}x ({length})" for multiple, length in lengths.items()}
    rows: list[dict[str, Any]] = [
        {
            "model": model,
            "origin": "published",
            "cells": {names[m]: {"value": value} for m, value in cells.items() if m in names},
        }
        for model, cells in PUBLISHED.items()
    ]
    for way in TECHNIQUES:
        cells = {names[m]: perplexity(losses[way, m], config.seed) for m in lengths}
        name = "ours" if way == "plain" else f"ours {way}"
        rows.append({"model": name, "origin": "ours", "cells": cells})
    columns = [{"name": name, "metric": "perplexity", "shots": None} for name in names.values()]
    used = blocks[: len(losses["plain", 1])]
    changes = make_changes(names, losses, config.seed)
    return {
        "table": 3,
        "title": "Perplexity against sequence length, without training on long text",
        "columns": columns,
        "rows": rows,
        "changes": changes,
        "notes": _notes(shape, lengths, used, config) + _in_words(changes),
    }


def make_changes(
    names: Mapping[float, str], losses: Mapping[tuple[str, float], list[float]], seed: int
) -> list[dict[str, Any]]:
    """Perplexity over perplexity: plain over plain at the training length, then each technique over the one before.

    Both sides read the same blocks, so the interval is that of the differences.
    """
    pairs = [(("plain", 1.0), ("plain", m)) for m in names if m > 1]
    pairs += [((a, m), (b, m)) for a, b in pairwise(TECHNIQUES) for m in names if m > 1]
    rows: dict[str, dict[str, Any]] = {}
    for old, new in pairs:
        name = "plain over its training length" if new[0] == "plain" else f"{new[0]} over {old[0]}"
        differences = [b - a for a, b in zip(losses[old], losses[new])]
        row = rows.setdefault(name, {"change": name, "of": new[0], "over": old[0], "cells": {}})
        row["cells"][names[new[1]]] = perplexity(differences, seed)
    return list(rows.values())


def _in_words(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note for each change."""
    lines = []
    for change in changes:
        parts = []
        for name, cell in change["cells"].items():
            between = f" [{cell['low']:.4g}, {cell['high']:.4g}]" if "low" in cell else ""
            parts.append(f"{name} {cell['value']:.4g}{between}")
        lines.append(f"Perplexity of {change['change']}, paired over blocks: {', '.join(parts)}.")
    return lines


def perplexity(losses: Sequence[float], seed: int) -> dict[str, Any]:
    """A cell: exp of the mean loss and, from two blocks on, its bootstrap interval."""
    cell: dict[str, Any] = {"value": _exp(sum(losses) / len(losses)), "n": len(losses)}
    if len(losses) > 1:
        low, high = bootstrap(losses, seed)
        cell.update(low=_exp(low), high=_exp(high))
    return cell


def _exp(loss: float) -> float:
    return exp(loss) if loss < 700 else inf


def _notes(
    shape: ModelConfig, lengths: dict[float, int], blocks: Sequence[Block], config: ExtendConfig
) -> list[str]:
    joined = sum(block.joined for block in blocks)
    size = max(lengths.values())
    sources = sorted({block.source for block in blocks})
    named = ", ".join(sources) if len(sources) <= 4 else f"{len(sources)} sources"
    notes = [
        "Published rows: arXiv text, trained at 2048; a column is the same multiple of the training length in all rows.",
        f"Ours: {shape.num_parameters:,} parameters trained at {shape.max_length}; {len(blocks)} blocks of {size} "
        f"held-out tokens from {named}; every length reads the same text; intervals are 95 % bootstrap over blocks.",
        f"Windows by layer: {', '.join(map(str, config.windows or layer_windows(shape.max_length, shape.num_layers)))}.",
    ]
    if joined:
        notes.append(
            f"{joined} of {len(blocks)} blocks are documents of one source joined, since single ones are shorter than "
            f"{size} tokens: there a longer context cannot lower perplexity much, it can only do harm."
        )
    dropped = [f"{m:g}x" for m in config.multiples if m not in lengths]
    if dropped:
        notes.append(f"No source holds enough held-out text for {', '.join(dropped)}.")
    return notes


def _samples(table: dict[str, Any], lengths: dict[float, int]) -> list[dict[str, str]]:
    """One line a technique for whoever watches: the perplexities from short to long."""
    columns = [column["name"] for column in table["columns"]]
    return [
        {
            "label": row["model"],
            "text": "  ".join(f"{c}: {row['cells'][c]['value']:.4g}" for c in columns),
        }
        for row in table["rows"]
        if row["origin"] == "ours"
    ]


def draw(table: dict[str, Any], lengths: dict[float, int]) -> str:
    """The table as curves (SVG): ours with intervals, the report's 7B rows dashed; on the right over its own 1x."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = {column["name"]: multiple for column, multiple in zip(table["columns"], lengths)}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "openqwen", "font.size": 9}):
        figure, panels = pyplot.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
        for row in table["rows"]:
            if row["model"].startswith("Qwen-14B"):
                continue
            points = {columns[name]: cell for name, cell in row["cells"].items()}
            _curve(panels[0], row, points, 1.0)
            _curve(panels[1], row, points, points[1]["value"])
        for axes, label in zip(panels, ("perplexity", "perplexity / perplexity at 1x")):
            axes.set(xscale="log", yscale="log", xlabel="length / training length", ylabel=label)
            axes.set_xticks(list(lengths), [f"{m:g}x" for m in lengths])
            axes.minorticks_off()
            axes.grid(alpha=0.25)
        panels[0].legend(fontsize=6, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curve(axes: Any, row: Mapping[str, Any], points: Mapping[float, Mapping[str, Any]], unit: float) -> None:
    """One row of the table, its values divided by `unit`."""
    colour = ("#7a7a7a", "#d9822b", "#3d7fc1", "#2b8a6f")[row["model"].count("+")]
    style = "--" if row["origin"] == "published" else "o-"
    x, y = list(points), [cell["value"] / unit for cell in points.values()]
    axes.plot(x, y, style, color=colour, label=row["model"], linewidth=1, markersize=3)
    if all("low" in cell for cell in points.values()):
        low, high = ([cell[end] / unit for cell in points.values()] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
