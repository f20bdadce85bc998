"""The launch files have the right form, and what they ask of openqwen exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from openqwen.core.config import resolve
from openqwen.pretrain.config import PretrainConfig

LAUNCH = Path(__file__).parents[2] / "recipes/launch"


def asked_for(words: list[str]) -> PretrainConfig:
    """The settings of a command line after `openqwen`; inputs and output are paths."""
    assert words[0] == "pretrain"
    flags = dict(zip(words[1::2], words[2::2], strict=True))
    recipe = flags.pop("--recipe")
    for path in ("--tokens", "--tokenizer", "--out"):
        del flags[path]
    settings = {name.removeprefix("--"): value for name, value in flags.items()}
    return resolve(PretrainConfig, "pretrain", [recipe], flags=settings, environ={}).config


def test_slurm() -> None:
    script = LAUNCH / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M))
    assert directives["signal"] == "TERM@300" and "requeue" in directives
    assert directives["ntasks-per-node"] == "1"  # torchrun starts the processes of a node
    patience = re.search(r"^export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text, re.M)
    assert (
        patience is not None and 200 < int(patience[1]) < 300
    )  # as long as Slurm waits, or a save is cut short
    example = (
        text[text.index("slurm.sh pretrain") : text.index("# The output")].replace("#", "").replace("\\", "")
    )
    config = asked_for(shlex.split(example)[1:])
    assert config.parallel.strategy == "hybrid" and config.model.hidden_size == 4096


def test_kubernetes() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the file")
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert replicas["Master"]["replicas"] == 1 and replicas["Worker"]["replicas"] == 3
    for spec in replicas.values():
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"  # the operator looks for this name
        patience = {entry["name"]: entry["value"] for entry in container["env"]}
        assert 200 < int(patience["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
        assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == job["spec"]["nprocPerNode"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        words = [word for argument in container["args"] for word in argument.split("=", 1)]
        config = asked_for(words)
        gpus = int(job["spec"]["nprocPerNode"])
        assert config.parallel.group_size == gpus and config.batch_size % (4 * gpus) == 0
