"""An autograd that counts bytes: tensors without numbers, made, kept and dropped as torch makes, keeps and drops them.

Ours. A piece of memory lives as long as somebody refers to it, so code that reads like the model's own leaves the same
marks on the tape as the model leaves in torch's allocator. Each operation says what it saves for the backward pass and
what that pass makes, in torch's order. planner.py plays a training step with them. No torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any

FP32, BF16 = 4, 2  # bytes of a number


class Tape:
    """Bytes alive by kind while a step goes on, and by kind at the highest mark.

    >>> tape = Tape(parameters=8); tape.add("temporary", 4); tape.add("temporary", -4); tape.peak
    {'parameters': 8, 'temporary': 4}
    """

    def __init__(self, **live: int) -> None:
        self.live, self.peak = live, dict(live)
        self.total = self.highest = sum(live.values())
        self.now = self.moment = ""

    def add(self, kind: str, num_bytes: int) -> None:
        self.live[kind] = self.live.get(kind, 0) + num_bytes
        self.total += num_bytes
        if self.total > self.highest:
            self.highest, self.peak, self.moment = self.total, dict(self.live), self.now


class Memory:
    """A piece of memory: on the tape from its making until nobody refers to it any more."""

    __slots__ = ("kind", "size", "tape")

    def __init__(self, tape: Tape, size: int, kind: str) -> None:
        self.tape, self.size, self.kind = tape, size, kind
        tape.add(kind, size)

    def __del__(self) -> None:
        self.tape.add(self.kind, -self.size)

    def become(self, kind: str) -> None:
        """Counts as another kind from now on."""
        self.tape.add(self.kind, -self.size)
        self.kind = kind
        self.tape.add(kind, self.size)


class Weight:
    """A parameter. Its own bytes stand on the tape from the beginning; its gradient comes in the backward pass."""

    def __init__(self, size: int, *, trained: bool = True, item: int = FP32) -> None:
        self.size, self.needs, self.item = size, trained, item
        self.gradient: Memory | None = None


class Tensor:
    """`size` numbers of `item` bytes, in a piece of memory that other tensors may share. node: what made it."""

    __slots__ = ("item", "memory", "node", "place", "size")

    def __init__(
        self, memory: Memory, size: int, item: int, node: Node | None = None, place: int = 0
    ) -> None:
        self.memory, self.size, self.item, self.node, self.place = memory, size, item, node, place

    @property
    def needs(self) -> bool:
        """Whether a gradient goes back through it."""
        return self.node is not None

    def alias(self) -> Tensor:
        """The same memory under another name, outside of any graph."""
        return Tensor(self.memory, self.size, self.item)


Gradients = list["Tensor | None"]
Backward = Callable[[Gradients], Sequence["Tensor | None"]]


class Node:
    """An operation to go back through: gradients of its outputs to gradients of its inputs."""

    __slots__ = ("backward", "edges", "order", "outputs", "saved")

    def __init__(
        self,
        order: int,
        inputs: Sequence[Tensor | Weight],
        saved: Sequence[Memory],
        backward: Backward,
        outputs: int,
    ) -> None:
        self.order, self.saved, self.outputs = order, list(saved), outputs
        self.backward: Backward | None = backward
        self.edges = [_edge(one) for one in inputs]

    def __lt__(self, other: Node) -> bool:
        return self.order > other.order  # what was made last goes back first


def _edge(one: Tensor | Weight) -> tuple[Any, int, int, int] | None:
    """Where an input's gradient goes: (weight or node, which of its outputs, numbers, bytes of a number)."""
    if not one.needs:
        return None
    target, place = (one, 0) if isinstance(one, Weight) else (one.node, one.place)
    return target, place, one.size, one.item


