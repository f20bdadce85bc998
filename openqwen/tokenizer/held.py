"""Text to measure on: documents as they are become a tokens artefact that has a valid split and nothing to train on.

Ours. For measurements that read text of one's own, such as long documents (report §2.5), without building a corpus of
it. Of a corpus artefact the valid split is taken, of files every document.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openqwen.core.artifact import Artifact, current, find, open_inputs, stage_run, write_json
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError
from openqwen.data.documents import Bad
from openqwen.tokenizer import texts
from openqwen.tokenizer.config import PackConfig
from openqwen.tokenizer.load import load_tokenizer
from openqwen.tokenizer.pack import KIND, SPLITS, SplitWriter, batches, shards_meta


def pack_documents(documents: Path, tokenizer: Path, out: Path) -> Artifact:
    """Packs a corpus artefact's valid split, or a file or folder of text, JSON lines and Parquet, into `out`.

    tokenizer: a tokenizer artefact, a ranks file, or a model's folder that holds one. An artefact that is already made
    of the same is returned as it is. DataError where there is no text or no tokenizer.
    """
    paths = {"documents": documents, "tokenizer": tokenizer}
    inputs = {name: (find(path) if path.is_dir() else None) or path for name, path in paths.items()}
    config = PackConfig()
    if documents.exists() and tokenizer.exists() and (made := current(out, KIND, config, inputs)):
        return made
    open_inputs(paths, {})
    try:
        encoder = load_tokenizer(tokenizer)
    except DataError as error:
        raise DataError(
            error.what, where=error.where, fix="name the model's tokenizer with --tokenizer"
        ) from error
    bad = Bad(texts.BAD_FRACTION)
    with stage_run(out, KIND, Resolved(config, {}), inputs, fresh=True) as run:
        writers = {split: SplitWriter(run, split, encoder, config.shard_tokens) for split in SPLITS}
        found = texts.documents([documents], "valid", bad)
        for batch in batches(_numbered(found), config.batch_bytes):
            writers["valid"].write(batch)
        for writer in writers.values():
            writer.finish()
        written = {split: writer.done for split, writer in writers.items()}
        if not written["valid"].documents:
            raise DataError("there is no text to measure on", where=str(documents))
        write_json(run.path / "shards.json", shards_meta(run.path, encoder, written))
        shutil.rmtree(run.checkpoints)
        run.fact(documents=written["valid"].documents, tokens=written["valid"].tokens, skipped=bad.reasons)
    artifact = find(out)
    assert artifact is not None
    return artifact


def _numbered(found: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, document in enumerate(found, 1):
        yield {"id": str(number), **document}
