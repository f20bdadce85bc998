"""The checks, in the order in which they are shown: what is claimed, how it is compared, within which bound.

Report §2.4 and §3.1.2 say what is trained; that none of this may change it is ours. Bounds of fp32 are ten times and
more what was measured on CPU (differences are of rounding, 1e-7 to 1e-6), and far below what a wrong sum would give.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from openqwen.core.errors import OpenQwenError
from openqwen.core.shards import Tokens
from openqwen.model.hf import pieces
from openqwen.model.qwen import Qwen
from openqwen.model.stored import parameter_shapes
from openqwen.model.weights import load_model, save_model
from openqwen.pretrain.heldout import bits_per_byte, held_out
from openqwen.selfcheck import background, reference
from openqwen.selfcheck.bed import CONTEXT, MAX_LENGTH, ROWS, SEED, Bed, Trained, alone
from openqwen.selfcheck.reference import IGNORED, gradients_of, loss_and_gradients, shifted
from openqwen.selfcheck.result import Check, Comparison, Skip
from openqwen.sft.config import SFTConfig
from openqwen.sft.data import pack, read_samples
from openqwen.sft.loop import heldout_loss
from openqwen.train import lora
from openqwen.train.config import LoraConfig, OptimConfig
from openqwen.train.distributed import World
from openqwen.train.loader import batch_at, num_pieces
from openqwen.train.loss import cross_entropy
from openqwen.train.padding import right_pad
from openqwen.train.trainer import micro_batches

FP32 = 2e-5
FP64 = 1e-12
WEIGHTS = 1e-3  # fp32 after steps that divide by the root of a gradient's mean square
BITS = 0.0

Tensors = Mapping[str, Tensor]
Outcome = tuple[float, Tensors]  # loss and gradients


def same(what: str, ours: Tensors, truth: Tensors, bound: float) -> Comparison:
    """Each tensor's greatest difference as a share of its greatest true value; the worst of all tensors counts."""
    if ours.keys() != truth.keys():
        odd = sorted(ours.keys() ^ truth.keys())
        return Comparison(what, float("inf"), bound, f"{odd[0]} is on one side only")
    shares = {name: _share(ours[name].double().cpu(), truth[name].double().cpu()) for name in truth}
    place = max(shares, key=lambda name: shares[name])
    return Comparison(what, shares[place], bound, place)


def _share(ours: Tensor, truth: Tensor) -> float:
    if ours.shape != truth.shape:
        return float("inf")
    difference, size = float((ours - truth).abs().max()), float(truth.abs().max())
    if difference != difference:
        return float("inf")  # a NaN somewhere
    return difference / size if size else difference


def same_number(what: str, ours: float, truth: float, bound: float) -> Comparison:
    one, other = (torch.tensor(value, dtype=torch.float64) for value in (ours, truth))
    return same(what, {"loss": one}, {"loss": other}, bound)


def both(what: str, ours: Outcome, truth: Outcome, bound: float) -> Iterator[Comparison]:
    """Loss and gradients."""
    yield same_number(f"{what}: loss", ours[0], truth[0], bound)
    yield same(f"{what}: gradients", ours[1], truth[1], bound)


# ---- what is trained ---------------------------------------------------------------------------------------------
def data_order(bed: Bed) -> Iterator[Comparison]:
    """Tokens are numbered by their place, so that every input and label says where it came from."""
    lengths = [5, 1, 30, 17, 12, 3, 29]  # 97 = 12 pieces of 8 and the first token
    ends = np.cumsum(lengths)
    tokens = Tokens(np.array_split(np.arange(ends[-1]), 3), ends, 0, {})
    rows = batch_at(tokens, 0, 12, 8, SEED)  # an epoch
    inputs, labels = rows[:, :-1].flatten().tolist(), rows[:, 1:].flatten().tolist()
    wrong = len(labels) - len(set(labels)) + abs(num_pieces(tokens, 8) - 12)
    begins = {0, *ends[:-1].tolist()}
    for token, label in zip(inputs, labels):
        wrong += label not in begins if token + 1 in ends.tolist() else label != token + 1
    yield Comparison("an epoch: each token follows its own, once", float(wrong), BITS)
    times = [0] * 10  # that a row is trained on
    for shard in range(4):
        for rows_, share in micro_batches(range(10), shard, 4, 2):
            for row in rows_:
                times[row] += bool(share)
    yield Comparison(
        "a batch in four parts: rows left out or repeated", float(sum(n != 1 for n in times)), BITS
    )


