"""Models that answer: artefacts of ours through the engine, and those behind an OpenAI-compatible address.

Ours. Both take conversations and give replies in the same order. A conversation that a model cannot take, being longer
than its context, gives the reason instead of a reply.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from openqwen.annotate.batches import batched, open_batches
from openqwen.annotate.config import AskingConfig, RemoteConfig
from openqwen.chat import chatml
from openqwen.chat.messages import Message
from openqwen.core.artifact import Run, load
from openqwen.core.errors import DataError, OpenQwenError, UsageError
from openqwen.core.metrics import read_metrics
from openqwen.engine.sampling import Sampling

ANSWERS = "answers.jsonl"
BUSY = {408, 409, 425, 429, 500, 502, 503, 504}  # try again


@dataclass(frozen=True)
class Decoding:
    """How one reply is drawn."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """A reply, or why there is none. finished: the model ended it by itself."""

    text: str = ""
    finished: bool = False
    problem: str | None = None


class Answerer(Protocol):
    """A model that can be asked. identity: what a pair says about where its reply is from."""

    @property
    def identity(self) -> dict[str, str]: ...

    def answer(self, prompts: Sequence[Sequence[Message]], how: Sequence[Decoding]) -> list[Answer]: ...


class Local:
    """A model artefact, loaded now."""

    def __init__(self, path: Path, batch_size: int) -> None:
        from openqwen.engine import Engine
        from openqwen.model import load_model
        from openqwen.tokenizer import load_tokenizer

        self.identity = {"model": path.name, "content": load(path, "model").content}
        self.tokenizer = load_tokenizer(path)
        model = load_model(path)
        self.context = model.config.max_length
        self.engine = Engine(model, self.tokenizer, max_batch=batch_size)

    def answer(self, prompts: Sequence[Sequence[Message]], how: Sequence[Decoding]) -> list[Answer]:
        ids = [chatml.render_prompt(messages, self.tokenizer) for messages in prompts]
        fits = [i for i, found in enumerate(ids) if len(found) + how[i].max_tokens <= self.context]
        samplings = [
            Sampling(
                temperature=how[i].temperature,
                top_p=how[i].top_p,
                max_tokens=how[i].max_tokens,
                seed=how[i].seed,
            )
            for i in fits
        ]
        answers = [Answer(problem=f"longer with its reply than the context of {self.context}")] * len(ids)
        for i, done in zip(fits, self.engine.generate([ids[i] for i in fits], samplings)):
            ended = done.ids[-1:] == [self.tokenizer.im_end_id]
            answers[i] = Answer(chatml.reply_text(done.ids, self.tokenizer), ended)
        return answers


class Remote:
    """A model behind POST ADDRESS/chat/completions, or ADDRESS/completions.

    The key is read from the environment and kept nowhere.
    """

    def __init__(self, address: str, config: RemoteConfig) -> None:
        self.base, _, self.name = address.partition("#")
        self.config = config
        self.identity = {"model": self.name, "address": self.base}

    def answer(self, prompts: Sequence[Sequence[Message]], how: Sequence[Decoding]) -> list[Answer]:
        with ThreadPoolExecutor(self.config.parallel) as pool:
            return list(pool.map(self._one, prompts, how))

    def _one(self, messages: Sequence[Message], how: Decoding) -> Answer:
        body = {
            "messages": list(messages),
            "max_tokens": how.max_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "seed": how.seed,
        }
        return self.complete(body)

    def complete(self, request: dict[str, Any]) -> Answer:
        """The answer to a request of the API; the model's name is put in here."""
        status, found = self._post("chat/completions", request)
        if status == 400:  # this conversation, most often its length; what follows may be fine
            return Answer(problem=f"refused by {self.base}: {_message(found)}")
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise DataError("the reply has no choices[0].message.content", where=self.base) from error
        return Answer(text.strip(), choice.get("finish_reason") == "stop")

    def continued(self, request: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """The first choice for a request of the completions API, or why it was refused."""
        status, found = self._post("completions", request)
        if status == 400:
            return {}, f"refused by {self.base}: {_message(found)}"
        try:
            return dict(found["choices"][0]), None
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError("the reply has no choices[0]", where=self.base) from error

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, JSON) of a request that went well or that was refused for what it asks. OpenQwenError otherwise."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.config.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        data = json.dumps({"model": self.name, **body}).encode()
        request = urllib.request.Request(f"{self.base.rstrip('/')}/{path}", data, headers)
        said = ""
        for tried in range(self.config.retries + 1):
            if tried:
                time.sleep(min(0.5 * 2 ** (tried - 1), 30))
            try:
                with urllib.request.urlopen(request, timeout=self.config.timeout) as response:
                    return 200, json.loads(response.read())
            except urllib.error.HTTPError as error:
                found = _json(error.read())
                if error.code == 400:
                    return 400, found
                said = f"status {error.code}: {_message(found)}"
                if error.code not in BUSY:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                said = str(getattr(error, "reason", error))
        raise OpenQwenError(
            f"no reply from {self.name}: {said}",
            where=self.base,
            fix="see that it answers; the same command goes on where it stopped",
        )


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")[:200]


def _message(found: Any) -> str:
    """What an error's body says."""
    error = found.get("error", found) if isinstance(found, dict) else found
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def only_model(model: Path | None, config: AskingConfig, what: str) -> Answerer:
    """The one model of a stage that needs one: an artefact or an address. UsageError for none and for both."""
    if (model is None) == (config.address is None):
        raise UsageError(
            f"{what} needs one model", where="--model", fix="--model ARTEFACT, or --address ADDRESS#NAME"
        )
    if model is not None:
        return Local(model, config.batch_size)
    assert config.address is not None
    return Remote(config.address, config.remote)


def ask(
    model: Answerer, prompts: Sequence[str], max_tokens: int, config: AskingConfig, stage: Run
) -> list[Answer]:
    """Greedy answers to bare questions, kept in the stage's answers.jsonl: a stage that was killed goes on with it."""
    file, start = open_batches(stage, ANSWERS)
    for number, part in enumerate(batched(prompts, config.batch_size), 1):
        if number >= start:
            talks = [[{"role": "user", "content": text}] for text in part]
            for answer in model.answer(talks, [Decoding(max_tokens, seed=config.seed)] * len(part)):
                file.write(number, **asdict(answer))
    file.sync()
    records = read_metrics(stage.path / ANSWERS)
    return [Answer(record["text"], record["finished"], record["problem"]) for record in records]
