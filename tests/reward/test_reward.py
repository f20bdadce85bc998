"""The reward model learns what people like, says how well, refuses bad pairs, and resumes in the same bits."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import letters
import pytest
import tiny_artefacts as tiny
import torch

from openqwen.chat import chatml
from openqwen.core.artifact import load
from openqwen.core.config import Resolved, fields_without_source, resolve
from openqwen.core.errors import DataError
from openqwen.model.weights import load_scalar
from openqwen.reward import accuracy, data, loop
from openqwen.reward.config import RewardConfig
from openqwen.train.trainer import micro_batches

TINY = {
    "batch_size": 32,
    "micro_batch": 12,
    "max_length": 64,
    "optim.lr": 3e-3,
    "checkpoint_interval": 3,
    "num_samples": 2,
    "seed": 7,
}


def config(**changes: object) -> Resolved[RewardConfig]:
    return resolve(RewardConfig, "reward", flags={**TINY, **changes}, environ={})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reward")
    return {
        "model": letters.policy(folder / "chat", steps=20),
        "pairs": letters.pairs(folder / "pairs.jsonl", 0, 1000),
        "heldout": letters.pairs(folder / "heldout.jsonl", 1, 100),
    }


@pytest.fixture(scope="module")
def trained(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "pmp"
    loop.run(config(label="PMP"), inputs, out)
    return out


def test_defaults_are_the_reports() -> None:
    assert not fields_without_source(RewardConfig)
    default = RewardConfig()
    assert (default.optim.lr, default.batch_size, default.max_length, default.epochs) == (3e-6, 64, 2048, 1)
    assert default.schedule.shape == "constant" and default.schedule.warmup_steps == 0


def test_it_ranks_held_out_pairs_far_better_than_length(trained: Path, inputs: dict[str, Path]) -> None:
    facts = load(trained, "reward").manifest["facts"]
    assert facts["accuracy"] >= 0.9
    assert facts["accuracy_low"] > facts["length_accuracy"]
    table = json.loads((trained / "table_04.json").read_text())
    published = [row for row in table["rows"] if row["origin"] == "published"]
    assert {row["model"]: row["cells"]["Qwen Helpful-base"]["value"] for row in published} == {
        "PMP": 62.68,
        "RM": 74.78,
    }
    ours = next(row for row in table["rows"] if row["origin"] == "ours" and row["model"] == "PMP")
    cell = ours["cells"]["held-out pairs"]
    assert cell["low"] < cell["value"] <= cell["high"] and cell["n"] == 100 and cell["chance"] == 50.0
    assert ours["cells"]["task: letters"] == cell
    assert {c["name"] for c in table["columns"]} >= {"held-out pairs", "OpenAI PRM800K"}
    assert not (trained / "checkpoints").exists()
    assert len((trained / "samples.jsonl").read_text().splitlines()) == 2


def test_the_saved_model_scores_as_measured(trained: Path, inputs: dict[str, Path]) -> None:
    """An independent slow pass: one pair at a time, unpadded, the score read at the end token."""
    tok, model = tiny.byte_tokenizer(), load_scalar(trained)
    right = 0
    for line in inputs["heldout"].read_text().splitlines():
        record = json.loads(line)
        scores = []
        for side in ("chosen", "rejected"):
            ids = chatml.render_prompt(record["messages"], tok) + tok.encode(record[side]) + [tok.im_end_id]
            with torch.no_grad():
                scores.append(model(torch.tensor([ids]))[0, -1].item())
        right += scores[0] > scores[1]
    assert right / 100 == load(trained, "reward").manifest["facts"]["accuracy"]


def test_the_reward_model_continues_from_a_preference_model(
    trained: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    few = letters.pairs(tmp_path / "few.jsonl", 2, 96)
    artifact = loop.run(config(), {**inputs, "model": trained, "pairs": few}, tmp_path / "rm")
    facts = artifact.manifest["facts"]
    assert facts["accuracy_before"] == load(trained, "reward").manifest["facts"]["accuracy"]
    assert facts["accuracy"] >= 0.9
    rows = [
        r["model"]
        for r in json.loads((artifact.path / "table_04.json").read_text())["rows"]
        if r["origin"] == "ours"
    ]
    assert rows == ["PMP (before finetuning)", "RM", "longer or shorter reply"]


@pytest.mark.fault("training", "reward training is broken off and started again", "same bits")
def test_a_broken_off_run_continues_in_the_same_bits(
    inputs: dict[str, Path], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.batch_at

    def broken(pairs: object, step: int, *more: object) -> list[data.Pair]:
        if step == 8:
            raise KeyboardInterrupt
        return real(pairs, step, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "batch_at", broken)
    out = tmp_path / "pmp"
    with pytest.raises(KeyboardInterrupt):
        loop.run(config(label="PMP"), inputs, out)
    assert not (out / "DONE").exists()
    monkeypatch.undo()
    began: list[int] = []
    monkeypatch.setattr(
        loop, "batch_at", lambda pairs, step, *more: (began.append(step), real(pairs, step, *more))[1]
    )
    artifact = loop.run(config(label="PMP"), inputs, out)
    assert began[0] == 6  # the checkpoint before, every three steps
    assert artifact.content == load(trained, "reward").content
    assert (out / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    assert artifact.manifest["facts"]["checkpoint"] == load(trained, "reward").manifest["facts"]["checkpoint"]


def test_pairwise_loss_is_minus_log_of_the_preference_probability() -> None:
    chosen, rejected = torch.tensor([0.3, -2.0]), torch.tensor([1.1, -2.0])
    slow = [-math.log(math.exp(c) / (math.exp(c) + math.exp(r))) for c, r in zip([0.3, -2.0], [1.1, -2.0])]
    assert loop.pairwise_loss(chosen, rejected).tolist() == pytest.approx(slow)


def test_accumulation_over_micro_batches_does_not_change_the_gradient(inputs: dict[str, Path]) -> None:
    pairs = data.read_pairs(inputs["pairs"], tiny.byte_tokenizer(), 64).items[:13]
    grads = []
    for size in (13, 4):
        model = loop.starting_model(load(inputs["model"], "model"), 0).double()
        task = loop.Comparisons(config().config, model, pairs, pairs, inputs["pairs"])
        for few, _ in micro_batches(pairs, 0, 1, size):
            (task.losses(few)[0] / len(pairs)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    # Scores are fp32 in any model. The gradient is small because terms of about one cancel in it, so their rounding
    # (a few times 1e-7, differing between processors) is the bound; a wrongly weighted batch is off by 1e-4 and more.
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)


def test_a_pair_is_read_up_to_the_end_token() -> None:
    tok = tiny.byte_tokenizer()
    messages = letters.query(1)
    ids = data.render_pair_side(messages, "ab<|im_end|>", tok)
    assert ids == chatml.render_prompt(messages, tok) + tok.encode("ab<|im_end|>") + [tok.im_end_id]
    assert ids.count(tok.im_end_id) == 3  # system, user, assistant: text cannot make one


GOOD = {"messages": letters.query(1), "chosen": "aaa", "rejected": "bbb"}


@pytest.mark.fault("training", "pairs have equal or missing sides", "skipped and counted with their lines")
def test_bad_pairs_are_counted_by_reason_with_their_lines(tmp_path: Path) -> None:
    user = {"role": "user", "content": "x"}
    bad = [
        {**GOOD, "chosen": " bbb "},
        {**GOOD, "rejected": ""},
        {"messages": letters.query(1), "chosen": "a"},
        {**GOOD, "messages": [user, user]},
        {**GOOD, "messages": [user, {"role": "assistant", "content": "y"}]},
        {**GOOD, "messages": [{"role": "user", "content": 3}]},
        {**GOOD, "messages": []},
        {**GOOD, "chosen": "a" * 60},
        [1],
    ]
    path = letters.write(tmp_path / "pairs.jsonl", [GOOD, *bad])
    path.write_text(path.read_text() + "{torn\n\n" + json.dumps(GOOD) + "\n")
    pairs = data.read_pairs(path, tiny.byte_tokenizer(), 64)
    assert [pair.line for pair in pairs.items] == [1, 13]
    assert pairs.skipped == {
        "with equal sides": [2],
        "with a missing side": [3, 4],
        "with wrong roles": [5, 6, 7],
        "without messages": [8],
        "longer than 64 tokens": [9],
        "not a JSON object": [10, 11],
    }
    with pytest.raises(DataError) as caught:
        data.read_pairs(path, tiny.byte_tokenizer(), 64, max_skipped=0.5)
    assert "10 of 12 pairs cannot be used" in str(caught.value)
    assert "3 with wrong roles (lines 5, 6, 7)" in str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(DataError, match="the file is empty"):
        data.read_pairs(tmp_path / "pairs.jsonl", tiny.byte_tokenizer(), 64)


@pytest.mark.fault("training", "held-out pairs stand in the training file", "refused")
def test_held_out_pairs_that_were_trained_on_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held-out pair is also trained on"):
        loop.run(config(), {**inputs, "heldout": inputs["pairs"]}, tmp_path / "rm")
    assert not (tmp_path / "rm" / "DONE").exists()


def test_batches_cover_each_epoch_once_and_depend_on_the_step_alone(inputs: dict[str, Path]) -> None:
    pairs = data.read_pairs(inputs["pairs"], tiny.byte_tokenizer(), 64).items[:70]
    assert data.steps_per_epoch(70, 32) == 3
    epochs = [
        [p.line for step in range(e * 3, e * 3 + 3) for p in data.batch_at(pairs, step, 32, 5)]
        for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(p.line for p in pairs)
    assert epochs[0] != epochs[1]
    assert [p.line for p in data.batch_at(pairs, 4, 32, 5)] == epochs[1][32:64]


def test_accuracy_counts_a_tie_half() -> None:
    measured = accuracy.accuracy([1.0, -1.0, 0.0, 2.0])
    assert (measured.value, measured.n) == (0.625, 4)
    assert measured.low < 0.625 < measured.high


def test_length_baseline_learns_its_direction_from_training_pairs() -> None:
    rng = random.Random(0)
    shorter_wins = [(n, n + rng.randint(1, 3)) for n in range(20)]
    assert accuracy.length_rule(shorter_wins) == -1
    assert accuracy.length_margins(shorter_wins, [(1, 2), (5, 3), (4, 4)]) == [1, -2, 0]
    assert accuracy.length_margins([(2, 1)], [(1, 2), (5, 3), (7, 4)]) == [-1, 2, 3]


def test_the_gain_over_a_baseline_has_the_interval_of_paired_proportions() -> None:
    """Against the normal approximation for two proportions of the same items, b and c of which are discordant."""
    b, c, n = 90, 50, 400
    ours = [1.0] * b + [-1.0] * c + [1.0] * (n - b - c)
    baseline = [-1.0] * b + [1.0] * c + [1.0] * (n - b - c)
    gain = accuracy.difference(ours, baseline, range(n))
    half = 1.96 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert (gain.value, gain.n) == (0.1, n)
    assert gain.low == pytest.approx(0.1 - half, abs=0.006)
    assert gain.high == pytest.approx(0.1 + half, abs=0.006)


def test_pairs_of_one_prompt_are_not_counted_as_independent() -> None:
    ours, baseline = [1.0, -1.0, 0.0, 1.0, 2.0], [-1.0, -1.0, 1.0, 1.0, -3.0]
    once = accuracy.difference(ours, baseline, range(5))
    often = accuracy.difference(ours * 20, baseline * 20, list(range(5)) * 20)
    assert (often.value, often.low, often.high) == (once.value, once.low, once.high)
    assert accuracy.difference(ours * 20, baseline * 20, range(100)).low > once.low
    with pytest.raises(ValueError, match="no pairs"):
        accuracy.difference([], [], [])


def test_each_file_of_a_folder_is_a_column_of_table_4(
    trained: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Named as one of the report's sets it fills that column; intervals, the length rule and the gain go with it."""
    sets = tmp_path / "sets"
    sets.mkdir()
    letters.pairs(sets / "mine.jsonl", 3, 40)
    named = letters.pairs(sets / "Anthropic_helpful-base.jsonl", 4, 30)
    few = letters.pairs(tmp_path / "few.jsonl", 2, 64)
    artifact = loop.run(
        config(), {**inputs, "model": trained, "pairs": few, "heldout": sets}, tmp_path / "rm"
    )
    table = json.loads((artifact.path / "table_04.json").read_text())
    rows = {row["model"]: row["cells"] for row in table["rows"] if row["origin"] == "ours"}
    scores = [json.loads(line) for line in (artifact.path / "scores.jsonl").read_text().splitlines()]
    for file, column, count in (
        ("mine.jsonl", "mine", 40),
        ("Anthropic_helpful-base.jsonl", "Anthropic Helpful-base", 30),
    ):
        of = [s["chosen"] > s["rejected"] for s in scores if s["file"] == file]
        assert rows["RM"][column]["n"] == len(of) == count
        assert rows["RM"][column]["value"] == pytest.approx(100 * sum(of) / count, abs=0.01)
        assert rows["PMP (before finetuning)"][column]["n"] == count
        assert any(note.startswith(f"{column}: ") and "over length alone" in note for note in table["notes"])
    pairs = map(json.loads, named.read_text().splitlines())
    longer = [accuracy.rightness(len(pair["chosen"]) - len(pair["rejected"])) for pair in pairs]
    # The direction is that of the training pairs, in which the longer reply has more a's.
    assert rows["longer or shorter reply"]["Anthropic Helpful-base"]["value"] == pytest.approx(
        100 * sum(longer) / 30, abs=0.01
    )
    facts = artifact.manifest["facts"]
    seen = {json.dumps(json.loads(line)["messages"]) for line in few.read_text().splitlines()}
    heldout = [json.loads(line) for file in sets.iterdir() for line in file.read_text().splitlines()]
    assert facts["heldout_pairs_of_training_queries"] == sum(
        json.dumps(pair["messages"]) in seen for pair in heldout
    )
    assert facts["over_length"] == pytest.approx(facts["accuracy"] - facts["length_accuracy"])
    assert facts["over_length_low"] <= facts["over_length"] <= facts["over_length_high"]


@pytest.mark.fault(
    "training", "pairs are longer than the model's context", "skipped and counted with their lines"
)
def test_pairs_beyond_the_context_are_not_trained_on(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The context of the model counts (64 here), however long the settings would allow."""
    good = json.loads(inputs["heldout"].read_text().splitlines()[0])
    path = letters.write(tmp_path / "pairs.jsonl", [good, {**good, "chosen": "a" * 60}])
    with pytest.raises(DataError) as caught:
        loop.run(config(max_length=2048), {**inputs, "pairs": path}, tmp_path / "rm")
    assert "1 longer than 64 tokens (line 2)" in str(caught.value)
