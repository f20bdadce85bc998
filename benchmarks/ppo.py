"""PPO's steps beside those of TRL's trainer, at equal model, batch and lengths, in one run.

Report §3.2.2: four models, two responses a query. Goal: three times the replies a second of the peer, which is the last
release of TRL that has PPO (1.12). Where openqwen's time goes (rollout, scoring, update) is printed.

    python benchmarks/ppo.py [--shape S|M] [--lengths mixed|equal] [--peer PYTHON] [--threads 2] [--quick]

Every arm is a process of its own that does one step when told to. Arms take turns, so what else the machine does hits
all of them; medians count. A step is 32 queries of 64 tokens, two replies of at most 64 tokens to each, and one epoch of
four minibatches. Lengths: "mixed", from 1 to 64 tokens, all as often, the same for both sides, whose replies are ended
there; and "equal", all of 64 tokens, which is the peer's best case, for it generates and computes all replies to the
longest one's length. Ours samples by top-p 0.9, as the report; the peer knows whole distributions only, and no pretrained
gradient. Both sides run in the machine's faster number format, plain and compiled, and the better of each counts. With a
peer the figures go into results/ppo.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from openqwen.core.artifact import environment, stage_run, write_json
from openqwen.core.config import resolve
from openqwen.core.shards import Tokens
from openqwen.engine import Engine, Sampling
from openqwen.model.config import ModelConfig
from openqwen.model.heads import ScalarModel
from openqwen.model.qwen import Qwen
from openqwen.model.weights import load_model, save_model
from openqwen.rlhf import loop
from openqwen.rlhf.config import PPOConfig
from openqwen.rlhf.models import Models, freeze
from openqwen.rlhf.prompts import Prompt, read_prompts
from openqwen.rlhf.rollout import Reply
from openqwen.tokenizer import Tokenizer
from openqwen.train.precision import deterministic, pick_dtype

# name: (layers, hidden, heads, FFN, vocabulary)
SHAPES = {"S": (8, 256, 4, 704, 8_192), "M": (12, 512, 8, 1_408, 32_768)}
QUERIES, RESPONSES, PROMPT, NEW = 32, 2, 64, 64
MINIBATCHES, MICRO_ROWS = 4, 16
# Of random heads, so that distributions have about 2 nats, as those of language models; and a number that all hidden
# states share, by which no reply ends by itself.
SHARPNESS, SHARED, NEVER = 11, 0.1, -5.0
LENGTHS = ("mixed", "equal")
OURS = ("ours plain", "ours compiled")
PEERS = ("peer plain", "peer compiled")
WARM_UP = 2  # steps; compiled arms meet most shapes in them
GOAL = 3.0
RESULT = Path(__file__).with_name("results") / "ppo.json"


def main() -> int:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.arm:
        ours(options)
        return 0
    rounds = 2 if options.quick else 5
    found: dict[str, Any] = {"area": "ppo", "ratios": {}, "goals": {}, "measured": {}}
    for lengths in [options.lengths] if options.lengths else LENGTHS:
        name = f"{options.shape}, {lengths} lengths"
        rates = {}
        for arm, steps in take_turns(options, lengths, rounds).items():
            median = {part: statistics.median(step[part] for step in steps) for part in steps[0]}
            rates[arm] = sum(step["tokens"] for step in steps) / sum(step["step"] for step in steps)
            found["measured"][f"{name}: {arm}"] = {"reply_tokens_per_second": round(rates[arm], 1)} | {
                key if key == "tokens" else f"seconds_{key}": round(value, 3) for key, value in median.items()
            }
            spent = ", ".join(f"{part} {value:.2f}" for part, value in median.items())
            print(f"{name}  {arm:14} {rates[arm]:7.1f} reply tokens/s   median of {spent}", flush=True)
        if options.peer:
            best = [max(rate for arm, rate in rates.items() if kind in arm) for kind in ("ours", "peer")]
            found["ratios"][f"{name} over best peer"] = round(best[0] / best[1], 2)
            found["goals"][f"{name} {GOAL}x"] = best[0] / best[1] >= GOAL
    found |= {"threads": options.threads, "rounds": rounds, "environment": environment()}
    if options.peer:
        write_json(RESULT, found)
    print(json.dumps(found))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--lengths", choices=LENGTHS, help="of replies; none: one after the other")
    parser.add_argument("--peer", help="a Python that has TRL 1.12")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def take_turns(options: argparse.Namespace, lengths: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Reply tokens and seconds of the parts of each arm's steps; the first steps of each are not counted."""
    arms = (*OURS, *(PEERS if options.peer else ()))
    seconds: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(options.shape, Path(folder), lengths)
        children = {arm: start(options, arm, folder) for arm in arms}
        try:
            for number in range(rounds + WARM_UP):
                for arm, child in children.items():
                    told = ask(child)
                    if number >= WARM_UP:
                        seconds[arm].append(told)
        finally:
            for child in children.values():
                child.kill()
                child.communicate()
    return seconds


