"""What every generated language model can do: run, compute its losses, remember, generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.dispatch import decided
from ..kernels.state import DTYPES, Ring, Table
from .balance import Load, add_up, recomputing, update
from .cache import Cache
from .effects import Effects, Stage, States
from .generate import Generation, generate
from .recompute import Recompute
from .rows import Rows
from .sharded import group_of
from .step import StepBase
from .time import Time
from .weights import SHARD_BYTES, save_weights


@dataclass(kw_only=True)
class Output:
    """What a forward pass returns; B and S are the caller's rows and columns."""

    logits: Tensor  # [B, S, vocab], arbitrary at padding
    loss: Tensor | None = None  # the weighted total, where there are labels
    lm_loss: Tensor | None = None  # mean cross entropy of the next token
    losses: dict[str, Tensor] = field(default_factory=dict)  # every other loss, unweighted
    hidden_states: tuple[Tensor, ...] | None = None  # the input of every layer, then the normed output of the last


class LanguageModel(nn.Module):
    """The base of a generated model, which provides `step`, `hidden` and `head`."""

    cache_layout: ClassVar[str] = "bf16"
    """What a cache stores, or the model's own dtype where that is wider than bfloat16."""
    tied_weights: ClassVar[dict[str, str]] = {}
    """Names that a checkpoint may repeat, and the names of the parameters they repeat."""
    has_indexers: ClassVar[bool] = False
    """Whether some of its attention picks what it looks at, by scores that learn."""
    streams: ClassVar[int] = 1
    """Residual streams that layers pass on."""
    mesh: Any = None
    """The processes that it is sharded over, if it is. See `parallelize.apply_fsdp`."""
    param_dtype: torch.dtype | None = None
    """What its weights are cast to where they are used, if they are sharded and cast."""
    skipping: bool = True
    """Whether layers leave out tokens that a bypass is sure of, with a cache and in eval mode, where all of a call are;
    the results are the same.
    """
    last_generation: Generation | None = None
    """What the last call of `generate` did."""
    _recompute: Recompute

    def __init__(self, recompute: str = "none") -> None:
        super().__init__()
        self.recompute = recompute
        self._index_stage: Stage = "sparse" if self.has_indexers else "off"
        self.loads: list[Load] = []  # of every router with a bias, since the last `after_step`

    @property
    def recompute(self) -> Recompute:
        """What a backward pass runs again instead of keeping it: "none", "selective", "full" or "mhc". See
        `recompute.Recompute`; results and gradients are the same.
        """
        return self._recompute

    @recompute.setter
    def recompute(self, policy: str) -> None:
        if policy not in get_args(Recompute):
            raise ValueError(f"recompute is {', '.join(map(repr, get_args(Recompute)))}, not {policy!r}")
        self._recompute = cast("Recompute", policy)

    @property
    def index_stage(self) -> Stage:
        """How losses of indexers are computed where there are labels and no cache: "sparse" (over the entries that
        were picked), "dense" (over all that a token sees, to which attention then runs too) or "off".
        """
        return self._index_stage

    @index_stage.setter
    def index_stage(self, stage: Stage) -> None:
        if stage not in get_args(Stage):
            raise ValueError(f"index_stage is {', '.join(map(repr, get_args(Stage)))}, not {stage!r}")
        self._index_stage = stage

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT002 - as nn.Module has it
        """Moves and converts as every module does, but buffers stay in at least float32: a bias of a router that is
        rounded to fewer digits does not move by a thousandth at a time.
        """
        buffers = {
            id(buffer): buffer for buffer in self.buffers()
        }  # held, so that no other tensor gets an id of theirs

        def convert(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) not in buffers or moved.dtype not in (torch.bfloat16, torch.float16):
                return moved
            return tensor.to(moved.device, torch.float32)

        return super()._apply(convert, recurse)

    def step(self, tokens: Tensor, time: Time, cache: Cache | None) -> StepBase:
        """What all layers read, computed once: tokens [B, S] with padding only at the end of rows."""
        raise NotImplementedError

    def hidden(self, step: Any) -> Tensor | tuple[Tensor, Tensor]:
        """The normed output of the last layer [B, S, dim]; beside it what modules of MTP read, where that differs."""
        raise NotImplementedError

    def head(self, x: Tensor) -> Tensor:
        """Logits of hidden vectors x [..., dim]: [..., vocab]."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        *,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        hidden_states: bool = False,
    ) -> Output:
        """Logits of input_ids [B, S], and losses where there are labels [B, S] (-100: not a target).

        attention_mask [B, S] is 1 at tokens and 0 at padding, wherever that is; sequence_ids [B, S] tell packed
        sequences apart (0: padding). position_ids [B, S] override what rotary embeddings see. With a cache the tokens
        continue what it holds. Loss is the mean cross entropy of each next token of the same sequence, in at least
        float32.
        """
        rows = rows_of(
            input_ids,
            cache=cache,
            attention_mask=attention_mask,
            labels=labels,
            sequence_ids=sequence_ids,
            position_ids=position_ids,
        )
        counting = self.training and cache is None and not recomputing()
        effects = Effects(
            learning=labels is not None,
            counting=counting,
            graded=torch.is_grad_enabled(),
            index_stage=self.index_stage if cache is None else "off",
        )
        step, x, carried = self.run(rows, input_ids, position_ids, cache, hidden_states=hidden_states, effects=effects)
        logits = self.head(rows.unpack(x))
        if labels is not None:
            self.look_ahead(rows, step, carried, labels)
        out = Output(logits=logits)
        if counting:
            add_up(self.loads, effects.take_loads())
        if step.hidden_states is not None:
            out.hidden_states = tuple(rows.unpack(state) for state in step.hidden_states.found)
            step.hidden_states = None  # as of losses: what runs again holds the step
        if labels is not None:
            out.loss = out.lm_loss = cross_entropy(logits, rows.targets(labels))
            for name, value, weight in effects.losses():
                out.losses[name] = out.losses[name] + value if name in out.losses else value
                out.loss = out.loss + weight * value
        return out

    def next_logits(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Logits of the token after the last one of each row: [B, vocab]. Those of all others are never computed."""
        rows = rows_of(input_ids, cache=cache, attention_mask=attention_mask)
        _, x, _ = self.run(rows, input_ids, cache=cache)
        if rows.order is None:
            return self.head(x[:, -1])
        last = (rows.count - 1).clamp(min=0)
        return self.head(x[torch.arange(len(x), device=x.device), last])

    def run(
        self,
        rows: Rows,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        *,
        hidden_states: bool = False,
        effects: Effects | None = None,
    ) -> tuple[StepBase, Tensor, Tensor]:
        """The step, the normed output of the last layer, and what modules of MTP read, in the model's columns."""
        time = time_of(rows, position_ids, cache)
        step = self.step(rows.pack(input_ids), time, cache)
        step.hidden_states = States() if hidden_states else None
        step.effects, step.streams, step.training = effects, self.streams, self.training
        # Not where losses count what layers make, nor where other processes wait for the weights of a layer
        learning = self.training or (effects is not None and effects.learning)
        step.skipping = self.skipping and cache is not None and not learning and self.mesh is None
        step.recompute = self.recompute if cache is None and torch.is_grad_enabled() else "none"
        self.read_ahead(step)
        with decided():
            x, carried = pair(self.hidden(step))
        if cache is not None and rows.known is not None:
            cache.advance(rows.count, rows.known)
        return step, x, carried

    def read_ahead(self, step: StepBase) -> None:
        """Starts to read what layers will look up in tables that are not on the device; here none."""

    def look_ahead(self, rows: Rows, step: StepBase, carried: Tensor, labels: Tensor) -> None:
        """Adds losses of modules that predict further tokens, of which the first reads `carried`; here none."""

    def new_cache(self, batch: int, max_tokens: int, max_rewind: int = 8, layout: str | None = None) -> Cache:
        """An empty cache for `batch` rows of up to `max_tokens` tokens; the last `max_rewind` can be taken back.

        It stores `cache_layout`, or the model's dtype where that is wider; a `layout` given here is taken as it is:
        "bf16", "fp32", or one that packs what this model keeps. ValueError for one that it does not know.
        """
        parts = [part for name, part in self.named_children() if name != "mtp"]
        return self.cache_of(parts, batch, max_tokens, max_rewind, layout)

    def cache_of(
        self, parts: Sequence[nn.Module], batch: int, max_tokens: int, max_rewind: int, layout: str | None = None
    ) -> Cache:
        """An empty cache for what some parts of the model keep; see `new_cache`."""
        keeps: dict[int, dict[str, Ring | Table]] = {}
        for module in (module for part in parts for module in part.modules()):
            declared: dict[str, Ring | Table] = getattr(module, "keeps", {})
            if declared:
                layer = keeps.setdefault(int(module.layer), {})  # type: ignore[arg-type]
                if layer.keys() & declared.keys():
                    raise ValueError(f"two parts of layer {module.layer} keep {sorted(layer.keys() & declared.keys())}")
                layer.update(declared)
        layers = [keeps.get(i, {}) for i in range(max(keeps, default=-1) + 1)]
        packings = [store.packing for layer in layers for store in layer.values() if store.packing is not None]
        known = [*DTYPES, *sorted({packing.layout for packing in packings})]
        if layout is not None and layout not in known:
            raise ValueError(f"layout is {layout!r}; this package stores {', '.join(known[:-1])} or {known[-1]}")
        like = next(self.parameters())
        dtype = DTYPES.get(layout or self.cache_layout, torch.bfloat16)  # of what a layout that packs does not pack
        if layout is None:
            wider = torch.promote_types(dtype, self.param_dtype or like.dtype)
            layout, dtype = (self.cache_layout if wider == dtype else None), wider
        return Cache(layers, batch, max_tokens, max_rewind, dtype=dtype, device=like.device, layout=layout)

    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        top_p: float = 1.0,
        eos: int | list[int] | None = None,
        stream: Callable[[Tensor], Any] | None = None,
        speculate: int = 0,
        *,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The prompt and what follows it: [B, S + new]. See `generate.generate`.

        With `speculate`, so many tokens are drafted for each pass through the model, where it can predict further ones.
        """
        if speculate < 0:
            raise ValueError(f"needs speculate >= 0, got {speculate}")
        if self.mesh is not None and (speculate or eos is not None):
            raise ValueError(
                "the model is sharded: all processes have to run equally many passes, so generate without eos and"
                " speculate, or save its weights and generate in one process"
            )
        # PyTorch then keeps no account of versions, a part of what each call costs; sharding needs it
        with torch.inference_mode() if self.mesh is None else torch.no_grad():
            ids, self.last_generation = self.generator_of(speculate)(
                self,
                input_ids,
                max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                eos=eos,
                stream=None if stream is None else partial(_hand_out, stream),
                attention_mask=attention_mask,
                generator=generator,
            )
        return ids.clone()  # out of that mode, so that it may be learned from

    def generator_of(self, drafts: int) -> Callable[..., tuple[Tensor, Generation]]:
        """How `generate` goes on; ValueError where tokens should be drafted by a model that cannot."""
        if drafts:
            raise ValueError("this model has no MTP, so there is nothing to speculate with")
        return generate

    def after_step(self, group: Any = None) -> None:
        """What has to happen between optimizer steps: router biases move by the loads of training forwards since the
        last call, summed over a process group (None: those that the model is sharded over, or all). See
        `balance.update`; a model without such biases has nothing to do.
        """
        if group is None and self.mesh is not None:
            group = group_of(self.mesh)
        update(self.loads, self.buffers(), group)

    def save_weights(
        self,
        path: str | Path,
        *,
        names: Literal["transformers", "hub", "mixtral"] = "transformers",
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Writes the weights as safetensors. See `weights.save_weights`."""
        save_weights(self, path, names=names, shard_bytes=shard_bytes)


