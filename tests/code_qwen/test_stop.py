"""Completions end where the line, block, function or file ends, however they arrive."""

from __future__ import annotations

import ast
import gzip
import io
import json
import random
import sysconfig
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.code_qwen.lexer import FORMS, Lexer
from openqwen.code_qwen.stop import RULES, Rule, StopRule
from openqwen.core.errors import UsageError

# rule, language, before the cursor, completion up to its end, what the model went on with
CASES: list[tuple[Rule, str, str, str, str]] = [
    ("function", "python", "def f(x):\n", "    return 1", "\n\n\ndef g():\n    pass\n"),
    ("function", "python", "def f(x):", "\n    y = 1\n# aside\n    return y", "\n# next\n\n@g\ndef h(): pass"),
    ("function", "python", "def f(x):\n", "    '''odd\nlines\n'''\n    return (\n1)", "\nx = 1"),
    ("function", "python", "def f(x):\n", "    @g\n    def h():\n        pass\n\n    return h", "\n@g\nclass A: ..."),
    ("function", "python", "class A:\n    def f(self):\n", "        return 1", "\n\n    def g(self): ...\n"),
    ("function", "python", "class A:\n    def f(self): return 1\n", "    def g(self):\n        2", "\n    x = 1\n"),
    ("function", "python", "x = 1\n", "import os\ndef g(): return 1", "\ny = 2\n"),
    ("function", "python", "def f():\n    def g(", "a):\n        return a", "\n    return g\n"),
    ("function", "python", "def f():\n    x = [", "1,\n2]\n    \\\nx", "\ny"),
    ("function", "python", "async def f():\n\tif x:\n", "\t\ty\n\telse: z", "\n\nprint()"),
    ("block", "python", "def f(x):\n    for i in x:\n", "        a\n\n        b", "\n    c\n"),
    ("block", "python", "def f(x):\n    for i in ", "x:\n        a\n        b", "\n    c\n"),
    ("block", "python", "def f(x):\n    a\n", "    b\n    if c:\n        d", "\ne\n"),
    ("block", "python", "", "for x in y:\n    pass\nelse:\n    z", "\n\n# next\nprint(1)\n"),
    ("function", "javascript", "on('/', (q) => {\n", "  r(`a${q ? '}' : `{`}`); // }\n  /[}/]/.test(q)\n});", "\nf()"),
    ("function", "javascript", "function f({a, b} = {}) {\n", "  if (a) { return {b} }\n  return '}'\n}", "\n\nf()"),
    ("function", "typescript", "class A {\n", "  f(a: {b: string}): Promise<void> {\n    a / b; c / d\n  }", "\n  g()"),
    ("function", "java", "class A {\n", '  int f() { char c = \'}\'; String s = """\n  }"\n"""; return 1; }', "\n }"),
    ("function", "java", "record P(int x) {\n", "  P f() { return new P(1) { int g() { return 2; } }; }", "\n int h()"),
    ("function", "cpp", "int f(\n  int x)\n{\n", 'auto s = R"a(})")a"; int n = 1\'000; // }\nif (n) { \'}\'; }\n}', "\n"),
    ("function", "c", "#define A(x) {\nint f(int x) {\n", "#define B }\n  return /* } */ x;\n}", "\nint g() {}"),
    ("function", "go", "func f(a any, b struct{}) interface{} {\n", "s := `}` + \"\\\"}\"\ng(func() { b }, '}')\n}", "\n"),
    ("function", "rust", "fn f<'a>(x: &'a str) {\n", "let c = '}'; let s = r#\"\"}\"#; /* /* } */ } */\n'\\''\n}", "\nfn g"),
    ("function", "csharp", "class A {\n", '  void F() { var s = @"\\""}"; }', "\n  void G() {}"),
    ("block", "java", "class A { void f() { if (x) {\n", "  a();\n}", " else { b(); } } }"),
    ("block", "c", "", "int x[] = {1, 2};", "\nint y;"),
    ("line", "python", "def f(x):", "\n    return 1", "\n    x"),
    ("line", "python", "x = ", "1", "\ny = 2"),
    ("file", "python", "# a.py\n", "# b.py is next\nimport x\n\n# foo\ny = 1", "\n\n\n// b/c.js\nzz\n"),
    ("file", "python", "# a.py\nx\n\n", "y", "\n\n/* a.css */\n"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[3][:12]!r}")
def test_where_completions_end(case: tuple[Rule, str, str, str, str]) -> None:
    rule, language, before, wanted, more = case
    made = StopRule(rule, language, before)
    first = made.start()
    assert first.cut(wanted + more) == wanted and first.ended
    assert made.start().cut(wanted + more) == wanted  # the first one has left no trace


def test_what_never_ends_is_passed_on_whole() -> None:
    text = "    return 1\n\n# so far\n"
    rule = StopRule("function", "python", "def f():\n")
    assert rule.cut(text) == text and not rule.ended


def test_languages_whose_functions_are_not_known_are_refused() -> None:
    with pytest.raises(UsageError, match="not known in perl"):
        StopRule("function", "perl")
    with pytest.raises(UsageError, match="not known in a file of no language"):
        StopRule("block")
    with pytest.raises(UsageError, match="no stop rule"):
        StopRule("paragraph")  # type: ignore[arg-type]
    assert StopRule("line", "perl").cut("a\nb") == "a"


WORDS = [
    "def f(x):", "class A:", "@g", "fn f()", "func f()", "if (x)", "=>", "x", "\n", "\n", "    ", "\t", "{", "}", "(", ")",
    "[", "]", ";", ",", '"', "'", '"""', "'''", "`", "${", "#", "//", "/*", "*/", "/", "\\", 'R"a(', ')a"', 'r#"', '"#',
    "'a", '@"', "# a.py", "return", "1", "é", "\f", "\r",
]  # fmt: skip
programs = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)


