"""The shapes OpenAI's clients expect back: choices, chunks, log-probabilities, usage, errors.

Ours; pure functions from what the engine reports to JSON-ready dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openqwen.engine.sequence import Completion, TokenScore
from openqwen.tokenizer import Tokenizer

Json = dict[str, Any]


def sse(data: Json) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


DONE = "data: [DONE]\n\n"


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage(completions: Sequence[Completion], prompts: int) -> Json:
    """OpenAI's usage of completions in order, equally many for each of `prompts`; each prompt counts once."""
    each = len(completions) // prompts
    prompt = sum(len(c.prompt_ids) for c in completions[::each])
    reply = sum(len(c.ids) for c in completions)
    return {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}


def token_text(token: int, tokenizer: Tokenizer) -> str:
    """A token as text; bytes that are no text of their own as `bytes:\\xe4\\xb8`, so that no two look alike."""
    raw = tokenizer.decode_bytes([token])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)


def chat_logprobs(scores: Sequence[TokenScore], stop: int | str | None, tokenizer: Tokenizer) -> Json:
    """The `logprobs` of a chat choice; the control token that ended the reply is left out.

    Control tokens have a name but no bytes: the bytes joined are the content.
    """

    def one(token: int, logprob: float) -> Json:
        raw = list(tokenizer.decode_bytes([token], skip_special_tokens=True))
        return {"token": token_text(token, tokenizer), "logprob": logprob, "bytes": raw}

    shown = [s for s in scores if s.id != stop]
    return {
        "content": [
            one(s.id, s.logprob) | {"top_logprobs": [one(i, value) for i, value in s.top]} for s in shown
        ],
        "refusal": None,
    }


def completion_logprobs(
    scores: Sequence[TokenScore | None], first: int | None, tokenizer: Tokenizer, offset: int = 0
) -> Json:
    """The `logprobs` of a text completion. first: the id of the leading token that has no score (echo)."""
    tokens: list[str] = []
    offsets: list[int] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for score in scores:
        token = first if score is None else score.id
        assert token is not None
        text = token_text(token, tokenizer)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        values.append(None if score is None else score.logprob)
        best = None if score is None else {token_text(i, tokenizer): value for i, value in score.top}
        if best is not None and score is not None:
            best[text] = score.logprob
        tops.append(best)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
