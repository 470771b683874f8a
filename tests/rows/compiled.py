"""Generated C++, compiled once for each text and run on numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from archc.rows.cpp import translation_unit
from archc.rows.kernel import Kernel
from archc.rows.rules import Input
from archc.rows.value import Row
from kernels import native

NUMPY = {"float": np.float32, "bfloat16": ml_dtypes.bfloat16}


@cache
def library(text: str, act: str) -> ctypes.CDLL:
    """The shared object of a text, as packages compile it; what was compiled before is found again."""
    made = native.load(text, "rows", f"-DACT={act}")
    assert made is not None, "no compiler"
    return made


def shape(v: Row, tokens: int, width: int) -> tuple[int, ...]:
    """The dims of a value in the interpreter: [tokens or 1, *streams, channels or 1]."""
    return (tokens if v.token else 1, *v.streams, width if v.row else 1)


def call(kernels: list[Kernel], which: int, arrays: Mapping[str, Any], tokens: int, act: str = "float") -> dict:
    """What a kernel of a translation unit gives, with dims as in the interpreter."""
    kernel = kernels[which]
    function = getattr(library(translation_unit(kernels), act), kernel.name)

    def kind(name: str) -> Any:
        return NUMPY[act] if kernel.format(name) == "act" else np.float32

    shared = {name: v.rule.shared if isinstance(v.rule, Input) else 1 for name, v in kernel.takes.items()}
    takes = [np.ascontiguousarray(arrays[name][:: shared[name]].astype(kind(name))) for name in kernel.takes]
    # What is given for each token starts as nonsense; sums over tokens are added to what is there
    gives = {
        n: np.full(shape(v, tokens, kernel.width), 7.0 if v.token else 0.0, kind(n)) for n, v in kernel.gives.items()
    }
    function(*(ctypes.c_void_p(a.ctypes.data) for a in (*takes, *gives.values())), ctypes.c_int64(tokens))
    return gives
