"""Rotations of pairs of channels in Triton."""

from __future__ import annotations

from archc.rows.elements import Element, places
from archc.rows.rotate import Rotate
from archc.rows.rules import Input, Param
from archc.rows.triton.elements import Tile
from archc.rows.triton.printed import NoTriton
from archc.rows.value import Row


def rotated(tile: Tile, value: Row) -> list[Element]:
    """The elements of a `Rotate`, written into the body of a kernel.

    Neighbours lie in the registers of one thread. A partner half a row away is made once more: its leaves are read
    from cache, which costs less than an exchange between threads.
    """
    rule, (x, angles) = value.rule, value.args
    assert isinstance(rule, Rotate)
    if tile.channels != "d" or not isinstance(angles.rule, Input | Param):
        raise NoTriton(f"{tile.kernel.name} turns what is turned, or by angles that it makes")
    first = 0 if rule.end == "first" else tile.kernel.width - rule.turned
    names = ["_".join((tile.hint(value), *map(str, place))) for place in places(value.streams)]
    if rule.pairs == "interleaved" and first % 2 == 0:
        return _neighbours(tile, rule, first, tile.made(x), angles, names)
    half, bind = rule.turned // 2, tile.body.assign
    if rule.pairs == "half":
        leading, apart = bind(f"d < {first + half}", "leading"), half
        pair = f"tl.where({leading}, d, d - {half})" + (f" - {first}" if first else "")
    else:
        leading, apart = bind(f"(d - {first}) % 2 == 0", "leading"), 1
        pair = f"(d - {first}) // 2"
    pair, partner = bind(pair, "pair"), f"tl.where({leading}, d + {apart}, d - {apart})"
    at, inside, wide = _angles(tile, rule, angles)
    masks = ["inside[:, None]"] if inside else []
    if not _all(tile, rule):
        turns = bind(f"(d >= {first}) & (d < {first + rule.turned})", "turns")
        partner = f"tl.where({turns}, {partner}, d)"
        masks.append(f"{turns}[None, :]")
    partner = bind(partner, "partner")
    cos, sin = (
        bind(f"tl.load({at}2 * {pair}[None, :]{more}{masked(masks, fill)}){wide}", name)
        for name, more, fill in (("cos", "", "1.0"), ("sin", " + 1", "0.0"))
    )
    signs = (f"-{sin}", sin) if not rule.inverse else (sin, f"-{sin}")
    sin = bind(f"tl.where({leading}[None, :], {signs[0]}, {signs[1]})", "signed")
    mine = tile.made(x)
    tile.channels = partner
    theirs = tile.made(x)
    tile.channels = "d"
    return [
        tile.bind(f"{tile.show(a)} * {cos} + {tile.show(b)} * {sin}", name)
        for a, b, name in zip(mine, theirs, names, strict=True)
    ]


def _neighbours(
    tile: Tile, rule: Rotate, first: int, given: list[Element], angles: Row, names: list[str]
) -> list[Element]:
    """Pairs of neighbours: cos and sin lie beside each other in memory as they do."""
    bind = tile.body.assign
    at, inside, wide = _angles(tile, rule, angles)
    channel = f"(d - {first})[None, :]" if first else "d[None, :]"
    masks, still = ["inside[:, None]"] if inside else [], "0.0"
    if not _all(tile, rule):
        still = bind("((d + 1) % 2).to(tl.float32)[None, :]", "still")
        masks.append(f"{bind(f'(d >= {first}) & (d < {first + rule.turned})', 'turns')}[None, :]")
    turn = bind(f"tl.load({at}{channel}{masked(masks, still)}){wide}", "turn")
    cos, sin = tile.body.name("cos"), tile.body.name("sin")
    tile.line(f"{cos}, {sin} = tl.split(tl.reshape({turn}, (TILE, CHUNK // 2, 2)))")
    if rule.inverse:
        sin = bind(f"-{sin}", "back")
    made = []
    for e, hint in zip(given, names, strict=True):
        a, b = tile.body.name("a"), tile.body.name("b")
        tile.line(f"{a}, {b} = tl.split(tl.reshape({tile.show(e)}, (TILE, CHUNK // 2, 2)))")
        both = f"tl.join({a} * {cos} - {b} * {sin}, {b} * {cos} + {a} * {sin})"
        made.append(Element(bind(f"tl.reshape({both}, (TILE, CHUNK))", hint)))
    return made


def _all(tile: Tile, rule: Rotate) -> bool:
    """Whether all of a tile's channels are turned."""
    return rule.turned == tile.kernel.width and not tile.masked


def masked(masks: list[str], other: str) -> str:
    """The mask of a load, if there is one."""
    return f", mask={' & '.join(masks)}, other={other}" if masks else ""


def _angles(tile: Tile, rule: Rotate, angles: Row) -> tuple[str, bool, str]:
    """Where the angles of a token lie, up to their own place; whether tokens have their own; the cast of a load."""
    leaf = angles.rule
    assert isinstance(leaf, Input | Param)
    wide = "" if leaf.format == "fp32" else ".to(tl.float32)"
    if isinstance(leaf, Param):
        return f"{leaf.name} + ", False, wide
    token = "t" if leaf.shared == 1 else tile.token(leaf.shared)
    return f"{leaf.name} + {token}[:, None] * {rule.turned} + ", True, wide
