"""Settings of the data stage.

Report §2.1 names the steps and two numbers (13-grams; MinHash with LSH without parameters). Everything else is
ours or from the papers that published their thresholds; quality.py keeps those thresholds beside their sources.
"""

from __future__ import annotations

from openqwen.core.config import Config, Count, setting


class SourcesConfig(Config):
    """What is read besides the inputs, and how large one piece may be."""

    pydoc: bool = setting(False, source="ours", doc="HTML pages pydoc renders for the standard library")
    pydoc_bytes: Count = setting(2_500_000, source="ours", doc="stop after this many bytes of HTML", gt=0)
    pydoc_text_bytes: Count = setting(800_000, source="ours", doc="keep about this many bytes of text", gt=0)
    pydoc_modules: Count = setting(200, source="ours", doc="at most this many modules", gt=0)
    pydoc_seconds: float = setting(120.0, source="ours", doc="hard limit of the rendering process", gt=0)
    stdlib: bool = setting(False, source="ours", doc="the standard library's .py files as source 'code'")
    stdlib_bytes: Count = setting(500_000, source="ours", doc="stop after this many bytes of code", gt=0)
    stdlib_file_bytes: Count = setting(40_000, source="ours", doc="leave out larger files", gt=0)
    max_file_bytes: Count = setting(2_000_000, source="ours", doc="larger pages and texts are skipped", gt=0)
    max_line_bytes: Count = setting(16_000_000, source="ours", doc="longer JSON lines are skipped", gt=0)


class ExtractConfig(Config):
    """Main text from HTML."""

    workers: int = setting(2, source="ours", doc="extraction processes", ge=1)
    page_seconds: float = setting(5.0, source="ours", doc="a page that takes longer is dropped", gt=0)
    max_page_bytes: Count = setting(2_000_000, source="ours", doc="larger pages are dropped", gt=0)
    memory_mb: int = setting(2048, source="ours", doc="address space of one extraction process", ge=256)
    second_opinion: bool = setting(False, source="ours", doc="trafilatura where the first finds little text")
    min_characters: int = setting(10, source="ours", doc="less text than this is an empty page", ge=0)


class LanguageConfig(Config):
    """Language identification."""

    keep: tuple[str, ...] = setting(
        ("en", "zh"), source="report §2.1", doc="languages kept (mostly English and Chinese); empty: all"
    )
    min_confidence: float = setting(0.3, source="ours", doc="below this the language is 'und'", ge=0, le=1)


class DedupConfig(Config):
    """Exact and fuzzy deduplication."""

    exact: bool = setting(True, source="report §2.1", doc="exact match after normalisation")
    fuzzy: bool = setting(True, source="report §2.1", doc="MinHash and LSH")
    shingle: int = setting(5, source="ours", doc="tokens in a shingle", ge=1)
    num_hashes: int = setting(112, source="ours", doc="hashes in a signature", ge=8, le=1024)
    threshold: float = setting(0.72, source="ours", doc="Jaccard similarity at which LSH turns", gt=0, lt=1)
    verify: float = setting(
        0.7,
        source="ours",
        doc="pairs whose signatures agree less are no duplicates; 0: trust LSH",
        ge=0,
        le=1,
    )


class QualityConfig(Config):
    """Rules and models."""

    rules: bool = setting(True, source="report §2.1", doc="published thresholds by source, see quality.py")
    spam: float = setting(0.9, source="ours", doc="probability of spam that drops", gt=0, le=1)
    offensive: float = setting(0.5, source="ours", doc="probability of abuse that drops", gt=0, le=1)
    examples: str | None = setting(
        None, source="ours", doc='JSONL of {"text", "label"} that trains the classifiers; none: the shipped'
    )
    lm: bool = setting(True, source="report §2.1", doc="score by a byte n-gram model trained on the corpus")
    lm_order: int = setting(4, source="ours", doc="order of that model", ge=2, le=6)
    lm_train_bytes: Count = setting(600_000, source="ours", doc="bytes it is trained on, per half", gt=0)
    lm_max_bits: float = setting(6.5, source="ours", doc="bits per byte above which a text is noise", gt=0)


class DecontaminateConfig(Config):
    """Overlap with evaluation sets."""

    enabled: bool = setting(True, source="report §2.1", doc="remove what overlaps with evaluation sets")
    n: int = setting(13, source="report §2.1", doc="tokens that must be equal in a row", ge=4)
    n_unspaced: int = setting(
        20, source="ours", doc="the same for Chinese characters: 13 words are about 20 of them", ge=4
    )
    min_tokens: int = setting(
        6, source="ours", doc="shorter items are too common to be evidence; they are counted", ge=1
    )
    max_documents: int = setting(
        10, source="ours", doc="an n-gram in more documents is a phrase (as in GPT-3, appendix C)", ge=1
    )
    benchmarks: tuple[str, ...] = setting((), source="ours", doc="more benchmark files or folders")


class MixConfig(Config):
    """Up-sampling."""

    proportions: dict[str, float] = setting(
        {}, source="ours", doc='target share of bytes by "source" or "source/lang"; empty: as it comes'
    )
    max_epochs: float = setting(4.0, source="ours", doc="no document is repeated more often", ge=1)


class DataConfig(Config):
    """The data stage."""

    seed: int = setting(0, source="ours")
    valid_fraction: float = setting(0.03, source="ours", doc="share of documents held out", ge=0, lt=0.5)
    shard_bytes: Count = setting(64_000_000, source="ours", doc="text in one output file", gt=0)
    bad_fraction: float = setting(0.1, source="ours", doc="share of unreadable input allowed", ge=0, le=1)
    sources: SourcesConfig = setting(SourcesConfig(), source="ours")
    extract: ExtractConfig = setting(ExtractConfig(), source="ours")
    language: LanguageConfig = setting(LanguageConfig(), source="ours")
    dedup: DedupConfig = setting(DedupConfig(), source="ours")
    quality: QualityConfig = setting(QualityConfig(), source="ours")
    decontaminate: DecontaminateConfig = setting(DecontaminateConfig(), source="ours")
    mix: MixConfig = setting(MixConfig(), source="ours")
