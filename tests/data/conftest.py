"""A small primer, and the corpus of it that all ways to run must give."""

from __future__ import annotations

from pathlib import Path

import pytest
from shard_bench import SHARDS, resolved

from openqwen.core.artifact import Artifact
from openqwen.data.config import DataConfig
from openqwen.data.primer.config import PrimerConfig
from openqwen.data.primer.stage import run as run_primer
from openqwen.data.stage import run


@pytest.fixture(scope="session")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("primer") / "primer"
    few = dict.fromkeys(
        ["sft_train", "sft_heldout", "tools_train", "tools_heldout", "pmp_pairs", "pairs_train", "pairs_heldout",
         "prompts_train", "prompts_heldout"], 20,
    )  # fmt: skip
    run_primer(resolved(PrimerConfig, "primer", pages=500, leak=0.02, **few), {}, out)
    return out


@pytest.fixture(scope="session")
def in_process(primer: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Several shards and several parts of every exchange, one after the other in this process."""
    out = tmp_path_factory.mktemp("cut") / "corpus"
    return run(resolved(DataConfig, "data", runner__how="in-process", **SHARDS), {"primer": primer}, out)
