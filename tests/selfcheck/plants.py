"""Well-known training bugs, each as a change of one place in the shipped source.

A plant compiles the changed source of a function and gives its code to the function that is in use, so that the
bug is wherever the function was imported. A source that has changed under a plant is an error, not a passed test.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from types import CodeType, FunctionType
from typing import NamedTuple


class Plant(NamedTuple):
    """A bug. function: module:name; old is there once and becomes new; check: the one that must fail."""

    function: str
    old: str
    new: str
    check: str


LOADER, CHATML, DATA = "openqwen.train.loader", "openqwen.chat.chatml", "openqwen.sft.data"
PRETRAIN, SFT, STEP = "openqwen.pretrain.loop", "openqwen.sft.loop", "openqwen.train.step"
TRAINER = "openqwen.train.trainer"
DISTRIBUTED, LORA, MODEL = "openqwen.train.distributed", "openqwen.train.lora", "openqwen.model.qwen"

PLANTS = {
    "mean of means under accumulation": Plant(
        f"{SFT}:Conversations.losses",
        "[summed_loss(self.model, part.ids, part.labels, part.segments)]",
        "[summed_loss(self.model, part.ids, part.labels, part.segments)"
        " * sum(sum(s.trained[1:]) for s in self.training)"
        " / int((part.labels != IGNORE).sum()) / -(-len(self.rows) // self.config.micro_batch)]",
        "accumulation",
    ),
    "mean of means, last micro-batch smaller": Plant(
        f"{TRAINER}:fit",
        "total / batch.counted",
        "total / (batch.counted / len(batch.items) * len(items)) / passes / shards",
        "accumulation",
    ),
    "masked tokens counted in the denominator": Plant(
        f"{SFT}:Conversations.batch", "sum(sample.trained[1:])", "len(sample.trained[1:])", "accumulation"
    ),
    "labels not shifted": Plant(
        f"{PRETRAIN}:NextToken.losses", "ids[:, 1:].flatten()", "ids[:, :-1].flatten()", "accumulation"
    ),
    "labels shifted twice": Plant(
        f"{DATA}:make_batch",
        "labels[b, start : here.stop - 1] = following",
        "labels[b, start : here.stop - 2] = following[1:]",
        "packing",
    ),
    "attention across packed samples": Plant(
        f"{SFT}:summed_loss", "None if alone else segments.to(device)", "None", "packing"
    ),
    "padding attended": Plant(
        f"{MODEL}:Qwen._contexts",
        "clamp(min=0), mask[:, None, :]",
        "clamp(min=0), torch.ones_like(mask)[:, None, :]",
        "padding side",
    ),
    "left padding taken for right padding": Plant(
        f"{MODEL}:Qwen._contexts", "if is_right_padded(mask):", "if True:", "padding side"
    ),
    "end of turn of history trained": Plant(
        f"{CHATML}:_stretches",
        "([tok.im_end_id], is_reply or structure)",
        "([tok.im_end_id], True)",
        "loss mask",
    ),
    "end of turn of replies not trained": Plant(
        f"{CHATML}:_stretches",
        "([tok.im_end_id], is_reply or structure)",
        "([tok.im_end_id], structure)",
        "loss mask",
    ),
    "user turns trained": Plant(
        f"{CHATML}:_stretches", 'message["role"] == ASSISTANT', 'message["role"] != "system"', "loss mask"
    ),
    "weight decay on norms and biases": Plant(
        "openqwen.train.optimizer:decay_groups",
        '"weight_decay": 0.0',
        '"weight_decay": weight_decay',
        "optimizer step",
    ),
    "gradients not cleared": Plant(
        f"{STEP}:try_step", "optimizer.zero_grad(set_to_none=True)", "pass", "optimizer step"
    ),
    "clipping by micro-batch": Plant(
        f"{TRAINER}:fit",
        "found[0].backward()",
        "found[0].backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)",
        "optimizer step",
    ),
    "no clipping": Plant(
        f"{STEP}:try_step", "(params, config.clip, ", "(params, float('inf'), ", "optimizer step"
    ),
    "first step of warm-up lost": Plant(
        "openqwen.train.schedule:lr_at", "(step + 1) / warmup", "step / warmup", "optimizer step"
    ),
    "dropout while evaluating (finetuning)": Plant(
        f"{SFT}:heldout_loss", "model.eval()", "pass", "evaluation"
    ),
    "dropout while evaluating (pretraining)": Plant(
        "openqwen.pretrain.heldout:bits_per_byte", "model.eval()", "pass", "evaluation"
    ),
    "evaluation leaves dropout off": Plant(f"{SFT}:heldout_loss", "model.train()", "pass", "evaluation"),
    "last chunk of the loss dropped": Plant(
        "openqwen.train.loss:_SummedLoss.forward",
        "range(0, len(labels), chunk)",
        "range(0, len(labels) - chunk + 1, chunk)",
        "chunked loss",
    ),
    "ignored labels trained as id 0": Plant(
        "openqwen.train.loss:cross_entropy",
        "rows = (labels != IGNORE)",
        "labels = labels.clamp(min=0); rows = (labels != IGNORE)",
        "chunked loss",
    ),
    "recomputed blocks draw other dropout": Plant(
        f"{DISTRIBUTED}:_recompute",
        "use_reentrant=False",
        "use_reentrant=False, preserve_rng_state=False",
        "activation checkpointing",
    ),
    "checkpoint without the optimizer's state": Plant(
        "openqwen.train.checkpoint:_load_optimizer",
        "restored = [",
        "state = {}\n    restored = [",
        "save and load",
    ),
    "data begins again after a restart": Plant(
        f"{TRAINER}:fit",
        "task.batch(step)",
        "task.batch(step - begun)",
        "save and load",
    ),
    "adapter merged without its scale": Plant(f"{LORA}:merged", "layer.scale * (", "(", "LoRA merge"),
    "adapter scaled twice": Plant(
        f"{LORA}:LoraLinear.forward", "* self.scale", "* self.scale * self.scale", "LoRA merge"
    ),
    "every process reads the same rows": Plant(
        f"{TRAINER}:micro_batches", "items[shard::shards]", "items[: len(items) // shards]", "data order"
    ),
    "a row more for whoever has fewer counts": Plant(
        f"{TRAINER}:micro_batches", "items[:1], 0.0", "items[:1], 1.0", "data order"
    ),
    "pieces leave out a token": Plant(
        f"{LOADER}:positions_of", "piece[:, None] * context", "piece[:, None] * (context - 1)", "data order"
    ),
}
# In processes of their own (planted_worker.py): first of what two processes add, then of the divided model.
OF_PROCESSES = {
    "gradients averaged, not added": Plant(
        f"{DISTRIBUTED}:add_in_order", "own = own + other", "own = (own + other) / 2", "number of processes"
    ),
    "divided gradients averaged by FSDP": Plant(
        f"{DISTRIBUTED}:prepare", "module.set_gradient_divide_factor(1.0)", "pass", "number of processes"
    ),
}


def plant(name: str) -> tuple[FunctionType, CodeType]:
    """The function a bug is planted in, and its code with the bug."""
    bug = {**PLANTS, **OF_PROCESSES}[name]
    module, _, path = bug.function.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    function = inspect.unwrap(found)  # type: ignore[arg-type]
    assert isinstance(function, FunctionType)
    source = textwrap.dedent(inspect.getsource(function))
    place = r"\s+".join(map(re.escape, bug.old.split()))  # however the lines are broken
    source, times = re.subn(place, lambda _: bug.new, source[source.index("def ") :])  # without decorators
    assert times == 1, f"{bug.function} holds {bug.old!r} {times} times"
    made: dict[str, FunctionType] = {}
    flags = annotations.compiler_flag
    exec(compile(source, module, "exec", flags, dont_inherit=True), dict(function.__globals__), made)
    return function, made[function.__name__].__code__
