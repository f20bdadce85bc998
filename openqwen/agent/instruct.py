"""Stage "selfinstruct": a model makes tool conversations of its own from seeds, and rules keep the good ones.

Report §3.4 (about 2000 samples by self-instruct). Each round draws its examples from the seeds and from what earlier
rounds kept. tools.jsonl is what `openqwen sft` reads as --tools; attempts.jsonl holds all that was tried, with the
reason why it was dropped.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from openqwen.agent import filters, queries
from openqwen.agent.config import SelfInstructConfig
from openqwen.agent.loop import Conversation, Model
from openqwen.agent.loop import run as converse
from openqwen.agent.models import speaker
from openqwen.agent.queries import Item, Wanted
from openqwen.agent.sources import open_tools
from openqwen.agent.stage import read_items
from openqwen.agent.tools import Tool, Toolbox, read_arguments, tools_for
from openqwen.annotate.models import Answerer, Decoding, only_model
from openqwen.chat import react
from openqwen.core.artifact import Artifact, find, open_inputs, stage_run, write_json, write_jsonl
from openqwen.core.config import Resolved
from openqwen.core.console import Progress
from openqwen.core.errors import DataError
from openqwen.core.metrics import read_metrics

ATTEMPTS = "attempts.jsonl"
_TRIES = 50  # draws of two seeds until their arguments can be exchanged


def run(resolved: Resolved[SelfInstructConfig], inputs: dict[str, Path], out: Path) -> Artifact:
    """inputs: tools (seed conversations), model (unless an address is set), heldout (tests that must not be copied)."""
    config = resolved.config
    opened = open_inputs(inputs, {"model": "model"})
    with stage_run(out, "tool-data", resolved, opened) as stage, ExitStack() as stack:
        author = only_model(inputs.get("model"), config, "self-instruct")
        maker = Maker(
            read_items(inputs["tools"]),
            read_items(inputs["heldout"]) if "heldout" in inputs else [],
            open_tools(config.sources, config.tool_seconds, stack),
            config,
        )
        start = whole_rounds(read_metrics(out / ATTEMPTS)) + 1 if stage.resumed else 1
        file = stage.open_metrics(start - 1 if start > 1 else None, ATTEMPTS)
        for record in read_metrics(out / ATTEMPTS):
            maker.take(record)
        agent = speaker(author, config.max_tokens)
        with Progress("self-instruct", total=config.rounds, start=start - 1) as bar:
            for number in range(start, config.rounds + 1):
                if config.target is not None and len(maker.kept) >= config.target:
                    break
                records = maker.round(number, author, agent)
                for record in records:
                    file.write(number, of=len(records), **record)
                file.sync()
                bar.update(number, kept=len(maker.kept))
        if not maker.kept:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in maker.reasons.most_common(3))
            raise DataError(f"no conversation was kept: {reasons}", where=str(out / ATTEMPTS))
        kept = maker.kept[: config.target]
        write_jsonl(out / "tools.jsonl", kept)
        rounds = accounts(read_metrics(out / ATTEMPTS))
        write_json(out / "rounds.json", rounds)
        write_jsonl(out / "samples.jsonl", [sample(item) for item in kept[:8]])
        stage.fact(
            seeds=len(maker.seeds),
            kept=len(kept),
            tried=sum(found["tried"] for found in rounds),
            rounds=len(rounds),
            negatives=sum(item["gold"] is None for item in kept),
            dropped=dict(maker.reasons.most_common()),
        )
    done = find(out)
    assert done is not None
    return done


def whole_rounds(records: Sequence[Mapping[str, Any]]) -> int:
    """How many rounds have all their records: a run that was killed goes on after them, and pays for none twice."""
    counts = Counter((record["step"], record["of"]) for record in records)
    return max((step for (step, of), count in counts.items() if count == of), default=0)


class Maker:
    """The pool, the tools that run, and what was kept and dropped so far."""

    def __init__(
        self,
        seeds: Sequence[Item],
        heldout: Sequence[Item],
        sources: Sequence[Tool],
        config: SelfInstructConfig,
    ) -> None:
        self.seeds, self.sources, self.config = queries.with_arguments(seeds), sources, config
        self.items: list[Item] = [*self.seeds, *(item for item in seeds if not item.get("gold"))]
        if not self.seeds:
            raise DataError("no seed calls a tool")
        self.pool = filters.Pool(config.similarity, heldout=[filters.words(i["query"]) for i in heldout])
        for item in self.items:
            self.pool.add(item["query"])
        self.kept: list[dict[str, Any]] = []
        self.reasons: Counter[str] = Counter()
        self._steps = [step for item in seeds for step in item.get("steps") or []]
        self._runnable: dict[str, Tool] = {tool.name: tool for tool in sources}

    def round(self, number: int, author: Answerer, agent: Model) -> list[dict[str, Any]]:
        """One round's attempts, each with its reason or its sample; the good ones join the pool."""
        rng = random.Random(f"{self.config.seed} {number}")
        asked = self._ask(rng, number, author)
        attempts: list[tuple[Wanted, str, str | None, Conversation | None]] = []
        for wanted, query in asked:
            reason = filters.query_problem(query, self.config.min_query, self.config.max_query)
            reason = reason or self.pool.problem(query)
            attempts.append((wanted, query, reason, None if reason else self._begin(wanted, query)))
        converse(agent, [talk for *_, talk in attempts if talk is not None])
        records = []
        for place, (wanted, query, reason, talk) in enumerate(attempts):
            if talk is not None:
                # a second time: the same query may have been written twice in this round
                reason = self.pool.problem(query) or filters.trace_problem(
                    talk, wanted.tool, self.config.answer_recall, wanted.arguments
                )
            record: dict[str, Any] = {"query": query, "tool": wanted.tool, "reason": reason}
            if talk is not None and reason is None:
                record["sample"] = as_sample(f"self-{number}-{place}", wanted, talk)
            elif talk is not None:
                record["trace"] = talk.trace()
            self.take(record)
            records.append(record)
        return records

    def take(self, record: Mapping[str, Any]) -> None:
        """Counts an attempt; a sample joins the pool."""
        if record["reason"] is not None:
            self.reasons[record["reason"]] += 1
            return
        sample = record["sample"]
        self.kept.append(sample)
        self.items.append(sample)
        self.pool.add(sample["query"])

    def _ask(self, rng: random.Random, number: int, author: Answerer) -> list[tuple[Wanted, str]]:
        """Queries of one round, with what each was to be."""
        count = self.config.queries
        if self.config.author == "rules":
            return [found for _ in range(count) if (found := self._recombined(rng)) is not None]
        wanted = [self._wanted(rng) for _ in range(count)]
        how = [
            Decoding(
                self.config.query_tokens,
                self.config.temperature,
                self.config.top_p,
                rng.getrandbits(31),
            )
            for _ in wanted
        ]
        answers = author.answer([w.request() for w in wanted], how)
        return [(w, queries.read_query(answer.text)) for w, answer in zip(wanted, answers, strict=True)]

    def _recombined(self, rng: random.Random) -> tuple[Wanted, str] | None:
        for _ in range(_TRIES):
            if (found := queries.recombine(self.seeds, rng)) is not None:
                query, seed, arguments = found
                lang = queries.language(query)
                return Wanted(seed["tools"], seed["gold"]["name"], lang, (), arguments), query
        return None

    def _wanted(self, rng: random.Random) -> Wanted:
        """Tools, the one to be needed or none, and examples of the same kind in the same language."""
        plain = [item for item in self.items if not item.get("gold")]
        negative = bool(plain) and rng.random() < self.config.negatives
        drawn = rng.choice(plain if negative else [item for item in self.items if item.get("gold")])
        lang = queries.language(drawn["query"])
        tools, tool = drawn["tools"], None if negative else drawn["gold"]["name"]
        if self.sources:
            offered = rng.sample(self.sources, rng.randint(1, min(self.config.offered, len(self.sources))))
            tools = [dict(found.declaration) for found in offered]
            tool = None if negative else rng.choice(offered).name
        alike = [
            item["query"]
            for item in self.items
            if bool(item.get("gold")) != negative and queries.language(item["query"]) == lang
        ]
        same = [
            item["query"]
            for item in self.items
            if tool and item.get("gold") and item["gold"]["name"] == tool
            and queries.language(item["query"]) == lang
        ]  # fmt: skip
        chosen = same if len(same) >= self.config.examples else alike
        return Wanted(tools, tool, lang, rng.sample(chosen, min(self.config.examples, len(chosen))))

    def _begin(self, wanted: Wanted, query: str) -> Conversation:
        config = self.config
        box = Toolbox(map(self._tool, wanted.tools), config.tool_seconds, config.max_observation)
        return Conversation(query, box, config.max_steps, config.max_repeats)

    def _tool(self, declaration: Mapping[str, Any]) -> Tool:
        """What runs a declared tool: a source, or all results that the seeds hold."""
        name = react.tool_name(declaration)
        if self.sources:
            return self._runnable[name]
        key = json.dumps(declaration, sort_keys=True)
        if key not in self._runnable:
            self._runnable[key] = tools_for({"tools": [declaration], "steps": self._steps})[0]
        return self._runnable[key]


