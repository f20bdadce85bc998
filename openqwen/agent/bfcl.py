"""BFCL, the Berkeley function-calling leaderboard: is the right function called, with arguments that count as right?

Report §3.4 (choosing an unseen tool, filling in its input); the set is not the report's. Read in its published form;
`problem` follows the verdicts of the published checker for Python calls, its oddities included. Ours: models are asked
by ReAct, one call an answer, so the parts with several calls or turns, and those in Java and JavaScript, are not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.agent import json5
from openqwen.agent.config import AgentEvalConfig
from openqwen.agent.loop import Conversation, Model, run
from openqwen.agent.rows import rows, take
from openqwen.agent.tools import Tool, Toolbox
from openqwen.chat.react import Message
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.core.tables import Cell, share

# part -> questions of the whole published part; None: its versions differ
PARTS: dict[str, int | None] = {
    "simple": 400, "simple_python": 400, "multiple": 200, "live_simple": 258, "live_multiple": 1053,
    "irrelevance": 240, "live_irrelevance": None, "live_relevance": None,
}  # fmt: skip
_FILE = re.compile(r"BFCL_v\d+_(\w+)\.(?:jsonl?|jsonl?\.gz)")
_TYPES: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
_JSON = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_LEFT_OUT = re.compile(r"[ ,./\-_*^]")
_REQUESTED = "The call was noted."


@dataclass(frozen=True)
class Question:
    """A request and the functions there are. name, accepted: the right call; no name: see `part`.

    accepted: for each argument the values that count; "" among them says that it may be left out.
    """

    id: str
    part: str
    history: tuple[Message, ...]
    query: str
    functions: tuple[Mapping[str, Any], ...]
    name: str | None = None
    accepted: Mapping[str, list[Any]] | None = None

    @property
    def function(self) -> Mapping[str, Any]:
        """The declaration of the function that is to be called."""
        return next(function for function in self.functions if function["name"] == self.name)


# ---- reading -----------------------------------------------------------------------------------------------------
def files(folder: Path) -> dict[str, Path]:
    """Part -> file, of all parts of BFCL in a folder, those that are not run too."""
    found = ((_FILE.fullmatch(path.name), path) for path in sorted(folder.glob("BFCL_v*")))
    return {match[1]: path for match, path in found if match}


def load(folder: Path) -> tuple[list[Question], list[str]]:
    """The questions of FOLDER/bfcl, of the parts that are run, and what is to be said of them."""
    found = files(folder / "bfcl")
    questions = [q for part in PARTS if part in found for q in read_part(part, found[part])]
    if not questions:
        return [], [f"no BFCL_v*_PART.json of {', '.join(PARTS)} in {folder / 'bfcl'}"]
    counts = {part: sum(question.part == part for question in questions) for part in PARTS}
    said = [
        f"{part} {count}" + (f" of {PARTS[part]}" if PARTS[part] else "")
        for part, count in counts.items()
        if count
    ]
    notes = [", ".join(said)]
    if other := [part for part in found if part not in PARTS]:
        notes.append(f"not run, as a ReAct step makes one call of Python: {', '.join(other)}")
    if hopeless := [q.id for q in questions if not all((q.accepted or {"": [""]}).values())]:
        notes.append(f"no answer can be right, as an argument has no accepted value: {', '.join(hopeless)}")
    return questions, notes


def read_part(part: str, path: Path) -> Iterator[Question]:
    """One file: answers stand in the row ("ground_truth") or in possible_answer/ beside it, as published."""
    answers: dict[str, Any] | None = None
    for place, row in rows(path):
        identity = str(take(row, "id", str, place))
        truth = row.get("ground_truth")
        if truth is None and "relevance" not in part:
            if answers is None:
                answers = _answers(path.parent / "possible_answer" / path.name)
            truth = answers.get(identity)
        functions = tuple(_function(f, place) for f in take(row, "function", list, place))
        *history, last = _messages(row, place)
        question = Question(identity, part, tuple(history), last["content"], functions)
        yield question if "relevance" in part else _with_answer(question, truth, place)


def _answers(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError("the answers of this part are not there", str(path), "put possible_answer/ beside it")
    return {str(row.get("id")): row.get("ground_truth") for _, row in rows(path)}


def _messages(row: Mapping[str, Any], place: str) -> list[Message]:
    turns = take(row, "question", list, place)
    messages = turns[0] if len(turns) == 1 else None
    if not isinstance(messages, list) or not all(map(_is_message, messages)) or not messages:
        raise DataError('"question" is not one turn of messages', place)
    if messages[-1]["role"] != "user":
        raise DataError('the last message of "question" is not the user\'s', place)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _function(value: Any, place: str) -> Mapping[str, Any]:
    """A declaration whose arguments all have a type that the checker knows."""
    parameters = value.get("parameters") if isinstance(value, dict) else None
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(properties, dict) or not isinstance(value.get("name"), str):
        raise DataError('a function has "name" and "parameters" with "properties"', place)
    for name, schema in properties.items():
        kinds = [schema] if isinstance(schema, dict) else [{}]
        if kinds[0].get("type") in ("array", "tuple"):
            kinds.append(schema.get("items") or {})
        if any(kind.get("type") not in _TYPES for kind in kinds):
            raise DataError(f"argument '{name}' of {value['name']} has no type BFCL knows", place)
    return value


def _with_answer(question: Question, truth: Any, place: str) -> Question:
    right = truth[0] if isinstance(truth, list) and len(truth) == 1 else None
    if not isinstance(right, dict) or len(right) != 1:
        raise DataError('"ground_truth" is not one call', place)
    [(name, accepted)] = right.items()
    known = {function["name"]: function["parameters"]["properties"] for function in question.functions}
    if name not in known:
        raise DataError(f"the right call is of {name}, which is not among the functions", place)
    if not isinstance(accepted, dict) or not all(
        isinstance(values, list)
        and all(_comparable(value, known[name].get(argument, {})) for value in values)
        for argument, values in accepted.items()
    ):
        raise DataError("an argument's accepted values are not a list that the checker can compare", place)
    return Question(
        question.id, question.part, question.history, question.query, question.functions, name, accepted
    )


def _comparable(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether an accepted value has the form that its argument's type asks for; "" has it always."""
    if value == "":
        return True
    kind, inner = schema.get("type"), (schema.get("items") or {}).get("type")
    if kind == "dict" and isinstance(value, dict):
        return all(isinstance(values, list) for values in value.values())
    if kind in ("array", "tuple"):
        if inner != "dict" or not isinstance(value, list):
            return isinstance(value, list)
        return all(isinstance(part, dict) and _comparable(part, {"type": "dict"}) for part in value)
    return True


