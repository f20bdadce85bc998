"""What comes from others: libraries by lower bounds, no web files, no code that data could become."""

from __future__ import annotations

import ast
import platform
import re
import tomllib
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "openqwen"
NEWEST = ROOT / "docs" / "tested-versions.txt"
PAGES = sorted(path for path in PACKAGE.rglob("page/*") if path.suffix in {".js", ".css", ".html", ".svg"})
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML"}
# The one place where text becomes code, and it runs in the sandbox alone.
INTERPRETER = PACKAGE / "sandbox" / "inside.py"


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_library_has_a_lower_bound_and_no_upper_one_but_for_antlr() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for line in (line for group in groups for line in group if not line.startswith("openqwen")):
        requirement = Requirement(line)
        bounds = {specifier.operator for specifier in requirement.specifier}
        # sympy reads LaTeX by a grammar made for one version of antlr's runtime, and by no later one.
        assert bounds == ({">=", "<"} if requirement.name == "antlr4-python3-runtime" else {">="}), line


def libraries() -> list[Requirement]:
    """All that pyproject.toml names and that this platform takes, but `hub`, for which the tests have a double."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(lines for name, lines in extras.items() if name != "hub")]
    found = [Requirement(line) for group in groups for line in group if not line.startswith("openqwen")]
    return [each for each in found if each.marker is None or each.marker.evaluate()]


def test_the_newest_versions_that_all_tests_passed_with_are_on_record() -> None:
    """`python tests/faults/test_supply_chain.py` writes them after a run of all tests."""
    lines = NEWEST.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"# Python 3\.\d+\.\d+, Linux, 20\d\d-\d\d-\d\d", lines[0])
    tested = {name.lower(): version for name, version in (line.split("==") for line in lines[1:])}
    for each in libraries():
        assert each.name.lower() in tested, f"{each.name} is in no tested set"
        assert each.specifier.contains(tested[each.name.lower()], prereleases=True), each


def write_newest() -> None:
    names = sorted({each.name for each in libraries()}, key=str.lower)
    head = f"# Python {platform.python_version()}, {platform.system()}, {date.today()}"
    # A build's own mark (+cpu) is no version of the library.
    lines = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    NEWEST.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def test_no_text_becomes_code() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path != INTERPRETER
        for name, call in calls(path)
        if name in {"eval", "exec", "compile", "os.system", "marshal.loads", "runpy.run_path"}
        or any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in call.keywords)
        or any(
            word.arg == "trust_remote_code" and ast.unparse(word.value) != "False" for word in call.keywords
        )
    }
    assert found == set()


def test_no_server_listens_to_the_world_unasked() -> None:
    """The word for all interfaces stands in no default: whoever wants it says it."""
    found = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for default in [*node.args.defaults, *node.args.kw_defaults]
        if isinstance(default, ast.Constant) and default.value in {"0.0.0.0", "::"}
    ]
    assert found == []


def test_web_files_are_our_own_and_name_no_other_host() -> None:
    """Nothing is vendored, so there are no versions, licences or hashes to keep: no library, nothing minified."""
    assert len(PAGES) > 20
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"'`)<]+", text)) <= NAMESPACES, path
        assert max(map(len, text.splitlines())) < 400, f"{path} is minified"
        assert not re.search(r"sourceMappingURL|@license|copyright", text, re.I), path


if __name__ == "__main__":
    write_newest()
