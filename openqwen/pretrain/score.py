"""`openqwen data score`: bits per byte of a corpus's documents under one of our models.

Report §2.1 scores text with language models and says no more; the procedure is ours. The beginning of each document is
read as in training, after an end-of-text token, in pieces of the model's length that know nothing of each other. A
score belongs to a text, not to a document's id: any build that meets the same text can use it.

    out/NAME/  scores.safetensors ("keys" uint64, sorted, and "bits" float64)  config.toml  manifest.json  DONE
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save

from openqwen.core.artifact import Artifact, find, open_inputs, stage_run, write_atomic
from openqwen.core.config import Resolved
from openqwen.core.errors import DataError
from openqwen.data import lm
from openqwen.data.account import COPIES, Account
from openqwen.data.config import ScoreConfig
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model
from openqwen.tokenizer import Tokenizer, load_tokenizer
from openqwen.train.precision import pick_device

_BEFORE = ("extract", "language", *COPIES)  # what these steps drop never comes to a model
_AT_ONCE = 512  # documents whose pieces are sorted by length together


def run(resolved: Resolved[ScoreConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """Scores every document of {"corpus"} that is no copy with {"model"}. DataError for a corpus without any."""
    config = resolved.config
    opened = open_inputs(inputs, {"corpus": "corpus", "model": "model"})
    corpus = opened["corpus"]
    assert isinstance(corpus, Artifact)  # open_inputs has looked
    account = Account(corpus)
    device = torch.device(config.device) if config.device else pick_device()
    model = load_model(inputs["model"], dtype=getattr(torch, config.dtype), device=device)
    tokenizer = load_tokenizer(inputs["model"])
    with stage_run(out, lm.SCORES, resolved, opened) as stage:
        keys: list[int] = []
        bits: list[np.ndarray] = []
        for heads in _heads(account, config.bytes):
            keys += map(lm.key, heads)
            bits.append(bits_per_byte(model, tokenizer, heads, config.batch))
        if not keys:
            raise DataError(
                "no document to score", where=str(corpus.path), fix="give a corpus with documents"
            )
        found, first = np.unique(np.array(keys, np.uint64), return_index=True)
        scores = np.concatenate(bits)[first]
        write_atomic(
            stage.path / lm.FILE, save({"keys": found, "bits": scores, "bytes": np.array([config.bytes])})
        )
        stage.fact(documents=len(keys), texts=len(found), mean=float(scores.mean()))
    made = find(out)
    assert made is not None  # stage_run has just written DONE
    return made


def _heads(account: Account, size: int) -> Iterator[list[bytes]]:
    """The beginnings of all documents that are no copies and have any text, some hundred at a time."""
    folders = [f for f in account.folders if f.removeprefix("dropped/") not in _BEFORE]
    heads = (lm.head(d.record["text"], size) for d in account.documents(folders, "score"))
    filled = (head for head in heads if head)
    while batch := list(islice(filled, _AT_ONCE)):
        yield batch


@torch.inference_mode()
def bits_per_byte(model: Qwen, tokenizer: Tokenizer, heads: Sequence[bytes], batch: int) -> np.ndarray:
    """Bits the model needs for each byte of each beginning (UTF-8, not empty), (heads,) float64."""
    length, device = model.config.max_length, model.head.weight.device
    pieces: list[tuple[int, np.ndarray, np.ndarray]] = []  # (which of them, ids read, ids predicted)
    for number, head in enumerate(heads):
        ids = np.array([tokenizer.eos_id, *tokenizer.encode(head.decode())], np.int64)
        pieces += [
            (number, ids[start : start + length], ids[start + 1 : start + length + 1])
            for start in range(0, len(ids) - 1, length)
        ]
    pieces = [(number, read[: len(said)], said) for number, read, said in pieces]
    pieces.sort(key=lambda piece: (len(piece[1]), piece[0]))
    nats = np.zeros(len(heads))
    for start in range(0, len(pieces), batch):
        part = pieces[start : start + batch]
        ids = np.full((len(part), len(part[-1][1])), tokenizer.eos_id, np.int64)
        for row, (_, read, _) in enumerate(part):
            ids[row, : len(read)] = read
        hidden = model.hidden(torch.from_numpy(ids).to(device))  # (B, T, C)
        for row, (number, _, said) in enumerate(part):
            logits = model.head(hidden[row, : len(said)]).float()  # (T, V)
            target = torch.from_numpy(said).to(device)
            nats[number] += float(F.cross_entropy(logits, target, reduction="sum"))
    return nats / math.log(2) / np.array([len(head) for head in heads])
