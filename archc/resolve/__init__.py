"""Resolve: from the trees of a spec and its imports to a frozen model in which every value is final."""

from archc.resolve.checks import Check, run_checks
from archc.resolve.load import check_text, load, load_all, load_text

__all__ = ["Check", "check_text", "load", "load_all", "load_text", "run_checks"]
