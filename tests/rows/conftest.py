"""The process in which kernels are interpreted."""

from tests.kernels.conftest import interpreted

__all__ = ["interpreted"]
