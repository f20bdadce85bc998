"""Programming languages by the endings of file names, and how each begins a comment. Ours."""

from __future__ import annotations

from pathlib import PurePosixPath

from openqwen.data.sources.files import LANGUAGES

# Endings that only repositories have, not documents that people collect.
_MORE = {
    "javascript": (".mjs", ".cjs"), "cpp": (".cxx", ".hh", ".hxx"), "shell": (".bash",), "perl": (".pm",),
    "ocaml": (".mli",), "elixir": (".exs",),
}  # fmt: skip
BY_ENDING = {
    ending: name for table in (LANGUAGES, _MORE) for name, endings in table.items() for ending in endings
}
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