class Autograd:
    """Tensors and operations on a tape. `item`: bytes of a number in products (autocast if not 4)."""

    def __init__(self, tape: Tape, item: int) -> None:
        self.tape, self.item, self.order = tape, item, 0
        self.forgets = False  # nothing is kept for a backward pass
        self.stops: int | None = None  # from this operation on nothing is computed
        self.last = 0  # the operation that saved something last
        self.copies: dict[Weight, Tensor] = {}  # of trained weights, kept by autocast until it is left

    def new(self, size: int, item: int, kind: str = "temporary") -> Tensor:
        computed = self.stops is None or self.order + 1 < self.stops
        return Tensor(Memory(self.tape, size * item if computed else 0, kind), size, item)

    def made(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor | Weight],
        saved: Iterable[Tensor],
        backward: Backward,
    ) -> None:
        """Outputs are the result of an operation on inputs; what is saved lives until it has gone back."""
        self.order += 1
        if self.forgets or not any(one.needs for one in inputs):
            return
        kept = [one.memory for one in saved]
        if kept:
            self.last = self.order
        for memory in kept:
            if memory.kind == "temporary":
                memory.become("activations")
        node = Node(self.order, inputs, kept, backward, len(outputs))
        for place, output in enumerate(outputs):
            output.node, output.place = node, place

    def simple(self, x: Tensor, size: int, item: int, saved: Sequence[Tensor] = ()) -> Tensor:
        """One tensor to one new tensor, and its gradient to one new gradient."""
        out, like = self.new(size, item), (x.size, x.item)
        self.made([out], [x], saved, lambda _: [self.new(*like)])
        return out

    # Operations of the model

    def cast(self, x: Tensor, item: int) -> Tensor:
        return x if x.item == item else self.simple(x, x.size, item)

    def weight(self, w: Weight, item: int) -> Weight | Tensor:
        """A weight in `item` bytes: itself, or its copy, which autocast makes once if it is trained."""
        if w.item == item:
            return w
        if w in self.copies:
            return self.copies[w]
        copy = self.new(w.size, item, "copies")
        self.made([copy], [w], [], lambda _: [self.new(w.size, w.item)])
        if w.needs:
            self.copies[w] = copy
        return copy

    def linear(self, x: Tensor, w: Weight, outputs: int, bias: Weight | None = None) -> Tensor:
        """x (N, I) and w (O, I) -> (N, O), after autocast."""
        used = [self.weight(one, self.item) for one in (bias, w) if one is not None]
        h = self.cast(x, self.item)
        like, needs, weight = h.size, h.needs, used[-1]
        out = self.new(outputs, self.item)
        saved = [h] if w.needs else []
        saved += [weight] if h.needs and isinstance(weight, Tensor) else []

        def backward(_: Gradients) -> Gradients:
            of_weight = self.new(w.size, self.item) if w.needs else None
            of_bias = self.new(bias.size, self.item) if bias is not None and bias.needs else None
            return [self.new(like, self.item) if needs else None, of_weight, of_bias]

        self.made([out], [h, weight, *used[:-1]], saved, backward)
        return out

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.new(a.size, max(a.item, b.item))
        # One gradient for both; the engine casts it where an input is narrower.
        self.made([out], [a, b], [], lambda grads: [given(grads).alias(), given(grads).alias()])
        return out

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """Element by element; the narrower is read as often as it fits, and its gradient is summed at the end."""
        out = self.new(max(a.size, b.size), max(a.item, b.item))
        saved = ([a] if b.needs else []) + ([b] if a.needs else [])
        size, item, a_needs, b_needs = out.size, out.item, a.needs, b.needs

        def backward(_: Gradients) -> Gradients:
            second = self.new(size, item) if b_needs else None
            return [self.new(size, item) if a_needs else None, second]

        self.made([out], [a, b], saved, backward)
        return out

    def scale(self, x: Tensor, w: Weight) -> Tensor:
        """x times a vector of weights, as norms do."""
        out = self.new(x.size, x.item)
        size, item, needs = x.size, x.item, x.needs

        def backward(_: Gradients) -> Gradients:
            of_weight = self.new(size, item) if w.needs else None
            return [self.new(size, item) if needs else None, of_weight]

        self.made([out], [x, w], [x] if w.needs else [], backward)
        return out

    def embedding(self, w: Weight, size: int) -> Tensor:
        """Rows of a table; the gradient is the whole table, most of its rows zero."""
        out = self.new(size, w.item)
        self.made([out], [w], [], lambda _: [self.new(w.size, w.item)])
        return out

    def silu(self, x: Tensor) -> Tensor:
        return self.simple(x, x.size, x.item, [x])

    def dropout(self, x: Tensor, p: float, device: str) -> Tensor:
        """On a CPU a factor for each number is kept, on a GPU a byte."""
        if not p:
            return x
        noise = self.new(x.size, x.item if device == "cpu" else 1)
        self.made([noise], [], [], lambda _: [])
        return self.simple(x, x.size, x.item, [noise])

    def split(self, x: Tensor, *sizes: int) -> list[Tensor]:
        """Views of parts; their gradients are put side by side in a new tensor."""
        parts = [Tensor(x.memory, size, x.item) for size in sizes]
        like = (x.size, x.item)
        self.made(parts, [x], [], lambda _: [self.new(*like)])
        return parts

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Side by side in a new tensor; the gradients are views of its gradient."""
        out = self.new(sum(part.size for part in parts), parts[0].item)
        sizes = [part.size for part in parts]

        def backward(grads: Gradients) -> Gradients:
            whole = given(grads)
            return [Tensor(whole.memory, size, whole.item) for size in sizes]

        self.made([out], parts, [], backward)
        return out

    def square(self, x: Tensor) -> Tensor:
        out, like = self.new(x.size, x.item), (x.size, x.item)

        def backward(_: Gradients) -> Gradients:
            steps = [self.new(*like) for _ in range(3)]  # x to the first, twice it, times the gradient
            return [steps[-1]]

        self.made([out], [x], [x], backward)
        return out

    def keeping_result(self, x: Tensor, size: int, item: int) -> Tensor:
        """What goes back by its own result, such as softmax."""
        out, like = self.new(size, item), (x.size, x.item)
        self.made([out], [x], [out], lambda _: [self.new(*like)])
        return out

    def copied(self, x: Tensor) -> Tensor:
        """In another order of memory; the gradient needs no copy."""
        out = self.new(x.size, x.item)
        self.made([out], [x], [], lambda grads: [given(grads).alias()])
        return out

    def copied_back(self, x: Tensor) -> Tensor:
        """A view whose gradient comes in another order of memory and is copied."""
        out, like = x.alias(), (x.size, x.item)
        self.made([out], [x], [], lambda _: [self.new(*like)])
        return out

    def product(self, a: Tensor, b: Tensor, size: int, *, second_first: bool = False) -> Tensor:
        """A batch of matrix products of two tensors."""
        out, item = self.new(size, a.item), a.item
        sizes = (a.size, b.size)

        def backward(_: Gradients) -> Gradients:
            if second_first:
                second = self.new(sizes[1], item)
                return [self.new(sizes[0], item), second]
            return [self.new(one, item) for one in sizes]

        self.made([out], [a, b], [a, b], backward)
        return out

    # Computing again

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Operations leave nothing for a backward pass."""
        self.forgets = True
        yield
        self.forgets = False

    @contextmanager
    def again(self, stops: int) -> Iterator[None]:
        """Operations under an autocast of their own, `stops` of them: what comes after is not computed."""
        outer, self.copies = self.copies, {}
        self.stops = self.order + stops
        yield
        self.copies, self.stops = outer, None

    def entrance(self, x: Tensor) -> Gradients:
        """Makes x the beginning of a graph; the list gets its gradient in the end."""
        arrived: Gradients = []

        def backward(grads: Gradients) -> Gradients:
            arrived.append(given(grads))
            return []

        x.node, x.place = Node(0, [], [], backward, 1), 0
        return arrived

    # Backward

    def backward(self, root: Node | None, gradient: Tensor | None = None) -> None:
        """Goes back from what made a tensor, of which only a scalar needs no gradient.

        Gradients of weights stay with them; whatever was saved is dropped on the way.
        """
        assert root is not None
        waiting = _consumers(root)
        arrived: dict[Node, Gradients] = {root: [gradient]}
        del gradient
        ready = [root]
        del root
        while ready:
            node = heappop(ready)
            gradients = self._through(node, arrived.pop(node))
            for edge in node.edges:
                gradient = gradients.pop(0)
                if edge is None:
                    continue
                target, place, size, item = edge
                if gradient is not None:
                    gradient = self._fitted(gradient, size, item)
                    if isinstance(target, Weight):
                        self._keep(target, gradient)
                    else:
                        slots = arrived.setdefault(target, [None] * target.outputs)
                        slots[place] = self._sum(slots, place, gradient)
                        del slots
                    gradient = None
                if isinstance(target, Node):
                    waiting[target] -= 1
                    if not waiting[target]:
                        heappush(ready, target)

    def _through(self, node: Node, given: Gradients) -> Gradients:
        assert node.backward is not None
        made = list(node.backward(given))
        node.backward, node.saved = None, []
        return made

    def _fitted(self, gradient: Tensor, size: int, item: int) -> Tensor:
        """Summed to the size and cast to the type of what it is the gradient of."""
        if gradient.size != size:
            gradient = self.new(size, gradient.item)
        return gradient if gradient.item == item else self.new(size, item)

    def _sum(self, slots: Gradients, place: int, second: Tensor) -> Tensor:
        """Of a tensor used twice: added in place where nobody else refers to the first gradient."""
        first = slots[place]
        if first is None:
            return second
        slots[place] = None
        return first if _only_reference(first) else self.new(first.size, first.item)

    def _keep(self, w: Weight, gradient: Tensor) -> None:
        """Becomes the weight's gradient, or is added to the one that is there."""
        if w.gradient is None:
            w.gradient = gradient.memory
            w.gradient.become("gradients")


def given(grads: Gradients) -> Tensor:
    """The gradient of an operation's only output."""
    (gradient,) = grads
    assert gradient is not None
    return gradient


def _only_reference(tensor: Tensor) -> bool:
    """Whether nothing else refers to a tensor's memory. What the interpreter itself adds, another shows."""
    return sys.getrefcount(tensor.memory) == sys.getrefcount(_ALONE.memory)


_ALONE = Tensor(Memory(Tape(), 0, "temporary"), 0, FP32)


def _consumers(root: Node) -> dict[Node, int]:
    """How many gradients each node waits for."""
    found: dict[Node, int] = {}
    seen, ahead = {root}, [root]
    while ahead:
        for edge in ahead.pop().edges:
            if edge is not None and isinstance(edge[0], Node):
                found[edge[0]] = found.get(edge[0], 0) + 1
                if edge[0] not in seen:
                    seen.add(edge[0])
                    ahead.append(edge[0])
    return found
