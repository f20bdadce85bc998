"""Whether and why a text is in a corpus, and at which steps a model saw it: against what the loader really gave."""

from __future__ import annotations

import io
import json
import shutil
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import letters
import numpy as np
import pytest
import tiny_artefacts as tiny
from shard_bench import resolved

from openqwen.cli import main
from openqwen.cli.seen import runs_on, seen
from openqwen.cli.why import lines, ranges
from openqwen.core import artifact
from openqwen.core.artifact import Artifact
from openqwen.core.config import resolve
from openqwen.core.errors import DataError, UsageError
from openqwen.core.jsonl import read_corpus
from openqwen.core.shards import open_tokens
from openqwen.data.account import Account
from openqwen.data.config import DataConfig
from openqwen.data.stage import run as build
from openqwen.data.why import explain, find
from openqwen.pretrain import loop
from openqwen.pretrain.config import PretrainConfig
from openqwen.reward.config import RewardConfig
from openqwen.reward.loop import run as train_reward
from openqwen.rlhf import loop as rlhf_loop
from openqwen.rlhf import prompts as rlhf_prompts
from openqwen.rlhf import update as rlhf_update
from openqwen.rlhf.config import PPOConfig
from openqwen.tokenizer.config import PackConfig
from openqwen.tokenizer.pack import run as pack
from openqwen.train import loader
from openqwen.train.seen import Reading, steps_with

