"""`openqwen plan`: numbers of the report's sizes without torch, the verdict, the JSON, one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openqwen.cli import main
from openqwen.cli.plan import split
from openqwen.core.console import duration
from openqwen.core.errors import UsageError
from openqwen.train.planner import HARDWARE

TOKENS = {"qwen-1.8b": 2.2e12, "qwen-7b": 2.4e12, "qwen-14b": 3.0e12}
PARAMETERS = {"qwen-1.8b": 1_836_828_672, "qwen-7b": 7_721_324_544, "qwen-14b": 14_167_290_880}


def planned(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_reports_sizes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, name)
    count = PARAMETERS[name]
    assert found["model"]["parameters"] == count and found["disk"]["export_bf16"] == 2 * count
    memory = found["memory"]
    assert (memory["parameters"], memory["gradients"]) == (4 * count, 4 * count)
    assert 0 <= memory["optimizer"] - 8 * count < 4096
    assert memory["peak"] > sum(memory[kind] for kind in ("parameters", "optimizer", "activations"))
    assert 0 < found["disk"]["checkpoint"] - 12 * count < 1_000_000
    assert found["compute"]["flops_per_token"] == 3 * found["compute"]["flops_forward"]
    assert found["run"]["tokens"] == pytest.approx(TOKENS[name], rel=1e-5)
    assert "hardware" not in found


def test_what_changes_memory_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    plain = planned(capsys, "qwen-7b")["memory"]
    again = planned(capsys, "qwen-7b", "--parallel.checkpoint_activations=true")["memory"]
    assert again["activations"] < plain["activations"] / 5 and again["parameters"] == plain["parameters"]
    sums = planned(capsys, "qwen-7b", "--parallel.shards=8")["memory"]
    assert sums["gradients"] == 4 * plain["gradients"], "its own and three sums that wait"
    adapters = planned(capsys, "qwen-7b", "lora-pretrain")["memory"]
    packed = planned(capsys, "qwen-7b", "lora-pretrain", "lora-nf4")
    count = packed["memory"]["trained"]
    assert count == 32 * 64 * (4 * 4096 + 2 * 4096 + 3 * (4096 + 11008)), (
        "rank times both sides of each matrix"
    )
    assert packed["memory"]["optimizer"] - 8 * count == 4 * 32 * 5 * 2
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    saved = adapters["parameters"] - packed["memory"]["parameters"]
    assert saved == matrices * (4 - 9 / 16) and packed["disk"]["checkpoint"] < 13 * count
    assert (
        packed["compute"]["flops_per_token"] < 0.75 * planned(capsys, "qwen-7b")["compute"]["flops_per_token"]
    )


def test_several_devices(capsys: pytest.CaptureFixture[str]) -> None:
    one = planned(capsys, "qwen-1.8b")["memory"]
    kinds = ("parameters", "gradients")
    for words, parts in {
        ("--devices", "8"): 8,  # nobody says how: the weights are divided
        ("--devices", "8", "--parallel.strategy", "shard"): 8,
        ("--devices", "16", "--parallel.strategy", "hybrid", "--parallel.group_size", "4"): 4,
    }.items():
        found = planned(capsys, "qwen-1.8b", *words)["memory"]
        assert [found[kind] for kind in kinds] == pytest.approx(
            [one[kind] / parts for kind in kinds], rel=1e-6
        )
    whole = planned(capsys, "qwen-1.8b", "--devices", "8", "--parallel.shards", "8")["memory"]
    assert [whole[kind] for kind in kinds] == [one[kind] for kind in kinds]
    assert main(["plan", "qwen-1.8b", "--devices", "8", "--parallel.shards", "8"]) == 0
    assert "each holds all" in capsys.readouterr().out


def test_it_allocates_nothing_as_there_is_nothing_to_allocate_with() -> None:
    code = (
        "import sys; from openqwen.cli import main\n"
        "code = main(['plan', 'qwen-14b', '--hardware', 'h100-80gb', '--json'])\n"
        "print(code, {'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "2 set()", done.stderr


def test_the_verdict_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen-7b", "--hardware", "h100-80gb"]) == 2
    shown = capsys.readouterr().out
    assert "does not fit h100-80gb" in shown and "missing" in shown and "7,721,324,544" in shown
    advice = shown.strip().rpartition("It would with: ")[2].split()
    assert main(["plan", "qwen-7b", "--hardware", "h100-80gb", *advice]) == 0
    assert "It fits h100-80gb" in capsys.readouterr().out
    assert main(["plan", "tour", "--hardware", "laptop-16gb"]) == 0
    assert main(["plan", "qwen-7b"]) == 0
    assert "--hardware" in capsys.readouterr().out


def test_nothing_helps_one_sequence_that_is_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["qwen-14b", "--batch_tokens", "2048", "--hardware", "rtx-4090"]
    assert "would_fit" not in planned(capsys, *words, code=2)
    assert main(["plan", *words]) == 2
    assert "Nor would any" in capsys.readouterr().out


def test_json_holds_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "qwen-1.8b", "--hardware", "h200", "--micro_batch", "1")
    gpu = HARDWARE["h200"]
    assert found["hardware"]["fits"] is True
    assert found["hardware"]["margin"] == gpu.memory - gpu.reserve - found["memory"]["peak"]
    found = planned(capsys, "tour", "--hardware", "laptop-16gb")
    assert found["hardware"]["kept"] == pytest.approx(found["memory"]["peak"] / 2, abs=1)
    assert found["hardware"]["saving"] == found["memory"]["saving"] > found["memory"]["optimizer"]
    found = planned(capsys, "qwen-14b", "--hardware", "h200", code=2)
    assert found["hardware"]["margin"] < 0 and found["would_fit"]["devices"] > 1


def test_settings_are_those_of_the_recipes_stages(capsys: pytest.CaptureFixture[str]) -> None:
    plain = planned(capsys, "qwen-7b")
    for word in ("--pretrain.model.num_layers", "--model.num_layers"):
        changed = planned(capsys, "qwen-7b", word, "16", "--tokenizer.vocab_size", "50k")
        assert changed["model"]["num_layers"] == 16 and plain["model"]["num_layers"] == 32
        assert changed["model"]["vocab_size"] == 50_048  # rounded up to 128
    assert planned(capsys, "--recipe", "qwen-1.8b")["model"] == planned(capsys, "qwen-1.8b")["model"]
    fp32 = planned(capsys, "qwen-7b", "--precision=fp32")["memory"]
    assert (fp32["precision"], fp32["weight_copies"]) == ("fp32", 0)
    assert fp32["activations"] > plain["memory"]["activations"]


def test_auto_precision_on_a_processor_is_the_one_that_needs_more(capsys: pytest.CaptureFixture[str]) -> None:
    on = ("tour", "--hardware", "laptop-16gb")
    peaks = [planned(capsys, *on, "--precision", name)["memory"]["peak"] for name in ("auto", "bf16", "fp32")]
    assert peaks[0] == max(peaks) > min(peaks)
    assert planned(capsys, "tour")["memory"]["precision"] == "bf16"


def test_several_recipes_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.toml"
    path.write_text("[pretrain]\nsteps = 3_000\n")
    found = planned(capsys, "qwen-1.8b", str(path))
    assert found["run"]["steps"] == 3000 and found["model"]["parameters"] == PARAMETERS["qwen-1.8b"]


def test_kv_cache_of_a_length_and_in_windows(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "qwen-7b", "--length", "32k")["inference"]
    token = 2 * 32 * 4096 * 2
    assert (found["kv_bytes_per_token"], found["kv_bytes"]) == (token, 32_000 * token)
    assert found["kv_bytes_windows"] == 2 * 4096 * 2 * (4 * 2048 + 4 * 4096 + 24 * 8192)
    assert "kv_bytes_windows" not in planned(capsys, "qwen-7b")["inference"]


def test_time_at_a_stated_share_of_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["qwen-7b", "--hardware", "h200", "--devices", "512", "--mfu", "0.5"]
    found = planned(capsys, *words)
    rate = found["run"]["tokens"] / found["run"]["seconds"]
    assert rate * found["compute"]["flops_per_token_mfu"] == pytest.approx(512 * 989.4e12 * 0.5, rel=1e-6)
    assert "seconds" not in planned(capsys, "qwen-7b", "--hardware", "h200", code=2)["run"]
    assert main(["plan", *words]) == 0
    assert duration(found["run"]["seconds"]) in capsys.readouterr().out


def test_words_before_the_first_flag_are_recipes() -> None:
    words = ["a", "b", "--x", "1", "--y=2"]
    assert split(words, ["c"]) == (["a", "b", "c"], {"x": "1", "y": "2"})
    with pytest.raises(UsageError, match="no recipe to plan"):
        split(["--x", "1"], [])


WRONG = {
    "no recipe": ([], "qwen-7b"),
    "unknown recipe": (["qwen-7c"], "Did you mean 'qwen-7b'"),
    "unknown hardware": (["qwen-7b", "--hardware", "h100"], "Did you mean 'h100-80gb'"),
    "unknown setting": (["qwen-7b", "--pretrain.model.hiden_size", "3"], "model.hidden_size"),
    "other trainers' name": (["qwen-7b", "--learning_rate", "1"], "optim.lr"),
    "impossible shape": (["qwen-7b", "--model.num_heads", "5"], "does not split into 5"),
    "impossible batch": (["qwen-7b", "--batch_tokens", "1000"], "not a multiple of context"),
    "no device": (["qwen-7b", "--devices", "0"], "from 1 to 2048"),
    "too many devices": (["qwen-7b", "--devices", "4096"], "from 1 to 2048"),
    "devices that do not divide": (["qwen-7b", "--devices", "3"], "does not divide among them"),
    "more devices than shards": (
        ["qwen-7b", "--devices", "8", "--parallel.shards", "4"],
        "--parallel.shards 8",
    ),
    "groups that do not divide": (
        ["qwen-7b", "--devices", "8", "--parallel.strategy", "hybrid", "--parallel.group_size", "3"],
        "groups of 3",
    ),
    "adapters, divided": (
        ["qwen-7b", "lora-pretrain", "--parallel.strategy", "shard"],
        "adapters cannot be divided",
    ),
    "devices in words": (["qwen-7b", "--devices", "many"], "--devices"),
    "mfu of nothing": (["qwen-7b", "--mfu", "0.4"], "add --hardware"),
    "mfu in percent": (["qwen-7b", "--mfu", "40", "--hardware", "h200"], "such as 0.4"),
    "mfu in fp32": (["qwen-7b", "--mfu", "0.4", "--hardware", "h200", "--precision", "fp32"], "bf16 peak"),
    "mfu of unknown rate": (["tour", "--mfu", "0.4", "--hardware", "laptop-16gb"], "no rate is known"),
    "length in words": (["qwen-7b", "--length", "long"], "no number of tokens"),
    "setting without value": (["qwen-7b", "--micro_batch"], "needs a value"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, text = WRONG[name]
    assert main(["plan", *words]) == 2
    seen = capsys.readouterr()
    assert (
        seen.err.startswith("error: ") and text in seen.err and "Traceback" not in seen.err and not seen.out
    )


def test_compiled_blocks_are_not_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen-1.8b", "--compile", "true"]) == 2
    assert "generated code" in capsys.readouterr().err


def test_a_recipe_that_does_not_pretrain_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sft.toml"
    path.write_text("[sft]\nsteps = 3\n")
    assert main(["plan", str(path)]) == 2
    assert "no [pretrain] table" in capsys.readouterr().err
