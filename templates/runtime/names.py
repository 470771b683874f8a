"""What checkpoints call the parameters of a model: other names, experts one by one, MTP modules as layers.

The names of a model are those of transformers' modules, MTP modules under `mtp.N`. A name that the model has means
itself. Any other is renamed by one dialect as a whole, and means the parameter found then, or an expert's rows of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

Dialect = tuple[tuple[str, str], ...]

BARE: Dialect = (
    ("^embed_tokens.", "^model.embed_tokens."),
    ("^embed.", "^model.embed_tokens."),
    ("^layers.", "^model.layers."),
    ("^norm.", "^model.norm."),
    ("^head.", "^lm_head."),
)
"""Names without the prefix `model.`, in every dialect; ^ stands for the start of a name."""
HUB: Dialect = ()
"""Experts one by one, under names of their own: DeepSeek, Qwen, OLMoE and Kimi on the hub."""
MIXTRAL: Dialect = (
    (".block_sparse_moe.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w2.", ".down_proj."),
    (".w3.", ".up_proj."),
)
"""Mixtral on the hub."""
DEEPSEEK: Dialect = (
    (".attn_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".attn.wq.", ".self_attn.q_proj."),
    (".attn.wq_a.", ".self_attn.q_a_proj."),
    (".attn.q_norm.", ".self_attn.q_a_layernorm."),
    (".attn.wq_b.", ".self_attn.q_b_proj."),
    (".attn.wkv_a.", ".self_attn.kv_a_proj_with_mqa."),
    (".attn.kv_norm.", ".self_attn.kv_a_layernorm."),
    (".attn.wkv_b.", ".self_attn.kv_b_proj."),
    (".attn.wo.", ".self_attn.o_proj."),
    (".attn.indexer.", ".self_attn.indexer."),
    (".ffn.gate.bias", ".mlp.gate.e_score_correction_bias"),
    (".ffn.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w2.", ".down_proj."),
    (".w3.", ".up_proj."),
)
"""DeepSeek-V2 to V3.2 as the official inference code has them (`inference/convert.py` of DeepSeek-V3)."""
DEEPSEEK_V4: Dialect = (
    ("^embed.", "^model.embed_tokens."),
    ("^layers.", "^model.layers."),
    ("^norm.", "^model.norm."),
    ("^head.", "^lm_head."),
    ("^hc_head_", "^model.hc_head.hc_"),
    (".hc_head_", ".hc_head.hc_"),
    (".hc_attn_", ".attn_hc."),
    (".hc_ffn_", ".ffn_hc."),
    (".attn_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".attn.indexer.compressor.norm.", ".self_attn.compressor.indexer.kv_norm."),
    (".attn.indexer.weights_proj.", ".self_attn.compressor.indexer.scorer.weights_proj."),
    (".attn.indexer.wq_b.", ".self_attn.compressor.indexer.q_b_proj."),
    (".attn.indexer.compressor.", ".self_attn.compressor.indexer."),
    (".attn.compressor.norm.", ".self_attn.compressor.kv_norm."),
    (".attn.attn_sink", ".self_attn.sinks"),
    (".attn.q_norm.", ".self_attn.q_a_norm."),
    (".attn.", ".self_attn."),
    (".wq_a.", ".q_a_proj."),
    (".wq_b.", ".q_b_proj."),
    (".wkv.", ".kv_proj."),
    (".compressor.wgate.", ".compressor.gate_proj."),
    (".indexer.wgate.", ".indexer.gate_proj."),
    (".ape", ".position_bias"),
    (".wo_a.", ".o_a_proj."),
    (".wo_b.", ".o_b_proj."),
    (".ffn.gate.bias", ".mlp.gate.e_score_correction_bias"),
    (".ffn.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w2.", ".down_proj."),
    (".w3.", ".up_proj."),
)
"""DeepSeek-V4 as published, which is as the official inference code has it."""
DEEPSEEK_V4_SAVED: Dialect = ((".attn.norm.", ".attn.kv_norm."), *DEEPSEEK_V4)
"""The same as transformers 5 writes it: it turns its name of every norm of keys into the one of a compressor's."""
DIALECTS = (HUB, MIXTRAL, DEEPSEEK, DEEPSEEK_V4_SAVED)
"""Dialects that `load_weights` reads."""


class Published(NamedTuple):
    """How a family publishes weights: by which names, and whether MTP modules are further layers of the model."""

    dialect: Dialect
    mtp_layers: bool = True


PUBLISHED = {
    "hub": Published(HUB),
    "mixtral": Published(MIXTRAL),
    "deepseek_v4": Published(DEEPSEEK_V4, mtp_layers=False),
}
"""What `save_weights` writes, by the value of its `names`."""

COMPUTED = ("rotary_emb.inv_freq",)
"""Endings of names that old checkpoints carry and this package computes."""
PARTS: dict[str, tuple[str, int | None]] = {
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "down_proj": ("down_proj", None),
}
"""An expert's matrix: the stack of all experts that has it, and which half of its rows."""
EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.(weight|bias)")
STACK = re.compile(r"(.+)\.experts\.(gate_up_proj|down_proj)(_bias)?")
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
MTP = re.compile(r"mtp\.(\d+)\.(.+)")
MTP_NORM = ("shared_head.norm.", "norm.")
MTP_REPEATS = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
"""What an MTP layer of the hub carries a second time, and the parameter it repeats."""


