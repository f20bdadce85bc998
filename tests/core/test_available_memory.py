"""Memory that may still be taken: the machine's, and that of control groups of both versions, nested and limitless."""

from __future__ import annotations

from pathlib import Path

import pytest

from openqwen.core.memory import available_memory

GIB = 1 << 30
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {base} /sys/fs/cgroup/memory rw,relatime master:1 - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    lines = {"MemTotal": 16, "MemAvailable": 8, "SwapFree": 1}
    (tmp_path / "proc/meminfo").write_text("".join(f"{k}:  {v * GIB >> 10} kB\n" for k, v in lines.items()))
    return tmp_path


def group(root: Path, cgroup: str, mounts: str) -> None:
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)


def version_2(root: Path, path: str, limit: str, used: int, cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 9\ninactive_file {cache}\n")


def version_1(root: Path, path: str, limit: int, used: int, cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup/memory" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 7\ninactive_file 3\ntotal_inactive_file {cache}\n")


def test_without_groups_it_is_what_the_machine_has(root: Path) -> None:
    assert available_memory(root) == 9 * GIB
    assert available_memory(root / "nothing") is None


def test_a_group_of_version_2(root: Path) -> None:
    group(root, "0::/app\n", V2)
    version_2(root, "app", str(4 * GIB), 3 * GIB, cache=GIB)
    assert available_memory(root) == 2 * GIB, "pages of files that nobody needs can be dropped"
    version_2(root, "app", "max", 3 * GIB)
    assert available_memory(root) == 9 * GIB
    version_2(root, "app", str(64 * GIB), 3 * GIB)
    assert available_memory(root) == 9 * GIB, "a limit beyond the machine's memory is none"


def test_the_tightest_of_nested_groups_counts(root: Path) -> None:
    group(root, "0::/a/b/c\n", V2)
    version_2(root, "a/b/c", "max", GIB)
    version_2(root, "a/b", str(8 * GIB), 7 * GIB)
    version_2(root, "a", str(10 * GIB), 8 * GIB)
    assert available_memory(root) == GIB


def test_a_container_sees_its_group_as_the_outermost(root: Path) -> None:
    group(root, "0::/\n", V2)
    version_2(root, "", str(2 * GIB), GIB)
    assert available_memory(root) == GIB
    group(root, "0::/../../elsewhere\n", V2)
    assert available_memory(root) == GIB


@pytest.mark.parametrize("base", ["/", "/docker/abc"])
def test_a_group_of_version_1(root: Path, base: str) -> None:
    group(root, "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n", V1.format(base=base))
    inner = "docker/abc" if base == "/" else ""
    version_1(root, inner, 6 * GIB, 5 * GIB, cache=2 * GIB)
    assert available_memory(root) == 3 * GIB
    version_1(root, inner, 9223372036854771712, 5 * GIB)
    assert available_memory(root) == 9 * GIB, "the largest number means no limit"


def test_a_group_beyond_its_limit_leaves_nothing(root: Path) -> None:
    group(root, "0::/app\n", V2)
    version_2(root, "app", str(GIB), 2 * GIB)
    assert available_memory(root) == 0


def test_this_machine_has_some() -> None:
    found = available_memory()
    assert found is None or found > 0
