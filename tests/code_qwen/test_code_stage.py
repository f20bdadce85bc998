"""Repositories become documents; every file is accounted for, whatever lies in them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from openqwen.cli import main
from openqwen.code_qwen.config import RepositoriesConfig
from openqwen.code_qwen.find import repositories
from openqwen.core.artifact import load
from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_jsonl_zst
from openqwen.data.documents import Bad

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy. WITHOUT WARRANTY OF ANY KIND\n"
HELP = '''"""Sums of lists."""


def total(values):
    """The sum of all values."""
    result = 0
    for value in values:
        result += value
    return result


def largest(values):
    \"\"\"The greatest of all values; the first one where there are several, an error where there is none.\"\"\"
    found = None
    for value in values:
        if found is None or value > found:
            found = value
    if found is None:
        raise ValueError("no values were given to choose from")
    return found
'''
MAIN = '''"""Prints a mean of numbers."""
from help import total


def mean(values):
    # written by bob.smith@corp.io
    return total(values) / len(values)
'''


def tree(root: Path, files: dict[str, str | bytes], git: bool = True) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if git:
        (root / ".git").mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two checkouts; the second has a copy of the first one's module, and much that is not wanted."""
    root = tmp_path / "code"
    tree(root / "one", {"LICENSE": MIT, "main.py": MAIN, "help.py": HELP, "README.md": "# one\n"})
    tree(
        root / "two",
        {
            "COPYING": MIT,
            "src/copied.py": HELP,
            "src/near.py": HELP.replace("The sum of all values.", "The sum of these."),
            "src/other.go": "package other\n\n// Twice doubles a number that it is given by whoever calls it.\n"
            "func Twice(n int) int {\n\treturn 2 * n\n}\n",
            "src/api_pb2.py": "x = 1\n",
            "vendor/lib/x.py": "def vendored():\n    return 1\n",
            "gpl/COPYING": "GNU GENERAL PUBLIC LICENSE Version 3",
            "gpl/free.py": "def copyleft():\n    return 'yes'\n",
            "app.min.js": "var a=1\n",
            "blob.c": b"\x7fELF" + bytes(200),
            "big.py": "x = 1\n" * 300_000,
            "empty.py": "\n\n",
            "gb.py": "# 中文注释：这个文件用的是国标编码，而不是统一码。\nvalue = '很好'\n".encode("gb18030"),
            ".gitmodules": '[submodule "dep"]\n\tpath = dep\n\turl = https://host.invalid/dep\n',
        },
    )
    return root


