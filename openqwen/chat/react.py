"""ReAct: how tools, thoughts, calls and observations become text, and how text becomes calls again.

Report §3.4 and §A.3 (the format, unseen tools described in the prompt). The wording of the prompt, `parse_latest_call`,
`parse_response` and `from_openai` follow the behaviour of the released Qwen scripts exactly; `parse_step` is ours and
stricter: it also reads an Action at the very start and notices an Observation the model wrote by itself.

Only this module and the two that build on it (react_stream.py, react_grammar.py) know the format. Training and
inference build their texts from the same two functions, `build_prompt` and `continue_reply`, so that a continued reply
is a prefix of what was trained.

Loss. The report masks system and user turns; of observations it says nothing. An observation stands inside the
assistant's turn, and the released fine-tuning script trains that turn whole, so we do too: decoding stops at
"Observation:" (STOP), a model that has learnt to write one is never asked for it. `observation_spans` tells a stricter
loss which characters came from the tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwen.chat.messages import DEFAULT_SYSTEM
from openqwen.core.errors import UsageError

STOP = ("Observation:", "Observation:\n")
KNOWN = "I now know the final answer."

Tool = Mapping[str, Any]
Message = dict[str, str]

_INSTRUCTION = """Answer the following questions as best you can. You have access to the following APIs:

{tools}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!"""
_HINTS = {
    "json": " Format the arguments as a JSON object.",
    "code": " Enclose the code within triple backticks (`) at the beginning and end of the code.",
}
# Labels count only at the start of a line; what stands inside a line is somebody's text.
LABELS = ("Thought:", "Action:", "Action Input:", "Observation:", "Final Answer:")
LABEL = re.compile(r"(?m)^(Thought|Action|Action Input|Observation|Final Answer):")


# ---------------------------------------------------------------------------------------------- prompts
def clean(text: str) -> str:
    """Queries and answers as they were trained: no leading newlines, no trailing white space."""
    return text.lstrip("\n").rstrip()


def tool_name(tool: Tool) -> str:
    """The name the model must write. Accepts Qwen's plugin form and OpenAI's function form."""
    return str(tool.get("name_for_model") or tool.get("name", ""))


def describe_tool(tool: Tool, hint: bool = True) -> str:
    """One tool as a paragraph of the prompt. `hint`: say how to write the arguments (the server's form does not)."""
    name = tool_name(tool)
    human = str(tool.get("name_for_human") or tool.get("name", ""))
    use = str(tool.get("description_for_model") or tool.get("description", ""))
    parameters = json.dumps(tool.get("parameters", []), ensure_ascii=False)
    text = (
        f"{name}: Call this tool to interact with the {human} API. "
        f"What is the {human} API useful for? {use} Parameters: {parameters}"
    )
    return text + (_HINTS[str(tool.get("args_format", "json"))] if hint else "")


def instruction(tools: Sequence[Tool], hint: bool = True) -> str:
    """Everything that precedes the question."""
    return _INSTRUCTION.format(
        tools="\n\n".join(describe_tool(tool, hint) for tool in tools),
        names=", ".join(tool_name(tool) for tool in tools),
    )


def build_prompt(query: str, tools: Sequence[Tool], hint: bool = True) -> str:
    """The user turn: tools, format, question. Without tools it is the bare query."""
    query = clean(query)
    return f"{instruction(tools, hint)}\n\nQuestion: {query}" if tools else query


def place_tools(messages: Sequence[Mapping[str, str]], tools: Sequence[Tool]) -> list[Message]:
    """A conversation with the tools announced in its last-but-one user turn (or the only one), as trained."""
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    target = users[-2:][0] if users else -1
    placed = []
    for i, message in enumerate(messages):
        content = clean(message["content"])
        placed.append({**message, "content": build_prompt(content, tools) if i == target else content})
    return placed


# ---------------------------------------------------------------------------------------------- replies
def call_text(thought: str, action: str, arguments: object) -> str:
    """`Thought: ...` / `Action: ...` / `Action Input: ...`; arguments that are no string become JSON."""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"Thought: {thought}\nAction: {action}\nAction Input: {written}"


def final_text(final: str, thought: str = KNOWN) -> str:
    """`Thought: I now know the final answer.` / `Final Answer: ...`."""
    return f"Thought: {thought}\nFinal Answer: {final}"


def observation_parts(observation: str) -> tuple[str, str, str]:
    """What follows a call: the label, the tool's own words, and the label of the next thought."""
    return "\nObservation: ", clean(observation), "\nThought:"


def continue_reply(reply: str, observation: str) -> str:
    """A reply that ended in a call, with the tool's result, open for the next thought.

    Cut after "Thought:" on purpose: the pre-tokeniser splits there, hence the ids of this text are a prefix of the
    ids of the whole reply as it is trained.
    """
    return reply.rstrip() + "".join(observation_parts(observation))


def reply_text(steps: Sequence[Mapping[str, Any]], final: str) -> str:
    """A whole assistant turn from recorded steps ({"thought","action","action_input","observation"}) and answer."""
    return steps_text(steps).removesuffix("Thought:") + final_text(clean(final))


def steps_text(steps: Sequence[Mapping[str, Any]], opened: bool = True) -> str:
    """The beginning of an assistant turn: recorded steps, open for the next thought or not; "" without any."""
    text = ""
    for step in steps:
        # continue_reply left "Thought:" open; call_text writes its own.
        text = text.removesuffix("Thought:") + call_text(
            step["thought"], step["action"], step["action_input"]
        )
        text = continue_reply(text, str(step["observation"]))
    return text if opened else text.removesuffix("\nThought:")


def training_messages(item: Mapping[str, Any]) -> list[Message]:
    """The user and assistant turn of a recorded tool conversation ({"query","tools","steps","final"})."""
    return [
        {"role": "user", "content": build_prompt(item["query"], item["tools"])},
        {"role": "assistant", "content": reply_text(item.get("steps") or [], item["final"])},
    ]


def observation_spans(text: str) -> list[tuple[int, int]]:
    """Character ranges of observations (from after "Observation:" through the newline that ends each)."""
    labels = list(LABEL.finditer(text))
    ends = [label.start() for label in labels[1:]] + [len(text)]
    return [(label.end(), end) for label, end in zip(labels, ends) if label[1] == "Observation"]


# ---------------------------------------------------------------------------------------------- parsing
def parse_latest_call(text: str) -> tuple[str, str, str]:
    """(tool name, arguments, text up to and with that call) of the last call; empty names if there is none.

    Equal to the released demo: the call must be preceded by a newline.
    """
    action, given = text.rfind("\nAction:"), text.rfind("\nAction Input:")
    if not 0 <= action < given:
        return "", "", text
    seen = text.rfind("\nObservation:")
    if seen < given:
        text = text.rstrip()
        seen = len(text)
    name = text[action + len("\nAction:") : given].strip()
    return name, text[given + len("\nAction Input:") : seen].strip(), text[:seen]


def parse_response(text: str) -> tuple[str, dict[str, str] | None]:
    """(content, function call or None) of a finished reply, as the released server answers a client."""
    action, given = text.find("\nAction:"), text.find("\nAction Input:")
    if 0 <= action < given:
        seen = text.find("\nObservation:")
        if seen < given:
            text = text.rstrip() + "\nObservation:"
            seen = text.rfind("\nObservation:")
        name = text[action + len("\nAction:") : given].strip()
        if name:
            arguments = text[given + len("\nAction Input:") : seen].strip()
            head = text[:action]
            return head[_after(head, "Thought: ") :], {"name": name, "arguments": arguments}
    last = text.rfind("\nFinal Answer: ")
    return (text[last + len("\nFinal Answer: ") :] if last >= 0 else text), None


def _after(text: str, label: str) -> int:
    """The index behind the first `label`, or 0."""
    found = text.find(label)
    return found + len(label) if found >= 0 else 0


@dataclass(frozen=True)
class Step:
    """One step of a reply as our loop reads it: either a call or a final answer, or neither."""

    text: str  # what of the reply counts: up to the end of the call or answer
    thought: str
    action: str | None = None
    arguments: str = ""
    final: str | None = None
    invented: str | None = None  # an observation the model wrote itself; never believed


def parse_step(text: str) -> Step:
    """The first complete step of newly generated text. Never fails.

    A call is an Action followed by its Action Input; it may stand at the very start. Whichever of call and final
    answer comes first decides, since what follows a call was written without knowing its result.
    """
    parts = _parts(text)
    thought = next((body for label, body, _, _ in parts if label in ("Thought", "")), "").strip()
    for i, (label, body, start, end) in enumerate(parts):
        if label == "Observation":
            return Step(text[:start].rstrip(), thought, invented=body.strip())
        if label == "Final Answer":
            return Step(text[:end].rstrip(), thought, final=body.strip())
        if label == "Action" and i + 1 < len(parts) and parts[i + 1][0] == "Action Input":
            _, _, begin, stop = parts[i + 1]
            rest = parts[i + 2] if i + 2 < len(parts) else None
            call = (text[:stop] if rest else drop_partial_stop(text)).rstrip()
            arguments = call[begin + len("Action Input:") :].strip()
            invented = rest[1].strip() if rest and rest[0] == "Observation" else None
            return Step(call, thought, body.strip() or None, arguments, invented=invented or None)
    return Step(text.rstrip(), thought)


def certain_step(text: str) -> str:
    """What of a step no later text can take back, as far as it is written: `parse_step` of the whole begins with it."""
    line = text.rfind("\n") + 1
    begun = any(label.startswith(text[line:]) for label in LABELS)
    return parse_step(text[:line] if begun else text).text


def _parts(text: str) -> list[tuple[str, str, int, int]]:
    """(label, body, start, end) of each labelled stretch; an unlabelled beginning has label ""."""
    labels = list(LABEL.finditer(text))
    first = labels[0].start() if labels else len(text)
    parts = [("", text[:first], 0, first)] if text[:first].strip() else []
    for i, label in enumerate(labels):
        end = labels[i + 1].start() if i + 1 < len(labels) else len(text)
        parts.append((label[1], text[label.end() : end], label.start(), end))
    return parts


def drop_partial_stop(text: str) -> str:
    """Removes a stop string that was only half written at the end ("\\nObserv"), however it was cut into tokens."""
    line = text.rfind("\n")
    tail = text[line + 1 :]
    if line >= 0 and tail and "Observation:".startswith(tail):
        return text[:line]
    return text


# ---------------------------------------------------------------------------------------------- OpenAI messages
@dataclass(frozen=True)
class Conversation:
    """Messages of the OpenAI API in Qwen's form. `query` is None when the last reply is to be continued."""

    query: str | None
    history: list[list[str]]  # [user, assistant] pairs
    system: str

    def messages(self) -> list[Message]:
        """As chat messages without the system turn; an open assistant turn comes last when continuing."""
        turns = [
            {"role": role, "content": text}
            for pair in self.history
            for role, text in zip(("user", "assistant"), pair)
        ]
        return turns if self.query is None else [*turns, {"role": "user", "content": self.query}]


def from_openai(messages: Sequence[Mapping[str, Any]], functions: Sequence[Tool] | None) -> Conversation:
    """Messages with roles system, user, assistant and function, and declared functions, as the released server maps them.

    Raises UsageError (a client's mistake, HTTP 400) for an order of roles that means nothing.
    """
    if not any(message["role"] == "user" for message in messages):
        raise UsageError("the request holds no user message", fix="add a message with role user")
    system = DEFAULT_SYSTEM
    if messages[0]["role"] == "system":
        system, messages = clean(messages[0]["content"] or ""), messages[1:]
    turns = _turns(messages, bool(functions))
    query = turns.pop()[1] if turns[-1][0] == "user" else None
    if len(turns) % 2:
        raise UsageError("user and assistant messages do not alternate", fix="answer each user message once")
    history = []
    for user, reply in zip(turns[::2], turns[1::2]):
        if (user[0], reply[0]) != ("user", "assistant"):
            raise UsageError("user and assistant messages do not alternate", where=f"near {user[1][:40]!r}")
        history.append([user[1], reply[1]])
    if functions:
        # The last user turn of the history carries the tools if there is one, the query otherwise: as trained.
        if history:
            history[-1][0] = build_prompt(history[-1][0], functions, hint=False)
        elif query is not None:
            query = build_prompt(query, functions, hint=False)
    return Conversation(query, history, system)


def _turns(messages: Sequence[Mapping[str, Any]], with_functions: bool) -> list[tuple[str, str]]:
    """(role, text) with calls and their results folded into the assistant's turns."""
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages):
        role, content = message["role"], clean(message.get("content") or "")
        if role == "user":
            turns.append(("user", content))
        elif role == "function":
            if not turns or turns[-1][0] != "assistant":
                raise UsageError(
                    "a function message must follow the assistant's call", where=f"message {number}"
                )
            opened = "\nThought:" if number == len(messages) - 1 else ""
            turns[-1] = ("assistant", f"{turns[-1][1]}\nObservation: {content}{opened}")
        elif role == "assistant":
            if not turns:
                raise UsageError(
                    "an assistant message comes before any user message", where=f"message {number}"
                )
            text = _assistant_text(content, message.get("function_call"), with_functions)
            if turns[-1][0] == "assistant":
                turns[-1] = ("assistant", f"{turns[-1][1]}\n{text}")
            else:
                turns.append(("assistant", text))
        else:
            raise UsageError(
                f"unknown role {role!r}", where=f"message {number}", fix="system, user, assistant, function"
            )
    return turns


def _assistant_text(content: str, call: Mapping[str, str] | None, with_functions: bool) -> str:
    if call is None:
        return final_text(content) if with_functions else content
    thought = content if content.startswith("Thought:") else f"Thought: {content}"
    return f"{thought}\nAction: {call['name']}\nAction Input: {call['arguments']}"
