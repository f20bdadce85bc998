"""`openqwen export`: a model for other programs.

Ours. `qwen2` and `qwen` are folders (safetensors, tokenizer, settings, a model card), `gguf` is one file, `ollama` that
file with its Modelfile. Nothing appears at --out before all of it is written, and nothing that is there is overwritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from openqwen.core import artifact
from openqwen.core.artifact import write_atomic
from openqwen.core.console import note
from openqwen.core.errors import UsageError
from openqwen.core.hub import hub_name, local_folder, revision_of

if TYPE_CHECKING:
    import torch

    from openqwen.model.export import Ends
    from openqwen.model.gguf import Vocabulary
    from openqwen.model.hf import Naming
    from openqwen.model.measure import Measured
    from openqwen.model.stored import Checkpoint
    from openqwen.tokenizer import Tokenizer

Format = Literal["qwen2", "qwen", "gguf", "ollama"]
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
Dtype = Annotated[
    Literal["bf16", "fp16", "fp32"] | None, Parameter(help="Of the weights; otherwise as they are stored.")
]
TokenizerPath = Annotated[Path | None, Parameter(help="Where the tokenizer is, if not beside the model.")]
Chat = Annotated[
    bool | None, Parameter(help="Replies end with <|im_end|>; otherwise as generation_config.json says.")
]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_NAMING: dict[Format, Naming] = {"qwen2": "qwen2", "qwen": "qwen1", "gguf": "gguf", "ollama": "gguf"}
GGUF_FILE = "model.gguf"


def export(
    model: Path,
    *,
    format: Annotated[
        Format,
        Parameter(
            help="qwen2: today's programs; qwen: the released layout; gguf: llama.cpp; ollama: with a Modelfile."
        ),
    ],
    out: Annotated[Path, Parameter(help="New folder, or new file for gguf.")],
    dtype: Dtype = None,
    max_shard_size: Annotated[
        str | None, Parameter(help="Largest weight file, such as 5GB; otherwise as the source, or 5GB.")
    ] = None,
    tokenizer: TokenizerPath = None,
    chat: Chat = None,
    license: Annotated[str | None, Parameter(help="What the model card says, such as apache-2.0.")] = None,
    measure: Annotated[
        Path | None,
        Parameter(
            help="Text to measure on what is lost beyond the training length: a corpus, a file or a folder."
        ),
    ] = None,
    strict: Annotated[bool, Parameter(negative="", help="Refuse what the format cannot say.")] = False,
) -> int:
    """Writes a model of ours, a Hugging Face folder (Qwen-1 or Qwen2) or a model of the hub for other programs.

    Formats other than qwen cannot say dynamic NTK and LogN: the export is exact up to the training length.
    """
    from openqwen.model.export import lost
    from openqwen.model.stored import check_rows, open_checkpoint
    from openqwen.tokenizer import load_tokenizer

    shard_bytes = None if max_shard_size is None else size_of(max_shard_size)
    if format in ("gguf", "ollama") and shard_bytes is not None:
        raise UsageError("gguf is one file", where="--max-shard-size", fix="leave the flag out")
    folder = local_folder(model)
    if (folder / "STARTED").exists() and not (folder / "DONE").exists():
        artifact.load(folder, "model")
    checkpoint = open_checkpoint(folder)
    missing = lost(checkpoint.config, _NAMING[format])
    if missing and strict:
        raise UsageError(
            missing, where=f"--format {format} --strict", fix="leave --strict out to export all the same"
        )
    if measure is not None and not missing:
        raise UsageError("nothing is lost", where=f"--format {format} --measure", fix="leave --measure out")
    tok = load_tokenizer(tokenizer or folder)
    check_rows(tok.vocab_size, checkpoint.config.vocab_size, str(tokenizer or model))
    named, commit = hub_name(model), revision_of(folder)
    job = Job(
        checkpoint=checkpoint,
        tok=tok,
        format=format,
        dtype_name=dtype,
        shard_bytes=shard_bytes,
        chat=chat,
        name=model.absolute().name,
        license=license,
        missing=missing,
        fetched=(named[0], commit) if named and commit else None,
    )
    measured = None if measure is None else job.measure(measure)
    _WRITERS[format](job, out, measured)
    note(f"{format}: {out}")
    for line in [*([missing] if missing else []), *(measured.lines() if measured else [])]:
        note(line)
    return 0


@dataclass(frozen=True)
class Job:
    """What is to be written of which model."""

    checkpoint: Checkpoint
    tok: Tokenizer
    format: Format
    dtype_name: str | None
    shard_bytes: int | None
    chat: bool | None  # None: as the source says
    name: str
    license: str | None
    missing: str | None
    fetched: tuple[str, str] | None  # name and commit of a model of the hub

    @property
    def dtype(self) -> torch.dtype | None:
        """None: as stored."""
        import torch

        return getattr(torch, DTYPES[self.dtype_name]) if self.dtype_name else None

    @property
    def ends(self) -> Ends:
        from openqwen.model.export import Ends

        return Ends(self.tok.eos_id, self.tok.im_end_id)

    @property
    def is_chat(self) -> bool:
        """Whether replies end with <|im_end|>."""
        from openqwen.model.export import source_is_chat

        return source_is_chat(self.checkpoint, self.tok.im_end_id) if self.chat is None else self.chat

    def measure(self, text: Path) -> Measured:
        """Bits per byte on a text, by our context extension and by what the file will say."""
        import numpy as np
        import torch

        from openqwen.model import load_model
        from openqwen.model.measure import measure, most_tokens
        from openqwen.tokenizer.texts import documents

        ids: list[int] = []
        for found in documents([text], "valid"):
            ids += [*self.tok.encode(found["text"]), self.tok.eos_id]
            if len(ids) >= most_tokens(self.checkpoint.config):
                break
        device = "cuda" if torch.cuda.is_available() else None
        loaded = load_model(self.checkpoint.folder, dtype=self.dtype, device=device)
        return measure(
            loaded, np.array(ids, np.int64), text.name, lambda part: len(self.tok.decode_bytes(part))
        )

    def card(self, measured: Measured | None) -> str:
        """The text of README.md."""
        from openqwen.model.card import Card

        stored = self.checkpoint.parts["embed.weight"][0].dtype
        return Card(
            name=self.name,
            target=self.format,
            config=self.checkpoint.config,
            dtype=str(self.dtype or stored).removeprefix("torch."),
            chat=self.is_chat,
            source=artifact.find(self.checkpoint.folder),
            fetched=self.fetched,
            license=self.license,
            lost=self.missing,
            measured=measured,
        ).text()


def _folder(job: Job, out: Path, measured: Measured | None) -> None:
    from openqwen.model.export import export_checkpoint, whole_folder
    from openqwen.tokenizer.export import save
    from openqwen.tokenizer.ranks import write_ranks

    with whole_folder(out) as folder:
        export_checkpoint(
            job.checkpoint,
            folder,
            "qwen1" if job.format == "qwen" else "qwen2",
            ends=job.ends,
            dtype=job.dtype,
            shard_bytes=job.shard_bytes,
            chat=job.chat,
        )
        save(job.tok, folder, job.checkpoint.config.max_length)
        if job.format == "qwen":
            write_ranks(folder / "qwen.tiktoken", job.tok.ranks)
        write_atomic(folder / "README.md", job.card(measured))
    if job.format == "qwen":
        note(
            "programs that load it as QWenLMHeadModel need the released Python files beside it; they are not copied"
        )


def _gguf(job: Job, out: Path, measured: Measured | None) -> None:
    from openqwen.model.export import whole_file

    with whole_file(out) as file:
        _write_gguf(job, file)


def _ollama(job: Job, out: Path, measured: Measured | None) -> None:
    from openqwen.chat.messages import DEFAULT_SYSTEM
    from openqwen.model.export import generation_values, whole_folder
    from openqwen.model.ollama import modelfile
    from openqwen.tokenizer.tokenizer import END_OF_TEXT, IM_END, IM_START

    generation = generation_values(job.checkpoint, "qwen2", job.ends, job.chat)
    text = modelfile(
        GGUF_FILE,
        generation,
        system=DEFAULT_SYSTEM if job.is_chat else None,
        stops=(IM_END, IM_START, END_OF_TEXT) if job.is_chat else (END_OF_TEXT,),
        max_length=job.checkpoint.config.max_length,
    )
    with whole_folder(out) as folder:
        _write_gguf(job, folder / GGUF_FILE)
        write_atomic(folder / "Modelfile", text)
        write_atomic(folder / "README.md", job.card(measured))


_WRITERS = {"qwen2": _folder, "qwen": _folder, "gguf": _gguf, "ollama": _ollama}


def _write_gguf(job: Job, file: Path) -> None:
    from openqwen.model.gguf import write_gguf

    write_gguf(file, job.checkpoint, vocabulary(job.tok, job.is_chat), job.dtype, job.name, job.license)


def vocabulary(tok: Tokenizer, chat: bool) -> Vocabulary:
    """A tokenizer as GGUF writes it. chat: texts end with <|im_end|>, not with <|endoftext|>."""
    from openqwen.model.gguf import Vocabulary
    from openqwen.tokenizer.export import CHAT_TEMPLATE, find_merges
    from openqwen.tokenizer.ranks import to_letters

    tokens = {i: to_letters(token) for token, i in tok.ranks.items()} | {
        i: name for name, i in tok.special.items()
    }
    pairs = find_merges(tok.ranks).values()
    return Vocabulary(
        tokens=[tokens[i] for i in range(tok.vocab_size)],
        control=frozenset(tok.special.values()),
        merges=[f"{to_letters(left)} {to_letters(right)}" for left, right in pairs],
        eos_id=tok.im_end_id if chat else tok.eos_id,
        pad_id=tok.eos_id,
        chat_template=CHAT_TEMPLATE,
    )


def size_of(text: str) -> int:
    """`"5GB"` -> 5000000000, `"2GiB"` -> 2147483648, `"300000"` -> 300000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]|[KMG]i)?B?\s*", text)
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise UsageError(
            f"{text!r} is no size", where="--max-shard-size", fix="write it as 5GB, 500MB or 2GiB"
        )
    return size
