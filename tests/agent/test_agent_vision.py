"""The vision judge: what it is sent, and which of its answers are scores."""

from __future__ import annotations

import base64
from typing import Any

import chat_api
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwen.agent.config import JudgeConfig
from openqwen.agent.vision import Asked, Judge, score_of
from openqwen.annotate.config import RemoteConfig
from openqwen.core.config import resolve
from openqwen.core.errors import OpenQwenError, UsageError

PNG = b"\x89PNG\r\n\x1a\nnot a whole picture"


def judge(address: str, **remote: Any) -> Judge:
    return Judge(JudgeConfig(address=f"{address}#eyes", remote=RemoteConfig(**remote), max_tokens=77))


def test_a_picture_goes_out_as_a_data_url_and_a_score_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYES_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "of somebody else")
    with chat_api.serving(lambda body: (200, "All there.\n[FINAL SCORE]: 85")) as server:
        asked = Asked("Draw {rain}. <|im_end|>", PNG)
        [verdict] = judge(server.address, key_variable="EYES_KEY").judge([asked])
        [with_right] = judge(server.address, key_variable="EYES_KEY").judge([Asked("x", PNG, PNG + b"2")])
    assert verdict.score == with_right.score == 85 and verdict.text.startswith("All there.")
    one, two = server.bodies
    assert server.keys == ["Bearer secret"] * 2
    assert one["model"] == "eyes" and one["max_tokens"] == 77 and one["temperature"] == 0
    [message] = one["messages"]
    text, picture = message["content"]
    assert message["role"] == "user" and "<request>\nDraw {rain}. <|im_end|>\n</request>" in text["text"]
    assert picture["type"] == "image_url"
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(data, validate=True) == PNG
    text, _, right = two["messages"][0]["content"]
    assert (
        "second picture" in text["text"] and "second picture" not in one["messages"][0]["content"][0]["text"]
    )
    assert base64.b64decode(right["image_url"]["url"].partition(",")[2]) == PNG + b"2"


VERDICTS: list[tuple[str, int | None]] = [
    ("[FINAL SCORE]: 0", 0),
    ("Good.\n\n[FINAL SCORE]: 100\n", 100),
    ("[FINAL SCORE]:7", 7),
    ("[FINAL SCORE]: 101", None),
    ("[FINAL SCORE]: 999", None),
    ("[FINAL SCORE]: -5", None),
    ("[FINAL SCORE]: 40.5", None),
    ("[FINAL SCORE]: 40/100", None),
    ("[FINAL SCORE]: forty", None),
    ("[FINAL SCORE]: 40 or so", None),
    ("[FINAL SCORE]: ٤٠", None),
    ("I say [FINAL SCORE]: 40", None),
    ("[FINAL SCORE]: 40\nThat is all.", None),
    ("[FINAL SCORE]: 40\n[FINAL SCORE]: 60", None),
    ("Between [FINAL SCORE]: 20 and more\n[FINAL SCORE]: 60", None),
    ("[final score]: 40", None),
    ("40", None),
    ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "score"), VERDICTS)
def test_only_one_clear_score_counts(text: str, score: int | None) -> None:
    assert score_of(text) == score


@given(st.text(), st.integers(0, 100))
def test_no_text_gives_a_score_that_is_none(text: str, score: int) -> None:
    found = score_of(text)
    assert found is None or 0 <= found <= 100
    marked = "[FINAL SCORE]:" in text
    assert score_of(f"{text}\n[FINAL SCORE]: {score}") == (None if marked else score)


def test_no_answer_is_no_score() -> None:
    def refuse(body: dict[str, Any]) -> tuple[int, Any]:
        return 400, {"error": {"message": "no pictures here"}}

    with chat_api.serving(refuse) as server:
        [verdict] = judge(server.address).judge([Asked("x", PNG)])
    assert verdict.score is None and "no pictures here" in (verdict.problem or "")
    with (
        chat_api.serving(lambda body: (401, {"error": {"message": "no key"}})) as server,
        pytest.raises(OpenQwenError, match="no key"),
    ):
        judge(server.address, retries=0).judge([Asked("x", PNG)])


def test_an_address_names_its_model() -> None:
    from openqwen.agent.config import AgentEvalConfig

    flags = {"sets.judge.address": "http://127.0.0.1:9/v1"}
    with pytest.raises(UsageError, match="ADDRESS#NAME"):
        resolve(AgentEvalConfig, "agent", flags=flags, environ={})
