"""Data sets of the Hugging Face hub, streamed with the `datasets` library.

Ours. A data set is read at one commit, found out when a run begins, so that all workers read the same; without a
network the run ends at once with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from openqwen.core.errors import DataError, MissingTool
from openqwen.data.documents import Bad, Raw
from openqwen.data.sources.formats import records


class HubPart(NamedTuple):
    """One of the parts of a data set that can be read at the same time. All plain values: it is a task's setting."""

    name: str  # owner/name, or a local folder
    config: str | None
    split: str
    revision: str | None
    part: int
    parts: int


def parts_of(spec: str) -> list[HubPart]:
    """The parts of `NAME`, `NAME:CONFIG`, `NAME@SPLIT` or `NAME:CONFIG@SPLIT`. DataError without the hub."""
    name, _, split = spec.partition("@")
    name, _, config = name.partition(":")
    part = HubPart(name, config or None, split or "train", None, 0, 1)
    part = part._replace(revision=_commit(part))
    count = int(_opened(part).num_shards)
    return [part._replace(part=i, parts=count) for i in range(count)]


def read_part(part: HubPart, bad: Bad) -> Iterator[Raw]:
    """The documents of one part; their ids are `hf://NAME/CONFIG/SPLIT/PART/ROW`."""
    data = _opened(part)
    if part.parts > 1:
        data = data.shard(num_shards=part.parts, index=part.part)
    name = f"hf://{part.name}/{part.config or 'default'}/{part.split}/{part.part}"
    for raw, _ in records(_numbered(data, name), name, f"{name}/", bad):
        yield raw


def _numbered(data: Any, name: str) -> Iterator[tuple[int, Any]]:
    try:
        yield from enumerate(data, 1)
    except (
        Exception
    ) as error:  # of the network, the hub or a reader, each of its own kind: none may pass for the end
        raise DataError(
            f"the data set broke off: {type(error).__name__}: {error}",
            where=name,
            fix="run again; it continues",
        ) from error


def _commit(part: HubPart) -> str | None:
    """The data set's commit now; None for a local folder."""
    if Path(part.name).is_dir():
        return None
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(part.name).sha
    except ImportError as error:
        raise _missing(error) from error
    except (
        Exception
    ) as error:  # offline mode, no route, no such name, no rights: each library version has its own
        raise _unreachable(part, error) from error


def _opened(part: HubPart) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise _missing(error) from error
    try:
        return datasets.load_dataset(
            part.name, part.config, split=part.split, revision=part.revision, streaming=True
        )
    except Exception as error:  # as above
        raise _unreachable(part, error) from error


def _missing(error: ImportError) -> MissingTool:
    return MissingTool(f"data sets of the hub need {error.name}", fix='pip install "openqwen[hub]"')


def _unreachable(part: HubPart, error: Exception) -> DataError:
    return DataError(
        f"cannot open this data set: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        where=f"sources.hub: {part.name}",
        fix="check the name and the network; without one, download its files elsewhere and give them with --input",
    )
