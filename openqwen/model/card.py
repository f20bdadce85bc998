"""The model card: README.md of an exported folder, written from the configuration and from manifests.

Ours; the form is the Hugging Face hub's (YAML between dashes, then Markdown). It says what the model is, how it was
made as far as manifests tell, what the format cannot say, and how to load it. It claims nothing it cannot know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openqwen
from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.model.config import ModelConfig
from openqwen.model.measure import Measured

Target = Literal["qwen2", "qwen", "gguf", "ollama"]
_USE = {
    "qwen2": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
    'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
    "qwen": "openqwen chat FOLDER",
    "ollama": "ollama create NAME -f Modelfile  # with -q q4_K_M Ollama makes it smaller\nollama run NAME",
}


@dataclass(frozen=True)
class Card:
    """What a card is made from. license: an identifier of the hub's list, or any name; None: none was given."""

    name: str
    target: Target
    config: ModelConfig
    dtype: str
    chat: bool
    source: Artifact | None  # the artefact that was exported, if it was one
    fetched: tuple[str, str] | None  # else name and commit, if it was a model of the hub
    license: str | None
    lost: str | None
    measured: Measured | None

    def text(self) -> str:
        """The whole file."""
        language = "python" if self.target == "qwen2" else ""
        parts = [
            self._head(),
            f"# {self.name}",
            self._what(),
            self._made(),
            self._lost() if self.lost else "",
            f"## Use\n\n```{language}\n{_USE[self.target]}\n```",
            "" if self.license else "## Licence\n\nWhoever exported this model named no licence.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _head(self) -> str:
        lines = ["---"]
        if self.license:
            lines.append(f"license: {json.dumps(self.license, ensure_ascii=False)}")
        if self.target == "qwen2":
            lines.append("library_name: transformers")
        lines += ["pipeline_tag: text-generation", "tags: [openqwen, qwen]"]
        roots = sorted(_hub_names(self.source)) if self.source else [self.fetched[0]] if self.fetched else []
        if roots:
            lines.append(f"base_model: {json.dumps(roots[0] if len(roots) == 1 else roots)}")
        return "\n".join([*lines, "---"])

    def _what(self) -> str:
        c = self.config
        kind = "A chat model (ChatML; replies end with `<|im_end|>`)" if self.chat else "A base model"
        heads = f"{c.num_heads} heads" + (
            f" ({c.kv_heads} of keys and values)" if c.kv_heads < c.num_heads else ""
        )
        return (
            f"{kind} of the architecture of the Qwen Technical Report (2023): {c.num_parameters:,} parameters in "
            f"{self.dtype}, {c.num_layers} layers of width {c.hidden_size} with {heads}, feed-forward width {c.ffn}, "
            f"{c.vocab_size:,} embedding rows, trained at a length of {c.max_length:,} tokens."
        )

    def _made(self) -> str:
        head = f"## How it was made\n\nExported by openqwen {openqwen.__version__} (`--format {self.target}`)"
        if self.source is not None:
            head += ". Each line is a stage's result with the digest of its content; below it is what it was made from."
            return "\n".join([head, "", *_family(self.source, self.source.path.name, set())])
        if self.fetched is not None:
            return f"{head} from {self.fetched[0]} (commit {self.fetched[1]})."
        return f"{head} from a folder that holds no record of its making."

    def _lost(self) -> str:
        assert self.lost is not None
        parts = ["## What this format cannot say", f"{self.lost[0].upper()}{self.lost[1:]}."]
        if self.measured:
            parts += [
                f"Measured on {self.measured.text} ({self.measured.num_bytes:,} bytes in {self.measured.num_blocks} "
                "blocks), bits per byte (lower is better; the difference with its 95 % interval over blocks):",
                self.measured.table(),
            ]
        return "\n\n".join(parts)


def _family(found: Artifact, name: str, seen: set[str], depth: int = 0) -> list[str]:
    """`- name: kind digest` and, indented below, the artefacts it was made from; what stands above is not repeated."""
    manifest, parents = found.manifest, _parents(found)
    again = bool(parents) and found.content in seen
    seen.add(found.content)
    seed = "" if manifest["seed"] is None else f", seed {manifest['seed']}"
    line = f"{'  ' * depth}- {name}: {found.kind} `{found.content[:12]}`{seed}{_origin(manifest['facts'])}"
    if again:
        return [f"{line} (as above)"]
    return [line, *(row for label, one in parents.items() for row in _family(one, label, seen, depth + 1))]


def _origin(facts: Mapping[str, Any]) -> str:
    """Where an imported model came from; of a folder its name only, since a card is for others to read."""
    if "source" not in facts or "revision" not in facts:
        return ""
    if facts["revision"] is None:
        return f", imported from the folder {Path(facts['source']).name}"
    return f", imported from {facts['source']} (commit {facts['revision']})"


def _parents(found: Artifact) -> dict[str, Artifact]:
    """The artefacts that a manifest names, if they are still where they were and hold what they held."""
    parents = {}
    for name, source in found.manifest["inputs"].items():
        path = Path(os.path.normpath(found.path / source["path"]))
        parent = artifact.find(path) if path.is_dir() else None
        if parent is not None and parent.content == source["content"]:
            parents[name] = parent
    return parents


def _hub_names(found: Artifact) -> set[str]:
    """Models of the hub that this one goes back to."""
    facts = found.manifest["facts"]
    names = {facts["source"].partition("@")[0]} if facts.get("revision") else set()
    return names.union(*(_hub_names(parent) for parent in _parents(found).values()))
