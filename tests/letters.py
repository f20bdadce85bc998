"""A toy world of letters: a policy that answers with random letters, and people who like the letter a.

The true reward of a reply is the number of its a's among its first eight letters, so it can be known exactly.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny_artefacts as tiny
import torch

from openqwen.chat import chatml
from openqwen.core.artifact import stage_run
from openqwen.core.config import Resolved
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.model.weights import save_model
from openqwen.train.padding import right_pad

LETTERS = "abcd"
SHAPE = ModelConfig(
    vocab_size=464, hidden_size=32, num_layers=2, num_heads=2, ffn_size=64, max_length=64, dynamic_ntk=False, logn=False
)  # fmt: skip


def liking(reply: str) -> int:
    """The true reward."""
    return reply[:8].count("a")


def word(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(3, 8)))


def query(number: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": ""}, {"role": "user", "content": f"{number}?"}]


def policy(path: Path, steps: int = 120) -> Path:
    """A model artefact whose replies are words of the four letters, ended properly."""
    rng, tok = random.Random(0), tiny.byte_tokenizer()
    with stage_run(path, "model", Resolved(tiny.NoSettings(), {}), {}):
        model = Qwen(SHAPE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            talks = [
                [*query(rng.randint(0, 99)), {"role": "assistant", "content": word(rng)}] for _ in range(16)
            ]
            rendered = [chatml.render(talk, tok) for talk in talks]
            ids, mask = right_pad([ids for ids, _ in rendered])
            trained, _ = right_pad([[int(t) for t in flags] for _, flags in rendered])
            labels = ids[:, 1:].masked_fill(trained[:, 1:] == 0, -100)
            loss = torch.nn.functional.cross_entropy(model(ids, mask)[:, :-1].flatten(0, 1), labels.flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        save_model(model, path)
        tok.save(path)
    return path


def pairs(path: Path, seed: int, count: int) -> Path:
    """Comparisons: the reply with more a's is preferred."""
    rng, records = random.Random(seed), []
    while len(records) < count:
        two = sorted((word(rng), word(rng)), key=liking)
        if liking(two[0]) < liking(two[1]):
            messages = query(rng.randint(0, 99))
            records.append({"task": "letters", "messages": messages, "chosen": two[1], "rejected": two[0]})
    return write(path, records)


def prompts(path: Path, count: int = 60) -> Path:
    return write(path, [{"id": str(i), "messages": query(i)} for i in range(count)])


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
