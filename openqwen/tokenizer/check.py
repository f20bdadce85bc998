"""Whether a tokenizer is sound: its files, its engines against the readable twin, its exported layout in other programs.

Report §2.2; the checks are ours. Differences that come from Unicode versions (see unicode.py) are listed and allowed:
they touch only characters that one of the two libraries does not know. Any other difference is a failure.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openqwen.tokenizer import unicode
from openqwen.tokenizer.encoders import PROBE, Name, disagreement, make_encoder
from openqwen.tokenizer.export import find_merges, tokenizer_json
from openqwen.tokenizer.load import load_tokenizer
from openqwen.tokenizer.tokenizer import Tokenizer

Step = Callable[[str], object]
_REFERENCE: Name = "tiktoken"  # what the released tokenizer cuts with
_OTHERS: tuple[Name, ...] = ("gigatoken",)


@dataclass(frozen=True)
class Finding:
    """One answer: what was looked at, whether it is sound, what was seen; `difference` if code points were compared."""

    name: str
    ok: bool
    text: str
    difference: unicode.Difference | None = None

    def record(self) -> dict[str, Any]:
        """As JSON; code points are pairs of first and last."""
        found: dict[str, Any] = {"name": self.name, "ok": self.ok, "text": self.text}
        if self.difference:
            found["versions"] = [self.difference.left.unicode, self.difference.right.unicode]
            found["ranges"] = unicode.ranges(self.difference.points)
            found["unexplained"] = unicode.ranges(self.difference.unexplained)
        return found


def check(path: Path | str, encoder: Name | None = None, step: Step = str) -> Iterator[Finding]:
    """Findings as they come. DataError if there is no whole tokenizer at the path. step: told what comes next.

    Where there is no tokenizer.json at the path, the one that export.py makes is judged.
    """
    step("loading")
    tokenizer = load_tokenizer(path, encoder=encoder)
    yield _files(tokenizer)
    for name in (_REFERENCE, *_OTHERS):
        if name == _REFERENCE or find_spec(name):
            yield _probe_texts(name, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(path) if Path(path).suffix == ".json" else Path(path, "tokenizer.json")
        if not file.is_file():
            step("exporting")
            file = Path(folder, "tokenizer.json")
            file.write_text(json.dumps(tokenizer_json(tokenizer, find_merges(tokenizer.ranks))), "utf-8")
        step("loading the exported layout")
        yield from _exported(file, tokenizer)
        data = json.loads(file.read_bytes())
    yield from _code_points(tokenizer.encoder, data, step)


def _files(tokenizer: Tokenizer) -> Finding:
    text = (
        f"{len(tokenizer.ranks)} ranks without a gap, {len(tokenizer.special)} special tokens, "
        f"ids 0..{tokenizer.vocab_size - 1}; engine in use: {tokenizer.encoder}"
    )
    return Finding("files", True, text)


def _probe_texts(name: Name, tokenizer: Tokenizer) -> Finding:
    text = disagreement(make_encoder(tokenizer.ranks, name), tokenizer.ranks)
    seen = "equals the readable twin" if text is None else f"differs from the readable twin on {text!r}"
    unused = "" if name == tokenizer.encoder else " (not in use)"
    return Finding("probe texts", text is None or bool(unused), f"{name}{unused} {seen}")


def _exported(file: Path, tokenizer: Tokenizer) -> Iterator[Finding]:
    """The same vocabulary, and the same ids on the probe texts and special tokens in each program at hand."""
    import tokenizers

    same = load_tokenizer(file, encoder="tiktoken").content == tokenizer.content
    seen = "same tokens and ids as the vocabulary" if same else "other tokens or ids than the vocabulary"
    yield Finding("tokenizer.json", same, seen)
    core = tokenizers.Tokenizer.from_file(str(file))
    yield _same_ids("tokenizers", lambda text: core.encode(text, add_special_tokens=False).ids, tokenizer)
    if find_spec("transformers"):
        from transformers import PreTrainedTokenizerFast

        fast = PreTrainedTokenizerFast(tokenizer_file=str(file))
        yield _same_ids("transformers", lambda text: fast.encode(text, add_special_tokens=False), tokenizer)


def _same_ids(program: str, encode: Callable[[str], Sequence[int]], tokenizer: Tokenizer) -> Finding:
    for text in (*PROBE, "".join(tokenizer.special)):
        if list(encode(text)) != tokenizer.encode(text, allowed_special="all"):
            return Finding("exported ids", False, f"{program} gives other ids for {text!r}")
    return Finding(
        "exported ids", True, f"{program} gives the same ids on the probe texts and special tokens"
    )


def _code_points(used: Name, data: dict[str, Any], step: Step) -> Iterator[Finding]:
    """Every code point in context: cuts against the twin's and against tiktoken's, and normal forms."""
    engines = map(unicode.engine, dict.fromkeys((_REFERENCE, used)))
    readers = [unicode.twin(), *engines, unicode.exported(data)]
    found = unicode.survey(readers, unicode.CUTS, lambda name: step(f"cutting every code point: {name}"))
    for reference in (0, 1):  # the twin, tiktoken
        for other in range(reference + 1, len(readers)):
            yield _judged("cuts", found.between(reference, other))
    forms = [unicode.python_form(), unicode.exported_form(data)]
    found = unicode.survey(
        forms, unicode.FORMS, lambda name: step(f"normal form of every code point: {name}")
    )
    yield _judged("normal forms", found.between(0, 1))


def _judged(name: str, difference: unicode.Difference) -> Finding:
    left, right = difference.left, difference.right
    pair = f"{right.name} (Unicode {right.unicode}) and {left.name} (Unicode {left.unicode})"
    count, bad = len(difference.points), len(difference.unexplained)
    if not count:
        return Finding(name, True, f"{pair} agree on every code point", difference)
    why = f"{bad or 'none'} of them in Unicode {difference.older}" if difference.older else "versions unknown"
    return Finding(name, not bad, f"{pair} differ on {count} code points, {why}", difference)
