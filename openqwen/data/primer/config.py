"""Settings of the primer: the seed and how much of everything. Torch-free.

Ours: the report does not describe its data in numbers; these sizes suit two processor cores and minutes.
"""

from __future__ import annotations

from openqwen.core.config import Config, Count, setting


class PrimerConfig(Config):
    """How much to generate. The same settings give the same bytes on every machine."""

    seed: int = setting(1, source="ours", doc="decides the invented world and every choice made in it")
    pages: Count = setting(3600, source="ours", gt=99, doc="pages, planted ones included")
    chinese: float = setting(0.35, source="ours", ge=0.0, le=1.0, doc="share of items in Chinese")
    exact_duplicates: float = setting(0.04, source="ours", ge=0.0, le=0.2, doc="share of pages")
    near_duplicates: float = setting(0.04, source="ours", ge=0.0, le=0.2, doc="share of pages")
    boilerplate: float = setting(0.03, source="ours", ge=0.0, le=0.2, doc="share of pages without content")
    spam: float = setting(0.03, source="ours", ge=0.0, le=0.2, doc="share of pages")
    offensive: float = setting(0.02, source="ours", ge=0.0, le=0.2, doc="share of pages with rude words")
    other_language: float = setting(
        0.03, source="ours", ge=0.0, le=0.2, doc="share neither English nor Chinese"
    )
    leak: float = setting(0.01, source="ours", ge=0.0, le=0.1, doc="share of pages with benchmark items")
    sft_train: Count = setting(4000, source="ours", gt=0, doc="demonstrations")
    sft_heldout: Count = setting(240, source="ours", gt=0, doc="questions kept away from all training files")
    courteous: float = setting(
        0.4, source="ours", ge=0.0, le=1.0, doc="share of demonstrations that close courteously: PPO's room"
    )
    tools_train: Count = setting(1200, source="ours", gt=0, doc="tool-use traces")
    tools_heldout: Count = setting(240, source="ours", gt=0, doc="tool-use questions kept away from training")
    tools_negative: float = setting(
        0.25, source="ours", ge=0.0, le=0.9, doc="share of tool questions that need no tool"
    )
    pmp_pairs: Count = setting(3600, source="ours", gt=0, doc="rough comparisons for preference pretraining")
    pmp_noise: float = setting(0.25, source="ours", ge=0.0, lt=0.5, doc="share of those with swapped labels")
    pairs_train: Count = setting(2000, source="ours", gt=0, doc="clean comparisons for the reward model")
    pairs_heldout: Count = setting(300, source="ours", gt=0, doc="comparisons kept away from training")
    prompts_train: Count = setting(1000, source="ours", gt=0, doc="PPO prompts")
    prompts_heldout: Count = setting(200, source="ours", gt=0, doc="PPO prompts kept away from training")
