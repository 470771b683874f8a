"""The transcriptions agree with transformers' modules in float32, on unpadded input and away from ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracles.csa import Csa
from tests.oracles.mhc import Mhc
from tests.oracles.moe import Moe
from tests.oracles.rope import Rope
from tests.oracles.rows import Weights

TOKENS = 23


def randomized(module: nn.Module, seed: int) -> Weights:
    """Fills a module with weights of unit gain, norms near one; returns them in float64."""
    r = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    with torch.no_grad():
        for name, p in [*module.named_parameters(), *((n, b) for n, b in module.named_buffers() if "bias" in n)]:
            p.copy_(torch.randn(p.shape, generator=r) * (p.shape[-1] ** -0.5 if p.dim() > 1 else 0.3))
            if "norm" in name:
                p.add_(1.0)
            weights[name] = p.double().numpy()
    return weights


def v4_config(ratio: int) -> Any:
    from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

    yarn = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8, "beta_fast": 32, "beta_slow": 1}
    others: dict[str, Any] = {"qk_rope_head_dim": 4, "num_hash_layers": 0, "attn_implementation": "eager"}
    return DeepseekV4Config(
        vocab_size=32,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=12,
        q_lora_rank=10,
        o_groups=2,
        o_lora_rank=6,
        sliding_window=5,
        index_n_heads=8,
        index_head_dim=6,
        index_topk=2,
        layer_types=[
            {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}[ratio]
        ],
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 6},
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        hc_mult=4,
        rope_parameters={
            "main": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 4 / 12},
            "compress": {"rope_theta": 160000.0, "partial_rotary_factor": 4 / 12, "attention_factor": 1.0, **yarn},
        },
        **others,
    )


@pytest.mark.parametrize(("ratio", "every", "overlap", "topk"), [(4, 4, True, 2), (128, 6, False, 0), (0, 0, False, 0)])
def test_attention_of_deepseek_v4(ratio: int, every: int, overlap: bool, topk: int) -> None:
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Attention, DeepseekV4RotaryEmbedding

    config = v4_config(ratio)
    module = DeepseekV4Attention(config, 0).eval()
    weights = randomized(module, seed=ratio)
    yarn = {"theta": 160000.0, "factor": 16.0, "original": 8} if ratio else {}
    oracle = Csa(
        heads=4,
        head_dim=12,
        window=5,
        rope=Rope(dim=4, **yarn),
        out_groups=2,
        every=every,
        overlap=overlap,
        topk=topk,
        index_heads=8,
        index_dim=6,
    )
    x = torch.randn(1, TOKENS, 24, generator=torch.Generator().manual_seed(1))
    if topk:
        assert oracle.margin(weights, x[0].double().numpy()) > 1e-4
    positions = torch.arange(TOKENS)[None]
    rotary = DeepseekV4RotaryEmbedding(config)
    angles = {kind: rotary(x, positions, layer_type=kind) for kind in ("main", "compress")}
    back = positions[0][:, None] - positions[0]
    mask = torch.zeros(TOKENS, TOKENS).masked_fill((back < 0) | (back >= 5), float("-inf"))[None, None]
    with torch.no_grad():
        theirs = module(x, angles, positions, mask)[0][0]
    ours = oracle.forward(weights, x[0].double().numpy())
    assert np.abs(ours).max() > 0.3
    np.testing.assert_allclose(theirs.numpy(), ours, atol=5e-6)


def test_rope_frequencies_of_deepseek_v4_have_a_ramp() -> None:
    """The comparison above would not see a wrong ramp if every frequency were divided, or none."""
    rope = Rope(dim=4, theta=160000.0, factor=16.0, original=8)
    plain = Rope(dim=4, theta=160000.0)
    ratios = [rope.frequency(i) / plain.frequency(i) for i in range(2)]
    assert ratios[0] != pytest.approx(ratios[1])


def test_hyper_connections_of_deepseek_v4() -> None:
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection, DeepseekV4HyperHead

    config = v4_config(0)
    oracle = Mhc(streams=4)
    module, head = DeepseekV4HyperConnection(config), DeepseekV4HyperHead(config)
    weights = {f"attn_hc.{k}": v for k, v in randomized(module, 2).items()} | {
        f"hc_head.{k}": v for k, v in randomized(head, 3).items()
    }
    for name in weights:
        weights[name] = weights[name] * (3.0 if name.endswith("fn") else 1.0)
    with torch.no_grad():
        module.fn.mul_(3.0)
        head.hc_fn.mul_(3.0)
        streams = torch.randn(1, TOKENS, 4, 24, generator=torch.Generator().manual_seed(4))
        post, comb, collapsed = module(streams)
        y = torch.randn(1, TOKENS, 24, generator=torch.Generator().manual_seed(5))
        # As the decoder layer leaves a sub-layer: the streams that are read are the first index of comb.
        left = post[..., None] * y[..., None, :] + torch.einsum("bsjk,bsjd->bskd", comb, streams)
        final = head(streams)
    assert (comb - comb.mT).abs().max() > 0.1  # a transposed comb would be seen
    for t in range(TOKENS):
        token = streams[0, t].double().numpy()
        pre, p, c = oracle.coefficients(weights, "attn_hc.", token)
        np.testing.assert_allclose(comb[0, t].numpy(), c, atol=3e-6)
        np.testing.assert_allclose(post[0, t].numpy(), p, atol=3e-6)
        np.testing.assert_allclose(collapsed[0, t].numpy(), oracle.collapse(pre, token), atol=1e-5)
        np.testing.assert_allclose(left[0, t].numpy(), oracle.spread(p, c, token, y[0, t].double().numpy()), atol=1e-5)
        np.testing.assert_allclose(final[0, t].numpy(), oracle.head(weights, token), atol=1e-5)


def test_decoder_layer_of_deepseek_v4_leaves_a_sub_layer_as_the_transcription_does() -> None:
    """The whole residual around attention and feed-forward, with both sub-layers replaced by a known function."""
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4DecoderLayer

    layer = DeepseekV4DecoderLayer(v4_config(0), 0).eval()
    weights = {n: w for n, w in randomized(layer, 6).items() if "_hc." in n}

    class Doubled(nn.Module):
        def __init__(self, pair: bool) -> None:
            super().__init__()
            self.pair = pair

        def forward(self, hidden_states: torch.Tensor, *args: object, **kw: object) -> object:
            y = hidden_states * 2 + 1
            return (y, None) if self.pair else y

    replaced = {"input_layernorm": nn.Identity(), "post_attention_layernorm": nn.Identity()}
    for name, module in (replaced | {"self_attn": Doubled(True), "mlp": Doubled(False)}).items():
        setattr(layer, name, module)
    oracle = Mhc(streams=4)
    streams = torch.randn(1, 3, 4, 24, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        out = layer(
            streams,
            position_ids=torch.arange(3)[None],
            input_ids=torch.zeros(1, 3, dtype=torch.long),
            attention_mask=None,
        )
    out = out[0] if isinstance(out, tuple) else out
    for t in range(3):
        token = streams[0, t].double().numpy()
        for name in ("attn_hc.", "ffn_hc."):
            pre, post, comb = oracle.coefficients(weights, name, token)
            token = oracle.spread(post, comb, token, oracle.collapse(pre, token) * 2 + 1)
        np.testing.assert_allclose(out[0, t].numpy(), token, atol=2e-5)


def test_mixture_of_experts_of_deepseek_v3() -> None:
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    eager: dict[str, Any] = {"experts_implementation": "eager"}
    config = DeepseekV3Config(
        hidden_size=16,
        moe_intermediate_size=8,
        n_routed_experts=12,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        n_shared_experts=2,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
        **eager,
    )
    module = DeepseekV3MoE(config).eval()
    weights = randomized(module, seed=8)
    assert np.abs(weights["gate.e_score_correction_bias"]).max() > 0.1
    x = torch.randn(1, TOKENS, 16, generator=torch.Generator().manual_seed(9))
    oracle = Moe(experts=12, active=3, groups=4, keep_groups=2, scale=2.5)
    ours = oracle.forward(weights, x[0].double().numpy())
    with torch.no_grad():
        theirs = module(x)[0]
    np.testing.assert_allclose(theirs.numpy(), ours, atol=5e-6)
    # The groups take part: without them some token chooses otherwise.
    free = Moe(experts=12, active=3, scale=2.5)
    tokens = x[0].double().numpy()
    assert any(set(oracle.chosen(weights, t)) != set(free.chosen(weights, t)) for t in tokens)


def test_mixture_of_experts_of_deepseek_v4() -> None:
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4SparseMoeBlock

    config = v4_config(0)
    config.swiglu_limit, config.routed_scaling_factor, config._experts_implementation = 0.4, 1.5, "eager"
    module = DeepseekV4SparseMoeBlock(config, 0).eval()
    weights = randomized(module, seed=10)
    x = torch.randn(1, TOKENS, 24, generator=torch.Generator().manual_seed(11))
    oracle = Moe(experts=4, active=2, scale=1.5, scoring="sqrt_softplus", limit=0.4)
    with torch.no_grad():
        theirs = module(x)[0]
    np.testing.assert_allclose(theirs.numpy(), oracle.forward(weights, x[0].double().numpy()), atol=5e-6)
