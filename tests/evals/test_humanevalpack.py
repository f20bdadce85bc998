"""HumanEvalPack in six languages: canonical solutions pass where the compiler is, wrong and cheating ones fail."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openqwen import sandbox
from openqwen.evals import code, languages, sets
from openqwen.evals.harness import Subject, evaluate
from openqwen.evals.task import Item
from openqwen.evals.tasks import TASKS, humanevalpack
from openqwen.sandbox.languages import missing_tool
from openqwen.tokenizer import Tokenizer

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
TRIED = {"python": 8, "js": 8, "java": 2, "cpp": 3, "rust": 4, "go": 1}  # items whose solutions are run here
# Solutions with a second function after the first, where a base model's continuation is cut.
WITH_HELPERS = {"Rust/137", "Rust/145", "Go/72"}
FIRST = {"cpp": "CPP/50"}  # its tests need a header that the scorer brings
DOUBLE = {  # a function that doubles: (head, body, test, a body that leaves before the tests are through)
    "python": ("def f(x):\n", "    return 2 * x\n", "def check(f):\n    assert f(2) == 4\ncheck(f)", "    exit(0)\n"),
    "js": ("const f = (x) => {\n", "  return 2 * x;\n}\n", "console.assert(f(2) === 4)\n", "  process.exit(0);\n}\n"),
    "java": (
        "import java.util.*;\nclass Solution {\n    public int f(int x) {\n",
        "        return 2 * x;\n    }\n}",
        "public class Main { public static void main(String[] a) {\n"
        "    List<Boolean> correct = Arrays.asList(new Solution().f(2) == 4);\n"
        "    if (correct.contains(false)) throw new AssertionError(); } }\n",
        "        System.exit(0); return 0;\n    }\n}",
    ),
    "cpp": (
        "#include<stdlib.h>\nint f(int x){\n",
        "    return 2 * x;\n}\n",
        "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (f(2) == 4);\n}\n",
        "    exit(0);\n}\n",
    ),
    "rust": (
        "fn main(){}\n\nuse std::cmp::max;\nuse rand::Rng;\nfn f(x:i32) -> i32{\n",
        "    max(2 * x, x)\n}\n",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n"
        "    fn test_f() {\n        assert_eq!(f(2), 4);\n    }\n}\n",
        "    std::process::exit(0)\n}\n",
    ),
    "go": (
        'import (\n    "math"\n)\n\nfunc f(x int) int {\n',
        "    return int(math.Abs(2 * float64(x)))\n}\n",
        "func TestF(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(4, f(2))\n}\n",
        "    panic(0)\n}\n",
    ),
}  # fmt: skip


def installed(language: str) -> bool:
    return code.missing(language) is None


def needs(language: str) -> Any:
    """A parameter that is skipped where the language's compiler or the sandbox is missing."""
    reason = "no sandbox" if sandbox.backend() is None else missing_tool(language)
    marks = [pytest.mark.skipif(reason is not None, reason=str(reason))]
    if language == "go":  # compiles its standard library for each program
        marks.append(pytest.mark.long)
    return pytest.param(language, marks=marks)


def double(language: str) -> Item:
    head, body, test, _ = DOUBLE[language]
    row = {
        "task_id": f"{language}/0", "prompt": head, "canonical_solution": body, "test": test, "declaration": head,
        "instruction": f"Write a {languages.LANGUAGES[language].name} function", "entry_point": "f",
        "test_setup": 'package main\n\nimport (\n    "testing"\n)\n',
    }  # fmt: skip
    return humanevalpack.parse(row, "file:1", language=language)


@pytest.mark.fault(
    "evaluation",
    "a right solution is mutated into a wrong one, in six languages",
    "right passes, wrong fails",
)
@pytest.mark.parametrize("language", [needs(language) for language in DOUBLE])
def test_right_wrong_and_leaving_early(language: str) -> None:
    task, item = TASKS[f"humanevalpack_{language}"], double(language)
    body, leave = DOUBLE[language][1], DOUBLE[language][3]
    right = task.base.program(f"\n{body}\nmore text", item)  # type: ignore[misc]
    told = task.chat.program(f"Here:\n```\n{item['prompt']}{body}```\nIt doubles.", item)  # type: ignore[misc]
    wrong = task.base.program("\n" + body.replace("2 * ", "3 * "), item)  # type: ignore[misc]
    left = task.base.program("\n" + leave, item)  # type: ignore[misc]
    few = [right, wrong] if language == "go" else [right, told, wrong, left, "no program at all"]
    wanted = [True, False] if language == "go" else [True, True, False, False, False]
    assert code.passes(few, language=language) == wanted


