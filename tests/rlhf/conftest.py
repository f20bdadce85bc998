"""The toy world of letters for the alternatives to PPO: a policy, a reward model, prompts, pairs and text."""

from __future__ import annotations

from pathlib import Path

import letters
import pytest
import tiny_artefacts as tiny

from openqwen.core.config import resolve
from openqwen.reward.config import RewardConfig
from openqwen.reward.loop import run as train_reward


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("letters")
    policy = letters.policy(folder / "chat")
    pairs = letters.pairs(folder / "pairs.jsonl", 0, 900)
    heldout = letters.pairs(folder / "heldout.jsonl", 1, 50)
    settings = {"batch_size": 32, "micro_batch": 32, "max_length": 64, "optim.lr": 3e-3}
    resolved = resolve(RewardConfig, "reward", flags=settings, environ={})
    train_reward(resolved, {"model": policy, "pairs": pairs, "heldout": heldout}, folder / "rm")
    return {
        "policy": policy,
        "reward": folder / "rm",
        "pairs": pairs,
        "heldout": heldout,
        "prompts": letters.prompts(folder / "prompts.jsonl"),
        "tokens": tiny.tokens_artefact(folder / "tokens", tiny.sums(0, 300), tiny.sums(1, 20)),
    }
