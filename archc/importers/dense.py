"""What Llama and its kin have in common: layers of grouped-query attention and a gated feed-forward."""

from __future__ import annotations

from archc.importers.reader import Reader
from archc.importers.rope import rope
from archc.importers.spec import Drawer, Layers, Spec, Tokens, Value

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""The spec's activation for each of transformers' names."""


BIASES = {"attention_bias": ("bias", "out_bias"), "qkv_bias": ("bias",)}
"""The fields that a flag for biases sets."""


def attention(
    c: Reader,
    *,
    dim: int,
    context: int,
    head_dim: int | None,
    qk_norm: str | None = None,
    biases: str | None = "attention_bias",
    more: dict[str, Value] | None = None,
) -> Drawer:
    """The attention that a config means; ``head_dim`` None: dim // heads. ``biases`` is the key that asks for some.

    ``more`` are fields that only some types of models have.
    """
    heads = c.whole("num_attention_heads")
    kv_heads = c.whole_or_none("num_key_value_heads") or heads
    if heads % kv_heads:
        c.bad(
            "num_key_value_heads", f"`num_key_value_heads` = {kv_heads} does not divide `num_attention_heads` = {heads}"
        )
    fields: dict[str, Value] = {"heads": heads, "kv_heads": kv_heads}
    if head_dim is None and heads > dim:
        c.bad("num_attention_heads", f"`num_attention_heads` = {heads} is more than `hidden_size` = {dim} channels")
    if head_dim is not None and head_dim * heads != dim:
        fields["head_dim"] = head_dim
    if biases is not None and c.flag(biases):
        fields |= dict.fromkeys(BIASES[biases], True)
    if qk_norm is not None:
        fields["qk_norm"] = qk_norm
    fields |= more or {}
    fields["rope"] = rope(c, context)
    return Drawer("gqa", fields)


def feed_forward(c: Reader, *, bias: bool = False) -> Drawer:
    """The gated feed-forward that a config means."""
    fields: dict[str, Value] = {"hidden": c.whole("intermediate_size")}
    if bias:
        fields["bias"] = True
    return Drawer("swiglu", fields | activation(c))


def activation(c: Reader) -> dict[str, Value]:
    """The field that says which activation gates a feed-forward; none where it is the drawer's own, silu."""
    word = c.word("hidden_act", ACTIVATIONS, "the activation")
    return {} if word == "silu" else {"activation": word}


def model_fields(c: Reader, *, norm_placement: str = "pre") -> dict[str, Value]:
    """The fields of the model itself."""
    fields: dict[str, Value] = {
        "vocab": c.whole("vocab_size"),
        "dim": c.whole("hidden_size"),
        "layers": c.whole("num_hidden_layers"),
        "context": Tokens(c.whole("max_position_embeddings")),
        "norm": Drawer("rms", {"eps": c.number("rms_norm_eps")}),
    }
    if norm_placement != "pre":
        fields["norm_placement"] = norm_placement
    fields["head"] = "tied" if c.flag("tie_word_embeddings") else "untied"
    # transformers takes a standard deviation of zero for one that is left out.
    fields["init"] = Drawer("normal", {"std": c.number("initializer_range") or 0.02})
    return fields


def uniform(title: str, *, fields: dict[str, Value], attention: Drawer, ffn: Drawer) -> Spec:
    """A model in which all layers are of one kind."""
    return Spec(title=title, fields=fields, attention=Layers.all(attention), ffn=Layers.all(ffn))
