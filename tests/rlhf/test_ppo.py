"""Every function of rlhf/ppo.py against a slow twin written with Python loops from the definition."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from openqwen.core.errors import DataError
from openqwen.engine import native
from openqwen.rlhf import ppo

B, R, V = 5, 7, 11
LENGTHS = [7, 1, 3, 5, 2]


def _mask() -> torch.Tensor:
    return torch.arange(R)[None] < torch.tensor(LENGTHS)[:, None]


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _ragged(x_BR: torch.Tensor) -> list[list[float]]:
    """The real tokens only: the twins never see padding."""
    return [row[:n] for row, n in zip(x_BR.tolist(), LENGTHS)]


def _padded(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([row + [0.0] * (R - len(row)) for row in rows], dtype=torch.float64)


def _poisoned(x_BR: torch.Tensor) -> torch.Tensor:
    """Padding filled with what must never be read."""
    return torch.where(_mask(), x_BR, math.nan)


@pytest.mark.parametrize("gamma,lam", [(1.0, 0.95), (0.9, 1.0), (0.7, 0.3), (1.0, 0.0)])
def test_gae_is_the_discounted_sum_of_temporal_differences(gamma: float, lam: float) -> None:
    rewards, values = _random(1, B, R), _random(2, B, R)
    expected = []
    for reward, value in zip(_ragged(rewards), _ragged(values)):
        n = len(reward)
        delta = [reward[t] + (gamma * value[t + 1] if t + 1 < n else 0.0) - value[t] for t in range(n)]
        expected.append([sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)])
    advantages, returns = ppo.gae(_poisoned(rewards), _poisoned(values), _mask(), gamma, lam)
    torch.testing.assert_close(advantages, _padded(expected))
    sums = [[a + v for a, v in zip(x, y)] for x, y in zip(expected, _ragged(values))]
    torch.testing.assert_close(returns, _padded(sums))


def test_gae_with_lambda_one_returns_the_rewards_still_to_come() -> None:
    rewards, values = _random(3, B, R), _random(4, B, R)
    _, returns = ppo.gae(rewards, values, _mask(), 1.0, 1.0)
    torch.testing.assert_close(
        returns, _padded([[sum(r[t:]) for t in range(len(r))] for r in _ragged(rewards)])
    )


def test_whiten() -> None:
    x = _random(5, B, R) * 3 + 2
    flat = [v for row in _ragged(x) for v in row]
    mean, std = statistics.fmean(flat), statistics.pstdev(flat)
    expected = _padded([[(v - mean) / std for v in row] for row in _ragged(x)])
    torch.testing.assert_close(ppo.whiten(_poisoned(x), _mask()), expected, rtol=1e-6, atol=1e-7)


def test_penalised_rewards_put_the_score_on_the_end_token_never_on_padding() -> None:
    kl, score = _random(6, B, R), _random(7, B)
    rows = [[-0.04 * k for k in row] for row in _ragged(kl)]
    for row, s in zip(rows, score.tolist()):
        row[-1] += s
    torch.testing.assert_close(ppo.penalised_rewards(score, _poisoned(kl), _mask(), 0.04), _padded(rows))


def test_policy_loss_and_clip_count() -> None:
    logp, old, advantage = _random(8, B, R), _random(9, B, R), _random(10, B, R)
    total, held = 0.0, 0
    for new, before, gain in zip(_ragged(logp), _ragged(old), _ragged(advantage)):
        for n, o, a in zip(new, before, gain):
            ratio = math.exp(n - o)
            clipped = min(max(ratio, 0.8), 1.2)
            total += -min(ratio * a, clipped * a)
            held += clipped * a < ratio * a
    loss, count = ppo.policy_loss(_poisoned(logp), _poisoned(old), _poisoned(advantage), _mask(), 0.2, 23)
    assert loss.item() == pytest.approx(total / 23, rel=1e-12)
    assert count.item() == held > 0


def test_policy_gradient_is_zero_where_the_clip_binds_and_minus_advantage_at_ratio_one() -> None:
    old = torch.zeros(1, 3, dtype=torch.float64)
    logp = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[0.5, 2.0, -3.0]], dtype=torch.float64)
    loss, _ = ppo.policy_loss(logp, old, advantage, torch.ones(1, 3, dtype=torch.bool), 0.2, 1)
    (grad,) = torch.autograd.grad(loss, logp)
    assert grad.tolist() == [[-0.5, 0.0, 0.0]]


@pytest.mark.parametrize("clip", [0.15, None])
def test_value_loss_and_clip_count(clip: float | None) -> None:
    value, old, target = _random(11, B, R), _random(12, B, R), _random(13, B, R)
    total, held = 0.0, 0
    for new, before, goal in zip(_ragged(value), _ragged(old), _ragged(target)):
        for v, o, g in zip(new, before, goal):
            near = v if clip is None else min(max(v, o - clip), o + clip)
            total += 0.5 * max((v - g) ** 2, (near - g) ** 2)
            held += (near - g) ** 2 > (v - g) ** 2
    loss, count = ppo.value_loss(_poisoned(value), _poisoned(old), _poisoned(target), _mask(), clip, 23)
    assert loss.item() == pytest.approx(total / 23, rel=1e-12)
    assert count.item() == held and (held > 0) == (clip is not None)


def test_losses_of_micro_batches_add_up_to_the_loss_of_the_batch() -> None:
    logp, old, advantage, mask = _random(8, B, R), _random(9, B, R), _random(10, B, R), _mask()
    whole, _ = ppo.policy_loss(logp, old, advantage, mask, 0.2, sum(LENGTHS))
    parts = [
        ppo.policy_loss(logp[s], old[s], advantage[s], mask[s], 0.2, sum(LENGTHS))[0]
        for s in (slice(0, 1), slice(1, 5))
    ]
    torch.testing.assert_close(whole, sum(parts))


def test_both_kl_estimators_average_to_the_kl() -> None:
    p, q = _random(14, V).softmax(0), _random(15, V).softmax(0)
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist()))
    for estimator in (ppo.kl_k1, ppo.kl_k3):
        assert (p * estimator(p.log(), q.log())).sum().item() == pytest.approx(exact, rel=1e-9)
    assert (ppo.kl_k3(p.log(), q.log()) >= 0).all()
    assert (ppo.kl_k1(p.log(), q.log()) < 0).any()


def _slow_nucleus(logits: list[float], top_p: float) -> set[int]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    kept: set[int] = set()
    mass = 0.0
    for token in sorted(range(len(logits)), key=lambda i: (-logits[i], i)):
        kept.add(token)
        mass += weights[token] / sum(weights)
        if mass >= top_p:
            break
    return kept


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    support = torch.zeros(logits.shape, dtype=torch.bool)
    for row, kept in enumerate(_slow_nucleus(x, top_p) for x in logits.tolist()):
        support[row, sorted(kept)] = True
    return support


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 1.0])
def test_truncated_logp_and_entropy(top_p: float) -> None:
    logits = _random(16, 13, V) * 2
    support = _nucleus(logits, top_p)
    for row in range(len(logits)):
        kept = _slow_nucleus(logits[row].tolist(), top_p)
        weights = {t: math.exp(logits[row, t].item()) for t in kept}
        probs = {t: w / sum(weights.values()) for t, w in weights.items()}
        for token in kept:
            got = ppo.truncated_logp(logits[row : row + 1], support[row : row + 1], torch.tensor([token]))
            assert got.item() == pytest.approx(math.log(probs[token]), rel=1e-9, abs=1e-12)
        entropy = -sum(p * math.log(p) for p in probs.values())
        assert ppo.truncated_entropy(logits, support)[row].item() == pytest.approx(entropy, abs=1e-9)


def test_the_naive_formula_is_off_by_exactly_the_kept_mass() -> None:
    """Sampling from the nucleus but scoring with the full vocabulary multiplies the ratio by the kept mass."""
    logits = _random(17, 29, V) * 2
    support = _nucleus(logits, 0.9)
    tokens = torch.multinomial(
        logits.masked_fill(~support, -math.inf).softmax(-1), 1, generator=torch.Generator().manual_seed(1)
    )[:, 0]
    behaviour = ppo.truncated_logp(logits, support, tokens)
    naive = ppo.token_logp(logits, tokens)
    mass = (logits.softmax(-1) * support).sum(-1)
    torch.testing.assert_close((naive - behaviour).exp(), mass)
    assert mass.min() >= 0.9 and mass.max() < 1.0


@pytest.mark.fault(
    "PPO",
    "a token was drawn from a truncated distribution",
    "gradients are finite and leave the dropped tokens alone",
)
def test_truncated_logp_gradient_stays_finite_and_off_the_dropped_tokens() -> None:
    logits = _random(18, 3, V).requires_grad_()
    support = _nucleus(logits.detach(), 0.6)
    tokens = logits.detach().argmax(-1)
    objective = (
        ppo.truncated_logp(logits, support, tokens).sum() + ppo.truncated_entropy(logits, support).sum()
    )
    (grad,) = torch.autograd.grad(objective, logits)
    assert grad.isfinite().all()
    assert (grad[~support] == 0).all() and (grad[support] != 0).any()


def test_support_is_the_dense_mask_of_its_sparse_form() -> None:
    kept = [[3], [0, 10, 4], [7, 2]]
    sparse = ppo.Support(
        torch.tensor([i for ids in kept for i in ids], dtype=torch.int32), torch.tensor([1, 3, 2]), V
    )
    assert sparse.dense().tolist() == [[i in ids for i in range(V)] for ids in kept]


def _sparse(support: torch.Tensor) -> ppo.Support:
    return ppo.Support(support.nonzero()[:, 1].int(), support.sum(1), support.shape[1])


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 1.0])
def test_the_sparse_support_gives_what_the_dense_mask_gives_and_its_gradient(top_p: float) -> None:
    logits = (_random(24, 13, V) * 2).requires_grad_()
    support = _nucleus(logits.detach() / 0.7, top_p)
    tokens = support.int().argmax(-1)
    logp, entropy = ppo.support_logp(logits, _sparse(support), tokens, 0.7)
    dense_logp = ppo.truncated_logp(logits / 0.7, support, tokens)
    dense_entropy = ppo.truncated_entropy(logits / 0.7, support)
    torch.testing.assert_close(logp.double(), dense_logp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), dense_entropy, rtol=1e-5, atol=1e-5)
    weights = _random(25, 13)
    grads = [
        torch.autograd.grad((x * weights).sum(), logits, retain_graph=True)[0] for x in (logp, dense_logp)
    ]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_a_token_outside_its_support_is_an_error() -> None:
    support = torch.zeros(2, V, dtype=torch.bool)
    support[:, 3] = True
    with pytest.raises(DataError, match="outside its support"):
        ppo.support_logp(_random(26, 2, V), _sparse(support), torch.tensor([3, 4]))


def test_logits_compared_piece_by_piece_give_what_whole_tensors_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo, "PIECE_BYTES", 4 * V * 9)
    logits, ref = _random(27, 29, V).float() * 2, _random(28, 29, V).float() * 2
    tokens = torch.arange(29) % V
    whole, ref_whole, kl, entropy = ppo.compare_logits(logits, ref, tokens, 0.7)
    torch.testing.assert_close(whole, ppo.token_logp(logits / 0.7, tokens))
    torch.testing.assert_close(ref_whole, ppo.token_logp(ref / 0.7, tokens))
    torch.testing.assert_close(kl, ppo.exact_kl(logits / 0.7, ref / 0.7))
    everything = torch.ones(29, V, dtype=torch.bool)
    torch.testing.assert_close(entropy, ppo.truncated_entropy(logits / 0.7, everything))


@pytest.mark.skipif(native.missing() is not None, reason="needs a C++ compiler")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_generated_code_compares_as_plain_code_does(temperature: float) -> None:
    logits, ref = (_random(seed, 29, V).bfloat16() for seed in (30, 31))
    tokens = torch.arange(29) % V
    ways = (ppo.generated_compare(), ppo.compare_logits)
    for generated, plain in zip(*(way(logits, ref, tokens, temperature) for way in ways)):
        torch.testing.assert_close(generated, plain)
    same, ref_same, kl, _ = ppo.generated_compare()(logits, logits, tokens, temperature)
    assert torch.equal(same, ref_same) and torch.equal(kl, torch.zeros(29))


def test_exact_kl() -> None:
    logits, ref = _random(22, 3, V), _random(23, 3, V)
    p, q = logits.softmax(-1).tolist(), ref.softmax(-1).tolist()
    expected = [sum(a * math.log(a / b) for a, b in zip(x, y)) for x, y in zip(p, q)]
    assert ppo.exact_kl(logits, ref).tolist() == pytest.approx(expected)
    assert ppo.exact_kl(logits, logits).tolist() == [0.0, 0.0, 0.0]


def test_running_moments_equal_those_of_all_values_at_once() -> None:
    rng = random.Random(3)
    values = [rng.gauss(100.0, 3.0) for _ in range(57)]
    moments = ppo.RunningMoments()
    assert moments.std == 1.0
    for start, stop in ((0, 1), (1, 1), (1, 20), (20, 57)):
        moments = moments.update(values[start:stop])
    assert moments.count == 57
    assert moments.mean == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert moments.std == pytest.approx(statistics.pstdev(values), rel=1e-12)


def test_explained_variance() -> None:
    returns, mask = _random(20, B, R), _mask()
    flat = [v for row in _ragged(returns) for v in row]
    values = torch.where(mask, returns * 0.5, math.nan)
    assert ppo.explained_variance(returns, returns, mask) == 1.0
    assert ppo.explained_variance(torch.zeros_like(returns), returns, mask) == pytest.approx(0.0)
    residual = statistics.pvariance([0.5 * v for v in flat])
    expected = 1 - residual / statistics.pvariance(flat)
    assert ppo.explained_variance(values, returns, mask) == pytest.approx(expected)
    assert math.isnan(ppo.explained_variance(values, torch.ones_like(returns), mask))


def test_flatten_and_unflatten_are_inverse_and_differentiable() -> None:
    x, mask = _random(21, B, R), _mask()
    flat = ppo.flatten(x, mask).requires_grad_()
    assert flat.tolist() == [v for row in _ragged(x) for v in row]
    back = ppo.unflatten(flat, mask)
    torch.testing.assert_close(back, torch.where(mask, x, 0.0))
    (grad,) = torch.autograd.grad(back.square().sum(), flat)
    torch.testing.assert_close(grad, 2 * flat.detach())
