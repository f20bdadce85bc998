"""Targets of a coverage-guided fuzzer (atheris): bytes from it become requests, conversations, ReAct texts, ids.

    python tests/faults/guided.py react -max_total_time=60

libFuzzer's own options follow the name of a target. Whatever raises beyond the errors for people is a crash; so is an answer
that differs from the one it must equal.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import unicodedata
from collections.abc import Callable

import atheris

with atheris.instrument_imports(
    include=["openqwen.chat", "openqwen.serve", "openqwen.tokenizer", "openqwen.engine.text"]
):
    from openqwen.chat import chatml, react
    from openqwen.chat.react_stream import ReplyStream
    from openqwen.core.errors import DataError
    from openqwen.engine.text import TextStream, first_stop
    from openqwen.serve import schema
    from openqwen.serve.body import _read
    from openqwen.serve.guard import ApiError
    from openqwen.tokenizer import Tokenizer
    from openqwen.tokenizer.stream import StreamDecoder

TOKENIZER = Tokenizer(
    {bytes([i]): i for i in range(256)} | {"你".encode()[:2]: 256, b"<|": 257}, encoder="tiktoken"
)
CONTROL = sorted(TOKENIZER.special.values())
BODIES = (schema.ChatRequest, schema.CompletionRequest, schema.TokenizeRequest, schema.DetokenizeRequest)


def request(data: bytes) -> None:
    """A body is one of ours or an error for the client."""
    for kind in BODIES:
        try:
            _read(data, kind)
        except ApiError as error:
            assert 400 <= error.status < 500


def conversation(data: bytes) -> None:
    """No content becomes a control id, messages come back as they went; any ids at all are a conversation or refused."""
    take = atheris.FuzzedDataProvider(data)
    roles = ("system", "user", "assistant")
    count = take.ConsumeIntInRange(1, 4)
    said = [take.ConsumeUnicodeNoSurrogates(take.ConsumeIntInRange(0, 60)) for _ in range(count)]
    messages = [{"role": roles[min(i, 1 + i % 2)], "content": text} for i, text in enumerate(said)]
    ids = chatml.render(messages, TOKENIZER)[0]
    assert sum(number in CONTROL for number in ids) == 2 * len(messages)
    composed = [
        {**message, "content": unicodedata.normalize("NFC", message["content"])} for message in messages
    ]
    assert chatml.parse(ids, TOKENIZER) == composed  # the tokenizer reads text in this form
    odd = [
        take.PickValueInList(CONTROL) if take.ConsumeBool() else take.ConsumeIntInRange(0, 257)
        for _ in range(20)
    ]
    with contextlib.suppress(DataError):
        chatml.parse(odd, TOKENIZER)


def reply(data: bytes) -> None:
    """Every text is a step; a reply read in pieces is the reply read at once."""
    take = atheris.FuzzedDataProvider(data)
    cuts = sorted(take.ConsumeIntInRange(0, 80) for _ in range(take.ConsumeIntInRange(0, 6)))
    opened = take.ConsumeBool()
    text = take.ConsumeUnicodeNoSurrogates(sys.maxsize)
    react.parse_response(text)
    react.parse_latest_call(text)
    react.observation_spans(text)
    step = react.parse_step(text)
    assert text.startswith(step.text) and text.startswith(react.drop_partial_stop(text))
    for cut in cuts:
        assert step.text.startswith(react.certain_step(text[:cut]).rstrip())
    assert _pieces(text, cuts, opened) == _pieces(text, [], opened)


def _pieces(text: str, cuts: list[int], opened: bool) -> list[tuple[str, str]]:
    stream = ReplyStream(opened)
    pieces = [p for at, to in itertools.pairwise([0, *cuts, len(text)]) for p in stream.push(text[at:to])]
    joined: list[tuple[str, str]] = []
    for piece in [*pieces, *stream.finish()]:
        if joined and joined[-1][0] == piece.kind and piece.kind != "name":
            joined[-1] = (piece.kind, joined[-1][1] + piece.text)
        else:
            joined.append((piece.kind, piece.text))
    return joined


def ids(data: bytes) -> None:
    """Text as it is generated is the text of all ids; up to the first stop string, where there is one."""
    take = atheris.FuzzedDataProvider(data)
    stops = [
        take.ConsumeUnicodeNoSurrogates(take.ConsumeIntInRange(1, 4))
        for _ in range(take.ConsumeIntInRange(0, 3))
    ]
    stops = [stop for stop in stops if stop]
    numbers = [take.ConsumeIntInRange(0, 257) for _ in range(take.ConsumeIntInRange(0, 60))]
    decoder, whole = StreamDecoder(TOKENIZER), TOKENIZER.decode(numbers)
    assert "".join(map(decoder.push, numbers)) + decoder.finish() == whole
    stream = TextStream(TOKENIZER, stops)
    said = "".join(map(stream.push, numbers)) + stream.finish()
    found = first_stop(whole, stops)
    assert said == (whole if found is None else whole[: found[0]]) == stream.text


TARGETS: dict[str, Callable[[bytes], None]] = {
    "requests": request, "conversations": conversation, "react": reply, "detokeniser": ids,
}  # fmt: skip

# What a fuzzer of bytes would take long to find: names of fields, labels, control texts, pieces of JSON.
WORDS = [name for kind in BODIES for name in kind.model_fields] + [
    *react.LABELS,
    "\n",
    "<|im_start|>",
    "<|im_end|>",
]
WORDS += [
    '{"',
    '": ',
    '": "',
    '": [{"role": "user", "content": "',
    '"}]',
    "null",
    "true",
    "-1",
    "1e999",
    "\\u0000",
]


def words() -> str:
    """The dictionary in libFuzzer's form."""
    return "".join(
        '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in dict.fromkeys(WORDS)
    )


if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    with tempfile.NamedTemporaryFile("w", suffix=".dict", dir=".") as dictionary:
        dictionary.write(words())
        dictionary.flush()
        atheris.Setup([*sys.argv, f"-dict={dictionary.name}"], target)  # reads it at once
        atheris.Fuzz()
