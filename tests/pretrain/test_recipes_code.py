"""The recipes of Code-Qwen give continued pretraining the values of the report (§4.1)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from openqwen.core.config import resolve
from openqwen.pretrain.config import PretrainConfig
from openqwen.train.schedule import lr_at


@pytest.mark.parametrize(
    ("recipes", "rate"),
    [(["code-qwen"], 3.0e-5), (["code-qwen", "code-qwen-14b"], 6.0e-5)],
    ids=["7B", "14B"],
)
def test_code_qwen_is_pretrained_as_the_report_says(recipes: list[str], rate: float) -> None:
    """90 billion tokens in rows of 8192; the rate rises over 3 % of the steps, then stays."""
    config = resolve(PretrainConfig, "pretrain", recipes, environ={}).config
    assert config.optim.lr == rate
    assert (config.schedule.shape, config.schedule.warmup_share) == ("constant", 0.03)
    assert config.context == 8192
    assert config.steps * config.batch_tokens == pytest.approx(90e9, rel=1e-4)
    assert (config.optim.beta1, config.optim.beta2, config.optim.eps) == (0.9, 0.95, 1e-8)


@pytest.mark.parametrize("recipes", [["code-qwen"], ["code-qwen", "code-qwen-14b"]], ids=["7B", "14B"])
def test_the_rate_stays_where_the_warm_up_leaves_it(recipes: list[str]) -> None:
    config = resolve(PretrainConfig, "pretrain", recipes, environ={}).config
    peak, steps = config.optim.lr, config.steps
    rates = [lr_at(step, steps, peak, config.schedule) for step in range(steps)]
    first = rates.index(peak)
    assert first + 1 == pytest.approx(0.03 * steps, abs=1)
    assert rates[0] < 0.01 * peak and all(a < b for a, b in pairwise(rates[: first + 1]))
    assert set(rates[first:]) == {peak}
