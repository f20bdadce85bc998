"""Settings of the data stage.

Report §2.1 names the steps and two numbers (13-grams; MinHash with LSH without parameters). Everything else is
ours or from the papers that published their thresholds; quality.py keeps those thresholds beside their sources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from openqwen.core.config import Config, Count, setting


class RunnerConfig(Config):
    """How the work is done and where it is kept meanwhile. No part of a corpus's identity: the result is the same."""

    how: Literal["in-process", "processes", "ray"] = setting(
        "processes", source="ours", doc="where tasks run; processes: in this one as long as there is one task"
    )
    workers: int | None = setting(
        None, source="ours", doc="processes; none: as many as there are cores", ge=1
    )
    retries: int = setting(
        3, source="ours", doc="how often a task is sent again after its process died", ge=1
    )
    address: str | None = setting(
        None, source="ours", doc="of a Ray cluster (auto, HOST:PORT, ray://HOST:PORT); none: a local Ray"
    )
    store: str | None = setting(
        None,
        source="ours",
        doc="folder or s3://, gs:// address of the shards between steps, kept for the next run and reached by "
        "every worker; none: in the artefact until it is finished",
    )
    exchange_rows: Count = setting(
        2_000_000, source="ours", doc="rows of other shards that one task of an exchange holds", gt=0
    )


class SourcesConfig(Config):
    """What is read besides the inputs, and how large one piece may be."""

    addresses: tuple[str, ...] = setting(
        (), source="ours", reads=True, doc="more files and folders to read, also s3:// and gs:// addresses"
    )
    hub: tuple[str, ...] = setting(
        (),
        source="ours",
        doc="data sets of the Hugging Face hub: NAME, NAME:CONFIG, with @SPLIT (default train)",
    )
    labels: dict[str, str] = setting(
        {},
        source="ours",
        doc='source label by pattern of the file name ("books/*"), for records that have none of their own; '
        "the first that fits",
    )
    pydoc: bool = setting(False, source="ours", doc="HTML pages pydoc renders for the standard library")
    pydoc_bytes: Count = setting(2_500_000, source="ours", doc="stop after this many bytes of HTML", gt=0)
    pydoc_text_bytes: Count = setting(800_000, source="ours", doc="keep about this many bytes of text", gt=0)
    pydoc_modules: Count = setting(200, source="ours", doc="at most this many modules", gt=0)
    pydoc_seconds: float = setting(120.0, source="ours", doc="hard limit of the rendering process", gt=0)
    stdlib: bool = setting(False, source="ours", doc="the standard library's .py files as source 'code'")
    stdlib_bytes: Count = setting(500_000, source="ours", doc="stop after this many bytes of code", gt=0)
    stdlib_file_bytes: Count = setting(40_000, source="ours", doc="leave out larger files", gt=0)
    max_file_bytes: Count = setting(16_000_000, source="ours", doc="larger pages and texts are skipped", gt=0)
    max_line_bytes: Count = setting(16_000_000, source="ours", doc="longer JSON lines are skipped", gt=0)


class ExtractConfig(Config):
    """Main text from HTML."""

    workers: int = setting(2, source="ours", doc="extraction processes", ge=1)
    page_seconds: float = setting(
        5.0, source="ours", doc="a page that takes more of a processor's time is dropped", gt=0
    )
    max_page_bytes: Count = setting(2_000_000, source="ours", doc="larger pages are dropped", gt=0)
    memory_mb: int = setting(2048, source="ours", doc="address space of one extraction process", ge=256)
    second_opinion: bool = setting(False, source="ours", doc="trafilatura where the first finds little text")
    min_characters: int = setting(10, source="ours", doc="less text than this is an empty page", ge=0)


class LanguageConfig(Config):
    """Language identification."""

    keep: tuple[str, ...] = setting(
        ("en", "zh"), source="report §2.1", doc="languages kept (mostly English and Chinese); empty: all"
    )
    min_confidence: float = setting(
        0.3, source="ours", doc="below this probability the language is 'und'", ge=0, le=1
    )


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


