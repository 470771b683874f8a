"""Rotations of pairs of channels in Triton."""

from __future__ import annotations

from archc.rows.elements import Element, places
from archc.rows.rotate import Rotate
from archc.rows.rules import Input, Param
from archc.rows.triton.elements import Tile
from archc.rows.value import Row


def rotated(tile: Tile, value: Row) -> list[Element]:
    """The elements of a `Rotate`, written into the body of a kernel.

    Neighbours lie in the registers of one thread. A partner half a row away is made once more: its leaves are read
    from cache, which costs less than an exchange between threads.
    """
    rule, (x, angles) = value.rule, value.args
    assert isinstance(rule, Rotate)
    assert tile.channels == "d", "a rotation of a rotation"
    first = 0 if rule.end == "first" else tile.kernel.width - rule.turned
    names = ["_".join((tile.hint(value), *map(str, place))) for place in places(value.streams)]
    if rule.pairs == "interleaved" and first % 2 == 0:
        return _neighbours(tile, rule, first, tile.made(x), angles, names)
    half, bind = rule.turned // 2, tile.body.assign
    turns = bind(f"(d >= {first}) & (d < {first + rule.turned})", "turns")
    if rule.pairs == "half":
        leading = bind(f"d < {first + half}", "leading")
        partner = bind(f"tl.where({turns}, tl.where({leading}, d + {half}, d - {half}), d)", "partner")
        pair = bind(f"tl.where({leading}, d, d - {half})" + (f" - {first}" if first else ""), "pair")
    else:
        leading = bind(f"(d - {first}) % 2 == 0", "leading")
        partner = bind(f"tl.where({turns}, tl.where({leading}, d + 1, d - 1), d)", "partner")
        pair = bind(f"(d - {first}) // 2", "pair")
    at, inside, wide = _angles(tile, rule, angles)
    mask = f"{inside}{turns}[None, :]"
    cos = bind(f"tl.load({at}2 * {pair}[None, :], mask={mask}, other=1.0){wide}", "cos")
    sin = bind(f"tl.load({at}2 * {pair}[None, :] + 1, mask={mask}, other=0.0){wide}", "sin")
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
    if rule.turned == tile.kernel.width and not tile.masked:
        mask = ", mask=inside[:, None], other=0.0" if inside else ""
    else:
        still = bind("((d + 1) % 2).to(tl.float32)[None, :]", "still")
        turns = bind(f"(d >= {first}) & (d < {first + rule.turned})", "turns")
        mask = f", mask={inside}{turns}[None, :], other={still}"
    turn = bind(f"tl.load({at}{channel}{mask}){wide}", "turn")
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


def _angles(tile: Tile, rule: Rotate, angles: Row) -> tuple[str, str, str]:
    """Where the angles of a token lie, up to their own place; the mask of tokens; the cast of what is read."""
    leaf = angles.rule
    assert isinstance(leaf, Input | Param), "angles that are made"
    wide = "" if leaf.format == "fp32" else ".to(tl.float32)"
    if isinstance(leaf, Param):
        return f"{leaf.name} + ", "", wide
    token = "t" if leaf.shared == 1 else tile.token(leaf.shared)
    return f"{leaf.name} + {token}[:, None] * {rule.turned} + ", "inside[:, None] & ", wide
