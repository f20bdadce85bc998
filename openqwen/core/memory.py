"""How much memory this process may still take: what the machine has left, and what its control groups allow.

Ours. Linux only; a container's limit stands in a control group (version 2 or 1), of which /proc/meminfo knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_LIMITLESS = 1 << 60  # version 1 writes a number near 2^63 where there is no limit


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping others out; None where nothing says so. root: of the file system."""
    machine = _machine(root / "proc/meminfo")
    return None if machine is None else max(0, min([machine, *_groups(root)]))


def _machine(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    return sum(int(values[key].split()[0]) for key in ("MemAvailable", "SwapFree")) << 10


def _groups(root: Path) -> Iterator[int]:
    """What each limited control group above this process leaves: its limit, less what it uses and cannot drop."""
    for folder, version in _folders(root):
        limit, used, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and now is not None and most < _LIMITLESS:
            yield most - now + _stat(folder / "memory.stat", cache)


def _folders(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's memory groups, from its own up to the outermost that can be seen."""
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        version = 2 if not controllers else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        for base, point in [(base, point) for kind, base, point in mounts if kind == version]:
            inner = path.removeprefix(base.rstrip("/")) if path.startswith(base) else ""
            place = root / point.lstrip("/")
            parts = [part for part in inner.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                yield place.joinpath(*parts[:depth]), version


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """(version, the group that is mounted, where) of each hierarchy that limits memory."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            yield 2 if kind == "cgroup2" else 1, fields[3], fields[4]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _number(path: Path) -> int | None:
    """A file's only number; None for "max" or no file (the outermost group has no limit)."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _stat(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[0] == name), 0)