WRONG_CPP, WRONG_RUST = "int f(int x) { return 0; }\n", "fn f(x:i32) -> i32 { 0 }\n"
WRONG_JAVA = "class Solution { public int f(int x) { return 0; } }\n"
HIDING = {  # wrong replies that change what the tests behind them mean
    "a macro for assert": ("cpp", WRONG_CPP + "#include <assert.h>\n#undef assert\n#define assert(x) ((void)0)\n"),
    "asserts are off": ("cpp", WRONG_CPP + "#define NDEBUG\n"),
    "a macro for main": ("cpp", WRONG_CPP + "#define main other\nint main(int n, char **words) { return 0; }\n"),
    "a name that differs at each use": (
        "cpp",
        "#define JOIN(a, b) a##b\n#define NEXT(a, b) JOIN(a, b)\nstatic int t1() { return 0; }\n"
        "#define tests_of_item() NEXT(t, __COUNTER__)()\n" + WRONG_CPP,
    ),
    "a static object that leaves": ("cpp", "#include <cstdlib>\nstruct S { S() { exit(0); } } s;\n" + WRONG_CPP),
    "an open comment": ("cpp", "int f(int x) { return 2 * x; }\n/* and then"),
    "an open text": ("cpp", 'int f(int x) { return 2 * x; }\nconst char *s = "and then'),
    "a macro for assert_eq": ("rust", WRONG_RUST + "macro_rules! assert_eq { ($($t:tt)*) => {} }\n"),
    "a macro for panic": ("rust", WRONG_RUST + "macro_rules! panic { ($($t:tt)*) => {{}} }\n"),
    "a class Arrays": (
        "java",
        WRONG_JAVA + "class Arrays { static List<Boolean> asList(Object... x) { return new ArrayList<>(); } }\n",
    ),
    "a class AssertionError": (
        "java", WRONG_JAVA + "class AssertionError extends Error { AssertionError() { System.exit(0); } }\n",
    ),
    "a class Finish": ("java", WRONG_JAVA + "class Finish { public static void main(String[] a) { } }\n"),
    "a comment that is not closed": ("js", "const f = (x) => 2 * x;\n/* and then"),
    "another console.assert": ("js", "const f = (x) => 0;\nconsole.assert = () => {};\n"),
    "an exit code": ("js", "const f = (x) => 0;\nprocess.on('exit', () => { process.exitCode = 0; });\n"),
    "an init that leaves": ("go", "func init() { os.Exit(0) }\nfunc f(x int) int { return 0 }\n"),
}  # fmt: skip


@pytest.mark.fault(
    "evaluation",
    "macros, shadowing classes, static objects, init, open comments and texts stand before the tests",
    "fails, whatever they make of the tests",
)
@pytest.mark.parametrize(
    ("language", "reply"),
    [
        pytest.param(*needs(own).values, reply, marks=needs(own).marks, id=name)
        for name, (own, reply) in HIDING.items()
    ],
)
def test_what_gives_the_tests_another_meaning_fails(language: str, reply: str) -> None:
    task, item = TASKS[f"humanevalpack_{language}"], double(language)
    program = task.chat.program(f"```\n{reply}\n```", item)  # type: ignore[misc]
    assert code.passes([program], language=language) == [False]


BOMBS = {
    "a device without an end": '#include "/dev/zero"\n',
    "a file of the host's": '#include "/etc/shadow"\n',
    "templates": "template<int A, int B> struct X { static const int v = X<A-1, B*2>::v + X<A-1, B*2+1>::v; };\n"
    "template<int B> struct X<0, B> { static const int v = 1; };\nint g() { return X<30, 1>::v; }\n",
    "a table": "int g[1 << 28] = {1};\n",
}


@pytest.mark.fault(
    "evaluation",
    "a program makes its compiler read without end, read the host's files, or use all memory",
    "fails within its limits",
)
@pytest.mark.parametrize("language", [needs("cpp")])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_for_the_compiler_fails(name: str, language: str) -> None:
    """The function itself is right, so what includes or builds anything of the sort would pass."""
    task, item = TASKS["humanevalpack_cpp"], double("cpp")
    program = task.chat.program(f"```\n{BOMBS[name]}int f(int x) {{ return 2 * x; }}\n```", item)  # type: ignore[misc]
    began = time.monotonic()
    assert code.passes([program], 2, language) == [False]
    assert time.monotonic() - began < 5


