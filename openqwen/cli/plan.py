"""`openqwen plan RECIPE`: what a pretraining run will need, before anything is allocated.

Ours; report §2.3, §2.4 and Table 1 give the sizes. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from openqwen.cli.common import Recipes, dotted
from openqwen.cli.settings import print_json, print_wide, settings_of
from openqwen.core.config import parse_count
from openqwen.core.console import duration, note
from openqwen.core.errors import UsageError
from openqwen.core.recipe import find_recipe, known_recipes, read_recipe
from openqwen.model.config import ModelConfig, layer_windows
from openqwen.pretrain.config import PretrainConfig
from openqwen.stages import STAGES
from openqwen.tokenizer.config import TokenizerConfig
from openqwen.train import planner
from openqwen.train.flops import flops_per_token, matrix_weights
from openqwen.train.planner import HARDWARE, Fit, Hardware
from openqwen.train.replay import Work
from openqwen.train.tape import BF16, FP32

Words = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="Recipes, then settings: qwen-7b --pretrain.micro_batch 1 (or --micro_batch 1) and so on.",
    ),
]


@dataclass(frozen=True)
class Figure:
    """One number of the plan: its key in the JSON, its name, how it reads, what it counts."""

    key: str
    value: float | str | None
    name: str
    shown: str
    counts: str


Sections = dict[str, list[Figure]]


def plan(
    *words: Words,
    recipe: Recipes = None,
    hardware: Annotated[str | None, Parameter(help=f"Does it fit? One of: {', '.join(HARDWARE)}.")] = None,
    devices: Annotated[
        int,
        Parameter(
            help="So many of them; the weights are divided unless parallel.strategy or shards says otherwise."
        ),
    ] = 1,
    mfu: Annotated[
        float | None, Parameter(help="Share of the peak rate you expect, such as 0.4; gives the time.")
    ] = None,
    length: Annotated[
        str | None,
        Parameter(help="Tokens of a sequence whose KV cache is counted, such as 32k; otherwise the context."),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> int:
    """Predicts memory, disk, FLOPs and time of pretraining by a recipe, and whether it fits the hardware named.

    Exit code 2 if it does not fit.
    """
    recipes, flags = split(words, recipe or ())
    config, model = settings(recipes, flags, devices)
    on = None if hardware is None else planner.hardware(hardware)
    check(config, devices, mfu, on)
    tokens = config.context if length is None else length_of(length)
    work = work_of(config, model, on, devices)
    need = planner.memory(work)
    fit = None if on is None else planner.fit(need, on)
    sections = {
        "model": of_model(model),
        "memory": of_memory(work, need),
        "disk": of_disk(config, model),
        "compute": of_compute(config, model, work),
        "inference": of_inference(model, tokens),
        "run": of_run(config, model, work, on, mfu),
        "hardware": [] if fit is None else of_hardware(fit, devices),
    }
    way = None if fit is None or fit.fits else planner.smaller(work, config.batch_size, fit.hardware)
    if as_json:
        print_json(record(recipes, sections, way))
    else:
        show(recipes, sections, need.moment, fit, work, way)
    return 0 if fit is None or fit.fits else 2


# What is asked


def split(words: Sequence[str], recipes: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Words before the first flag are recipes. UsageError if there is none."""
    first = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
    found = [*words[:first], *recipes]
    if not found:
        known = ", ".join(known_recipes())
        raise UsageError(
            "no recipe to plan", where="openqwen plan", fix=f"name a .toml file or one of: {known}"
        )
    return found, dotted(words[first:])


def settings(
    recipes: Sequence[str], flags: Mapping[str, Any], devices: int = 1
) -> tuple[PretrainConfig, ModelConfig]:
    """Pretraining as the recipes and flags set it, and its model: the tokenizer's settings give the vocabulary.

    Flags are those of `openqwen pretrain`, or carry their stage: pretrain.context, tokenizer.vocab_size. Several devices
    divide the weights where nobody says how they share the work.
    """
    if not any("pretrain" in read_recipe(recipe, tuple(STAGES)) for recipe in recipes):
        raise UsageError(
            "there is no [pretrain] table, so there is nothing to plan",
            where=", ".join(str(find_recipe(recipe)) for recipe in recipes),
            fix="name a recipe that pretrains, such as qwen-7b",
        )
    own: dict[str, dict[str, Any]] = {"pretrain": {}, "tokenizer": {}}
    for key, value in flags.items():
        stage, dot, rest = key.partition(".")
        if dot and stage in own:
            own[stage][rest] = value
        else:
            own["pretrain"][key] = value
    found = settings_of("pretrain", recipes, own["pretrain"])
    config: PretrainConfig = found.config
    said = {"parallel.strategy", "parallel.shards"} & found.origin.keys()
    if devices > 1 and not said and config.lora is None:
        shared = config.parallel.model_copy(update={"strategy": "shard"})
        config = config.model_copy(update={"parallel": shared})
    vocabulary: TokenizerConfig = settings_of("tokenizer", recipes, own["tokenizer"]).config
    return config, config.model.for_vocabulary(vocabulary.vocab_size, config.context)


