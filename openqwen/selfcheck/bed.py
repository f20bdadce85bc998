"""The test bed: a tiny model, token streams and conversations, and the shipped stages trained on them.

Ours. How gradients are had without touching the stages: with beta1 = 0 and no clipping AdamW's mean of gradients *is*
the last step's gradient, and every stage saves it in its checkpoint.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openqwen.core.artifact import Run
from openqwen.core.config import Config, Resolved
from openqwen.core.metrics import read_metrics
from openqwen.core.shards import Tokens
from openqwen.model.config import ModelConfig
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model, save_model
from openqwen.pretrain import loop as pretrain
from openqwen.pretrain.config import PretrainConfig
from openqwen.selfcheck.result import COMPILER_SECONDS
from openqwen.sft import loop as sft
from openqwen.sft.config import SFTConfig
from openqwen.sft.data import Sample, read_samples, split_heldout
from openqwen.tokenizer.tokenizer import Tokenizer
from openqwen.train.checkpoint import steps
from openqwen.train.distributed import World, stage
from openqwen.train.optimizer import make_optimizer
from openqwen.train.pieces import Pieces
from openqwen.train.precision import pick_device

SEED = 5
CONTEXT, ROWS = 24, 8  # of a step of pretraining
MAX_LENGTH = 300  # of a row of finetuning
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_size": 48,
    "max_length": CONTEXT,
    "init_std": 0.15,
}
# The gradient can be read (beta1 = 0, no clipping), and nothing is computed beside the training.
BARE: dict[str, Any] = {
    "optim": {"beta1": 0.0, "clip": 1e30},
    "schedule": {"warmup_steps": 0},
    "steps": 1,
    "precision": "fp32",
    "sample_tokens": 1,
}


def random_model(config: ModelConfig, seed: int = SEED) -> Qwen:
    """No parameter at its first value: biases not 0, norms not 1, attention far from even."""
    model = Qwen(config)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                spread = 0.3 if name.endswith("bias") else 0.2
                parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


@dataclass(frozen=True)
class Trained:
    """A run that has ended; its checkpoints are still there."""

    path: Path
    model: ModelConfig

    @property
    def loss(self) -> float:
        """Of its first step."""
        return next(r["loss"] for r in read_metrics(self.path / "metrics.jsonl") if "loss" in r)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Of its last step, by parameter; of a `BARE` run."""
        with torch.device("meta"):
            model = Qwen(self.model)
        names = {parameter: name for name, parameter in model.named_parameters()}
        optimizer = make_optimizer(model, PretrainConfig().optim)  # numbers the parameters as the run did
        numbered = [names[p] for group in optimizer.param_groups for p in group["params"]]
        stored = self._stored("adamw.optimizer")
        return {name: stored.whole(f"{i}.exp_avg") for i, name in enumerate(numbered)}

    @property
    def outcome(self) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients of a `BARE` run."""
        return self.loss, self.gradients

    @property
    def weights(self) -> dict[str, Tensor]:
        """After its last step."""
        stored = self._stored("model")
        return {name: stored.whole(name) for name in stored.names}

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights and all the optimizer keeps."""
        kept = self._stored("adamw.optimizer")
        return {**self.weights, **{f"adamw {name}": kept.whole(name) for name in kept.names}}

    def _stored(self, name: str) -> Pieces:
        return Pieces(steps(self.path / "checkpoints")[-1][1], name)


