"""What is known to fail before a stage begins: inputs that do not belong together, too little text, another run's folder.

Ours. No torch is loaded, so `--plan` makes the same checks.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.config import Config, Resolved, dump_toml, show_value
from openqwen.core.console import note
from openqwen.core.errors import DataError, UsageError
from openqwen.core.recipe import flatten
from openqwen.core.shards import Tokens, open_tokens
from openqwen.model.config import ExtendConfig, ModelConfig
from openqwen.model.hf import read_config
from openqwen.pretrain.config import PretrainConfig
from openqwen.stages import Stage
from openqwen.tokenizer import load_tokenizer

Inputs = Mapping[str, Path]


def check(stage: Stage, resolved: Resolved[Any], inputs: Inputs, out: Path) -> None:
    """Raises the first problem: UsageError for settings or the folder, DataError for inputs."""
    if stage.name in _CHECKS:
        _CHECKS[stage.name](resolved, inputs)
    opened = {name: artifact.find(path) or path for name, path in inputs.items() if path.exists()}
    if len(opened) == len(inputs):
        _may_write(stage, resolved.config, opened, out)


# Folders


def _may_write(stage: Stage, config: Config, inputs: Mapping[str, Artifact | Path], out: Path) -> None:
    """An interrupted run's checkpoints would be deleted by a run of other settings or inputs."""
    started = out / "STARTED"
    saved = [path.name for path in (out / "checkpoints").glob("step-*")]
    if not saved or (out / "DONE").exists() or not started.is_file():
        return
    if started.read_text(encoding="utf-8").strip() == artifact.fingerprint(stage.kind, config, inputs):
        return
    raise UsageError(
        f"this folder holds an interrupted run with {_difference(out / 'config.toml', config)} ({max(saved)})",
        where=str(out),
        fix="go on with the settings and inputs it had, take another --out, or delete the folder to begin anew",
    )


def _difference(saved: Path, config: Config) -> str:
    """`"context 64 (now 32)"` for up to three settings; `"other inputs"` if the settings are the same."""
    before, now = (
        dict(flatten(tomllib.loads(text))) for text in (saved.read_text(encoding="utf-8"), dump_toml(config))
    )
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if not keys:
        return "other inputs, or of another version"
    told = [f"{key} {show_value(before.get(key))} (now {show_value(now.get(key))})" for key in keys[:3]]
    return ", ".join(told) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


# Stages


def _pretrain(resolved: Resolved[PretrainConfig], inputs: Inputs) -> None:
    artifact.open_inputs(inputs, {"tokens": "tokens", "tokenizer": ("tokenizer", "model"), "model": "model"})
    train = _tokens_of(inputs["tokens"], "train", inputs["tokenizer"])
    context = resolved.config.context
    if len(train) <= context:
        raise DataError(
            f"a context of {context:,} needs {context + 1:,} tokens, the train split has {len(train):,}",
            where=str(inputs["tokens"]),
            fix="pack more text, or a shorter --context",
        )
    if not len(open_tokens(inputs["tokens"], "valid")):
        raise DataError(
            "the valid split holds no document",
            where=str(inputs["tokens"]),
            fix="raise data.valid_fraction when the corpus is built, and pack again",
        )
    if "model" in inputs:
        _same_tokenizer(inputs["model"], inputs["tokenizer"])
        _same_shape(resolved, inputs["model"])
    elif resolved.config.lora is not None:
        raise UsageError(
            "adapters need a model to stand beside",
            where=_place(resolved, "lora"),
            fix="--model PATH, or leave lora.* out",
        )


def _extend(resolved: Resolved[ExtendConfig], inputs: Inputs) -> None:
    artifact.open_inputs(inputs, {"model": "model", "tokens": "tokens"})
    valid = _tokens_of(inputs["tokens"], "valid", inputs["model"])
    if "multiples" not in resolved.origin:
        return  # the default ones are cut to the text there is, which the table says
    asked = round(max(resolved.config.multiples) * _config_of(inputs["model"]).max_length)
    longest, most = _longest(inputs["tokens"], valid)
    if most <= asked:
        raise DataError(
            f"a length of {asked:,} needs {asked + 1:,} held-out tokens of one source, there are {most:,}",
            where=f"{_place(resolved, 'multiples')}; {inputs['tokens']}",
            fix="hold out more text, or ask for smaller multiples",
        )
    if longest <= asked:
        note(f"the longest held-out document has {longest:,} tokens: for {asked:,} documents are joined")