class GopherConfig(Config):
    """Gopher's limits for pages (Rae et al. 2021, A.1.1 and table A1); none: the rule is off."""

    min_words: float | None = setting(
        20, source="ours (Gopher's, A.1.1, is 50)", doc="two good paragraphs are a page"
    )
    max_words: float | None = setting(100_000, source="ours (Gopher's, A.1.1)")
    min_word_length: float | None = setting(3, source="ours (Gopher's, A.1.1)", doc="mean, in characters")
    max_word_length: float | None = setting(10, source="ours (Gopher's, A.1.1)", doc="mean, in characters")
    max_symbols: float | None = setting(
        0.1, source="ours (Gopher's, A.1.1)", doc="of # or of ellipses for each word"
    )
    max_bullet_lines: float | None = setting(0.9, source="ours (Gopher's, A.1.1)")
    max_ellipsis_lines: float | None = setting(0.3, source="ours (Gopher's, A.1.1)")
    min_words_with_letters: float | None = setting(
        0.6, source="ours (Gopher's, A.1.1, is 0.8)", doc="arithmetic is welcome"
    )
    min_stop_words: float | None = setting(
        2, source="ours (Gopher's, A.1.1)", doc="different ones of: the be to of and that have with"
    )
    max_duplicate_lines: float | None = setting(0.30, source="ours (Gopher's, table A1)")
    max_duplicate_paragraphs: float | None = setting(0.30, source="ours (Gopher's, table A1)")
    max_duplicate_line_chars: float | None = setting(0.20, source="ours (Gopher's, table A1)")
    max_duplicate_paragraph_chars: float | None = setting(0.20, source="ours (Gopher's, table A1)")
    max_top_2: float | None = setting(
        0.20, source="ours (Gopher's, table A1)", doc="share in the commonest 2-gram"
    )
    max_top_3: float | None = setting(0.18, source="ours (Gopher's, table A1)")
    max_top_4: float | None = setting(0.16, source="ours (Gopher's, table A1)")
    max_dup_5: float | None = setting(
        0.15, source="ours (Gopher's, table A1)", doc="share in 5-grams that occurred before"
    )
    max_dup_6: float | None = setting(0.14, source="ours (Gopher's, table A1)")
    max_dup_7: float | None = setting(0.13, source="ours (Gopher's, table A1)")
    max_dup_8: float | None = setting(0.12, source="ours (Gopher's, table A1)")
    max_dup_9: float | None = setting(0.11, source="ours (Gopher's, table A1)")
    max_dup_10: float | None = setting(0.10, source="ours (Gopher's, table A1)")


class C4Config(Config):
    """C4's limits for pages (Raffel et al. 2020, §2.2); none: the rule is off."""

    max_lorem: float | None = setting(0, source="ours (C4's, section 2.2)", doc='times "lorem ipsum" occurs')
    max_curly: float | None = setting(
        None, source="ours (C4's, section 2.2, is 0)", doc="curly brackets; pages about programs have some"
    )
    min_sentences: float | None = setting(3, source="ours (C4's, section 2.2)")
    max_placeholders: float | None = setting(
        0.25, source="ours", doc="share of the text in words of log-in, cookie and policy notices"
    )


class FineWebConfig(Config):
    """FineWeb's limits for pages (Penedo et al. 2024, §3.6); none: the rule is off."""

    min_line_ends: float | None = setting(
        0.12, source="ours (FineWeb's, section 3.6)", doc="share of lines that end in punctuation"
    )
    max_duplicate_line_chars: float | None = setting(0.1, source="ours (FineWeb's, section 3.6)")
    max_short_lines: float | None = setting(
        0.67, source="ours (FineWeb's, section 3.6)", doc="share of lines below 30 characters"
    )


class ChineseConfig(Config):
    """Limits for Chinese pages, in characters; none: the rule is off."""

    min_characters: float | None = setting(30, source="ours", doc="Chinese characters")
    max_characters: float | None = setting(200_000, source="ours", doc="about Gopher's 100,000 words")
    min_share: float | None = setting(0.1, source="ours", doc="of Chinese characters in what is visible")
    min_function_characters: float | None = setting(
        3, source="ours", doc="different ones of 的了是在和有不我这就也都与为中上"
    )
    max_symbols: float | None = setting(0.05, source="ours", doc="of # or of ellipses for each character")
    max_short_lines: float | None = setting(0.67, source="ours", doc="share of lines below 10 characters")
    min_sentences: float | None = setting(1, source="ours", doc="ends 。！？ and their Latin forms")
    max_top_4: float | None = setting(0.20, source="ours", doc="share in the commonest run of 4 characters")
    max_dup_10: float | None = setting(
        0.5, source="ours", doc="share in runs of 10 characters that occurred before"
    )


