"""What DeepSeek-V4's configs say of attention: the type of every layer, rates of compression, two sets of positions."""

from __future__ import annotations

from typing import Any, NamedTuple

from archc.importers.reader import Reader, is_count, shown
from archc.importers.rope import kind_of, scaled, settings_of
from archc.importers.spec import Drawer, Layers, Tokens, Value

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
NAMES = {SLIDING: "swa", SPARSE: "csa", HEAVY: "hca"}
"""The drawer's name for each type of layer."""
RATIOS = {0: SLIDING, 4: SPARSE, 128: HEAVY}
"""What an entry of `compress_ratios` means to transformers, whatever the rates are."""
RATES = {SPARSE: 4, HEAVY: 128}
"""The rates of a config that has none."""
RATE_KEYS = {"compress_rate_csa": SPARSE, "compress_rate_hca": HEAVY}
"""Keys for the rate of one type, which go before `compress_rates`."""
SHARE = 64 / 512
"""The share of a head that has positions in a config that does not say."""


class Types(NamedTuple):
    """The type of every layer, and that of the modules for multi-token prediction behind them."""

    layers: tuple[str, ...]
    behind: str


def attention(c: Reader, context: int) -> tuple[Layers, str]:
    """The attention of every layer, and the name of that of modules for multi-token prediction."""
    types = _types(c, c.whole("num_hidden_layers"))
    forms = _forms(c, context, types.layers)
    drawers: dict[str, Drawer] = {}
    base: tuple[str, dict[str, Value]] = ("windowed", {})
    for kind in (kind for kind in NAMES if kind in types.layers):
        drawers[NAMES[kind]] = _amended(*base, forms[kind])
        base = (NAMES[kind], forms[kind])
    behind = NAMES[types.behind]
    ahead = {} if behind in drawers else {behind: _amended(*base, forms[types.behind])}
    return Layers(drawers, tuple(NAMES[kind] for kind in types.layers), ahead), behind


def _amended(name: str, known: dict[str, Value], wanted: dict[str, Value]) -> Drawer:
    """The drawer of that name with the fields ``wanted``, of which it has those ``known``."""
    gone: dict[str, Value] = dict.fromkeys(known.keys() - wanted.keys(), "none")
    return Drawer(name, {field: value for field, value in wanted.items() if known.get(field) != value} | gone)


# --- types of layers -----------------------------------------------------------------------------
def _types(c: Reader, layers: int) -> Types:
    """The type of every layer: as listed, by ratios, or as the class lays them out."""
    c.read.add("compress_ratios")
    ratios = c.values.get("compress_ratios")
    by_ratio = None if ratios is None else _by_ratio(c, ratios)
    behind = by_ratio[layers] if by_ratio is not None and len(by_ratio) > layers else SLIDING
    given = listed(c, "layer_types", NAMES, layers)
    if given is not None:
        if by_ratio is not None and by_ratio[:layers] != given:
            c.ignored("compress_ratios", "`layer_types` goes before it")
        return Types(given, behind)
    if by_ratio is None:
        c.value("layer_types")
        return Types(tuple(HEAVY if i < 2 or i % 2 == 0 else SPARSE for i in range(layers)), behind)
    if len(by_ratio) < layers:
        c.bad("compress_ratios", f"`compress_ratios` has {len(by_ratio)} entries for {layers} layers")
    return Types((*by_ratio, *[SLIDING] * layers)[:layers], behind)


def listed(c: Reader, key: str, known: dict[str, str], layers: int) -> tuple[str, ...] | None:
    """The types that a list gives to layers (entries behind the last are passed over), None where it gives none."""
    c.read.add(key)
    types = c.values.get(key)
    if types is None:
        return None
    if not isinstance(types, list) or not all(isinstance(t, str) for t in types) or len(types) < layers:
        c.bad(key, f"`{key}` must be a list of {layers} words, one for each layer, got {shown(types)}")
        return None
    unknown = dict.fromkeys(t for t in types if t not in known)
    for each in unknown:
        c.bad(key, f"`{key}` has a layer of type `{each}`", f"known are {', '.join(f'`{k}`' for k in known)}")
    return None if unknown else tuple(types[:layers])


