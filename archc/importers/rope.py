"""The rotary positions of a config: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` before."""

from __future__ import annotations

from archc.importers.reader import Reader, shown
from archc.importers.spec import Drawer, Tokens, Value

THETA = 10_000.0
"""The base that transformers takes where a config has none, and its class no other default."""

READ: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
        "truncate",
    ),
}
"""The keys that each type of rotary positions reads, beside `rope_theta`."""

KNOWN = frozenset({
    "finetuned",
    "long_factor",
    "mrope_section",
    "rope_theta",
    "rope_type",
    "short_factor",
    "type",
    *(key for keys in READ.values() for key in keys),
})  # fmt: skip
"""Keys of some type of rotary positions."""

_BESIDE = ("rope_scaling", "rope_parameters", "partial_rotary_factor", "original_max_position_embeddings")
"""Keys of the config itself that belong to it, beside `rope_theta`."""

_MISSING = object()


def rope(config: Reader, context: int, *, latent: bool = False, pairs: str = "half") -> Drawer:
    """The rope drawer that a config means; ``context`` is its `max_position_embeddings`.

    `rope_scaling` goes before `rope_parameters`, and a key inside it before the same key beside it, as in transformers.
    ``latent``: the attention scales its logits by `mscale_all_dim` (MLA). ``pairs``: which channels form a pair.
    """
    settings = settings_of(config)
    theta = _theta(config, settings)
    kind = kind_of(settings)
    if kind is None:
        # What its keys mean is open too.
        config.read.update(_BESIDE)
        return Drawer("rope", {"theta": theta})
    _partial(config, settings, kind)
    return scaled(settings, kind, theta, context, beside=config, latent=latent, pairs=pairs)


def scaled(
    settings: Reader,
    kind: str,
    theta: float,
    context: int,
    *,
    beside: Reader,
    latent: bool = False,
    pairs: str = "half",
) -> Drawer:
    """The drawer of one set of rotary positions: ``settings`` of a known ``kind``, in the config ``beside`` them."""
    fields: dict[str, Value] = {"theta": theta}
    if pairs != "half":
        fields["pairs"] = pairs
    if kind == "linear":
        fields["factor"] = settings.number("factor")
    elif kind == "llama3":
        fields["factor"] = settings.number("factor")
        fields["low"] = settings.number("low_freq_factor")
        fields["high"] = settings.number("high_freq_factor")
        fields["original"] = Tokens(_original(beside, settings, context))
    elif kind == "yarn":
        fields |= _yarn(beside, settings, context, latent=latent)
    if kind not in ("llama3", "yarn") and beside.values.get("original_max_position_embeddings") is not None:
        beside.ignored("original_max_position_embeddings", f"rotary positions of type `{kind}` do not read it")
    beside.read.add("original_max_position_embeddings")
    if latent and kind in ("linear", "llama3") and settings.values.get("mscale_all_dim"):
        settings.read.add("mscale_all_dim")
        settings.unsupported("mscale_all_dim", f"`mscale_all_dim` with `{kind}` cannot be imported")
    _account(settings, kind)
    return Drawer("rope" if kind == "default" else kind, fields)


def settings_of(config: Reader) -> Reader:
    """The object that describes the positions, as a reader of its own."""
    found = [key for key in ("rope_scaling", "rope_parameters") if config.values.get(key)]
    for key in ("rope_scaling", "rope_parameters"):
        config.read.add(key)
    if len(found) == 2 and config.values["rope_parameters"] != config.values["rope_scaling"]:
        config.ignored("rope_parameters", "`rope_scaling` goes before it")
    if found:
        return config.inside(found[0], {})
    if config.values.get("rope_parameters") is None and "rope_parameters" in config.defaults:
        values = config.defaults["rope_parameters"] or {}
        config.filled.append("rope_parameters")
    else:
        values = {}
    return Reader(values, {}, config.sink, config.spans, where="rope_parameters.")