def start(options: argparse.Namespace, arm: str, folder: str) -> subprocess.Popen[str]:
    line = ["--folder", folder, "--threads", str(options.threads)]
    line += ["--compiled"] * ("compiled" in arm)
    if arm.startswith("peer"):
        line = [
            options.peer,
            str(Path(__file__).with_name("ppo_peer.py")),
            *line,
            *(["--bf16"] * (pick_dtype("auto", torch.device("cpu")) == torch.bfloat16)),
        ]
    else:
        line = [sys.executable, __file__, *line, "--arm", arm, "--shape", options.shape]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(child: subprocess.Popen[str]) -> dict[str, float]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("step\n")
    child.stdin.flush()
    for answer in child.stdout:
        if answer.startswith("seconds "):  # libraries print, too
            return json.loads(answer.removeprefix("seconds "))
    raise SystemExit(f"{child.args} ended")


# ---- openqwen's arm -----------------------------------------------------------------------------------------------


def ours(options: argparse.Namespace) -> None:
    """The shipped loop; where it draws the prompts of a step it waits for a line, and answers with the step before."""
    flags = {
        "steps": 10_000, "value_warmup_steps": 0, "prompts_per_step": QUERIES, "responses": RESPONSES,
        "max_new_tokens": NEW, "max_prompt": PROMPT, "minibatches": MINIBATCHES, "micro_rows": MICRO_ROWS,
        "pretrain_coef": 0.0, "heldout": 0, "checkpoint_every": 10_000, "precision": "auto",
        "compile": options.compiled,
    }  # fmt: skip
    resolved = resolve(PPOConfig, "ppo", flags=flags, environ={})
    config = resolved.config
    deterministic(config.seed)
    models, draw = load(options.folder, config), loop.prompts_at
    out, waited = options.folder / options.arm.replace(" ", "-"), [0.0]

    def when_told(*arguments: Any) -> Any:
        records = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        if records:
            last = json.loads(records[-1])
            parts = {part: last[f"seconds_{part}"] for part in ("rollout", "score", "update")}
            parts["rollout"] -= waited[-1]  # the loop's clock runs while this waits
            tokens = last["length"] * config.rows
            print(
                "seconds " + json.dumps({"tokens": tokens, "step": sum(parts.values()), **parts}), flush=True
            )
        began = time.monotonic()
        if not sys.stdin.readline():
            raise SystemExit
        waited.append(time.monotonic() - began)
        return draw(*arguments)

    loop.prompts_at = when_told
    shape = json.loads((options.folder / "shape.json").read_text())
    loop.sample_replies = partial(ended, shape["lengths"])
    prompts = read_prompts(options.folder / "prompts.jsonl", models.tokenizer, PROMPT, heldout=0)
    with stage_run(out, "model", resolved, {}) as stage:
        loop.train(models, prompts, cast(Tokens, None), config, stage)  # no pretrained gradient: no tokens


