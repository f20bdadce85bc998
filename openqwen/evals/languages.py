"""The six languages of HumanEvalPack: how a program, its tests and the end of a run are put together.

Report §4.3, Table 11. Time limits are those of the set's own scorer, longer for Java and Go, whose compilers
find nothing prepared in the sandbox. Ours: a compiled or JavaScript program gets a main that calls the
tests and then prints a number drawn for the run; a Python program's tests run in a process of their own (code.py).
In the others a program stands before its tests: what it could give another meaning to there (macros, classes) is named
in a way that it cannot.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """name: as people write it. seconds: for compiling and running. finish: (program with tests, mark, failing).

    finish is None where tests run in a process of their own.
    """

    name: str
    seconds: float
    memory_mb: int
    finish: Callable[[str, str, bool], str] | None


# Between a Python program and its tests, which run in a process of their own.
SEAM = "# ---- tests ----"


def apart(program: str, tests: str) -> str:
    """A Python program and its tests as one text; the last SEAM divides them."""
    return f"{program}\n\n{SEAM}\n{tests}\n"


def given(prompt: str, entry_point: str) -> str:
    """What a Python prompt defines and imports beside the tested function, which the tests must not get from a program.

    Nothing where the prompt is no whole function head: then there are no lines before it either that could be read.
    """
    try:
        tree = ast.parse(f"{prompt}\n    pass\n")
    except SyntaxError:
        return ""
    return "\n".join(ast.unparse(node) for node in tree.body if getattr(node, "name", None) != entry_point)


def _javascript(program: str, mark: str, failing: bool) -> str:
    fail = 'throw new Error("failing test");' if failing else ""
    return f"{program}\n{fail}\nconsole.log('\\n{mark}');\n"


# A class of the program by one of these names does not compile beside these imports; it would be taken in the tests.
_JAVA_NAMES = (
    "lang.AssertionError", "lang.Boolean", "lang.Character", "lang.Double", "lang.Integer", "lang.Long", "lang.Math",
    "lang.Object", "lang.String", "lang.System", "util.ArrayList", "util.Arrays", "util.Collections", "util.HashMap",
    "util.List", "util.Map", "util.Objects", "util.Optional",
)  # fmt: skip


def _java(program: str, mark: str, failing: bool) -> str:
    fail = "if (true) throw new AssertionError();" if failing else ""
    imports = " ".join(f"import java.{name};" for name in _JAVA_NAMES)
    return (
        f"{imports}\n{program}\nclass Finish {{ public static void main(String[] arguments) throws Exception {{\n"
        f'Main.main(arguments); {fail}\nSystem.out.println("\\n{mark}"); }} }}\n'
    )


def _cpp(program: str, mark: str, failing: bool) -> str:
    fail = "std::abort();" if failing else ""
    # Unknown to the program's macros, as the mark is; not the mark itself, which a failed assertion would print.
    name = f"tests_{hashlib.sha256(mark.encode()).hexdigest()[:16]}"
    tests = re.sub(r"\bint\s+main\s*\(\s*(?:void)?\s*\)", f"static int {name}()", program)
    return (
        f"#include <cstdio>\n#include <cstdlib>\n{tests}\nint main() {{ {name}(); {fail}\n"
        f'std::printf("\\n{mark}\\n"); return 0; }}\n'
    )


def _go(program: str, mark: str, failing: bool) -> str:
    fail = 'panic("failing test")' if failing else ""
    calls = "\n".join(f"{name}(nil)" for name in re.findall(r"^func (Test\w+)\(", program, re.MULTILINE))
    return f'{program}\nfunc main() {{\n{calls}\n{fail}\nfmt.Println("\\n{mark}")\n}}\n'


def _rust(program: str, mark: str, failing: bool) -> str:
    fail = 'panic!("failing test");' if failing else ""
    bare = re.sub(r"#\[cfg\(test\)\]|#\[test\]", "", re.sub(r"^\s*fn main\(\)\s*\{\s*\}", "", program))
    calls = " ".join(f"tests::{name}();" for name in re.findall(r"fn (test\w*)\(\)", bare))
    own, start, tests = bare.rpartition("mod tests")
    # By their full names: the program's macros of the same name are not taken.
    tests = re.sub(r"(?<![\w:])(assert|assert_eq|assert_ne|panic|vec)!", r"::std::\1!", tests)
    opened = re.sub(r"fn (test\w*)\(\)", r"pub fn \1()", own + start + tests)
    return f'{opened}\nfn main() {{ {calls} {fail} println!("\\n{mark}"); }}\n'


LANGUAGES: dict[str, Form] = {
    "python": Form("Python", 10, 512, None),
    "js": Form("JavaScript", 10, 1024, _javascript),
    "java": Form("Java", 30, 2048, _java),
    "go": Form("Go", 180, 2048, _go),
    "cpp": Form("C++", 60, 1024, _cpp),
    "rust": Form("Rust", 300, 2048, _rust),
}
