"""Triton without a GPU: an interpreter that computes what a GPU would, and ahead-of-time compilation."""
