"""`deepseek_v32`: DeepSeek-V3.2 and V3.2-Exp."""

from __future__ import annotations

from archc.importers import picked
from archc.importers.reader import Reader
from archc.importers.spec import Spec

DEFAULTS = picked.DEFAULTS
IRRELEVANT = picked.IRRELEVANT
IGNORED = picked.IGNORED


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    title = "DeepSeek-V3.2: latent attention to tokens that an indexer picks, mixture of experts, pre-norm."
    return picked.spec(c, title=title, pairs="half")
