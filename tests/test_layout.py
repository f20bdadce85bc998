"""The structure is a decision: import directions, torch-free packages, sources of settings, size of modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from openqwen.core.config import fields_without_source
from openqwen.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "openqwen"

# package -> packages of ours it may import. cli and tour may import everything, nobody imports them.
MAY = {
    "core": set(),
    "data": {"core"},
    "code_qwen": {"core", "data"},
    "math_qwen": {"core", "data"},
    "tokenizer": {"core", "data"},
    "chat": {"core", "data", "tokenizer"},
    "model": {"core"},
    "train": {"core", "model"},
    "sandbox": {"core"},
    "engine": {"core", "model", "tokenizer", "chat"},
    "agent": {"core", "data", "model", "tokenizer", "chat", "engine", "sandbox", "annotate"},
    "serve": {"core", "code_qwen", "model", "tokenizer", "chat", "engine", "agent", "reward"},
    "pretrain": {"core", "data", "tokenizer", "chat", "model", "train"},
    "sft": {"core", "data", "tokenizer", "chat", "model", "train"},
    "reward": {"core", "data", "tokenizer", "chat", "model", "train"},
    "annotate": {"core", "data", "tokenizer", "chat", "model", "engine", "report"},
    "rlhf": {"core", "data", "tokenizer", "chat", "model", "train", "engine", "sft", "reward"},
    "selfcheck": {"core", "tokenizer", "model", "train", "pretrain", "sft"},
    "evals": {"core", "data", "code_qwen", "tokenizer", "chat", "model", "engine", "agent", "sandbox"},
    "report": {"core"},
    "stages": {"core"},
}
TORCH_FREE = ("core", "data", "code_qwen", "math_qwen", "tokenizer", "chat", "stages")


def imports(path: Path) -> set[str]:
    """Packages of ours that a module names in any import statement, lazy ones included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("openqwen.")}
    return {name for name in found if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def modules(package: str) -> list[Path]:
    folder = PACKAGE / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{package}.py"]


@pytest.mark.parametrize("package", sorted(MAY))
def test_import_directions(package: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imports(path) - MAY[package] - {package}
    }
    assert not wrong


def test_every_package_has_a_direction() -> None:
    packages = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages - set(MAY) == {"cli"}


def test_allowed_directions_have_no_cycle() -> None:
    left = dict(MAY)
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        assert free, f"cycle among {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("package", TORCH_FREE)
def test_no_torch_below_the_model(package: str) -> None:
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "torch"], path


def loaded_by(code: str) -> set[str]:
    """Top-level modules loaded after running some code in a fresh interpreter."""
    code += "; import sys; print(' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_imports() -> None:
    names = "core.artifact core.console data tokenizer chat chat.chatml model model.config train engine serve"
    names += " agent annotate evals sandbox report stages tour"
    code = "import openqwen; " + "; ".join(f"import openqwen.{name}" for name in names.split())
    assert "torch" not in loaded_by(code)


def test_stage_settings_load_no_torch() -> None:
    code = "from openqwen.stages import STAGES; [s.config for s in STAGES.values()]"
    assert "torch" not in loaded_by(code)


@pytest.mark.parametrize("name", sorted(STAGES))
def test_every_setting_names_its_source(name: str) -> None:
    assert fields_without_source(STAGES[name].config) == []


def test_every_module_says_what_it_does() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


PICKLES = {"pickle", "_pickle", "cPickle", "shelve", "dill", "cloudpickle", "joblib", "marshal", "jsonpickle"}


def pickled(text: str) -> list[str]:
    """What a module does that reads or writes pickles in files, in words of its own."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.split(".")[0] in PICKLES else []
            found += [
                f"torch.{a.name}" for a in node.names if module == "torch" and a.name in {"load", "save"}
            ]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in {"torch.load", "torch.save", "torch.serialization.load"} else []
            found += [called] if called.split(".")[-1] in {"read_pickle", "to_pickle"} else []
            found += (
                [called] if called in {"__import__", "importlib.import_module"} and _names_one(node) else []
            )
            allow = {word.arg: ast.unparse(word.value) for word in node.keywords}.get("allow_pickle", "")
            if allow not in ("", "False") or (called in {"np.save", "numpy.save"} and allow != "False"):
                found.append(f"{called}, allow_pickle")  # numpy writes pickles unless told not to
    return found


def _names_one(call: ast.Call) -> bool:
    return any(isinstance(word, ast.Constant) and word.value in PICKLES for word in call.args)


def test_no_file_is_pickled() -> None:
    wrong = {str(path): pickled(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {path: found for path, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "import json, pickle as p", "from pickle import loads", "import joblib", "from joblib import load",
        "from torch import load", "torch.load(x)", "torch.save(x, y)", "np.load(x, allow_pickle=True)", "np.save(x, y)",
        "np.load(x, allow_pickle=given)", "importlib.import_module('pickle')", "pandas.read_pickle(x)", "import marshal",
    ],
)  # fmt: skip
def test_a_pickle_would_be_found(text: str) -> None:
    assert pickled(text) and not pickled("np.load(x, allow_pickle=False)\nimport json")


# Our own processes send each other tasks and results as pickles, through pipes that nobody else holds, and Ray does
# so between the machines of a cluster.
SENDERS = {"data/runner.py", "tokenizer/count.py"}


def test_only_our_own_processes_send_pickles() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if {"multiprocessing", "ray"} & {name.split(".")[0] for name in [*names, module]} or (
                "ProcessPoolExecutor" in names
            ):
                found.add(str(path.relative_to(PACKAGE)))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("_object", "_object_list")):
                found.add(str(path.relative_to(PACKAGE)))
    assert found == SENDERS
