"""Problems for an agent that writes Python over made-up tools: the form of the Hugging Face agent benchmark.

Report §3.4, Table 9. Tools and problems are ours, in the published form ({"task", "tools", "inputs", "answer_expr"});
a file of the original problems is read by `read_problems`. A tool returns a sentence about its arguments, so that an
answer tells which tools made it, in which order.
"""

# ruff: noqa: E501 - sentences stand unbroken, as they are read
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwen.core.artifact import read_jsonl
from openqwen.core.errors import DataError

# name -> (parameters, what it is for, what it needs: a word that its first argument must hold)
TOOLS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "text_classifier": (("text", "labels"), "says which of the labels fits a text", ""),
    "translator": (("text", "src_lang", "tgt_lang"), "translates a text from one language to another", ""),
    "text_reader": (("text",), "reads a text aloud and returns the sound", ""),
    "transcriber": (("audio",), "writes down what is said in a sound", "sound"),
    "image_generator": (("prompt",), "makes an image after a description", ""),
    "image_segmentor": (("image", "label"), "returns the mask of a thing in an image", "image"),
    "image_captioner": (("image",), "describes an image in words", "image"),
    "image_transformer": (("image", "prompt"), "changes an image after a description", "image"),
    "text_qa": (("text", "question"), "answers a question about a text", ""),
    "image_qa": (("image", "question"), "answers a question about an image", "image"),
    "text_downloader": (("url",), "returns the text of a web page", ""),
    "summarizer": (("text",), "returns a summary of a text", ""),
    "video_generator": (("prompt",), "makes a video after a description", ""),
}
MADE = {"text_reader": "a sound", "image_generator": "an image", "image_transformer": "an image", "image_segmentor": "an image mask"}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One task in one wording, or the turns of a talk. answers: for each turn, expressions of which one is right."""

    id: str
    turns: tuple[str, ...]
    tools: tuple[tuple[str, ...], ...]  # needed in each turn
    inputs: Mapping[str, str]
    answers: tuple[tuple[str, ...], ...]


def prelude() -> str:
    """Python that defines the tools."""
    lines = []
    for name, (parameters, _, needs) in TOOLS.items():
        said = ", ".join(f"{p}={{{p}}}" for p in parameters)
        lines.append(f"def {name}({', '.join(f'{p}=None' for p in parameters)}):")
        if needs:
            problem = f"{name} needs {needs} as its first argument"
            lines.append(f"    if {needs!r} not in str({parameters[0]}): raise ValueError({problem!r})")
        lines.append(f"    return f'{MADE.get(name, 'a text')} by {name} of {said}'")
    return "\n".join(lines)


_RUN: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("The Spanish text in `text` is a review. Is it positive or negative?", "Translate `text` from Spanish to English, then say if it is positive or negative."), ("translator", "text_classifier"), ("text",), ("text_classifier(translator(text, 'Spanish', 'English'), ['positive', 'negative'])",)),
    (("Say aloud what can be seen in `image`.", "Describe `image` in words and read the words aloud."), ("image_captioner", "text_reader"), ("image",), ("text_reader(image_captioner(image))",)),
    (("Make an image after `text`, then change it after `prompt`.", "Draw what `text` describes. After that, transform the drawing as `prompt` says."), ("image_generator", "image_transformer"), ("text", "prompt"), ("image_transformer(image_generator(text), prompt)",)),
    (("Draw an image of a summary of the page at `url`.", "Download the page at `url`, summarise it, and make an image of the summary."), ("text_downloader", "summarizer", "image_generator"), ("url",), ("image_generator(summarizer(text_downloader(url)))",)),
    (("Change `image` after the Spanish description in `text`.", "`text` is Spanish: translate it to English and transform `image` accordingly."), ("translator", "image_transformer"), ("text", "image"), ("image_transformer(image, translator(text, 'Spanish', 'English'))",)),
    (("Read a summary of the page at `url` aloud.", "I would like to hear what the page at `url` says, in short."), ("text_downloader", "summarizer", "text_reader"), ("url",), ("text_reader(summarizer(text_downloader(url)))",)),
    (("Make a video after a summary of `text`.", "Summarise `text` and turn the summary into a video."), ("summarizer", "video_generator"), ("text",), ("video_generator(summarizer(text))",)),
    (("What is said in `audio`? Answer in French; it is spoken in English.", "Write down the English speech in `audio` and translate it to French."), ("transcriber", "translator"), ("audio",), ("translator(transcriber(audio), 'English', 'French')",)),
    (("Give me the mask of the beaver in `image`.", "Where is the beaver in `image`? Return its mask, label 'beaver'."), ("image_segmentor",), ("image",), ("image_segmentor(image, 'beaver')",)),
    (("Answer `question` about the page at `url`.", "Use the text at `url` to answer `question`."), ("text_downloader", "text_qa"), ("url", "question"), ("text_qa(text_downloader(url), question)",)),
    (("Answer `question` about `image` and read the answer aloud.", "Ask `question` about `image`; say the answer aloud."), ("image_qa", "text_reader"), ("image", "question"), ("text_reader(image_qa(image, question))",)),
)  # fmt: skip
# A talk: each turn uses what the turn before made (in the variable `result`).
_CHAT: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (("Translate `text` from Spanish to English.", "Is that positive or negative?"), (("translator",), ("text_classifier",)), ("text",), ("translator(text, 'Spanish', 'English')", "text_classifier(translator(text, 'Spanish', 'English'), ['positive', 'negative'])")),
    (("What can be seen in `image`?", "Read that aloud."), (("image_captioner",), ("text_reader",)), ("image",), ("image_captioner(image)", "text_reader(image_captioner(image))")),
    (("Draw an image after `text`.", "Now change it after `prompt`."), (("image_generator",), ("image_transformer",)), ("text", "prompt"), ("image_generator(text)", "image_transformer(image_generator(text), prompt)")),
    (("Download the page at `url`.", "Summarise it.", "Make an image of the summary."), (("text_downloader",), ("summarizer",), ("image_generator",)), ("url",), ("text_downloader(url)", "summarizer(text_downloader(url))", "image_generator(summarizer(text_downloader(url)))")),
    (("Write down what is said in `audio`.", "Translate it from English to French.", "Read the translation aloud."), (("transcriber",), ("translator",), ("text_reader",)), ("audio",), ("transcriber(audio)", "translator(transcriber(audio), 'English', 'French')", "text_reader(translator(transcriber(audio), 'English', 'French'))")),
)  # fmt: skip
_VALUES = {"image": "<<image>>", "audio": "<<sound>>"}


def _inputs(names: Sequence[str]) -> dict[str, str]:
    return {name: _VALUES.get(name, f"<<{name}>>") for name in names}


def run_problems() -> list[Problem]:
    """Single tasks, each wording a problem."""
    return [
        Problem(f"run-{i}-{k}", (task,), (tools,), _inputs(inputs), (answers,))
        for i, (tasks, tools, inputs, answers) in enumerate(_RUN)
        for k, task in enumerate(tasks)
    ]


def chat_problems() -> list[Problem]:
    """Talks of several turns."""
    return [
        Problem(f"chat-{i}", turns, tools, _inputs(inputs), tuple((answer,) for answer in answers))
        for i, (turns, tools, inputs, answers) in enumerate(_CHAT)
    ]


def read_problems(path: Path) -> list[Problem]:
    """Single tasks of a file in the published form. DataError names the record that is none."""
    found = []
    for number, record in enumerate(read_jsonl(path), 1):
        where = f"{path}, record {number}"
        try:
            tasks = [record["task"]] if isinstance(record["task"], str) else list(record["task"])
            tools, answers = tuple(record["tools"]), tuple(record["answer_expr"])
            inputs: Any = record["inputs"]
        except (KeyError, TypeError) as error:
            raise DataError(
                'a problem has "task", "tools", "inputs" and "answer_expr"', where=where
            ) from error
        if unknown := sorted(set(tools) - TOOLS.keys()):
            raise DataError(f"unknown tools: {', '.join(unknown)}", where=where)
        named = dict(inputs) if isinstance(inputs, Mapping) else _inputs(inputs)
        found += [
            Problem(f"{record.get('id', number)}-{k}", (task,), (tools,), named, (answers,))
            for k, task in enumerate(tasks)
        ]
    if not found:
        raise DataError("no problem is there", where=str(path))
    return found
