"""`openqwen data`: a corpus from raw documents (report §2.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from openqwen.cli.certificate import certificate, verify
from openqwen.cli.classifier import app as classifier
from openqwen.cli.common import Out, Plan, Recipes, Settings, run_stage
from openqwen.cli.preview import preview
from openqwen.cli.review import review
from openqwen.cli.why import why
from openqwen.data.store import is_address

app = App(name="data", help="§2.1  Build a corpus from raw documents.")


@app.command
def build(
    *settings: Settings,
    out: Out,
    input: Annotated[
        str | None, Parameter(help="File or folder, or an address in an object store (s3://, gs://).")
    ] = None,
    primer: Path | None = None,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Documents to a clean corpus: HTML, text, Markdown, LaTeX, code, JSONL, Parquet, WARC with --input.

    --runner.how ray --runner.address auto works on a cluster; the result is the same to the byte.
    """
    if input is not None and is_address(input):
        settings = (*settings, "--sources.addresses", json.dumps([input]))
        input = None
    path = None if input is None else Path(input)
    return run_stage("data", {"input": path, "primer": primer}, out, settings, recipe, plan)


@app.command
def primer(*settings: Settings, out: Out, recipe: Recipes = None, plan: Plan = False) -> int:
    """Writes the primer: a small bilingual world with known truth."""
    return run_stage("primer", {}, out, settings, recipe, plan)


@app.command
def code(
    *settings: Settings,
    input: Annotated[
        Path,
        Parameter(
            help="A checkout, JSON lines of programs (id owner/repo:path, text, licence, lang), or a folder of such."
        ),
    ],
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Repositories to documents of code, each file kept or dropped with its reason (report §4.1).

    OUT/documents.jsonl.zst is an input of openqwen data build; OUT/files.jsonl tells of every file.
    """
    return run_stage("code", {"input": input}, out, settings, recipe, plan)


@app.command
def math(
    *settings: Settings,
    problems: Annotated[
        Path | None, Parameter(help='More problems: JSON lines of {"question", "answer"}, as GSM8K has them.')
    ] = None,
    replies: Annotated[
        Path | None,
        Parameter(help="Replies of openqwen sample to these problems: right and new paths are kept."),
    ] = None,
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Mathematical instruction data: problems in both languages, each solution checked (report §5.1).

    OUT/train.jsonl is what openqwen sft reads as --data, and openqwen sample as --prompts.
    """
    return run_stage("math", {"problems": problems, "replies": replies}, out, settings, recipe, plan)


@app.command
def score(
    *settings: Settings,
    corpus: Annotated[Path, Parameter(help="Built with --quality.drop false, it has every document.")],
    model: Annotated[Path, Parameter(help="A model of ours: base, chat or any other.")],
    out: Out,
    recipe: Recipes = None,
    plan: Plan = False,
) -> int:
    """Scores documents by one of our models, in bits per byte.

    Use it with: openqwen data build --quality.scores DIR --quality.lm_max_bits THRESHOLD
    """
    return run_stage("score", {"corpus": corpus, "model": model}, out, settings, recipe, plan)


app.command(classifier)
app.command(preview)
app.command(review)
app.command(why)
app.command(certificate)
app.command(verify)
