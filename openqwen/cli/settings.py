"""Settings as people and programs read them: value, the source of the value, who set it.

Ours. A value set against the default never carries the default's source: its own source or who set it comes first, the
default's follows with what it would have been.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openqwen.core.config import Resolved, Row, resolve, rows, show_value, variable
from openqwen.core.console import console
from openqwen.core.errors import UsageError, did_you_mean
from openqwen.core.recipe import SOURCES, read_recipe
from openqwen.stages import STAGES


def settings_of(
    stage: str,
    recipes: Sequence[str | Path] = (),
    flags: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
) -> Resolved[Any]:
    """A stage's settings as recipes, environment and flags make them. also: what its command takes besides settings.

    UsageError for a name that nothing has: a stage's, a recipe's table, a variable, a key.
    """
    if stage not in STAGES:
        raise UsageError(
            f"no stage '{stage}'.{did_you_mean(stage, STAGES)}",
            where="command line",
            fix=f"use one of: {', '.join(STAGES)}",
        )
    for recipe in recipes:
        read_recipe(recipe, tuple(STAGES))
    check_environment(os.environ)
    return resolve(STAGES[stage].config, stage, recipes, flags, also=also)


def check_environment(environ: Mapping[str, str]) -> None:
    """UsageError for a variable that looks like a setting and is none: it would be passed over in silence."""
    prefixes = {variable(stage, ""): stage for stage in STAGES}
    names = sorted(name for name in environ if name.startswith("OPENQWEN_"))
    for name in names:
        if name.startswith(tuple(prefixes)):
            continue  # resolve() looks at its key
        stage, double, _ = name.removeprefix("OPENQWEN_").partition("__")
        single = next((p for p in prefixes if name.startswith(p[:-1])), None)  # OPENQWEN_SFT_STEPS
        if single is not None:
            right = f"{single}{name.removeprefix(single[:-1])}"
            raise UsageError(
                f"variable {name} sets nothing: two underscores follow the stage",
                where="environment",
                fix=f"{right}, or unset it",
            )
        if double:
            known = [p.removeprefix("OPENQWEN_").removesuffix("__") for p in prefixes]
            raise UsageError(
                f"variable {name}: no stage '{stage}'.{did_you_mean(stage, known)}",
                where="environment",
                fix=f"use one of: {', '.join(known)}; or unset it",
            )


def print_settings(stages: Mapping[str, Resolved[Any]], changed: bool = False) -> None:
    """Prints one table; with several stages each has a heading. changed: only what is not the default."""
    table = Table("setting", "value", "source", "set by", box=None, pad_edge=False)
    for name, resolved in stages.items():
        found = [row for row in rows(resolved) if not (changed and row.is_default)]
        if len(stages) > 1:
            about = f"report {STAGES[name].section}" if found else "nothing but defaults"
            table.add_row(f"[bold]\\[{escape(name)}][/]", "", f"[dim]{escape(about)}[/]", "")
        for row in found:
            cells = row.key, show_value(row.value), row.words, set_by(row)
            table.add_row(*map(escape, cells), style=None if row.origin == "default" else "bold")
    print_wide(table)


def print_wide(table: Table) -> None:
    """A table wider than a narrow terminal rather than folded, and as wide as it is in a pipe, which has no width."""
    width = max(console.width, 130) if console.is_terminal else 1000
    Console(width=width, highlight=False).print(table, crop=False)


def set_by(row: Row) -> str:
    """`"default"`, `"recipe tour, line 12"`, `"flag --optim.lr"`."""
    if row.origin.startswith("recipe ") and row.place:
        return f"{row.origin}, line {row.place.rpartition(':')[2]}"
    return row.origin


def settings_record(resolved: Resolved[Any], changed: bool = False) -> list[dict[str, Any]]:
    """The same for programs. `source` is the kind and `section` what follows it; both null where only a person stands
    behind a value."""
    found = []
    for row in rows(resolved):
        if changed and row.is_default:
            continue
        source = row.source if row.is_default else row.own
        kind, section = split_source(source) if source else (None, None)
        found.append(
            {
                "key": row.key,
                "value": row.value,
                "source": kind,
                "section": section,
                "default": None if row.default is PydanticUndefined else row.default,
                "default_source": row.source,
                "set_by": row.origin,
                "place": row.place,
                "doc": row.doc,
            }
        )
    return found


def split_source(source: str) -> tuple[str, str | None]:
    """`"report §2.3 Table 1"` -> `("report", "§2.3 Table 1")`."""
    kind = next(kind for kind in SOURCES if source.startswith(kind))
    return kind, source.removeprefix(kind).strip() or None


def print_json(value: Any) -> None:
    """One JSON value on standard output, not cut to the terminal's width."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
