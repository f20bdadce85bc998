"""`openqwen data preview`: what thresholds for quality would drop of a corpus, before they do (report §2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from openqwen.cli.common import AsJson, Settings, dotted
from openqwen.cli.settings import print_json, settings_of
from openqwen.core import artifact
from openqwen.core.artifact import write_atomic
from openqwen.core.config import validate
from openqwen.core.console import note
from openqwen.core.errors import UsageError, did_you_mean
from openqwen.data.config import DataConfig

_THRESHOLDS = ("quality.spam", "quality.offensive", "quality.quality", "quality.lm_max_bits")


def preview(
    corpus: Path,
    *settings: Settings,
    out: Annotated[
        Path | None, Parameter(help="The page; by default CORPUS.preview.html, beside the corpus.")
    ] = None,
    as_json: AsJson = False,
    examples: Annotated[int, Parameter(help="Documents shown on each side of a threshold.")] = 3,
    seed: Annotated[int, Parameter(help="Another number shows other documents.")] = 0,
) -> int:
    """A page on what thresholds would drop: for each score its histogram, shares, and documents just beside it.

    Thresholds are those the corpus was built with, or yours: --quality.spam 0.8 --quality.limits.gopher.min_words 50.
    Build with --quality.drop false first, and every score of every document is there.
    """
    from openqwen.data.account import Account
    from openqwen.data.preview import preview as look
    from openqwen.data.preview import thresholds
    from openqwen.report.preview import render

    if examples < 1:
        raise UsageError(f"no page can show {examples} documents", where="--examples", fix="give at least 1")
    account = Account(artifact.load(corpus, "corpus"))
    config = _config(account.config, settings)
    found = look(account, thresholds(config.quality), examples, seed)
    if as_json:
        print_json({"corpus": str(corpus), **found})
        return 0
    path = out or corpus.resolve().with_name(f"{corpus.resolve().name}.preview.html")
    built = "scored without dropping" if not account.config.quality.drop else "built with drops"
    write_atomic(
        path, render(found, f"What thresholds would drop of {corpus.name}", f"{corpus.resolve()}: {built}.")
    )
    dropped = sum(group["dropped"] for group in found["groups"])
    note(f"{dropped:,} of {found['documents']:,} documents lie beyond some threshold: {path}")
    return 0


def _config(built: DataConfig, settings: tuple[str, ...]) -> DataConfig:
    """The settings of the corpus with these changes. UsageError for a setting that is no matter of quality."""
    flags = dotted(settings)
    if other := [key for key in flags if key not in _THRESHOLDS and not key.startswith("quality.limits.")]:
        raise UsageError(
            f"--{other[0]} is no threshold for quality.{did_you_mean(other[0], _THRESHOLDS)}",
            where="command line",
            fix="change it with openqwen data build; here go --quality.spam 0.8 and its kind",
        )
    given = settings_of("data", (), flags, also=("out", "examples", "seed", "json"))
    values: dict[str, Any] = built.model_dump()
    for key in flags:
        *path, last = key.split(".")
        table, value = values, given.config
        for name in path:
            table, value = table[name], getattr(value, name)
        own = getattr(value, last)
        table[last] = own.model_dump() if hasattr(own, "model_dump") else own
    return validate(DataConfig, values, given.place, "data")
