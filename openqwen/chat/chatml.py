"""ChatML, and nowhere else: messages to ids with the loss mask in one pass, and back.

Report §3.1, A.1.1. A message is

    <|im_start|>role NEWLINE content <|im_end|> NEWLINE

with role and content encoded separately, content as ordinary text: nothing a person or a document writes can
end a message. Two loss masks:

    "report"           content of the assistant and its <|im_end|>; system and user wholly masked (§3.1.2)
    "released-script"  as finetune.py trains: also <|im_start|>, <|im_end|> and the newline after it, of every role
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from openqwen.chat.messages import ASSISTANT, Message, check, with_system
from openqwen.core.errors import DataError, UsageError
from openqwen.tokenizer.tokenizer import IM_END, IM_START, Allowed, Tokenizer

Mask = Literal["report", "released-script"]
_MASKS = ("report", "released-script")


def render(
    messages: Sequence[Message],
    tok: Tokenizer,
    add_generation_prompt: bool = False,
    mask: Mask = "report",
    *,
    continue_last: bool = False,
    allowed_special: Allowed = frozenset(),
) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and for each whether it is trained. A missing system message gets the default one.

    add_generation_prompt: opens the assistant's turn at the end.
    continue_last: leaves the last message open, for a reply that is to be carried on (ReAct).
    allowed_special: names that content may turn into control ids; only the released script's behaviour needs it.
    """
    if mask not in _MASKS:
        raise UsageError(f"no loss mask called {mask!r}", fix=f"use one of: {', '.join(_MASKS)}")
    if continue_last and add_generation_prompt:
        raise UsageError("continue_last leaves the last turn open: add_generation_prompt cannot open another")
    if messages:
        check(messages)
    ids: list[int] = []
    trained: list[bool] = []
    whole = with_system(messages)
    for place, message in enumerate(whole):
        is_open = continue_last and place == len(whole) - 1
        part, part_mask = _render_message(message, tok, mask, is_open, allowed_special)
        ids += part
        trained += part_mask
    if add_generation_prompt:
        head = _head(ASSISTANT, tok)
        ids += head
        trained += [mask == "released-script", *[False] * (len(head) - 1)]
    return ids, trained


def render_prompt(messages: Sequence[Message], tok: Tokenizer) -> list[int]:
    """Ids up to where the assistant begins to speak."""
    return render(messages, tok, add_generation_prompt=True)[0]


def stop_ids(tok: Tokenizer) -> set[int]:
    """Ids that end a reply: <|im_end|>, <|im_start|> and <|endoftext|>."""
    return {tok.im_end_id, tok.im_start_id, tok.eos_id}


def as_text(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The conversation as one string, as people print it. Not a way to ids: content could pose as structure."""
    text = "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in with_system(messages))
    return text + (f"{IM_START}{ASSISTANT}\n" if add_generation_prompt else "")


def truncated(messages: Sequence[Message], tok: Tokenizer, max_window: int) -> list[Message]:
    """The conversation without the old turns that do not fit, by the rule of the released make_context.

    From the newest back, a turn (user and assistant) stays if the system message, the turns kept so far and
    the turn itself are shorter than `max_window` ids; the first that does not fit ends the search. The last
    user message and the generation prompt are not counted and always stay.
    """
    check(messages)
    whole = with_system(messages)
    system, history, query = whole[0], whole[1:-1], whole[-1:]
    if query == [system]:
        return whole
    # In make_context a turn begins with the newline that here ends the message before it: the sum is the same
    # but for the last, so one newline is taken off.
    used = len(_render_message(system, tok, "report")[0]) - len(_newline(tok))
    kept: list[Message] = []
    for turn in reversed(_turns(history)):
        length = sum(len(_render_message(message, tok, "report")[0]) for message in turn)
        if used + length >= max_window:
            break
        used += length
        kept = [*turn, *kept]
    return [system, *kept, *query]


def parse(ids: Sequence[int], tok: Tokenizer) -> list[dict[str, str]]:
    """The messages that ids hold. A message left open by the end of the ids is given with what it has."""
    ids = list(ids)
    newline = _newline(tok)
    messages = []
    at = 0
    while at < len(ids):
        if ids[at] != tok.im_start_id:
            raise DataError("a message begins with <|im_start|>", where=f"id {ids[at]} at position {at}")
        end = next(
            (i for i in range(at + 1, len(ids)) if ids[i] in (tok.im_end_id, tok.im_start_id)), len(ids)
        )
        role, content = _split_head(ids[at + 1 : end], newline, at)
        messages.append({"role": tok.decode(role), "content": tok.decode(content)})
        at = end
        if at < len(ids) and ids[at] == tok.im_end_id:
            at += 1
            at += len(newline) if ids[at : at + len(newline)] == newline else 0
    return messages


def reply_text(ids: Iterable[int], tok: Tokenizer) -> str:
    """The assistant's text in generated ids: up to the first id that ends a reply, stripped as the release does."""
    stops = stop_ids(tok)
    kept = []
    for token_id in ids:
        if token_id in stops:
            break
        kept.append(token_id)
    return tok.decode(kept).strip()


def released_reply(prompt_ids: Sequence[int], prompt: str, ids: Sequence[int], tok: Tokenizer) -> str:
    """The reply as the released decoding finds it, with its two flaws, for comparison with old results.

    Without an <|im_end|> or <|im_start|> the last id is lost; and the prompt is cut off by the length of its text
    before normalisation, so a prompt that is not NFC takes the beginning of the reply with it.
    """
    end = next(
        (i for i, token_id in enumerate(ids) if token_id in (tok.im_end_id, tok.im_start_id)), len(ids) - 1
    )
    return tok.decode([*prompt_ids, *ids[: max(end, 0)]])[len(prompt) :].strip()


def _newline(tok: Tokenizer) -> list[int]:
    return tok.encode("\n")


def _head(role: str, tok: Tokenizer) -> list[int]:
    return [tok.im_start_id, *tok.encode(role), *_newline(tok)]


def _render_message(
    message: Message,
    tok: Tokenizer,
    mask: Mask,
    is_open: bool = False,
    allowed_special: Allowed = frozenset(),
) -> tuple[list[int], list[bool]]:
    head = _head(message["role"], tok)
    content = tok.encode(message["content"], allowed_special)
    tail = [] if is_open else [tok.im_end_id, *_newline(tok)]
    speaks = message["role"] == ASSISTANT
    structure = mask == "released-script"
    trained = [structure] + [False] * (len(head) - 1) + [speaks] * len(content)
    if tail:
        trained += [speaks or structure] + [structure] * (len(tail) - 1)
    return head + content + tail, trained


def _turns(history: Sequence[Message]) -> list[list[Message]]:
    """History cut before every user message."""
    turns: list[list[Message]] = []
    for message in history:
        if message["role"] == ASSISTANT and turns:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _split_head(ids: list[int], newline: list[int], at: int) -> tuple[list[int], list[int]]:
    """A message's ids as role and content."""
    for i in range(len(ids)):
        if ids[i : i + len(newline)] == newline:
            return ids[:i], ids[i + len(newline) :]
    raise DataError("a role is followed by a newline", where=f"message at position {at}")
