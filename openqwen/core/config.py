"""Configuration as typed, frozen data whose every field says where its value comes from.

Ours. Order of precedence: defaults < recipes (TOML, in the order given) < OPENQWEN_* environment < flags.
Every field is declared with `setting(default, source=...)`, where source is one of the SOURCES below
followed by an optional section, for example "report §2.4" or "ours".
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticUndefined

from openqwen.core.errors import DataError, UsageError, did_you_mean

SOURCES = ("report", "released config", "tech memo", "released script", "ours")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# Names people bring from other trainers -> ours (relative to the stage's table).
ALIASES = {
    "learning_rate": "optim.lr",
    "lr": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "max_seq_length": "max_length",
    "block_size": "max_length",
    "warmup_steps": "schedule.warmup_steps",
    "max_grad_norm": "optim.clip",
    "grad_clip": "optim.clip",
}
_SCALE = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGbBtT]?)")


def parse_count(value: object) -> object:
    """`"4M"` -> 4000000, `"2.2T"` -> 2200000000000, `"32k"` -> 32000; anything else unchanged."""
    if isinstance(value, str) and (match := _COUNT.fullmatch(value.strip().replace("_", ""))):
        number = float(match[1]) * _SCALE.get(match[2].lower(), 1)
        if number != int(number):
            raise ValueError(f"{value!r} is not a whole number")
        return int(number)
    return value


Count = Annotated[int, BeforeValidator(parse_count)]


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def setting(default: Any = PydanticUndefined, *, source: str, doc: str = "", **limits: Any) -> Any:
    """A field with its source. `limits` are pydantic's (gt, ge, lt, le, ...).

    For a nested table use `setting(Optim(), source="ours")` or leave the default out to require a value.
    """
    if not source.startswith(SOURCES):
        raise ValueError(f"source {source!r} must begin with one of {SOURCES}")
    return Field(default, description=doc or None, json_schema_extra={"source": source}, **limits)


@dataclass(frozen=True)
class Row:
    """One setting as shown to people: dotted key, value, documented source, and who set it."""

    key: str
    value: Any
    source: str
    origin: str
    doc: str


def rows(config: BaseModel, origin: Mapping[str, str] | None = None, prefix: str = "") -> Iterator[Row]:
    """Every leaf setting of a config in declaration order."""
    origin = origin or {}
    for name, info in type(config).model_fields.items():
        value, key = getattr(config, name), prefix + name
        if isinstance(value, BaseModel):
            yield from rows(value, origin, key + ".")
        else:
            extra = info.json_schema_extra
            source = str(extra.get("source", "")) if isinstance(extra, dict) else ""
            yield Row(key, value, source, origin.get(key, "default"), info.description or "")


def fields_without_source(cls: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of settings that do not say where they come from (a test wants this empty)."""
    missing: list[str] = []
    for name, info in cls.model_fields.items():
        extra = info.json_schema_extra
        nested = [a for a in (info.annotation, *get_args(info.annotation)) if _is_config(a)]
        if not (isinstance(extra, dict) and extra.get("source")):
            missing.append(f"{prefix}{name}")
        for table in nested:
            missing += fields_without_source(table, f"{prefix}{name}.")
    return missing


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A validated config and the origin ("recipe tour", "flag --optim.lr", ...) of each value not a default."""

    config: C
    origin: dict[str, str]


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by name (`tour` -> recipes/tour.toml). UsageError if absent."""
    for path in (Path(name), RECIPES / f"{name}.toml"):
        if path.is_file():
            return path
    known = sorted(p.stem for p in RECIPES.glob("*.toml"))
    raise UsageError(
        f"no recipe {str(name)!r}.{did_you_mean(str(name), known)}",
        where=f"looked for a file of that name and in {RECIPES}",
        fix=f"use one of: {', '.join(known)}" if known else "give the path of a .toml file",
    )