class EveryConfig(Config):
    """Limits for every language; none: the rule is off."""

    max_exclamations: float | None = setting(0.02, source="ours", doc="exclamation marks for each byte")
    max_run: float | None = setting(1000, source="ours", doc="characters without a space between")


class CodeConfig(Config):
    """Limits for programs (Kocetkov et al. 2022, §3); none: the rule is off."""

    max_mean_line: float | None = setting(100, source="ours (The Stack's, section 3)", doc="characters")
    max_line: float | None = setting(1000, source="ours (The Stack's, section 3)", doc="characters")
    min_letters: float | None = setting(0.25, source="ours (The Stack's, section 3)", doc="share of letters")


class RulesConfig(Config):
    """Limits of the rules in rules.py, where each is named with what it measures and where it was published."""

    gopher: GopherConfig = setting(GopherConfig(), source="ours")
    c4: C4Config = setting(C4Config(), source="ours")
    fineweb: FineWebConfig = setting(FineWebConfig(), source="ours")
    chinese: ChineseConfig = setting(ChineseConfig(), source="ours")
    every: EveryConfig = setting(EveryConfig(), source="ours")
    code: CodeConfig = setting(CodeConfig(), source="ours")


class TrainingConfig(Config):
    """Gradient descent of a classifier."""

    steps: int = setting(300, source="ours", doc="over all examples at once", ge=1)
    rate: float = setting(4.0, source="ours", doc="learning rate", gt=0)
    decay: float = setting(3e-4, source="ours", doc="of the weights towards zero", ge=0)


class ClassifierConfig(Config):
    """A classifier of a user's own examples."""

    label: str = setting(
        "spam", source="ours", doc="the label it finds: spam, offensive, clean (of text quality) or your own"
    )
    folds: int = setting(
        10, source="ours", doc="each example is judged by a model trained on the other folds", ge=2
    )
    precision: float = setting(
        0.9, source="ours", doc="held-out precision that the threshold is chosen for", gt=0, le=1
    )
    training: TrainingConfig = setting(TrainingConfig(), source="ours")


class QualityConfig(Config):
    """Rules and models."""

    drop: bool = setting(
        True,
        source="ours",
        doc="false: rules and models only score, nothing is dropped",
    )
    rules: bool = setting(True, source="report §2.1", doc="rules by source and language, see rules.py")
    limits: RulesConfig = setting(RulesConfig(), source="ours")
    spam: float = setting(0.9, source="ours", doc="probability of spam that drops", gt=0, le=1)
    offensive: float = setting(0.5, source="ours", doc="probability of abuse that drops", gt=0, le=1)
    quality: float = setting(
        0.25, source="ours", doc="probability of clean text below which a document is dropped", ge=0, lt=1
    )
    models: dict[str, str] = setting(
        {},
        source="ours",
        reads=True,
        doc='folders made by "openqwen data classifier train", by spam, offensive or quality; the others are trained '
        "from the shipped examples",
    )
    lm: bool = setting(True, source="report §2.1", doc="score by a byte n-gram model trained on the corpus")
    scores: str | None = setting(
        None,
        source="ours",
        reads=True,
        doc='folder made by "openqwen data score": one of our models scores instead',
    )
    lm_order: int = setting(4, source="ours", doc="order of that model", ge=2, le=6)
    lm_train_bytes: Count = setting(600_000, source="ours", doc="bytes it is trained on, per half", gt=0)
    lm_max_bits: float = setting(6.5, source="ours", doc="bits per byte above which a text is noise", gt=0)


