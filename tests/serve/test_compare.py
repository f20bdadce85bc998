"""Several models in one server, the reward model's scores, and the file of preferences."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch

from openqwen.chat import chatml
from openqwen.cli.serve import named_paths
from openqwen.core.errors import UsageError
from openqwen.engine import Engine, Sampling
from openqwen.model import save_model, save_scalar
from openqwen.model.heads import ScalarModel
from openqwen.reward.data import read_pairs, render_pair_side
from openqwen.reward.loop import score
from openqwen.serve.compare import FILE, Preferences, Reward
from openqwen.serve.metrics import ServerMetrics
from tests.serve.conftest import endless, running, tiny_model

ASKED = [{"role": "user", "content": "Which?"}]


@pytest.fixture(scope="module")
def other():
    model = tiny_model()
    with torch.no_grad():
        model.embed.weight.copy_(model.embed.weight.flip(0))
    return model


@pytest.fixture(scope="module")
def judge(model):
    return ScalarModel.from_qwen(model, seed=1).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("preferences")


@pytest.fixture(scope="module")
def compared(model, tokenizer, other, judge, folder):
    engine = endless(Engine(other, tokenizer, 8, max_length=700))
    settings = {"reward": Reward(judge, tokenizer), "preferences": Preferences(folder)}
    with running(model, tokenizer, also={"other": engine}, **settings) as (url, service):
        yield url, service


def post(url, path, body):
    return httpx.post(url + path, json=body, timeout=20)


def test_each_model_answers_to_its_name(compared, model, other, tokenizer):
    client = openai.OpenAI(base_url=compared[0] + "/v1", api_key="none", max_retries=0)
    assert [card.id for card in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").id == "other"
    prompt = chatml.render_prompt(ASKED, tokenizer)
    replies = set()
    for name, served in (("tiny", model), ("other", other)):
        reply = client.chat.completions.create(model=name, messages=ASKED, max_tokens=16, seed=4)
        alone = endless(Engine(served, tokenizer)).generate([prompt], Sampling(seed=4, max_tokens=16))[0]
        assert reply.choices[0].message.content == alone.text and reply.model == name
        text = client.completions.create(model=name, prompt="x", max_tokens=5, temperature=0)
        assert text.model == name
        replies.add(alone.text)
    assert len(replies) == 2
    with pytest.raises(openai.NotFoundError, match="no model 'third' here"):
        client.chat.completions.create(model="third", messages=ASKED)


def test_metrics_count_over_all_models(compared):
    url, service = compared
    post(url, "/v1/chat/completions", {"model": "other", "messages": ASKED, "max_tokens": 3})
    lines = httpx.get(url + "/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["openqwen_running"]) == 0 and float(values["openqwen_reply_tokens_total"]) >= 3
    assert service.metrics is service.named("other").metrics


def test_gauges_are_sums_over_the_engines():
    class Idle:
        def __init__(self, running: int, waiting: int) -> None:
            self.scheduler = SimpleNamespace(running=[0] * running, waiting=[0] * waiting)

    metrics = ServerMetrics()
    for engine in (Idle(2, 1), Idle(3, 0)):
        metrics.observe(engine)
    assert b"openqwen_running 5.0" in metrics.text() and b"openqwen_waiting 1.0" in metrics.text()


def test_scores_are_those_of_the_reward_stage(compared, judge, tokenizer):
    replies = ["Yes.", "No, because of the other one.", "你好"]
    scores = post(compared[0], "/score", {"messages": ASKED, "replies": replies}).json()["scores"]
    rows = [render_pair_side(ASKED, reply, tokenizer) for reply in replies]
    with torch.inference_mode():
        expected = score(judge, rows, torch.device("cpu")).tolist()  # in one padded batch
    assert scores == pytest.approx(expected, abs=1e-4)
    assert len(set(scores)) == 3


def test_stored_choices_train_a_reward_model(compared, folder, tokenizer):
    body = {
        "messages": ASKED,
        "chosen": "good",
        "rejected": "bad\nworse",
        "chosen_model": "rlhf",
        "chosen_score": 0.25,
    }
    before = httpx.get(compared[0] + "/compare").json()["stored"]
    answers = [post(compared[0], "/preferences", body | {"rejected": f"bad {i}"}).json() for i in range(2)]
    answers.append(post(compared[0], "/preferences", body).json())
    assert [answer["stored"] for answer in answers] == [before + 1, before + 2, before + 3]
    said = httpx.get(compared[0] + "/compare").json()
    assert said == {"reward": True, "preferences": True, "stored": before + 3}
    pairs = read_pairs(folder / FILE, tokenizer, 700)
    assert not pairs.skipped
    assert (pairs.items[-1].chosen, pairs.items[-1].rejected) == ("good", "bad\nworse")
    record = json.loads((folder / FILE).read_text(encoding="utf-8").splitlines()[-1])
    assert (
        record["id"] == answers[-1]["id"]
        and record["chosen_score"] == 0.25
        and "rejected_score" not in record
    )


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("/score", {"replies": []}, "replies"),
        ("/score", {"replies": ["x"] * 17}, "replies"),
        ("/score", {"replies": ["x" * 600]}, "the reward model reads 512 tokens"),
        ("/score", {"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, "with the user's turn"),
        ("/preferences", {"chosen": "same", "rejected": " same "}, "with equal sides"),
        ("/preferences", {"chosen": " "}, "with a missing side"),
        ("/preferences", {"chosen": 3}, "chosen"),
        ("/preferences", {"messages": [{"role": "assistant", "content": "x"}]}, "with the user's turn"),
    ],
)
def test_what_is_no_comparison_is_refused_and_not_stored(compared, folder, path, change, said):
    before = (folder / FILE).read_bytes()
    right = {"messages": ASKED, "replies": ["x"], "chosen": "a", "rejected": "b"}
    answer = post(compared[0], path, right | change)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]
    assert (folder / FILE).read_bytes() == before


def test_many_choices_at_once_are_whole_lines(tmp_path):
    kept = Preferences(tmp_path)
    write = lambda i: [kept.append({"id": i, "text": "x" * 5000 + "\u2028"}) for _ in range(20)]  # noqa: E731
    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / FILE).read_bytes().split(b"\n")
    assert lines.pop() == b"" and sorted(json.loads(line)["id"] for line in lines) == sorted(
        [0, 1, 2, 3] * 20
    )
    assert kept.count == 80 == Preferences(tmp_path).count


@pytest.mark.fault("server", "a crash while a preference is stored", "no other line is spoilt")
def test_a_line_cut_short_by_a_crash_spoils_no_other(tmp_path):
    (tmp_path / FILE).write_bytes(b'{"id": 1}\n{"id": 2, "cho')
    Preferences(tmp_path).append({"id": 3})
    assert (tmp_path / FILE).read_bytes() == b'{"id": 1}\n{"id": 2, "cho\n{"id": 3}\n'


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_served(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="preferences cannot be kept here"):
        Preferences(tmp_path / "file")


def test_without_them_there_is_nothing_to_call(server):
    assert httpx.get(server[0] + "/compare").json() == {"reward": False, "preferences": False, "stored": None}
    for path in ("/score", "/preferences"):
        assert post(server[0], path, {}).status_code == 404


def test_a_name_twice_is_refused(model, tokenizer, other):
    engine = Engine(other, tokenizer)
    with (
        pytest.raises(UsageError, match="two models are called 'tiny'"),
        running(model, tokenizer, also={"tiny": engine}),
    ):
        pass


def test_the_command_serves_them_all(model, tokenizer, other, judge, tmp_path):
    places = {name: tmp_path / name for name in ("main", "other", "judge", "kept")}
    save_model(model, places["main"])
    save_model(other, places["other"])
    save_scalar(judge, places["judge"])
    for name in ("main", "other", "judge"):
        tokenizer.save(places[name])
    flags = [
        "--also",
        f"base={places['other']}",
        "--reward",
        places["judge"],
        "--preferences",
        places["kept"],
    ]
    command = [
        sys.executable,
        "-m",
        "openqwen",
        "serve",
        places["main"],
        "--port",
        "0",
        "--no-compiled",
        *flags,
    ]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[-1].rstrip("/")
        assert [card["id"] for card in httpx.get(url + "/v1/models").json()["data"]] == ["main", "base"]
        assert len(post(url, "/score", {"messages": ASKED, "replies": ["a", "b"]}).json()["scores"]) == 2
        assert (
            post(url, "/preferences", {"messages": ASKED, "chosen": "a", "rejected": "b"}).json()["stored"]
            == 1
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert (places["kept"] / FILE).read_bytes().count(b"\n") == 1


def test_the_also_flag():
    found = named_paths(["base=out/base", "sft=a=b"])
    assert {name: str(path) for name, path in found.items()} == {"base": "out/base", "sft": "a=b"}
    for wrong in ("base", "=x", "base="):
        with pytest.raises(UsageError, match="not NAME=PATH"):
            named_paths([wrong])
    with pytest.raises(UsageError, match="'a' twice"):
        named_paths(["a=x", "a=y"])
