"""docs/reliability.md says what the tests say, and each row is a promise of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from faults import catalogue


def test_the_document_is_made_from_the_tests() -> None:
    assert catalogue.DOCUMENT.read_text(encoding="utf-8") == catalogue.document(), (
        "run python tests/faults/catalogue.py"
    )


def test_rows_differ() -> None:
    often = Counter((row.area, row.happens) for row in catalogue.rows())
    assert [row for row, count in often.items() if count > 1] == []


def test_every_area_has_rows_and_all_are_enough() -> None:
    found = catalogue.rows()
    assert {row.area for row in found} == set(catalogue.AREAS) and len(found) >= 120


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('"data", "a page is cut"', "takes an area, what happens, what is expected"),
        (
            '"data", "a page is cut", "it is named", "and more"',
            "takes an area, what happens, what is expected",
        ),
        ('"dates", "a page is cut", "it is named"', "'dates' is no area"),
        ('"data", "a page | is cut", "it is named"', "one line of a table"),
    ],
)
def test_a_marker_that_is_no_row_is_refused(
    marker: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(f"@pytest.mark.fault({marker})\ndef test_it() -> None: ...\n")
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=message):
        catalogue.rows()
