"""Settings of the code stage. Report §4.1 gives none; published limits name their papers."""

from __future__ import annotations

from typing import Literal

from openqwen.core.config import Config, Count, setting
from openqwen.data.config import CodeConfig, DecontaminateConfig, DedupConfig

PERMISSIVE = (
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT", "PSF-2.0", "Unlicense",
    "Zlib",
)  # fmt: skip


class RepositoriesConfig(Config):
    """From source trees to documents of code."""

    seed: int = setting(0, source="ours")
    languages: tuple[str, ...] = setting((), source="ours", doc="kept (python, javascript, ...); empty: all")
    licences: tuple[str, ...] = setting(
        PERMISSIVE,
        source="ours (permissive ones, as The Stack's)",
        doc="SPDX names kept; empty: all, also none",
    )
    max_file_bytes: Count = setting(1_000_000, source="ours", doc="larger files are dropped", gt=0)
    max_undecoded: float = setting(
        0.01,
        source="ours",
        doc="share of U+FFFD in a file; beyond, its encoding is unknown",
        ge=0,
        le=1,
    )
    min_spaces: float = setting(
        0.02,
        source="ours",
        doc="share of spaces and line ends in a file that is not UTF-8; below, its encoding is unknown",
        ge=0,
        le=1,
    )
    limits: CodeConfig = setting(
        CodeConfig(), source="ours", doc="of lines and letters; beyond is minified or data"
    )
    generated: bool = setting(True, source="ours", doc="drop files that say they are generated")
    vendored: bool = setting(True, source="ours", doc="drop copies of other projects inside a project")
    secrets: bool = setting(
        True, source="ours", doc="replace keys, passwords, addresses, phone numbers and authors"
    )
    dedup: DedupConfig = setting(DedupConfig(), source="ours", doc="of files, within their language")
    decontaminate: DecontaminateConfig = setting(
        DecontaminateConfig(), source="report §2.1", doc="files that overlap with evaluation sets are dropped"
    )
    join: bool = setting(
        True,
        source="ours",
        doc="files of a repository in one document, what is imported first; false: one a file",
    )
    max_characters: Count = setting(
        30_000, source="ours", doc="of a document; about the 8192 tokens of report §4.1", gt=0
    )
    bad_fraction: float = setting(0.1, source="ours", doc="share of unreadable files allowed", ge=0, le=1)


class LongCodeConfig(Config):
    """Perplexity of long files of code by position, with and without their repository. Report §4 has no such table."""

    length: int | None = setting(
        None, source="ours", doc="tokens read at once; none: what the model was trained with", ge=32
    )
    share: float = setting(
        0.5, source="ours", doc="of them that files of the repository may take", gt=0, lt=1
    )
    buckets: int = setting(5, source="ours", doc="columns, each twice as wide as the one before", ge=2, le=12)
    files: int = setting(64, source="ours", doc="read at most", gt=0)
    per_repository: int = setting(8, source="ours", doc="files of one repository at most", gt=0)
    dtype: Literal["float32", "bfloat16"] = setting("float32", source="ours")
    device: str | None = setting(None, source="ours", doc="None: the CPU")
    seed: int = setting(1234, source="ours", doc="of the choice of files and of the bootstrap", ge=0)
