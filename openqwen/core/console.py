"""What a person sees while something long runs: stage headers, a live line, samples.

Ours. On a terminal the progress line updates in place; elsewhere one line is printed every few seconds, so
that logs stay readable. Nothing is drawn when quiet.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape


class _Console(Console):
    """A console whose reader may go away (head, less, a closed terminal): then it is silent, and work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())  # what is still to be flushed


console = _Console(highlight=False, soft_wrap=True)
error_console = _Console(stderr=True, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`duration(75)` -> `"1m15s"`, `duration(200_000)` -> `"2d07h"`."""
    total = max(0, round(seconds))
    hours, rest = divmod(total, 3600)
    minutes, secs = divmod(rest, 60)
    if hours >= 48:
        return f"{hours // 24:,}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{secs:02d}s" if minutes else f"{secs}s"


def stage_header(number: int, total: int, title: str, section: str, why: str) -> None:
    """`[3/12] Tokens  (report §2.2)` and one sentence of why."""
    console.print(
        f"\n[bold cyan]\\[{number}/{total}][/] [bold]{escape(title)}[/] [dim]report {escape(section)}[/]"
    )
    console.print(f"  {escape(why)}")


def sample(label: str, text: str, limit: int = 320) -> None:
    """One labelled example, on one line, cut at `limit` characters."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    console.print(f"  [dim]{escape(label)}:[/] {escape(shown.replace(chr(10), ' ⏎ '))}")


def note(text: str) -> None:
    """A plain indented line."""
    console.print(f"  {escape(text)}")


class Progress:
    """A line such as `  312/600 52%  loss 2.41  9.8k tok/s  1m02s left`.

    with Progress("pretrain", total=600) as bar:
        bar.update(step, loss=2.41, tokens=4096)    # `tokens` is counted since the last update
    """

    def __init__(self, label: str, total: int, *, start: int = 0, every: float = 5.0) -> None:
        self.label, self.total, self.start, self.every = label, max(1, total), start, every
        self.live = console.is_terminal
        self._begin = self._shown = time.monotonic()
        self._tokens, self._seconds = 0, 0.0

    def __enter__(self) -> Progress:
        return self

    def update(self, done: int, *, tokens: int = 0, seconds: float = 0.0, **values: Any) -> None:
        """Shows the state after `done` of `total` units; `values` are printed by name.

        seconds: that the tokens took, where something else happened in between as well.
        """
        self._tokens += tokens
        self._seconds += seconds
        now = time.monotonic()
        if now - self._shown < (0.2 if self.live else self.every) and done < self.total:
            return
        self._shown = now
        line = self.line(done, now - self._begin, values)
        if self.live:
            sys.stdout.write(f"\r\033[K{line}")
            sys.stdout.flush()
        else:
            console.print(line, markup=False)

    def note(self, text: str) -> None:
        """A line of its own that stays."""
        if self.live:
            sys.stdout.write("\r\033[K")
            sys.stdout.flush()
        note(text)

    def line(self, done: int, elapsed: float, values: Mapping[str, Any]) -> str:
        """The text of the progress line."""
        parts = [f"  {self.label} {done}/{self.total} {100 * done // self.total}%"]
        parts += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        ]
        if self._tokens and elapsed > 0:
            rate = self._tokens / (self._seconds or elapsed)
            parts.append(f"{rate / 1000:.1f}k tok/s" if rate >= 1000 else f"{rate:.0f} tok/s")
        fresh = done - self.start
        if fresh > 0:
            parts.append(f"{duration(elapsed / fresh * (self.total - done))} left")
        return "  ".join(parts)

    def __exit__(self, *_: object) -> None:
        if self.live:
            sys.stdout.write("\n")
            sys.stdout.flush()