# ---- the checker -------------------------------------------------------------------------------------------------
def problem(
    name: str, given: Any, function: Mapping[str, Any], accepted: Mapping[str, list[Any]]
) -> str | None:
    """Why a call of `name` with the arguments `given` is not a right call of `function`; None if it is one."""
    if name != function["name"]:
        return f"calls {name}, not {function['name']}"
    if not isinstance(given, dict):
        return "the arguments are not an object"
    parameters = function["parameters"]
    for argument in parameters.get("required", []):
        if argument not in given:
            return f"{argument} is missing"
    for argument, value in given.items():
        if argument not in parameters["properties"] or argument not in accepted:
            return f"there is no argument {argument}"
        if not _counts(value, parameters["properties"][argument], accepted[argument]):
            return f"{argument} is {value!r}, not one of {accepted[argument]!r}"
    absent = [name for name, values in accepted.items() if name not in given and "" not in values]
    return f"{absent[0]} is missing" if absent else None


def _counts(value: Any, schema: Mapping[str, Any], accepted: Sequence[Any]) -> bool:
    """Whether a value has the right type and equals one that is accepted."""
    kind = _TYPES[schema["type"]]
    inner = _TYPES[schema["items"]["type"]] if kind is list else None
    as_declared = type(value) is kind or (kind is float and type(value) is int)
    if as_declared and inner is not None:
        if not any(_inner_types(value, one, inner) for one in accepted):
            return False
    elif not as_declared and type(value) is not _type_of(accepted):
        return False
    # A value of another type than the declared one stands for a variable, which is compared as it is.
    if not as_declared or _type_of(accepted) not in (None, kind):
        return value in accepted
    if kind is dict:
        return any(_same_dict(value, one) for one in accepted)
    if inner is dict:
        return any(len(value) == len(one) and all(map(_same_dict, value, one)) for one in accepted)
    if kind is str:
        return _plain(value) in [_plain(one) for one in accepted if isinstance(one, str)]
    if kind is list:
        return [_plain(part) for part in value] in [[_plain(part) for part in one] for one in accepted]
    return value in accepted


