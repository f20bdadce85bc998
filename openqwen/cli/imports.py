"""`openqwen import`: a published model becomes an artefact, so that every stage can go on from it.

Ours. Weights and config.json stay as they are, byte for byte, unless another dtype is asked for; the tokenizer is
written in our form beside them. The manifest names the source, its commit if it came from the hub, and the sha256 of
every file that was read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from openqwen.cli.common import Out
from openqwen.cli.export import DTYPES, Chat, Dtype, TokenizerPath
from openqwen.core import artifact
from openqwen.core.artifact import Artifact, input_content, stage_run
from openqwen.core.config import Resolved, validate
from openqwen.core.console import note
from openqwen.core.errors import DataError, UsageError
from openqwen.core.hub import fetched_sha256, hub_name, local_folder, revision_of
from openqwen.model.config import ImportConfig

if TYPE_CHECKING:
    from openqwen.model.stored import Checkpoint
    from openqwen.tokenizer import Tokenizer

MODELS = ("model", "policy")  # inputs that may be models of others, in any stage that has them
EVALUATED = ("base", "chat", "rlhf")  # and in evals
# The released paddings of the embedding are 85 to 399 rows (to a multiple of 128 or 256).
MOST_PADDING = 1024


def import_(
    model: Annotated[Path, Parameter(help="A Hugging Face folder (Qwen-1 or Qwen2), or a name of the hub.")],
    *,
    out: Out,
    dtype: Dtype = None,
    tokenizer: TokenizerPath = None,
    chat: Chat = None,
) -> int:
    """Makes an artefact of a published model: openqwen import Qwen/Qwen-7B --out out/qwen-7b.

    Nothing is executed that comes with a model: no pickle, no Python file.
    """
    config = validate(ImportConfig, {"dtype": DTYPES[dtype] if dtype else None, "chat": chat})
    made = import_model(model, out, config, tokenizer)
    note(f"model: {made.path}")
    for key in ("parameters", "layout", "dtype", "max_length", "chat"):
        note(f"  {key} = {made.manifest['facts'][key]}")
    return 0


def import_model(
    source: Path, out: Path, config: ImportConfig | None = None, tokenizer: Path | None = None
) -> Artifact:
    """The artefact of a published model at `out`, made anew unless it is there from the same files.

    DataError, before anything is written, for what is incomplete, foreign, pickled, or has another's tokenizer.
    """
    from openqwen.model.stored import open_checkpoint
    from openqwen.tokenizer import load_tokenizer

    config = config or ImportConfig()
    folder = local_folder(source)
    if (folder / "STARTED").exists() or (folder / "DONE").exists():
        artifact.load(folder, "model")
        raise UsageError(
            "this is an artefact already", where=str(source), fix="give it to the stages as it is"
        )
    checkpoint = open_checkpoint(folder)
    tok = load_tokenizer(tokenizer or folder)
    check_tokenizer(checkpoint, tok, str(tokenizer or source))
    inputs = files_of(checkpoint, tokenizer)
    done = artifact.current(out, "model", config, inputs)
    if done is not None:
        return done
    _check_fetched(inputs)
    with stage_run(out, "model", Resolved(config, {}), inputs) as run:
        _write(checkpoint, tok, run.path, config)
        run.fact(source=str(source), revision=revision_of(folder), **_facts(run.path, tok))
    done = artifact.find(out)
    assert done is not None
    return done


def check_tokenizer(checkpoint: Checkpoint, tok: Tokenizer, where: str) -> None:
    """DataError if this cannot be the tokenizer that the model was trained with."""
    from openqwen.model.export import GENERATION
    from openqwen.model.hf import end_ids
    from openqwen.model.stored import check_rows, read_json

    rows = checkpoint.config.vocab_size
    check_rows(tok.vocab_size, rows, where)
    if rows - tok.vocab_size >= MOST_PADDING:
        raise DataError(
            f"the tokenizer has {tok.vocab_size} ids, the model {rows} embedding rows: padding does not explain that",
            where=where,
            fix="use the tokenizer the model was trained with",
        )
    path = checkpoint.folder / GENERATION
    ends = end_ids(read_json(path)) if path.is_file() else []
    if ends and not {tok.eos_id, tok.im_end_id} & set(ends):
        raise DataError(
            f"{GENERATION} ends texts at {', '.join(map(str, ends))}, the tokenizer has <|endoftext|> at {tok.eos_id} "
            f"and <|im_end|> at {tok.im_end_id}",
            where=where,
            fix="use the tokenizer the model was trained with",
        )


def files_of(checkpoint: Checkpoint, tokenizer: Path | None) -> dict[str, Artifact | Path]:
    """Name -> path of every file that an import reads, and a tokenizer that is given by itself."""
    folder = checkpoint.folder
    names = {stored.file.name for part in checkpoint.parts.values() for stored in part}
    names |= {path.name for pattern in ("*.json", "*.tiktoken") for path in folder.glob(pattern)}
    found: dict[str, Artifact | Path] = {name: folder / name for name in sorted(names)}
    return found if tokenizer is None else {**found, "tokenizer": artifact.find(tokenizer) or tokenizer}


def _check_fetched(files: Mapping[str, Artifact | Path]) -> None:
    """DataError if a file of the hub is not what the hub said it is."""
    for name, path in files.items():
        wanted = fetched_sha256(path) if isinstance(path, Path) else None
        if wanted is not None and input_content(path) != wanted:
            raise DataError(
                f"{name} is damaged: its sha256 is not the hub's",
                where=str(path),
                fix="delete the file that it points to, and import again",
            )


def _write(checkpoint: Checkpoint, tok: Tokenizer, folder: Path, config: ImportConfig) -> None:
    import torch

    from openqwen.model.export import Ends, export_checkpoint

    export_checkpoint(
        checkpoint,
        folder,
        checkpoint.layout,
        ends=Ends(tok.eos_id, tok.im_end_id),
        dtype=None if config.dtype is None else getattr(torch, config.dtype),
        chat=config.chat,
    )
    tok.save(folder)


def _facts(folder: Path, tok: Tokenizer) -> dict[str, object]:
    """What the written model is."""
    from openqwen.model.export import source_is_chat
    from openqwen.model.stored import open_checkpoint

    made = open_checkpoint(folder)
    return {
        "parameters": made.config.num_parameters,
        "layout": made.layout,
        "dtype": str(made.parts["embed.weight"][0].dtype).removeprefix("torch."),
        "max_length": made.config.max_length,
        "tokens": tok.vocab_size,
        "rows": made.config.vocab_size,
        "chat": source_is_chat(made, tok.im_end_id),
    }


def with_imported(stage: str, inputs: Mapping[str, Path], out: Path, plan: bool) -> dict[str, Path]:
    """A stage's inputs, where models of others are replaced by what is made of them: OUT-NAME beside `out`."""
    replaced = dict(inputs)
    for name in EVALUATED if stage == "evals" else MODELS:
        if name not in inputs or not is_foreign(inputs[name]):
            continue
        source, place = inputs[name], out.with_name(f"{out.name}-{name}")
        by_hand = f"openqwen import {source} --out {place}, and give --{name} {place}"
        if plan:
            raise UsageError(
                "a plan fetches and writes nothing, and this is a model of others", str(source), by_hand
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                "only one process can import a model, and these are several", str(source), by_hand
            )
        note(f"{name}: importing {source} to {place}")
        replaced[name] = import_model(source, place).path
    return replaced


def is_foreign(path: Path) -> bool:
    """Whether this is a published model: a name of the hub, or a folder with config.json that no stage has written."""
    ours = (path / "STARTED").exists() or (path / "DONE").exists()
    return hub_name(path) is not None or (not ours and (path / "config.json").is_file())