def length_of(text: str) -> int:
    """`"32k"` -> 32000."""
    try:
        found = parse_count(text)
    except ValueError:
        found = None
    if not isinstance(found, int) or found < 1:
        raise UsageError(
            f"--length {text} is no number of tokens", where="flag --length", fix="such as 8192 or 32k"
        )
    return found


def check(config: PretrainConfig, devices: int, mfu: float | None, on: Hardware | None) -> None:
    """Flags that contradict each other or the settings."""
    if config.compile:
        raise UsageError(
            "what generated code keeps in memory is not counted",
            where="compile",
            fix="plan with --compile false; generated code has needed less so far, not more",
        )
    if not 1 <= devices <= config.batch_size:
        raise UsageError(
            f"--devices {devices}: a step has {config.batch_size} sequences, at least one for each device",
            where="flag --devices",
            fix=f"give a number from 1 to {config.batch_size}",
        )
    parallel, group = config.parallel, config.parallel.sharing(devices)
    if parallel.strategy == "replicate" and parallel.shards % devices:
        raise UsageError(
            f"--devices {devices}: parallel.shards {parallel.shards} do not divide among them",
            where="flag --devices",
            fix=f"--parallel.shards {1 << (devices - 1).bit_length()} (and 1, 2, 4, ... devices)"
            + ("" if config.lora else ", or --parallel.strategy shard"),
        )
    if parallel.strategy == "hybrid" and devices % group:
        raise UsageError(
            f"--devices {devices} do not divide into groups of {group}", where="parallel.group_size"
        )
    if parallel.strategy != "replicate" and config.batch_size % devices:
        raise UsageError(
            f"--devices {devices}: a batch of {config.batch_size} sequences does not divide among them",
            where="flag --devices",
            fix="make batch_tokens a multiple of context times devices",
        )
    if mfu is None:
        return
    if not 0 < mfu <= 1:
        raise UsageError(
            f"--mfu {mfu} is no share of a peak", where="flag --mfu", fix="give a number such as 0.4"
        )
    if on is None:
        raise UsageError("--mfu is a share of a device's peak", where="flag --mfu", fix="add --hardware NAME")
    if config.precision == "fp32":
        raise UsageError(
            "--mfu is a share of the bf16 peak, and precision is fp32",
            where="flag --mfu",
            fix="leave --mfu out",
        )


def work_of(config: PretrainConfig, model: ModelConfig, on: Hardware | None, devices: int) -> Work:
    """What one device does. `auto` precision is bf16 on a GPU; on a processor the one of both that needs more."""
    parallel = config.parallel
    replicates = parallel.strategy == "replicate"
    shards = parallel.shards // devices if replicates else 1
    own = planner.share(config.batch_size, devices * shards)
    work = Work(
        model,
        rows=min(config.micro_batch, own),
        context=config.context,
        half=config.precision != "fp32",
        accumulates=config.micro_batch < own,
        device="cuda" if on is None else on.device,
        devices=devices,
        shared=parallel.sharing(devices),
        shards=shards,
        recomputes=parallel.checkpoint_activations,
        lora=config.lora,
    )
    if config.precision == "auto" and work.device == "cpu":
        return max(work, replace(work, half=False), key=lambda either: planner.memory(either).total)
    return work


# What is answered


def of_model(model: ModelConfig) -> list[Figure]:
    """The shape and its parameters."""
    return [
        _number("num_layers", model.num_layers, "layers", "L"),
        _number("hidden_size", model.hidden_size, "width", f"C: {model.num_heads} heads of {model.head_dim}"),
        _number("ffn_size", model.ffn, "feed-forward", "F, of each of gate, up and down"),
        _number("vocab_size", model.vocab_size, "vocabulary", "V: ids, rounded up to vocab_multiple"),
        _number(
            "parameters", model.num_parameters, "parameters", "2 V C + L (qkv + out + 3 C F + norms) + C"
        ),
    ]


