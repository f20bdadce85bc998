"""The tokenizer stage: text -> vocabulary, with all its files and a first measurement.

Report §2.2, Figure 3. Text is a corpus artefact or files as they are; it is streamed, and what is held is one count for
each distinct piece. Compression is measured on text that was not learnt from: a corpus's validation split, or of
files the share `held_out` of the documents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact, Run, find, open_inputs, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError, UsageError
from openqwen.data.documents import Bad
from openqwen.tokenizer import compression, texts, train
from openqwen.tokenizer.config import NUM_SPECIAL, TokenizerConfig
from openqwen.tokenizer.count import count_pieces
from openqwen.tokenizer.export import readable
from openqwen.tokenizer.ranks import read_ranks
from openqwen.tokenizer.tokenizer import Tokenizer

KIND = "tokenizer"
SAMPLES = {
    "en": "The report splits digits one by one: 2023.",
    "zh": "数字逐个切分：2023 年。",
    "code": "def add(a, b):\n    return a + b\n",
}


def run(resolved: Resolved[TokenizerConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Learns the vocabulary. inputs: "base" (optional: a ranks file to augment); all others are text.

    "corpus" must be a corpus artefact, other names ("text", "text-2", ...) may be files and folders too.
    """
    opened = open_inputs(inputs, {"corpus": "corpus"})
    paths = [path for name, path in inputs.items() if name != "base"]
    if not paths:
        raise UsageError(
            "no text to learn from", fix="name a corpus artefact with --corpus or files with --text"
        )
    with stage_run(out, KIND, resolved, opened) as run:
        config = resolved.config
        base = _base(inputs.get("base"))
        began = time.monotonic()
        bad = Bad(texts.BAD_FRACTION)
        counts = count_pieces(_shown(texts.training_texts(paths, config.held_out, bad)), config.workers)
        if not counts:
            raise DataError("there is no text to learn from", where=", ".join(map(str, paths)))
        counted = time.monotonic()
        merges = _learn(counts, config, base)
        learnt = time.monotonic()
        tokenizer = Tokenizer(train.extended(base, merges))
        tokenizer.save(run.path)
        held_out = texts.held_out_documents(paths, config.held_out)
        result = compression.measure({"ours": tokenizer.encode_batch}, held_out, base=compression.BYTES)
        write_json(run.path / "compression.json", result)
        write_jsonl(run.path / "samples.jsonl", _samples(tokenizer, merges))
        run.fact(
            vocab_size=tokenizer.vocab_size,
            merges=len(merges),
            merges_missing=config.vocab_size - tokenizer.vocab_size,
            distinct_pieces=len(counts),
            bytes_per_token=_bytes_per_token(result),
            seconds_counting=round(counted - began, 2),
            seconds_learning=round(learnt - counted, 2),
            encoder=tokenizer.encoder,
            skipped=bad.reasons,
        )
        _log_shortfall(run, config, tokenizer)
        for record in bad.records:
            run.log(f"skipped {record['where']}: {record['reason']}")
    found = find(out)
    assert found is not None
    return found


def _base(path: Path | None) -> dict[bytes, int]:
    if path is None:
        return train.byte_ranks()
    return train.without_digit_runs(read_ranks(path))


def _shown(stream: Iterator[str]) -> Iterator[str]:
    """The texts, with a line that shows how far reading has come."""
    with Progress("count", total=1) as bar:
        size = 0
        for number, text in enumerate(stream, 1):
            size += len(text)
            bar.update(0, documents=number, megacharacters=round(size / 1e6, 1))
            yield text


def _learn(counts: Any, config: TokenizerConfig, base: dict[bytes, int]) -> list[train.Merge]:
    wanted = config.vocab_size - NUM_SPECIAL - len(base)
    if wanted < 0:
        raise DataError(
            f"the base vocabulary has {len(base)} tokens, more than vocab_size - {NUM_SPECIAL} = "
            f"{config.vocab_size - NUM_SPECIAL}",
            fix=f"set vocab_size to at least {len(base) + NUM_SPECIAL}",
        )
    with Progress("merges", wanted) as bar:
        return train.train(counts, wanted, base, config.min_count, progress=bar.update)


def _bytes_per_token(result: dict[str, Any]) -> dict[str, float]:
    return {
        row["name"]: row["bytes_per_token"]["ours"]
        for row in result["groups"]
        if row["by"] in ("all", "lang") and "ours" in row["bytes_per_token"]
    }


def _samples(tokenizer: Tokenizer, merges: list[train.Merge]) -> list[dict[str, str]]:
    shown = [readable(left + right) for left, right in [*merges[:12], *merges[-12:]]]
    pieces = {
        label: " ".join(readable(tokenizer.token_bytes(i)) for i in tokenizer.encode(text))
        for label, text in SAMPLES.items()
    }
    return [
        {"label": "first merges", "text": " ".join(shown[:12])},
        {"label": "last merges", "text": " ".join(shown[12:])},
        *({"label": f"tokens ({label})", "prompt": SAMPLES[label], "text": t} for label, t in pieces.items()),
    ]


def _log_shortfall(run: Run, config: TokenizerConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size < config.vocab_size:
        run.log(
            f"the corpus gave {tokenizer.vocab_size} ids instead of {config.vocab_size}: "
            f"no further pair occurs {config.min_count} times"
        )
