"""Settings of the math stage. Report §5.1 gives none of them."""

from __future__ import annotations

from typing import Literal

from openqwen.core.config import Config, Count, setting
from openqwen.data.config import DecontaminateConfig


class MathConfig(Config):
    """Instruction data of mathematics."""

    seed: int = setting(0, source="ours")
    count: int = setting(5000, source="ours", doc="problems made from templates", ge=0)
    langs: tuple[Literal["en", "zh"], ...] = setting(
        ("en", "zh"), source="report §2.1", doc="languages of those, mostly English and Chinese"
    )
    largest: int | None = setting(
        None, source="ours", doc="largest number in a problem made or in its working; none is no limit", gt=0
    )
    heldout: float = setting(
        0.05, source="ours", doc="share of the made problems that is held out", ge=0, lt=1
    )
    max_paths: int = setting(
        4, source="ours", doc="sampled paths kept for a problem, the shortest first", ge=1
    )
    decontaminate: DecontaminateConfig = setting(
        DecontaminateConfig(), source="report §2.1", doc="what overlaps with evaluation sets is dropped"
    )
    max_bad_share: float = setting(0.1, source="ours", doc="share of unreadable problems allowed", ge=0, le=1)
    max_tries: Count = setting(
        20, source="ours", doc="draws for each new problem before a family is exhausted", gt=0
    )
