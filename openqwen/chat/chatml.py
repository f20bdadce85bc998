"""ChatML, and nowhere else: messages to ids with the loss mask in one pass, and back.

Report §3.1, A.1.1. A message is five stretches of ids, and a loss mask says which of them are trained:

                         <|im_start|>   role NEWLINE   content    <|im_end|>   NEWLINE
    "report"             no             no             replies    replies      no        (§3.1.2; the default)
    "released-script"    yes            no             replies    yes          yes       (as finetune.py does)
    "everything"         yes            yes            yes        yes          yes       (what §5.1 compares with)

"Replies" are the assistant's messages. Role and content are encoded separately and content as ordinary text:
nothing that a person, a document or a tool writes can end a message or begin one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, get_args

from openqwen.chat.messages import ASSISTANT, Message, check, with_system
from openqwen.core.errors import DataError, UsageError
from openqwen.tokenizer.tokenizer import END_OF_TEXT, IM_END, IM_START, Allowed, Tokenizer

Mask = Literal["report", "released-script", "everything"]
Stretch = tuple[list[int], bool]  # ids, and whether they are trained


def render(
    messages: Sequence[Message],
    tok: Tokenizer,
    add_generation_prompt: bool = False,
    mask: Mask = "report",
    *,
    continue_last: bool = False,
    allowed_special: Allowed = frozenset(),
) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and for each whether it is trained. The default system message if it has none.

    add_generation_prompt: opens the assistant's turn at the end.
    continue_last: leaves the last message open, for a reply that is to be carried on (ReAct).
    allowed_special: names that content may turn into control ids; only to repeat the released script.
    """
    if mask not in get_args(Mask):
        raise UsageError(f"no loss mask called {mask!r}", fix=f"use one of: {', '.join(get_args(Mask))}")
    if continue_last and add_generation_prompt:
        raise UsageError("continue_last leaves the last turn open: add_generation_prompt cannot open another")
    if messages:
        check(messages)
    stretches: list[Stretch] = []
    for message in with_system(messages):
        stretches += _stretches(message, tok, mask, allowed_special)
    if continue_last:
        del stretches[-2:]  # <|im_end|> NEWLINE
    if add_generation_prompt:
        stretches += _stretches({"role": ASSISTANT, "content": ""}, tok, mask)[
            :2
        ]  # <|im_start|> role NEWLINE
    ids = [token_id for part, _ in stretches for token_id in part]
    return ids, [is_trained for part, is_trained in stretches for _ in part]


def _stretches(
    message: Message, tok: Tokenizer, mask: Mask = "report", allowed_special: Allowed = frozenset()
) -> list[Stretch]:
    """The row of the table above for one message."""
    everything, structure = mask == "everything", mask != "report"
    is_reply = everything or message["role"] == ASSISTANT
    newline = tok.encode("\n")
    return [
        ([tok.im_start_id], structure),
        (tok.encode(message["role"]) + newline, everything),
        (tok.encode(message["content"], allowed_special), is_reply),
        ([tok.im_end_id], is_reply or structure),
        (newline, structure),
    ]


def render_prompt(messages: Sequence[Message], tok: Tokenizer) -> list[int]:
    """Ids up to where the assistant begins to speak."""
    return render(messages, tok, add_generation_prompt=True)[0]


def as_text(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The conversation as one string, as people print it. No way to ids: content could pose as structure."""
    text = "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in with_system(messages))
    return text + (f"{IM_START}{ASSISTANT}\n" if add_generation_prompt else "")


def parse(ids: Iterable[int], tok: Tokenizer) -> list[dict[str, str]]:
    """The messages that ids hold. A reply that stops without <|im_end|> is given with what it has.

    <|endoftext|> after a message (the end of a generation, padding) is passed over.
    """
    ids = list(ids)
    newline = tok.encode("\n")
    messages = []
    at = 0
    while at < len(ids):
        if ids[at] != tok.im_start_id:
            raise DataError("a message begins with <|im_start|>", where=f"id {ids[at]} at position {at}")
        end = _first(stop_ids(tok), ids, at + 1)
        line_end = _first(newline, ids, at + 1)
        if line_end >= end:
            raise DataError("a role is followed by a newline", where=f"message at position {at}")
        role, content = ids[at + 1 : line_end], ids[line_end + 1 : end]
        messages.append({"role": tok.decode(role), "content": tok.decode(content)})
        at = end
        for closing in (tok.im_end_id, *newline):
            at += ids[at : at + 1] == [closing]
        while ids[at : at + 1] == [tok.eos_id]:
            at += 1
    return messages


def truncated(messages: Sequence[Message], tok: Tokenizer, max_window: int) -> list[Message]:
    """The conversation without the old turns that do not fit, by the rule of the released make_context.

    A turn is a user message with the reply to it. From the newest back, a turn stays if the system message,
    the turns kept so far and the turn itself are shorter than `max_window` ids; the first that does not fit
    ends the search. The last turn (the query) and the generation prompt are not counted and always stay.
    """
    check(messages)
    system, *rest = with_system(messages)
    *history, query = _turns(rest) or [[]]
    # In make_context a turn begins with the newline that here ends the message before it: the sum is the same
    # but for the last, so one newline is taken off.
    used = _length(system, tok) - 1
    kept: list[Message] = []
    for turn in reversed(history):
        used += sum(_length(message, tok) for message in turn)
        if used >= max_window:
            break
        kept = [*turn, *kept]
    return [system, *kept, *query]


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages cut before every one that is no reply."""
    turns: list[list[Message]] = []
    for message in messages:
        if message["role"] == ASSISTANT and turns:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _length(message: Message, tok: Tokenizer) -> int:
    return sum(len(part) for part, _ in _stretches(message, tok))


def stop_ids(tok: Tokenizer) -> set[int]:
    """Ids that end a reply: <|im_end|>, <|im_start|> and <|endoftext|>."""
    return {tok.im_end_id, tok.im_start_id, tok.eos_id}


def reply_text(ids: Iterable[int], tok: Tokenizer) -> str:
    """The assistant's text in generated ids: up to the first that ends a reply, stripped as in the release."""
    ids = list(ids)
    return tok.decode(ids[: _first(stop_ids(tok), ids)]).strip()


def released_reply(
    prompt_ids: Sequence[int],
    prompt: str,
    ids: Sequence[int],
    tok: Tokenizer,
    chat_format: Literal["chatml", "raw"] = "chatml",
) -> str:
    """The reply as the released decoding finds it, with its flaws, for comparison with old results.

    The prompt is cut off by the length of its text before normalisation: one that is not NFC takes the
    beginning of the reply with it. ChatML without an <|im_end|> or <|im_start|> loses its last id. "raw" is
    the format of base models, whose prompt is text as it is: <|endoftext|> is dropped, what follows it stays.
    """
    if chat_format == "chatml":
        end = _first({tok.im_end_id, tok.im_start_id}, ids)
        ids = ids[: end if end < len(ids) else -1]
    text = tok.decode([*prompt_ids, *ids])[len(prompt) :]
    return (text.replace(END_OF_TEXT, "") if chat_format == "raw" else text).strip()


def _first(wanted: Collection[int], ids: Sequence[int], start: int = 0) -> int:
    """The place of the first wanted id from `start` on; the end if there is none."""
    return next((place for place in range(start, len(ids)) if ids[place] in wanted), len(ids))
