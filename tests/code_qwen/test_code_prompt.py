"""Prompts of a repository: what matters stands in them, in the form of training, and never more than there is room for."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.code_qwen.config import RepositoriesConfig
from openqwen.code_qwen.prompt import Target, make_prompt, read_others, read_target
from openqwen.code_qwen.stage import File, write
from openqwen.core.errors import DataError, UsageError

SHOP = {
    "shop/money.py": "def pounds(n):\n    return n / 100\n",
    "shop/prices.py": "from .money import pounds\n\n\ndef total(items):\n    return pounds(sum(items))\n",
    "shop/basket.py": "from shop.prices import total\n\n\ndef pay(basket):\n    return ",
    "shop/names.py": "NAMES = ['ann', 'bob']\n",
    "tests/test_basket.py": "from shop.basket import pay\n",
    "web/page.js": "export const title = 'shop';\n",
}


def words(text: str) -> int:
    """A tokenizer of a token a word and a line."""
    return len(text.split()) + text.count("\n")


def tree(root: Path) -> Path:
    for name, text in SHOP.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_all_of_a_repository_in_the_form_that_models_are_trained_on(tmp_path: Path) -> None:
    root = tree(tmp_path)
    target = read_target(root / "shop" / "basket.py", root)
    files, unread = read_others(root)
    prompt = make_prompt(target, files, 1000, words)
    order = ["shop/money.py", "shop/prices.py", "shop/names.py", "tests/test_basket.py", "web/page.js"]
    assert sorted(prompt.files) == sorted(order) and not unread and not prompt.left_out
    assert prompt.files.index("shop/money.py") < prompt.files.index("shop/prices.py")
    # The stage that makes training documents, given the same files in that order, begins with the same text.
    own = File(root.name, target.path, "python", text=target.before)
    (document,) = write([*(files[path] for path in prompt.files), own], RepositoriesConfig())
    last = f"# shop/basket.py\n{target.before}"
    assert prompt.text.endswith(last) and set(document["files"]) == {*order, target.path}
    for path in order:
        mark = "//" if path.endswith(".js") else "#"
        part = f"{mark} {path}\n{SHOP[path].rstrip()}\n"
        assert part in document["text"] and f"{part}\n" in prompt.text


def test_with_less_room_what_matters_most_is_left(tmp_path: Path) -> None:
    root = tree(tmp_path)
    target = read_target(root / "shop" / "basket.py", root)
    files, _ = read_others(root)
    seen = []
    for room in range(words(f"# {target.path}\n{target.before}"), 120):
        prompt = make_prompt(target, files, room, words)
        assert prompt.tokens == words(prompt.text) <= room and prompt.text.endswith(target.before)
        assert {*prompt.files, *dict(prompt.left_out)} == files.keys() - {target.path}
        if set(prompt.files) not in seen:
            seen.append(set(prompt.files))
    assert seen[0] == set() and seen[-1] == files.keys() - {target.path}
    joints = make_prompt(target, files, 90, lambda text: words(text) + 9 * text.count("\n\n#"))
    assert 0 < len(joints.files) < len(make_prompt(target, files, 90, words).files) and joints.tokens <= 90
    assert {"shop/prices.py"} in seen  # the import before its import and before the folder


def test_a_file_longer_than_the_room_keeps_its_last_lines(tmp_path: Path) -> None:
    target = Target("a.py", "python", "".join(f"x{i} = {i}\n" for i in range(100)) + "y = ")
    prompt = make_prompt(target, {}, 20, words)
    assert prompt.text.startswith("# a.py\nx9") and prompt.text.endswith("x99 = 99\ny = ")
    assert prompt.tokens <= 20 and prompt.cut + len(prompt.text) == len("# a.py\n" + target.before)
    with pytest.raises(UsageError, match="last line before the cursor"):
        make_prompt(Target("a.py", "python", "x " * 50), {}, 20, words)


@given(
    st.lists(st.sampled_from(["x = 1\n", "import b\n", "import c\n", "\n", "# note\n"]), max_size=12).map(
        "".join
    ),
    st.dictionaries(
        st.sampled_from(["b.py", "c.py", "d/e.py", "f.js"]),
        st.sampled_from(["", "import c\n", "y = 2\n" * 5]),
    ),
    st.integers(8, 80),
)
def test_no_prompt_has_more_tokens_than_there_is_room_for(
    before: str, texts: dict[str, str], room: int
) -> None:
    files = {
        p: File("r", p, "python" if p.endswith("py") else "javascript", text=t) for p, t in texts.items()
    }
    prompt = make_prompt(Target("a.py", "python", before), files, room, words)
    assert prompt.tokens == words(prompt.text) <= room
    assert prompt.text.endswith(before[prompt.cut :]) and {*prompt.files, *dict(prompt.left_out)} == set(
        texts
    )
    again = dict(random.Random(0).sample(list(files.items()), len(files)))
    assert make_prompt(Target("a.py", "python", before), again, room, words) == prompt


def test_places_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_bytes(b"one = 1\r\ntwo = 2\r\nlast")
    assert read_target(file, tmp_path).before == "one = 1\ntwo = 2\nlast"
    assert read_target(file, tmp_path, 2).before == "one = 1\ntwo = 2\n"
    assert read_target(file, tmp_path, 2, 4).before == "one = 1\ntwo "
    assert read_target(file, tmp_path, 3).before == "one = 1\ntwo = 2\nlast"
    for line, column in ((0, None), (4, None), (1, 8)):
        with pytest.raises(UsageError, match="give a"):
            read_target(file, tmp_path, line, column)


@pytest.mark.fault(
    "data",
    "a program to complete is binary, giant, a link or outside of its repository",
    "refused with a reason",
)
def test_what_is_no_program_of_the_repository_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "r")
    outside = tmp_path / "secret.py"
    outside.write_text("password = 'hunter2'\n", encoding="utf-8")
    os.symlink(outside, root / "link.py")
    os.symlink(root, root / "loop")
    os.symlink(root / "shop" / "names.py", root / "alias.py")
    (root / "blob.py").write_bytes(b"\x7fELF" + bytes(100))
    (root / "huge.py").write_text("x = 1\n" * 200_000, encoding="utf-8")
    (root / "thin.min.js").write_text("a=1", encoding="utf-8")
    (root / "notes").write_text("no program", encoding="utf-8")
    for name, kind, said in (
        ("link.py", UsageError, "link"),
        ("alias.py", UsageError, "link"),
        ("../secret.py", UsageError, "outside"),
        ("absent.py", UsageError, "no such file"),
        ("blob.py", DataError, "ELF"),
        ("huge.py", DataError, "1,200,000 bytes"),
        ("notes", DataError, "no program"),
    ):
        with pytest.raises(kind, match=said):
            read_target(root / name, root)
    files, unread = read_others(root)
    prompt = make_prompt(read_target(root / "shop" / "basket.py", root), files, 10_000, words)
    assert "hunter2" not in prompt.text and set(prompt.files) == SHOP.keys() - {"shop/basket.py"}
    assert dict(prompt.left_out) == {
        "alias.py": "link: to a file that stands there itself",
        "huge.py": "too large: 1200000 bytes",
        "thin.min.js": "minified or data: name",
    }
    reasons = {Path(place).name: reason for place, reason in unread.items()}
    assert reasons == {
        "link.py": "link out of the folder", "loop": "link to a folder", "blob.py": "binary file: ELF program"
    }  # fmt: skip
