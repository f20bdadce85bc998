"""HumanEvalPack, synthesize: HumanEval's functions in six languages, one task each.

Report §4.3, Table 11 (0-shot, pass@1, greedy). Base: the prompt is continued and cut where the function closes, as the set's
own scorer does. Chat: the set's instruction and the prompt; the function is taken from the reply's first code block.
Ours: programs see the standard library alone, so the few items whose tests need more are left out and counted.
"""

from __future__ import annotations

import re
from functools import partial

from openqwen.core.errors import DataError
from openqwen.evals.languages import LANGUAGES, apart, given
from openqwen.evals.task import Ask, Item, Task, no_guess, take
from openqwen.evals.tasks.humaneval import _FENCE

STOPS: dict[str, tuple[str, ...]] = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert"),
    "go": ("\n//", "\nfunc main(", "struct", "\nfunc"),
}
# What a program of the set may name beyond the standard library: (in the code, package).
_FOREIGN: dict[str, tuple[tuple[str, str], ...]] = {
    "rust": (("rand::thread_rng", "rand"), ("Regex::", "regex"), ("md5::", "md5")),
    "cpp": (("boost::", "boost"), ("#include<openssl", "openssl")),
    "js": (("require('js-md5')", "js-md5"), ("require('mathjs')", "mathjs")),
}
_HELPER = re.compile(r"^(?!class|public class).*[)>].*\{\s*$")  # the first line of a function
_GO_PACKAGES = (
    "bytes", "crypto/md5", "errors", "fmt", "math", "math/rand", "reflect", "regexp", "sort", "strconv", "strings",
    "testing", "time", "unicode",
)  # fmt: skip
_GO_NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`', re.DOTALL)  # comments and texts
_GO_ASSERT = """
type itemAssert struct{}
func (itemAssert) Equal(wanted, found interface{}, more ...interface{}) {
    if !reflect.DeepEqual(wanted, found) { panic("assertion failed") }
}
"""
# What the set's own scorer puts before a program, of the standard library.
_PYTHON = (
    "math", "re", "sys", "copy", "datetime", "itertools", "collections", "heapq", "statistics", "functools", "hashlib",
    "string",
)  # fmt: skip
_CPP = (
    "stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "set", "map", "queue", "stack", "list", "deque", "string",
    "climits", "cstring", "iostream", "sstream", "fstream",
)  # fmt: skip
_FIRST = {
    "python": "".join(f"import {name}\n" for name in _PYTHON)
    + "from typing import *\nfrom collections import *\n",
    "cpp": "".join(f"#include <{name}>\n" for name in _CPP),
}
_JS_ASSERT = 'const itemAssert = (ok) => { if (ok !== true) throw new Error("assertion failed"); };\n'


def parse(record: Item, place: str, *, language: str) -> Item:
    """The published form; `left_out` says which package an item needs that no program sees."""
    name = str(take(record, place, "task_id"))
    prompt, solution, test = (take(record, place, f) for f in ("prompt", "canonical_solution", "test"))
    if not all(isinstance(text, str) and text for text in (prompt, solution, test)):
        raise DataError("prompt, canonical_solution and test must be texts", where=place)
    code = prompt + solution + test
    needed = [package for text, package in _FOREIGN.get(language, ()) if text in code]
    return {
        "id": name,
        "prompt": prompt,
        "instruction": take(record, place, "instruction"),
        "declaration": take(record, place, "declaration"),
        "entry_point": _entry(record, place, language),
        "setup": record.get("test_setup", ""),
        "test": test,
        "answer": solution,
        "split": "test",
        **({"left_out": f"needs {', '.join(needed)}"} if needed else {}),
    }


def _entry(record: Item, place: str, language: str) -> str:
    """The tested function's name; a few Rust rows name another than they declare."""
    name = str(take(record, place, "entry_point"))
    declared = re.findall(r"\bfn\s+(\w+)", record["declaration"]) if language == "rust" else []
    return name if not declared or name in declared else declared[-1]


def query(item: Item) -> str:
    return str(item["prompt"]).strip()


def answer(item: Item) -> str:
    return f"\n{item['answer']}\n"


def cut(text: str, language: str) -> str:
    """A continuation up to the end of the function that the prompt opened."""
    if language == "python":
        lines = text.split("\n")
        ends = (i for i, line in enumerate(lines) if line.strip() and line[0] not in " \t")
        return "\n".join(lines[: next(ends, len(lines))])
    depth = 2 if language == "java" else 1
    for i, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return text[: i + 1]
    if language == "java" and depth == 1:
        return text + "\n}"
    return text[: text.rfind("}") + 1] or text


def program(text: str, item: Item, *, language: str) -> str:
    return whole(f"{item['prompt'].rstrip()}{cut(text.rstrip(), language)}", item, language)


def chat_program(text: str, item: Item, *, language: str) -> str:
    """A reply's function with what stands before it in the prompt; a reply without the function is its body."""
    fenced = _FENCE.search(text)
    code = fenced[1] if fenced else text
    if not re.search(rf"\b{re.escape(item['entry_point'])}\b\s*(?:<[^(]*>\s*)?(?:\(|=)", code):
        return whole(f"{item['prompt'].rstrip()}\n{cut(code, language)}", item, language)
    if language == "python":
        return whole(f"{item['prompt']}    pass\n{code}", item, language)
    # A main of the reply's own would be a second one; the set's Rust prompts begin with an empty one.
    code = re.sub(r"^fn main\(\)\s*\{\s*\}", "", code)
    main = re.search(r"^\s*(?:int main|func main|fn main)\s*\(", code, re.MULTILINE)
    code = code[: main.start()] if main else code
    if language == "java" and "class Solution" in code:
        imports = "".join(re.findall(r"^import .*\n", item["declaration"], re.MULTILINE))
        return whole(imports + code.replace("public class Solution", "class Solution"), item, language)
    code += "\n}" if language == "java" else ""
    return whole(before(item, code) + code, item, language)


def before(item: Item, code: str) -> str:
    """The declaration above the function's line: imports, the opened class, helpers that `code` has not."""
    lines = item["declaration"].split("\n")
    named = (i for i, line in enumerate(lines) if re.search(rf"\b{re.escape(item['entry_point'])}\b", line))
    head = lines[: next(named, 0)]
    helper = next((i for i, line in enumerate(head) if _HELPER.search(line)), None)
    if helper is not None and head[helper].strip() in code:
        head = head[:helper]
    head = [line for line in head if not (line.startswith("use ") and line in code)]  # Rust takes none twice
    return "".join(f"{line}\n" for line in head)


def whole(code: str, item: Item, language: str) -> str:
    """The program with its tests."""
    test = item["test"]
    if language == "js":
        test = _JS_ASSERT + test.replace("console.assert(", "itemAssert(")
    elif language == "rust":
        code = re.sub(r"^use (?:rand::Rng|regex::Regex|md5);$", "", code, flags=re.MULTILINE)
    elif language == "go":
        return go_program(code, item["setup"], test)
    elif language == "python":
        first = _FIRST[language]
        return apart(f"{first}{code}", f"{first}{given(item['prompt'], item['entry_point'])}\n{test}")
    return f"{_FIRST.get(language, '')}{code}\n\n{test}\n"


def go_program(code: str, setup: str, test: str) -> str:
    """One file with exactly the imports that it uses: Go compiles nothing else."""
    test = test.replace("assert.New(t)", "itemAssert{}")
    body = re.sub(r"^package \w+\s*$|^import\s*\([^)]*\)|^import \"[^\"]*\"", "", code, flags=re.MULTILINE)
    body = f"{body}\n{_GO_ASSERT}\n{test}"
    said = _GO_NO_CODE.sub("", body)
    used = [p for p in _GO_PACKAGES if p == "fmt" or re.search(rf"\b{p.rpartition('/')[2]}\.", said)]
    return "package main\n\nimport (\n" + "".join(f'    "{name}"\n' for name in used) + f")\n{body}\n"


def chat_query(item: Item) -> str:
    return f"{item['instruction']}\n\n{item['prompt'].strip()}"


def chat_answer(item: Item) -> str:
    return f"```\n{item['prompt']}{item['answer']}```"


def task(language: str) -> Task:
    stop = STOPS.get(language, ())
    return Task(
        name=f"humanevalpack_{language}",
        title=f"HumanEvalPack {LANGUAGES[language].name}",
        parse=partial(parse, language=language),
        base=Ask(query, answer, program=partial(program, language=language), language=language, stop=stop),
        chat=Ask(
            chat_query, chat_answer, program=partial(chat_program, language=language), language=language
        ),
        chance=no_guess,
    )


TASKS = {language: task(language) for language in LANGUAGES}
