"""Slow float64 transcriptions of published equations, one row and one token at a time.

They are what the graph's hard cases are compared with, so they share no code with `kernels/` or `archc/`, use numpy
only, and prefer a loop to an index trick. Weights come as a dict under the names of the public checkpoints.
"""
