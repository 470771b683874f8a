"""Models with a bypass, the same models without, and what the ones must make of the other's layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc.resolve import load_text
from archc.schema import Model
from tests.built import built

HEAD = "arch 1\nmodel spec { vocab = 61, context = 90\n"
MEMORY = "engram { orders = [2, 3], heads = 2, head_dim = 5, rows = 40"
THRESHOLD = 0.5
BYPASS = f"bypass = confidence {{ threshold = {THRESHOLD}, weight = 0.3 }}"
SPECS = {
    "add": "dim = 18, layers = 4, attention = gqa { heads = 3, kv_heads = 1, head_dim = 6, rope = rope }\n"
    f"ffn = swiglu {{ hidden = 20 }}\nmemory table = {MEMORY}\nBYPASS }}\nschedule {{ memory = table at [1] }}",
    "streams": "dim = 20, layers = 6, residual = mhc { streams = 3 }\n"
    "attention swa = windowed { heads = 4, head_dim = 10, rope_dim = 4, q_rank = 9, out_groups = 2, out_rank = 6,\n"
    "  window = 5, rope = rope { pairs = interleaved } }\nattention csa = swa { compress = csa { ratio = 4,\n"
    "  indexer = lightning { heads = 3, head_dim = 8, topk = 3 } } }\n"
    "attention hca = swa { compress = hca { ratio = 8 } }\nffn dense = swiglu { hidden = 12 }\n"
    "ffn mix = moe { experts = 6, hidden = 10, shared = 1, router = sqrtsoftplus { active = 2 } }\n"
    f"memory table = {MEMORY}\nBYPASS }}\n"
    "schedule { attention = [swa, csa, hca, swa, csa, hca], ffn = [dense, mix * rest], memory = table at [0, 3] }\n"
    "mtp = mtp_streams",
    "latent": "dim = 16, layers = 4, norm_placement = both, residual = mhc { streams = 2, form = single_pass }\n"
    "attention = mla { heads = 2, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 2, v_dim = 3, rope = rope }\n"
    f"ffn = swiglu {{ hidden = 9 }}\nmemory table = {MEMORY}\nBYPASS }}\nschedule {{ memory = table at [0, 2] }}\n"
    "mtp = concat",
}
"""By name; BYPASS stands where the field does."""


def model_of(name: str, bypass: str = BYPASS) -> Model:
    """A model with this bypass, or with none where it is empty."""
    return load_text(f"{HEAD}{SPECS[name].replace('BYPASS', bypass)}\n}}\n")[0]


@cache
def package_of(name: str, bypass: str = BYPASS) -> ModuleType:
    """Its package."""
    return built(model_of(name, bypass), Path(mkdtemp(prefix="bypass")))


@cache
def module_of(name: str, bypass: str = BYPASS) -> Any:
    """Its model in float64, weights random but the same in all models of a name: a bypass is random apart."""
    module = package_of(name, bypass).Model(dtype=torch.float64)
    state = module.state_dict()
    generator = torch.Generator().manual_seed(6)
    for key in [key for key in state if ".bypass." not in key and state[key].is_floating_point()]:
        noise = torch.randn(state[key].shape, generator=generator, dtype=torch.float64)
        state[key] = noise * state[key].shape[-1] ** -0.5 if noise.dim() > 1 else ("norm" in key) + 0.3 * noise
    generator.manual_seed(7)
    for key in [key for key in state if ".bypass." in key]:
        state[key] = torch.randn(state[key].shape, generator=generator, dtype=torch.float64) * 0.7
    module.load_state_dict(state)
    return module.eval()


def confidence(module: Any, layer: int, streams: Tensor) -> Tensor:
    """sigmoid(w . x / rms(x) + b) [B, S], for x all channels of all streams of a token."""
    gate = module.model.layers[layer].bypass
    x = streams.flatten(2)
    x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    return 1 / (1 + torch.exp(-(x @ gate.weight + gate.bias)))


def expected(name: str, module: Any, ids: Tensor, *, soft: bool, **given: Any) -> tuple[Tensor, list[Tensor]]:
    """Logits of the layers of the model without a bypass, blended here, and the confidence of each bypass [B, S].

    A token stays as it is by the probability that one of the gates behind it was right.
    """
    plain, found = module_of(name, ""), []
    stay = torch.zeros(ids.shape, dtype=torch.float64)

    def blended(i: int, forward: Callable[..., Any], *args: Any) -> Any:
        nonlocal stay
        *state, _ = args
        made = forward(*args)
        made = made if isinstance(made, tuple) else (made,)
        weights = [stay.reshape(*stay.shape, *[1] * (x.dim() - 2)) for x in state]
        out = tuple(w * old + (1 - w) * new for w, old, new in zip(weights, state, made, strict=True))
        if i in streams:
            found.append(confidence(module, i, streams[i]))
            stay = 1 - (1 - stay) * (1 - (found[-1] if soft else (found[-1] > THRESHOLD).double()))
        return out if len(out) > 1 else out[0]

    streams: dict[int, Tensor] = {}
    hooks = []
    for i, layer in enumerate(plain.model.layers):
        layer.forward = partial(blended, i, layer.forward)
        if hasattr(layer, "memory"):
            hooks.append(layer.memory.register_forward_hook(lambda _, __, out, i=i: streams.update({i: out})))
    try:
        return plain(ids, **given).logits, found
    finally:
        for hook in hooks:
            hook.remove()
        for layer in plain.model.layers:
            del layer.forward
