"""Errors a person can act on: one line of what, one of where, one of what to do.

Ours. Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 missing extra or tool, 4 bad data, 78 no sandbox for
generated code, 130 interrupted after saving.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenQwenError(Exception):
    """Something the user can mend. `what` happened, `where` (file:line, record, flag), `fix` (what to do)."""

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self.render())

    def render(self) -> str:
        """The message as printed: `what`, then indented `where:` and `fix:` lines if known."""
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class UsageError(OpenQwenError):
    """A flag, recipe or combination of settings that cannot be."""

    exit_code = 2


class MissingTool(OpenQwenError):
    """An optional package or system tool is absent; `fix` holds the line to type."""

    exit_code = 3


class DataError(OpenQwenError):
    """A file, record, artefact or checkpoint that cannot be used."""

    exit_code = 4


class Interrupted(OpenQwenError):
    """Stopped by a signal after the state was saved; rerunning continues."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one. `nearest("lrr", ["lr", "beta1"])` -> `"lr"`."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'lr'?"`, or an empty string."""
    found = nearest(name, known)
    return f" Did you mean '{found}'?" if found else ""
