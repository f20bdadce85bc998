"""Where shards are kept: a folder, or an address such as s3://bucket/path or gs://bucket/path.

Ours, on pyarrow's file systems. Everything is written whole: in a folder under a temporary name until it is on the
disk, in an object store by one upload. Nobody ever meets half a file, whoever is killed when.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from openqwen.core.artifact import replacing, unwritable, write_atomic
from openqwen.core.errors import DataError, MissingTool, OpenQwenError, UsageError


@cache
def file_system(root: str) -> tuple[Any, str]:
    """pyarrow's file system of a folder or address, and the path in it. DataError where there is none of that kind."""
    try:
        import pyarrow
        from pyarrow import fs
    except ImportError as error:
        raise MissingTool(
            "shards and addresses need pyarrow", where=root, fix='pip install "openqwen[data]"'
        ) from error
    refuse_password(root)
    if not is_address(root):
        return fs.LocalFileSystem(), str(Path(root).absolute())
    try:
        return fs.FileSystem.from_uri(root)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"cannot open this address: {error}",
            where=root,
            fix="known are folders, s3://, gs:// and hdfs://",
        ) from error


def is_address(path: str | Path) -> bool:
    """Whether something names a place in an object store and not a local path."""
    return "://" in str(path)


def refuse_password(root: str) -> None:
    """UsageError where an address holds a password: settings and messages would carry it on."""
    scheme, _, rest = root.partition("://")
    user, at, place = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise UsageError(
            "an address must not hold a password",
            where=f"{scheme}://...@{place}",
            fix="give it in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or Google's)",
        )


def open_input(path: str | Path) -> BinaryIO:
    """The bytes of a local file or of an address, buffered."""
    if not is_address(path):
        return Path(path).open("rb")
    files, inner = file_system(str(path))
    return cast(BinaryIO, io.BufferedReader(files.open_input_file(inner), 1 << 20))


@dataclass(frozen=True)
class Output:
    """A file that a task wrote into a store."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Store:
    """Files below one root by their names, which have slashes between their parts."""

    root: str

    @property
    def is_local(self) -> bool:
        return not is_address(self.root)

    def _path(self, name: str) -> str:
        return f"{file_system(self.root)[1]}/{name}"

    def open(self, name: str) -> Any:
        """A file of pyarrow's that can be read anywhere. DataError where there is none."""
        try:
            return file_system(self.root)[0].open_input_file(self._path(name))
        except FileNotFoundError as error:
            raise self._gone(name) from error
        except OSError as error:
            raise self._lost(name, error) from error

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with self.open(name) as file:
            return self._read(name, file)

    def verified(self, output: Output) -> bytes:
        """The bytes of a task's output. DataError if they are not those that it wrote."""
        data = self.read(output.name)
        if len(data) != output.bytes or hashlib.sha256(data).hexdigest() != output.sha256:
            raise self._altered(output.name)
        return data

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all."""
        path = self._path(name)
        if self.is_local:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(Path(path), error) from error
            write_atomic(Path(path), data)
            return
        try:
            with file_system(self.root)[0].open_output_stream(path, compression=None) as file:
                file.write(data)
        except OSError as error:
            raise self._lost(name, error) from error

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each file, None for those that are not there."""
        from pyarrow.fs import FileType

        try:
            found = file_system(self.root)[0].get_file_info([self._path(name) for name in names])
        except OSError as error:
            raise self._lost(names[0], error) from error
        return [info.size if info.type == FileType.File else None for info in found]

    def delete(self, name: str) -> None:
        """Removes a file; one that is gone already is no error."""
        try:
            file_system(self.root)[0].delete_file(self._path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._lost(name, error) from error

    def fetch(self, output: Output, path: Path) -> None:
        """Copies a task's output to a local path. DataError if it is not what the task wrote."""
        sha256 = hashlib.sha256()
        with self.open(output.name) as file, replacing(path) as copy:
            while data := self._read(output.name, file, 1 << 22):
                sha256.update(data)
                copy.write(data)
            if sha256.hexdigest() != output.sha256:
                raise self._altered(output.name)

    def _read(self, name: str, file: Any, size: int | None = None) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            raise self._lost(name, error) from error

    def where(self, name: str) -> str:
        """The full address of a file, for people."""
        return f"{self.root.partition('?')[0].rstrip('/')}/{PurePosixPath(name)}"

    def _altered(self, name: str) -> DataError:
        return DataError(
            "a shard is not what was written", where=self.where(name), fix="delete it and run again"
        )

    def _gone(self, name: str) -> DataError:
        return DataError(
            "a shard is gone", where=self.where(name), fix="run again; what is missing is made anew"
        )

    def _lost(self, name: str, error: OSError) -> OpenQwenError:
        return OpenQwenError(
            f"the store does not answer: {str(error).splitlines()[0]}",
            where=self.where(name),
            fix="check the address, its rights and the network, then run again; it continues",
        )
