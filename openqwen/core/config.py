"""Configuration as typed, frozen data whose every field says where its value comes from.

Ours. Order of precedence: defaults < recipes (TOML, in the order given) < OPENQWEN_* environment < flags.
Every field is declared with `setting(default, source=...)`, where source is one of SOURCES (recipe.py) followed by an
optional section, for example "report §2.4" or "ours". A value that somebody sets against the default is never shown
with the default's source as its own (`Row.words`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from openqwen.core.errors import DataError, UsageError
from openqwen.core.recipe import SOURCES, find_recipe, read_entries, read_recipe

__all__ = ["find_recipe", "read_recipe"]  # whoever resolves recipes reads them too

# Names people bring from other trainers -> ours (relative to the stage's table); the first that the stage has is meant.
ALIASES = {
    "learning_rate": ("optim.lr", "policy_optim.lr"),
    "lr": ("optim.lr", "policy_optim.lr"),
    "weight_decay": ("optim.weight_decay",),
    "adam_beta1": ("optim.beta1",),
    "adam_beta2": ("optim.beta2",),
    "adam_epsilon": ("optim.eps",),
    "max_grad_norm": ("optim.clip",),
    "grad_clip": ("optim.clip",),
    "num_train_epochs": ("epochs", "steps"),
    "max_steps": ("steps",),
    "max_iters": ("steps",),
    "train_batch_size": ("batch_size", "batch_tokens"),
    "global_batch_size": ("batch_size", "batch_tokens"),
    "per_device_train_batch_size": ("micro_batch", "micro_rows"),
    "gradient_accumulation_steps": ("micro_batch", "micro_rows"),
    "max_seq_length": ("max_length", "context"),
    "max_seq_len": ("max_length", "context"),
    "seq_length": ("context", "max_length"),
    "seq_len": ("context", "max_length"),
    "max_position_embeddings": ("context", "max_length"),
    "block_size": ("context", "max_length"),
    "warmup_steps": ("schedule.warmup_steps",),
    "warmup_ratio": ("schedule.warmup_share",),
    "lr_scheduler_type": ("schedule.shape",),
    "logging_steps": ("log_interval", "log_every"),
    "eval_steps": ("eval_interval",),
    "save_steps": ("checkpoint_interval", "checkpoint_every"),
    "bf16": ("precision",),
    "gradient_checkpointing": ("parallel.checkpoint_activations",),
    "lora_r": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "lora_dropout": ("lora.dropout",),
    "target_modules": ("lora.targets",),
    "n_embd": ("model.hidden_size",),
    "n_layer": ("model.num_layers",),
    "num_hidden_layers": ("model.num_layers",),
    "n_head": ("model.num_heads",),
    "num_attention_heads": ("model.num_heads",),
    "intermediate_size": ("model.ffn_size",),
    "rope_theta": ("model.rope_base",),
    "initializer_range": ("model.init_std",),
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
NONE = "none"


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _none(cls, values: Any) -> Any:
        """`"none"` stands for None where a setting may be absent, since TOML has no word for it."""
        if not isinstance(values, Mapping):
            return values
        absent = {key for key, value in values.items() if value == NONE and _may_be_none(cls, key)}
        return {key: None if key in absent else value for key, value in values.items()}


def setting(
    default: Any = PydanticUndefined, *, source: str, doc: str = "", reads: bool = False, **limits: Any
) -> Any:
    """A field with its source. `limits` are pydantic's (gt, ge, lt, le, ...).

    reads: it names files or artefacts, so what they hold is part of a run's identity.
    For a nested table use `setting(Optim(), source="ours")` or leave the default out to require a value.
    """
    if not source.startswith(SOURCES):
        raise ValueError(f"source {source!r} must begin with one of {SOURCES}")
    return Field(
        default, description=doc or None, json_schema_extra={"source": source, "reads": reads}, **limits
    )


def fields_without_source(cls: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of settings that do not say where they come from (a test wants this empty)."""
    missing: list[str] = []
    for name, info in cls.model_fields.items():
        if not source_of(info):
            missing.append(f"{prefix}{name}")
        if table := _table_in(info.annotation):
            missing += fields_without_source(table, f"{prefix}{name}.")
    return missing


def source_of(info: Any) -> str:
    """The documented source of a field, empty if it has none."""
    extra = info.json_schema_extra
    return str(extra.get("source", "")) if isinstance(extra, dict) else ""