class Place(NamedTuple):
    """A parameter, or the part of one that a tensor of a checkpoint fills."""

    name: str
    expert: int | None = None
    half: int | None = None  # of the expert's rows: 0 the first, 1 the second

    def of(self, tensor: Tensor) -> Tensor:
        """That part of the parameter, as a view."""
        if self.expert is not None:
            tensor = tensor[self.expert]
        if self.half is not None:
            tensor = tensor.chunk(2)[self.half]
        return tensor

    @property
    def hub_name(self) -> str:
        """Its name where experts are stored one by one."""
        if self.expert is None:
            return self.name
        stack, _, leaf = self.name.rpartition(".")
        kind = "bias" if leaf.endswith("_bias") else "weight"
        part = next(part for part, at in PARTS.items() if at == (leaf.removesuffix("_bias"), self.half))
        return f"{stack}.{self.expert}.{part}.{kind}"


def parts(name: str, tensor: Tensor, names: Collection[str]) -> list[Place]:
    """The parts of a parameter that checkpoints store one by one; none of what is always whole.

    A mixture with a `router` (gpt-oss) keeps matrices [in, out] with gate and up in turns, and is always whole.
    """
    stack = STACK.fullmatch(name)
    if stack is None or f"{stack[1]}.router.weight" in names:
        return []
    halves = (0, 1) if stack[2] == "gate_up_proj" else (None,)
    return [Place(name, expert, half) for expert in range(len(tensor)) for half in halves]


@dataclass(frozen=True)
class Names:
    """The names of one model's parameters, and of whatever repeats them."""

    wanted: Mapping[str, Tensor]
    tied: Mapping[str, str]  # a name that checkpoints may repeat -> the parameter

    @cached_property
    def places(self) -> dict[str, tuple[Place, ...]]:
        """For each parameter the parts that checkpoints store one by one."""
        return {name: tuple(parts(name, tensor, self.wanted)) for name, tensor in self.wanted.items()}

    @cached_property
    def layers(self) -> int:
        """How many layers the model has, MTP modules apart."""
        return max((int(m[1]) + 1 for m in map(LAYER.fullmatch, self.wanted) if m), default=0)

    @cached_property
    def has_mtp(self) -> bool:
        return any(MTP.fullmatch(name) for name in self.wanted)

    def read(self, keys: Collection[str]) -> Iterator[tuple[str, Place | None, bool]]:
        """For each name of a checkpoint: the place it fills (None: not of this model) and whether it only repeats it.

        What the model computes, and MTP modules that it was built without, are passed over.
        """
        modules = {f"model.layers.{layer}.": f"mtp.{n}." for n, layer in enumerate(_mtp_layers(keys))}
        for key in keys:
            if key.endswith(COMPUTED):
                continue
            names = [_mtp_name(_renamed(key, (*dialect, *BARE)), modules) for dialect in DIALECTS]
            found = next(filter(None, (self._place(name) for name in names)), None)
            if found is not None or self.has_mtp or not MTP.fullmatch(names[0]):
                place, repeats = found or (None, False)
                yield key, place, repeats

    def _place(self, name: str) -> tuple[Place, bool] | None:
        """The place of a name as the model would have it, and whether it repeats another."""
        if name in self.wanted:
            return Place(name), False
        owner = name
        module = MTP.fullmatch(name)
        if module:
            owner = MTP_REPEATS.get(module[2], name)
        owner = self.tied.get(owner, owner)
        if owner in self.wanted:
            return Place(owner), True
        expert = EXPERT.fullmatch(name)
        if expert is None:
            return None
        leaf, half = PARTS[expert[3]]
        place = Place(f"{expert[1]}.{leaf}{'_bias' if expert[4] == 'bias' else ''}", int(expert[2]), half)
        return (place, False) if place in self._parts else None

    @cached_property
    def _parts(self) -> frozenset[Place]:
        return frozenset(place for places in self.places.values() for place in places)

    def published(self, style: Published) -> dict[str, Place]:
        """Published names -> what they hold: experts one by one, MTP modules as the style has them.

        MTP modules that are further layers repeat what they share with the model.
        """
        found = {
            self._published_name(place.hub_name, style): place
            for name in self.wanted
            for place in self.places[name] or (Place(name),)
        }
        modules = {int(m[1]) for m in map(MTP.fullmatch, self.wanted) if m} if style.mtp_layers else set[int]()
        for depth in sorted(modules):
            for repeat, owner in MTP_REPEATS.items():
                found[f"model.layers.{self.layers + depth}.{repeat}"] = Place(self.tied.get(owner, owner))
        return found

    def _published_name(self, name: str, style: Published) -> str:
        module = MTP.fullmatch(name) if style.mtp_layers else None
        if module:
            theirs, ours = MTP_NORM
            leaf = theirs + module[2].removeprefix(ours) if module[2].startswith(ours) else module[2]
            name = f"model.layers.{self.layers + int(module[1])}.{leaf}"
        return _renamed(name, tuple((ours, theirs) for theirs, ours in style.dialect))


def _renamed(name: str, dialect: Dialect) -> str:
    """The name with every left side of the dialect replaced by its right side, in order."""
    name = f"^{name}"
    for before, after in dialect:
        name = name.replace(before, after)
    return name[1:]


def _mtp_layers(keys: Iterable[str]) -> list[int]:
    """Layers of a checkpoint that are MTP modules (only these join two inputs), in order."""
    found = re.compile(r"(?:model\.)?layers\.(\d+)\.eh?_proj\.weight")
    return sorted(int(m[1]) for m in map(found.fullmatch, keys) if m)


def _mtp_name(name: str, modules: Mapping[str, str]) -> str:
    """The name under `mtp.N` of what belongs to an MTP layer, any other as it is."""
    layer = LAYER.fullmatch(name)
    module = modules.get(f"model.layers.{layer[1]}.") if layer else None
    if layer is None or module is None:
        return name
    theirs, ours = MTP_NORM
    return module + (ours + layer[2].removeprefix(theirs) if layer[2].startswith(theirs) else layer[2])
