"""Operators of a model, one file each: a reference in plain PyTorch, and Triton kernels where a GPU gains by them.

A file is imported by its own name (``from kernels.rms_norm import rms_norm``); nothing is imported here, so that a
package carries, and pays for, only what it uses.
"""
