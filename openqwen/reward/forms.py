"""Comparisons in the files people have, brought to ours: messages, the preferred reply, the other.

Report §3.2.1, Table 4 (whose test sets are published in the first four forms). Forms are told apart by their keys:

    Anthropic hh-rlhf      {"chosen", "rejected"}: whole talks, "\\n\\nHuman: ...\\n\\nAssistant: ..."
    OpenAI summarisation   {"info": {"post" or "article", ...}, "summaries": [{"text"}, {"text"}], "choice": 0 or 1}
    Stanford SHP           {"history", "human_ref_A", "human_ref_B", "labels": 1 (A) or 0 (B)}
    OpenAI PRM800K         {"question": {"problem"}, "label": {"steps": [{"completions", ...}]}}
    AlpacaEval and others  {"prompt", "chosen", "rejected"}, the prompt a text or messages
    ShareGPT               {"conversations": [{"from", "value"}], "chosen", "rejected"}
    PandaLM                {"instruction", "input", "response1", "response2", "annotator1", ...}
    ranked                 {"instruction", "input", "output": [best, ..., worst], "history"}
    ours                   {"messages", "chosen", "rejected"}

Ours: of a step of PRM800K one pair, the best rated continuation and the worst rated; of a ranking its neighbours; of
several annotators the majority. Pure Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from openqwen.chat.messages import ASSISTANT, USER
from openqwen.chat.records import SHAREGPT_ROLES
from openqwen.core.errors import DataError

Record = Mapping[str, Any]
SPEAKERS = {"Human": USER, "Assistant": ASSISTANT}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
SUMMARISE = "Summarise this text."
UNDECIDED = "without a preference"


def comparisons(record: Record) -> list[dict[str, Any]]:
    """A record of any known form as comparisons {"messages", "chosen", "rejected", ...}, not yet checked.

    DataError, whose text continues "a pair ...", when the form is broken or nothing is preferred.
    """
    for keys, read in _FORMS:
        if all(record.get(key) is not None for key in keys):
            try:
                return list(read(record))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise DataError(f"that is broken ({', '.join(keys)})") from error
    raise DataError("of no known form")


def _ours(record: Record) -> Iterator[dict[str, Any]]:
    yield dict(record)


def _hh(record: Record) -> Iterator[dict[str, Any]]:
    """Two talks that differ in the last reply only."""
    chosen, rejected = (_turns(record[side]) for side in ("chosen", "rejected"))
    for talk in (chosen, rejected):
        if not talk or talk[-1]["role"] != ASSISTANT:
            raise DataError("without a reply at the end")
    if chosen[:-1] != rejected[:-1]:
        raise DataError("of two different talks")
    yield _pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def _turns(talk: str) -> list[dict[str, str]]:
    """Human and assistant in turn as messages."""
    before, *parts = _TURN.split(talk)
    if before.strip() or not parts:
        raise DataError("that is no talk of Human and Assistant")
    return [
        {"role": SPEAKERS[who], "content": text.strip()}
        for who, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _summaries(record: Record) -> Iterator[dict[str, Any]]:
    info = record["info"]
    text = info.get("post") or info["article"]
    title = f"{info['title']}\n\n" if info.get("title") else ""
    texts = [summary["text"] for summary in record["summaries"]]
    chosen, rejected = _decided(texts, record["choice"])
    yield _pair(_asked(f"{SUMMARISE}\n\n{title}{text}"), chosen, rejected)


def _shp(record: Record) -> Iterator[dict[str, Any]]:
    texts = [record["human_ref_A"], record["human_ref_B"]]
    place = {1: 0, 0: 1}.get(record["labels"])
    yield _pair(_asked(record["history"]), *_decided(texts, place))


def _steps(record: Record) -> Iterator[dict[str, Any]]:
    """Pairs of continuations of one solution. It goes on with the chosen step, or with the one the labeller wrote."""
    messages, done = _asked(record["question"]["problem"]), ""
    for step in record["label"]["steps"]:
        rated = [(c["rating"], c["text"]) for c in step["completions"] or () if c["rating"] is not None]
        if (written := step.get("human_completion")) is not None:
            rated.append((1, written["text"]))
        best = max(rated, key=lambda item: item[0], default=None)
        worst = min(rated, key=lambda item: item[0], default=None)
        if best is not None and worst is not None and best[0] > worst[0]:
            yield _pair(messages, f"{done}{best[1]}", f"{done}{worst[1]}")
        place = step["chosen_completion"]
        if place is None and written is None:
            return
        done += (written if place is None else step["completions"][place])["text"] + "\n"


def _prompted(record: Record) -> Iterator[dict[str, Any]]:
    prompt = record["prompt"]
    messages = _asked(prompt) if isinstance(prompt, str) else prompt
    sides = (_last_turn(record[side]) for side in ("chosen", "rejected"))
    yield _pair(messages, *sides)


def _sharegpt(record: Record) -> Iterator[dict[str, Any]]:
    messages = [
        {"role": SHAREGPT_ROLES.get(turn["from"], turn["from"]), "content": turn["value"]}
        for turn in record["conversations"]
    ]
    if record.get("system"):
        messages.insert(0, {"role": "system", "content": record["system"]})
    yield _pair(messages, _last_turn(record["chosen"]), _last_turn(record["rejected"]))


def _last_turn(side: Any) -> Any:
    """The reply: the text, the turn's text, or the text of the last turn of a talk."""
    turn = side[-1] if isinstance(side, list) else side
    return turn.get("content", turn.get("value")) if isinstance(turn, dict) else turn


def _voted(record: Record) -> Iterator[dict[str, Any]]:
    """1 and 2 name the better reply, 0 a tie; more than half of the annotators must name the same one."""
    votes = [vote for name, vote in sorted(record.items()) if name.startswith("annotator")]
    place = next((place for place in (1, 2) if 2 * votes.count(place) > len(votes)), None)
    texts = [record["response1"], record["response2"]]
    yield _pair(_instructed(record), *_decided(texts, None if place is None else place - 1))


def _ranked(record: Record) -> Iterator[dict[str, Any]]:
    replies, messages = record["output"], []
    if not isinstance(replies, list) or len(replies) < 2:
        raise DataError("with a missing side")
    for question, reply in record.get("history") or ():
        messages += [*_asked(question), {"role": ASSISTANT, "content": reply}]
    for better, worse in pairwise(replies):
        yield _pair([*messages, *_instructed(record)], better, worse)


def _instructed(record: Record) -> list[dict[str, str]]:
    more = record.get("input")
    return _asked(f"{record['instruction']}\n{more}" if more else record["instruction"])


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": USER, "content": text}]


def _decided(texts: list[Any], place: Any) -> tuple[Any, Any]:
    """Of two texts the preferred one, at `place`, then the other."""
    if place not in (0, 1) or len(texts) != 2:
        raise DataError(UNDECIDED)
    return texts[place], texts[1 - place]


def _pair(messages: list[dict[str, str]], chosen: Any, rejected: Any) -> dict[str, Any]:
    return {"messages": messages, "chosen": chosen, "rejected": rejected}


# Keys that a form has, those with the most first: {"chosen", "rejected"} stand in many.
_FORMS: tuple[tuple[tuple[str, ...], Callable[[Record], Iterator[dict[str, Any]]]], ...] = (
    (("messages",), _ours),
    (("info", "summaries", "choice"), _summaries),
    (("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    (("question", "label"), _steps),
    (("conversations",), _sharegpt),
    (("instruction", "response1", "response2", "annotator1"), _voted),
    (("instruction", "output"), _ranked),
    (("prompt",), _prompted),
    (("chosen", "rejected"), _hh),
)
