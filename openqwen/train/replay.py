"""A training step of model/qwen.py, train/loss.py, train/lora.py and train/nf4.py replayed in bytes on a tape.

Report §2.3 and §2.4 give the shapes and the mixed precision. Ours: the replay. Where the model's code changes what it
makes or keeps, this must change too; tests/train/test_planner.py compares both with torch's allocator.

B rows, T context, N = B T tokens, C hidden, H heads, K key/value heads, D head dim, F ffn, V vocabulary, R rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Literal

from openqwen.model.config import ModelConfig
from openqwen.train.config import LoraConfig
from openqwen.train.flops import BLOCK, PRODUCTS, query_blocks
from openqwen.train.tape import BF16, FP32, Autograd, Gradients, Memory, Tape, Tensor, Weight, given

# Chunks of logits and pieces of them (train/loss.py, which needs torch; a test compares them).
CHUNK_BYTES, MIN_ROWS, MAX_ROWS = 64 << 20, 256, 1024
PIECE_BYTES, PIECE_ROWS = 2 << 20, 8
RANDOM_STATE = 5056  # bytes of torch's generator on the CPU
NF4_WEIGHT = 9 / 16  # bytes a weight: half a byte, and a scale for 64

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Work:
    """What one process does in a step."""

    model: ModelConfig
    rows: int  # B, sequences at a time
    context: int  # T
    half: bool = True  # bf16 products; weights and optimizer are fp32, the residual stream too if not divided
    accumulates: bool = True  # several micro-batches a shard: gradients are there before the last one
    device: Device = "cuda"
    devices: int = 1  # processes, a device each
    shared: int = 1  # of them so many divide weights, gradients and optimizer state (FSDP2)
    shards: int = 1  # parts of the batch that one process computes, their gradients added as a tree
    recomputes: bool = False  # activation checkpointing of the blocks
    lora: LoraConfig | None = None


@dataclass
class Block:
    """Weights of a block, and of its adapters by the matrix beside which they stand."""

    weights: dict[str, Weight]
    adapters: dict[str, tuple[Weight, Weight]] = field(default_factory=dict)


class Divided:
    """Weights that FSDP2 divides among processes, gathers while they are needed, and whose gradients it adds together."""

    def __init__(self, graph: Autograd, weights: Sequence[Weight], processes: int) -> None:
        self.graph, self.weights = graph, weights
        self.size = sum(w.size for w in weights)
        self.share = ceil(self.size / processes)
        self.arriving: Tensor | None = None
        self.whole: Tensor | None = None
        self.gradient: Memory | None = None
        for w in weights:
            w.item = graph.item

    def ask(self) -> None:
        """What the processes hold begins to come into one long tensor."""
        if self.whole is None and self.arriving is None:
            own = self.graph.new(self.share, self.graph.item) if self.graph.item != FP32 else None
            self.arriving = self.graph.new(self.size, self.graph.item, "copies")
            del own

    def gather(self) -> Tensor | None:
        """From there into the weights. The long tensor is returned to whoever keeps it for a while."""
        self.ask()
        if self.whole is None:
            self.whole = self.graph.new(self.size, self.graph.item, "copies")
        arrived, self.arriving = self.arriving, None
        return arrived

    def leave(self) -> None:
        self.whole = None

    def reduce(self, device: str) -> Tensor:
        """Gradients go into one long fp32 tensor, which is returned; added up, each process keeps its share."""
        self.leave()
        sent = self.graph.new(self.size, FP32)
        if self.graph.item != FP32 and device == "cpu":  # becomes fp32 by way of a copy, tensor by tensor
            self.graph.new(max(w.size for w in self.weights), self.graph.item)
        for w in self.weights[:-1]:
            w.gradient = None
        own = self.graph.new(self.share, FP32)
        self.weights[-1].gradient = None
        if self.gradient is None:
            self.gradient = own.memory
            self.gradient.become("gradients")
        return sent


class Replay:
    """One step. Each method reads like the code it replays."""

    def __init__(self, work: Work) -> None:
        self.work, model, lora = work, work.model, work.lora
        self.N, self.C, self.F, self.V = (
            work.rows * work.context,
            model.hidden_size,
            model.ffn,
            model.vocab_size,
        )
        self.kv = self.N * model.kv_heads * model.head_dim  # numbers of all keys
        self.quantized = lora is not None and lora.quantize is not None
        outer = lora is None or lora.trains_embeddings
        self.embed, self.head = (Weight(self.V * self.C, trained=outer) for _ in range(2))
        self.norm = Weight(self.C, trained=lora is None)
        self.blocks = [self._block() for _ in range(model.num_layers)]
        self.tape, waiting = self._begin()
        self.graph = Autograd(self.tape, BF16 if work.half else FP32)
        # Sums of earlier shards wait, as in a binary counter: most of them before the last shard.
        self.waiting = [Memory(self.tape, waiting, "gradients") for _ in range((work.shards - 1).bit_count())]
        self.divided: list[Divided] = []  # the outer weights, then a block each
        if work.shared > 1:
            groups = [[self.embed, self.norm, self.head], *map(self.weights_of, self.blocks)]
            self.divided = [Divided(self.graph, group, work.shared) for group in groups]
        self.arrived: Tensor | None = None  # the last long tensors that were gathered from and added up
        self.sent: Tensor | None = None

    # What is there before

    def _block(self) -> Block:
        model, lora = self.work.model, self.work.lora
        C, F, qkv = self.C, self.F, (model.num_heads + 2 * model.kv_heads) * model.head_dim
        shapes = {"qkv": (qkv, C), "out": (C, C), "gate": (F, C), "up": (F, C), "down": (C, F)}
        self.shapes = shapes
        own = {name: Weight(rows * columns, trained=lora is None) for name, (rows, columns) in shapes.items()}
        own |= {name: Weight(C, trained=lora is None) for name in ("attn_norm", "mlp_norm")}
        own["bias"] = Weight(qkv, trained=lora is None)
        beside = {name: shapes[name] for name in lora.targets} if lora is not None else {}
        rank = lora.rank if lora is not None else 0
        return Block(own, {n: (Weight(rank * i), Weight(o * rank)) for n, (o, i) in beside.items()})

    def weights(self) -> list[Weight]:
        return [
            self.embed,
            *(w for block in self.blocks for w in self.weights_of(block)),
            self.norm,
            self.head,
        ]

    def weights_of(self, block: Block) -> list[Weight]:
        return [*block.weights.values(), *(w for pair in block.adapters.values() for w in pair)]

    def _begin(self) -> tuple[Tape, int]:
        """What stands before the step, and the bytes of all gradients."""
        every = self.weights()
        trained = [w for w in every if w.needs]
        count = sum(w.size for w in trained)
        held = FP32 * sum(w.size for w in every)
        if self.quantized:
            matrices = sum(block.weights[name].size for block in self.blocks for name in self.shapes)
            held -= FP32 * matrices - round(NF4_WEIGHT * matrices)
        n = self.work.shared
        state = ceil(2 * FP32 * count / n) + FP32 * len(trained)  # two means, and a counter a tensor
        empty = dict.fromkeys(("gradients", "copies", "activations", "temporary"), 0)
        return Tape(parameters=ceil(held / n), optimizer=state, **empty), FP32 * count

    # The step

    def play(self) -> Tape:
        """The whole step. `activations_kept`, `copies_kept`, `gradients_kept`: what lies between the passes, and after."""
        graph, tape = self.graph, self.tape
        ids = graph.new(self.work.rows * (self.work.context + 1), 8)
        tables = graph.new(self.work.context * self.work.model.head_dim, FP32)  # cos and sin of positions
        tables.memory.become("activations")
        hidden = total = None
        for _ in range(2 if self.work.accumulates else 1):
            hidden = self.hidden()  # the one of the micro-batch before lives until this one is there
            total = self.loss(hidden)
            graph.copies.clear()
            self.activations_kept, self.copies_kept = tape.live["activations"], tape.live["copies"]
            graph.backward(total.node)
            if self.divided:
                self.reduce(0)
                self.sent = None
        self.gradients_kept = tape.live["gradients"]
        del hidden, total, ids
        self.add_gradients()
        return tape

    def add_gradients(self) -> None:
        """Of shards, and of processes that each hold everything: two by two, in one long tensor."""
        self.tape.now = "sum of gradients"
        self.waiting.clear()
        if self.work.devices > 1 and not self.divided:
            count = sum(w.size for w in self.weights() if w.needs)
            sums = [self.graph.new(count, FP32) for _ in range(3)]  # own, another's, both
            sums.clear()

    def hidden(self) -> Tensor:
        graph, layers = self.graph, len(self.blocks)
        self.tape.now = "forward"
        self.gather(0)
        x = graph.embedding(self.embed, self.N * self.C)
        x = graph.dropout(x, self.work.model.dropout, self.work.device)
        x = self.passed(x, partial(self.enter, "backward of the embedding"))
        for number, block in enumerate(self.blocks, 1):
            self.tape.now = f"forward of block {number} of {layers}"
            self.gather(number)
            x = self.passed(x, partial(self.reduce, number))
            x = self.recomputed(block, number, x) if self.work.recomputes else self.block(block, number, x)
            x = self.passed(x, partial(self.gather_again, number))
            if self.divided:
                self.divided[number].leave()
        self.arrived = None
        return self.rms_norm(x, self.norm)

    def block(self, block: Block, number: int, x: Tensor) -> Tensor:
        graph, p, device = self.graph, self.work.model.dropout, self.work.device
        y = graph.dropout(self.attention(block, self.rms_norm(x, block.weights["attn_norm"])), p, device)
        x = graph.add(x, y)
        del y
        y = graph.dropout(self.mlp(block, self.rms_norm(x, block.weights["mlp_norm"])), p, device)
        return self.passed(
            graph.add(x, y), partial(self.enter, f"backward of block {number} of {len(self.blocks)}")
        )

    def enter(self, moment: str) -> None:
        self.tape.now = moment

    def passed(self, x: Tensor, back: Callable[[], None]) -> Tensor:
        """x itself; something is done when its gradient comes back through here."""

        def backward(grads: Gradients) -> Gradients:
            back()
            return [given(grads).alias()]

        out = x.alias()
        self.graph.made([out], [x], [], backward)
        return out

    def gather(self, number: int) -> None:
        """The weights of a block (0: the outer ones). What they came in lives until the next ones have come."""
        if self.divided:
            self.arrived = self.divided[number].gather()

    def gather_again(self, number: int) -> None:
        """On the way back, where those of the block before are asked for already."""
        if self.divided:
            self.divided[number].gather()
            if number > 1:
                self.divided[number - 1].ask()

    def reduce(self, number: int) -> None:
        """A block's gradients are complete. What was sent lives until the next block's are."""
        if self.divided:
            self.sent = None
            self.sent = self.divided[number].reduce(self.work.device)

    def recomputed(self, block: Block, number: int, x: Tensor) -> Tensor:
        """A block that keeps its input, and the random state, and is computed again on the way back.

        Again only up to the last operation that keeps something for the way back.
        """
        graph = self.graph
        begun = graph.order
        with graph.again(0):  # in vain, to find that operation
            entry = x.alias()
            if x.needs:
                graph.entrance(entry)
            self.block(block, number, entry)
        needed = graph.last - begun
        with graph.forgetting():
            out = self.block(block, number, x).alias()
        state = graph.new(RANDOM_STATE, 1)
        inside, needs, inner = x.alias(), x.needs, [w for w in self.weights_of(block) if w.needs]

        def backward(grads: Gradients) -> Gradients:
            gradient = given(grads)
            grads.clear()
            self.enter(f"recomputation of block {number} of {len(self.blocks)}")
            entry = inside.alias()
            arrived = graph.entrance(entry) if needs else None
            # Computed again when it is first needed: the gradient has been cast for the branch by then.
            branch = graph.new(entry.size, graph.item) if graph.item != entry.item else None
            with graph.again(needed):
                root = self.block(block, number, entry).node
            del entry, branch
            graph.backward(root, gradient)
            return [arrived.pop() if arrived is not None else None, *[None] * len(inner)]

        graph.made([out], [x, *inner], [x, state], backward)
        return out

    # Pieces of a block

    def rms_norm(self, x: Tensor, weight: Weight) -> Tensor:
        graph, N = self.graph, self.N
        y = graph.cast(x, FP32)
        mean = graph.simple(graph.simple(graph.square(y), N, FP32), N, FP32)  # and the epsilon
        root = graph.keeping_result(mean, N, FP32)
        del mean
        y = graph.mul(y, root)
        del root
        y = graph.cast(y, x.item)
        return graph.scale(y, weight)

    def attention(self, block: Block, x: Tensor) -> Tensor:
        graph, width = self.graph, self.N * self.C
        qk, v = graph.split(self.matrix(block, "qkv", x), width + self.kv, self.kv)
        q, k = graph.split(self.rotate(qk), width, self.kv)
        return self.matrix(block, "out", self.attend(q, k, v))

    def mlp(self, block: Block, x: Tensor) -> Tensor:
        graph = self.graph
        return self.matrix(
            block,
            "down",
            graph.mul(graph.silu(self.matrix(block, "gate", x)), self.matrix(block, "up", x)),
        )

    def matrix(self, block: Block, name: str, x: Tensor) -> Tensor:
        """A linear layer, frozen in 4 bits or not, and its adapter if it has one."""
        graph, N = self.graph, self.N
        outputs = N * self.shapes[name][0]
        base, bias = block.weights[name], block.weights["bias"] if name == "qkv" else None
        if name not in block.adapters:
            return (
                self.nf4(x, base, bias, outputs) if self.quantized else graph.linear(x, base, outputs, bias)
            )
        assert self.work.lora is not None
        a, b = block.adapters[name]
        low = graph.linear(
            graph.dropout(x, self.work.lora.dropout, self.work.device), a, N * self.work.lora.rank
        )
        low = graph.simple(low, low.size, low.item)  # times alpha / rank
        y = self.nf4(x, base, bias, outputs) if self.quantized else graph.linear(x, base, outputs, bias)
        return graph.add(y, graph.linear(low, b, outputs))

    def nf4(self, x: Tensor, base: Weight, bias: Weight | None, outputs: int) -> Tensor:
        """Through a matrix in 4 bits, which is unpacked here and again on the way back, and not kept."""
        graph = self.graph
        h = graph.cast(x, graph.item)
        like = (h.size, h.item)

        def unpacked() -> Tensor:
            codes = graph.new(base.size // 2, FP32)  # the index of each byte
            halves = graph.new(base.size, FP32)
            del codes
            exact = graph.new(base.size, FP32)
            del halves
            return graph.cast(exact, graph.item)

        def backward(_: Gradients) -> Gradients:
            weight = unpacked()
            out = graph.new(*like)
            del weight
            return [out]

        weight = unpacked()
        y = graph.new(outputs, graph.item)
        del weight
        graph.made([y], [h], [], backward)
        return y if bias is None else graph.simple(y, y.size, y.item)

    def rotate(self, x: Tensor) -> Tensor:
        """RoPE in fp32: two halves, each the sum of two products, put side by side."""
        graph = self.graph
        exact, half = graph.cast(x, FP32), x.size // 2

        def turned() -> Tensor:
            products = [graph.new(half, FP32) for _ in range(2)]
            total = graph.new(half, FP32)
            del products
            return total

        def backward(grads: Gradients) -> Gradients:
            gradient = given(grads)
            grads.clear()
            first, second = (graph.new(half, FP32) for _ in range(2))
            negative = graph.new(half, FP32)
            product = graph.new(half, FP32)
            del negative, product
            product = graph.new(half, FP32)
            del product, gradient
            out = graph.new(2 * half, FP32)
            del first, second
            return [out]

        halves = [turned() for _ in range(2)]
        out = graph.new(x.size, FP32)
        del halves
        graph.made([out], [exact], [], backward)
        return graph.cast(out, x.item)

    # Attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """attention.attend of a training sequence: the flash kernel, or products of queries and keys, whole or in blocks."""
        blocks = query_blocks(self.work.context, self.work.device, self.work.half)
        products = self.work.device == "cpu" and self.work.half and self.work.context <= PRODUCTS
        if len(blocks) == 1:
            return self.products(q, k, v) if products else self.flash(q, k, v)
        graph, T = self.graph, self.work.context
        parts = graph.split(q, *(q.size * queries // T for queries, _ in blocks))
        pieces = [graph.split(one, *(one.size * n // T for n in _pieces(T))) for one in (k, v)]
        out = []
        for part, (queries, keys) in zip(parts, blocks):
            k_part, v_part = (graph.joined(own[: ceil(keys / BLOCK)]) for own in pieces)
            attended = self.products if products else self.flash
            out.append(attended(part, k_part, v_part, queries, keys))
        return graph.joined(out)

    def flash(self, q: Tensor, k: Tensor, v: Tensor, queries: int = 0, keys: int = 0) -> Tensor:
        """queries, keys: of a block under a mask, which becomes numbers of the products' type."""
        graph = self.graph
        out = graph.new(q.size, q.item)
        sums = graph.new(q.size // self.work.model.head_dim, FP32)
        mask = [graph.new(queries * keys, q.item)] if keys else []
        sizes = q.size, k.size, v.size
        spare = q.size if self.work.device == "cuda" else 0  # a GPU's kernel sums the gradient of q in fp32

        def backward(_: Gradients) -> Gradients:
            exact = graph.new(spare, FP32)
            made = [graph.new(size, q_item) for size in sizes]
            del exact
            return list(made)

        q_item = q.item
        graph.made([out], [q, k, v], [q, k, v, out, sums, *mask], backward)
        return out

    def products(self, q: Tensor, k: Tensor, v: Tensor, queries: int = 0, keys: int = 0) -> Tensor:
        """queries, keys: of a block; its keys and values are tensors of their own already."""
        graph, model = self.graph, self.work.model
        whole = not keys
        queries, keys = queries or self.work.context, keys or self.work.context
        size = self.work.rows * model.num_heads * queries * keys
        mask = graph.new(queries * keys, 1)
        q = graph.simple(q, q.size, q.item)  # over the root of its width
        if model.num_heads > 1:  # a single head is in order as it is
            q = graph.copied(q)
        if whole and model.kv_heads > 1:
            k, v = graph.copied(k), graph.copied(v)
        hidden = graph.new(queries * keys, 1)
        bias = graph.new(queries * keys, q.item)
        del hidden
        bias = graph.new(model.num_heads // model.kv_heads * queries * keys, q.item)
        scores = graph.product(q, k, size)
        probabilities = graph.keeping_result(scores, size, q.item)
        out = graph.product(probabilities, v, q.size, second_first=True)
        del mask, bias, scores, probabilities
        out = graph.copied_back(out)
        return graph.copied(out) if whole else out

    # The loss: chunks of logits

    def loss(self, hidden: Tensor) -> Tensor:
        """Both gradients are formed with the loss itself and kept (train/loss.py)."""
        graph, C, V, item = self.graph, self.C, self.V, self.graph.item
        self.tape.now = "loss"
        kept = [graph.new(hidden.size, hidden.item)] if hidden.needs else []
        kept += [graph.new(V * C, FP32)] if self.head.needs else []
        copy = graph.new(V * C, item) if item != self.head.item else None
        rows = min(MAX_ROWS, max(MIN_ROWS, CHUNK_BYTES // (item * V)))
        h = logits = None
        for start in range(0, self.N, rows):
            n = min(rows, self.N - start)
            h = graph.new(n * C, item) if item != hidden.item else None
            logits = graph.new(n * V, item)
            self.pieces(n)
            if hidden.needs:
                product = graph.new(n * C, item)
                del product
            if self.head.needs:
                product = graph.new(V * C, item)
                # The CPU adds bf16 to fp32 by way of a copy.
                exact = graph.new(V * C, FP32) if item != FP32 and self.work.device == "cpu" else None
                del product, exact
        del copy, h, logits
        total, like = graph.new(1, FP32), (hidden.size, hidden.item)

        def backward(_: Gradients) -> Gradients:
            self.tape.now = "backward of the loss"
            of_hidden = graph.new(*like)
            return [of_hidden, graph.new(V * C, FP32) if self.head.needs else None]

        graph.made([total], [hidden, self.head], kept, backward)
        return total

    def pieces(self, n: int) -> None:
        """Softmax in fp32 of a chunk of n rows; on a CPU of pieces, the last one alive until the next is there."""
        graph, V = self.graph, self.V
        size = n if self.work.device == "cuda" else max(PIECE_ROWS, PIECE_BYTES // (FP32 * V))
        softmax = None
        for start in range(0, n, size):
            rows = min(size, n - start)
            exact = graph.new(rows * V, FP32) if graph.item != FP32 and self.work.device == "cpu" else None
            softmax = graph.new(rows * V, FP32)
            del exact
        del softmax


def _pieces(context: int) -> list[int]:
    return [min(BLOCK, context - start) for start in range(0, context, BLOCK)]