def ended(
    lengths: list[int],
    engine: Engine,
    prompts: list[Prompt],
    end_id: int,
    *,
    seeds: list[int],
    max_new_tokens: int,
    **drawing: Any,
) -> list[Reply]:
    """`sample_replies`, each of a length of its own: its last token is its end, as if nothing else could stand there."""
    samplings = [
        Sampling(**drawing, max_tokens=length, seed=seed) for length, seed in zip(lengths, seeds, strict=True)
    ]
    replies = []
    for prompt, done in zip(prompts, engine.generate([p.ids for p in prompts], samplings), strict=True):
        support = [*(done.support or [])[:-1], torch.tensor([end_id])]
        logprobs = [*done.logprobs[:-1], 0.0]
        replies.append(Reply(prompt, [*done.ids[:-1], end_id], support, logprobs, done.text, finished=True))
    return replies


def load(folder: Path, config: PPOConfig) -> Models:
    policy, reference = (load_model(folder).eval() for _ in range(2))
    value, reward = (ScalarModel.from_qwen(policy, seed).eval() for seed in (1, 2))
    dtype = pick_dtype(config.precision, policy.embed.weight.device)
    words = tokenizer(policy.config.vocab_size)
    return Models(policy, value, freeze(reference, dtype), freeze(reward, dtype), words, dtype)


# ---- what both sides read -----------------------------------------------------------------------------------------


def write_inputs(shape: str, folder: Path, lengths: str) -> None:
    """Random weights; queries of PROMPT tokens as conversations and as ids, each as often as replies are sampled."""
    layers, hidden, heads, ffn, vocabulary = SHAPES[shape]
    model = Qwen(ModelConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_layers=layers, num_heads=heads, ffn_size=ffn, max_length=512
    ))  # fmt: skip
    words, draw = tokenizer(vocabulary), random.Random(0)
    with torch.no_grad():
        head = model.head.weight.mul_(SHARPNESS)
        model.embed.weight[:, 0], head[:, 0] = SHARED, 0.0
        head[[words.im_end_id, words.eos_id], 0] = NEVER
    save_model(model, folder, eos_ids=[words.im_end_id])
    empty = len(read(folder, [""], words)[0])
    texts = ["".join(draw.choices("abcdefgh", k=PROMPT - empty)) for _ in range(4 * QUERIES)]
    prompts = [prompt for prompt in read(folder, texts, words) for _ in range(RESPONSES)]
    assert all(len(prompt) == PROMPT for prompt in prompts)
    (folder / "prompts.json").write_text(json.dumps(prompts))
    rows = QUERIES * RESPONSES
    longest = [NEW] * rows if lengths == "equal" else [1 + i * NEW // rows for i in range(rows)]
    random.Random(1).shuffle(longest)
    told = {
        "lengths": longest, "rows": rows, "minibatches": MINIBATCHES, "micro_rows": MICRO_ROWS, "new_tokens": NEW,
        "vocabulary": vocabulary, "pad": words.eos_id, "end": words.im_end_id,
    }  # fmt: skip
    (folder / "shape.json").write_text(json.dumps(told))


def read(folder: Path, texts: list[str], words: Tokenizer) -> list[list[int]]:
    """Writes the texts as queries; their ids as PPO reads them."""
    path = folder / "prompts.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": text}]}) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [prompt.ids for prompt in read_prompts(path, words, 2 * PROMPT, heldout=0).train]


def tokenizer(vocabulary: int) -> Tokenizer:
    """As many ids as the model has rows, so that both sides' distributions have them all; letters stay single."""
    ranks = {bytes([i]): i for i in range(256)}
    pairs = (bytes([a, b]) for a in range(128, 256) for b in range(256))
    control = Tokenizer(ranks).vocab_size - len(ranks)
    return Tokenizer(ranks | {next(pairs): i for i in range(256, vocabulary - control)}, encoder="tiktoken")


if __name__ == "__main__":
    sys.exit(main())
