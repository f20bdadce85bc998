"""Models by their name on the Hugging Face hub: `org/name`, or `org/name@revision`.

Ours. What stands on the disk comes first: a path that exists, or whose first folder does, is never looked for on the
hub; a revision (`@main`) says that the hub is meant where only the folder exists. Fetched are safetensors, JSON and
.tiktoken files, and nothing else: no pickle and no program ever arrives. The library keeps files in its own cache, goes
on with broken downloads, and reads HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
"""

from __future__ import annotations

import re
from pathlib import Path

from openqwen.core.errors import DataError, MissingTool, OpenQwenError

WEIGHTS = ("*.safetensors",)
SETTINGS = ("*.json", "*.tiktoken")
_NAME = re.compile(r"([A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@((?!.*\.\.)[\w./-]+))?", re.ASCII)
_FILES = (".bin", ".gguf", ".json", ".jsonl", ".pt", ".pth", ".safetensors", ".tiktoken", ".toml")


def hub_name(path: Path | str) -> tuple[str, str | None] | None:
    """(name, revision) if this can only be a name on the hub, else None."""
    path = Path(path)
    match = _NAME.fullmatch(path.as_posix())
    if match is None or path.suffix in _FILES or path.exists():
        return None
    if match[2] is None and Path(path.parts[0]).exists():
        return None
    return match[1], match[2]


def local_folder(path: Path | str, *, weights: bool = True) -> Path:
    """The path itself, or the folder to which a model of the hub was fetched.

    weights: False fetches only what a tokenizer needs. DataError in one line for what the hub does not give;
    MissingTool without the package huggingface_hub.
    """
    named = hub_name(path)
    if named is None:
        return Path(path)
    name, revision = named
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise MissingTool(
            f"there is no folder {name} here, and asking the hub needs the package {error.name}",
            fix="pip install 'openqwen[hf]'",
        ) from error
    try:
        wanted = [*WEIGHTS, *SETTINGS] if weights else [*SETTINGS]
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"])
        )
    except Exception as error:  # offline, no route, no such name, no rights: each library version has its own
        raise _refused(name, revision, error) from error
    if weights and not any(folder.glob(WEIGHTS[0])):
        raise DataError(
            "the hub holds no safetensors of this model; pickled weights are not fetched",
            where=str(path),
            fix="look for a revision or a copy with safetensors",
        )
    return folder


def revision_of(folder: Path) -> str | None:
    """The commit that a fetched folder is of; None for any other folder."""
    is_commit = re.fullmatch("[0-9a-f]{40}", folder.name) and folder.parent.name == "snapshots"
    return folder.name if is_commit else None


def fetched_sha256(file: Path) -> str | None:
    """The sha256 that the hub said of a fetched file; None if it is no large file of the library's cache."""
    target = file.resolve()
    is_blob = re.fullmatch("[0-9a-f]{64}", target.name) and target.parent.name == "blobs"
    return target.name if is_blob else None


def _refused(name: str, revision: str | None, error: Exception) -> OpenQwenError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = name if revision is None else f"{name}@{revision}"
    if isinstance(error, GatedRepoError):
        return DataError(
            "the hub gives this model only to those who accepted its terms",
            where=where,
            fix="accept them on the model's page, and set HF_TOKEN",
        )
    if isinstance(error, RepositoryNotFoundError):
        return DataError(
            "there is no such folder here, and no public model of that name on the hub",
            where=where,
            fix="check the path or the name; a private model needs HF_TOKEN",
        )
    if isinstance(error, RevisionNotFoundError):
        return DataError(f"the model has no revision {revision}", where=where, fix="check it on the hub")
    cause = error.__cause__ or error  # the library wraps what happened into advice of its own
    said = next(iter(str(cause).splitlines()), "")[:160]
    return DataError(
        f"there is no such folder here, and the hub does not give it: {type(cause).__name__}: {said}",
        where=where,
        fix="check the path; or the network, HF_ENDPOINT and HF_HUB_OFFLINE; or fetch the folder elsewhere and give it",
    )
