"""`openqwen complete`: a model goes on with a program at a place of it (report §4, as an editor uses it)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape

from openqwen.cli.serve import Cache, Compiled, Quantise
from openqwen.core.console import error_console
from openqwen.core.errors import UsageError

if TYPE_CHECKING:
    from openqwen.code_qwen.prompt import Prompt
    from openqwen.engine.engine import Engine
    from openqwen.engine.sampling import Sampling
    from openqwen.model.config import CacheFormat, WeightBits
    from openqwen.tokenizer import Tokenizer

_PLACE = re.compile(r"(?P<file>.+?):(?P<line>\d{1,9})(?::(?P<column>\d{1,9}))?")
_MOST_NAMED = 5  # files left out that are named


def complete(
    place: str,
    *,
    model: Path,
    repository: Path | None = None,
    stop: Literal["line", "block", "function", "file"] = "file",
    max_tokens: Annotated[
        int | None, Parameter(help="Tokens at most; without it 256, or a quarter of a shorter context.")
    ] = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    context: int | None = None,
    show_prompt: Annotated[bool, Parameter(negative="", help="Print the prompt and run no model.")] = False,
    compiled: Compiled = None,
    quantise: Quantise = None,
    cache: Cache = None,
) -> int:
    """Prints what a model writes at a place of a program.

    Parameters
    ----------
    place
        FILE (its end), FILE:LINE (after that line) or FILE:LINE:COLUMN (after so many characters of it).
    repository
        The folder whose other files stand in the prompt: imports first, as many whole files as there is room for.
    stop
        Where it ends: the line, the block around the cursor, the function, or the file.
    context
        Tokens of prompt and completion together; left out: what the model was trained with.
    """
    from openqwen.code_qwen.prompt import make_prompt, read_others, read_target
    from openqwen.code_qwen.stop import StopRule
    from openqwen.engine.sampling import Sampling
    from openqwen.model.stored import open_checkpoint
    from openqwen.tokenizer import load_tokenizer

    file, line, column = _parse(place)
    root = repository or file.absolute().parent
    if not root.is_dir():
        raise UsageError(
            "no folder there", where=str(root), fix="give --repository the folder of the program"
        )
    target = read_target(file, root, line, column)
    rule = StopRule(stop, target.language, target.before)
    others, unread = read_others(root) if repository else ({}, {})
    tokenizer = load_tokenizer(model)
    length = context or open_checkpoint(model).config.max_length
    max_tokens = min(256, length // 4) if max_tokens is None else max_tokens
    room = length - max_tokens
    if max_tokens < 1 or room < 1:
        raise UsageError(
            f"{max_tokens} new tokens leave no room for a prompt in a context of {length}",
            fix="give a smaller --max-tokens or a larger --context",
        )
    prompt = make_prompt(target, others, room, lambda text: len(tokenizer.encode(text)))
    _tell(prompt, unread, room)
    if show_prompt:
        sys.stdout.write(prompt.text)
        return 0
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed, cutter=rule)
    _write(_engine(model, tokenizer, length, compiled, quantise, cache), prompt.text, sampling)
    return 0


def _parse(place: str) -> tuple[Path, int | None, int | None]:
    """FILE[:LINE[:COLUMN]]; a file that has such a name is that file."""
    found = None if Path(place).exists() else _PLACE.fullmatch(place)
    if found is None:
        return Path(place), None, None
    return Path(found["file"]), int(found["line"]), int(found["column"]) if found["column"] else None


def _tell(prompt: Prompt, unread: Mapping[str, str], room: int) -> None:
    """What the prompt is made of, on stderr: the completion alone goes to stdout."""
    lines = [f"prompt: {prompt.tokens:,} of {room:,} tokens"]
    if prompt.files:
        lines.append(f"with {', '.join(prompt.files)}")
    if prompt.cut:
        lines.append(f"without the first {prompt.cut:,} characters of the file, for which there is no room")
    left_out = [*prompt.left_out, *sorted(unread.items())]
    lines += [f"without {path} ({reason})" for path, reason in left_out[:_MOST_NAMED]]
    if len(left_out) > _MOST_NAMED:
        lines.append(f"and without {len(left_out) - _MOST_NAMED:,} more files")
    from openqwen.serve.terminal import printable

    for line in lines:
        error_console.print(f"  {escape(printable(line))}")


def _engine(
    path: Path,
    tokenizer: Tokenizer,
    length: int,
    compiled: bool | None,
    quantise: WeightBits | None,
    cache: CacheFormat | None,
) -> Engine:
    from openqwen.engine.engine import Engine
    from openqwen.model import load_model
    from openqwen.serve.decoding import use_bits, use_compiled

    model = load_model(path)
    use_bits(model, quantise)
    decoding = use_compiled(model, compiled, cache)
    return Engine(model, tokenizer, max_batch=1, max_length=length, compiled=decoding, cache=cache)


def _write(engine: Engine, prompt: str, sampling: Sampling) -> None:
    """Writes the completion as it comes; a terminal gets no letters that it would obey."""
    from openqwen.serve.terminal import printable

    terminal, last = sys.stdout.isatty(), "\n"
    for update in engine.stream(prompt, sampling):
        if update.text:
            sys.stdout.write(printable(update.text) if terminal else update.text)
            sys.stdout.flush()
            last = update.text[-1]
    if last != "\n":
        sys.stdout.write("\n")