def loss_mask(bed: Bed) -> Iterator[Comparison]:
    """Ids and mask of every conversation, both masks, against the table read cell by cell."""
    for mask in ("report", "released-script", "everything"):
        samples, _ = read_samples(bed.conversations_file, "data", bed.tokenizer, MAX_LENGTH, mask)
        wrong = abs(len(samples) - len(bed.conversations))
        for sample, messages in zip(samples, bed.conversations):
            ids, trained = reference.chatml(messages, bed.tokenizer.special, mask)
            wrong += (ids != sample.ids) + sum(a != b for a, b in zip(trained, sample.trained))
        yield Comparison(f"ids and trained tokens, mask {mask}", float(wrong), BITS)


def optimizer_step(bed: Bed) -> Iterator[Comparison]:
    """Four steps with everything at once: warm-up, cosine, clipping, decay."""
    optim: dict[str, Any] = {"lr": 1e-2, "beta1": 0.9, "eps": 1e-4, "weight_decay": 0.1, "clip": 0.5}
    run = bed.pretrain(
        "optimizer", optim=optim, schedule={"warmup_steps": 2}, steps=4, micro_batch=3, parallel={"shards": 2}
    )
    model = bed.model(torch.float64)
    before = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    rates = [1e-2 * share for share in (0.5, 1.0, 0.55, 0.1)]
    batches = [_pieces_at(bed, step) for step in range(4)]
    with alone():
        truth = reference.adamw(model, batches, rates, OptimConfig(**optim))
    moved = {name: run.weights[name].double() - before[name] for name in truth}
    expected = {name: truth[name] - before[name] for name in truth}
    yield same("4 steps of pretraining: weights moved", moved, expected, WEIGHTS)


def _pieces_at(bed: Bed, step: int) -> list[tuple[list[int], list[int]]]:
    rows = batch_at(bed.tokens, step, ROWS, CONTEXT, SEED).tolist()
    return [(row[:-1], row[1:]) for row in rows]


def evaluation(bed: Bed) -> Iterator[Comparison]:
    """The losses that are reported of a model in training, with dropout that must be off then."""
    model = bed.model(dropout=0.5)
    text = held_out(bed.valid, bed.tokenizer, CONTEXT, 150)
    count = sum(len(document) for document in text.documents)
    exact = bed.model(torch.float64)
    with alone():
        bits = bits_per_byte(model, text, 3, torch.float32)
        nats, _ = loss_and_gradients(exact, list(zip(text.ids.tolist(), text.labels.tolist())))
    truth = nats * count / np.log(2) / text.num_bytes
    yield same_number("bits per byte while training with dropout 0.5", bits, truth, FP32)
    config = SFTConfig(micro_batch=3)
    model.config = model.config.model_copy(update={"max_length": MAX_LENGTH})  # as finetuning does
    with alone():
        held = heldout_loss(config, model, bed.samples, bed.tokenizer, torch.float32)
        truth, _ = loss_and_gradients(exact, _conversations(bed.samples))
    yield same_number("held-out loss while training with dropout 0.5", held, truth, FP32)
    yield Comparison("the model is left in training mode", float(not model.training), BITS)


def _conversations(samples: Any) -> list[Any]:
    return [shifted(sample.ids, sample.trained) for sample in samples]


# ---- how it is computed ------------------------------------------------------------------------------------------
def accumulation(bed: Bed) -> Iterator[Comparison]:
    """Micro-batches that do not divide the batch; in finetuning with very different numbers of trained tokens."""
    with alone():
        truth: Outcome = loss_and_gradients(bed.model(torch.float64), _pieces_at(bed, 0))
    for micro, shards in ((ROWS, 1), (3, 1), (1, 4)):
        run = bed.pretrain(f"micro-{micro}", micro_batch=micro, parallel={"shards": shards})
        parts = f" in {shards} parts" if shards > 1 else ""
        yield from both(f"pretraining, {micro} of {ROWS} rows at a time{parts}", run.outcome, truth, FP32)
    truth = _finetuning_truth(bed)
    rows = len(bed.training)
    for micro in (rows, 3, 1):
        run = bed.finetune(f"rows-{micro}", rows, packing=False, micro_batch=micro)
        yield from both(f"finetuning, {micro} of {rows} rows at a time", run.outcome, truth, FP32)


