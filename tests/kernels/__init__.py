"""Tests of the operators in ``kernels/``, and the support that lets Triton be tested without a GPU."""
