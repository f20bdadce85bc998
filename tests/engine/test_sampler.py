"""The sampler against the definitions, written out per row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.core.errors import UsageError
from openqwen.engine import Sampling
from openqwen.engine.sampler import Rows, penalise, sample, uniforms


def reference_support(logits: torch.Tensor, s: Sampling, slack: float = 0.0) -> set[int]:
    """Temperature, then top-k, then top-p (and slack) of what is left, then min-p: one row, no tricks."""
    p = torch.softmax(logits.double() / s.temperature, -1)
    ranked = sorted(range(len(p)), key=lambda i: -float(p[i]))[: s.top_k]
    mass, kept = sum(float(p[i]) for i in ranked), []
    before = 0.0
    for i in ranked:
        if (s.top_p == 1 or before < s.top_p + slack) and float(p[i]) >= s.min_p * float(p[ranked[0]]):
            kept.append(i)
        before += float(p[i]) / mass
    return set(kept)


both_ways = pytest.mark.parametrize("compiled", [False, True], ids=["torch", "compiled"])


@both_ways
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([5, 40, 700]),
    spread=st.sampled_from([0.3, 2.0, 8.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    top_k=st.sampled_from([None, 1, 3, 300]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_support_and_logprob_follow_the_definition(
    compiled, seed, vocab, spread, temperature, top_p, top_k, min_p
):
    logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(seed)) * spread
    s = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, support=True)
    drawn = sample(logits, Rows([s.fork(i) for i in range(3)], vocab), torch.arange(3), compiled)
    assert drawn.support is not None
    for i in range(3):
        expected = set(drawn.support[i].tolist())
        # Where sums are within their rounding of top-p, one candidate more or less is right.
        assert reference_support(logits[i], s, -1e-6) <= expected <= reference_support(logits[i], s, 1e-6)
        token = int(drawn.ids[i])
        assert token in expected
        p = torch.softmax(logits[i].double() / temperature, -1)
        mass = sum(float(p[j]) for j in expected)
        assert float(drawn.logprobs[i]) == pytest.approx(math.log(float(p[token]) / mass), abs=1e-4)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([1, 2, 300, 5000]),
    spread=st.sampled_from([0.0, 0.01, 2.0, 8.0, 60.0]),
    top_p=st.sampled_from([1.0, 0.8997, 0.0103]),  # where equal candidates end no sum does
    top_k=st.sampled_from([None, 1, 40, 4000]),
    min_p=st.sampled_from([0.0, 1e-3, 1.0]),
    masked=st.sampled_from([0.0, 0.7]),
)
def test_compiled_code_draws_what_torch_draws(seed, vocab, spread, top_p, top_k, min_p, masked):
    """With ties, with logits of minus infinity, for rows that keep one token and rows that keep all."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, vocab, generator=generator) * spread
    hidden = torch.rand(4, vocab, generator=generator) < masked
    hidden[:, 0] = False
    logits.masked_fill_(hidden, -torch.inf)
    s = Sampling(top_p=top_p, top_k=top_k, min_p=min_p, support=True)
    rows = Rows([s.fork(i) for i in range(4)], vocab)
    plain, fast = (sample(logits, rows, torch.arange(4), compiled) for compiled in (False, True))
    assert plain.support is not None and fast.support is not None
    for i in range(4):
        # Which of two equal candidates comes first is open, and so are the last bits of sums.
        kept = [drawn.support[i] for drawn in (plain, fast)]
        torch.testing.assert_close(*(logits[i, ids].sort().values for ids in kept))
        torch.testing.assert_close(logits[i, plain.ids[i]], logits[i, fast.ids[i]])
        assert int(fast.ids[i]) in kept[1].tolist() and len(set(kept[1].tolist())) == len(kept[1])
    torch.testing.assert_close(plain.logprobs, fast.logprobs, atol=1e-5, rtol=1e-5)


def test_compiled_code_survives_logits_that_are_no_numbers():
    logits = torch.full((2, 9), torch.nan)
    logits[1] = torch.arange(9.0)
    rows = Rows([Sampling(top_p=0.5, support=True)] * 2, 9)
    drawn = sample(logits, rows, torch.arange(2), compiled=True)
    assert drawn.logprobs.isnan().tolist() == [True, False] and int(drawn.ids[1]) == 8
    assert drawn.support is not None and [ids.tolist() for ids in drawn.support] == [[], [8]]


