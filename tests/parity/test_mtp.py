"""The loss of further tokens is that of modules made of transformers' DeepSeek-V3 layers, run sequence by sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as modeling
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config

from archc.resolve import load_text
from tests.built import built, randomise
from tests.parity.further import ROWS, batch, losses
from tests.parity.pair import Wide

DEPTH, WEIGHT = 2, 0.4

SPEC = f"""arch 1
model further {{
  vocab = 53, dim = 20, layers = 2, context = 64
  attention = mla {{
    heads = 2, q_rank = 9, kv_rank = 7, nope_dim = 5, rope_dim = 4, v_dim = 6, rope = rope {{ pairs = interleaved }}
  }}
  ffn = swiglu {{ hidden = 24 }}
  mtp = concat {{ depth = {DEPTH}, weight = {WEIGHT}%s }}
}}
"""

KINDS = {
    "dense": "",
    "experts": ", ffn = moe { experts = 8, hidden = 11, shared = 1, router = sigmoid {"
    " active = 3, groups = 4, keep_groups = 2, scale = 2.5 } }",
}
"""The feed-forward of a module: that of the last layer, or experts."""

CONFIG = {
    "vocab_size": 53,
    "hidden_size": 20,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 9,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rope_interleave": True,
    "moe_intermediate_size": 11,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}


class Module(nn.Module):
    """One module of prediction, of public parts."""

    def __init__(self, config: DeepseekV3Config, layer: int) -> None:
        super().__init__()
        self.enorm, self.hnorm, self.norm = (
            modeling.DeepseekV3RMSNorm(config.hidden_size, config.rms_norm_eps) for _ in range(3)
        )
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layer = modeling.DeepseekV3DecoderLayer(config, layer)


class Reference(nn.Module):
    """The model and its modules of prediction, for one sequence at a time."""

    def __init__(self, config: DeepseekV3Config, layer: int) -> None:
        super().__init__()
        self.main = modeling.DeepseekV3ForCausalLM(config)
        self.further = nn.ModuleList(Module(config, layer) for _ in range(DEPTH))

    def forward(self, ids: Tensor, labels: Tensor) -> list[tuple[Tensor, int]]:
        """Summed cross entropies of the next token and of those that each module predicts, with numbers of targets."""
        hidden = self.main.model(ids[None]).last_hidden_state[0]
        sums = [self.entropy(hidden, labels[1:])]
        for k, module in enumerate(self.further):
            # Module k joins vector i with token i + 1 + k, of those that the sequence has, and predicts the one after.
            ahead = ids[1 + k :]
            hidden = hidden[: len(ahead)]
            if len(ahead):
                hidden = self.run(module, self.main.model.embed_tokens(ahead), hidden)
            sums.append(self.entropy(hidden, labels[2 + k :]))
        return sums

    def run(self, module: Any, embedding: Tensor, hidden: Tensor) -> Tensor:
        x = module.eh_proj(torch.cat([module.enorm(embedding), module.hnorm(hidden)], -1))[None]
        position = torch.arange(x.shape[1])[None]
        angles = self.main.model.rotary_emb(x, position_ids=position)
        unseen = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)[None, None]
        x = module.layer(x, attention_mask=unseen, position_ids=position, position_embeddings=angles)
        return module.norm(x)[0]

    def entropy(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        logits = self.main.lm_head(hidden[: len(targets)])
        return F.cross_entropy(logits, targets, reduction="sum"), int((targets != -100).sum())


def theirs(name: str) -> str:
    """The reference's name of one of our parameters."""
    if not name.startswith("mtp."):
        return f"main.{name}"
    _, k, leaf = name.split(".", 2)
    own = leaf.partition(".")[0] in ("enorm", "hnorm", "norm", "eh_proj")
    return f"further.{k}.{leaf}" if own else f"further.{k}.layer.{leaf}"


@pytest.fixture(scope="module", params=KINDS)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    package = built(load_text(SPEC % KINDS[request.param])[0], tmp_path_factory.mktemp("further"))
    model = package.Model(dtype=torch.float64)
    randomise(model, seed=3)
    for name, buffer in model.named_buffers():
        assert name.endswith("e_score_correction_bias")
        buffer.copy_(torch.linspace(-0.2, 0.2, len(buffer)))
    return model


@pytest.fixture
def reference(ours: Any) -> Iterator[Reference]:
    """In float64, what the public code does in float32 included."""
    config = DeepseekV3Config(**CONFIG)
    config._attn_implementation = config._experts_implementation = "eager"
    # Layer 0 of this config is dense, layer 2 has experts.
    made = Reference(config, 2 if list(ours.buffers()) else 0).double()
    made.load_state_dict({theirs(name): value for name, value in ours.state_dict().items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "torch", Wide())
        yield made


@pytest.mark.parametrize("rows", ROWS)
def test_loss_and_gradients(rows: str, ours: Any, reference: Reference) -> None:
    ids, labels, given = batch(rows, 53)
    ours.zero_grad()
    out = ours(ids, labels=labels, **given)
    out.loss.backward()

    lm_loss, mtp_loss = losses(reference, rows, ids, labels)
    loss = lm_loss + WEIGHT * mtp_loss
    for got, want in ((out.lm_loss, lm_loss), (out.losses["mtp"], mtp_loss), (out.loss, loss)):
        assert got.item() == pytest.approx(want.item(), rel=1e-9, abs=1e-12)

    loss.backward()
    found = dict(reference.named_parameters())
    largest = max(p.grad.norm() for p in found.values() if p.grad is not None)
    for name, parameter in ours.named_parameters():
        want, got = found[theirs(name)].grad, parameter.grad
        apart = got if want is None else got - want
        assert apart is not None, name
        assert apart.norm() <= 1e-9 * largest, name
