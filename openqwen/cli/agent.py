"""`openqwen agent`, `agent-eval`, `agent-bench` and `self-instruct`: tool use (report §3.4)."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from openqwen.cli.common import Out, Plan, Recipes, Settings, Tools, run_stage
from openqwen.core.errors import UsageError


def agent(
    model: str,
    *,
    tools: Tools = None,
    interpreter: Annotated[
        bool, Parameter(negative="", help="Also give it Python in the sandbox, kept from call to call.")
    ] = False,
    folder: Path = Path("out/agent"),
    trace: Path | None = None,
    max_steps: int = 8,
    max_tokens: int = 512,
    max_observation: int = 2000,
    tool_seconds: float = 30.0,
    cell_seconds: float = 30.0,
) -> int:
    """Answers questions with tools, and shows thoughts, calls, code, results and pictures as they come.

    Parameters
    ----------
    model
        A model artefact, a Hugging Face folder, or ADDRESS#NAME, say http://localhost:8000/v1#qwen.
    folder
        Where the interpreter's pictures are written.
    trace
        A file that grows by one JSON line for each question, with all that happened.
    max_steps
        Calls an answer may make.
    max_tokens
        Tokens the model may write between two calls.
    max_observation
        Characters of a tool's result that the model sees.
    tool_seconds
        Time limit of a tool's call.
    cell_seconds
        Time limit of a cell in the interpreter.
    """
    from openqwen.agent.interpreter import Interpreter
    from openqwen.agent.sources import open_tools
    from openqwen.agent.terminal import Session, talk
    from openqwen.agent.tools import Toolbox
    from openqwen.sandbox import Kernel, Limits

    if not tools and not interpreter:
        raise UsageError("an agent needs tools", fix="--tools FILE.py, or --interpreter")
    with ExitStack() as stack:
        found = open_tools(tools or [], tool_seconds, stack)
        python = None
        if interpreter:
            python = stack.enter_context(Interpreter(Kernel(Limits(seconds=cell_seconds)), folder))
            found.append(python.tool)
        box = Toolbox(found, tool_seconds, max_observation)
        talk(Session(_speaker(model, max_tokens), box, python, max_steps, trace=trace), sys.stdin, sys.stdout)
    return 0


def _speaker(model: str, max_tokens: int) -> Any:
    """The model at an address, or one of ours loaded now."""
    from openqwen.agent.models import EngineModel, RemoteModel
    from openqwen.annotate.config import RemoteConfig, checked_address
    from openqwen.annotate.models import Remote

    if model.startswith(("http://", "https://")):
        try:
            address = checked_address(model)
        except ValueError as error:
            raise UsageError(str(error), where="MODEL") from error
        return RemoteModel(Remote(address, RemoteConfig()), max_tokens)
    from openqwen.engine import Engine
    from openqwen.model import load_model
    from openqwen.tokenizer import load_tokenizer

    tokenizer, loaded = load_tokenizer(model), load_model(model)
    room = loaded.config.max_length * (4 if loaded.config.dynamic_ntk else 1)  # as `openqwen chat`
    return EngineModel(Engine(loaded, tokenizer, max_batch=1, max_length=room), tokenizer, max_tokens)


def evaluate(
    *settings: Settings,
    out: Out,
    model: Annotated[Path | None, Parameter(help="The model artefact; or --address.")] = None,
    tools: Annotated[
        Path | None, Parameter(help="Recorded tool conversations; left out: 228 of ours with unseen tools.")
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(help="Also run the published sets in this folder: bfcl/, code_interpreter/, toolqa/."),
    ] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Scores a chat model's tool use on held-out questions (report §3.4, Table 6); settings: [agent]."""
    inputs = {"model": model, "tools": tools, "data": data}
    return run_stage("agent", inputs, out, settings, recipe, plan)


def bench(
    *settings: Settings,
    out: Out,
    model: Annotated[Path | None, Parameter(help="The model artefact; or --address.")] = None,
    problems: Annotated[
        Path | None, Parameter(help="Problems in the Hugging Face benchmark's form; left out: ours.")
    ] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Scores the Python a model writes: with the interpreter (Tables 7, 8) and as a Hugging Face agent (Table 9)."""
    return run_stage("agentbench", {"model": model, "problems": problems}, out, settings, recipe, plan)


def self_instruct(
    *settings: Settings,
    tools: Annotated[Path, Parameter(help="Seed conversations with tools, in the form of OUT/tools.jsonl.")],
    out: Out,
    model: Annotated[Path | None, Parameter(help="The artefact that writes; or --address.")] = None,
    heldout: Annotated[Path | None, Parameter(help="Tool questions of tests: no copy is kept.")] = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Makes tool conversations with a model, and keeps what rules let pass; goes on where it was stopped.

    OUT/tools.jsonl is what `openqwen sft` reads as --tools.
    """
    inputs = {"tools": tools, "model": model, "heldout": heldout}
    return run_stage("selfinstruct", inputs, out, settings, recipe, plan)
