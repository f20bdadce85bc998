"""What /metrics tells Prometheus.

Ours. One registry a server, so that several servers in one process (tests) do not mix.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from openqwen.engine.engine import Engine
from openqwen.engine.sequence import Completion

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


# glibc's struct mallinfo2, mallinfo(3): given out are uordblks and, of pages of their own, hblkhd.
MALLINFO = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in MALLINFO)


def malloc_bytes() -> Callable[[], float] | None:
    """What tells the bytes that malloc has given out. None where it does not say: not glibc, or older than 2.33.

    Resident memory of a long-lived process grows by pieces that are free between others; only this tells a leak.
    """
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, TypeError):  # another C library; Windows has no CDLL(None)
        return None
    mallinfo.restype = _Mallinfo

    def given_out() -> float:
        found = mallinfo()
        return float(found.uordblks + found.hblkhd)

    return given_out


class ServerMetrics:
    """Counters and gauges; safe to touch from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._at: dict[Engine, tuple[int, int]] = {}  # running and waiting of each engine
        self.responses = Counter(
            "openqwen_responses", "HTTP responses", ["route", "status"], registry=self.registry
        )
        self.replies = Counter("openqwen_replies", "Replies ended", ["reason"], registry=self.registry)
        self.prompt_tokens = Counter("openqwen_prompt_tokens", "Prompt tokens", registry=self.registry)
        self.reply_tokens = Counter("openqwen_reply_tokens", "Tokens generated", registry=self.registry)
        self.reused_tokens = Counter(
            "openqwen_reused_tokens", "Prompt tokens found in the cache", registry=self.registry
        )
        self.running = Gauge("openqwen_running", "Replies being generated", registry=self.registry)
        self.waiting = Gauge("openqwen_waiting", "Replies waiting for a row", registry=self.registry)
        held = "Memory in use by C code, PyTorch's on the CPU included; what the allocator keeps free is not in it"
        if (malloc := malloc_bytes()) is not None:
            Gauge("openqwen_malloc_bytes", held, registry=self.registry).set_function(malloc)
        blocks = Gauge("openqwen_python_blocks", "Blocks of memory in use by Python", registry=self.registry)
        blocks.set_function(sys.getallocatedblocks)
        self.first_token = Histogram(
            "openqwen_first_token_seconds",
            "Time from request to first update",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def observe(self, engine: Engine) -> None:
        """The state after a step; the gauges are sums over all engines of the server."""
        self._at[engine] = (len(engine.scheduler.running), len(engine.scheduler.waiting))
        counts = list(self._at.values())
        self.running.set(sum(running for running, _ in counts))
        self.waiting.set(sum(waiting for _, waiting in counts))

    def ended(self, completion: Completion) -> None:
        self.replies.labels(completion.finish_reason).inc()
        self.prompt_tokens.inc(len(completion.prompt_ids))
        self.reply_tokens.inc(len(completion.ids))
        self.reused_tokens.inc(completion.reused)

    def text(self) -> bytes:
        return generate_latest(self.registry)