def _by_ratio(c: Reader, ratios: Any) -> tuple[str, ...]:
    if isinstance(ratios, list) and all(type(r) is int and r in RATIOS for r in ratios):
        return tuple(RATIOS[r] for r in ratios)
    known = ", ".join(map(str, RATIOS))
    c.bad("compress_ratios", f"`compress_ratios` must be a list of {known}, got {shown(ratios)}")
    return (SLIDING,) * c.whole("num_hidden_layers")


# --- the attention of each type ------------------------------------------------------------------
def _forms(c: Reader, context: int, used: tuple[str, ...]) -> dict[str, dict[str, Value]]:
    """The fields of a drawer for each type of layer."""
    heads, head_dim, groups = c.whole("num_attention_heads"), c.whole("head_dim"), c.whole("o_groups")
    if heads * head_dim % groups:
        wide = f"`num_attention_heads` x `head_dim` = {heads} x {head_dim}"
        c.bad("o_groups", f"`o_groups` = {groups} does not divide {wide}")
    main, compress = _positions(c, context, head_dim)
    sizes: dict[str, Value] = {
        "q_rank": c.whole("q_lora_rank"),
        "out_groups": groups,
        "out_rank": c.whole("o_lora_rank"),
        "window": Tokens(c.whole("sliding_window")),
    }
    eps = c.number("rms_norm_eps")
    if eps != 1e-6:
        sizes["eps"] = eps
    rates = _rates(c, used)
    index: dict[str, Value] = {
        "heads": c.whole("index_n_heads"),
        "head_dim": c.whole("index_head_dim"),
        "topk": c.whole("index_topk"),
    }
    if SPARSE in used and c.whole("index_head_dim") < compress[0] <= head_dim:
        c.bad("index_head_dim", f"`index_head_dim` is less than the {compress[0]} channels of a head with positions")
    pools = {
        SPARSE: Drawer("csa", {"ratio": rates[SPARSE], "indexer": Drawer("lightning", index)}),
        HEAVY: Drawer("hca", {"ratio": rates[HEAVY]}),
    }

    def form(rope_dim: int, rope: Drawer) -> dict[str, Value]:
        return {"heads": heads, "head_dim": head_dim, "rope_dim": rope_dim, **sizes, "rope": rope}

    return {SLIDING: form(*main), **{kind: form(*compress) | {"compress": pool} for kind, pool in pools.items()}}


def _rates(c: Reader, used: tuple[str, ...]) -> dict[str, int]:
    """How many tokens an entry stands for, by type of layer."""
    if all(_named(c, kind) for kind in RATES) and "compress_rates" not in c.values:
        c.read.add("compress_rates")
        given = Reader({}, {}, c.sink, c.spans)
    else:
        given = c.inside("compress_rates", {})
    rates = dict(RATES)
    for kind in RATES:
        if kind in given.values:
            rates[kind] = given.whole(kind)
        elif c.values.get("compress_rates") is not None and kind in used and not _named(c, kind):
            c.bad("compress_rates", f"`compress_rates` has no rate for `{kind}`")
    for key in given.unread():
        given.ignored(key, "no layer reads it")
    for key, kind in RATE_KEYS.items():
        c.read.add(key)
        if c.values.get(key) is not None:
            if not is_count(c.values[key]):
                c.bad(key, f"`{key}` must be a whole number, at least 1, got {shown(c.values[key])}")
                continue
            rates[kind] = c.values[key]
    return rates


def _named(c: Reader, kind: str) -> bool:
    """Whether a key of its own gives the rate of a type."""
    return any(c.values.get(key) is not None for key, of in RATE_KEYS.items() if of == kind)


