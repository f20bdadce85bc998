"""Programming languages by the endings of file names, and how each begins a comment. Ours."""

from __future__ import annotations

from pathlib import PurePosixPath

_ENDINGS = {
    "python": ".py .pyi",
    "javascript": ".js .jsx .mjs .cjs",
    "typescript": ".ts .tsx",
    "java": ".java",
    "c": ".c .h",
    "cpp": ".cc .cpp .cxx .hpp .hh .hxx",
    "csharp": ".cs",
    "go": ".go",
    "rust": ".rs",
    "ruby": ".rb",
    "php": ".php",
    "swift": ".swift",
    "kotlin": ".kt",
    "scala": ".scala",
    "shell": ".sh .bash",
    "sql": ".sql",
    "r": ".r",
    "julia": ".jl",
    "lua": ".lua",
    "perl": ".pl .pm",
    "haskell": ".hs",
    "ocaml": ".ml .mli",
    "elixir": ".ex .exs",
    "erlang": ".erl",
    "clojure": ".clj",
    "dart": ".dart",
    "objective-c": ".m .mm",
    "fortran": ".f90",
    "zig": ".zig",
    "nim": ".nim",
    "css": ".css",
}
BY_ENDING = {ending: name for name, endings in _ENDINGS.items() for ending in endings.split()}
_COMMENTS = {
    "#": "python ruby shell r julia perl elixir nim",
    "--": "sql lua haskell",
    "%": "erlang",
    ";": "clojure",
    "!": "fortran",
    "/*": "css",
    "(*": "ocaml",
}
_BY_LANGUAGE = {name: mark for mark, names in _COMMENTS.items() for name in names.split()}
_CLOSED = {"/*": " */", "(*": " *)"}


def language_of(path: str) -> str | None:
    """The language of a file by its name; None if it is no program's."""
    return BY_ENDING.get(PurePosixPath(path).suffix.lower())


def comment(language: str, words: str) -> str:
    """A line of comment."""
    mark = _BY_LANGUAGE.get(language, "//")
    return f"{mark} {words}{_CLOSED.get(mark, '')}"