def as_sample(name: str, wanted: Wanted, talk: Conversation) -> dict[str, Any]:
    """A conversation in the form of the seeds."""
    calls = [turn for turn in talk.turns if turn.action is not None]
    gold = None
    if calls:
        tool = talk.toolbox.tools[str(calls[0].action)]
        gold = {"name": tool.name, "arguments": read_arguments(calls[0].arguments, tool.declaration)}
    return {
        "id": name,
        "lang": queries.language(talk.query),
        "query": talk.query,
        "tools": [dict(tool) for tool in wanted.tools],
        "gold": gold,
        "steps": [
            {
                "thought": react.parse_step(turn.text).thought,
                "action": turn.action,
                "action_input": turn.arguments,
                "observation": turn.observation,
            }
            for turn in calls
        ],
        "final": react.clean(talk.answer or ""),
    }


def accounts(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each round: what was tried and kept, and how often each reason dropped an attempt."""
    found = []
    for number in sorted({record["step"] for record in records}):
        mine = [record for record in records if record["step"] == number]
        reasons = Counter(record["reason"] for record in mine if record["reason"] is not None)
        kept = len(mine) - reasons.total()
        found.append({"round": number, "tried": len(mine), "kept": kept, "dropped": dict(reasons)})
    return found


def sample(item: Mapping[str, Any]) -> dict[str, Any]:
    """How a kept conversation is shown to people."""
    label = f"uses {item['gold']['name']}" if item["gold"] else "needs no tool"
    text = react.training_messages(item)[1]["content"]
    return {"label": label, "prompt": item["query"], "text": text, "id": item["id"]}
