"""The HTTP server: OpenAI's chat and text completions over one engine, and the chat page.

Ours; conversations become ids through ChatML (report §3.1, A.1.1), never through text, so that nothing a user
writes can become a control token. Binds to the loopback unless told otherwise; fetches nothing from anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from openqwen.agent.sources import open_tools
from openqwen.chat import chatml
from openqwen.code_qwen.stop import StopRule
from openqwen.core.console import error_console, note
from openqwen.core.errors import MissingTool, OpenQwenError, UsageError
from openqwen.engine.engine import Engine
from openqwen.engine.guide import Guide
from openqwen.engine.sampling import Sampling
from openqwen.engine.sequence import Completion, TokenScore
from openqwen.model import load_model, load_scalar
from openqwen.model.config import CacheFormat, Extension, WeightBits
from openqwen.serve import wire
from openqwen.serve.agent_reply import agent_completion, agent_prompt
from openqwen.serve.agents import Agents
from openqwen.serve.answers import failure, refusal, streaming, unless_gone
from openqwen.serve.body import BODY_SECONDS, MAX_BODY, B, Body, read_body
from openqwen.serve.compare import Preferences, Reward, add_compare_routes
from openqwen.serve.config import AgentConfig
from openqwen.serve.connection import Connection, allow_connections, say_seldom
from openqwen.serve.decoding import use_bits, use_compiled
from openqwen.serve.guard import ApiError, Guard
from openqwen.serve.metrics import ServerMetrics
from openqwen.serve.schema import (
    MAX_PROMPTS,
    ChatRequest,
    Common,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from openqwen.serve.tools import Plan, Reply, make_plan
from openqwen.serve.wire import Json
from openqwen.serve.worker import Job, Overloaded, Worker
from openqwen.tokenizer import load_tokenizer

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # what clients call a server on it
MAX_COMPILING = 32  # requests whose constraint waits to be compiled, a tenth of a second each
MAX_HELD = 128 * 2**20  # read as ids, a body takes up to ten times its bytes
DEFAULT_NEW = 16  # max_tokens of a text completion that names none, as OpenAI's


class Service:
    """The routes' state: engine and limits. beside: the services of other models, by name."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        max_body: int,
        body_seconds: float,
        max_waiting: int,
        metrics: ServerMetrics,
    ) -> None:
        self.engine, self.tokenizer, self.name = engine, engine.tokenizer, name
        self.max_body, self.body_seconds = max_body, body_seconds
        self.context = self.reach(engine.model.config.extension)
        self.beside: dict[str, Service] = {}
        self.metrics = metrics
        self.worker = Worker(engine, self.metrics, max_waiting)
        self.created = int(time.time())
        self.no_constraints: MissingTool | None = None
        try:
            _ = engine.grammars  # now: over a large vocabulary this takes half a second
        except MissingTool as error:
            self.no_constraints = error
        # Of its own, so that hostile constraints make nobody wait but each other.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="constraint")
        self._compiling = 0

    def close(self) -> None:
        self.worker.close()
        self._compiler.shutdown(cancel_futures=True)

    async def read(self, request: Request, cls: type[B]) -> B:
        return await read_body(request, cls, self.max_body, self.body_seconds)

    def reach(self, extension: Extension) -> int:
        """Tokens of prompt and reply together that the model can hold with a context extension."""
        length = self.engine.model.config.max_length
        return self.engine.max_length or length * (4 if extension.dynamic_ntk else 1)

    def extension(self, body: Common) -> Extension:
        """The context extension of a request: the checkpoint's, but for what its body says."""
        own = self.engine.model.config.extension
        return own if body.extension is None else body.extension.over(own)

    def room(self, prompt: list[int], wanted: int | None, default: int | None, context: int) -> int:
        """How many tokens may be generated after a prompt; ApiError if what is wanted does not fit."""
        if not prompt:
            raise ApiError(400, "the prompt is empty", param="prompt", code="empty_prompt")
        free = context - len(prompt)
        asked = wanted if wanted is not None else max(1, min(free, default or free))
        if asked > free:
            raise ApiError(
                400,
                f"this model's context is {context} tokens; the prompt has {len(prompt)}"
                f" and {asked} more were asked for",
                param="messages" if default is None else "prompt",
                code="context_length_exceeded",
            )
        return asked

    def render(self, plan: Plan) -> list[int]:
        try:
            return chatml.render(
                plan.messages,
                self.tokenizer,
                add_generation_prompt=not plan.opened,
                continue_last=plan.opened,
            )[0]
        except OpenQwenError as error:
            raise ApiError(400, error.what, param="messages", code="invalid_messages") from None

    def named(self, name: str | None) -> Service:
        """The service of a model; ApiError if there is none of that name."""
        if name is None or name == self.name:
            return self
        if name not in self.beside:
            raise ApiError(404, f"no model {name[:100]!r} here", param="model", code="model_not_found")
        return self.beside[name]

    @property
    def all(self) -> list[Service]:
        return [self, *self.beside.values()]

    async def submit(self, body: Common, prompts: list[list[int]], samplings: list[Sampling]) -> Job:
        vocab_size = self.tokenizer.vocab_size
        if any(int(key) >= vocab_size for key in body.logit_bias or {}):
            raise ApiError(400, f"ids go up to {vocab_size - 1}", param="logit_bias", code="invalid_id")
        self.worker.check(len(prompts))
        guides = await self._guides(samplings)
        return self.worker.submit(
            prompts, samplings, guides, stream=bool(body.stream), extension=self.extension(body)
        )

    async def _guides(self, samplings: list[Sampling]) -> list[Guide | None]:
        """What leads each reply through its constraint, compiled beside the event loop and the engine."""
        if samplings[0].constraint is None:
            return [None] * len(samplings)
        if self.no_constraints is not None:
            raise self.no_constraints
        if self._compiling >= MAX_COMPILING:
            raise Overloaded("too many constraints wait to be compiled", fix="try again in a moment")
        self._compiling += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._compiler, lambda: [self.engine.guide(sampling) for sampling in samplings]
            )
        finally:
            self._compiling -= 1


