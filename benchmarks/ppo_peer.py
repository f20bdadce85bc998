"""The peer's half of benchmarks/ppo.py: TRL's PPO trainer, for an interpreter that has `trl` up to 1.12, its last with PPO.

    python benchmarks/ppo.py --peer PYTHON     starts this file with that interpreter

It answers one line for every step it is asked for, as openqwen's own arm does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--folder", type=Path, required=True, help="weights, config, prompts.json, shape.json"
    )
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2ForCausalLM,
        Qwen2ForSequenceClassification,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    torch.set_num_threads(options.threads)
    shape = json.loads((options.folder / "shape.json").read_text())
    prompts = json.loads((options.folder / "prompts.json").read_text())
    generation = timed(ppo_trainer, "batch_generation")
    generate, rows = ppo_trainer.batch_generation, torch.arange(shape["rows"])
    lengths = torch.tensor(shape["lengths"])

    def ended(*args: Any, **kwargs: Any) -> Any:
        """Queries with replies, each of a length of its own: its last token is its end; and their logits."""
        ids, logits = generate(*args, **kwargs)
        ids[rows, len(prompts[0]) + lengths - 1] = shape["end"]
        return ids, logits

    ppo_trainer.batch_generation = ended

    class Turns(TrainerCallback):
        """Waits for a line before each step and answers it after."""

        began = 0.0

        def wait(self) -> None:
            if not sys.stdin.readline():
                os._exit(0)
            generation.clear()
            self.began = time.perf_counter()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = {"step": time.perf_counter() - self.began, "rollout": sum(generation)}
            seconds["tokens"] = sum(shape["lengths"])
            print("seconds " + json.dumps(seconds), flush=True)
            self.wait()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            print(f"replies that ended: {logs.get('val/num_eos_tokens')}", file=sys.stderr)

    def scalar() -> Any:
        return Qwen2ForSequenceClassification.from_pretrained(
            options.folder, num_labels=1, pad_token_id=shape["pad"]
        )

    args = PPOConfig(
        output_dir=str(options.folder / "peer"),
        per_device_train_batch_size=shape["micro_rows"],
        gradient_accumulation_steps=shape["rows"] // shape["micro_rows"],
        num_mini_batches=shape["minibatches"],
        num_ppo_epochs=1,
        total_episodes=shape["rows"] * 10_000,
        response_length=shape["new_tokens"],
        stop_token="eos",
        local_rollout_forward_batch_size=shape["rows"],
        temperature=1.0,
        kl_coef=0.04,
        learning_rate=1e-6,
        bf16=options.bf16,
        torch_compile=options.compiled,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        num_sample_generations=0,
    )
    words = Tokenizer(models.WordLevel({str(i): i for i in range(shape["vocabulary"])}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=str(shape["pad"]), eos_token=str(shape["end"])
    )
    policy, reference = (
        Qwen2ForCausalLM.from_pretrained(options.folder, attn_implementation="sdpa") for _ in range(2)
    )
    PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=scalar(),
        value_model=scalar(),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:8]}),
        callbacks=[Turns()],
    ).train()


def timed(module: Any, name: str) -> list[float]:
    """Lets a function of a module note how long each of its calls took."""
    function, seconds = getattr(module, name), []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - began)

    setattr(module, name, wrapper)
    return seconds


if __name__ == "__main__":
    main()