def kind_of(settings: Reader) -> str | None:
    """The type of the positions, None where it cannot be imported; `rope_type` goes before `type`."""
    nested = [key for key, value in settings.values.items() if isinstance(value, dict)]
    if nested:
        for key in nested:
            settings.read.add(key)
            settings.unsupported(key, f"rotary positions of their own for `{key}` cannot be imported")
        return None
    key = "rope_type" if "rope_type" in settings.values else "type"
    if key == "rope_type" and settings.values.get("type", _MISSING) not in (_MISSING, settings.values["rope_type"]):
        settings.ignored("type", "`rope_type` goes before it")
    settings.read.update(("rope_type", "type"))
    if key not in settings.values:
        return "default"
    kind = settings.word(key, {kind: kind for kind in READ}, "rotary positions of type")
    return kind if kind == settings.values[key] else None


def _theta(config: Reader, settings: Reader) -> float:
    """The base of the frequencies."""
    config.read.add("rope_theta")
    if "rope_theta" in settings.values:
        theta = settings.number("rope_theta")
        if config.values.get("rope_theta", theta) not in (theta, None):
            config.ignored("rope_theta", f"`{settings.where}rope_theta` goes before it")
        return theta
    given = config.values.get("rope_theta") is not None or "rope_theta" in config.defaults
    return config.number("rope_theta") if given else THETA


def _partial(config: Reader, settings: Reader, kind: str) -> None:
    """Says what becomes of `partial_rotary_factor`: these families rotate whole heads."""
    name = "partial_rotary_factor"
    reader = settings if name in settings.values else config
    for each in (config, settings):
        each.read.add(name)
    share = reader.values.get(name)
    if share is None or share == 1:
        return
    if kind == "default":
        reader.ignored(name, "transformers rotates whole heads in this type of model")
    else:
        reader.unsupported(
            name,
            f"`{name} = {shown(share)}` with `{kind}` cannot be imported",
            "transformers itself fails on it: it scales part of the channels and rotates all of them",
        )


def _original(config: Reader, settings: Reader, context: int) -> int:
    """The context before stretching: the config's own key goes first, and its context is what is left."""
    key = "original_max_position_embeddings"
    if config.values.get(key) is not None:
        if settings.values.get(key, config.values[key]) != config.values[key]:
            settings.ignored(key, f"`{key}` beside it goes before it")
        settings.read.add(key)
        return config.whole(key)
    return settings.whole(key) if key in settings.values else context


def _yarn(config: Reader, settings: Reader, context: int, *, latent: bool) -> dict[str, Value]:
    original = _original(config, settings, context)
    factor = settings.number_or_none("factor")
    fields: dict[str, Value] = {
        # As transformers: a factor left open is how far the context has been stretched.
        "factor": context / original if factor is None else factor,
        "original": Tokens(original),
    }
    for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"):
        number = settings.number(key) if settings.values.get(key) is not None else None
        # Zero means "left out" to transformers, but for the attention factor.
        if number or (number is not None and key == "attention_factor"):
            fields[key] = number
    if "truncate" in settings.values:
        fields["truncate"] = settings.flag("truncate")
    if latent and factor is None and "mscale_all_dim" in fields:
        settings.bad("mscale_all_dim", "`mscale_all_dim` needs a `factor`")
    for key, why in _without_effect(fields, latent=latent):
        del fields[key]
        settings.ignored(key, why)
    return fields


def _without_effect(fields: dict[str, Value], *, latent: bool) -> list[tuple[str, str]]:
    """The corrections for length that change nothing beside the others, and why."""
    pair = [key for key in ("mscale", "mscale_all_dim") if key in fields]
    if "attention_factor" in fields:
        # cos and sin take the factor as it is; the logits of latent attention are scaled all the same.
        dead, why = pair, "`attention_factor` goes before it"
    elif len(pair) == 1:
        dead, why = pair, "transformers reads `mscale` and `mscale_all_dim` only together"
    else:
        return []
    return [(key, why) for key in dead if not (latent and key == "mscale_all_dim")]


def _account(settings: Reader, kind: str) -> None:
    """Accounts for every key that this type of positions does not read."""
    settings.read.update(READ[kind])
    for key in settings.unread():
        if settings.values[key] is None:
            continue
        if key in KNOWN:
            settings.ignored(key, f"rotary positions of type `{kind}` do not read it")
        else:
            settings.unknown(key)
