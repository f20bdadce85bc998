"""The pipeline on a real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import chaos
import pytest
from shard_bench import SHARDS, resolved
from test_data_runner import HERE, numbers

from openqwen.core.artifact import Artifact
from openqwen.core.errors import DataError, OpenQwenError
from openqwen.data.config import DataConfig, RunnerConfig
from openqwen.data.runner import InProcess, Pipeline, Runner, make_runner
from openqwen.data.stage import run
from openqwen.data.store import Store

ray = pytest.importorskip("ray", reason='needs Ray: pip install "openqwen[ray]"')
pytestmark = pytest.mark.slow


class Nodes:
    """A head and a node that can be killed, one processor each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.other: Any = None

    def both(self) -> None:
        if self.other is None:
            self.other = self.cluster.add_node(num_cpus=1)
            self.cluster.wait_for_nodes()

    def kill(self) -> None:
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = None


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), before]))
    found = Nodes()
    yield found
    ray.shutdown()
    found.cluster.shutdown()
    del os.environ["PYTHONPATH"]
    if before:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def runner(nodes: Nodes) -> Iterator[Runner]:
    nodes.both()
    made = make_runner(RunnerConfig(how="ray", address=nodes.cluster.address, retries=2))
    yield made
    made.close()


def test_a_killed_node_changes_nothing(tmp_path: Path, nodes: Nodes, runner: Runner) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def kill() -> None:
        while len(list(marks.iterdir())) < 2:  # a task on each node
            time.sleep(0.05)
        nodes.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    tasks = numbers(3, chaos.slow, seconds=2.0, marks=str(marks))
    found = Pipeline(Store(str(tmp_path / "ray")), runner).run(tasks)
    killer.join()
    here = Pipeline(Store(str(tmp_path / "here")), InProcess()).run(
        numbers(3, chaos.slow, seconds=2.0, marks=str(marks))
    )
    assert len(list(marks.iterdir())) >= 3 + 1 + 3  # one began twice on Ray
    assert [replace(r, seconds=0) for r in found] == [replace(r, seconds=0) for r in here]


@pytest.mark.fault("data", "a node of a Ray cluster is killed", "same bytes as without")
def test_the_same_corpus_although_a_node_dies(
    in_process: Artifact, primer: Path, tmp_path: Path, nodes: Nodes
) -> None:
    nodes.both()
    ray.shutdown()  # the stage finds the cluster by its address
    out = tmp_path / "out"

    def kill() -> None:
        while not list(out.glob("checkpoints/shards/language/*.json")):
            time.sleep(0.02)
        nodes.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    flags = {"runner__how": "ray", "runner__address": nodes.cluster.address, **SHARDS}
    made = run(resolved(DataConfig, "data", **flags), {"primer": primer}, out)
    killer.join()
    assert made.content == in_process.content


def test_failures_are_told_as_everywhere(tmp_path: Path, nodes: Nodes, runner: Runner) -> None:
    pipeline = Pipeline(Store(str(tmp_path)), runner)
    with pytest.raises(DataError, match="this number is odd") as error:
        pipeline.run(numbers(1, chaos.refuse))
    assert error.value.where == "numbers.txt:3" and "in refuse" in str(error.value.__cause__)
    with pytest.raises(OpenQwenError, match=r"task sums/00001 ended its Ray worker .* 3 times"):
        pipeline.run([replace(numbers(2, chaos.die_always)[1], about="pages/7.html")])


@pytest.mark.fault("data", "no cluster answers at the Ray address", "one clear error")
def test_no_cluster_there_is_one_clear_error(nodes: Nodes) -> None:
    ray.shutdown()
    with pytest.raises(OpenQwenError, match="no Ray there") as error:
        make_runner(RunnerConfig(how="ray", address="127.0.0.1:1"))
    assert "auto" in str(error.value.fix)