def _hand_out(stream: Callable[[Tensor], Any], tokens: Tensor) -> None:
    """Gives tokens [B] to a caller as a tensor that a later gradient may need."""
    with torch.inference_mode(mode=False), torch.no_grad():
        stream(tokens.clone())


def pair(given: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What the head gets, and what the next module of MTP reads: the same where there is only one."""
    return given if isinstance(given, tuple) else (given, given)


def rows_of(
    input_ids: Tensor,
    *,
    cache: Cache | None,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    sequence_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Rows:
    """How the caller's columns become rows without gaps; ValueError for arguments that do not fit each other."""
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids must be [batch, tokens] with at least one row and one column, not {list(input_ids.shape)}"
        )
    others = {"labels": labels, "attention_mask": attention_mask, "sequence_ids": sequence_ids}
    for name, ids in others.items():
        if ids is not None and ids.shape != input_ids.shape:
            raise ValueError(f"{name} is {list(ids.shape)}, but input_ids is {list(input_ids.shape)}")
    if position_ids is not None and position_ids.shape[-1] != input_ids.shape[1]:
        raise ValueError(f"position_ids is {list(position_ids.shape)}, but input_ids is {list(input_ids.shape)}")
    if sequence_ids is not None and cache is not None:
        raise ValueError("packed rows cannot be cached: a cache row continues one sequence, so give each its own row")
    if cache is not None and cache.batch != len(input_ids):
        raise ValueError(f"input_ids has {len(input_ids)} rows, but the cache was made for {cache.batch}")
    if attention_mask is None and sequence_ids is None:
        return Rows.whole(input_ids)
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    if sequence_ids is not None:
        mask = mask & (sequence_ids != 0)
    return Rows.masked(mask, sequence_ids, trim=cache is not None)


def time_of(rows: Rows, position_ids: Tensor | None, cache: Cache | None) -> Time:
    """Where the new tokens stand; ValueError where the cache has no room for them."""
    held = [0] * len(rows.count) if cache is None else cache.known
    if cache is not None and rows.known is not None:
        length = max(old + new for old, new in zip(held, rows.known, strict=True))
        if length > cache.max_tokens:
            raise ValueError(f"the cache was made for {cache.max_tokens} tokens a row, and this call needs {length}")
    past = max(held)
    first = torch.zeros_like(rows.count) if cache is None else cache.lengths
    starts = rows.starts()
    slots = first[:, None] + torch.arange(rows.new, device=first.device)
    if position_ids is None:
        positions = slots if starts is None else slots - starts
    else:
        positions = rows.pack(position_ids.expand(len(first), -1))
    return Time(
        first=first,
        count=rows.count,
        positions=positions,
        starts=starts,
        past=past,
        new=rows.new,
        cached=cache is not None,
        aligned=min(held) == past,
        full=rows.known is not None and min(rows.known) == rows.new,
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy where targets [B, S] are not -100, 0 where none is, in at least float32."""
    wide = logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.flatten()
    total = F.cross_entropy(wide, targets, ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)
