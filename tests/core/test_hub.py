"""Names of the hub: what counts as one, what is fetched, and one line for all that the hub does not give."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
from fake_hub import COMMIT, Hub

from openqwen.core.errors import DataError, MissingTool, OpenQwenError
from openqwen.core.hub import fetched_sha256, hub_name, local_folder, revision_of


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repo = tmp_path / "repo"
    (repo / "onnx").mkdir(parents=True)
    for name in ("config.json", "qwen.tiktoken", "model-00001-of-00001.safetensors", "onnx/config.json"):
        (repo / name).write_text(name)
    for name in ("pytorch_model.bin", "modeling_qwen.py", "README.md", "cache_kernels.cu"):
        (repo / name).write_text("harm")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_text("harm")
    found = Hub({"Qwen/Qwen-1_8B": repo, "old/pickled": pickled}, gated=("shy/model",))
    with fake_hub.serving(found) as address:
        fake_hub.use(monkeypatch, address, tmp_path / "cache")
        yield found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Qwen/Qwen-7B-Chat", ("Qwen/Qwen-7B-Chat", None)),
        ("Qwen/Qwen1.5-0.5B@v1", ("Qwen/Qwen1.5-0.5B", "v1")),
        ("a/b@refs/pr/3", ("a/b", "refs/pr/3")),
        ("out/tour", None),  # out is a folder here
        ("out/tour@main", ("out/tour", "main")),
        ("model", None),
        ("a/b/c", None),
        ("/a/b", None),
        ("./a", None),
        ("../a", None),
        ("a/..", None),
        ("~/a", None),
        ("a/vocab.tiktoken", None),
        ("a/b c", None),
        ("a/b@", None),
        ("a/b@../../etc", None),
        ("Ünï/b", None),
    ],
)
def test_what_is_a_name(text: str, name: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == name and hub_name(Path(text)) == name


def test_what_stands_on_the_disk_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen/Qwen-7B").mkdir(parents=True)
    assert hub_name("Qwen/Qwen-7B") is None
    assert local_folder("Qwen/Qwen-7B") == Path("Qwen/Qwen-7B")


@pytest.mark.fault(
    "files from strangers", "a repository of the hub holds code and pickles", "they are not fetched"
)
def test_only_weights_settings_and_vocabulary_are_fetched(hub: Hub) -> None:
    folder = local_folder(Path("Qwen/Qwen-1_8B"))
    names = {"config.json", "qwen.tiktoken", "model-00001-of-00001.safetensors"}
    assert {path.name for path in folder.iterdir()} == names == hub.fetched()
    assert revision_of(folder) == COMMIT and revision_of(folder.parent) is None
    weights = folder / "model-00001-of-00001.safetensors"
    assert fetched_sha256(weights) is not None and fetched_sha256(folder / "config.json") is None


def test_a_tokenizer_needs_no_weights(hub: Hub) -> None:
    folder = local_folder("Qwen/Qwen-1_8B@v1", weights=False)
    assert {path.name for path in folder.iterdir()} == {"config.json", "qwen.tiktoken"} == hub.fetched()


def test_what_was_fetched_is_used_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = local_folder("Qwen/Qwen-1_8B")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert local_folder("Qwen/Qwen-1_8B") == folder and len(hub.asked) == asked


def refused(name: str, what: str, kind: type[OpenQwenError] = DataError) -> OpenQwenError:
    with pytest.raises(kind, match=what) as error:
        local_folder(name)
    assert "\n" not in error.value.what and error.value.fix
    return error.value


def test_refusals(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert refused("no/such", "no public model of that name").where == "no/such"
    assert "HF_TOKEN" in str(refused("shy/model", "accepted its terms").fix)
    assert refused("Qwen/Qwen-1_8B@v9", "no revision v9").where == "Qwen/Qwen-1_8B@v9"
    refused("old/pickled", "no safetensors of this model; pickled weights are not fetched")
    assert "pytorch_model.bin" not in hub.fetched()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("no/such", "the hub does not give it: OfflineModeIsEnabled")


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub.use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert "HF_ENDPOINT" in str(refused("Qwen/Qwen-7B", "does not give it: Connect").fix)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refused("Qwen/Qwen-7B", "asking the hub needs the package huggingface_hub", MissingTool)
    assert error.fix == "pip install 'openqwen[hf]'"
