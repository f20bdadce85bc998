"""The stage with the real primer, tokenizer, engine and (untrained) models: every file, every fact, no invented cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openqwen import sandbox
from openqwen.core.artifact import Artifact, find, load, read_jsonl, stage_run
from openqwen.core.config import Config, Resolved
from openqwen.core.jsonl import write_jsonl_zst
from openqwen.data.primer import stage as primer_stage
from openqwen.data.primer.config import PrimerConfig
from openqwen.evals import contamination, stage
from openqwen.evals.config import EvalsConfig
from openqwen.tokenizer import Tokenizer

PLAIN = Resolved(Config(), {})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from openqwen.model import ModelConfig, Qwen, ScalarModel, save_model, save_scalar

    root = tmp_path_factory.mktemp("run")
    small = PrimerConfig(
        pages=100, sft_train=20, sft_heldout=12, tools_train=8, tools_heldout=8, pmp_pairs=8, pairs_train=8,
        pairs_heldout=8, prompts_train=8, prompts_heldout=8,
    )  # fmt: skip
    primer_stage.run(Resolved(small, {}), {}, root / "primer")
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_length=256
    )
    for seed, name in enumerate(("base", "chat", "rlhf")):
        with stage_run(root / name, "model", PLAIN, {}):
            model = Qwen(shape)
            model.init_weights(seed)
            save_model(model, root / name)
            tokenizer.save(root / name)
    with stage_run(root / "reward", "reward", PLAIN, {}):
        save_scalar(ScalarModel(shape), root / "reward")
        tokenizer.save(root / "reward")
    with stage_run(root / "corpus", "corpus", PLAIN, {}):
        (root / "corpus" / "train").mkdir()
        leak = next(
            i for i in read_jsonl(root / "primer" / "benchmarks" / "gsm8k.jsonl") if i["split"] == "test"
        )
        documents = [{"text": "a page"}, {"text": f"before {leak['question']} after"}]
        write_jsonl_zst(root / "corpus" / "train" / "part-00000.jsonl.zst", documents)
    with stage_run(root / "tokens", "tokens", PLAIN, {"corpus": load(root / "corpus", "corpus")}):
        (root / "tokens" / "x").write_text("x", encoding="utf-8")
    return {name: root / name for name in ("base", "chat", "rlhf", "reward", "primer", "tokens")}


@pytest.fixture(scope="module")
def done(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    config = EvalsConfig(choice_items=6, text_items=4, code_items=2, max_tokens=8, resamples=50)
    return stage.run(Resolved(config, {}), inputs, tmp_path_factory.mktemp("out") / "evals")


def read(done: Artifact, name: str) -> dict:
    return json.loads(done.file(name).read_text(encoding="utf-8"))


def test_all_files_are_there(done: Artifact) -> None:
    assert done == find(done.path) and done.kind == "evals"
    for name in ("table_02", "table_05", "table_10", "table_12", "figure_04", "sft_heldout"):
        assert read(done, f"{name}.json")
    facts = done.manifest["facts"]
    assert {"sft_accuracy", "sft_stops", "rlhf_accuracy", "wins", "ties", "losses"} <= facts.keys()
    assert facts["wins"] + facts["ties"] + facts["losses"] == pytest.approx(1)
    assert all(0 <= value <= 1 for name, value in facts.items() if name != "true_score_gain")


def test_every_cell_of_ours_has_a_card(done: Artifact, inputs: dict[str, Path]) -> None:
    cards = {card["manifest"]: card for card in read_jsonl(done.file("cards.jsonl"))}
    seen = 0
    for number in (2, 5, 10, 12):
        for row in read(done, f"table_{number:02d}.json")["rows"]:
            for cell in row["cells"].values():
                if row["origin"] == "ours":
                    card = cards[cell["manifest"]]
                    assert {"value", "low", "high", "n"} <= cell.keys() and cell["source"].startswith(
                        "primer, "
                    )
                    assert (
                        cell["low"] <= cell["value"] <= cell["high"]
                        and len(card["items"]["ids"]) == cell["n"]
                    )
                    assert card["model"]["weights"] == load(inputs[card["model"]["name"]], "model").content
                    seen += 1
    assert seen >= 5 + 16


def test_rows_and_notes(done: Artifact) -> None:
    table = read(done, "table_05.json")
    ours = [row["model"] for row in table["rows"] if row["origin"] == "ours"]
    assert ours == ["ours: chat model (SFT)", "ours: chat model (RLHF)"]
    assert any("only have the shape" in note for note in table["notes"])
    assert any("GSM8K 1/" in note for note in table["notes"]), table["notes"]
    code_cells = ["HumanEval" in row["cells"] for row in table["rows"] if row["origin"] == "ours"]
    assert all(code_cells) == (sandbox.backend() is not None)


@pytest.mark.fault("evaluation", "a stored result is scored again", "the same number, without a model")
def test_raw_outputs_score_again_to_the_same_number(done: Artifact) -> None:
    cards = {card["manifest"]: card for card in read_jsonl(done.file("cards.jsonl"))}
    outputs: dict[str, list[bool]] = {}
    for line in read_jsonl(done.file("outputs.jsonl")):
        outputs.setdefault(line["manifest"], []).append(line["right"])
    assert outputs.keys() == cards.keys()
    cells = [
        c for n in (2, 12) for r in read(done, f"table_{n:02d}.json")["rows"] for c in r["cells"].values()
    ]
    for cell in cells:
        if "manifest" in cell:
            right = outputs[cell["manifest"]]
            assert 100 * sum(right) / len(right) == cell["value"]


def test_figure_and_heldout(done: Artifact) -> None:
    figure = read(done, "figure_04.json")
    assert [row["judge"] for row in figure["rows"]] == ["known true score", "reward model"]
    for row in figure["rows"]:
        assert row["win"] + row["tie"] + row["loss"] == pytest.approx(1) and row["n"] == 8
    heldout = read(done, "sft_heldout.json")
    assert heldout["models"].keys() == {"chat", "rlhf"}
    assert heldout["models"]["chat"]["right"]["n"] == 12
    samples = list(read_jsonl(done.file("samples.jsonl")))
    assert all({"label", "prompt", "text"} <= sample.keys() for sample in samples)


def test_no_corpus_is_said(inputs: dict[str, Path], tmp_path: Path) -> None:
    with stage_run(tmp_path / "tokens", "tokens", PLAIN, {}):
        (tmp_path / "tokens" / "x").write_text("x", encoding="utf-8")
    assert "not there" in contamination.footnote({}, tmp_path / "tokens")


def test_the_reward_is_read_at_the_end_of_the_reply(inputs: dict[str, Path]) -> None:
    """One reply alone and the same reply among longer ones score alike."""
    question = [{"role": "user", "content": "q"}]
    replies = ["a", "a much longer reply than that", "a"]
    scores = stage.score_replies(inputs["reward"], [question] * 3, replies, batch=3)
    alone = stage.score_replies(inputs["reward"], [question], ["a"], batch=1)
    assert scores[0] == pytest.approx(scores[2]) == pytest.approx(alone[0], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)


def test_a_model_is_asked_with_as_many_bits_as_the_recipe_says(inputs: dict[str, Path]) -> None:
    pytest.importorskip("torchao")
    from openqwen.model.quantise import is_quantised

    for settings in ({}, {"quantise": "int8", "cache": "int8"}):
        engine = stage.load_subject("chat", inputs["chat"], "chat", EvalsConfig(**settings)).engine
        assert is_quantised(engine.model) == bool(settings) and engine.held == settings.get("cache")
        assert engine.loglikelihood([([65, 66, 67], [68])])[0][0] < 0
