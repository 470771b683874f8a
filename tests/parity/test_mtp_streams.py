"""Further tokens from residual streams: their loss and its gradients are those of modules made of transformers'
DeepSeek-V4 layers and heads, run sequence by sequence in float64. transformers has no such modules itself.

The indexer takes every entry here, for which of equal scores it takes is not defined there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

from archc.resolve import load_text
from tests.built import built, randomise
from tests.parity.further import ROWS, batch, losses
from tests.parity.pair import Wide

DEPTH, WEIGHT, VOCAB, EXPERTS, WINDOW, LAYERS = 2, 0.4, 53, 6, 5, 3

SPEC = f"""arch 1
model further {{
  vocab = {VOCAB}, dim = 20, layers = {LAYERS}, context = 64
  residual = mhc {{ streams = 3, sinkhorn_iters = 6 }}
  attention swa = windowed {{
    heads = 4, head_dim = 10, rope_dim = 4, q_rank = 9, out_groups = 2, out_rank = 6, window = {WINDOW}
    rope = rope {{ pairs = interleaved }}
  }}
  attention csa = swa {{
    rope = rope {{ theta = 160e3, pairs = interleaved }}
    compress = csa {{ ratio = 4, indexer = lightning {{ heads = 3, head_dim = 8, topk = 6 }} }}
  }}
  attention hca = csa {{ compress = hca {{ ratio = 6 }} }}
  ffn mix = moe {{
    experts = {EXPERTS}, hidden = 11, shared = 1, activation = glu {{ clamp = 1 }}
    router = sqrtsoftplus {{ active = 2, scale = 1.5 }}
  }}
  ffn hashed = mix {{ router = hash {{ active = 2, scale = 1.5 }} }}
  schedule {{ attention = [swa, csa, hca], ffn = [hashed, mix * 2] }}
  mtp = mtp_streams {{ depth = {DEPTH}, weight = {WEIGHT}, attention = swa, ffn = %s }}
}}
"""

KINDS = {"mix": "moe", "hashed": "hash_moe"}
"""The feed-forward of a module, and what transformers calls it: by affinity, or by the ids of the tokens ahead."""

CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 20,
    "moe_intermediate_size": 11,
    "num_attention_heads": 4,
    "head_dim": 10,
    "qk_rope_head_dim": 4,
    "q_lora_rank": 9,
    "o_groups": 2,
    "o_lora_rank": 6,
    "sliding_window": WINDOW,
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 6},
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "sliding_attention",
    ],
    "index_n_heads": 3,
    "index_head_dim": 8,
    "index_topk": 6,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 1.0,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 6,
}
"""Of the main model's layers and, after them, of a module's."""


class Module(nn.Module):
    """One module of prediction, of public parts."""

    def __init__(self, config: DeepseekV4Config) -> None:
        super().__init__()
        dim = config.hidden_size
        self.enorm, self.hnorm, self.norm = (modeling.DeepseekV4RMSNorm(dim, config.rms_norm_eps) for _ in range(3))
        self.e_proj, self.h_proj = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.layer = modeling.DeepseekV4DecoderLayer(config, LAYERS)
        self.hc_head = modeling.DeepseekV4HyperHead(config)


class Reference(nn.Module):
    """The model and its modules of prediction, for one sequence at a time."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        mlps = ["hash_moe", "moe", "moe", KINDS[kind]]
        main = DeepseekV4Config(**CONFIG, num_hidden_layers=LAYERS, mlp_layer_types=mlps)
        longer = DeepseekV4Config(**CONFIG, num_hidden_layers=LAYERS + 1, mlp_layer_types=mlps)
        for config in (main, longer):
            config._attn_implementation = config._experts_implementation = "eager"
        self.main = modeling.DeepseekV4ForCausalLM(main)
        self.further = nn.ModuleList(Module(longer) for _ in range(DEPTH))

    def forward(self, ids: Tensor, labels: Tensor) -> list[tuple[Tensor, int]]:
        """Summed cross entropies of the next token and of those that each module predicts, with numbers of targets."""
        collapsed: list[Tensor] = []
        with self.main.model.hc_head.register_forward_pre_hook(lambda _, given: collapsed.append(given[0])):
            hidden = self.main.model(ids[None], use_cache=False).last_hidden_state[0]
        (streams,) = collapsed
        sums = [self.entropy(hidden, labels[1:])]
        for k, module in enumerate(self.further):
            # Module k joins the streams of column i with token i + 1 + k, and predicts the one after that.
            ahead = ids[None, 1 + k :]
            streams = streams[:, : ahead.shape[1]]
            hidden = hidden[:0]
            if ahead.shape[1]:
                streams = self.run(module, ahead, streams)
                hidden = module.norm(module.hc_head(streams))[0]
            sums.append(self.entropy(hidden, labels[2 + k :]))
        return sums

    def run(self, module: Any, ahead: Tensor, streams: Tensor) -> Tensor:
        e = module.e_proj(module.enorm(self.main.model.embed_tokens(ahead)))
        x = torch.stack([e + module.h_proj(module.hnorm(one)) for one in streams.unbind(2)], 2)
        position = torch.arange(ahead.shape[1])[None]
        angles = self.main.model.rotary_emb(e, position_ids=position, layer_type="main")
        apart = position[0][:, None] - position[0]
        unseen = torch.zeros(apart.shape, dtype=x.dtype).masked_fill((apart < 0) | (apart >= WINDOW), float("-inf"))
        return module.layer(
            x,
            input_ids=ahead,
            attention_mask=unseen[None, None],
            position_ids=position,
            position_embeddings={"main": angles},
        )

    def entropy(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        logits = self.main.lm_head(hidden[: len(targets)])
        return F.cross_entropy(logits, targets[: len(hidden)], reduction="sum"), int((targets != -100).sum())


def theirs(name: str) -> str:
    """The reference's name of one of our parameters."""
    if not name.startswith("mtp."):
        return f"main.{name}"
    _, k, leaf = name.split(".", 2)
    own = leaf.partition(".")[0] in ("enorm", "hnorm", "e_proj", "h_proj", "hc_head", "norm")
    return f"further.{k}.{leaf}" if own else f"further.{k}.layer.{leaf}"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    package = built(load_text(SPEC % kind)[0], tmp_path_factory.mktemp("further"))
    model = package.Model(dtype=torch.float64)
    randomise(model, seed=3)
    generator = torch.Generator().manual_seed(4)
    for name, buffer in model.named_buffers():
        if name.endswith("tid2eid"):  # two different experts each
            buffer.copy_(torch.rand(VOCAB, EXPERTS, generator=generator).argsort(1)[:, :2])
    return model


@pytest.fixture
def reference(kind: str, ours: Any) -> Iterator[Reference]:
    """In float64, what the public code does in float32 included, but for the angles of rotary positions."""
    made = Reference(kind).double()
    made.load_state_dict({theirs(name): value for name, value in ours.state_dict().items()})
    angles, narrow = modeling.DeepseekV4RotaryEmbedding.forward, torch.Tensor.float

    def in_float32(*given: Any, **more: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(modeling, "torch", torch)
            patch.setattr(torch.Tensor, "float", narrow)
            return angles(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "torch", Wide())
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(modeling.DeepseekV4RotaryEmbedding, "forward", in_float32)
        yield made


@pytest.mark.parametrize("rows", ROWS)
def test_loss_and_gradients(rows: str, ours: Any, reference: Reference) -> None:
    ids, labels, given = batch(rows, VOCAB)
    ours.zero_grad()
    out = ours(ids, labels=labels, **given)
    (out.lm_loss + WEIGHT * out.losses["mtp"]).backward()

    lm_loss, mtp_loss = losses(reference, rows, ids, labels)
    for got, want in ((out.lm_loss, lm_loss), (out.losses["mtp"], mtp_loss)):
        assert got.item() == pytest.approx(want.item(), rel=1e-9, abs=1e-12)

    (lm_loss + WEIGHT * mtp_loss).backward()
    found = dict(reference.named_parameters())
    largest = max(p.grad.norm() for p in found.values() if p.grad is not None)
    for name, parameter in ours.named_parameters():
        want, got = found[theirs(name)].grad, parameter.grad
        if want is None:
            assert got is None or not got.any(), name
            continue
        assert got is not None, name
        assert (got - want).norm() <= 1e-9 * largest, name
