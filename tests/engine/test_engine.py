"""The engine against decoding without cache or batch, alone and in company."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from openqwen.core.errors import DataError, UsageError
from openqwen.engine import Engine, Sampling
from openqwen.model import Extension, KVCache

GREEDY = Sampling(temperature=0, max_tokens=20, stop_ids=())


def prompts(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(256) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def test_greedy_equals_decoding_without_a_cache(model, tokenizer, naive):
    texts = prompts(20)
    engine = Engine(model, tokenizer, max_batch=7, budget=50)
    for prompt, reply in zip(texts, engine.generate(texts, GREEDY)):
        assert reply.ids == naive(model, prompt, 20, set())
        assert reply.prompt_ids == prompt
        assert reply.finish_reason == "length" and len(reply.logprobs) == 20


def test_stop_id_ends_the_reply_and_is_kept_in_ids_only(model, tokenizer, naive):
    prompt = tokenizer.encode("stop")
    free = naive(model, prompt, 20, set())
    stop = free[5]
    reply = Engine(model, tokenizer).generate(
        [prompt], Sampling(temperature=0, max_tokens=20, stop_ids=(stop,))
    )[0]
    assert reply.ids == free[: free.index(stop) + 1]
    assert reply.finish_reason == "stop" and reply.stop == stop
    assert reply.text == tokenizer.decode(reply.ids[:-1], skip_special_tokens=True)


def test_default_stop_ids_are_the_end_tokens(model, tokenizer):
    bias = {tokenizer.im_end_id: 1e6}
    reply = Engine(model, tokenizer).generate(["x"], Sampling(temperature=0, logit_bias=bias))[0]
    assert reply.ids == [tokenizer.im_end_id] and reply.text == "" and reply.finish_reason == "stop"


def test_stop_string_is_found_across_tokens_and_cut(model, tokenizer):
    engine = Engine(model, tokenizer)
    sampling = Sampling(seed=4, max_tokens=60, stop_ids=(), top_k=50)
    free = engine.generate(["abc"], sampling)[0]
    needle = next(free.text[i : i + 3] for i in range(10, 40) if free.text[i : i + 3].isascii())
    stopped = engine.generate(
        ["abc"], Sampling(seed=4, max_tokens=60, stop_ids=(), top_k=50, stop=(needle,))
    )[0]
    assert stopped.text == free.text[: free.text.index(needle)]
    assert stopped.stop == needle and stopped.finish_reason == "stop"
    assert len(stopped.ids) < len(free.ids)


def test_streamed_text_is_the_text(model, tokenizer):
    engine = Engine(model, tokenizer)
    sampling = Sampling(seed=1, max_tokens=80, stop_ids=(), stop=("zz",))
    updates = list(engine.stream("hello", sampling))
    whole = engine.generate(["hello"], sampling)[0]
    assert "".join(u.text for u in updates) == whole.text
    assert [i for u in updates for i in u.ids] == whole.ids
    assert [u.completion is not None for u in updates] == [False] * (len(updates) - 1) + [True]


@pytest.mark.fault("engine", "a reader leaves in the middle of a stream", "its place is free")
def test_closing_a_stream_frees_the_engine(model, tokenizer):
    engine = Engine(model, tokenizer)
    stream = engine.stream("hello", Sampling(max_tokens=50, stop_ids=()))
    next(stream)
    stream.close()
    assert len(engine.scheduler) == 0
    assert engine.generate(["hello"], GREEDY)[0].finish_reason == "length"


def test_a_request_alone_equals_the_request_among_others(model, tokenizer):
    texts = prompts(30, seed=5)
    settings = [
        Sampling(temperature=(i % 4) * 0.5, top_p=(1.0, 0.9)[i % 2], top_k=(None, 5, 40)[i % 3], seed=i,
                 max_tokens=3 + i, stop_ids=(), repetition_penalty=(1.0, 1.3)[i % 2])
        for i in range(30)
    ]  # fmt: skip
    together = Engine(model, tokenizer, max_batch=8, budget=64).generate(texts, settings)
    engine = Engine(model, tokenizer)
    for i in range(30):
        alone = engine.generate([texts[i]], [settings[i]])[0]
        assert alone.ids == together[i].ids
        assert alone.text == together[i].text


def test_one_sampling_for_all_gives_equal_prompts_different_replies(model, tokenizer):
    sampling = Sampling(max_tokens=12, stop_ids=(), seed=9)
    replies = Engine(model, tokenizer).generate(["same"] * 4, sampling)
    assert len({tuple(r.ids) for r in replies}) == 4
    assert replies[0].ids == Engine(model, tokenizer).generate(["same"], sampling)[0].ids
    again = Engine(model, tokenizer).generate(["same"] * 4, sampling)
    assert [r.ids for r in again] == [r.ids for r in replies]


WAYS: tuple[Extension | None, ...] = (
    None,  # as the checkpoint says: dynamic NTK and LogN
    Extension(windows=(9, 40)),
    Extension(),
    Extension(dynamic_ntk=True, logn=True, windows=(30, 150)),
)


def test_shared_beginnings_are_computed_once(model, tokenizer):
    header = list(range(65, 165))
    texts = [[*header, i] for i in range(20)]
    engine = Engine(model, tokenizer, max_batch=8)
    replies = engine.generate(texts, Sampling(temperature=0, max_tokens=2, stop_ids=()))
    assert sum(r.reused for r in replies) == 19 * 100
    assert engine.tokens_computed == 100 + 20 + 20


@pytest.mark.parametrize(("windows", "steps"), [(None, 2), ((60, 90), 1), ((120, 120), 2)])
def test_a_prompt_waits_for_an_equal_beginning_only_if_it_can_have_it(model, tokenizer, windows, steps):
    """A window that has let keys go leaves nothing to begin from."""
    engine = Engine(model, tokenizer)
    for last in (1, 2):
        way = Extension(windows=windows)
        engine.submit([*range(100), last], Sampling(temperature=0, max_tokens=2, stop_ids=()), extension=way)
    first: dict[int, int] = {}
    for step in range(1, 5):
        for update in engine.step():
            first.setdefault(update.request, step)
    assert first == {0: 1, 1: steps}
    assert engine.tokens_reused == (100 if steps == 2 else 0)


@pytest.mark.fault("engine", "weights change between calls", "nothing remembered of the old ones is used")
def test_changed_weights_are_seen(model, tokenizer):
    import copy

    trained = copy.deepcopy(model)
    engine = Engine(trained, tokenizer)
    before = engine.generate(["weights matter"], GREEDY)[0]
    with torch.no_grad():
        trained.head.weight.copy_(trained.head.weight.roll(1, 0))
        trained.embed.weight.mul_(0.7)
    after = engine.generate(["weights matter"], GREEDY)[0]
    assert after.ids == Engine(trained, tokenizer).generate(["weights matter"], GREEDY)[0].ids != before.ids


def test_training_mode_is_restored_and_dropout_is_off(tokenizer):
    from tests.engine.conftest import tiny

    model = tiny(tokenizer.vocab_size, dropout=0.5).train()
    engine = Engine(model, tokenizer)
    first, second = (engine.generate(["abc"], GREEDY)[0].ids for _ in range(2))
    assert first == second and model.training
    loss = model(torch.tensor([[1, 2, 3]])).sum()
    loss.backward()  # nothing of the engine is left behind


def test_logprobs_are_those_of_the_truncated_distribution(model, tokenizer):
    sampling = Sampling(
        temperature=0.7, top_p=0.8, seed=3, max_tokens=15, stop_ids=(), support=True, logprobs=4
    )
    reply = Engine(model, tokenizer).generate(["logprobs"], sampling)[0]
    ids = torch.tensor([reply.prompt_ids + reply.ids])
    with torch.no_grad():
        logits = model(ids)[0, len(reply.prompt_ids) - 1 : -1]
    assert reply.support is not None and reply.scores is not None
    for i, token in enumerate(reply.ids):
        p = torch.softmax(logits[i] / 0.7, -1)
        ordered, order = p.sort(descending=True)
        kept = order[ordered.cumsum(0) - ordered < 0.8]
        assert set(reply.support[i].tolist()) == set(kept.tolist())
        expected = (p[token] / p[kept].sum()).log()
        assert reply.logprobs[i] == pytest.approx(float(expected), abs=1e-4)
        own = torch.log_softmax(logits[i], -1)
        assert reply.scores[i].logprob == pytest.approx(float(own[token]), abs=1e-4)
        assert [t[0] for t in reply.scores[i].top] == own.topk(4).indices.tolist()


def test_prompt_scores(model, tokenizer):
    prompt = tokenizer.encode("score each of these tokens, please")
    reply = Engine(model, tokenizer, budget=7).generate([prompt], Sampling(max_tokens=0, prompt_logprobs=2))[
        0
    ]
    assert reply.ids == [] and reply.finish_reason == "length"
    with torch.no_grad():
        logp = torch.log_softmax(model(torch.tensor([prompt]))[0], -1)
    assert reply.prompt_scores is not None and reply.prompt_scores[0] is None
    assert len(reply.prompt_scores) == len(prompt)
    for i, score in enumerate(reply.prompt_scores[1:], 1):
        assert score is not None and score.id == prompt[i]
        assert score.logprob == pytest.approx(float(logp[i - 1, prompt[i]]), abs=1e-4)
        assert score.top[0][0] == int(logp[i - 1].argmax())


def test_beyond_the_training_length(tokenizer, naive):
    """Dynamic NTK and LogN change the computation at 128 tokens; prompts before, at and after it agree."""
    from tests.engine.conftest import tiny

    model = tiny(tokenizer.vocab_size)
    assert model.config.dynamic_ntk and model.config.logn
    texts = [prompts(1, seed=i, longest=1)[0] * n for i, n in enumerate((100, 120, 127, 128, 129, 250, 300))]
    engine = Engine(model, tokenizer, max_batch=4, budget=90)
    for prompt, reply in zip(texts, engine.generate(texts, GREEDY)):
        assert reply.ids == naive(model, prompt, 20, set()), len(prompt)


def test_a_batch_of_different_extensions_gives_each_what_it_gets_alone(model, tokenizer):
    texts = [
        prompts(1, seed=i, longest=1)[0] * n for i, n in enumerate((100, 127, 129, 140, 250, 258, 300, 60))
    ]
    ways = [WAYS[i % 4] for i in range(8)]
    replies = Engine(model, tokenizer, max_batch=5, budget=90).generate(texts, GREEDY, extension=ways)
    for text, way, reply in zip(texts, ways, replies):
        ids = list(text)
        for _ in range(20):
            ids.append(int(model(torch.tensor([ids]), extension=way)[0, -1].argmax()))
        assert reply.ids == ids[len(text) :]


def test_a_conversation_beyond_the_training_length_goes_on_from_what_is_held(model, tokenizer):
    """With windows a row can be continued but not cut; under dynamic NTK only within its chunk."""
    first = prompts(1, seed=3, longest=1)[0] * 150
    for way, reused in ((WAYS[0], 159), (WAYS[3], 159), (WAYS[1], 159)):
        engine = Engine(model, tokenizer)
        runs = []
        for prompt in (first, None, first):
            prompt = prompt or [*first, *runs[0].ids, 65, 66]
            ids = engine.submit(prompt, Sampling(temperature=0, max_tokens=10, stop_ids=()), extension=way)
            while engine.scheduler:
                runs += [u.completion for u in engine.step() if u.request == ids and u.completion]
        assert runs[1].reused == reused
        assert runs[2].reused == (0 if way and way.windows else 149)
        assert runs[2].ids == runs[0].ids
        fresh = Engine(model, tokenizer).generate([runs[1].prompt_ids], GREEDY, extension=way)[0]
        assert runs[1].ids == fresh.ids[:10]


def test_released_mode_keeps_the_base_of_the_prompt(model, tokenizer):
    """Whatever the pieces a prompt is fed in: the twin decodes through the cache, the prompt in one call."""
    draw = random.Random(4)
    prompt = [draw.randrange(256) for _ in range(250)]
    cache = KVCache(model.config, 1, mode="released")
    fed, ids = torch.tensor([prompt]), []
    with torch.no_grad():
        for _ in range(20):
            ids.append(int(model(fed, cache=cache)[0, -1].argmax()))
            fed = torch.tensor([ids[-1:]])
    scored = dataclasses.replace(GREEDY, logprobs=0)
    released = Engine(model, tokenizer, budget=60, mode="released").generate([prompt], scored)[0]
    exact = Engine(model, tokenizer, budget=60).generate([prompt], scored)[0]
    assert released.ids == ids
    difference = [abs(a.logprob - b.logprob) for a, b in zip(released.scores, exact.scores)]
    assert max(difference[:7]) < 1e-4 < 1e-3 < min(difference[7:9])  # the 257th token enters the next chunk


def test_loglikelihood_equals_whole_forward_passes(model, tokenizer):
    draw = random.Random(2)
    header = list(range(60, 100))
    pairs = []
    for i in range(40):
        prefix = header[: draw.choice([0, 5, 40])] + prompts(1, seed=i, longest=30)[0]
        for n in (1, 1, draw.randint(2, 9)):
            pairs.append((prefix, prompts(1, seed=100 + i + n, longest=1)[0] * n))
    pairs.append(([], [65, 66]))
    pairs.append(([65], []))
    got = Engine(model, tokenizer, max_batch=6).loglikelihood(pairs)
    for (prefix, continuation), (value, greedy) in zip(pairs, got):
        start = prefix or [tokenizer.eos_id]
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([start + continuation]))[0], -1)
        rows = logp[len(start) - 1 : len(start) - 1 + len(continuation)]
        expected = sum(float(row[i]) for row, i in zip(rows, continuation))
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == all(int(row.argmax()) == i for row, i in zip(rows, continuation))


def test_rows_that_pad_the_embedding_are_never_drawn(tokenizer):
    from tests.engine.conftest import tiny

    model = tiny(tokenizer.vocab_size + 48)
    with torch.no_grad():
        model.head.weight[tokenizer.vocab_size :] = model.head.weight[:48] * 50
    reply = Engine(model, tokenizer).generate(["pad"], Sampling(temperature=2.0, max_tokens=50, stop_ids=()))[
        0
    ]
    assert max(reply.ids) < tokenizer.vocab_size


@pytest.mark.fault(
    "engine", "prompts are empty, too long or hold foreign ids", "refused before they are queued"
)
def test_bad_requests(model, tokenizer):
    engine = Engine(model, tokenizer, max_length=30)
    for prompt, sampling in (
        ([], GREEDY),
        ([10**6], GREEDY),
        ([1] * 20, GREEDY),
        ([1], Sampling(logit_bias={10**6: 1.0})),
    ):
        with pytest.raises(UsageError):
            engine.generate([prompt], sampling)
    with pytest.raises(UsageError, match="list of strings"):
        engine.generate("text", GREEDY)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 prompts but 1"):
        engine.generate(["a", "b"], [GREEDY])
    assert engine.generate(["fine"], GREEDY)[0].finish_reason == "length"


def test_a_tokenizer_too_large_for_the_model_is_refused(tokenizer):
    from tests.engine.conftest import tiny

    with pytest.raises(DataError, match="embedding rows"):
        Engine(tiny(100), tokenizer)
