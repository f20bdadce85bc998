"""Claims of SECURITY.md that need a real thing: a sandbox that does not hold, a header that is too long."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from openqwen.core.errors import DataError
from openqwen.model import stored
from openqwen.sandbox import backend

# What lies in the path under bubblewrap's name: the real one without a part of what holds, or none.
_LESS = """skip=0
for one; do
    shift
    [ $skip = 1 ] && skip=0 && continue
    case $one in {cases} esac
    set -- "$@" "$one"
done
exec {bwrap} "$@"
"""
BROKEN = {
    "with the network": (
        _LESS.replace("{cases}", "--unshare-net) continue;; --seccomp) skip=1; continue;;"),
        "reaches the network",
    ),
    "with the host's files": (
        _LESS.replace("{cases}", '--seccomp) set -- "$@" --ro-bind {temporary} {temporary};;'),
        "reads a file of the host",
    ),
    "without a filter of calls": (
        _LESS.replace("{cases}", "--seccomp) skip=1; continue;;"),
        "makes a namespace",
    ),
    "that does not start": ("exit 1", "does not start"),
    "that is old": (  # as bubblewrap 0.4 says it
        'case "$*" in *--size*) echo "bwrap: Unknown option --size" >&2; exit 1;; esac\nexec {bwrap} "$@"',
        "Unknown option --size",
    ),
    "that may not make namespaces": (  # as in a container, or under AppArmor
        'echo "bwrap: No permissions to create new namespace" >&2; exit 1',
        "No permissions to create new namespace",
    ),
}


@pytest.mark.fault(
    "sandbox",
    "bubblewrap is broken, old, not allowed to make namespaces, or does not hold",
    "refused with exit code 78, nothing runs",
)
@pytest.mark.skipif(backend() is None, reason="no sandbox on this machine")
@pytest.mark.parametrize("name", BROKEN)
def test_a_sandbox_that_does_not_hold_is_refused(name: str, tmp_path: Path) -> None:
    """The command as people run it: exit code 78, and the program is not run."""
    script, said = BROKEN[name]
    real = shutil.which("bwrap")
    (tmp_path / "bwrap").write_text(
        "#!/bin/sh\n" + script.format(bwrap=real, temporary=tempfile.gettempdir()) + "\n"
    )
    os.chmod(tmp_path / "bwrap", 0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    doctor = [sys.executable, "-m", "openqwen", "sandbox", "doctor"]
    done = subprocess.run(doctor, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78 and said in done.stderr, done
    ran = "from openqwen import sandbox; sandbox.run_program('print(1)')"
    done = subprocess.run(
        [sys.executable, "-c", ran], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "NoSandbox" in done.stderr and done.stdout == "", done
    environment["PATH"] = os.environ["PATH"]  # the same command where it holds
    assert subprocess.run(doctor, env=environment, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("length", [(100 << 20) + 1, 1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_allowed_is_not_read(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{")
        file.truncate(1 << 30)  # of no bytes on the disk: the file could hold the shortest of these
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("a header was read"))
    with pytest.raises(DataError, match=r"header of \d+ bytes"):
        stored.read_header(path)
