"""Settings of the evaluation stage. Torch-free.

Report §2.6 and §3.3 (greedy decoding, few-shot and zero-shot); sizes are ours.
"""

from __future__ import annotations

from typing import Literal

from openqwen.core.config import Config, Count, setting


class EvalsConfig(Config):
    """Which part of each item set is used, and how it is decoded."""

    seed: int = setting(1, source="ours", doc="choice of items and bootstrap intervals")
    choice_items: Count = setting(60, source="ours", gt=0, doc="items of each multiple-choice set")
    text_items: Count = setting(40, source="ours", gt=0, doc="items of each set answered in text")
    code_items: Count = setting(20, source="ours", gt=0, doc="items of each set answered in code")
    heldout_items: Count = setting(300, source="ours", gt=0, doc="held-out questions for the chat models")
    preference_items: Count = setting(200, source="ours", gt=0, doc="held-out prompts for Figure 4")
    max_tokens: Count = setting(64, source="ours", gt=0, doc="longest reply to a question")
    quantise: Literal["int8", "int4"] | None = setting(
        None, source="ours", doc="bits of the models' weights (model/quantise.py); None: as they are"
    )
    cache: Literal["int8"] | None = setting(
        None, source="ours", doc="bits of keys and values (model/cache_format.py); None: as the weights"
    )
    batch_size: int = setting(64, source="ours", gt=0, doc="sequences generated together")
    address_bytes: int = setting(
        24_000, source="ours", gt=0, doc="longest prompt for a model behind an address, in bytes of UTF-8"
    )
    address_parallel: int = setting(4, source="ours", gt=0, doc="requests at once to an address")
    margin: float = setting(
        0.25, source="ours", ge=0, doc="true scores closer than this are a tie (Figure 4)"
    )
    resamples: Count = setting(1000, source="ours", gt=0, doc="bootstrap resamples of an interval")