def _finetuning_truth(bed: Bed) -> Outcome:
    with alone():
        return loss_and_gradients(bed.model(torch.float64), _conversations(bed.training))


def packing(bed: Bed) -> Iterator[Comparison]:
    """Several conversations a row, and one a row, against each read alone."""
    truth = _finetuning_truth(bed)
    rows = len(pack([len(sample.ids) for sample in bed.training], MAX_LENGTH, SEED))
    packed = bed.finetune("packed", rows, packing=True, micro_batch=2)
    name = f"{len(bed.training)} conversations in {rows} rows"
    yield from both(name, packed.outcome, truth, FP32)
    single = bed.finetune("single", len(bed.training), packing=False, micro_batch=4)
    yield from both("one a row", single.outcome, truth, FP32)


def padding(bed: Bed) -> Iterator[Comparison]:
    """Rows of different lengths padded on either side, at and beyond the training length."""
    rng = np.random.default_rng(SEED)
    for longest, training in ((CONTEXT, True), (3 * CONTEXT, False)):
        lengths = [longest, 2, longest // 2, longest - 1]
        rows = [rng.integers(0, 256, length).tolist() for length in lengths]
        with alone():
            model = bed.model(torch.float64).train(training)
            truth = loss_and_gradients(model, [(row[:-1], row[1:]) for row in rows])
            found = {side: _padded(bed, rows, side, training) for side in ("right", "left")}
        for side, ours in found.items():
            yield from both(f"{side} padding, {longest} tokens", ours, truth, FP32)


def _padded(bed: Bed, rows: list[list[int]], side: str, training: bool) -> Outcome:
    model = bed.model().train(training)
    ids, mask = right_pad([row[:-1] for row in rows], bed.device)  # (B, T)
    labels, _ = right_pad([row[1:] for row in rows], bed.device)
    labels = labels.masked_fill(~mask, IGNORED)
    if side == "left":
        ids, mask, labels = (_turned(x, mask) for x in (ids, mask, labels))
    hidden = model.hidden(ids, mask=mask)  # (B, T, C)
    total, count = cross_entropy(hidden.flatten(0, 1), model.head.weight, labels.flatten())
    (total / count).backward()
    return float(total.detach()) / count, gradients_of(model)


def _turned(x: Tensor, mask: Tensor) -> Tensor:
    """Right-padded rows with their padding in front."""
    return torch.stack([row.roll(int((~real).sum())) for row, real in zip(x, mask)])


def activations(bed: Bed) -> Iterator[Comparison]:
    """Blocks computed twice must draw the same dropout."""
    settings: dict[str, Any] = {"model": {"dropout": 0.2}, "micro_batch": 3}
    kept = bed.pretrain("kept", **settings)
    again = bed.pretrain("again", **settings, parallel={"checkpoint_activations": True})
    yield from both("recomputed, dropout 0.2", again.outcome, kept.outcome, BITS)


def chunked_loss(bed: Bed) -> Iterator[Comparison]:
    """By one row at a time and more, some labels ignored, against torch's own on all logits."""
    N, C, V = 50, 12, 97
    generator = torch.Generator().manual_seed(SEED)
    hidden = torch.randn(N, C, generator=generator, dtype=torch.float64).to(bed.device).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=torch.float64).to(bed.device).requires_grad_()
    labels = torch.randint(0, V, (N,), generator=generator).to(bed.device)
    labels[::7] = IGNORED
    plain = F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED)
    plain.backward()
    truth = float(plain.detach()), _taken(hidden, weight)
    for chunk in (1, 8, None):
        total, count = cross_entropy(hidden, weight, labels, chunk)
        (total / count).backward()
        name = f"fp64, {'all' if chunk is None else chunk} of {count} rows at a time"
        yield from both(name, (float(total.detach()) / count, _taken(hidden, weight)), truth, FP64)


