"""HumanEval: complete a function from its signature and docstring.

Report §2.6, Tables 2, 5 and 10 (0-shot, pass@1, greedy). Base: the raw prompt is continued and cut where the function
ends. Chat: the released instruction; from the reply only the body of the function is taken. The program is the prompt,
that body, the tests; it runs in the sandbox or not at all. Harness (humaneval): the raw prompt for every model, the
continuation as it is.
"""

from __future__ import annotations

import re

from openqwen.evals.languages import apart, given
from openqwen.evals.task import Ask, Item, Task, no_guess, take

_FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
_END = re.compile(r"\n\n|\ndef |\nclass |\nif __name__|\nprint\(")


def parse(record: Item, place: str) -> Item:
    """{"id", "prompt", "entry_point", "test", "answer" (canonical solution)}."""
    return {
        "id": str(take(record, place, "task_id", "id")),
        "prompt": take(record, place, "prompt"),
        "entry_point": take(record, place, "entry_point"),
        "test": take(record, place, "test"),
        "answer": take(record, place, "canonical_solution"),
        "split": record.get("split", "test"),
    }


def query(item: Item) -> str:
    return str(item["prompt"])


def answer(item: Item) -> str:
    return f"{item['answer']}\n"


def cut(text: str) -> str:
    """A base model's continuation up to the end of the function."""
    found = _END.search(text)
    return text[: found.start()] if found else text


def body(reply: str, entry_point: str) -> str:
    """The body of the function in a chat reply, as the released script takes it.

    From the first code block if there is one; of the named function, else of the first one; a reply without any
    function is taken as the body and indented.
    """
    fenced = _FENCE.search(reply)
    lines = (fenced[1] if fenced else reply).split("\n")
    heads = [i for i, line in enumerate(lines) if re.match(rf"def\s+{re.escape(entry_point)}\b", line)]
    heads += [i for i, line in enumerate(lines) if line.startswith("def ")]
    if not heads:
        return "\n".join(f"    {line}" if line.strip() else line for line in lines).rstrip()
    kept = []
    for line in lines[heads[0] + 1 :]:
        if line.strip() and not line[0].isspace():
            break
        kept.append(line)
    return "\n".join(kept).rstrip()


def program(text: str, item: Item) -> str:
    return _whole(item, cut(text))


def chat_program(text: str, item: Item) -> str:
    return _whole(item, body(text, item["entry_point"]))


def _whole(item: Item, completion: str) -> str:
    name = item["entry_point"]
    tests = f"{given(item['prompt'], name)}\n{item['test']}\ncheck({name})"
    return apart(f"{item['prompt']}{completion}", tests)


def harness_program(text: str, item: Item) -> str:
    return _whole(item, text)


def chat_query(item: Item) -> str:
    signature = re.search(
        rf"def\s+({re.escape(item['entry_point'])}\s*\(.*?)\s*:\s*\n", item["prompt"], re.DOTALL
    )
    head = signature[1] if signature else item["entry_point"]
    described = re.search(r"(?:\"\"\"|''')(.*?)(?:\"\"\"|''')", item["prompt"], re.DOTALL)
    problem = described[1].strip() if described else ""
    return f"Write a Python function `{head}` to solve the following problem:\n{problem}\n{item['prompt']}"


def chat_answer(item: Item) -> str:
    return f"```python\n{item['prompt']}{item['answer']}```"


TASK = Task(
    name="humaneval",
    title="HumanEval",
    parse=parse,
    base=Ask(query, answer, program=program, stop=("\n\n", "\ndef ")),
    chat=Ask(chat_query, chat_answer, program=chat_program),
    chance=no_guess,
    harness=Ask(
        query,
        answer,
        program=harness_program,
        stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
        tokens=1024,
    ),
)
