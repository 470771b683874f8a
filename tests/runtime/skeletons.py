"""Models that are nothing but named tensors, and transformers models of every family that checkpoints come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from archc.graph.torch_package import torch_package

torch_package()
from archc_package.runtime.weights import save_weights  # noqa: E402


class Skeleton(nn.Module):
    """Parameters (and buffers) of the names and shapes given, random, with nothing to run."""

    def __init__(
        self,
        shapes: Mapping[str, Iterable[int]],
        *,
        buffers: Iterable[str] = (),
        integers: Iterable[str] = (),
        tied: Mapping[str, str] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tied_weights = dict(tied or {})
        generator = torch.Generator().manual_seed(seed)
        for name, shape in shapes.items():
            value = torch.randn(tuple(shape), generator=generator).to(dtype)
            if name.endswith(tuple(integers)):
                value = torch.randint(1 << 40, tuple(shape), generator=generator)
            owner, _, leaf = name.rpartition(".")
            module = self
            for part in filter(None, owner.split(".")):
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            if name.endswith(tuple(buffers)):
                module.register_buffer(leaf, value.to(device))
            else:
                module.register_parameter(leaf, nn.Parameter(value.to(device)))

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        save_weights(self, *args, **kwargs)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


COMMON: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 36,
    "intermediate_size": 22,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
MLA: dict[str, Any] = {
    "num_key_value_heads": 6,
    "q_lora_rank": 14,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 6,
    "v_head_dim": 5,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 9,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 3}),
    "qwen2_moe": (
        "Qwen2Moe",
        {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 9, "shared_expert_intermediate_size": 11},
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 9, "mlp_only_layers": [0]},
    ),
    "olmoe": ("Olmoe", {"num_experts": 5, "num_experts_per_tok": 2}),
    "deepseek_v2": ("DeepseekV2", MLA),
    "deepseek_v2_lite": ("DeepseekV2", {**MLA, "q_lora_rank": None}),
    "deepseek_v3": ("DeepseekV3", MLA),
    "deepseek_v32": ("DeepseekV32", {**MLA, "index_n_heads": 4, "index_head_dim": 8, "index_topk": 3}),
    "gpt_oss": ("GptOss", {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}),
    "deepseek_v4": (
        "DeepseekV4",
        {
            "intermediate_size": 9,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "q_lora_rank": 14,
            "o_groups": 3,
            "o_lora_rank": 7,
            "sliding_window": 4,
            "index_n_heads": 5,
            "index_head_dim": 8,
            "index_topk": 1,
            "compress_ratios": [4, 0, 128],
            "compress_rate_csa": 3,
            "compress_rate_hca": 4,
            "qk_rope_head_dim": 6,
            "num_hash_layers": 1,
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
        },
    ),
}


def reference(family: str, seed: int = 0, **more: Any) -> Any:
    """A tiny model of transformers, every parameter and buffer of it random (experts run by the plain loop)."""
    import transformers

    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        **{**COMMON, **settings, **more}, experts_implementation="eager", attn_implementation="eager"
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
            else:  # ids of experts
                tensor.copy_(torch.randint(config.num_local_experts, tensor.shape, generator=generator))
    return model


def like(model: nn.Module, *, seed: int = 1, **settings: Any) -> Skeleton:
    """Other random values under the names, shapes and kinds of a model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    buffers = tuple(name for name, _ in model.named_buffers() if name in shapes)
    integers = tuple(name for name, tensor in model.state_dict().items() if not tensor.is_floating_point())
    return Skeleton(shapes, buffers=buffers, integers=integers, seed=seed, **settings)


DIM, VOCAB = 6, 11


def layer(prefix: str, experts: int) -> dict[str, tuple[int, ...]]:
    """Parameters of a layer with attention in one matrix, and experts."""
    return {
        f"{prefix}.input_layernorm.weight": (DIM,),
        f"{prefix}.self_attn.o_proj.weight": (DIM, DIM),
        f"{prefix}.mlp.gate.weight": (experts, DIM),
        f"{prefix}.mlp.experts.gate_up_proj": (experts, 10, DIM),
        f"{prefix}.mlp.experts.down_proj": (experts, DIM, 5),
    }


def shapes(layers: int, depth: int, experts: int = 3) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model with MTP modules."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, DIM)}
    for n in range(layers):
        found |= layer(f"model.layers.{n}", experts)
    found |= {"model.norm.weight": (DIM,), "lm_head.weight": (VOCAB, DIM)}
    for k in range(depth):
        found |= {f"mtp.{k}.{name}.weight": (DIM,) for name in ("enorm", "hnorm", "norm")}
        found |= {f"mtp.{k}.eh_proj.weight": (DIM, 2 * DIM)} | layer(f"mtp.{k}", experts)
    return found