def create_app(
    engine: Engine,
    *,
    name: str = "openqwen",
    api_key: str | None = None,
    hosts: tuple[str, ...] | None = LOOPBACK,
    max_body: int = MAX_BODY,
    body_seconds: float = BODY_SECONDS,
    max_waiting: int = 1024,
    max_held: int = MAX_HELD,
    also: Mapping[str, Engine] | None = None,
    reward: Reward | None = None,
    preferences: Preferences | None = None,
    agents: Agents | None = None,
) -> FastAPI:
    """The application over an engine that nobody else uses from now on.

    hosts: names it answers to; None: any. max_body: bytes of a request, which must arrive within body_seconds.
    max_waiting: replies that may wait beside those that run; more get 429. max_held: bytes of the bodies of all
    requests that are not yet answered to the end; more get 503. also: engines of other models by name,
    with the same limits. reward, preferences: what the chat page compares replies with. agents: tools that the
    server runs for who asks for it.
    """
    if api_key is not None and not api_key.strip():
        raise UsageError(
            "the API key is empty", fix="give a key, or leave --api-key and OPENQWEN_API_KEY away"
        )
    limits = (max_body, body_seconds, max_waiting, ServerMetrics())
    service = Service(engine, name, *limits)
    service.beside = {title: Service(other, title, *limits) for title, other in (also or {}).items()}
    if name in service.beside:
        raise UsageError(
            f"two models are called {name!r}", fix="give one another name, with --name or --also"
        )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for each in service.all:
            each.worker.start()
        yield
        if agents is not None:
            await agents.close()
        for each in service.all:
            each.close()
        if reward is not None:
            reward.close()

    app = FastAPI(title="openqwen", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, api_key=api_key, hosts=hosts, max_held=max_held, metrics=service.metrics)
    _add_errors(app)
    _add_openai_routes(app, service, agents)
    _add_other_routes(app, service, agents)
    add_compare_routes(app, service.read, _takes, reward, preferences)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return JSONResponse(
            wire.error(str(error.detail), "invalid_request_error"), error.status_code, headers
        )

    @app.exception_handler(OpenQwenError)
    async def own_error(_: Request, error: OpenQwenError) -> Response:
        return refusal(error).response()

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        return failure().response()


