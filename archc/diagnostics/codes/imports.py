"""E06xx and W06xx: what importers report about a `config.json`."""

from __future__ import annotations

import json
from typing import Any

from archc.diagnostics.registry import Code


def _llama(**changes: Any) -> str:
    """The config of a small Llama with some more keys."""
    config: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return json.dumps(config | changes, indent=2) + "\n"


CODES: tuple[Code, ...] = (
    Code(
        id="E0601",
        title="not a config",
        explanation="""\
A `config.json` of transformers is one JSON object. The file cannot be read, is not JSON, or holds something else.""",
        failing='{ "model_type": "llama", }\n',
        fixed=_llama(),
        example="json",
    ),
    Code(
        id="E0602",
        title="unsupported type of model",
        explanation="""\
`model_type` says which implementation of transformers a config is for. Each has an importer of its own, and there
is none for this one. A config of a model with several parts has that of its language model under `text_config`.""",
        failing=_llama(model_type="mamba"),
        fixed=_llama(),
        example="json",
    ),
    Code(
        id="E0603",
        title="unknown key in a config",
        explanation="""\
Neither the implementation in transformers nor the importer knows the key. It may be misspelt, or belong to a
feature of another implementation: as its meaning is unknown, nothing is imported. Remove the key if it says nothing
about the model. Keys that are `null` are left alone.""",
        failing=_llama(hidden_sise=128),
        fixed=_llama(hidden_size=128),
        example="json",
    ),
    Code(
        id="E0604",
        title="wrong value in a config",
        explanation="""\
The value is of the wrong type, out of its domain, contradicts another one, or a key that its neighbours need is
missing. transformers cannot build this model either.""",
        failing=_llama(num_attention_heads="4"),
        fixed=_llama(num_attention_heads=4),
        example="json",
    ),
    Code(
        id="E0605",
        title="feature that cannot be imported",
        explanation="""\
transformers honours the value, and a spec cannot say the same: an activation, a kind of rotary positions or a type
of layer without a drawer, or weights stored in a format that packages cannot load. Nothing is put in its place. A
drawer of your own can add what is missing (docs/drawers.md); then write the spec by hand, starting from the import
of a config without the feature.""",
        failing=_llama(hidden_act="mish"),
        fixed=_llama(hidden_act="gelu"),
        example="json",
    ),
    Code(
        id="W0601",
        title="key without effect",
        explanation="""\
transformers has the key in its configs and does not honour it in this type of model, or another key goes before it.
The spec is that of what transformers really runs.""",
        failing=_llama(pretraining_tp=2),
        fixed=_llama(pretraining_tp=1),
        example="json",
    ),
    Code(
        id="W0602",
        title="randomness in training is not imported",
        explanation="""\
The reference drops values, or adds noise to what a router sees, at this rate in training; generated models do
neither. Inference is the same.""",
        failing=_llama(attention_dropout=0.1),
        fixed=_llama(attention_dropout=0.0),
        example="json",
    ),
    Code(
        id="W0603",
        title="no multi-token prediction to import",
        explanation="""\
`archc import --mtp` imports the modules that predict further tokens; this config has none.""",
        failing="archc import config.json --mtp\n",
        fixed="archc import config.json\n",
        example="shell",
    ),
    Code(
        id="W0604",
        title="checkpoint with another head",
        explanation="""\
`architectures` names a model for another task. Its layers are imported and given the head of a language model,
which the checkpoint may not have weights for.""",
        failing=_llama(architectures=["LlamaForSequenceClassification"]),
        fixed=_llama(architectures=["LlamaForCausalLM"]),
        example="json",
    ),
)