def reads_files(info: Any) -> bool:
    """Whether a field names files or artefacts."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("reads"))


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The class of a nested table, also of one that may be absent."""
    for found in (annotation, *get_args(annotation)):
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def _may_be_none(cls: type[BaseModel], key: str) -> bool:
    kinds = get_args(cls.model_fields[key].annotation) if key in cls.model_fields else ()
    return NoneType in kinds and str not in kinds


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A validated config and, for each value that somebody set: who, where, and the source a recipe names for it."""

    config: C
    origin: dict[str, str]  # "recipe tour", "flag --optim.lr", ...
    place: dict[str, str] = field(default_factory=dict)  # "recipes/tour.toml:12", "flag --optim.lr", ...
    source: dict[str, str] = field(default_factory=dict)  # "report Table 1", "ours", ...


@dataclass(frozen=True)
class Row:
    """One setting as shown to people. `source` is the default's; `own` the one a recipe names for its value."""

    key: str
    value: Any
    default: Any
    source: str
    origin: str
    place: str | None = None
    own: str | None = None
    doc: str = ""

    @property
    def is_default(self) -> bool:
        """Whether the value is the default, whoever set it."""
        return bool(self.value == self.default)

    @property
    def claim(self) -> str:
        """Where the value comes from: the default's source, a recipe's own, or who set it."""
        return self.source if self.is_default else self.own or self.origin

    @property
    def words(self) -> str:
        """`claim`, and what stood there before: `"ours (report §2.4 has 0.0003)"`, `"report Table 1 (default 32)"`."""
        if self.is_default or self.default is PydanticUndefined:
            return self.claim
        departs = not self.source.startswith("ours") and (self.own is None or self.own.startswith("ours"))
        return (
            f"{self.claim} ({f'{self.source} has' if departs else 'default'} {show_value(self.default, 24)})"
        )