def of_memory(work: Work, need: planner.Memory) -> list[Figure]:
    """What is alive on one device, and the highest mark of a step."""
    model, lora = work.model, work.lora
    shared = f" / {work.shared} devices" if work.shared > 1 else ""
    precision = "bf16" if work.half else "fp32"
    copies = "2 bytes a weight of the blocks, as autocast makes them"
    if work.shared > 1:
        copies = "two blocks, embedding and head gathered whole"
    held, trained = f"4 bytes (fp32) each{shared}", f"4 bytes (fp32) each{shared}"
    found = [
        _number("micro_batch", work.rows, "sequences at a time", "B, on each device"),
        _number("context", work.context, "context", "T"),
        Figure("precision", precision, "matrix products", precision, "weights and optimizer stay fp32"),
    ]
    if work.devices > 1:
        divided = (
            "each holds all" if work.shared == 1 else f"{work.shared} divide weights, gradients, optimizer"
        )
        found.append(_number("devices", work.devices, "devices", divided))
    if lora is not None:
        count = planner.trained_parameters(model, lora)
        whole = ", embedding and head" if lora.trains_embeddings else ""
        found.append(_number("trained", count, "trained parameters", f"adapters of rank {lora.rank}{whole}"))
        trained += " that is trained"
        if lora.quantize:
            held = "4.5 bits a weight of the blocks' matrices (NF4), 4 bytes of the rest"
    if work.shards > 1:
        trained += f"; sums of {work.shards} parts of a batch wait for each other"
    kept = (
        "blocks keep their input, the rest is computed again"
        if work.recomputes
        else "saved for the backward pass"
    )
    return [
        *found,
        _bytes("parameters", need.parameters, "parameters", held),
        _bytes("gradients", need.gradients, "gradients", trained),
        _bytes("optimizer", need.optimizer, "AdamW", f"two fp32 means each, a counter a tensor{shared}"),
        _bytes("weight_copies", need.copies, "weights in bf16" if work.half else "weights gathered", copies),
        _bytes("activations", need.activations, "activations", f"{kept}, gradients of the loss included"),
        _bytes("peak_temporary", need.peak["temporary"], "temporaries at the peak", need.moment),
        _bytes(
            "peak", need.total, "peak of a step", "all that is alive then, which is not the sum of the above"
        ),
        _bytes("saving", need.saving, "while saving", f"host memory: a copy of what a process saves{shared}"),
    ]


def of_disk(config: PretrainConfig, model: ModelConfig) -> list[Figure]:
    """Checkpoints and the finished model."""
    saved = sum(planner.checkpoint_files(model, config.lora).values())
    exported = BF16 * model.num_parameters
    most = planner.CHECKPOINTS
    what = "fp32 model" if config.lora is None else "fp32 adapters and what else is trained"
    return [
        _bytes("checkpoint", saved, "checkpoint", f"{what} and optimizer, safetensors"),
        _bytes(
            "checkpoints", most * saved, "checkpoints at most", f"{most - 1} are kept, one is being written"
        ),
        _bytes("export_bf16", exported, "exported model", "2 bytes (bf16) a parameter"),
    ]


def of_compute(config: PretrainConfig, model: ModelConfig, work: Work) -> list[Figure]:
    """Floating-point operations per token."""
    forward = flops_per_token(
        model, config.context, causal=False, backward=False, device=work.device, bf16=work.half
    )
    training = planner.training_flops(work, causal=False)
    used = planner.training_flops(work)
    times = "three times forward" if work.lora is None else "no gradients of frozen matrices"
    again = "; what is computed again is not counted" if work.recomputes else ""
    return [
        _flops(
            "flops_forward",
            forward,
            "FLOPs a token, forward",
            "2 (matrix weights + L 2 C T), as torch counts"
            + ("" if work.lora is None else ", without adapters"),
        ),
        _flops("flops_per_token", training, "FLOPs a token, training", f"{times}, as torch counts{again}"),
        _flops(
            "flops_per_token_mfu", used, "FLOPs a token, for MFU", "only the half of attention that is used"
        ),
        _number(
            "matrix_weights",
            matrix_weights(model),
            "matrix weights",
            "parameters without embedding and norms",
        ),
    ]


def of_inference(model: ModelConfig, length: int) -> list[Figure]:
    """The KV cache."""
    token = planner.kv_bytes(model, 1)
    windows = model.windows or layer_windows(model.max_length, model.num_layers)
    found = [
        _bytes("kv_bytes_per_token", token, "KV cache a token, bf16", "2 L K D, 2 bytes each"),
        _bytes(
            "kv_bytes_per_token_fp32",
            planner.kv_bytes(model, 1, FP32),
            "KV cache a token, fp32",
            "4 bytes each",
        ),
        _bytes(
            "kv_bytes",
            planner.kv_bytes(model, length),
            f"KV cache of {length:,} tokens, bf16",
            "one sequence",
        ),
    ]
    if min(windows) < length:
        held = planner.kv_bytes(model, length, windows=windows)
        found.append(
            _bytes(
                "kv_bytes_windows", held, "the same in windows", "layer-wise windows keep their own keys only"
            )
        )
    return found