# --- positions -----------------------------------------------------------------------------------
def _positions(c: Reader, context: int, head_dim: int) -> tuple[tuple[int, Drawer], tuple[int, Drawer]]:
    """How many channels of a head have positions and which: of layers with a window alone, of those that compress."""
    settings = settings_of(c)
    nested = [key for key in ("main", "compress") if isinstance(settings.values.get(key), dict)]
    if len(nested) == 1:
        settings.bad(nested[0], "transformers takes `main` and `compress` only together")
        settings.values = {key: value for key, value in settings.values.items() if key not in nested}
    c.read.add("original_max_position_embeddings")
    if c.values.get("original_max_position_embeddings") is not None:
        c.ignored("original_max_position_embeddings", "transformers does not read it for this type of model")
    own = c.values.get("qk_rope_head_dim")
    share = None
    if "partial_rotary_factor" in c.values or (own is None and not nested):
        share = c.number_or_none("partial_rotary_factor")
    c.read.update(("qk_rope_head_dim", "partial_rotary_factor"))
    if own is not None and not is_count(own):
        c.bad("qk_rope_head_dim", f"`qk_rope_head_dim` must be a whole number, at least 1, got {shown(own)}")
        own = None
    computed = SHARE if own is None else own / head_dim
    if len(nested) == 2:
        settings.read.update(nested)
        sets = settings.inside("main", {}), settings.inside("compress", {})
        found = _nested(c, settings, sets, context, head_dim, _share(*sets, computed) if share is None else share)
        reason = "`rope_parameters` say it of `main` and of `compress`"
    else:
        if share is None:
            share = computed
        found = _flat(c, settings, context, _channels(c, "partial_rotary_factor", head_dim, share), share)
        reason = "`partial_rotary_factor` goes before it"
    if own is not None and {own} != {channels for channels, _ in found}:
        c.ignored("qk_rope_head_dim", reason)
    return found


def _share(main: Reader, compress: Reader, computed: float) -> float:
    """The share of a head that has positions in sets that do not say, of a config that does not either.

    transformers writes the share it has computed into both sets when it first meets one that is scaled.
    """
    key = "partial_rotary_factor"
    if _raw_kind(main) != "default":
        return computed
    if _raw_kind(compress) == "default":
        return 1.0
    if key not in main.values:
        main.bad(key, f"`{main.where}{key}` is missing: transformers fails where only `compress` is scaled")
        main.values = {**main.values, key: computed}
    return computed


def _raw_kind(settings: Reader) -> Any:
    return settings.values.get("rope_type", settings.values.get("type", "default"))


def _nested(
    c: Reader, settings: Reader, sets: tuple[Reader, Reader], context: int, head_dim: int, share: float
) -> tuple[tuple[int, Drawer], tuple[int, Drawer]]:
    """Each set described by an object of its own."""
    for key in settings.unread():
        settings.ignored(key, "transformers reads `main` and `compress` beside it")
    found: list[tuple[int, Drawer]] = []
    for each, beside in zip(sets, ("rope_theta", "compress_rope_theta"), strict=True):
        theta = each.number("rope_theta") if "rope_theta" in each.values else c.number("rope_theta")
        if c.values.get(beside, theta) != theta:
            c.ignored(beside, f"`{each.where}rope_theta` goes before it" if "rope_theta" in each.values else _OTHER)
        own = each.number("partial_rotary_factor") if "partial_rotary_factor" in each.values else share
        found.append((_channels(each, "partial_rotary_factor", head_dim, own), _drawer(each, theta, context)))
    c.read.update(("rope_theta", "compress_rope_theta"))
    return found[0], found[1]


_OTHER = "transformers takes `rope_theta` for positions described without a base of their own"


def _flat(
    c: Reader, settings: Reader, context: int, channels: int, share: float
) -> tuple[tuple[int, Drawer], tuple[int, Drawer]]:
    """Plain positions for the window, and the one object for layers that compress: YaRN without its length factor."""
    main = Drawer("rope", {"theta": c.number("rope_theta"), "pairs": "interleaved"})
    theta = c.number("compress_rope_theta")
    for key, value in (("rope_theta", theta), ("partial_rotary_factor", share)):
        if settings.values.get(key, value) != value:
            settings.ignored(key, "transformers takes the config's own for this type of model")
        settings.read.add(key)
    if _raw_kind(settings) == "yarn" and "attention_factor" not in settings.values:
        settings.values = {**settings.values, "attention_factor": 1.0}
    return (channels, main), (channels, _drawer(settings, theta, context))


def _drawer(settings: Reader, theta: float, context: int) -> Drawer:
    """The drawer of one set of positions."""
    kind = kind_of(settings)
    if kind is None:
        return Drawer("rope", {"theta": theta, "pairs": "interleaved"})
    nothing = Reader({}, {}, settings.sink, settings.spans)
    return scaled(settings, kind, theta, context, beside=nothing, pairs="interleaved")


def _channels(c: Reader, key: str, head_dim: int, share: float) -> int:
    """The channels at the end of a head that have positions."""
    channels = int(head_dim * share)
    if channels < 1 or channels % 2 or channels > head_dim:
        c.bad(key, f"{channels} of the {head_dim} channels of a head would have positions: not pairs of them")
    return channels
