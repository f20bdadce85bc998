"""`openqwen data certificate` and `openqwen data verify`: how much of a benchmark is in a corpus, to be checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from openqwen.core import artifact
from openqwen.core.console import note


def certificate(
    corpus: Path,
    *,
    benchmark: Annotated[Path, Parameter(help="File or folder of a benchmark's items.")],
    out: Annotated[Path, Parameter(help="JSON file to write.")],
) -> int:
    """Scans a finished corpus for a benchmark and writes what was found, with the hashes of both."""
    from openqwen.data.certificate import certify

    show(certify(artifact.load(corpus, "corpus"), benchmark, out, "scan"))
    note(f"certificate: {out}")
    return 0


def verify(
    certificate: Path,
    *,
    corpus: Annotated[Path | None, Parameter(help="Where the corpus is, if it has moved.")] = None,
    benchmark: Annotated[Path | None, Parameter(help="Where the benchmark is, if it has moved.")] = None,
    again: Annotated[bool, Parameter(negative="", help="Scan the corpus again as well.")] = False,
) -> int:
    """Checks a certificate: exit code 4 if a byte of it, of the corpus or of the benchmark is not as it was."""
    from openqwen.data.certificate import verify as check

    show(check(certificate, corpus, benchmark, again))
    note("certificate, corpus and benchmark are as they were" + (", and so is the count" if again else ""))
    return 0


def show(stated: Mapping[str, Any]) -> None:
    """Prints what a certificate states."""
    note(
        f"benchmark {stated['benchmark']['path']}: {stated['items']:,} texts, {stated['too_short']} too short to find"
    )
    note(
        f"corpus {stated['corpus']['path']} {stated['corpus']['content'][:12]}: {stated['documents']:,} documents"
    )
    for name, what in (
        ("hits", "that overlap with it are in"),
        ("removed", "that overlap with it were dropped"),
        ("cut", "that overlapped with it are in without that part"),
    ):
        found = stated[name]
        note(f"  documents {what}: {found['documents']}")
        for one in found["named"][:5]:
            note(f"    {one['document']}: {', '.join(one['items'][:5])}")