def _taken(hidden: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """The gradients, which are cleared."""
    assert hidden.grad is not None and weight.grad is not None
    found = {"hidden": hidden.grad.clone(), "weight": weight.grad.clone()}
    hidden.grad = weight.grad = None
    return found


def processes(bed: Bed) -> Iterator[Comparison]:
    """The same parts of a batch by one process and by two; and the model divided among two."""
    workers = start_processes(bed)
    cpu = World(0, 1, torch.device("cpu"))
    one = bed.pretrain("one-process", cpu, **background.REPLICATE)
    whole = bed.pretrain("undivided", cpu, micro_batch=3)
    if not workers.wait(90.0):
        raise TimeoutError("the two processes did not end within 90 s")
    together, divided = (Trained(workers.folder / name, bed.config) for name in ("replicate", "shard"))
    yield same("2 and 1: weights and AdamW after 2 steps", together.state, one.state, BITS)
    yield from both("divided among 2 (FSDP2)", divided.outcome, whole.outcome, FP32)


def start_processes(bed: Bed) -> background.Workers:
    """Starts them, once."""
    if "processes" not in bed.background:
        folder = bed.folder / "processes"
        bed.background["processes"] = background.start("processes", folder, background.PROCESSES)
    return bed.background["processes"]


def compile_(bed: Bed) -> Iterator[Comparison]:
    """torch.compile of the whole forward pass. The code generator runs in a process that may be ended."""
    with alone():
        truth = _eager(bed)
    found, why = _generated(bed)
    if found is None:
        with alone():
            found = compiled(bed, "aot_eager")
    name = f"aot_eager, because {why}" if why else "inductor"
    yield from both(name, found, truth, FP32)


def _generated(bed: Bed) -> tuple[Outcome | None, str]:
    """What generated code computes; or why there is none: then the graphs are compared without generating code."""
    workers = start_compiler(bed)
    if workers is None:
        return None, "no C++ compiler"
    try:
        if not workers.wait(bed.compiler_seconds):
            return None, f"inductor took over {bed.compiler_seconds:.0f} s"
    except OpenQwenError as error:
        return None, f"inductor failed: {error.what}"
    stored = load_file(workers.folder / "compiled.safetensors")
    return (float(stored.pop("loss")), stored), ""


def start_compiler(bed: Bed) -> background.Workers | None:
    """Starts it, once; None without a C++ compiler."""
    if shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None:
        return None
    if "compile" not in bed.background:
        bed.background["compile"] = background.start("compile", bed.folder / "compile")
    return bed.background["compile"]


def _eager(bed: Bed) -> Outcome:
    return _next_token_loss(bed, bed.model(), None)


def compiled(bed: Bed, backend: str) -> Outcome:
    """Loss and gradients of the compiled model."""
    return _next_token_loss(bed, bed.model(), backend)


def _next_token_loss(bed: Bed, model: Qwen, backend: str | None) -> Outcome:
    # A fixed shape, as in pretraining; and a general one would be compiled once more.
    hidden_of = model.hidden
    if backend is not None:
        hidden_of = torch.compile(hidden_of, backend=backend, dynamic=False)
    ids = batch_at(bed.tokens, 0, 4, CONTEXT, SEED).to(bed.device)  # (B, T + 1)
    hidden = hidden_of(ids[:, :-1]).flatten(0, 1)  # (B T, C)
    total, count = cross_entropy(hidden, model.head.weight, ids[:, 1:].flatten())
    (total / count).backward()
    return float(total.detach()) / count, gradients_of(model)


# ---- where it is kept --------------------------------------------------------------------------------------------
def save_and_load(bed: Bed) -> Iterator[Comparison]:
    """Both layouts of a model; and a run that is continued from its checkpoint."""
    model = bed.model()
    for layout in ("qwen2", "qwen1"):
        save_model(model, bed.folder / f"saved-{layout}", layout=layout)
        again = load_model(bed.folder / f"saved-{layout}", device=bed.device)
        yield same(f"model written and read ({layout})", dict(again.state_dict()), model.state_dict(), BITS)
    settings: dict[str, Any] = {
        "optim": {"lr": 1e-2, "beta1": 0.9, "clip": 1.0},
        "model": {"dropout": 0.1},
        "steps": 4,
        "checkpoint_interval": 2,
    }
    run = bed.pretrain("continued", **settings)
    whole = run.state
    shutil.rmtree(run.path / "checkpoints" / "step-00000004")
    bed.forget("continued")
    continued = bed.pretrain("continued", **settings).state
    yield same("continued after step 2 of 4: weights and AdamW", continued, whole, BITS)


def hugging_face(bed: Bed) -> Iterator[Comparison]:
    """Our file in transformers' Qwen2, its loss and gradients; then its file in ours."""
    if importlib.util.find_spec("transformers") is None:
        raise Skip("transformers is not installed: pip install 'openqwen[hf]'")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    rows = batch_at(bed.tokens, 0, 4, CONTEXT, SEED)  # (B, T + 1)
    with alone():
        model = bed.model().cpu()
        truth = loss_and_gradients(model, [(row[:-1], row[1:]) for row in rows.tolist()])
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            bed.base, attn_implementation="eager"
        ).float()
        loss = theirs(input_ids=rows, labels=rows).loss
        loss.backward()
        stacked = _stacked(bed, dict(theirs.named_parameters()))
        theirs.save_pretrained(bed.folder / "transformers")
        back = load_model(bed.folder / "transformers")
    yield from both("transformers' Qwen2 reads ours", (float(loss.detach()), stacked), truth, FP32)
    yield same("ours reads theirs: weights", dict(back.state_dict()), dict(model.state_dict()), BITS)


