"""Each token through the experts chosen for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .swiglu import swiglu


def experts(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, *, limit: float | None = None
) -> Tensor:
    """sum over k of weights[k] * down[e](silu(gate[e] x) * up[e] x), e = ids[k]: [..., D].

    x [..., D]; ids and weights [..., K]; gate_up [E, 2 I, D], gate rows first; down [E, D, I]. With a limit, gate
    is cut above and up on both sides before the activation. Tokens are sorted by expert, and only experts with
    tokens run: the one thing the host waits for is how many each has.
    """
    rows, k = x.flatten(0, -2), ids.shape[-1]
    chosen = ids.flatten()
    order = chosen.argsort(stable=True)
    counts = chosen.bincount(minlength=gate_up.shape[0]).tolist()
    mix = weights.flatten()
    wide = torch.promote_types(x.dtype, torch.float32)
    out = torch.zeros(rows.shape, dtype=wide, device=x.device)
    # Unbound once, so that the gradient of each stack is put together once.
    for places, w_in, w_out in zip(order.split(counts), gate_up.unbind(0), down.unbind(0), strict=True):
        if len(places) == 0:
            continue
        tokens = places // k
        gate, up = F.linear(rows[tokens], w_in).chunk(2, -1)
        y = F.linear(swiglu(gate, up, limit=limit), w_out)
        out = out.index_add(0, tokens, y.to(wide) * mix[places, None].to(wide))
    return out.to(x.dtype).view(x.shape)
