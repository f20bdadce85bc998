"""`openqwen tour`: the whole report with one command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from openqwen.cli.common import Recipes
from openqwen.cli.settings import check_environment
from openqwen.tour import run_tour


def tour(
    *,
    size: Annotated[Literal["small", "laptop", "gpu"], Parameter(help="How much to train.")] = "small",
    out: Path = Path("out/tour"),
    recipe: Recipes = None,
    chat: Annotated[bool, Parameter(help="End in a chat when there is a terminal.")] = True,
    plan: Annotated[bool, Parameter(negative="", help="Show which stages would run.")] = False,
) -> int:
    """Raw pages -> corpus -> vocabulary -> base model -> chat model -> reward model -> PPO -> report page -> chat."""
    check_environment(os.environ)
    return run_tour(out, size, tuple(recipe or ()), chat=chat, plan=plan)