def _stacked(bed: Bed, theirs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Gradients of published tensors put together as our parameters."""
    found: dict[str, list[Tensor]] = {}
    for piece in pieces(bed.config, "qwen2", parameter_shapes(bed.config)):
        found.setdefault(piece.ours, []).append(theirs[piece.name].grad)
    return {name: torch.cat(parts) for name, parts in found.items()}


def lora_merge(bed: Bed) -> Iterator[Comparison]:
    """A model with adapters, the same merged, and a plain one whose matrices are W + alpha / rank B A."""
    config = LoraConfig(rank=4, alpha=10.0, dropout=0.0)
    rows = _pieces_at(bed, 0)
    model, plain = bed.model(), bed.model(torch.float64)
    lora.add_lora(model, config, SEED)
    generator = torch.Generator().manual_seed(SEED)
    scale = config.alpha / config.rank
    layers = lora.adapters(model)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.b.copy_(0.1 * torch.randn(layer.b.shape, generator=generator))  # zero in a new adapter
            plain.get_parameter(f"{name}.weight").add_(scale * (layer.b.double() @ layer.a.double()))
    with alone():
        loss, gradients = loss_and_gradients(plain, rows)
        expected = {name: gradients[name] for name in ("embed.weight", "head.weight")}
        for name, layer in layers.items():  # by the chain rule from the gradient of the whole matrix
            whole = scale * gradients[f"{name}.weight"]
            a, b = layer.a.detach().double().cpu(), layer.b.detach().double().cpu()
            expected |= {f"{name}.a": b.T @ whole, f"{name}.b": whole @ a.T}
        beside = loss_and_gradients(model, rows)
        merged = loss_and_gradients(lora.merge(model).requires_grad_(), rows)
    yield from both("adapters beside the matrices", beside, (loss, expected), FP32)
    yield from both("merged", merged, (loss, gradients), FP32)


CHECKS: tuple[Check[Bed], ...] = (
    Check(
        "data order", data_order, "train/loader.py: positions_of and take; train/trainer.py: micro_batches"
    ),
    Check("loss mask", loss_mask, "openqwen/chat/chatml.py: which stretches of a message are trained"),
    Check(
        "accumulation",
        accumulation,
        "the training step of train/trainer.py: each part's summed loss is divided by what counts in the whole "
        "batch; pretrain/loop.py and sft/loop.py: batch counts trained tokens, losses shifts labels once",
    ),
    Check("packing", packing, "sft/data.py: make_batch; model/qwen.py: segments; sft/loop.py: summed_loss"),
    Check("padding side", padding, "model/qwen.py: _contexts; model/context.py: sight_in_order"),
    Check(
        "activation checkpointing", activations, "openqwen/train/distributed.py: _recompute (dropout's state)"
    ),
    Check("chunked loss", chunked_loss, "openqwen/train/loss.py: the last chunk, ignored labels"),
    Check("optimizer step", optimizer_step, "train/optimizer.py (decay), step.py (clip, clear), schedule.py"),
    Check("evaluation", evaluation, "model.eval() in sft/loop.py heldout_loss and pretrain/heldout.py"),
    Check("save and load", save_and_load, "train/checkpoint.py (optimizer's state), model/weights.py, hf.py"),
    Check(
        "Hugging Face round trip", hugging_face, "openqwen/model/hf.py: names, order of stacked rows, config"
    ),
    Check("LoRA merge", lora_merge, "openqwen/train/lora.py: LoraLinear.forward, merged"),
    Check(
        "number of processes", processes, "openqwen/train/distributed.py: GradientTree, add_in_order, prepare"
    ),
    Check("compile", compile_, "the versions of torch and of the compiler; train without compiling"),
)