def read_recipe(name: str | Path, stages: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """The tables of a recipe. Unknown stage tables are refused when `stages` is given."""
    path = find_recipe(name)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe is not valid TOML: {error}", where=str(path)) from error
    for stage, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(
                f"{stage!r} stands outside a stage's table",
                where=f"{path}:{_line_of(path, stage)}",
                fix="put it under its stage, for example [pretrain]",
            )
        if stages is not None and stage not in stages:
            raise UsageError(
                f"unknown stage [{stage}].{did_you_mean(stage, stages)}",
                where=f"{path}:{_line_of(path, stage)}",
                fix=f"use one of: {', '.join(stages)}",
            )
    return tables


def resolve(
    cls: type[C],
    stage: str,
    recipes: Sequence[str | Path] = (),
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved[C]:
    """Layers defaults, recipes, environment and flags into one validated config.

    flags: dotted keys relative to the stage (`{"optim.lr": "2e-4"}`).
    environ: variables `OPENQWEN_<STAGE>__OPTIM__LR`; the process environment when None.
    Raises UsageError naming the key, where it was set, and the nearest valid name.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    place: dict[str, str] = {}
    for recipe in recipes:
        path = find_recipe(recipe)
        for key, value in _flatten(read_recipe(recipe).get(stage, {})):
            _check_key(cls, key, f"{path}:{_line_of(path, key.split('.')[-1], stage)}")
            values[key], origin[key] = value, f"recipe {path.stem}"
            place[key] = f"{path}:{_line_of(path, key.split('.')[-1], stage)}"
    prefix = f"OPENQWEN_{stage.upper().replace('-', '_')}__"
    for name, text in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(prefix):
            key = name[len(prefix) :].lower().replace("__", ".")
            _check_key(cls, key, f"environment variable {name}")
            values[key], origin[key], place[key] = (
                _literal(text),
                f"environment {name}",
                f"environment {name}",
            )
    for key, value in (flags or {}).items():
        _check_key(cls, key, f"flag --{key}")
        values[key] = _literal(value) if isinstance(value, str) else value
        origin[key], place[key] = f"flag --{key}", f"flag --{key}"
    return Resolved(validate(cls, _nest(values), place), origin)


def validate(cls: type[C], values: Mapping[str, Any], place: Mapping[str, str] | None = None) -> C:
    """Builds the config; a pydantic error becomes one UsageError that says where the value was set."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UsageError(
            f"{key or cls.__name__}{shown}: {first['msg']}{more}",
            where=(place or {}).get(key, "the combination of settings"),
            fix=f"openqwen config show {cls.__name__.removesuffix('Config').lower()} lists what may be set",
        ) from error


def dump_toml(config: BaseModel) -> str:
    """The resolved config as TOML (what config.toml in an artefact holds). None values are left out."""
    lines: list[str] = []
    _dump_table(config, (), lines)
    return "\n".join(lines) + "\n"


def load_saved(cls: type[C], path: Path) -> C:
    """Reads a config.toml written by `dump_toml`."""
    try:
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise DataError(f"saved configuration cannot be read: {error}", where=str(path)) from error


def _dump_table(config: BaseModel, path: tuple[str, ...], lines: list[str]) -> None:
    items = [(name, getattr(config, name)) for name in type(config).model_fields]
    for name, value in items:
        if value is not None and not isinstance(value, BaseModel):
            lines.append(f"{name} = {_toml(value)}")
    for name, value in items:
        if isinstance(value, BaseModel):
            lines.append(f"\n[{'.'.join((*path, name))}]")
            _dump_table(value, (*path, name), lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\\x7f' else c for c in str(value))
    return f'"{escaped}"'


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, leaf = key.split(".")
        here = nested
        for table in tables:
            here = here.setdefault(table, {})
        here[leaf] = value
    return nested


def _literal(text: Any) -> Any:
    """A flag's or variable's text as TOML would read it; plain words stay strings."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _check_key(cls: type[BaseModel], key: str, where: str) -> None:
    here: Any = cls
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not _is_config(here):
            if here is dict or getattr(here, "__origin__", None) is dict:
                return
            raise UsageError(
                f"{'.'.join(parts[:i])} is a value, not a table: {key!r} cannot be set", where=where
            )
        if part not in here.model_fields:
            known = list(_leaves(cls))
            alias = ALIASES.get(parts[-1])
            hint = f" Did you mean '{alias}'?" if alias in known else did_you_mean(key, known)
            raise UsageError(
                f"unknown setting '{key}'.{hint}",
                where=where,
                fix=f"valid here: {', '.join('.'.join((*parts[:i], name)) for name in here.model_fields)}",
            )
        annotation = here.model_fields[part].annotation
        tables = [a for a in (annotation, *get_args(annotation)) if _is_config(a)]
        here = tables[0] if tables else annotation


def _leaves(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in cls.model_fields.items():
        tables = [a for a in (info.annotation, *get_args(info.annotation)) if _is_config(a)]
        if tables:
            yield from _leaves(tables[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _line_of(path: Path, key: str, stage: str | None = None) -> int:
    """The line on which a key is set (first match after its stage's header)."""
    inside = stage is None
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        text = line.strip()
        if stage is not None and text.startswith("["):
            inside = text.strip("[] ").split(".")[0].strip('"') == stage
        if inside and (re.match(rf'"?{re.escape(key)}"?\s*=', text) or text.startswith(f"[{key}")):
            return number
    return 1