def of_run(
    config: PretrainConfig, model: ModelConfig, work: Work, on: Hardware | None, mfu: float | None
) -> list[Figure]:
    """The whole run; its time at the share of the peak that was stated."""
    tokens = config.steps * config.batch_tokens
    flops = tokens * planner.training_flops(work)
    found = [
        _number("steps", config.steps, "steps", f"of {config.batch_tokens:,} tokens"),
        _number("tokens", tokens, "tokens", "steps x batch_tokens"),
        _flops("flops", flops, "FLOPs of the run", "tokens x FLOPs a token, for MFU"),
    ]
    if on is not None and mfu is not None:
        time = planner.seconds(flops, on, work.devices, mfu)
        how = f"at {mfu:.0%} of {work.devices} x {(on.peak_flops or 0) / 1e12:.1f} TFLOP/s"
        found += [
            Figure("seconds", time, "time", duration(time), how),
            Figure("tokens_per_second", tokens / time, "tokens a second", f"{tokens / time:,.0f}", how),
        ]
    return found


def of_hardware(fit: Fit, devices: int) -> list[Figure]:
    """What the device offers, and whether the step fits."""
    on = fit.hardware
    return [
        Figure("name", on.name, "hardware", f"{devices} x {on.name}", on.source),
        _bytes("memory", on.memory, "memory", "of one"),
        _bytes(
            "reserve", on.reserve, "not for training", "driver or system, libraries, rounding: an estimate"
        ),
        _bytes(
            "kept", fit.kept, "kept by the allocator", f"freed, not given back: {on.kept:.0%} of the peak"
        ),
        _bytes("saving", fit.saving, "while saving", "a copy, where the device's memory is the host's"),
        Figure(
            "fits",
            fit.fits,
            "fits",
            "yes" if fit.fits else "no",
            "whether the peak of a step is no more than what is left",
        ),
        _bytes("margin", fit.margin, "left" if fit.fits else "missing", "memory less the rest"),
    ]


def _number(key: str, value: int, name: str, counts: str) -> Figure:
    return Figure(key, value, name, f"{value:,}", counts)


def _bytes(key: str, value: int, name: str, counts: str) -> Figure:
    size = abs(value)
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return Figure(key, value, name, f"{size / scale:,.2f} {unit}", counts)
    return Figure(key, value, name, f"{size} bytes", counts)


def _flops(key: str, value: float, name: str, counts: str) -> Figure:
    return Figure(key, round(value), name, f"{value:.4g}", counts)


def record(recipes: Sequence[str], sections: Sections, way: Work | None) -> dict[str, Any]:
    """The plan as JSON: one object a section."""
    values = {name: {f.key: f.value for f in found} for name, found in sections.items() if found}
    other = {}
    if way is not None:
        other["would_fit"] = {
            "devices": way.devices,
            "micro_batch": way.rows,
            "divided_among": way.shared,
            "checkpoint_activations": way.recomputes,
        }
    return {"recipes": list(recipes), **values, **other}


def show(
    recipes: Sequence[str], sections: Sections, moment: str, fit: Fit | None, work: Work, way: Work | None
) -> None:
    """Prints the table, then the verdict."""
    table = Table(f"plan of {escape(' + '.join(recipes))}", "", "what it counts", box=None, pad_edge=False)
    for section, found in sections.items():
        if found:
            table.add_row(f"[bold]{section}[/]", "", "")
        for figure in found:
            table.add_row(f"  {escape(figure.name)}", figure.shown, f"[dim]{escape(figure.counts)}[/]")
    print_wide(table)
    if fit is None:
        note(f"name hardware to see whether it fits: --hardware {' | '.join(HARDWARE)}")
        return
    verdict = "fits" if fit.fits else "does not fit"
    note(f"It {verdict} {fit.hardware.name}; the highest mark of a step comes in the {moment}.")
    if way is not None:
        words = [f"--devices {way.devices}", f"--pretrain.micro_batch {way.rows}"]
        words += ["--parallel.strategy shard"] * (way.shared == way.devices > 1)
        words += ["--parallel.checkpoint_activations true"] * (way.recomputes and not work.recomputes)
        note(f"It would with: {' '.join(words)}")
    elif not fit.fits:
        note("Nor would any smaller micro-batch, activations computed again, or more devices.")
