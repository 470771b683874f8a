"""What a model will cost, counted on its graph.

The public function ``archc.cost(model, ...)`` has the name of this package, which the import system binds to
``archc.cost`` as soon as any part of it is imported: so the package itself can be called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Cost(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("archc.api").cost(*args, **kwargs)


sys.modules[__name__].__class__ = _Cost