def _ppo(resolved: Resolved[Any], inputs: Inputs) -> None:
    kinds: dict[str, str | tuple[str, ...]] = {"policy": "model", "reward": "reward", "tokens": "tokens"}
    artifact.open_inputs(inputs, kinds)
    _tokens_of(inputs["tokens"], "train", inputs["policy"])
    _same_tokenizer(inputs["reward"], inputs["policy"])


def _dpo(resolved: Resolved[Any], inputs: Inputs) -> None:
    artifact.open_inputs(inputs, {"policy": "model"})


def _rft(resolved: Resolved[Any], inputs: Inputs) -> None:
    artifact.open_inputs(inputs, {"policy": "model", "reward": "reward"})
    _same_tokenizer(inputs["reward"], inputs["policy"])


def _compare(resolved: Resolved[Any], inputs: Inputs) -> None:
    models = [name for name in inputs if name.startswith("model-")]
    kinds: dict[str, str | tuple[str, ...]] = {"reward": "reward", "tokens": "tokens"}
    artifact.open_inputs(inputs, {**kinds, **dict.fromkeys(models, "model")})
    for name in models:
        _same_tokenizer(inputs["reward"], inputs[name])
        _tokens_of(inputs["tokens"], "valid", inputs[name])


def _score(resolved: Resolved[Any], inputs: Inputs) -> None:
    artifact.open_inputs(inputs, {"corpus": "corpus", "model": "model"})


_CHECKS: dict[str, Callable[[Resolved[Any], Inputs], None]] = {
    "pretrain": _pretrain,
    "extend": _extend,
    "ppo": _ppo,
    "dpo": _dpo,
    "rft": _rft,
    "rrhf": _rft,
    "compare": _compare,
    "score": _score,
}


# What inputs hold


def _tokens_of(path: Path, split: str, tokenizer: Path) -> Tokens:
    """A split of token shards. DataError if another tokenizer than the one at a path made them."""
    tokens = open_tokens(path, split)
    if tokens.meta["tokenizer"] != load_tokenizer(tokenizer).content:
        raise DataError(
            f"these token shards were made with another tokenizer than {tokenizer}",
            where=str(path),
            fix="pack the corpus again with that tokenizer",
        )
    return tokens


def _same_tokenizer(model: Path, tokenizer: Path) -> None:
    if load_tokenizer(model).content != load_tokenizer(tokenizer).content:
        raise DataError(
            f"this model has another tokenizer than {tokenizer}",
            where=str(model),
            fix="use the tokenizer in the model's folder, and tokens packed with it",
        )


def _config_of(model: Path) -> ModelConfig:
    path = model / "config.json"
    return read_config(json.loads(path.read_text(encoding="utf-8")), str(path))[0]


def _same_shape(resolved: Resolved[PretrainConfig], model: Path) -> None:
    """What somebody asks of the shape must be what the model to go on from has; defaults ask nothing."""
    found = _config_of(model)
    has = {
        "hidden_size": found.hidden_size,
        "num_layers": found.num_layers,
        "num_heads": found.num_heads,
        "ffn_size": found.ffn,
        "rope_base": found.rope_base,
    }
    asked = resolved.config.model.model_dump()
    for name, value in has.items():
        if f"model.{name}" in resolved.origin and asked[name] not in (None, value):
            raise UsageError(
                f"model.{name} is {show_value(asked[name])}, the model to go on from has {show_value(value)}",
                where=f"{_place(resolved, f'model.{name}')}; {model}",
                fix="leave model.* out when going on from a model",
            )


def _longest(path: Path, tokens: Tokens) -> tuple[int, int]:
    """Tokens of the longest held-out document, and of the source with the most."""
    lengths = [
        int(end) - int(start) for start, end in zip([0, *tokens.ends[:-1].tolist()], tokens.ends.tolist())
    ]
    by_source: dict[str, int] = {}
    for record, length in zip(artifact.read_jsonl(path / "documents.valid.jsonl"), lengths):
        by_source[record["source"]] = by_source.get(record["source"], 0) + length
    return max(lengths, default=0), max(by_source.values(), default=0)


def _place(resolved: Resolved[Any], key: str) -> str:
    """Where a setting, or one in a table of this name, was set."""
    found = [place for name, place in resolved.place.items() if name == key or name.startswith(f"{key}.")]
    return found[-1] if found else "the defaults"