def show_value(value: Any, limit: int = 40) -> str:
    """A setting's value as it would be typed, cut to `limit` characters: `none`, `true`, `0.0003`, `[1, 2]`."""
    if value is PydanticUndefined:
        return "(required)"
    text = value if isinstance(value, str) else NONE if value is None else _toml(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rows(resolved: Resolved[Any]) -> list[Row]:
    """Every leaf setting in declaration order."""
    return list(_rows(resolved, resolved.config, None, "", ""))


def _rows(
    resolved: Resolved[Any], config: Config, table: Any, table_source: str, prefix: str
) -> Iterator[Row]:
    """table: `config` as the enclosing class sets it by default. What it names there has that setting's source."""
    for name, info in type(config).model_fields.items():
        value, key = getattr(config, name), prefix + name
        default, source = info.default, source_of(info)
        if isinstance(table, Config) and name in table.model_fields_set:
            default, source = getattr(table, name), table_source
        if isinstance(value, Config):
            yield from _rows(resolved, value, default, source, f"{key}.")
        else:
            origin, place = resolved.origin.get(key, "default"), resolved.place.get(key)
            own = resolved.source.get(key)
            yield Row(key, value, default, source, origin, place, own, info.description or "")


def resolve(
    cls: type[C],
    stage: str,
    recipes: Sequence[str | Path] = (),
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> Resolved[C]:
    """Layers defaults, recipes, environment and flags into one validated config.

    flags: dotted keys relative to the stage (`{"optim.lr": "2e-4"}`).
    environ: variables `OPENQWEN_<STAGE>__OPTIM__LR`; the process environment when None.
    also: names that may be meant by an unknown one besides settings, such as a command's other flags.
    Raises UsageError naming the key, where it was set, and the nearest valid name.
    """
    values: dict[str, Any] = {}
    found: Resolved[Any] = Resolved(None, {})

    def put(key: str, value: Any, origin: str, place: str, source: str | None = None) -> None:
        _check_key(cls, key, value, place, also)
        values.pop(key, None)  # what is said last stands last: a table may be switched off and on again
        values[key], found.origin[key], found.place[key] = value, origin, place
        found.source.pop(key, None)
        if source is not None:
            found.source[key] = source

    for recipe in recipes:
        path = find_recipe(recipe)
        for entry in read_entries(recipe):
            if entry.key.startswith(f"{stage}."):
                key = entry.key.removeprefix(f"{stage}.")
                put(key, entry.value, f"recipe {path.stem}", f"{path}:{entry.line}", entry.source)
    prefix = variable(stage, "")
    for name, text in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(prefix):
            key = name[len(prefix) :].lower().replace("__", ".")
            put(key, _literal(text), f"environment {name}", f"environment variable {name}")
    for key, value in (flags or {}).items():
        put(key, _literal(value) if isinstance(value, str) else value, f"flag --{key}", f"flag --{key}")
    config = validate(cls, _with_defaults(cls, _nest(values)), found.place, stage)
    return Resolved(config, found.origin, found.place, found.source)


def variable(stage: str, key: str) -> str:
    """`variable("pretrain", "optim.lr")` -> `"OPENQWEN_PRETRAIN__OPTIM__LR"`."""
    return f"OPENQWEN_{stage}__{key}".replace("-", "_").replace(".", "__").upper()


def validate(
    cls: type[C],
    values: Mapping[str, Any],
    place: Mapping[str, str] | None = None,
    stage: str | None = None,
) -> C:
    """Builds the config; a pydantic error becomes one UsageError that says where the value was set."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first, place = error.errors()[0], place or {}
        key = ".".join(str(part) for part in first["loc"])
        shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        text = first["msg"].removeprefix("Value error, ")
        # A combination of settings has no place of its own: those of the settings it speaks of.
        words = set(re.findall(r"[a-z_][a-z_.]*[a-z_]", text))
        concerned = [place[name] for name in place if {name, name.rpartition(".")[2]} & words]
        where = place.get(key) or "; ".join(dict.fromkeys(concerned)) or "the combination of settings"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UsageError(
            f"{f'{key}{shown}: ' if shown else ''}{text}{more}",
            where=where,
            fix=f"openqwen config show {stage} lists what may be set" if stage else None,
        ) from error


def _with_defaults(cls: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables set in part keep the rest as `cls` has it by default, which may differ from their own class."""
    whole = dict(values)
    for name, value in values.items():
        default = cls.model_fields[name].default
        if isinstance(value, dict) and isinstance(default, BaseModel):
            whole[name] = _with_defaults(type(default), _over(default.model_dump(exclude_unset=True), value))
    return whole


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, `above` counting where both say something."""
    both = {k: _over(below[k], above[k]) for k in below.keys() & above.keys() if isinstance(above[k], dict)}
    return {**below, **above, **both}


def dump_toml(config: BaseModel) -> str:
    """The resolved config as TOML (what config.toml in an artefact holds). None is left out where it is the default."""
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
        if value is None and type(config).model_fields[name].default is not None:
            lines.append(f'{name} = "{NONE}"')
        elif value is not None and not isinstance(value, BaseModel):
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


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, leaf = key.split(".")
        here = nested
        for table in tables:
            if not isinstance(here.get(table), dict):
                here[table] = {}
            here = here[table]
        if value == {} and isinstance(here.get(leaf), dict):
            continue  # a table that is only opened
        here[leaf] = value
    return nested


def _literal(text: Any) -> Any:
    """A flag's or variable's text as TOML would read it; plain words stay strings."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _check_key(cls: type[BaseModel], key: str, value: Any, where: str, also: Sequence[str]) -> None:
    """UsageError for a key that the settings do not have, with the one that may be meant."""
    here: Any = cls
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not (isinstance(here, type) and issubclass(here, BaseModel)):
            if getattr(here, "__origin__", here) is dict:
                return
            raise UsageError(
                f"{'.'.join(parts[:i])} is a value, not a table: {key!r} cannot be set", where=where
            )
        if part not in here.model_fields:
            meant = _nearest_key(key, [*_leaves(cls), *also])
            hint = f" Did you mean '{meant}'?" if meant else ""
            raise UsageError(
                f"unknown setting '{key}'.{hint}",
                where=where,
                fix=f"valid here: {', '.join('.'.join((*parts[:i], name)) for name in here.model_fields)}",
            )
        annotation = here.model_fields[part].annotation
        here = _table_in(annotation) or annotation
    if (
        isinstance(here, type)
        and issubclass(here, BaseModel)
        and value != NONE
        and not isinstance(value, dict)
    ):
        names = ", ".join(f"{key}.{name}" for name in here.model_fields)
        raise UsageError(f"'{key}' is a table of settings, not a value", where=where, fix=f"set {names}")


def _nearest_key(key: str, known: Sequence[str]) -> str | None:
    """A known key: by other trainers' names, by its last part in another table, else the most similar."""
    leaf = key.rpartition(".")[2]
    if alias := next((name for name in ALIASES.get(leaf, ()) if name in known), None):
        return alias
    if elsewhere := [name for name in known if name.rpartition(".")[2] == leaf]:
        return elsewhere[0]

    def likeness(name: str) -> float:
        return max(
            SequenceMatcher(None, key, name).ratio(),
            SequenceMatcher(None, leaf, name.rpartition(".")[2]).ratio(),
        )

    best = max(known, key=likeness)
    return best if likeness(best) >= 0.6 else None


def _leaves(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in cls.model_fields.items():
        if table := _table_in(info.annotation):
            yield from _leaves(table, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
