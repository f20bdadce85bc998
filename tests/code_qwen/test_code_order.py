"""What is imported stands first, in each language that is read, and in any repository at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.code_qwen.order import imports, in_order

FILES = {
    "python": {
        "src/shop/__init__.py": "",
        "src/shop/prices.py": "import math\nfrom .money import Money\n",
        "src/shop/money.py": "from decimal import Decimal\n",
        "src/shop/cart/basket.py": "from ..prices import total\nfrom shop import money as m\n",
        "tests/test_basket.py": "import shop.cart.basket\n",
    },
    "javascript": {
        "lib/a.js": 'const b = require("./b");\n',
        "lib/b.js": "export default 1;\n",
        "lib/index.js": 'import a from "./a.js"; import("fs");\n',
        "main.js": "import { x } from './lib';\n",
    },
    "c": {
        "include/list.h": "int length(void);\n",
        "src/list.c": '#include "list.h"\n#include <stdio.h>\n',
        "src/local.h": "",
        "src/main.c": '#include "local.h"\n#include "list.h"\n',
    },
    "java": {
        "src/main/java/org/shop/Cart.java": "package org.shop;\nimport org.shop.Money;\nimport java.util.List;\n",
        "src/main/java/org/shop/Money.java": "package org.shop;\n",
    },
    "rust": {
        "src/main.rs": "mod parse;\nuse crate::parse::token::Token;\n",
        "src/parse/mod.rs": "pub mod token;\n",
        "src/parse/token.rs": "",
    },
    "go": {
        "cmd/shop/main.go": 'import (\n\t"fmt"\n\t"example.org/shop/money"\n)\n',
        "money/money.go": "package money\n",
        "money/money_test.go": "package money\n",
    },
    "ruby": {"a.rb": "require_relative 'lib/b'\nrequire 'set'\n", "lib/b.rb": ""},
}
EXPECTED = {
    "python": {
        "src/shop/__init__.py": set(),
        "src/shop/prices.py": {"src/shop/money.py"},
        "src/shop/money.py": set(),
        "src/shop/cart/basket.py": {"src/shop/prices.py", "src/shop/money.py", "src/shop/__init__.py"},
        "tests/test_basket.py": {"src/shop/cart/basket.py"},
    },
    "javascript": {
        "lib/a.js": {"lib/b.js"},
        "lib/b.js": set(),
        "lib/index.js": {"lib/a.js"},
        "main.js": {"lib/index.js"},
    },
    "c": {
        "include/list.h": set(),
        "src/list.c": {"include/list.h"},
        "src/local.h": set(),
        "src/main.c": {"src/local.h", "include/list.h"},
    },
    "java": {
        "src/main/java/org/shop/Cart.java": {"src/main/java/org/shop/Money.java"},
        "src/main/java/org/shop/Money.java": set(),
    },
    "rust": {
        "src/main.rs": {"src/parse/mod.rs", "src/parse/token.rs"},
        "src/parse/mod.rs": {"src/parse/token.rs"},
        "src/parse/token.rs": set(),
    },
    "go": {"cmd/shop/main.go": {"money/money.go"}, "money/money.go": set(), "money/money_test.go": set()},
    "ruby": {"a.rb": {"lib/b.rb"}, "lib/b.rb": set()},
}


@pytest.mark.parametrize("language", sorted(FILES))
def test_imports_of_each_language(language: str) -> None:
    files = {path: (language, text) for path, text in FILES[language].items()}
    assert imports(files) == EXPECTED[language]
    order = in_order(files)
    for path, used in EXPECTED[language].items():
        assert all(order.index(other) < order.index(path) for other in used)


NAMES = [f"m{i}" for i in range(6)]


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES)), min_size=1))
def test_any_imports_give_every_file_once_and_cycles_do_not_hang(graph: dict[str, set[str]]) -> None:
    files = {
        f"{name}.py": ("python", "".join(f"import {other}\n" for other in sorted(used)))
        for name, used in graph.items()
    }
    order = in_order(files)
    assert sorted(order) == sorted(files) and order == in_order(dict(reversed(files.items())))
    needs = imports(files)
    assert needs == {
        f"{n}.py": {f"{o}.py" for o in used if o in graph and o != n} for n, used in graph.items()
    }
    placed: set[str] = set()
    for path in order:  # whoever comes early has all it needs, or nobody left has fewer missing
        missing = {other: len(needs[other] - placed) for other in files if other not in placed}
        assert missing[path] == min(missing.values())
        placed.add(path)


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    for language in FILES:
        assert in_order({"a": (language, text), "b": (language, "")}) in (["a", "b"], ["b", "a"])
