"""The command line: commands in the report's order, each loaded only when it runs.

Ours. Errors are one line of what, where and what to do; a traceback only with --debug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from openqwen.core.errors import MissingTool, OpenQwenError

# name, import path, one line of help; the order is the report's.
COMMANDS = (
    ("tour", "openqwen.cli.tour:tour", "The whole report, from raw pages to a chat, in minutes."),
    ("doctor", "openqwen.cli.doctor:doctor", "Show what this machine offers; paste it into a bug report."),
    ("data", "openqwen.cli.data:app", "§2.1  Build a corpus from raw documents."),
    ("tokenizer", "openqwen.cli.tokenizer:app", "§2.2  Train a vocabulary; compare compression (Figure 3)."),
    ("pack", "openqwen.cli.training:pack", "§2.4  Corpus and vocabulary to token shards."),
    ("pretrain", "openqwen.cli.training:pretrain", "§2.4  Train a base model."),
    ("extend", "openqwen.cli.training:extend", "§2.5  Perplexity against length (Table 3)."),
    ("sft", "openqwen.cli.training:sft", "§3.1  Supervised finetuning to a chat model."),
    ("tags", "openqwen.cli.tags:tags", "§3.2.1  Tag prompts; choose those that cover the most tags."),
    ("sample", "openqwen.cli.sample:sample", "§3.2.1  Replies to annotate, of several models and settings."),
    (
        "annotate",
        "openqwen.cli.annotate:app",
        "§3.3  People rank replies of several models blind (Figure 4).",
    ),
    ("pairs", "openqwen.cli.sample:pairs", "§3.2.1  Comparison pairs of replies that somebody has scored."),
    ("pmp", "openqwen.cli.training:pmp", "§3.2.1  Preference-model pretraining."),
    ("reward", "openqwen.cli.training:reward", "§3.2.1  Reward model (Table 4)."),
    ("ppo", "openqwen.cli.training:ppo", "§3.2.2  Reinforcement learning from the reward model."),
    ("dpo", "openqwen.cli.alignment:dpo", "§6.2  Learning from comparison pairs without a reward model."),
    ("rft", "openqwen.cli.alignment:rft", "§6.2  Finetuning on one's own best replies."),
    ("rrhf", "openqwen.cli.alignment:rrhf", "§6.2  Ranking one's own replies as the reward model does."),
    ("compare", "openqwen.cli.alignment:compare", "§6.2  PPO and its alternatives on one table."),
    ("ablate", "openqwen.cli.alignment:ablate", "§3.2.2  PPO without each of its tricks, on one table."),
    (
        "self-instruct",
        "openqwen.cli.agent:self_instruct",
        "§3.4  Tool conversations that a model makes itself.",
    ),
    ("agent", "openqwen.cli.agent:agent", "§3.4  An agent in the terminal: tools, MCP servers, Python."),
    ("agent-eval", "openqwen.cli.agent:evaluate", "§3.4  Tool use of a chat model, scored (Table 6)."),
    ("agent-bench", "openqwen.cli.agent:bench", "§3.4  A model that writes Python, scored (Tables 7 to 9)."),
    ("eval", "openqwen.cli.evals:app", "§2.6  Fill the report's tables for models of ours."),
    ("report", "openqwen.cli.report:report", "Artefacts on one page: curves, figures, tables, samples."),
    ("table", "openqwen.cli.table:table", "Print a table of the report, published and ours."),
    ("chat", "openqwen.cli.serve:chat", "Chat with a model in the terminal."),
    (
        "long-code",
        "openqwen.cli.training:long_code",
        "§4    Perplexity of long files of code, with and without their repository.",
    ),
    (
        "complete",
        "openqwen.cli.complete:complete",
        "§4    Go on with a program at a place, knowing its repository.",
    ),
    ("serve", "openqwen.cli.serve:serve", "OpenAI-compatible server with a chat page."),
    ("sandbox", "openqwen.cli.sandbox:app", "Prove what the sandbox of generated code contains here."),
    (
        "import",
        "openqwen.cli.imports:import_",
        "Make an artefact of a Hugging Face folder or a model of the hub.",
    ),
    ("export", "openqwen.cli.export:export", "Write a model for transformers, Qwen-1 programs or llama.cpp."),
    ("plan", "openqwen.cli.plan:plan", "Predict memory, disk, FLOPs and time of pretraining by a recipe."),
    ("selfcheck", "openqwen.cli.selfcheck:selfcheck", "Prove on this machine that gradients are right."),
    ("config", "openqwen.cli.config:app", "Show settings with value, source and origin."),
    (
        "show",
        "openqwen.cli.show:app",
        "Show an artefact's family, a recipe's settings and sources, a chat's loss mask.",
    ),
    ("runs", "openqwen.cli.show:runs", "List the artefacts below a folder."),
)
_EXTRA = {
    "pyarrow": "data",
    "trafilatura": "data",
    "transformers": "hf",
    "huggingface_hub": "hf",
    "sentencepiece": "hf",
    "torchao": "quantise",
    "mcp": "agent",
    "jsonschema": "agent",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit code (0 ok, 1 failed, 2 usage, 3 missing tool, 4 data, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        return _run(words)
    except OpenQwenError as error:
        if debug:
            raise
        return _report(error)
    except ModuleNotFoundError as error:
        extra = _EXTRA.get((error.name or "").split(".")[0])
        if debug or extra is None:
            raise
        return _report(
            MissingTool(f"this needs the package {error.name}", fix=f"pip install 'openqwen[{extra}]'")
        )
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command continues where it stopped\n")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing to say, and nothing that could be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    from cyclopts import App, CycloptsError

    import openqwen
    from openqwen.core.errors import UsageError, did_you_mean

    names = [name for name, _, _ in COMMANDS]
    if words and not words[0].startswith("-") and words[0] not in names:
        raise UsageError(
            f"no command '{words[0]}'.{did_you_mean(words[0], names)}",
            "command line",
            "openqwen --help lists them",
        )
    app = App(
        name="openqwen",
        help="The system of the Qwen Technical Report: from raw pages to an aligned assistant.",
        version=openqwen.__version__,
        help_flags=["--help", "-h"],
        result_action="return_value",
    )
    for position, (name, path, text) in enumerate(COMMANDS):
        app.command(path, name=name, help=text, sort_key=position)
    try:
        result = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = ["openqwen", *words[:1]]
        raise UsageError(
            str(error), " ".join(["openqwen", *words]), " ".join([*command, "--help"])
        ) from error
    return result if isinstance(result, int) else 0


def _report(error: OpenQwenError) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {error.render()}\n")
    return error.exit_code
