"""`glm_moe_dsa`: GLM-5."""

from __future__ import annotations

from archc.importers import picked
from archc.importers.reader import Reader, is_count, shown
from archc.importers.spec import Spec

DEFAULTS = picked.DEFAULTS | {
    "vocab_size": 154880,
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "q_lora_rank": 2048,
    "v_head_dim": 256,
    "qk_nope_head_dim": 192,
    "n_group": 1,
    "topk_group": 1,
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
    "index_n_heads": 32,
    "indexer_types": None,
}
"""Those of `GlmMoeDsaConfig` in transformers 5.23."""

IRRELEVANT = picked.IRRELEVANT

IGNORED = picked.IGNORED | {
    "indexer_rope_interleave": (True, "transformers takes neighbouring channels of the indexer for pairs"),
}


def spec(c: Reader) -> Spec:
    """The model that a config of this type means."""
    _own_indexers(c, c.whole("num_hidden_layers"))
    title = "GLM-5: latent attention to tokens that an indexer picks, mixture of experts, pre-norm."
    return picked.spec(c, title=title, pairs="interleaved")


def _own_indexers(c: Reader, layers: int) -> None:
    """Demands that every layer has an indexer of its own: `indexer_types`, or a pattern, or a period goes before the
    next, as in transformers.
    """
    given = c.values
    names = ("indexer_types", "index_topk_pattern", "index_topk_freq", "index_skip_topk_offset")
    c.read.update(names)
    key = next((k for k in names[:2] if given.get(k) is not None), None)
    if key is not None:
        kinds = given[key]
        full = all(kind in ("full", "F") for kind in kinds) if isinstance(kinds, list | str) else None
        if full is None or (len(kinds) != layers and full):
            c.bad(key, f"`{key}` must say `full` or `shared` for each of the {layers} layers, got {shown(kinds)}")
    else:
        key, period, offset = names[2], given.get(names[2], 1), given.get(names[3], 2)
        if not is_count(period) or not isinstance(offset, int):
            c.bad(key, f"`{key}` and `{names[3]}` must be whole numbers, got {shown(period)} and {shown(offset)}")
            return
        full = all(max(i - offset + 1, 0) % period == 0 for i in range(layers))
    if full is False:
        c.unsupported(
            key,
            "layers that attend to what the layer before picked cannot be imported",
            "let every layer have an indexer of its own (`full`)",
        )