TINY = {
    "model.hidden_size": 16, "model.num_layers": 1, "model.num_heads": 2, "model.ffn_size": 16, "context": 48,
    "batch_tokens": 192, "micro_batch": 4, "eval_tokens": 200, "prompts": ["a"], "sample_tokens": 2,
    "ngram_order": "none", "seed": 7, "schedule.warmup_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def account(in_process: Artifact) -> Account:
    return Account(in_process)


def rows(account: Account, step: str | None) -> list[dict[str, Any]]:
    tables = account.tables(["id", "step", "reason", "of"])
    return [row for table in tables for row in table.to_pylist() if row["step"] == step]


def text_of(account: Account, ident: str) -> str:
    return account.text(account.find([ident])[ident])


# ---- found -----------------------------------------------------------------------------------------------------
def test_every_document_is_found_by_its_id_and_tells_its_verdict(account: Account) -> None:
    for step in [None, *account.steps]:
        for row in rows(account, step)[:3]:
            found, count = find(account, row["id"])
            assert [(f.id, f.how) for f in found] == [(row["id"], "id")] and count == 1
            story = explain(account, row["id"])
            assert (story["in"], story["step"], story["reason"]) == (step is None, step, row["reason"])


def test_a_piece_is_found_however_it_is_written(account: Account) -> None:
    """In every step's documents: the middle of the text, in capitals, full width, with other spaces and punctuation."""
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    for step in (None, "language", "exact", "fuzzy", "spam", "decontaminate"):
        ident = rows(account, step)[-1]["id"]
        text = text_of(account, ident)
        piece = text[len(text) // 3 : len(text) // 3 + 120]
        for other in (
            piece,
            piece.upper(),
            piece.translate(wide),
            piece.replace(" ", " \n ").replace(".", " ! "),
        ):
            found, _ = find(account, other)
            assert ident in [f.id for f in found] and {f.how for f in found} == {"text"}


def test_what_is_found_is_what_holds_the_text(account: Account) -> None:
    from openqwen.data.text import normal_form

    for question in ("the", "is", "公里"):
        _, count = find(account, question)
        texts = [d.record["text"] for d in account.documents(account.folders)]
        assert count == sum(normal_form(question) in normal_form(text) for text in texts)


def test_near_texts_are_found_where_none_is_equal(account: Account) -> None:
    ident = rows(account, None)[0]["id"]
    words = text_of(account, ident).split(" ")
    words[len(words) // 2] = "wholly-different-from-that"
    found, _ = find(account, " ".join(words))
    assert found[0].id == ident and found[0].how == "near"
    assert 0.8 < found[0].held < 1 and found[0].similarity == pytest.approx(found[0].held, abs=0.15)
    held = [f.held for f in found]
    assert held == sorted(held, reverse=True) and min(held) >= 0.3
    assert find(account, "Quetzals rarely juggle vexed sphinxes beyond wobbly xylophone kiosks.") == ([], 0)


def test_nothing_to_compare(account: Account) -> None:
    with pytest.raises(UsageError, match="nothing in it to compare"):
        find(account, " ?! ")
    assert find(account, "\udcffno \ud800 such thing anywhere") == (
        [],
        0,
    )  # as a shell hands on what is not UTF-8


# ---- explained -------------------------------------------------------------------------------------------------
def test_copies_name_what_stayed_and_are_named_by_it(account: Account) -> None:
    copies = rows(account, "exact") + rows(account, "fuzzy")
    end: dict[str, str] = {row["id"]: row["of"] for row in copies}

    def last(ident: str) -> str:
        return last(end[ident]) if ident in end else ident

    stand_for = defaultdict(set)
    for row in copies:
        stand_for[last(row["id"])].add(row["id"])
    long = next((row["id"] for row in copies if row["of"] in end), copies[0]["id"])
    for ident in (long, rows(account, "fuzzy")[0]["id"]):
        chain = explain(account, ident)["instead"]
        assert chain[-1]["id"] == last(ident) and all(
            link["step"] in ("exact", "fuzzy") for link in chain[:-1]
        )
    fuzzy = explain(account, rows(account, "fuzzy")[0]["id"])
    assert fuzzy["instead"][0]["similarity"] >= 0.6
    for ident in list(stand_for)[:5]:
        assert {copy["id"] for copy in explain(account, ident)["stands_for"]} == stand_for[ident]
    overlap = explain(account, rows(account, "decontaminate")[0]["id"])
    assert overlap["instead"] == [] and ":" in overlap["of"]


def test_lines_for_people(account: Account) -> None:
    found = {"how": "id", "held": 1.0, "similarity": None}
    for step in ("spam", "exact", "decontaminate"):
        story = {**explain(account, rows(account, step)[0]["id"]), "found": found}
        text = "\n".join(lines(story))
        assert f"not in the corpus: dropped by {step}: {story['reason']}" in text
        assert (story["of"] or "") in text and (story["detail"] or "") in text
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([*range(1, 60, 2)]).endswith("21, 23 and 18 more")


def test_the_command(
    account: Account, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ident = str(account.corpus.path), rows(account, "spam")[0]["id"]
    assert main(["data", "why", path, ident]) == 0
    assert "dropped by spam" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(text_of(account, ident)))
    assert main(["data", "why", path, "-", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert ident in [story["id"] for story in told["documents"]]
    assert main(["data", "why", path, "zzz qqq"]) == 0
    assert "no document of this corpus" in capsys.readouterr().out


@pytest.mark.fault("data", "the account of a corpus is damaged", "no answer is given from it")
def test_a_damaged_account_is_no_answer(
    account: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ident = rows(account, None)[0]["id"]
    for name in ("verdicts/part-00000.parquet", "train/part-00000.jsonl.zst", "stats.json"):
        shutil.copytree(account.corpus.path, tmp_path / "corpus")
        damaged = tmp_path / "corpus" / name
        damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
        assert main(["data", "why", str(tmp_path / "corpus"), ident]) == 4, name
        assert name in capsys.readouterr().err
        shutil.rmtree(tmp_path / "corpus")


# ---- seen ------------------------------------------------------------------------------------------------------
@dataclass
class Trained:
    """A run of some epochs on a corpus with up-sampled documents, and which tokens the loader gave at each step."""

    corpus: Artifact
    base: Path
    steps: int
    positions: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def documents(self) -> list[str]:
        index = self.base.parent / "tokens" / "documents.train.jsonl"
        return [record["id"] for record in artifact.read_jsonl(index)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "in").mkdir()
    for source, count in (("web", 40), ("books", 12)):
        texts = [f"{source} number {n}: " + f"word{n} " * (1 + 5 * n % 23) for n in range(count)]
        records = [json.dumps({"id": f"{n}", "text": text, "source": source}) for n, text in enumerate(texts)]
        (folder / "in" / f"{source}.jsonl").write_text("\n".join(records))
    flags = {
        "quality__rules": False,
        "quality__lm": False,
        "dedup__fuzzy": False,
        "language__keep": [],
        "mix__proportions": {"books": 0.6},
        "quality__spam": 1.0,
        "quality__offensive": 1.0,
        "runner__how": "in-process",
        "shard_bytes": 1500,
        "valid_fraction": 0.1,
    }
    corpus = build(resolved(DataConfig, "data", **flags), {"input": folder / "in"}, folder / "corpus")
    tokenizer = tiny.tokenizer_artefact(folder / "tokenizer")
    few = resolve(PackConfig, "pack", flags={"shard_tokens": 1500}, environ={})
    pack(few, {"corpus": corpus.path, "tokenizer": tokenizer}, folder / "tokens")
    steps = int(2.6 * loader.num_pieces(open_tokens(folder / "tokens"), 48) / 4)
    found = Trained(corpus, folder / "base", steps)
    step_now = 0

    def samples_at(step: int, batch_size: int) -> np.ndarray:
        nonlocal step_now
        step_now = step + 1
        return loader.samples_at(step, batch_size)

    def take(tokens: Any, positions: np.ndarray) -> np.ndarray:
        found.positions[step_now] += positions.flatten().tolist()
        return real_take(tokens, positions)

    real_take = loader.take
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "samples_at", samples_at)
        patch.setattr(loader, "take", take)
        config = resolve(PretrainConfig, "pretrain", flags={**TINY, "steps": steps}, environ={})
        loop.run(config, {"tokens": folder / "tokens", "tokenizer": tokenizer}, found.base)
    assert sorted(found.positions) == list(range(1, steps + 1))
    return found


def test_steps_are_those_at_which_the_run_really_read_a_document(trained: Trained) -> None:
    """Over several epochs, with up-sampled copies, documents across sequences and shards, and the tail of an epoch."""
    tokens, documents = open_tokens(trained.base.parent / "tokens"), trained.documents
    assert len(documents) > len(set(documents)) and len(tokens.shards) > 1
    read = {
        step: {documents[n] for n in np.searchsorted(tokens.ends, positions, side="right")}
        for step, positions in trained.positions.items()
    }
    (run,) = runs_on(trained.corpus, trained.base)
    for ident in sorted(set(documents)):
        found = seen(run, ident)
        assert found["copies"] == documents.count(ident)
        assert found["steps"] == [step for step in sorted(read) if ident in read[step]], ident
        assert sorted({step for steps in found["epochs"].values() for step in steps}) == found["steps"]
        assert set(found["epochs"]) <= {1, 2, 3}
    held_out = next(read_corpus(trained.corpus.path, "valid"))["id"]
    assert seen(run, held_out)["steps"] == []


def test_the_story_of_a_document_ends_with_the_steps(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    ident = next(ident for ident in trained.documents if trained.documents.count(ident) > 1)
    path, base = str(trained.corpus.path), str(trained.base)
    assert main(["data", "why", path, ident, "--model", base, "--json"]) == 0
    (story,) = json.loads(capsys.readouterr().out)["documents"]
    assert story["copies"] == trained.documents.count(ident) and story["seen"][0]["steps"]
    assert main(["data", "why", path, ident, "--model", base]) == 0
    said = capsys.readouterr().out
    assert f"in the corpus, {story['copies']} times" in said and "epoch 1: step" in said
    held_out = next(read_corpus(trained.corpus.path, "valid"))["id"]
    assert main(["data", "why", path, held_out, "--model", base]) == 0
    said = capsys.readouterr().out
    assert "never trained on" in said and "never seen" in said


def test_steps_without_effect_are_told(trained: Trained, tmp_path: Path) -> None:
    (run,) = runs_on(trained.corpus, trained.base)
    steps = seen(run, trained.documents[0])["steps"]
    folder = tmp_path / "base"
    folder.mkdir()
    records = [{"step": steps[0], "kind": "not finite"}, {"step": steps[1], "kind": "spike"}]
    (folder / "incidents.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert seen(replace(run, path=folder), trained.documents[0])["skipped"] == [steps[0]]


def test_a_model_that_came_from_another_one(trained: Trained, in_process: Artifact, tmp_path: Path) -> None:
    """Runs are told of back to the first one; whoever never met this corpus is refused, changed tokens are too."""
    inputs = {"tokens": trained.base.parent / "tokens", "tokenizer": trained.base.parent / "tokenizer"}
    flags = {**TINY, "steps": 2, "seed": 8}
    config = resolve(PretrainConfig, "pretrain", flags=flags, environ={})
    loop.run(config, {**inputs, "model": trained.base}, tmp_path / "more")
    runs = runs_on(trained.corpus, tmp_path / "more")
    assert [run.path.name for run in runs] == ["base", "more"]
    assert [run.reading.batches for run in runs] == [trained.steps, 2]
    with pytest.raises(DataError, match="was trained on this corpus"):
        runs_on(in_process, tmp_path / "more")
    shutil.copytree(trained.base.parent, tmp_path / "copy")
    done = tmp_path / "copy" / "tokens" / "DONE"
    done.write_text(done.read_text().replace('"content":"', '"content":"0'))
    with pytest.raises(DataError, match="not what it was trained with"):
        runs_on(trained.corpus, tmp_path / "copy" / "base")


def test_a_checkpoint_of_a_run_that_goes_on(trained: Trained, in_process: Artifact, tmp_path: Path) -> None:
    """It has seen what the steps before it read, and so has a model that it goes on from."""
    tokens, tokenizer = trained.base.parent / "tokens", trained.base.parent / "tokenizer"
    flags = {**TINY, "steps": trained.steps, "checkpoint_interval": 10}
    config = resolve(PretrainConfig, "pretrain", flags=flags, environ={})
    stop = loop.fit

    def killed(*given: Any) -> Any:
        stop(*given)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "fit", killed)
        loop.run(config, {"tokens": tokens, "tokenizer": tokenizer, "model": trained.base}, tmp_path / "base")
    checkpoint = tmp_path / "base" / "checkpoints" / "step-00000070"
    before, run = runs_on(trained.corpus, checkpoint)
    (whole,) = runs_on(trained.corpus, trained.base)
    assert before == whole
    for ident in set(trained.documents):
        assert seen(run, ident)["steps"] == [step for step in seen(whole, ident)["steps"] if step <= 70]
    with pytest.raises(DataError, match="was trained on this corpus"):
        runs_on(in_process, checkpoint)
    with pytest.raises(DataError, match="not finished"):
        runs_on(trained.corpus, tmp_path / "base")
    with pytest.raises(DataError, match="no checkpoint there"):
        runs_on(trained.corpus, tmp_path / "step-00000070")


def test_steps_of_ppo_are_those_of_the_pretrained_gradient(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real run: each update of the policy reads a batch, the first steps train the value model alone."""
    policy = letters.policy(tmp_path / "chat", steps=2)
    few = {"batch_size": 4, "micro_batch": 4, "max_length": 64}
    pairs = {
        "pairs": letters.pairs(tmp_path / "p.jsonl", 0, 12),
        "heldout": letters.pairs(tmp_path / "h.jsonl", 1, 4),
    }
    few["schedule.warmup_steps"] = 1
    train_reward(
        resolve(RewardConfig, "reward", flags=few, environ={}), {"model": policy, **pairs}, tmp_path / "rm"
    )
    flags = {
        "value_warmup_steps": 2,
        "steps": 3,
        "epochs": 2,
        "minibatches": 2,
        "prompts_per_step": 2,
        "max_new_tokens": 4,
        "max_prompt": 40,
        "micro_rows": 4,
        "pretrain_batch": 3,
        "pretrain_context": 16,
        "heldout": 2,
        "eval_tokens": 64,
        "num_samples": 1,
        "precision": "fp32",
        "seed": 9,
    }
    ppo = resolve(PPOConfig, "ppo", flags=flags, environ={})
    tokens = trained.base.parent / "tokens"
    positions: dict[int, list[int]] = defaultdict(list)
    step_now = 0

    def prompts_at(prompts: Any, step: int, *rest: Any) -> Any:
        nonlocal step_now
        step_now = step + 1
        return rlhf_prompts.prompts_at(prompts, step, *rest)

    def batch_at(tokens: Any, number: int, batch_size: int, context: int, seed: int) -> Any:
        samples = loader.samples_at(number, batch_size)
        positions[step_now] += loader.positions_of(tokens, samples, context, seed).flatten().tolist()
        return loader.batch_at(tokens, number, batch_size, context, seed)

    monkeypatch.setattr(rlhf_loop, "prompts_at", prompts_at)
    monkeypatch.setattr(rlhf_update, "batch_at", batch_at)
    inputs = {
        "policy": policy,
        "reward": tmp_path / "rm",
        "prompts": letters.prompts(tmp_path / "prompts.jsonl"),
        "tokens": tokens,
    }
    rlhf_loop.run(ppo, inputs, tmp_path / "rlhf")
    assert sorted(positions) == [3, 4, 5]
    (run,) = runs_on(trained.corpus, tmp_path / "rlhf")
    assert run.stage == "ppo"
    opened, documents = open_tokens(tokens), trained.documents
    read = {
        step: {documents[n] for n in np.searchsorted(opened.ends, own, side="right")}
        for step, own in positions.items()
    }
    for ident in set(documents):
        assert seen(run, ident)["steps"] == [step for step in sorted(read) if ident in read[step]]
    checkpoint = tmp_path / "rlhf" / "checkpoints" / "step-00000004"  # as it was while the run went on
    checkpoint.mkdir(parents=True)
    (half,) = runs_on(trained.corpus, checkpoint)
    for ident in set(documents):
        assert seen(half, ident)["steps"] == [step for step in seen(run, ident)["steps"] if step <= 4]
    assert steps_with(opened, range(5), Reading(16, 5, 0, 9)) == []  # without a pretrained gradient
