"""The kernels and run-time files as one importable package, the way a generated package carries them."""

from __future__ import annotations

import sys
from types import ModuleType

from archc import resources

NAME = "archc_package"


def torch_package() -> ModuleType:
    """A package with the sub-packages ``kernels`` and ``runtime``.

    Their files are importable once this was called, as ``archc_package.kernels.attend`` and the like. They import
    torch, so nothing that only checks or costs a model may import them.
    """
    package = sys.modules.get(NAME)
    if package is None:
        package = ModuleType(NAME, "Kernels and run time, before a build copies them into a package.")
        package.__path__ = [str(resources.kernels().parent), str(resources.templates())]
        sys.modules[NAME] = package
    return package