@pytest.mark.fault(
    "evaluation", "the checker itself could be wrong: the sets' own solutions in six languages", "all pass"
)
@pytest.mark.shared
@pytest.mark.parametrize("language", [needs(language) for language in DOUBLE])
def test_canonical_solutions_pass(shared: Path, language: str) -> None:
    task = TASKS[f"humanevalpack_{language}"]
    items = sets.load(task, shared / "data" / "eval").items
    good = [item for item in items if "left_out" not in item]
    assert len(good) >= 80
    longer = [item for item in good if item["id"] in WITH_HELPERS]
    alone = [item for item in good if item not in longer]
    alone.sort(key=lambda item: item["id"] != FIRST.get(language))  # stable
    alone = alone[: TRIED[language]]
    programs = [task.base.program(task.base.answer(item), item) for item in alone]  # type: ignore[misc]
    programs += [task.chat.program(task.chat.answer(item), item) for item in longer]  # type: ignore[misc]
    assert code.passes(programs, language=language) == [True] * len(programs)


def test_a_function_of_any_type_is_found_in_a_reply() -> None:
    """Else the reply would be taken for the body of the prompt's function."""
    task, item = TASKS["humanevalpack_rust"], double("rust")
    reply = "```rust\nfn f<'a, T: Copy>(x: &'a T) -> T { *x }\n```"
    made = task.chat.program(reply, item)  # type: ignore[misc]
    assert made.count("fn f") == 1 and "fn f<'a, T: Copy>(x: &'a T) -> T { *x }" in made


@pytest.mark.shared
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_canonical_solutions_of_the_python_sets_pass(shared: Path, name: str) -> None:
    """By the chat models' path: the released rule for base models cuts a solution at its first blank line."""
    if (reason := code.missing("python")) is not None:
        pytest.skip(reason)
    task = TASKS[name]
    items = [i for i in sets.load(task, shared / "data" / "eval").items if i["split"] == "test"][::9]
    programs = [task.chat.program(task.chat.answer(item), item) for item in items]  # type: ignore[misc]
    rights = code.passes(programs)
    assert len(items) >= 10 and [item["id"] for item, right in zip(items, rights) if not right] == []


@pytest.mark.parametrize(
    ("text", "language", "kept"),
    [
        ("\n    return 1\n\nprint(2)", "python", "\n    return 1\n"),
        ("\n  if (x) { y }\n}\nz()", "js", "\n  if (x) { y }\n}"),
        ("\n  a;\n }\n}\nclass X {}", "java", "\n  a;\n }\n}"),
        ("\n  a;\n }", "java", "\n  a;\n }\n}"),
        ("\n  { never", "cpp", "\n  { never"),
    ],
)
def test_functions_end_where_they_close(text: str, language: str, kept: str) -> None:
    assert humanevalpack.cut(text, language) == kept


def test_a_go_program_imports_what_its_code_names_and_nothing_that_a_comment_or_text_does() -> None:
    item = {**double("go"), "prompt": "// A list of strings. /* sort.\nfunc f(x int) string {\n"}
    code = TASKS["humanevalpack_go"].base.program(  # type: ignore[misc]
        '    /* time.Now\n */ return strconv.Itoa(x) + "errors. \\" unicode. //" + `math.`\n}\n', item
    )
    head = code[: code.index(")")]
    assert '"strconv"' in head and '"reflect"' in head and '"testing"' in head
    assert not any(f'"{name}"' in head for name in ("strings", "sort", "time", "errors", "unicode", "math"))


def test_items_that_need_more_than_the_standard_library_are_left_out_and_said() -> None:
    item = humanevalpack.parse(
        {
            "task_id": "Rust/9", "prompt": "use rand::Rng;\nfn f(){", "canonical_solution": "}", "declaration": "",
            "test": "let r = rand::thread_rng();", "instruction": "", "entry_point": "f",
        },
        "file:1", language="rust",
    )  # fmt: skip
    assert item["left_out"] == "needs rand" and "left_out" not in double("rust")


def test_a_missing_compiler_is_a_reason_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "backend", lambda: "bwrap")
    monkeypatch.setattr(sandbox, "missing_tool", lambda language: "go is not installed")
    assert code.missing("go") == "go is not installed"
    subject = Subject("m", "base", SimpleNamespace(), TOKENIZER, "w", 4000)
    assert evaluate(subject, TASKS["humanevalpack_go"], [double("go")], 0, limit=1) is None