def run(root: Path, out: Path, *words: str) -> dict[str, dict]:
    assert main(["data", "code", "--input", str(root), "--out", str(out), *words]) == 0
    lines = map(json.loads, (out / "files.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["id"]: line for line in lines}


def test_each_file_is_kept_or_dropped_with_its_reason(two: Path, tmp_path: Path) -> None:
    files = run(two, tmp_path / "out")
    reasons = {name: line.get("reason", "") for name, line in files.items()}
    assert reasons == {
        "one:main.py": "",
        "one:help.py": "",
        "two:src/copied.py": "exact duplicate",
        "two:src/near.py": "near duplicate",
        "two:src/other.go": "",
        "two:src/api_pb2.py": "generated",
        "two:vendor/lib/x.py": "vendored",
        "two:gpl/free.py": "licence",
        "two:app.min.js": "minified or data",
        "two:big.py": "too large",
        "two:empty.py": "empty",
        "two:gb.py": "",
    }
    assert files["two:gpl/free.py"]["detail"] == "GPL-3.0" and files["one:main.py"]["secrets"] == {"email": 1}
    assert files["two:src/copied.py"]["detail"] == "of one:help.py"
    facts = load(tmp_path / "out", "code").manifest["facts"]
    assert facts["kept"] == 4 and facts["kept"] + sum(facts["dropped"].values()) == facts["files"] == 12
    assert facts["skipped"] == {"binary file": 1}
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8")
    assert "submodule that is not checked out" in skipped and "blob.c" in skipped


def test_documents_are_repositories_with_what_is_imported_first(two: Path, tmp_path: Path) -> None:
    run(two, tmp_path / "out")
    documents = list(read_jsonl_zst(tmp_path / "out" / "documents.jsonl.zst"))
    first = documents[0]
    assert (
        first["files"] == ["help.py", "main.py"]
        and first["source"] == "code"
        and first["licences"] == ["MIT"]
    )
    assert first["text"] == f"# help.py\n{HELP}\n# main.py\n{MAIN.replace('bob.smith@corp.io', '<EMAIL>')}"
    assert "中文注释" in documents[1]["text"] and "// src/other.go" in documents[1]["text"]
    run(two, tmp_path / "single", "--join", "false")
    single = list(read_jsonl_zst(tmp_path / "single" / "documents.jsonl.zst"))
    assert [d["id"] for d in single][:2] == ["one:help.py", "one:main.py"] and single[0]["text"] == HELP
    run(two, tmp_path / "short", "--max-characters", "500")
    assert next(d["files"] for d in read_jsonl_zst(tmp_path / "short" / "documents.jsonl.zst")) == ["help.py"]


def test_a_document_is_no_longer_than_asked_unless_one_file_is(tmp_path: Path) -> None:
    words = ("alpha", "beta", "gamma", "delta")
    files = {f"{word}.py": f"def {word}():\n" + f"    {word} = '{word}'\n" * 20 for word in words}
    root = tree(tmp_path / "r", {"LICENSE": MIT, **files})
    sizes = {name: len(text) for name, text in files.items()}
    limit = sizes["alpha.py"] + sizes["beta.py"]
    run(root, tmp_path / "out", "--max-characters", str(limit), "--dedup.fuzzy", "false")
    parts = [d["files"] for d in read_jsonl_zst(tmp_path / "out" / "documents.jsonl.zst")]
    assert sorted(name for part in parts for name in part) == sorted(files) and parts[0] == [
        "alpha.py",
        "beta.py",
    ]
    assert all(len(part) == 1 or sum(sizes[name] for name in part) <= limit for part in parts)


def test_documents_go_into_a_corpus_with_text(two: Path, tmp_path: Path) -> None:
    run(two, tmp_path / "out", "--join", "false")
    words = [
        "data",
        "build",
        "--input",
        str(tmp_path / "out" / "documents.jsonl.zst"),
        "--out",
        str(tmp_path / "corpus"),
    ]
    assert main([*words, "--quality.lm", "false", "--language.keep", "[]", "--valid-fraction", "0"]) == 0
    assert load(tmp_path / "corpus", "corpus").manifest["facts"]["documents"] >= 3


def test_files_that_overlap_with_a_benchmark_are_dropped(two: Path, tmp_path: Path) -> None:
    item = {
        "task_id": "HumanEval/1",
        "prompt": "def total(values):\n",
        "canonical_solution": HELP.split("values):\n")[1],
    }
    bench = tmp_path / "HumanEval.jsonl"
    bench.write_text(json.dumps(item) + "\n", encoding="utf-8")
    files = run(two, tmp_path / "out", "--decontaminate.benchmarks", json.dumps([str(bench)]))
    assert files["one:help.py"]["reason"].startswith("overlap with")
    assert "HumanEval" in files["one:help.py"]["detail"] and files["one:main.py"].get("reason") is None


def test_the_same_bytes_again(two: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(two, tmp_path / name)
    assert (tmp_path / "a" / "documents.jsonl.zst").read_bytes() == (
        tmp_path / "b" / "documents.jsonl.zst"
    ).read_bytes()


@pytest.mark.fault(
    "data", "a repository holds links round in circles and out of it", "none is followed, each is named"
)
def test_links_are_not_followed(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", {"LICENSE": MIT, "a.py": HELP})
    outside = tmp_path / "secret.py"
    outside.write_text("password = 1\n", encoding="utf-8")
    os.symlink(root, root / "loop")
    os.symlink(outside, root / "b.py")
    os.symlink(root / "nowhere.py", root / "c.py")
    files = run(root, tmp_path / "out")
    assert list(files) == ["r:a.py"]
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8")
    assert all(words in skipped for words in ("link to a folder", "link out of the folder", "broken link"))


@pytest.mark.fault(
    "data",
    "names that are no UTF-8 or hold line ends, old line ends, submodules that lead out",
    "each file is read under a name of one line; the submodule is named",
)
def test_odd_names_and_line_ends(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", {"LICENSE": MIT, "a.py": HELP.replace("\n", "\r"), "b\nc.py": MAIN})
    Path(os.fsdecode(os.fsencode(root) + b"/d\xff.py")).write_text(
        "def found():\n    return True\n", encoding="utf-8"
    )
    (root / ".gitmodules").write_text(
        "[submodule]\npath = /etc\n[submodule]\npath = ../x\n", encoding="utf-8"
    )
    files = run(root, tmp_path / "out", "--dedup.fuzzy", "false")
    assert set(files) == {"r:a.py", "r:b\\nc.py", "r:d\\udcff.py"}
    text = "".join(d["text"] for d in read_jsonl_zst(tmp_path / "out" / "documents.jsonl.zst"))
    assert "# b\\nc.py\n" in text and "\r" not in text and HELP in text
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf-8")
    assert skipped.count("submodule that is not checked out") == 2


def test_a_licence_in_a_hidden_folder_is_that_folder_s(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", {".lib/LICENSE": MIT, ".lib/a.py": HELP, "lib/b.py": MAIN})
    files = run(root, tmp_path / "out")
    assert files["r:.lib/a.py"]["licence"] == "MIT" and files["r:lib/b.py"]["licence"] is None


def test_which_folders_are_repositories(tmp_path: Path) -> None:
    bad = Bad(1.0)
    plain = tree(tmp_path / "plain", {"a/x.py": HELP, "b/y.py": HELP}, git=False)
    assert [r.name for r in repositories(plain)] == ["a", "b"]
    tree(plain, {"LICENSE": MIT}, git=False)
    assert [r.name for r in repositories(plain)] == ["plain"]
    nested = tree(tmp_path / "nested", {"x.py": HELP})
    tree(nested / "inner", {"y.py": HELP})
    found = repositories(nested)
    assert [r.name for r in found] == ["nested", "inner"]
    assert [path for path, _ in found[0].files(bad)] == ["x.py"]
    with pytest.raises(DataError, match="no folder of programs"):
        repositories(tmp_path / "missing")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        repositories(tmp_path / "void")


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "r", {"a.py": HELP})
    assert main(["data", "code", "--input", str(root), "--out", str(tmp_path / "out")]) == 4
    said = capsys.readouterr().err
    assert "all 1 programs were dropped: licence 1" in said and "--licences" in said
    assert run(root, tmp_path / "out", "--licences", "[]")["r:a.py"]["licence"] is None


@pytest.mark.shared
def test_real_code(shared: Path, tmp_path: Path) -> None:
    """Real files of known licences, written out as the repositories they are from."""
    root = tmp_path / "code"
    with gzip.open(shared / "data" / "code" / "code.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    for record in records:
        name, path = record["id"].split(":", 1)
        tree(root / name.replace("/", "-"), {path: record["text"]}, git=False)
    files = run(root, tmp_path / "out", "--licences", "[]")
    kept = [line for line in files.values() if not line.get("reason")]
    assert len(kept) > 0.8 * len(files) > 100
    reasons = {line.get("reason", "") for line in files.values()}
    known = {
        "",
        "exact duplicate",
        "near duplicate",
        "generated",
        "vendored",
        "minified or data",
        "too large",
        "empty",
    }
    assert reasons <= known


def test_defaults() -> None:
    config = RepositoriesConfig()
    assert "MIT" in config.licences and "GPL-3.0" not in config.licences and config.join
