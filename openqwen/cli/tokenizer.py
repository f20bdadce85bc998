"""`openqwen tokenizer`: vocabularies (report §2.2)."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage
from openqwen.core.config import parse_count
from openqwen.core.console import console, error_console, note
from openqwen.core.errors import DataError, Interrupted, UsageError

if TYPE_CHECKING:
    from openqwen.tokenizer.others import Other

_TEXT = "File or folder of text, program sources, JSON lines or Parquet (also .gz, .zst); may be repeated."
app = App(name="tokenizer", help="§2.2  Train a vocabulary; compare compression (Figure 3).")


@app.command
def train(
    *settings: Settings,
    out: Out,
    corpus: Path | None = None,
    text: Annotated[list[Path] | None, Parameter(negative="", help=_TEXT)] = None,
    base: Annotated[Path | None, Parameter(help="Ranks file (.tiktoken) to augment.")] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Learns a byte-level BPE vocabulary from a corpus artefact or from files, from scratch or on top of --base."""
    named = {"text" if number == 1 else f"text-{number}": path for number, path in enumerate(text or (), 1)}
    return run_stage("tokenizer", {"corpus": corpus, **named, "base": base}, out, settings, recipe, plan)


@app.command
def check(
    path: Path,
    *,
    encoder: Annotated[
        Literal["gigatoken", "tiktoken"] | None,
        Parameter(help="Engine in use; none: the faster one that proves equal."),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> int:
    """Checks a tokenizer: its files, its engines on every code point, its exported layout in other programs.

    Exit code 1 if anything differs that Unicode versions do not explain.
    """
    from openqwen.tokenizer.check import check as findings
    from openqwen.tokenizer.unicode import described

    seen = []
    for finding in findings(path, encoder, lambda doing: error_console.print(f"  {doing} ...", style="dim")):
        seen.append(finding)
        if not as_json:
            note(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.text}")
            for first, last in finding.difference.ranges() if finding.difference else ():
                note(f"        {described(first, last)}")
    if as_json:
        sys.stdout.write(json.dumps([finding.record() for finding in seen], ensure_ascii=False) + "\n")
    return int(not all(finding.ok for finding in seen))


_TOKENIZERS = (
    "NAME=PATH or PATH: an artefact or model of ours, a Hugging Face folder or tokenizer.json, a sentencepiece "
    "model, tiktoken ranks. NAME=PATH@cl100k (o200k, gpt2, qwen) says how unpublished ranks cut text."
)
_MOST_DRAWN = 250  # groups; more is no figure


def _count(_: type, tokens: Sequence[Any]) -> int:
    number = parse_count(tokens[0].value)
    if not isinstance(number, int):
        raise ValueError(f"{number!r} is no count, such as 20000 or 20k")
    return number


@app.command
def compare(
    *tokenizers: Annotated[str, Parameter(help=_TOKENIZERS)],
    text: Annotated[
        list[Path], Parameter(negative="", help=f"Corpus artefact, or {_TEXT[0].lower()}{_TEXT[1:]}")
    ],
    base: Annotated[str, Parameter(help="Name whose rate is 1; bytes: one token a byte.")] = "bytes",
    by: Annotated[Literal["lang", "source"], Parameter(help="What a row is.")] = "lang",
    split: Annotated[Literal["train", "valid"], Parameter(help="Part of a corpus artefact.")] = "valid",
    min_bytes: Annotated[
        int, Parameter(converter=_count, help="Languages with less text are left out; 20k is 20000.")
    ] = 0,
    out: Annotated[Path | None, Parameter(help="Folder for compression.json and figure3.svg.")] = None,
) -> int:
    """Figure 3: bytes per token and the rate against a base, for each language of a text."""
    from openqwen.tokenizer import compression
    from openqwen.tokenizer.others import load_other

    chosen = _named(tokenizers)
    compression.check_base(base, [*chosen, compression.BYTES])
    if not set(chosen) - {base}:
        beside = f" beside the base {base!r}" if chosen else ""
        raise UsageError(
            f"no tokenizer to measure{beside}", fix="openqwen tokenizer compare NAME=PATH --text PATH"
        )
    _check_paths(text, out)
    loaded = {name: load_other(path, pattern) for name, (path, pattern) in chosen.items()}
    for name in [name for name, other in loaded.items() if other.guessed]:
        note(
            f"{name}: unpublished ranks, read as Qwen cuts text; otherwise {name}=PATH@cl100k, @o200k or @gpt2"
        )
    try:
        result = _measure(loaded, text, split, base, by, min_bytes)
    except KeyboardInterrupt:
        raise Interrupted("interrupted before the end of the text; nothing was written") from None
    if out is not None:  # before printing, which ends where a reader such as head has had enough
        _write(out, result)
    _print(compression.table(result, by), result, out)
    return 0


def _named(words: Sequence[str]) -> dict[str, tuple[Path, str | None]]:
    """`["PATH", "NAME=PATH@PATTERN"]` -> {name: (path, pattern)}; a file's own name serves where none is given."""
    found: dict[str, tuple[Path, str | None]] = {"bytes": (Path("bytes"), None)}
    for word in words:
        name, equals, rest = word.partition("=")
        if not equals or Path(word).exists():
            name, rest = "", word
        path, at, pattern = rest.rpartition("@")
        if not at or "/" in pattern or Path(rest).exists():
            path, pattern = rest, ""
        name = name or Path(path).stem
        if not name or not path:
            raise UsageError(f"{word!r} names no tokenizer", fix="write NAME=PATH or PATH")
        if name in found:
            raise UsageError(f"the name {name!r} is taken already", where=word, fix=f"OTHER-NAME={rest}")
        found[name] = Path(path), pattern or None
    del found["bytes"]
    return found


def _check_paths(text: Sequence[Path], out: Path | None) -> None:
    """Says at once what would otherwise come to light after the measurement."""
    from openqwen.core.artifact import unwritable
    from openqwen.tokenizer.others import similar

    for path in text:
        if not path.exists():
            raise DataError("no text there." + similar(path), where=str(path), fix="name a file or folder")
    if out is None:
        return
    if (out / "DONE").exists():
        raise UsageError(
            "a finished artefact is not written into", where=f"--out {out}", fix="another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error


def _measure(
    loaded: Mapping[str, Other], text: Sequence[Path], split: str, base: str, by: str, min_bytes: int
) -> dict[str, Any]:
    from openqwen.data.documents import Bad
    from openqwen.tokenizer import compression, texts

    bad, seen = Bad(texts.BAD_FRACTION), hashlib.sha256()
    result = compression.measure(
        {name: other.encode for name, other in loaded.items()},
        _watched(texts.documents(text, split, bad), seen),
        (by,),
        base,
        {name: other.unknown for name, other in loaded.items()},
        min_bytes,
    )
    if not any(row["bytes"] for row in result["groups"]):
        raise DataError("there is no text to measure on", where=", ".join(map(str, text)))
    for reason, number in bad.reasons.items():
        note(f"skipped {number}: {reason}")
    return {
        "figure": 3,
        "text": {"paths": list(map(str, text)), "split": split, "sha256": seen.hexdigest()},
        "made_with": {name: other.record() for name, other in loaded.items()},
        "min_bytes": min_bytes,
        **result,
    }


def _watched(stream: Iterable[Mapping[str, Any]], seen: Any) -> Iterator[Mapping[str, Any]]:
    """The documents, with a line on the terminal that shows how far reading has come; `seen` digests them."""
    size = 0
    with error_console.status("reading") as status:
        for number, document in enumerate(stream, 1):
            yield document
            data = document["text"].encode("utf-8", "surrogatepass")
            seen.update(data)
            size += len(data)
            status.update(f"measured {number:,} documents, {size / 1e6:,.1f} MB")


def _print(table: Any, result: Mapping[str, Any], out: Path | None) -> None:
    from rich.console import Console
    from rich.measure import Measurement

    from openqwen.tokenizer.compression import doubtful

    # Wider than a narrow terminal rather than cut: a table is for reading, and pipes have no width.
    width = Measurement.get(console, console.options.update(max_width=100_000), table).maximum
    Console(width=max(console.width, width), highlight=False).print(table, crop=False)
    base = result["base"]
    note(
        f"rate: tokens over those of {base} on the same text, lower is tighter (the base of the report is XLM-R)"
    )
    if any(doubtful(row, name) for row in result["groups"] for name in result["tokenizers"]):
        note("?: more than 1% of the tokens are unknown and swallow text; the number says little")
    if result["left_out"]:
        note(f"left out: {result['left_out']} with less than {result['min_bytes']:,} bytes")
    if out is not None:
        drawn = min(len(result["groups"]), _MOST_DRAWN)
        few = f" (the {drawn} largest groups)" if drawn < len(result["groups"]) else ""
        note(f"every number: {out / 'compression.json'}")
        note(f"Figure 3: {out / 'figure3.svg'}{few}")


def _write(out: Path, result: Mapping[str, Any]) -> None:
    from openqwen.core.artifact import write_atomic, write_json
    from openqwen.report import figures
    from openqwen.tokenizer.compression import BYTES, doubtful

    write_json(out / "compression.json", result)
    base = result["base"]
    large = sorted((row["bytes"] for row in result["groups"]), reverse=True)[:_MOST_DRAWN]
    drawn = [row for row in result["groups"] if row["bytes"] >= large[-1]]
    names = [name for name in result["tokenizers"] if name not in (base, BYTES)]
    svg = figures.compression(
        [row["name"] for row in drawn],
        {name: [row["rate"].get(name) for row in drawn] for name in names},
        base,
        {name: [doubtful(row, name) or doubtful(row, base) for row in drawn] for name in names},
    )
    write_atomic(out / "figure3.svg", figures.standalone(svg))