@both_ways
def test_frequencies_follow_the_probabilities(compiled):
    """Chi-square over 40,000 draws, whole vocabulary and truncated."""
    torch.manual_seed(0)
    logits = torch.randn(12) * 1.5
    for s in (Sampling(), Sampling(top_p=0.8), Sampling(top_k=4, temperature=2.0)):
        kept = sorted(reference_support(logits, s))
        p = torch.softmax(logits[kept].double() / s.temperature, -1)
        count = 40_000
        rows = Rows([s] * 400, 12)
        ids = torch.cat(
            [
                sample(logits.expand(400, 12), rows, torch.arange(400) + 400 * i, compiled).ids
                for i in range(100)
            ]
        )
        observed = torch.stack([(ids == i).sum() for i in kept]).double()
        assert observed.sum() == count
        chi = float(((observed - count * p) ** 2 / (count * p)).sum())
        assert chi < 35, (s, chi)  # 11 degrees of freedom: exceeded once in 4,000


@both_ways
def test_a_row_does_not_depend_on_its_neighbours(compiled):
    torch.manual_seed(1)
    logits = torch.randn(9, 1000) * torch.linspace(0.1, 6, 9)[:, None]
    settings_ = [
        Sampling(
            temperature=(0, 0.5, 1.0)[i % 3], top_p=(1.0, 0.9)[i % 2], top_k=(None, 30, 400)[i % 3], seed=i
        )
        for i in range(9)
    ]
    together = sample(logits, Rows(settings_, 1000), torch.arange(9), compiled)
    for i in range(9):
        alone = sample(logits[i : i + 1], Rows(settings_[i : i + 1], 1000), torch.tensor([i]), compiled)
        assert alone.ids[0] == together.ids[i]
        assert alone.logprobs[0] == together.logprobs[i]


def test_uniforms_are_uniform_and_a_function_of_seed_and_index():
    u = uniforms(torch.arange(200).repeat_interleave(500), torch.arange(500).repeat(200))
    assert len(u.unique()) == 100_000 and float(u.min()) >= 0 and float(u.max()) < 1
    counts = torch.histc(u, 50, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 100  # 49 degrees of freedom
    assert uniforms(torch.tensor([7]), torch.tensor([3]))[0] == u[7 * 500 + 3]
    # The generator's definition, in plain integers.
    assert float(uniforms(torch.tensor([7]), torch.tensor([3]))[0]) == uniform_in_python(7, 3)


def uniform_in_python(seed: int, index: int) -> float:
    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    return (mix(mix(seed) ^ index * 0x632BE59BD9B4E019 % 2**64) >> 11) / 2**53


def test_penalties():
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.5]])
    s = Sampling(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    seen = torch.tensor([[True, True, False, True]])
    counts = torch.tensor([[0.0, 3.0, 0.0, 1.0]])
    out = penalise(logits, Rows([s], 4), torch.tensor([0]), seen, counts)
    assert out.tolist() == [[1.0, -4.0 - 0.5 - 0.75, 1.0, 0.25 - 0.5 - 0.25]]


def test_logit_bias_can_force_and_forbid():
    logits = torch.zeros(2, 5)
    rows = Rows(
        [Sampling(logit_bias={3: 1000.0}), Sampling(logit_bias={0: -1000, 1: -1000, 2: -1000, 4: -1000})], 5
    )
    for index in range(20):
        assert sample(logits, rows, torch.tensor([index, index])).ids.tolist() == [3, 3]


def test_greedy_takes_the_best_and_reports_a_point():
    logits = torch.tensor([[0.1, 3.0, 2.0]])
    drawn = sample(logits, Rows([Sampling(temperature=0, support=True)], 3), torch.tensor([0]))
    assert drawn.ids.tolist() == [1] and drawn.logprobs.tolist() == [0.0]
    assert drawn.support is not None and drawn.support[0].tolist() == [1]


@pytest.mark.fault("engine", "temperature, top-p or counts are impossible", "refused")
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": float("nan")},
        {"temperature": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"min_p": 2},
        {"max_tokens": -1},
        {"seed": 2**63},
        {"logprobs": 101},
        {"stop": ("",)},
        {"stop": tuple("a" * 65)},
        {"repetition_penalty": 0},
        {"presence_penalty": float("inf")},
        {"logit_bias": {1: float("nan")}},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(UsageError, match="sampling"):
        Sampling(**changes)


def test_forks_differ_and_the_first_is_itself():
    s = Sampling(seed=5)
    assert s.fork(0) == s
    assert len({s.fork(i).seed for i in range(1000)}) == 1000
    assert Sampling(stop="x").stop == ("x",)
