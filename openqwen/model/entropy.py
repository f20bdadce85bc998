"""What attention does with text longer than it was trained on: why each technique of Table 3 helps, or does not.

Report §2.5 gives the reason for LogN: it keeps the entropy of attention steady while the context grows. The measurement
is ours: for every layer and head, by position of the query, the entropy of the weights, the spread of the scores and
the share of weight on keys further away than any in training; beside it the loss by position.

The spread says how much LogN can do at all. Scores s scaled by f give an entropy H with dH/df = -f Var(s), the
variance taken under the weights: heads that are flat, or that look at one key, do not answer to a scale. Whether the
answer is wanted is measured directly: the loss beyond the training length against one scale of all queries there.

How far plain attention falls is not bounded by what context is worth: beside the loss stands the entropy of the
predictions, the loss that the model itself expects. Where the loss is far above it, the model does not do without its
context: it is sure of a wrong one.

H heads, K key/value heads, T time, D head dim, C hidden, L layers, P ranges of positions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import exp, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openqwen.model.config import Extension, ModelConfig
from openqwen.model.context import logn_factor, ntk_alpha, rotary_table
from openqwen.model.qwen import Attention, Block, Qwen, rotate

MEASURES = ("entropy", "spread", "far", "peak")
SCALES = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
_LOGITS_BYTES = 256 << 20  # of the logits computed at a time
_SCORES_BYTES = 4 << 20  # stays in the cache: three times as fast as 64 MiB at 2,048 tokens
_PANELS = 8  # layers that are drawn at most
_COLOURS = ("#7a7a7a", "#d9822b", "#3d7fc1", "#2b8a6f", "#b8336a", "#5b4ccc")


@dataclass(frozen=True)
class Heads:
    """What the heads of one layer did with one sequence: one value a head and query, each (H, T) fp32."""

    entropy: Tensor  # nats; log(n) for n keys looked at evenly
    spread: Tensor  # standard deviation of the scaled scores under the weights
    far: Tensor  # share of weight on keys at a distance that training never saw
    peak: Tensor  # greatest weight


@torch.inference_mode()
def probe(model: Qwen, ids: Tensor, extension: Extension) -> tuple[list[Heads], Tensor]:
    """What every layer's attention does with ids (T,), read as one sequence under `extension`, and the head's input.

    The latter is (T, C), as of `Qwen.hidden`.
    """
    found: list[Heads] = []
    windows = extension.windows or (None,) * model.config.num_layers

    def look(attention: Attention, window: int | None, _: nn.Module, __: object, x: Tensor) -> None:
        found.append(measure(attention, x, model.config, extension, window))

    # The norm before attention gives what attention reads, however the layer then calls it.
    handles = []
    for block, window in zip(model.blocks, windows):
        assert isinstance(block, Block)
        handles.append(block.attn_norm.register_forward_hook(partial(look, block.attn, window)))
    try:
        hidden = model.hidden(ids[None], extension=extension)[0]
    finally:
        for handle in handles:
            handle.remove()
    return found, hidden


def logits_in_pieces(model: Qwen, hidden: Tensor) -> Iterator[Tensor]:
    """fp32 logits (m, V) of hidden (n, C), some rows at a time: a long text's are never held at once."""
    for rows in hidden.split(max(1, _LOGITS_BYTES // (4 * model.config.vocab_size))):
        yield model.head(rows).float()


@torch.inference_mode()
def prediction_entropy(model: Qwen, hidden: Tensor) -> Tensor:
    """(n,) nats: the loss that the model expects where the head reads hidden (n, C)."""
    logs = (logits.log_softmax(-1) for logits in logits_in_pieces(model, hidden))
    return torch.cat([-(log.exp() * log).sum(-1) for log in logs])


def measure(
    attention: Attention, x: Tensor, config: ModelConfig, extension: Extension, window: int | None
) -> Heads:
    """x (1, T, C) is what the layer's attention reads. The scores are computed some queries at a time."""
    q, k = queries_and_keys(attention, x, config, extension, window)  # (H, T, D) each
    (H, T, _), parts = q.shape, []
    step = max(1, _SCORES_BYTES // (4 * H * T))
    for start in range(0, T, step):
        parts.append(_measure_rows(q[:, start : start + step], k, start, config.max_length, window))
    return Heads(*(torch.cat(columns, dim=1) for columns in zip(*parts)))


def queries_and_keys(
    attention: Attention, x: Tensor, config: ModelConfig, extension: Extension, window: int | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys of one sequence as they meet, (H, T, D) each: rotated, LogN applied, K heads repeated to H."""
    T, H, K, D = x.shape[1], config.num_heads, config.kv_heads, config.head_dim
    counted = min(T, window or T)  # what both factors count
    alpha = ntk_alpha(counted, config.max_length) if extension.dynamic_ntk else 1
    cos, sin = rotary_table(T, D, config.rope_base, alpha, x.device)  # (1, T, 1, D/2)
    qk = attention.qkv(x).view(1, T, H + 2 * K, D)[:, :, : H + K]
    q, k = rotate(qk, cos, sin)[0].float().transpose(0, 1).split((H, K))  # (H, T, D), (K, T, D)
    if extension.logn:
        factors = [logn_factor(min(place, counted - 1), config.max_length) for place in range(T)]
        q = q * torch.tensor(factors, device=x.device)[:, None]
    return q, k.repeat_interleave(H // K, dim=0)


def log_weights(q: Tensor, k: Tensor, start: int, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and log weights (H, n, T) of queries (H, n, D) at positions start..., and their distances (n, T)."""
    n, T = q.shape[1], k.shape[1]
    scores = q @ k.transpose(1, 2) / sqrt(q.shape[2])  # (H, n, T)
    distance = torch.arange(start, start + n, device=q.device)[:, None] - torch.arange(T, device=q.device)
    seen = (distance >= 0) & (distance < (window or T))  # (n, T)
    return scores, scores.masked_fill(~seen, -torch.inf).log_softmax(-1), distance


def _measure_rows(
    q: Tensor, k: Tensor, start: int, max_length: int, window: int | None
) -> tuple[Tensor, ...]:
    """The fields of Heads for some queries, (H, n) each."""
    scores, logs, distance = log_weights(q, k, start, window)
    weights = logs.exp()
    mean = (weights * scores).sum(-1, keepdim=True)
    return (
        -(weights * logs.masked_fill(weights == 0, 0.0)).sum(-1),
        (weights * (scores - mean).square()).sum(-1).sqrt(),
        (weights * (distance >= max_length)).sum(-1),
        weights.amax(-1),
    )


@contextmanager
def scaled_queries(model: Qwen, scale: float) -> Iterator[None]:
    """Within the body, queries at positions beyond the training length are `scale` times as long, in every layer."""
    width = model.config.num_heads * model.config.head_dim

    def stretch(_: nn.Module, __: object, qkv: Tensor) -> Tensor:
        qkv = qkv.clone()
        qkv[:, model.config.max_length :, :width] *= (
            scale  # rotation keeps lengths: before or after is the same
        )
        return qkv

    handles = []
    for block in model.blocks:
        assert isinstance(block, Block)
        handles.append(block.attn.qkv.register_forward_hook(stretch))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def ranges(length: int, max_length: int) -> list[int]:
    """Where ranges of positions end: 1/8, 1/4, 1/2 and 1 of the training length, then doubling; the last is `length`.

    `ranges(1024, 256)` -> [32, 64, 128, 256, 512, 1024].
    """
    ends = sorted({max(1, max_length // part) for part in (8, 4, 2, 1)})
    while ends[-1] < length:
        ends.append(2 * ends[-1])
    return [end for end in ends if end < length] + [length]


def by_range(values: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """(..., T) -> (..., P): the mean over each range of positions."""
    starts = [0, *ends[:-1]]
    return np.stack([values[..., a:b].mean(-1) for a, b in zip(starts, ends)], axis=-1)


def analyse(
    model: Qwen,
    blocks: Sequence[np.ndarray],
    length: int,
    ways: Mapping[str, Extension],
    losses: Mapping[str, np.ndarray],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """The analysis file: attention over the first `length` tokens of each block under each way, and loss by position.

    losses: (length,) nats by position for each way, as measured over all blocks of the table.
    """
    ends = ranges(length, model.config.max_length)
    device = model.head.weight.device
    found = {}
    for number, (name, extension) in enumerate(ways.items()):
        total = np.zeros((len(MEASURES), model.config.num_layers, model.config.num_heads, len(ends)))
        unsure = np.zeros(len(ends))
        for done, block in enumerate(blocks, 1):
            ids = torch.from_numpy(block[:length]).to(device)
            layers, hidden = probe(model, ids, extension)
            values = [[getattr(heads, measure).cpu().numpy() for heads in layers] for measure in MEASURES]
            total += by_range(np.asarray(values), ends)  # (4, L, H, P)
            unsure += by_range(prediction_entropy(model, hidden).cpu().numpy(), ends)  # (P,)
            progress(number * len(blocks) + done)
        found[name] = {
            **dict(zip(MEASURES, (total / len(blocks)).round(4).tolist())),
            "loss": by_range(losses[name], ends).round(4).tolist(),
            "prediction_entropy": (unsure / len(blocks)).round(4).tolist(),
        }
    even = np.log(np.arange(1, length + 1))
    return {
        "max_length": model.config.max_length,
        "length": length,
        "ranges": [f"{a}-{b - 1}" for a, b in zip([0, *ends[:-1]], ends)],
        "ends": ends,
        "blocks": len(blocks),
        "windows": list(next((e.windows for e in ways.values() if e.windows), ())),
        "even_entropy": by_range(even, ends).round(4).tolist(),  # of attention that looks at all keys alike
        "measures": "each [layer][head][range of positions]; loss and prediction_entropy [range], nats a token",
        "techniques": found,
    }


def scale_response(
    model: Qwen, technique: str, read: Callable[[], np.ndarray], progress: Callable[[int], None]
) -> dict[str, Any]:
    """The loss beyond the training length with all queries there scaled by each of SCALES, and LogN's own factors.

    read: loss by position (T,) of the model as it is at the time, under `technique`.
    """
    trained, losses = model.config.max_length, []
    for done, scale in enumerate(SCALES, 1):
        with scaled_queries(model, scale):
            by_position = read()
        progress(done)
        losses.append(round(float(by_position[trained:].mean()), 4))
    factors = [logn_factor(place, trained) for place in range(trained, len(by_position))]
    return {
        "technique": technique,
        "scales": list(SCALES),
        "loss": losses,
        "logn_mean": round(float(np.mean(factors)), 4),
        "logn_largest": round(factors[-1], 4),
    }


def describe(analysis: Mapping[str, Any]) -> list[str]:
    """Attention in sentences, a technique each: the end of the training length against the last range."""
    inside, lines = _inside(analysis), []
    for name, found in analysis["techniques"].items():
        means = {m: np.asarray(found[m]).mean((0, 1)) for m in MEASURES}  # (P,) over layers and heads
        lines.append(
            f"{name}, positions {analysis['ranges'][inside]} and {analysis['ranges'][-1]}: loss "
            f"{found['loss'][inside]:.2f} and {found['loss'][-1]:.2f} nats where the predictions' own entropy is "
            f"{found['prediction_entropy'][inside]:.2f} and {found['prediction_entropy'][-1]:.2f}; attention's entropy "
            f"{means['entropy'][inside]:.2f} and {means['entropy'][-1]:.2f} (even attention: "
            f"{analysis['even_entropy'][inside]:.2f} and {analysis['even_entropy'][-1]:.2f}); {means['far'][-1]:.0%} "
            "of the last weight lies further away than any key in training."
        )
    return lines


def limits(analysis: Mapping[str, Any]) -> list[str]:
    """What context is worth, what plain attention makes of it, what a scale of the queries can win: in sentences."""
    inside, plain = _inside(analysis), analysis["techniques"]["plain"]["loss"]
    alone = analysis["one_token_loss"]
    lines = [
        f"What context is worth, at {analysis['length']} tokens: shown one token at a time the perplexity is "
        f"{exp(alone):.4g}, so context divides it by {exp(alone - plain[inside]):.3g} at positions "
        f"{analysis['ranges'][inside]}; plain at {analysis['ranges'][-1]} has {exp(plain[-1] - alone):.3g} times the "
        "perplexity of no context at all."
    ]
    if response := analysis.get("query_scale"):
        pairs = ", ".join(f"{s:g}: {exp(loss):.4g}" for s, loss in zip(response["scales"], response["loss"]))
        lines.append(
            f"What LogN can win, at {analysis['length']} tokens: perplexity beyond the training length with "
            f"{response['technique']} and all queries there scaled by one number is {pairs}. LogN's factors are "
            f"{response['logn_mean']:.3g} on average and at most {response['logn_largest']:.3g}."
        )
    return lines


def _inside(analysis: Mapping[str, Any]) -> int:
    """The range that ends with the training length."""
    ends = analysis["ends"]
    return ends.index(analysis["max_length"]) if analysis["max_length"] in ends else -1


def draw(analysis: Mapping[str, Any]) -> str:
    """The analysis as curves (SVG): over positions, layer by layer, and the loss against a scale of the queries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    num_layers = len(next(iter(analysis["techniques"].values()))["entropy"])
    shown = sorted({round(i * (num_layers - 1) / max(1, _PANELS - 1)) for i in range(_PANELS)})
    rows = 1 + -(-len(shown) // 4)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "openqwen", "font.size": 8}):
        figure, grid = pyplot.subplots(rows, 4, figsize=(10, 2.3 * rows), layout="constrained")
        panels = list(grid.flat)
        found = analysis["techniques"]
        losses = {name: one["loss"] for name, one in found.items()}
        _panel(panels[0], analysis, "loss (dashed: as the model expects)", losses)
        for one, colour in zip(found.values(), _COLOURS):
            panels[0].plot(analysis["ends"], one["prediction_entropy"], "--", color=colour, linewidth=0.8)
        panels[0].axhline(analysis["one_token_loss"], color="#000000", linestyle=":", linewidth=0.8)
        for axes, measure, title in zip(
            panels[1:3], ("entropy", "far"), ("entropy, all layers", "weight beyond the training length")
        ):
            _panel(axes, analysis, title, {n: np.mean(one[measure], (0, 1)) for n, one in found.items()})
        _response(panels[3], analysis.get("query_scale"))
        for axes, layer in zip(panels[4:], shown):
            values = {n: np.mean(one["entropy"][layer], 0) for n, one in found.items()}
            _panel(axes, analysis, f"entropy, layer {layer}", values)
        for axes in [panels[1], *panels[4 : 4 + len(shown)]]:
            axes.plot(analysis["ends"], analysis["even_entropy"], ":", color="#000000", linewidth=0.8)
        for axes in panels[4 + len(shown) :]:
            axes.set_axis_off()
        panels[0].legend(fontsize=5.5, frameon=False, loc="upper left")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _panel(axes: Any, analysis: Mapping[str, Any], title: str, values: Mapping[str, Sequence[float]]) -> None:
    """One value a technique against the end of its range of positions; the vertical line is the training length."""
    for (name, line), colour in zip(values.items(), _COLOURS):
        axes.plot(analysis["ends"], line, "o-", color=colour, label=name, linewidth=1, markersize=2.5)
    axes.axvline(analysis["max_length"], color="#b0b0b0", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(analysis["ends"], [f"{end}" for end in analysis["ends"]], fontsize=6)
    axes.set_title(title, fontsize=8)
    axes.grid(alpha=0.25)


def _response(axes: Any, response: Mapping[str, Any] | None) -> None:
    """Loss beyond the training length against a scale of all queries there; the lines: LogN's mean and largest."""
    if response is None:
        axes.set_axis_off()
        return
    axes.plot(response["scales"], response["loss"], "o-", color=_COLOURS[1], linewidth=1, markersize=2.5)
    axes.axvline(response["logn_mean"], color=_COLOURS[2], linewidth=0.8)
    axes.axvline(response["logn_largest"], color=_COLOURS[2], linewidth=0.8, linestyle=":")
    axes.set_title("loss beyond, by scale of queries", fontsize=8)
    axes.grid(alpha=0.25)