class ScoreConfig(Config):
    """Documents scored by one of our models."""

    bytes: Count = setting(2000, source="ours", doc="of each document, from its beginning", gt=0)
    batch: int = setting(16, source="ours", doc="pieces of the model's length that are read together", ge=1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", source="ours")
    device: str | None = setting(None, source="ours", doc="none: CUDA if there is a device, else the CPU")


class DecontaminateConfig(Config):
    """Overlap with evaluation sets."""

    enabled: bool = setting(True, source="report §2.1", doc="remove what overlaps with evaluation sets")
    n: int = setting(13, source="report §2.1", doc="tokens that must be equal in a row", ge=4)
    n_unspaced: int = setting(
        20, source="ours", doc="the same for Chinese characters: 13 words are about 20 of them", ge=4
    )
    min_tokens: int = setting(
        5, source="ours", doc="shorter items are too common to be evidence; they are counted", ge=1
    )
    min_formula: int = setting(
        8, source="ours", doc="the same for items of numbers and symbols with fewer than three words", ge=1
    )
    max_documents: int = setting(
        10, source="ours", doc="an n-gram in more documents is a phrase (as in GPT-3, appendix C)", ge=1
    )
    max_items: int = setting(
        20, source="ours", doc="a run in more records of one benchmark is its template", ge=1
    )
    min_words: int = setting(
        5, source="ours", doc="a run of fewer different words is a formula, list of numbers or markup", ge=0
    )
    benchmarks: tuple[str, ...] = setting(
        (), source="ours", reads=True, doc="more benchmark files or folders"
    )
    folder: str = setting(
        "data/benchmarks",
        source="ours",
        reads=True,
        doc="of benchmarks, the report's for instance: used where it exists; stats.json names what was",
    )
    overlap: Literal["drop", "cut"] = setting(
        "drop",
        source="ours",
        doc='what happens to a page: dropped, or "cut" loses the sentences that overlap',
    )
    samples: tuple[str, ...] = setting(
        ("instruction",), source="report §2.1", doc="sources of instruction samples: always dropped whole"
    )
    cut_characters: int = setting(
        200, source="ours", doc="cut on each side as well, and the least that may be left (as in GPT-3)", ge=0
    )
    max_cuts: int = setting(10, source="ours", doc="a page with more cuts is dropped (as in GPT-3)", ge=1)

    def paths(self) -> list[Path]:
        """The files and folders of `benchmarks`, and `folder` where there is one."""
        folder = Path(self.folder)
        return [*map(Path, self.benchmarks), *([folder] if folder.is_dir() else [])]


class MixConfig(Config):
    """Up-sampling."""

    proportions: dict[str, float] = setting(
        {},
        source="ours",
        doc='target share of tokens by "source", "source/lang" or "source/lang/band", * for any; empty: as it comes',
    )
    tokens: Count | None = setting(
        None, source="ours", doc="to take in all; none: the least with which nothing is left out", gt=0
    )
    bands: dict[str, float] = setting(
        {}, source="ours", doc='bands of quality by their least score, {"high": 0.7, "low": 0}'
    )
    by: str = setting("quality", source="ours", doc="the score that bands are of")
    bytes_per_token: dict[str, float] = setting(
        {"en": 4.5, "zh": 3.9, "code": 4.2, "*": 3.7},
        source="ours",
        doc="by language: Qwen's vocabulary on our sample texts; openqwen tokenizer compare measures another",
    )
    max_epochs: float = setting(4.0, source="ours", doc="no document is repeated more often", ge=1)
    missed: Literal["go on", "stop"] = setting(
        "go on", source="ours", doc="what happens when a share cannot be reached within max_epochs"
    )

    @property
    def is_set(self) -> bool:
        """Whether anything is taken otherwise than it comes."""
        return bool(self.proportions) or self.tokens is not None

    @field_validator("bytes_per_token")
    @classmethod
    def _any_language(cls, rates: dict[str, float]) -> dict[str, float]:
        if "*" not in rates or min(rates.values()) <= 0:
            raise ValueError('rates must be above 0, with one for "*", any other language')
        return rates


class DataConfig(Config):
    """The data stage."""

    seed: int = setting(0, source="ours")
    valid_fraction: float = setting(0.03, source="ours", doc="share of documents held out", ge=0, lt=0.5)
    shard_bytes: Count = setting(
        64_000_000, source="ours", doc="raw input in one shard: what a task holds in memory", gt=0
    )
    bad_fraction: float = setting(0.1, source="ours", doc="share of unreadable input allowed", ge=0, le=1)
    runner: RunnerConfig = setting(RunnerConfig(), source="ours", exclude=True)
    sources: SourcesConfig = setting(SourcesConfig(), source="ours")
    extract: ExtractConfig = setting(ExtractConfig(), source="ours")
    language: LanguageConfig = setting(LanguageConfig(), source="ours")
    dedup: DedupConfig = setting(DedupConfig(), source="ours")
    quality: QualityConfig = setting(QualityConfig(), source="ours")
    decontaminate: DecontaminateConfig = setting(DecontaminateConfig(), source="ours")
    mix: MixConfig = setting(MixConfig(), source="ours")
