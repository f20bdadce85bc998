"""Tools: typed Python functions with a declaration, and calls that are checked before they run.

Report §3.4, §A.3 (tools described in the prompt in Qwen's plugin form). Ours: schemas from signatures, validation,
and that whatever goes wrong in a call comes back to the model as an observation.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import inspect
import json
import operator
import re
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from openqwen.chat import react
from openqwen.core.errors import UsageError, did_you_mean

_JSON_TYPES: dict[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object",
}  # fmt: skip
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
    "null": lambda v: v is None,
}


class CallError(Exception):
    """A call that cannot be made or failed; its text goes back to the model."""


@dataclass(frozen=True)
class Tool:
    """A declaration in Qwen's plugin form (or OpenAI's function form) and what runs it.

    seconds: of a tool that keeps a time limit by itself, how long until it has answered for certain; None: the toolbox's.
    file: the Python file whose function it is.
    """

    declaration: Mapping[str, Any]
    function: Callable[..., Any]
    seconds: float | None = None
    file: Path | None = None

    @property
    def name(self) -> str:
        return react.tool_name(self.declaration)


class Call:
    """A call while it runs. `stop` may come from any thread."""

    def __init__(self) -> None:
        self.over = threading.Event()  # nobody waits for it any longer
        self.stopped = False
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None

    def stop(self) -> None:
        """Ends what runs in a way that makes the tool return; a tool that knows none is left behind."""
        with self._lock:
            self.stopped = True
            if self._end is None:
                self.over.set()
            else:
                self._end()

    @contextlib.contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """While this lasts, `end` is what stops the call."""
        with self._lock:
            if self.stopped:
                raise CallError("the call was stopped")
            self._end = end
        try:
            yield
        finally:
            with self._lock:
                self._end = None


_CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def ended_by(end: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """For tools: while this lasts, `end` stops the running call from another thread, and the tool then returns."""
    call = _CALL.get()
    return contextlib.nullcontext() if call is None else call.ended_by(end)


def was_stopped() -> bool:
    """For tools: whether the running call was stopped, so that nobody reads what it returns."""
    call = _CALL.get()
    return call is not None and call.stopped


def from_function(function: Callable[..., Any], human: str | None = None) -> Tool:
    """A tool from a typed function: name, docstring and signature become the declaration.

    Raises UsageError for a parameter without a type or with one JSON cannot carry.
    """
    hints = get_type_hints(function)
    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in hints:
            raise UsageError(
                f"parameter '{name}' has no type", where=f"tool {function.__name__}", fix="annotate it"
            )
        parameters.append(
            {
                "name": name,
                "description": "",
                "required": parameter.default is inspect.Parameter.empty,
                "schema": schema_of(hints[name], f"tool {function.__name__}, parameter {name}"),
            }
        )
    declaration = {
        "name_for_human": human or function.__name__,
        "name_for_model": function.__name__,
        "description_for_model": inspect.getdoc(function) or "",
        "parameters": parameters,
    }
    return Tool(declaration, function)


def schema_of(annotation: Any, where: str = "") -> dict[str, Any]:
    """JSON schema of a Python type. `list[int]` -> `{"type": "array", "items": {"type": "integer"}}`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        kinds = [a for a in arguments if a is not type(None)]
        if len(kinds) == 1:
            return schema_of(kinds[0], where)
    if origin is list and arguments:
        return {"type": "array", "items": schema_of(arguments[0], where)}
    found = _JSON_TYPES.get(origin or annotation)
    if found is None:
        known = "str, int, float, bool, list, dict, Literal"
        raise UsageError(f"type {annotation} has no JSON form", where=where, fix=f"use one of {known}")
    return {"type": found}


def json_schema(declaration: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments' schema of a declaration in either form."""
    parameters = declaration.get("parameters", [])
    if isinstance(parameters, Mapping):
        return dict(parameters)
    schemas = {p["name"]: p.get("schema") or {"type": p.get("type", "string")} for p in parameters}
    required = [p["name"] for p in parameters if p.get("required")]
    return {"type": "object", "properties": schemas, "required": required, "additionalProperties": False}


def problems(value: Any, schema: Mapping[str, Any], place: str = "arguments") -> list[str]:
    """What is wrong with a value: the parts of JSON schema that declarations use (type, enum, properties, items)."""
    if not isinstance(schema, Mapping):  # JSON schema's true: anything
        return []
    if "enum" in schema and value not in schema["enum"]:
        return [f"{place} must be one of {json.dumps(schema['enum'], ensure_ascii=False)}"]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_CHECKS[kind](value) for kind in kinds if kind in _CHECKS):
        return [f"{place} must be {' or '.join(kinds)}, not {json.dumps(value, ensure_ascii=False)[:80]}"]
    found: list[str] = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [f"{name} is missing" for name in schema.get("required", []) if name not in value]
        for name, part in value.items():
            if name in known:
                found += problems(part, known[name], name)
            elif schema.get("additionalProperties") is False:
                found.append(f"there is no argument '{name}'.{did_you_mean(name, known)}")
    if isinstance(value, list) and "items" in schema:
        for i, part in enumerate(value):
            found += problems(part, schema["items"], f"{place}[{i}]")
    return found