class Bed:
    """Everything checks work on, below one folder. world: where pretraining runs; None: alone on the best device.

    compiler_seconds: how long torch's code generator may take, counted from its start beside the other checks.
    """

    def __init__(
        self, folder: Path, world: World | None = None, compiler_seconds: float = COMPILER_SECONDS
    ) -> None:
        self.folder, self.compiler_seconds = folder, compiler_seconds
        self.device = pick_device() if world is None else world.device
        self.world = world or World(0, 1, self.device)
        self.background: dict[str, Any] = {}  # processes started before they are needed
        self._runs: dict[str, Trained] = {}

    def stop(self) -> None:
        """Ends what is still running."""
        for workers in self.background.values():
            workers.stop()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """A token a byte, and the special tokens."""
        return Tokenizer({bytes([b]): b for b in range(256)})

    @cached_property
    def config(self) -> ModelConfig:
        return ModelConfig(vocab_size=self.tokenizer.vocab_size, **SHAPE)

    @cached_property
    def base(self) -> Path:
        """The model every run begins with, as an artefact's folder."""
        path = self.folder / f"base-{self.world.rank}"
        save_model(random_model(self.config), path)
        self.tokenizer.save(path)
        return path

    def model(self, dtype: torch.dtype = torch.float32, **changes: Any) -> Qwen:
        """That model in memory, in training mode; extensions stay off."""
        return load_model(self.base, dtype=dtype, device=self.device, **changes).train()

    @cached_property
    def tokens(self) -> Tokens:
        """Documents of random bytes, each ended, in two shards."""
        return self._stream(SEED, 40)

    @cached_property
    def valid(self) -> Tokens:
        return self._stream(SEED + 1, 4)

    def _stream(self, seed: int, documents: int) -> Tokens:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(3, 60, documents)
        flat = rng.integers(32, 127, int(lengths.sum())).astype(np.uint16)
        ends = np.cumsum(lengths).astype(np.int64)
        flat[ends - 1] = self.tokenizer.eos_id
        return Tokens(np.array_split(flat, 2), ends, len(flat), {})

    @cached_property
    def conversations(self) -> list[list[dict[str, str]]]:
        """Of one to three turns and very different lengths, some with a system message, some with history."""
        rng = np.random.default_rng(SEED)
        word = lambda n: bytes(rng.integers(97, 123, n).tolist()).decode()  # noqa: E731
        found = []
        for number in range(14):
            messages = [{"role": "system", "content": f"Be {word(5)}."}] if number % 3 == 0 else []
            for _ in range(1 + number % 3):
                messages.append({"role": "user", "content": f"{word(rng.integers(1, 12))} 你?"})
                messages.append({"role": "assistant", "content": word(rng.integers(1, 30))})
            found.append(messages)
        return found

    @cached_property
    def conversations_file(self) -> Path:
        path = self.folder / "conversations.jsonl"
        lines = [json.dumps({"messages": messages}) for messages in self.conversations]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    @cached_property
    def samples(self) -> list[Sample]:
        """The conversations as finetuning reads them."""
        found, skipped = read_samples(self.conversations_file, "data", self.tokenizer, MAX_LENGTH, "report")
        if skipped:
            raise AssertionError(f"a good conversation was refused: {skipped[0].reason}")
        return found

    @cached_property
    def training(self) -> list[Sample]:
        """Those that finetuning trains on."""
        return split_heldout(self.samples, 1, SEED)[0]

    def pretrain(self, name: str, world: World | None = None, **settings: Any) -> Trained:
        """`BARE` pretraining with some settings changed. A run of a name is made once."""
        fixed = {
            "context": CONTEXT,
            "batch_tokens": CONTEXT * ROWS,
            "eval_tokens": 50,
            "prompts": (),
            "ngram_order": None,
            "seed": SEED,
        }
        config = PretrainConfig(**merged(BARE, fixed, settings))
        world = world or self.world

        def train(run: Run) -> None:
            pretrain.train(config, self.tokens, self.valid, self.tokenizer, self.base, run, world)

        return self._once(name, config, train, world)

    def finetune(self, name: str, rows: int, **settings: Any) -> Trained:
        """`BARE` finetuning on all conversations at once: `rows` rows."""
        fixed = {
            "max_length": MAX_LENGTH,
            "batch_size": rows,
            "heldout_samples": 1,
            "dropout": 0.0,
            "seed": SEED,
        }
        config = SFTConfig(**merged(BARE, fixed, settings))

        def train(run: Run) -> None:
            sft.train(config, self.samples, [], self.tokenizer, self.base, run, self.world)

        return self._once(name, config, train, self.world)

    def forget(self, name: str) -> None:
        """Lets a run of this name be made again: it goes on from its last checkpoint."""
        (self._runs.pop(name).path / "DONE").unlink()

    def _once(self, name: str, config: Config, train: Callable[[Run], None], world: World) -> Trained:
        if name not in self._runs:
            path = self.folder / name
            with alone(), stage(world, path, "model", Resolved(config, {}), {}) as run:
                train(run)
            self._runs[name] = Trained(path, self.config)
        return self._runs[name]


@contextmanager
def alone() -> Iterator[None]:
    """Runs a stage without a trace: what it prints, draws at random and forbids to torch ends here."""
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    with torch.random.fork_rng(), redirect_stdout(io.StringIO()):
        torch.set_num_threads(1)  # the model is tiny; and bits depend on the number of threads
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            torch.set_num_threads(threads)


def merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Later tables over earlier ones, nested ones key by key."""
    found: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged(found[key], value) if both else value
    return found
