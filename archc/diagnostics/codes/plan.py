"""Codes of the plan: what is found when drawers write their forward."""

from archc.diagnostics.registry import Code

CODES = (
    Code(
        id="E0401",
        title="shapes do not fit",
        explanation="""
A drawer wrote its forward pass and two shapes did not fit. The message names the drawer, the operation and the
numbers. Every value of the spec was fine by itself; together they are not: here, a feed-forward gives more channels
than the residual stream has, to which they are added.
""",
        failing="""\
arch 1

model small {
  vocab   = 1000
  dim     = 64
  layers  = 2
  context = 1Ki

  attention = gqa { heads = 4, head_dim = 16, rope = rope }
  ffn       = swiglu { hidden = 128, dim = 96 }
}
""",
        fixed="""\
arch 1

model small {
  vocab   = 1000
  dim     = 64
  layers  = 2
  context = 1Ki

  attention = gqa { heads = 4, head_dim = 16, rope = rope }
  ffn       = swiglu { hidden = 128 }
}
""",
    ),
    Code(
        id="E0402",
        title="a cache that nothing can be stored in",
        explanation="""
The layout of the cache packs numbers in a way that the drawer which keeps them must know: `v4_fp8` stores the keys,
entries and index keys of attention `windowed`, `mla_fp8` the latents and index keys of latent attention. In this model
no drawer knows the layout, so the cache would hold something else than it says. `bf16` and `fp32` store what any drawer
keeps.
""",
        failing="""\
arch 1

model small {
  vocab   = 1000
  dim     = 64
  layers  = 2
  context = 1Ki
  cache   = v4_fp8

  attention = gqa { heads = 4, head_dim = 16, rope = rope }
  ffn       = swiglu { hidden = 128 }
}
""",
        fixed="""\
arch 1

model small {
  vocab   = 1000
  dim     = 64
  layers  = 2
  context = 1Ki
  cache   = bf16

  attention = gqa { heads = 4, head_dim = 16, rope = rope }
  ffn       = swiglu { hidden = 128 }
}
""",
    ),
)
