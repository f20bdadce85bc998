"""Self-instruct: what a scripted model writes is kept or dropped for the right reason, and a killed run goes on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chat_api
import pytest
import tiny_artefacts as tiny
from agent_world import Script, make_items, weather
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwen.agent import filters, instruct, queries, tools
from openqwen.agent.config import SelfInstructConfig
from openqwen.agent.loop import Conversation
from openqwen.agent.loop import run as converse
from openqwen.agent.tools import Toolbox
from openqwen.chat import react
from openqwen.cli import main
from openqwen.core.artifact import read_jsonl, write_jsonl
from openqwen.core.config import resolve
from openqwen.core.errors import DataError, OpenQwenError

CITIES = ("Oslo", "Rome", "Lima", "Cairo", "Quito", "Paris")


def seeds() -> list[dict[str, Any]]:
    declaration = dict(tools.from_function(weather).declaration)
    items: list[dict[str, Any]] = []
    for i, city in enumerate(CITIES):
        step = {"thought": "I look.", "action": "weather", "observation": f"sun {i}"}
        step["action_input"] = json.dumps({"city": city})
        items.append(
            {"id": f"w{i}", "query": f"How is it in {city} today?", "tools": [declaration],
             "gold": {"name": "weather", "arguments": {"city": city}}, "steps": [step], "final": f"sun {i}"}
        )  # fmt: skip
    return [*items, *(item for item in make_items() if item["gold"] is None)]


# ---- the rules ---------------------------------------------------------------------------------------------------
CALL = 'Thought: I look.\nAction: weather\nAction Input: {"city": "Oslo"}\n'
ENDING = f" {react.KNOWN}\nFinal Answer: "
TALKS: dict[str, tuple[list[str], str | None, str | None]] = {
    "good": ([CALL, ENDING + "It is sun there."], "weather", None),
    "good without": (["Hello."], None, None),
    "unknown tool": ([CALL.replace(": weather", ": news"), ENDING + "x"], "weather", "the tool does not exist"),
    "schema": ([CALL.replace("city", "town"), ENDING + "x"], "weather", "the arguments break the schema"),
    "no JSON": ([CALL.replace("{", "("), ENDING + "x"], "weather", "the arguments break the schema"),
    "failed": ([CALL.replace("Oslo", "Mars"), ENDING + "x"], "weather", "the call failed"),
    "no call": (["It is sunny."], "weather", "the tool was not called"),
    "needless": ([CALL, ENDING + "x"], None, "a tool was called without need"),
    "own result": ([CALL + "Observation: sun", ENDING + "x"], "weather", "the model wrote a result itself"),
    "leak": ([CALL.replace("I look", "It is sun 0"), ENDING + "x"], "weather", "the result was known before the call"),
    "number": ([CALL, ENDING + "It is 31 degrees."], "weather", "a number of the answer comes from nowhere"),
    "ignored": ([CALL, ENDING + "It rains."], "weather", "the answer leaves the result out"),
    "unfinished": ([CALL, " hm"], "weather", "no answer: unfinished"),
    "loop": ([CALL] + [CALL.removeprefix("Thought:")] * 5, "weather", "no answer: loop"),
    "empty": ([CALL, ENDING], "weather", "no answer: answered"),
}  # fmt: skip


@pytest.mark.parametrize("name", TALKS)
def test_each_fault_of_a_conversation_has_its_reason(name: str) -> None:
    texts, tool, reason = TALKS[name]
    rest = iter(texts)
    talk = Conversation("How is it in Oslo?", Toolbox(tools.tools_for(seeds()[0])))
    converse(Script(lambda user, reply: next(rest)), [talk])
    assert filters.trace_problem(talk, tool) == reason


def test_a_result_in_the_question_is_a_leak_in_both_languages() -> None:
    for query, result, leak in (
        ("It is 42, is it not?", "42", True),
        ("It is 142, is it not?", "42", False),
        ("上海今天有小雨吗？", "小雨", True),
        ("上海今天天气怎么样？", "小雨", False),
    ):
        box = Toolbox([tools.Tool(tools.from_function(weather).declaration, lambda city, r=result: r)])
        talk = Conversation(query, box)
        rest = iter([CALL, ENDING + result])
        converse(Script(lambda user, reply, rest=rest: next(rest)), [talk])
        assert (filters.trace_problem(talk, "weather") is not None) == leak, query


def test_queries_are_read_and_copies_are_found() -> None:
    assert queries.read_query('\n 3. "How far is it?"\nBecause') == "How far is it?"
    assert queries.read_query("- 今天几号？") == "今天几号？" and queries.read_query("") == ""
    assert queries.read_query("3.5 is what of 7?") == "3.5 is what of 7?"
    pool = filters.Pool(0.7, heldout=[filters.words("Where is the red house in Bonn?")])
    pool.add("How is it in Oslo today?")
    assert pool.problem("how is it in oslo TODAY") == "a copy"
    assert pool.problem("How is it in Rome today?") == "a copy"
    assert pool.problem("Where is the red house of Bonn?") == "a test's question"
    assert pool.problem("Who sings?") is None
    assert filters.query_problem("Action: x", 4, 99) == "the query holds labels of the format"
    assert (
        filters.query_problem("a", 4, 99) == filters.query_problem("a" * 100, 4, 99) == "the query's length"
    )


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=3, max_size=8))
def test_the_short_way_of_the_pool_changes_nothing(drawn: list[tuple[str, bool]]) -> None:
    one, two = [word for word, _ in drawn], [word for word, keep in drawn if keep]
    pool = filters.Pool(0.7, known=[one])
    assert (pool.problem(" ".join(two)) == "a copy") == (filters.scoring.rouge_l(one, two) >= 0.7)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_recombined_queries_hold_the_new_arguments(seed: int) -> None:
    found = queries.recombine(queries.with_arguments(seeds()), random.Random(seed))
    if found is not None:
        query, origin, arguments = found
        assert [city for city in CITIES if city in query] == [arguments["city"]] and query != origin["query"]


def test_the_sign_of_a_result_counts() -> None:
    for final, reason in (("30 - 72 = 42.", "the answer leaves the result out"), ("It is -42.", None)):
        box = Toolbox([tools.Tool(tools.from_function(weather).declaration, lambda city: "-42")])
        talk, rest = Conversation("What is 30 - 72?", box), iter([CALL, ENDING + final])
        converse(Script(lambda user, reply, rest=rest: next(rest)), [talk])
        assert filters.trace_problem(talk, "weather") == reason


def test_a_call_with_other_arguments_is_dropped_where_the_right_ones_are_known() -> None:
    rest = iter([CALL, ENDING + "sun 0"])
    talk = Conversation("How is it in Oslo?", Toolbox(tools.tools_for(seeds()[0])))
    converse(Script(lambda user, reply: next(rest)), [talk])
    assert filters.trace_problem(talk, "weather", 0.9, {"city": "Oslo"}) is None
    reason = filters.trace_problem(talk, "weather", 0.9, {"city": "Rome"})
    assert reason == "the arguments are not those of the question"


# ---- the stage ---------------------------------------------------------------------------------------------------
def writer() -> Callable[[dict[str, Any]], tuple[int, Any]]:
    """Asked for a query it writes one, or a copy; asked to go on it calls the tool and repeats the result."""

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        asked = body["messages"][-1]["content"]
        if "stop" not in body:
            if "none of its tools" in asked:
                return 200, f"Do you like the number {body['seed'] % 9973}?"
            city = CITIES[body["seed"] % len(CITIES)]
            if body["seed"] % 4 == 0:
                return 200, "How is it in Oslo today?"
            return 200, f"1. Should somebody {body['seed'] % 9973} pack boots for {city}?"
        asked = asked.rsplit("\n\nQuestion: ", 1)[-1]
        if "Do you like" in asked:
            return 200, "Thought: no tool.\nFinal Answer: Yes."
        if "\nObservation: " in asked:
            result = asked.rsplit("\nObservation: ", 1)[1].split("\n")[0]
            return 200, f"Thought: {react.KNOWN}\nFinal Answer: {result}."
        city = next(c for c in CITIES if f"for {c}?" in asked)
        return 200, react.call_text("I look.", "weather", {"city": city})

    return reply


def settled(address: str, **flags: object) -> Any:
    small = {"rounds": 3, "queries": 12, "batch_size": 12, "negatives": 0.3, "similarity": 0.9}
    more = {"address": f"{address}#m", "remote.parallel": 1, "remote.retries": 0}
    return resolve(SelfInstructConfig, "selfinstruct", flags={**small, **more, **flags}, environ={})


@pytest.fixture
def given_seeds(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "seeds.jsonl", seeds())
    return tmp_path / "seeds.jsonl"


def test_a_model_at_an_address_makes_its_own_data(tmp_path: Path, given_seeds: Path) -> None:
    with chat_api.serving(writer()) as server:
        done = instruct.run(settled(server.address), {"tools": given_seeds}, tmp_path / "made")
    facts = done.manifest["facts"]
    kept = list(read_jsonl(done.file("tools.jsonl")))
    attempts = list(read_jsonl(done.file("attempts.jsonl")))
    assert facts["tried"] == len(attempts) == 36 and facts["kept"] == len(kept) == 36 - sum(
        facts["dropped"].values()
    )
    assert 0 < facts["dropped"]["a copy"] < 36 and facts["negatives"] > 0
    assert all((a["reason"] is None) == ("sample" in a) for a in attempts)
    for item in kept:
        reply = react.training_messages(item)[1]
        step = react.parse_step(reply["content"])
        if item["gold"] is None:
            assert step.final == "Yes."
        else:
            assert step.action == "weather" and json.loads(step.arguments) == item["gold"]["arguments"]
            city = CITIES.index(item["gold"]["arguments"]["city"])
            assert item["steps"][0]["observation"] == f"sun {city}" and item["final"] == f"sun {city}."
    rounds = json.loads(done.file("rounds.json").read_text())
    assert [r["tried"] for r in rounds] == [12, 12, 12]
    later = [b["messages"][0]["content"] for b in server.bodies if "stop" not in b][24:]
    assert any("pack boots" in text for text in later), "what was kept is an example of later rounds"


@pytest.mark.fault("agent", "making tool data is killed", "goes on after its last whole round, same bytes")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, given_seeds: Path) -> None:
    inputs, limit = {"tools": given_seeds}, [10_000]
    answer = writer()

    def until(body: dict[str, Any]) -> tuple[int, Any]:
        limit[0] -= 1
        return answer(body) if limit[0] >= 0 else (403, {"error": {"message": "no more"}})

    with chat_api.serving(until) as server:
        whole = instruct.run(settled(server.address), inputs, tmp_path / "whole")
        asked = len(server.bodies)
        limit[0] = asked - 3  # in the last of three rounds
        with pytest.raises(OpenQwenError, match="no more"):
            instruct.run(settled(server.address), inputs, tmp_path / "made")
        limit[0] = asked // 2  # enough for that round alone: whole ones are not paid for twice
        torn = tmp_path / "torn"
        shutil.copytree(tmp_path / "made", torn)
        done = instruct.run(settled(server.address), inputs, tmp_path / "made")
        lines = (torn / "attempts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (torn / "attempts.jsonl").write_text("".join(lines[:-2]), encoding="utf-8")
        limit[0] = asked  # a round of which some records are lost is done again
        again = instruct.run(settled(server.address), inputs, torn)
    for name in ("attempts.jsonl", "tools.jsonl", "rounds.json"):
        assert done.file(name).read_bytes() == whole.file(name).read_bytes()
        assert again.file(name).read_bytes() == whole.file(name).read_bytes()


def test_bad_seeds_and_a_model_that_makes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "plain.jsonl", [i for i in make_items() if i["gold"] is None])
    with chat_api.serving(writer()) as server, pytest.raises(DataError, match="no seed calls a tool"):
        instruct.run(settled(server.address), {"tools": tmp_path / "plain.jsonl"}, tmp_path / "a")
    write_jsonl(tmp_path / "seeds.jsonl", seeds())
    model = tiny.model_artefact(tmp_path / "model")
    words = ["self-instruct", "--tools", str(tmp_path / "seeds.jsonl"), "--out", str(tmp_path / "b")]
    assert main([*words, "--model", str(model), "--max-tokens", "2", "--rounds", "1", "--queries", "2"]) == 4
    assert "no conversation was kept" in capfd.readouterr().err
    assert main(words) == 2
