"""What changes between two resolved models: decided from their graphs, told by the fields of their specs."""

from __future__ import annotations

from archc.diff.compare import diff
from archc.diff.findings import LEVELS, Difference, Finding, Level, Place, Side

__all__ = ["LEVELS", "Difference", "Finding", "Level", "Place", "Side", "diff"]
