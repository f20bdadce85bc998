"""The engine: many requests at once through one live model.

Ours. A step computes one rectangle of prompt tokens and one token for every sequence whose prompt is complete,
then draws for all of them at once. `generate`, `stream` and `loglikelihood` drive the steps themselves; a server
calls `submit`, `step` and `cancel`.

    engine = Engine(model, tokenizer)
    engine.generate(["The capital of"], Sampling(temperature=0, max_tokens=16))[0].text

A request's tokens are a function of the request alone. In floating point the logits of a row can still differ in
the last bit with the size of the batch; `deterministic=True` removes that too (see deterministic.py for its cost).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from openqwen.chat import chatml
from openqwen.core.errors import DataError, UsageError
from openqwen.engine import native
from openqwen.engine.deterministic import BatchInvariant
from openqwen.engine.fast import decode
from openqwen.engine.guide import Grammars, Guide
from openqwen.engine.sampler import Draw, Rows, alternatives, penalise, sample
from openqwen.engine.sampling import Sampling
from openqwen.engine.scheduler import Piece, Scheduler
from openqwen.engine.scoring import Pair, loglikelihood
from openqwen.engine.sequence import Completion, Sequence, TokenScore, Update
from openqwen.engine.slots import Slots
from openqwen.engine.text import TextStream
from openqwen.model.cache import KVCache
from openqwen.model.config import CacheFormat, DecodeMode, Extension
from openqwen.model.pages import settle
from openqwen.model.qwen import Qwen
from openqwen.tokenizer import Tokenizer

Prompt = str | Seq[int]


class Engine:
    """Continuous batching over a model that may go on being trained between calls of `generate`.

    max_batch: sequences at once. budget: prompt tokens a step. max_length: longest prompt + reply; None: no limit.
    mode: what a reply does that grows beyond a chunk of dynamic NTK (see model/cache.py).
    compiled: decode few rows on a CPU by compiled code (native.py). MissingTool without a C++ compiler.
    cache: "int8" holds keys and values in 8 bits (model/cache_format.py); None: in the weights' dtype.
    Not thread-safe: one thread owns it.
    """

    def __init__(
        self,
        model: Qwen,
        tokenizer: Tokenizer,
        max_batch: int = 64,
        *,
        budget: int = 2048,
        max_length: int | None = None,
        deterministic: bool = False,
        mode: DecodeMode = "exact",
        compiled: bool = False,
        cache: CacheFormat | None = None,
    ) -> None:
        if model.config.vocab_size < tokenizer.vocab_size:
            raise DataError(
                f"the tokenizer has {tokenizer.vocab_size} ids, the model {model.config.vocab_size} embedding rows",
                fix="use the tokenizer the model was trained with",
            )
        self.model, self.tokenizer = model, tokenizer
        self.max_batch, self.max_length, self.deterministic = max_batch, max_length, deterministic
        if cache == "int8-released":
            raise UsageError(
                "the released int8 cache holds a prompt otherwise with each way to cut it: it is for comparisons",
                fix='use cache="int8"',
            )
        self.mode, self.held = mode, cache
        self.end_ids = frozenset(chatml.stop_ids(tokenizer))
        self.compiled = compiled
        if compiled:
            if deterministic:
                raise UsageError("compiled decoding has other last bits than deterministic arithmetic")
            if cache is not None:
                raise UsageError("compiled decoding reads no int8 cache", fix="leave one of the two out")
            native.library()  # an error now, not in the first step
            settle(model)
        self._slots: Slots | None = None
        self._grammars: Grammars | None = None
        self.scheduler = Scheduler(max_batch, budget, self._swap, self._claim, self._shares)
        self._requests: dict[int, Sequence] = {}
        self._next = 0
        self._rows: tuple[list[Sequence], Rows] | None = None
        self.tokens_computed = self.tokens_reused = 0

    # What people call

    def generate(
        self,
        prompts: Seq[Prompt],
        sampling: Sampling | Seq[Sampling],
        *,
        extension: Extension | Seq[Extension | None] | None = None,
    ) -> list[Completion]:
        """One completion a prompt, in order. One Sampling for all gives prompt i the seed of `fork(i)`.

        extension: of all prompts or of each; None is what the checkpoint says.
        """
        if isinstance(prompts, str):
            raise UsageError("prompts must be a list of strings or id lists, not one string")
        settings = self._settings(sampling, len(prompts))
        ways = extension if isinstance(extension, Seq) else [extension] * len(prompts)
        if len(ways) != len(prompts):
            raise UsageError(f"{len(prompts)} prompts but {len(ways)} extensions")
        with self._call():
            order = [self.submit(p, s, extension=e) for p, s, e in zip(prompts, settings, ways)]
            done: dict[int, Completion] = {}
            while self.scheduler:
                for update in self.step():
                    if update.completion is not None:
                        done[update.request] = _sound(update.completion)
        return [done[request] for request in order]

    def stream(self, prompt: Prompt, sampling: Sampling, *, remember: bool = False) -> Iterator[Update]:
        """Updates of one request as they come; the last one carries the completion. Closing it cancels.

        remember: the weights have not changed since the last call, so what the cache holds may be reused.
        """
        with self._call(remember):
            request = self.submit(prompt, sampling, stream=True)
            try:
                while request in self._requests:
                    for update in self.step():
                        if update.completion is not None:
                            _sound(update.completion)
                        yield update
            finally:
                self.cancel(request)

    def loglikelihood(self, pairs: Seq[Pair]) -> list[tuple[float, bool]]:
        """For each (prefix ids, continuation ids): log-probability of the continuation, and is it greedy?"""
        with self._call():
            return loglikelihood(self.model, self.tokenizer, pairs, self.max_batch, self.held)

    # What a server calls

    def submit(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        stream: bool = False,
        extension: Extension | None = None,
        guide: Guide | None = None,
    ) -> int:
        """Queues a request and returns its number. stream: updates carry text. extension: None is the checkpoint's.

        guide: what `guide` made of its constraint; None: it is compiled here.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        way = self.model.config.extension if extension is None else extension
        self._check(ids, sampling, way)
        cuts = bool(sampling.stop) or sampling.cutter is not None
        text = TextStream(self.tokenizer, sampling.stop, sampling.cutter) if stream or cuts else None
        sequence = Sequence(self._next, ids, sampling, self._stop_ids(sampling), text, way)
        sequence.guide = guide or self.guide(sampling)
        if sampling.penalised:
            sequence.seen = torch.zeros(self.tokenizer.vocab_size, dtype=torch.bool, device=self.device)
            sequence.seen[ids] = True
            sequence.counts = torch.zeros(self.tokenizer.vocab_size, device=self.device)
        self._next += 1
        self._requests[sequence.request] = sequence
        self.scheduler.waiting.append(sequence)
        return sequence.request

    def guide(self, sampling: Sampling) -> Guide | None:
        """What leads one reply through its constraint, for `submit`; None without one.

        Compiling takes time, so this may be called in another thread than the engine's, in one at a time. UsageError
        if nothing can fulfil the constraint.
        """
        if sampling.constraint is None:
            return None
        return self.grammars.start(sampling.constraint, self._stop_ids(sampling))

    def cancel(self, request: int) -> Completion | None:
        """Ends a request now and returns what it has; None if it had ended already."""
        sequence = self._requests.get(request)
        if sequence is None:
            return None
        sequence.finish_reason = "cancelled"
        if sequence.text is not None:
            sequence.text.finish()
        return self._finish(sequence)

    @torch.no_grad()
    def step(self) -> list[Update]:
        """Computes one step for everything that runs; reports the requests that got a token or ended."""
        with self._evaluating(), BatchInvariant() if self.deterministic else nullcontext():
            scheduler = self.scheduler
            scheduler.admit(share=len(scheduler) > 1)
            decoding = scheduler.running[: scheduler.decoding]
            hidden, ready = [], list(decoding)
            if decoding:
                hidden.append(self._decode(decoding))
            if pieces := scheduler.pieces():
                last, finished = self._prefill(pieces)
                hidden.append(last)
                ready += finished
            if not ready:
                return []
            return self._draw(torch.cat(hidden), ready)

    def forget(self) -> None:
        """Drops remembered prompt beginnings; needed when the weights changed between steps."""
        if self._slots is not None:
            self._slots.forget(len(self.scheduler.running))

    @property
    def grammars(self) -> Grammars:
        """What compiles constraints; made on first use. MissingTool without llguidance."""
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer)
        return self._grammars

    @property
    def device(self) -> torch.device:
        return self.model.embed.weight.device

    # How a step works

    def _decode(self, sequences: list[Sequence]) -> Tensor:
        """Feeds the newest token of each; hidden states (B, C)."""
        ids = torch.tensor([s.ids[-1] for s in sequences], device=self.device)[:, None]  # (B, 1)
        rows = self._cache().select(range(len(sequences)))
        self.tokens_computed += len(sequences)
        if self.deterministic:
            return self.model.hidden(ids, cache=rows)[:, 0]
        return decode(self.model, ids, rows, self.compiled)

    def _prefill(self, pieces: list[Piece]) -> tuple[Tensor, list[Sequence]]:
        """Feeds pieces of prompts; hidden states (b, C) at the last token of the prompts now complete."""
        running = self.scheduler.running
        parts = [running[p.row].prompt[p.start : p.start + p.count] for p in pieces]
        width = max(map(len, parts))
        ids = torch.tensor([part + [0] * (width - len(part)) for part in parts], device=self.device)  # (b, T)
        counts = torch.tensor([len(part) for part in parts], device=self.device)  # (b,)
        mask = None
        if min(map(len, parts)) < width:
            mask = torch.arange(width, device=self.device) < counts[:, None]  # (b, T)
        rows = self._cache().select([p.row for p in pieces])
        hidden = self.model.hidden(ids, mask, cache=rows)  # (b, T, C)
        self.tokens_computed += sum(map(len, parts))
        for i, piece in enumerate(pieces):
            if running[piece.row].sampling.prompt_logprobs is not None:
                self._score_prompt(running[piece.row], piece, hidden[i, : piece.count])
        complete = [i for i, p in enumerate(pieces) if running[p.row].missing == p.count]
        last = hidden[complete, counts[complete] - 1]  # (b', C)
        return last, self.scheduler.feed(pieces)

    def _score_prompt(self, sequence: Sequence, piece: Piece, hidden: Tensor) -> None:
        """Adds the model's log-probabilities of the prompt tokens that this piece (T, C) predicts."""
        if not sequence.prompt_scores:
            sequence.prompt_scores.append(None)
        targets = sequence.prompt[piece.start + 1 : piece.start + piece.count + 1]
        count = sequence.sampling.prompt_logprobs or 0
        for low in range(0, len(targets), 256):  # so that logits of a long prompt never exist at once
            part = targets[low : low + 256]
            logits = self._logits(hidden[low : low + len(part)])
            sequence.prompt_scores += token_scores(logits, part, count)

    def _logits(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, V) float32, without the rows that the embedding is padded with."""
        head = self.model.head
        if self.compiled and native.reads(head, hidden):
            return native.product(hidden, head.weight)[:, : self.tokenizer.vocab_size]
        return head(hidden)[:, : self.tokenizer.vocab_size].float()

    def _draw(self, hidden: Tensor, sequences: list[Sequence]) -> list[Update]:
        """Draws a token for each of the sequences whose last hidden state is given, (B, C)."""
        undrawn = [s for s in sequences if self._ends_undrawn(s)]
        if undrawn:
            kept = [i for i, s in enumerate(sequences) if s.finish_reason is None]
            updates = [Update(s.request, completion=self._finish(s)) for s in undrawn]
            return updates + (self._draw(hidden[kept], [sequences[i] for i in kept]) if kept else [])
        logits = raw = self._logits(hidden)
        if self._rows is None or self._rows[0] != sequences:
            samplings = [s.sampling for s in sequences]
            self._rows = (list(sequences), Rows(samplings, logits.shape[1], logits.device))
        rows = self._rows[1]
        if rows.penalised:
            logits = self._penalise(logits, rows, sequences)
        if any(s.guide is not None for s in sequences):
            logits = self._constrain(logits, sequences)
        index = torch.tensor([len(s.ids) for s in sequences], device=logits.device)
        drawn = sample(logits, rows, index, compiled=self.compiled and logits.device.type == "cpu")
        return self._take(drawn, raw, sequences)

    @staticmethod
    def _ends_undrawn(sequence: Sequence) -> bool:
        """Whether it ends here: only its prompt was wanted, or its constraint has become too complex."""
        if sequence.sampling.max_tokens == 0:
            sequence.finish_reason = "length"
        elif sequence.guide is not None and (error := sequence.guide.failure()) is not None:
            sequence.finish_reason, sequence.error = "error", error
            if sequence.text is not None:
                sequence.text.finish()
        return sequence.finish_reason is not None

    @staticmethod
    def _constrain(logits: Tensor, sequences: list[Sequence]) -> Tensor:
        """Logits (B, V) of rows with a constraint: minus infinity where it allows no token."""
        guided = {i: s.guide.mask() for i, s in enumerate(sequences) if s.guide is not None}
        which = torch.tensor(list(guided), device=logits.device)  # (b,)
        allowed = torch.stack(list(guided.values())).to(logits.device)  # (b, V)
        return logits.index_copy(0, which, logits[which].masked_fill(~allowed, -torch.inf))

    def _penalise(self, logits: Tensor, rows: Rows, sequences: list[Sequence]) -> Tensor:
        some = [s for s in sequences if s.seen is not None]
        which = torch.tensor([i for i, s in enumerate(sequences) if s.seen is not None], device=logits.device)
        seen = torch.stack([s.seen for s in some if s.seen is not None])  # (b, V)
        counts = torch.stack([s.counts for s in some if s.counts is not None])  # (b, V)
        return logits.index_copy(0, which, penalise(logits[which], rows, which, seen, counts))

    def _take(self, drawn: Draw, raw: Tensor, sequences: list[Sequence]) -> list[Update]:
        ids, logprobs = drawn.ids.tolist(), drawn.logprobs.tolist()
        updates = []
        for i, sequence in enumerate(sequences):
            score: tuple[TokenScore, ...] = ()
            if sequence.sampling.logprobs is not None:
                score = tuple(token_scores(raw[i : i + 1], ids[i : i + 1], sequence.sampling.logprobs))
                sequence.scores += score
            if sequence.sampling.support and drawn.support is not None:
                sequence.support.append(drawn.support[i])
            text = sequence.append(ids[i], logprobs[i])
            ended = self._finish(sequence) if sequence.finish_reason is not None else None
            updates.append(Update(sequence.request, (ids[i],), text, score, ended))
        return updates

    def _finish(self, sequence: Sequence) -> Completion:
        """Takes a sequence out of the engine."""
        assert sequence.finish_reason is not None
        self.scheduler.remove(sequence)
        del self._requests[sequence.request]
        self.tokens_reused += sequence.reused
        settings = sequence.sampling
        return Completion(
            ids=sequence.ids,
            text=self._text(sequence),
            logprobs=sequence.logprobs,
            finish_reason=sequence.finish_reason,
            prompt_ids=sequence.prompt,
            scores=None if settings.logprobs is None else sequence.scores,
            prompt_scores=None if settings.prompt_logprobs is None else sequence.prompt_scores,
            support=sequence.support if settings.support else None,
            stop=sequence.stop,
            reused=sequence.reused,
            error=sequence.error,
        )

    def _text(self, sequence: Sequence) -> str:
        if sequence.text is not None:
            return sequence.text.text
        ids = sequence.ids[:-1] if sequence.stop is not None else sequence.ids
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    # Bookkeeping

    def _stop_ids(self, sampling: Sampling) -> frozenset[int]:
        return self.end_ids if sampling.stop_ids is None else frozenset(sampling.stop_ids)

    def _settings(self, sampling: Sampling | Seq[Sampling], count: int) -> list[Sampling]:
        if isinstance(sampling, Sampling):
            return [sampling.fork(i) for i in range(count)]
        if len(sampling) != count:
            raise UsageError(f"{count} prompts but {len(sampling)} sampling settings")
        return list(sampling)

    def _check(self, ids: list[int], sampling: Sampling, extension: Extension) -> None:
        if not ids:
            raise UsageError("the prompt is empty", fix="give at least one token, for example <|endoftext|>")
        if min(ids) < 0 or max(ids) >= self.model.config.vocab_size:
            raise UsageError(f"the prompt has an id outside the vocabulary of {self.model.config.vocab_size}")
        if any(not 0 <= i < self.tokenizer.vocab_size for i in sampling.logit_bias):
            raise UsageError(f"logit_bias names an id outside the vocabulary of {self.tokenizer.vocab_size}")
        layers = self.model.config.num_layers
        if extension.windows is not None and len(extension.windows) != layers:
            raise UsageError(f"{len(extension.windows)} windows for a model of {layers} layers")
        total = len(ids) + sampling.max_tokens
        if self.max_length is not None and total > self.max_length:
            raise UsageError(
                f"the prompt's {len(ids)} tokens and {sampling.max_tokens} new ones exceed the context"
                f" of {self.max_length} tokens",
                fix="shorten the prompt or ask for fewer tokens",
            )

    def _cache(self) -> KVCache:
        return self._ensure_slots().cache

    def _ensure_slots(self) -> Slots:
        weight = self.model.embed.weight
        cache = self._slots.cache if self._slots else None
        if cache is None or cache.device != weight.device or cache.dtype != weight.dtype:
            assert not self.scheduler.running, "the model moved while requests were running"
            cache = KVCache(
                self.model.config,
                self.max_batch + 1,
                64,
                dtype=weight.dtype,
                device=weight.device,
                mode=self.mode,
                keep_all=self.deterministic,
                held=self.held,
            )
            self._slots = Slots(cache, remember=True)
        assert self._slots is not None
        return self._slots

    def _swap(self, a: int, b: int) -> None:
        self._ensure_slots().swap(a, b)

    def _claim(self, sequence: Sequence, row: int) -> int:
        reuse = sequence.sampling.prompt_logprobs is None  # else every prompt token must be computed
        return self._ensure_slots().claim(sequence.prompt, sequence.extension, row, reuse)

    def _shares(self, sequence: Sequence, other: Sequence) -> bool:
        return self._ensure_slots().shares(sequence.extension, len(sequence.prompt), len(other.prompt))

    @contextmanager
    def _call(self, remember: bool = False) -> Iterator[None]:
        """A call that drives the steps itself: the engine must be idle, and the weights may have changed."""
        if self.scheduler:
            raise UsageError("the engine is busy with other requests", fix="use submit and step")
        if not remember:
            self.forget()
        with self._evaluating():
            try:
                yield
            finally:
                for request in list(self._requests):
                    self.cancel(request)

    def _evaluating(self) -> AbstractContextManager[None]:
        return _in_evaluation(self.model) if self.model.training else nullcontext()


@contextmanager
def _in_evaluation(model: torch.nn.Module) -> Iterator[None]:
    model.eval()
    try:
        yield
    finally:
        model.train()


def _sound(completion: Completion) -> Completion:
    if completion.error is not None:
        raise completion.error
    return completion


def token_scores(logits: Tensor, chosen: list[int], count: int) -> list[TokenScore]:
    """logits (N, V) -> the score of each chosen id with its `count` best alternatives."""
    own, values, ids = alternatives(logits, torch.tensor(chosen, device=logits.device), count)
    tops = [tuple(zip(i, v)) for i, v in zip(ids.tolist(), values.tolist())]
    return [TokenScore(token, logprob, top) for token, logprob, top in zip(chosen, own.tolist(), tops)]
