"""A stage's runs beside one that nothing disturbed: all but times must be equal, to the byte."""

from __future__ import annotations

import faulthandler
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from train import forked

from openqwen.core.artifact import damage, find

LIMIT = 900  # seconds for a run of one or two on a machine that may be busy; one that hangs shows where
# Keys that tell of the run and not of its result; `tasks` says how many a run found done.
OF_A_RUN = re.compile("seconds|_per_second|^finished$|^environment$|^tasks$")
TIMES = {"DONE", "log.txt", "throughput.jsonl", "manifest.json", ".lock"}


def watched() -> None:
    """A process that hangs says where."""
    faulthandler.dump_traceback_later(LIMIT - 10)


class Runs:
    """Runs of one stage into one folder, compared with an undisturbed one."""

    def __init__(self, name: str, words: list[str], folder: Path) -> None:
        self.name, self.words, self.log = name, words, folder / "log.txt"
        self.whole, self.out = folder / f"{name}-whole", folder / name
        self.seconds = self._timed(self.whole, fresh=False)

    @cached_property
    def fresh_seconds(self) -> float:
        """Of a fresh process, which must end as a forked one does."""
        out, self.out = self.out, self.whole.with_name(f"{self.name}-fresh")
        seconds = self._timed(self.out, fresh=True)
        assert self.differences() == []
        shutil.rmtree(self.out)
        self.out = out
        return seconds

    def _timed(self, out: Path, fresh: bool) -> float:
        begun = time.monotonic()
        process = self.start(out, fresh)
        assert self.code(process) == 0, self.log.read_text(errors="replace")
        return time.monotonic() - begun

    def start(self, out: Path, fresh: bool = False, prepare: Callable[[], None] = watched) -> Any:
        """A process that writes into `out`: a fresh one, or one forked from where all is imported."""
        words = [*self.words, "--out", str(out)]
        if not fresh:
            return forked.start(words, self.log, None, prepare)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "openqwen", *words], stdout=subprocess.DEVNULL, stderr=log
            )

    def code(self, process: Any, seconds: float = LIMIT) -> int | None:
        """The exit code; after so many seconds it is killed."""
        if not isinstance(process, subprocess.Popen):
            return forked.end([process], seconds)[0]
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def killed(self, after: float, fresh: bool) -> bool:
        """Whether it was still running after so many seconds, and has been killed."""
        process = self.start(self.out, fresh)
        if isinstance(process, subprocess.Popen):
            code = self.code(process, after)
        else:
            process.join(after)
            process.kill()
            (code,) = forked.end([process])
        assert code in (0, -signal.SIGKILL), self.log.read_text(errors="replace")
        return code == -signal.SIGKILL

    def finish(self) -> list[str]:
        """Lets it end; what differs then."""
        code = self.code(self.start(self.out))
        if code != 0:
            return [f"{self.name}: exit code {code}: {self.log.read_text(errors='replace')}"]
        return self.differences()

    def differences(self) -> list[str]:
        """Names of files, and of facts of the manifest, that are not those of the undisturbed run."""
        one, other = held(self.out), held(self.whole)
        names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
        return [f"{self.name}: {name}" for name in names]

    def false_end(self) -> list[str]:
        """What looks finished after a kill and is not."""
        found, other = find(self.out), find(self.whole)
        assert other is not None
        if found is None or (found.content == other.content and not damage(found)):
            return []
        return [f"{self.name}: DONE over another content"]


def held(folder: Path) -> dict[str, Any]:
    """Everything in an artefact's folder but the times at which it came about."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if path.parent.name != "tensorboard"]  # named by time and process
    files = {str(path.relative_to(folder)): path for path in paths}
    found: dict[str, Any] = {name: files[name].read_bytes() for name in files if name not in TIMES}
    if "metrics.jsonl" in files:
        found["metrics.jsonl"] = [timeless(json.loads(line)) for line in found["metrics.jsonl"].splitlines()]
    done = find(folder)
    return found | {f"manifest: {k}": v for k, v in timeless(done.manifest if done else {}).items()}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: timeless(own) for key, own in value.items() if not OF_A_RUN.search(key)}
        # The steps of a corpus are seconds too.
        return {key: own for key, own in kept.items() if key != "steps" or isinstance(own, int)}
    return value
