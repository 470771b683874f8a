"""What a training step keeps between forward and backward, and the most that it allocates: from the graph.

Every op runs its reference on tensors without numbers (`archc.ops.tape`), layers once for each distinct one. A policy
of recomputation decides what of a layer is kept until its backward:

- ``none``: all that derivatives read.
- ``full``: what goes into the layer.
- ``selective``: that, and what products of matrices and attention gave.
- ``mhc``: in blocks of layers, what goes into the block, what every sub-layer (memory, attention, feed-forward) gave,
  and what derivatives inside of sub-layers read; norms before them, and all of the residual path, run again
  (arXiv:2512.24880, section 4.3).

Counted are distinct storages that live because of the loss at the end of a forward with labels: a view counts as its
whole storage, once. Not counted are parameters, buffers, and the ids that the caller brings.
"""

from __future__ import annotations

from math import prod

from archc.cost.backward import backward, kept
from archc.cost.forward import Forward
from archc.cost.report import COMPONENTS
from archc.cost.setting import Recompute
from archc.graph import Graph, Node
from archc.ops import Workload
from archc.ops.base import element
from archc.ops.loss import CountLoads
from archc.ops.tape import Storage
from archc.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes of a forward with labels that live until its backward.

    ``layers``: of each layer of the main stack, in order (a block's are with its layers); ``rest``: outside of them,
    modules of multi-token prediction included; ``logits``: what losses keep of logits and targets; ``transient``: the
    most that lives beside all these at once, gradients of activations included and those of parameters not.
    ``by_component`` adds up to the first three.
    """

    layers: tuple[int, ...]
    rest: int
    logits: int
    transient: int
    by_component: dict[str, int]

    @property
    def kept(self) -> int:
        """All that is kept."""
        return sum(self.layers) + self.rest + self.logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most bytes that are allocated in each part of a training step, all that lives across steps included.

    A step is `loss = model(ids, labels=ids).loss; loss.backward(); optimizer.step(); optimizer.zero_grad()`, not the
    first: the state of `torch.optim.AdamW` (two moments of the dtype of the parameters) is there. In it are parameters,
    buffers, that state, gradients, activations, and temporary tensors of the package's references on a CPU; not what
    operators allocate inside of their kernels, nor what allocators round up or hold back.
    """

    forward: int
    backward: int
    step: int

    @property
    def total(self) -> int:
        """The most of all."""
        return max(self.forward, self.backward, self.step)


def activations(graph: Graph, w: Workload, recompute: Recompute = "none") -> Activations:
    """What a training step of ``w`` keeps, under a policy of recomputation."""
    return training_step(graph, w, recompute)[0]


def peak(graph: Graph, w: Workload, recompute: Recompute = "none") -> Peak:
    """The allocation peak of a training step of ``w`` on one device, under a policy of recomputation."""
    return training_step(graph, w, recompute)[1]


def _loads(graph: Graph) -> list[int]:
    """Experts of each router that counts its loads: layers that run again hold the step, in which these are left."""
    counted = ((node, times) for node, times in graph.walk() if isinstance(node.op, CountLoads))
    return [node.ins[0].type.fixed(0) for node, times in counted for _ in range(times)]


def training_step(graph: Graph, w: Workload, recompute: Recompute = "none") -> tuple[Activations, Peak]:
    """`activations` and `peak`, which come of one walk."""
    run = Forward(graph, w, recompute)
    losses, t = run.run(), run.t
    forward = t.most
    logits = run.count((storage for storage, owner in kept(losses) if owner is None), "head")
    rest = sum(
        run.count([storage], owner.component if isinstance(owner, Node) else "head")
        for storage, owner in kept([*losses, *t.losses])
    )
    if recompute != "none":
        rest += run.count([t.new((n,), 8).storage for n in _loads(graph)], "router")
    run.counted.clear()
    held = sum(run.layers) + rest + logits
    t.most = t.whole = t.live
    roots = [(x.back, x.place, x.bytes) for x in (*losses, *t.losses) if x.back is not None]
    losses.clear()
    t.losses.clear()
    backward(t, [(back, place, Storage(t, n)) for back, place, n in roots])
    there = sum(prod(p.spec.shape) * element(p.spec.dtype, w) for p in graph.parameters()) + 2 * t.leaves
    return (
        Activations(
            layers=tuple(run.layers),
            rest=rest,
            logits=logits,
            transient=max(0, max(forward, t.most) - held),
            by_component={c: run.by_component.get(c, 0) for c in COMPONENTS},
        ),
        Peak(forward=there + forward, backward=there + t.whole, step=there + t.leaves + 2 * t.largest),
    )