@given(
    st.sampled_from(RULES),
    st.sampled_from(sorted(FORMS)),
    programs,
    programs,
    st.randoms(use_true_random=False),
)
def test_any_cut_of_a_completion_gives_the_same_beginning_of_it(
    rule: Rule, language: str, before: str, text: str, chance: random.Random
) -> None:
    made = StopRule(rule, language, before)
    whole = made.start().cut(text)
    assert text.startswith(whole)
    for size in (1, chance.randint(1, 9)):
        stream, passed = made.start(), ""
        for place in range(0, len(text), size):
            passed += stream.push(text[place : place + size])
            assert whole.startswith(passed)
        assert passed + stream.finish() == whole
    again = made.start()
    assert again.cut(whole) == whole  # what was cut needs no second cut


@given(st.sampled_from(sorted(FORMS)), programs, st.integers(1, 5))
def test_any_text_is_cut_into_pieces_that_make_it_up(language: str, text: str, size: int) -> None:
    whole = list(Lexer(language).feed(text, final=True))
    assert "".join(piece for _, piece in whole) == text
    lexer, pieces = Lexer(language), []
    for place in range(0, len(text), size):
        pieces += lexer.feed(text[place : place + size])
    pieces += lexer.feed("", final=True)
    kinds = [kind for kind, piece in whole for _ in piece]
    assert [kind for kind, piece in pieces for _ in piece] == kinds


@pytest.mark.parametrize(
    "name", ["textwrap.py", "bisect.py", "dataclasses.py", "json/decoder.py", "heapq.py"]
)
def test_functions_of_the_standard_library_end_where_its_own_parser_ends_them(name: str) -> None:
    text = Path(sysconfig.get_paths()["stdlib"], name).read_text(encoding="utf-8")
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    functions = [
        (starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_col_offset
    ]
    no_code = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    code = [
        (starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1])
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in no_code
    ]
    chance = random.Random(name)
    for _ in range(12):
        first, last = chance.choice(functions)
        cursor = chance.randrange(first + 4, last)
        if chance.random() < 0.5:
            cursor = max(first + 4, text.rfind("\n", 0, cursor) + 1)
        following = next(max(cursor, start) for start, end in code if end > cursor)
        end = max((f for f in functions if f[0] < cursor and following < f[1]), default=(0, 0))[1]
        if end:  # else what follows the cursor is another function's
            found = StopRule("function", "python", text[:cursor]).cut(text[cursor:])
            more = found.removeprefix(text[cursor:end])
            assert not more.strip() or more.strip().startswith("#"), (cursor, found)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("python", "python"),
        ("js", "javascript"),
        ("java", "java"),
        ("go", "go"),
        ("cpp", "cpp"),
        ("rust", "rust"),
    ],
)
def test_solutions_of_humanevalpack_end_where_the_set_ends_them(
    shared: Path, name: str, language: str
) -> None:
    """Each solution with the next item's program behind it; those with a second function are left out."""
    with gzip.open(
        shared / "data" / "eval" / "humanevalpack" / f"{name}.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        items = [json.loads(line) for line in lines]
    right = single = 0
    for item, after in zip(items, [*items[1:], items[0]]):
        solution = item["canonical_solution"].rstrip()
        if language == "java":
            solution = solution.removesuffix("}").rstrip()  # of the class
        rule = StopRule("function", language, item["prompt"])
        found = rule.cut(f"{solution}\n\n{after['prompt']}")
        single += solution.startswith(found)
        right += found == solution
    assert right >= 0.97 * len(items) and single == len(items)
