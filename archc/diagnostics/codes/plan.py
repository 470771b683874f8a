"""Codes of the plan: what is found when drawers write their forward."""

from archc.diagnostics.registry import Code

CODES = (
    Code(
        id="E0401",
        title="shapes do not fit",
        explanation="""
A drawer wrote its forward pass and two shapes did not fit. The message names the drawer, the operation and the
numbers. Every value of the spec was fine by itself; together they are not: here, more channels are to be rotated than
a head has.
""",
        failing="""\
arch 1

model small {
  vocab   = 1000
  dim     = 64
  layers  = 2
  context = 1Ki

  attention = gqa { heads = 4, head_dim = 16, rope = rope { dim = 32 } }
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

  attention = gqa { heads = 4, head_dim = 16, rope = rope { dim = 16 } }
  ffn       = swiglu { hidden = 128 }
}
""",
    ),
)
