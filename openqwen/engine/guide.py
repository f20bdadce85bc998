"""Masks over the vocabulary that keep a reply inside its constraint (constraint.py), through `llguidance`.

Ours. A grammar allows bytes, so any token can stand where its bytes may, whether they are whole characters or not;
control tokens can not, except those that end the reply, where it may end. The mask of the next token is
computed by another thread while the model computes: the library lets go of Python's lock meanwhile.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from openqwen.core.errors import MissingTool, UsageError
from openqwen.engine.constraint import Constraint

if TYPE_CHECKING:
    from openqwen.tokenizer import Tokenizer

KEPT = 16  # compiled constraints
# Work that one constraint may cause, where the library's own bounds would allow half a gigabyte and seconds.
LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
# Room between the parts of JSON is bounded: a weak model would fill its reply with blanks.
JSON_OPTIONS = {"whitespace_pattern": r"[ \n\t]{0,16}"}


class Grammars:
    """Compiled constraints of one tokenizer. `compile` may be called from any thread, to fail or be ready early."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._library = _library()
        self._words = self._library.LLTokenizer(
            self._library.TokenizerWrapper(_Words(tokenizer)), n_vocab=tokenizer.vocab_size
        )
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.control = torch.tensor(sorted(tokenizer.special.values()))
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def start(self, constraint: Constraint, stop_ids: Collection[int]) -> Guide:
        """A guide for one reply. UsageError if the constraint is wrong, too large, or nothing can fulfil it."""
        return Guide(self, constraint, self.compile(constraint).deep_copy(), stop_ids)

    def compile(self, constraint: Constraint) -> Any:
        """The library's matcher of a constraint, at its beginning."""
        with self._lock:
            if constraint not in self._compiled:
                self._compiled[constraint] = self._matcher(constraint)
                if len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(constraint)
            return self._compiled[constraint]

    def renew(self, constraint: Constraint) -> Any:
        """A matcher that shares nothing with others, at its beginning; the next request compiles anew, too."""
        with self._lock:
            self._compiled.pop(constraint, None)
        return self._matcher(constraint)

    def _matcher(self, constraint: Constraint) -> Any:
        library = self._library.LLMatcher
        limits = self._library.LLParserLimits(**LIMITS)
        matcher = library(self._words, self._grammar(constraint), log_level=0, limits=limits)
        wrong = matcher.get_error()
        if not wrong:
            allowed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            dead = matcher.is_stopped() and not matcher.is_accepting()
            wrong = matcher.get_error() or ("nothing can fulfil it" if dead or not allowed.any() else "")
        if wrong:
            raise UsageError(
                f"the {constraint.kind} constraint cannot be used: {_first_line(wrong)}",
                where=constraint.text[:80],
                fix="simplify it; look-around, back-references and remote references are not supported",
            )
        return matcher

    def _grammar(self, constraint: Constraint) -> str:
        library = self._library.LLMatcher
        if constraint.kind == "regex":
            return library.grammar_from_regex(constraint.text)
        if constraint.kind == "grammar":
            return library.grammar_from_lark(constraint.text)
        if constraint.kind == "choice":
            options = (json.dumps(option, ensure_ascii=False) for option in json.loads(constraint.text))
            return library.grammar_from_lark(f"start: {' | '.join(options)}")
        try:
            return library.grammar_from_json_schema(constraint.text, overrides=JSON_OPTIONS)
        except ValueError as error:
            raise UsageError(f"the JSON schema cannot be used: {error}") from error


class Guide:
    """One reply's way through its constraint: `mask` before each draw, `take` after it.

    Copies of a matcher share what the library has worked out, and its limits count all of them. Where a limit is
    reached, the reply goes on with a matcher of its own, so that others do not decide about it.
    """

    def __init__(
        self, grammars: Grammars, constraint: Constraint, matcher: Any, stop_ids: Collection[int]
    ) -> None:
        self._grammars, self._constraint, self._matcher = grammars, constraint, matcher
        self._ids: list[int] = []
        self._alone = False
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64)
        self._next: Future[Tensor] = grammars.pool.submit(self._compute)

    def mask(self) -> Tensor:
        """(V,) bool: what may come next."""
        return self._next.result()

    def failure(self) -> UsageError | None:
        """Why there is no mask, if the constraint has grown beyond its limits; waits for the mask."""
        error = self._next.exception()
        if error is None or isinstance(error, UsageError):
            return error
        raise error

    def take(self, token: int) -> bool:
        """Goes on with the token drawn; True if the reply is complete and nothing can follow."""
        self._ids.append(token)
        if not self._matcher.consume_token(token) and not self._alone:
            self._go_alone()
        if self._matcher.is_stopped() and not self._matcher.get_error():
            return True
        self._next = self._grammars.pool.submit(self._compute)
        return False

    def _go_alone(self) -> None:
        self._alone = True
        self._matcher = self._grammars.renew(self._constraint)
        for token in self._ids:
            self._matcher.consume_token(token)

    def _compute(self) -> Tensor:
        tokenizer = self._grammars.tokenizer
        bits = self._matcher.compute_bitmask()
        if self._matcher.get_error() and not self._alone:
            self._go_alone()
            bits = self._matcher.compute_bitmask()
        if wrong := self._matcher.get_error():
            raise UsageError(f"the constraint became too complex: {_first_line(wrong)}", fix="simplify it")
        words = np.frombuffer(bits, np.uint8)
        mask = torch.from_numpy(np.unpackbits(words, count=tokenizer.vocab_size, bitorder="little")).bool()
        may_end = bool(mask[tokenizer.eos_id])
        mask[self._grammars.control] = False
        if may_end:
            mask[self._stop_ids] = True
        return mask


class _Words:
    """The tokenizer as the library asks for it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.special_token_ids = sorted(tokenizer.special.values())
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise MissingTool(
            "constrained decoding needs llguidance", fix="pip install 'openqwen[constrain]'"
        ) from None
    return llguidance


def _first_line(message: str) -> str:
    return message.split("\n<state>")[0].strip().replace("\n", " ")[:300]
