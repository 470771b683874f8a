"""Block schedules that the references run and the cost rules count: one file for both, so that they cannot disagree."""

from __future__ import annotations

from functools import cache
from importlib import util
from types import ModuleType

from archc import resources


@cache
def schedule(name: str) -> ModuleType:
    """The torch-free file ``kernels/<name>.py`` that packages carry."""
    spec = util.spec_from_file_location(f"archc_schedule_{name}", resources.kernels() / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