def read_arguments(text: str, declaration: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments a model wrote, checked against the declaration. CallError says what to mend.

    Of a tool whose `args_format` is "code" they are the code itself, in or out of a fence, or the JSON object.
    """
    if declaration.get("args_format") == "code" and not text.lstrip().startswith('{"code"'):
        text = json.dumps({"code": code_of(text)})
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallError(f"the arguments are not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise CallError("the arguments are not a JSON object")
    if found := problems(value, json_schema(declaration)):
        raise CallError("; ".join(found))
    return value


_FENCE = re.compile(r"\A\s*```(?:\w+\n|\n)?(.*?)(?:```\s*)?\Z", re.DOTALL)


def code_of(written: str) -> str:
    """The code of arguments a model wrote, without the fence of backticks around it."""
    fenced = _FENCE.match(written)
    return fenced[1].rstrip() if fenced else written


class Toolbox:
    """The tools of one conversation."""

    def __init__(self, tools: Iterable[Tool], seconds: float = 5.0, max_observation: int = 1000) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.seconds, self.max_observation = seconds, max_observation
        self._call: Call | None = None
        self._stopped = False

    @property
    def declarations(self) -> list[Mapping[str, Any]]:
        return [tool.declaration for tool in self.tools.values()]

    def call(self, name: str, arguments: str) -> tuple[str, str | None]:
        """(observation, error or None). Never raises for what a model or a tool does wrong."""
        try:
            if name not in self.tools:
                raise CallError(f"there is no tool '{name}'; use one of: {', '.join(self.tools)}")
            tool = self.tools[name]
            values = read_arguments(arguments, tool.declaration)
            seconds = self.seconds if tool.seconds is None else tool.seconds
            self._call = Call()
            if self._stopped:
                raise CallError("the call was stopped")
            return self.shorten(as_text(_within(seconds, self._call, tool.function, values))), None
        except CallError as error:
            return self.shorten(f"Error: {error}"), self.shorten(str(error))
        finally:
            self._call = None

    def stop(self) -> None:
        """Ends the call that another thread makes, if one does, and lets none begin after it."""
        self._stopped = True
        call = self._call
        if call is not None:
            call.stop()

    def shorten(self, text: str) -> str:
        """At most `max_observation` characters, and says what was left out."""
        if len(text) <= self.max_observation:
            return text
        return f"{text[: self.max_observation]} ... ({len(text) - self.max_observation} more characters)"


def as_text(value: Any) -> str:
    """What a tool returned as the model reads it; CallError for what is no text and no JSON."""
    if isinstance(value, str):
        if "\0" in value:
            raise CallError(f"the tool returned {len(value)} characters that are not text")
        return value.encode(
            "utf-8", "replace"
        ).decode()  # half a surrogate pair can be neither encoded nor stored
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise CallError(f"the tool returned {len(value)} bytes that are not text")
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError(f"the tool returned something that is not JSON: {error}") from error


def _within(seconds: float, call: Call, function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Runs a call in a daemon thread: one that hangs costs its thread, not the conversation."""
    box: list[Any] = []

    def work() -> None:
        _CALL.set(call)
        try:
            box.append((True, function(**values)))
        except BaseException as error:  # whatever a tool raises, sys.exit() too, is the model's to read
            box.append((False, error))
        call.over.set()

    threading.Thread(target=work, daemon=True).start()
    try:
        call.over.wait(seconds)
    except BaseException:  # Ctrl-C
        call.stop()
        raise
    if not box:
        raise CallError("the call was stopped" if call.stopped else f"no result after {seconds:g} seconds")
    done, value = box[0]
    if isinstance(value, CallError):
        raise value
    if not done:
        raise CallError(described(value))
    return value


def described(error: BaseException) -> str:
    """Type and message of what a tool raised; an exception that cannot be printed has its type only."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def calculate(expression: str) -> str:
    """Computes sums, differences, products and quotients of numbers, with brackets."""
    try:
        return str(_evaluate(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CallError(f"not an expression of numbers: {expression[:80]!r}") from error
    except (ZeroDivisionError, OverflowError) as error:
        raise CallError(str(error)) from error


def _evaluate(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and abs(node.value) < 1e30:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError("only numbers, + - * / and brackets")


# No power: its result can be larger than the machine.
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
# Tools of recorded conversations that can also be run for arguments that were not recorded.
RUNNABLE: dict[str, Callable[..., str]] = {"calculator": calculate}


def tools_for(item: Mapping[str, Any]) -> list[Tool]:
    """The tools of a recorded conversation: a recorded call gives the recorded observation again.

    Other calls run where the tool can be run, and fail as unrecorded where its world is not here.
    """
    return [Tool(tool, _replay(tool, item.get("steps") or [])) for tool in item["tools"]]


def _replay(declaration: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> Callable[..., str]:
    name = react.tool_name(declaration)
    known = {_key(s["action_input"]): str(s["observation"]) for s in steps if s["action"] == name}
    live = RUNNABLE.get(name)
    if live is not None and list(json_schema(declaration)["properties"]) != list(
        inspect.signature(live).parameters
    ):
        live = None  # a tool of that name with other parameters is another tool

    def answer(**arguments: Any) -> str:
        if _key(arguments) in known:
            return known[_key(arguments)]
        if live is None:
            raise CallError("no result is recorded for these arguments")
        return live(**arguments)

    return answer


def _key(arguments: Any) -> str:
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
