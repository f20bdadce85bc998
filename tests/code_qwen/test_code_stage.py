"""Repositories become documents; every file is accounted for, whatever lies in them."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from pathlib import Path

import pytest
import zstandard

from openqwen.cli import main
from openqwen.code_qwen.config import RepositoriesConfig
from openqwen.code_qwen.find import repositories
from openqwen.core.artifact import load
from openqwen.core.errors import DataError
from openqwen.core.jsonl import read_corpus, read_jsonl_zst
from openqwen.data.config import MixConfig
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
    assert facts["noted"] == {"submodule that is not checked out": 1}
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


def test_code_has_the_share_in_a_corpus_that_the_recipe_asks_for(tmp_path: Path) -> None:
    """Where there is enough of both: what the recipe says to two points of a hundred, in tokens by bytes."""
    recipe = (Path(__file__).parents[2] / "recipes" / "code-qwen.toml").read_text(encoding="utf-8")
    asked = re.findall(r"--mix\.proportions '(.+?)'", recipe)
    assert asked == ['{code = 0.8, "*" = 0.2}']
    rng = random.Random(0)
    words = ["".join(rng.choices("abdegiklmnoprstu", k=6)) for _ in range(500)]
    programs = {
        f"{number}.py": "".join(
            "def {}(one, two):\n    return one.{}(two)\n\n\n".format(*rng.sample(words, 2)) for _ in range(20)
        )
        for number in range(120)
    }
    run(tree(tmp_path / "r", {"LICENSE": MIT, **programs}), tmp_path / "out", "--join", "false")
    folder = tmp_path / "documents"
    folder.mkdir()
    (tmp_path / "out" / "documents.jsonl.zst").rename(folder / "code.jsonl.zst")
    texts = [" ".join(rng.choices(words, k=150)) for _ in range(60)]
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text, "source": "text"}) + "\n" for text in texts), encoding="utf-8"
    )
    command = [
        "data",
        "build",
        "--input",
        str(folder),
        "--out",
        str(tmp_path / "corpus"),
        "--valid-fraction",
        "0",
    ]
    assert (
        main([*command, "--quality.drop", "false", "--language.keep", "[]", "--mix.proportions", *asked]) == 0
    )
    weights = MixConfig().bytes_per_token
    tokens = {"code": 0.0, "text": 0.0}
    for document in read_corpus(tmp_path / "corpus"):
        size = len(document["text"].encode())
        tokens[document["source"]] += size / weights.get(document["lang"], weights["*"])
    assert tokens["code"] / sum(tokens.values()) == pytest.approx(0.8, abs=0.02)


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


def test_without_evaluation_sets_it_says_so(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(two, tmp_path / "out")
    assert "no evaluation sets found" in capsys.readouterr().out
    assert "no evaluation sets found" in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert load(tmp_path / "out", "code").manifest["facts"]["benchmarks"] == {}
    folder = tmp_path / "data" / "benchmarks"
    folder.mkdir(parents=True)
    item = {"id": 1, "prompt": "a question of the set that is long enough to be held against every program"}
    (folder / "own.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    run(two, tmp_path / "held")
    assert "evaluation sets" not in capsys.readouterr().out
    assert load(tmp_path / "held", "code").manifest["facts"]["benchmarks"] == {"own": 1}
    run(two, tmp_path / "off", "--decontaminate.enabled", "false")
    assert "decontamination is off" in capsys.readouterr().out


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
    with pytest.raises(DataError, match="the folder is empty of repositories"):
        repositories(tmp_path / "void")


# ---- duplicates, encodings ------------------------------------------------------------------------------------------


def test_duplicates_are_those_of_one_language(tmp_path: Path) -> None:
    """The same bytes are a program in C and another in C++: exact and near duplicates are looked for in each."""
    source = "".join(
        f"int f{n}(int a, int b) {{\n    return a * {n} + b - {n * n};\n}}\n\n" for n in range(12)
    )
    near = source.replace("return a * 3 ", "return b * 3 ")
    names = {"a.c": source, "a.cpp": source, "b.c": near, "b.cpp": near, "c.c": source, "c.cpp": source}
    files = run(tree(tmp_path / "r", {"LICENSE": MIT, **names}), tmp_path / "out")
    reasons = {name: (line.get("reason"), line.get("detail")) for name, line in files.items()}
    assert reasons == {
        "r:a.c": (None, None),
        "r:a.cpp": (None, None),
        "r:b.c": ("near duplicate", "of r:a.c"),
        "r:b.cpp": ("near duplicate", "of r:a.cpp"),
        "r:c.c": ("exact duplicate", "of r:a.c"),
        "r:c.cpp": ("exact duplicate", "of r:a.cpp"),
    }


@pytest.mark.fault("data", "a program is in an unknown encoding", "dropped with the reason")
def test_files_in_no_known_encoding_are_dropped(tmp_path: Path) -> None:
    rng = random.Random(0)
    letters = [10, *range(32, 127), *range(160, 256)]
    root = tree(
        tmp_path / "r",
        {
            "LICENSE": MIT,
            "mainframe.py": HELP.encode("cp037"),
            "german.py": MAIN.encode("cp273"),
            "noise.c": bytes(rng.choice(letters) for _ in range(3000)),
            "high.c": bytes(rng.randrange(128, 256) for _ in range(900)),
            "broken.py": "".join(c + "\ufffd" * (n % 40 == 0) for n, c in enumerate(HELP)),
            "one.py": MAIN + "# a letter \ufffd is lost\n",
            "latin.py": "# déjà vu, naïve façade\nx = 1\n".encode("latin-1"),
            "koi8.py": "# Проверка кодировки в программе\ny = 2\n".encode("koi8_r"),
            "sjis.py": "# これはテストです\nz = 3\n".encode("cp932"),
            "short.py": "é=1".encode("latin-1"),
        },
    )
    files = run(root, tmp_path / "out", "--limits.max-line", "none")
    dropped = {name.removeprefix("r:"): line for name, line in files.items() if line.get("reason")}
    assert {line["reason"] for line in dropped.values()} == {"unknown encoding"}
    assert set(dropped) == {"mainframe.py", "german.py", "noise.c", "high.c", "broken.py"}
    assert "U+FFFD" in dropped["broken.py"]["detail"] and "0 spaces" in dropped["mainframe.py"]["detail"]
    facts = load(tmp_path / "out", "code").manifest["facts"]
    assert facts["dropped"] == {"unknown encoding": 5}


@pytest.mark.fault(
    "data", "submodules are not checked out, or have names that no disk holds", "counted, the rest is read"
)
def test_submodules_of_any_name_are_counted(tmp_path: Path) -> None:
    """Of a name that is too long for any disk, of one with NUL, one that leads out, and one that is there."""
    root = tree(tmp_path / "r", {"LICENSE": MIT, "a.py": HELP, "there/b.py": MAIN})
    names = ["x" * 300, "a\0b", "../out", "gone", "there"]
    (root / ".gitmodules").write_text("".join(f"path = {name}\n" for name in names), encoding="utf-8")
    run(root, tmp_path / "out")
    noted = load(tmp_path / "out", "code").manifest["facts"]["noted"]
    assert noted == {"submodule that cannot be looked at": 1, "submodule that is not checked out": 3}


def test_files_that_cannot_be_read_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "r", {"LICENSE": MIT, "a.py": HELP, "b.py": MAIN})
    read = Path.read_bytes

    def closed(path: Path) -> bytes:
        if path.name == "b.py":
            raise PermissionError(13, "closed", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", closed)
    assert list(run(root, tmp_path / "out")) == ["r:a.py"]
    assert load(tmp_path / "out", "code").manifest["facts"]["skipped"] == {"unreadable": 1}


# ---- records --------------------------------------------------------------------------------------------------------


def records_of(files: dict[str, str], licence: str | None = "MIT", lang: str | None = "python") -> list[dict]:
    return [{"id": name, "text": text, "licence": licence, "lang": lang} for name, text in files.items()]


def write_records(path: Path, records: list[object]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(data))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_records_give_what_their_checkouts_give(ending: str, tmp_path: Path) -> None:
    """Same filters, order and documents, to the byte; a folder of the file is as good as the file."""
    one = {
        "main.py": MAIN,
        "help.py": HELP,
        "sub/x.py": "def sub():\n    return 'sub'\n",
        "a-b/y.py": "y = 'y'\n" * 3,
    }
    two = {"copy.py": HELP, "vendor/lib.py": "def vendored():\n    return 1\n", "sub.py": "value = 'other'\n"}
    tree(tmp_path / "tree" / "bob" / "one", {"LICENSE": MIT, **one})
    tree(tmp_path / "tree" / "bob-x" / "two", {"LICENSE": MIT, **two})
    named = {f"bob-x/two:{path}": text for path, text in two.items()}
    named |= {f"bob/one:{path}": text for path, text in one.items()}
    records = records_of(named)
    random.Random(0).shuffle(records)
    file = write_records(tmp_path / "records" / f"code{ending}", records)
    whole = run(tmp_path / "tree", tmp_path / "from-tree")
    again = [run(file, tmp_path / "from-file"), run(file.parent, tmp_path / "from-folder")]
    assert [list(files.items()) for files in again] == [list(whole.items())] * 2
    assert whole["bob/one:main.py"]["secrets"] == {"email": 1} and len(whole) == 7
    assert {line.get("reason") for line in whole.values()} == {None, "exact duplicate", "vendored"}
    made = [
        (tmp_path / name / "documents.jsonl.zst").read_bytes()
        for name in ("from-tree", "from-file", "from-folder")
    ]
    assert made[0] == made[1] == made[2]


def test_a_record_s_licence_and_language_are_its_own(tmp_path: Path) -> None:
    gpl = records_of({"o/r:free.py": HELP}, "GPL-3.0-only")
    none = records_of({"o/r:none.py": MAIN}, None)
    either = records_of({"o/r:x.h": "int twice(int n);\nint thrice(int n);\n"}, "MIT OR GPL-3.0", "cpp")
    marked = records_of({"o/r:said.py": "# SPDX-License-Identifier: ISC\nx = 'said'\n"}, None, None)
    file = write_records(tmp_path / "code.jsonl", [*gpl, *none, *either, *marked])
    files = run(file, tmp_path / "out")
    told = {
        name: (line.get("reason"), line.get("detail"), line["language"], line["licence"])
        for name, line in files.items()
    }
    assert told == {
        "o/r:free.py": ("licence", "GPL-3.0-only", "python", "GPL-3.0-only"),
        "o/r:none.py": ("licence", "none found", "python", None),
        "o/r:said.py": (None, None, "python", "ISC"),
        "o/r:x.h": (None, None, "cpp", "MIT OR GPL-3.0"),
    }
    assert load(tmp_path / "out", "code").manifest["facts"]["dropped"] == {"licence": 2}


@pytest.mark.fault("data", "lines of a file of programs are no records", "skipped, each with its reason")
def test_records_that_are_none_are_skipped_with_their_reason(tmp_path: Path) -> None:
    good = records_of({"o/r:a.py": HELP})[0]
    bad_ones = [
        [1], {"text": HELP}, {**good, "id": "a.py"}, {**good, "id": "o/r:../a.py"}, {**good, "id": "o/r:"},
        {**good, "id": "o/r:" + "x" * 5000 + ".py"}, {**good, "text": None},
        {**good, "id": "o/r:b.py", "text": "x = '\ud800'"}, good,
        {**good, "id": "o/r:c.py", "text": "\0" * 99}, {**good, "id": "o/r:README", "lang": "none"},
    ]  # fmt: skip
    file = write_records(tmp_path / "in" / "code.jsonl", [good, *bad_ones])
    with file.open("ab") as more:
        more.write(
            b"no json\n" + json.dumps({**good, "id": "o/r:odd\ud800\nname.py", "text": MAIN}).encode() + b"\n"
        )
    packed = gzip.compress(
        json.dumps({**good, "id": "o/r:z.py", "text": "last = 'one'\n"}).encode() + b"\n" * 9999
    )
    (tmp_path / "in" / "torn.jsonl.gz").write_bytes(packed[:-20])
    files = run(tmp_path / "in", tmp_path / "out", "--bad-fraction", "1", "--dedup.fuzzy", "false")
    assert list(files) == ["o/r:a.py", "o/r:odd\\ud800\\nname.py", "o/r:z.py"]
    facts = load(tmp_path / "out", "code").manifest["facts"]
    assert facts["skipped"] == {
        'no "text" with an "id" of repository and path': 7,
        "a lone surrogate": 1,
        "duplicate id": 1,
        "binary file": 1,
        "not JSON": 1,
        "unreadable": 1,
    }
    assert facts["noted"] == {"no program": 1}


def test_records_within_a_repository_are_its_data(tmp_path: Path) -> None:
    record = records_of({"o/r:a.py": MAIN})
    root = tree(tmp_path / "r", {"LICENSE": MIT, "b.py": HELP})
    write_records(root / "code.jsonl", record)
    assert list(run(root, tmp_path / "out")) == ["r:b.py"]
    write_records(tmp_path / "in" / "code.jsonl", record)
    root.rename(tmp_path / "in" / "r")
    assert list(run(tmp_path / "in", tmp_path / "both")) == ["r:b.py", "o/r:a.py"]


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


@pytest.mark.shared
def test_real_records(shared: Path, tmp_path: Path) -> None:
    """The folder as it is: all of permissive licences, and nothing that cannot be read."""
    files = run(shared / "data" / "code", tmp_path / "out")
    facts = load(tmp_path / "out", "code").manifest["facts"]
    kept = [line for line in files.values() if not line.get("reason")]
    assert len(kept) == facts["kept"] > 0.9 * len(files) and len(files) == facts["files"] > 900
    assert facts["skipped"] == {} and facts["repositories"] == 14 < facts["documents"]
    assert set(facts["dropped"]) <= {
        "exact duplicate",
        "near duplicate",
        "vendored",
        "generated",
        "minified or data",
    }
    assert set(facts["languages"]) == {"cpp", "go", "java", "javascript", "python", "rust"}
    assert {part for line in kept for part in line["licence"].split(" OR ")} <= set(
        RepositoriesConfig().licences
    )
    assert set(facts["secrets"]) == {"email", "name"}


@pytest.mark.shared
def test_one_item_of_each_benchmark_for_code_is_found(shared: Path, tmp_path: Path) -> None:
    """Planted in programs of another shape, beside one that is nobody's."""
    sets = shared / "data" / "eval"
    paths = {
        "humaneval": sets / "humaneval" / "HumanEval.jsonl.gz",
        "mbpp": sets / "mbpp" / "test.jsonl.gz",
        "humanevalpack": sets / "humanevalpack" / "go.jsonl.gz",
    }
    items = {}
    for name, path in paths.items():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            items[name] = [json.loads(line) for line in lines][40]
    pack, mbpp = items["humanevalpack"], items["mbpp"]
    root = tree(
        tmp_path / "r",
        {
            "LICENSE": MIT,
            "a.py": "X = 1\n\n\n" + items["humaneval"]["prompt"] + items["humaneval"]["canonical_solution"],
            "b.py": f"# {mbpp['text']}\n{mbpp['code']}\n",
            "c.go": "package c\n\n" + pack["declaration"] + pack["canonical_solution"],
            "help.py": HELP,
        },
    )
    every = json.dumps([str(path.parent) for path in paths.values()])
    files = run(root, tmp_path / "out", "--decontaminate.benchmarks", every)
    reasons = {name: line.get("reason", "") for name, line in files.items()}
    assert reasons == {
        "r:a.py": "overlap with HumanEval",
        "r:b.py": "overlap with test",
        "r:c.go": "overlap with go",
        "r:help.py": "",
    }
    assert f"test:{mbpp['task_id']}" in files["r:b.py"]["detail"]
    benchmarks = load(tmp_path / "out", "code").manifest["facts"]["benchmarks"]
    assert {"HumanEval", "test", "go", "rust"} <= set(benchmarks) and benchmarks["HumanEval"] > 50
    without = run(root, tmp_path / "without")
    assert not any(line.get("reason") for line in without.values())


def test_defaults() -> None:
    config = RepositoriesConfig()
    assert "MIT" in config.licences and "GPL-3.0" not in config.licences and config.join
