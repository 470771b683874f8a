"""Small specs that differ in what a test says."""

from __future__ import annotations

from archc.diff import Difference, Side, diff
from archc.plan import plan
from archc.resolve import load_text
from archc.schema import Model

TEXT = """arch 1
## {doc}
model small {{
  vocab = {vocab}, dim = 32, layers = 3, context = {context}
  norm = rms {{ eps = {eps} }}
  head = {head}
  init = normal {{ std = {std} }}
  cache = {cache}
  optimizer = adamw
  precision = {precision}
  norm_placement = {placement}
  attention far = gqa {{ heads = 4, kv_heads = {groups}, rope = rope {{ theta = {theta} }} }}
  attention near = far {{ window = {window} }}
  ffn wide = {ffn}
  mtp = {mtp}
  schedule {{ attention = {schedule} }}
}}
"""
MOE = "moe { experts = 4, hidden = 16, router = sigmoid { active = 2, scale = %s, balance_weight = %s } }"

CHOICES: dict[str, list[str]] = {
    "doc": ["A model.", "The same model."],
    "vocab": ["40", "48"],
    "context": ["64", "96"],
    "eps": ["1e-6", "1e-5"],
    "head": ["untied", "tied"],
    "std": ["0.02", "0.01"],
    "cache": ["bf16", "fp32"],
    "precision": ["bf16", "fp32"],
    "placement": ["pre", "post", "both"],
    "groups": ["2", "4"],
    "theta": ["10e3", "50e3"],
    "window": ["4", "6"],
    "ffn": [
        "swiglu { hidden = 48 }",
        "swiglu { hidden = 64 }",
        "swiglu { hidden = 48, activation = gelu }",
        MOE % ("1", "0"),
        MOE % ("2", "0"),
        MOE % ("1", "1e-4"),
    ],
    "mtp": ["none", "concat { depth = 1 }", "concat { depth = 1, weight = 0.1 }"],
    "schedule": ["[near * 2, far]", "[near, far, near]", "[far * 3]"],
}
"""Every value a spec of the tests may have, the first of each its default."""

PLAIN = {name: values[0] for name, values in CHOICES.items()}


def small(**changes: str) -> Model:
    """The small model, with some of its values changed."""
    (model,) = load_text(TEXT.format(**PLAIN | changes), "small.arch")
    return model


def side(model: Model) -> Side:
    return Side(model, plan(model))


def changed(**changes: str) -> Difference:
    """From the plain model to one with some values changed."""
    return diff(side(small()), side(small(**changes)))
