"""The six languages of HumanEvalPack: how a program, its tests and the end of a run are put together.

Report §4.3, Table 11. Time limits are those of the set's own scorer, longer for Java and Go, whose compilers
find nothing prepared in the sandbox. Ours: every program gets a main that calls the
tests and then prints a number drawn for the run, so that one rule of passing holds for all (code.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """name: as people write it. seconds: for compiling and running. finish: (program with tests, mark, failing)."""

    name: str
    seconds: float
    memory_mb: int
    finish: Callable[[str, str, bool], str]


# Between a completion and its tests: what a tested function returns must compare as Python's own types do.
_GUARD = """
def _guarded(function, kind=type, check=isinstance, own=globals()):
    def plain(value, depth=0):
        compare = getattr(kind(value), "__eq__", None)
        if getattr(compare, "__globals__", None) is own or getattr(compare, "__module__", None) == "__main__":
            raise AssertionError("the result decides itself what it equals")
        if depth < 6 and check(value, (list, tuple, set, frozenset)):
            for part in value:
                plain(part, depth + 1)
        if depth < 6 and check(value, dict):
            for key in value:
                plain(key, depth + 1)
                plain(value[key], depth + 1)
        return value
    def guarded(*given, **named):
        return plain(function(*given, **named))
    return guarded if kind(function) is kind(lambda: 0) else function
"""


def guard(names: Iterable[str]) -> str:
    """Python that makes the named functions, where they are functions, return plain results or fail."""
    lines = [f"if {name!r} in globals(): {name} = _guarded({name})" for name in dict.fromkeys(names)]
    return "\n".join([_GUARD, *lines, ""])


def _python(program: str, mark: str, failing: bool) -> str:
    return f"{program}\n{'assert False' if failing else ''}\nprint('\\n{mark}')\n"


def _javascript(program: str, mark: str, failing: bool) -> str:
    fail = 'throw new Error("failing test");' if failing else ""
    return f"{program}\n{fail}\nconsole.log('\\n{mark}');\n"


def _java(program: str, mark: str, failing: bool) -> str:
    fail = "if (true) throw new AssertionError();" if failing else ""
    return (
        f"{program}\nclass Finish {{ public static void main(String[] arguments) throws Exception {{\n"
        f'Main.main(arguments); {fail}\nSystem.out.println("\\n{mark}"); }} }}\n'
    )


def _cpp(program: str, mark: str, failing: bool) -> str:
    fail = "std::abort();" if failing else ""
    tests = re.sub(r"\bint\s+main\s*\(\s*(?:void)?\s*\)", "static int tests_of_item()", program)
    return (
        f"#include <cstdio>\n#include <cstdlib>\n{tests}\nint main() {{ tests_of_item(); {fail}\n"
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
    opened = re.sub(r"fn (test\w*)\(\)", r"pub fn \1()", bare)
    return f'{opened}\nfn main() {{ {calls} {fail} println!("\\n{mark}"); }}\n'


LANGUAGES: dict[str, Form] = {
    "python": Form("Python", 10, 512, _python),
    "js": Form("JavaScript", 10, 1024, _javascript),
    "java": Form("Java", 30, 2048, _java),
    "go": Form("Go", 180, 2048, _go),
    "cpp": Form("C++", 60, 1024, _cpp),
    "rust": Form("Rust", 300, 2048, _rust),
}
