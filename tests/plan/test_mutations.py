"""Mutated specs that resolve go on through plan, cost, the tiny twin and the printer: results or diagnostics, never a
traceback.

`ARCHC_MUTANTS=100000` runs more of them.
"""

from __future__ import annotations

import ast
import random
import time

import pytest

from archc import resources
from archc.api import MODES
from archc.cost.count import count
from archc.diagnostics import ArchError
from archc.emit.module import print_model
from archc.graph.verify import verify
from archc.plan import plan, shrink
from archc.resolve import load_text
from archc.schema import Model
from tests.resolve.test_mutations import MUTANTS, SEED, mutant

SHARDS = 4

RICH = """arch 1

model rich {
  vocab   = 5_000
  dim     = 96
  layers  = 12
  context = 4Ki
  norm    = rms { eps = 1e-5 }
  head    = tied
  init    = normal { std = 0.01, output_by_depth = true }

  param groups = 2 in 1..8
  let far      = yarn { theta = 1e6, factor = 4, original = 1Ki }

  attention near = gqa {
    heads = 8, kv_heads = groups, window = 128, sinks = true
    rope = rope { theta = 10e3, dim = 8 }
  }
  attention full = near { window = none, rope = far, qk_norm = head }
  ffn wide       = swiglu { hidden = 4 * dim }
  ffn narrow     = swiglu { hidden = 100, bias = true, activation = gelu }
  ffn mixed      = moe {
    experts = 8 * groups, hidden = 40, shared = 1, activation = glu { clamp = 7 }
    router  = sigmoid { active = 2, groups = groups, keep_groups = 1 }
  }
  schedule {
    attention = [near, (near, full) * 2, full * rest]
    ffn       = [narrow at 0..3, mixed, wide at 5..]
  }
  check layers >= 2
}
"""


def through(model: Model, *, printed: bool) -> None:
    """Plans a model; what can be planned is costed and shrunk, and printed if asked."""
    graph, found = None, ()
    try:
        graph = plan(model)
    except ArchError as error:
        found = error.diagnostics
    assert all(d.code.startswith("E04") and d.span for d in found)
    if graph is None:
        return
    for mode in MODES if printed else MODES[:1]:
        report = count(model, graph, mode=mode)
        assert sum(report.params.by_component.values()) == report.params.total
        assert report.flops.executed.workload_total >= 0 <= report.flops.ideal.workload_total
    twin = shrink(model)
    small = plan(twin)
    assert count(twin, small).params.total <= 20_000_000
    if printed:
        verify(graph)
        ast.parse(print_model(model, graph)[0])
        ast.parse(print_model(twin, small)[0])


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutants_reach_the_plan_and_come_out(shard: int) -> None:
    rng = random.Random(SEED + shard)
    texts = [RICH, *(p.read_text() for p in sorted(resources.specs().glob("llama*.arch")))]
    reached, slowest = 0, (0.0, 0)
    for number in range(MUTANTS // SHARDS):
        text = mutant(rng, rng.choice(texts))
        try:
            models = load_text(text)
        except ArchError:
            continue
        reached += 1
        start = time.process_time()
        for model in models:
            through(model, printed=number % 5 == 0)
        slowest = max(slowest, (time.process_time() - start, number))
    assert reached >= 0.3 * (MUTANTS // SHARDS), f"{reached} of {MUTANTS // SHARDS} mutants reach the plan"
    assert slowest[0] < 20, f"mutant {slowest[1]} took {slowest[0]:.1f} s"
