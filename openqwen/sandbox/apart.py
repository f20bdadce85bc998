"""A program and its tests in two processes: the tests call its functions and get plain data, the program sees no test.

Ours. This file is shown to both sandboxes as text and needs nothing of openqwen; the other half is judge.py. The two
talk by lines of JSON over a pair of pipes. Whatever the program's side writes counts as the program's answer, whoever
wrote it; what the tests compare is made of Python's own types, so no result decides what it equals. What is no data
stays with the program, and the tests hold a number that stands for it.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any, NoReturn

_LINE = 16 << 20  # bytes of a request or an answer
_NO_DATA = 3  # exit code: a test hands over what cannot travel
_COLLECTIONS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_NUMBERS = {"Decimal": "decimal", "Fraction": "fractions"}

# What the tests may ask of the program's side. A call also gives back what it was given: it may have changed that.
_ASKED: dict[str, Callable[..., Any]] = {
    "name": lambda name: getattr(sys.modules["__main__"], name),
    "call": lambda function, given, named: [function(*given, **named), given],
    "getattr": getattr,
    "setattr": setattr,
    "item": lambda whole, key: whole[key],
    "list": list,
    "len": len,
    "bool": bool,
    "str": str,
}


def pack(value: Any, keep: Callable[[Any], int]) -> Any:
    """A value as JSON; `keep` numbers what is no data."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return ["int", hex(value)]
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real.hex(), value.imag.hex()]
    if isinstance(value, str):
        return ["str", value]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, range):
        return ["range", hex(value.start), hex(value.stop), hex(value.step)]
    if isinstance(value, dict):
        return ["dict", [[pack(key, keep), pack(inner, keep)] for key, inner in value.items()]]
    for collection, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return [collection, [pack(inner, keep) for inner in value]]
    if _NUMBERS.get(type(value).__name__) == type(value).__module__:
        return [type(value).__name__, str(value)]
    if isinstance(value, type):
        name: str = value.__name__
        if vars(builtins).get(name) is value:
            return ["type", name]
    return ["object", keep(value)]


def unpack(value: Any, stand: Callable[[int], Any]) -> Any:
    """The value that was packed, `stand` finds what was kept; some exception for what is no packed value."""
    if value is None or isinstance(value, bool):
        return value
    kind, *rest = value
    if kind == "int":
        return int(rest[0], 16)
    if kind == "float":
        return float.fromhex(rest[0])
    if kind == "complex":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if kind == "str":
        return str(rest[0])
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "range":
        return range(*(int(bound, 16) for bound in rest))
    if kind == "dict":
        return {unpack(key, stand): unpack(inner, stand) for key, inner in rest[0]}
    if kind in _NUMBERS:
        return getattr(importlib.import_module(_NUMBERS[kind]), kind)(rest[0])
    if kind == "type":
        found = getattr(builtins, rest[0])
        if not isinstance(found, type):
            raise TypeError(f"{rest[0]} is no type")
        return found
    if kind == "object":
        return stand(int(rest[0]))
    return _COLLECTIONS[kind](unpack(inner, stand) for inner in rest[0])


def _channel() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes of the other process; what is printed from now on goes nowhere."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return incoming, outgoing


def _load(name: str, code: str, names: dict[str, Any]) -> None:
    """Runs code as a module of this name, from a file, with some names known before."""
    path = f"{name.strip('_')}_code.py"
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(code)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def answer_for(program: str) -> None:
    """The program's side: loads it, then answers until the requests end."""
    incoming, outgoing = _channel()
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    _load("__main__", program, {})
    for line in incoming:
        try:
            what, *given = unpack(json.loads(line), kept.__getitem__)
            reply = ["done", pack(_ASKED[what](*given), keep)]
        except Exception as error:
            reply = ["raised", type(error).__name__, str(error)]
        outgoing.write(json.dumps(reply).encode() + b"\n")
        outgoing.flush()


class Elsewhere:
    """A stand-in, at the tests' side, for something of the program's that is no data. It is equal to itself only."""

    def __init__(self, asker: Asker, number: int) -> None:
        vars(self).update(_Elsewhere__asker=asker, _Elsewhere__number=number)  # no name that the other has

    def __call__(self, *given: Any, **named: Any) -> Any:
        value, after = self.__asker.ask("call", self, list(given), named)
        for mine, changed in zip(given, after, strict=True):
            if isinstance(mine, list | dict | set) and type(mine) is type(changed) and mine != changed:
                mine.clear()
                (mine.extend if isinstance(mine, list) else mine.update)(changed)
        return value

    def __getattr__(self, name: str) -> Any:
        return self.__asker.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__asker.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self.__asker.ask("item", self, key)

    def __iter__(self) -> Any:
        return iter(self.__asker.ask("list", self))

    def __len__(self) -> Any:
        return self.__asker.ask("len", self)

    def __bool__(self) -> Any:
        return self.__asker.ask("bool", self)

    def __str__(self) -> Any:
        return self.__asker.ask("str", self)


class Asker:
    """The tests' end of the pipes."""

    def __init__(self) -> None:
        self._incoming, self._outgoing = _channel()

    def ask(self, *request: Any) -> Any:
        """What the program's side answers. Its exceptions are raised here; one that does not answer has failed."""
        self._outgoing.write(json.dumps(pack(list(request), self._number)).encode() + b"\n")
        self._outgoing.flush()
        line = self._incoming.readline(_LINE)
        try:
            how, *rest = json.loads(line)
            if how == "done":
                return unpack(rest[0], lambda number: Elsewhere(self, number))
            kind, text = str(rest[0]), str(rest[1])
        except Exception:
            _end(1, f"the program gave no answer: {line[:200]!r}")
        raise _exception(kind, text)

    def _number(self, value: Any) -> int:
        if not isinstance(value, Elsewhere):
            _end(_NO_DATA, f"a {type(value).__name__} cannot be handed to a program in another process")
        return int(vars(value)["_Elsewhere__number"])


def _exception(kind: str, text: str) -> Exception:
    """Python's own exception of this name; a RuntimeError for others."""
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(text)
        except TypeError:  # a few want more than a text
            pass
    return RuntimeError(f"{kind}: {text}")


def _end(code: int, why: str) -> NoReturn:
    """Ends at once: no `except` of a test keeps it."""
    sys.stderr.write(why + "\n")
    sys.stderr.flush()
    os._exit(code)


def judge(tests: str) -> None:
    """The tests' side: runs them to their end, with stand-ins for what they name of the program's; exit code 0 if right.

    A module of the standard library that both name is the tests' own.
    """
    asker = Asker()
    asker.ask("name", "__name__")  # tests that name nothing do not make up for a program that does not load
    named = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    names: dict[str, Any] = {}
    for name in sorted(named - set(dir(builtins))):
        try:
            found = asker.ask("name", name)
        except AttributeError:
            continue
        module = name in sys.stdlib_module_names
        names[name] = importlib.import_module(name) if module else found
    try:
        _load("tests", tests, names)
    except BaseException:
        _end(1, traceback.format_exc())
    _end(0, "")