def _takes(cls: type[Body]) -> dict[str, Any]:
    """The OpenAPI description of a route whose body `read_body` reads."""
    schema = _inline(cls.model_json_schema())
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inline(schema: Json) -> Json:
    """A JSON schema without references."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    return resolve(schema)


def _add_openai_routes(app: FastAPI, service: Service, agents: Agents | None) -> None:
    @app.post("/v1/chat/completions", openapi_extra=_takes(ChatRequest))
    async def chat(request: Request) -> Response:
        body = await service.read(request, ChatRequest)
        if body.agent is not None:
            return await agent_completion(service.named(body.model), agents, request, body)
        return await chat_completion(service, request, body)

    @app.post("/v1/completions", openapi_extra=_takes(CompletionRequest))
    async def completions(request: Request) -> Response:
        body = await service.read(request, CompletionRequest)
        return await text_completion(service, request, body)

    @app.get("/v1/models")
    async def models() -> Json:
        return {"object": "list", "data": [_model_card(each, agents) for each in service.all]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Json:
        return _model_card(service.named(name), agents)


def _model_card(service: Service, agents: Agents | None) -> Json:
    tools = {} if agents is None else {"agent": {"tools": agents.described()}}
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "openqwen",
        "max_model_len": service.context,
        **tools,
    }


def _add_other_routes(app: FastAPI, service: Service, agents: Agents | None) -> None:
    @app.get("/health")
    async def health() -> Response:
        if all(each.worker.healthy for each in service.all):
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "engine failed"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/tokenize", openapi_extra=_takes(TokenizeRequest))
    async def tokenize(request: Request) -> Json:
        body = await service.read(request, TokenizeRequest)
        named = service.named(body.model)
        if body.messages is not None:
            asked = agent_prompt(body.messages, agents) if body.agent else make_plan(body.messages, body)
            tokens = await asyncio.to_thread(named.render, asked)
        else:
            tokens = await asyncio.to_thread(named.tokenizer.encode, body.prompt or "")
        return {"tokens": tokens, "count": len(tokens), "max_model_len": named.context}

    @app.post("/detokenize", openapi_extra=_takes(DetokenizeRequest))
    async def detokenize(request: Request) -> Json:
        body = await service.read(request, DetokenizeRequest)
        tokenizer = service.named(body.model).tokenizer
        if any(i >= tokenizer.vocab_size for i in body.tokens):
            raise ApiError(400, "an id is outside the vocabulary", param="tokens", code="invalid_id")
        return {"prompt": await asyncio.to_thread(tokenizer.decode, body.tokens)}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return FileResponse(PAGE / "icon.svg")

    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        files = {path.name: path for path in PAGE.iterdir() if path.is_file()}
        if name not in files:
            raise ApiError(404, "no such page")
        return FileResponse(files[name])


async def chat_completion(service: Service, request: Request, body: ChatRequest) -> Response:
    """POST /v1/chat/completions"""
    service = service.named(body.model)
    plan = make_plan(body.messages, body)
    prompt = await asyncio.to_thread(service.render, plan)
    wanted = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    room = service.room(prompt, wanted, None, service.reach(service.extension(body)))
    sampling = plan.hold(body.sampling(room, body.alternatives, body.constraint()))
    count = body.n or 1
    try:
        job = await service.submit(body, [prompt] * count, [sampling.fork(i) for i in range(count)])
    except UsageError as error:
        if plan.constraint is None:
            raise
        raise ApiError(400, f"tools: {error.what}", param="tools", code="invalid_schema") from None
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    replies = [Reply(plan) for _ in range(count)]
    if body.stream:
        return streaming(_chat_chunks(service, job, body, head, replies), job.cancel)
    completions = await unless_gone(request, _all(job), job.cancel)
    for reply, c in zip(replies, completions):
        reply.push(c.text, last=True)
    choices = [
        {
            "index": i,
            "message": replies[i].message,
            "logprobs": wire.chat_logprobs(c.scores, c.stop, service.tokenizer) if c.scores is not None else None,
            "finish_reason": replies[i].finish_reason(c.finish_reason),
        }
        for i, c in enumerate(completions)
    ]  # fmt: skip
    return JSONResponse(
        {**head, "object": "chat.completion", "choices": choices, "usage": wire.usage(completions, 1)}
    )


async def _chat_chunks(
    service: Service, job: Job, body: ChatRequest, head: Json, replies: list[Reply]
) -> AsyncIterator[str]:
    def chunk(index: int, delta: Json, reason: str | None = None, logprobs: Json | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        extra = {"usage": None} if body.include_usage else {}
        return wire.sse({**head, "object": "chat.completion.chunk", "choices": [choice], **extra})

    for i, reply in enumerate(replies):
        yield chunk(i, reply.begin())
    completions: list[Completion] = []
    while job.open:
        event = await job.next()
        update, reply = event.update, replies[event.index]
        assert update is not None
        logprobs = None
        if update.scores:
            stop = update.completion.stop if update.completion else None
            logprobs = wire.chat_logprobs(update.scores, stop, service.tokenizer)
        deltas = reply.push(update.text, last=update.completion is not None)
        if logprobs and logprobs["content"] and not deltas:
            deltas = [{}]
        for delta in deltas:
            yield chunk(event.index, delta, logprobs=logprobs)
            logprobs = None  # with the first only
        if update.completion is not None:
            completions.append(update.completion)
            yield chunk(event.index, {}, reply.finish_reason(update.completion.finish_reason))
    if body.include_usage:
        total = wire.usage(completions, 1)
        yield wire.sse({**head, "object": "chat.completion.chunk", "choices": [], "usage": total})
    yield wire.DONE


async def text_completion(service: Service, request: Request, body: CompletionRequest) -> Response:
    """POST /v1/completions"""
    service = service.named(body.model)
    if body.stream and body.echo and body.logprobs is not None:
        raise ApiError(400, "echo with logprobs cannot be streamed", param="stream", code="unsupported")
    count, texts = body.n or 1, body.prompts()
    if not 0 < len(texts) * count <= MAX_PROMPTS:
        raise ApiError(400, f"1 to {MAX_PROMPTS} replies a request", param="prompt", code="too_many")
    prompts = await asyncio.to_thread(lambda: [_prompt_ids(service, text) for text in texts])
    scored = body.logprobs if body.echo else None
    constraint, samplings = body.constraint(), []
    context = service.reach(service.extension(body))
    rooms = [service.room(prompt, body.max_tokens, DEFAULT_NEW, context) for prompt in prompts]
    rules = await asyncio.to_thread(lambda: [_stop_rule(service, body, prompt) for prompt in prompts])
    for room, rule in zip(rooms, rules):
        sampling = replace(body.sampling(room, body.logprobs, constraint, scored), cutter=rule)
        samplings += [sampling.fork(i) for i in range(count)]
    job = await service.submit(body, [p for p in prompts for _ in range(count)], samplings)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    head["object"] = "text_completion"
    if body.stream:
        each = [p for p in prompts for _ in range(count)]
        return streaming(_text_chunks(service, job, body, head, each, len(prompts)), job.cancel)
    completions = await unless_gone(request, _all(job), job.cancel)
    choices = [_text_choice(service, body, i, c) for i, c in enumerate(completions)]
    return JSONResponse({**head, "choices": choices, "usage": wire.usage(completions, len(prompts))})


def _stop_rule(service: Service, body: CompletionRequest, prompt: list[int]) -> StopRule | None:
    """What ends a completion of this prompt, which is a program up to the cursor."""
    if body.stop_rule is None:
        return None
    try:
        return StopRule(body.stop_rule, body.language, service.tokenizer.decode(prompt))
    except UsageError as error:
        raise ApiError(400, error.what, param="language", code="unsupported_language") from None


def _prompt_ids(service: Service, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        return service.tokenizer.encode(prompt)
    if any(i >= service.tokenizer.vocab_size for i in prompt):
        raise ApiError(400, "an id is outside the vocabulary", param="prompt", code="invalid_id")
    return prompt


def _text_choice(service: Service, body: CompletionRequest, index: int, c: Completion) -> Json:
    tokenizer, text = service.tokenizer, c.text
    scores: list[TokenScore | None] = list(c.scores or [])
    if body.echo:
        text = tokenizer.decode(c.prompt_ids) + text
        scores = [*(c.prompt_scores or []), *scores]
    logprobs = None
    if body.logprobs is not None:
        logprobs = wire.completion_logprobs(scores, c.prompt_ids[0], tokenizer)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": c.finish_reason}


async def _text_chunks(
    service: Service, job: Job, body: CompletionRequest, head: Json, prompts: list[list[int]], distinct: int
) -> AsyncIterator[str]:
    def chunk(index: int, text: str, reason: str | None = None, logprobs: Json | None = None) -> str:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        extra = {"usage": None} if body.include_usage else {}
        return wire.sse({**head, "choices": [choice], **extra})

    if body.echo:
        for i, prompt in enumerate(prompts):
            yield chunk(i, service.tokenizer.decode(prompt))
    completions: dict[int, Completion] = {}
    offsets = [0] * job.count
    while job.open:
        event = await job.next()
        update, i = event.update, event.index
        assert update is not None
        logprobs = None
        if update.scores:
            logprobs = wire.completion_logprobs(update.scores, None, service.tokenizer, offsets[i])
            offsets[i] += sum(map(len, logprobs["tokens"]))
        if update.text or logprobs:
            yield chunk(i, update.text, logprobs=logprobs)
        if update.completion is not None:
            completions[i] = update.completion
            yield chunk(i, "", update.completion.finish_reason)
    if body.include_usage:
        ordered = [completions[i] for i in range(job.count)]
        yield wire.sse({**head, "choices": [], "usage": wire.usage(ordered, distinct)})
    yield wire.DONE


async def _all(job: Job) -> list[Completion]:
    """The completions of a job in order."""
    done: dict[int, Completion] = {}
    while job.open:
        event = await job.next()
        if event.update is not None and event.update.completion is not None:
            done[event.index] = event.update.completion
    return [done[i] for i in range(job.count)]


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; UsageError with one clear line if the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Or each body waits for an acknowledgement, 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.bind((host, port))  # listening begins when the model is loaded: until then clients are refused
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot serve on {host}:{port}: {reason.lower()}",
            fix=f"choose another port, for example --port {port + 1 if 0 < port < 65535 else 8001}",
        ) from None
    return sock


def serve(
    model_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    api_key: str | None = None,
    max_batch: int = 64,
    max_length: int | None = None,
    max_waiting: int = 1024,
    dtype: Any = None,
    device: Any = None,
    compiled: bool | None = None,
    quantise: WeightBits | None = None,
    cache: CacheFormat | None = None,
    also: Mapping[str, Path] | None = None,
    reward: Path | None = None,
    preferences: Path | None = None,
    tools: Sequence[str] = (),
    interpreter: bool = False,
    agent: AgentConfig | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves a model until interrupted. ready: called with the address once requests are answered.

    compiled: decode by compiled code; None: where that is possible, saying so where it is not. also: further models
    by name. reward: a reward model that scores replies. preferences: the folder that comparisons are appended to.
    quantise, cache: bits of all models' weights and of what they have read; None: as the checkpoints say.
    tools, interpreter: what the server runs for who asks for it, as `openqwen agent` takes them; agent: their limits.
    NoSandbox (exit code 78) where an interpreter could not be contained.
    """
    sock = listen(host, port)
    allow_connections()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(sock))
        agents = None
        if tools or interpreter:
            agent = agent or AgentConfig()
            agents = Agents(open_tools(tools, agent.tool_seconds, stack), agent, interpreter)

        def engine(path: str | Path) -> Engine:
            model = load_model(path, dtype=dtype, device=device)
            use_bits(model, quantise)
            decoding = use_compiled(model, compiled, cache)
            tokenizer = load_tokenizer(path)
            return Engine(model, tokenizer, max_batch, max_length=max_length, compiled=decoding, cache=cache)

        title = name or Path(model_path).resolve().name
        local = _is_loopback(host)
        if not local and api_key is None:
            error_console.print(
                f"  whoever reaches {host}:{sock.getsockname()[1]} can use this server: no --api-key is given"
            )
        kept = Preferences(preferences) if preferences else None
        scorer = Reward(load_scalar(reward, device=device), load_tokenizer(reward)) if reward else None
        app = create_app(
            engine(model_path),
            name=title,
            api_key=api_key,
            hosts=(*LOOPBACK, host) if local else None,
            max_waiting=max_waiting,
            also={other: engine(path) for other, path in (also or {}).items()},
            reward=scorer,
            preferences=kept,
            agents=agents,
        )
        address = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down in order and passes it on
            make_server(app, lambda: (ready or _announce)(address)).run(sockets=[sock])


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _announce(address: str) -> None:
    note(f"chat page   {address}/")
    note(f"OpenAI API  {address}/v1")


def make_server(app: FastAPI, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """A uvicorn server that calls `ready` once it answers; run it with `.run(sockets=[...])`."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            say_seldom(asyncio.get_running_loop())
            await super().startup(sockets)
            if ready is not None and self.started:
                ready()

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="error",  # warnings are about what clients send, and would let them fill the log
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,  # longer than clients keep idle connections, or they race with our closing them
    )
    return Server(config)
