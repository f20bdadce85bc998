"""Finding a tokenizer in whatever a person points at.

Ours. A .tiktoken file, an artefact or a model folder of this project, a Hugging Face folder with qwen.tiktoken or a
tokenizer.json that splits text as Qwen does, or the name of such a model on the hub.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openqwen.core.artifact import check_intact
from openqwen.core.errors import DataError
from openqwen.core.hub import local_folder
from openqwen.tokenizer.encoders import Name
from openqwen.tokenizer.pattern import QWEN_PATTERN
from openqwen.tokenizer.ranks import from_letters, read_ranks
from openqwen.tokenizer.tokenizer import Tokenizer

_RANK_FILES = ("vocab.tiktoken", "qwen.tiktoken")


def load_tokenizer(path: Path | str, *, encoder: Name | None = None) -> Tokenizer:
    """The tokenizer at a path: ranks file, tokenizer.json, or a folder or model of the hub that holds one of them."""
    path = local_folder(path, weights=False)
    if path.is_file():
        return _from_json(path, encoder) if path.suffix == ".json" else _from_ranks(path, encoder)
    if not path.is_dir():
        raise DataError("no tokenizer there", where=str(path), fix="check the path")
    for name in _RANK_FILES:
        if (path / name).is_file():
            return _from_ranks(path / name, encoder)
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json", encoder)
    raise DataError(
        "the folder holds no tokenizer",
        where=str(path),
        fix=f"one of {', '.join(_RANK_FILES)}, tokenizer.json is needed",
    )


def _from_ranks(path: Path, encoder: Name | None) -> Tokenizer:
    """A ranks file, with the special.json beside it if there is one, else with Qwen's 208 special tokens."""
    beside = path.with_name("special.json")
    special = None
    check_intact(path)
    if path.name == "vocab.tiktoken" and beside.is_file():
        check_intact(beside)
        special = _read_json(beside)
        if not isinstance(special, dict) or not all(isinstance(i, int) for i in special.values()):
            raise DataError("special.json must map names to ids", where=str(beside))
    return Tokenizer(read_ranks(path), special, encoder=encoder)


def _from_json(path: Path, encoder: Name | None) -> Tokenizer:
    """A Hugging Face tokenizer.json of the byte-level kind with Qwen's pattern."""
    data = _read_json(path)
    try:
        model, added = data["model"], data["added_tokens"]
        if model["type"] != "BPE" or _patterns(data["pre_tokenizer"]) != [QWEN_PATTERN]:
            _refuse_pattern(path, model["type"])
        special = {token["content"]: token["id"] for token in added}
        ranks = {from_letters(text): i for text, i in model["vocab"].items() if text not in special}
    except (KeyError, TypeError) as error:
        raise DataError(f"not a byte-level tokenizer.json: {error!r}", where=str(path)) from error
    return Tokenizer(dict(sorted(ranks.items(), key=lambda item: item[1])), special, encoder=encoder)


def _patterns(part: Any) -> list[str]:
    """All regular expressions inside a pre_tokenizer description."""
    if isinstance(part, dict):
        found = [part["Regex"]] if isinstance(part.get("Regex"), str) else []
        return found + [p for value in part.values() for p in _patterns(value)]
    return [p for value in part for p in _patterns(value)] if isinstance(part, list) else []


def _refuse_pattern(path: Path, kind: str) -> None:
    raise DataError(
        f"this tokenizer ({kind}) does not cut text as Qwen does: its ids would be wrong here",
        where=str(path),
        fix="use a folder with qwen.tiktoken, or a Qwen tokenizer.json",
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"not readable JSON: {error}", where=str(path)) from error
