"""A forward pass, labels and backward included, is one graph for torch.compile."""

from __future__ import annotations

import pytest
import torch

from tests.runtime.handwritten import llama, randomized


@pytest.mark.parametrize("layers", ["full full", "sinks window"])
@pytest.mark.parametrize("rows", ["whole", "padded", "packed"])
def test_forward_and_backward_are_one_graph(layers: str, rows: str) -> None:
    """`aot_eager` traces what inductor would compile, without waiting for a C++ compiler."""
    torch._dynamo.reset()
    model = randomized(llama(LAYERS=layers).Model(dtype=torch.float64))
    ids = torch.randint(0, 131, (2, 19), generator=torch.Generator().manual_seed(0))
    arguments = {
        "whole": {},
        "padded": {"attention_mask": (torch.arange(19) >= torch.tensor([[0], [5]])).long()},
        "packed": {"sequence_ids": torch.arange(19).expand(2, 19) // 6},
    }[rows]
    want = model(ids, labels=ids, hidden_states=True, **arguments)
    want.loss.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    got = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, labels=ids, hidden_states=True, **arguments)
    got.loss.backward()
    torch.testing.assert_close(got.logits, want.logits)
    torch.testing.assert_close(got.loss, want.loss)
    torch.testing.assert_close(got.hidden_states, want.hidden_states)
    for p, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad)
