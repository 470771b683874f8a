"""`kimi_k2`: Kimi K2, whose checkpoints are DeepSeek-V3s under a name of their own."""

from __future__ import annotations

from archc.importers.families import deepseek_v3
from archc.importers.reader import Reader
from archc.importers.spec import Spec

DEFAULTS = deepseek_v3.DEFAULTS
IRRELEVANT = deepseek_v3.IRRELEVANT
IGNORED = deepseek_v3.IGNORED


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    return deepseek_v3.spec(c, "Kimi K2: latent attention, mixture of experts balanced by biases, pre-norm.")