def _type_of(accepted: Sequence[Any]) -> type | None:
    """The type of the first accepted value that is not ""."""
    return next((type(one) for one in accepted if one != ""), None)


def _inner_types(value: Sequence[Any], accepted: Any, inner: type) -> bool:
    """Whether all elements have the declared type, or that of the first element of an accepted list."""
    return not isinstance(accepted, list) or all(type(v) in (inner, _type_of(accepted)) for v in value)


def _same_dict(value: Any, accepted: Any) -> bool:
    """Whether an object has accepted values under all its names, and lacks none but those that may be left out."""
    if not isinstance(value, dict) or not isinstance(accepted, dict):
        return False
    known = all(
        key in accepted and _plain(part) in [_plain(one) for one in accepted[key]]
        for key, part in value.items()
    )
    return known and all(key in value or "" in values for key, values in accepted.items())


def _plain(value: Any) -> Any:
    """A text without spaces and , . / - _ * ^, in lower case, with one kind of quotes; all else as it is."""
    return _LEFT_OUT.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


# ---- asking ------------------------------------------------------------------------------------------------------
def declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function as the model sees it: OpenAI's form, types as JSON schema has them."""
    return {
        "name": function["name"],
        "description": str(function.get("description", "")),
        "parameters": _schema(function["parameters"]),
    }


def _schema(value: Any) -> Any:
    if isinstance(value, list):
        return [_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _JSON.get(part, part) if key == "type" and isinstance(part, str) else _schema(part)
        for key, part in value.items()
    }


def play(
    model: Model, questions: Sequence[Question], config: AgentEvalConfig, folder: Path
) -> list[dict[str, Any]]:
    """Every question up to the first call; one record each. Nothing is written to `folder`."""
    records = []
    with Progress("BFCL", total=len(questions)) as bar:
        for start in range(0, len(questions), config.batch_size):
            part = questions[start : start + config.batch_size]
            talks = [begin(question, config) for question in part]
            run(model, talks)
            records += [judge(question, talk) for question, talk in zip(part, talks, strict=True)]
            bar.update(len(records))
    return records


def begin(question: Question, config: AgentEvalConfig) -> Conversation:
    """The conversation about one question; it ends with the first call, which nothing runs."""
    tools = [Tool(declaration(function), lambda **_: _REQUESTED) for function in question.functions]
    box = Toolbox(tools, config.tool_seconds, config.max_observation)
    return Conversation(question.query, box, max_steps=1, history=list(question.history))


def judge(question: Question, done: Conversation) -> dict[str, Any]:
    """{"tool": the right function or rightly none, "right": the whole call, "problem": why not}."""
    first = done.turns[0]
    called, wrong = first.action is not None, None
    tool = called == ("irrelevance" not in question.part)
    if done.ended == "refused":
        tool, wrong = False, first.error
    elif question.name is None:
        wrong = None if tool else ("calls a function" if called else "calls no function")
    elif first.action is None:
        wrong = "calls no function"
    else:
        tool = first.action == question.name
        wrong = problem(first.action, _read(first.arguments), question.function, question.accepted or {})
    return {
        "id": question.id,
        "part": question.part,
        "tool": tool,
        "right": wrong is None,
        "problem": wrong,
        "trace": done.trace(),
    }


def _read(arguments: str) -> Any:
    """What a model wrote as arguments, read as Table 6 reads it; None where it cannot be read."""
    try:
        return json5.loads(arguments)
    except ValueError:
        return None


def cells(records: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Cell]:
    """bfcl_PART: the share of right calls; bfcl_PART_tool: that of right functions, where there is one to call."""
    found: dict[str, Cell] = {}
    for part in PARTS:
        mine = [record for record in records if record["part"] == part]
        if mine and "relevance" not in part:
            found[f"bfcl_{part}_tool"] = share([record["tool"] for record in mine])
        if mine:
            found[f"bfcl_{part}"] = share([record["right"] for record in mine])
    return found
