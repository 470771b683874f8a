"""The report page: what models are and what they cost, in one file that any browser shows."""

from __future__ import annotations

from archc.report.page import render
from archc.report.subject import Subject

__all__ = ["Subject", "render"]
