"""The instructions that come with this project: English and Chinese, the report's five topics.

Report §3.3: 300 instructions over knowledge, language understanding, creative writing, coding and mathematics. They are not
public; these are ours, written for this project, and free for any use (CC0-1.0, as each record says).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import UsageError

FILE = Path(__file__).with_name("instructions.jsonl")
TOPICS = ("knowledge", "language understanding", "creative writing", "coding", "mathematics")
LANGUAGES = ("en", "zh")


def select(language: str | None = None, topic: str | None = None) -> list[dict[str, Any]]:
    """Records {"id", "task", "lang", "instruction", "licence"} of a language and a topic, or of all.

    UsageError for a language or a topic that is not there.
    """
    for value, known, flag in ((language, LANGUAGES, "--lang"), (topic, TOPICS, "--topic")):
        if value is not None and value not in known:
            raise UsageError(f"{value!r} is not there", where=flag, fix=f"one of {', '.join(known)}")
    return [
        record
        for record in read_jsonl(FILE)
        if language in (None, record["lang"]) and topic in (None, record["task"])
    ]
