"""The server under 1, 32 and 256 clients at once, beside the engine alone on the same work.

Ours; the report describes no server. Goals: every reply whole; at 32 clients at least half of what the server computes
is the engine's own work, with a model so small that a token costs it half a millisecond. That is counted in seconds of
computing, which other work on the machine does not change; rates and waits are in seconds that pass, beside clients
that compute on the same machine.

    python benchmarks/serve.py [--shape S|M] [--threads 1] [--rounds 2] > results/serve.json

Clients are in a process of their own and ask again as soon as they have their reply: a prompt of 128 tokens that no
other request begins with, 32 new ones, greedy, streamed. One load before is not counted; medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from engine import SHAPES, model_config, prompt, tokenizer  # beside this file

from openqwen.core.artifact import environment
from openqwen.engine import Engine, Sampling
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model, save_model
from openqwen.serve.connection import allow_connections

REQUESTS = {1: 8, 32: 64, 256: 256}  # by clients at once
NEW, BATCH = 32, 64
GOAL_SHARE = 0.5


@dataclass
class Load:
    """What the clients of one round saw, in seconds."""

    first: list[float] = field(default_factory=list)  # from sending a request to its first token
    between: list[float] = field(default_factory=list)  # from a token to the next
    tokens: int = 0
    took: float = 0.0
    computed: float = 0.0  # by the server's process


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    allow_connections()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(Qwen(model_config(options.shape)), folder)
        tokenizer().save(folder)
        alone = Engine(load_model(folder), tokenizer(), BATCH, compiled=True)
        rounds: dict[int, list[Load]] = {clients: [] for clients in REQUESTS}
        engine: list[float] = []
        with served(folder, options.threads) as (url, process):
            numbers = iter(range(10**9))
            asyncio.run(ask_all(url, BATCH, [next(numbers) for _ in range(BATCH)]))
            by_engine(alone, [next(numbers) for _ in range(BATCH)])
            for _ in range(options.rounds):
                for clients, count in REQUESTS.items():
                    before = computed(process)
                    load = asyncio.run(ask_all(url, clients, [next(numbers) for _ in range(count)]))
                    load.computed = computed(process) - before
                    rounds[clients].append(load)
                engine.append(by_engine(alone, [next(numbers) for _ in range(REQUESTS[32])]))
        whole = all(
            load.tokens == REQUESTS[clients] * NEW for clients, loads in rounds.items() for load in loads
        )
    for clients, loads in rounds.items():
        measured[f"{options.shape} {clients} clients"] = found = summary(clients, loads)
        print(f"{options.shape} {clients:3} clients: {json.dumps(found)}", file=sys.stderr, flush=True)
    own = 1e3 * statistics.median(engine) / (REQUESTS[32] * NEW)
    measured[f"{options.shape} engine alone, 32 at once"] = {"computing_ms_a_token": round(own, 3)}
    share = round(own / measured[f"{options.shape} 32 clients"]["computing_ms_a_token"], 3)
    result = {
        "area": "serve",
        "ratios": {f"{options.shape} share of the engine in computing at 32 clients": share},
        "goals": {
            f"{options.shape} every reply whole": whole,
            f"{options.shape} {GOAL_SHARE:.0%} of computing is the engine's": share >= GOAL_SHARE,
        },
        "measured": measured,
        "threads": options.threads,
        "machine": environment(),
    }
    print(json.dumps(result, indent=1))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def summary(clients: int, loads: list[Load]) -> dict[str, float]:
    first = [value for load in loads for value in load.first]
    between = [value for load in loads for value in load.between]
    took = statistics.median(load.took for load in loads)
    return {
        "requests_per_second": round(REQUESTS[clients] / took, 2),
        "tokens_per_second": round(REQUESTS[clients] * NEW / took, 1),
        "first_token_p50_ms": round(1e3 * statistics.median(first), 1),
        "first_token_p99_ms": round(1e3 * percentile(first, 0.99), 1),
        "between_tokens_p50_ms": round(1e3 * statistics.median(between), 2),
        "between_tokens_p99_ms": round(1e3 * percentile(between, 0.99), 2),
        "computing_ms_a_token": round(
            1e3 * statistics.median(load.computed / load.tokens for load in loads), 3
        ),
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def by_engine(engine: Engine, numbers: list[int]) -> float:
    """Seconds of computing for the work of 32 clients, without a server: 32 rows, refilled as they end."""
    sampling = Sampling(temperature=0, max_tokens=NEW, stop_ids=())
    began, left, running = time.process_time(), list(numbers), 0
    while left or running:
        while left and running < 32:
            engine.submit(prompt(left.pop()), sampling, stream=True)
            running += 1
        running -= sum(update.completion is not None for update in engine.step())
    return time.process_time() - began


async def ask_all(url: str, clients: int, numbers: list[int]) -> Load:
    """All requests, by so many clients, each on a connection that it keeps."""
    load, left = Load(), list(numbers)

    async def client() -> None:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        while left:
            await ask(reader, writer, where.netloc, left.pop(), load)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    load.took = time.perf_counter() - began
    return load


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, number: int, load: Load
) -> None:
    body: dict[str, Any] = {"prompt": prompt(number), "max_tokens": NEW, "temperature": 0, "stream": True}
    # No control token, so no reply ends early; log-probabilities, so that each token has an event of its own.
    body |= {"logit_bias": {str(i): -100 for i in range(257, 464)}, "logprobs": 0}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    last = time.perf_counter()
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    count = 0
    status = await reader.readline()
    assert status.startswith(b"HTTP/1.1 200"), status
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            break
        if line.startswith(b"data: ") and b'"logprobs":{' in line:
            now = time.perf_counter()
            (load.between if count else load.first).append(now - last)
            last, count = now, count + 1
    load.tokens += count
    while await reader.readline() != b"0\r\n":  # the chunk that ends the reply, and the line after it
        pass
    await reader.readline()


@contextmanager
def served(folder: str, threads: int) -> Iterator[tuple[str, int]]:
    """The address of a server and the number of its process."""
    line = [sys.executable, "-m", "openqwen", "serve", folder, "--port", "0", "--max-batch", str(BATCH)]
    child = subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    try:
        assert child.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", child.stdout.readline())
        assert found, "the server did not start"
        yield found[0], child.pid
    finally:
        child.terminate()
        child.communicate()


def computed(process: int) -> float:
    """Seconds that a process has computed so far, as Linux tells."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
